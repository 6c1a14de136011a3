package broker_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/broker"
	"github.com/sealbus/sealbus/policy"
)

// delay asks for a task to be held back, with more headers.
func (c *client) delay(id, task string, at time.Time, priority int, more nats.Header) error {
	c.t.Helper()
	m := nats.NewMsg(policy.DelaySubject("q", c.name, id))
	m.Data = []byte(task)
	m.Header.Set("Nats-Schedule", "@at "+at.Format(time.RFC3339Nano))
	m.Header.Set("Nats-Schedule-Target", policy.DueSubject("q", priority))
	maps.Copy(m.Header, more)
	_, err := c.js().PublishMsg(timeout(c.t), m)
	return err
}

// forget takes a task back, and returns how many were held under the id.
func (c *client) forget(id string) int {
	c.t.Helper()
	m, err := c.RequestWithContext(timeout(c.t), policy.DelaySubject("q", c.name, id), nil)
	ok(c.t, err)
	var answer struct{ Purged int }
	ok(c.t, json.Unmarshal(m.Data, &answer))
	return answer.Purged
}

func inAnHour() time.Time { return time.Now().Add(time.Hour) }

func soon() time.Time { return time.Now().Add(300 * time.Millisecond) }

// held returns which tasks wait, by their subjects.
func (o *office) held() []string {
	o.t.Helper()
	var list []string
	for _, m := range contents(o.t, o.js, "SB_DELAY_q") {
		list = append(list, strings.TrimPrefix(m, "sb.held.q."))
	}
	return list
}

// TestHeldBack: a delayed task comes to a worker when its time has come, on the
// priority that it was meant for, unless it was replaced or taken back.
func TestHeldBack(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	ok(t, o.alice.delay("past", "past", time.Now().Add(-time.Hour), 1, nil))
	ok(t, o.alice.delay("soon", "first", inAnHour(), 3, nil))
	ok(t, o.alice.delay("soon", "second", soon(), 2, nil))
	ok(t, o.alice.delay("back", "taken back", soon(), 2, nil))
	ok(t, o.alice.delay("far", "far", inAnHour(), 2, nil))
	if n := o.alice.forget("back"); n != 1 {
		t.Errorf("%d tasks taken back", n)
	}
	if n := o.alice.forget("back"); n != 0 {
		t.Errorf("%d tasks taken back the second time", n)
	}
	for priority, want := range map[int]string{1: "past", 2: "second"} {
		m := o.bob.take("q", priority)
		if string(m.Data) != want || m.Subject != policy.DueSubject("q", priority) {
			t.Errorf("priority %d: %q on %s, want %q", priority, m.Data, m.Subject, want)
		}
		o.bob.settle(m, "+ACK")
	}
	for priority := range policy.Priorities {
		o.bob.nothing("q", priority)
	}
	if got := o.held(); !slices.Contains(got, "alice.far=far") || slices.ContainsFunc(got, func(m string) bool { return strings.HasPrefix(m, "alice.soon") || strings.HasPrefix(m, "alice.back") }) {
		t.Errorf("held are still %q", got)
	}
}

// TestHeldOverRestart stops the node while a task falls due and another waits.
func TestHeldOverRestart(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	ok(t, o.alice.delay("far", "far", inAnHour(), 0, nil))
	for _, id := range []string{"one", "two"} {
		// The server waits a quarter of a second before it looks what is due.
		ok(t, o.alice.delay(id, id, time.Now(), 0, nil))
		stop(t, o.n)
		o.open()
		m := o.bob.take("q", 0)
		if string(m.Data) != id {
			t.Errorf("got %q, want %q", m.Data, id)
		}
		o.bob.settle(m, "+ACK")
	}
	o.bob.nothing("q", 0)
	if got := o.held(); !slices.Contains(got, "alice.far=far") {
		t.Errorf("held are still %q", got)
	}
}

// TestHoldRefuses asks for what is not allowed.
func TestHoldRefuses(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	for name, h := range map[string]nats.Header{
		"no schedule":            {"Nats-Schedule": {""}},
		"no target":              {"Nats-Schedule-Target": {""}},
		"neither, but a body":    {"Nats-Schedule": {""}, "Nats-Schedule-Target": {""}},
		"every second":           {"Nats-Schedule": {"@every 1s"}},
		"cron":                   {"Nats-Schedule": {"* * * * * *"}},
		"hourly":                 {"Nats-Schedule": {"@hourly"}},
		"no time":                {"Nats-Schedule": {"@at tomorrow"}},
		"too far":                {"Nats-Schedule": {"@at " + time.Now().Add(policy.MaxDelay+time.Hour).Format(time.RFC3339)}},
		"the log":                {"Nats-Schedule-Target": {"sb.task.q.0"}},
		"no such priority":       {"Nats-Schedule-Target": {"sb.due.q.4"}},
		"all priorities":         {"Nats-Schedule-Target": {"sb.due.q.*"}},
		"another queue":          {"Nats-Schedule-Target": {"sb.due.other.0"}},
		"another agent's":        {"Nats-Schedule-Target": {"sb.held.q.bob.x"}},
		"the policy":             {"Nats-Schedule-Target": {"$KV.SB_POLICY.current"}},
		"a target with a header": {"Nats-Schedule-Target": {"sb.due.q.0\r\nNats-Rollup: all"}},
	} {
		var refused *jetstream.APIError
		if err := o.alice.delay("x", "task", inAnHour(), 0, h); !errors.As(err, &refused) || refused.ErrorCode != 10189 {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, id := range []string{"*", ">", "x y", "é", strings.Repeat("x", policy.MaxDelayID+1)} {
		if err := o.alice.delay(id, "task", inAnHour(), 0, nil); err == nil {
			t.Errorf("the id %.20q was accepted", id)
		} else if errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the id %.20q was not answered", id)
		}
	}
	if got := o.held(); len(got) != 0 {
		t.Errorf("held are %q", got)
	}
	// Bob works on q, and carol has no part in it. The server lets neither of
	// them ask; where it did, the holder would not.
	for _, name := range []string{"bob", "carol", "nobody"} {
		m := nats.NewMsg(policy.DelaySubject("q", name, "x"))
		m.Header.Set("Nats-Schedule", "@at 2020-01-01T00:00:00Z")
		m.Header.Set("Nats-Schedule-Target", "sb.due.q.0")
		var refused *jetstream.APIError
		if _, err := o.js.PublishMsg(timeout(t), m); !errors.As(err, &refused) || refused.ErrorCode != 10189 {
			t.Errorf("a task of %s: %v", name, err)
		}
	}
}

// TestHoldStripsHeaders: to write to a stream with schedules oneself would be to
// remove, overwrite and copy what others have there. Mallory, who may put tasks
// into the same queue, asks for a delay with every header by which it is done.
func TestHoldStripsHeaders(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	ok(t, o.alice.delay("one", "alice's", inAnHour(), 0, nil))
	ok(t, o.alice.delay("two", "alice's", inAnHour(), 0, nil))
	mallory := o.agent(o.n, "mallory")
	for _, h := range []nats.Header{
		{"Nats-Rollup": {"all"}},
		{"Nats-Rollup": {"sub"}},
		{"Nats-Schedule-Next": {"purge"}, "Nats-Scheduler": {"sb.held.q.alice.one"}},
		{"Nats-Schedule-Rollup": {"sub"}},
		{"Nats-Schedule-Source": {"sb.held.q.alice.one"}},
		{"Nats-Schedule-TTL": {"1s"}},
		{"Nats-TTL": {"1s"}},
		{"Nats-Expected-Stream": {"SB_TASK_q"}},
		{"Nats-Msg-Id": {"x"}},
		{"Nats-Batch-Id": {"x"}, "Nats-Batch-Sequence": {"1"}},
		{"Nats-Schedule-Target": {"sb.due.q.0", "sb.held.q.alice.one"}},
		{"nats-schedule-target": {"sb.held.q.alice.one"}, "Nats-Schedule": {"@at 2020-01-01T00:00:00Z", "@every 1s"}},
	} {
		ok(t, mallory.delay("x", "mallory's", time.Now(), 0, h))
		m := o.bob.take("q", 0)
		if string(m.Data) != "mallory's" {
			t.Errorf("%v: got %q", h, m.Data)
		}
		o.bob.settle(m, "+ACK")
		for name := range m.Header {
			if name != "Nats-Schedule-Next" && name != "Nats-Scheduler" && name != "Nats-Stream-Source" {
				t.Errorf("%v: the task has the header %s", h, name)
			}
		}
		if m.Header.Get("Nats-Scheduler") != "sb.held.q.mallory.x" {
			t.Errorf("%v: the task says that it was held at %q", h, m.Header.Get("Nats-Scheduler"))
		}
	}
	mallory.forget("one")
	if got := o.held(); !slices.Contains(got, "alice.one=alice's") || !slices.Contains(got, "alice.two=alice's") {
		t.Errorf("held are %q", got)
	}
}

// TestServeQueues is what an operator runs beside an external cluster.
func TestServeQueues(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.n.StopHolding()
	o.n.StopInspecting()
	if _, err := o.alice.ask("q", policy.AskInfo, ""); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("nobody answers about queues: %v", err)
	}
	if err := o.alice.delay("x", "task", inAnHour(), 0, nil); !errors.Is(err, jetstream.ErrNoStreamResponse) {
		t.Fatalf("nobody holds tasks back: %v", err)
	}
	ctx, cancel := context.WithCancel(timeout(t))
	done := make(chan error, 1)
	go func() { done <- broker.ServeQueues(ctx, o.js, o.n.Policy()) }()
	for {
		err := o.alice.delay("x", "task", inAnHour(), 0, nil)
		if err == nil {
			break
		}
		if !errors.Is(err, jetstream.ErrNoStreamResponse) {
			t.Fatal(err)
		}
	}
	if s := o.alice.info("q"); s.Delayed != 1 {
		t.Errorf("%d delayed tasks, want 1", s.Delayed)
	}
	cancel()
	ok(t, <-done)
	if err := o.alice.delay("x", "task", inAnHour(), 0, nil); !errors.Is(err, jetstream.ErrNoStreamResponse) {
		t.Errorf("after its end: %v", err)
	}
	if got := o.held(); !slices.Equal(got, []string{"alice.x=task"}) {
		t.Errorf("held are %q", got)
	}
}

// TestServeQueuesAnswers: who stops answers what has come before, so that nobody
// waits for an answer in vain.
func TestServeQueuesAnswers(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.n.StopHolding()
	o.n.StopInspecting()
	ctx, cancel := context.WithCancel(timeout(t))
	done := make(chan error, 1)
	go func() { done <- broker.ServeQueues(ctx, o.js, o.n.Policy()) }()
	for {
		if _, err := o.alice.ask("q", policy.AskInfo, ""); err == nil {
			break
		} else if !errors.Is(err, nats.ErrNoResponders) {
			t.Fatal(err)
		}
	}
	inbox := o.alice.NewRespInbox()
	answers, err := o.alice.SubscribeSync(inbox)
	ok(t, err)
	const asked = 500
	for n := range asked {
		subject := policy.DelaySubject("q", "alice", "x")
		if n%10 == 0 {
			subject = policy.AskSubject("q", "alice", policy.AskInfo)
		}
		ok(t, o.alice.PublishRequest(subject, inbox, nil))
	}
	ok(t, o.alice.Flush()) // the server has them all
	cancel()
	ok(t, <-done)
	for n := range asked {
		if m, err := answers.NextMsgWithContext(timeout(t)); err != nil {
			t.Fatalf("%d of %d were answered: %v", n, asked, err)
		} else if len(m.Data) == 0 {
			t.Fatalf("answer %d: %v", n, m.Header)
		}
	}
}
