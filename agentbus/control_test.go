package agentbus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/policy"
)

// passes has a worker of another queue of the same bus do a task: whatever it was told before, it has heard by then.
func passes(t testing.TB, w *bustest.World, planner *agentbus.Bus) {
	t.Helper()
	task, err := planner.Enqueue(w.Ctx(), "side", nil)
	bustest.Check(t, err)
	_, err = task.Result(w.Ctx())
	bustest.Check(t, err)
}

// TestPause: no worker begins a task of a queue that is paused: not those that are there, not one that comes later, and not
// after the broker was restarted. What runs goes on. It is resumed by whichever enqueuer, at once.
func TestPause(t *testing.T) {
	w := bustest.New(t, taskPolicy)
	planner, boss := w.Agent("planner"), w.Agent("boss")
	var runs atomic.Int64
	begun, release := make(chan struct{}, 1), make(chan struct{})
	handler := func(ctx context.Context, t *agentbus.Task) ([]byte, error) {
		if t.Queue == "work" {
			runs.Add(1)
		}
		if string(t.Payload) == "held" {
			begun <- struct{}{}
			<-release
		}
		return upper(ctx, t)
	}
	work := func(name string) *agentbus.Worker {
		worker, err := w.Agent(name).Work(w.Ctx(), "work", handler, agentbus.AlsoQueue("side", 1))
		bustest.Check(t, err)
		return worker
	}
	first, second := work("exec-1"), work("exec-2")
	held, err := planner.Enqueue(w.Ctx(), "work", []byte("held"))
	bustest.Check(t, err)
	bustest.Receive(t, begun)
	bustest.Check(t, boss.PauseQueue(w.Ctx(), "work"))
	for _, worker := range []*agentbus.Worker{first, second} {
		eventually(t, "the workers have heard of it", func() bool { return worker.Paused("work") })
	}
	// What is given back before the broker restarts comes again when its lease is over: they are not waited for.
	_, err = planner.EnqueueBatch(w.Ctx(), "work", make([]agentbus.NewTask, 5))
	bustest.Check(t, err)
	third := work("exec-3") // knows it when it begins
	if !third.Paused("work") {
		t.Error("a worker that begins does not know that the queue is paused")
	}
	close(release)
	if m, err := held.Result(w.Ctx()); err != nil || string(m.Payload) != "HELD" {
		t.Errorf("what ran when the queue was paused: %v", err)
	}
	for range 10 {
		passes(t, w, planner)
	}
	w.Stop()
	w.Start()
	handles, err := planner.EnqueueBatch(w.Ctx(), "work", make([]agentbus.NewTask, 50))
	bustest.Check(t, err)
	fourth := work("exec-4")
	for range 10 {
		passes(t, w, planner)
	}
	if n := runs.Load(); n != 1 {
		t.Fatalf("%d tasks of a paused queue were begun", n-1)
	}
	bustest.Check(t, planner.ResumeQueue(w.Ctx(), "work"))
	for _, h := range handles {
		if m, err := h.Result(soon(t)); err != nil {
			t.Fatalf("after the queue was resumed: %v, %v", m, err)
		}
	}
	for _, worker := range []*agentbus.Worker{first, second, third, fourth} {
		if s := worker.Stats(); s.Failed+s.Dead+s.Lost != 0 {
			t.Errorf("something counts against a task: %+v", s)
		}
	}
}

// TestPauseGivesBack: what a worker has taken and not begun goes back when the queue is paused.
func TestPauseGivesBack(t *testing.T) {
	w := bustest.New(t, taskPolicy)
	planner := w.Agent("planner")
	begun, release := make(chan struct{}, 32), make(chan struct{})
	worker, err := w.Agent("exec-1").Work(w.Ctx(), "work", func(_ context.Context, t *agentbus.Task) ([]byte, error) {
		if string(t.Payload) == "short" {
			return nil, nil
		}
		begun <- struct{}{}
		<-release
		return nil, nil
	}, agentbus.Concurrency(4))
	bustest.Check(t, err)
	learn(t, w, planner)
	handles, err := planner.EnqueueBatch(w.Ctx(), "work", make([]agentbus.NewTask, 20))
	bustest.Check(t, err)
	for range 4 {
		bustest.Receive(t, begun)
	}
	js := ownerOf(t, w)
	eventually(t, "all are at the worker", func() bool { return consumerOf(t, w, js, "work").NumPending == 0 })
	bustest.Check(t, planner.PauseQueue(w.Ctx(), "work"))
	eventually(t, "they go back", func() bool { return worker.Held("work") == 4 })
	close(release)
	for range 4 {
		eventually(t, "running ones are finished", func() bool { return worker.Stats().Succeeded == 4+lessons })
	}
	bustest.Empty(t, begun)
	bustest.Check(t, planner.ResumeQueue(w.Ctx(), "work"))
	for _, h := range handles {
		_, err := h.Result(soon(t))
		bustest.Check(t, err)
	}
	if s := worker.Stats(); s.Succeeded != 20+lessons || s.Failed != 0 {
		t.Errorf("%+v", s)
	}
}

// TestNewestControl: what counts is the newest word, whoever has it. That of an agent whose clock is ahead does not outlast it.
func TestNewestControl(t *testing.T) {
	w := bustest.New(t, taskPolicy)
	planner, boss := w.Agent("planner"), w.Agent("boss")
	worker, err := w.Agent("exec-1").Work(w.Ctx(), "work", upper)
	bustest.Check(t, err)
	for i := range 6 {
		who, other := planner, boss
		if i%2 == 1 {
			who, other = boss, planner
		}
		bustest.Check(t, who.PauseQueue(w.Ctx(), "work"))
		bustest.Check(t, other.ResumeQueue(w.Ctx(), "work"))
		bustest.Check(t, who.PauseQueue(w.Ctx(), "work"))
		eventually(t, "paused", func() bool { return worker.Paused("work") })
		again, err := w.Agent("exec-2").Work(w.Ctx(), "work", upper)
		bustest.Check(t, err)
		if !again.Paused("work") {
			t.Error("a worker that begins takes an older word for the newest")
		}
		bustest.Check(t, again.Stop())
		bustest.Check(t, other.ResumeQueue(w.Ctx(), "work"))
		eventually(t, "resumed", func() bool { return !worker.Paused("work") })
	}
}

// cancelled expects a task to be dead because it was cancelled.
func cancelled(t testing.TB, w *bustest.World, h *agentbus.TaskHandle, reason string) {
	t.Helper()
	var dead *agentbus.TaskError
	if m, err := h.Result(w.Ctx()); !errors.As(err, &dead) || dead.Reason != agentbus.DeadCancelled || dead.Text != reason {
		t.Errorf("the result of a cancelled task: %v, %v", m, err)
	}
	letter, err := h.Bus().DeadLetter(w.Ctx(), h.Queue(), h.ID())
	if err != nil || letter.Reason != agentbus.DeadCancelled || letter.Text != reason {
		t.Errorf("its dead letter: %+v, %v", letter, err)
	}
}

// TestCancelPending: a task that is cancelled before it comes to a worker, or while it is delayed, does not run.
func TestCancelPending(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, taskPolicy)
	planner, boss := w.Agent("planner"), w.Agent("boss")
	var runs atomic.Int64
	first, err := w.Agent("exec-1").Work(w.Ctx(), "work", counting(&runs))
	bustest.Check(t, err)
	bustest.Check(t, first.Stop())
	var handles []*agentbus.TaskHandle
	for i := range 3 {
		h, err := planner.Enqueue(w.Ctx(), "work", fmt.Append(nil, i))
		bustest.Check(t, err)
		handles = append(handles, h)
	}
	delayed, err := planner.Enqueue(w.Ctx(), "work", nil, agentbus.Delay(2500*time.Millisecond))
	bustest.Check(t, err)
	other, err := boss.Task("work", handles[1].ID()) // whoever enqueues may cancel
	bustest.Check(t, err)
	bustest.Check(t, handles[0].Cancel(w.Ctx(), "no longer wanted"))
	bustest.Check(t, other.Cancel(w.Ctx(), ""))
	bustest.Check(t, other.Cancel(w.Ctx(), "once more"))
	bustest.Check(t, delayed.Cancel(w.Ctx(), "too late"))
	_, err = w.Agent("exec-2").Work(w.Ctx(), "work", counting(&runs))
	bustest.Check(t, err)
	if _, err := handles[2].Result(w.Ctx()); err != nil {
		t.Errorf("the one that is not cancelled: %v", err)
	}
	cancelled(t, w, handles[0], "no longer wanted")
	cancelled(t, w, other, "once more")
	cancelled(t, w, delayed, "too late")
	if n := runs.Load(); n != 1 {
		t.Errorf("%d tasks ran", n)
	}
	for _, h := range []*agentbus.TaskHandle{handles[0], handles[2]} {
		if err := h.Cancel(w.Ctx(), ""); !errors.Is(err, agentbus.ErrTaskDone) {
			t.Errorf("a task that is done is cancelled: %v", err)
		}
	}
	if err := handles[0].Cancel(w.Ctx(), strings.Repeat("x", 1025)); err == nil || errors.Is(err, agentbus.ErrTaskDone) {
		t.Errorf("a reason that is too long: %v", err)
	}
}

// TestCancelRunning: the handler's context ends, and the task is dead whatever the handler returns, unless it succeeds.
func TestCancelRunning(t *testing.T) {
	w := bustest.New(t, taskPolicy)
	planner := w.Agent("planner")
	begun, release := make(chan string, 8), make(chan struct{})
	worker, err := w.Agent("exec-1").Work(w.Ctx(), "work", func(ctx context.Context, t *agentbus.Task) ([]byte, error) {
		begun <- t.ID.String()
		select {
		case <-ctx.Done():
		case <-release:
			return nil, errors.New("not cancelled")
		}
		cause := context.Cause(ctx)
		if !errors.Is(cause, agentbus.ErrCancelled) {
			return nil, fmt.Errorf("another cause: %w", cause)
		}
		switch string(t.Payload) {
		case "success":
			return []byte("done all the same"), nil
		case "snooze":
			return nil, agentbus.Snooze(time.Hour)
		case "panic":
			panic("out")
		}
		return nil, cause
	})
	bustest.Check(t, err)
	for _, text := range []string{"error", "snooze", "panic", "success"} {
		h, err := planner.Enqueue(w.Ctx(), "work", []byte(text))
		bustest.Check(t, err)
		bustest.Receive(t, begun)
		bustest.Check(t, h.Cancel(w.Ctx(), "because of "+text))
		if text != "success" {
			cancelled(t, w, h, "because of "+text)
		} else if m, err := h.Result(w.Ctx()); err != nil || string(m.Payload) != "done all the same" {
			t.Errorf("a result wins: %v, %v", m, err)
		}
	}
	close(release)
	bustest.Check(t, worker.Stop())
	if s := worker.Stats(); s.Dead != 3 || s.Failed != 0 || s.Snoozed != 0 {
		t.Errorf("%+v", s)
	}
}

// TestCancelUnheard: a worker that does not hear of a cancellation because it is cut off learns of it when it is connected again:
// what runs ends, and what waits does not begin.
func TestCancelUnheard(t *testing.T) {
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	first, err := exec.Work(w.Ctx(), "work", upper)
	bustest.Check(t, err)
	bustest.Check(t, first.Stop())
	running, err := planner.Enqueue(w.Ctx(), "work", []byte("runs"))
	bustest.Check(t, err)
	waiting, err := planner.Enqueue(w.Ctx(), "work", []byte("waits"))
	bustest.Check(t, err)
	// The broker has the cancellations, and has not passed them on.
	frames := make(map[string][]byte)
	s, err := ownerOf(t, w).Stream(w.Ctx(), policy.ControlStream("work"))
	bustest.Check(t, err)
	for _, h := range []*agentbus.TaskHandle{running, waiting} {
		bustest.Check(t, h.Cancel(w.Ctx(), "unheard"))
		m, err := s.GetLastMsgForSubject(w.Ctx(), policy.ControlSubject("work", "planner", policy.ControlCancel+"."+h.ID().String()))
		bustest.Check(t, err)
		frames[m.Subject] = m.Data
	}
	bustest.Check(t, s.Purge(w.Ctx()))
	begun := make(chan string, 8)
	worker, err := exec.Work(w.Ctx(), "work", func(ctx context.Context, t *agentbus.Task) ([]byte, error) {
		begun <- string(t.Payload)
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}, agentbus.Concurrency(1))
	bustest.Check(t, err)
	if text := bustest.Receive(t, begun); text != "runs" {
		t.Errorf("%q runs first", text)
	}
	for subject, frame := range frames {
		_, err := ownerOf(t, w).Publish(w.Ctx(), subject, frame)
		bustest.Check(t, err)
	}
	if n := worker.Cancelled("work"); n != 0 {
		t.Fatalf("the worker has heard of %d cancellations: the test shows nothing", n)
	}
	bustest.Check(t, exec.Conn().ForceReconnect())
	cancelled(t, w, running, "unheard")
	cancelled(t, w, waiting, "unheard")
	bustest.Empty(t, begun)
}

// TestManyCancelled: a worker that does not remember all cancelled tasks asks the broker.
func TestManyCancelled(t *testing.T) {
	w := bustest.New(t, taskPolicy)
	planner := w.Agent("planner")
	var runs atomic.Int64
	worker, err := w.Agent("exec-1").Work(w.Ctx(), "work", counting(&runs))
	bustest.Check(t, err)
	bustest.Check(t, planner.PauseQueue(w.Ctx(), "work"))
	eventually(t, "paused", func() bool { return worker.Paused("work") })
	handles, err := planner.EnqueueBatch(w.Ctx(), "work", make([]agentbus.NewTask, 6))
	bustest.Check(t, err)
	for _, h := range handles[:5] {
		bustest.Check(t, h.Cancel(w.Ctx(), "one of many"))
	}
	eventually(t, "heard", func() bool { return worker.Cancelled("work") == 5 })
	worker.RememberOneCancelled("work")
	bustest.Check(t, planner.ResumeQueue(w.Ctx(), "work"))
	for _, h := range handles[:5] {
		cancelled(t, w, h, "one of many")
	}
	_, err = handles[5].Result(w.Ctx())
	bustest.Check(t, err)
	if n := runs.Load(); n != 1 {
		t.Errorf("%d tasks ran", n)
	}
}
