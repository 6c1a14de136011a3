package integration_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

const tasksPolicy = `trust_domain: example.org
revision: 1
queues:
  jobs: {enqueue: [alice, mallory], work: [bob]}
  other: {enqueue: [alice], work: [bob]}
`

// taskWorld is a queue under attack: alice enqueues, bob works, mallory may enqueue too, and the broker is the owner's.
type taskWorld struct {
	*bustest.World
	t          *testing.T
	o          *owner
	alice, bob *seat
	runs       atomic.Int64
	hold       chan struct{} // for tasks whose text is "held"
}

func newTaskWorld(t *testing.T) *taskWorld {
	t.Helper()
	w := &taskWorld{World: bustest.New(t, tasksPolicy), t: t, hold: make(chan struct{})}
	w.o = newOwner(w.World)
	w.alice, w.bob = sit(t, w.World, "alice"), sit(t, w.World, "bob")
	return w
}

// work has bob work on both queues. A task whose text begins with "fail" is given up.
func (w *taskWorld) work() *agentbus.Worker {
	w.t.Helper()
	worker, err := w.bob.Work(w.Ctx(), "jobs", func(_ context.Context, t *agentbus.Task) ([]byte, error) {
		w.runs.Add(1)
		if string(t.Payload) == "held" {
			<-w.hold
		}
		if strings.HasPrefix(string(t.Payload), "fail") {
			return nil, errors.New("failed: " + string(t.Payload))
		}
		return []byte("done: " + string(t.Payload)), nil
	}, agentbus.AlsoQueue("other", 1))
	bustest.Check(w.t, err)
	return worker
}

func (w *taskWorld) enqueue(queue, text string, options ...agentbus.EnqueueOption) *agentbus.TaskHandle {
	w.t.Helper()
	h, err := w.alice.Enqueue(w.Ctx(), queue, []byte(text), options...)
	bustest.Check(w.t, err)
	return h
}

// done expects a task's own result.
func (w *taskWorld) done(h *agentbus.TaskHandle, text string) {
	w.t.Helper()
	if m, err := h.Result(w.Ctx()); err != nil || string(m.Payload) != "done: "+text {
		w.t.Fatalf("the result of %q: %v, %v", text, m, err)
	}
}

// lastOf returns what a stream holds last under a subject.
func (w *taskWorld) lastOf(stream, subject string) []byte {
	w.t.Helper()
	s, err := w.o.js.Stream(w.Ctx(), stream)
	bustest.Check(w.t, err)
	m, err := s.GetLastMsgForSubject(w.Ctx(), subject)
	bustest.Check(w.t, err)
	return m.Data
}

func (w *taskWorld) taskFrame(queue string) []byte {
	w.t.Helper()
	return w.lastOf(policy.TaskStream(queue), policy.TaskSubject(queue, agentbus.DefaultPriority))
}

// insert puts a message into a stream, as the broker can.
func (w *taskWorld) insert(subject string, frame []byte) {
	w.t.Helper()
	_, err := w.o.js.Publish(w.Ctx(), subject, frame)
	bustest.Check(w.t, err)
}

// TestTamperedTasks: a frame with any part changed is no task, whatever it claims to be. It becomes a dead letter of its
// own, and the task that it is made of is worked on.
func TestTamperedTasks(t *testing.T) {
	t.Parallel()
	w := newTaskWorld(t)
	first := w.work()
	w.done(w.enqueue("jobs", "before"), "before")
	w.done(w.enqueue("other", "before"), "before")
	bustest.Check(t, first.Stop())
	task := w.enqueue("jobs", "held")
	frame := w.taskFrame("jobs")
	subject := policy.TaskSubject("jobs", agentbus.DefaultPriority)
	forged := 0
	put := func(frame []byte) {
		t.Helper()
		w.insert(subject, frame)
		forged++
	}
	const flips = 48
	for i := range flips {
		bad := bytes.Clone(frame)
		bad[i*(len(bad)-1)/(flips-1)] ^= 1 << (i % 8)
		put(bad)
	}
	put(nil)
	put(frame[:len(frame)/2])
	put(append(bytes.Clone(frame), 0))
	put(edited(t, frame, func(f *envelope.Frame) { f.Sender = bytes.Replace(f.Sender, []byte("alice"), []byte("mallory"), 1) }))
	put(edited(t, frame, func(f *envelope.Frame) { f.ID = ulid.Make() }))
	put(w.lastOf(policy.ResultStream("jobs"), policy.ResultSubject("jobs", "*"))) // a result as a task
	other := w.enqueue("other", "other")
	put(w.taskFrame("other"))
	behind := w.enqueue("jobs", "behind")

	before := w.runs.Load()
	worker := w.work()
	w.done(behind, "behind")
	w.done(other, "other")
	// All but those that wait for a key, a card or their time, which are put off, and come again when the task is settled.
	awaitStats(t, worker, func(s agentbus.WorkStats) bool { return s.Dead+s.Keyless+s.Ahead >= uint64(forged) })
	close(w.hold)
	w.done(task, "held")
	if n := w.runs.Load() - before; n != 3 {
		t.Errorf("%d tasks were worked on, want 3", n)
	}
	letters, err := w.alice.DeadLetters(w.Ctx(), "jobs")
	bustest.Check(t, err)
	for _, l := range letters {
		if l.Reason != agentbus.DeadUnopenable || l.ID == task.ID() || l.Attempts != 0 {
			t.Errorf("dead letter %s: %v after %d attempts", l.ID, l.Reason, l.Attempts)
		}
		if _, err := w.alice.Revive(w.Ctx(), l); err == nil {
			t.Error("revived what is no task")
		}
	}
	t.Logf("%d forged, %d dead letters, %+v", forged, len(letters), worker.Stats())
}

func awaitStats(t testing.TB, worker *agentbus.Worker, ok func(agentbus.WorkStats) bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(bustest.Timeout); !ok(worker.Stats()); {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("never came about: %+v", worker.Stats())
		}
	}
}

// TestMovedTask: a task under another priority is let go of; in its own place it is worked on.
func TestMovedTask(t *testing.T) {
	t.Parallel()
	w := newTaskWorld(t)
	first := w.work()
	w.done(w.enqueue("jobs", "before"), "before")
	bustest.Check(t, first.Stop())
	task := w.enqueue("jobs", "genuine")
	w.insert(policy.TaskSubject("jobs", 0), w.taskFrame("jobs"))
	behind := w.enqueue("jobs", "behind", agentbus.Priority(0))
	before := w.runs.Load()
	w.work()
	w.done(behind, "behind")
	w.done(task, "genuine")
	if n := w.runs.Load() - before; n != 2 {
		t.Errorf("%d runs, want 2", n)
	}
}

// TestRevokedTask: what a revoked agent has left in the queue is not worked on.
func TestRevokedTask(t *testing.T) {
	t.Parallel()
	w := newTaskWorld(t)
	first := w.work()
	mallory := w.Agent("mallory")
	m, err := mallory.Enqueue(w.Ctx(), "jobs", []byte("mallory's"))
	bustest.Check(t, err)
	_, err = m.Result(w.Ctx())
	bustest.Check(t, err)
	bustest.Check(t, first.Stop())
	_, err = mallory.Enqueue(w.Ctx(), "jobs", []byte("mallory's"))
	bustest.Check(t, err)
	raw := w.Sign(strings.Replace(tasksPolicy, "revision: 1", "revision: 2", 1) + "revoked: [mallory]\n")
	w.o.put(policy.BucketPolicy, policy.PolicyKey, raw)
	awaitRevision(t, w.bob.Bus, 2)
	before := w.runs.Load()
	worker := w.work()
	w.done(w.enqueue("jobs", "behind"), "behind")
	awaitStats(t, worker, func(s agentbus.WorkStats) bool { return s.Dead == 1 })
	if n := w.runs.Load() - before; n != 1 {
		t.Errorf("%d runs, want 1", n)
	}
	w.bob.rejects(1, keyring.Revoked)
}

func awaitRevision(t testing.TB, b *agentbus.Bus, n uint64) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(bustest.Timeout); uint64(b.Policy().Revision()) != n; {
		select {
		case <-tick.C:
		case <-end:
			t.Fatal("the policy did not come")
		}
	}
}

// TestForgedResults: whatever the broker puts in the place of a task's result, live and stored, is not believed. Live
// it is passed over; stored, Result says that it is not genuine, and the real one has no place any more.
func TestForgedResults(t *testing.T) {
	t.Parallel()
	w := newTaskWorld(t)
	w.work()
	settled, failed := w.enqueue("jobs", "settled"), w.enqueue("jobs", "fail", agentbus.MaxAttempts(2), agentbus.Backoff(time.Millisecond, time.Millisecond))
	w.done(settled, "settled")
	var dead *agentbus.TaskError
	if _, err := failed.Result(w.Ctx()); !errors.As(err, &dead) {
		t.Fatal(err)
	}
	genuine := w.lastOf(policy.ResultStream("jobs"), policy.ResultSubject("jobs", settled.ID().String()))
	forgeries := map[string][]byte{
		"junk":                     []byte("junk"),
		"another task's result":    genuine,
		"another task's death":     w.lastOf(policy.ResultStream("jobs"), policy.ResultSubject("jobs", failed.ID().String())),
		"another task's letter":    w.lastOf(policy.DeadStream("jobs"), policy.DeadSubject("jobs", failed.ID().String())),
		"a task":                   w.taskFrame("jobs"),
		"a result, edited":         edited(t, genuine, func(f *envelope.Frame) { f.Ciphertext[20] ^= 1 }),
		"a result, under its name": nil, // made below
	}
	stream, err := w.o.js.Stream(w.Ctx(), policy.ResultStream("jobs"))
	bustest.Check(t, err)
	config := stream.CachedInfo().Config
	listens := func(subject string) { // the stream, from now on
		t.Helper()
		config.Subjects = []string{subject}
		_, err := w.o.js.UpdateStream(w.Ctx(), config)
		bustest.Check(t, err)
	}
	for name, frame := range forgeries {
		id := ulid.Make()
		if frame == nil {
			frame = edited(t, genuine, func(f *envelope.Frame) { f.Ref = id })
		}
		h, err := w.alice.Task("jobs", id)
		bustest.Check(t, err)
		ctx, cancel := context.WithCancel(w.Ctx())
		got := make(chan error, 1)
		listens("sb.nowhere.forged")
		go func() {
			m, err := h.Result(ctx)
			if err == nil {
				err = fmt.Errorf("believed: %q", m.Payload)
			}
			got <- err
		}()
		for range 20 {
			w.o.inject(policy.ResultSubject("jobs", id.String()), frame) // into the subscription, and not into the stream
		}
		bustest.Check(t, w.alice.Flush(w.Ctx()))
		cancel()
		if err := bustest.Receive(t, got); !errors.Is(err, context.Canceled) {
			t.Errorf("%s, live: %v", name, err)
		}
		listens(policy.ResultSubject("jobs", "*"))
		w.insert(policy.ResultSubject("jobs", id.String()), frame)
		var r *keyring.Rejection
		if _, err := h.Result(w.Ctx()); !errors.As(err, &r) {
			t.Errorf("%s, stored: %v", name, err)
		}
	}
}

// TestLetterIsNoResult: what workers say of a task elsewhere, of an attempt, in a dead letter, of a frame that only claims
// to be the task, is not its result.
func TestLetterIsNoResult(t *testing.T) {
	t.Parallel()
	w := newTaskWorld(t)
	first := w.work()
	w.done(w.enqueue("jobs", "before"), "before")
	failed := w.enqueue("jobs", "fail", agentbus.MaxAttempts(2), agentbus.Backoff(time.Millisecond, time.Millisecond))
	var dead *agentbus.TaskError
	if _, err := failed.Result(w.Ctx()); !errors.As(err, &dead) || dead.Text != "failed: fail" {
		t.Fatal(err)
	}
	// The broker has bob write a dead letter in the name of a task that is in order.
	task := w.enqueue("jobs", "fine")
	w.done(task, "fine")
	bad := edited(t, w.taskFrame("jobs"), func(f *envelope.Frame) { f.Ciphertext[20] ^= 1 })
	id := ulid.Make()
	w.insert(policy.TaskSubject("jobs", agentbus.DefaultPriority), edited(t, bad, func(f *envelope.Frame) { f.ID = id }))
	awaitStats(t, first, func(s agentbus.WorkStats) bool { return s.Dead == 2 })
	s, err := w.o.js.Stream(w.Ctx(), policy.DeadStream("jobs"))
	bustest.Check(t, err)
	letter, err := s.GetLastMsgForSubject(w.Ctx(), policy.DeadSubject("jobs", "*"))
	bustest.Check(t, err)
	attempt := w.lastOf(policy.ControlStream("jobs"), policy.ControlSubject("jobs", "bob", policy.ControlAttempt+"."+failed.ID().String()+".1"))
	for name, c := range map[string]struct {
		id    ulid.ULID
		frame []byte
	}{
		"the letter of a frame that claims to be the task": {id, letter.Data},
		"its own letter":   {failed.ID(), w.lastOf(policy.DeadStream("jobs"), policy.DeadSubject("jobs", failed.ID().String()))},
		"a failed attempt": {failed.ID(), attempt},
	} {
		// Of a task that is still to be worked on.
		stream, err := w.o.js.Stream(w.Ctx(), policy.ResultStream("jobs"))
		bustest.Check(t, err)
		subject := policy.ResultSubject("jobs", c.id.String())
		bustest.Check(t, stream.Purge(w.Ctx()))
		w.insert(subject, c.frame)
		h, err := w.alice.Task("jobs", c.id)
		bustest.Check(t, err)
		m, err := h.Result(w.Ctx())
		var r *keyring.Rejection
		if !errors.As(err, &r) {
			t.Errorf("%s is taken for the result: %v, %#v", name, m, err)
		}
	}
}

// TestAgentsMayNotSettle: neither an enqueuer nor a stranger can write a result, or a dead letter.
func TestAgentsMayNotSettle(t *testing.T) {
	t.Parallel()
	w := newTaskWorld(t)
	for _, name := range []string{"mallory", "alice"} {
		errs := make(chan error, 16)
		nc := w.Raw(w.Source(name), nats.CustomInboxPrefix(policy.InboxPrefix(name)),
			nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { errs <- err }))
		for _, subject := range []string{policy.ResultSubject("jobs", ulid.Make().String()), policy.DeadSubject("jobs", ulid.Make().String()),
			policy.ControlSubject("jobs", "bob", "attempt.X.1"), policy.TaskSubject("other", 4)} {
			bustest.Check(t, nc.Publish(subject, []byte("junk")))
			if err := bustest.Receive(t, errs); !errors.Is(err, nats.ErrPermissionViolation) {
				t.Errorf("%s on %s: %v", name, subject, err)
			}
		}
	}
}

// TestNoTaskInTheClear: neither the broker's store nor anybody's log holds anything of a task.
func TestNoTaskInTheClear(t *testing.T) {
	t.Parallel()
	hidden := secrets{"payload-Q7vXw2", "result-Zt5Kp9", "failure-Mn3Rb8", "kind-Hd6Lc1", "header-Wk4Js0", "value-Pf8Gy5", "panic-Vb2Tq7"}
	w := &taskWorld{World: bustest.New(t, tasksPolicy), t: t}
	var log syncBuffer
	connect := func(name string) *agentbus.Bus {
		c := w.Config(name)
		c.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		return w.Connect(c)
	}
	alice, bob := connect("alice"), connect("bob")
	_, err := bob.Work(w.Ctx(), "jobs", func(_ context.Context, t *agentbus.Task) ([]byte, error) {
		switch {
		case t.Header("header-Wk4Js0") == "":
			return []byte("result-Zt5Kp9"), nil
		case t.Attempt == 1:
			panic("panic-Vb2Tq7")
		}
		return nil, errors.New("failure-Mn3Rb8")
	})
	bustest.Check(t, err)
	for _, options := range [][]agentbus.EnqueueOption{
		{agentbus.Kind("kind-Hd6Lc1")}, {agentbus.Kind("kind-Hd6Lc1"), agentbus.Delay(2500 * time.Millisecond)},
		{agentbus.Kind("kind-Hd6Lc1"), agentbus.Header("header-Wk4Js0", "value-Pf8Gy5"), agentbus.MaxAttempts(3), agentbus.Backoff(time.Millisecond, time.Millisecond)},
	} {
		h, err := alice.Enqueue(w.Ctx(), "jobs", []byte("payload-Q7vXw2"), options...)
		bustest.Check(t, err)
		_, err = h.Result(w.Ctx())
		var dead *agentbus.TaskError
		if len(options) == 4 != errors.As(err, &dead) {
			t.Fatal(err)
		}
	}
	if list, err := alice.DeadLetters(w.Ctx(), "jobs"); err != nil || len(list) != 1 || list[0].Text != "failure-Mn3Rb8" {
		t.Fatalf("%v, %v", list, err)
	}
	bustest.Check(t, alice.Close())
	bustest.Check(t, bob.Close())
	w.Stop()
	files := 0
	bustest.Check(t, filepath.WalkDir(w.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte("sb.result.jobs.")) || bytes.Contains(data, []byte("sb.dead.jobs.")) || bytes.Contains(data, []byte("sb.task.jobs.")) {
			files++
		}
		hidden.notIn(t, path, data)
		return err
	}))
	if files < 3 {
		t.Errorf("only %d files hold tasks, results and dead letters: is this the store?", files)
	}
	hidden.notIn(t, "the log", log.Bytes())
	w.Start() // the test's end stops it
}
