package integration_test

import (
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
)

// A genuine frame is moved to another subject of its topic, and to another topic with the same readers.
func TestFrameMovedToAnotherSubject(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, framesPolicy)
	evil, planner, feed, desk := attack(t, w), sit(t, w, "planner"), sit(t, w, "feed-1"), sit(t, w, "desk-1")
	prices, orders := planner.subscribe(w, "prices.>"), planner.subscribe(w, "orders.>")
	sender := feed.sender(w, "topic/prices")
	toOrders := parse(t, event(t, desk.sender(w, "topic/orders"), "orders.a", "unused"))

	frame := event(t, sender, "prices.a", "for a")
	evil.inject("sb.topic.prices.b", frame)
	planner.rejects(1, keyring.Misdirected)
	evil.inject("sb.topic.prices", frame)
	planner.rejects(1, keyring.Misdirected)
	evil.inject("sb.topic.prices.a.b", frame)
	planner.rejects(1, keyring.Misdirected)
	evil.inject("sb.topic.prices.b", edited(t, frame, func(f *envelope.Frame) { f.Recipient = []byte("prices.b") }))
	planner.rejects(1, keyring.BadSeal)

	// To another topic: as it is; where its publisher, in league, has sealed it for a subject of the other
	// topic; with the header made to fit; and with a key id that exists there.
	evil.inject("sb.topic.orders.a", frame)
	planner.rejects(1, keyring.Misdirected)
	inLeague := event(t, sender, "orders.a", "not an order")
	evil.inject("sb.topic.orders.a", inLeague)
	planner.rejects(1, keyring.Misdirected)
	evil.inject("sb.topic.orders.a", edited(t, inLeague, func(f *envelope.Frame) { f.Channel, f.Key = toOrders.Channel, toOrders.Key }))
	planner.rejects(1, keyring.NotEntitled)
	evil.inject("sb.topic.orders.a", edited(t, inLeague, func(f *envelope.Frame) {
		f.Channel, f.Key, f.Sender, f.Card = toOrders.Channel, toOrders.Key, toOrders.Sender, toOrders.Card
	}))
	planner.rejects(1, keyring.BadSeal)

	evil.inject("sb.topic.prices.a", frame)
	wants(t, prices, "feed-1", "for a")
	bustest.Check(t, desk.Publish(w.Ctx(), "orders.a", []byte("an order")))
	wants(t, orders, "desk-1", "an order")
	bustest.Empty(t, prices)
	bustest.Empty(t, orders)
	planner.counted(8)
}

// A broker that lies to one agent puts messages into subscriptions that did not ask for them: of another
// subject below the topic, under its own name or under one that was asked for, of another topic, and twice.
func TestFramePutIntoAnotherSubscription(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, framesPolicy)
	c := w.Config("planner")
	subjects := make(map[string]string) // subject → sid under which the broker really delivers it
	liar := lie(t, w, c.Identity, func(d delivery) []delivery {
		subjects[d.subject] = d.sid
		switch d.subject {
		case "sb.topic.prices.us":
			own, renamed, twice := d, d, d
			own.sid = subjects["sb.topic.prices.eu"]
			renamed.sid, renamed.subject = own.sid, "sb.topic.prices.eu"
			twice.sid = own.sid
			return []delivery{own, renamed, twice, d}
		case "sb.topic.orders":
			wrong, renamed := d, d
			wrong.sid = subjects["sb.topic.prices.eu"]
			renamed.sid, renamed.subject = wrong.sid, "sb.topic.prices.eu"
			return []delivery{wrong, renamed, d}
		case "sb.topic.gossip":
			return []delivery{d, d}
		}
		return []delivery{d}
	})
	c.Servers = []string{liar.url}
	planner, feed, desk := sitWith(t, w, c), sit(t, w, "feed-1"), sit(t, w, "desk-1")
	eu, us := planner.subscribe(w, "prices.eu"), planner.subscribe(w, "prices.us")
	orders, gossip := planner.subscribe(w, "orders"), planner.subscribe(w, "gossip")

	bustest.Check(t, feed.Publish(w.Ctx(), "prices.eu", []byte("eu 1")))
	wants(t, eu, "feed-1", "eu 1")
	bustest.Check(t, feed.Publish(w.Ctx(), "prices.us", []byte("us")))
	wants(t, us, "feed-1", "us")
	planner.rejects(3, keyring.Misdirected)
	bustest.Check(t, desk.Publish(w.Ctx(), "orders", []byte("order")))
	wants(t, orders, "desk-1", "order")
	planner.rejects(2, keyring.Misdirected)
	bustest.Check(t, feed.Publish(w.Ctx(), "gossip", []byte("gossip")))
	wants(t, gossip, "feed-1", "gossip")
	planner.rejects(1, keyring.Seen)
	bustest.Check(t, feed.Publish(w.Ctx(), "prices.eu", []byte("eu 2")))
	wants(t, eu, "feed-1", "eu 2")
	for _, got := range []<-chan *agentbus.Message{eu, us, orders, gossip} {
		bustest.Empty(t, got)
	}
	planner.counted(6)
}

// A request to bob is given to carol, who could have been asked by the same agent.
func TestRequestToAnotherRecipient(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, framesPolicy)
	evil, planner, bob, carol := attack(t, w), sit(t, w, "planner"), sit(t, w, "bob"), sit(t, w, "carol")
	asked, askedBob := serveAndCount(t, w, carol), serveAndCount(t, w, bob)
	toCarol := parse(t, request(t, planner.sender(w, "pair/carol~planner"), "carol", "unused"))
	sender := planner.sender(w, "pair/bob~planner")
	frame := request(t, sender, "bob", "for bob")
	const inbox = "sb.inbox.planner.evil"
	answers := evil.tap(inbox)

	evil.injectWith("sb.agent.carol", inbox, frame)
	carol.rejects(1, keyring.Misdirected)
	// The channel of planner and bob is none of carol's, whatever name stands on it.
	evil.injectWith("sb.agent.carol", inbox, request(t, sender, "carol", "for bob, it says for carol"))
	carol.rejects(1, keyring.Misdirected)
	evil.injectWith("sb.agent.carol", inbox, edited(t, frame, func(f *envelope.Frame) {
		f.Recipient, f.Channel, f.Key = toCarol.Recipient, toCarol.Channel, toCarol.Key
	}))
	carol.rejects(1, keyring.BadSeal, keyring.NoKey)

	evil.injectWith("sb.agent.bob", inbox, frame)
	if text := bustest.Receive(t, askedBob); text != "for bob" {
		t.Errorf("bob was asked %q", text)
	}
	bustest.Receive(t, answers)
	bustest.Empty(t, asked)
	bustest.Empty(t, answers)
	carol.counted(3)
}

// A genuine reply is given to another requester, as the answer to another request, and to the right request
// from the wrong agent.
func TestReplyToAnotherRequest(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, framesPolicy)
	evil, planner, bob, carol, dave := attack(t, w), sit(t, w, "planner"), sit(t, w, "bob"), sit(t, w, "carol"), sit(t, w, "dave")
	toBob, atBob := askHeldBack(t, w, evil, planner, "bob")
	toDave, atDave := askHeldBack(t, w, evil, planner, "dave")
	carolToBob, atBob2 := askHeldBack(t, w, evil, carol, "bob")
	idOf := func(m *nats.Msg) (h envelope.Header) { return parse(t, m.Data).Header }
	bobs, daves, bobsToCarol := bob.sender(w, "pair/bob~planner"), dave.sender(w, "pair/dave~planner"), bob.sender(w, "pair/bob~carol")
	answer := reply(t, bobs, "planner", idOf(atBob).ID, "bob's answer")

	// To carol's request, as it is and made to fit.
	evil.inject(atBob2.Reply, answer,
		reply(t, bobs, "planner", idOf(atBob2).ID, "right ref, wrong requester"),
		reply(t, bobs, "carol", idOf(atBob2).ID, "right ref, right name, wrong pair"))
	carol.rejects(3, keyring.Misdirected)
	genuine := reply(t, bobsToCarol, "carol", idOf(atBob2).ID, "bob's answer to carol")
	evil.inject(atBob2.Reply, edited(t, answer, func(f *envelope.Frame) {
		g := parse(t, genuine)
		f.Ref, f.Recipient, f.Channel, f.Key = g.Ref, g.Recipient, g.Channel, g.Key
	}))
	carol.rejects(1, keyring.BadSeal)

	// To planner's own request to dave: bob may answer planner, but was not asked this.
	evil.inject(atDave.Reply, answer, reply(t, bobs, "planner", idOf(atDave).ID, "bob answers for dave"))
	for i, reason := range []keyring.Reason{keyring.Misdirected, keyring.NotEntitled} {
		if r := planner.rejects(1, anyReason...)[0]; r.Reason != reason {
			t.Errorf("reply %d: %v, want %s", i, r.Err, reason)
		}
	}

	evil.inject(atBob.Reply, answer)
	evil.inject(atBob2.Reply, genuine)
	evil.inject(atDave.Reply, reply(t, daves, "planner", idOf(atDave).ID, "dave's answer"))
	for _, r := range []struct {
		result chan string
		want   string
	}{{toBob, "bob's answer"}, {toDave, "dave's answer"}, {carolToBob, "bob's answer to carol"}} {
		if got := bustest.Receive(t, r.result); got != r.want {
			t.Errorf("a request returned %q, want %q", got, r.want)
		}
	}
	carol.counted(4)
	planner.counted(2)
}
