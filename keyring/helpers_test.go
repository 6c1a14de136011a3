package keyring

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/identity/devca"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// testTimeout bounds a wait that should end at once. Nothing waits for it to pass.
const testTimeout = 20 * time.Second

// memStore is a Store in memory that a test can tamper with, as a broker can.
type memStore struct {
	mu      sync.Mutex
	entries map[string][]byte // bucket/key
	feeds   map[int]feed
	next    int

	hide func(bucket, key string) bool // entries that are held back
	put  func(bucket, key string) error
	fail func(op, bucket, key string) error // op: get, list, follow
}

// tamper changes the hooks while agents are running.
func (s *memStore) tamper(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *memStore) failed(op, bucket, key string) error {
	if s.fail == nil {
		return nil
	}
	return s.fail(op, bucket, key)
}

type feed struct {
	bucket, filter string
	fn             func(Entry)
}

func newMemStore() *memStore {
	return &memStore{entries: make(map[string][]byte), feeds: make(map[int]feed)}
}

func (s *memStore) hidden(bucket, key string) bool { return s.hide != nil && s.hide(bucket, key) }

func (s *memStore) Get(_ context.Context, bucket, key string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.failed("get", bucket, key); err != nil {
		return nil, err
	}
	v, ok := s.entries[bucket+"/"+key]
	if !ok || s.hidden(bucket, key) {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, key)
	}
	return v, nil
}

func (s *memStore) Put(_ context.Context, bucket, key string, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.put != nil {
		if err := s.put(bucket, key); err != nil {
			return err
		}
	}
	s.entries[bucket+"/"+key] = value
	for _, f := range s.feeds {
		if f.bucket == bucket && matches(f.filter, key) && !s.hidden(bucket, key) {
			f.fn(Entry{Key: key, Value: value})
		}
	}
	return nil
}

func (s *memStore) List(_ context.Context, bucket, filter string) (list []Entry, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.failed("list", bucket, filter); err != nil {
		return nil, err
	}
	for _, k := range slices.Sorted(maps.Keys(s.entries)) {
		key, ok := strings.CutPrefix(k, bucket+"/")
		if ok && matches(filter, key) && !s.hidden(bucket, key) {
			list = append(list, Entry{Key: key, Value: s.entries[k]})
		}
	}
	return list, nil
}

func (s *memStore) Follow(_ context.Context, bucket, filter string, fn func(Entry)) (func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.failed("follow", bucket, filter); err != nil {
		return nil, err
	}
	id := s.next
	s.next++
	s.feeds[id] = feed{bucket, filter, fn}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.feeds, id)
	}, nil
}

// matches is NATS subject matching.
func matches(filter, key string) bool {
	f, k := strings.Split(filter, "."), strings.Split(key, ".")
	for i, token := range f {
		if token == ">" {
			return len(k) > i
		}
		if i >= len(k) || token != "*" && token != k[i] {
			return false
		}
	}
	return len(f) == len(k)
}

const testPolicy = `trust_domain: example.org
revision: 1
topics:
  prices: {publish: ["feed-*"], subscribe: [planner, "exec-*"]}
  gossip: {publish: ["feed-*"], subscribe: [planner, "exec-*"], signed: false}
  ledger: {publish: ["feed-*"], subscribe: [planner], retain: 24h, pad: true}
queues:
  summarise: {enqueue: [planner], work: ["exec-*"]}
services:
  lookup: {call: [planner], serve: ["exec-*"]}
direct:
  - {from: [planner], to: ["*"]}
`

// nextPolicy says the same under the next revision.
var nextPolicy = strings.Replace(testPolicy, "revision: 1", "revision: 2", 1)

// world is a trust domain: a CA, an operator, a policy in a store.
type world struct {
	t        testing.TB
	ca       *devca.CA
	operator *identity.OperatorKey
	store    *memStore

	certificates time.Duration // how long those of new agents are valid

	mu      sync.Mutex
	reports []Report
	skews   map[string]*atomic.Int64 // how far ahead of the bubble's the clocks of agents are, by name
}

// skew returns how far ahead the clocks of the agents of a name are, to be set.
func (w *world) skew(name string) *atomic.Int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.skews[name] == nil {
		w.skews[name] = new(atomic.Int64)
	}
	return w.skews[name]
}

func newWorld(t testing.TB) *world {
	t.Helper()
	ca, err := devca.New("example.org")
	check(t, err)
	operator, err := identity.GenerateOperatorKey()
	check(t, err)
	w := &world{t: t, ca: ca, operator: operator, store: newMemStore(), certificates: time.Hour, skews: make(map[string]*atomic.Int64)}
	w.setPolicy(testPolicy)
	return w
}

func (w *world) sign(text string) []byte {
	w.t.Helper()
	raw, err := policy.Sign([]byte(text), w.operator, time.Now())
	check(w.t, err)
	return raw
}

func (w *world) setPolicy(text string) {
	w.t.Helper()
	check(w.t, w.store.Put(w.t.Context(), policy.BucketPolicy, policy.PolicyKey, w.sign(text)))
}

func (w *world) source(name string) *identity.Memory {
	w.t.Helper()
	src, err := w.ca.AgentSource(name, w.certificates)
	check(w.t, err)
	return src
}

// agent attaches a ring in memory to the world's store.
func (w *world) agent(name string) *Ring {
	w.t.Helper()
	r, err := Memory(w.operator.Fingerprint())
	check(w.t, err)
	w.attach(r, name)
	return r
}

func (w *world) attach(r *Ring, name string) {
	w.t.Helper()
	skew := w.skew(name)
	r.now = func() time.Time { return time.Now().Add(time.Duration(skew.Load())) }
	check(w.t, r.Attach(w.ctx(), w.source(name), w.store, w.report))
	w.t.Cleanup(func() { _ = r.Close(context.Background()) })
}

func (w *world) report(r Report) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reports = append(w.reports, r)
}

func (w *world) reportCount() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.reports)
}

// reported reports whether something that contains the text was reported.
func (w *world) reported(text string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.reports, func(r Report) bool { return strings.Contains(r.Err.Error(), text) })
}

func (w *world) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	w.t.Cleanup(cancel)
	return ctx
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func value[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		check(t, err)
		return v
	}
}

var (
	prices  = policy.MustParseChannel("topic/prices")
	gossip  = policy.MustParseChannel("topic/gossip")
	ledger  = policy.MustParseChannel("topic/ledger")
	queue   = policy.MustParseChannel("queue/summarise")
	results = policy.MustParseChannel("result/summarise")
)

func draft(subject, text string) *Draft {
	return &Draft{Kind: envelope.KindEvent, Recipient: subject, Messages: []envelope.Message{{Payload: []byte(text)}}}
}

func wantEvent(subject string) *Want {
	return &Want{Kinds: Kinds(envelope.KindEvent), Recipient: subject}
}

// open awaits what the frame needs and opens it.
func open(t testing.TB, r *Ring, rc *Receiver, frame []byte, w *Want) (*Opened, error) {
	t.Helper()
	var out Opened
	err := rc.Open(frame, w, &out)
	for range 3 {
		if reason := ReasonOf(err); reason != NoKey && reason != NoCard {
			break
		}
		ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
		waited := r.Await(ctx, frame)
		cancel()
		if waited != nil {
			break
		}
		err = rc.Open(frame, w, &out)
	}
	return &out, err
}
