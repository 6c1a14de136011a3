package agentbus_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
)

// TestCloseDrains closes an agent whose handlers are busy: all that has arrived is handled, each handler can still
// publish and ask with its context, and the replies go out. Nobody else can use the bus any more.
func TestCloseDrains(t *testing.T) {
	const messages = 50
	w := bustest.New(t, testPolicy)
	planner, feed, bob := w.Agent("planner"), w.Agent("feed-1"), w.Agent("bob")
	_, err := bob.Serve(w.Ctx(), echo)
	bustest.Check(t, err)
	gossip, heard := collect(messages)
	_, err = bob.Subscribe(w.Ctx(), "gossip.>", gossip)
	bustest.Check(t, err)
	_, err = planner.Request(w.Ctx(), "bob", nil)
	bustest.Check(t, err)
	release := make(chan struct{})
	sub, err := planner.Subscribe(w.Ctx(), "prices", func(ctx context.Context, m *agentbus.Message) error {
		<-release
		reply, err := planner.Request(ctx, "bob", m.Payload)
		if err != nil {
			return err
		}
		return planner.Publish(ctx, "gossip", reply.Payload)
	})
	bustest.Check(t, err)
	for i := range messages {
		bustest.Check(t, feed.Publish(w.Ctx(), "prices", fmt.Appendf(nil, "%d", i)))
	}
	eventually(t, "all have arrived", func() bool { return sub.Stats().Received == messages })
	closed := make(chan error, 2)
	for range 2 {
		go func() { closed <- planner.Close() }()
	}
	eventually(t, "Close has begun", func() bool {
		return errors.Is(planner.Publish(w.Ctx(), "gossip", nil), agentbus.ErrClosed)
	})
	if _, err := planner.Request(w.Ctx(), "bob", nil); !errors.Is(err, agentbus.ErrClosed) {
		t.Errorf("Request while closing: %v", err)
	}
	if _, err := planner.Subscribe(w.Ctx(), "prices", gossip); !errors.Is(err, agentbus.ErrClosed) {
		t.Errorf("Subscribe while closing: %v", err)
	}
	bustest.Empty(t, closed)
	close(release)
	for range 2 {
		bustest.Check(t, bustest.Receive(t, closed))
	}
	for i := range messages {
		m := bustest.Receive(t, heard)
		for string(m.Payload) == "" { // of the test's own tries
			m = bustest.Receive(t, heard)
		}
		if string(m.Payload) != fmt.Sprint(i) {
			t.Fatalf("heard %s, want %d", m.Payload, i)
		}
	}
	if s := planner.Stats(); s.Handled != messages || s.HandlerErrors != 0 {
		t.Errorf("counted %+v", s)
	}
}

// TestCloseAnswers closes a responder in the middle of a request: the reply still goes out.
func TestCloseAnswers(t *testing.T) {
	w := bustest.New(t, testPolicy)
	planner, index := w.Agent("planner"), w.Agent("index-1")
	release, entered := make(chan struct{}), make(chan struct{}, 1)
	_, err := index.ServeService(w.Ctx(), "lookup", func(_ context.Context, m *agentbus.Message) ([]byte, error) {
		if string(m.Payload) == "first" {
			return nil, nil
		}
		entered <- struct{}{}
		<-release
		return []byte("found"), nil
	})
	bustest.Check(t, err)
	// The two share a key before the server goes.
	_, err = planner.RequestService(w.Ctx(), "lookup", []byte("first"))
	bustest.Check(t, err)
	result := make(chan string, 1)
	go func() {
		m, err := planner.RequestService(w.Ctx(), "lookup", nil)
		result <- fmt.Sprint(m, err)
	}()
	bustest.Receive(t, entered)
	closed := make(chan error, 1)
	go func() { closed <- index.Close() }()
	if _, err := index.ServeService(w.Ctx(), "lookup", echo); err == nil {
		t.Error("the service is served twice")
	}
	close(release)
	if got := bustest.Receive(t, result); !strings.HasSuffix(got, "from index-1 on lookup, 5 bytes<nil>") &&
		!strings.HasSuffix(got, "from index-1 on lookup, 5 bytes <nil>") {
		t.Errorf("got %s", got)
	}
	bustest.Check(t, bustest.Receive(t, closed))
}

// TestClosed calls everything on a closed bus.
func TestClosed(t *testing.T) {
	w := bustest.New(t, testPolicy)
	planner := w.Agent("planner")
	handler, _ := collect(1)
	sub, err := planner.Subscribe(w.Ctx(), "prices", handler)
	bustest.Check(t, err)
	bustest.Check(t, planner.Close())
	bustest.Check(t, planner.Close())
	bustest.Check(t, sub.Stop())
	for call, f := range map[string]func() error{
		"Publish":        func() error { return planner.Publish(w.Ctx(), "gossip", nil) },
		"Flush":          func() error { return planner.Flush(w.Ctx()) },
		"Request":        func() error { _, err := planner.Request(w.Ctx(), "bob", nil); return err },
		"RequestService": func() error { _, err := planner.RequestService(w.Ctx(), "lookup", nil); return err },
		"Subscribe":      func() error { _, err := planner.Subscribe(w.Ctx(), "prices", handler); return err },
		"Serve":          func() error { _, err := planner.Serve(w.Ctx(), echo); return err },
	} {
		if err := f(); !errors.Is(err, agentbus.ErrClosed) {
			t.Errorf("%s after Close: %v", call, err)
		}
	}
	if planner.Connected() || planner.Stats().Received != 0 || planner.Self().Name() != "planner" || planner.Policy() == nil {
		t.Error("what a closed bus says of itself")
	}
}

// TestCloseGivesUp closes a bus whose handler does not return: Close says so after its time, with the handler's
// context cancelled.
func TestCloseGivesUp(t *testing.T) {
	w := bustest.New(t, testPolicy)
	planner, feed := w.Connect(agentbus.Timing(w.Config("planner"), 0, 50*time.Millisecond)), w.Agent("feed-1")
	entered, left := make(chan struct{}, 1), make(chan error, 1)
	_, err := planner.Subscribe(w.Ctx(), "prices", func(ctx context.Context, _ *agentbus.Message) error {
		entered <- struct{}{}
		<-ctx.Done()
		left <- planner.Publish(context.WithoutCancel(ctx), "gossip", nil)
		return nil
	})
	bustest.Check(t, err)
	bustest.Check(t, feed.Publish(w.Ctx(), "prices", nil))
	bustest.Receive(t, entered)
	if err := planner.Close(); err == nil || !strings.Contains(err.Error(), "has not returned") {
		t.Errorf("Close: %v", err)
	}
	bustest.Receive(t, left)
}

// TestCloseInHandler calls Close from a handler: it does not hang for ever.
func TestCloseInHandler(t *testing.T) {
	w := bustest.New(t, testPolicy)
	planner, feed := w.Connect(agentbus.Timing(w.Config("planner"), 0, 50*time.Millisecond)), w.Agent("feed-1")
	result := make(chan error, 1)
	_, err := planner.Subscribe(w.Ctx(), "prices", func(context.Context, *agentbus.Message) error {
		result <- planner.Close()
		return nil
	})
	bustest.Check(t, err)
	bustest.Check(t, feed.Publish(w.Ctx(), "prices", nil))
	if err := bustest.Receive(t, result); err == nil {
		t.Error("Close has not waited for the handler that called it")
	}
}

// TestCloseAgainstCalls closes a bus while other goroutines use it in every way. Whatever they get, they get it at
// once, and it is ErrClosed when it is not success.
func TestCloseAgainstCalls(t *testing.T) {
	for range 5 {
		w := bustest.New(t, testPolicy)
		planner, bob := w.Agent("planner"), w.Agent("bob")
		never := make(chan struct{})
		_, err := bob.Serve(w.Ctx(), func(ctx context.Context, _ *agentbus.Message) ([]byte, error) {
			select {
			case <-ctx.Done():
			case <-never:
			}
			return nil, nil
		})
		bustest.Check(t, err)
		handler, _ := collect(1 << 12)
		started := make(chan struct{}, 8)
		var calls sync.WaitGroup
		for _, f := range []func() error{
			func() error { return planner.Publish(w.Ctx(), "gossip.x", []byte("y")) },
			func() error { _, err := planner.Request(w.Ctx(), "bob", nil); return err },
			func() error { _, err := planner.Subscribe(w.Ctx(), "gossip.>", handler); return err },
			func() error {
				s, err := planner.Subscribe(w.Ctx(), "ledger", handler)
				if err == nil {
					err = s.Stop()
				}
				return err
			},
			func() error { return planner.Flush(w.Ctx()) },
		} {
			calls.Go(func() {
				started <- struct{}{}
				for n := 0; n < 200; n++ {
					if err := f(); errors.Is(err, agentbus.ErrClosed) {
						return
					} else if err != nil {
						t.Errorf("a call during Close: %v", err)
						return
					}
				}
			})
		}
		for range 5 {
			<-started
		}
		bustest.Check(t, planner.Close())
		calls.Wait()
		close(never)
	}
}

// TestNothingLeaks connects, uses everything, closes, and counts goroutines.
func TestNothingLeaks(t *testing.T) {
	w := bustest.New(t, testPolicy)
	use := func() {
		planner, feed, bob := w.Agent("planner"), w.Agent("feed-1"), w.Agent("bob")
		handler, got := collect(8)
		sub, err := planner.Subscribe(w.Ctx(), "prices.>", handler)
		bustest.Check(t, err)
		_, err = planner.Subscribe(w.Ctx(), "gossip.>", handler)
		bustest.Check(t, err)
		_, err = bob.Serve(w.Ctx(), echo)
		bustest.Check(t, err)
		bustest.Check(t, feed.Publish(w.Ctx(), "prices", nil))
		bustest.Receive(t, got)
		_, err = planner.Request(w.Ctx(), "bob", nil)
		bustest.Check(t, err)
		bustest.Check(t, sub.Stop())
		ctx, cancel := context.WithCancel(w.Ctx())
		cancel()
		if _, err := agentbus.Connect(ctx, w.Config("carol")); !errors.Is(err, context.Canceled) {
			t.Errorf("Connect with a cancelled context: %v", err)
		}
		if _, err := planner.Subscribe(ctx, "ledger.>", handler); !errors.Is(err, context.Canceled) {
			t.Errorf("Subscribe with a cancelled context: %v", err)
		}
		for _, b := range []*agentbus.Bus{planner, feed, bob} {
			bustest.Check(t, b.Close())
		}
	}
	use()
	eventually(t, "the broker has noticed", func() bool { return len(w.Node.Connections()) == 0 })
	before := runtime.NumGoroutine()
	for range 5 {
		use()
	}
	deadline := time.Now().Add(bustest.Timeout)
	for runtime.NumGoroutine() > before+3 { // the server's own come and go
		if time.Now().After(deadline) {
			var stacks strings.Builder
			_ = pprof.Lookup("goroutine").WriteTo(&stacks, 1)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, stacks.String())
		}
		runtime.Gosched()
	}
}
