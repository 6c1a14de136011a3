package keyring

import (
	"testing"
	"testing/synctest"
	"time"
)

// A key that is due is replaced by one of its readers, and who writes seals under the new one.
func TestRotationWhenDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.certificates = 3 * 24 * time.Hour
		planner, exec, feed := w.agent("planner"), w.agent("exec-1"), w.agent("feed-1")
		check(t, planner.Join(t.Context(), prices))
		check(t, exec.Join(t.Context(), prices))
		s := value(feed.Sender(t.Context(), prices))(t)
		before := keyID(t, seal(t, s))
		<-time.After(25 * time.Hour) // by the clock of the bubble
		synctest.Wait()
		frame := seal(t, s)
		after := keyID(t, frame)
		if before == after {
			t.Fatalf("still key %08x a day later", after)
		}
		for _, reader := range []*Ring{planner, exec} {
			rc := value(reader.Receiver(prices))(t)
			if _, err := open(t, reader, rc, frame, wantEvent("prices.x")); err != nil {
				t.Errorf("the new key is not at every reader: %v", err)
			}
			if n := len(reader.channels[prices].keys); n > 3 {
				t.Errorf("%d keys after one rotation", n)
			}
		}
		check(t, planner.Close(t.Context()))
		check(t, exec.Close(t.Context()))
		check(t, feed.Close(t.Context()))
	})
}

func seal(t *testing.T, s *Sender) []byte {
	t.Helper()
	frame, _, err := s.Seal(nil, draft("prices.x", "text"))
	check(t, err)
	return frame
}

func keyID(t *testing.T, frame []byte) uint32 {
	t.Helper()
	return value(claimedHeader(frame))(t).key
}
