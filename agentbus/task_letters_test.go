package agentbus_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/policy"
)

// kill enqueues tasks and has them die.
func kill(t testing.TB, w *bustest.World, planner *agentbus.Bus, n int, options ...agentbus.EnqueueOption) (ids []ulid.ULID) {
	t.Helper()
	list := make([]agentbus.NewTask, n)
	for i := range list {
		list[i] = agentbus.NewTask{Payload: fmt.Append(nil, i), Options: options}
	}
	handles, err := planner.EnqueueBatch(w.Ctx(), "work", list)
	bustest.Check(t, err)
	for _, h := range handles {
		var dead *agentbus.TaskError
		if _, err := h.Result(w.Ctx()); !errors.As(err, &dead) {
			t.Fatal(err)
		}
		ids = append(ids, h.ID())
	}
	return ids
}

// TestPurgeDeadLetters: an enqueuer removes one dead letter, or all. What the tasks came to stays, and nobody who may not
// enqueue there removes anything.
func TestPurgeDeadLetters(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, taskPolicy)
	planner, boss, exec := w.Agent("planner"), w.Agent("boss"), w.Agent("exec-1")
	_, err := exec.Work(w.Ctx(), "work", func(context.Context, *agentbus.Task) ([]byte, error) { return nil, agentbus.Cancel(errors.New("no")) })
	bustest.Check(t, err)
	ids := kill(t, w, planner, 4)
	bustest.Check(t, boss.PurgeDeadLetter(w.Ctx(), "work", ids[1]))
	if err := boss.PurgeDeadLetter(w.Ctx(), "work", ids[1]); !errors.Is(err, agentbus.ErrNoLetter) {
		t.Errorf("the same again: %v", err)
	}
	if _, err := planner.DeadLetter(w.Ctx(), "work", ids[1]); !errors.Is(err, agentbus.ErrNoLetter) {
		t.Errorf("it can still be read: %v", err)
	}
	for name, err := range map[string]error{
		"a worker purges one":                  exec.PurgeDeadLetter(w.Ctx(), "work", ids[0]),
		"a worker purges all":                  second(exec.PurgeDeadLetters(w.Ctx(), "work")),
		"an enqueuer of another queue, one":    boss.PurgeDeadLetter(w.Ctx(), "side", ids[0]),
		"an enqueuer of another queue, all":    second(boss.PurgeDeadLetters(w.Ctx(), "side")),
		"a worker asks for a task's attempts":  second(exec.Attempts(w.Ctx(), "work", ids[0])),
		"a worker ranges over dead letters":    first(exec, w),
		"an enqueuer of another queue, ranges": func() (err error) { _, err = boss.Attempts(w.Ctx(), "side", ids[0]); return err }(),
	} {
		if !errors.Is(err, agentbus.ErrNotEntitled) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A client without our checks is stopped by the server.
	raw := ownSoftware(t, w, "exec-1")
	bustest.Check(t, raw.Publish(policy.AskSubject("work", "exec-1", policy.AskPurge), []byte(`{"all":true}`)))
	bustest.Check(t, raw.Publish(policy.AskSubject("work", "planner", policy.AskPurge), []byte(`{"all":true}`)))
	bustest.Check(t, raw.Flush())
	if n, err := planner.PurgeDeadLetters(w.Ctx(), "work"); n != 3 || err != nil {
		t.Errorf("%d went, want 3: %v", n, err)
	}
	if list, err := planner.DeadLetters(w.Ctx(), "work"); len(list) != 0 || err != nil {
		t.Errorf("left are %d, %v", len(list), err)
	}
	if n := streamOf(t, w, policy.ResultStream("work")).Msgs; n != 4 {
		t.Errorf("%d results are left, want 4", n)
	}
	ids = kill(t, w, planner, 1) // the next ones are kept again
	if _, err := planner.DeadLetter(w.Ctx(), "work", ids[0]); err != nil {
		t.Error(err)
	}
	// It is on disk.
	bustest.Check(t, planner.PurgeDeadLetter(w.Ctx(), "work", ids[0]))
	w.Stop()
	w.Start()
	if list, err := planner.DeadLetters(w.Ctx(), "work"); len(list) != 0 || err != nil {
		t.Errorf("after a restart there are %d, %v", len(list), err)
	}
}

// first returns the error of a range over dead letters.
func first(b *agentbus.Bus, w *bustest.World) (last error) {
	for d, err := range b.AllDeadLetters(w.Ctx(), "work") {
		if last = err; d != nil {
			return fmt.Errorf("letter %s", d.ID)
		}
	}
	return last
}

// TestAllDeadLetters: a range goes over more letters than are read at once, in their order, and over what comes meanwhile.
func TestAllDeadLetters(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	_, err := exec.Work(w.Ctx(), "work", func(context.Context, *agentbus.Task) ([]byte, error) { return nil, agentbus.Cancel(nil) })
	bustest.Check(t, err)
	const many = 600
	kill(t, w, planner, many)
	want, err := planner.DeadLetters(w.Ctx(), "work")
	if err != nil || len(want) != many {
		t.Fatalf("%d letters: %v", len(want), err)
	}
	n := 0
	for d, err := range planner.AllDeadLetters(w.Ctx(), "work") {
		bustest.Check(t, err)
		if n < many && d.ID != want[n].ID {
			t.Fatalf("letter %d is %s, want %s", n, d.ID, want[n].ID)
		}
		if n++; n == 10 {
			kill(t, w, planner, 1)
		}
	}
	if n != many+1 {
		t.Errorf("%d letters, want %d", n, many+1)
	}
	for range planner.AllDeadLetters(w.Ctx(), "work") {
		n--
		break
	}
	if n != many {
		t.Error("it does not end when it is told to")
	}
	bustest.Check(t, planner.Close())
	if err := first(planner, w); !errors.Is(err, agentbus.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// TestHistory: a dead letter tells of every attempt, more than are looked up at once, and a living task's can be
// listed.
func TestHistory(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	_, err := exec.Work(w.Ctx(), "work", func(_ context.Context, t *agentbus.Task) ([]byte, error) {
		if string(t.Payload) == "lives" && t.Attempt == 3 {
			return nil, nil
		}
		return nil, fmt.Errorf("attempt %d", t.Attempt)
	}, agentbus.Concurrency(1))
	bustest.Check(t, err)
	const most = 140
	begin := time.Now().Add(-time.Millisecond)
	id := kill(t, w, planner, 1, agentbus.MaxAttempts(most), agentbus.Backoff(time.Millisecond, time.Millisecond))[0]
	d, err := planner.DeadLetter(w.Ctx(), "work", id)
	bustest.Check(t, err)
	check := func(list []agentbus.Attempt, n int) {
		t.Helper()
		if len(list) != n {
			t.Errorf("%d attempts, want %d", len(list), n)
		}
		before := begin
		for i, a := range list {
			if a.Number != i+1 || a.Text != fmt.Sprintf("attempt %d", i+1) || a.Worker != exec.Self() || a.Time.Before(before) {
				t.Errorf("attempt %d: %+v", i+1, a)
			}
			before = a.Time
		}
	}
	check(d.History, most)
	list, err := planner.Attempts(w.Ctx(), "work", id)
	bustest.Check(t, err)
	check(list, most-1)
	lives, err := planner.Enqueue(w.Ctx(), "work", []byte("lives"), agentbus.Backoff(time.Millisecond, time.Millisecond))
	bustest.Check(t, err)
	_, err = lives.Result(w.Ctx())
	bustest.Check(t, err)
	list, err = planner.Attempts(w.Ctx(), "work", lives.ID())
	bustest.Check(t, err)
	check(list, 2)
	if list, err := planner.Attempts(w.Ctx(), "work", ulid.Make()); err != nil || len(list) != 0 {
		t.Errorf("of no task: %v, %v", list, err)
	}
}

// TestJunkAttempts: enqueuers leave more notes of attempts at a task than the broker shows at once. It is worked on all the
// same, and none of them counts.
func TestJunkAttempts(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, `trust_domain: example.org
revision: 1
queues:
  work: {enqueue: [planner, "junk-*"], work: ["exec-*"]}
`)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	begun, release := make(chan struct{}, 4), make(chan struct{})
	_, err := exec.Work(w.Ctx(), "work", func(_ context.Context, t *agentbus.Task) ([]byte, error) {
		begun <- struct{}{}
		<-release
		if t.Attempt < 3 {
			return nil, errors.New("not yet")
		}
		return []byte("done"), nil
	})
	bustest.Check(t, err)
	task, err := planner.Enqueue(w.Ctx(), "work", nil, agentbus.MaxAttempts(64), agentbus.Backoff(time.Millisecond, time.Millisecond))
	bustest.Check(t, err)
	bustest.Receive(t, begun)
	const agents, each = 18, 64 // 1,152 under the very numbers that are looked up
	for a := range agents {
		name := fmt.Sprintf("junk-%d", a)
		nc := ownSoftware(t, w, name)
		for n := range each {
			for _, what := range []string{fmt.Sprintf("attempt.%s.%d", task.ID(), n+1), fmt.Sprintf("attempt.%s.%d", task.ID(), n+5000)} {
				bustest.Check(t, nc.PublishRequest(policy.ControlSubject("work", name, what), nc.NewInbox(), []byte("junk")))
			}
		}
		bustest.Check(t, nc.Flush())
	}
	eventually(t, "the junk is stored", func() bool { return streamOf(t, w, policy.ControlStream("work")).Msgs >= 2*agents*each })
	close(release)
	if m, err := task.Result(soon(t)); err != nil || string(m.Payload) != "done" {
		t.Errorf("junk has stopped the task: %v", err)
	}
	if list, err := planner.Attempts(w.Ctx(), "work", task.ID()); err != nil || len(list) != 2 {
		t.Errorf("%+v, %v", list, err)
	}
}
