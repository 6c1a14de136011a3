package agentbus_test

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
)

// gauge counts what goes on at a time.
type gauge struct{ now, most, runs atomic.Int64 }

func (g *gauge) enter() {
	n := g.now.Add(1)
	g.runs.Add(1)
	for most := g.most.Load(); n > most && !g.most.CompareAndSwap(most, n); most = g.most.Load() {
	}
}

func (g *gauge) leave() { g.now.Add(-1) }

// brief is a handler that takes a moment.
func (g *gauge) brief(_ context.Context, _ *agentbus.Task) ([]byte, error) {
	g.enter()
	defer g.leave()
	for range 1000 { // of work
		_ = time.Now()
	}
	return nil, nil
}

// awaitLimits waits until workers have heard of a queue's limits.
func awaitLimits(t testing.TB, queue string, l agentbus.QueueLimits, workers ...*agentbus.Worker) {
	t.Helper()
	for _, worker := range workers {
		eventually(t, "the limits in force", func() bool { return worker.Limits(queue) == l })
	}
}

// TestRunningLimit: over two workers of eight handlers each never more than three tasks run, and all are done. Where there is
// nothing left to do no slot is kept.
func TestRunningLimit(t *testing.T) {
	const tasks, limit = 400, 3
	w := bustest.New(t, taskPolicy)
	planner := w.Agent("planner")
	limits := agentbus.QueueLimits{Running: limit}
	bustest.Check(t, planner.LimitQueue(w.Ctx(), "work", limits))
	var g gauge
	var workers []*agentbus.Worker
	for _, name := range []string{"exec-1", "exec-2"} {
		worker, err := w.Agent(name).Work(w.Ctx(), "work", g.brief, agentbus.Concurrency(8))
		bustest.Check(t, err)
		if worker.Limits("work") != limits {
			t.Error("a worker that begins does not know the limits")
		}
		workers = append(workers, worker)
	}
	handles, err := planner.EnqueueBatch(w.Ctx(), "work", make([]agentbus.NewTask, tasks))
	bustest.Check(t, err)
	for _, h := range handles {
		_, err := h.Result(w.Ctx())
		bustest.Check(t, err)
	}
	if most, runs := g.most.Load(), g.runs.Load(); most > limit || runs != tasks {
		t.Errorf("%d tasks ran at a time, the limit is %d; %d runs of %d", most, limit, runs, tasks)
	}
	for _, worker := range workers {
		eventually(t, "no slot is kept", func() bool { return worker.Slots("work") == 0 })
	}
	t.Logf("%+v, %+v", workers[0].Stats(), workers[1].Stats())
}

// TestRunningLimitIsUsed: as many tasks run as may, over workers that have fewer handlers than that each, and no more when more
// workers come. A limit that is raised lets more begin at once; one that is lowered holds for those that begin then.
func TestRunningLimitIsUsed(t *testing.T) {
	w := bustest.New(t, taskPolicy)
	planner := w.Agent("planner")
	var g gauge
	begun, release := make(chan struct{}, 100), make(chan struct{})
	handler := func(context.Context, *agentbus.Task) ([]byte, error) {
		g.enter()
		defer g.leave()
		begun <- struct{}{}
		<-release
		return nil, nil
	}
	var workers []*agentbus.Worker
	for _, name := range []string{"exec-1", "exec-2", "exec-3"} {
		worker, err := w.Agent(name).Work(w.Ctx(), "work", handler, agentbus.Concurrency(2))
		bustest.Check(t, err)
		workers = append(workers, worker)
	}
	free := sync.OnceFunc(func() { close(release) })
	t.Cleanup(free)
	limit := func(running int) {
		l := agentbus.QueueLimits{Running: running}
		bustest.Check(t, planner.LimitQueue(w.Ctx(), "work", l))
		awaitLimits(t, "work", l, workers...)
	}
	limit(3)
	handles, err := planner.EnqueueBatch(w.Ctx(), "work", make([]agentbus.NewTask, 12))
	bustest.Check(t, err)
	for range 3 {
		bustest.Receive(t, begun)
	}
	limit(5)
	for range 2 {
		bustest.Receive(t, begun)
	}
	if n := g.most.Load(); n != 5 {
		t.Errorf("%d run", n)
	}
	limit(1)
	for range 4 {
		release <- struct{}{}
	}
	eventually(t, "one goes on", func() bool { return g.now.Load() == 1 })
	limit(0)
	free()
	for _, h := range handles {
		_, err := h.Result(w.Ctx())
		bustest.Check(t, err)
	}
	for _, worker := range workers {
		eventually(t, "no slot is kept", func() bool { return worker.Slots("work") == 0 })
	}
}

// TestCrashedSlots: the slots of a worker that is gone come free, and not before their term.
func TestCrashedSlots(t *testing.T) {
	w := bustest.New(t, taskPolicy)
	planner := w.Agent("planner")
	bustest.Check(t, planner.LimitQueue(w.Ctx(), "work", agentbus.QueueLimits{Running: 2}))
	begun, release := make(chan struct{}, 8), make(chan struct{})
	// Two have the queue's key, so that the one that stays has it.
	stays := w.Connect(agentbus.SlotTerm(w.Config("exec-2"), time.Second))
	holder, err := stays.Work(w.Ctx(), "work", upper)
	bustest.Check(t, err)
	passed, err := planner.Enqueue(w.Ctx(), "work", nil)
	bustest.Check(t, err)
	_, err = passed.Result(w.Ctx())
	bustest.Check(t, err)
	bustest.Check(t, holder.Stop())
	gone := w.Connect(agentbus.Timing(agentbus.SlotTerm(w.Config("exec-1"), time.Second), 0, 50*time.Millisecond))
	t.Cleanup(func() { close(release) })
	_, err = gone.Work(w.Ctx(), "work", func(context.Context, *agentbus.Task) ([]byte, error) {
		begun <- struct{}{}
		<-release
		return nil, errors.New("gone")
	}, agentbus.Concurrency(2))
	bustest.Check(t, err)
	_, err = planner.EnqueueBatch(w.Ctx(), "work", make([]agentbus.NewTask, 2))
	bustest.Check(t, err)
	for range 2 {
		bustest.Receive(t, begun)
	}
	// What it has asked for, the broker still sends it. That comes again sooner than is usual.
	changeConsumers(t, w, ownerOf(t, w), "work", func(c *jetstream.ConsumerConfig) { c.AckWait = time.Second })
	gone.Conn().Close() // it says nothing any more
	worker, err := stays.Work(w.Ctx(), "work", upper, agentbus.Concurrency(2))
	bustest.Check(t, err)
	task, err := planner.Enqueue(w.Ctx(), "work", []byte("x"))
	bustest.Check(t, err)
	if m, err := task.Result(soon(t)); err != nil || string(m.Payload) != "X" {
		t.Errorf("while a dead worker has all slots: %v, %v; %d slots here", m, err, worker.Slots("work"))
	}
}

// TestStopFreesSlots: those of a worker that stops are another's at once, long before their term.
func TestStopFreesSlots(t *testing.T) {
	w := bustest.New(t, taskPolicy)
	planner := w.Agent("planner")
	bustest.Check(t, planner.LimitQueue(w.Ctx(), "work", agentbus.QueueLimits{Running: 1}))
	begun, release := make(chan struct{}, 8), make(chan struct{})
	first, err := w.Agent("exec-1").Work(w.Ctx(), "work", func(context.Context, *agentbus.Task) ([]byte, error) {
		begun <- struct{}{}
		<-release
		return []byte("first"), nil
	}, agentbus.Concurrency(1))
	bustest.Check(t, err)
	one, err := planner.Enqueue(w.Ctx(), "work", nil)
	bustest.Check(t, err)
	bustest.Receive(t, begun)
	two, err := planner.Enqueue(w.Ctx(), "work", []byte("two"))
	bustest.Check(t, err)
	_, err = w.Agent("exec-2").Work(w.Ctx(), "work", upper)
	bustest.Check(t, err)
	stopped := make(chan error, 1)
	go func() { stopped <- first.Stop() }()
	close(release)
	bustest.Check(t, bustest.Receive(t, stopped))
	for h, want := range map[*agentbus.TaskHandle]string{one: "first", two: "TWO"} {
		if m, err := h.Result(soon(t)); err != nil || string(m.Payload) != want {
			t.Errorf("want %s: %v, %v", want, m, err)
		}
	}
}

// TestStartLimit: over two workers the n-th task to begin does so no earlier than n intervals after the first could, whatever
// its worker. So it is by the times that were reserved, which each task keeps to.
func TestStartLimit(t *testing.T) {
	const tasks, every = 60, 20 * time.Millisecond
	w := bustest.New(t, taskPolicy)
	planner := w.Agent("planner")
	bustest.Check(t, planner.LimitQueue(w.Ctx(), "work", agentbus.QueueLimits{PerSecond: 50, Running: 8}))
	var mu sync.Mutex
	var begun []time.Time
	for _, name := range []string{"exec-1", "exec-2"} {
		_, err := w.Agent(name).Work(w.Ctx(), "work", func(context.Context, *agentbus.Task) ([]byte, error) {
			mu.Lock()
			defer mu.Unlock()
			begun = append(begun, time.Now())
			return nil, nil
		}, agentbus.Concurrency(8))
		bustest.Check(t, err)
	}
	start := time.Now()
	handles, err := planner.EnqueueBatch(w.Ctx(), "work", make([]agentbus.NewTask, tasks))
	bustest.Check(t, err)
	for _, h := range handles {
		_, err := h.Result(w.Ctx())
		bustest.Check(t, err)
	}
	slices.SortFunc(begun, time.Time.Compare)
	if len(begun) != tasks {
		t.Fatalf("%d runs of %d tasks", len(begun), tasks)
	}
	for i, at := range begun {
		if earliest := start.Add(time.Duration(i) * every); at.Before(earliest) {
			t.Errorf("start %d is %v before its time", i, earliest.Sub(at))
		}
	}
}

// TestLimitsRefused: what cannot be meant is refused where it is said, and by whom the policy says.
func TestLimitsRefused(t *testing.T) {
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	for _, l := range []agentbus.QueueLimits{{Running: -1}, {Running: 1025}, {PerSecond: -1}, {PerSecond: 1e-6}, {PerSecond: 2e6}, {PerSecond: math.NaN()}, {PerSecond: math.Inf(1)}} {
		if err := planner.LimitQueue(w.Ctx(), "work", l); err == nil {
			t.Errorf("%+v is accepted", l)
		}
	}
	for name, err := range map[string]error{"PauseQueue": exec.PauseQueue(w.Ctx(), "work"), "ResumeQueue": exec.ResumeQueue(w.Ctx(), "work"),
		"LimitQueue": exec.LimitQueue(w.Ctx(), "work", agentbus.QueueLimits{})} {
		if !errors.Is(err, agentbus.ErrNotEntitled) {
			t.Errorf("%s by a worker: %v", name, err)
		}
	}
	bustest.Check(t, planner.Close())
	if err := planner.PauseQueue(w.Ctx(), "work"); !errors.Is(err, agentbus.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if err := w.Agent("boss").PauseQueue(w.Ctx(), "no-such"); err == nil {
		t.Error("a queue that there is not is paused")
	}
}
