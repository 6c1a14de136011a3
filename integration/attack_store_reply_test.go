package integration_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// TestReplyIntoStream: the broker checks where an agent publishes to, and not where it asks the answer to be
// sent. Everything that answers mallory is asked to answer into a stream.
func TestReplyIntoStream(t *testing.T) {
	t.Parallel()
	w := newStoreWorld(t)
	alice := victimOf(w.o, "alice")
	before := w.others()
	if len(before) < 12 {
		t.Fatalf("the store holds %q", before)
	}
	targets := []string{
		"$KV.SB_POLICY.current",
		"$KV.SB_CARDS.alice." + alice.Card,
		"$KV.SB_CARDS.alice." + ulid.Make().String(),
		"$KV.SB_KEYS." + policy.JoinKey(trustChat, "alice", alice.Card),
		"$KV.SB_KEYS." + policy.KeyStatementKey(trustChat, "alice", 7, [32]byte{}),
		"sb.topic.secret",
		"sb.topic.secret.x",
		"sb.topic.quiet.x",
		"sb.store.policy.current",
		"sb.store.keys.topic.chat.j.bob." + alice.Card,
		"$JS.API.STREAM.DELETE.SB_TOPIC_secret",
		"$JS.API.STREAM.PURGE.KV_SB_CARDS",
		"$JS.API.CONSUMER.CREATE.KV_SB_KEYS",
		"$JS.API.DIRECT.GET.KV_SB_KEYS",
		"$JS.API.INFO",
		"$JS.ACK.SB_TOPIC_secret.c.1.1.1.1.1",
		"$JS.FC.KV_SB_KEYS.x.y",
		"$SYS.REQ.SERVER.PING",
		"_R_.x.y",
		"sb.inbox.alice.x",
	}
	targets = append(targets, queueTargets...)
	for _, way := range append([]storeWay{
		{"a publish of a card", "$KV.SB_CARDS.mallory.M2", "evil", "KV_SB_CARDS"},
		{"a publish of a join", "$KV.SB_KEYS.topic.chat.j.mallory.M2", "evil", "KV_SB_KEYS"},
		{"a publish to a retained topic", "sb.topic.board.mallory", "evil", "SB_TOPIC_board"},
		{"a direct get by subject", "$JS.API.DIRECT.GET.KV_SB_CARDS.$KV.SB_CARDS.mallory.M1", "", "evil"},
		{"a direct get by body", "$JS.API.DIRECT.GET.KV_SB_KEYS", `{"last_by_subj":"$KV.SB_KEYS.topic.chat.j.mallory.M2"}`, "evil"},
		{"a batch read", "$JS.API.DIRECT.GET.KV_SB_KEYS", `{"next_by_subj":"$KV.SB_KEYS.topic.chat.j.mallory.M2","batch":2}`, "evil"},
		{"a read of the policy", "$JS.API.DIRECT.GET.KV_SB_POLICY.$KV.SB_POLICY.current", "", "."},
	}, w.queueWays()...) {
		for _, target := range targets {
			bustest.Check(t, w.nc.PublishRequest(way.subject, target, []byte(way.body)))
		}
		// Once more as it should be: it answers in order, so all that came before has been answered.
		m, err := w.nc.RequestWithContext(w.Ctx(), way.subject, []byte(way.body))
		if err != nil || !strings.Contains(string(m.Data), way.expect) && m.Header.Get("Status") != way.expect {
			t.Fatalf("%s does not work as a request either: %v %v", way.name, m, err)
		}
		w.same(before, way.name)
	}
	// Another agent, asked in earnest, refuses to answer to what is not the asker's inbox.
	wire := w.o.tap("sb.topic.secret.>")
	inbox := w.o.tap("sb.inbox.alice.>")
	targets = append(targets, "", "sb.inbox.mallory")
	for _, target := range targets {
		bustest.Check(t, w.nc.PublishMsg(&nats.Msg{Subject: "sb.agent.bob", Reply: target, Data: w.question()}))
	}
	// Some the server refuses by itself: replies that begin with "_R_." and "$JS.ACK.".
	want := len(targets)
	for _, target := range targets {
		if strings.HasPrefix(target, "_R_.") || strings.HasPrefix(target, "$JS.ACK.") {
			want--
		}
	}
	// Bob has also refused what the store answered to where he listens; that came before, and is not counted.
	var refused []agentbus.Rejection
	for n := want; len(refused) < want; n++ {
		refused = slices.DeleteFunc(w.AwaitRejections(n, keyring.Misdirected), func(r agentbus.Rejection) bool { return r.Subject != "sb.agent.bob" })
	}
	if slices.ContainsFunc(refused, func(r agentbus.Rejection) bool { return !strings.Contains(r.Err.Error(), "not the sender's own inbox") }) {
		t.Errorf("refused for another reason: %v", refused)
	}
	if _, err := w.nc.RequestWithContext(w.Ctx(), "sb.agent.bob", w.question()); err != nil {
		t.Errorf("a proper request: %v", err)
	}
	bustest.Empty(t, wire)
	bustest.Empty(t, inbox)
	w.same(before, "bob's answer")
	w.talk("after")
}

// TestHeadersOfStreams: everything in a message's headers by which JetStream does more than to store it.
func TestHeadersOfStreams(t *testing.T) {
	t.Parallel()
	w := newStoreWorld(t)
	alice := victimOf(w.o, "alice")
	before := w.others()
	card, policyKey := "$KV.SB_CARDS.alice."+alice.Card, "$KV.SB_POLICY.current"
	headers := []nats.Header{
		{"Nats-Rollup": {"all"}},
		{"Nats-Rollup": {"sub"}},
		{"Nats-TTL": {"1s"}},
		{"Nats-TTL": {"never"}},
		{"Nats-Marker-Reason": {"MaxAge"}},
		{"Nats-Schedule": {"@at 2020-01-01T00:00:00Z"}, "Nats-Schedule-Target": {card}},
		{"Nats-Schedule": {"@every 1s"}, "Nats-Schedule-Target": {policyKey}, "Nats-Schedule-TTL": {"1s"}},
		{"Nats-Schedule": {"@every 1s"}, "Nats-Schedule-Target": {card}, "Nats-Schedule-Source": {policyKey}},
		{"Nats-Scheduler": {card}, "Nats-Schedule-Next": {"purge"}},
		{"Nats-Schedule": {"@at 2020-01-01T00:00:00Z"}, "Nats-Schedule-Target": {"sb.held.jobs.alice.one"}, "Nats-Schedule-Rollup": {"sub"}},
		{"Nats-Schedule": {"@at 2020-01-01T00:00:00Z"}, "Nats-Schedule-Target": {"sb.due.jobs.1"}, "Nats-Schedule-Source": {"sb.held.jobs.alice.one"}, "Nats-Rollup": {"all"}},
		{"Nats-Scheduler": {"sb.held.jobs.alice.one"}, "Nats-Schedule-Next": {"purge"}},
		{"Nats-Incr": {"1"}},
		{"Nats-Msg-Id": {"x"}},
		{"Nats-Expected-Stream": {"KV_SB_POLICY"}},
		{"Nats-Expected-Last-Msg-Id": {"x"}},
		{"Nats-Expected-Last-Sequence": {"1"}},
		{"Nats-Expected-Last-Subject-Sequence": {"1"}},
		{"Nats-Expected-Last-Subject-Sequence": {"0"}, "Nats-Expected-Last-Subject-Sequence-Subject": {card}},
		{"Nats-Batch-Id": {"b"}, "Nats-Batch-Sequence": {"1"}},
		{"Nats-Batch-Id": {"b"}, "Nats-Batch-Sequence": {"2"}, "Nats-Batch-Commit": {"1"}, "Nats-Rollup": {"all"}},
		{"Nats-Fast-Batch-Id": {"f"}, "Nats-Batch-Sequence": {"1"}},
		{"Nats-Stream-Source": {"KV_SB_POLICY 1"}},
		{"Nats-Subject": {policyKey}, "Nats-Stream": {"KV_SB_POLICY"}, "Nats-Sequence": {"1"}},
		{"Nats-Request-Info": {`{"acc":"STORE","svc":"STORE"}`}},
		{"KV-Operation": {"PURGE"}},
		{"KV-Operation": {"DEL"}},
		{"Status": {"404"}},
	}
	for i, h := range headers {
		for _, subject := range []string{fmt.Sprintf("$KV.SB_CARDS.mallory.H%d", i), fmt.Sprintf("$KV.SB_KEYS.topic.chat.j.mallory.H%d", i), "sb.topic.board.mallory",
			"sb.task.jobs.0", fmt.Sprintf("sb.result.jobs.H%d", i), fmt.Sprintf("sb.dead.jobs.H%d", i), "sb.control.jobs.mallory.H", "sb.delay.jobs.mallory.H"} {
			// Refused or stored, with no effect on anything else.
			if _, err := w.nc.RequestMsgWithContext(w.Ctx(), &nats.Msg{Subject: subject, Header: h, Data: []byte("evil")}); err != nil {
				t.Fatalf("%v to %s: %v", h, subject, err)
			}
		}
		w.same(before, fmt.Sprint(h))
		// Others' entries are out of reach, whatever the header.
		for _, subject := range []string{card, policyKey, "sb.topic.secret.x", "sb.task.hidden.0", "sb.control.jobs.alice.pause", "sb.delay.jobs.alice.one", "sb.held.jobs.mallory.H", "sb.due.jobs.0"} {
			bustest.Check(t, w.nc.PublishMsg(&nats.Msg{Subject: subject, Header: h}))
			w.refuses(fmt.Sprint(h, " to ", subject))
		}
	}
	for _, dest := range []string{"sb.task.hidden.0", "sb.held.jobs.alice.one", card, policyKey, "sb.topic.secret", "sb.topic.quiet.x", "sb.store.policy.current"} {
		bustest.Check(t, w.nc.PublishMsg(&nats.Msg{Subject: "sb.topic.chat", Header: nats.Header{"Nats-Trace-Dest": {dest}}}))
		w.refuses("a trace to " + dest)
	}
	w.same(before, "headers")
	w.talk("after")
}

// TestDeduplicationOfOthers: a message id that another will use, used first, hides nothing of the other's: no
// id can be known before its message has been stored.
func TestDeduplicationOfOthers(t *testing.T) {
	t.Parallel()
	w := newStoreWorld(t)
	wire := w.o.tap("sb.topic.board.>")
	say(w.World, w.alice, "board.x", "one", w.heard["board"])
	m := bustest.Receive(t, wire)
	id := m.Header.Get("Nats-Msg-Id")
	if id == "" {
		t.Fatal("a retained frame without a message id")
	}
	before := w.others()
	for _, guess := range []string{id, ulid.Make().String()} {
		_, err := w.nc.RequestMsgWithContext(w.Ctx(), &nats.Msg{Subject: "sb.topic.board.mallory", Header: nats.Header{"Nats-Msg-Id": {guess}}, Data: []byte("evil")})
		bustest.Check(t, err)
	}
	w.same(before, "a message id")
	say(w.World, w.alice, "board.x", "two", w.heard["board"])
}

var trustChat = policy.MustParseChannel("topic/chat")
