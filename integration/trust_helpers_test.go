package integration_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/identity/devca"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// trustPolicy is what most attacks on trust run under. Everybody whose name is in nothing else, mallory say,
// is known by the rule for requests.
const trustPolicy = `trust_domain: example.org
revision: 1
topics:
  prices: {publish: ["feed-*"], subscribe: [planner, "exec-*"]}
  gossip: {publish: ["feed-*"], subscribe: [planner, "exec-*"], signed: false}
services:
  lookup: {call: [planner], serve: ["index-*"]}
direct:
  - {from: [planner], to: ["*"]}
`

var (
	trustPrices = policy.MustParseChannel("topic/prices")
	trustGossip = policy.MustParseChannel("topic/gossip")
)

// nextRevision returns trustPolicy under another revision, changed as old and new texts in turn say.
func nextRevision(n int, changes ...string) string {
	return strings.NewReplacer(append([]string{"revision: 1", fmt.Sprintf("revision: %d", n)}, changes...)...).Replace(trustPolicy)
}

// owner owns the broker: it writes what it likes into the store, deletes what it likes, and sees and sends
// everything on the wire.
type owner struct {
	w      *bustest.World
	agents *nats.Conn
	js     jetstream.JetStream
}

func newOwner(w *bustest.World) *owner {
	w.T.Helper()
	js, err := jetstream.New(w.Admin("STORE"))
	bustest.Check(w.T, err)
	return &owner{w: w, agents: w.Admin("AGENTS"), js: js}
}

func (o *owner) put(bucket, key string, value []byte) {
	o.w.T.Helper()
	_, err := o.js.Publish(o.w.Ctx(), policy.BucketSubject(bucket, key), value)
	bustest.Check(o.w.T, err)
}

func (o *owner) get(bucket, key string) []byte {
	o.w.T.Helper()
	s, err := o.js.Stream(o.w.Ctx(), policy.StreamOfBucket(bucket))
	bustest.Check(o.w.T, err)
	m, err := s.GetLastMsgForSubject(o.w.Ctx(), policy.BucketSubject(bucket, key))
	bustest.Check(o.w.T, err)
	return m.Data
}

// keys returns the keys of a bucket that match a filter, sorted.
func (o *owner) keys(bucket, filter string) (keys []string) {
	o.w.T.Helper()
	s, err := o.js.Stream(o.w.Ctx(), policy.StreamOfBucket(bucket))
	bustest.Check(o.w.T, err)
	info, err := s.Info(o.w.Ctx(), jetstream.WithSubjectFilter(policy.BucketSubject(bucket, filter)))
	bustest.Check(o.w.T, err)
	for _, subject := range slices.Sorted(maps.Keys(info.State.Subjects)) {
		keys = append(keys, strings.TrimPrefix(subject, policy.BucketSubject(bucket, "")))
	}
	return keys
}

// empty removes every entry of a bucket: the stream is made anew, as it was.
func (o *owner) empty(bucket string) {
	o.w.T.Helper()
	s, err := o.js.Stream(o.w.Ctx(), policy.StreamOfBucket(bucket))
	bustest.Check(o.w.T, err)
	config := s.CachedInfo().Config
	o.drop(bucket)
	// The server says that a stream is deleted before its files are gone, and makes none in their place.
	for ctx := o.w.Ctx(); ; {
		_, err = o.js.CreateStream(ctx, config)
		var api *jetstream.APIError
		if ctx.Err() != nil || !errors.As(err, &api) || api.ErrorCode != storeCreateFailed {
			break
		}
	}
	bustest.Check(o.w.T, err)
}

// storeCreateFailed is the server's code for a stream whose directory it cannot make.
const storeCreateFailed = 10049

// drop deletes a bucket.
func (o *owner) drop(bucket string) {
	o.w.T.Helper()
	bustest.Check(o.w.T, o.js.DeleteStream(o.w.Ctx(), policy.StreamOfBucket(bucket)))
}

// tap returns every message on a subject from now on.
func (o *owner) tap(subject string) <-chan *nats.Msg {
	o.w.T.Helper()
	c := make(chan *nats.Msg, 4096)
	_, err := o.agents.ChanSubscribe(subject, c)
	bustest.Check(o.w.T, err)
	bustest.Check(o.w.T, o.agents.Flush())
	return c
}

// inject sends a frame to agents.
func (o *owner) inject(subject string, frame []byte) {
	o.w.T.Helper()
	bustest.Check(o.w.T, o.agents.Publish(subject, frame))
	bustest.Check(o.w.T, o.agents.Flush())
}

// watch is an agent's log: what it says about the store's entries and policies that it did not believe.
type watch struct {
	mu   sync.Mutex
	all  []logged
	more chan struct{}
}

type logged struct{ message, key, err string }

const (
	notBelieved   = "entry of the store not believed"
	policyRefused = "policy refused"
	refreshFailed = "refreshing keys and policy failed; trying again"
	policyInForce = "policy in force"
)

func newWatch() *watch { return &watch{more: make(chan struct{})} }

func (l *watch) Enabled(context.Context, slog.Level) bool { return true }
func (l *watch) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *watch) WithGroup(string) slog.Handler            { return l }

func (l *watch) Handle(_ context.Context, r slog.Record) error {
	e := logged{message: r.Message}
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "key":
			e.key = a.Value.String()
		case "error":
			e.err = a.Value.String()
		}
		return true
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, e)
	close(l.more)
	l.more = make(chan struct{})
	return nil
}

// await waits until a message about a key has been logged with an error that contains a text.
func (l *watch) await(t testing.TB, message, key, text string) {
	t.Helper()
	deadline := time.After(bustest.Timeout)
	for {
		l.mu.Lock()
		all, more := slices.Clone(l.all), l.more
		l.mu.Unlock()
		if slices.ContainsFunc(all, func(e logged) bool {
			return e.message == message && (key == "" || e.key == key) && strings.Contains(e.err, text)
		}) {
			return
		}
		select {
		case <-more:
		case <-deadline:
			t.Fatalf("not logged: %s, key %q, error with %q; logged:\n%+v", message, key, text, all)
		}
	}
}

// watched connects an agent and returns its log.
func watched(w *bustest.World, name string) (*agentbus.Bus, *watch) {
	w.T.Helper()
	l := newWatch()
	c := w.Config(name)
	c.Logger = slog.New(l)
	return w.Connect(c), l
}

// listen subscribes to all of a topic and returns what arrives, as "sender: payload".
func listen(w *bustest.World, b *agentbus.Bus, topic string) <-chan string {
	w.T.Helper()
	c := make(chan string, 4096)
	_, err := b.Subscribe(w.Ctx(), topic+".>", func(_ context.Context, m *agentbus.Message) error {
		c <- m.Sender.Name() + ": " + string(m.Payload)
		return nil
	})
	bustest.Check(w.T, err)
	return c
}

// say publishes a text and expects it to be the next thing that every listener is given.
func say(w *bustest.World, b *agentbus.Bus, subject, text string, listeners ...<-chan string) {
	w.T.Helper()
	bustest.Check(w.T, b.Publish(w.Ctx(), subject, []byte(text)))
	want := b.Self().Name() + ": " + text
	for i, c := range listeners {
		if got := bustest.Receive(w.T, c); got != want {
			w.T.Fatalf("listener %d was given %q, want %q", i, got, want)
		}
	}
}

// keyOf returns the id of the channel key that a frame says it is sealed under.
func keyOf(t testing.TB, frame []byte) uint32 {
	t.Helper()
	var f envelope.Frame
	bustest.Check(t, envelope.Parse(frame, &f))
	return f.Key
}

// sayUnder publishes until the frame on the wire is sealed under a key. Every listener reads every message.
func sayUnder(w *bustest.World, b *agentbus.Bus, subject string, key uint32, wire <-chan *nats.Msg, listeners ...<-chan string) {
	w.T.Helper()
	for deadline := time.Now().Add(bustest.Timeout); time.Now().Before(deadline); {
		say(w, b, subject, "again", listeners...)
		if keyOf(w.T, bustest.Receive(w.T, wire).Data) == key {
			return
		}
	}
	w.T.Fatalf("nothing was sealed under key %08x", key)
}

// otherCA returns another authority for the same trust domain, or for another.
func otherCA(t testing.TB, domain string) *devca.CA {
	t.Helper()
	ca, err := devca.New(domain)
	bustest.Check(t, err)
	return ca
}

// issued returns a certificate as a template says, of any authority, with the world's authorities: for a client
// that believes the broker and need not be believed by it.
func issued(t testing.TB, w *bustest.World, ca *devca.CA, template devca.Template) *identity.Memory {
	t.Helper()
	svid, err := ca.Issue(template)
	bustest.Check(t, err)
	return identity.NewMemory(svid, w.CA.Bundle())
}

// onClosed returns options under which a connection that the broker ends is not made again, and c is closed
// then.
func onClosed(c chan struct{}) []nats.Option {
	return []nats.Option{nats.NoReconnect(), nats.ClosedHandler(func(*nats.Conn) { close(c) }),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})}
}

// has reports whether a message has been logged.
func (l *watch) has(message string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.all, func(e logged) bool { return e.message == message })
}

// clear forgets what has been logged.
func (l *watch) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = nil
}
