package integration_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// claimed is a unique task as it lies in the log.
type claimed struct {
	*agentbus.TaskHandle
	subject, hash string
	frame         []byte
}

// claim enqueues a unique task of alice's and returns what the broker has of it.
func (w *taskWorld) claim(queue, key, text string, options ...agentbus.EnqueueOption) *claimed {
	w.t.Helper()
	h := w.enqueue(queue, text, append(options, agentbus.Unique(key, 0))...)
	s, err := w.o.js.Stream(w.Ctx(), policy.TaskStream(queue))
	bustest.Check(w.t, err)
	m, err := s.GetLastMsgForSubject(w.Ctx(), policy.UniquePattern(queue))
	bustest.Check(w.t, err)
	_, hash, _, ok := policy.CutUniqueSubject(m.Subject)
	if !ok || parse(w.t, m.Data).ID != h.ID() {
		w.t.Fatalf("what lies under %s is another task", m.Subject)
	}
	return &claimed{h, m.Subject, hash, m.Data}
}

// again enqueues a task of a key that is taken, and returns the one that stands.
func (w *taskWorld) again(queue, key string) (stands ulid.ULID) {
	w.t.Helper()
	_, err := w.alice.Enqueue(w.Ctx(), queue, []byte("again"), agentbus.Unique(key, 0))
	var d *agentbus.DuplicateError
	if !errors.As(err, &d) {
		w.t.Fatalf("no task stands under %s: %v", key, err)
	}
	return d.Task
}

// under is the subject of another claim, or at another priority.
func (c *claimed) under(queue, hash string, priority int) string {
	return policy.UniqueSubject(queue, hash, priority)
}

// TestUniqueTaskMoved: a unique task counts under its own claim, at its own priority. An enqueuer is not told of one that lies
// under another's, and a worker does not work on it there; where it belongs it is worked on.
func TestUniqueTaskMoved(t *testing.T) {
	t.Parallel()
	w := newTaskWorld(t)
	first := w.work()
	w.done(w.enqueue("jobs", "before"), "before")
	w.done(w.enqueue("other", "before"), "before")
	bustest.Check(t, first.Stop())
	const p = agentbus.DefaultPriority
	one, two := w.claim("jobs", "one", "one"), w.claim("jobs", "two", "two")
	plain := w.enqueue("jobs", "plain")
	elsewhere := w.claim("other", "one", "elsewhere")
	if elsewhere.hash == one.hash {
		t.Error("two queues have the same hash of a key")
	}
	stranger := strings.Repeat("0", policy.ClaimChars)
	places := []string{
		one.under("jobs", two.hash, p), one.under("jobs", stranger, p), one.under("jobs", one.hash, 0), one.under("jobs", one.hash, 3),
		policy.TaskSubject("jobs", p), one.under("other", one.hash, p), one.under("other", elsewhere.hash, p), policy.TaskSubject("other", p),
	}
	for _, subject := range places {
		w.insert(subject, one.frame)
	}
	w.insert(two.under("jobs", stranger, p), w.taskFrame("other")) // a task that claims nothing: one's, by now
	w.insert(one.under("jobs", one.hash, p), w.plainFrame())
	moved := len(places) + 2

	// Under each claim something lies that is not proven to have it: what alice enqueues is stored, and its own.
	again := []*claimed{w.claim("jobs", "one", "one again"), w.claim("jobs", "two", "two again"), w.claim("other", "one", "elsewhere again")}
	for i, c := range again {
		if before := []*claimed{one, two, elsewhere}[i]; c.ID() == before.ID() || c.hash != before.hash {
			t.Errorf("%d: it is the task before, or under another hash", i)
		}
	}
	if got := w.again("jobs", "one"); got != again[0].ID() {
		t.Errorf("task %s stands, want %s", got, again[0].ID())
	}
	if n := w.alice.Stats().Rejected[keyring.Misdirected]; n != 3 {
		t.Errorf("alice has rejected %d, want 3: %v", n, w.alice.Stats().Rejected)
	}

	before := w.runs.Load()
	worker := w.work()
	for _, c := range []struct {
		h    *agentbus.TaskHandle
		text string
	}{{one.TaskHandle, "one"}, {two.TaskHandle, "two"}, {elsewhere.TaskHandle, "elsewhere"}, {plain, "plain"},
		{again[0].TaskHandle, "one again"}, {again[1].TaskHandle, "two again"}, {again[2].TaskHandle, "elsewhere again"}} {
		w.done(c.h, c.text)
	}
	// Copies of what has a result by the time that they come are let go of unopened.
	awaitStats(t, worker, func(s agentbus.WorkStats) bool { return s.Dead+s.Settled == uint64(moved) })
	if n := w.runs.Load() - before; n != 7 {
		t.Errorf("%d runs, want 7", n)
	}
}

// plainFrame returns a plain task's frame of the queue jobs.
func (w *taskWorld) plainFrame() []byte {
	w.t.Helper()
	s, err := w.o.js.Stream(w.Ctx(), policy.TaskStream("jobs"))
	bustest.Check(w.t, err)
	m, err := s.GetMsg(w.Ctx(), 1)
	bustest.Check(w.t, err)
	return m.Data
}

// TestUniqueTaskMovedUnsettled: the same of a worker before the task has a result: each copy in a wrong place is refused for
// where it lies.
func TestUniqueTaskMovedUnsettled(t *testing.T) {
	t.Parallel()
	w := newTaskWorld(t)
	worker := w.work()
	held := w.claim("jobs", "held", "held")
	w.done(w.enqueue("jobs", "before"), "before") // the worker has it, and its key
	other := strings.Repeat("0", policy.ClaimChars)
	for i, subject := range []string{held.under("jobs", other, agentbus.DefaultPriority), held.under("jobs", held.hash, 1), policy.TaskSubject("jobs", 2)} {
		w.insert(subject, held.frame)
		awaitStats(t, worker, func(s agentbus.WorkStats) bool { return s.Dead == uint64(i+1) })
	}
	w.bob.rejects(3, keyring.Misdirected)
	letters, err := w.alice.DeadLetters(w.Ctx(), "jobs")
	bustest.Check(t, err)
	for _, l := range letters {
		if l.Reason != agentbus.DeadUnopenable || l.ID == held.ID() {
			t.Errorf("dead letter %s: %v", l.ID, l.Reason)
		}
	}
	close(w.hold)
	w.done(held.TaskHandle, "held")
	if n := w.runs.Load(); n != 2 {
		t.Errorf("%d runs, want 2", n)
	}
}

// TestForgedClaims: whatever the broker puts under a claim, an enqueuer is never told of a task that is not of its key, nor
// kept from enqueueing its own.
func TestForgedClaims(t *testing.T) {
	t.Parallel()
	w := newTaskWorld(t)
	worker := w.work()
	settled := w.claim("jobs", "k", "settled")
	w.done(settled.TaskHandle, "settled")
	bustest.Check(t, worker.Stop())
	result := w.lastOf(policy.ResultStream("jobs"), policy.ResultSubject("jobs", settled.ID().String()))
	mallory := w.Agent("mallory")
	_, err := mallory.Enqueue(w.Ctx(), "jobs", []byte("mallory's"), agentbus.Unique("mallory's", 0))
	bustest.Check(t, err)
	hers := w.lastOf(policy.TaskStream("jobs"), policy.UniquePattern("jobs"))
	standing := w.claim("jobs", "k", "standing")
	edit := func(change func(*envelope.Frame)) []byte { return edited(t, standing.frame, change) }
	forgeries := map[string][]byte{
		"junk":                   []byte("junk"),
		"cut short":              standing.frame[:len(standing.frame)-1],
		"another id":             edit(func(f *envelope.Frame) { f.ID = ulid.Make() }),
		"another sender":         edit(func(f *envelope.Frame) { f.Sender = bytes.Replace(f.Sender, []byte("alice"), []byte("mallory"), 1) }),
		"another card":           edit(func(f *envelope.Frame) { f.Card = ulid.Make() }),
		"another content":        edit(func(f *envelope.Frame) { f.Ciphertext[20] ^= 1 }),
		"unsigned":               edit(func(f *envelope.Frame) { f.Flags &^= envelope.FlagSigned; f.Signature = envelope.Signature{} }),
		"another's, renamed":     edited(t, hers, func(f *envelope.Frame) { f.Recipient = parse(t, standing.frame).Recipient }),
		"another's as it is":     hers,
		"a result":               result,
		"a task that is settled": settled.frame, // the claim that was there before
	}
	enqueued := map[string]*claimed{"standing": standing}
	for name, frame := range forgeries {
		w.insert(standing.subject, frame)
		next := w.claim("jobs", "k", "next after "+name)
		enqueued["next after "+name] = next
		if got := w.again("jobs", "k"); got != next.ID() || got == standing.ID() {
			t.Errorf("%s: task %s stands, want %s", name, got, next.ID())
		}
		// The one that was there before has lost its key, not its place in the queue. Shown once more, it is one of this key.
		w.insert(standing.subject, standing.frame)
		if got := w.again("jobs", "k"); got != standing.ID() {
			t.Errorf("%s: task %s stands, want the first", name, got)
		}
	}
	w.work()
	for text, c := range enqueued {
		w.done(c.TaskHandle, text)
	}
}

// TestFakedResultFreesNoKey: what the broker puts in the place of a result does not end a task, so that no second one of its
// key is enqueued; the real result does.
func TestFakedResultFreesNoKey(t *testing.T) {
	t.Parallel()
	w := newTaskWorld(t)
	worker := w.work()
	done := w.claim("jobs", "done", "done")
	w.done(done.TaskHandle, "done")
	failed := w.claim("jobs", "failed", "fail", agentbus.MaxAttempts(1))
	var dead *agentbus.TaskError
	if _, err := failed.Result(w.Ctx()); !errors.As(err, &dead) {
		t.Fatal(err)
	}
	bustest.Check(t, worker.Stop())
	genuine := w.lastOf(policy.ResultStream("jobs"), policy.ResultSubject("jobs", done.ID().String()))
	letter := w.lastOf(policy.DeadStream("jobs"), policy.DeadSubject("jobs", failed.ID().String()))
	for name, frame := range map[string]func(id ulid.ULID) []byte{
		"junk":                  func(ulid.ULID) []byte { return []byte("junk") },
		"nothing":               func(ulid.ULID) []byte { return nil },
		"another task's":        func(ulid.ULID) []byte { return genuine },
		"another task's letter": func(ulid.ULID) []byte { return letter },
		"another's, renamed":    func(id ulid.ULID) []byte { return edited(t, genuine, func(f *envelope.Frame) { f.Ref = id }) },
		"under no key":          func(id ulid.ULID) []byte { return edited(t, genuine, func(f *envelope.Frame) { f.Ref, f.Key = id, 1 }) },
	} {
		task := w.claim("jobs", name, name)
		w.insert(policy.ResultSubject("jobs", task.ID().String()), frame(task.ID()))
		if got := w.again("jobs", name); got != task.ID() {
			t.Errorf("%s: task %s stands, want %s", name, got, task.ID())
		}
	}
	for _, key := range []string{"done", "failed"} {
		w.claim("jobs", key, "again")
	}
}

// TestLiedAboutClaims: a broker that answers the question what stands under a claim with another claim's task, in all that it
// says the truth of that one, has no enqueuer believe that its key is taken.
func TestLiedAboutClaims(t *testing.T) {
	t.Parallel()
	w := newTaskWorld(t)
	other := w.claim("jobs", "other", "other")
	c := w.Config("alice")
	liar := lie(t, w.World, c.Identity, func(d delivery) []delivery { return []delivery{d} })
	c.Servers = []string{liar.url}
	alice := sitWith(t, w.World, c)
	_, err := alice.Enqueue(w.Ctx(), "jobs", []byte("again"), agentbus.Unique("other", 0))
	var d *agentbus.DuplicateError
	if !errors.As(err, &d) || d.Task != other.ID() {
		t.Fatalf("the truth: %v", err)
	}
	for _, kept := range [][2]string{{"", ""}, {other.hash, strings.Repeat("0", policy.ClaimChars)}} { // as it is, and under a hash of nobody's
		lies := 0
		liar.answers(func(header, data []byte) ([]byte, []byte) {
			if lies > 0 || !bytes.Contains(header, []byte("404")) {
				return header, data
			}
			lies++
			said := "NATS/1.0\r\nNats-Stream: SB_TASK_jobs\r\nNats-Subject: " + other.subject + "\r\nNats-Sequence: 1\r\nNats-Time-Stamp: 2026-11-24T00:00:00Z\r\n\r\n"
			return []byte(strings.Replace(said, kept[0], kept[1], 1)), other.frame
		})
		h, err := alice.Enqueue(w.Ctx(), "jobs", []byte("own"), agentbus.Unique("mine"+kept[1], 0))
		if err != nil || h.ID() == other.ID() {
			t.Errorf("task %v: %v", h, err)
		}
		liar.answers(nil)
		if lies != 1 || alice.Stats().Rejected[keyring.Misdirected] == 0 {
			t.Errorf("%d lies, rejected %v", lies, alice.Stats().Rejected)
		}
	}
	w.work()
	w.done(other.TaskHandle, "other")
}

// TestRevokedClaim: what a revoked agent has enqueued has no key, since no worker takes it.
func TestRevokedClaim(t *testing.T) {
	t.Parallel()
	w := newTaskWorld(t)
	mallory := w.Agent("mallory")
	_, err := w.alice.Enqueue(w.Ctx(), "jobs", nil)
	bustest.Check(t, err)
	hers, err := mallory.Enqueue(w.Ctx(), "jobs", []byte("mallory's"), agentbus.Unique("k", 0))
	bustest.Check(t, err)
	if got := w.again("jobs", "k"); got != hers.ID() {
		t.Fatalf("task %s stands", got)
	}
	raw := w.Sign(strings.Replace(tasksPolicy, "revision: 1", "revision: 2", 1) + "revoked: [mallory]\n")
	w.o.put(policy.BucketPolicy, policy.PolicyKey, raw)
	awaitRevision(t, w.alice.Bus, 2)
	w.claim("jobs", "k", "alice's")
	if w.alice.Stats().Rejected[keyring.Revoked] == 0 {
		t.Errorf("%v", w.alice.Stats().Rejected)
	}
}

// TestHiddenClaims: a broker that hides what stands breaks uniqueness, and no more: each task runs once, and gives its own result.
func TestHiddenClaims(t *testing.T) {
	t.Parallel()
	w := newTaskWorld(t)
	one := w.claim("jobs", "k", "one")
	// It stores two at once: the claim of the first is out of sight when the second looks.
	s, err := w.o.js.Stream(w.Ctx(), policy.TaskStream("jobs"))
	bustest.Check(t, err)
	bustest.Check(t, s.Purge(w.Ctx(), jetstream.WithPurgeSubject(policy.UniquePattern("jobs"))))
	two := w.claim("jobs", "k", "two")
	w.insert(one.subject, one.frame)
	w.work()
	w.done(one.TaskHandle, "one")
	w.done(two.TaskHandle, "two")
	if n := w.runs.Load(); n != 2 {
		t.Errorf("%d runs, want 2", n)
	}
}

// TestUniqueKeyIsHidden: neither the store nor the wire to it has the key of a unique task, nor a hash of it that can be tried.
func TestUniqueKeyIsHidden(t *testing.T) {
	t.Parallel()
	w := newTaskWorld(t)
	tapped := w.o.tap(">")
	c := w.claim("jobs", "key-Rw5Tn2", "x")
	other := w.claim("other", "key-Rw5Tn2", "x")
	if c.hash == other.hash {
		t.Error("the same hash in two queues")
	}
	hidden := secrets{"key-Rw5Tn2"}
	for len(tapped) > 0 {
		m := <-tapped
		hidden.notIn(t, "a message on "+m.Subject, slices.Concat([]byte(m.Subject), m.Data))
	}
	bustest.Check(t, w.alice.Close())
	bustest.Check(t, w.bob.Close())
	w.Stop()
	files := 0
	bustest.Check(t, filepath.WalkDir(w.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(c.hash)) {
			files++
		}
		hidden.notIn(t, path, data)
		return err
	}))
	if files == 0 {
		t.Error("no file has the claim: is this the store?")
	}
	w.Start() // the test's end stops it
}
