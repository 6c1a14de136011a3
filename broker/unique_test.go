package broker_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/policy"
)

const (
	oneClaim   = "00000000000000000000000000000001"
	otherClaim = "00000000000000000000000000000002"
)

// claim puts in a unique task behind what the claim is said to hold last.
func (c *client) claim(hash string, priority int, after uint64, task string) (uint64, error) {
	c.t.Helper()
	ack, err := c.js().Publish(timeout(c.t), policy.UniqueSubject("q", hash, priority), []byte(task),
		jetstream.WithExpectLastSequenceForSubject(after, policy.ClaimPattern("q", hash)))
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

// taken expects that a claim was refused because of what it holds.
func taken(t *testing.T, what string, err error) {
	t.Helper()
	var refused *jetstream.APIError
	if !errors.As(err, &refused) || refused.ErrorCode != 10071 {
		t.Errorf("%s: %v", what, err)
	}
}

// TestClaim: a claim takes one task after another, whatever the priority, and only behind the one that the enqueuer has seen; the tasks
// are handed out as others of their priority are.
func TestClaim(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.alice.enqueue("q", 0, "plain")
	first, err := o.alice.claim(oneClaim, 2, 0, "first")
	ok(t, err)
	_, err = o.alice.claim(otherClaim, 2, 0, "other")
	ok(t, err)
	_, err = o.alice.claim(oneClaim, 2, 0, "again")
	taken(t, "the same priority", err)
	_, err = o.alice.claim(oneClaim, 1, 0, "again")
	taken(t, "another priority", err)
	_, err = o.alice.claim(oneClaim, 2, first+1, "again")
	taken(t, "behind another's", err)
	stop(t, o.n)
	o.open()
	_, err = o.alice.claim(oneClaim, 0, 0, "again")
	taken(t, "after a restart", err)
	second, err := o.alice.claim(oneClaim, 0, first, "second")
	ok(t, err)
	_, err = o.alice.claim(oneClaim, 0, first, "again")
	taken(t, "behind the one before", err)
	if second <= first {
		t.Errorf("sequence %d after %d", second, first)
	}
	for _, want := range []struct {
		priority int
		subject  string
		task     string
	}{{0, "sb.task.q.0", "plain"}, {0, policy.UniqueSubject("q", oneClaim, 0), "second"}, {2, policy.UniqueSubject("q", oneClaim, 2), "first"}, {2, policy.UniqueSubject("q", otherClaim, 2), "other"}} {
		m := o.bob.take("q", want.priority)
		if string(m.Data) != want.task || m.Subject != want.subject {
			t.Errorf("priority %d: %q on %s, want %q on %s", want.priority, m.Data, m.Subject, want.task, want.subject)
		}
		o.bob.settle(m, "+ACK")
	}
	o.bob.nothing("q", 1)
}

// TestReadClaim: an enqueuer reads what a claim holds last.
func TestReadClaim(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	read := func() string {
		t.Helper()
		m, err := o.alice.RequestWithContext(timeout(t), policy.StreamGet("SB_TASK_q", policy.ClaimPattern("q", oneClaim)), nil)
		ok(t, err)
		return strings.Join([]string{m.Header.Get("Status"), m.Header.Get("Nats-Subject"), m.Header.Get("Nats-Sequence"), string(m.Data)}, " ")
	}
	if got := read(); got != "404   " {
		t.Errorf("of nothing: %q", got)
	}
	first, err := o.alice.claim(oneClaim, 3, 0, "first")
	ok(t, err)
	_, err = o.alice.claim(otherClaim, 3, 0, "other")
	ok(t, err)
	if got := read(); got != " "+policy.UniqueSubject("q", oneClaim, 3)+" 1 first" {
		t.Errorf("of one: %q", got)
	}
	_, err = o.alice.claim(oneClaim, 0, first, "second")
	ok(t, err)
	if got := read(); got != " "+policy.UniqueSubject("q", oneClaim, 0)+" 3 second" {
		t.Errorf("of two: %q", got)
	}
}

// TestTrimClaims: a unique task stays until it is settled and old, as others do; then its claim is free.
func TestTrimClaims(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	_, err := o.alice.claim(oneClaim, 2, 0, "first")
	ok(t, err)
	o.trim(later)
	o.wantLog("nobody has worked", "first")
	m := o.bob.take("q", 2)
	o.trim(later)
	o.wantLog("handed out", "first")
	o.bob.settle(m, "+ACK")
	o.trim(inTime)
	o.wantLog("settled, but not old", "first")
	_, err = o.alice.claim(oneClaim, 2, 0, "again")
	taken(t, "while it is in the log", err)
	o.trim(later)
	o.wantLog("settled and old")
	_, err = o.alice.claim(oneClaim, 1, 0, "second")
	ok(t, err)
	o.alice.enqueue("q", 2, "plain")
	o.bob.settle(o.bob.take("q", 2), "+ACK")
	o.trim(later)
	o.wantLog("one before it is not settled", "second", "plain")
}

// TestClaimsComeLater: a queue that was made before there were claims gets them, and loses nothing.
func TestClaimsComeLater(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.alice.enqueue("q", 2, "a", "b")
	o.bob.settle(o.bob.take("q", 2), "+ACK")
	isClaim := func(subject string) bool { return strings.HasPrefix(subject, "sb.unique.") }
	for p := range policy.Priorities {
		c := o.consumer("q", p).Config
		c.FilterSubjects = slices.DeleteFunc(c.FilterSubjects, isClaim)
		_, err := o.js.UpdateConsumer(timeout(t), logOf, c)
		ok(t, err)
	}
	s, err := o.js.Stream(timeout(t), logOf)
	ok(t, err)
	config := s.CachedInfo().Config
	config.Subjects = slices.DeleteFunc(config.Subjects, isClaim)
	_, err = o.js.UpdateStream(timeout(t), config)
	ok(t, err)
	if _, err := o.alice.claim(oneClaim, 2, 0, "early"); err == nil {
		t.Fatal("the queue takes claims already")
	}
	stop(t, o.n)
	o.open()
	_, err = o.alice.claim(oneClaim, 2, 0, "c")
	ok(t, err)
	for _, want := range []string{"b", "c"} {
		m := o.bob.take("q", 2)
		if string(m.Data) != want {
			t.Errorf("got %q, want %q", m.Data, want)
		}
		o.bob.settle(m, "+ACK")
	}
}
