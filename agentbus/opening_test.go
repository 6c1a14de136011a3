package agentbus_test

import (
	"context"
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
)

// lone seals messages "from/number", each in a frame with a signature of its own, and does not send them.
func lone(t testing.TB, s *keyring.Sender, from, n int) (sealed [][]byte) {
	t.Helper()
	for i := range n {
		frame, _, err := s.Seal(nil, &keyring.Draft{Kind: envelope.KindEvent, Recipient: "prices",
			Messages: []envelope.Message{{Payload: fmt.Appendf(nil, "%d/%d", from, i)}}})
		bustest.Check(t, err)
		sealed = append(sealed, frame)
	}
	return sealed
}

// gate is an OnReject that holds up the frames of a subscription until it is opened.
type gate struct{ entered, leave chan struct{} }

func newGate() *gate { return &gate{make(chan struct{}, 1), make(chan struct{})} }

func (g *gate) reject(r agentbus.Rejection) {
	if r.Reason == keyring.Malformed {
		g.entered <- struct{}{}
		<-g.leave
	}
}

// TestOpenedTogether has frames of eight senders, signed one by one, wait at one subscriber until all are there, many of
// them twice. They are opened many at a time, accepted in each sender's order, and each once: the others are Seen.
func TestOpenedTogether(t *testing.T) {
	const senders, each = 8, 100
	w := bustest.New(t, testPolicy)
	g := newGate()
	c := w.Config("planner")
	c.OnReject = g.reject
	planner, owner := w.Connect(c), w.Admin("AGENTS")
	handler, got := collect(senders * each)
	sub, err := planner.Subscribe(w.Ctx(), "prices.>", handler)
	bustest.Check(t, err)
	var sealed [senders][][]byte
	for from := range senders {
		c := w.Config("feed-" + strconv.Itoa(from))
		w.Connect(c)
		sealed[from] = lone(t, sealer(t, w, c.Keyring, "prices"), from, each)
	}
	send := func(frame []byte) { bustest.Check(t, owner.Publish("sb.topic.prices", frame)) }
	send([]byte("no frame"))
	bustest.Receive(t, g.entered)
	duplicates := 0
	for i := range each {
		for from := range senders {
			send(sealed[from][i])
			if (i+from)%3 == 0 {
				duplicates++
				send(sealed[from][i])
			}
		}
		if i > 0 {
			duplicates++
			send(sealed[i%senders][i-1])
		}
	}
	eventually(t, "all are there", func() bool { return sub.Arrived() == senders*each+duplicates })
	close(g.leave)
	received := make([]kept, senders*each)
	for i := range received {
		received[i] = kept{payload: string(bustest.Receive(t, got).Payload)}
	}
	inOrder(t, received, senders)
	bustest.Check(t, sub.Stop())
	bustest.Empty(t, got)
	if s := sub.Stats(); s.Received != senders*each || s.Rejected[keyring.Seen] != uint64(duplicates) || s.Rejected[keyring.Malformed] != 1 ||
		len(s.Rejected) != 2 || s.Lost != 0 || s.Dropped != 0 {
		t.Errorf("counted %+v, want %d seen", s, duplicates)
	}
}

// TestForgedAmongGood has frames that were changed wait among good ones: they are rejected, and the others of the same
// senders are not held up.
func TestForgedAmongGood(t *testing.T) {
	const each = 100
	w := bustest.New(t, testPolicy)
	g := newGate()
	c := w.Config("planner")
	c.OnReject = g.reject
	planner, owner := w.Connect(c), w.Admin("AGENTS")
	handler, got := collect(each)
	sub, err := planner.Subscribe(w.Ctx(), "prices.>", handler)
	bustest.Check(t, err)
	c = w.Config("feed-1")
	w.Connect(c)
	sealed := lone(t, sealer(t, w, c.Keyring, "prices"), 0, each)
	bustest.Check(t, owner.Publish("sb.topic.prices", []byte("no frame")))
	bustest.Receive(t, g.entered)
	for i, frame := range sealed {
		for range i % 3 {
			forged := append([]byte(nil), frame...)
			forged[len(forged)-1] ^= 1 // of the signature
			bustest.Check(t, owner.Publish("sb.topic.prices", forged))
		}
		bustest.Check(t, owner.Publish("sb.topic.prices", frame))
	}
	eventually(t, "all are there", func() bool { return sub.Arrived() == each+each-1 })
	close(g.leave)
	received := make([]kept, each)
	for i := range received {
		received[i] = kept{payload: string(bustest.Receive(t, got).Payload)}
	}
	inOrder(t, received, 1)
	if n := sub.Stats().Rejected[keyring.BadSignature]; n != each-1 {
		t.Errorf("%d rejected for their signature, want %d", n, each-1)
	}
}

// TestManySenders has eight agents publish to one subscriber at the same time, each message alone: all arrive, in each
// sender's order.
func TestManySenders(t *testing.T) {
	const senders, each = 8, 60
	w := bustest.New(t, testPolicy)
	planner := w.Agent("planner")
	handler, got := collect(senders * each)
	sub, err := planner.Subscribe(w.Ctx(), "prices.>", handler)
	bustest.Check(t, err)
	ctx := w.Ctx()
	var publishers sync.WaitGroup
	for from := range senders {
		feed := w.Agent("feed-" + strconv.Itoa(from))
		publishers.Go(func() {
			for i := range each {
				if err := feed.Publish(ctx, "prices.n"+strconv.Itoa(i%2), fmt.Appendf(nil, "%d/%d", from, i)); err != nil {
					t.Errorf("publishing: %v", err)
					return
				}
				if err := feed.Flush(ctx); err != nil { // so that the next one is alone again
					t.Errorf("flushing: %v", err)
				}
			}
		})
	}
	publishers.Wait()
	received := make([]kept, senders*each)
	for i := range received {
		received[i] = kept{payload: string(bustest.Receive(t, got).Payload)}
	}
	inOrder(t, received, senders)
	if s := sub.Stats(); s.Received != senders*each || len(s.Rejected) != 0 || s.Lost != 0 {
		t.Errorf("counted %+v", s)
	}
}

// TestExitInBlock has a handler end its goroutine in the middle of messages that came in one frame: each message is
// handled once, in order, and what it did is counted.
func TestExitInBlock(t *testing.T) {
	const messages = 200
	exits := map[string]bool{"0": true, "10": true, "11": true, "63": true, "64": true, "130": true, "199": true}
	w := bustest.New(t, testPolicy)
	planner, feed := w.Agent("planner"), w.Agent("feed-1")
	handled := make(chan string, messages+8)
	sub, err := planner.Subscribe(w.Ctx(), "prices.>", func(_ context.Context, m *agentbus.Message) error {
		handled <- string(m.Payload)
		switch {
		case exits[string(m.Payload)]:
			runtime.Goexit()
		case string(m.Payload) == "20":
			panic("in the middle")
		}
		return nil
	})
	bustest.Check(t, err)
	release := hold(t, w, feed, "prices")
	for i := range messages {
		bustest.Check(t, feed.Publish(w.Ctx(), "prices.a", []byte(strconv.Itoa(i))))
	}
	release()
	bustest.Receive(t, handled)
	bustest.Receive(t, handled)
	for i := range messages {
		if got := bustest.Receive(t, handled); got != strconv.Itoa(i) {
			t.Fatalf("handled %s, want %d", got, i)
		}
	}
	bustest.Check(t, sub.Stop())
	bustest.Empty(t, handled)
	if s := sub.Stats(); s.Received != messages+2 || s.Panics != uint64(len(exits))+1 || s.Handled != messages+2-uint64(len(exits))-1 {
		t.Errorf("counted %+v", s)
	}
}
