package policy_test

import (
	"testing"

	"github.com/sealbus/sealbus/policy"
)

func TestAskSubjects(t *testing.T) {
	for _, what := range []string{policy.AskInfo, policy.AskPurge} {
		s := policy.AskSubject("q-1", "alice", what)
		if s != "sb.queue.q-1.alice."+what {
			t.Errorf("got %s", s)
		}
		if queue, agent, got, ok := policy.CutAskSubject(s); queue != "q-1" || agent != "alice" || got != what || !ok {
			t.Errorf("%s: %q %q %q %v", s, queue, agent, got, ok)
		}
	}
	for _, s := range []string{"", "sb.queue", "sb.queue.q", "sb.queue.q.alice", "sb.queue.q.alice.", "sb.queue.q.alice.x", "sb.queue.q.alice.info.x", "sb.queue.q..info",
		"sb.queue.*.alice.info", "sb.queue.q.*.info", "sb.queue.q.alice.*", "sb.queue.Q.alice.info", "sb.queue.q.Alice.info", "sb.delay.q.alice.info", "x.queue.q.alice.info"} {
		if queue, agent, what, ok := policy.CutAskSubject(s); ok || queue+agent+what != "" {
			t.Errorf("%q is cut as a question", s)
		}
	}
}
