package policy_test

import (
	"strings"
	"testing"

	"github.com/sealbus/sealbus/policy"
)

func TestQueueNames(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{policy.TaskStream("q"), "SB_TASK_q"},
		{policy.ResultStream("q"), "SB_RESULT_q"},
		{policy.DeadStream("q"), "SB_DEAD_q"},
		{policy.ControlStream("q"), "SB_CONTROL_q"},
		{policy.DelayStream("q"), "SB_DELAY_q"},
		{policy.TaskConsumer(2), "p2"},
		{policy.TaskSubject("q", 3), "sb.task.q.3"},
		{policy.ResultSubject("q", card), "sb.result.q." + card},
		{policy.DeadSubject("q", card), "sb.dead.q." + card},
		{policy.ProgressSubject("q", card), "sb.progress.q." + card},
		{policy.ControlSubject("q", "alice", "cancel."+card), "sb.control.q.alice.cancel." + card},
		{policy.ControlSubject("q", "alice", policy.ControlPause), "sb.control.q.alice.pause"},
		{policy.SlotSubject("q", "3"), "sb.slot.q.3"},
		{policy.SlotSubject("q", policy.SlotRate), "sb.slot.q.rate"},
		{policy.DelaySubject("q", "alice", card), "sb.delay.q.alice." + card},
		{policy.HeldSubject("q", "alice", card), "sb.held.q.alice." + card},
		{policy.DueSubject("q", 1), "sb.due.q.1"},
		{policy.TaskPull("q", 0), "$JS.API.CONSUMER.MSG.NEXT.SB_TASK_q.p0"},
		{policy.TaskAcks("q", 0), "$JS.ACK.SB_TASK_q.p0.*.*.*.*.*"},
		{policy.TaskPattern("q"), "sb.task.q.*"},
		{policy.SpreadSubject("q", 1), "sb.spread.q.1"},
		{policy.SpreadPattern("q"), "sb.spread.q.*"},
		{policy.DuePattern("q"), "sb.due.q.*"},
		{policy.PullPattern("q"), "$JS.API.CONSUMER.MSG.NEXT.SB_TASK_q.*"},
		{policy.AckPattern("q"), "$JS.ACK.SB_TASK_q.*.*.*.*.*.*"},
		{policy.StreamGet("SB_RESULT_q", ""), "$JS.API.DIRECT.GET.SB_RESULT_q"},
		{policy.StreamGet("SB_RESULT_q", "sb.result.q.x"), "$JS.API.DIRECT.GET.SB_RESULT_q.sb.result.q.x"},
	} {
		if c.got != c.want {
			t.Errorf("got %s, want %s", c.got, c.want)
		}
	}
}

func TestCutQueueSubjects(t *testing.T) {
	for name, c := range map[string]struct {
		cut  func(string) (string, string, bool)
		make func(string, string) string
	}{
		"result":   {policy.CutResultSubject, policy.ResultSubject},
		"dead":     {policy.CutDeadSubject, policy.DeadSubject},
		"progress": {policy.CutProgressSubject, policy.ProgressSubject},
	} {
		queue, task, ok := c.cut(c.make("q-1", card))
		if queue != "q-1" || task != card || !ok {
			t.Errorf("%s: %q %q %v", name, queue, task, ok)
		}
		for _, s := range []string{"", "sb." + name, "sb." + name + ".", "sb." + name + ".q", "sb." + name + ".q.", "sb." + name + ".q.x", "sb." + name + ".q." + card + ".x",
			"sb." + name + ".q..x", "sb." + name + ".Q." + card, "sb." + name + ".*." + card, "sb." + name + ".q.*", "sb." + name + ".q." + strings.ToLower(card), "x." + name + ".q." + card,
			"sb.task.q." + card} {
			if queue, task, ok := c.cut(s); ok || queue != "" || task != "" {
				t.Errorf("%s: %q is cut into %q and %q", name, s, queue, task)
			}
		}
	}
}

func TestCutAgentsSubjects(t *testing.T) {
	queue, agent, what, ok := policy.CutControlSubject("sb.control.q.alice.cancel." + card)
	if queue != "q" || agent != "alice" || what != "cancel."+card || !ok {
		t.Errorf("a control: %q %q %q %v", queue, agent, what, ok)
	}
	queue, agent, id, ok := policy.CutDelaySubject("sb.delay.q.alice.x-1")
	if queue != "q" || agent != "alice" || id != "x-1" || !ok {
		t.Errorf("a delayed task: %q %q %q %v", queue, agent, id, ok)
	}
	for _, s := range []string{"", "sb.control", "sb.control.q", "sb.control.q.alice", "sb.control.q.alice.", "sb.control.q.alice..x", "sb.control.q.alice.x.", "sb.control.q.alice.*",
		"sb.control.q.*.x", "sb.control.Q.alice.x", "sb.control.q.alice.x y", "sb.control.q.alice." + strings.Repeat("x", policy.MaxSubject+1), "sb.delay.q.alice.x"} {
		if queue, agent, what, ok := policy.CutControlSubject(s); ok || queue+agent+what != "" {
			t.Errorf("%.80q is cut as a control", s)
		}
	}
	for _, s := range []string{"", "sb.delay.q", "sb.delay.q.alice", "sb.delay.q.alice.", "sb.delay.q.alice.x.y", "sb.delay.q.alice.*", "sb.delay.q.*.x", "sb.delay.*.alice.x", "sb.delay.q.alice.x ",
		"sb.delay.q.alice." + strings.Repeat("x", policy.MaxDelayID+1), "sb.held.q.alice.x", "sb.control.q.alice.x"} {
		if queue, agent, id, ok := policy.CutDelaySubject(s); ok || queue+agent+id != "" {
			t.Errorf("%.80q is cut as a delayed task", s)
		}
	}
}
