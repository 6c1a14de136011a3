package agentbus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
)

// TestProgress: what a handler reports comes to who follows, the newest at the end, and following ends with the task.
func TestProgress(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, taskPolicy)
	planner, boss, exec := w.Agent("planner"), w.Agent("boss"), w.Agent("exec-1")
	const steps = 500
	follows, release, kept := make(chan struct{}), make(chan struct{}), make(chan *agentbus.Task, 1)
	_, err := exec.Work(w.Ctx(), "work", func(ctx context.Context, t *agentbus.Task) ([]byte, error) {
		<-follows
		buf := make([]byte, 0, 8)
		for n := range steps {
			buf = strconv.AppendInt(buf[:0], int64(n+1), 10) // it is copied
			if err := t.Progress(ctx, buf); err != nil {
				return nil, err
			}
		}
		kept <- t
		<-release
		return []byte("done"), nil
	})
	bustest.Check(t, err)
	task, err := planner.Enqueue(w.Ctx(), "work", nil)
	bustest.Check(t, err)
	others, err := boss.Task("work", task.ID())
	bustest.Check(t, err)
	ended := make(chan int, 2)
	for _, h := range []*agentbus.TaskHandle{task, others} {
		go func() {
			last, values := 0, 0
			for m, err := range h.Progress(w.Ctx()) {
				if err != nil {
					t.Error(err)
					break
				}
				n, err := strconv.Atoi(string(m.Payload))
				if err != nil || n <= last || m.Sender.Name() != "exec-1" || !m.Signed || m.ID.IsZero() || !m.Time.Equal(ulid.Time(m.ID.Time())) {
					t.Errorf("%v after %d: %q", m, last, m.Payload)
				}
				if last, values = n, values+1; last == steps {
					ended <- values
				}
			}
			ended <- -1
		}()
	}
	eventually(t, "both follow", func() bool { return planner.Conn().NumSubscriptions() >= 3 && boss.Conn().NumSubscriptions() >= 3 })
	bustest.Check(t, errors.Join(planner.Flush(w.Ctx()), boss.Flush(w.Ctx())))
	close(follows)
	for range 2 {
		if n := bustest.Receive(t, ended); n < 1 || n >= steps/2 {
			t.Errorf("%d values of %d went out: they are not gathered", n, steps)
		}
	}
	close(release)
	for range 2 {
		if n := bustest.Receive(t, ended); n != -1 {
			t.Errorf("the last value came again: %d", n)
		}
	}
	if m, err := task.Result(w.Ctx()); err != nil || string(m.Payload) != "done" {
		t.Error(m, err)
	}
	for range task.Progress(w.Ctx()) { // ends at once
		t.Error("progress of a task that is done")
	}
	if err := bustest.Receive(t, kept).Progress(w.Ctx(), nil); err == nil {
		t.Error("progress after the handler's end")
	}
}

// TestProgressLate: who begins to follow later gets the last value all the same, over a reconnect too.
func TestProgressLate(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	reported, release := make(chan struct{}), make(chan struct{})
	_, err := exec.Work(w.Ctx(), "work", func(ctx context.Context, t *agentbus.Task) ([]byte, error) {
		err := t.Progress(ctx, []byte("half"))
		close(reported)
		<-release
		return nil, err
	})
	bustest.Check(t, err)
	task, err := planner.Enqueue(w.Ctx(), "work", nil)
	bustest.Check(t, err)
	bustest.Receive(t, reported)
	for i := range 2 {
		for m, err := range task.Progress(w.Ctx()) {
			bustest.Check(t, err)
			if string(m.Payload) != "half" {
				t.Errorf("got %q", m.Payload)
			}
			break
		}
		if i == 0 {
			w.Stop()
			w.Start()
		}
	}
	close(release)
}

// TestProgressEnds: following ends with the death of a task, with its context, with the bus, and where it is not allowed.
func TestProgressEnds(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	hold := make(chan struct{})
	defer close(hold)
	_, err := exec.Work(w.Ctx(), "work", func(ctx context.Context, t *agentbus.Task) ([]byte, error) {
		if string(t.Payload) == "held" {
			<-hold
		}
		return nil, agentbus.Cancel(nil)
	})
	bustest.Check(t, err)
	dies, err := planner.Enqueue(w.Ctx(), "work", nil)
	bustest.Check(t, err)
	for m, err := range dies.Progress(w.Ctx()) {
		t.Errorf("of a task that dies: %v, %v", m, err)
	}
	held, err := planner.Enqueue(w.Ctx(), "work", []byte("held"))
	bustest.Check(t, err)
	ctx, cancel := context.WithCancel(w.Ctx())
	cancel()
	wants := func(h *agentbus.TaskHandle, ctx context.Context, want error) {
		t.Helper()
		n := 0
		for m, err := range h.Progress(ctx) {
			if n++; m != nil || !errors.Is(err, want) {
				t.Errorf("%v, %v; want %v", m, err, want)
			}
		}
		if n != 1 {
			t.Errorf("it ended with %d values, want an error", n)
		}
	}
	wants(held, ctx, context.Canceled)
	foreign, err := exec.Task("work", held.ID())
	bustest.Check(t, err)
	wants(foreign, w.Ctx(), agentbus.ErrNotEntitled)
	ended := make(chan error, 1)
	before := planner.Conn().NumSubscriptions()
	go func() {
		for _, err := range held.Progress(w.Ctx()) {
			ended <- err
		}
	}()
	eventually(t, "it is followed", func() bool { return planner.Conn().NumSubscriptions() > before })
	bustest.Check(t, planner.Close())
	if err := bustest.Receive(t, ended); !errors.Is(err, agentbus.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	wants(held, w.Ctx(), agentbus.ErrClosed)
}

// TestProgressInput: what is too long, comes too late or has no task is refused.
func TestProgressInput(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	refused := make(chan error, 3)
	_, err := exec.Work(w.Ctx(), "work", func(ctx context.Context, t *agentbus.Task) ([]byte, error) {
		refused <- t.Progress(ctx, make([]byte, agentbus.MaxProgress+1))
		done, cancel := context.WithCancel(ctx)
		cancel()
		refused <- t.Progress(done, nil)
		refused <- t.Progress(ctx, bytes.Repeat([]byte("x"), agentbus.MaxProgress))
		<-ctx.Done()
		return nil, ctx.Err()
	})
	bustest.Check(t, err)
	task, err := planner.Enqueue(w.Ctx(), "work", nil, agentbus.Timeout(10*time.Second), agentbus.MaxAttempts(1))
	bustest.Check(t, err)
	if err := bustest.Receive(t, refused); !errors.Is(err, agentbus.ErrTooLarge) || !strings.Contains(err.Error(), fmt.Sprint(agentbus.MaxProgress)) {
		t.Errorf("too long: %v", err)
	}
	if err := bustest.Receive(t, refused); !errors.Is(err, context.Canceled) {
		t.Errorf("after its context: %v", err)
	}
	bustest.Check(t, bustest.Receive(t, refused))
	for m, err := range task.Progress(w.Ctx()) {
		bustest.Check(t, err)
		if len(m.Payload) != agentbus.MaxProgress {
			t.Errorf("%d bytes", len(m.Payload))
		}
		break
	}
	if err := (&agentbus.Task{Message: new(agentbus.Message)}).Progress(w.Ctx(), nil); err == nil {
		t.Error("progress of nothing")
	}
}

// TestProgressNextAttempt: a task that is tried again reports anew.
func TestProgressNextAttempt(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, taskPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	seen := make(chan struct{}, 2)
	_, err := exec.Work(w.Ctx(), "work", func(ctx context.Context, t *agentbus.Task) ([]byte, error) {
		if err := t.Progress(ctx, fmt.Append(nil, t.Attempt)); err != nil {
			return nil, err
		}
		<-seen
		if t.Attempt == 1 {
			return nil, errors.New("again")
		}
		return nil, nil
	})
	bustest.Check(t, err)
	task, err := planner.Enqueue(w.Ctx(), "work", nil, agentbus.Backoff(time.Millisecond, time.Millisecond))
	bustest.Check(t, err)
	var got []string
	for m, err := range task.Progress(w.Ctx()) {
		bustest.Check(t, err)
		got = append(got, string(m.Payload))
		seen <- struct{}{}
	}
	if strings.Join(got, " ") != "1 2" {
		t.Errorf("got %q", got)
	}
}
