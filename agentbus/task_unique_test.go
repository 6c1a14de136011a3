package agentbus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// stands expects that a task has the key that another was to have.
func stands(t testing.TB, err error, want ulid.ULID) {
	t.Helper()
	var d *agentbus.DuplicateError
	if !errors.As(err, &d) || d.Task != want || d.Queue != "work" {
		t.Fatalf("want task %s to stand: %v", want, err)
	}
}

// resultOf expects a task's result.
func resultOf(t testing.TB, w *bustest.World, h *agentbus.TaskHandle, want string) {
	t.Helper()
	m, err := h.Result(w.Ctx())
	bustest.Check(t, err)
	if string(m.Payload) != want {
		t.Fatalf("the result is %q, want %q", m.Payload, want)
	}
}

// claims returns the subjects of the queue work under which a unique task was stored, in their order.
func claims(t testing.TB, w *bustest.World, js jetstream.JetStream) (subjects []string) {
	t.Helper()
	state := streamOf(t, w, policy.TaskStream("work"))
	for seq := state.FirstSeq; seq <= state.LastSeq; seq++ {
		if m := storedAt(t, w, js, seq); strings.HasPrefix(m.Subject, "sb.unique.") {
			subjects = append(subjects, m.Subject)
		}
	}
	return subjects
}

// TestUnique: of one key one task stands at a time; others learn its id, and wait for its result. It stands until it has
// one, whatever that is.
func TestUnique(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, taskPolicy)
	planner, boss, exec := w.Agent("planner"), w.Agent("boss"), w.Agent("exec-1")
	first, err := planner.Enqueue(w.Ctx(), "work", []byte("first"), agentbus.Unique("report", 0), agentbus.Priority(1))
	bustest.Check(t, err)
	// Another priority, another payload, another enqueuer: the same key.
	_, err = planner.Enqueue(w.Ctx(), "work", []byte("second"), agentbus.Unique("report", 0))
	stands(t, err, first.ID())
	_, err = boss.Enqueue(w.Ctx(), "work", []byte("second"), agentbus.Unique("report", 0))
	stands(t, err, first.ID())
	other, err := boss.Enqueue(w.Ctx(), "work", []byte("other"), agentbus.Unique("report 2", 0))
	bustest.Check(t, err)
	plain, err := boss.Enqueue(w.Ctx(), "work", []byte("report"))
	bustest.Check(t, err)

	handle, err := boss.Task("work", first.ID())
	bustest.Check(t, err)
	_, err = exec.Work(w.Ctx(), "work", func(ctx context.Context, t *agentbus.Task) ([]byte, error) {
		if string(t.Payload) == "hopeless" {
			return nil, agentbus.Cancel(errors.New("no"))
		}
		return upper(ctx, t)
	})
	bustest.Check(t, err)
	resultOf(t, w, handle, "FIRST")
	resultOf(t, w, other, "OTHER")
	resultOf(t, w, plain, "REPORT")

	hopeless, err := boss.Enqueue(w.Ctx(), "work", []byte("hopeless"), agentbus.Unique("report", 0))
	bustest.Check(t, err)
	var dead *agentbus.TaskError
	if _, err := hopeless.Result(w.Ctx()); !errors.As(err, &dead) {
		t.Fatal(err)
	}
	last, err := planner.Enqueue(w.Ctx(), "work", []byte("last"), agentbus.Unique("report", 0))
	bustest.Check(t, err)
	resultOf(t, w, last, "LAST")
	list := claims(t, w, ownerOf(t, w))
	if len(list) != 4 {
		t.Fatalf("%d unique tasks are stored: %q", len(list), list)
	}
	_, hash, priority, ok := policy.CutUniqueSubject(list[0])
	_, again, usual, _ := policy.CutUniqueSubject(list[3])
	_, another, _, _ := policy.CutUniqueSubject(list[1])
	if !ok || hash != again || hash == another || priority != 1 || usual != agentbus.DefaultPriority {
		t.Errorf("the claims are %q", list)
	}
}

// TestUniqueRace: of many that try at the same moment, from several buses, one gets in each time, and the others learn its id.
func TestUniqueRace(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, taskPolicy)
	buses := []*agentbus.Bus{w.Agent("planner"), w.Agent("boss"), w.Agent("planner")}
	exec := w.Agent("exec-1")
	_, err := exec.Work(w.Ctx(), "work", upper)
	bustest.Check(t, err)
	for _, b := range buses { // all hold the key by which hashes are made
		h, err := b.Enqueue(w.Ctx(), "work", nil)
		bustest.Check(t, err)
		_, err = h.Result(w.Ctx())
		bustest.Check(t, err)
	}
	held, err := buses[0].Enqueue(w.Ctx(), "work", []byte("held"), agentbus.Unique("held", 0), agentbus.Delay(time.Hour))
	bustest.Check(t, err)
	for round := range 5 {
		const each = 8
		type outcome struct {
			handle *agentbus.TaskHandle
			err    error
		}
		release, outcomes := make(chan struct{}), make(chan outcome, each*len(buses))
		for i, b := range buses {
			for range each {
				go func() {
					<-release
					h, err := b.Enqueue(w.Ctx(), "work", fmt.Appendf(nil, "by %d", i), agentbus.Unique(fmt.Sprint("race ", round), 0), agentbus.Delay(time.Hour), agentbus.Priority(i))
					outcomes <- outcome{h, err}
				}()
			}
		}
		close(release)
		var winner *agentbus.TaskHandle
		named := make(map[ulid.ULID]int)
		for range cap(outcomes) {
			o := bustest.Receive(t, outcomes)
			var d *agentbus.DuplicateError
			switch {
			case o.err == nil && winner == nil:
				winner = o.handle
			case o.err == nil:
				t.Fatal("two stand")
			case errors.As(o.err, &d):
				named[d.Task]++
			default:
				t.Fatal(o.err)
			}
		}
		if winner == nil || named[winner.ID()] != cap(outcomes)-1 {
			t.Fatalf("%v stands, and the others name %v", winner, named)
		}
	}
	_, err = buses[1].Enqueue(w.Ctx(), "work", nil, agentbus.Unique("held", 0))
	stands(t, err, held.ID())
}

// TestUniqueAfter: with a time, a task holds its key no longer than that, by the word of the one that comes later.
func TestUniqueAfter(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, taskPolicy)
	planner := w.Agent("planner")
	first, err := planner.Enqueue(w.Ctx(), "work", []byte("first"), agentbus.Unique("report", time.Millisecond))
	bustest.Check(t, err)
	eventually(t, "it is older than a millisecond", func() bool { return time.Since(ulid.Time(first.ID().Time())) > 5*time.Millisecond })
	_, err = planner.Enqueue(w.Ctx(), "work", nil, agentbus.Unique("report", 0))
	stands(t, err, first.ID())
	_, err = planner.Enqueue(w.Ctx(), "work", nil, agentbus.Unique("report", time.Hour))
	stands(t, err, first.ID())
	second, err := planner.Enqueue(w.Ctx(), "work", []byte("second"), agentbus.Unique("report", time.Millisecond))
	bustest.Check(t, err)
	_, err = planner.Enqueue(w.Ctx(), "work", nil, agentbus.Unique("report", time.Hour))
	stands(t, err, second.ID())
	exec := w.Agent("exec-1")
	_, err = exec.Work(w.Ctx(), "work", upper)
	bustest.Check(t, err)
	resultOf(t, w, first, "FIRST") // it is not lost
	resultOf(t, w, second, "SECOND")
}

// TestUniqueDelay: a unique task that is delayed waits in the log, where its claim is.
func TestUniqueDelay(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	at := time.Now().Add(3 * time.Second) // more than a worker keeps one that is early
	begun := make(chan time.Time, 2)
	worker, err := exec.Work(w.Ctx(), "work", func(ctx context.Context, t *agentbus.Task) ([]byte, error) {
		begun <- time.Now()
		return upper(ctx, t)
	})
	bustest.Check(t, err)
	task, err := planner.Enqueue(w.Ctx(), "work", []byte("x"), agentbus.Unique("later", 0), agentbus.At(at))
	bustest.Check(t, err)
	_, err = planner.Enqueue(w.Ctx(), "work", []byte("x"), agentbus.Unique("later", 0))
	stands(t, err, task.ID())
	resultOf(t, w, task, "X")
	if b := bustest.Receive(t, begun); b.Before(at) {
		t.Errorf("it began %v before its time", at.Sub(b))
	}
	bustest.Check(t, worker.Stop())
	if s := worker.Stats(); s.Succeeded != 1 {
		t.Errorf("%+v", s)
	}
}

// TestUniqueSurvives: a task holds its key when its enqueuer is gone, over restarts of it and of the broker.
func TestUniqueSurvives(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, taskPolicy)
	boss := w.Agent("boss")
	_, err := boss.Enqueue(w.Ctx(), "work", nil) // it holds the key of results
	bustest.Check(t, err)
	planner := w.Agent("planner")
	first, err := planner.Enqueue(w.Ctx(), "work", []byte("first"), agentbus.Unique("report", 0))
	bustest.Check(t, err)
	bustest.Check(t, planner.Close())
	w.Stop()
	w.Start()
	_, err = boss.Enqueue(w.Ctx(), "work", nil, agentbus.Unique("report", 0))
	stands(t, err, first.ID())
	_, err = w.Agent("planner").Enqueue(w.Ctx(), "work", nil, agentbus.Unique("report", 0))
	stands(t, err, first.ID())
}

// TestUniqueRotation: when the key by which hashes are made is replaced, what stands under the one before still stands.
func TestUniqueRotation(t *testing.T) {
	t.Parallel()
	yaml := strings.Replace(taskPolicy, "enqueue: [planner, boss]", "enqueue: [planner, boss, gone]", 1)
	if yaml == taskPolicy {
		t.Fatal("the policy has other enqueuers")
	}
	w := bustest.New(t, yaml)
	planner, boss := w.Agent("planner"), w.Agent("boss")
	for _, b := range []*agentbus.Bus{planner, boss} {
		_, err := b.Enqueue(w.Ctx(), "work", nil)
		bustest.Check(t, err)
	}
	first, err := planner.Enqueue(w.Ctx(), "work", []byte("first"), agentbus.Unique("report", 0))
	bustest.Check(t, err)
	publishPolicy(t, w, strings.Replace(taskPolicy, "revision: 1", "revision: 2", 1), planner, boss) // gone has lost the results
	_, err = boss.Enqueue(w.Ctx(), "work", nil, agentbus.Unique("report", 0))
	stands(t, err, first.ID())
	next, err := boss.Enqueue(w.Ctx(), "work", nil, agentbus.Unique("another", 0))
	bustest.Check(t, err)
	_, err = planner.Enqueue(w.Ctx(), "work", nil, agentbus.Unique("another", 0))
	stands(t, err, next.ID())
	_, err = w.Agent("exec-1").Work(w.Ctx(), "work", upper)
	bustest.Check(t, err)
	resultOf(t, w, first, "FIRST")
	again, err := planner.Enqueue(w.Ctx(), "work", []byte("again"), agentbus.Unique("report", 0))
	bustest.Check(t, err)
	resultOf(t, w, again, "AGAIN")
	list := claims(t, w, ownerOf(t, w))
	_, before, _, _ := policy.CutUniqueSubject(list[0])
	_, after, _, ok := policy.CutUniqueSubject(list[len(list)-1])
	if !ok || before == after {
		t.Errorf("the hash of a key is the same under another key of the channel: %q", list)
	}
}

// TestUniqueLine: when the acknowledgement is lost the task is sent again, is found to stand, and is the caller's own.
func TestUniqueLine(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, taskPolicy)
	line := newLine(t, w)
	planner := line.agent("planner")
	_, err := planner.Enqueue(w.Ctx(), "work", nil, agentbus.Unique("before", 0))
	bustest.Check(t, err)
	js := ownerOf(t, w)
	stored := tap(t, w.Admin("STORE"), "sb.unique.work.*.*")
	const most = 200
	rounds := 0
	for again := 0; again < 3; rounds++ { // until it was cut off before the acknowledgement
		if rounds == most {
			t.Fatalf("in %d rounds a task was sent again %d times", rounds, again)
		}
		key := fmt.Sprint("report ", rounds)
		var cutting sync.WaitGroup
		cutting.Go(func() {
			bustest.Receive(t, stored) // it is with the broker
			line.deaf.Store(true)
			eventually(t, "the broker has it", func() bool { return streamOf(t, w, policy.TaskStream("work")).Msgs == uint64(3+rounds) })
			line.cut()
			line.deaf.Store(false)
		})
		h, err := planner.Enqueue(w.Ctx(), "work", nil, agentbus.Unique(key, 0))
		cutting.Wait()
		bustest.Check(t, err)
		_, err = planner.Enqueue(w.Ctx(), "work", nil, agentbus.Unique(key, 0))
		stands(t, err, h.ID())
		if len(stored) > 0 {
			again++
			<-stored
		}
	}
	if n := len(claims(t, w, js)); n != 1+rounds {
		t.Errorf("%d tasks are stored, want %d", n, 1+rounds)
	}
}

// TestUniqueRefused: what cannot be is refused at the call, and nothing of it is stored.
func TestUniqueRefused(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, strings.Replace(taskPolicy, "direct:", "  loose: {enqueue: [planner], work: [exec-1], signed: false}\ndirect:", 1))
	planner := w.Agent("planner")
	for _, test := range []struct {
		queue   string
		options []agentbus.EnqueueOption
		says    string
	}{
		{"work", []agentbus.EnqueueOption{agentbus.Unique("", 0)}, "0 bytes"},
		{"work", []agentbus.EnqueueOption{agentbus.Unique(strings.Repeat("k", 1025), 0)}, "1025 bytes"},
		{"work", []agentbus.EnqueueOption{agentbus.Unique("k", -1)}, "-1ns"},
		{"work", []agentbus.EnqueueOption{agentbus.Unique("k", 367*24*time.Hour)}, "up to"},
		{"work", []agentbus.EnqueueOption{agentbus.Unique("k", 0), agentbus.Unique("k", 0)}, "Unique is given twice"},
		{"loose", []agentbus.EnqueueOption{agentbus.Unique("k", 0)}, "not signed"},
	} {
		if h, err := planner.Enqueue(w.Ctx(), test.queue, nil, test.options...); h != nil || err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("want %q: %v", test.says, err)
		}
	}
	good := agentbus.NewTask{Payload: []byte("good")}
	handles, err := planner.EnqueueBatch(w.Ctx(), "work", []agentbus.NewTask{good, {Options: []agentbus.EnqueueOption{agentbus.Unique("k", 0)}}})
	if stored(handles) != 0 || err == nil || !strings.Contains(err.Error(), "task 1 of the batch") || !strings.Contains(err.Error(), "cannot be part of a batch") {
		t.Errorf("in a batch: %d handles, %v", stored(handles), err)
	}
	for _, queue := range []string{"work", "loose"} {
		if n := streamOf(t, w, policy.TaskStream(queue)).Msgs; n != 0 {
			t.Errorf("%d tasks are stored in %s", n, queue)
		}
	}
	ctx, cancel := context.WithCancel(w.Ctx())
	cancel()
	if _, err := planner.Enqueue(ctx, "work", nil, agentbus.Unique("k", 0)); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
	bustest.Check(t, planner.Close())
	if _, err := planner.Enqueue(w.Ctx(), "work", nil, agentbus.Unique("k", 0)); !errors.Is(err, agentbus.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// TestUniqueFrame: what lies under a claim names it, so that it counts nowhere else.
func TestUniqueFrame(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, taskPolicy)
	_, err := w.Agent("planner").Enqueue(w.Ctx(), "work", nil, agentbus.Unique("report", 0), agentbus.Priority(3))
	bustest.Check(t, err)
	m := storedTask(t, w, ownerOf(t, w), 1)
	var f envelope.Frame
	bustest.Check(t, envelope.Parse(m.Data, &f))
	if "sb.unique."+string(f.Recipient) != m.Subject || !strings.HasSuffix(m.Subject, ".3") || !f.Signed() {
		t.Errorf("%s under %s", f.Recipient, m.Subject)
	}
}
