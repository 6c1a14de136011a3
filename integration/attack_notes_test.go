package integration_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

func noteOf(agent string, task ulid.ULID, n int) string {
	return policy.ControlSubject("jobs", agent, fmt.Sprintf("%s.%s.%d", policy.ControlAttempt, task, n))
}

// TestForgedAttempts: the broker cannot use up a task's attempts by notes of its own, by those of other tasks or numbers,
// nor by anything else that workers have sealed; and none of that stands in the task's history.
func TestForgedAttempts(t *testing.T) {
	t.Parallel()
	w := newTaskWorld(t)
	begun, release := make(chan int, 8), make(chan struct{})
	worker, err := w.bob.Work(w.Ctx(), "jobs", func(_ context.Context, t *agentbus.Task) ([]byte, error) {
		switch {
		case string(t.Payload) == "other":
			return nil, errors.New("other")
		case t.Attempt == 4:
			return []byte("done: target"), nil
		}
		begun <- t.Attempt
		<-release
		return nil, fmt.Errorf("attempt %d", t.Attempt)
	})
	bustest.Check(t, err)
	quick := agentbus.Backoff(time.Millisecond, time.Millisecond)
	other := w.enqueue("jobs", "other", agentbus.MaxAttempts(3), quick)
	var dead *agentbus.TaskError
	if _, err := other.Result(w.Ctx()); !errors.As(err, &dead) {
		t.Fatal(err)
	}
	target := w.enqueue("jobs", "target", agentbus.MaxAttempts(8), quick)
	id := target.ID()
	if n := bustest.Receive(t, begun); n != 1 {
		t.Fatalf("attempt %d", n)
	}
	// Bob has failed at something that claims to be the target: a letter with its id, signed.
	bad := edited(t, w.taskFrame("jobs"), func(f *envelope.Frame) { f.Ciphertext[20] ^= 1 })
	w.insert(policy.TaskSubject("jobs", agentbus.DefaultPriority), bad)
	awaitStats(t, worker, func(s agentbus.WorkStats) bool { return s.Dead == 2 })
	theirs := w.lastOf(policy.ControlStream("jobs"), noteOf("bob", other.ID(), 1))
	letter := w.lastOf(policy.DeadStream("jobs"), policy.DeadSubject("jobs", "*"))
	if parse(t, letter).Ref != id {
		t.Fatal("the last letter is another's, and this test shows nothing")
	}
	for n, frame := range [][]byte{[]byte("junk"), theirs, edited(t, theirs, func(f *envelope.Frame) { f.Ref = id }), letter, edited(t, letter, func(f *envelope.Frame) { f.Kind = envelope.KindControl }), w.taskFrame("jobs"), nil} {
		w.insert(noteOf("bob", id, n+2), frame)
	}
	release <- struct{}{}
	if n := bustest.Receive(t, begun); n != 2 {
		t.Errorf("after forged notes it is attempt %d, want 2", n)
	}
	// Its own first note, under every other number.
	own := w.lastOf(policy.ControlStream("jobs"), noteOf("bob", id, 1))
	for n := 2; n <= 8; n++ {
		w.insert(noteOf("bob", id, n), own)
	}
	w.insert(noteOf("alice", id, 1), own)
	release <- struct{}{}
	if n := bustest.Receive(t, begun); n != 3 {
		t.Errorf("after its own note was copied it is attempt %d, want 3", n)
	}
	list, err := w.alice.Attempts(w.Ctx(), "jobs", id)
	if err != nil || len(list) != 2 || list[0].Text != "attempt 1" || list[1].Text != "attempt 2" || list[1].Number != 2 {
		t.Errorf("%+v, %v", list, err)
	}
	close(release)
	w.done(target, "target")
	d, err := w.alice.DeadLetter(w.Ctx(), "jobs", other.ID())
	if err != nil || len(d.History) != 3 {
		t.Errorf("%+v, %v", d, err)
	}
}

// TestForgedPresence: the broker makes up no worker, brings none back that has stopped, and gives none another's name or age.
func TestForgedPresence(t *testing.T) {
	t.Parallel()
	w := newTaskWorld(t)
	worker := w.work()
	listed := func() []agentbus.WorkerInfo {
		t.Helper()
		i, err := w.alice.QueueInfo(w.Ctx(), "jobs")
		bustest.Check(t, err)
		return i.Workers
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	var list []agentbus.WorkerInfo
	for end := time.After(bustest.Timeout); len(list) == 0; list = listed() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatal("no worker is listed")
		}
	}
	instance := list[0].Instance
	under := func(queue, agent string, instance ulid.ULID) string {
		return policy.ControlSubject(queue, agent, policy.ControlPresence+"."+instance.String())
	}
	genuine := w.lastOf(policy.ControlStream("jobs"), under("jobs", "bob", instance))
	second := ulid.Make()
	flipped := bytes.Clone(genuine)
	flipped[len(flipped)-1] ^= 1
	for subject, frame := range map[string][]byte{
		under("jobs", "bob", second):                       genuine, // as another worker
		under("jobs", "alice", instance):                   genuine, // as another agent's
		under("jobs", "bob", ulid.Make()):                  []byte("junk"),
		under("jobs", "bob", ulid.Make()):                  flipped,
		under("jobs", "bob", ulid.Make()):                  edited(t, genuine, func(f *envelope.Frame) { f.Sender = bytes.Replace(f.Sender, []byte("bob"), []byte("carol"), 1) }),
		under("jobs", "bob", ulid.Make()):                  nil,
		under("other", "bob", instance):                    genuine, // at another queue
		policy.ControlSubject("jobs", "bob", "presence.x"): genuine,
	} {
		w.insert(subject, frame)
	}
	before := w.alice.Stats().Rejected
	if list := listed(); len(list) != 1 || list[0].Instance != instance || list[0].Agent != w.bob.Self() {
		t.Errorf("%+v", list)
	}
	after := w.alice.Stats().Rejected
	for _, reason := range []keyring.Reason{keyring.Misdirected, keyring.Malformed, keyring.BadSignature} {
		if after[reason] == before[reason] {
			t.Errorf("nothing was rejected as %s", reason)
		}
	}
	bustest.Check(t, worker.Stop())
	if list := listed(); len(list) != 0 {
		t.Errorf("after its end: %+v", list)
	}
	// A sign of life in another's place does not hide that it has stopped.
	gone := w.lastOf(policy.ControlStream("jobs"), under("jobs", "bob", instance))
	w.insert(under("jobs", "bob", second), gone)
	next := w.work()
	for end := time.After(bustest.Timeout); len(list) != 1 || list[0].Instance == instance; list = listed() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("the second worker is not listed: %+v", list)
		}
	}
	w.insert(under("jobs", "bob", list[0].Instance), gone) // the first one's goodbye in the second one's place hides it, and no more
	if list := listed(); len(list) != 0 {
		t.Errorf("another's goodbye: %+v", list)
	}
	bustest.Check(t, next.Stop())
}
