package audit

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oklog/ulid/v2"
	"golang.org/x/mod/sumdb/note"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/identity/devca"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

const worldPolicy = `trust_domain: example.org
revision: 1
topics:
  ledger: {publish: ["feed-*"], subscribe: [planner], audit: [auditor], retain: 24h}
  loose: {publish: ["feed-*"], subscribe: [planner], audit: [auditor], retain: 24h, signed: false}
queues:
  work: {enqueue: ["feed-*"], work: [planner], audit: [auditor], retain: 24h}
`

// memStore is a keyring.Store in memory.
type memStore struct {
	mu      sync.Mutex
	entries map[string][]byte
	feeds   map[int]func(key string, e keyring.Entry)
	next    int
}

func (s *memStore) Get(_ context.Context, bucket, key string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.entries[bucket+"/"+key]
	if !ok {
		return nil, fmt.Errorf("%w: %s", keyring.ErrNotFound, key)
	}
	return v, nil
}

func (s *memStore) Put(_ context.Context, bucket, key string, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries[bucket+"/"+key] = value
	for _, f := range s.feeds {
		f(bucket+"/"+key, keyring.Entry{Key: key, Value: value})
	}
	return nil
}

func (s *memStore) List(_ context.Context, bucket, filter string) (list []keyring.Entry, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range slices.Sorted(maps.Keys(s.entries)) {
		if key, ok := strings.CutPrefix(k, bucket+"/"); ok && matches(filter, key) {
			list = append(list, keyring.Entry{Key: key, Value: s.entries[k]})
		}
	}
	return list, nil
}

func (s *memStore) Follow(_ context.Context, bucket, filter string, fn func(keyring.Entry)) (func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := s.next
	s.next++
	s.feeds[id] = func(path string, e keyring.Entry) {
		if strings.HasPrefix(path, bucket+"/") && matches(filter, e.Key) {
			fn(e)
		}
	}
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

// world is a trust domain with a policy, senders, a stream and an auditor of it, on a clock of its own.
type world struct {
	t        *testing.T
	ca       *devca.CA
	operator *identity.OperatorKey
	store    *memStore
	text     string // of the policy
	life     time.Duration
	stream   *stream
	auditor  *auditor
	planner  *keyring.Ring
}

// inWorld runs a test in a world whose auditor has opened its log of a stream.
func inWorld(t *testing.T, name string, f func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, name)
		w.auditor = w.newAuditor("auditor")
		w.auditor.begin()
		f(t, w)
	})
}

func newWorld(t *testing.T, name string) *world {
	w := &world{
		t: t, ca: value(devca.New("example.org"))(t), operator: value(identity.GenerateOperatorKey())(t), life: 7 * 24 * time.Hour,
		store:  &memStore{entries: make(map[string][]byte), feeds: make(map[int]func(string, keyring.Entry))},
		stream: &stream{name: name, created: time.Now()},
	}
	w.setPolicy(worldPolicy)
	w.planner = w.agent("planner")
	return w
}

func (w *world) setPolicy(text string) {
	w.t.Helper()
	w.text = text
	raw := value(policy.Sign([]byte(text), w.operator, time.Now()))(w.t)
	check(w.t, w.store.Put(w.t.Context(), policy.BucketPolicy, policy.PolicyKey, raw))
}

// change puts a policy of the next revision in force, with a text replaced.
func (w *world) change(old, new string) {
	w.t.Helper()
	var n int
	value(fmt.Sscanf(w.text[strings.Index(w.text, "revision:"):], "revision: %d", &n))(w.t)
	text := strings.Replace(w.text, fmt.Sprintf("revision: %d", n), fmt.Sprintf("revision: %d", n+1), 1)
	if !strings.Contains(text, old) {
		w.t.Fatalf("the policy has no %q", old)
	}
	w.setPolicy(strings.Replace(text, old, new, 1))
}

// agent attaches a ring to the world's store.
func (w *world) agent(name string) *keyring.Ring {
	w.t.Helper()
	r := value(keyring.Memory(w.operator.Fingerprint()))(w.t)
	w.attach(r, name)
	return r
}

func (w *world) attach(r *keyring.Ring, name string) {
	w.t.Helper()
	check(w.t, r.Attach(w.t.Context(), value(w.ca.AgentSource(name, w.life))(w.t), w.store, nil))
	w.t.Cleanup(func() { _ = r.Close(context.Background()) })
}

func (w *world) trust() Trust {
	return Trust{w.ca.TrustDomain(), w.ca.Bundle(), []identity.Fingerprint{w.operator.Fingerprint()}}
}

// pass lets time go by.
func pass(d time.Duration) { time.Sleep(d) }

// stream is what JetStream keeps.
type stream struct {
	name    string
	created time.Time
	list    []Stored
	last    uint64
	intake  func(subject string, frame []byte) bool // false: it is acknowledged and not stored
}

func (s *stream) put(subject string, frame []byte) {
	if s.intake != nil && !s.intake(subject, frame) {
		return
	}
	s.last++
	s.list = append(s.list, Stored{s.last, time.Now().UTC(), subject, slices.Clone(frame)})
}

func (s *stream) first() uint64 {
	if len(s.list) == 0 {
		return s.last + 1
	}
	return s.list[0].Sequence
}

// at returns the message of a sequence.
func (s *stream) at(sequence uint64) *Stored {
	for i := range s.list {
		if s.list[i].Sequence == sequence {
			return &s.list[i]
		}
	}
	panic("no such message")
}

func (s *stream) remove(sequence uint64) {
	s.list = slices.DeleteFunc(s.list, func(m Stored) bool { return m.Sequence == sequence })
}

// prune drops what is older than a time.
func (s *stream) prune(age time.Duration) {
	s.list = slices.DeleteFunc(s.list, func(m Stored) bool { return time.Since(m.Time) >= age })
}

func (s *stream) Frames(context.Context) iter.Seq2[Stored, error] {
	return func(yield func(Stored, error) bool) {
		for _, m := range s.list {
			if !yield(m, nil) {
				return
			}
		}
	}
}

// sender publishes into the world's stream.
type sender struct {
	w    *world
	ring *keyring.Ring
	of   *keyring.Sender
	ch   policy.Channel
}

func (w *world) sender(name string) *sender { return w.senderOf(w.agent(name)) }

func (w *world) senderOf(r *keyring.Ring) *sender {
	w.t.Helper()
	ch, ok := policy.StreamChannel(w.stream.name)
	if !ok {
		w.t.Fatal("no such stream")
	}
	return &sender{w, r, value(r.CountedSender(w.t.Context(), ch))(w.t), ch}
}

func (s *sender) noteSubject() string {
	if s.ch.Kind() == policy.KindQueue {
		return policy.SessionSubject(s.ch.Name())
	}
	return policy.TopicSubject(s.ch.Name())
}

// bundles are frames of two messages each.
func (s *sender) bundles(n int) (list []*keyring.Bundle, subject string) {
	kind, recipient, subject := envelope.KindEvent, s.ch.Name()+".a", policy.TopicSubject(s.ch.Name()+".a")
	if s.ch.Kind() == policy.KindQueue {
		kind, recipient, subject = envelope.KindTask, s.ch.Name(), policy.TaskSubject(s.ch.Name(), 1)
	}
	for i := range n {
		b := &keyring.Bundle{Kind: kind, Recipient: recipient}
		b.Messages.Reset(true)
		for j := range 2 {
			check(s.w.t, b.Messages.Add(&envelope.Message{Payload: fmt.Appendf(nil, "message %d.%d of %s", i, j, s.ring.Self().Name())}))
		}
		list = append(list, b)
	}
	return list, subject
}

// seal seals n frames, and returns them with the notes that belong before them.
func (s *sender) seal(n int) (notes, list []*keyring.Bundle, subject string) {
	s.w.t.Helper()
	list, subject = s.bundles(n)
	return value(s.of.SealCounted(s.w.t.Context(), list))(s.w.t), list, subject
}

// send publishes n frames.
func (s *sender) send(n int) {
	s.w.t.Helper()
	notes, list, subject := s.seal(n)
	s.put(s.noteSubject(), notes)
	s.put(subject, list)
}

func (s *sender) put(subject string, list []*keyring.Bundle) {
	for _, b := range list {
		s.w.stream.put(subject, b.Frame)
	}
	s.of.Stored(list)
}

// close closes the session; idle says that there is nothing to say.
func (s *sender) close() { s.note(keyring.NoteClose) }
func (s *sender) idle()  { s.note(keyring.NoteIdle) }

func (s *sender) note(kind keyring.NoteKind) {
	s.w.t.Helper()
	s.put(s.noteSubject(), value(s.of.SealNote(s.w.t.Context(), kind))(s.w.t))
}

// auditor follows the world's stream as the auditor over NATS does.
type auditor struct {
	w          *world
	ring       *keyring.Ring
	log        *Log
	dir        string
	signer     note.Signer
	statements *Statements
	published  [][]byte
	second     *Directory
	next       uint64
	policy     *policy.Policy
	cards      map[ulid.ULID]bool
}

func (w *world) newAuditor(name string) *auditor {
	w.t.Helper()
	a := &auditor{w: w, ring: w.agent(name), next: 1, cards: make(map[ulid.ULID]bool), statements: NewStatements(w.trust())}
	origin := Origin{a.ring.Self(), ulid.Make(), w.stream.name}
	a.dir = filepath.Join(w.t.TempDir(), "log")
	a.log = value(Open(a.dir, origin))(w.t)
	w.t.Cleanup(func() { _ = a.log.Close() })
	a.signer = value(a.ring.NoteSigner(origin.String()))(w.t)
	a.second = value(NewDirectory(filepath.Join(w.t.TempDir(), "second")))(w.t)
	return a
}

func (a *auditor) append(e ...*Entry) {
	a.w.t.Helper()
	value(a.log.Append(e...))(a.w.t)
}

func (a *auditor) event(kind Kind, ev Event) {
	a.w.t.Helper()
	a.append(&Entry{Kind: kind, Logged: time.Now(), Event: ev})
}

func (a *auditor) holds() Event { return Event{First: a.w.stream.first(), Last: a.w.stream.last} }

func (a *auditor) begin() {
	a.w.t.Helper()
	ev := a.holds()
	ev.Agent, ev.Card = a.ring.Self().String(), a.ring.Card()
	a.event(KindOpened, ev)
	a.next = ev.First
	a.configured()
	a.adopt()
	a.card(a.ring.Self(), a.ring.Card())
}

func (a *auditor) configured() {
	a.w.t.Helper()
	c := StreamConfig{Created: a.w.stream.created, MaxAge: 24 * time.Hour, MaxMessages: -1, MaxBytes: -1, PerSubject: -1, DenyDelete: true, DenyPurge: true}
	e := value(c.Entry(time.Now(), a.w.stream.first(), a.w.stream.last))(a.w.t)
	a.append(&e)
}

func (a *auditor) keep(s Statement) {
	a.w.t.Helper()
	check(a.w.t, a.statements.Add(s))
	check(a.w.t, a.log.AddStatement(s))
}

// adopt logs the policy in force, if it is a new one.
func (a *auditor) adopt() {
	a.w.t.Helper()
	check(a.w.t, a.ring.Refresh(a.w.t.Context()))
	p := a.ring.Policy()
	if a.policy == p {
		return
	}
	a.policy = p
	a.keep(Statement{StatementPolicy, a.ring.RawPolicy()})
	a.event(KindPolicy, Event{Last: a.w.stream.last, Hash: p.Hash(), Revision: p.Revision()})
}

func (a *auditor) card(agent identity.ID, id ulid.ULID) bool {
	a.w.t.Helper()
	raw, err := a.ring.RawCard(a.w.t.Context(), agent, id)
	if err != nil {
		return false
	}
	a.keep(Statement{StatementCard, raw})
	info := value(a.statements.witness.AddCard(raw))(a.w.t)
	a.event(KindCard, Event{Hash: info.Hash, Agent: info.Agent.String(), Card: info.Card, Time: info.Until})
	return true
}

// follow logs what has come.
func (a *auditor) follow() {
	a.w.t.Helper()
	for i := range a.w.stream.list {
		if m := &a.w.stream.list[i]; m.Sequence >= a.next {
			a.take(m)
			a.next = m.Sequence + 1
		}
	}
}

func (a *auditor) take(m *Stored) {
	a.w.t.Helper()
	h, now := HeaderOf(m.Data), time.Now()
	reason := value(a.statements.Attest(a.w.stream.name, m, a.policy.Hash(), now))(a.w.t)
	if reason == keyring.Stale || reason == keyring.NoCard && !a.cards[h.Card] {
		if a.card(agentOf(&h), h.Card) {
			a.cards[h.Card] = true
			reason = value(a.statements.Attest(a.w.stream.name, m, a.policy.Hash(), now))(a.w.t)
		}
	}
	e := FrameEntry(m, time.Now(), reason)
	a.append(&e)
}

// sign makes a checkpoint and puts it everywhere.
func (a *auditor) sign() []byte {
	a.w.t.Helper()
	raw := value(a.log.Checkpoint(a.signer))(a.w.t)
	a.published = append(a.published, raw)
	check(a.w.t, a.second.Put(a.w.t.Context(), a.w.stream.name, raw))
	return raw
}

// audit is follow and sign.
func (a *auditor) audit() {
	a.w.t.Helper()
	a.follow()
	a.sign()
}

// input is what verifying needs, from the log's files and the stream.
func (a *auditor) input() *Input {
	a.w.t.Helper()
	r := value(Read(a.dir))(a.w.t)
	a.w.t.Cleanup(func() { _ = r.Close() })
	st := NewStatements(a.w.trust())
	if n, why, err := st.AddAll(r.Statements()); err != nil || n > 0 {
		a.w.t.Fatalf("%d statements refused: %v, %v", n, why, err)
	}
	published := slices.Clone(a.published)
	return &Input{
		Log: r, Frames: a.w.stream, Statements: st, Created: a.w.stream.created,
		Places: []Place{{"log", r.Checkpoints()}, {"SB_AUDIT", func(yield func([]byte, error) bool) {
			for _, raw := range published {
				if !yield(raw, nil) {
					return
				}
			}
		}}, {"second", a.second.Checkpoints(a.w.stream.name)}},
	}
}

func (a *auditor) verify() *Report {
	a.w.t.Helper()
	return value(Verify(a.w.t.Context(), a.input()))(a.w.t)
}

// states are the states of a report's verdicts, in short: "ok ok unproven ok ok".
func states(r *Report) string {
	var list []string
	for _, v := range r.Verdicts() {
		list = append(list, v.State.String())
	}
	return strings.Join(list, " ")
}

// wants checks the states of integrity, order, completeness, authenticity and freshness.
func wants(t testing.TB, r *Report, want string) {
	t.Helper()
	if got := states(r); got != want {
		t.Errorf("%s, want %s\n%s", got, want, r)
	}
}

const allOK = "ok ok ok ok ok"

var resultChannel = policy.MustParseChannel("result/work")

// resultBundle is a worker's word on a task: an error, which both results and dead letters may be.
func resultBundle(t testing.TB, task ulid.ULID) *keyring.Bundle {
	t.Helper()
	b := &keyring.Bundle{Kind: envelope.KindError, Recipient: "work", Ref: task}
	b.Messages.Reset(true)
	check(t, b.Messages.Add(&envelope.Message{Payload: []byte("it failed")}))
	return b
}
