package broker_test

import (
	"slices"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/policy"
)

// TestTrimCancelled: a cancellation stays while a delayed task waits that may be its own, however old it is. One from before that task
// was laid down is not.
func TestTrimCancelled(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	cancelOf := func(task string) {
		o.alice.put(policy.ControlSubject("q", "alice", policy.ControlCancel+"."+ulid.Make().String()), task)
	}
	left := func(what string, want ...string) {
		t.Helper()
		o.trim(later)
		if got := contents(t, o.js, "SB_CONTROL_q"); len(got) != len(want) || len(want) > 0 && !slices.ContainsFunc(got, func(m string) bool { return m[len(m)-len(want[0]):] == want[0] }) {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	cancelOf("before")
	left("nothing waits")
	id := ulid.Make().String()
	ok(t, o.alice.delay(id, "task", time.Now().Add(time.Hour), 1, nil))
	cancelOf("its own")
	left("a delayed task waits", "its own")
	if n := o.alice.forget(id); n != 1 {
		t.Fatalf("%d were taken back", n)
	}
	left("it is gone")
}
