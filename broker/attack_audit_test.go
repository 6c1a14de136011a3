package broker_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/policy"
)

// audits fills the stream of checkpoints. Mallory audits the topic prices and the
// queue q, as audrey does, who also audits the queue other.
func (a *attack) audits(audrey *client) {
	a.t.Helper()
	for _, stream := range []string{"SB_TOPIC_prices", "SB_TASK_q", "SB_TASK_other"} {
		audrey.put(policy.AuditSubject(stream, "audrey", auditLog), "audrey's")
	}
	a.mallory.put(policy.AuditSubject("SB_TOPIC_prices", "mallory", auditLog), "evil")
}

// ownInAudit reports whether mallory may have published a checkpoint.
func ownInAudit(m string) bool {
	return strings.HasPrefix(m, "sb.audit.") && strings.Contains(m, ".mallory.")
}

// auditWays are the ways to make the broker answer an auditor.
var auditWays = []way{
	{name: "ack of a checkpoint", subject: policy.AuditSubject("SB_TOPIC_prices", "mallory", auditLog), body: "evil", expect: "SB_AUDIT"},
	{name: "a checkpoint refused", subject: policy.AuditSubject("SB_TOPIC_prices", "mallory", auditLog), body: "evil", expect: "rollup",
		header: nats.Header{"Nats-Rollup": {"all"}}},
	{name: "ack of a session note", subject: policy.SessionSubject("q"), body: "evil", expect: "SB_TASK_q"},
	{name: "how a stream is", subject: policy.StreamInfo("SB_TOPIC_prices"), expect: "SB_TOPIC_prices"},
	{name: "how a stream is, with subjects", subject: policy.StreamInfo("SB_TASK_q"), body: `{"subjects_filter":">","deleted_details":true}`, expect: "sb.task.q.0"},
	{name: "how a stream is, asked badly", subject: policy.StreamInfo("SB_TASK_q"), body: `{"evil`, expect: "error"},
	{name: "read of a topic", subject: policy.StreamGet("SB_TOPIC_prices", ""), body: `{"last_by_subj":"sb.topic.prices"}`, expect: "evil"},
	{name: "batch read of a topic", subject: policy.StreamGet("SB_TOPIC_prices", ""), body: `{"seq":1,"batch":10,"next_by_subj":"sb.topic.prices"}`, expect: "evil"},
	{name: "batch read of no topic", subject: policy.StreamGet("SB_TOPIC_prices", ""), body: `{"seq":1,"batch":10,"next_by_subj":"sb.topic.prices.none"}`, expect: "404"},
	{name: "batch read of tasks", subject: policy.StreamGet("SB_TASK_q", ""), body: `{"seq":1,"batch":10,"next_by_subj":"sb.task.q.0"}`, expect: "evil"},
	{name: "batch read of policies", subject: policy.DirectGet(policy.BucketPolicy, ""), body: `{"seq":1,"batch":10,"next_by_subj":">"}`, expect: "."},
	{name: "read of a checkpoint", subject: policy.StreamGet("SB_AUDIT", policy.AuditSubject("SB_TOPIC_prices", "mallory", auditLog)), expect: "evil"},
	{name: "batch read of checkpoints", subject: policy.StreamGet("SB_AUDIT", ""), body: `{"seq":1,"batch":10,"next_by_subj":"sb.audit.*.mallory.*"}`, expect: "evil"},
}

// auditTargets are what mallory would like others' answers to be written to.
var auditTargets = []string{
	policy.AuditSubject("SB_TOPIC_prices", "audrey", auditLog), policy.AuditSubject("SB_TASK_other", "audrey", auditLog), policy.AuditSubject("SB_TASK_other", "mallory", auditLog),
	policy.AuditSubject("SB_TOPIC_secret", "mallory", auditLog), "sb.session.other", "x.session.other",
	"$JS.API.STREAM.UPDATE.SB_TOPIC_prices", "$JS.API.STREAM.PURGE.SB_AUDIT", "$JS.API.STREAM.INFO.SB_TASK_other", "$JS.API.STREAM.MSG.DELETE.SB_TOPIC_prices",
	"$JS.API.DIRECT.GET.SB_TOPIC_secret", "$JS.API.DIRECT.GET.SB_AUDIT",
}

// auditForbidden are subjects that mallory, who audits prices and q, may not
// publish to.
var auditForbidden = []string{
	policy.AuditSubject("SB_TOPIC_prices", "audrey", auditLog), policy.AuditSubject("SB_TOPIC_prices", "*", auditLog), policy.AuditSubject("SB_TASK_other", "mallory", auditLog),
	policy.AuditSubject("SB_TOPIC_secret", "mallory", auditLog), policy.AuditSubject("SB_CONTROL_q", "mallory", auditLog), policy.AuditSubject("*", "mallory", auditLog),
	policy.AuditSubject("SB_TOPIC_prices", "mallory", auditLog) + ".x", "sb.audit.SB_TOPIC_prices.mallory", "sb.audit.SB_TOPIC_prices", "sb.audit.>",
	"sb.session.other", "sb.session.*", "sb.session.q.x", "x.session.q", "x.session.other",
	"$JS.API.STREAM.INFO.SB_TOPIC_secret", "$JS.API.STREAM.INFO.SB_TASK_other", "$JS.API.STREAM.INFO.SB_AUDIT", "$JS.API.STREAM.INFO.SB_CONTROL_q", "$JS.API.STREAM.INFO.SB_DELAY_q",
	"$JS.API.STREAM.INFO.*", "$JS.API.STREAM.INFO.>", "$JS.API.STREAM.INFO.KV_SB_POLICY", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST",
	"$JS.API.STREAM.UPDATE.SB_TOPIC_prices", "$JS.API.STREAM.PURGE.SB_TOPIC_prices", "$JS.API.STREAM.DELETE.SB_TOPIC_prices", "$JS.API.STREAM.SNAPSHOT.SB_TOPIC_prices",
	"$JS.API.STREAM.RESTORE.SB_TOPIC_prices", "$JS.API.STREAM.MSG.DELETE.SB_TOPIC_prices", "$JS.API.STREAM.MSG.GET.SB_TOPIC_prices", "$JS.API.STREAM.LEADER.STEPDOWN.SB_TOPIC_prices",
	"$JS.API.STREAM.PURGE.SB_AUDIT", "$JS.API.STREAM.UPDATE.SB_AUDIT", "$JS.API.STREAM.MSG.DELETE.SB_AUDIT",
	"$JS.API.CONSUMER.CREATE.SB_TOPIC_prices", "$JS.API.CONSUMER.CREATE.SB_TOPIC_prices.c", "$JS.API.CONSUMER.CREATE.SB_TOPIC_prices.c.sb.topic.prices",
	"$JS.API.CONSUMER.DURABLE.CREATE.SB_TOPIC_prices.c", "$JS.API.CONSUMER.CREATE.SB_AUDIT.c", "$JS.API.CONSUMER.MSG.NEXT.SB_TOPIC_prices.c",
	"$JS.API.DIRECT.GET.SB_TASK_other", "$JS.API.DIRECT.GET.SB_TOPIC_prices.sb.topic.prices", "$JS.API.DIRECT.GET.SB_AUDIT.sb.audit.SB_TASK_other.audrey." + auditLog,
	"$JS.API.DIRECT.GET.KV_SB_CARDS", "$JS.API.DIRECT.GET.*",
}

// auditUnheard are subjects that mallory may not subscribe to.
var auditUnheard = []string{"sb.audit.>", "sb.audit.*.*.*", policy.AuditSubject("SB_TOPIC_prices", "mallory", "*"), "sb.session.>", "sb.session.q", "$JS.API.>", "$JS.API.STREAM.INFO.SB_TASK_q"}

// TestAuditorOnlyReads: an auditor that is nothing else writes its checkpoints,
// and nothing more, settles nothing and takes no tasks. What it hears is no
// message.
func TestAuditorOnlyReads(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	n := b.start(b.config(auditRules))
	js, mallory := store(t, n), b.agent(n, "mallory")
	b.agent(n, "feed").put("sb.topic.prices", "the feed's")
	b.agent(n, "alice").enqueue("q", 1, "alice's")
	task := b.agent(n, "dave").take("q", 1)
	b.agent(n, "audrey").put(policy.AuditSubject("SB_TASK_q", "audrey", auditLog), "audrey's")
	before := everything(t, js)

	publish := []string{
		"sb.topic.prices", "sb.topic.prices.eu", "x.topic.prices", "sb.topic.secret",
		policy.TaskSubject("q", 1), policy.SpreadSubject("q", 1), policy.UniqueSubject("q", strings.Repeat("0", policy.ClaimChars), 1), policy.SessionSubject("q"), "x.session.q",
		policy.ResultSubject("q", auditLog), policy.DeadSubject("q", auditLog), policy.ProgressSubject("q", auditLog), policy.SlotSubject("q", "0"), policy.SlotSubject("q", policy.SlotRate),
		policy.ControlSubject("q", "mallory", policy.ControlPause), policy.ControlSubject("q", "mallory", policy.ControlCancel+"."+auditLog), policy.ControlSubject("q", "alice", policy.ControlPause),
		policy.DelaySubject("q", "mallory", "x"), policy.RecurSubject("q", "mallory", "x"), policy.RecurSubject("q", "mallory", ""), policy.HeldSubject("q", "mallory", "x"), policy.DueSubject("q", 1),
		policy.AskSubject("q", "mallory", policy.AskInfo), policy.AskSubject("q", "mallory", policy.AskPurge),
		policy.TaskPull("q", 1), task.Reply, "$JS.ACK.SB_TASK_q.p1.1.1.1.1.0",
		"$KV.SB_POLICY.current", "$KV.SB_CARDS.audrey.X", "$KV.SB_KEYS.topic.prices.j.mallory.X", "$KV.SB_KEYS.topic.prices.k.mallory.X", "$KV.SB_KEYS.queue.q.w.mallory.X",
		policy.StreamGet("SB_TOPIC_secret", ""), policy.StreamGet("SB_TASK_other", ""), policy.StreamGet("SB_RESULT_other", ""), policy.StreamGet("SB_DEAD_other", ""),
		policy.StreamGet("SB_CONTROL_other", ""), policy.StreamGet("SB_DELAY_q", ""), policy.StreamGet("SB_DELAY_q", "sb.held.q.alice.x"), policy.StreamGet("SB_DELAY_other", ""),
		policy.AuditSubject("SB_CONTROL_q", "mallory", auditLog), policy.AuditSubject("SB_TASK_q", "audrey", auditLog),
	}
	for _, subject := range slices.Concat(publish, auditForbidden) {
		ok(t, mallory.PublishRequest(subject, "sb.inbox.mallory.x", []byte("evil")))
		mallory.refused("publish to " + subject)
	}
	for _, subject := range []string{
		"sb.topic.prices", "sb.topic.prices.>", policy.ResultSubject("q", ">"), policy.DeadSubject("q", ">"), policy.ProgressSubject("q", ">"), "sb.control.q.>", policy.SlotSubject("q", "*"),
		"sb.task.q.1", "sb.inbox.audrey.>", "sb.store.keys.>", "sb.store.keys.topic.secret.>", "sb.store.keys.queue.other.>",
	} {
		sub, err := mallory.SubscribeSync(subject)
		ok(t, err)
		mallory.refused("subscribe to " + subject)
		_ = sub.Unsubscribe()
	}
	if after := everything(t, js); !maps.EqualFunc(before, after, slices.Equal) {
		t.Errorf("the streams now hold\n%q\nbefore\n%q", after, before)
	}
}

// TestCheckpointsStay: whatever an auditor puts beside its checkpoints, those of
// others stay, and its own up to the last so many.
func TestCheckpointsStay(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	n := b.start(b.config(auditRules))
	js, mallory := store(t, n), b.agent(n, "mallory")
	b.agent(n, "audrey").put(policy.AuditSubject("SB_TASK_q", "audrey", auditLog), "audrey's")
	own := policy.AuditSubject("SB_TASK_q", "mallory", auditLog)
	mallory.put(own, "evil")
	for _, header := range []nats.Header{
		{"Nats-Rollup": {"all"}}, {"Nats-Rollup": {"sub"}}, {"Nats-TTL": {"1s"}}, {"Nats-Incr": {"1"}},
		{"Nats-Schedule": {"@at 2020-01-01T00:00:00Z"}, "Nats-Schedule-Target": {policy.AuditSubject("SB_TASK_q", "audrey", auditLog)}},
		{"Nats-Batch-Id": {"x"}, "Nats-Batch-Sequence": {"1"}, "Nats-Batch-Commit": {"1"}},
		{"X": {strings.Repeat("x", policy.MaxCheckpoint)}}, // too large
	} {
		var refused *jetstream.APIError
		if _, err := mallory.js().PublishMsg(timeout(t), &nats.Msg{Subject: own, Header: header, Data: []byte("evil")}); !errors.As(err, &refused) {
			t.Errorf("%.80q: %v, want it refused", header, err)
		}
	}
	if got := contents(t, js, policy.AuditStream); len(got) != 2 {
		t.Fatalf("the checkpoints are %q", got)
	}
	for range policy.MaxCheckpoints + 1 {
		ok(t, mallory.Publish(own, []byte("more")))
	}
	mallory.put(own, "last")
	got := contents(t, js, policy.AuditStream)
	if len(got) != 1+policy.MaxCheckpoints || got[0] != policy.AuditSubject("SB_TASK_q", "audrey", auditLog)+"=audrey's" || got[len(got)-1] != own+"=last" {
		t.Errorf("there are %d checkpoints, from %s to %s", len(got), got[0], got[len(got)-1])
	}

	// Nor when the stream is full of checkpoints of logs that there are not.
	s, err := js.Stream(timeout(t), policy.AuditStream)
	ok(t, err)
	full := s.CachedInfo().Config
	full.MaxBytes = int64(s.CachedInfo().State.Bytes) + 4<<10
	_, err = js.UpdateStream(timeout(t), full)
	ok(t, err)
	for err == nil {
		_, err = mallory.js().Publish(timeout(t), policy.AuditSubject("SB_TASK_q", "mallory", ulid.Make().String()), []byte("evil"))
	}
	if now := contents(t, js, policy.AuditStream); len(now) <= len(got) || now[0] != got[0] {
		t.Errorf("when it is full (%v) there are %d checkpoints, from %s", err, len(now), now[0])
	}
}

// TestOthersReadNothing: who subscribes to a retained topic reads that topic's
// stream alone, who reads a queue that queue's, and who has no part in them none.
func TestOthersReadNothing(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	n := b.start(b.config(auditRules))
	var streams []string
	for _, stream := range n.Streams() {
		if strings.HasPrefix(stream, "SB_") {
			streams = append(streams, stream)
		}
	}
	if len(streams) != 2+5+5+1 {
		t.Fatalf("the streams are %q", streams)
	}
	for agent, reads := range map[string][]string{
		"bob":   {"SB_TOPIC_prices", "SB_AUDIT"},
		"feed":  {"SB_AUDIT"},
		"dave":  {"SB_TOPIC_secret", "SB_RESULT_q", "SB_CONTROL_q", "SB_RESULT_other", "SB_CONTROL_other", "SB_AUDIT"},
		"alice": {"SB_RESULT_q", "SB_DEAD_q", "SB_CONTROL_q", "SB_RESULT_other", "SB_DEAD_other", "SB_CONTROL_other", "SB_AUDIT"},
		"rita":  {"SB_TASK_q", "SB_RESULT_q", "SB_DEAD_q", "SB_CONTROL_q", "SB_AUDIT"},
		"eve":   nil,
	} {
		c := b.agent(n, agent)
		for _, stream := range streams {
			if !slices.Contains(reads, stream) {
				ok(t, c.PublishRequest(policy.StreamGet(stream, ""), "sb.inbox."+agent+".x", []byte(`{"seq":1,"batch":10,"next_by_subj":">"}`)))
				c.refused("read " + stream)
			}
			for _, subject := range []string{policy.StreamInfo(stream), policy.AuditSubject(stream, agent, auditLog), policy.DirectGet(policy.BucketPolicy, "")} {
				ok(t, c.PublishRequest(subject, "sb.inbox."+agent+".x", nil))
				c.refused("publish to " + subject)
			}
		}
	}
	// Reading is all that rita does.
	rita := b.agent(n, "rita")
	for _, subject := range []string{
		policy.TaskSubject("q", 1), policy.SpreadSubject("q", 1), policy.SessionSubject("q"), policy.ResultSubject("q", auditLog), policy.DeadSubject("q", auditLog), policy.ProgressSubject("q", auditLog),
		policy.SlotSubject("q", "0"), policy.ControlSubject("q", "rita", policy.ControlPause), policy.DelaySubject("q", "rita", "x"), policy.RecurSubject("q", "rita", ""),
		policy.AskSubject("q", "rita", policy.AskInfo), policy.AskSubject("q", "rita", policy.AskPurge), policy.TaskPull("q", 1), "$JS.ACK.SB_TASK_q.p1.1.1.1.1.0",
	} {
		ok(t, rita.PublishRequest(subject, "sb.inbox.rita.x", []byte("evil")))
		rita.refused("publish to " + subject)
	}
}

// everything returns what all streams hold.
func everything(t *testing.T, js jetstream.JetStream) map[string][]string {
	t.Helper()
	all := make(map[string][]string)
	names := js.StreamNames(timeout(t))
	for stream := range names.Name() {
		all[stream] = contents(t, js, stream)
	}
	ok(t, names.Err())
	return all
}
