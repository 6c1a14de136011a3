package agentbus_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
)

func TestPublishSubscribe(t *testing.T) {
	for _, topic := range []string{"prices", "gossip", "ledger"} {
		t.Run(topic, func(t *testing.T) {
			w := bustest.New(t, testPolicy)
			planner, feed := w.Agent("planner"), w.Agent("feed-1")
			start := time.Now()
			handler, got := collect(8)
			_, err := planner.Subscribe(w.Ctx(), topic+".>", handler)
			bustest.Check(t, err)
			bustest.Check(t, feed.Publish(w.Ctx(), topic+".eu.de", []byte("42"), agentbus.ContentType("text/plain"), agentbus.Header("a", "b")))
			m := bustest.Receive(t, got)
			t.Logf("first message %v after both had connected", time.Since(start))
			if string(m.Payload) != "42" || m.Subject != topic+".eu.de" || m.Sender.Name() != "feed-1" ||
				m.ContentType() != "text/plain" || m.Header("a") != "b" {
				t.Errorf("got %q on %s from %s, %v", m.Payload, m.Subject, m.Sender, m.Headers())
			}
		})
	}
}

func TestRequestReply(t *testing.T) {
	w := bustest.New(t, testPolicy)
	planner, bob := w.Agent("planner"), w.Agent("bob")
	_, err := bob.Serve(w.Ctx(), func(_ context.Context, m *agentbus.Message) ([]byte, error) {
		if string(m.Payload) == "fail" {
			return nil, errors.New("cannot")
		}
		return fmt.Appendf(nil, "%s to %s", m.Payload, m.Sender.Name()), nil
	})
	bustest.Check(t, err)
	start := time.Now()
	m, err := planner.Request(w.Ctx(), "bob", []byte("hello"))
	bustest.Check(t, err)
	t.Logf("first reply after %v", time.Since(start))
	if string(m.Payload) != "hello to planner" || m.Sender.Name() != "bob" {
		t.Errorf("got %q from %s", m.Payload, m.Sender)
	}
	start = time.Now()
	_, err = planner.Request(w.Ctx(), "bob", []byte("fail"))
	t.Logf("second reply after %v", time.Since(start))
	var remote *agentbus.RemoteError
	if !errors.As(err, &remote) || remote.Text != "cannot" || remote.Agent != "bob" {
		t.Errorf("got %v, want bob's error", err)
	}
	if _, err = planner.Request(w.Ctx(), "nobody", nil); !errors.Is(err, agentbus.ErrNoResponder) {
		t.Errorf("got %v, want ErrNoResponder", err)
	}
	if _, err = bob.Request(w.Ctx(), "planner", nil); !errors.Is(err, agentbus.ErrNotEntitled) {
		t.Errorf("got %v, want ErrNotEntitled", err)
	}
}

func TestService(t *testing.T) {
	w := bustest.New(t, testPolicy)
	planner := w.Agent("planner")
	for _, name := range []string{"index-1", "index-2"} {
		b := w.Agent(name)
		_, err := b.ServeService(w.Ctx(), "lookup", func(_ context.Context, m *agentbus.Message) ([]byte, error) {
			return []byte(name), nil
		})
		bustest.Check(t, err)
	}
	seen := make(map[string]int)
	for range 40 {
		start := time.Now()
		m, err := planner.RequestService(w.Ctx(), "lookup", []byte("q"))
		bustest.Check(t, err)
		if string(m.Payload) != m.Sender.Name() {
			t.Fatalf("reply %q signed for by %s", m.Payload, m.Sender)
		}
		if seen[m.Sender.Name()]++; seen[m.Sender.Name()] == 1 {
			t.Logf("first reply of %s after %v", m.Sender.Name(), time.Since(start))
		}
	}
	if len(seen) != 2 {
		t.Errorf("served by %v, want both", seen)
	}
}
