package keyring

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealbus/sealbus/policy"
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

// Wrapping a key to many members takes a while. The readers that wait for their turn meanwhile must not each make a
// key of their own, wrapped to all.
func TestOneKeyAmongMany(t *testing.T) {
	const members = 40
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.certificates = 3 * 24 * time.Hour
		store := &slowStore{memStore: w.store}
		var rings []*Ring
		for i := range members {
			r := value(Memory(w.operator.Fingerprint()))(t)
			check(t, r.Attach(t.Context(), w.source(fmt.Sprintf("exec-%d", i)), store, nil))
			check(t, r.Join(t.Context(), prices))
			rings = append(rings, r)
		}
		synctest.Wait()
		store.slow.Store(true)
		<-time.After(25 * time.Hour) // the key is due
		synctest.Wait()
		if k, n := store.keys.Load(), store.wraps.Load(); k < 1 || k > 2 || n > 3*members {
			t.Errorf("%d keys and %d wraps for one rotation among %d members", k, n, members)
		}
		store.slow.Store(false)
		for _, r := range rings {
			check(t, r.Close(t.Context()))
		}
	})
}

// slowStore takes a tenth of a second for an entry.
type slowStore struct {
	*memStore
	slow        atomic.Bool
	keys, wraps atomic.Int64
}

func (s *slowStore) Put(ctx context.Context, bucket, key string, value []byte) error {
	if s.slow.Load() && bucket == policy.BucketKeys {
		switch {
		case strings.Contains(key, ".w."):
			s.wraps.Add(1)
		case strings.Contains(key, ".k."):
			s.keys.Add(1)
		}
		<-time.After(100 * time.Millisecond) // by the clock of the bubble
	}
	return s.memStore.Put(ctx, bucket, key, value)
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
