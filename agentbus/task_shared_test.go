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
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// named makes tasks with the payloads "0", "1", ….
func named(n int, options ...agentbus.EnqueueOption) []agentbus.NewTask {
	list := make([]agentbus.NewTask, n)
	for i := range list {
		list[i] = agentbus.NewTask{Payload: fmt.Append(nil, i), Options: options}
	}
	return list
}

// TestSharedMessage: tasks that were enqueued together and share a message end each for itself: one succeeds at once, one
// after failures, one is cancelled, one snoozes, one runs out of attempts. Each has its own result.
func TestSharedMessage(t *testing.T) {
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	var runs [16]atomic.Int64
	worker, err := exec.Work(w.Ctx(), "work", func(_ context.Context, t *agentbus.Task) ([]byte, error) {
		var i int
		if _, err := fmt.Sscan(string(t.Payload), &i); err != nil {
			return nil, err
		}
		n := runs[i].Add(1)
		switch i % 8 {
		case 1:
			if n < 3 {
				return nil, errors.New("not yet")
			}
		case 2:
			return nil, agentbus.Cancel(errors.New("never"))
		case 3:
			if n == 1 {
				return nil, agentbus.Snooze(10 * time.Millisecond)
			}
		case 4:
			return nil, errors.New("no")
		}
		return fmt.Appendf(nil, "%s after %d", t.Payload, t.Attempt), nil
	})
	bustest.Check(t, err)
	list, err := planner.EnqueueBatch(w.Ctx(), "work", named(16, agentbus.MaxAttempts(3), agentbus.Backoff(time.Millisecond, time.Millisecond)))
	bustest.Check(t, err)
	if n := streamOf(t, w, policy.TaskStream("work")).Msgs; n != 2 {
		t.Fatalf("%d messages, want all tasks in one, and a session note", n)
	}
	for i, h := range list {
		m, err := h.Result(w.Ctx())
		want, wantRuns, dead := fmt.Sprint(i, " after 1"), int64(1), agentbus.DeadReason(0)
		switch i % 8 {
		case 1:
			want, wantRuns = fmt.Sprint(i, " after 3"), 3
		case 2:
			dead = agentbus.DeadCancelled
		case 3:
			wantRuns = 2
		case 4:
			dead, wantRuns = agentbus.DeadAttempts, 3
		}
		var e *agentbus.TaskError
		switch {
		case dead != 0:
			if !errors.As(err, &e) || e.Reason != dead {
				t.Errorf("task %d: %v, want %v", i, err, dead)
			}
		case err != nil || string(m.Payload) != want:
			t.Errorf("task %d: %v, %v, want %q", i, m, err, want)
		}
		if n := runs[i].Load(); n != wantRuns {
			t.Errorf("task %d ran %d times, want %d", i, n, wantRuns)
		}
	}
	bustest.Check(t, worker.Stop())
	if s := worker.Stats(); s.Succeeded != 12 || s.Dead != 4 || s.Settled != 0 {
		t.Errorf("%+v", s)
	}
	js := ownerOf(t, w)
	eventually(t, "the message is settled", func() bool { return consumerOf(t, w, js, "work").AckFloor.Stream == 2 })
}

// TestSharedAmongWorkers: tasks of one message run at as many workers as there are handlers for, all at once.
func TestSharedAmongWorkers(t *testing.T) {
	w := bustest.New(t, taskPolicy)
	planner := w.Agent("planner")
	all, begun := make(chan struct{}), make(chan struct{}, 64)
	handler := func(ctx context.Context, t *agentbus.Task) ([]byte, error) {
		begun <- struct{}{}
		select {
		case <-all:
			return t.Payload, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	js := ownerOf(t, w)
	for i := range 4 {
		_, err := w.Agent(fmt.Sprint("exec-", i+1)).Work(w.Ctx(), "work", handler, agentbus.Concurrency(4))
		bustest.Check(t, err)
	}
	list, err := planner.EnqueueBatch(w.Ctx(), "work", named(16))
	bustest.Check(t, err)
	for range list {
		bustest.Receive(t, begun)
	}
	var f envelope.Frame
	bustest.Check(t, envelope.Parse(storedTask(t, w, js, 1).Data, &f))
	if f.Count != 16 {
		t.Fatalf("%d tasks in a message, want all", f.Count)
	}
	close(all)
	for i, h := range list {
		if m, err := h.Result(w.Ctx()); err != nil || string(m.Payload) != fmt.Sprint(i) {
			t.Errorf("task %d: %v", i, err)
		}
	}
	if len(begun) != 0 {
		t.Errorf("%d tasks ran more than once", len(begun))
	}
}

// TestSharedSlowly: a worker whose tasks were short keeps those of a message to itself; when they turn out to be long, it
// lets others have what it has not begun.
func TestSharedSlowly(t *testing.T) {
	w := bustest.New(t, taskPolicy)
	planner, first, second := w.Agent("planner"), w.Agent("exec-1"), w.Agent("exec-2")
	all, begun := make(chan struct{}), make(chan struct{}, 64)
	handler := func(ctx context.Context, t *agentbus.Task) ([]byte, error) {
		if strings.HasPrefix(string(t.Payload), "short") {
			return nil, nil
		}
		begun <- struct{}{}
		select {
		case <-all:
			return t.Payload, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	worker, err := first.Work(w.Ctx(), "work", handler, agentbus.Concurrency(2))
	bustest.Check(t, err)
	learn(t, w, planner)
	list, err := planner.EnqueueBatch(w.Ctx(), "work", named(16))
	bustest.Check(t, err)
	bustest.Receive(t, begun)
	_, err = second.Work(w.Ctx(), "work", handler, agentbus.Concurrency(14))
	bustest.Check(t, err)
	for range len(list) - 1 {
		bustest.Receive(t, begun)
	}
	close(all)
	for i, h := range list {
		if m, err := h.Result(w.Ctx()); err != nil || string(m.Payload) != fmt.Sprint(i) {
			t.Errorf("task %d: %v", i, err)
		}
	}
	bustest.Check(t, worker.Stop())
	if len(begun) != 0 {
		t.Errorf("%d tasks ran more than once", len(begun))
	}
}

// TestSharedRedelivered: when the worker of a message stops, what it has not finished of it is worked on by another, and
// nothing else.
func TestSharedRedelivered(t *testing.T) {
	w := bustest.New(t, taskPolicy)
	planner, first, second := w.Agent("planner"), w.Agent("exec-1"), w.Agent("exec-2")
	var ran [17]atomic.Int64
	worker, err := first.Work(w.Ctx(), "work", func(_ context.Context, t *agentbus.Task) ([]byte, error) {
		ran[len(t.Payload)].Add(1)
		if len(t.Payload)%2 == 0 {
			return nil, agentbus.Snooze(20 * time.Millisecond)
		}
		return t.Payload, nil
	}, agentbus.Concurrency(16))
	bustest.Check(t, err)
	list := make([]agentbus.NewTask, 16)
	for i := range list {
		list[i].Payload = []byte(strings.Repeat("x", i+1))
	}
	handles, err := planner.EnqueueBatch(w.Ctx(), "work", list)
	bustest.Check(t, err)
	for i := 0; i < len(list); i += 2 {
		_, err := handles[i].Result(w.Ctx())
		bustest.Check(t, err)
	}
	eventually(t, "the others were snoozed", func() bool { return worker.Stats().Snoozed >= 16 })
	_, err = second.Work(w.Ctx(), "work", func(_ context.Context, t *agentbus.Task) ([]byte, error) {
		if ran[len(t.Payload)].Add(100); len(t.Payload)%2 == 0 {
			return t.Payload, nil
		}
		return nil, errors.New("again")
	})
	bustest.Check(t, err)
	bustest.Check(t, worker.Stop())
	for i, h := range handles {
		m, err := h.Result(w.Ctx())
		if err != nil || len(m.Payload) != i+1 {
			t.Errorf("task %d: %v", i, err)
		}
		if n := ran[i+1].Load(); i%2 == 0 && n != 1 || i%2 == 1 && n/100 != 1 {
			t.Errorf("task %d ran %d times, at the second worker %d times", i, n%100, n/100)
		}
	}
}

// TestTooManyInAMessage: a frame of more tasks than any enqueuer puts into one is refused, whole and once.
func TestTooManyInAMessage(t *testing.T) {
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	worker, err := exec.Work(w.Ctx(), "work", upper)
	bustest.Check(t, err)
	h, err := planner.Enqueue(w.Ctx(), "work", []byte("before"))
	bustest.Check(t, err)
	_, err = h.Result(w.Ctx())
	bustest.Check(t, err)
	ch, err := policy.Queue("work")
	bustest.Check(t, err)
	s, err := planner.Ring().Sender(w.Ctx(), ch)
	bustest.Check(t, err)
	frame, _, err := s.Seal(nil, &keyring.Draft{Kind: envelope.KindTask, Recipient: "work", Messages: make([]envelope.Message, 17)})
	bustest.Check(t, err)
	_, err = ownerOf(t, w).Publish(w.Ctx(), policy.TaskSubject("work", agentbus.DefaultPriority), frame)
	bustest.Check(t, err)
	eventually(t, "it is refused", func() bool { return worker.Stats().Dead == 1 })
	letters, err := planner.DeadLetters(w.Ctx(), "work")
	bustest.Check(t, err)
	if len(letters) != 1 || letters[0].Reason != agentbus.DeadUnopenable || !strings.Contains(letters[0].Text, "17 tasks") {
		t.Errorf("%d letters, %v", len(letters), letters)
	}
}

// TestSharedInATrice: a worker that puts most of a message back while the first of its tasks ends lets go of all of it, and of the
// message.
func TestSharedInATrice(t *testing.T) {
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	js := ownerOf(t, w)
	for range 5 { // a new worker does not know yet how long tasks take
		worker, err := exec.Work(w.Ctx(), "work", upper, agentbus.Concurrency(1))
		bustest.Check(t, err)
		list, err := planner.EnqueueBatch(w.Ctx(), "work", named(16))
		bustest.Check(t, err)
		for _, h := range list {
			_, err := h.Result(w.Ctx())
			bustest.Check(t, err)
		}
		last := streamOf(t, w, policy.TaskStream("work")).LastSeq
		eventually(t, "every message is settled", func() bool { return consumerOf(t, w, js, "work").AckFloor.Stream == last })
		bustest.Check(t, worker.Stop())
		if s := worker.Stats(); s.Succeeded != 16 || s.Settled != 0 {
			t.Errorf("%+v", s)
		}
	}
}
