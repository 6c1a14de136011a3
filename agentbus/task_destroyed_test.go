package agentbus_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
)

// TestTasksOfADestroyedKey: a task whose key the policy has destroyed does not wait for it for ever. It is a dead letter that says
// so, whether a worker has held the key or comes later; the queue goes on under another key.
func TestTasksOfADestroyedKey(t *testing.T) {
	w := bustest.New(t, taskPolicy)
	planner, held := w.Agent("planner"), w.Agent("exec-1")
	worker, err := held.Work(w.Ctx(), "work", upper)
	bustest.Check(t, err)
	h, err := planner.Enqueue(w.Ctx(), "work", []byte("a"))
	bustest.Check(t, err)
	_, err = h.Result(w.Ctx())
	bustest.Check(t, err)
	bustest.Check(t, worker.Stop())
	for range 2 {
		_, err = planner.Enqueue(w.Ctx(), "work", []byte("waits"))
		bustest.Check(t, err)
	}
	sealed := time.Now()
	eventually(t, "the second after", func() bool { return time.Now().Unix() > sealed.Unix() })
	yaml := strings.Replace(taskPolicy, "revision: 1", "revision: 2", 1) +
		fmt.Sprintf("destroyed:\n  - {channel: queue/work, before: %q}\n", time.Now().UTC().Format(time.RFC3339))
	publishPolicy(t, w, yaml, planner, held)

	for i, b := range []*agentbus.Bus{held, w.Agent("exec-2")} {
		worker, err := b.Work(w.Ctx(), "work", upper)
		bustest.Check(t, err)
		if i == 0 {
			eventually(t, "both are dead", func() bool { return worker.Stats().Dead == 2 })
		}
		h, err := planner.Enqueue(w.Ctx(), "work", []byte("b"))
		bustest.Check(t, err)
		m, err := h.Result(w.Ctx())
		bustest.Check(t, err)
		if string(m.Payload) != "B" {
			t.Errorf("%q", m.Payload)
		}
		bustest.Check(t, worker.Stop())
	}
	letters, err := planner.DeadLetters(w.Ctx(), "work")
	bustest.Check(t, err)
	if len(letters) != 2 {
		t.Fatalf("%d letters", len(letters))
	}
	for _, l := range letters {
		if l.Reason != agentbus.DeadUnopenable || !strings.Contains(l.Text, "the key was destroyed by policy revision 2") {
			t.Errorf("%v: %s", l.Reason, l.Text)
		}
	}
}
