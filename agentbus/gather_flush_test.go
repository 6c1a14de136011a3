package agentbus_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
)

// reconnected waits until an agent has a connection again, the n-th after its first.
func reconnected(t testing.TB, b *agentbus.Bus, n uint64) {
	t.Helper()
	eventually(t, "connected again", func() bool { return b.Connected() && b.Stats().Reconnects >= n })
}

// afterLoss publishes one more message, which must be the next to arrive: nothing from before is still on its way.
func afterLoss(t testing.TB, w *bustest.World, b *agentbus.Bus, got chan *agentbus.Message) {
	t.Helper()
	bustest.Check(t, b.Publish(w.Ctx(), "prices", []byte("after")))
	if m := bustest.Receive(t, got); string(m.Payload) != "after" {
		t.Errorf("got %q", m.Payload)
	}
	bustest.Check(t, b.Flush(w.Ctx()))
}

// TestFlushTellsOfLoss loses connections before, after and in the middle of a Flush. It is an error exactly once where
// something may be lost with the connection, and none where nothing can be.
func TestFlushTellsOfLoss(t *testing.T) {
	w := bustest.New(t, testPolicy)
	planner := w.Agent("planner")
	handler, got := collect(64)
	_, err := planner.Subscribe(w.Ctx(), "prices.>", handler)
	bustest.Check(t, err)
	begin := func(t *testing.T) (*line, *agentbus.Bus) {
		l := newLine(t, w)
		feed := l.agent("feed-1")
		bustest.Check(t, feed.Publish(w.Ctx(), "prices", []byte("before")))
		bustest.Check(t, feed.Flush(w.Ctx()))
		bustest.Receive(t, got)
		return l, feed
	}
	// lose publishes a message that never arrives.
	lose := func(t *testing.T, l *line, feed *agentbus.Bus) {
		l.mute.Store(true)
		p, err := feed.PublishAsync(w.Ctx(), "prices", []byte("lost"))
		bustest.Check(t, err)
		bustest.Check(t, p.Wait(w.Ctx()))
		eventually(t, "it has been sent", func() bool { return l.lost.Load() > 0 })
	}
	t.Run("lost between Publish and Flush", func(t *testing.T) {
		l, feed := begin(t)
		lose(t, l, feed)
		l.cut()
		l.mute.Store(false)
		reconnected(t, feed, 1)
		if err := feed.Flush(w.Ctx()); err == nil || !strings.Contains(err.Error(), "the connection was lost") {
			t.Errorf("got %v", err)
		}
		bustest.Check(t, feed.Flush(w.Ctx()))
		afterLoss(t, w, feed, got)
	})
	t.Run("lost during Flush", func(t *testing.T) {
		l, feed := begin(t)
		lose(t, l, feed)
		result, lost, ctx := make(chan error, 1), l.lost.Load(), w.Ctx()
		go func() { result <- feed.Flush(ctx) }()
		eventually(t, "it is under way", func() bool { return l.lost.Load() > lost })
		l.cut()
		l.mute.Store(false)
		if err := bustest.Receive(t, result); err == nil || !strings.Contains(err.Error(), "the connection was lost") {
			t.Errorf("got %v", err)
		}
		bustest.Check(t, feed.Flush(w.Ctx()))
		afterLoss(t, w, feed, got)
	})
	t.Run("lost by changing over", func(t *testing.T) {
		l, feed := begin(t)
		lose(t, l, feed)
		l.cut()
		l.mute.Store(false)
		reconnected(t, feed, 1)
		bustest.Check(t, feed.ChangeOver(w.Ctx()))
		if err := feed.Flush(w.Ctx()); err == nil || !strings.Contains(err.Error(), "the connection was lost") {
			t.Errorf("got %v", err)
		}
		bustest.Check(t, feed.Flush(w.Ctx()))
		afterLoss(t, w, feed, got)
	})
	t.Run("nothing was handed over", func(t *testing.T) {
		l, feed := begin(t)
		for n := range uint64(3) {
			l.cut()
			reconnected(t, feed, n+1)
			bustest.Check(t, feed.Flush(w.Ctx()))
		}
		afterLoss(t, w, feed, got)
	})
	t.Run("it waited for the connection", func(t *testing.T) {
		l, feed := begin(t)
		for n := range uint64(3) {
			l.down()
			eventually(t, "the loss is noticed", func() bool { return !feed.Connected() })
			for i := range 20 {
				bustest.Check(t, feed.Publish(w.Ctx(), "prices.x", []byte(strconv.Itoa(i))))
			}
			l.up(t)
			reconnected(t, feed, n+1)
			bustest.Check(t, feed.Flush(w.Ctx()))
			for i := range 20 {
				if m := bustest.Receive(t, got); string(m.Payload) != strconv.Itoa(i) {
					t.Errorf("got %q, want %d", m.Payload, i)
				}
			}
		}
		afterLoss(t, w, feed, got)
	})
	t.Run("it waited for a connection that was lost too", func(t *testing.T) {
		l, feed := begin(t)
		l.down()
		eventually(t, "the loss is noticed", func() bool { return !feed.Connected() })
		for range 10 {
			bustest.Check(t, feed.Publish(w.Ctx(), "prices", make([]byte, 60<<10)))
		}
		eventually(t, "all wait for the connection", func() bool {
			waiting, sending := feed.Gathered("prices")
			return waiting == 0 && !sending
		})
		l.later.Store(true)
		l.up(t)
		reconnected(t, feed, 1)
		eventually(t, "they have been sent", func() bool { return l.lost.Load() > 0 })
		l.cut()
		l.later.Store(false)
		l.mute.Store(false)
		reconnected(t, feed, 2)
		if err := feed.Flush(w.Ctx()); err == nil || !strings.Contains(err.Error(), "the connection was lost") {
			t.Errorf("got %v", err)
		}
		bustest.Check(t, feed.Flush(w.Ctx()))
		afterLoss(t, w, feed, got)
	})
	t.Run("a connection was replaced", func(t *testing.T) {
		_, feed := begin(t)
		for range 3 {
			bustest.Check(t, feed.Publish(w.Ctx(), "prices.x", []byte("x")))
			bustest.Check(t, feed.ChangeOver(w.Ctx()))
			bustest.Check(t, feed.Flush(w.Ctx()))
			bustest.Receive(t, got)
		}
		afterLoss(t, w, feed, got)
	})
}

// TestRightLostWhileWaiting takes the right to publish away while messages wait: what was under way still goes out, the
// others fail as one, Flush says so once, and so does each Publication.
func TestRightLostWhileWaiting(t *testing.T) {
	const waiting = 10
	w := bustest.New(t, testPolicy)
	planner, feed := w.Agent("planner"), w.Agent("feed-1")
	handler, got := collect(64)
	_, err := planner.Subscribe(w.Ctx(), "prices.>", handler)
	bustest.Check(t, err)
	release := hold(t, w, feed, "prices")
	var outcomes []*agentbus.Publication
	for range waiting {
		bustest.Check(t, feed.Publish(w.Ctx(), "prices.x", []byte("never")))
		p, err := feed.PublishAsync(w.Ctx(), "prices.y", []byte("never"))
		bustest.Check(t, err)
		outcomes = append(outcomes, p)
	}
	if err := outcomes[0].Err(); err != nil {
		t.Errorf("before there is an outcome: %v", err)
	}
	bustest.Empty(t, outcomes[0].Done())
	publishPolicy(t, w, revised("2", `prices: {publish: ["feed-*"]`, "prices: {publish: [other]"), planner, feed)
	release()
	for _, p := range outcomes {
		bustest.Receive(t, p.Done())
		if err := p.Wait(w.Ctx()); !errors.Is(err, agentbus.ErrNotEntitled) || !errors.Is(p.Err(), agentbus.ErrNotEntitled) {
			t.Errorf("the outcome is %v, %v", err, p.Err())
		}
	}
	if err := feed.Flush(w.Ctx()); !errors.Is(err, agentbus.ErrNotEntitled) {
		t.Errorf("Flush: %v", err)
	}
	bustest.Check(t, feed.Flush(w.Ctx()))
	if err := feed.Publish(w.Ctx(), "prices", nil); !errors.Is(err, agentbus.ErrNotEntitled) {
		t.Errorf("Publish: %v", err)
	}
	if _, err := feed.PublishAsync(w.Ctx(), "prices", nil); !errors.Is(err, agentbus.ErrNotEntitled) {
		t.Errorf("PublishAsync: %v", err)
	}
	if s := feed.Stats(); s.Published != 2 || s.Unsent != 2*waiting {
		t.Errorf("%d counted as published, %d as unsent", s.Published, s.Unsent)
	}
	// And back again: the lane still works.
	publishPolicy(t, w, revised("3"), planner, feed)
	bustest.Check(t, feed.Publish(w.Ctx(), "prices", []byte("again")))
	bustest.Receive(t, got)
	for m := bustest.Receive(t, got); string(m.Payload) != "again"; m = bustest.Receive(t, got) {
		if len(m.Payload) > 0 {
			t.Errorf("got %q", m.Payload)
		}
	}
}

// TestTooOldToSend has messages wait for longer than receivers would take them for: they are not sent, and Flush says so.
func TestTooOldToSend(t *testing.T) {
	w := bustest.New(t, testPolicy)
	planner, feed := w.Agent("planner"), w.Agent("feed-1")
	handler, got := collect(64)
	_, err := planner.Subscribe(w.Ctx(), "prices.>", handler)
	bustest.Check(t, err)
	release := hold(t, w, feed, "prices")
	p, err := feed.PublishAsync(w.Ctx(), "prices.x", []byte("old"))
	bustest.Check(t, err)
	bustest.Check(t, feed.Publish(w.Ctx(), "prices.x", []byte("old too")))
	feed.Age("prices", 31*time.Second)
	release()
	if err := p.Wait(w.Ctx()); !errors.Is(err, agentbus.ErrDisconnected) || !strings.Contains(err.Error(), "max_age") {
		t.Errorf("the outcome is %v", err)
	}
	if err := feed.Flush(w.Ctx()); !errors.Is(err, agentbus.ErrDisconnected) {
		t.Errorf("Flush: %v", err)
	}
	bustest.Check(t, feed.Flush(w.Ctx()))
	bustest.Receive(t, got)
	bustest.Receive(t, got)
	afterLoss(t, w, feed, got)
	if s := feed.Stats(); s.Published != 3 || s.Unsent != 2 {
		t.Errorf("%d counted as published, %d as unsent", s.Published, s.Unsent)
	}
	// What is retained is not too old for anybody.
	release = hold(t, w, feed, "ledger")
	p, err = feed.PublishAsync(w.Ctx(), "ledger", nil)
	bustest.Check(t, err)
	feed.Age("ledger", time.Hour)
	release()
	bustest.Check(t, p.Wait(w.Ctx()))
	bustest.Check(t, feed.Flush(w.Ctx()))
}

// TestCloseSendsAll hands messages over and closes at once: all arrive, and the retained ones are acknowledged.
func TestCloseSendsAll(t *testing.T) {
	const messages, retained = 5000, 500
	w := bustest.New(t, testPolicy)
	planner, feed := w.Agent("planner"), w.Agent("feed-1")
	handler, got := collect(messages + retained)
	for _, topic := range []string{"prices", "ledger"} {
		_, err := planner.Subscribe(w.Ctx(), topic+".>", handler)
		bustest.Check(t, err)
	}
	ctx := w.Ctx()
	for i := range messages {
		bustest.Check(t, feed.Publish(ctx, "prices.n"+strconv.Itoa(i/100%3), []byte(strconv.Itoa(i))))
	}
	var outcomes []*agentbus.Publication
	for i := range retained {
		p, err := feed.PublishAsync(ctx, "ledger.n"+strconv.Itoa(i%3), []byte(strconv.Itoa(i)))
		bustest.Check(t, err)
		outcomes = append(outcomes, p)
	}
	bustest.Check(t, feed.Close())
	for i, p := range outcomes {
		bustest.Receive(t, p.Done())
		if err := p.Err(); err != nil {
			t.Fatalf("the outcome of retained message %d: %v", i, err)
		}
	}
	next := map[string]int{"prices": 0, "ledger": 0}
	for range messages + retained {
		m := bustest.Receive(t, got)
		topic, _, _ := strings.Cut(m.Subject, ".")
		if string(m.Payload) != strconv.Itoa(next[topic]) {
			t.Fatalf("got %q on %s, want %d", m.Payload, m.Subject, next[topic])
		}
		next[topic]++
	}
	if n := storedMessages(t, w, "ledger"); n != retained {
		t.Errorf("%d messages stored, want %d", n, retained)
	}
}

// TestCloseAgainstPublish closes while goroutines publish: whatever Publish has accepted arrives, and every Publication
// has an outcome.
func TestCloseAgainstPublish(t *testing.T) {
	const goroutines = 4
	w := bustest.New(t, testPolicy)
	planner := w.Agent("planner")
	received := 0
	sub, err := planner.Subscribe(w.Ctx(), "gossip.>", func(context.Context, *agentbus.Message) error {
		received++
		return nil
	})
	bustest.Check(t, err)
	ctx, sent := w.Ctx(), 0
	for range 5 {
		feed := w.Agent("feed-1")
		bustest.Check(t, feed.Publish(ctx, "gossip", nil))
		sent++
		var mu sync.Mutex
		var publishers sync.WaitGroup
		var outcomes []*agentbus.Publication
		accepted := make(chan struct{}, 1)
		for g := range goroutines {
			publishers.Go(func() {
				n, all := 0, []*agentbus.Publication(nil)
				for {
					var err error
					if g%2 == 0 {
						err = feed.Publish(ctx, "gossip.x", nil)
					} else {
						var p *agentbus.Publication
						if p, err = feed.PublishAsync(ctx, "gossip.y", nil); err == nil {
							all = append(all, p)
						}
					}
					if err != nil {
						if !errors.Is(err, agentbus.ErrClosed) {
							t.Errorf("publishing: %v", err)
						}
						break
					}
					if n++; n == 100 {
						select {
						case accepted <- struct{}{}:
						default:
						}
					}
				}
				mu.Lock()
				defer mu.Unlock()
				sent, outcomes = sent+n, append(outcomes, all...)
			})
		}
		bustest.Receive(t, accepted)
		bustest.Check(t, feed.Close())
		publishers.Wait()
		for _, p := range outcomes {
			if err := p.Wait(ctx); err != nil {
				t.Fatalf("an outcome is %v", err)
			}
		}
	}
	bustest.Check(t, planner.Flush(ctx))
	bustest.Check(t, sub.Stop())
	if received != sent {
		t.Errorf("%d arrived of %d that were accepted", received, sent)
	}
}

// TestPublishAfterClose publishes from a handler that Close has given up waiting for: it is told that the bus is closed.
func TestPublishAfterClose(t *testing.T) {
	w := bustest.New(t, testPolicy)
	planner, feed := w.Connect(agentbus.Timing(w.Config("planner"), 0, 50*time.Millisecond)), w.Agent("feed-1")
	bustest.Check(t, planner.Publish(w.Ctx(), "gossip", nil))
	entered, closed, results := make(chan struct{}), make(chan struct{}), make(chan error, 3)
	_, err := planner.Subscribe(w.Ctx(), "prices", func(ctx context.Context, _ *agentbus.Message) error {
		close(entered)
		<-closed
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		results <- planner.Publish(ctx, "gossip", nil)
		p, err := planner.PublishAsync(ctx, "gossip", nil)
		if err == nil {
			err = p.Wait(ctx)
		}
		results <- err
		results <- planner.Flush(ctx)
		return nil
	})
	bustest.Check(t, err)
	bustest.Check(t, feed.Publish(w.Ctx(), "prices", nil))
	bustest.Receive(t, entered)
	if err := planner.Close(); err == nil {
		t.Error("Close has waited")
	}
	close(closed)
	for _, call := range []string{"Publish", "PublishAsync", "Flush"} {
		if err := bustest.Receive(t, results); !errors.Is(err, agentbus.ErrClosed) {
			t.Errorf("%s: %v", call, err)
		}
	}
}

// TestOvertakenByClose hands a message over in the moment in which Close has ended everything: it is refused, and not
// left where nobody takes it from.
func TestOvertakenByClose(t *testing.T) {
	w := bustest.New(t, testPolicy)
	feed := w.Agent("feed-1")
	bustest.Check(t, feed.Publish(w.Ctx(), "gossip", nil))
	bustest.Check(t, feed.Close())
	p, err := feed.Late("gossip.x")
	if err == nil {
		ctx, cancel := context.WithTimeout(w.Ctx(), time.Second)
		defer cancel()
		err = p.Wait(ctx)
	}
	if !errors.Is(err, agentbus.ErrClosed) {
		t.Errorf("got %v", err)
	}
}
