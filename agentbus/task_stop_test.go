package agentbus_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
)

// TestStopGivesBack: tasks that wait at a worker while its handlers run go back when it stops, and another has them at
// once; those that run are finished.
func TestStopGivesBack(t *testing.T) {
	for _, how := range []string{"Stop", "Close"} {
		t.Run(how, func(t *testing.T) {
			const tasks = 20
			w := bustest.New(t, taskPolicy)
			planner, exec := w.Agent("planner"), w.Agent("exec-1")
			begun, release := make(chan string, tasks), make(chan struct{})
			worker, err := exec.Work(w.Ctx(), "work", func(_ context.Context, t *agentbus.Task) ([]byte, error) {
				if string(t.Payload) == "short" {
					return nil, nil
				}
				begun <- t.ID.String()
				<-release
				return []byte("first worker"), nil
			}, agentbus.Concurrency(4))
			bustest.Check(t, err)
			learn(t, w, planner)
			handles, err := planner.EnqueueBatch(w.Ctx(), "work", make([]agentbus.NewTask, tasks))
			bustest.Check(t, err)
			running := make(map[string]bool)
			for range 4 {
				running[bustest.Receive(t, begun)] = true
			}
			js := ownerOf(t, w)
			eventually(t, "all are at the worker", func() bool {
				c := consumerOf(t, w, js, "work")
				return c.NumPending == 0 && c.NumAckPending > 0
			})
			_, err = w.Agent("exec-2").Work(w.Ctx(), "work", func(context.Context, *agentbus.Task) ([]byte, error) { return []byte("second worker"), nil })
			bustest.Check(t, err)
			stopped := make(chan error, 2)
			end := map[string]func() error{"Stop": worker.Stop, "Close": exec.Close}[how]
			go func() { stopped <- end() }()
			for _, h := range handles {
				if running[h.ID().String()] {
					continue
				}
				m, err := h.Result(soon(t))
				if err != nil {
					t.Fatal(err)
				}
				if string(m.Payload) != "second worker" {
					t.Errorf("a task that had not begun was done by the %s", m.Payload)
				}
			}
			bustest.Empty(t, stopped)
			close(release)
			bustest.Check(t, bustest.Receive(t, stopped))
			bustest.Check(t, end())
			for _, h := range handles {
				m, err := h.Result(w.Ctx())
				bustest.Check(t, err)
				if running[h.ID().String()] != (string(m.Payload) == "first worker") {
					t.Errorf("done by the %s", m.Payload)
				}
			}
			if s := worker.Stats(); s.Succeeded != 4+lessons || s.Failed != 0 || s.Lost != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// lessons is how many short tasks teach a worker that it may take more than it has handlers for.
const lessons = 40

func learn(t testing.TB, w *bustest.World, producer *agentbus.Bus) {
	t.Helper()
	for range lessons {
		h, err := producer.Enqueue(w.Ctx(), "work", []byte("short"))
		bustest.Check(t, err)
		_, err = h.Result(w.Ctx())
		bustest.Check(t, err)
	}
}

// TestStopOutlived: a handler that does not return has its context cancelled and its task given to another, as the same
// attempt. What it says later is too late, or an error that counts for nothing.
func TestStopOutlived(t *testing.T) {
	for _, how := range []string{"returns an error", "returns a result"} {
		t.Run(how, func(t *testing.T) {
			w := bustest.New(t, taskPolicy)
			planner := w.Agent("planner")
			exec := w.Connect(agentbus.Timing(w.Config("exec-1"), 0, 50*time.Millisecond))
			begun, release, returned := make(chan struct{}), make(chan struct{}), make(chan struct{})
			worker, err := exec.Work(w.Ctx(), "work", func(ctx context.Context, _ *agentbus.Task) ([]byte, error) {
				defer close(returned)
				close(begun)
				<-ctx.Done()
				<-release
				if how == "returns a result" {
					return []byte("late"), nil
				}
				return nil, ctx.Err()
			})
			bustest.Check(t, err)
			task, err := planner.Enqueue(w.Ctx(), "work", nil, agentbus.MaxAttempts(1))
			bustest.Check(t, err)
			bustest.Receive(t, begun)
			if err := worker.Stop(); err == nil {
				t.Error("Stop: no error")
			}
			attempts := make(chan int, 4)
			_, err = w.Agent("exec-2").Work(w.Ctx(), "work", func(_ context.Context, t *agentbus.Task) ([]byte, error) {
				attempts <- t.Attempt
				return []byte("in time"), nil
			})
			bustest.Check(t, err)
			check := func() {
				t.Helper()
				m, err := task.Result(soon(t))
				bustest.Check(t, err)
				if string(m.Payload) != "in time" || m.Sender.Name() != "exec-2" {
					t.Errorf("%q of %s", m.Payload, m.Sender.Name())
				}
			}
			check()
			close(release)
			bustest.Receive(t, returned)
			bustest.Check(t, worker.Stop())
			check()
			if n := bustest.Receive(t, attempts); n != 1 {
				t.Errorf("attempt %d", n)
			}
			if s := worker.Stats(); s.Failed != 0 || s.Succeeded != 0 || s.Dead != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestStopBeforeItsTime: a delayed task that waits at a worker has not begun, and goes back when that ends.
func TestStopBeforeItsTime(t *testing.T) {
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	holder, err := w.Agent("exec-2").Work(w.Ctx(), "work", upper) // has the queue's key
	bustest.Check(t, err)
	bustest.Check(t, holder.Stop())
	_, err = exec.Work(w.Ctx(), "work", upper)
	bustest.Check(t, err)
	js := ownerOf(t, w)
	at := time.Now().Add(1800 * time.Millisecond)
	task, err := planner.Enqueue(w.Ctx(), "work", []byte("x"), agentbus.At(at))
	bustest.Check(t, err)
	eventually(t, "it is at the worker", func() bool { return consumerOf(t, w, js, "work").NumAckPending == 1 })
	after, err := planner.Enqueue(w.Ctx(), "work", []byte("y")) // which the worker looks at after it
	bustest.Check(t, err)
	_, err = after.Result(w.Ctx())
	bustest.Check(t, err)
	bustest.Check(t, exec.Close())
	if time.Now().After(at) {
		t.Log("the machine was too slow: the task had begun before the worker stopped") // and must have its result all the same
	}
	_, err = w.Agent("exec-3").Work(w.Ctx(), "work", upper)
	bustest.Check(t, err)
	if _, err := task.Result(soon(t)); err != nil {
		t.Error(err)
	}
}

// TestStopUnderLoad: workers come and go while tasks stream in. What is on its way to a worker that stops is not lost
// until its lease runs out.
func TestStopUnderLoad(t *testing.T) {
	w := bustest.New(t, taskPolicy)
	planner := w.Agent("planner")
	exec := w.Agent("exec-1")
	var handles []*agentbus.TaskHandle
	enough := make(chan struct{})
	produced := make(chan struct{})
	go func() {
		defer close(produced)
		for i := 0; ; i++ {
			some, err := planner.EnqueueBatch(w.Ctx(), "work", make([]agentbus.NewTask, 20))
			if err != nil {
				t.Error(err)
				return
			}
			handles = append(handles, some...)
			select {
			case <-enough:
				return
			default:
			}
		}
	}()
	var runs atomic.Int64
	for range 20 {
		some := make(chan struct{}, 1)
		worker, err := exec.Work(w.Ctx(), "work", func(context.Context, *agentbus.Task) ([]byte, error) {
			runs.Add(1)
			select {
			case some <- struct{}{}:
			default:
			}
			return nil, nil
		})
		bustest.Check(t, err)
		bustest.Receive(t, some)
		bustest.Check(t, worker.Stop())
	}
	close(enough)
	bustest.Receive(t, produced)
	_, err := w.Agent("exec-2").Work(w.Ctx(), "work", upper)
	bustest.Check(t, err)
	// As long as it needs, less than a lease after the last Stop.
	ctx := soon(t)
	var missing atomic.Int64
	var waits sync.WaitGroup
	for _, h := range handles {
		waits.Go(func() {
			if _, err := h.Result(ctx); err != nil {
				missing.Add(1)
			}
		})
	}
	waits.Wait()
	if n := missing.Load(); n > 0 {
		t.Errorf("%d of %d tasks are not done", n, len(handles))
	}
	t.Log(fmt.Sprint(len(handles), " tasks, ", runs.Load(), " at workers that were stopped"))
}
