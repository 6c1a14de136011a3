package agentbus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/policy"
)

// TestShares: a worker with plenty to do in two queues and at four priorities does of each about as much as its weight
// says, and something of all.
func TestShares(t *testing.T) {
	const each, look = 2000, 1500
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	holder, err := exec.Work(w.Ctx(), "work", upper, agentbus.AlsoQueue("side", 1)) // makes the keys
	bustest.Check(t, err)
	bustest.Check(t, holder.Stop())
	for _, queue := range []string{"work", "side"} {
		for p := range policy.Priorities {
			list := make([]agentbus.NewTask, each)
			for i := range list {
				list[i] = agentbus.NewTask{Payload: fmt.Appendf(nil, "%s %d", queue, p), Options: []agentbus.EnqueueOption{agentbus.Priority(p)}}
			}
			_, err := planner.EnqueueBatch(w.Ctx(), queue, list)
			bustest.Check(t, err)
		}
	}
	done := make(chan string, 2*4*each)
	worker, err := exec.Work(w.Ctx(), "side", func(ctx context.Context, t *agentbus.Task) ([]byte, error) {
		done <- string(t.Payload)
		// As long as a word from the broker takes: tasks come faster than they are worked on, and who is next is the worker's choice.
		return nil, exec.Flush(ctx)
	}, agentbus.AlsoQueue("work", 3), agentbus.Concurrency(8))
	bustest.Check(t, err)
	count := make(map[string]int)
	for range look {
		what := bustest.Receive(t, done)
		count[what]++
		count[what[:4]]++
		count[what[5:]]++
	}
	bustest.Check(t, worker.Stop())
	t.Log(count)
	if r := float64(count["work"]) / float64(count["side"]); r < 1.5 || r > 6 {
		t.Errorf("three times as much is %.1f times", r)
	}
	for p := range policy.Priorities - 1 {
		if r := float64(count[fmt.Sprint(p)]) / float64(count[fmt.Sprint(p+1)]); r < 1.1 || r > 4 {
			t.Errorf("priority %d has %.1f times the share of the next", p, r)
		}
	}
	if count["side 3"] == 0 {
		t.Error("the last is starved")
	}
}

// TestMux: middleware runs from the outermost inwards around the kind's handler, around that of no kind too.
func TestMux(t *testing.T) {
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	var mu sync.Mutex
	var trace []string
	around := func(name string) func(agentbus.TaskHandler) agentbus.TaskHandler {
		return func(next agentbus.TaskHandler) agentbus.TaskHandler {
			return func(ctx context.Context, t *agentbus.Task) ([]byte, error) {
				mu.Lock()
				trace = append(trace, name)
				mu.Unlock()
				result, err := next(ctx, t)
				mu.Lock()
				defer mu.Unlock()
				trace = append(trace, "/"+name)
				return result, err
			}
		}
	}
	var mux agentbus.TaskMux
	mux.Use(around("a"), around("b"))
	mux.Handle("shout", upper)
	mux.Handle("", func(context.Context, *agentbus.Task) ([]byte, error) { return []byte("plain"), nil })
	mux.Use(around("c"))
	_, err := exec.Work(w.Ctx(), "work", mux.Work)
	bustest.Check(t, err)
	for _, test := range []struct{ kind, want string }{{"shout", "X"}, {"", "plain"}, {"unheard of", ""}} {
		trace = nil
		task, err := planner.Enqueue(w.Ctx(), "work", []byte("x"), agentbus.Kind(test.kind), agentbus.MaxAttempts(1))
		bustest.Check(t, err)
		m, err := task.Result(w.Ctx())
		var dead *agentbus.TaskError
		switch {
		case test.want == "" && (!errors.As(err, &dead) || dead.Reason != agentbus.DeadAttempts || !strings.Contains(dead.Text, test.kind)):
			t.Errorf("%q: %v", test.kind, err)
		case test.want != "" && (err != nil || string(m.Payload) != test.want):
			t.Errorf("%q: %v", test.kind, err)
		}
		mu.Lock()
		if got := strings.Join(trace, " "); got != "a b c /c /b /a" {
			t.Errorf("%q: %s", test.kind, got)
		}
		mu.Unlock()
	}
}

// TestPanicText: what a handler panicked with is told to nobody.
func TestPanicText(t *testing.T) {
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	worker, err := exec.Work(w.Ctx(), "work", func(context.Context, *agentbus.Task) ([]byte, error) { panic("card number 4711") })
	bustest.Check(t, err)
	task, err := planner.Enqueue(w.Ctx(), "work", nil, agentbus.MaxAttempts(2), agentbus.Backoff(time.Millisecond, time.Millisecond))
	bustest.Check(t, err)
	var dead *agentbus.TaskError
	if _, err := task.Result(w.Ctx()); !errors.As(err, &dead) || dead.Attempts != 2 || strings.Contains(err.Error(), "4711") {
		t.Errorf("%v", err)
	}
	list, err := planner.DeadLetters(w.Ctx(), "work")
	if err != nil || len(list) != 1 || strings.Contains(list[0].Text, "4711") {
		t.Errorf("%+v: %v", list, err)
	}
	bustest.Check(t, worker.Stop())
	if s := worker.Stats(); s.Failed != 2 || s.Dead != 1 || exec.Stats().Panics != 2 {
		t.Errorf("%+v", s)
	}
}
