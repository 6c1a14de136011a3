package policy_test

import (
	"strings"
	"testing"

	"github.com/sealbus/sealbus/policy"
)

func TestRecurSubjects(t *testing.T) {
	if s := policy.RecurringSubject("q", "x"); s != "sb.held.q._recur.x" {
		t.Errorf("held under %s", s)
	}
	for _, name := range []string{"", "daily-report", "A_1", strings.Repeat("x", policy.MaxDelayID)} {
		queue, agent, got, ok := policy.CutRecurSubject(policy.RecurSubject("q-1", "alice", name))
		if queue != "q-1" || agent != "alice" || got != name || !ok {
			t.Errorf("%q: %q %q %q %v", name, queue, agent, got, ok)
		}
		if policy.IsRecurName(name) != (name != "") {
			t.Errorf("the name %q", name)
		}
	}
	for _, s := range []string{"", "sb.recur", "sb.recur.", "sb.recur.q", "sb.recur.q.", "sb.recur.q.alice.", "sb.recur.q.alice.x.y", "sb.recur.q.alice.*", "sb.recur.q.alice.>",
		"sb.recur.q.*.x", "sb.recur.*.alice.x", "sb.recur.q._recur.x", "sb.recur.Q.alice.x", "sb.recur.q.alice.x y", "sb.recur.q.alice.é",
		"sb.recur.q.alice." + strings.Repeat("x", policy.MaxDelayID+1), "sb.delay.q.alice.x", "sb.held.q._recur.x"} {
		if queue, agent, name, ok := policy.CutRecurSubject(s); ok || queue+agent+name != "" {
			t.Errorf("%.80q is cut into %q, %q and %q", s, queue, agent, name)
		}
	}
	// A recurring task is nobody's delayed task.
	if _, _, _, ok := policy.CutDelaySubject("sb.delay.q._recur.x"); ok {
		t.Error("an agent is taken for the recurring tasks")
	}
}
