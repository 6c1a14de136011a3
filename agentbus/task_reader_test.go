package agentbus_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/policy"
)

const readerPolicy = `trust_domain: example.org
revision: 1
queues:
  work: {enqueue: [planner], work: ["exec-*"], read: [clerk], audit: [witness]}
  side: {enqueue: [planner], work: [clerk, "exec-*"]}
direct:
  - {from: [planner], to: ["*"]}
`

// TestReaderIsNoWorker: who may only read or audit a queue takes no part in it.
func TestReaderIsNoWorker(t *testing.T) {
	w := bustest.New(t, readerPolicy)
	planner := w.Agent("planner")
	every := agentbus.Every(time.Hour)
	for _, name := range []string{"clerk", "witness"} {
		b := w.Agent(name)
		for what, call := range map[string]func() error{
			"works":          func() error { return second(b.Work(w.Ctx(), "work", upper)) },
			"enqueues":       func() error { return second(b.Enqueue(w.Ctx(), "work", nil)) },
			"recurs":         func() error { return b.Recur(w.Ctx(), "work", "x", every, nil) },
			"removes":        func() error { return b.RemoveRecurring(w.Ctx(), "work", "x") },
			"lists":          func() error { return second(b.Recurring(w.Ctx(), "work")) },
			"asks":           func() error { return second(b.QueueInfo(w.Ctx(), "work")) },
			"limits":         func() error { return b.LimitQueue(w.Ctx(), "work", agentbus.QueueLimits{Running: 1}) },
			"pauses":         func() error { return b.PauseQueue(w.Ctx(), "work") },
			"purges letters": func() error { return second(b.PurgeDeadLetters(w.Ctx(), "work")) },
			"cancels":        func() error { return handle(t, b).Cancel(w.Ctx(), "") },
			"waits":          func() error { return second(handle(t, b).Result(w.Ctx())) },
		} {
			if err := call(); !errors.Is(err, agentbus.ErrNotEntitled) {
				t.Errorf("%s %s: %v", name, what, err)
			}
		}
	}
	// Nor beside a queue that is its own.
	clerk := w.Agent("clerk")
	if _, err := clerk.Work(w.Ctx(), "side", upper, agentbus.AlsoQueue("work", 1)); !errors.Is(err, agentbus.ErrNotEntitled) {
		t.Errorf("clerk works on both: %v", err)
	}
	_, err := clerk.Work(w.Ctx(), "side", upper)
	bustest.Check(t, err)
	task, err := planner.Enqueue(w.Ctx(), "side", []byte("a"))
	bustest.Check(t, err)
	_, err = task.Result(w.Ctx())
	bustest.Check(t, err)
}

// TestWorkerBecomesReader: a worker that from now on may only read runs no task that the broker still gives it, although it
// could open it, and none is lost by that.
func TestWorkerBecomesReader(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, readerPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	var ran atomic.Int64
	former, err := exec.Work(w.Ctx(), "work", func(context.Context, *agentbus.Task) ([]byte, error) { ran.Add(1); return nil, nil })
	bustest.Check(t, err)
	publishPolicy(t, w, `trust_domain: example.org
revision: 2
queues:
  work: {enqueue: [planner], work: [exec-2], read: [exec-1], audit: [witness]}
`, planner, exec)
	task, err := planner.Enqueue(w.Ctx(), "work", []byte("a"))
	bustest.Check(t, err)
	eventually(t, "the task is with who worked before", func() bool {
		i, err := planner.QueueInfo(w.Ctx(), "work")
		return err == nil && i.Out == 1
	})
	_, err = w.Agent("exec-2").Work(w.Ctx(), "work", upper)
	bustest.Check(t, err)
	m, err := task.Result(w.Ctx())
	bustest.Check(t, err)
	if m.Sender.Name() != "exec-2" || ran.Load() != 0 || streamOf(t, w, policy.DeadStream("work")).Msgs != 0 {
		t.Errorf("the result is of %s; the former worker has run %d tasks", m.Sender.Name(), ran.Load())
	}
	if s := former.Stats(); s.Succeeded+s.Dead+s.Failed != 0 {
		t.Errorf("%+v", s)
	}
}

func handle(t *testing.T, b *agentbus.Bus) *agentbus.TaskHandle {
	t.Helper()
	h, err := b.Task("work", ulid.Make())
	bustest.Check(t, err)
	return h
}
