package policy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sealbus/sealbus/policy"
)

// own is what every agent may publish, and keysOf what it may of a channel's keys.
func own(agent string) []string {
	return []string{
		"$JS.API.DIRECT.GET.KV_SB_POLICY.$KV.SB_POLICY.current",
		"$JS.API.DIRECT.GET.KV_SB_CARDS.$KV.SB_CARDS.>",
		"$JS.API.DIRECT.GET.KV_SB_KEYS",
		"$KV.SB_CARDS." + agent + ".*",
	}
}

func keysOf(agent string, prefixes ...string) (subjects []string) {
	for _, prefix := range prefixes {
		for _, kind := range []string{"j", "k", "w"} {
			subjects = append(subjects, "$KV.SB_KEYS."+prefix+"."+kind+"."+agent+".>")
		}
	}
	return subjects
}

func feeds(agent string, prefixes ...string) []string {
	subjects := []string{"sb.inbox." + agent + ".>", "sb.store.policy.>"}
	for _, prefix := range prefixes {
		subjects = append(subjects, "sb.store.keys."+prefix+".>")
	}
	return subjects
}

// enqueues and works are what a queue's agents may publish, beside its keys.
func enqueues(agent, q string) []string {
	return append(both(agent, q), "sb.session."+q,
		"sb.task."+q+".0", "sb.task."+q+".1", "sb.task."+q+".2", "sb.task."+q+".3", "sb.delay."+q+"."+agent+".*",
		"sb.queue."+q+"."+agent+".purge", "sb.recur."+q+"."+agent+".*",
		"sb.unique."+q+".*.0", "sb.unique."+q+".*.1", "sb.unique."+q+".*.2", "sb.unique."+q+".*.3", "$JS.API.DIRECT.GET.SB_TASK_"+q+".sb.unique."+q+".*.*",
		"$JS.API.DIRECT.GET.SB_DEAD_"+q, "$JS.API.DIRECT.GET.SB_DEAD_"+q+".sb.dead."+q+".*")
}

func works(agent, q string) []string {
	list := append(both(agent, q), "sb.result."+q+".*", "sb.dead."+q+".*", "sb.progress."+q+".*", "sb.slot."+q+".*")
	for p, c := range []string{"p0", "p1", "p2", "p3"} {
		list = append(list, fmt.Sprintf("sb.spread.%s.%d", q, p), "$JS.API.CONSUMER.MSG.NEXT.SB_TASK_"+q+"."+c, "$JS.ACK.SB_TASK_"+q+"."+c+".*.*.*.*.*")
	}
	return list
}

func both(agent, q string) []string {
	return []string{"sb.control." + q + "." + agent + ".>", "sb.queue." + q + "." + agent + ".info", "sb.recur." + q + "." + agent,
		"$JS.API.DIRECT.GET.SB_RESULT_" + q, "$JS.API.DIRECT.GET.SB_RESULT_" + q + ".sb.result." + q + ".*",
		"$JS.API.DIRECT.GET.SB_CONTROL_" + q, "$JS.API.DIRECT.GET.SB_CONTROL_" + q + ".sb.control." + q + ".*.>"}
}

func hearsResults(q string) []string {
	return []string{"sb.result." + q + ".>", "sb.dead." + q + ".>", "sb.progress." + q + ".>", "sb.control." + q + ".>"}
}

func TestPermissions(t *testing.T) {
	const rules = `
topics:
  prices: {publish: ["feed-*"], subscribe: [planner]}
queues:
  summarise: {enqueue: [planner], work: ["writer-*"]}
services:
  lookup: {call: [planner, gone], serve: [index]}
  open: {call: ["*"], serve: [oracle]}
direct:
  - {from: [bob], to: [carol, dave, gone]}
  - {from: ["team-*"], to: [bob]}
revoked: [gone]
`
	for _, test := range []struct {
		name, rules, agent string
		publish, subscribe [][]string
	}{
		{"publisher", "topics: {prices: {publish: [\"feed-*\"], subscribe: [planner]}}", "feed-1",
			[][]string{own("feed-1"), keysOf("feed-1", "topic.prices"), {"sb.topic.prices", "sb.topic.prices.>"}},
			[][]string{feeds("feed-1", "topic.prices")}},
		{"subscriber", "topics: {prices: {publish: [\"feed-*\"], subscribe: [planner]}}", "planner",
			[][]string{own("planner"), keysOf("planner", "topic.prices")},
			[][]string{feeds("planner", "topic.prices"), {"sb.topic.prices", "sb.topic.prices.>"}}},
		{"enqueuer", "queues: {q: {enqueue: [a], work: [b]}}", "a",
			[][]string{own("a"), keysOf("a", "queue.q", "result.q"), enqueues("a", "q")},
			[][]string{feeds("a", "queue.q", "result.q"), hearsResults("q")}},
		{"worker", "queues: {q: {enqueue: [a], work: [b]}}", "b",
			[][]string{own("b"), keysOf("b", "queue.q", "result.q"), works("b", "q")},
			[][]string{feeds("b", "queue.q", "result.q"), {"sb.control.q.>", "sb.slot.q.*"}}},
		{"enqueuer of one queue, worker of another", "queues: {q: {enqueue: [a], work: [b]}, r: {enqueue: [b], work: [a]}}", "a",
			[][]string{own("a"), keysOf("a", "queue.q", "result.q", "queue.r", "result.r"), enqueues("a", "q"), works("a", "r")},
			[][]string{feeds("a", "queue.q", "result.q", "queue.r", "result.r"), hearsResults("q"), {"sb.control.r.>", "sb.slot.r.*"}}},
		{"caller", "services: {s: {call: [a], serve: [b]}}", "a",
			[][]string{own("a"), keysOf("a", "service.s", "pair.a.b"), {"sb.service.s"}},
			[][]string{feeds("a", "service.s", "pair.a.b")}},
		{"server", "services: {s: {call: [a], serve: [b]}}", "b",
			[][]string{own("b"), keysOf("b", "service.s", "pair.a.b"), {"sb.inbox.a.>"}},
			[][]string{feeds("b", "service.s", "pair.a.b"), {"sb.service.s"}}},
		{"server for all", "services: {s: {call: [\"*\"], serve: [b]}}", "b",
			[][]string{own("b"), keysOf("b", "service.s", "pair.b.*", "pair.*.b"), {"sb.inbox.*.>", "sb.service.s"}},
			[][]string{feeds("b", "service.s", "pair.b.*", "pair.*.b"), {"sb.service.s"}}},
		{"who asks", "direct: [{from: [a], to: [b]}]", "a",
			[][]string{own("a"), keysOf("a", "pair.a.b"), {"sb.agent.b"}}, [][]string{feeds("a", "pair.a.b")}},
		{"who is asked", "direct: [{from: [a], to: [b]}]", "b",
			[][]string{own("b"), keysOf("b", "pair.a.b"), {"sb.inbox.a.>"}}, [][]string{feeds("b", "pair.a.b"), {"sb.agent.b"}}},
		{"asks a glob", "direct: [{from: [a], to: [\"b*b\", c]}]", "a",
			[][]string{own("a"), keysOf("a", "pair.a.*", "pair.*.a"), {"sb.agent.*"}}, [][]string{feeds("a", "pair.a.*", "pair.*.a")}},
		{"is in a glob that asks itself", "direct: [{from: [\"t-*\"], to: [\"t-*\"]}]", "t-1",
			[][]string{own("t-1"), keysOf("t-1", "pair.t-1.*", "pair.*.t-1"), {"sb.agent.*", "sb.inbox.*.>"}},
			[][]string{feeds("t-1", "pair.t-1.*", "pair.*.t-1"), {"sb.agent.t-1"}}},
		{"only itself is left", "direct: [{from: [a, b], to: [a]}]\nrevoked: [b]", "a", [][]string{own("a")}, [][]string{feeds("a")}},
		{"many roles", rules, "bob",
			[][]string{own("bob"), keysOf("bob", "service.open", "pair.bob.*", "pair.*.bob"),
				{"sb.service.open", "sb.agent.carol", "sb.agent.dave", "sb.inbox.*.>"}},
			[][]string{feeds("bob", "service.open", "pair.bob.*", "pair.*.bob"), {"sb.agent.bob"}}},
		{"no revoked peers", rules, "index",
			[][]string{own("index"), keysOf("index", "service.lookup", "service.open", "pair.index.planner", "pair.index.oracle"),
				{"sb.service.open", "sb.inbox.planner.>"}},
			[][]string{feeds("index", "service.lookup", "service.open", "pair.index.planner", "pair.index.oracle"), {"sb.service.lookup"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := mustParse(t, head+test.rules+"\n")
			got := p.Permissions(test.agent)
			if got.Empty() {
				t.Fatal("no permissions")
			}
			same(t, "publish", got.Publish, test.publish)
			same(t, "subscribe", got.Subscribe, test.subscribe)
			checkPermissions(t, p, test.agent)
		})
	}
}

func same(t *testing.T, what string, got []string, want [][]string) {
	t.Helper()
	if !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) {
		t.Errorf("%s is not sorted or has duplicates: %q", what, got)
	}
	all := slices.Concat(want...)
	slices.Sort(all)
	all = slices.Compact(all)
	for _, s := range got {
		if !slices.Contains(all, s) {
			t.Errorf("%s: %s should not be there", what, s)
		}
	}
	for _, s := range all {
		if !slices.Contains(got, s) {
			t.Errorf("%s: %s is missing", what, s)
		}
	}
}

// overlap reports whether a message could have a subject that both patterns match.
func overlap(a, b string) bool {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(x), len(y)) {
		switch {
		case x[i] == ">" || y[i] == ">":
			return true
		case x[i] != y[i] && x[i] != "*" && y[i] != "*":
			return false
		}
	}
	return len(x) == len(y)
}

// kept returns what an agent may read of streams by what a policy says of retaining, reading and auditing, and the streams
// that it may audit.
func kept(p *policy.Policy, agent string) (reads, audits []string) {
	checkpoints := false
	add := func(ch policy.Channel, part, read bool, control ...string) {
		streams, audited := policy.AuditedStreams(ch), p.CanAudit(ch, agent)
		if audited {
			audits = append(audits, streams...)
		}
		if read || audited {
			reads = append(reads, append(control, streams...)...)
			for _, c := range control {
				reads = append(reads, c+".sb.control."+ch.Name()+".*.>", "SB_RESULT_"+ch.Name()+".sb.result."+ch.Name()+".*", "SB_DEAD_"+ch.Name()+".sb.dead."+ch.Name()+".*")
			}
		}
		if (part || audited) && p.HasAuditors(ch) {
			checkpoints = true
			for _, stream := range streams {
				reads = append(reads, "SB_AUDIT.sb.audit."+stream+".*.*")
			}
		}
	}
	for _, name := range p.Topics() {
		ch := policy.MustParseChannel("topic/" + name)
		s, _ := p.Settings(ch)
		add(ch, p.CanRead(ch, agent) || p.CanWrite(ch, agent), s.Retain > 0 && p.CanRead(ch, agent))
	}
	for _, name := range p.Queues() {
		ch := policy.MustParseChannel("queue/" + name)
		// Of a worker nobody can tell whether it is named as a reader too.
		add(ch, p.CanRead(ch, agent) || p.CanWrite(ch, agent), p.CanRead(ch, agent), "SB_CONTROL_"+name)
	}
	if len(audits) > 0 {
		reads = append(reads, "KV_SB_POLICY")
	}
	if checkpoints {
		reads = append(reads, "SB_AUDIT")
	}
	return reads, audits
}

// checkPermissions holds whatever the policy says.
func checkPermissions(t *testing.T, p *policy.Policy, agent string) {
	t.Helper()
	perms := p.Permissions(agent)
	if perms.Empty() {
		if perms.Publish != nil || perms.Subscribe != nil || p.Known(agent) {
			t.Errorf("%s: %+v, known %v", agent, perms, p.Known(agent))
		}
		return
	}
	asks := slices.Clone(own(agent)[:3])
	for _, q := range p.Queues() {
		if p.CanWrite(policy.MustParseChannel("queue/"+q), agent) {
			asks = append(asks, enqueues(agent, q)...)
		}
		if p.MayWork(q, agent) {
			asks = append(asks, works(agent, q)...)
		}
	}
	reads, audits := kept(p, agent)
	for _, stream := range reads {
		asks = append(asks, "$JS.API.DIRECT.GET."+stream)
	}
	for _, stream := range audits {
		asks = append(asks, "$JS.API.STREAM.INFO."+stream, "sb.audit."+stream+"."+agent+".*")
	}
	for _, s := range perms.Publish {
		mayAsk := slices.Contains(asks, s)
		for what, forbidden := range map[string]string{
			"asks JetStream":            "$JS.>",
			"acknowledges":              "$JS.ACK.>",
			"writes the policy":         "$KV.SB_POLICY.>",
			"speaks for the system":     "$SYS.>",
			"writes to the feeds":       "sb.store.>",
			"writes to default inboxes": "_INBOX.>",
			"puts in tasks":             "sb.task.>",
			"claims keys":               "sb.unique.>",
			"reads the log":             "$JS.API.DIRECT.GET.SB_TASK_q.>",
			"delays tasks":              "sb.delay.>",
			"writes delayed tasks":      "sb.held.>",
			"publishes checkpoints":     "sb.audit.>",
			"writes session notes":      "sb.session.>",
			"makes tasks due":           "sb.due.>",
			"writes results":            "sb.result.>",
			"writes dead letters":       "sb.dead.>",
			"writes progress":           "sb.progress.>",
			"controls a queue":          "sb.control.>",
			"asks about a queue":        "sb.queue.>",
		} {
			if overlap(s, forbidden) && !mayAsk {
				t.Errorf("%s %s: %s", agent, what, s)
			}
		}
		if overlap(s, "$KV.SB_CARDS.>") && s != "$KV.SB_CARDS."+agent+".*" {
			t.Errorf("%s writes another's card: %s", agent, s)
		}
		if overlap(s, "$KV.SB_KEYS.>") && !strings.Contains(s, ".j."+agent+".>") && !strings.Contains(s, ".k."+agent+".>") && !strings.Contains(s, ".w."+agent+".>") {
			t.Errorf("%s writes keys under another's name: %s", agent, s)
		}
	}
	for _, s := range perms.Subscribe {
		for what, forbidden := range map[string]string{
			"reads another's inbox":    "sb.inbox.another.x",
			"reads another's requests": "sb.agent.another",
			"reads a bucket":           "$KV.>",
			"listens to JetStream":     "$JS.>",
			"listens to the system":    "$SYS.>",
			"reads default inboxes":    "_INBOX.>",
			"reads tasks":              "sb.task.>",
			"reads claims":             "sb.unique.>",
			"reads delayed tasks":      "sb.delay.>",
			"reads what is held":       "sb.held.>",
			"reads what is due":        "sb.due.>",
			"hears others ask":         "sb.queue.>",
			"hears checkpoints":        "sb.audit.>",
			"reads session notes":      "sb.session.>",
		} {
			if overlap(s, forbidden) {
				t.Errorf("%s %s: %s", agent, what, s)
			}
		}
	}
}

// With globs for everything an agent still gets nothing of what is not a message to it.
func TestPermissionsOfTheMostPowerful(t *testing.T) {
	p := mustParse(t, head+`
topics: {t: {publish: ["*"], subscribe: ["*"], audit: ["*"], retain: 1d}}
queues: {q: {enqueue: ["*"], work: ["*"], read: ["*"], audit: ["*"]}}
services: {s: {call: ["*"], serve: ["*"]}}
direct: [{from: ["*"], to: ["*"]}]
revoked: [gone]
`)
	checkPermissions(t, p, "planner")
	perms := p.Permissions("planner")
	for _, s := range []string{
		"$JS.API.INFO", "$JS.API.STREAM.CREATE.X", "$JS.API.STREAM.DELETE.KV_SB_KEYS", "$JS.API.STREAM.INFO.KV_SB_KEYS", "$JS.API.STREAM.NAMES",
		"$JS.API.STREAM.PURGE.KV_SB_POLICY", "$JS.API.STREAM.MSG.GET.KV_SB_KEYS", "$JS.API.CONSUMER.CREATE.KV_SB_KEYS.x.$KV.SB_KEYS.>",
		"$JS.API.CONSUMER.DURABLE.CREATE.SB_TOPIC_t.x", "$JS.API.CONSUMER.MSG.NEXT.SB_TOPIC_t.x", "$JS.API.DIRECT.GET.SB_TOPIC_t.sb.topic.t", "$JS.API.DIRECT.GET.SB_TOPIC_other",
		"$JS.API.DIRECT.GET.KV_SB_CARDS", "$JS.FC.KV_SB_KEYS.x", "$JS.ACK.SB_TOPIC_t.x.1", "$KV.SB_POLICY.current", "$KV.SB_POLICY.other",
		"$KV.SB_CARDS.bob.01JD3K5Z7QXN9V8M6T4R2P0WBC", "$KV.SB_CARDS.planner", "$KV.SB_KEYS.topic.t.j.bob.x", "$KV.SB_KEYS.topic.t",
		"$KV.SB_KEYS.pair.a.b.k.planner.x", "$KV.SB_KEYS.topic.other.k.planner.x", "sb.store.policy.current", "sb.topic.other",
		"sb.queue.q.bob.info", "sb.queue.q.bob.purge", "sb.queue.q.planner", "sb.queue.q.planner.x", "sb.queue.q.planner.info.x", "sb.queue.other.planner.info",
		"sb.unique.q", "sb.unique.q.x", "sb.unique.q.x.4", "sb.unique.q.x.0.x", "sb.unique.other.x.0", "$JS.API.DIRECT.GET.SB_TASK_q.sb.unique.q", "$JS.API.DIRECT.GET.SB_TASK_q.sb.unique.q.x",
		"$JS.API.DIRECT.GET.SB_TASK_q.sb.unique.q.x.0.x", "$JS.API.DIRECT.GET.SB_TASK_q.sb.unique.other.x.0", "$JS.API.DIRECT.GET.SB_TASK_q.sb.due.q.0", "$JS.API.DIRECT.GET.SB_TASK_other.sb.unique.other.x.0",
		"sb.task.q", "sb.task.q.4", "sb.spread.other.0", "sb.task.q.0.x", "sb.task.other.0", "sb.delay.q.bob.x", "sb.delay.q.planner", "sb.delay.q.planner.x.y", "sb.recur.q.bob.x", "sb.recur.q.bob", "sb.recur.q", "sb.recur.q.planner.x.y", "sb.held.q._recur.x", "sb.held.q.planner.x", "sb.due.q.0",
		"sb.result.other.x", "sb.result.q", "sb.result.q.x.y", "sb.control.q.bob.pause", "sb.control.q.planner", "sb.control.other.planner.pause", "sb.slot.other.0", "sb.slot.q", "sb.slot.q.0.x",
		"$JS.API.STREAM.MSG.GET.SB_TASK_q", "$JS.API.DIRECT.GET.SB_TASK_q.sb.task.q.0", "$JS.API.DIRECT.GET.SB_DELAY_q", "$JS.API.STREAM.PURGE.SB_TASK_q",
		"$JS.API.CONSUMER.MSG.NEXT.SB_TASK_q.p4", "$JS.API.CONSUMER.MSG.NEXT.SB_TASK_other.p0", "$JS.API.CONSUMER.INFO.SB_TASK_q.p0", "$JS.API.CONSUMER.CREATE.SB_TASK_q.p0",
		"$JS.API.CONSUMER.RESET.SB_TASK_q.p0", "$JS.API.CONSUMER.PAUSE.SB_TASK_q.p0", "$JS.API.CONSUMER.DELETE.SB_TASK_q.p0",
		"$JS.API.STREAM.INFO.SB_TOPIC_other", "$JS.API.STREAM.INFO.SB_CONTROL_q", "$JS.API.STREAM.INFO.SB_DELAY_q", "$JS.API.STREAM.INFO.SB_AUDIT", "$JS.API.STREAM.INFO.KV_SB_POLICY",
		"$JS.API.STREAM.UPDATE.SB_TOPIC_t", "$JS.API.STREAM.PURGE.SB_TOPIC_t", "$JS.API.STREAM.DELETE.SB_AUDIT", "$JS.API.STREAM.MSG.DELETE.SB_TOPIC_t", "$JS.API.STREAM.SNAPSHOT.SB_TOPIC_t", "$JS.API.STREAM.RESTORE.SB_TOPIC_t",
		"$JS.API.CONSUMER.CREATE.SB_AUDIT.c", "$JS.API.DIRECT.GET.SB_TASK_other", "$JS.API.DIRECT.GET.SB_TOPIC_other", "$JS.API.DIRECT.GET.SB_AUDIT.sb.audit.SB_TOPIC_other.a.x",
		"sb.audit.SB_TOPIC_t.bob." + card, "sb.audit.SB_TOPIC_other.planner." + card, "sb.audit.SB_AUDIT.planner." + card, "sb.audit.SB_TOPIC_t.planner", "sb.audit.SB_TOPIC_t.planner." + card + ".x",
		"sb.session.other", "sb.session", "sb.session.q.x",
		"$JS.ACK.SB_TASK_other.p0.1.1.1.1.1", "$JS.ACK.SB_TASK_other.p0.SB_TASK_q.1.1.1.1", "$JS.ACK._.x.SB_TASK_other.p0.1.1.1.1.1", "$JS.ACK.SB_TASK_q.p0.1.1.1.1.1.1.1.1",
	} {
		if slices.ContainsFunc(perms.Publish, func(allowed string) bool { return overlap(allowed, s) }) {
			t.Errorf("the agent may publish to %s", s)
		}
	}
}

func TestNoPermissions(t *testing.T) {
	p := mustParse(t, full)
	everything := mustParse(t, head+"topics: {t: {publish: [\"*\"], subscribe: [\"*\"]}}\ndirect: [{from: [\"*\"], to: [\"*\"]}]\nrevoked: [gone]\n")
	for _, agent := range []string{"exec-3", "gone", "operator", "broker", "", "*", "Planner", "plan.ner", ">", "a.>", long + "n"} {
		for _, p := range []*policy.Policy{p, everything} {
			if agent == "exec-3" && p == everything {
				continue
			}
			if perms := p.Permissions(agent); !perms.Empty() || perms.Publish != nil || perms.Subscribe != nil {
				t.Errorf("%q: %+v", agent, perms)
			}
		}
	}
	if perms := mustParse(t, head+"topics: {t: {publish: [a], subscribe: [b]}}\n").Permissions("c"); !perms.Empty() {
		t.Errorf("an agent that the policy does not know: %+v", perms)
	}
}

// What the agents accept from each other must be let through, and what is let through by name must be accepted.
func TestPermissionsAgreeWithMembership(t *testing.T) {
	p := mustParse(t, full)
	names := []string{"planner", "feed-1", "exec-1", "exec-3", "writer-1", "index-1", "pricer", "store", "auditor", "bob", "clerk", "witness", "aud-1", "gone", "operator"}
	allows := func(list []string, subject string) bool {
		return slices.ContainsFunc(list, func(pattern string) bool { return overlap(pattern, subject) })
	}
	for _, agent := range names {
		perms := p.Permissions(agent)
		for _, topic := range p.Topics() {
			ch := policy.MustParseChannel("topic/" + topic)
			if got, want := allows(perms.Publish, policy.TopicSubject(topic+".eu.de")), p.CanWrite(ch, agent); got != want {
				t.Errorf("%s publishes to %s: %v, want %v", agent, topic, got, want)
			}
			if got, want := allows(perms.Subscribe, policy.TopicSubject(topic)), p.CanRead(ch, agent); got != want {
				t.Errorf("%s subscribes to %s: %v, want %v", agent, topic, got, want)
			}
			settings, _ := p.Settings(ch)
			reads, audits := p.CanRead(ch, agent) && settings.Retain > 0, p.CanAudit(ch, agent)
			for subject, want := range map[string]bool{
				policy.StreamGet(policy.TopicStream(topic), ""):                          reads || audits,
				policy.StreamInfo(policy.TopicStream(topic)):                             audits,
				policy.AuditSubject(policy.TopicStream(topic), agent, card):              audits,
				policy.AuditSubject(policy.TopicStream(topic), "another", card):          false,
				policy.StreamGet(policy.TopicStream(topic), "sb.topic."+topic):           false,
				policy.BucketSubject(policy.BucketKeys, policy.JoinKey(ch, agent, card)): p.CanRead(ch, agent) || p.CanWrite(ch, agent),
			} {
				if got := allows(perms.Publish, subject); got != want {
					t.Errorf("%s publishes to %s: %v, want %v", agent, subject, got, want)
				}
			}
		}
		for _, service := range p.Services() {
			ch := policy.MustParseChannel("service/" + service)
			if got, want := allows(perms.Publish, policy.ServiceSubject(service)), p.CanWrite(ch, agent); got != want {
				t.Errorf("%s calls %s: %v, want %v", agent, service, got, want)
			}
			if got, want := allows(perms.Subscribe, policy.ServiceSubject(service)), p.CanRead(ch, agent); got != want {
				t.Errorf("%s serves %s: %v, want %v", agent, service, got, want)
			}
		}
		for _, queue := range p.Queues() {
			ch := policy.MustParseChannel("queue/" + queue)
			writes, works, audits := p.CanWrite(ch, agent), p.MayWork(queue, agent), p.CanAudit(ch, agent)
			reads := p.CanRead(ch, agent) && !works || audits
			for subject, want := range map[string]bool{
				policy.TaskSubject(queue, 3):        writes,
				policy.UniqueSubject(queue, "x", 3): writes,
				policy.StreamGet(policy.TaskStream(queue), policy.UniqueSubject(queue, "x", 3)): writes,
				policy.DelaySubject(queue, agent, "x"):                                          writes,
				policy.AskSubject(queue, agent, policy.AskPurge):                                writes,
				policy.AskSubject(queue, agent, policy.AskInfo):                                 writes || works,
				policy.RecurSubject(queue, agent, "x"):                                          writes,
				policy.RecurSubject(queue, agent, ""):                                           writes || works,
				policy.TaskPull(queue, 3):                                                       works,
				"$JS.ACK.SB_TASK_" + queue + ".p3.1.2.3.4.5":                                    works,
				policy.ResultSubject(queue, card):                                               works,
				policy.DeadSubject(queue, card):                                                 works,
				policy.ProgressSubject(queue, card):                                             works,
				policy.ControlSubject(queue, agent, "x.y"):                                      writes || works,
				policy.StreamGet(policy.ResultStream(queue), ""):                                writes || works || reads,
				policy.StreamGet(policy.ControlStream(queue), ""):                               writes || works || reads,
				policy.StreamGet(policy.DeadStream(queue), ""):                                  writes || reads,
				policy.StreamGet(policy.TaskStream(queue), ""):                                  reads,
				policy.StreamGet(policy.DelayStream(queue), ""):                                 false,
				policy.SessionSubject(queue):                                                    writes,
				policy.StreamInfo(policy.TaskStream(queue)):                                     audits,
				policy.StreamInfo(policy.ControlStream(queue)):                                  false,
				policy.AuditSubject(policy.DeadStream(queue), agent, card):                      audits,
			} {
				if got := allows(perms.Publish, subject); got != want {
					t.Errorf("%s publishes to %s: %v, want %v", agent, subject, got, want)
				}
			}
			for subject, want := range map[string]bool{
				policy.ResultSubject(queue, card):            writes,
				policy.DeadSubject(queue, card):              writes,
				policy.ProgressSubject(queue, card):          writes,
				policy.ControlSubject(queue, "other", "x.y"): writes || works,
			} {
				if got := allows(perms.Subscribe, subject); got != want {
					t.Errorf("%s hears %s: %v, want %v", agent, subject, got, want)
				}
			}
		}
		for _, peer := range names {
			if p.MayRequest(agent, peer) && !allows(perms.Publish, policy.AgentSubject(peer)) {
				t.Errorf("%s may not ask %s", agent, peer)
			}
			if p.MayReply(agent, peer) && !allows(perms.Publish, policy.InboxPrefix(peer)+".x") {
				t.Errorf("%s may not answer %s", agent, peer)
			}
			if !p.PairAllowed(agent, peer) {
				continue
			}
			ch, err := policy.Pair(agent, peer)
			if err != nil {
				t.Fatal(err)
			}
			key := policy.BucketSubject(policy.BucketKeys, policy.JoinKey(ch, agent, card))
			if !allows(perms.Publish, key) || !allows(perms.Subscribe, policy.FeedKeys(ch)) {
				t.Errorf("%s cannot share keys with %s", agent, peer)
			}
		}
	}
}
