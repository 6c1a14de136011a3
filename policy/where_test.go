package policy_test

import (
	"testing"

	"github.com/sealbus/sealbus/policy"
)

// TestWhere: errors can name the line that a channel stands on, whichever way it is written.
func TestWhere(t *testing.T) {
	p, err := policy.Parse([]byte(`trust_domain: example.org
revision: 7
topics:
  prices: {publish: [feed], subscribe: [planner]}

  # one more
  "news":
    publish: [feed]
    subscribe: [planner]
queues:
  work: {enqueue: [planner], work: [exec]}
services:
  ask: {call: [planner], serve: [exec]}
direct:
  - {from: [planner], to: [exec]}
`))
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"topic/prices": "policy revision 7, line 4,", "topic/news": "policy revision 7, line 7,", "queue/work": "policy revision 7, line 11,",
		"result/work": "policy revision 7, line 11,", "service/ask": "policy revision 7, line 13,", "pair/exec~planner": "policy revision 7", "topic/none": "policy revision 7",
	} {
		ch, err := policy.ParseChannel(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Where(ch); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}
