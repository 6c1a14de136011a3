package agentbus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/keyring"
)

// TestBrokerRestart stops the broker and starts it on the same store. Subscriptions, sessions and keys outlive it;
// what was published meanwhile, as far as the buffer holds it, arrives in order; requests work again.
func TestBrokerRestart(t *testing.T) {
	w := bustest.New(t, testPolicy)
	planner, feed, bob := w.Agent("planner"), w.Agent("feed-1"), w.Agent("bob")
	handler, got := collect(64)
	sub, err := planner.Subscribe(w.Ctx(), "prices.>", handler)
	bustest.Check(t, err)
	_, err = bob.Serve(w.Ctx(), echo)
	bustest.Check(t, err)
	bustest.Check(t, feed.Publish(w.Ctx(), "prices", []byte("0")))
	bustest.Receive(t, got)
	_, err = planner.Request(w.Ctx(), "bob", nil)
	bustest.Check(t, err)

	w.Stop()
	for _, b := range []*agentbus.Bus{planner, feed, bob} {
		eventually(t, "the loss is noticed", func() bool { return !b.Connected() })
	}
	for i := 1; i <= 10; i++ {
		bustest.Check(t, feed.Publish(w.Ctx(), "prices", []byte(strconv.Itoa(i))))
	}
	result := make(chan error, 1)
	go func() { // waits for the broker
		_, err := bob.Subscribe(w.Ctx(), "gossip", handler)
		result <- err
	}()
	w.Start()
	for _, b := range []*agentbus.Bus{planner, feed, bob} {
		eventually(t, "connected again", func() bool { return b.Connected() && b.Stats().Reconnects > 0 })
	}
	bustest.Check(t, bustest.Receive(t, result))
	// The subscriber may have come back after the publisher: what went out before is lost, and counted. What comes
	// now arrives.
	bustest.Check(t, planner.Flush(w.Ctx()))
	bustest.Check(t, feed.Publish(w.Ctx(), "prices", []byte("11")))
	last := 0
	for last < 11 {
		n, err := strconv.Atoi(string(bustest.Receive(t, got).Payload))
		bustest.Check(t, err)
		if n <= last {
			t.Fatalf("message %d after %d", n, last)
		}
		last = n
	}
	if s := sub.Stats(); len(s.Rejected) > 0 {
		t.Errorf("rejected %v", s.Rejected)
	}
	for {
		reply, err := planner.Request(w.Ctx(), "bob", []byte("again"))
		if errors.Is(err, agentbus.ErrNoResponder) { // bob's subscription is not the broker's yet
			continue
		}
		bustest.Check(t, err)
		if string(reply.Payload) != "again" {
			t.Errorf("reply %q", reply.Payload)
		}
		break
	}
}

// TestReadCutOff: whose time runs out in the moment in which the connection is back, is told that.
func TestReadCutOff(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := agentbus.CutOff(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

// TestReconnectBuffer publishes while the broker is away until the buffer is full: that is a clear error, and the bus
// works when the broker is back.
func TestReconnectBuffer(t *testing.T) {
	w := bustest.New(t, testPolicy)
	feed, planner := w.Agent("feed-1"), w.Agent("planner")
	handler, got := collect(64)
	_, err := planner.Subscribe(w.Ctx(), "gossip.>", handler)
	bustest.Check(t, err)
	bustest.Check(t, feed.Publish(w.Ctx(), "gossip", []byte("first")))
	bustest.Check(t, feed.Flush(w.Ctx()))
	bustest.Receive(t, got)
	w.Stop()
	eventually(t, "the loss is noticed", func() bool { return !feed.Connected() })
	large := make([]byte, 512<<10)
	sent := 0
	for err = nil; err == nil && sent < 64; sent++ {
		err = feed.Publish(w.Ctx(), "gossip", large)
	}
	if !errors.Is(err, agentbus.ErrDisconnected) {
		t.Fatalf("after %d messages: %v", sent, err)
	}
	if sent*len(large) < 7<<20 || sent*len(large) > 10<<20 {
		t.Errorf("%d messages of %d bytes waited", sent, len(large))
	}
	if _, err := feed.Request(w.Ctx(), "bob", nil); !errors.Is(err, agentbus.ErrNotEntitled) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(w.Ctx())
	cancel()
	if err := feed.Flush(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Flush without a connection: %v", err)
	}
	w.Start()
	bustest.Check(t, planner.Flush(w.Ctx()))
	bustest.Check(t, feed.Flush(w.Ctx()))
	bustest.Check(t, feed.Publish(w.Ctx(), "gossip", []byte("last")))
	for m := bustest.Receive(t, got); string(m.Payload) != "last"; m = bustest.Receive(t, got) {
		if !bytes.Equal(m.Payload, large) {
			t.Errorf("got %d bytes", len(m.Payload))
		}
	}
}

// TestRetainedOverRestart publishes to a retained topic while the broker is away: Publish waits, and the message is
// stored once. With a context that ends, it does not wait longer.
func TestRetainedOverRestart(t *testing.T) {
	w := bustest.New(t, testPolicy)
	feed := w.Agent("feed-1")
	bustest.Check(t, feed.Publish(w.Ctx(), "ledger", []byte("1")))
	w.Stop()
	eventually(t, "the loss is noticed", func() bool { return !feed.Connected() })
	ctx, cancel := context.WithCancel(w.Ctx())
	results := make(chan error, 5)
	for i := range 5 {
		go func() { results <- feed.Publish(w.Ctx(), "ledger", fmt.Appendf(nil, "%d", i)) }()
	}
	given := make(chan error, 1)
	go func() { given <- feed.Publish(ctx, "ledger.given.up", nil) }()
	cancel()
	if err := bustest.Receive(t, given); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	w.Start()
	for range 5 {
		bustest.Check(t, bustest.Receive(t, results))
	}
	if n := storedMessages(t, w, "ledger"); n != 6 && n != 7 { // the one that was given up may have gone out
		t.Errorf("%d messages stored, want 6 or 7", n)
	}
}

// TestCloseWithoutBroker closes a bus whose broker is gone, with a retained publish and a subscription under way.
func TestCloseWithoutBroker(t *testing.T) {
	w := bustest.New(t, testPolicy)
	feed, planner := w.Agent("feed-1"), w.Agent("planner")
	bustest.Check(t, feed.Publish(w.Ctx(), "ledger", []byte("1")))
	handler, _ := collect(1)
	_, err := planner.Subscribe(w.Ctx(), "prices", handler)
	bustest.Check(t, err)
	w.Stop()
	eventually(t, "the loss is noticed", func() bool { return !feed.Connected() && !planner.Connected() })
	results := make(chan error, 3)
	go func() { results <- feed.Publish(w.Ctx(), "ledger", []byte("2")) }()
	go func() { results <- feed.Flush(w.Ctx()) }()
	go func() {
		_, err := planner.Subscribe(w.Ctx(), "ledger", handler)
		results <- err
	}()
	bustest.Check(t, feed.Close())
	bustest.Check(t, planner.Close())
	for range 3 {
		if err := bustest.Receive(t, results); !errors.Is(err, agentbus.ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
	}
	w.Start() // the test's end stops it
}

// TestLossInFlight cuts the connection while a request waits: the reply that comes when it is back is taken.
func TestLossInFlight(t *testing.T) {
	w := bustest.New(t, testPolicy)
	planner, bob := w.Agent("planner"), w.Agent("bob")
	release, entered := make(chan struct{}), make(chan struct{}, 1)
	_, err := bob.Serve(w.Ctx(), func(_ context.Context, m *agentbus.Message) ([]byte, error) {
		if string(m.Payload) == "wait" {
			entered <- struct{}{}
			<-release
		}
		return m.Payload, nil
	})
	bustest.Check(t, err)
	result := make(chan error, 1)
	go func() {
		_, err := planner.Request(w.Ctx(), "bob", []byte("wait"))
		result <- err
	}()
	bustest.Receive(t, entered)
	bustest.Check(t, planner.Conn().ForceReconnect())
	eventually(t, "connected again", func() bool { return planner.Stats().Reconnects == 1 })
	bustest.Check(t, planner.Flush(w.Ctx())) // the inbox is the broker's again
	close(release)
	if err := bustest.Receive(t, result); err != nil {
		t.Errorf("the answer to a request from before the reconnect: %v", err)
	}
	_, err = planner.Request(w.Ctx(), "bob", []byte("again"))
	bustest.Check(t, err)
}

// TestStateDirectory keeps an agent's ring in a directory over two lives of the agent and a restart of the broker:
// it knows its keys again, and what it accepted before it does not accept again.
func TestStateDirectory(t *testing.T) {
	w := bustest.New(t, testPolicy)
	feed := w.Agent("feed-1")
	dir := t.TempDir()
	connect := func() (*agentbus.Bus, chan *agentbus.Message) {
		c := w.Config("planner")
		var err error
		c.Keyring, err = keyring.Open(dir, keyring.Passphrase("correct horse battery staple"), w.Operator.Fingerprint())
		bustest.Check(t, err)
		b := w.Connect(c)
		handler, got := collect(64)
		_, err = b.Subscribe(w.Ctx(), "prices.>", handler)
		bustest.Check(t, err)
		return b, got
	}
	frames := tap(t, w.Admin("AGENTS"), "sb.topic.prices.>")
	planner, got := connect()
	bustest.Check(t, feed.Publish(w.Ctx(), "prices.a", []byte("1")))
	bustest.Receive(t, got)
	old := bustest.Receive(t, frames)
	bustest.Check(t, planner.Close())

	w.Stop()
	w.Start()
	planner, got = connect()
	eventually(t, "the publisher is back", feed.Connected)
	owner := w.Admin("AGENTS")
	bustest.Check(t, owner.Publish(old.Subject, old.Data))
	w.AwaitRejections(1, keyring.Stale)
	bustest.Check(t, feed.Publish(w.Ctx(), "prices.a", []byte("2")))
	if m := bustest.Receive(t, got); string(m.Payload) != "2" {
		t.Errorf("got %q", m.Payload)
	}
	// The directory is this process's alone, and a keyring that does not connect is given back.
	c := w.Config("planner")
	if _, err := keyring.Open(dir, keyring.Passphrase("correct horse battery staple"), w.Operator.Fingerprint()); !errors.Is(err, keyring.ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
	bustest.Check(t, planner.Close())
	var err error
	c.Keyring, err = keyring.Open(dir, keyring.Passphrase("correct horse battery staple"), w.Operator.Fingerprint())
	bustest.Check(t, err)
	c.Servers = nil
	if _, err := agentbus.Connect(w.Ctx(), c); err == nil {
		t.Error("connected to nothing")
	}
	again, err := keyring.Open(dir, keyring.Passphrase("correct horse battery staple"), w.Operator.Fingerprint())
	bustest.Check(t, err)
	bustest.Check(t, again.Close(w.Ctx()))
}
