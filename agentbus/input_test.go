package agentbus_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/identity/devca"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// TestConfig refuses what cannot work, and says what to write.
func TestConfig(t *testing.T) {
	w := bustest.New(t, testPolicy)
	for _, test := range []struct {
		name string
		edit func(*agentbus.Config)
		want string
	}{
		{"no servers", func(c *agentbus.Config) { c.Servers = nil }, "name at least one broker"},
		{"empty server", func(c *agentbus.Config) { c.Servers = []string{""} }, "write tls://host:port"},
		{"nats:", func(c *agentbus.Config) { c.Servers = []string{"nats://127.0.0.1:4222"} }, "write tls://127.0.0.1:4222"},
		{"password", func(c *agentbus.Config) { c.Servers = []string{"tls://a:b@127.0.0.1:4222"} }, "its certificate says"},
		{"path", func(c *agentbus.Config) { c.Servers = []string{"tls://127.0.0.1:4222/x"} }, "and no more"},
		{"two in one", func(c *agentbus.Config) { c.Servers = []string{"tls://a:1,tls://b:2"} }, "tls://"},
		{"no identity", func(c *agentbus.Config) { c.Identity = nil }, "identity.LoadFiles"},
		{"no keyring", func(c *agentbus.Config) { c.Keyring = nil }, "keyring.Open"},
		{"negative buffer", func(c *agentbus.Config) { c.Buffer = -1 }, "cannot be negative"},
		{"negative timeout", func(c *agentbus.Config) { c.RequestTimeout = -1 }, "cannot be negative"},
		{"empty identity", func(c *agentbus.Config) { c.Identity = identity.NewMemory(nil, w.CA.Bundle()) }, "Config.Identity"},
		{"broker's identity", func(c *agentbus.Config) {
			src, err := w.CA.BrokerSource("node-1", time.Hour)
			bustest.Check(t, err)
			c.Identity = src
		}, "an agent's is for"},
		{"wrong broker name", func(c *agentbus.Config) { c.Brokers = []string{"node-2"} }, "node-1"},
		{"bad broker name", func(c *agentbus.Config) { c.Brokers = []string{"Node 2"} }, "Node 2"},
		{"used keyring", func(c *agentbus.Config) { bustest.Check(t, c.Keyring.Close(w.Ctx())) }, "closed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := w.Config("planner")
			test.edit(&c)
			_, err := agentbus.Connect(w.Ctx(), c)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want something with %q", err, test.want)
			}
		})
	}
}

// TestSharedKeyring gives a second bus the keyring of a first one: it is refused, and the first goes on.
func TestSharedKeyring(t *testing.T) {
	w := bustest.New(t, testPolicy)
	c := w.Config("feed-1")
	feed := w.Connect(c)
	for _, servers := range [][]string{c.Servers, nil} {
		again := c
		again.Servers = servers
		if _, err := agentbus.Connect(w.Ctx(), again); !errors.Is(err, keyring.ErrAttached) {
			t.Errorf("got %v", err)
		}
	}
	bustest.Check(t, feed.Publish(w.Ctx(), "gossip", nil))
}

// TestConnectRefused connects to brokers and with certificates that are not right.
func TestConnectRefused(t *testing.T) {
	w, other := bustest.New(t, testPolicy), bustest.New(t, testPolicy)
	foreign, err := devca.New("other.org")
	bustest.Check(t, err)
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	bustest.Check(t, err)
	bustest.Check(t, nobody.Close())
	for _, test := range []struct {
		name  string
		agent string
		edit  func(*agentbus.Config)
		want  []string
	}{
		{"nobody there", "planner", func(c *agentbus.Config) { c.Servers = []string{nobody.Addr().String()} },
			[]string{"no broker answers", nobody.Addr().String()}},
		{"broker of another CA", "planner", func(c *agentbus.Config) { c.Servers = []string{other.Node.URL()} }, []string{"another CA"}},
		{"broker of another CA, by its certificate", "planner", func(c *agentbus.Config) {
			// This agent believes both.
			bundle := w.CA.Bundle().Clone()
			for _, a := range other.CA.Bundle().X509Authorities() {
				bundle.AddX509Authority(a)
			}
			svid, err := w.CA.Agent("planner", time.Hour)
			bustest.Check(t, err)
			c.Identity, c.Servers = identity.NewMemory(svid, bundle), []string{other.Node.URL()}
		}, []string{"refuses the certificate", "planner"}},
		{"another trust domain", "planner", func(c *agentbus.Config) {
			src, err := foreign.AgentSource("planner", time.Hour)
			bustest.Check(t, err)
			c.Identity = src
		}, []string{"example.org"}},
		{"expired", "planner", func(c *agentbus.Config) {
			svid, err := w.CA.Issue(devca.Template{ID: identity.MustParseID("spiffe://example.org/agent/planner"),
				NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(-time.Minute)})
			bustest.Check(t, err)
			c.Identity = identity.NewMemory(svid, w.CA.Bundle())
		}, []string{"expired at", "renew it"}},
		{"unpinned operator", "planner", func(c *agentbus.Config) { c.Keyring = other.Ring() }, []string{w.Operator.Fingerprint().String()}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := w.Config(test.agent)
			test.edit(&c)
			_, err := agentbus.Connect(w.Ctx(), c)
			for _, want := range test.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want something with %q", err, want)
				}
			}
			t.Log(err)
		})
	}
}

// TestUnknownAgent connects an agent that the policy does not know, and one that it has revoked.
func TestUnknownAgent(t *testing.T) {
	w := bustest.New(t, strings.NewReplacer(`  gossip: {publish: ["*"], subscribe: ["*"], signed: false}`+"\n", "", `to: ["*"]`, "to: [bob]").
		Replace(testPolicy)+"revoked: [feed-2]\n")
	for _, name := range []string{"stranger", "feed-2"} {
		_, err := agentbus.Connect(w.Ctx(), w.Config(name))
		if err == nil || !strings.Contains(err.Error(), "does not know it or has revoked it") || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestConnectContext ends the context while a server accepts the connection and says nothing.
func TestConnectContext(t *testing.T) {
	w := bustest.New(t, testPolicy)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	bustest.Check(t, err)
	defer silent.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		if c, err := silent.Accept(); err == nil {
			accepted <- c
		}
	}()
	c := w.Config("planner")
	c.Servers = []string{silent.Addr().String()}
	ctx, cancel := context.WithCancel(w.Ctx())
	result := make(chan error, 1)
	go func() {
		_, err := agentbus.Connect(ctx, c)
		result <- err
	}()
	conn := bustest.Receive(t, accepted)
	defer conn.Close()
	cancel()
	if err := bustest.Receive(t, result); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), silent.Addr().String()) {
		t.Errorf("got %v", err)
	}
	// The first server is silent, the second is not there, the third works.
	c = w.Config("planner")
	c.Servers = []string{strings.TrimPrefix(w.Node.URL(), "tls://")}
	w.Connect(c)
}

// TestMessageInput refuses at the call what cannot be sent.
func TestMessageInput(t *testing.T) {
	w := bustest.New(t, testPolicy)
	feed, planner := w.Agent("feed-1"), w.Agent("planner")
	handler, got := collect(8)
	_, err := planner.Subscribe(w.Ctx(), "prices.>", handler)
	bustest.Check(t, err)
	many := make([]agentbus.MessageOption, 65)
	for i := range many {
		many[i] = agentbus.Header(strings.Repeat("k", i+1), "v")
	}
	for _, test := range []struct {
		name, subject string
		payload       []byte
		options       []agentbus.MessageOption
		is            error
		want          string
	}{
		{name: "empty subject", is: policy.ErrSubject, want: "empty"},
		{name: "space", subject: "prices.eu de", is: policy.ErrSubject, want: "eu de"},
		{name: "wildcard", subject: "prices.*", is: policy.ErrSubject, want: "wildcards are for subscriptions"},
		{name: "unknown topic", subject: "price.eu", want: "prices"},
		{name: "not a publisher", subject: "nowhere", want: "nowhere"},
		{name: "too large", subject: "prices", payload: make([]byte, agentbus.MaxPayload+1), is: agentbus.ErrTooLarge, want: "983041 bytes; the limit is 983040"},
		{name: "reserved header", subject: "prices", options: []agentbus.MessageOption{agentbus.Header("sealbus-x", "")}, want: "reserved"},
		{name: "empty header", subject: "prices", options: []agentbus.MessageOption{agentbus.Header("", "")}, want: "header"},
		{name: "header with a space", subject: "prices", options: []agentbus.MessageOption{agentbus.Header("a b", "")}, want: "header"},
		{name: "header twice", subject: "prices", options: []agentbus.MessageOption{agentbus.Header("a", "1"), agentbus.Header("a", "2")}, want: "twice"},
		{name: "content type twice", subject: "prices", options: []agentbus.MessageOption{agentbus.ContentType("a"), agentbus.ContentType("b")}, want: "twice"},
		{name: "many headers", subject: "prices", options: many, want: "64"},
		{name: "large header", subject: "prices", options: []agentbus.MessageOption{agentbus.Header("a", strings.Repeat("x", 9000))}, want: "headers"},
		{name: "expired", subject: "prices", options: []agentbus.MessageOption{agentbus.ExpiresIn(0)}, want: "expired already"},
		{name: "expires twice", subject: "prices", options: []agentbus.MessageOption{agentbus.ExpiresIn(1), agentbus.ExpiresIn(2)}, want: "twice"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := feed.Publish(w.Ctx(), test.subject, test.payload, test.options...)
			if err == nil || !strings.Contains(err.Error(), test.want) || test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("got %v, want something with %q", err, test.want)
			}
		})
	}
	// What is just within the limits arrives.
	for _, payload := range [][]byte{nil, bytes.Repeat([]byte{7}, agentbus.MaxPayload)} {
		bustest.Check(t, feed.Publish(w.Ctx(), "prices", payload, agentbus.Header("a", strings.Repeat("x", 4000))))
		if m := bustest.Receive(t, got); !bytes.Equal(m.Payload, payload) || len(m.Header("a")) != 4000 {
			t.Errorf("got %d bytes", len(m.Payload))
		}
	}
	bustest.Check(t, feed.Flush(w.Ctx()))
	if n := feed.Stats().Published; n != 2 {
		t.Errorf("%d counted as published", n)
	}
	if err := planner.Publish(w.Ctx(), "prices", nil); !errors.Is(err, agentbus.ErrNotEntitled) {
		t.Errorf("publishing without the right: %v", err)
	}
	for pattern, want := range map[string]string{"": "empty", ">": "start with a topic", "*": "start with a topic", "prices.>.x": "last", "price": "prices"} {
		if _, err := planner.Subscribe(w.Ctx(), pattern, handler); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("subscribing to %q: %v, want something with %q", pattern, err, want)
		}
	}
	for agent, want := range map[string]string{"": "name", "Bob": "Bob", "planner": "itself", "a b": "a b"} {
		if _, err := planner.Request(w.Ctx(), agent, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("asking %q: %v, want something with %q", agent, err, want)
		}
	}
	if _, err := planner.Request(w.Ctx(), "bob", make([]byte, agentbus.MaxPayload+1)); !errors.Is(err, agentbus.ErrTooLarge) {
		t.Errorf("a request too large: %v", err)
	}
	if _, err := planner.Subscribe(w.Ctx(), "prices", nil); err == nil {
		t.Error("subscribed without a handler")
	}
	if _, err := planner.Serve(w.Ctx(), nil); err == nil {
		t.Error("served without a handler")
	}
	for _, o := range [][]agentbus.ServeOption{{agentbus.Concurrency(0)}, {agentbus.Concurrency(1), agentbus.Concurrency(2)}} {
		if _, err := planner.Serve(w.Ctx(), echo, o...); err == nil {
			t.Error("served with options that make no sense")
		}
	}
}

// TestExpiresIn has a message expire before it is delivered: it is rejected as stale.
func TestExpiresIn(t *testing.T) {
	w := bustest.New(t, testPolicy)
	feed, planner := w.Agent("feed-1"), w.Agent("planner")
	handler, got := collect(8)
	_, err := planner.Subscribe(w.Ctx(), "gossip.>", handler)
	bustest.Check(t, err)
	bustest.Check(t, feed.Publish(w.Ctx(), "gossip", nil))
	bustest.Receive(t, got)
	w.Stop()
	eventually(t, "the loss is noticed", func() bool { return !feed.Connected() && !planner.Connected() })
	bustest.Check(t, feed.Publish(w.Ctx(), "gossip", []byte("old"), agentbus.ExpiresIn(time.Nanosecond)))
	w.Start()
	bustest.Check(t, planner.Flush(w.Ctx()))
	bustest.Check(t, feed.Publish(w.Ctx(), "gossip", []byte("new"), agentbus.ExpiresIn(time.Minute)))
	if m := bustest.Receive(t, got); string(m.Payload) != "new" {
		t.Errorf("got %q", m.Payload)
	}
}

// TestNothingPrinted prints and logs a message: its content stays out.
func TestNothingPrinted(t *testing.T) {
	w := bustest.New(t, testPolicy)
	feed, planner := w.Agent("feed-1"), w.Agent("planner")
	handler, got := collect(1)
	_, err := planner.Subscribe(w.Ctx(), "prices", handler)
	bustest.Check(t, err)
	bustest.Check(t, feed.Publish(w.Ctx(), "prices", []byte("secret"), agentbus.Header("k", "hidden")))
	m := bustest.Receive(t, got)
	if s := m.String() + m.LogValue().String(); strings.Contains(s, "secret") || strings.Contains(s, "hidden") || !strings.Contains(s, "feed-1") {
		t.Errorf("prints as %q", s)
	}
	if !m.Signed || m.Time.IsZero() || m.ID.IsZero() || m.Headers()["k"] != "hidden" || m.Header("none") != "" || m.ContentType() != "" {
		t.Errorf("got %+v", *m)
	}
}
