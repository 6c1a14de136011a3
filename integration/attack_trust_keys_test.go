package integration_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// keyWorld is a reader and a writer of gossip, which is not signed: there the key is all that proves a sender.
type keyWorld struct {
	*bustest.World
	t            testing.TB
	o            *owner
	planner      *agentbus.Bus
	feed         *agentbus.Bus
	read, write  *watch
	got          <-chan string
	wire         <-chan *nats.Msg
	reader       victim
	writer       victim
	genuine      uint32 // the key in use at the start
	brokersAgent *x509svid.SVID
}

func newKeyWorld(t testing.TB) *keyWorld {
	t.Helper()
	w := &keyWorld{World: bustest.New(t, trustPolicy), t: t}
	w.o = newOwner(w.World)
	w.planner, w.read = watched(w.World, "planner")
	w.feed, w.write = watched(w.World, "feed-1")
	w.got = listen(w.World, w.planner, "gossip")
	w.wire = w.o.tap("sb.topic.gossip.>")
	say(w.World, w.feed, "gossip.x", "one", w.got)
	w.genuine = keyOf(t, bustest.Receive(t, w.wire).Data)
	w.reader, w.writer = victimOf(w.o, "planner"), victimOf(w.o, "feed-1")
	var err error
	w.brokersAgent, err = w.CA.Broker("node-1", time.Hour)
	bustest.Check(t, err)
	return w
}

// strangers are those who may not make keys or hand them out, each with a card in the store.
func (w *keyWorld) strangers() map[string]*forger {
	w.t.Helper()
	other, err := otherCA(w.t, bustest.Domain).Agent("exec-1", time.Hour)
	bustest.Check(w.t, err)
	mallory := certified(w.World, "mallory")
	all := map[string]*forger{
		"the broker as a reader":                    newForger(w.t, w.brokersAgent, "spiffe://example.org/agent/exec-1"),
		"a reader of another authority":             newForger(w.t, other, "spiffe://example.org/agent/exec-1"),
		"a reader with another agent's certificate": newForger(w.t, mallory.svid, "spiffe://example.org/agent/exec-1"),
		"the broker as itself":                      newForger(w.t, w.brokersAgent, "spiffe://example.org/broker/node-1"),
		"an agent with no part in the channel":      mallory,
	}
	for _, f := range all {
		w.o.put(policy.BucketCards, policy.CardKey(f.agent.Name(), f.card.String()), f.cardStatement(nil))
	}
	return all
}

// refused waits until the reader and the writer have both said that they do not believe an entry.
func (w *keyWorld) refused(keys ...string) {
	w.t.Helper()
	for _, key := range keys {
		log := w.write
		if e, err := policy.ParseEntry(key); err == nil && e.Card == w.reader.Card {
			log = w.read
		}
		log.await(w.t, notBelieved, key, "")
	}
}

// settled waits until the writer has looked at all that was put before: at junk that was put behind it.
func (w *keyWorld) settled() {
	w.t.Helper()
	for _, key := range []string{
		policy.KeyStatementKey(trustGossip, "planner", 1, [32]byte{}),
		policy.WrapKey(trustGossip, "planner", w.writer.Card, 1, [32]byte{}),
	} {
		w.o.put(policy.BucketKeys, key, []byte("junk"))
		w.write.await(w.t, notBelieved, key, "")
	}
}

// unchanged publishes and checks that the key in use is still the genuine one, and that frames under a forged
// key, as from the writer and as from the forger itself, are not accepted.
func (w *keyWorld) unchanged(forged ...*forgedKey) {
	w.t.Helper()
	anybody := certified(w.World, "feed-9")
	for _, k := range forged {
		for _, claim := range []func(*envelope.Header){w.writer.claim, w.reader.claim} {
			frame := anybody.frame(k, k.senderKey(w.t, w.writer.Agent), "gossip.x", "forged", false, claim)
			w.o.inject("sb.topic.gossip.x", frame)
			bustest.Receive(w.t, w.wire)
		}
	}
	say(w.World, w.feed, "gossip.x", "unchanged", w.got)
	if key := keyOf(w.t, bustest.Receive(w.t, w.wire).Data); key != w.genuine {
		w.t.Errorf("the writer seals under key %08x, want %08x still", key, w.genuine)
	}
}

// TestForgedKeys: those who may not make a key publish a statement of one and wrap it for a reader and for a
// writer, each in every way open to them.
func TestForgedKeys(t *testing.T) {
	t.Parallel()
	w := newKeyWorld(t)
	var forged []*forgedKey
	for name, f := range w.strangers() {
		k := newForgedKey(t, trustGossip)
		forged = append(forged, k)
		statement := f.publish(w.o, k, nil)
		w.read.await(t, notBelieved, statement, "")
		w.write.await(t, notBelieved, statement, "")
		f.give(w.o, k, []victim{w.reader}, []victim{w.writer})
		t.Log(name)
	}
	// With a name and a card of somebody entitled, and a signature of their own.
	f := certified(w.World, "mallory")
	k := newForgedKey(t, trustGossip)
	forged = append(forged, k)
	statement := f.publish(w.o, k, func(c *keyClaims) { c.Creator, c.Card = w.reader.Agent, w.reader.Card })
	w.write.await(t, notBelieved, statement, "wrong signature")
	w.read.await(t, notBelieved, statement, "")
	f.wrap(w.o, k, w.writer, "writer", k.senderKey(t, w.writer.Agent), func(c *wrapClaims) {
		c.Wrapper, c.WrapperCard = w.reader.Agent, w.reader.Card
	})
	w.unchanged(forged...)
	// Each forged frame waited for its key in vain, or named a sender who may not write.
	w.AwaitRejections(len(forged), keyring.NotEntitled)
	w.AwaitRejections(len(forged), keyring.NoKey)
	bustest.Empty(t, w.got)
}

// TestForgedWraps: a reader has made a key and given it to nobody yet. Those who may not hand it out hand out
// something else under its name.
func TestForgedWraps(t *testing.T) {
	t.Parallel()
	w := newKeyWorld(t)
	reader, _ := insider(w.World, w.o, "exec-2", trustGossip)
	k := newForgedKey(t, trustGossip)
	reader.publish(w.o, k, nil)
	evil := &forgedKey{ch: k.ch, id: k.id, commitment: k.commitment, secret: newForgedKey(t, trustGossip).secret}

	both := func(f *forger) []string { return f.give(w.o, evil, []victim{w.reader}, []victim{w.writer}) }
	strangers := w.strangers()
	feed2 := certified(w.World, "feed-2")
	w.o.put(policy.BucketCards, policy.CardKey("feed-2", feed2.card.String()), feed2.cardStatement(nil))
	strangers["a writer, who may not hand out a reader's key"] = feed2
	for name, f := range strangers {
		t.Log(name)
		w.refused(both(f)...)
	}
	as := func(v victim) func(*wrapClaims) {
		return func(c *wrapClaims) { c.Wrapper, c.WrapperCard = v.Agent, v.Card }
	}
	readers := victimOf(w.o, "exec-2")
	for what, key := range map[string]string{
		"a reader's name and card, another's signature": feed2.wrap(w.o, evil, w.writer, "writer", evil.senderKey(t, w.writer.Agent), as(readers)),
		"to the reader":                            feed2.wrap(w.o, evil, w.reader, "reader", evil.secret, as(readers)),
		"of the right maker, with another key":     reader.wrap(w.o, evil, w.reader, "reader", evil.secret, nil),
		"the whole key for a writer":               reader.wrap(w.o, evil, w.writer, "reader", evil.secret, nil),
		"a writer's key for a reader":              reader.wrap(w.o, evil, w.reader, "writer", evil.senderKey(t, w.reader.Agent), nil),
		"31 bytes":                                 reader.wrap(w.o, k, w.writer, "writer", k.secret[:31], nil),
		"for somebody else, under this one's name": reader.wrap(w.o, k, w.writer, "writer", k.secret, func(c *wrapClaims) { c.Recipient = w.reader.Agent }),
	} {
		t.Log(what)
		w.refused(key)
	}
	// A wrap for one, moved to the place of the other.
	raw := w.o.get(policy.BucketKeys, reader.wrap(w.o, k, readers, "reader", k.secret, nil))
	moved := policy.WrapKey(k.ch, "exec-2", w.writer.Card, k.id, statementHash(raw))
	w.o.put(policy.BucketKeys, moved, raw)
	w.write.await(t, notBelieved, moved, "for somebody else")
	moved = policy.WrapKey(k.ch, "exec-3", w.writer.Card, k.id, statementHash(raw))
	w.o.put(policy.BucketKeys, moved, raw)
	w.write.await(t, notBelieved, moved, "a name that is not its own")
	w.unchanged(evil)
	w.AwaitRejections(1, keyring.NoKey)

	// The reader's own are believed, and the key is taken into use, being the newest.
	reader.give(w.o, k, []victim{w.reader}, []victim{w.writer})
	sayUnder(w.World, w.feed, "gossip.x", k.id, w.wire, w.got)

	// Another one under its id is not, whoever wrapped it.
	second := forgedKeyOf(trustGossip, k.id, newForgedKey(t, trustGossip).secret)
	reader.publish(w.o, second, nil)
	for _, key := range reader.give(w.o, second, []victim{w.reader}, []victim{w.writer}) {
		w.refused(key)
	}
	frame := reader.frame(second, second.senderKey(t, w.writer.Agent), "gossip.x", "forged", false, w.writer.claim)
	w.o.inject("sb.topic.gossip.x", frame)
	w.AwaitRejections(1, keyring.BadSeal)
	bustest.Receive(t, w.wire)
	w.genuine = k.id
	w.unchanged()
}

// TestWriterMakesKey: a writer makes a key, as it may where no reader is there, and hands it to everybody. It
// knows all of it, so it must carry nobody's messages but its own.
func TestWriterMakesKey(t *testing.T) {
	t.Parallel()
	w := newKeyWorld(t)
	f := certified(w.World, "feed-2")
	w.o.put(policy.BucketCards, policy.CardKey("feed-2", f.card.String()), f.cardStatement(nil))
	k := newForgedKey(t, trustGossip)
	f.give(w.o, k, []victim{w.reader}, []victim{w.writer})
	f.publish(w.o, k, nil)

	own := f.frame(k, k.senderKey(t, f.agent.String()), "gossip.x", "mine", false, nil)
	w.o.inject("sb.topic.gossip.x", own)
	if text := bustest.Receive(t, w.got); text != "feed-2: mine" {
		t.Fatalf("got %q", text)
	}
	bustest.Receive(t, w.wire)
	// The planner holds the key now, and still takes nothing under it from others.
	w.unchanged(k)
	w.AwaitRejections(1, keyring.NoKey)
	w.AwaitRejections(1, keyring.NotEntitled)
	bustest.Empty(t, w.got)
}

// TestWriterClaimsReadersKey: a writer sees a reader's wraps go by, which name the key, and publishes a statement
// that it made that key before the reader publishes its own, and gives another writer a key that it knows in the
// place of the reader's. The key stays the reader's, and nothing is sealed so that the writer could read it.
func TestWriterClaimsReadersKey(t *testing.T) {
	t.Parallel()
	for _, first := range []string{"the reader's wraps come first", "the writer's wrap comes first"} {
		t.Run(first, func(t *testing.T) {
			t.Parallel()
			w := newKeyWorld(t)
			reader, _ := insider(w.World, w.o, "exec-2", trustGossip)
			f := certified(w.World, "feed-2")
			w.o.put(policy.BucketCards, policy.CardKey("feed-2", f.card.String()), f.cardStatement(nil))
			k := newForgedKey(t, trustGossip)
			evil := newForgedKey(t, trustGossip).secret
			give := func() { reader.give(w.o, k, []victim{w.reader}, []victim{w.writer}) }
			if first == "the reader's wraps come first" {
				give()
			}
			f.publish(w.o, k, nil)
			f.wrap(w.o, k, w.writer, "writer", evil, nil)
			w.settled()
			if first != "the reader's wraps come first" {
				give()
			}
			reader.publish(w.o, k, nil)
			sayUnder(w.World, w.feed, "gossip.x", k.id, w.wire, w.got)
		})
	}
}

// TestForgedSessionsDoNotAddUp: frames that name a writer's card, each in a session of its own and under a key
// that never comes, are set aside for as long as one would be, however many there are.
func TestForgedSessionsDoNotAddUp(t *testing.T) {
	t.Parallel()
	w := newKeyWorld(t)
	const frames = 16 // one after the other they would take longer than the test waits
	f := certified(w.World, "feed-2")
	for range frames {
		k := newForgedKey(t, trustGossip)
		w.o.inject("sb.topic.gossip.x", f.frame(k, k.senderKey(t, w.writer.Agent), "gossip.x", "forged", false, w.writer.claim))
	}
	say(w.World, w.feed, "gossip.x", "meanwhile", w.got)
	w.AwaitRejections(frames, keyring.NoKey)
}

// TestJunk: the broker fills the store with things that are nothing.
func TestJunk(t *testing.T) {
	t.Parallel()
	w := newKeyWorld(t)
	exec := certified(w.World, "exec-8")
	hash := [32]byte{1}
	for _, value := range [][]byte{nil, {0}, []byte("a.b.c"), []byte("{}"), make([]byte, 200<<10), []byte("eyJhbGciOiJub25lIn0.e30.")} {
		for _, key := range []string{
			policy.KeyStatementKey(trustGossip, "planner", 7, hash),
			policy.WrapKey(trustGossip, "planner", w.reader.Card, 7, hash),
			policy.WrapKey(trustGossip, "planner", w.writer.Card, 7, hash),
		} {
			w.o.put(policy.BucketKeys, key, value)
			w.refused(key)
		}
		for _, key := range []string{
			policy.JoinKey(trustGossip, "exec-8", exec.card.String()),
			policy.JoinKey(trustGossip, "nobody", exec.card.String()),
			"topic.gossip.j", "topic.gossip.j.x.y", "topic.gossip.k.planner.zz.zz", "topic.gossip.w.a.b.c.d.e", "x", "pair.a.b.c.d",
		} {
			w.o.put(policy.BucketKeys, key, value)
		}
		w.o.put(policy.BucketCards, policy.CardKey("exec-8", exec.card.String()), value)
		w.o.put(policy.BucketCards, "x", value)
		w.o.put(policy.BucketPolicy, "x", value)
	}
	w.unchanged()
	late := w.Agent("exec-1")
	say(w.World, w.Agent("feed-3"), "gossip.x", "after the junk", w.got, listen(w.World, late, "gossip"))
}

// TestWriterReads: a writer has its own key and reads nobody's messages with it.
func TestWriterReads(t *testing.T) {
	t.Parallel()
	w := newKeyWorld(t)
	// Refused at the call.
	if _, err := w.feed.Subscribe(w.Ctx(), "gossip.>", func(context.Context, *agentbus.Message) error { return nil }); !errors.Is(err, agentbus.ErrNotEntitled) {
		t.Errorf("subscribing: %v, want ErrNotEntitled", err)
	}
	// And by the broker, for who does not ask the library.
	errs := make(chan error, 16)
	raw := w.Raw(w.Source("feed-2"), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { errs <- err }))
	for _, subject := range []string{"sb.topic.gossip", "sb.topic.gossip.>", "sb.topic.gossip.x", "sb.topic.>"} {
		_, err := raw.SubscribeSync(subject)
		bustest.Check(t, err)
		if err := bustest.Receive(t, errs); !errors.Is(err, nats.ErrPermissionViolation) {
			t.Errorf("subscribing to %s: %v", subject, err)
		}
	}
	// A broker that lets it does not help: it asks for the key and is given its own alone.
	f, k := insider(w.World, w.o, "feed-2", trustGossip)
	say(w.World, w.feed, "gossip.x", "not for feed-2", w.got)
	var frame envelope.Frame
	bustest.Check(t, envelope.Parse(bustest.Receive(t, w.wire).Data, &frame))
	if frame.Key != k.id {
		t.Fatalf("%s was given key %08x, in use is %08x", f.agent.Name(), k.id, frame.Key)
	}
	for what, secret := range map[string][]byte{"its key": k.secret, "a key derived from it": k.senderKey(t, w.writer.Agent)} {
		data := envelope.AppendAssociatedData(nil, frame.Head)
		if _, err := sessionCipher(t, secret, frame.Session).Open(nil, nil, frame.Ciphertext, data); err == nil {
			t.Errorf("a writer opened another's frame with %s", what)
		}
	}
}
