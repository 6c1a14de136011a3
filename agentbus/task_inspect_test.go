package agentbus_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/policy"
)

func infoOf(t testing.TB, w *bustest.World, b *agentbus.Bus) *agentbus.QueueInfo {
	t.Helper()
	i, err := b.QueueInfo(w.Ctx(), "work")
	bustest.Check(t, err)
	return i
}

// TestQueueInfo: a queue's tasks are counted where they are, and the oldest of them is known.
func TestQueueInfo(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	if i := infoOf(t, w, planner); i.Pending+i.Out+i.Delayed+i.Dead+i.Results != 0 || !i.Oldest.IsZero() || len(i.Workers) != 0 || i.Queue != "work" {
		t.Errorf("of nothing: %+v", i)
	}
	running, release := make(chan struct{}, 10), make(chan struct{})
	worker, err := exec.Work(w.Ctx(), "work", func(_ context.Context, t *agentbus.Task) ([]byte, error) {
		switch string(t.Payload) {
		case "dies":
			return nil, agentbus.Cancel(nil)
		case "held":
			running <- struct{}{}
			<-release
		}
		return nil, nil
	}, agentbus.Concurrency(2))
	bustest.Check(t, err)
	enqueue := func(text string, options ...agentbus.EnqueueOption) *agentbus.TaskHandle {
		t.Helper()
		h, err := planner.Enqueue(w.Ctx(), "work", []byte(text), options...)
		bustest.Check(t, err)
		return h
	}
	var dead *agentbus.TaskError
	if _, err := enqueue("dies").Result(w.Ctx()); !errors.As(err, &dead) {
		t.Fatal(err)
	}
	_, err = enqueue("succeeds").Result(w.Ctx())
	bustest.Check(t, err)
	enqueue("later", agentbus.Delay(time.Hour))
	enqueue("later", agentbus.Delay(time.Hour), agentbus.Priority(0))
	first := enqueue("held", agentbus.Priority(1))
	enqueue("held", agentbus.Priority(1))
	for range 2 {
		bustest.Receive(t, running)
	}
	bustest.Check(t, first2(worker, planner, w, release))
	for _, b := range []*agentbus.Bus{planner, exec} {
		i := infoOf(t, w, b)
		if i.Delayed != 2 || i.Dead != 1 || i.Results != 4 || i.Pending+i.Out != 3 || i.Priorities[3].Pending+i.Priorities[3].Out != 3 {
			t.Errorf("%+v", i)
		}
		if i.Oldest.IsZero() || !i.Oldest.Equal(i.Priorities[3].Oldest) || i.Oldest.Before(ulidTime(first)) {
			t.Errorf("the oldest is of %v", i.Oldest)
		}
		if s := i.Streams; s.Log.Messages != 8 || s.Log.Bytes == 0 || s.Results.Messages != 4 || s.Delayed.Messages != 2 || s.Controls.Messages == 0 || s.Log.MaxBytes != 0 {
			t.Errorf("%+v", s)
		}
	}
	stranger := w.Agent("exec-2")
	publishPolicy(t, w, `trust_domain: example.org
revision: 2
queues:
  work: {enqueue: [planner, boss], work: [exec-1]}
  side: {enqueue: [planner], work: ["exec-*"]}
`, stranger)
	if _, err := stranger.QueueInfo(w.Ctx(), "work"); !errors.Is(err, agentbus.ErrNotEntitled) {
		t.Errorf("a stranger: %v", err)
	}
	if _, err := planner.QueueInfo(w.Ctx(), "none"); err == nil {
		t.Error("of a queue that there is not")
	}
	bustest.Check(t, planner.Close())
	if _, err := planner.QueueInfo(w.Ctx(), "work"); !errors.Is(err, agentbus.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// first2 checks what is out while two tasks run, then has the worker finish and leaves three tasks waiting.
func first2(worker *agentbus.Worker, planner *agentbus.Bus, w *bustest.World, release chan struct{}) error {
	i, err := planner.QueueInfo(w.Ctx(), "work")
	if err != nil {
		return err
	}
	if p := i.Priorities[1]; i.Out != 2 || i.Pending != 0 || p.Out != 2 || p.Oldest.IsZero() {
		return fmt.Errorf("while two run: %+v", i)
	}
	close(release)
	if err := worker.Stop(); err != nil {
		return err
	}
	for range 3 {
		if _, err := planner.Enqueue(w.Ctx(), "work", []byte("waits"), agentbus.Priority(3)); err != nil {
			return err
		}
	}
	// What it settled as it stopped has not come to the consumers yet, perhaps.
	for ctx := w.Ctx(); i.Priorities[1].Out > 0; {
		if i, err = planner.QueueInfo(ctx, "work"); err != nil {
			return fmt.Errorf("%w; it stands at %+v", err, i)
		}
	}
	return nil
}

func ulidTime(h *agentbus.TaskHandle) time.Time { return time.UnixMilli(int64(h.ID().Time())) }

// TestPresence: enqueuers see which workers live, with what they do, until those stop or are not heard of any more.
func TestPresence(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, taskPolicy)
	quick := func(name string) *agentbus.Bus {
		return w.Connect(agentbus.Presence(w.Config(name), 500*time.Millisecond))
	}
	planner, exec, dies := quick("planner"), quick("exec-1"), quick("exec-2")
	begin := time.Now().Add(-time.Millisecond)
	running, release := make(chan struct{}), make(chan struct{})
	handler := func(context.Context, *agentbus.Task) ([]byte, error) {
		close(running)
		<-release
		return nil, nil
	}
	first, err := exec.Work(w.Ctx(), "work", handler, agentbus.Concurrency(3))
	bustest.Check(t, err)
	workers := func(n int, ok func([]agentbus.WorkerInfo) bool) (list []agentbus.WorkerInfo) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d workers", n), func() bool {
			list = infoOf(t, w, planner).Workers
			return len(list) == n && (ok == nil || ok(list))
		})
		return list
	}
	if i := workers(1, nil)[0]; i.Agent != exec.Self() || i.Concurrency != 3 || i.Running != 0 || i.Since.Before(begin) || i.Seen.Before(i.Since) || i.Instance.IsZero() {
		t.Errorf("%+v", i)
	}
	_, err = planner.Enqueue(w.Ctx(), "work", nil)
	bustest.Check(t, err)
	bustest.Receive(t, running)
	workers(1, func(list []agentbus.WorkerInfo) bool { return list[0].Running == 1 })
	second, err := exec.Work(w.Ctx(), "side", handler, agentbus.AlsoQueue("work", 1))
	bustest.Check(t, err)
	_, err = dies.Work(w.Ctx(), "work", handler)
	bustest.Check(t, err)
	list := workers(3, nil)
	if list[0].Agent != exec.Self() || list[1].Agent != exec.Self() || list[2].Agent != dies.Self() || list[0].Instance == list[1].Instance {
		t.Errorf("%+v", list)
	}
	if i := infoOf(t, w, exec); len(i.Workers) != 0 {
		t.Errorf("a worker, which has no key to that, is told %+v", i.Workers)
	}
	dies.Conn().Close() // without a word
	workers(2, func(list []agentbus.WorkerInfo) bool { return list[1].Agent == exec.Self() })
	bustest.Check(t, second.Stop())
	if list := infoOf(t, w, planner).Workers; len(list) != 1 || list[0].Concurrency != 3 {
		t.Errorf("right after one has stopped: %+v", list)
	}
	close(release)
	bustest.Check(t, first.Stop())
	if list := infoOf(t, w, planner).Workers; len(list) != 0 {
		t.Errorf("right after all have stopped: %+v", list)
	}
	if side, err := planner.QueueInfo(w.Ctx(), "side"); err != nil || len(side.Workers) != 0 {
		t.Errorf("%+v, %v", side, err)
	}
}

// TestPresenceJunk: what an enqueuer leaves among the signs of life is no worker's, and hides none.
func TestPresenceJunk(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	_, err := exec.Work(w.Ctx(), "work", upper)
	bustest.Check(t, err)
	boss := ownSoftware(t, w, "boss")
	for n := range 600 { // more than two pages
		bustest.Check(t, boss.PublishRequest(policy.ControlSubject("work", "boss", fmt.Sprintf("presence.%026d", n)), boss.NewInbox(), []byte("junk")))
	}
	bustest.Check(t, boss.Flush())
	eventually(t, "the junk is stored", func() bool { return infoOf(t, w, planner).Streams.Controls.Messages >= 601 })
	if list := infoOf(t, w, planner).Workers; len(list) != 1 || list[0].Agent != exec.Self() {
		t.Errorf("%+v", list)
	}
}
