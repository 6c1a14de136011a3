package integration_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/identity/devca"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

const (
	killQueue   = "work"
	killPayload = "task %d"
	killPolicy  = `trust_domain: example.org
revision: 1
queues:
  work: {enqueue: [planner, boss], work: ["exec-*"]}
`
)

// killPatience is how long nothing at all may happen in a kill test. The tasks of a worker that was killed come back
// when their leases have run out.
const killPatience = 2*policy.TaskAckWait + bustest.Timeout

// killResult is how the result of a task begins. What follows is different in every run of its handler.
func killResult(n int) []byte { return fmt.Appendf(nil, "%d is done, ", n) }

// headcount counts what has come about, for those who wait for so much of it.
type headcount struct {
	mu      sync.Mutex
	n       int
	changed chan struct{}
}

func (c *headcount) add(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n += n
	if c.changed != nil {
		close(c.changed)
		c.changed = nil
	}
}

func (c *headcount) now() (n int, changed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changed == nil {
		c.changed = make(chan struct{})
	}
	return c.n, c.changed
}

// await waits until the count is n. It fails when it stands still.
func (c *headcount) await(t testing.TB, what string, n int) {
	t.Helper()
	for {
		have, changed := c.now()
		if have >= n {
			return
		}
		select {
		case <-changed:
		case <-time.After(killPatience):
			t.Fatalf("%s: %d, want %d; nothing has happened for %v", what, have, n, killPatience)
		}
	}
}

// longest is the longest of several times.
type longest struct{ d atomic.Int64 }

func (l *longest) note(d time.Duration) {
	for {
		if old := l.d.Load(); int64(d) <= old || l.d.CompareAndSwap(old, int64(d)) {
			return
		}
	}
}

func (l *longest) get() time.Duration { return time.Duration(l.d.Load()).Round(time.Millisecond) }

// killWorld is a trust domain whose broker and workers are processes of their own.
type killWorld struct {
	t        testing.TB
	ca       *devca.CA
	operator *identity.OperatorKey
	dir      string
	listen   string
	broker   *killedProcess
	agents   map[string]*killedProcess
	lives    map[string]int
	runs     headcount // of handlers
}

func newKillWorld(t testing.TB) *killWorld {
	t.Helper()
	return newKillWorldUnder(t, killPolicy)
}

func newKillWorldUnder(t testing.TB, yaml string) *killWorld {
	t.Helper()
	ca, err := devca.New(bustest.Domain)
	bustest.Check(t, err)
	operator, err := identity.GenerateOperatorKey()
	bustest.Check(t, err)
	w := &killWorld{t: t, ca: ca, operator: operator, dir: t.TempDir(), listen: "127.0.0.1:0",
		agents: make(map[string]*killedProcess), lives: make(map[string]int)}
	signed, err := policy.Sign([]byte(yaml), operator, time.Now())
	bustest.Check(t, err)
	bustest.Check(t, os.WriteFile(filepath.Join(w.dir, "policy"), signed, 0o600))
	bustest.Check(t, os.WriteFile(filepath.Join(w.dir, "operator"), []byte(operator.Fingerprint().String()), 0o600))
	svid, err := ca.Broker("node-1", 2*time.Hour)
	bustest.Check(t, err)
	_, _, _, err = ca.WriteFiles(w.dir, svid)
	bustest.Check(t, err)
	t.Cleanup(w.tell)
	w.startBroker()
	return w
}

// tell shows what the processes have logged, if the test has failed.
func (w *killWorld) tell() {
	if !w.t.Failed() {
		return
	}
	logs, _ := filepath.Glob(filepath.Join(w.dir, "log-*"))
	for _, name := range logs {
		raw, _ := os.ReadFile(name)
		w.t.Logf("the last of %s:\n%s", filepath.Base(name), raw[max(0, len(raw)-4000):])
	}
}

// startBroker starts the broker on its store and waits until it is ready. The first time it picks the port.
func (w *killWorld) startBroker() {
	w.t.Helper()
	w.openBroker()
	select {
	case w.listen = <-w.broker.ready:
	case <-w.broker.gone:
		w.t.Fatal("the broker has not started")
	case <-time.After(killPatience):
		w.t.Fatal("the broker does not become ready")
	}
}

// openBroker starts the broker and waits until it begins to read its store.
func (w *killWorld) openBroker() {
	w.t.Helper()
	s := killSpec{Role: "broker", Name: "node-1", Dir: w.dir, Listen: w.listen}
	w.broker = launch(w.t, s, func(line string) { fmt.Fprintln(os.Stderr, "broker of a kill test:", line) })
	select {
	case <-w.broker.opened:
	case <-w.broker.gone:
		w.t.Fatal("the broker has not started")
	}
}

// start starts an agent, which finds the state that those before it have left.
func (w *killWorld) start(role, name string, heard func(string)) *killedProcess {
	w.t.Helper()
	if w.lives[name] == 0 {
		svid, err := w.ca.Agent(name, 2*time.Hour)
		bustest.Check(w.t, err)
		_, _, _, err = w.ca.WriteFiles(w.dir, svid)
		bustest.Check(w.t, err)
	}
	p := launch(w.t, killSpec{Role: role, Name: name, Dir: w.dir, Listen: w.listen, Life: w.lives[name]}, heard)
	w.agents[name] = p
	w.lives[name]++
	return p
}

func (w *killWorld) startWorker(name string) {
	w.t.Helper()
	w.start("worker", name, func(line string) {
		if strings.HasPrefix(line, "run ") {
			w.runs.add(1)
		}
	})
}

// connect connects an agent of the test's own process.
func (w *killWorld) connect(name string) *agentbus.Bus {
	w.t.Helper()
	src, err := w.ca.AgentSource(name, 2*time.Hour)
	bustest.Check(w.t, err)
	s := killSpec{Name: name, Dir: w.dir}
	operator, err := s.operator()
	bustest.Check(w.t, err)
	ring, err := keyringAt(s, operator)
	bustest.Check(w.t, err)
	b, err := agentbus.Connect(context.Background(), agentbus.Config{Servers: []string{w.listen}, Identity: src, Keyring: ring, Logger: bustest.Quiet()})
	bustest.Check(w.t, err)
	w.t.Cleanup(func() { _ = b.Close() })
	return b
}

// store returns the operator's own look at the streams.
func (w *killWorld) store() jetstream.JetStream {
	w.t.Helper()
	src, err := w.ca.BrokerSource("node-1", time.Hour)
	bustest.Check(w.t, err)
	config, err := identity.ClientTLS(src)
	bustest.Check(w.t, err)
	nc, err := nats.Connect("tls://"+w.listen, nats.Secure(config), nats.TLSHandshakeFirst(), nats.Timeout(bustest.Timeout), nats.UserInfo("STORE", ""))
	bustest.Check(w.t, err)
	w.t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	bustest.Check(w.t, err)
	return js
}

// noted is what a stream holds.
type noted struct {
	state jetstream.StreamState
	ids   map[string]int // how many messages there are of each task

	messages []*jetstream.RawStreamMsg
}

// look lists a whole stream. ids says which tasks a message stands for.
func (w *killWorld) look(js jetstream.JetStream, stream string, ids func(*jetstream.RawStreamMsg) []string) noted {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), killPatience)
	defer cancel()
	s, err := js.Stream(ctx, stream)
	bustest.Check(w.t, err)
	found := noted{state: s.CachedInfo().State, ids: make(map[string]int)}
	for next := found.state.FirstSeq; next > 0 && next <= found.state.LastSeq; {
		some, err := jetstreamext.GetBatch(ctx, js, stream, 500, jetstreamext.GetBatchSeq(next))
		bustest.Check(w.t, err)
		for m, err := range some {
			bustest.Check(w.t, err)
			if next = m.Sequence + 1; m.Sequence <= found.state.LastSeq {
				found.messages = append(found.messages, m)
				for _, id := range ids(m) {
					found.ids[id]++
				}
			}
		}
	}
	return found
}

// tasksIn and resultsIn name the tasks that the messages of a queue's streams stand for. The ids of those that share a
// frame follow one another. What a worker has put back of it stands in the log already.
func (w *killWorld) tasksIn(m *jetstream.RawStreamMsg) (ids []string) {
	if m.Header.Get("Sealbus-Part") != "" {
		return nil
	}
	f := parse(w.t, m.Data)
	if f.Kind != envelope.KindTask { // a session note
		return nil
	}
	for i := range uint64(f.Count) {
		id := f.ID
		binary.BigEndian.PutUint64(id[8:], binary.BigEndian.Uint64(id[8:])+i)
		ids = append(ids, id.String())
	}
	return ids
}

func (w *killWorld) resultsIn(m *jetstream.RawStreamMsg) []string {
	_, id, _ := policy.CutResultSubject(m.Subject)
	return []string{id}
}

// ledger is what a test knows of the tasks that it has asked to be stored. Every attempt has a number of its own, so that
// what became of it can be told.
type ledger struct {
	mu     sync.Mutex
	next   int
	acked  map[int]ulid.ULID
	unsure map[int]error             // the call failed: the task may be stored or not
	count  headcount                 // of those acknowledged
	slow   longest                   // until a call has succeeded
	note   func(n int, id ulid.ULID) // called for each of these; may be nil
}

func newLedger() *ledger {
	return &ledger{acked: make(map[int]ulid.ULID), unsure: make(map[int]error)}
}

// take takes numbers.
func (l *ledger) take(n int) (first int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first = l.next
	l.next += n
	return first
}

func (l *ledger) stored(n int, id ulid.ULID) {
	l.mu.Lock()
	l.acked[n] = id
	if l.note != nil {
		l.note(n, id)
	}
	l.mu.Unlock()
	l.count.add(1)
}

func (l *ledger) failed(n int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unsure[n] = err
}

// produce enqueues until enough is acknowledged. Some calls have no time to try again.
func (l *ledger) produce(b *agentbus.Bus, want, batch int, random *rand.Rand) {
	for {
		if have, _ := l.count.now(); have >= want {
			return
		}
		patience := bustest.Timeout
		if random.IntN(4) == 0 {
			patience = 200 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		if batch > 1 {
			l.enqueueBatch(ctx, b, 1+random.IntN(batch))
		} else {
			l.enqueue(ctx, b)
		}
		cancel()
	}
}

func (l *ledger) enqueue(ctx context.Context, b *agentbus.Bus) {
	n, began := l.take(1), time.Now()
	h, err := b.Enqueue(ctx, killQueue, fmt.Appendf(nil, killPayload, n))
	if err != nil {
		l.failed(n, fmt.Errorf("after %v: %w", time.Since(began).Round(time.Second), err))
		return
	}
	l.slow.note(time.Since(began))
	l.stored(n, h.ID())
}

func (l *ledger) enqueueBatch(ctx context.Context, b *agentbus.Bus, size int) {
	first := l.take(size)
	tasks := make([]agentbus.NewTask, size)
	for i := range tasks {
		tasks[i].Payload = fmt.Appendf(nil, killPayload, first+i)
	}
	began := time.Now()
	handles, err := b.EnqueueBatch(ctx, killQueue, tasks)
	if err == nil {
		l.slow.note(time.Since(began))
	} else {
		err = fmt.Errorf("after %v, a batch: %w", time.Since(began).Round(time.Second), err)
	}
	for i, h := range handles {
		if h == nil {
			l.failed(first+i, err)
			continue
		}
		l.stored(first+i, h.ID())
	}
}
