package agentbus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// TestInstances runs three instances under one name: each request goes to one of them, and a fourth that stops takes
// none with it.
func TestInstances(t *testing.T) {
	const requests = 60
	w := bustest.New(t, testPolicy)
	planner := w.Agent("planner")
	var subs []*agentbus.Subscription
	for i := range 4 {
		sub, err := w.Agent("bob").Serve(w.Ctx(), func(context.Context, *agentbus.Message) ([]byte, error) {
			return fmt.Appendf(nil, "%d", i), nil
		})
		bustest.Check(t, err)
		subs = append(subs, sub)
	}
	seen := make(map[string]int)
	for i := range requests {
		if i == requests/2 {
			bustest.Check(t, subs[3].Stop())
		}
		m, err := planner.Request(w.Ctx(), "bob", nil)
		bustest.Check(t, err)
		seen[string(m.Payload)]++
	}
	var handled uint64
	for _, s := range subs {
		handled += s.Stats().Handled
	}
	if len(seen) != 4 || handled != requests {
		t.Errorf("served %v, handled %d, want %d", seen, handled, requests)
	}
}

// TestHandlerErrors sends requests whose handlers fail: the requester learns the text of an error, cut and made
// valid, nothing of a panic, and that a reply is too large.
func TestHandlerErrors(t *testing.T) {
	w := bustest.New(t, testPolicy)
	planner, bob := w.Agent("planner"), w.Agent("bob")
	sub, err := bob.Serve(w.Ctx(), func(_ context.Context, m *agentbus.Message) ([]byte, error) {
		switch string(m.Payload) {
		case "panic":
			panic("secret of bob")
		case "long":
			return nil, errors.New(strings.Repeat("é", 1000))
		case "binary":
			return nil, errors.New("\xff\x00\n")
		case "large":
			return make([]byte, agentbus.MaxPayload+1), nil
		case "largest":
			return make([]byte, agentbus.MaxPayload), nil
		}
		return nil, errors.New("no such thing")
	})
	bustest.Check(t, err)
	for payload, want := range map[string]string{
		"x": "no such thing", "panic": "the handler failed", "long": strings.Repeat("é", 512), "binary": "?\x00\n",
		"large": "agentbus: message too large: reply of 983041 bytes; the limit is 983040",
	} {
		_, err := planner.Request(w.Ctx(), "bob", []byte(payload))
		var remote *agentbus.RemoteError
		if !errors.As(err, &remote) || remote.Text != want || remote.Agent != "bob" {
			t.Errorf("%s: %v, want %q of bob", payload, err, want)
		}
		if errors.Is(err, agentbus.ErrOverloaded) {
			t.Errorf("%s: a handler's error is no overload", payload)
		}
		if err != nil && strings.ContainsAny(err.Error(), "\n\x00") {
			t.Errorf("%s: the error's text could forge a line of a log", payload)
		}
	}
	m, err := planner.Request(w.Ctx(), "bob", []byte("largest"))
	if err != nil || len(m.Payload) != agentbus.MaxPayload {
		t.Errorf("the largest reply: %v", err)
	}
	if s := sub.Stats(); s.HandlerErrors != 4 || s.Panics != 1 || s.Handled != 1 {
		t.Errorf("counted %+v", s)
	}
}

// TestOverload fills a responder's buffer: what comes then is answered with ErrOverloaded, counted, and what waits
// is answered in the end.
func TestOverload(t *testing.T) {
	w := bustest.New(t, testPolicy)
	c := w.Config("bob")
	c.Buffer = 1
	planner, bob := w.Agent("planner"), w.Connect(c)
	release, entered := make(chan struct{}), make(chan struct{}, 8)
	sub, err := bob.Serve(w.Ctx(), func(context.Context, *agentbus.Message) ([]byte, error) {
		entered <- struct{}{}
		<-release
		return []byte("done"), nil
	}, agentbus.Concurrency(1))
	bustest.Check(t, err)
	results := make(chan error, 8)
	request := func() {
		_, err := planner.Request(w.Ctx(), "bob", nil)
		results <- err
	}
	go request()
	bustest.Receive(t, entered) // one in the handler
	go request()
	eventually(t, "one in the buffer", func() bool { return sub.Stats().Received == 2 })
	for range 3 {
		request()
		if err := <-results; !errors.Is(err, agentbus.ErrOverloaded) {
			t.Errorf("got %v, want ErrOverloaded", err)
		}
	}
	close(release)
	for range 2 {
		bustest.Check(t, bustest.Receive(t, results))
	}
	if s := sub.Stats(); s.Dropped != 3 || s.Handled != 2 {
		t.Errorf("counted %+v", s)
	}
}

// TestRequestTimeout has a requester give up: its error is its context's, the handler's context ends soon after, the
// reply that comes too late is counted and does no harm.
func TestRequestTimeout(t *testing.T) {
	w := bustest.New(t, testPolicy)
	planner, bob := w.Agent("planner"), w.Agent("bob")
	release, entered := make(chan struct{}), make(chan context.Context, 2)
	_, err := bob.Serve(w.Ctx(), func(ctx context.Context, m *agentbus.Message) ([]byte, error) {
		if string(m.Payload) == "quick" {
			return nil, nil
		}
		entered <- ctx
		<-release
		return []byte("late"), nil
	})
	bustest.Check(t, err)
	ctx, cancel := context.WithCancel(w.Ctx())
	result := make(chan error, 1)
	go func() {
		_, err := planner.Request(ctx, "bob", nil)
		result <- err
	}()
	served := bustest.Receive(t, entered)
	want, _ := ctx.Deadline()
	if d, ok := served.Deadline(); !ok || d.Sub(want).Abs() > 3*time.Second {
		t.Errorf("the handler's deadline is %v, the requester's %v", d, want)
	}
	cancel()
	if err := bustest.Receive(t, result); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "bob") {
		t.Errorf("got %v", err)
	}
	close(release)
	eventually(t, "the late reply is counted", func() bool { return planner.Stats().Late == 1 })
	ctx, cancel = context.WithTimeout(w.Ctx(), 0)
	defer cancel()
	if _, err := planner.Request(ctx, "bob", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	_, err = planner.Request(w.Ctx(), "bob", []byte("quick"))
	bustest.Check(t, err)
}

// TestRequestWithoutDeadline bounds a request by Config.RequestTimeout when its context has no deadline.
func TestRequestWithoutDeadline(t *testing.T) {
	w := bustest.New(t, testPolicy)
	c := w.Config("planner")
	c.RequestTimeout = 200 * time.Millisecond
	planner, bob := w.Connect(c), w.Agent("bob")
	release := make(chan struct{})
	_, err := bob.Serve(w.Ctx(), func(context.Context, *agentbus.Message) ([]byte, error) {
		<-release
		return nil, nil
	})
	bustest.Check(t, err)
	if _, err := planner.Request(context.Background(), "bob", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	close(release)
}

// TestServeOnce refuses what could have a replayed request handled twice, or by nobody: to serve the same twice, to
// serve where nobody may ask, and to call a service that one serves.
func TestServeOnce(t *testing.T) {
	w := bustest.New(t, revised("1", "call: [planner]", `call: [planner, "index-*"]`, `from: [planner], to: ["*"]`, "from: [planner], to: [bob]"))
	bob, index := w.Agent("bob"), w.Agent("index-1")
	sub, err := bob.Serve(w.Ctx(), echo)
	bustest.Check(t, err)
	if _, err := bob.Serve(w.Ctx(), echo); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("second Serve: %v", err)
	}
	bustest.Check(t, sub.Stop())
	_, err = bob.Serve(w.Ctx(), echo)
	bustest.Check(t, err)
	if _, err := index.Serve(w.Ctx(), echo); !errors.Is(err, agentbus.ErrNotEntitled) {
		t.Errorf("serving where nobody may ask: %v", err)
	}
	_, err = index.ServeService(w.Ctx(), "lookup", echo)
	bustest.Check(t, err)
	if _, err := index.RequestService(w.Ctx(), "lookup", nil); err == nil || !strings.Contains(err.Error(), "serves lookup") {
		t.Errorf("calling one's own service: %v", err)
	}
	if _, err := w.Agent("index-2").RequestService(w.Ctx(), "lookup", nil); err == nil {
		t.Error("index-2 may serve lookup and has called it")
	}
	planner := w.Agent("planner")
	_, err = planner.RequestService(w.Ctx(), "lookup", nil)
	bustest.Check(t, err)
	if _, err := planner.RequestService(w.Ctx(), "looku", nil); err == nil || !strings.Contains(err.Error(), "lookup") {
		t.Errorf("an unknown service: %v", err)
	}
}

// TestRequestOfSeveral sends a request whose frame holds two messages: it is rejected, not half handled.
func TestRequestOfSeveral(t *testing.T) {
	w := bustest.New(t, testPolicy)
	c := w.Config("planner")
	planner, bob := w.Connect(c), w.Agent("bob")
	sub, err := bob.Serve(w.Ctx(), echo)
	bustest.Check(t, err)
	_, err = planner.Request(w.Ctx(), "bob", nil)
	bustest.Check(t, err)
	ch, err := policy.Pair("planner", "bob")
	bustest.Check(t, err)
	s, err := c.Keyring.Sender(w.Ctx(), ch)
	bustest.Check(t, err)
	frame, _, err := s.Seal(nil, &keyring.Draft{Kind: envelope.KindRequest, Recipient: "bob",
		Messages: []envelope.Message{{Payload: []byte("one")}, {Payload: []byte("two")}}})
	bustest.Check(t, err)
	bustest.Check(t, planner.Conn().PublishMsg(&nats.Msg{Subject: "sb.agent.bob", Reply: "sb.inbox.planner.x", Data: frame}))
	w.AwaitRejections(1, keyring.BadContent)
	if n := sub.Stats().Handled; n != 1 {
		t.Errorf("%d handled, want 1", n)
	}
}

// TestReplySubject has a request ask for its answer to go to somebody else's inbox, and nowhere: both are rejected.
func TestReplySubject(t *testing.T) {
	w := bustest.New(t, testPolicy)
	c := w.Config("planner")
	planner, bob := w.Connect(c), w.Agent("bob")
	_, err := bob.Serve(w.Ctx(), echo)
	bustest.Check(t, err)
	_, err = planner.Request(w.Ctx(), "bob", nil)
	bustest.Check(t, err)
	ch, err := policy.Pair("planner", "bob")
	bustest.Check(t, err)
	s, err := c.Keyring.Sender(w.Ctx(), ch)
	bustest.Check(t, err)
	owner := w.Admin("AGENTS")
	for _, reply := range []string{"sb.inbox.carol.x", "", "sb.topic.prices", "sb.inbox.planner"} {
		frame, _, err := s.Seal(nil, &keyring.Draft{Kind: envelope.KindRequest, Recipient: "bob", Messages: make([]envelope.Message, 1)})
		bustest.Check(t, err)
		bustest.Check(t, owner.PublishMsg(&nats.Msg{Subject: "sb.agent.bob", Reply: reply, Data: frame}))
	}
	w.AwaitRejections(4, keyring.Misdirected)
}

// TestNoResponder says so at once when nobody serves, also for a service.
func TestNoResponder(t *testing.T) {
	w := bustest.New(t, testPolicy)
	planner := w.Agent("planner")
	start := time.Now()
	for range 2 {
		if _, err := planner.Request(w.Ctx(), "bob", nil); !errors.Is(err, agentbus.ErrNoResponder) || !strings.Contains(err.Error(), "bob") {
			t.Errorf("got %v", err)
		}
		if _, err := planner.RequestService(w.Ctx(), "lookup", nil); !errors.Is(err, agentbus.ErrNoResponder) {
			t.Errorf("got %v", err)
		}
	}
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("took %v", d)
	}
	if s := planner.Stats(); len(s.Rejected) > 0 || s.Late > 0 {
		t.Errorf("the broker's own message was counted as a frame: %+v", s)
	}
}
