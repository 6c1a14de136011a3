package broker_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/policy"
)

const everySecond = "@every 1s"

func recurRequest(agent, name, template, schedule string, more nats.Header) *nats.Msg {
	m := nats.NewMsg(policy.RecurSubject("q", agent, name))
	m.Data = []byte(template)
	m.Header.Set("Sealbus-Schedule", schedule)
	m.Header.Set("Nats-Schedule-Target", policy.DueSubject("q", 2))
	maps.Copy(m.Header, more)
	return m
}

// recur asks for a recurring task, with more headers.
func (c *client) recur(name, template, schedule string, more nats.Header) error {
	c.t.Helper()
	_, err := c.js().PublishMsg(timeout(c.t), recurRequest(c.name, name, template, schedule, more))
	return err
}

// unrecur removes a recurring task, and returns how many there were.
func (c *client) unrecur(name string) int {
	c.t.Helper()
	m, err := c.RequestWithContext(timeout(c.t), policy.RecurSubject("q", c.name, name), nil)
	ok(c.t, err)
	var answer struct{ Purged int }
	ok(c.t, json.Unmarshal(m.Data, &answer))
	return answer.Purged
}

// recurs lists the recurring tasks as agents do.
func (c *client) recurs() (list []string) {
	c.t.Helper()
	for after := ""; ; {
		m, err := c.RequestWithContext(timeout(c.t), policy.RecurSubject("q", c.name, ""), []byte(after))
		ok(c.t, err)
		if after = m.Header.Get("Sealbus-Name"); after == "" {
			if string(m.Data) != "{}" {
				c.t.Errorf("the list ends with %q", m.Data)
			}
			return list
		}
		list = append(list, fmt.Sprintf("%s=%s at %s", after, m.Data, m.Header.Get("Sealbus-Schedule")))
	}
}

// nextTick takes a template from the queue and returns when the next one is due.
func (o *office) nextTick(want string) time.Time {
	o.t.Helper()
	m := o.bob.take("q", 2)
	if string(m.Data) != want {
		o.t.Fatalf("got %q, want %q", m.Data, want)
	}
	o.bob.settle(m, "+ACK")
	next, err := time.Parse(time.RFC3339Nano, m.Header.Get("Nats-Schedule-Next"))
	ok(o.t, err)
	return next
}

// TestRecurring: the same bytes come at every tick, over a restart, until they are removed; who asks for the same name replaces
// them, and there is one schedule all the same.
func TestRecurring(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	ok(t, o.alice.recur("x", "first", everySecond, nil))
	ok(t, o.alice.recur("far", "far", "0 7 29 2 * Europe/Berlin", nil))
	ticks := []time.Time{o.nextTick("first"), o.nextTick("first")}
	stop(t, o.n)
	o.open()
	ticks = append(ticks, o.nextTick("first"), o.nextTick("first"))
	ok(t, o.agent(o.n, "mallory").recur("x", "second", everySecond, nil))
	for {
		m := o.bob.take("q", 2)
		o.bob.settle(m, "+ACK")
		if string(m.Data) == "second" {
			break
		}
	}
	ticks = append(ticks, o.nextTick("second"), o.nextTick("second"))
	for i, tick := range ticks {
		if tick.Nanosecond() != 0 || i > 0 && !tick.After(ticks[i-1]) {
			t.Errorf("ticks at %v", ticks)
			break
		}
	}
	want := []string{"far=far at 0 7 29 2 * Europe/Berlin", "x=second at @every 1s"}
	for _, c := range []*client{o.alice, o.bob} {
		if got := c.recurs(); !slices.Equal(got, want) {
			t.Errorf("%s is shown %q", c.name, got)
		}
	}
	if n := o.alice.unrecur("x"); n != 1 {
		t.Errorf("%d removed", n)
	}
	if n := o.alice.unrecur("x"); n != 0 {
		t.Errorf("%d removed the second time", n)
	}
	if got := o.alice.recurs(); !slices.Equal(got, want[:1]) {
		t.Errorf("after it was removed: %q", got)
	}
}

// TestRecurringRefuses asks for what is not allowed.
func TestRecurringRefuses(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	for name, h := range map[string]nats.Header{
		"no schedule":           {"Sealbus-Schedule": {""}},
		"no target":             {"Nats-Schedule-Target": {""}},
		"the server's schedule": {"Sealbus-Schedule": {""}, "Nats-Schedule": {"* * * * * *"}},
		"a single time":         {"Sealbus-Schedule": {"@at 2030-01-01T00:00:00Z"}},
		"no zone":               {"Sealbus-Schedule": {"0 7 * * *"}},
		"the machine's zone":    {"Sealbus-Schedule": {"0 7 * * * Local"}},
		"a word":                {"Sealbus-Schedule": {"@hourly"}},
		"too often":             {"Sealbus-Schedule": {"@every 500ms"}},
		"another spelling":      {"Sealbus-Schedule": {"@every 60s"}},
		"a header more":         {"Sealbus-Schedule": {"@every 1s\r\nNats-Rollup: all"}},
		"the log":               {"Nats-Schedule-Target": {"sb.task.q.0"}},
		"no such priority":      {"Nats-Schedule-Target": {"sb.due.q.4"}},
		"another queue":         {"Nats-Schedule-Target": {"sb.due.other.0"}},
		"another template":      {"Nats-Schedule-Target": {"sb.held.q._recur.x"}},
		"the policy":            {"Nats-Schedule-Target": {"$KV.SB_POLICY.current"}},
	} {
		var refused *jetstream.APIError
		if err := o.alice.recur("x", "template", everySecond, h); !errors.As(err, &refused) || refused.ErrorCode != 10189 {
			t.Errorf("%s: %v", name, err)
		}
	}
	var refused *jetstream.APIError
	if err := o.alice.recur("x", "", everySecond, nil); !errors.As(err, &refused) {
		t.Errorf("no template: %v", err)
	}
	if err := o.alice.recur("x", strings.Repeat("x", 1<<20-3<<10), everySecond, nil); !errors.As(err, &refused) {
		t.Errorf("a template that is too large: %v", err)
	}
	if _, err := o.alice.RequestWithContext(timeout(t), policy.RecurSubject("q", "alice", ""), []byte("*")); err != nil {
		t.Errorf("a list from a wildcard on is not answered: %v", err)
	}
	for _, name := range []string{"*", "x y", "é", strings.Repeat("x", policy.MaxDelayID+1)} {
		if err := o.alice.recur(name, "template", everySecond, nil); err == nil {
			t.Errorf("the name %.20q was accepted", name)
		}
	}
	// The server lets neither a worker nor a stranger ask, and nobody in another's name; where it did, the holder would not.
	for _, name := range []string{"bob", "carol", "rita", "nobody"} {
		for _, m := range []*nats.Msg{recurRequest(name, "x", "template", everySecond, nil), nats.NewMsg(policy.RecurSubject("q", name, "x"))} {
			if _, err := o.js.PublishMsg(timeout(t), m); !errors.As(err, &refused) || refused.ErrorCode != 10189 {
				t.Errorf("a recurring task of %s: %v", name, err)
			}
		}
		if name != "bob" {
			if _, err := o.js.PublishMsg(timeout(t), nats.NewMsg(policy.RecurSubject("q", name, ""))); !errors.As(err, &refused) {
				t.Errorf("a list for %s: %v", name, err)
			}
		}
	}
	if got := o.held(); len(got) != 0 {
		t.Errorf("held are %q", got)
	}
}

// TestRecurringStripsHeaders: mallory asks for a recurring task with every header by which others' could be removed, overwritten
// or copied.
func TestRecurringStripsHeaders(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	ok(t, o.alice.recur("one", "alice's", "0 7 29 2 * UTC", nil))
	ok(t, o.alice.delay("two", "alice's", inAnHour(), 0, nil))
	mallory := o.agent(o.n, "mallory")
	for _, h := range []nats.Header{
		{"Nats-Rollup": {"all"}},
		{"Nats-Schedule-Next": {"purge"}, "Nats-Scheduler": {"sb.held.q._recur.one"}},
		{"Nats-Schedule-Rollup": {"sub"}, "Nats-Schedule-Source": {"sb.held.q._recur.one"}},
		{"Nats-Schedule-TTL": {"1s"}, "Nats-TTL": {"1s"}, "Nats-Msg-Id": {"x"}},
		{"Nats-Expected-Stream": {"SB_TASK_q"}, "Nats-Batch-Id": {"x"}, "Nats-Batch-Sequence": {"1"}},
		{"Nats-Schedule": {"@at 2020-01-01T00:00:00Z"}, "Nats-Schedule-Time-Zone": {"Europe/Atlantis"}},
		{"Nats-Schedule-Target": {"sb.due.q.2", "sb.held.q._recur.one"}, "nats-schedule-target": {"sb.held.q.alice.two"}},
	} {
		ok(t, mallory.recur("x", "mallory's", everySecond, h))
		m := o.bob.take("q", 2)
		if string(m.Data) != "mallory's" || m.Header.Get("Nats-Scheduler") != "sb.held.q._recur.x" {
			t.Errorf("%v: got %q of %v", h, m.Data, m.Header)
		}
		o.bob.settle(m, "+ACK")
		for name := range m.Header {
			if name != "Nats-Schedule-Next" && name != "Nats-Scheduler" && name != "Nats-Stream-Source" && name != "Sealbus-Schedule" {
				t.Errorf("%v: the template has the header %s", h, name)
			}
		}
	}
	mallory.unrecur("x")
	if got := o.held(); !slices.Contains(got, "_recur.one=alice's") || !slices.Contains(got, "alice.two=alice's") {
		t.Errorf("held are %q", got)
	}
}

// TestRecurringLimit: a queue has so many recurring tasks and no more, those asked for at once among them.
func TestRecurringLimit(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	mallory := o.agent(o.n, "mallory")
	const limit = 256
	errs := make(chan error)
	for i := range limit + 8 {
		go func() {
			m := recurRequest("mallory", fmt.Sprint("m", i), "mallory's", "0 7 29 2 * UTC", nil)
			_, err := mallory.js().PublishMsg(timeout(t), m)
			errs <- err
		}()
	}
	refused := 0
	for range limit + 8 {
		var e *jetstream.APIError
		if err := <-errs; errors.As(err, &e) && strings.Contains(e.Description, "limit is 256") {
			refused++
		} else {
			ok(t, err)
		}
	}
	list := mallory.recurs()
	var names []string
	for _, r := range list {
		name, _, _ := strings.Cut(r, "=")
		names = append(names, name)
	}
	if refused != 8 || len(list) != limit || !slices.IsSorted(names) {
		t.Fatalf("%d refused, %d listed", refused, len(list))
	}
	one := names[0]
	ok(t, o.alice.recur(one, "alice's", "0 7 29 2 * UTC", nil)) // in its place
	if err := o.alice.recur("new", "alice's", "0 7 29 2 * UTC", nil); err == nil {
		t.Error("one more than the limit")
	}
	o.alice.unrecur(one)
	ok(t, o.alice.recur("new", "alice's", "0 7 29 2 * UTC", nil))
}
