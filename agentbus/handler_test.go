package agentbus_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
)

// TestHandlerOutcomes has a handler return nil, return an error, panic, and end its goroutine. Each is counted as
// what it is, the error and the panic reach OnError, and the next message is handled as if nothing had happened.
func TestHandlerOutcomes(t *testing.T) {
	w := bustest.New(t, testPolicy)
	c := w.Config("planner")
	failures := make(chan error, 4)
	c.OnError = func(subject string, err error) {
		failures <- fmt.Errorf("%s: %w", subject, err)
	}
	planner, feed := w.Connect(c), w.Agent("feed-1")
	cause := errors.New("no space left")
	handled := make(chan string, 8)
	sub, err := planner.Subscribe(w.Ctx(), "prices.>", func(_ context.Context, m *agentbus.Message) error {
		defer func() { handled <- string(m.Payload) }()
		switch string(m.Payload) {
		case "error":
			return cause
		case "panic":
			panic("out of range")
		case "exit":
			runtime.Goexit()
		}
		return nil
	})
	bustest.Check(t, err)
	for _, payload := range []string{"ok", "error", "panic", "exit", "ok", "last"} {
		bustest.Check(t, feed.Publish(w.Ctx(), "prices.eu", []byte(payload)))
		if got := bustest.Receive(t, handled); got != payload {
			t.Fatalf("handled %q, want %q", got, payload)
		}
	}
	if err := bustest.Receive(t, failures); !errors.Is(err, cause) || err.Error() != "prices.eu: no space left" {
		t.Errorf("OnError got %v", err)
	}
	if err := bustest.Receive(t, failures); !strings.Contains(err.Error(), "out of range") {
		t.Errorf("OnError got %v", err)
	}
	bustest.Check(t, sub.Stop())
	want := agentbus.Stats{Received: 6, Handled: 3, HandlerErrors: 1, Panics: 2}
	if got := sub.Stats(); got.Received != want.Received || got.Handled != want.Handled ||
		got.HandlerErrors != want.HandlerErrors || got.Panics != want.Panics || got.Dropped != 0 {
		t.Errorf("counted %+v, want %+v", got, want)
	}
	if b := planner.Stats(); b.Handled != 3 || b.Panics != 2 {
		t.Errorf("the bus counts %+v after the subscription has ended", b)
	}
}

// TestSlowHandler holds a handler up until its buffer is full: what comes then is dropped and counted, what was
// there is handled in order, and other subscriptions do not notice.
func TestSlowHandler(t *testing.T) {
	const buffer, messages = 4, 20
	w := bustest.New(t, testPolicy)
	c := w.Config("planner")
	c.Buffer = buffer
	planner, feed := w.Connect(c), w.Agent("feed-1")
	release, entered := make(chan struct{}), make(chan string, messages)
	slow, err := planner.Subscribe(w.Ctx(), "prices.>", func(_ context.Context, m *agentbus.Message) error {
		entered <- string(m.Payload)
		<-release
		return nil
	})
	bustest.Check(t, err)
	var others atomic.Int64
	_, err = planner.Subscribe(w.Ctx(), "prices.>", func(context.Context, *agentbus.Message) error {
		others.Add(1)
		return nil
	})
	bustest.Check(t, err)
	publish := func(i int) {
		bustest.Check(t, feed.Publish(w.Ctx(), "prices", fmt.Appendf(nil, "%d", i)))
		eventually(t, "the other subscription has it", func() bool { return others.Load() == int64(i+1) })
	}
	publish(0)
	bustest.Receive(t, entered)
	for i := 1; i < messages; i++ {
		publish(i)
	}
	eventually(t, "the rest is dropped", func() bool { return slow.Stats().Dropped >= messages-1-buffer })
	if s := slow.Stats(); s.Received != messages || s.Dropped != messages-1-buffer {
		t.Errorf("%d received and %d dropped, want %d and %d", s.Received, s.Dropped, messages, messages-1-buffer)
	}
	close(release)
	for i := 1; i <= buffer; i++ {
		if got := bustest.Receive(t, entered); got != fmt.Sprint(i) {
			t.Errorf("handled %s, want %d", got, i)
		}
	}
	bustest.Check(t, slow.Stop())
	bustest.Empty(t, entered)
	if s := slow.Stats(); s.Handled != buffer+1 {
		t.Errorf("%d handled, want %d", s.Handled, buffer+1)
	}
}

// TestBufferIsBoundInBytes fills a buffer with large messages: it takes 64 MiB and no more, however many messages
// it has room for.
func TestBufferIsBoundInBytes(t *testing.T) {
	const size = 512 << 10
	w := bustest.New(t, testPolicy)
	planner, feed := w.Agent("planner"), w.Agent("feed-1")
	release, entered := make(chan struct{}), make(chan struct{}, 1024)
	sub, err := planner.Subscribe(w.Ctx(), "prices", func(context.Context, *agentbus.Message) error {
		entered <- struct{}{}
		<-release
		return nil
	})
	bustest.Check(t, err)
	for i := range 150 {
		bustest.Check(t, feed.Publish(w.Ctx(), "prices", make([]byte, size)))
		eventually(t, "it has come", func() bool { return sub.Stats().Received == uint64(i+1) })
		if i == 0 {
			bustest.Receive(t, entered)
		}
	}
	eventually(t, "messages are dropped", func() bool { return sub.Stats().Dropped > 0 })
	close(release)
	bustest.Check(t, sub.Stop())
	if s := sub.Stats(); s.Handled*size > 65<<20 || s.Handled < 100 || s.Handled+s.Dropped != 150 {
		t.Errorf("%d handled, %d dropped", s.Handled, s.Dropped)
	}
}

// TestStop ends a subscription while messages wait: they are handled first, and nothing comes after.
func TestStop(t *testing.T) {
	const messages = 100
	w := bustest.New(t, testPolicy)
	planner, feed := w.Agent("planner"), w.Agent("feed-1")
	release := make(chan struct{})
	entered := make(chan struct{}, messages+8)
	sub, err := planner.Subscribe(w.Ctx(), "prices", func(context.Context, *agentbus.Message) error {
		entered <- struct{}{}
		<-release
		return nil
	})
	bustest.Check(t, err)
	handler, got := collect(messages + 8)
	_, err = planner.Subscribe(w.Ctx(), "prices.>", handler)
	bustest.Check(t, err)
	for range messages {
		bustest.Check(t, feed.Publish(w.Ctx(), "prices", nil))
	}
	bustest.Check(t, feed.Flush(w.Ctx()))
	stopped := make(chan error, 2)
	for range 2 {
		go func() { stopped <- sub.Stop() }()
	}
	bustest.Receive(t, entered)
	bustest.Empty(t, stopped)
	close(release)
	for range 2 {
		bustest.Check(t, bustest.Receive(t, stopped))
	}
	bustest.Check(t, sub.Stop())
	if n := sub.Stats().Handled; n != messages {
		t.Errorf("%d handled, want %d", n, messages)
	}
	// What comes after reaches the other subscription only.
	for range messages + 1 {
		bustest.Check(t, feed.Publish(w.Ctx(), "prices", nil))
	}
	for range 2*messages + 1 {
		bustest.Receive(t, got)
	}
	if n := sub.Stats().Received; n != messages {
		t.Errorf("%d received after Stop", n-messages)
	}
}

// TestStopInHandler calls Stop from the subscription's own handler: it waits for itself for as long as Stop waits for
// handlers, with its context cancelled then, and no longer. From a goroutine it is as from anywhere.
func TestStopInHandler(t *testing.T) {
	w := bustest.New(t, testPolicy)
	planner, feed := w.Connect(agentbus.Timing(w.Config("planner"), 0, 50*time.Millisecond)), w.Agent("feed-1")
	subs, result := make(chan *agentbus.Subscription, 1), make(chan error, 2)
	sub, err := planner.Subscribe(w.Ctx(), "prices", func(ctx context.Context, _ *agentbus.Message) error {
		s := <-subs
		result <- s.Stop()
		result <- ctx.Err()
		return nil
	})
	bustest.Check(t, err)
	subs <- sub
	bustest.Check(t, feed.Publish(w.Ctx(), "prices", nil))
	if err := bustest.Receive(t, result); err == nil || !strings.Contains(err.Error(), "has not returned") {
		t.Errorf("Stop of a handler for itself: %v", err)
	}
	if err := bustest.Receive(t, result); !errors.Is(err, context.Canceled) {
		t.Errorf("the handler's context: %v", err)
	}
	bustest.Check(t, sub.Stop())

	planner = w.Agent("planner")
	sub, err = planner.Subscribe(w.Ctx(), "prices", func(context.Context, *agentbus.Message) error {
		s := <-subs
		go func() { result <- s.Stop() }()
		return nil
	})
	bustest.Check(t, err)
	subs <- sub
	bustest.Check(t, feed.Publish(w.Ctx(), "prices", nil))
	bustest.Check(t, bustest.Receive(t, result))
}
