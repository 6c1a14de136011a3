package agentbus_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
)

// TestConcurrentUse uses three buses from many goroutines in every way at once, while policies change, a connection
// breaks and a certificate is renewed. It is for the race detector; what it looks at itself is that every call
// succeeds and that every message is handled or counted.
func TestConcurrentUse(t *testing.T) {
	const rounds = 30
	w := bustest.New(t, testPolicy)
	planner, src := renewable(t, w, "planner", time.Hour, time.Millisecond)
	feed, index := w.Agent("feed-1"), w.Agent("index-1")
	_, err := index.ServeService(w.Ctx(), "lookup", echo, agentbus.Concurrency(4))
	bustest.Check(t, err)
	_, err = index.Serve(w.Ctx(), echo)
	bustest.Check(t, err)
	ignore := func(context.Context, *agentbus.Message) error { return nil }
	sub, err := planner.Subscribe(w.Ctx(), "gossip.>", ignore)
	bustest.Check(t, err)
	var calls sync.WaitGroup
	each := func(what string, f func(i int) error) {
		for range 2 {
			calls.Go(func() {
				for i := range rounds {
					if err := f(i); err != nil {
						t.Errorf("%s: %v", what, err)
						return
					}
				}
			})
		}
	}
	each("publish", func(i int) error { return feed.Publish(w.Ctx(), fmt.Sprintf("gossip.n%d", i), []byte("x")) })
	each("retained", func(int) error { return feed.Publish(w.Ctx(), "ledger", nil) })
	each("own", func(int) error { return planner.Publish(w.Ctx(), "gossip.own", nil) })
	each("request", func(int) error { _, err := planner.Request(w.Ctx(), "index-1", nil); return err })
	each("service", func(int) error { _, err := planner.RequestService(w.Ctx(), "lookup", nil); return err })
	each("subscribe", func(int) error {
		s, err := planner.Subscribe(w.Ctx(), "prices.>", ignore)
		if err != nil {
			return err
		}
		return s.Stop()
	})
	each("look", func(int) error {
		for _, b := range []*agentbus.Bus{planner, feed, index} {
			_, _, _ = b.Stats(), b.Connected(), b.Policy()
		}
		return nil
	})
	calls.Go(func() {
		for i := range 3 {
			renew(t, w, src, "planner", time.Hour)
			eventually(t, "the connection replaced", func() bool { return planner.Stats().Reconnects > uint64(i) })
		}
	})
	calls.Go(func() { publishPolicy(t, w, revised("2", "exec-*", "trader-*"), planner, feed, index) })
	calls.Wait()
	if t.Failed() {
		t.Logf("rejected: %v; planner %+v, index %+v", w.Rejected(), planner.Stats(), index.Stats())
	}
	bustest.Check(t, feed.Conn().ForceReconnect())
	bustest.Check(t, feed.Publish(w.Ctx(), "ledger", nil))
	bustest.Check(t, planner.Publish(w.Ctx(), "gossip.last", nil))
	eventually(t, "all are handled", func() bool {
		s := sub.Stats()
		return s.Handled+s.Dropped+s.Lost >= 4*rounds+1
	})
}
