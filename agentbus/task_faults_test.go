package agentbus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/policy"
)

// ownSoftware connects as an agent that is no more than a NATS client with its certificate.
func ownSoftware(t testing.TB, w *bustest.World, name string) *nats.Conn {
	t.Helper()
	return w.Raw(w.Source(name), nats.CustomInboxPrefix(policy.InboxPrefix(name)))
}

// ownerOf has the broker's streams.
func ownerOf(t testing.TB, w *bustest.World) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(w.Admin("STORE"))
	bustest.Check(t, err)
	return js
}

// consumerOf returns what the broker says of the tasks of a queue's default priority.
func consumerOf(t testing.TB, w *bustest.World, js jetstream.JetStream, queue string) *jetstream.ConsumerInfo {
	t.Helper()
	c, err := js.Consumer(w.Ctx(), policy.TaskStream(queue), policy.TaskConsumer(agentbus.DefaultPriority))
	bustest.Check(t, err)
	return c.CachedInfo()
}

// changeConsumers changes how the broker hands out a queue's tasks.
func changeConsumers(t testing.TB, w *bustest.World, js jetstream.JetStream, queue string, change func(*jetstream.ConsumerConfig)) {
	t.Helper()
	for p := range policy.Priorities {
		c, err := js.Consumer(w.Ctx(), policy.TaskStream(queue), policy.TaskConsumer(p))
		bustest.Check(t, err)
		config := c.CachedInfo().Config
		change(&config)
		_, err = js.UpdateConsumer(w.Ctx(), policy.TaskStream(queue), config)
		bustest.Check(t, err)
	}
}

// forgetConsumers has the broker lose what it knows of tasks that were handed out and settled.
func forgetConsumers(t testing.TB, w *bustest.World, js jetstream.JetStream, queue string) {
	t.Helper()
	for p := range policy.Priorities {
		c, err := js.Consumer(w.Ctx(), policy.TaskStream(queue), policy.TaskConsumer(p))
		bustest.Check(t, err)
		bustest.Check(t, js.DeleteConsumer(w.Ctx(), policy.TaskStream(queue), policy.TaskConsumer(p)))
		_, err = js.CreateConsumer(w.Ctx(), policy.TaskStream(queue), c.CachedInfo().Config)
		bustest.Check(t, err)
	}
}

// soon is less than a lease: what comes only after a lease has run out comes too late.
func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), policy.TaskAckWait/2)
	t.Cleanup(cancel)
	return ctx
}

// TestTaskGoexit: a handler that ends its goroutine has failed.
func TestTaskGoexit(t *testing.T) {
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	worker, err := exec.Work(w.Ctx(), "work", func(_ context.Context, t *agentbus.Task) ([]byte, error) {
		if string(t.Payload) == "exit" && t.Attempt == 1 {
			runtime.Goexit()
		}
		return []byte("done"), nil
	}, agentbus.Concurrency(1))
	bustest.Check(t, err)
	first, err := planner.Enqueue(w.Ctx(), "work", []byte("exit"), agentbus.Backoff(time.Millisecond, time.Millisecond))
	bustest.Check(t, err)
	second, err := planner.Enqueue(w.Ctx(), "work", []byte("next"))
	bustest.Check(t, err)
	if _, err := second.Result(soon(t)); err != nil {
		t.Errorf("the task behind it: %v", err)
	}
	if _, err := first.Result(soon(t)); err != nil {
		t.Errorf("the task itself: %v", err)
	}
	bustest.Check(t, worker.Stop())
	if s := worker.Stats(); s.Failed != 1 || s.Succeeded != 2 {
		t.Errorf("%+v", s)
	}
}

// TestAttemptsOfOthers: what somebody else notes of a task's attempts does not count. Every enqueuer may write controls
// under its own name, and learns the ids of tasks from those of workers.
func TestAttemptsOfOthers(t *testing.T) {
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	begun, release := make(chan *agentbus.Task, 4), make(chan struct{})
	_, err := exec.Work(w.Ctx(), "work", func(_ context.Context, t *agentbus.Task) ([]byte, error) {
		begun <- t
		<-release
		if t.Attempt == 1 {
			return nil, errors.New("not yet")
		}
		return []byte("done"), nil
	})
	bustest.Check(t, err)
	task, err := planner.Enqueue(w.Ctx(), "work", nil, agentbus.Backoff(time.Millisecond, time.Millisecond))
	bustest.Check(t, err)
	bustest.Receive(t, begun)
	boss := ownSoftware(t, w, "boss")
	for n := range 20 {
		_, err := boss.Request(policy.ControlSubject("work", "boss", fmt.Sprintf("attempt.%s.%d", task.ID(), n+1)), []byte("junk"), bustest.Timeout)
		bustest.Check(t, err)
	}
	close(release)
	if m, err := task.Result(w.Ctx()); err != nil || string(m.Payload) != "done" {
		t.Errorf("another enqueuer has ended the task: %v", err)
	}
}

// TestStatusInTheLog: an enqueuer's message that looks like an answer of the server to a pull is let go of like all that
// is no task. 8,192 that are not would stop the queue.
func TestStatusInTheLog(t *testing.T) {
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	_, err := exec.Work(w.Ctx(), "work", upper)
	bustest.Check(t, err)
	js := ownerOf(t, w)
	changeConsumers(t, w, js, "work", func(c *jetstream.ConsumerConfig) { c.MaxAckPending = 2 })
	boss := ownSoftware(t, w, "boss")
	for _, status := range []string{"404", "100"} {
		_, err = boss.RequestMsg(&nats.Msg{Subject: policy.TaskSubject("work", agentbus.DefaultPriority), Header: nats.Header{"Status": {status}}}, bustest.Timeout)
		bustest.Check(t, err)
	}
	task, err := planner.Enqueue(w.Ctx(), "work", []byte("x"))
	bustest.Check(t, err)
	if _, err := task.Result(soon(t)); err != nil {
		t.Errorf("%v; %d tasks are out", err, consumerOf(t, w, js, "work").NumAckPending)
	}
}

// TestSettledWithLargeResults: the broker forgets what was settled, and the results are more than fit into one of its
// answers.
func TestSettledWithLargeResults(t *testing.T) {
	t.Parallel()
	const tasks = 80
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	var runs atomic.Int64
	large := bytes.Repeat([]byte("r"), agentbus.MaxPayload)
	handler := func(context.Context, *agentbus.Task) ([]byte, error) {
		runs.Add(1)
		return large, nil
	}
	first, err := exec.Work(w.Ctx(), "work", handler)
	bustest.Check(t, err)
	handles, err := planner.EnqueueBatch(w.Ctx(), "work", make([]agentbus.NewTask, tasks))
	bustest.Check(t, err)
	for _, h := range handles {
		_, err := h.Result(w.Ctx())
		bustest.Check(t, err)
	}
	bustest.Check(t, first.Stop())
	forgetConsumers(t, w, ownerOf(t, w), "work")
	again, err := exec.Work(w.Ctx(), "work", handler, agentbus.Concurrency(1000)) // which then come together
	bustest.Check(t, err)
	eventually(t, "all have come again", func() bool {
		s := again.Stats()
		return s.Settled+s.Late >= tasks
	})
	if n := runs.Load(); n != tasks {
		t.Errorf("%d runs of %d tasks: %+v", n, tasks, again.Stats())
	}
}

// TestManyDeadLetters: more letters than one answer of the broker holds.
func TestManyDeadLetters(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	_, err := exec.Work(w.Ctx(), "work", func(context.Context, *agentbus.Task) ([]byte, error) { return nil, agentbus.Cancel(nil) },
		agentbus.Concurrency(512))
	bustest.Check(t, err)
	handles, err := planner.EnqueueBatch(w.Ctx(), "work", make([]agentbus.NewTask, 1025))
	bustest.Check(t, err)
	for _, h := range handles {
		var dead *agentbus.TaskError
		if _, err := h.Result(w.Ctx()); !errors.As(err, &dead) {
			t.Fatal(err)
		}
	}
	if list, err := planner.DeadLetters(w.Ctx(), "work"); err != nil || len(list) != 1025 {
		t.Errorf("%d dead letters: %v", len(list), err)
	}
}

// TestLetterOfManyHeaders: a task with as many headers as there may be can be given up like any other.
func TestLetterOfManyHeaders(t *testing.T) {
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	var runs atomic.Int64
	_, err := exec.Work(w.Ctx(), "work", func(context.Context, *agentbus.Task) ([]byte, error) {
		runs.Add(1)
		return nil, agentbus.Cancel(errors.New("no"))
	})
	bustest.Check(t, err)
	many := func(n int) (list []agentbus.EnqueueOption) {
		for i := range n {
			list = append(list, agentbus.Header(fmt.Sprint("h", i), "v"))
		}
		return list
	}
	long := func(n int) []agentbus.EnqueueOption {
		return []agentbus.EnqueueOption{agentbus.Header("h", string(make([]byte, n*128)))}
	}
	for name, options := range map[string]func(int) []agentbus.EnqueueOption{"many": many, "long": long} {
		runs.Store(0)
		var task *agentbus.TaskHandle
		for n := 64; task == nil; n-- { // as much as is accepted
			if n == 0 {
				t.Fatal("nothing is accepted")
			}
			task, _ = planner.Enqueue(w.Ctx(), "work", nil, options(n)...)
		}
		var dead *agentbus.TaskError
		if _, err := task.Result(soon(t)); !errors.As(err, &dead) {
			t.Errorf("%s: %v after %d runs", name, err, runs.Load())
		}
	}
}

// TestTimesThatCannotBeSaid: a time that a task's terms have no room for is refused at the call, not by the worker, which
// can only take the task for no task.
func TestTimesThatCannotBeSaid(t *testing.T) {
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	_, err := exec.Work(w.Ctx(), "work", upper)
	bustest.Check(t, err)
	for name, option := range map[string]agentbus.EnqueueOption{
		"before 1970": agentbus.At(time.Unix(-1, 0)), "far away": agentbus.Deadline(time.Date(300_000, 1, 1, 0, 0, 0, 0, time.UTC)),
	} {
		task, err := planner.Enqueue(w.Ctx(), "work", nil, option)
		if err != nil {
			continue
		}
		if _, err := task.Result(soon(t)); err != nil {
			t.Errorf("%s: accepted, and then: %v", name, err)
		}
	}
}

// TestResultIsRecorded: what a worker has said of a task, and the broker did not record, is not its result.
func TestResultIsRecorded(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	begun, release := make(chan struct{}), make(chan string)
	_, err := exec.Work(w.Ctx(), "work", func(context.Context, *agentbus.Task) ([]byte, error) {
		begun <- struct{}{}
		return []byte(<-release), nil
	})
	bustest.Check(t, err)
	js := ownerOf(t, w)
	s, err := js.Stream(w.Ctx(), policy.ResultStream("work"))
	bustest.Check(t, err)
	full := s.CachedInfo().Config
	full.MaxBytes = 1
	_, err = js.UpdateStream(w.Ctx(), full)
	bustest.Check(t, err)
	news := tap(t, w.Admin("AGENTS"), policy.ResultSubject("work", "*"))
	task, err := planner.Enqueue(w.Ctx(), "work", nil)
	bustest.Check(t, err)
	bustest.Receive(t, begun)
	got := waits(t, w, planner, task)
	release <- "first"
	bustest.Receive(t, news)
	select {
	case text := <-got:
		t.Errorf("the result is %q, and none is recorded", text)
	case <-begun: // the broker has refused it, and so the task is worked on again
	case <-time.After(bustest.Timeout):
		t.Fatalf("the task is not worked on again; %d tasks are out", consumerOf(t, w, js, "work").NumAckPending)
	}
	full.MaxBytes = -1
	_, err = js.UpdateStream(w.Ctx(), full)
	bustest.Check(t, err)
	release <- "second"
	if t.Failed() {
		return
	}
	if text := bustest.Receive(t, got); text != "second" {
		t.Errorf("the result is %q, what is recorded is the second", text)
	}
}
