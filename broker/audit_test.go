package broker_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/sealbus/sealbus/policy"
)

// auditRules give one retained topic and one queue auditors, and another of each
// audrey alone. Mallory is an auditor and nothing else; eve has no part in any of
// these.
const auditRules = `
trust_domain: example.org
revision: 1
topics:
  prices: {publish: [feed], subscribe: [bob], audit: [audrey, mallory], retain: 1h}
  secret: {publish: [feed], subscribe: [dave], audit: [audrey], retain: 1h}
queues:
  q: {enqueue: [alice], work: [dave], read: [rita], audit: [audrey, mallory]}
  other: {enqueue: [alice], work: [dave], audit: [audrey]}
direct: [{from: [eve], to: [bob]}]
`

const (
	policySubject = "$KV.SB_POLICY.current"
	auditLog      = "01JD3K5Z7QXN9V8M6T4R2P0WBC"
)

// read reads a stream in one batch, as "subject=data".
func (c *client) read(stream string) []string {
	c.t.Helper()
	var list []string
	batch, err := jetstreamext.GetBatch(timeout(c.t), c.js(), stream, 1000, jetstreamext.GetBatchSubject(">"))
	ok(c.t, err)
	for m, err := range batch {
		if err == jetstreamext.ErrNoMessages {
			break
		}
		ok(c.t, err)
		list = append(list, m.Subject+"="+string(m.Data))
	}
	return list
}

// streamInfo asks how a stream is configured and how full it is.
func (c *client) streamInfo(stream string) jetstream.StreamInfo {
	c.t.Helper()
	m, err := c.RequestWithContext(timeout(c.t), policy.StreamInfo(stream), nil)
	ok(c.t, err)
	var answer struct {
		jetstream.StreamInfo
		Error *jetstream.APIError `json:"error"`
	}
	ok(c.t, json.Unmarshal(m.Data, &answer))
	if answer.Error != nil {
		c.t.Fatal(answer.Error)
	}
	return answer.StreamInfo
}

// TestAudit has each do what the policy lets it.
func TestAudit(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	n := b.start(b.config(auditRules))
	feed, alice, dave := b.agent(n, "feed"), b.agent(n, "alice"), b.agent(n, "dave")
	feed.put("sb.topic.prices", "a note")
	feed.put("sb.topic.prices.eu", "1")
	alice.put(policy.SessionSubject("q"), "a note")
	alice.enqueue("q", 1, "task")
	alice.put(policy.SessionSubject("q"), "another")
	dave.put(policy.ResultSubject("q", "X"), "result")
	dave.put(policy.DeadSubject("q", "Y"), "letter")
	alice.put(policy.ControlSubject("q", "alice", "pause"), "paused")
	holds := map[string][]string{
		"SB_TOPIC_prices": {"sb.topic.prices=a note", "sb.topic.prices.eu=1"},
		"SB_TASK_q":       {"sb.session.q=a note", "sb.task.q.1=task", "sb.session.q=another"},
		"SB_RESULT_q":     {"sb.result.q.X=result"},
		"SB_DEAD_q":       {"sb.dead.q.Y=letter"},
		"SB_CONTROL_q":    {"sb.control.q.alice.pause=paused"},
	}
	for agent, streams := range map[string][]string{
		"bob":    {"SB_TOPIC_prices"},
		"rita":   {"SB_TASK_q", "SB_RESULT_q", "SB_DEAD_q", "SB_CONTROL_q"},
		"audrey": {"SB_TOPIC_prices", "SB_TASK_q", "SB_RESULT_q", "SB_DEAD_q", "SB_CONTROL_q"},
	} {
		c := b.agent(n, agent)
		for _, stream := range streams {
			if got := c.read(stream); !slices.Equal(got, holds[stream]) {
				t.Errorf("%s reads %q from %s", agent, got, stream)
			}
		}
	}

	audrey := b.agent(n, "audrey")
	for _, ch := range []string{"topic/prices", "queue/q"} {
		for _, stream := range policy.AuditedStreams(policy.MustParseChannel(ch)) {
			if i := audrey.streamInfo(stream); i.Config.Name != stream || i.State.Msgs != uint64(len(holds[stream])) {
				t.Errorf("%s is %+v", stream, i)
			}
			audrey.put(policy.AuditSubject(stream, "audrey", auditLog), "checkpoint of "+stream)
		}
	}
	for _, agent := range []string{"bob", "feed", "alice", "dave", "rita", "audrey"} {
		c := b.agent(n, agent)
		if got := c.read(policy.AuditStream); len(got) != 4 {
			t.Errorf("%s reads the checkpoints %q", agent, got)
		}
	}
	if got := audrey.read(policy.StreamOfBucket(policy.BucketPolicy)); len(got) != 1 || !strings.HasPrefix(got[0], policySubject+"=") {
		t.Errorf("the policies are %.80q", got)
	}
	m, err := b.agent(n, "bob").RequestWithContext(timeout(t), policy.StreamGet(policy.AuditStream, policy.AuditSubject("SB_TOPIC_prices", "audrey", auditLog)), nil)
	ok(t, err)
	if string(m.Data) != "checkpoint of SB_TOPIC_prices" {
		t.Errorf("the last checkpoint: %v %q", m.Header, m.Data)
	}
	// The note came before the task, and no worker gets it.
	if m := dave.take("q", 1); string(m.Data) != "task" {
		t.Errorf("the worker gets %q", m.Data)
	}
}
