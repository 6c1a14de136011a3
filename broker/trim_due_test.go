package broker_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/broker"
	"github.com/sealbus/sealbus/policy"
)

// TestTrimArrived: a delayed task that has come into the log is forgotten where it
// waited, and not before; and it does not come a second time.
func TestTrimArrived(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	ctx := timeout(t)
	due := func() []string {
		return slices.DeleteFunc(o.held(), func(m string) bool { return strings.HasPrefix(m, "alice.") })
	}
	ok(t, o.alice.delay("far", "far", inAnHour(), 0, nil))
	ok(t, o.alice.delay("now", "now", time.Now(), 1, nil))
	m := o.bob.take("q", 1)
	if got := due(); !slices.Equal(got, []string{"sb.due.q.1=now"}) {
		t.Errorf("before: %q", got)
	}
	o.trim(inTime)
	if got := due(); len(got) != 0 {
		t.Errorf("after: %q", got)
	}
	o.wantLog("arrived", "now")
	o.trim(later)
	o.wantLog("arrived, and not settled", "now")
	o.bob.settle(m, "+ACK")
	o.trim(later)
	o.wantLog("settled")
	stop(t, o.n)
	o.open()
	ok(t, o.alice.delay("next", "next", time.Now(), 1, nil))
	m = o.bob.take("q", 1)
	if string(m.Data) != "next" {
		t.Errorf("after a restart came %q", m.Data)
	}
	o.bob.settle(m, "+ACK")

	// What is due and cannot come into the log stays.
	s, err := o.js.Stream(ctx, logOf)
	ok(t, err)
	cut := s.CachedInfo().Config
	cut.Sources = nil
	_, err = o.js.UpdateStream(ctx, cut)
	ok(t, err)
	put := func(task string) {
		_, err := o.js.Publish(ctx, "sb.due.q.1", []byte(task))
		ok(t, err)
	}
	put("stuck")
	o.trim(inTime) // "next" is still in the log, and says how far it has come
	if got := due(); !slices.Equal(got, []string{"sb.due.q.1=stuck"}) {
		t.Errorf("cut off: %q", got)
	}
	// Also when its stream counts from one again, below what has come.
	ok(t, o.js.DeleteStream(ctx, "SB_DELAY_q"))
	for _, c := range broker.StreamsOf(o.n.Policy()) {
		if c.Name == "SB_DELAY_q" {
			_, err := o.js.CreateStream(ctx, c)
			ok(t, err)
		}
	}
	put("first of a new stream")
	o.trim(inTime)
	o.wantLog("made anew", "next")
	if got := due(); !slices.Equal(got, []string{"sb.due.q.1=first of a new stream"}) {
		t.Errorf("made anew: %q", got)
	}
}

// TestFullLog: a full log refuses tasks, and what falls due meanwhile comes when
// there is room again.
func TestFullLog(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	s, err := o.js.Stream(timeout(t), logOf)
	ok(t, err)
	full := s.CachedInfo().Config
	full.MaxMsgs = 2
	_, err = o.js.UpdateStream(timeout(t), full)
	ok(t, err)
	o.alice.enqueue("q", 0, "a", "b")
	var refused *jetstream.APIError
	if _, err := o.alice.js().Publish(timeout(t), policy.TaskSubject("q", 0), nil); !errors.As(err, &refused) || refused.ErrorCode != 10077 {
		t.Errorf("a third task: %v", err)
	}
	ok(t, o.alice.delay("c", "c", time.Now(), 1, nil))
	o.awaitHeld("sb.due.q.1=c") // and cannot come into the log
	for range 2 {
		o.bob.settle(o.bob.take("q", 0), "+ACK")
	}
	o.wantLog("full", "a", "b")
	o.trim(later)
	if got := o.held(); !slices.Contains(got, "sb.due.q.1=c") {
		t.Errorf("held are %q", got)
	}
	if m := o.bob.take("q", 1); string(m.Data) != "c" {
		t.Errorf("got %q", m.Data)
	}
}

// awaitHeld looks until something is in the stream of delayed tasks.
func (o *office) awaitHeld(want string) {
	o.t.Helper()
	for deadline := time.Now().Add(wait); !slices.Contains(o.held(), want); {
		if time.Now().After(deadline) {
			o.t.Fatalf("held are %q, want %q among them", o.held(), want)
		}
	}
}

// TestFirstDueAfterTrim: a task that fell due before the log's last task, while
// nothing has ever come from the delayed ones and the log no longer begins at its
// first task. Told nothing else, the server would go on from the log's last time
// and skip what is due.
func TestFirstDueAfterTrim(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.alice.enqueue("q", 0, "old")
	o.bob.settle(o.bob.take("q", 0), "+ACK")
	o.trim(later)
	o.wantLog("the log has been trimmed")
	s, err := o.js.Stream(timeout(t), logOf)
	ok(t, err)
	cut := s.CachedInfo().Config
	cut.Sources = nil
	_, err = o.js.UpdateStream(timeout(t), cut)
	ok(t, err)
	ok(t, o.alice.delay("due", "due", time.Now(), 1, nil))
	o.awaitHeld("sb.due.q.1=due")
	o.alice.enqueue("q", 0, "new")
	stop(t, o.n)
	o.open() // which brings the stream up to date
	if m := o.bob.take("q", 1); string(m.Data) != "due" {
		t.Errorf("got %q", m.Data)
	}
}
