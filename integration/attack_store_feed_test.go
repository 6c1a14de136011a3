package integration_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/policy"
)

// TestForgedUpdates: answers of the store arrive wherever the asker says, so that any agent can have a text of
// its own arrive where others follow the store's updates, also of channels that it has no part in. There it
// says that alice has left a channel. Nobody believes it: alice is given the channel's next key.
func TestForgedUpdates(t *testing.T) {
	t.Parallel()
	w := newStoreWorld(t)
	quiet := policy.MustParseChannel("topic/quiet")
	card := victimOf(w.o, "alice").Card
	log := newWatch()
	config := w.Config("bob")
	config.Logger = slog.New(log)
	bob := w.Connect(config) // another instance
	listen(w.World, bob, "quiet")

	wraps := w.o.tap("sb.store.keys.topic.quiet.w.bob." + card + ".>")
	join := policy.JoinKey(quiet, "alice", card)
	feed := strings.TrimSuffix(policy.FeedAllKeys, ">") + join
	updates := w.o.tap(feed)
	entry := &nats.Msg{Subject: "$KV.SB_CARDS.mallory.E", Header: nats.Header{"Nats-Subject": {"$KV.SB_KEYS." + join}, "Nats-Stream": {"KV_SB_KEYS"}, "Nats-Sequence": {"9"}}}
	_, err := w.nc.RequestMsgWithContext(w.Ctx(), entry)
	bustest.Check(t, err)
	for _, subject := range []string{"$JS.API.DIRECT.GET.KV_SB_CARDS.$KV.SB_CARDS.mallory.none", "$JS.API.DIRECT.GET.KV_SB_CARDS.$KV.SB_CARDS.mallory.E"} {
		for _, reply := range []string{feed, "sb.store.policy.current"} {
			bustest.Check(t, w.nc.PublishRequest(subject, reply, nil))
		}
		if m := bustest.Receive(t, updates); len(m.Data) > 0 {
			t.Fatalf("got %q, want nothing", m.Data)
		}
	}
	// Carol comes to the channel and goes again, so that there has to be a new key.
	for revision, change := range []string{"subscribe: [bob, carol]", "subscribe: [bob]"} {
		text := strings.NewReplacer("revision: 1", fmt.Sprintf("revision: %d", revision+2),
			"quiet:  {publish: [alice], subscribe: [bob]", "quiet:  {publish: [alice], "+change).Replace(storePolicy)
		w.o.put(policy.BucketPolicy, policy.PolicyKey, w.Sign(text))
		log.await(t, policyInForce, "", "")
		if log.has(policyRefused) {
			t.Error("an agent's text was taken for an update of the policy")
		}
		log.clear()
	}
	bustest.Receive(t, wraps)
	w.talk("after")
}
