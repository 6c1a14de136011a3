package broker_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/broker"
	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/identity/devca"
	"github.com/sealbus/sealbus/policy"
)

// wait bounds everything that a test waits for.
const wait = 2 * time.Minute

// rules is the policy of most tests: mallory may publish to the retained topic
// prices, and has no right to the retained topic secret.
const rules = `
trust_domain: example.org
revision: %d
topics:
  prices: {publish: [feed, mallory], subscribe: ["*"], retain: 1h}
  secret: {publish: [feed], subscribe: [bob], retain: 1h}
  live: {publish: [feed, mallory], subscribe: [bob]}
services:
  lookup: {call: [mallory], serve: [bob]}
direct:
  - {from: ["*"], to: ["*"]}
revoked: [%s]
`

func rulesText(revision int, revoked ...string) string {
	return fmt.Sprintf(rules, revision, strings.Join(revoked, ", "))
}

// bus is an authority, an operator and a store directory.
type bus struct {
	t   *testing.T
	ca  *devca.CA
	op  *identity.OperatorKey
	dir string
	log *logs
}

func newBus(t *testing.T) *bus {
	t.Helper()
	ca, err := devca.New("example.org")
	ok(t, err)
	op, err := identity.GenerateOperatorKey()
	ok(t, err)
	return &bus{t: t, ca: ca, op: op, dir: t.TempDir(), log: newLogs()}
}

func (b *bus) sign(text string) []byte {
	b.t.Helper()
	raw, err := policy.Sign([]byte(text), b.op, time.Unix(1_700_000_000, 0))
	ok(b.t, err)
	return raw
}

func (b *bus) brokerSource() *identity.Memory {
	b.t.Helper()
	src, err := b.ca.BrokerSource("n1", time.Hour)
	ok(b.t, err)
	return src
}

// config is a configuration that works.
func (b *bus) config(policyText string) broker.Config {
	return broker.Config{
		Identity:  b.brokerSource(),
		Policy:    b.sign(policyText),
		Operators: []identity.Fingerprint{b.op.Fingerprint()},
		StoreDir:  b.dir,
		Listen:    "127.0.0.1:0",
		Logger:    slog.New(b.log),
	}
}

func (b *bus) start(config broker.Config) *broker.Node {
	b.t.Helper()
	n, err := broker.Start(timeout(b.t), config)
	ok(b.t, err)
	b.t.Cleanup(func() { stop(b.t, n) })
	return n
}

func (b *bus) startDefault() *broker.Node {
	b.t.Helper()
	return b.start(b.config(rulesText(1)))
}

func stop(t *testing.T, n *broker.Node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	ok(t, n.Shutdown(ctx))
}

// client is a connected agent, with what happened to its connection.
type client struct {
	*nats.Conn
	t      *testing.T
	name   string
	errs   chan error
	closed chan struct{}
}

// dial connects with a certificate and no more than that.
func dial(n *broker.Node, src identity.Source, name string, options ...nats.Option) (*client, error) {
	config, err := identity.ClientTLS(src)
	if err != nil {
		return nil, err
	}
	c := &client{name: name, errs: make(chan error, 100), closed: make(chan struct{})}
	options = append([]nats.Option{
		nats.Name(name),
		nats.Secure(config),
		nats.TLSHandshakeFirst(),
		nats.CustomInboxPrefix(policy.InboxPrefix(name)),
		nats.NoReconnect(),
		nats.Timeout(wait),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { c.errs <- err }),
		nats.ClosedHandler(func(*nats.Conn) { close(c.closed) }),
	}, options...)
	c.Conn, err = nats.Connect(n.URL(), options...)
	return c, err
}

// agent connects an agent.
func (b *bus) agent(n *broker.Node, name string, options ...nats.Option) *client {
	b.t.Helper()
	src, err := b.ca.AgentSource(name, time.Hour)
	ok(b.t, err)
	c, err := dial(n, src, name, options...)
	ok(b.t, err)
	c.t = b.t
	b.t.Cleanup(c.Close)
	return c
}

// admin connects an operator's tool, which the node must allow.
func (b *bus) admin(n *broker.Node, account string) *client {
	b.t.Helper()
	src, err := b.ca.BrokerSource("tool", time.Hour)
	ok(b.t, err)
	c, err := dial(n, src, "tool", nats.UserInfo(account, ""))
	ok(b.t, err)
	c.t = b.t
	b.t.Cleanup(c.Close)
	return c
}

func (c *client) js() jetstream.JetStream {
	c.t.Helper()
	js, err := jetstream.New(c.Conn, jetstream.WithDefaultTimeout(wait))
	ok(c.t, err)
	return js
}

// put stores a message and returns its sequence.
func (c *client) put(subject, data string) uint64 {
	c.t.Helper()
	ack, err := c.js().Publish(timeout(c.t), subject, []byte(data))
	if err != nil {
		c.t.Fatalf("%s puts %s: %v", c.name, subject, err)
	}
	return ack.Sequence
}

// get reads the last value under a key; it returns "" when there is none.
func (c *client) get(bucket, key string) string {
	c.t.Helper()
	m, err := c.RequestWithContext(timeout(c.t), policy.DirectGet(bucket, key), nil)
	ok(c.t, err)
	if m.Header.Get("Status") == "404" {
		return ""
	}
	return string(m.Data)
}

// listen subscribes, and returns once the node knows.
func (c *client) listen(subject string) *nats.Subscription {
	c.t.Helper()
	sub, err := c.SubscribeSync(subject)
	ok(c.t, err)
	ok(c.t, c.FlushWithContext(timeout(c.t)))
	return sub
}

func (c *client) next(sub *nats.Subscription) *nats.Msg {
	c.t.Helper()
	m, err := sub.NextMsgWithContext(timeout(c.t))
	if err != nil {
		c.t.Fatalf("%s waits on %s: %v", c.name, sub.Subject, err)
	}
	return m
}

// store is JetStream in STORE, as the node itself uses it.
func store(t *testing.T, n *broker.Node) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(n.Own(), jetstream.WithDefaultTimeout(wait))
	ok(t, err)
	return js
}

// contents returns a stream's messages as "subject=data", in their order.
func contents(t *testing.T, js jetstream.JetStream, stream string) []string {
	t.Helper()
	ctx := timeout(t)
	s, err := js.Stream(ctx, stream)
	ok(t, err)
	state := s.CachedInfo().State
	var list []string
	for seq := state.FirstSeq; seq <= state.LastSeq && state.LastSeq > 0; seq++ {
		m, err := s.GetMsg(ctx, seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		ok(t, err)
		list = append(list, m.Subject+"="+string(m.Data))
	}
	return list
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func timeout(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	t.Cleanup(cancel)
	return ctx
}

// await waits for something to have happened.
func await(t *testing.T, done <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(wait):
		t.Fatalf("waited in vain for: %s", what)
	}
}

// logs collects what is logged and tells who waits for it.
type logs struct {
	mu    sync.Mutex
	lines []string
	hooks []hook
}

type hook struct {
	text string
	call func()
}

func newLogs() *logs { return &logs{} }

// when calls f, once, as soon as a line with the text is logged.
func (l *logs) when(text string, f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hooks = append(l.hooks, hook{text, f})
}

// seen returns a channel that is closed once a line with the text is logged.
func (l *logs) seen(text string) <-chan struct{} {
	c := make(chan struct{})
	l.when(text, func() { close(c) })
	return c
}

func (l *logs) all() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

func (l *logs) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelDebug }

func (l *logs) Handle(_ context.Context, r slog.Record) error {
	line := r.Level.String() + " " + r.Message
	r.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
	var calls []func()
	l.mu.Lock()
	l.lines = append(l.lines, line)
	for i := 0; i < len(l.hooks); i++ {
		if strings.Contains(line, l.hooks[i].text) {
			calls = append(calls, l.hooks[i].call)
			l.hooks = append(l.hooks[:i], l.hooks[i+1:]...)
			i--
		}
	}
	l.mu.Unlock()
	for _, f := range calls {
		f()
	}
	return nil
}

func (l *logs) WithAttrs([]slog.Attr) slog.Handler { return l }
func (l *logs) WithGroup(string) slog.Handler      { return l }
