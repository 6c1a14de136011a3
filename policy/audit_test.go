package policy_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealbus/sealbus/policy"
)

func TestAuditNames(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{policy.AuditStream, "SB_AUDIT"},
		{policy.AuditSubject("SB_TOPIC_prices", "witness", card), "sb.audit.SB_TOPIC_prices.witness." + card},
		{policy.AuditPattern, "sb.audit.*.*.*"},
		{policy.SessionSubject("q"), "sb.session.q"},
		{policy.StreamInfo("SB_TASK_q"), "$JS.API.STREAM.INFO.SB_TASK_q"},
	} {
		if c.got != c.want {
			t.Errorf("got %s, want %s", c.got, c.want)
		}
	}
}

func TestAuditedStreams(t *testing.T) {
	for channel, want := range map[string]string{
		"topic/prices": "[SB_TOPIC_prices]", "queue/q": "[SB_TASK_q SB_RESULT_q SB_DEAD_q]", "result/q": "[]", "service/s": "[]", "pair/a~b": "[]",
	} {
		ch := policy.MustParseChannel(channel)
		streams := policy.AuditedStreams(ch)
		if got := fmt.Sprint(streams); got != want {
			t.Errorf("%s: %s, want %s", channel, got, want)
		}
		for _, stream := range streams {
			if got, ok := policy.StreamChannel(stream); got != ch || !ok {
				t.Errorf("%s is of %v, %v", stream, got, ok)
			}
		}
	}
	for _, stream := range []string{"", "SB_TOPIC_", "SB_TOPIC_Prices", "SB_TOPIC_a.b", "SB_TOPIC_*", "SB_CONTROL_q", "SB_DELAY_q", "SB_AUDIT", "KV_SB_KEYS", "SB_TASK_q ", "sb_task_q", "SB_TASKq"} {
		if ch, ok := policy.StreamChannel(stream); ok || !ch.IsZero() {
			t.Errorf("%q is of %v", stream, ch)
		}
	}
}

func TestCutAuditSubject(t *testing.T) {
	for _, stream := range []string{"SB_TOPIC_prices", "SB_TASK_q-1", "SB_RESULT_q", "SB_DEAD_q"} {
		got, agent, log, ok := policy.CutAuditSubject(policy.AuditSubject(stream, "witness", card))
		if got != stream || agent != "witness" || log != card || !ok {
			t.Errorf("%q %q %q %v", got, agent, log, ok)
		}
	}
	const good = "sb.audit.SB_TASK_q.a."
	for _, s := range []string{"", "sb.audit", "sb.audit.", "sb.audit.SB_TASK_q", "sb.audit.SB_TASK_q.a", good, good + "x", good + card + ".x", good + "*", good + strings.ToLower(card),
		"sb.audit.*.a." + card, "sb.audit.SB_TASK_q.*." + card, "sb.audit.SB_TASK_q.A." + card, "sb.audit.SB_AUDIT.a." + card, "sb.audit.KV_SB_KEYS.a." + card, "sb.audit.SB_CONTROL_q.a." + card,
		"sb.audit..a." + card, "x.audit.SB_TASK_q.a." + card, "sb.session.SB_TASK_q.a." + card} {
		if stream, agent, log, ok := policy.CutAuditSubject(s); ok || stream+agent+log != "" {
			t.Errorf("%q is cut into %q, %q and %q", s, stream, agent, log)
		}
	}
	for _, s := range []string{"", "sb.session", "sb.session.", "sb.session.Q", "sb.session.*", "sb.session.q.x", "sb.session.q ", "sb.task.q", "x.session.q"} {
		if queue, ok := policy.CutSessionSubject(s); ok || queue != "" {
			t.Errorf("%q is of %q", s, queue)
		}
	}
	if queue, ok := policy.CutSessionSubject("sb.session.q-1"); queue != "q-1" || !ok {
		t.Errorf("%q, %v", queue, ok)
	}
}

// FuzzCutAuditSubject: what is cut is put together again as it was.
func FuzzCutAuditSubject(f *testing.F) {
	f.Add(policy.AuditSubject("SB_TOPIC_prices", "witness", card))
	f.Add("sb.audit.SB_DEAD_q.*.x")
	f.Fuzz(func(t *testing.T, s string) {
		stream, agent, log, ok := policy.CutAuditSubject(s)
		if ok && policy.AuditSubject(stream, agent, log) != s {
			t.Errorf("%q is cut into %q, %q and %q", s, stream, agent, log)
		}
	})
}

func TestAuditors(t *testing.T) {
	p := mustParse(t, full)
	agents := strings.Fields("planner exec-1 exec-3 writer-1 clerk witness aud-1 auditor gone operator * Witness")
	for channel, auditors := range map[string]string{
		"topic/prices": "witness", "topic/news": "", "queue/summarise": "witness aud-1", "result/summarise": "witness aud-1", "queue/archive": "",
		"service/lookup": "", "pair/auditor~planner": "", "topic/unknown": "", "queue/prices": "",
	} {
		ch := policy.MustParseChannel(channel)
		for _, agent := range agents {
			if got, want := p.CanAudit(ch, agent), contains(auditors, agent); got != want {
				t.Errorf("%s audits %s: %v, want %v", agent, channel, got, want)
			}
		}
		if got := p.HasAuditors(ch); got != (auditors != "") {
			t.Errorf("%s has auditors: %v", channel, got)
		}
	}
	if p.CanAudit(policy.Channel{}, "witness") || p.HasAuditors(policy.Channel{}) {
		t.Error("somebody audits no channel")
	}
	for agent, want := range map[string]string{"witness": "[queue/summarise topic/prices]", "aud-1": "[queue/summarise]", "planner": "[]", "gone": "[]", "": "[]"} {
		if got := fmt.Sprint(p.Audited(agent)); got != want {
			t.Errorf("%s audits %s, want %s", agent, got, want)
		}
	}
	// Nothing else follows from it.
	for _, channel := range []string{"topic/prices", "queue/summarise", "result/summarise"} {
		if ch := policy.MustParseChannel(channel); p.CanRead(ch, "aud-1") || p.CanWrite(ch, "aud-1") {
			t.Errorf("an auditor reads or writes %s", ch)
		}
	}
}

// Who may read a queue opens what is in it, and is no worker.
func TestReadersOfQueues(t *testing.T) {
	p := mustParse(t, full)
	for agent, want := range map[string]bool{"writer-1": true, "clerk": false, "planner": false, "witness": false, "exec-3": false, "": false} {
		if got := p.MayWork("summarise", agent); got != want {
			t.Errorf("%s works: %v", agent, got)
		}
	}
	for _, queue := range []string{"unknown", "prices", ""} {
		if p.MayWork(queue, "writer-1") {
			t.Errorf("somebody works on %q", queue)
		}
	}
	queue, result := policy.MustParseChannel("queue/summarise"), policy.MustParseChannel("result/summarise")
	if !p.CanRead(queue, "clerk") || !p.CanRead(result, "clerk") || p.CanWrite(queue, "clerk") || p.CanWrite(result, "clerk") {
		t.Error("clerk does not read alone")
	}
}

func TestMaxCardAge(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"": 7 * 24 * time.Hour, "max_card_age: 1h\n": time.Hour, "max_card_age: 3650d\n": 3650 * 24 * time.Hour, "max_card_age: 30d\n": 30 * 24 * time.Hour,
	} {
		if got := mustParse(t, head+text).MaxCardAge(); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

func TestDestroyed(t *testing.T) {
	p := mustParse(t, full)
	for channel, want := range map[string]string{
		"topic/prices": "2026-11-01T00:00:00Z", "queue/summarise": "2026-10-01T12:30:15Z", "result/summarise": "2026-10-01T12:30:15Z", "service/lookup": "2025-01-01T00:00:00Z",
		"topic/news": "", "queue/archive": "", "result/archive": "", "service/price": "", "pair/auditor~planner": "", "topic/unknown": "",
	} {
		got := p.DestroyedBefore(policy.MustParseChannel(channel))
		if got.IsZero() != (want == "") || want != "" && (got.Format(time.RFC3339) != want || got.Location() != time.UTC) {
			t.Errorf("%s: before %v, want %s", channel, got, want)
		}
	}
	if got := fmt.Sprint(p.Destroyed()); got != "[queue/summarise service/lookup topic/prices]" {
		t.Errorf("destroyed are keys of %s", got)
	}
	if !p.DestroyedBefore(policy.Channel{}).IsZero() || mustParse(t, head).Destroyed() != nil {
		t.Error("keys of no channel are destroyed")
	}
}

// Keys of the future cannot be destroyed: whoever signs that by mistake has made a channel that nobody can write to.
func TestSignRefusesToDestroyAhead(t *testing.T) {
	text := []byte(head + "services: {s: {call: [a], serve: [b]}}\ndestroyed: [{channel: service/s, before: \"2026-11-01T00:00:00Z\"}]\n")
	at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	for _, now := range []time.Time{at, at.Add(time.Hour)} {
		if _, err := policy.Sign(text, newKey(t), now); err != nil {
			t.Error(err)
		}
	}
	_, err := policy.Sign(text, newKey(t), at.Add(-time.Second))
	var all *policy.Errors
	const want = `before of an entry of destroyed is 2026-11-01T00:00:00Z, after the time of signing: no key could be used until then: write at most "2026-10-31T23:59:59Z"`
	if !errors.As(err, &all) || len(all.Problems) != 1 || all.Problems[0].Line != 4 || all.Problems[0].Msg != want {
		t.Errorf("got %v", err)
	}
}

// TestAuditPermissions has all there is to auditing that a policy gives, and checks that nothing else comes with it.
func TestAuditPermissions(t *testing.T) {
	const rules = `
topics:
  kept: {publish: [feed], subscribe: [bob], audit: [witness], retain: 1d}
  plain: {publish: [feed], subscribe: [bob], retain: 1d}
  live: {publish: [feed], subscribe: [bob]}
queues:
  q: {enqueue: [alice], work: [dave], read: [clerk], audit: [witness, both]}
  r: {enqueue: [alice], work: [dave], read: [clerk, both]}
direct: [{from: [eve], to: [bob]}]
`
	p := mustParse(t, head+rules)
	logsOf := func(stream string) []string {
		return []string{"$JS.API.DIRECT.GET.SB_AUDIT", "$JS.API.DIRECT.GET.SB_AUDIT.sb.audit." + stream + ".*.*"}
	}
	audits := func(agent, stream string) []string {
		return append(logsOf(stream), "$JS.API.DIRECT.GET.KV_SB_POLICY", "$JS.API.DIRECT.GET."+stream, "$JS.API.STREAM.INFO."+stream, "sb.audit."+stream+"."+agent+".*")
	}
	reads := func(q string) (list []string) {
		return []string{"$JS.API.DIRECT.GET.SB_TASK_" + q,
			"$JS.API.DIRECT.GET.SB_RESULT_" + q, "$JS.API.DIRECT.GET.SB_RESULT_" + q + ".sb.result." + q + ".*",
			"$JS.API.DIRECT.GET.SB_DEAD_" + q, "$JS.API.DIRECT.GET.SB_DEAD_" + q + ".sb.dead." + q + ".*",
			"$JS.API.DIRECT.GET.SB_CONTROL_" + q, "$JS.API.DIRECT.GET.SB_CONTROL_" + q + ".sb.control." + q + ".*.>"}
	}
	ofQueue := slices.Concat(logsOf("SB_TASK_q"), logsOf("SB_RESULT_q"), logsOf("SB_DEAD_q"))
	auditsQueue := func(agent string) []string {
		return slices.Concat(reads("q"), audits(agent, "SB_TASK_q"), audits(agent, "SB_RESULT_q"), audits(agent, "SB_DEAD_q"))
	}
	for agent, want := range map[string][2][][]string{
		"feed": {{own("feed"), keysOf("feed", "topic.kept", "topic.plain", "topic.live"), logsOf("SB_TOPIC_kept"),
			{"sb.topic.kept", "sb.topic.kept.>", "sb.topic.plain", "sb.topic.plain.>", "sb.topic.live", "sb.topic.live.>"}},
			{feeds("feed", "topic.kept", "topic.plain", "topic.live")}},
		"bob": {{own("bob"), keysOf("bob", "topic.kept", "topic.plain", "topic.live", "pair.bob.eve"), logsOf("SB_TOPIC_kept"),
			{"$JS.API.DIRECT.GET.SB_TOPIC_kept", "$JS.API.DIRECT.GET.SB_TOPIC_plain", "sb.inbox.eve.>"}},
			{feeds("bob", "topic.kept", "topic.plain", "topic.live", "pair.bob.eve"), {"sb.agent.bob"},
				{"sb.topic.kept", "sb.topic.kept.>", "sb.topic.plain", "sb.topic.plain.>", "sb.topic.live", "sb.topic.live.>"}}},
		"witness": {{own("witness"), audits("witness", "SB_TOPIC_kept"), auditsQueue("witness")},
			{feeds("witness", "topic.kept", "queue.q", "result.q")}},
		"clerk": {{own("clerk"), keysOf("clerk", "queue.q", "result.q", "queue.r", "result.r"), reads("q"), reads("r"), ofQueue},
			{feeds("clerk", "queue.q", "result.q", "queue.r", "result.r")}},
		"both": {{own("both"), keysOf("both", "queue.r", "result.r"), reads("r"), auditsQueue("both")},
			{feeds("both", "queue.q", "result.q", "queue.r", "result.r")}},
		"eve": {{own("eve"), keysOf("eve", "pair.bob.eve"), {"sb.agent.bob"}}, {feeds("eve", "pair.bob.eve")}},
	} {
		perms := p.Permissions(agent)
		same(t, agent+" publish", perms.Publish, want[0])
		same(t, agent+" subscribe", perms.Subscribe, want[1])
		checkPermissions(t, p, agent)
	}
	for _, agent := range []string{"alice", "dave"} {
		perms := p.Permissions(agent)
		for _, subject := range ofQueue {
			if !slices.Contains(perms.Publish, subject) {
				t.Errorf("%s does not read checkpoints of the queue: %s", agent, subject)
			}
		}
		checkPermissions(t, p, agent)
	}
}
