package integration_test

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/policy"
)

// TestForbiddenSubjects: what an agent has no part in, it can neither publish nor subscribe to.
func TestForbiddenSubjects(t *testing.T) {
	t.Parallel()
	w := newStoreWorld(t)
	alice := victimOf(w.o, "alice")
	secret := policy.MustParseChannel("topic/secret")
	pair := policy.MustParseChannel("pair/alice~bob")
	before := w.others()
	publish := []string{
		"$KV.SB_POLICY.current", "$KV.SB_POLICY.x",
		"$KV.SB_CARDS.alice." + alice.Card, "$KV.SB_CARDS.alice.x", "$KV.SB_CARDS.mallory", "$KV.SB_CARDS.mallory.x.y", "$KV.SB_CARDS.*.x", "$KV.SB_CARDS.>",
		"sb.topic.secret", "sb.topic.secret.x", "sb.topic.quiet", "sb.topic.quiet.x", "x.topic.secret", "x.topic.board", "sb.topic.*", "sb.topic.>",
		"sb.service.lookup", "sb.agent.alice", "sb.agent.mallory", "sb.agent.*", "sb.inbox.bob.x.y.z.1", "sb.inbox.carol.x",
		"sb.store.policy.current", "sb.store.keys.topic.chat.j.bob.x", "sb.nowhere", "_R_.x.y", "_INBOX.x", "x",
		"$SYS.REQ.SERVER.PING", "$SYS.REQ.ACCOUNT.PING.CONNZ", "$SYS.REQ.USER.INFO", "$SYS.REQ.SERVER.RELOAD", "$SYS.ACCOUNT.STORE.CLAIMS.UPDATE",
		"$JS.ACK.SB_TOPIC_secret.c.1.1.1.1.1", "$JS.ACK._.x.SB_TOPIC_secret.c.1.1.1.1.1", "$JS.FC.KV_SB_KEYS.c.x", "$JS.SNAPSHOT.ACK.x.y",
	}
	for _, ch := range []policy.Channel{secret, pair} {
		publish = append(publish,
			"$KV.SB_KEYS."+policy.JoinKey(ch, "mallory", alice.Card),
			"$KV.SB_KEYS."+policy.KeyStatementKey(ch, "mallory", 7, [32]byte{}),
			"$KV.SB_KEYS."+policy.WrapKey(ch, "mallory", alice.Card, 7, [32]byte{}))
	}
	publish = append(publish,
		"$KV.SB_KEYS."+policy.JoinKey(trustChat, "alice", alice.Card),
		"$KV.SB_KEYS."+policy.KeyStatementKey(trustChat, "bob", 7, [32]byte{}),
		"$KV.SB_KEYS."+policy.WrapKey(trustChat, "bob", alice.Card, 7, [32]byte{}),
		"$KV.SB_KEYS.topic.chat.x.mallory.y", "$KV.SB_KEYS.topic.chat.>", "$KV.SB_KEYS.>")
	publish = append(publish, queueForbidden...)
	for _, subject := range publish {
		for _, reply := range []string{"", "sb.inbox.mallory.x"} {
			bustest.Check(t, w.nc.PublishMsg(&nats.Msg{Subject: subject, Reply: reply, Data: []byte("evil")}))
			w.refuses("publish to " + subject)
		}
	}
	for _, subject := range append([]string{
		">", "*", "*.>", "sb.>", "sb.*.*", "sb.*.>", "sb.topic.>", "sb.topic.*", "sb.topic.secret", "sb.topic.secret.>", "sb.topic.quiet", "sb.topic.board", "sb.topic.chat",
		"sb.agent.>", "sb.agent.*", "sb.agent.bob", "sb.service.*", "sb.service.>",
		"sb.inbox.>", "sb.inbox.*.>", "sb.inbox.bob.>", "sb.inbox.*.*", "sb.inbox.alice.x", "sb.inbox.mallory",
		"sb.store.>", "sb.store.*.>", "sb.store.keys.>", "sb.store.keys.topic.secret.>", "sb.store.keys.topic.*.>", "sb.store.keys.pair.alice.bob.>",
		"$KV.>", "$KV.SB_CARDS.>", "$KV.SB_CARDS.mallory.*", "$KV.SB_KEYS.topic.chat.j.mallory.>",
		"$JS.>", "$JS.API.>", "$JS.API.DIRECT.GET.KV_SB_KEYS", "$JS.EVENT.ADVISORY.>", "$JS.ACK.>", "$JS.FC.>",
		"$SYS.>", "$SYS.ACCOUNT.>", "$SYS.REQ.>", "_INBOX.>", "_R_.>", "_GR_.>",
	}, queueUnheard...) {
		for _, group := range []string{"", "group"} {
			sub, err := w.nc.QueueSubscribeSync(subject, group)
			bustest.Check(t, err)
			w.refuses("subscribe to " + subject)
			_ = sub.Unsubscribe()
		}
	}
	w.same(before, "forbidden subjects")
	w.talk("after")
}

// TestForbiddenAPI: an agent has no part in the making of streams and consumers, and reads only what it was given.
func TestForbiddenAPI(t *testing.T) {
	t.Parallel()
	w := newStoreWorld(t)
	before := w.others()
	deliver := `"config":{"deliver_subject":"$KV.SB_CARDS.alice.x","deliver_policy":"all","ack_policy":"none"}`
	type call struct{ subject, body string }
	calls := []call{
		{"INFO", ""}, {"ACCOUNT.PURGE.STORE", ""}, {"META.LEADER.STEPDOWN", ""}, {"SERVER.REMOVE", `{"peer":"node-1"}`}, {"STREAM.LIST", ""}, {"STREAM.NAMES", ""},
		{"STREAM.CREATE.MINE", `{"name":"MINE","subjects":["$KV.SB_CARDS.>"]}`},
		{"STREAM.CREATE.MIRROR", `{"name":"MIRROR","mirror":{"name":"SB_TOPIC_secret"}}`},
	}
	for _, s := range append([]string{"KV_SB_POLICY", "KV_SB_CARDS", "KV_SB_KEYS", "SB_TOPIC_secret", "SB_TOPIC_board"}, queueStreams...) {
		named := fmt.Sprintf(`{"stream_name":%q,%s}`, s, deliver)
		calls = append(calls,
			call{"STREAM.INFO." + s, ""}, call{"STREAM.CREATE." + s, fmt.Sprintf(`{"name":%q}`, s)}, call{"STREAM.UPDATE." + s, fmt.Sprintf(`{"name":%q,"max_msgs":1}`, s)},
			call{"STREAM.DELETE." + s, ""}, call{"STREAM.PURGE." + s, ""}, call{"STREAM.PURGE." + s, `{"filter":"$KV.SB_CARDS.mallory.M1"}`},
			call{"STREAM.MSG.GET." + s, `{"seq":1}`}, call{"STREAM.MSG.DELETE." + s, `{"seq":1}`},
			call{"STREAM.SNAPSHOT." + s, `{"deliver_subject":"sb.inbox.mallory.x"}`}, call{"STREAM.RESTORE." + s, "{}"},
			call{"STREAM.PEER.REMOVE." + s, "{}"}, call{"STREAM.LEADER.STEPDOWN." + s, ""},
			call{"CONSUMER.CREATE." + s, named}, call{"CONSUMER.CREATE." + s + ".c", named}, call{"CONSUMER.CREATE." + s + ".c.$KV.SB_CARDS.>", named},
			call{"CONSUMER.DURABLE.CREATE." + s + ".c", named}, call{"CONSUMER.CREATE." + s, `{"stream_name":"` + s + `","config":{"ack_policy":"explicit"}}`},
			call{"CONSUMER.NAMES." + s, ""}, call{"CONSUMER.LIST." + s, ""}, call{"CONSUMER.INFO." + s + ".c", ""}, call{"CONSUMER.DELETE." + s + ".c", ""},
			call{"CONSUMER.MSG.NEXT." + s + ".c", "1"}, call{"CONSUMER.PAUSE." + s + ".c", "{}"}, call{"CONSUMER.RESET." + s + ".c", "{}"},
			call{"CONSUMER.UNPIN." + s + ".c", "{}"}, call{"CONSUMER.LEADER.STEPDOWN." + s + ".c", ""})
	}
	// Reads are of what every agent needs, in the one form that it needs.
	for _, s := range []string{"KV_SB_POLICY", "KV_SB_CARDS", "SB_TOPIC_secret", "SB_TOPIC_board", "SB_TASK_jobs", "SB_DELAY_jobs", "SB_TASK_hidden", "SB_RESULT_hidden", "SB_CONTROL_hidden"} {
		calls = append(calls, call{"DIRECT.GET." + s, `{"seq":1}`}, call{"DIRECT.GET." + s, `{"seq":1,"batch":10}`})
	}
	calls = append(calls, call{"DIRECT.GET.KV_SB_POLICY.$KV.SB_POLICY.x", ""}, call{"DIRECT.GET.KV_SB_POLICY.>", ""}, call{"DIRECT.GET.KV_SB_CARDS.>", ""},
		call{"DIRECT.GET.SB_TOPIC_secret.sb.topic.secret.x", ""}, call{"DIRECT.GET.SB_TOPIC_board.sb.topic.board.x", ""}, call{"DIRECT.GET.KV_SB_KEYS.$KV.SB_KEYS.x", ""})
	for _, c := range calls {
		for _, prefix := range []string{"$JS.API.", "$JS.hub.API."} {
			if prefix+c.subject == "$JS.API.DIRECT.GET.KV_SB_CARDS.>" {
				continue // publishes to the subject that is the right's own text
			}
			bustest.Check(t, w.nc.PublishRequest(prefix+c.subject, "sb.inbox.mallory.x", []byte(c.body)))
			w.refuses(prefix + c.subject)
		}
	}
	w.same(before, "forbidden calls")
	w.talk("after")
}

// TestOwnSubjectsWithWildcards: an agent publishes to the very texts of its rights, wildcards and all, which a
// NATS server does not mind. They mean nothing but themselves.
func TestOwnSubjectsWithWildcards(t *testing.T) {
	t.Parallel()
	w := newStoreWorld(t)
	before := w.others()
	for _, subject := range []string{"sb.result.jobs.*", "sb.dead.jobs.*", "sb.control.jobs.mallory.>", "sb.delay.jobs.mallory.*", "$JS.API.DIRECT.GET.SB_CONTROL_jobs.sb.control.jobs.*.>",
		"$KV.SB_CARDS.mallory.*", "$KV.SB_KEYS.topic.chat.j.mallory.>", "$KV.SB_KEYS.topic.chat.k.mallory.*.*", "sb.topic.board.>",
		"$JS.API.DIRECT.GET.KV_SB_CARDS.>", "$JS.API.DIRECT.GET.KV_SB_CARDS.$KV.SB_CARDS.*.*"} {
		for range 2 {
			bustest.Check(t, w.nc.PublishMsg(&nats.Msg{Subject: subject, Header: nats.Header{"Nats-Rollup": {"sub"}}, Data: []byte("evil")}))
			bustest.Check(t, w.nc.Publish(subject, nil))
		}
	}
	bustest.Check(t, w.nc.FlushWithContext(w.Ctx()))
	w.same(before, "wildcards")
	w.talk("after")
}

// TestOwnNameOthersCard: an agent of a channel joins with another's card, and says that it left, each under its
// own name. The other is given the key all the same.
func TestOwnNameOthersCard(t *testing.T) {
	t.Parallel()
	w := newStoreWorld(t)
	carol := w.Agent("carol") // has published her card, and not joined yet
	card := victimOf(w.o, "carol").Card
	for _, value := range []string{"spiffe://example.org/agent/carol", ""} {
		_, err := w.js.Publish(w.Ctx(), policy.BucketSubject(policy.BucketKeys, policy.JoinKey(trustChat, "mallory", card)), []byte(value))
		bustest.Check(t, err)
	}
	_, err := w.js.Publish(w.Ctx(), policy.BucketSubject(policy.BucketCards, policy.CardKey("mallory", card)), []byte("evil"))
	bustest.Check(t, err)
	wraps := w.o.tap("sb.store.keys.topic.chat.w.bob." + card + ".>")
	heard := listen(w.World, carol, "chat")
	bustest.Receive(t, wraps)
	sayUntil(w.World, w.alice, "chat.x", heard, w.heard["chat"])
}
