package agentbus_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
)

// unsynced is a world whose broker has handed a task out that its disk has no trace of: it crashed before the task was synced, as
// a server may that hands out the messages of an atomic batch while it is still being written. Another task takes its place in the log.
type unsynced struct {
	*bustest.World
	planner, exec *agentbus.Bus
	worker        *agentbus.Worker // works on the lost task until release is closed
	release       chan struct{}
	before        string // the store, as it was
}

func newUnsynced(t *testing.T) *unsynced {
	w := &unsynced{World: bustest.New(t, taskPolicy), release: make(chan struct{}), before: filepath.Join(t.TempDir(), "store")}
	w.planner, w.exec = w.Agent("planner"), w.Agent("exec-1")
	begun := make(chan struct{}, 1)
	var err error
	w.worker, err = w.exec.Work(w.Ctx(), "work", func(ctx context.Context, t *agentbus.Task) ([]byte, error) {
		if string(t.Payload) == "lost" {
			begun <- struct{}{}
			<-w.release
		}
		return upper(ctx, t)
	})
	bustest.Check(t, err)
	w.enqueue(t, "first", "FIRST") // so that all keys are there
	w.Stop()
	bustest.Check(t, os.CopyFS(w.before, os.DirFS(w.Dir)))
	w.Start()
	bustest.Check(t, second(w.planner.Enqueue(w.Ctx(), "work", []byte("lost"))))
	bustest.Receive(t, begun)
	return w
}

// crash has the broker come back without the task.
func (w *unsynced) crash(t *testing.T) {
	t.Helper()
	w.Stop()
	bustest.Check(t, os.RemoveAll(w.Dir))
	bustest.Check(t, os.CopyFS(w.Dir, os.DirFS(w.before)))
	w.Start()
}

func (w *unsynced) enqueue(t *testing.T, payload, want string) {
	t.Helper()
	h, err := w.planner.Enqueue(w.Ctx(), "work", []byte(payload))
	bustest.Check(t, err)
	m, err := h.Result(w.Ctx())
	bustest.Check(t, err)
	if string(m.Payload) != want {
		t.Errorf("%s has the result %q", payload, m.Payload)
	}
}

// TestPlaceTakenAgain: a worker does not take the task that stands where one has stood that it still works on for that one.
func TestPlaceTakenAgain(t *testing.T) {
	t.Parallel()
	w := newUnsynced(t)
	w.crash(t)
	w.enqueue(t, "second", "SECOND")
	close(w.release)
}

// TestPlaceOfAnother: who is through with a task that the broker has lost does not settle the one in its place, which another works on.
func TestPlaceOfAnother(t *testing.T) {
	t.Parallel()
	w := newUnsynced(t)
	stopped := make(chan error, 1)
	go func() { stopped <- w.worker.Stop() }() // it takes no other
	w.crash(t)
	begun, proceed := make(chan struct{}, 8), make(chan struct{})
	_, err := w.Agent("exec-2").Work(w.Ctx(), "work", func(ctx context.Context, t *agentbus.Task) ([]byte, error) {
		begun <- struct{}{}
		select {
		case <-proceed:
			return upper(ctx, t)
		default:
		}
		<-proceed
		return nil, agentbus.Snooze(0) // it is to be handed out again
	})
	bustest.Check(t, err)
	h, err := w.planner.Enqueue(w.Ctx(), "work", []byte("second"))
	bustest.Check(t, err)
	bustest.Receive(t, begun)
	close(w.release)
	bustest.Check(t, bustest.Receive(t, stopped))
	close(proceed)
	m, err := h.Result(w.Ctx())
	bustest.Check(t, err)
	if string(m.Payload) != "SECOND" {
		t.Errorf("%q", m.Payload)
	}
}
