package broker_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/broker"
	"github.com/sealbus/sealbus/policy"
)

const (
	later   = 2 * time.Hour // queues retain for one
	atOnce  = 1 << 30       // messages
	inTime  = 0
	logOf   = "SB_TASK_q"
	earlier = -24 * time.Hour
)

// trim trims as if so much time had passed.
func (o *office) trim(after time.Duration) {
	o.t.Helper()
	ok(o.t, broker.TrimAt(timeout(o.t), o.js, o.n.Policy(), time.Now().Add(after), atOnce))
}

// log returns the tasks of q, in their order.
func (o *office) log() []string {
	o.t.Helper()
	var tasks []string
	for _, m := range contents(o.t, o.js, logOf) {
		_, task, _ := strings.Cut(m, "=")
		tasks = append(tasks, task)
	}
	return tasks
}

func (o *office) wantLog(what string, want ...string) {
	o.t.Helper()
	if got := o.log(); !slices.Equal(got, want) {
		o.t.Errorf("%s: the log holds %q, want %q", what, got, want)
	}
}

// TestTrimTasks: what is settled goes when it is old, from the oldest on, and
// nothing else does.
func TestTrimTasks(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.trim(later) // empty
	o.alice.enqueue("q", 0, "a0", "b0", "c0")
	o.alice.enqueue("q", 2, "a2")
	o.alice.enqueue("q", 0, "d0")
	all := []string{"a0", "b0", "c0", "a2", "d0"}
	o.trim(later)
	o.wantLog("nobody has worked", all...)

	sub := o.bob.pull("q", 0, `{"batch":4,"expires":8000000000}`)
	tasks := make([]*nats.Msg, 4)
	for i := range tasks {
		tasks[i] = o.bob.next(sub)
	}
	o.trim(later)
	o.wantLog("handed out", all...)
	o.bob.settle(tasks[1], "+ACK")
	o.bob.settle(tasks[3], "+ACK")
	o.trim(later)
	o.wantLog("the oldest is still out", all...)
	o.bob.settle(tasks[0], "+ACK")
	o.trim(inTime)
	o.trim(earlier)
	o.wantLog("settled, but not old", all...)
	o.trim(later)
	o.wantLog("two settled, then one that is not", "c0", "a2", "d0")
	o.bob.settle(tasks[2], `-NAK {"delay":3600000000000}`)
	o.trim(later)
	o.wantLog("put off", "c0", "a2", "d0")
	o.bob.settle(tasks[2], "+TERM")
	o.trim(later)
	o.wantLog("another priority has not begun", "a2", "d0")
	o.bob.settle(o.bob.take("q", 2), "+ACK")
	o.trim(later)
	o.wantLog("all settled")
	o.alice.enqueue("q", 3, "new")
	o.trim(later)
	o.wantLog("a new one", "new")
	if m := o.bob.take("q", 3); string(m.Data) != "new" {
		t.Errorf("got %q", m.Data)
	}
}

// TestTrimBounded: no more than so many at a time.
func TestTrimBounded(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.alice.enqueue("q", 0, "a", "b", "c")
	for range 3 {
		o.bob.settle(o.bob.take("q", 0), "+ACK")
	}
	for _, want := range [][]string{{"c"}, nil} {
		ok(t, broker.TrimAt(timeout(t), o.js, o.n.Policy(), time.Now().Add(later), 2))
		o.wantLog("two at a time", want...)
	}
}

// TestTrimAnyOrder does at random all that can happen to tasks, over restarts,
// and trims in between. No task that is not settled may ever be missing, and none
// may come into the log twice.
func TestTrimAnyOrder(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	c := &chaos{office: newOffice(t), r: rand.New(rand.NewPCG(seed, 0)), open: make(map[string]bool), out: make(map[string]*nats.Msg), last: make(map[string]*nats.Msg)}
	for step := range 300 {
		switch c.r.IntN(10) {
		case 0, 1:
			c.enqueue()
		case 2:
			c.delay()
		case 3, 4, 5:
			c.pull(c.r.IntN(policy.Priorities))
		case 6, 7, 8:
			c.answer("+ACK", "+ACK", "+ACK", "+TERM", "-NAK", `-NAK {"delay":100000000}`, "+WPI")
		case 9:
			c.trim(later)
			if c.r.IntN(8) == 0 {
				stop(t, c.n)
				c.office.open()
			}
		}
		if step%10 == 0 {
			c.check(step)
		}
	}
	for deadline := time.Now().Add(wait); len(c.open) > 0; {
		if time.Now().After(deadline) {
			t.Fatalf("%d tasks do not come", len(c.open))
		}
		for priority := range policy.Priorities {
			c.pull(priority)
		}
		// What was put back before a restart comes only after the lease.
		for task := range c.open {
			if m := c.last[task]; m != nil {
				c.out[task] = m
			}
		}
		c.answer("+ACK")
	}
	c.trim(later)
	c.wantLog("all is settled")
}

// chaos is what happens to the tasks of a queue.
type chaos struct {
	*office
	r    *rand.Rand
	made int
	open map[string]bool // tasks, until they are settled
	out  map[string]*nats.Msg
	last map[string]*nats.Msg // as they were handed out the last time
}

func (c *chaos) task() string {
	task := fmt.Sprint(c.made)
	c.made++
	c.open[task] = true
	return task
}

func (c *chaos) enqueue() {
	if c.r.IntN(3) == 0 { // a session note, beside the tasks
		c.made++
		c.alice.put(policy.SessionSubject("q"), fmt.Sprint("note ", c.made))
	}
	var tasks []string
	for range 1 + c.r.IntN(5) {
		tasks = append(tasks, c.task())
	}
	c.alice.enqueue("q", c.r.IntN(policy.Priorities), tasks...)
}

func (c *chaos) delay() {
	task := c.task()
	ok(c.t, c.alice.delay(task, task, time.Now(), c.r.IntN(policy.Priorities), nil))
}

func (c *chaos) pull(priority int) {
	count := 1 + c.r.IntN(8)
	sub := c.bob.pull("q", priority, fmt.Sprintf(`{"batch":%d,"expires":1000000}`, count))
	for range count {
		m := c.bob.next(sub)
		if m.Header.Get("Status") != "" {
			return
		}
		c.out[string(m.Data)], c.last[string(m.Data)] = m, m
	}
}

// answer answers about half of the tasks that are out.
func (c *chaos) answer(words ...string) {
	for task, m := range c.out {
		if c.r.IntN(2) == 0 {
			continue
		}
		word := words[c.r.IntN(len(words))]
		c.bob.settle(m, word)
		if word == "+ACK" || word == "+TERM" {
			delete(c.open, task)
		}
		if word != "+WPI" {
			delete(c.out, task)
		}
	}
}

// check expects every task that is not settled in the log, or held back. One that
// is on its way between is seen when one looks again.
func (c *chaos) check(step int) {
	c.t.Helper()
	seen := make(map[string]bool)
	missing := ""
	for range 100 {
		for _, m := range contents(c.t, c.js, "SB_DELAY_q") {
			_, task, _ := strings.Cut(m, "=")
			seen[task] = true
		}
		log := c.log()
		for _, task := range log {
			seen[task] = true
		}
		slices.Sort(log)
		if n := len(log); len(slices.Compact(log)) < n {
			c.t.Fatalf("step %d: a task is in the log twice", step)
		}
		missing = ""
		for task := range c.open {
			if !seen[task] {
				missing = task
			}
		}
		if missing == "" {
			return
		}
	}
	c.t.Fatalf("step %d: task %s is gone and was never settled", step, missing)
}

// TestTrimRefuses: nothing goes when what hands out the tasks is missing, or
// may have skipped some.
func TestTrimRefuses(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.alice.enqueue("q", 1, "a")
	o.bob.settle(o.bob.take("q", 1), "+ACK")
	ctx := timeout(t)
	c, err := o.js.Consumer(ctx, logOf, "p3")
	ok(t, err)
	want := c.CachedInfo().Config
	for name, change := range map[string]func(*jetstream.ConsumerConfig){
		"it gives up":         func(c *jetstream.ConsumerConfig) { c.MaxDeliver = 3 },
		"it looks elsewhere":  func(c *jetstream.ConsumerConfig) { c.FilterSubjects = []string{"sb.task.q.2"} },
		"it skips what's due": func(c *jetstream.ConsumerConfig) { c.FilterSubjects = []string{"sb.task.q.3"} },
	} {
		changed := want
		change(&changed)
		_, err := o.js.UpdateConsumer(ctx, logOf, changed)
		ok(t, err)
		if err := broker.TrimAt(ctx, o.js, o.n.Policy(), time.Now().Add(later), atOnce); !errors.Is(err, broker.ErrTrim) {
			t.Errorf("%s: %v", name, err)
		}
		o.wantLog(name, "a")
	}
	ok(t, o.js.DeleteConsumer(ctx, logOf, "p3"))
	if err := broker.TrimAt(ctx, o.js, o.n.Policy(), time.Now().Add(later), atOnce); !errors.Is(err, broker.ErrTrim) || !errors.Is(err, jetstream.ErrConsumerNotFound) {
		t.Errorf("a consumer is missing: %v", err)
	}
	o.wantLog("a consumer is missing", "a")
	// A new one has everything before it, and what it does not want it skips.
	raw := o.sign(fmt.Sprintf(queueRules, 1))
	ok(t, broker.Provision(ctx, o.js, o.n.Policy(), raw))
	o.trim(later)
	o.wantLog("provisioned again")
}

// TestTrimConsumerMadeAnew: one that was deleted and made again has not settled
// anything.
func TestTrimConsumerMadeAnew(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.alice.enqueue("q", 1, "a", "b")
	o.bob.settle(o.bob.take("q", 1), "+ACK")
	ctx := timeout(t)
	ok(t, o.js.DeleteConsumer(ctx, logOf, "p1"))
	ok(t, broker.Provision(ctx, o.js, o.n.Policy(), o.sign(fmt.Sprintf(queueRules, 1))))
	o.trim(later)
	o.wantLog("made anew", "a", "b")
	if m := o.bob.take("q", 1); string(m.Data) != "a" {
		t.Errorf("got %q", m.Data)
	}
}

// TestTrimResults: a result stays as long as its task may be handed out again.
func TestTrimResults(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	done := func(task string) {
		o.bob.put(policy.ResultSubject("q", ulid.Make().String()), task)
		o.alice.put(policy.ControlSubject("q", "alice", "cancel."+ulid.Make().String()), task)
	}
	kept := func(what string, want ...string) {
		t.Helper()
		for _, stream := range []string{"SB_RESULT_q", "SB_CONTROL_q"} {
			var got []string
			for _, m := range contents(t, o.js, stream) {
				if _, task, _ := strings.Cut(m, "="); task != "on" && task != "here" {
					got = append(got, task)
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: %s holds %q, want %q", what, stream, got, want)
			}
		}
	}
	o.alice.put(policy.ControlSubject("q", "alice", "pause"), "on")
	o.bob.put(policy.ControlSubject("q", "bob", "presence.1"), "here")
	o.bob.put(policy.DeadSubject("q", ulid.Make().String()), "dead")
	o.alice.enqueue("q", 0, "a", "b")
	a, b := o.bob.take("q", 0), o.bob.take("q", 0)
	done("b")
	o.alice.enqueue("q", 0, "c")
	done("a")
	o.bob.settle(b, "+ACK")
	o.trim(inTime)
	kept("not old", "b", "a")
	if dead := contents(t, o.js, "SB_DEAD_q"); len(dead) != 1 {
		t.Errorf("dead letters, not old: %q", dead)
	}
	o.trim(later)
	kept("their tasks are there", "b", "a")
	o.bob.settle(a, "+ACK")
	o.trim(later)
	o.wantLog("two are settled", "c")
	// What was done when "c" was there already may be c's.
	kept("their tasks are gone", "a")
	o.bob.settle(o.bob.take("q", 0), "+ACK")
	o.trim(inTime)
	kept("the last is settled, but not old", "a")
	o.trim(later)
	kept("nothing is left")
	if got := contents(t, o.js, "SB_CONTROL_q"); !slices.Equal(got, []string{"sb.control.q.alice.pause=on"}) {
		t.Errorf("the controls are %q", got)
	}
	if dead := contents(t, o.js, "SB_DEAD_q"); len(dead) != 0 {
		t.Errorf("dead letters: %q", dead)
	}
}

// TestTrimSessionNotes: what enqueuers note of their sessions goes when it is old
// and everything before it has gone, and holds nothing back.
func TestTrimSessionNotes(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	note := func(text string) { o.alice.put(policy.SessionSubject("q"), text) }
	result := func(task string) { o.bob.put(policy.ResultSubject("q", ulid.Make().String()), task) }
	results := func(what string, want ...string) {
		t.Helper()
		got := contents(t, o.js, "SB_RESULT_q")
		for i := range got {
			_, got[i], _ = strings.Cut(got[i], "=")
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: results %q, want %q", what, got, want)
		}
	}
	note("opened")
	note("idle")
	o.trim(inTime)
	o.wantLog("not old", "opened", "idle")
	o.trim(later)
	o.wantLog("there were only notes")

	note("opened")
	o.alice.enqueue("q", 0, "a")
	note("idle")
	o.alice.enqueue("q", 3, "b")
	result("a")
	o.trim(later)
	o.wantLog("the first is a note, the second is not settled", "a", "idle", "b")
	o.bob.settle(o.bob.take("q", 0), "+ACK")
	o.trim(inTime)
	o.wantLog("settled, but not old", "a", "idle", "b")
	results("not old", "a")
	o.trim(later)
	o.wantLog("another priority has not begun", "b")
	results("it may be that one's", "a")
	o.bob.settle(o.bob.take("q", 3), "+ACK")
	note("closed")

	// At a time when all but the note is old.
	s, err := o.js.Stream(timeout(t), logOf)
	ok(t, err)
	last, err := s.GetLastMsgForSubject(timeout(t), policy.SessionSubject("q"))
	ok(t, err)
	ok(t, broker.TrimAt(timeout(t), o.js, o.n.Policy(), last.Time.Add(time.Hour), atOnce))
	o.wantLog("a note is left", "closed")
	results("a note is left")
	o.alice.enqueue("q", 1, "c")
	if m := o.bob.take("q", 1); string(m.Data) != "c" {
		t.Errorf("got %q", m.Data)
	}
	o.bob.nothing("q", 0)
}

// TestNodeTrims: a node trims by itself, and its end does not wait for the next
// time.
func TestNodeTrims(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	tick := make(chan time.Time)
	config := b.config(fmt.Sprintf(queueRules, 1)).WithTrims(tick, func() time.Time { return time.Now().Add(later) })
	n := b.start(config)
	alice, bob := b.agent(n, "alice"), b.agent(n, "bob")
	alice.enqueue("q", 0, "a", "b")
	bob.settle(bob.take("q", 0), "+ACK")
	trimmed := b.log.seen("trimmed stream=SB_TASK_q subject= up_to=1 messages=1")
	tick <- time.Now()
	await(t, trimmed, "the log of q is trimmed")
	if got := contents(t, store(t, n), logOf); !slices.Equal(got, []string{"sb.task.q.0=b"}) {
		t.Errorf("the log holds %q", got)
	}
	ok(t, store(t, n).DeleteConsumer(timeout(t), logOf, "p0"))
	complained := b.log.seen("queues are not trimmed")
	tick <- time.Now()
	await(t, complained, "a consumer is missing")
	stop(t, n)
}
