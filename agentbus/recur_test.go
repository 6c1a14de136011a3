package agentbus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/policy"
)

var secondly = agentbus.Every(time.Second)

// runsOf returns a handler that passes on what it is given, and begins no run before its tick.
func runsOf(t *testing.T, n int) (agentbus.TaskHandler, chan *agentbus.Task) {
	c := make(chan *agentbus.Task, n)
	return func(_ context.Context, task *agentbus.Task) ([]byte, error) {
		if time.Now().Before(task.Tick) {
			t.Errorf("the run of %v begins at %v", task.Tick, time.Now())
		}
		c <- task
		return fmt.Appendf(nil, "%s by %d", task.Payload, task.Tick.Unix()), nil
	}, c
}

// oncePerTick takes n runs of a task and expects as many ticks, each a second.
func oncePerTick(t *testing.T, queue, name string, runs <-chan *agentbus.Task, n int) (ticks map[int64]*agentbus.Task) {
	t.Helper()
	ticks = make(map[int64]*agentbus.Task)
	for range n {
		task := bustest.Receive(t, runs)
		at := task.Tick.Unix()
		if ticks[at] != nil {
			t.Fatalf("a second run of %v", task.Tick)
		}
		ticks[at] = task
		if task.ID != agentbus.RunID(queue, name, task.Tick) || task.Recurring != name || task.Tick.Nanosecond() != 0 {
			t.Errorf("run %s of %q at %v, want %s", task.ID, task.Recurring, task.Tick, agentbus.RunID(queue, name, task.Tick))
		}
	}
	return ticks
}

// TestRecurOncePerTick: two producers register the same, two workers work: one run for each tick, whose result both producers
// find by the tick. The broker is restarted in between, and nobody registers anything anew.
func TestRecurOncePerTick(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, taskPolicy)
	planner, boss := w.Agent("planner"), w.Agent("boss")
	handler, runs := runsOf(t, 64)
	workers := make([]*agentbus.Worker, 2)
	for i := range workers {
		var err error
		workers[i], err = w.Agent(fmt.Sprintf("exec-%d", i)).Work(w.Ctx(), "work", handler)
		bustest.Check(t, err)
	}
	for range 3 { // and more than once
		for _, b := range []*agentbus.Bus{planner, boss} {
			bustest.Check(t, b.Recur(w.Ctx(), "work", "report", secondly, []byte("report"), agentbus.Kind("nightly")))
		}
	}
	registered := time.Now()
	ticks := oncePerTick(t, "work", "report", runs, 4)
	w.Stop()
	w.Start()
	for at, task := range oncePerTick(t, "work", "report", runs, 3) {
		if ticks[at] != nil {
			t.Errorf("tick %v once more after the restart", task.Tick)
		}
		ticks[at] = task
	}
	for at, task := range ticks {
		for _, b := range []*agentbus.Bus{planner, boss} {
			h, err := b.Task("work", agentbus.RunID("work", "report", time.Unix(at, 0)))
			bustest.Check(t, err)
			m, err := h.Result(w.Ctx())
			if want := fmt.Sprintf("report by %d", at); err != nil || string(m.Payload) != want {
				t.Errorf("the result of tick %d: %v, %v", at, m, err)
			}
		}
		if string(task.Payload) != "report" || task.Kind != "nightly" || task.Attempt != 1 || task.Sender.Name() != "boss" && task.Tick.After(registered) {
			t.Errorf("run %+v of %s", task, task.Sender)
		}
	}
	if len(ticks) != 7 {
		t.Errorf("%d ticks", len(ticks))
	}
}

// TestRecurMissedTick: a tick at which there was no broker runs when it is back, and one at which there was no worker when that comes.
func TestRecurMissedTick(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	handler, runs := runsOf(t, 64)
	worker, err := exec.Work(w.Ctx(), "work", handler)
	bustest.Check(t, err)
	tick := time.Now().Add(3 * time.Second).Truncate(time.Second).UTC()
	daily := agentbus.Cron(fmt.Sprintf("%d %d %d * * *", tick.Second(), tick.Minute(), tick.Hour()), "UTC")
	bustest.Check(t, planner.Recur(w.Ctx(), "work", "daily", daily, nil))
	w.Stop()
	bustest.Receive(t, time.After(time.Until(tick)))
	w.Start()
	if task := bustest.Receive(t, runs); !task.Tick.Equal(tick) || task.Recurring != "daily" {
		t.Errorf("the run of %v of %q, want %v", task.Tick, task.Recurring, tick)
	}
	bustest.Check(t, worker.Stop())
	bustest.Check(t, planner.Recur(w.Ctx(), "side", "alone", secondly, nil))
	log, err := ownerOf(t, w).Stream(w.Ctx(), policy.TaskStream("side"))
	bustest.Check(t, err)
	eventually(t, "three ticks that nobody is there for", func() bool {
		info, err := log.Info(w.Ctx())
		bustest.Check(t, err)
		return info.State.Msgs >= 3
	})
	_, err = exec.Work(w.Ctx(), "side", handler)
	bustest.Check(t, err)
	oncePerTick(t, "side", "alone", runs, 3)
}

// TestRecurReplaced: the same name again replaces the payload, and both come to one run a tick.
func TestRecurReplaced(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, taskPolicy)
	planner, boss, exec := w.Agent("planner"), w.Agent("boss"), w.Agent("exec-1")
	handler, runs := runsOf(t, 64)
	_, err := exec.Work(w.Ctx(), "work", handler)
	bustest.Check(t, err)
	bustest.Check(t, planner.Recur(w.Ctx(), "work", "x", secondly, []byte("old")))
	oncePerTick(t, "work", "x", runs, 1)
	bustest.Check(t, boss.Recur(w.Ctx(), "work", "x", agentbus.Cron("* * * * * *", "Asia/Kathmandu"), []byte("new"), agentbus.Priority(0)))
	seen := make(map[int64]bool)
	for newer := 0; newer < 2; {
		task := bustest.Receive(t, runs)
		if seen[task.Tick.Unix()] {
			t.Errorf("tick %v twice", task.Tick)
		}
		seen[task.Tick.Unix()] = true
		switch string(task.Payload) {
		case "new":
			newer++
		case "old":
			if newer > 0 {
				t.Error("the old one after the new one")
			}
		}
	}
}

// TestRecurListAndRemove: enqueuers and workers see what recurs; what was removed does not any more.
func TestRecurListAndRemove(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, taskPolicy)
	planner, boss, exec := w.Agent("planner"), w.Agent("boss"), w.Agent("exec-1")
	ctx := w.Ctx()
	if list, err := planner.Recurring(ctx, "work"); err != nil || len(list) != 0 {
		t.Errorf("before: %v, %v", list, err)
	}
	began := time.Now().Truncate(time.Millisecond)
	bustest.Check(t, planner.Recur(ctx, "work", "b-weekdays", agentbus.Cron("0 7 * * 1-5", "Europe/Berlin"), nil, agentbus.Kind("k")))
	bustest.Check(t, boss.Recur(ctx, "work", "a", agentbus.Every(90*time.Minute), nil))
	bustest.Check(t, planner.Recur(ctx, "side", "a", secondly, nil))
	// To a worker they are verified: that works on the queue, so that it has the key.
	handler, runs := runsOf(t, 64)
	_, err := exec.Work(ctx, "work", handler, agentbus.AlsoQueue("side", 1))
	bustest.Check(t, err)
	for _, b := range []*agentbus.Bus{planner, boss, exec} {
		list, err := b.Recurring(ctx, "work")
		if err != nil || len(list) != 2 {
			t.Fatalf("%d recurring tasks, %v", len(list), err)
		}
		for i, want := range []struct{ name, expression, zone, by string }{
			{"a", "@every 1h30m0s", "UTC", "boss"}, {"b-weekdays", "0 7 * * 1-5", "Europe/Berlin", "planner"},
		} {
			r := list[i]
			if r.Name != want.name || r.Schedule.String() != want.expression || r.Schedule.Zone() != want.zone || r.By.Name() != want.by || r.Queue != "work" ||
				r.Since.Before(began) || r.Since.After(time.Now()) || !r.Next.After(began) || !r.Schedule.Next(r.Next.Add(-1)).Equal(r.Next) || r.Verified != (b == exec) || r.Verified && (r.Kind == "k") != (i == 1) {
				t.Errorf("listed: %+v, want %+v", r, want)
			}
			if r.Run(r.Next) != agentbus.RunID("work", r.Name, r.Next) {
				t.Errorf("%s: another id", r.Name)
			}
		}
	}
	bustest.Receive(t, runs)
	bustest.Check(t, planner.RemoveRecurring(ctx, "side", "a"))
	bustest.Check(t, planner.RemoveRecurring(ctx, "work", "a")) // boss's
	if err := planner.RemoveRecurring(ctx, "work", "a"); !errors.Is(err, agentbus.ErrNoRecurring) {
		t.Errorf("removed twice: %v", err)
	}
	if list, err := boss.Recurring(ctx, "work"); err != nil || len(list) != 1 || list[0].Name != "b-weekdays" {
		t.Errorf("after: %v, %v", list, err)
	}
}

// TestRecurRemoveStops: once a task is removed and what was due is through, nothing of it comes any more, though another goes on.
func TestRecurRemoveStops(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	handler, runs := runsOf(t, 64)
	worker, err := exec.Work(w.Ctx(), "work", handler)
	bustest.Check(t, err)
	bustest.Check(t, planner.Recur(w.Ctx(), "work", "stops", secondly, nil))
	bustest.Check(t, planner.Recur(w.Ctx(), "work", "goes-on", secondly, nil))
	for task := bustest.Receive(t, runs); task.Recurring != "stops"; task = bustest.Receive(t, runs) {
	}
	bustest.Check(t, planner.RemoveRecurring(w.Ctx(), "work", "stops"))
	removed := time.Now()
	for later := 0; later < 3; { // ticks of the other one
		task := bustest.Receive(t, runs)
		switch after := task.Tick.After(removed); {
		case after && task.Recurring == "stops":
			t.Errorf("removed at %v, and runs at %v", removed, task.Tick)
		case after:
			later++
		}
	}
	if s := worker.Stats(); s.Dead != 0 || s.Failed != 0 {
		t.Errorf("%+v", s)
	}
}

// TestRecurFails: a run is tried again as its options say, while further ticks come, and then is dead by its own id; revived it is
// a task like others.
func TestRecurFails(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	var mu sync.Mutex
	attempts := make(map[ulid.ULID][]int)
	tasks, others := make(chan *agentbus.Task, 64), make(chan struct{})
	_, err := exec.Work(w.Ctx(), "work", func(ctx context.Context, task *agentbus.Task) ([]byte, error) {
		if task.Recurring == "" {
			return []byte("revived " + string(task.Payload)), nil
		}
		mu.Lock()
		attempts[task.ID] = append(attempts[task.ID], task.Attempt)
		if len(attempts) == 2 && len(attempts[task.ID]) == 1 {
			close(others)
		}
		mu.Unlock()
		tasks <- task
		if task.Attempt == 3 { // its last, of the first run, waits for another tick
			select {
			case <-others:
			case <-ctx.Done():
			}
		}
		return nil, errors.New("not today")
	})
	bustest.Check(t, err)
	bustest.Check(t, planner.Recur(w.Ctx(), "work", "fails", secondly, []byte("p"), agentbus.MaxAttempts(3), agentbus.Backoff(700*time.Millisecond, time.Second),
		agentbus.Header("h", "v")))
	first := bustest.Receive(t, tasks)
	h, err := planner.Task("work", first.ID)
	bustest.Check(t, err)
	var dead *agentbus.TaskError
	if _, err := h.Result(w.Ctx()); !errors.As(err, &dead) || dead.Attempts != 3 || dead.Reason != agentbus.DeadAttempts || dead.Text != "not today" {
		t.Errorf("%v", err)
	}
	mu.Lock()
	if got := fmt.Sprint(attempts[first.ID]); got != "[1 2 3]" {
		t.Errorf("attempts %s", got)
	}
	mu.Unlock()
	letter, err := planner.DeadLetter(w.Ctx(), "work", first.ID)
	bustest.Check(t, err)
	revived, err := planner.Revive(w.Ctx(), letter)
	bustest.Check(t, err)
	if m, err := revived.Result(w.Ctx()); err != nil || string(m.Payload) != "revived p" {
		t.Errorf("%v, %v", m, err)
	}
}

// TestRecurRefused: what cannot be is refused at the call, which says what can.
func TestRecurRefused(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, strings.Replace(taskPolicy, "queues:", "queues:\n  open: {enqueue: [planner], work: [\"exec-*\"], signed: false}", 1))
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	ctx := w.Ctx()
	for name, c := range map[string]struct {
		queue, task, says string
		s                 agentbus.Schedule
		options           []agentbus.EnqueueOption
	}{
		"no name":          {"work", "", "letters, digits", secondly, nil},
		"a name of two":    {"work", "a.b", "letters, digits", secondly, nil},
		"a wildcard":       {"work", "*", "letters, digits", secondly, nil},
		"a long name":      {"work", strings.Repeat("x", 65), "64 bytes", secondly, nil},
		"no schedule":      {"work", "x", "use Cron or Every", agentbus.Schedule{}, nil},
		"a cron":           {"work", "x", "five fields", agentbus.Cron("@daily", "UTC"), nil},
		"a cron's field":   {"work", "x", "above maximum", agentbus.Cron("0 25 * * *", "UTC"), nil},
		"a zone":           {"work", "x", "Europe/Berlin", agentbus.Cron("0 7 * * *", "Europe/Atlantis"), nil},
		"an interval":      {"work", "x", "1 to 60 seconds", agentbus.Every(time.Millisecond), nil},
		"Delay":            {"work", "x", "not for recurring", secondly, []agentbus.EnqueueOption{agentbus.Delay(time.Hour)}},
		"At":               {"work", "x", "not for recurring", secondly, []agentbus.EnqueueOption{agentbus.At(time.Now())}},
		"Deadline":         {"work", "x", "not for recurring", secondly, []agentbus.EnqueueOption{agentbus.Deadline(time.Now().Add(time.Hour))}},
		"no such queue":    {"nowhere", "x", "nowhere", secondly, nil},
		"a queue unsigned": {"open", "x", "signed: false", secondly, nil},
		"too large":        {"work", "x", "8 KiB", secondly, []agentbus.EnqueueOption{agentbus.Header("h", strings.Repeat("x", 9000))}},
	} {
		if err := planner.Recur(ctx, c.queue, c.task, c.s, nil, c.options...); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want something about %q", name, err, c.says)
		}
	}
	if err := exec.Recur(ctx, "work", "x", secondly, nil); !errors.Is(err, agentbus.ErrNotEntitled) {
		t.Errorf("a worker registers: %v", err)
	}
	if err := exec.RemoveRecurring(ctx, "work", "x"); !errors.Is(err, agentbus.ErrNotEntitled) {
		t.Errorf("a worker removes: %v", err)
	}
	if _, err := w.Agent("boss").Recurring(ctx, "side"); !errors.Is(err, agentbus.ErrNotEntitled) {
		t.Errorf("a stranger lists: %v", err)
	}
	if n := streamOf(t, w, policy.DelayStream("work")).Msgs; n != 0 {
		t.Errorf("%d messages are held", n)
	}
	bustest.Check(t, planner.Close())
	for name, err := range map[string]error{"Recur": planner.Recur(ctx, "work", "x", secondly, nil), "RemoveRecurring": planner.RemoveRecurring(ctx, "work", "x"),
		"Recurring": second(planner.Recurring(ctx, "work"))} {
		if !errors.Is(err, agentbus.ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
}
