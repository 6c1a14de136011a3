package agentbus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
)

const historyPolicy = `trust_domain: example.org
revision: 1
queues:
  work: {enqueue: [planner, boss], work: ["exec-*"], read: [clerk]}
  side: {enqueue: [planner], work: ["exec-*"], signed: false, read: [clerk]}
`

// histories returns what a replay of the queue work says, in which nothing may be wrong.
func histories(t testing.TB, w *bustest.World, b *agentbus.Bus, options ...agentbus.ReplayOption) (all []*agentbus.TaskHistory) {
	t.Helper()
	for h, err := range b.ReplayQueue(w.Ctx(), "work", options...) {
		bustest.Check(t, err)
		if h.Err != nil {
			t.Errorf("of %s: %v", h.ID, h.Err)
		}
		all = append(all, h)
	}
	return all
}

// story says what came of a task, in a line.
func story(h *agentbus.TaskHistory) string {
	s := fmt.Sprintf("%s %s:", h.Task.Payload, h.State)
	for _, a := range h.Attempts {
		s += fmt.Sprintf(" %d %s %q", a.Number, a.Worker.Name(), a.Text)
	}
	if h.Result != nil {
		s += fmt.Sprintf(" result %s of %s", h.Result.Payload, h.Result.Sender.Name())
	}
	if h.Dead != nil {
		s += fmt.Sprintf(" %s after %d", h.Dead.Reason, h.Dead.Attempts)
	}
	if h.Letter != nil {
		s += fmt.Sprintf(" letter %q", h.Letter.Text)
	}
	return s
}

func stories(all []*agentbus.TaskHistory) (list []string) {
	for _, h := range all {
		list = append(list, story(h))
	}
	return list
}

// TestReplayQueue has tasks end in every way, and reads all of that back.
func TestReplayQueue(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, historyPolicy)
	planner, boss, exec, clerk := w.Agent("planner"), w.Agent("boss"), w.Agent("exec-1"), w.Agent("clerk")
	worker, err := exec.Work(w.Ctx(), "work", func(_ context.Context, t *agentbus.Task) ([]byte, error) {
		switch text := string(t.Payload); {
		case text == "fails twice" && t.Attempt < 3, text == "fails":
			return nil, fmt.Errorf("no %d", t.Attempt)
		case text == "gives up":
			return nil, agentbus.Cancel(errors.New("enough"))
		default:
			return []byte(strings.ToUpper(text)), nil
		}
	})
	bustest.Check(t, err)
	begin := time.Now()
	var tasks []*agentbus.TaskHandle
	enqueue := func(b *agentbus.Bus, text string, options ...agentbus.EnqueueOption) {
		t.Helper()
		h, err := b.Enqueue(w.Ctx(), "work", []byte(text), options...)
		bustest.Check(t, err)
		tasks = append(tasks, h)
		var dead *agentbus.TaskError
		if _, err := h.Result(w.Ctx()); err != nil && !errors.As(err, &dead) {
			t.Fatal(err)
		}
	}
	quick := agentbus.Backoff(time.Millisecond, time.Millisecond)
	enqueue(planner, "plain", agentbus.Kind("letter"), agentbus.Priority(3), agentbus.Header("lang", "de"), agentbus.ContentType("text/plain"))
	enqueue(boss, "fails twice", quick, agentbus.MaxAttempts(5), agentbus.Timeout(time.Minute))
	enqueue(planner, "fails", quick, agentbus.MaxAttempts(2))
	enqueue(planner, "gives up", quick)
	enqueue(planner, "alone", agentbus.Unique("key", 0))
	enqueue(planner, "held", agentbus.Delay(3*time.Second))
	letter, err := planner.DeadLetter(w.Ctx(), "work", tasks[3].ID())
	bustest.Check(t, err)
	bustest.Check(t, worker.Stop())
	revived, err := planner.Revive(w.Ctx(), letter)
	bustest.Check(t, err)
	deadline := time.Now().Add(time.Hour).Truncate(time.Millisecond)
	late, err := planner.Enqueue(w.Ctx(), "work", []byte("waits"), agentbus.Deadline(deadline), agentbus.Priority(0))
	bustest.Check(t, err)
	_, err = planner.Enqueue(w.Ctx(), "work", []byte("not due"), agentbus.Delay(time.Hour))
	bustest.Check(t, err)
	for range 2 {
		all := histories(t, w, clerk)
		expect(t, "the log", stories(all),
			"plain succeeded: result PLAIN of exec-1",
			`fails twice succeeded: 1 exec-1 "no 1" 2 exec-1 "no 2" result FAILS TWICE of exec-1`,
			`fails dead: 1 exec-1 "no 1" 2 exec-1 "no 2" attempts used up after 2 letter "no 2"`,
			`gives up dead: 1 exec-1 "enough" cancelled after 1 letter "enough"`,
			"alone succeeded: result ALONE of exec-1",
			"held succeeded: result HELD of exec-1",
			"gives up pending:", "waits pending:")
		for i, h := range all {
			if h.Queue != "work" || h.Sequence == 0 || !h.Task.Replayed || h.Task.Sequence != h.Sequence || h.Stored.Before(begin.Add(-time.Second)) || h.Stored.After(time.Now().Add(time.Second)) ||
				h.Task.ID != h.ID || h.Recurring != "" || !h.Tick.IsZero() {
				t.Errorf("%d: %+v", i, h)
			}
			if i < len(tasks) && h.ID != tasks[i].ID() || h.Result != nil && (!h.Result.Replayed || h.Result.Sequence == 0) {
				t.Errorf("%d: task %s, result %+v", i, h.ID, h.Result)
			}
		}
		if h := all[0]; h.Kind != "letter" || h.Priority != 3 || h.MaxAttempts != agentbus.DefaultMaxAttempts || h.Task.Sender != planner.Self() || h.Task.Header("lang") != "de" ||
			h.Task.ContentType() != "text/plain" || len(h.Task.Headers()) != 2 || !h.Deadline.IsZero() || !h.NotBefore.IsZero() || !h.Revives.IsZero() {
			t.Errorf("%+v", h)
		}
		if h := all[1]; h.Task.Sender != boss.Self() || h.MaxAttempts != 5 || h.Timeout != time.Minute {
			t.Errorf("%+v", h)
		}
		if h := all[5]; h.NotBefore.Sub(begin) < 2*time.Second {
			t.Errorf("%+v", h)
		}
		if h := all[6]; h.ID != revived.ID() || h.Revives != tasks[3].ID() {
			t.Errorf("%+v", h)
		}
		if h := all[7]; h.ID != late.ID() || !h.Deadline.Equal(deadline) || h.Priority != 0 {
			t.Errorf("%+v", h)
		}
	}
	all := histories(t, w, clerk)
	for _, test := range []struct {
		what    string
		options []agentbus.ReplayOption
		want    []string
	}{
		{"of boss", []agentbus.ReplayOption{agentbus.BySender("boss")}, []string{"fails twice"}},
		{"by header", []agentbus.ReplayOption{agentbus.WithHeader("lang", "de")}, []string{"plain"}},
		{"a part", []agentbus.ReplayOption{agentbus.FromSequence(all[1].Sequence), agentbus.ToSequence(all[2].Sequence)}, []string{"fails twice", "fails"}},
		{"since the revival", []agentbus.ReplayOption{agentbus.Since(ulid.Time(revived.ID().Time()))}, []string{"gives up", "waits"}},
		{"until then", []agentbus.ReplayOption{agentbus.Until(ulid.Time(tasks[1].ID().Time()))}, []string{"plain"}},
	} {
		var got []string
		for _, h := range histories(t, w, clerk, test.options...) {
			got = append(got, string(h.Task.Payload))
		}
		expect(t, test.what, got, test.want...)
	}
}

// TestReplayQueueShared: tasks that share a message come each for itself, once, also where a worker has put them back.
func TestReplayQueueShared(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, historyPolicy)
	planner, exec, clerk := w.Agent("planner"), w.Agent("exec-1"), w.Agent("clerk")
	const n = 40
	list := make([]agentbus.NewTask, n)
	var want []string
	for i := range list {
		list[i].Payload = fmt.Append(nil, i)
		want = append(want, fmt.Sprintf("%d succeeded: result %d of exec-1", i, i))
	}
	handles, err := planner.EnqueueBatch(w.Ctx(), "work", list)
	bustest.Check(t, err)
	begun, release := make(chan bool, n), make(chan bool)
	handler := func(_ context.Context, t *agentbus.Task) ([]byte, error) {
		begun <- true
		<-release
		return t.Payload, nil
	}
	worker, err := exec.Work(w.Ctx(), "work", handler, agentbus.Concurrency(1))
	bustest.Check(t, err)
	bustest.Receive(t, begun)
	go worker.Stop() // and puts back what has not begun
	eventually(t, "tasks are put back", func() bool { return streamOf(t, w, "SB_TASK_work").LastSeq > 10 })
	close(release)
	_, err = exec.Work(w.Ctx(), "work", handler)
	bustest.Check(t, err)
	for _, h := range handles {
		_, err := h.Result(w.Ctx())
		bustest.Check(t, err)
	}
	all := histories(t, w, clerk)
	expect(t, "the log", stories(all), want...)
	// From the first copy on: each task of its message once.
	for _, from := range []uint64{2, 3, 4, 10} {
		seen := make(map[ulid.ULID]bool)
		for _, h := range histories(t, w, clerk, agentbus.FromSequence(from)) {
			if seen[h.ID] || h.State != agentbus.TaskSucceeded {
				t.Errorf("from place %d: %s", from, story(h))
			}
			seen[h.ID] = true
		}
	}
}

// TestReplayQueueRecurring: of a recurring task each run comes with its tick and its result.
func TestReplayQueueRecurring(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, historyPolicy)
	planner, boss, exec, clerk := w.Agent("planner"), w.Agent("boss"), w.Agent("exec-1"), w.Agent("clerk")
	handler, runs := runsOf(t, 64)
	_, err := exec.Work(w.Ctx(), "work", handler)
	bustest.Check(t, err)
	bustest.Check(t, boss.Recur(w.Ctx(), "work", "other", secondly, []byte("other")))
	for range 2 {
		bustest.Check(t, planner.Recur(w.Ctx(), "work", "report", secondly, []byte("report"), agentbus.Kind("nightly")))
	}
	ran := make(map[ulid.ULID]*agentbus.Task)
	for len(ran) < 6 {
		task := bustest.Receive(t, runs)
		ran[task.ID] = task
	}
	for id := range ran {
		h, err := planner.Task("work", id)
		bustest.Check(t, err)
		_, err = h.Result(w.Ctx())
		bustest.Check(t, err)
	}
	found := 0
	var last time.Time
	for _, h := range histories(t, w, clerk) {
		if h.ID != agentbus.RunID("work", h.Recurring, h.Tick) || string(h.Task.Payload) != h.Recurring || h.Tick.Before(last.Add(-time.Second)) {
			t.Errorf("%s of %s at %v: %s", h.ID, h.Recurring, h.Tick, story(h))
		}
		last = h.Tick
		if ran[h.ID] == nil {
			continue // it may be under way
		}
		found++
		if want := fmt.Sprintf("%s by %d", h.Recurring, h.Tick.Unix()); h.State != agentbus.TaskSucceeded || string(h.Result.Payload) != want {
			t.Errorf("%s, want %s", story(h), want)
		}
		delete(ran, h.ID)
	}
	if found != 6 || len(ran) > 0 {
		t.Errorf("%d runs found, %d missing", found, len(ran))
	}
	for _, h := range histories(t, w, clerk, agentbus.BySender("boss")) {
		if h.Recurring != "other" {
			t.Error(story(h))
		}
	}
}

// TestReplayQueueRefuses: only who is named as a reader reads a queue.
func TestReplayQueueRefuses(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, historyPolicy)
	planner, exec, clerk := w.Agent("planner"), w.Agent("exec-1"), w.Agent("clerk")
	for _, test := range []struct {
		what    string
		agent   *agentbus.Bus
		queue   string
		options []agentbus.ReplayOption
		want    string
	}{
		{"an enqueuer", planner, "work", nil, `add it to the queue's "read" list`},
		{"a worker", exec, "work", nil, `add it to the queue's "read" list`},
		{"no queue", clerk, "rest", nil, `"rest"`},
		{"options", clerk, "work", []agentbus.ReplayOption{agentbus.Follow(), agentbus.ToSequence(1)}, "Follow goes on"},
	} {
		n := 0
		for h, err := range test.agent.ReplayQueue(w.Ctx(), test.queue, test.options...) {
			if n++; h != nil || err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(test.want, "list") != errors.Is(err, agentbus.ErrNotEntitled) {
				t.Errorf("%s: %v, %v", test.what, h, err)
			}
		}
		if n != 1 {
			t.Errorf("%s: %d errors", test.what, n)
		}
	}
	expect(t, "an empty log", stories(histories(t, w, clerk)))
}

// TestReplayQueueMany: a long log, of which much waits, and a queue that is not signed.
func TestReplayQueueMany(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, historyPolicy)
	planner, exec, clerk := w.Agent("planner"), w.Agent("exec-1"), w.Agent("clerk")
	const n = 3000
	for _, queue := range []string{"work", "side"} {
		list := make([]agentbus.NewTask, n)
		for i := range list {
			list[i].Payload = fmt.Append(nil, i)
		}
		handles, err := planner.EnqueueBatch(w.Ctx(), queue, list)
		bustest.Check(t, err)
		worker, err := exec.Work(w.Ctx(), queue, func(_ context.Context, t *agentbus.Task) ([]byte, error) { return t.Payload, nil })
		bustest.Check(t, err)
		for _, h := range handles[:n/2] {
			_, err := h.Result(w.Ctx())
			bustest.Check(t, err)
		}
		bustest.Check(t, worker.Stop())
		i, pending := 0, 0
		for h, err := range clerk.ReplayQueue(w.Ctx(), queue) {
			bustest.Check(t, err)
			if h.ID != handles[i].ID() || string(h.Task.Payload) != fmt.Sprint(i) || h.Result != nil && !slices.Equal(h.Result.Payload, h.Task.Payload) || h.Err != nil {
				t.Fatalf("task %d: %s, %v", i, story(h), h.Err)
			}
			if h.State == agentbus.TaskPending {
				pending++
			} else if h.State != agentbus.TaskSucceeded {
				t.Errorf("task %d: %s", i, story(h))
			}
			i++
		}
		if i != n || pending > n/2 {
			t.Errorf("%s: %d tasks, %d of them pending", queue, i, pending)
		}
	}
}

// TestReplayQueueFollows: a follower gets each task when it is stored, over restarts.
func TestReplayQueueFollows(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, historyPolicy)
	planner, clerk := w.Agent("planner"), w.Agent("clerk")
	ctx, cancel := context.WithCancel(w.Ctx())
	got, ended := make(chan string, 16), make(chan error, 1)
	go func() {
		var last error
		for h, err := range clerk.ReplayQueue(ctx, "work", agentbus.Follow()) {
			if last = err; err == nil {
				got <- story(h)
			}
		}
		ended <- last
	}()
	for _, text := range []string{"one", "two", "three"} {
		_, err := planner.Enqueue(w.Ctx(), "work", []byte(text))
		bustest.Check(t, err)
		if s := bustest.Receive(t, got); s != text+" pending:" {
			t.Errorf("%q", s)
		}
		w.Stop()
		w.Start()
	}
	cancel()
	if err := bustest.Receive(t, ended); !errors.Is(err, context.Canceled) {
		t.Errorf("it ends with %v", err)
	}
}
