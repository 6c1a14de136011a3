package agentbus_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// counting is a handler that counts how often each task is worked on.
func counting(runs *atomic.Int64) agentbus.TaskHandler {
	return func(ctx context.Context, t *agentbus.Task) ([]byte, error) {
		runs.Add(1)
		return upper(ctx, t)
	}
}

// TestReplayedTasks: a broker that puts settled tasks into the log again, or loses what it knows of them, has no handler
// see them: not of the same worker, not of another, not after a restart. One that is not settled is worked on.
func TestReplayedTasks(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	js := ownerOf(t, w)
	var runs atomic.Int64
	worker, err := exec.Work(w.Ctx(), "work", counting(&runs))
	bustest.Check(t, err)
	task, err := planner.Enqueue(w.Ctx(), "work", []byte("x"))
	bustest.Check(t, err)
	_, err = task.Result(w.Ctx())
	bustest.Check(t, err)
	frame := storedTask(t, w, js, 1).Data
	settled := func(worker *agentbus.Worker, n uint64, how string) {
		t.Helper()
		eventually(t, how, func() bool { return worker.Stats().Settled >= n })
		bustest.Check(t, second(planner.Enqueue(w.Ctx(), "side", nil))) // nothing to do with it
		if runs.Load() != 1 {
			t.Fatalf("%s: %d runs", how, runs.Load())
		}
	}
	replay := func() {
		t.Helper()
		_, err := js.Publish(w.Ctx(), policy.TaskSubject("work", agentbus.DefaultPriority), frame)
		bustest.Check(t, err)
	}
	replay()
	settled(worker, 1, "replayed to the same worker")
	forgetConsumers(t, w, js, "work")
	settled(worker, 3, "the consumer is lost") // the task and its replay
	other, err := w.Agent("exec-2").Work(w.Ctx(), "work", counting(&runs))
	bustest.Check(t, err)
	bustest.Check(t, worker.Stop())
	replay()
	settled(other, 1, "replayed to another worker")
	again, err := exec.Work(w.Ctx(), "work", counting(&runs))
	bustest.Check(t, err)
	bustest.Check(t, other.Stop())
	replay()
	settled(again, 1, "replayed to a worker that began later")
	w.Stop()
	w.Start()
	forgetConsumers(t, w, ownerOf(t, w), "work")
	settled(again, 5, "the broker was restarted and has lost its consumers")
	next, err := planner.Enqueue(w.Ctx(), "work", []byte("y"))
	bustest.Check(t, err)
	_, err = next.Result(w.Ctx())
	bustest.Check(t, err)
}

// TestRedelivered: a task that was handed out and not settled is worked on by another worker too, with nothing counted
// against it. The worker that has it goes on with it when it is handed out to itself.
func TestRedelivered(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	js := ownerOf(t, w)
	begun, release := make(chan int, 4), make(chan struct{})
	var workers []*agentbus.Worker
	for _, b := range []*agentbus.Bus{exec, w.Agent("exec-2")} {
		worker, err := b.Work(w.Ctx(), "work", func(ctx context.Context, t *agentbus.Task) ([]byte, error) {
			begun <- t.Attempt
			<-release
			return fmt.Appendf(nil, "attempt %d", t.Attempt), nil
		})
		bustest.Check(t, err)
		workers = append(workers, worker)
	}
	// The broker's own idea of a lease is shorter than the worker's: it hands the task out while it is being worked on.
	changeConsumers(t, w, js, "work", func(c *jetstream.ConsumerConfig) { c.AckWait = time.Second })
	task, err := planner.Enqueue(w.Ctx(), "work", nil, agentbus.MaxAttempts(1))
	bustest.Check(t, err)
	for range 2 {
		if n := bustest.Receive(t, begun); n != 1 {
			t.Errorf("attempt %d", n)
		}
	}
	close(release)
	m, err := task.Result(w.Ctx())
	bustest.Check(t, err)
	if string(m.Payload) != "attempt 1" {
		t.Errorf("%q", m.Payload)
	}
	var succeeded, late uint64
	for _, worker := range workers {
		bustest.Check(t, worker.Stop())
		s := worker.Stats()
		succeeded, late = succeeded+s.Succeeded, late+s.Late
		if s.Failed != 0 {
			t.Errorf("%+v", s)
		}
	}
	bustest.Empty(t, begun)
	if succeeded != 1 || late != 1 {
		t.Errorf("%d results are recorded and %d dropped, want one of each", succeeded, late)
	}
}

// TestBatchIsWhole: of tasks that are enqueued together all or none are stored, and their handles are in order.
func TestBatchIsWhole(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	js := ownerOf(t, w)
	s, err := js.Stream(w.Ctx(), policy.TaskStream("work"))
	bustest.Check(t, err)
	config := s.CachedInfo().Config
	config.MaxMsgs = 11 // a session note, and seven for the batch
	_, err = js.UpdateStream(w.Ctx(), config)
	bustest.Check(t, err)
	list := make([]agentbus.NewTask, 100)
	for i := range list {
		list[i].Payload = fmt.Appendf(nil, "task %d", i)
	}
	handles, err := planner.EnqueueBatch(w.Ctx(), "work", list)
	bustest.Check(t, err)
	if some, err := planner.EnqueueBatch(w.Ctx(), "work", list); err == nil || len(some) != len(list) || stored(some) != 0 {
		t.Errorf("into a full stream: %d handles, %v", stored(some), err)
	}
	if n := storedTasks(t, w); n != 100 {
		t.Errorf("%d tasks are stored", n)
	}
	config.MaxMsgs = -1
	_, err = js.UpdateStream(w.Ctx(), config)
	bustest.Check(t, err)
	// Cut off in between, again and again.
	for range 10 {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = planner.Conn().ForceReconnect()
		}()
		some, err := planner.EnqueueBatch(w.Ctx(), "work", list)
		<-ended
		bustest.Check(t, err)
		handles = append(handles, some...)
	}
	if n := storedTasks(t, w); n != 1100 {
		t.Errorf("%d tasks are stored", n)
	}
	_, err = exec.Work(w.Ctx(), "work", upper)
	bustest.Check(t, err)
	for i, h := range handles {
		m, err := h.Result(w.Ctx())
		bustest.Check(t, err)
		if string(m.Payload) != fmt.Sprintf("TASK %d", i%100) {
			t.Fatalf("handle %d is that of %q", i, m.Payload)
		}
	}
}

// TestTasksOverRestart: a broker goes away and comes back while tasks are enqueued, worked on and waited for.
func TestTasksOverRestart(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, taskPolicy)
	dir := t.TempDir()
	connect := func() *agentbus.Bus {
		c := w.Config("planner")
		var err error
		c.Keyring, err = keyring.Open(dir, keyring.Passphrase("correct horse battery staple"), w.Operator.Fingerprint())
		bustest.Check(t, err)
		return w.Connect(c)
	}
	planner, exec := connect(), w.Agent("exec-1")
	begun, release := make(chan struct{}, 64), make(chan struct{})
	var runs atomic.Int64
	_, err := exec.Work(w.Ctx(), "work", func(ctx context.Context, t *agentbus.Task) ([]byte, error) {
		runs.Add(1)
		begun <- struct{}{}
		<-release
		return upper(ctx, t)
	})
	bustest.Check(t, err)
	ctx := w.Ctx()
	first, err := planner.Enqueue(ctx, "work", []byte("first"))
	bustest.Check(t, err)
	bustest.Receive(t, begun)
	results := make(chan string, 64)
	wait := func(h *agentbus.TaskHandle) {
		m, err := h.Result(ctx)
		if err != nil {
			results <- err.Error()
			return
		}
		results <- string(m.Payload)
	}
	held := waits(t, w, planner, first)
	w.Stop()
	eventually(t, "the loss is noticed", func() bool { return !planner.Connected() && !exec.Connected() })
	enqueued := make(chan error, 10)
	for range 10 {
		go func() {
			h, err := planner.Enqueue(ctx, "work", []byte("away"))
			enqueued <- err
			if err == nil {
				wait(h)
			}
		}()
	}
	go wait(first) // asked for while there is no broker
	close(release) // the result has nowhere to go yet
	w.Start()
	for range 10 {
		bustest.Check(t, bustest.Receive(t, enqueued))
	}
	count := make(map[string]int)
	count[bustest.Receive(t, held)]++
	for range 11 {
		count[bustest.Receive(t, results)]++
	}
	if count["FIRST"] != 2 || count["AWAY"] != 10 {
		t.Errorf("results: %v", count)
	}
	if n := storedTasks(t, w); n != 11 {
		t.Errorf("%d tasks are stored, want 11", n)
	}
	// The producer's own restart: the id is all that it needs.
	bustest.Check(t, planner.Close())
	later, err := connect().Task("work", first.ID())
	bustest.Check(t, err)
	if m, err := later.Result(w.Ctx()); err != nil || string(m.Payload) != "FIRST" {
		t.Errorf("by its id: %v", err)
	}
}

// TestResultWaitsEnd: waiting for a result ends with its context, and with the bus.
func TestResultWaitsEnd(t *testing.T) {
	w := bustest.New(t, taskPolicy)
	planner := w.Agent("planner")
	task, err := planner.Enqueue(w.Ctx(), "work", nil)
	bustest.Check(t, err)
	ctx, cancel := context.WithCancel(w.Ctx())
	errs := make(chan error, 2)
	go func() { errs <- second(task.Result(ctx)) }()
	cancel()
	if err := bustest.Receive(t, errs); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	before := planner.Conn().NumSubscriptions()
	go func() { errs <- second(task.Result(w.Ctx())) }()
	eventually(t, "it waits", func() bool { return planner.Conn().NumSubscriptions() > before })
	bustest.Check(t, planner.Close())
	if err := bustest.Receive(t, errs); !errors.Is(err, agentbus.ErrClosed) {
		t.Errorf("%v", err)
	}
	for name, err := range map[string]error{
		"Enqueue": second(planner.Enqueue(w.Ctx(), "work", nil)), "Result": second(task.Result(w.Ctx())),
		"EnqueueBatch": second(planner.EnqueueBatch(w.Ctx(), "work", make([]agentbus.NewTask, 1))), "DeadLetters": second(planner.DeadLetters(w.Ctx(), "work")),
	} {
		if !errors.Is(err, agentbus.ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
}
