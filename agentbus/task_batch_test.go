package agentbus_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/policy"
)

// TestBatchInPart: of a batch with delayed tasks some may be stored and others not. The handles say which, and the error
// says why of each.
func TestBatchInPart(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, taskPolicy)
	planner := w.Agent("planner")
	js := ownerOf(t, w)
	limit := func(stream string, bytes int32) {
		t.Helper()
		s, err := js.Stream(w.Ctx(), stream)
		bustest.Check(t, err)
		config := s.CachedInfo().Config
		config.MaxMsgSize = bytes
		_, err = js.UpdateStream(w.Ctx(), config)
		bustest.Check(t, err)
	}
	limit(policy.DelayStream("work"), 2048)
	task := func(size int, delay time.Duration) (n agentbus.NewTask) {
		n.Payload = make([]byte, size)
		if delay > 0 {
			n.Options = []agentbus.EnqueueOption{agentbus.Delay(delay)}
		}
		return n
	}
	list := []agentbus.NewTask{task(10, 0), task(10, time.Hour), task(4000, time.Hour), task(4000, 0), task(4000, time.Hour), task(10, time.Hour)}
	check := func(want string) error {
		t.Helper()
		handles, err := planner.EnqueueBatch(w.Ctx(), "work", list)
		got := ""
		for _, h := range handles {
			if h == nil {
				got += "-"
			} else {
				got += "+"
			}
		}
		if err == nil || got != want {
			t.Errorf("stored are %s, want %s: %v", got, want, err)
		}
		return err
	}
	before := planner.Stats().Published
	err := check("++-+-+")
	for _, place := range []string{"task 2 of", "task 4 of"} {
		if err == nil || !strings.Contains(err.Error(), place) {
			t.Errorf("%q is not in %v", place, err)
		}
	}
	if n := planner.Stats().Published - before; n != 4 {
		t.Errorf("%d published", n)
	}
	limit(policy.TaskStream("work"), 2048) // now those that may begin at once fail, together
	if err := check("-+---+"); strings.Count(fmt.Sprint(err), "SB_TASK_work") != 1 || strings.Contains(fmt.Sprint(err), "task 0 of") {
		t.Errorf("of those that fall together: %v", err)
	}
	if log, held := streamOf(t, w, policy.TaskStream("work")).Msgs, streamOf(t, w, policy.DelayStream("work")).Msgs; log != 3 || held != 4 { // a session note with them
		t.Errorf("%d in the log, %d held", log, held)
	}
	// Of many that fail not every one is told of.
	list = nil
	for range 40 {
		list = append(list, task(4000, time.Hour))
	}
	if err := check(strings.Repeat("-", 40)); !strings.Contains(fmt.Sprint(err), "24 more") || strings.Count(fmt.Sprint(err), "of the batch: ") != 16 {
		t.Errorf("%v", err)
	}
}
