package agentbus_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
)

// briefly returns a context for a call that would not return before it ends.
func briefly(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// TestRoom publishes to a topic that is held up until it blocks, at each of the bounds. Who waits for room gets it, or
// its context's error; whatever was accepted arrives in order, and nothing else.
func TestRoom(t *testing.T) {
	one := func(int) string { return "prices" }
	for _, test := range []struct {
		name    string
		size    int
		subject func(i int) string
		ok      func(waiting int) bool
	}{
		{"messages", 0, one, func(n int) bool { return n == agentbus.MaxGathered }},
		{"bytes", 40 << 10, one, func(n int) bool {
			return n*(40<<10) <= agentbus.MaxGatheredBytes && (n+1)*(40<<10+100) > agentbus.MaxGatheredBytes
		}},
		{"frames", 10, func(i int) string { return fmt.Sprintf("prices.n%d", i%2) }, func(n int) bool { return n == agentbus.MaxFrames }},
		{"one that is larger than all", agentbus.MaxPayload, one, func(n int) bool { return n == 1 }},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := bustest.New(t, testPolicy)
			planner, feed := w.Agent("planner"), w.Agent("feed-1")
			handler, got := collect(1 << 15)
			_, err := planner.Subscribe(w.Ctx(), "prices.>", handler)
			bustest.Check(t, err)
			release := hold(t, w, feed, "prices")
			ctx, cancel := context.WithCancel(w.Ctx())
			refused := make(chan error, 1)
			accepted := 0
			payload := make([]byte, test.size)
			go func() {
				for {
					if err := feed.Publish(ctx, test.subject(accepted), payload); err != nil {
						refused <- err
						return
					}
					accepted++
				}
			}()
			eventually(t, "the bound is reached", func() bool {
				n, _ := feed.Gathered("prices")
				return test.ok(n)
			})
			if err := feed.Publish(briefly(t), "prices.never", payload); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Publish without room: %v", err)
			}
			if _, err := feed.PublishAsync(briefly(t), "prices.never", payload); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("PublishAsync without room: %v", err)
			}
			cancel()
			if err := bustest.Receive(t, refused); !errors.Is(err, context.Canceled) {
				t.Errorf("the one that waited: %v", err)
			}
			if n, _ := feed.Gathered("prices"); n != accepted || !test.ok(n) {
				t.Errorf("%d accepted, %d wait", accepted, n)
			}
			result, ctx := make(chan error, 1), w.Ctx()
			go func() { result <- feed.Publish(ctx, "prices.last", nil) }()
			release()
			bustest.Check(t, bustest.Receive(t, result))
			bustest.Check(t, feed.Flush(w.Ctx()))
			bustest.Receive(t, got)
			bustest.Receive(t, got)
			for i := range accepted {
				if m := bustest.Receive(t, got); m.Subject != test.subject(i) || len(m.Payload) != test.size {
					t.Fatalf("message %d is to %s", i, m.Subject)
				}
			}
			if m := bustest.Receive(t, got); m.Subject != "prices.last" {
				t.Errorf("got one to %s", m.Subject)
			}
		})
	}
}

// fill publishes messages of 64 KiB to a topic of an agent without a connection until that is refused.
func fill(t *testing.T, b *agentbus.Bus, subject string) (accepted []*agentbus.Publication) {
	t.Helper()
	payload := make([]byte, 64<<10)
	for {
		copy(payload, fmt.Sprintf("%6d", len(accepted)))
		ctx, cancel := context.WithTimeout(context.Background(), bustest.Timeout)
		p, err := b.PublishAsync(ctx, subject, payload)
		cancel()
		if errors.Is(err, agentbus.ErrDisconnected) {
			break
		}
		bustest.Check(t, err)
		accepted = append(accepted, p)
	}
	if n := len(accepted) * len(payload); n < agentbus.ReconnectBuffer || n > agentbus.ReconnectBuffer+2*agentbus.MaxGatheredBytes {
		t.Errorf("%d bytes wait", n)
	}
	return accepted
}

// TestDisconnectedRoom publishes without a connection until its buffer and what may wait besides are full: that is an
// error and not silence. All that was accepted arrives when the connection is back, once and in order.
func TestDisconnectedRoom(t *testing.T) {
	w := bustest.New(t, testPolicy)
	l := newLine(t, w)
	planner, feed := w.Agent("planner"), l.agent("feed-1")
	handler, got := collect(1 << 10)
	sub, err := planner.Subscribe(w.Ctx(), "gossip.>", handler)
	bustest.Check(t, err)
	bustest.Check(t, feed.Publish(w.Ctx(), "gossip", nil))
	bustest.Check(t, feed.Flush(w.Ctx()))
	bustest.Receive(t, got)
	next := 0
	for n := range uint64(2) {
		l.down()
		eventually(t, "the loss is noticed", func() bool { return !feed.Connected() })
		accepted := fill(t, feed, "gossip.x")
		for range 3 {
			if err := feed.Publish(w.Ctx(), "gossip", make([]byte, agentbus.MaxGatheredBytes)); !errors.Is(err, agentbus.ErrDisconnected) {
				t.Errorf("Publish without room: %v", err)
			}
		}
		if err := feed.Flush(briefly(t)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Flush: %v", err)
		}
		l.up(t)
		reconnected(t, feed, n+1)
		bustest.Check(t, feed.Flush(w.Ctx()))
		for i, p := range accepted {
			bustest.Check(t, p.Wait(w.Ctx()))
			if m := bustest.Receive(t, got); string(m.Payload[:6]) != fmt.Sprintf("%6d", i) {
				t.Fatalf("message %s, want %d", m.Payload[:6], i)
			}
		}
		next += len(accepted)
	}
	bustest.Check(t, feed.Publish(w.Ctx(), "gossip", nil))
	bustest.Receive(t, got)
	bustest.Check(t, sub.Stop())
	bustest.Empty(t, got)
	if s := feed.Stats(); s.Published != uint64(next)+2 || s.Unsent != 0 {
		t.Errorf("%d counted as published, %d as unsent, want %d and 0", s.Published, s.Unsent, next+2)
	}
}

// TestCloseWithoutConnection closes while messages wait that the connection's buffer has no room for, and retained ones
// for their acknowledgement: each has an outcome, and it is ErrClosed.
func TestCloseWithoutConnection(t *testing.T) {
	w := bustest.New(t, testPolicy)
	l := newLine(t, w)
	feed := l.agent("feed-1")
	for _, topic := range []string{"gossip", "ledger"} {
		bustest.Check(t, feed.Publish(w.Ctx(), topic, nil))
	}
	bustest.Check(t, feed.Flush(w.Ctx()))
	l.down()
	eventually(t, "the loss is noticed", func() bool { return !feed.Connected() })
	live := fill(t, feed, "gossip.x")
	var kept []*agentbus.Publication
	for i := range 100 {
		p, err := feed.PublishAsync(w.Ctx(), "ledger.n"+strconv.Itoa(i%3), nil)
		bustest.Check(t, err)
		kept = append(kept, p)
	}
	bustest.Check(t, feed.Close())
	closed := uint64(0)
	for _, p := range live {
		bustest.Receive(t, p.Done())
		switch err := p.Err(); {
		case errors.Is(err, agentbus.ErrClosed):
			closed++
		case err != nil || closed > 0:
			t.Errorf("after %d that were closed: %v", closed, err)
		}
	}
	if closed == 0 {
		t.Error("nothing was left waiting")
	}
	for _, p := range kept {
		bustest.Receive(t, p.Done())
		if err := p.Err(); !errors.Is(err, agentbus.ErrClosed) {
			t.Errorf("the outcome of a retained message is %v", err)
		}
	}
	if n := feed.Stats().Unsent; n != closed+uint64(len(kept)) {
		t.Errorf("%d counted as unsent, want %d and %d", n, closed, len(kept))
	}
}

// TestRetainedRoom has retained messages wait for the broker until there is no room: then only a context ends the wait.
// All that were accepted are stored when it is back.
func TestRetainedRoom(t *testing.T) {
	w := bustest.New(t, testPolicy)
	l := newLine(t, w)
	feed := l.agent("feed-1")
	bustest.Check(t, feed.Publish(w.Ctx(), "ledger", nil))
	l.down()
	eventually(t, "the loss is noticed", func() bool { return !feed.Connected() })
	ctx, payload := w.Ctx(), make([]byte, 64<<10)
	_, err := feed.PublishAsync(ctx, "ledger", nil)
	bustest.Check(t, err)
	eventually(t, "it is under way", func() bool {
		waiting, _ := feed.Gathered("ledger")
		return waiting == 0
	})
	const room = agentbus.MaxGatheredBytes/(64<<10) - 1 // a little goes to what is not payload
	for range room {
		_, err := feed.PublishAsync(ctx, "ledger.x", payload)
		bustest.Check(t, err)
	}
	if err := feed.Publish(briefly(t), "ledger.x", payload); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Publish without room: %v", err)
	}
	if _, err := feed.PublishAsync(briefly(t), "ledger.x", payload); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("PublishAsync without room: %v", err)
	}
	l.up(t)
	bustest.Check(t, feed.Flush(ctx))
	if n := storedMessages(t, w, "ledger"); n != 2+room {
		t.Errorf("%d messages stored, want %d", n, 2+room)
	}
}
