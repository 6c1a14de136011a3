package broker_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/policy"
)

// ask asks about a queue in the client's own name.
func (c *client) ask(queue, what, body string) ([]byte, error) {
	c.t.Helper()
	m, err := c.RequestWithContext(timeout(c.t), policy.AskSubject(queue, c.name, what), []byte(body))
	if err != nil {
		return nil, err
	}
	return m.Data, nil
}

func (c *client) info(queue string) (s policy.QueueState) {
	c.t.Helper()
	raw, err := c.ask(queue, policy.AskInfo, "")
	ok(c.t, err)
	ok(c.t, json.Unmarshal(raw, &s))
	if s.Error != "" {
		c.t.Fatal(s.Error)
	}
	return s
}

func (c *client) purge(body string) (a policy.PurgeAnswer) {
	c.t.Helper()
	raw, err := c.ask("q", policy.AskPurge, body)
	ok(c.t, err)
	ok(c.t, json.Unmarshal(raw, &a))
	return a
}

// TestQueueState: what is asked of the node says of each priority what waits, what is out and since when the oldest
// is there, and of each stream how full it is.
func TestQueueState(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	if s := o.bob.info("q"); s != (policy.QueueState{}) {
		t.Errorf("of an empty queue: %+v", s)
	}
	begin := time.Now()
	o.alice.enqueue("q", 1, "a", "b", "c")
	o.alice.enqueue("q", 3, "d")
	ok(t, o.alice.delay("one", "later", inAnHour(), 2, nil))
	ok(t, o.alice.delay("one", "later, again", inAnHour(), 2, nil))
	ok(t, o.alice.delay("two", "later", inAnHour(), 2, nil))
	ok(t, o.alice.delay("past", "now", time.Now(), 0, nil))
	due := o.bob.take("q", 0)
	o.bob.settle(due, "+ACK")
	out := o.bob.take("q", 1)
	second := o.bob.take("q", 1)
	o.bob.settle(second, "+ACK")
	o.bob.put(policy.ResultSubject("q", ulid.Make().String()), "result")
	o.bob.put(policy.DeadSubject("q", ulid.Make().String()), "letter")
	o.bob.put(policy.ControlSubject("q", "bob", "x"), "control")
	for _, c := range []*client{o.alice, o.bob} {
		s := c.info("q")
		if p := s.Priorities[1]; p.Pending != 1 || p.Out != 1 || p.Oldest.Before(begin.Add(-time.Second)) || p.Oldest.After(time.Now()) {
			t.Errorf("priority 1: %+v", p)
		}
		if p := s.Priorities[3]; p.Pending != 1 || p.Out != 0 || p.Oldest.Before(s.Priorities[1].Oldest) {
			t.Errorf("priority 3: %+v", p)
		}
		for _, p := range []int{0, 2} {
			if s.Priorities[p] != (policy.PriorityState{}) {
				t.Errorf("priority %d: %+v", p, s.Priorities[p])
			}
		}
		if s.Delayed != 2 {
			t.Errorf("%d delayed, want 2", s.Delayed)
		}
		for what, state := range map[string]policy.StreamState{"dead": s.Dead, "results": s.Results, "controls": s.Controls} {
			if state.Messages != 1 || state.Bytes == 0 || state.MaxBytes != 0 {
				t.Errorf("%s: %+v", what, state)
			}
		}
		if s.Log.Messages != 5 {
			t.Errorf("the log: %+v", s.Log)
		}
	}
	// What is given back with a delay is out; and one that a worker settles is not.
	o.bob.settle(out, `-NAK {"delay": 60000000000}`)
	if p := o.bob.info("q").Priorities[1]; p.Pending != 1 || p.Out != 1 || p.Oldest.IsZero() {
		t.Errorf("one waits for its retry: %+v", p)
	}
	stream, err := o.js.Stream(timeout(t), policy.TaskStream("q"))
	ok(t, err)
	config := stream.CachedInfo().Config
	config.MaxBytes, config.MaxMsgs = 1<<20, 1000
	_, err = o.js.UpdateStream(timeout(t), config)
	ok(t, err)
	if s := o.alice.info("q").Log; s.MaxBytes != 1<<20 || s.MaxMessages != 1000 {
		t.Errorf("with limits: %+v", s)
	}
}

// TestPurgeDead: an enqueuer has the node remove one dead letter, or all, and nothing but dead letters of its queue.
func TestPurgeDead(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	dave := o.agent(o.n, "dave")
	ids := []string{ulid.Make().String(), ulid.Make().String(), ulid.Make().String()}
	for _, id := range ids {
		o.bob.put(policy.DeadSubject("q", id), "letter")
		o.bob.put(policy.ResultSubject("q", id), "result")
		dave.put(policy.DeadSubject("other", id), "letter")
	}
	before := func() (n [3]int) {
		for i, stream := range []string{"SB_DEAD_q", "SB_RESULT_q", "SB_DEAD_other"} {
			n[i] = len(contents(t, o.js, stream))
		}
		return n
	}
	for _, body := range []string{"", "{}", "null", "[]", `{"id":""}`, `{"id":"*"}`, `{"id":">"}`, `{"id":"` + ids[0] + `","all":true}`, `{"id":"` + ids[0] + `.x"}`,
		`{"id":"` + strings.ToLower(ids[0]) + `"}`, `{"all":false}`, `{"all":"true"}`, `{"all":true}` + strings.Repeat(" ", 1000), `{"all":true`} {
		if a := o.alice.purge(body); a.Error == "" || a.Purged != 0 {
			t.Errorf("%.60s: %+v", body, a)
		}
	}
	if n := before(); n != [3]int{3, 3, 3} {
		t.Fatalf("after requests that are none: %v", n)
	}
	if a := o.alice.purge(`{"id":"` + ids[1] + `"}`); a != (policy.PurgeAnswer{Purged: 1}) {
		t.Errorf("one: %+v", a)
	}
	if a := o.alice.purge(`{"id":"` + ids[1] + `"}`); a != (policy.PurgeAnswer{}) {
		t.Errorf("the same again: %+v", a)
	}
	if got, want := contents(t, o.js, "SB_DEAD_q"), []string{policy.DeadSubject("q", ids[0]) + "=letter", policy.DeadSubject("q", ids[2]) + "=letter"}; !slices.Equal(got, want) {
		t.Errorf("left are %q", got)
	}
	if a := o.alice.purge(`{"all":true}`); a != (policy.PurgeAnswer{Purged: 2}) {
		t.Errorf("all: %+v", a)
	}
	if a := o.alice.purge(`{"all":true}`); a != (policy.PurgeAnswer{}) {
		t.Errorf("all of none: %+v", a)
	}
	if n := before(); n != [3]int{0, 3, 3} {
		t.Errorf("left are %v", n)
	}
}

// TestAskRefuses: the server lets nobody ask in another's name, of another queue, or for more than its part; and where
// it did, the inspector would not answer.
func TestAskRefuses(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.bob.put(policy.DeadSubject("q", ulid.Make().String()), "letter")
	for _, c := range []struct{ agent, what string }{
		{"bob", policy.AskPurge}, {"carol", policy.AskInfo}, {"carol", policy.AskPurge}, {"dave", policy.AskInfo}, {"nobody", policy.AskInfo}, {"rita", policy.AskInfo}, {"rita", policy.AskPurge}, {"alice", "x"}, {"*", policy.AskPurge},
	} {
		m, err := o.js.Conn().RequestWithContext(timeout(t), policy.AskSubject("q", c.agent, c.what), []byte(`{"all":true}`))
		ok(t, err)
		var a policy.PurgeAnswer
		ok(t, json.Unmarshal(m.Data, &a))
		if a.Error == "" || a.Purged != 0 {
			t.Errorf("%s asks for %s: %s", c.agent, c.what, m.Data)
		}
	}
	carol := o.agent(o.n, "carol")
	for c, subjects := range map[*client][]string{
		o.bob: {policy.AskSubject("q", "bob", policy.AskPurge), policy.AskSubject("q", "alice", policy.AskPurge), policy.AskSubject("other", "bob", policy.AskInfo)},
		carol: {policy.AskSubject("q", "carol", policy.AskPurge), policy.AskSubject("q", "carol", policy.AskInfo), policy.AskSubject("q", "alice", policy.AskPurge)},
	} {
		for _, subject := range subjects {
			ok(t, c.Publish(subject, []byte(`{"all":true}`)))
			ok(t, c.FlushWithContext(timeout(t)))
			select {
			case err := <-c.errs:
				if !strings.Contains(fmt.Sprint(err), "ermissions") {
					t.Errorf("%s on %s: %v", c.name, subject, err)
				}
			case <-time.After(wait):
				t.Errorf("%s may ask on %s", c.name, subject)
			}
		}
	}
	if n := len(contents(t, o.js, "SB_DEAD_q")); n != 1 {
		t.Errorf("%d dead letters are left, want 1", n)
	}
}
