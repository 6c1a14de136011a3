package agentbus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/policy"
)

// TestBadTasks: what no task can be is refused at the call, alone and in a batch, and nothing of it is stored.
func TestBadTasks(t *testing.T) {
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	const day = 24 * time.Hour
	now := time.Now()
	for _, test := range []struct {
		queue   string
		payload int
		options []agentbus.EnqueueOption
		is      error
		says    string
	}{
		{queue: "wrok", is: policy.ErrUnknownChannel, says: "work"},
		{queue: "", is: policy.ErrUnknownChannel},
		{queue: "work.>", is: policy.ErrUnknownChannel},
		{payload: agentbus.MaxPayload + 1, is: agentbus.ErrTooLarge, says: "limit"},
		{options: []agentbus.EnqueueOption{agentbus.Delay(0)}, says: "Delay(0s)"},
		{options: []agentbus.EnqueueOption{agentbus.Delay(-time.Second)}, says: "Delay(-1s)"},
		{options: []agentbus.EnqueueOption{agentbus.Delay(367 * day)}, says: "Delay"},
		{options: []agentbus.EnqueueOption{agentbus.At(now.Add(367 * day))}, says: "At"},
		{options: []agentbus.EnqueueOption{agentbus.At(now), agentbus.Delay(time.Second)}, says: "Delay or At is given twice"},
		{options: []agentbus.EnqueueOption{agentbus.Deadline(now.Add(-time.Second))}, says: "has passed"},
		{options: []agentbus.EnqueueOption{agentbus.Deadline(time.Time{})}, says: "has passed"},
		{options: []agentbus.EnqueueOption{agentbus.Deadline(now.Add(time.Hour)), agentbus.Delay(2 * time.Hour)}, says: "deadline is not after"},
		{options: []agentbus.EnqueueOption{agentbus.Timeout(0)}, says: "Timeout(0s)"},
		{options: []agentbus.EnqueueOption{agentbus.Timeout(time.Microsecond)}, says: "Timeout"},
		{options: []agentbus.EnqueueOption{agentbus.Timeout(367 * day)}, says: "timeout"},
		{options: []agentbus.EnqueueOption{agentbus.MaxAttempts(0)}, says: "0 attempts"},
		{options: []agentbus.EnqueueOption{agentbus.MaxAttempts(-1)}, says: "-1 attempts"},
		{options: []agentbus.EnqueueOption{agentbus.MaxAttempts(1001)}, says: "1001 attempts"},
		{options: []agentbus.EnqueueOption{agentbus.MaxAttempts(1), agentbus.MaxAttempts(2)}, says: "MaxAttempts is given twice"},
		{options: []agentbus.EnqueueOption{agentbus.Backoff(0, time.Second)}, says: "backoff"},
		{options: []agentbus.EnqueueOption{agentbus.Backoff(time.Second, time.Millisecond)}, says: "smaller one first"},
		{options: []agentbus.EnqueueOption{agentbus.Backoff(time.Second, 367*day)}, says: "backoff"},
		{options: []agentbus.EnqueueOption{agentbus.Backoff(-time.Second, time.Second)}, says: "backoff"},
		{options: []agentbus.EnqueueOption{agentbus.Priority(-1)}, says: "priority -1"},
		{options: []agentbus.EnqueueOption{agentbus.Priority(4)}, says: "priority 4"},
		{options: []agentbus.EnqueueOption{agentbus.Kind(strings.Repeat("k", 65))}, says: "kind of 65 bytes"},
		{options: []agentbus.EnqueueOption{agentbus.ExpiresIn(time.Second)}, says: "Deadline"},
		{options: []agentbus.EnqueueOption{agentbus.Header("sealbus-task", "x")}, says: "reserved"},
		{options: []agentbus.EnqueueOption{agentbus.Header("h", strings.Repeat("v", 9000))}, says: "headers"},
	} {
		queue := "work"
		if test.payload == 0 && test.options == nil {
			queue = test.queue
		}
		payload := make([]byte, test.payload)
		_, alone := planner.Enqueue(w.Ctx(), queue, payload, test.options...)
		good := agentbus.NewTask{Payload: []byte("good")}
		handles, batch := planner.EnqueueBatch(w.Ctx(), queue, []agentbus.NewTask{good, {Payload: payload, Options: test.options}, good})
		for how, err := range map[string]error{"alone": alone, "in a batch": batch} {
			if err == nil || test.is != nil && !errors.Is(err, test.is) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%s, want %q: %v", how, test.says, err)
			}
		}
		if len(handles) != 3 || stored(handles) != 0 {
			t.Errorf("%q: %d handles", test.says, stored(handles))
		}
	}
	if n := streamOf(t, w, policy.TaskStream("work")).Msgs; n != 0 {
		t.Errorf("%d tasks are stored", n)
	}
	for name, err := range map[string]error{
		"Enqueue":      second(exec.Enqueue(w.Ctx(), "work", nil)),
		"EnqueueBatch": second(exec.EnqueueBatch(w.Ctx(), "work", make([]agentbus.NewTask, 1))),
		"Work":         second(planner.Work(w.Ctx(), "work", upper)),
		"AlsoQueue":    second(exec.Work(w.Ctx(), "work", upper, agentbus.AlsoQueue("closed", 1))),
		"DeadLetters":  second(exec.DeadLetters(w.Ctx(), "work")),
	} {
		want := agentbus.ErrNotEntitled
		if name == "AlsoQueue" {
			want = policy.ErrUnknownChannel
		}
		if !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if h, err := exec.Task("work", ulid.Make()); err == nil {
		if _, err := h.Result(w.Ctx()); !errors.Is(err, agentbus.ErrNotEntitled) {
			t.Errorf("Result: %v", err)
		}
	}
	if _, err := planner.Task("work", ulid.ULID{}); err == nil {
		t.Error("a handle without an id")
	}
	// A batch says which of its tasks it is.
	many := make([]agentbus.NewTask, 1500)
	many[1200].Options = []agentbus.EnqueueOption{agentbus.Priority(9)}
	if handles, err := planner.EnqueueBatch(w.Ctx(), "work", many); err == nil || !strings.Contains(err.Error(), "task 1200 ") || len(handles) != 1500 || stored(handles[:1000]) != 1000 || stored(handles[1000:]) != 0 {
		t.Errorf("%d handles: %v", stored(handles), err)
	}
}

func second[T any](_ T, err error) error { return err }

// TestBadWork: options and handlers that cannot be.
func TestBadWork(t *testing.T) {
	w := bustest.New(t, taskPolicy)
	exec := w.Agent("exec-1")
	for name, err := range map[string]error{
		"handler":     second(exec.Work(w.Ctx(), "work", nil)),
		"Concurrency": second(exec.Work(w.Ctx(), "work", upper, agentbus.Concurrency(0))),
		"-1":          second(exec.Work(w.Ctx(), "work", upper, agentbus.Concurrency(-1))),
		"weight":      second(exec.Work(w.Ctx(), "work", upper, agentbus.AlsoQueue("side", 0))),
		"1000":        second(exec.Work(w.Ctx(), "work", upper, agentbus.AlsoQueue("side", 1001))),
		"work":        second(exec.Work(w.Ctx(), "wrok", upper)),
		"side":        second(exec.Work(w.Ctx(), "work", upper, agentbus.AlsoQueue("sied", 1))),
	} {
		if err == nil || name[0] != '-' && !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Who is not entitled is told by which line of the policy.
	for name, err := range map[string]error{
		"work":    second(w.Agent("boss").Work(w.Ctx(), "work", upper)),
		"enqueue": second(exec.Enqueue(w.Ctx(), "work", nil)),
		"batch":   second(exec.EnqueueBatch(w.Ctx(), "work", named(2))),
	} {
		if !errors.Is(err, agentbus.ErrNotEntitled) || !strings.Contains(err.Error(), "policy revision 1, line 4,") {
			t.Errorf("%s: %v", name, err)
		}
	}
	bustest.Check(t, exec.Close())
	if _, err := exec.Work(w.Ctx(), "work", upper); !errors.Is(err, agentbus.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	var mux agentbus.TaskMux
	mux.Handle("a", upper)
	for name, f := range map[string]func(){"twice": func() { mux.Handle("a", upper) }, "nil": func() { mux.Handle("b", nil) }} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
}

// TestTimeout: an attempt that takes too long has failed, and its handler is told so.
func TestTimeout(t *testing.T) {
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	var causes atomic.Value
	_, err := exec.Work(w.Ctx(), "work", func(ctx context.Context, t *agentbus.Task) ([]byte, error) {
		if t.Attempt == 2 && string(t.Payload) == "once" {
			return []byte("done"), nil
		}
		<-ctx.Done()
		causes.Store(fmt.Sprint(context.Cause(ctx)))
		return nil, ctx.Err()
	})
	bustest.Check(t, err)
	terms := []agentbus.EnqueueOption{agentbus.Timeout(20 * time.Millisecond), agentbus.MaxAttempts(2), agentbus.Backoff(time.Millisecond, time.Millisecond)}
	once, err := planner.Enqueue(w.Ctx(), "work", []byte("once"), terms...)
	bustest.Check(t, err)
	if m, err := once.Result(w.Ctx()); err != nil || string(m.Payload) != "done" {
		t.Errorf("%v", err)
	}
	always, err := planner.Enqueue(w.Ctx(), "work", []byte("always"), terms...)
	bustest.Check(t, err)
	var dead *agentbus.TaskError
	if _, err := always.Result(w.Ctx()); !errors.As(err, &dead) || dead.Reason != agentbus.DeadAttempts || dead.Attempts != 2 || !strings.Contains(dead.Text, "timeout") {
		t.Errorf("%v", err)
	}
	if c := causes.Load().(string); !strings.Contains(c, "timeout") {
		t.Errorf("the handler was told %q", c)
	}
}

// TestDeadline: a task that has not begun by then is dead, without a handler having seen it; one that has begun goes on.
func TestDeadline(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	var runs atomic.Int64
	first, err := exec.Work(w.Ctx(), "work", upper)
	bustest.Check(t, err)
	bustest.Check(t, first.Stop()) // the key is there
	at := time.Now().Add(100 * time.Millisecond)
	late, err := planner.Enqueue(w.Ctx(), "work", []byte("late"), agentbus.Deadline(at), agentbus.Kind("report"))
	bustest.Check(t, err)
	eventually(t, "the deadline has passed", func() bool { return time.Now().After(at) })
	begun, release := make(chan *agentbus.Task, 1), make(chan struct{})
	_, err = exec.Work(w.Ctx(), "work", func(ctx context.Context, t *agentbus.Task) ([]byte, error) {
		runs.Add(1)
		begun <- t
		<-release
		return nil, ctx.Err()
	})
	bustest.Check(t, err)
	var dead *agentbus.TaskError
	if _, err := late.Result(w.Ctx()); !errors.As(err, &dead) || *dead != (agentbus.TaskError{Reason: agentbus.DeadDeadline}) {
		t.Errorf("%v", err)
	}
	letter, err := planner.DeadLetter(w.Ctx(), "work", late.ID())
	if err != nil || letter.Reason != agentbus.DeadDeadline || letter.Kind != "report" || string(letter.Payload) != "late" {
		t.Errorf("%+v: %v", letter, err)
	}
	if runs.Load() != 0 {
		t.Error("a handler has seen it")
	}
	at = time.Now().Add(time.Second)
	running, err := planner.Enqueue(w.Ctx(), "work", nil, agentbus.Deadline(at))
	bustest.Check(t, err)
	if got := bustest.Receive(t, begun).Deadline; !got.Equal(at.Truncate(time.Millisecond)) {
		t.Errorf("the deadline is %v, not %v", got, at)
	}
	eventually(t, "the deadline has passed", func() bool { return time.Now().After(at) })
	close(release)
	_, err = running.Result(w.Ctx())
	bustest.Check(t, err)
}
