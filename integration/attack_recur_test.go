package integration_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

const recurPolicy = `trust_domain: example.org
revision: 1
queues:
  jobs: {enqueue: [alice, mallory], work: [bob, carol]}
  other: {enqueue: [alice], work: [bob, carol]}
`

// recurWorld is a queue with recurring tasks under attack: the broker is the owner's, and hands to workers what it likes, as often, and with
// whatever it likes to say of it.
type recurWorld struct {
	*bustest.World
	t     *testing.T
	o     *owner
	alice *seat
	pulls map[string]chan *nats.Msg // by priority
	runs  atomic.Int64              // of recurring tasks
	ran   chan *agentbus.Task
	hold  chan struct{} // for those whose payload is "held"
	n     int
}

func newRecurWorld(t *testing.T) *recurWorld {
	t.Helper()
	w := &recurWorld{World: bustest.New(t, recurPolicy), t: t, ran: make(chan *agentbus.Task, 1024), hold: make(chan struct{}), pulls: make(map[string]chan *nats.Msg)}
	w.o = newOwner(w.World)
	w.alice = sit(t, w.World, "alice")
	for _, place := range []string{"jobs.2", "jobs.0", "other.2"} {
		c := make(chan *nats.Msg, 4096)
		queue, priority, _ := strings.Cut(place, ".")
		_, err := w.o.agents.ChanSubscribe("$JS.API.CONSUMER.MSG.NEXT."+policy.TaskStream(queue)+".p"+priority, c)
		bustest.Check(t, err)
		w.pulls[place] = c
	}
	bustest.Check(t, w.o.agents.Flush())
	return w
}

// recurWorker is a worker to whose inboxes the broker can send.
type recurWorker struct {
	*agentbus.Worker
	*seat
	name    string
	inboxes map[string]string // by place
}

// work has a new instance of an agent work on both queues. Ordinary tasks are done at once.
func (w *recurWorld) work(name string) *recurWorker {
	w.t.Helper()
	bustest.Check(w.t, w.o.agents.Flush()) // the last pulls of a worker of that name that has stopped are here
	for _, c := range w.pulls {
		for len(c) > 0 {
			<-c
		}
	}
	r := &recurWorker{name: name, seat: sit(w.t, w.World, name), inboxes: make(map[string]string)}
	var err error
	r.Worker, err = r.seat.Work(w.Ctx(), "jobs", func(_ context.Context, task *agentbus.Task) ([]byte, error) {
		if task.Recurring == "" {
			return nil, nil
		}
		w.runs.Add(1)
		if time.Now().Before(task.Tick) {
			w.t.Errorf("the run of %v begins at %v", task.Tick, time.Now())
		}
		w.ran <- task
		if string(task.Payload) == "held" {
			<-w.hold
		}
		return task.Payload, nil
	}, agentbus.AlsoQueue("other", 1))
	bustest.Check(w.t, err)
	for place, c := range w.pulls {
		for r.inboxes[place] == "" {
			if reply := bustest.Receive(w.t, c).Reply; strings.HasPrefix(reply, policy.InboxPrefix(name)+".") && strings.HasSuffix(reply, "task") {
				r.inboxes[place] = reply
			}
		}
	}
	return r
}

// template returns what the broker holds of a recurring task.
func (w *recurWorld) template(name string) []byte {
	w.t.Helper()
	s, err := w.o.js.Stream(w.Ctx(), policy.DelayStream("jobs"))
	bustest.Check(w.t, err)
	m, err := s.GetLastMsgForSubject(w.Ctx(), policy.RecurringSubject("jobs", name))
	bustest.Check(w.t, err)
	return m.Data
}

// give hands a frame to a worker, as at a place in the log, and returns its answer. next is what the broker says is the next
// tick, "" for nothing.
func (w *recurWorld) give(r *recurWorker, place string, frame []byte, next string, delivered int) string {
	w.t.Helper()
	w.n++
	m := nats.NewMsg(r.inboxes[place])
	// Where the worker may answer to; it reads how often the task was handed out from there.
	m.Reply = policy.ControlSubject("jobs", r.name, fmt.Sprintf("%d.%d", delivered, w.n))
	m.Data = frame
	if next != "" {
		m.Header.Set("Nats-Schedule-Next", next)
	}
	answers := make(chan *nats.Msg, 16)
	sub, err := w.o.agents.ChanSubscribe(m.Reply, answers)
	bustest.Check(w.t, err)
	bustest.Check(w.t, w.o.agents.PublishMsg(m))
	answer := string(bustest.Receive(w.t, answers).Data)
	bustest.Check(w.t, sub.Unsubscribe())
	verdict, _, _ := strings.Cut(answer, " ")
	return verdict
}

func stamp(at time.Time) string { return at.UTC().Format(time.RFC3339Nano) }

// daily is a schedule that has one tick a day, the next one in so long; and that tick.
func daily(in time.Duration) (agentbus.Schedule, time.Time) {
	at := time.Now().Add(in).Truncate(time.Second).UTC()
	return agentbus.Cron(fmt.Sprintf("%d %d %d * * *", at.Second(), at.Minute(), at.Hour()), "UTC"), at
}

func (w *recurWorld) recur(name string, s agentbus.Schedule, payload string, options ...agentbus.EnqueueOption) []byte {
	w.t.Helper()
	bustest.Check(w.t, w.alice.Recur(w.Ctx(), "jobs", name, s, []byte(payload), options...))
	return w.template(name)
}

// TestTickReplayed: a tick that has run is not run again, however often the broker puts the template there and whatever it says: to the same worker,
// while it runs and after, to another, and to one that began later.
func TestTickReplayed(t *testing.T) {
	t.Parallel()
	w := newRecurWorld(t)
	bob := w.work("bob")
	s, tick := daily(3 * time.Second)
	frame := w.recur("x", s, "held")
	task := bustest.Receive(t, w.ran)
	if !task.Tick.Equal(tick) || task.ID != agentbus.RunID("jobs", "x", tick) {
		t.Fatalf("run %s at %v, want %s at %v", task.ID, task.Tick, agentbus.RunID("jobs", "x", tick), tick)
	}
	// All of what the broker can say that leads to this tick.
	nexts := []string{stamp(tick.Add(time.Nanosecond)), stamp(tick.Add(time.Second)), stamp(tick.Add(time.Hour)), stamp(tick.Add(24 * time.Hour))}
	for _, next := range nexts {
		if answer := w.give(bob, "jobs.2", frame, next, 1); answer != "-NAK" {
			t.Errorf("while it runs: %q", answer)
		}
	}
	close(w.hold)
	h, err := w.alice.Task("jobs", task.ID)
	bustest.Check(t, err)
	_, err = h.Result(w.Ctx())
	bustest.Check(t, err)
	replay := func(r *recurWorker, where string) {
		t.Helper()
		for i, next := range append(nexts, nexts...) {
			if answer := w.give(r, "jobs.2", frame, next, 1+i); answer != "+ACK" {
				t.Errorf("%s: %q", where, answer)
			}
		}
		if n := r.Stats().Settled; n < 8 {
			t.Errorf("%s: %d found settled", where, n)
		}
	}
	awaitStats(t, bob.Worker, func(s agentbus.WorkStats) bool { return s.Succeeded == 1 })
	replay(bob, "after it")
	carol := w.work("carol")
	replay(carol, "at another worker")
	bustest.Check(t, bob.Worker.Stop())
	bustest.Check(t, carol.Worker.Stop())
	replay(w.work("bob"), "at one that began later")
	if n := w.runs.Load(); n != 1 {
		t.Errorf("%d runs of one tick", n)
	}
}

// TestTickEarly: a template that comes before its tick waits for that; at times that the schedule does not have it is nothing.
func TestTickEarly(t *testing.T) {
	t.Parallel()
	w := newRecurWorld(t)
	bob := w.work("bob")
	far, tick := daily(time.Hour)
	frame := w.recur("far", far, "far")
	for next, want := range map[string]string{
		stamp(tick.Add(time.Second)):                 "-NAK", // for its next tick: in an hour
		stamp(tick.Add(365 * 24 * time.Hour)):        "-NAK", // in a year
		"9999-12-31T23:59:59Z":                       "-NAK",
		stamp(tick):                                  "+ACK", // for none: that before it was before it was registered
		stamp(time.Now().Add(time.Second)):           "+ACK",
		stamp(time.Now().Add(-1000 * time.Hour)):     "+ACK",
		"0001-01-01T00:00:00Z":                       "+ACK",
		"":                                           "+ACK",
		"purge":                                      "+ACK",
		"tomorrow":                                   "+ACK",
		tick.Add(time.Second).Format(time.ANSIC):     "+ACK",
		fmt.Sprint(tick.Add(time.Second).Unix()):     "+ACK",
		stamp(tick.Add(time.Second)) + "\tNats-X: y": "+ACK",
	} {
		if answer := w.give(bob, "jobs.2", frame, next, 1); answer != want {
			t.Errorf("next %q: %q, want %q", next, answer, want)
		}
	}
	// One that comes a moment before its tick is kept until then. The broker's own comes too.
	soon, tick := daily(3 * time.Second)
	frame = w.recur("soon", soon, "soon")
	for time.Until(tick) > 1500*time.Millisecond {
		if answer := w.give(bob, "jobs.2", frame, stamp(tick.Add(time.Second)), 1); answer != "-NAK" && time.Until(tick) > 2*time.Second {
			t.Fatalf("seconds before its tick: %q", answer)
		}
	}
	if task := bustest.Receive(t, w.ran); !task.Tick.Equal(tick) || task.Recurring != "soon" {
		t.Errorf("the run of %v of %q", task.Tick, task.Recurring)
	}
	if answer := w.give(bob, "jobs.2", frame, stamp(tick.Add(24*time.Hour)), 1); answer != "+ACK" && answer != "-NAK" {
		t.Errorf("after its tick: %q", answer)
	}
	if n := w.runs.Load(); n != 1 {
		t.Errorf("%d runs", n)
	}
}

// TestTemplateMoved: a template is one where it belongs and as it was sealed, and nothing else elsewhere: at another priority, in another queue, as an
// ordinary task, with any byte changed.
func TestTemplateMoved(t *testing.T) {
	t.Parallel()
	w := newRecurWorld(t)
	bob := w.work("bob")
	frame := w.recur("x", agentbus.Cron("0 0 29 2 *", "UTC"), "x")
	next := stamp(time.Now().Add(20 * 365 * 24 * time.Hour))
	if answer := w.give(bob, "jobs.2", frame, next, 1); answer != "-NAK" {
		t.Fatalf("in its place it waits for a leap year: %q", answer)
	}
	bob.counted(0)
	for name, c := range map[string]struct{ place, next string }{"another priority": {"jobs.0", next}, "an ordinary task": {"jobs.2", ""}, "a delayed task": {"jobs.2", "purge"}} {
		if answer := w.give(bob, c.place, frame, c.next, 1); answer != "+ACK" {
			t.Errorf("%s: %q", name, answer)
		}
		bob.rejects(1, keyring.Misdirected)
	}
	if answer := w.give(bob, "other.2", frame, next, 1); answer != "+ACK" {
		t.Errorf("another queue: %q", answer)
	}
	bob.rejects(1, keyring.Misdirected)
	for i := range 32 {
		bad := bytes.Clone(frame)
		bad[len(bad)-1-i*len(bad)/64] ^= 1 << (i % 8) // the seal and the signature
		if answer := w.give(bob, "jobs.2", bad, next, 1); answer != "+ACK" {
			t.Errorf("byte %d changed: %q", i, answer)
		}
		bob.rejects(1, keyring.Malformed, keyring.BadSeal, keyring.BadSignature, keyring.Misdirected)
	}
	forged := edited(t, frame, func(f *envelope.Frame) { f.Sender = bytes.Replace(f.Sender, []byte("alice"), []byte("carol"), 1) })
	if answer := w.give(bob, "jobs.2", forged, next, 1); answer != "+ACK" && answer != "-NAK" { // carol may not enqueue, or so a policy on its way may say
		t.Errorf("in carol's name: %q", answer)
	}
	bob.rejects(0)
	task, err := w.alice.Enqueue(w.Ctx(), "jobs", nil)
	bustest.Check(t, err)
	_, err = task.Result(w.Ctx())
	bustest.Check(t, err)
	if n := w.runs.Load(); n != 0 {
		t.Errorf("%d runs", n)
	}
	letters, err := w.alice.DeadLetters(w.Ctx(), "jobs")
	bustest.Check(t, err)
	for _, l := range letters {
		if l.Reason != agentbus.DeadUnopenable {
			t.Errorf("dead letter %s: %v", l.ID, l.Reason)
		}
	}
}

// TestTemplateReplaced: a broker that goes on with a template that was replaced has no worker run it that has met the newer one, but for ticks that
// were the former's.
func TestTemplateReplaced(t *testing.T) {
	t.Parallel()
	w := newRecurWorld(t)
	old := w.recur("x", agentbus.Every(time.Second), "old")
	registered := time.Now()
	bob := w.work("bob")
	first := bustest.Receive(t, w.ran)
	if string(first.Payload) != "old" || first.Tick.Before(registered.Add(-time.Second)) {
		t.Fatalf("%q at %v", first.Payload, first.Tick)
	}
	// Removed, so that it comes from nobody but the broker itself; and then another, of the same name.
	bustest.Check(t, w.alice.RemoveRecurring(w.Ctx(), "jobs", "x"))
	far, _ := daily(time.Hour)
	newer := w.recur("x", far, "new")
	replaced := time.Now()
	next := replaced.Truncate(time.Second).Add(2 * time.Second)
	carol := w.work("carol")
	for _, r := range []*recurWorker{bob, carol} {
		if answer := w.give(r, "jobs.2", newer, stamp(time.Now()), 1); answer != "+ACK" { // it is met, and has no tick yet
			t.Errorf("the newer one: %q", answer)
		}
		for i := range 4 {
			if answer := w.give(r, "jobs.2", old, stamp(next.Add(time.Duration(i)*time.Second)), 1); answer != "+ACK" {
				t.Errorf("the older one: %q", answer)
			}
			r.rejects(1, keyring.Misdirected)
		}
		// The first one's own tick has a result.
		if answer := w.give(r, "jobs.2", old, stamp(first.Tick.Add(time.Second)), 1); answer != "+ACK" {
			t.Errorf("the older one's own tick: %q", answer)
		}
		r.counted(4)
	}
	for len(w.ran) > 0 {
		if task := <-w.ran; task.Tick.After(replaced) || string(task.Payload) != "old" {
			t.Errorf("%q at %v; replaced at %v", task.Payload, task.Tick, replaced)
		}
	}
}

// TestTickBetween: where the broker has to act between two ticks, no second run of the last one comes of it, though that is not through yet.
func TestTickBetween(t *testing.T) {
	t.Parallel()
	w := newRecurWorld(t)
	workers := []*recurWorker{w.work("bob"), w.work("carol")}
	w.recur("x", agentbus.Every(7*time.Second), "held")
	task := bustest.Receive(t, w.ran)
	if task.Tick.Unix()%7 != 0 {
		t.Errorf("a tick at %v", task.Tick)
	}
	before := workers[0].Stats().Skipped + workers[1].Stats().Skipped
	awaitStats(t, workers[0].Worker, func(agentbus.WorkStats) bool {
		return workers[0].Stats().Skipped+workers[1].Stats().Skipped >= before+3 // of six, until the next tick
	})
	if n := w.runs.Load(); n != 1 {
		t.Errorf("%d runs", n)
	}
	close(w.hold)
}
