package agentbus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
)

const taskPolicy = `trust_domain: example.org
revision: 1
queues:
  work: {enqueue: [planner, boss], work: ["exec-*"]}
  side: {enqueue: [planner], work: ["exec-*"]}
direct:
  - {from: [planner], to: ["exec-*"]}
`

// upper is a task handler that returns its payload in capitals.
func upper(_ context.Context, t *agentbus.Task) ([]byte, error) {
	return []byte(strings.ToUpper(string(t.Payload))), nil
}

func TestTask(t *testing.T) {
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	worker, err := exec.Work(w.Ctx(), "work", upper)
	bustest.Check(t, err)
	for i := range 3 {
		task, err := planner.Enqueue(w.Ctx(), "work", fmt.Appendf(nil, "task %d", i), agentbus.ContentType("text/plain"))
		bustest.Check(t, err)
		result, err := task.Result(context.Background()) // has no deadline
		bustest.Check(t, err)
		if want := fmt.Sprintf("TASK %d", i); string(result.Payload) != want || result.Sender.Name() != "exec-1" || !result.Signed {
			t.Errorf("result %q of %s, want %q", result.Payload, result.Sender.Name(), want)
		}
		again, err := planner.Task("work", task.ID())
		bustest.Check(t, err)
		if result, err := again.Result(w.Ctx()); err != nil || string(result.Payload) != fmt.Sprintf("TASK %d", i) {
			t.Errorf("asked again: %v, %v", result, err)
		}
	}
	bustest.Check(t, worker.Stop())
	if s := worker.Stats(); s.Succeeded != 3 {
		t.Errorf("%+v", s)
	}
}

// TestTaskFails has attempts fail in every way until the task succeeds or is dead.
func TestTaskFails(t *testing.T) {
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	var mu sync.Mutex
	seen := make(map[string][]int)
	worker, err := exec.Work(w.Ctx(), "work", func(_ context.Context, t *agentbus.Task) ([]byte, error) {
		mu.Lock()
		what := string(t.Payload)
		seen[what] = append(seen[what], t.Attempt)
		n := len(seen[what])
		mu.Unlock()
		switch {
		case what == "cancel":
			return nil, agentbus.Cancel(errors.New("no such page"))
		case what == "snooze" && n == 1:
			return nil, agentbus.Snooze(time.Millisecond)
		case what == "twice" && n < 3, what == "never":
			return nil, fmt.Errorf("failure %d", n)
		case what == "panic" && n == 1:
			panic("out of range")
		}
		return []byte("done"), nil
	})
	bustest.Check(t, err)
	for _, test := range []struct {
		what     string
		attempts []int
		err      *agentbus.TaskError
	}{
		{"cancel", []int{1}, &agentbus.TaskError{Reason: agentbus.DeadCancelled, Attempts: 1, Text: "no such page"}},
		{"snooze", []int{1, 1}, nil},
		{"twice", []int{1, 2, 3}, nil},
		{"never", []int{1, 2, 3}, &agentbus.TaskError{Reason: agentbus.DeadAttempts, Attempts: 3, Text: "failure 3"}},
		{"panic", []int{1, 2}, nil},
	} {
		task, err := planner.Enqueue(w.Ctx(), "work", []byte(test.what), agentbus.MaxAttempts(3), agentbus.Backoff(time.Millisecond, 2*time.Millisecond))
		bustest.Check(t, err)
		result, err := task.Result(w.Ctx())
		var dead *agentbus.TaskError
		switch {
		case test.err == nil && (err != nil || string(result.Payload) != "done"):
			t.Errorf("%s: %v", test.what, err)
		case test.err != nil && (!errors.As(err, &dead) || *dead != *test.err):
			t.Errorf("%s: %v, want %v", test.what, err, test.err)
		}
		mu.Lock()
		if got := fmt.Sprint(seen[test.what]); got != fmt.Sprint(test.attempts) {
			t.Errorf("%s: attempts %v, want %v", test.what, got, test.attempts)
		}
		mu.Unlock()
	}
	bustest.Check(t, worker.Stop())
}

// TestManyTasks has several workers work on many tasks from several producers, some in batches.
func TestManyTasks(t *testing.T) {
	const each = 500
	w := bustest.New(t, taskPolicy)
	planner, boss := w.Agent("planner"), w.Agent("boss")
	var runs atomic.Int64
	for i := range 2 {
		_, err := w.Agent(fmt.Sprintf("exec-%d", i)).Work(w.Ctx(), "work", func(ctx context.Context, t *agentbus.Task) ([]byte, error) {
			runs.Add(1)
			return upper(ctx, t)
		}, agentbus.Concurrency(4))
		bustest.Check(t, err)
	}
	var handles []*agentbus.TaskHandle
	var mu sync.Mutex
	var producers sync.WaitGroup
	for _, b := range []*agentbus.Bus{planner, boss} {
		for range 4 {
			producers.Go(func() {
				for range each / 4 {
					h, err := b.Enqueue(w.Ctx(), "work", []byte("one"))
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					handles = append(handles, h)
					mu.Unlock()
				}
			})
		}
	}
	producers.Go(func() {
		list := make([]agentbus.NewTask, 1500)
		for i := range list {
			list[i].Payload = []byte("batch")
		}
		some, err := planner.EnqueueBatch(w.Ctx(), "work", list)
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		handles = append(handles, some...)
		mu.Unlock()
	})
	producers.Wait()
	for _, h := range handles {
		if _, err := h.Result(w.Ctx()); err != nil {
			t.Fatal(err)
		}
	}
	if n := runs.Load(); n != int64(len(handles)) || len(handles) != 2*each+1500 {
		t.Errorf("%d runs of %d tasks", n, len(handles))
	}
}

// TestDelay begins tasks at their time: soon ones wait at the worker, later ones with the broker, over a restart of it
// too. None begins before its time.
func TestDelay(t *testing.T) {
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	begun := make(chan time.Time, 8)
	_, err := exec.Work(w.Ctx(), "work", func(context.Context, *agentbus.Task) ([]byte, error) {
		begun <- time.Now()
		return nil, nil
	})
	bustest.Check(t, err)
	for _, d := range []time.Duration{50 * time.Millisecond, 900 * time.Millisecond, 2500 * time.Millisecond} {
		at := time.Now().Add(d)
		task, err := planner.Enqueue(w.Ctx(), "work", nil, agentbus.At(at))
		bustest.Check(t, err)
		if d > 2*time.Second {
			w.Stop()
			w.Start()
		}
		late := bustest.Receive(t, begun).Sub(at)
		if late < 0 {
			t.Errorf("begun %v too early", -late)
		}
		t.Logf("after %v: begun %v late", d, late)
		_, err = task.Result(w.Ctx())
		bustest.Check(t, err)
	}
}

// TestDeadLetters lists what was given up, shows one with all of its task, and puts it back.
func TestDeadLetters(t *testing.T) {
	w := bustest.New(t, taskPolicy)
	planner, boss, exec := w.Agent("planner"), w.Agent("boss"), w.Agent("exec-1")
	var mended atomic.Bool
	var mux agentbus.TaskMux
	mux.Handle("page", func(ctx context.Context, t *agentbus.Task) ([]byte, error) {
		if !mended.Load() {
			return nil, agentbus.Cancel(errors.New("no such page"))
		}
		return []byte(t.Header("from") + ": " + string(t.Payload)), nil
	})
	_, err := exec.Work(w.Ctx(), "work", mux.Work)
	bustest.Check(t, err)
	task, err := planner.Enqueue(w.Ctx(), "work", []byte("page 7"), agentbus.Kind("page"), agentbus.Header("from", "shelf"))
	bustest.Check(t, err)
	var dead *agentbus.TaskError
	if _, err := task.Result(w.Ctx()); !errors.As(err, &dead) {
		t.Fatalf("got %v", err)
	}
	list, err := boss.DeadLetters(w.Ctx(), "work")
	bustest.Check(t, err)
	if len(list) != 1 || list[0].Task != task.ID() || list[0].Kind != "page" || string(list[0].Payload) != "page 7" ||
		list[0].Reason != agentbus.DeadCancelled || list[0].Text != "no such page" || list[0].Worker.Name() != "exec-1" {
		t.Fatalf("dead letters: %+v", list)
	}
	mended.Store(true)
	again, err := boss.Revive(w.Ctx(), list[0])
	bustest.Check(t, err)
	result, err := again.Result(w.Ctx())
	bustest.Check(t, err)
	if string(result.Payload) != "shelf: page 7" {
		t.Errorf("revived: %q", result.Payload)
	}
}
