package broker_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/broker"
	"github.com/sealbus/sealbus/policy"
)

// attack is an agent with only its own permissions, against everybody else's
// entries.
type attack struct {
	t            *testing.T
	n            *broker.Node
	js           jetstream.JetStream
	mallory, bob *client
	settled      *nats.Msg // a task that mallory has taken and acknowledged
	fences       int
}

func newAttack(t *testing.T) *attack {
	t.Helper()
	b := newBus(t)
	n := b.start(b.config(strings.Replace(rulesText(1), "prices: {", "prices: {audit: [audrey, mallory], ", 1) + attackQueues))
	a := &attack{t: t, n: n, js: store(t, n), mallory: b.agent(n, "mallory"), bob: b.agent(n, "bob")}
	alice := b.agent(n, "alice")
	alice.put("$KV.SB_CARDS.alice.A1", "alice's card")
	alice.put("$KV.SB_KEYS."+joins+"alice.A1", "alice's join")
	b.agent(n, "feed").put("sb.topic.secret", "the feed's")
	a.mallory.put("$KV.SB_CARDS.mallory.M1", "evil")
	a.mallory.put("$KV.SB_KEYS."+joins+"mallory.M1", "evil")
	a.queues(alice, b.agent(n, "dave"))
	a.audits(b.agent(n, "audrey"))
	// A responder that looks at nothing. Those of agentbus do better.
	if _, err := a.bob.Subscribe(policy.AgentSubject("bob"), func(m *nats.Msg) { _ = m.Respond([]byte("evil")) }); err != nil {
		t.Fatal(err)
	}
	ok(t, a.bob.FlushWithContext(timeout(t)))
	return a
}

// others returns all that streams hold but for what mallory may write, once all
// that was under way has come to rest.
func (a *attack) others() map[string][]string {
	a.t.Helper()
	all := make(map[string][]string)
	names := a.js.StreamNames(timeout(a.t))
	for stream := range names.Name() {
		a.fence(stream)
		for _, m := range contents(a.t, a.js, stream) {
			own := strings.HasPrefix(m, "$KV.SB_CARDS.mallory.") || strings.Contains(m, ".j.mallory.") ||
				strings.HasPrefix(m, "sb.topic.prices=") || ownInQueue(m) || ownInAudit(m)
			if !own && !strings.HasSuffix(m, "=marker") {
				all[stream] = append(all[stream], m)
			}
		}
	}
	ok(a.t, names.Err())
	a.consumers(all)
	return all
}

// fence writes to a stream. It takes messages in their order: what was on its way
// is there when this is acknowledged.
func (a *attack) fence(stream string) {
	a.t.Helper()
	s, err := a.js.Stream(timeout(a.t), stream)
	ok(a.t, err)
	subjects := s.CachedInfo().Config.Subjects
	marker := subjects[len(subjects)-1]
	for _, subject := range subjects {
		if strings.ContainsAny(subject, "*>") {
			marker = subject
		}
	}
	a.fences++
	marker = strings.NewReplacer("*", "marker", ">", fmt.Sprint("marker", a.fences)).Replace(marker)
	marker = strings.Replace(marker, "marker", fmt.Sprint("marker", a.fences), 1)
	_, err = a.js.Publish(timeout(a.t), marker, []byte("marker"))
	ok(a.t, err)
}

// ways are the ways to make somebody else publish on a subject of mallory's
// choice. Each is a request to something that answers.
var ways = []way{
	{name: "ack of a card", subject: "$KV.SB_CARDS.mallory.M2", body: "evil", expect: "KV_SB_CARDS"},
	{name: "ack of a join", subject: "$KV.SB_KEYS." + joins + "mallory.M2", body: "evil", expect: "KV_SB_KEYS"},
	{name: "ack of a topic", subject: "sb.topic.prices", body: "evil", expect: "SB_TOPIC_prices"},
	{name: "read of a card", subject: "$JS.API.DIRECT.GET.KV_SB_CARDS.$KV.SB_CARDS.mallory.M1", expect: "evil"},
	{name: "read of a key by body", subject: "$JS.API.DIRECT.GET.KV_SB_KEYS", body: `{"last_by_subj":"$KV.SB_KEYS.` + joins + `mallory.M1"}`, expect: "evil"},
	{name: "batch read", subject: "$JS.API.DIRECT.GET.KV_SB_KEYS", body: `{"next_by_subj":"$KV.SB_KEYS.` + joins + `mallory.>","batch":1}`, expect: "evil"},
	{name: "an agent's answer", subject: "sb.agent.bob", body: "question", expect: "evil"},
}

type way struct {
	name, subject, body string
	header              nats.Header
	expect              string // in the answer, or its status
}

func (w way) message(reply string) *nats.Msg {
	return &nats.Msg{Subject: w.subject, Reply: reply, Header: w.header, Data: []byte(w.body)}
}

func TestReplySubjects(t *testing.T) {
	t.Parallel()
	a := newAttack(t)
	before := a.others()
	if len(before) != 4+9+1 {
		t.Fatalf("at the start the streams hold %q", before)
	}
	targets := []string{
		"$KV.SB_POLICY.current",
		"$KV.SB_CARDS.alice.A1",
		"$KV.SB_CARDS.alice.A2",
		"$KV.SB_KEYS." + joins + "alice.A1",
		"sb.topic.secret",
		"sb.topic.secret.x",
		"$JS.API.STREAM.DELETE.SB_TOPIC_secret",
		"$JS.API.STREAM.PURGE.KV_SB_CARDS",
		"$JS.API.DIRECT.GET.KV_SB_KEYS",
		"$JS.API.INFO",
		"$SYS.REQ.ACCOUNT.PING.CONNZ",
		"$JS.ACK.SB_TOPIC_secret.c.1.1.1.1.1",
		"_R_.x",
	}
	targets = slices.Concat(targets, queueTargets, auditTargets)
	for _, way := range slices.Concat(ways, a.queueWays(), auditWays) {
		for _, target := range targets {
			ok(t, a.mallory.PublishMsg(way.message(target)))
		}
		// The same once more, properly. What it asks answers in order, so
		// all answers before have gone where they could.
		m, err := a.mallory.RequestMsgWithContext(timeout(t), way.message(""))
		if err != nil || !strings.Contains(string(m.Data), way.expect) && m.Header.Get("Status") != way.expect {
			t.Fatalf("%s does not work as a request either: %v %v", way.name, m, err)
		}
		ok(t, a.bob.FlushWithContext(timeout(t)))
		if after := a.others(); !maps.EqualFunc(before, after, slices.Equal) {
			t.Fatalf("%s: the streams now hold\n%q\nbefore\n%q", way.name, after, before)
		}
	}
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	a := newAttack(t)
	before := a.others()
	for _, headers := range []nats.Header{
		{"Nats-Rollup": {"all"}},
		{"Nats-Rollup": {"sub"}},
		{"Nats-TTL": {"1s"}},
		{"Nats-Schedule": {"@at 2020-01-01T00:00:00Z"}, "Nats-Schedule-Target": {"$KV.SB_CARDS.alice.A1"}},
		{"Nats-Schedule": {"@every 1s"}, "Nats-Schedule-Target": {"$KV.SB_POLICY.current"}},
		{"Nats-Incr": {"1"}},
		{"Nats-Batch-Id": {"x"}, "Nats-Batch-Sequence": {"1"}, "Nats-Batch-Commit": {"1"}},
		{"Nats-Expected-Stream": {"KV_SB_POLICY"}},
		{"Nats-Expected-Last-Sequence": {"0"}},
		{"Nats-Expected-Last-Subject-Sequence": {"99"}},
		{"Nats-Stream-Source": {"KV_SB_POLICY 1"}},
	} {
		m := &nats.Msg{Subject: "$KV.SB_CARDS.mallory.M2", Header: headers, Data: []byte("evil")}
		_, err := a.mallory.js().PublishMsg(timeout(t), m)
		var refused *jetstream.APIError
		if !errors.As(err, &refused) {
			t.Errorf("%v: %v, want it refused", headers, err)
		}
	}
	// These are stored and mean nothing.
	for i, headers := range []nats.Header{
		{"KV-Operation": {"PURGE"}},
		{"Nats-Msg-Id": {"x"}},
		{"Nats-Request-Info": {`{"acc":"STORE","svc":"STORE"}`}},
		{"Nats-Trace-Dest": {"sb.inbox.mallory.trace"}},
	} {
		m := &nats.Msg{Subject: fmt.Sprintf("$KV.SB_CARDS.mallory.H%d", i), Header: headers}
		if _, err := a.mallory.js().PublishMsg(timeout(t), m); err != nil {
			t.Errorf("%v: %v", headers, err)
		}
	}
	// A trace goes only where the agent may publish.
	ok(t, a.mallory.PublishMsg(&nats.Msg{Subject: "sb.topic.live", Header: nats.Header{"Nats-Trace-Dest": {"$KV.SB_CARDS.alice.A1"}}}))
	ok(t, a.mallory.FlushWithContext(timeout(t)))
	a.violation("trace into another's card")
	if after := a.others(); !maps.EqualFunc(before, after, slices.Equal) {
		t.Errorf("the streams now hold\n%q\nbefore\n%q", after, before)
	}
}

// TestForbidden tries what permissions forbid.
func TestForbidden(t *testing.T) {
	t.Parallel()
	a := newAttack(t)
	before := a.others()
	for _, subject := range slices.Concat([]string{
		"$KV.SB_POLICY.current",
		"$KV.SB_CARDS.alice.A1",
		"$KV.SB_KEYS." + joins + "alice.A1",
		"$KV.SB_KEYS.topic.secret.j.mallory.M1",
		"sb.topic.secret",
		"sb.topic.secret.x",
		"x.topic.secret",
		"x.topic.prices",
		"sb.store.policy.current",
		"sb.store.keys." + joins + "alice.A1",
		"sb.nowhere",
		"$JS.API.INFO",
		"$JS.API.STREAM.INFO.KV_SB_KEYS",
		"$JS.API.STREAM.CREATE.MINE",
		"$JS.API.STREAM.DELETE.SB_TOPIC_secret",
		"$JS.API.STREAM.PURGE.SB_TOPIC_secret",
		"$JS.API.STREAM.MSG.GET.SB_TOPIC_secret",
		"$JS.API.STREAM.MSG.DELETE.SB_TOPIC_secret",
		"$JS.API.CONSUMER.CREATE.KV_SB_KEYS.c",
		"$JS.API.CONSUMER.CREATE.SB_TOPIC_secret.c",
		"$JS.API.CONSUMER.DURABLE.CREATE.SB_TOPIC_secret.c",
		"$JS.API.DIRECT.GET.SB_TOPIC_secret",
		"$JS.API.DIRECT.GET.KV_SB_CARDS",
		"$JS.ACK.SB_TOPIC_secret.c.1.1.1.1.1",
		"$SYS.REQ.SERVER.PING",
		"$SYS.REQ.ACCOUNT.PING.CONNZ",
		"$SYS.REQ.USER.INFO",
	}, queueForbidden, auditForbidden) {
		ok(t, a.mallory.PublishRequest(subject, "sb.inbox.mallory.x", []byte("evil")))
		a.violation("publish to " + subject)
	}
	for _, subject := range slices.Concat([]string{
		">", "*", "sb.>", "sb.*.*", "sb.topic.>", "sb.topic.secret", "sb.agent.bob", "sb.agent.*", "sb.service.lookup",
		"sb.inbox.bob.>", "sb.inbox.>", "sb.store.>", "sb.store.keys.>", "sb.store.keys.topic.secret.>",
		"$KV.>", "$KV.SB_CARDS.>", "$JS.>", "$SYS.>", "_INBOX.>", "_R_.>",
	}, queueUnheard, auditUnheard) {
		sub, err := a.mallory.SubscribeSync(subject)
		ok(t, err)
		a.violation("subscribe to " + subject)
		_ = sub.Unsubscribe()
	}
	if after := a.others(); !maps.EqualFunc(before, after, slices.Equal) {
		t.Errorf("the streams now hold\n%q\nbefore\n%q", after, before)
	}
}

func (a *attack) violation(what string) {
	a.t.Helper()
	a.mallory.refused(what)
}

// refused waits for the server to say that what the client did last is not
// permitted.
func (c *client) refused(what string) {
	c.t.Helper()
	ok(c.t, c.FlushWithContext(timeout(c.t)))
	select {
	case err := <-c.errs:
		if !errors.Is(err, nats.ErrPermissionViolation) {
			c.t.Errorf("%s: %s: %v", c.name, what, err)
		}
	case <-time.After(wait):
		c.t.Fatalf("%s: %s: allowed", c.name, what)
	}
}
