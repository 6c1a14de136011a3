package integration_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// controlFrame returns the control that the broker has of an agent, and takes it out of the stream.
func (w *taskWorld) controlFrame(queue, agent, what string) []byte {
	w.t.Helper()
	frame := w.lastOf(policy.ControlStream(queue), policy.ControlSubject(queue, agent, what))
	s, err := w.o.js.Stream(w.Ctx(), policy.ControlStream(queue))
	bustest.Check(w.t, err)
	bustest.Check(w.t, s.Purge(w.Ctx()))
	return frame
}

// obeysNone expects that a worker which hears, and reads, all that the broker has put in, runs a task of each queue all the same.
func (w *taskWorld) obeysNone(how string) {
	w.t.Helper()
	worker := w.work() // reads what lies there
	w.done(w.enqueue("jobs", how), how)
	w.done(w.enqueue("other", how), how)
	bustest.Check(w.t, worker.Stop())
}

// TestForgedControls: nothing that the broker can make of genuine controls, put live or into the stream, is obeyed: tampered with,
// moved to another control, agent or queue, or of another kind. Each is rejected.
func TestForgedControls(t *testing.T) {
	t.Parallel()
	w := newTaskWorld(t)
	first := w.work()
	w.done(w.enqueue("jobs", "before"), "before")
	w.done(w.enqueue("other", "before"), "before")
	bustest.Check(t, first.Stop())
	bustest.Check(t, w.alice.PauseQueue(w.Ctx(), "jobs"))
	pause := w.controlFrame("jobs", "alice", policy.ControlPause)
	bustest.Check(t, w.alice.LimitQueue(w.Ctx(), "jobs", agentbus.QueueLimits{PerSecond: 1.0 / 86400}))
	limits := w.controlFrame("jobs", "alice", policy.ControlLimits)
	victim := w.enqueue("jobs", "victim")
	task := w.taskFrame("jobs")
	other := w.enqueue("jobs", "not cancelled")
	bustest.Check(t, victim.Cancel(w.Ctx(), "wanted"))
	cancel := w.controlFrame("jobs", "alice", policy.ControlCancel+"."+victim.ID().String())

	at := func(queue, agent, what string) string { return policy.ControlSubject(queue, agent, what) }
	forged := map[string]struct {
		subject string
		frame   []byte
	}{
		"junk":                         {at("jobs", "alice", policy.ControlPause), []byte("junk")},
		"nothing":                      {at("jobs", "alice", policy.ControlPause), nil},
		"limits as a pause":            {at("jobs", "alice", policy.ControlPause), limits},
		"a pause as limits":            {at("jobs", "alice", policy.ControlLimits), pause},
		"a task as a pause":            {at("jobs", "alice", policy.ControlPause), task},
		"under another's name":         {at("jobs", "mallory", policy.ControlPause), pause},
		"limits under another's":       {at("jobs", "mallory", policy.ControlLimits), limits},
		"another queue's pause":        {at("other", "alice", policy.ControlPause), pause},
		"another queue's limits":       {at("other", "alice", policy.ControlLimits), limits},
		"another task's cancelling":    {at("jobs", "alice", policy.ControlCancel+"."+other.ID().String()), cancel},
		"a cancelling elsewhere":       {at("other", "alice", policy.ControlCancel+"."+victim.ID().String()), cancel},
		"a pause, its seal changed":    {at("jobs", "alice", policy.ControlPause), edited(t, pause, func(f *envelope.Frame) { f.Ciphertext[20] ^= 1 })},
		"a pause, its id changed":      {at("jobs", "alice", policy.ControlPause), edited(t, pause, func(f *envelope.Frame) { f.ID[15] ^= 1 })},
		"a pause, its sender":          {at("jobs", "mallory", policy.ControlPause), edited(t, pause, func(f *envelope.Frame) { f.Sender = []byte("spiffe://example.org/agent/mallory") })},
		"a pause, its sender a worker": {at("jobs", "bob", policy.ControlPause), edited(t, pause, func(f *envelope.Frame) { f.Sender = []byte("spiffe://example.org/agent/bob") })},
		"a pause, its recipient":       {at("other", "alice", policy.ControlPause), edited(t, pause, func(f *envelope.Frame) { f.Recipient = []byte("other") })},
	}
	live := w.work()
	for _, f := range forged {
		w.insert(f.subject, f.frame)
		for range 3 {
			w.o.inject(f.subject, f.frame)
		}
	}
	w.done(other, "not cancelled")
	w.done(victim, "victim") // nobody has been told
	w.done(w.enqueue("jobs", "live"), "live")
	w.done(w.enqueue("other", "live"), "live")
	bustest.Check(t, live.Stop())
	w.obeysNone("stored")
	var rejected uint64
	for _, n := range w.bob.Stats().Rejected {
		rejected += n
	}
	if rejected < uint64(len(forged)/2) {
		t.Errorf("%d rejections of %d forgeries", rejected, len(forged))
	}
	// In its own place each is obeyed, also by who has just rejected one that claimed to be it.
	worker := w.work()
	for range 3 {
		w.o.inject(forged["a pause, its seal changed"].subject, forged["a pause, its seal changed"].frame)
	}
	w.done(w.enqueue("other", "rejected"), "rejected")
	w.o.inject(at("jobs", "alice", policy.ControlPause), pause)
	w.insert(at("jobs", "alice", policy.ControlPause), pause)
	w.insert(at("jobs", "alice", policy.ControlCancel+"."+victim.ID().String()), cancel)
	for range 10 {
		w.done(w.enqueue("other", "heard"), "heard")
	}
	before := w.runs.Load()
	waits := w.enqueue("jobs", "waits")
	w.done(w.enqueue("other", "passes"), "passes")
	if n := w.runs.Load() - before; n != 1 {
		t.Errorf("a genuine pause is not obeyed: %d runs", n)
	}
	bustest.Check(t, waits.Cancel(w.Ctx(), "no longer"))
	bustest.Check(t, w.alice.ResumeQueue(w.Ctx(), "jobs"))
	var dead *agentbus.TaskError
	if _, err := waits.Result(w.Ctx()); !errors.As(err, &dead) || dead.Reason != agentbus.DeadCancelled {
		t.Errorf("a genuine cancelling is not obeyed: %v", err)
	}
	bustest.Check(t, worker.Stop())
}

// TestReplayedControls: a worker that runs does not go back to what an agent has taken back, however often the broker shows it, live
// or in its store, over a connection that is made anew.
func TestReplayedControls(t *testing.T) {
	t.Parallel()
	w := newTaskWorld(t)
	w.work()
	w.done(w.enqueue("jobs", "before"), "before")
	subject := policy.ControlSubject("jobs", "alice", policy.ControlPause)
	bustest.Check(t, w.alice.PauseQueue(w.Ctx(), "jobs"))
	pause := w.lastOf(policy.ControlStream("jobs"), subject)
	bustest.Check(t, w.alice.ResumeQueue(w.Ctx(), "jobs"))
	w.done(w.enqueue("jobs", "resumed"), "resumed")
	w.insert(subject, pause)
	for range 20 {
		w.o.inject(subject, pause)
	}
	w.done(w.enqueue("other", "behind"), "behind")
	w.done(w.enqueue("jobs", "live"), "live")
	w.Stop()
	w.Start()
	w.done(w.enqueue("jobs", "read again"), "read again")
}

// TestControlOfTheUnentitled: what a worker, or an enqueuer of another queue, says of a queue is not obeyed, although a worker holds the
// queue's key, and may write under its own name.
func TestControlOfTheUnentitled(t *testing.T) {
	t.Parallel()
	w := newTaskWorld(t)
	first := w.work()
	w.done(w.enqueue("jobs", "before"), "before")
	w.done(w.enqueue("other", "before"), "before")
	bustest.Check(t, first.Stop())
	// mallory's is in order, until the policy takes the right from her.
	mallory := w.Agent("mallory")
	bustest.Check(t, mallory.PauseQueue(w.Ctx(), "jobs"))
	worker := w.work()
	held := w.enqueue("jobs", "held back")
	w.done(w.enqueue("other", "passes"), "passes")
	raw := w.Sign(strings.Replace(tasksPolicy, "revision: 1", "revision: 2", 1) + "revoked: [mallory]\n")
	w.o.put(policy.BucketPolicy, policy.PolicyKey, raw)
	awaitRevision(t, w.bob.Bus, 2)
	w.done(held, "held back")
	bustest.Check(t, worker.Stop())
	w.obeysNone("after she is revoked")
}

// TestControlRights: an enqueuer cannot write slots or under another's name, and a worker of one queue neither controls nor slots of
// another.
func TestControlRights(t *testing.T) {
	t.Parallel()
	w := newTaskWorld(t)
	for name, subjects := range map[string][]string{
		"mallory": {policy.SlotSubject("jobs", "0"), policy.SlotSubject("jobs", policy.SlotRate), policy.SlotSubject("other", "0"),
			policy.ControlSubject("jobs", "alice", policy.ControlPause), policy.ControlSubject("other", "mallory", policy.ControlPause)},
		"alice": {policy.SlotSubject("jobs", "0"), policy.ControlSubject("jobs", "bob", policy.ControlPause)},
		"bob":   {policy.SlotSubject("elsewhere", "0"), policy.SlotSubject("jobs", "0.x"), policy.ControlSubject("jobs", "alice", policy.ControlPause)},
	} {
		errs := make(chan error, 16)
		nc := w.Raw(w.Source(name), nats.CustomInboxPrefix(policy.InboxPrefix(name)),
			nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { errs <- err }))
		for _, subject := range subjects {
			bustest.Check(t, nc.Publish(subject, []byte("junk")))
			if err := bustest.Receive(t, errs); !errors.Is(err, nats.ErrPermissionViolation) {
				t.Errorf("%s on %s: %v", name, subject, err)
			}
		}
	}
}
