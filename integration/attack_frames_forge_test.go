package integration_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
)

// The names of a captured frame are written over: another sender, entitled or not.
func TestSenderRewritten(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, framesPolicy)
	evil, planner := attack(t, w), sit(t, w, "planner")
	feed, other := sit(t, w, "feed-1"), sit(t, w, "feed-2")
	got := planner.subscribe(w, "prices")
	sender := feed.sender(w, "topic/prices")
	bustest.Check(t, other.Publish(w.Ctx(), "prices", []byte("of feed-2")))
	wants(t, got, "feed-2", "of feed-2") // planner knows its card
	frame := event(t, sender, "prices", "of feed-1")
	for _, c := range []struct {
		name, sender string
		card         ulid.ULID
		reason       keyring.Reason
	}{
		{"another writer", other.Self().String(), other.ring.Card(), keyring.BadSeal},
		{"another writer's name, own card", other.Self().String(), feed.ring.Card(), keyring.BadSeal},
		{"another writer's card, own name", feed.Self().String(), other.ring.Card(), keyring.BadSeal},
		{"a writer who is not connected", "spiffe://example.org/agent/feed-3", ulid.Make(), keyring.BadSeal},
		{"the receiver itself", planner.Self().String(), planner.ring.Card(), keyring.NotEntitled},
		{"a reader", "spiffe://example.org/agent/exec-1", feed.ring.Card(), keyring.NotEntitled},
		{"nobody", "spiffe://example.org/agent/nobody", feed.ring.Card(), keyring.NotEntitled},
		{"of another trust domain", "spiffe://example.com/agent/feed-1", feed.ring.Card(), keyring.NotEntitled},
		{"a broker", "spiffe://example.org/broker/node-1", feed.ring.Card(), keyring.NotEntitled},
		{"somebody revoked", "spiffe://example.org/agent/feed-revoked", feed.ring.Card(), keyring.Revoked},
	} {
		evil.inject("sb.topic.prices", edited(t, frame, func(f *envelope.Frame) { f.Sender, f.Card = []byte(c.sender), c.card }))
		if r := planner.rejects(1, anyReason...)[0]; r.Reason != c.reason {
			t.Errorf("%s: %v, want %s", c.name, r.Err, c.reason)
		}
	}
	evil.inject("sb.topic.prices", frame)
	wants(t, got, "feed-1", "of feed-1")
	bustest.Empty(t, got)
	planner.counted(10)
}

// A reader holds the channel key, and so can make anybody's seal. It speaks as a publisher all the same not:
// with no signature, with its own, with one that was made for something else, under its own card.
func TestReaderForgesPublisher(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, framesPolicy)
	evil, planner, feed := attack(t, w), sit(t, w, "planner"), sit(t, w, "feed-1")
	prices, gossip := planner.subscribe(w, "prices"), planner.subscribe(w, "gossip")
	sender := feed.sender(w, "topic/prices")
	captured := event(t, sender, "prices", "genuine")
	evil.inject("sb.topic.prices", captured)
	wants(t, prices, "feed-1", "genuine")

	reader := newRogue(t, w, "rogue-reader")
	k, open := reader.join("topic/prices"), reader.join("topic/gossip")
	if !k.reader {
		t.Fatal("the rogue was not given the channel key: it proves nothing")
	}
	// As itself, where it may publish, what it makes is accepted: its forgeries are well made.
	evil.inject("sb.topic.gossip", reader.forge(open, envelope.KindEvent, "gossip").unsigned().frame(t, "as itself"))
	wants(t, gossip, "rogue-reader", "as itself")

	of := parse(t, captured)
	asFeed := func() *forgery {
		f := reader.forge(k, envelope.KindEvent, "prices")
		f.Sender, f.Card = of.Sender, of.Card
		return f
	}
	inSession := func() *forgery { // the publisher's own running session, one frame on
		f := asFeed()
		f.Session, f.Seq = of.Session, of.Seq+1
		return f
	}
	grafted := inSession()
	grafted.block = &of.Signature
	ownCard, stolenCard := asFeed(), inSession()
	ownCard.Card, stolenCard.Sender = reader.card, []byte(reader.id.String())
	for _, c := range []struct {
		name   string
		frame  []byte
		reason keyring.Reason
	}{
		{"unsigned", asFeed().unsigned().frame(t, "forged"), keyring.Unsigned},
		{"unsigned, in the publisher's session", inSession().unsigned().frame(t, "forged"), keyring.Unsigned},
		{"signed by the reader", asFeed().frame(t, "forged"), keyring.BadSignature},
		{"signed by the reader, in the publisher's session", inSession().frame(t, "forged"), keyring.BadSignature},
		{"with a signature of the publisher's for another frame", grafted.frame(t, "forged"), keyring.BadSignature},
		{"under the reader's own card", ownCard.frame(t, "forged"), keyring.NoCard},
		{"as itself", reader.forge(k, envelope.KindEvent, "prices").frame(t, "forged"), keyring.NotEntitled},
		{"as itself, under the publisher's card", stolenCard.frame(t, "forged"), keyring.NotEntitled},
	} {
		evil.inject("sb.topic.prices", c.frame)
		if r := planner.rejects(1, anyReason...)[0]; r.Reason != c.reason {
			t.Errorf("%s: %v, want %s", c.name, r.Err, c.reason)
		}
	}
	// None of this has used up a place in the publisher's session.
	evil.inject("sb.topic.prices", event(t, sender, "prices", "genuine too"))
	wants(t, prices, "feed-1", "genuine too")
	bustest.Empty(t, prices)
	planner.counted(8)
}

// An agent that may write to a channel and not read it holds only its own part of the key: it cannot make
// another writer's seal, and cannot open one.
func TestWriterForgesWriter(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, framesPolicy)
	evil, planner, feed := attack(t, w), sit(t, w, "planner"), sit(t, w, "feed-1")
	got := planner.subscribe(w, "prices")
	captured := event(t, feed.sender(w, "topic/prices"), "prices", "genuine")
	writer := newRogue(t, w, "rogue-writer")
	k := writer.join("topic/prices")
	if k.reader {
		t.Fatal("a writer was given the channel key")
	}
	evil.inject("sb.topic.prices", writer.forge(k, envelope.KindEvent, "prices").frame(t, "as itself"))
	wants(t, got, "rogue-writer", "as itself")

	of := parse(t, captured)
	asFeed := writer.forge(k, envelope.KindEvent, "prices")
	asFeed.Sender, asFeed.Card = of.Sender, of.Card
	evil.inject("sb.topic.prices", asFeed.frame(t, "forged"))
	planner.rejects(1, keyring.BadSeal)
	if plain, err := k.open(t, captured); err == nil {
		t.Errorf("a writer has opened another's frame: %q", plain)
	}
	// That is not for want of trying: what a reader is given does open it.
	if plain, err := newRogue(t, w, "rogue-reader").join("topic/prices").open(t, captured); err != nil || !bytes.Contains(plain, []byte("genuine")) {
		t.Errorf("a reader could not open a frame: %q, %v", plain, err)
	}
	evil.inject("sb.topic.prices", captured)
	wants(t, got, "feed-1", "genuine")
	planner.counted(1)
}

// A root that has verified once is remembered. The attacker sends one genuine frame of a batch, and then
// others with position, path and signature exchanged, within the batch, between two batches of a sender, and
// between the batches of two senders; a reader, who can make the seal, hangs forged frames on the tree.
func TestForgedByWayOfVerifiedRoot(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, framesPolicy)
	evil, planner := attack(t, w), sit(t, w, "planner")
	got := planner.subscribe(w, "prices")
	batch := func(s *keyring.Sender, name string) (frames [][]byte) {
		bundles := make([]*keyring.Bundle, 4)
		for i := range bundles {
			bundles[i] = &keyring.Bundle{Kind: envelope.KindEvent, Recipient: "prices"}
			bustest.Check(t, bundles[i].Messages.Add(&envelope.Message{Payload: fmt.Appendf(nil, "%s %d", name, i)}))
		}
		bustest.Check(t, s.SealBundles(bundles))
		for _, b := range bundles {
			frames = append(frames, b.Frame)
		}
		return frames
	}
	s1, s2 := sit(t, w, "feed-1").sender(w, "topic/prices"), sit(t, w, "feed-2").sender(w, "topic/prices")
	a, b, c := batch(s1, "a"), batch(s1, "b"), batch(s2, "c")
	for _, first := range [][]byte{a[0], b[0], c[0]} {
		evil.inject("sb.topic.prices", first)
		bustest.Receive(t, got)
	}

	with := func(frame, from []byte, change func(g *envelope.Signature)) []byte {
		return edited(t, frame, func(f *envelope.Frame) {
			f.Signature = parse(t, from).Signature
			change(&f.Signature)
		})
	}
	same := func(*envelope.Signature) {}
	bad := [][]byte{
		with(a[1], a[2], same), // another's place in the batch
		with(a[1], a[0], same), // the verified frame's own
		with(a[1], a[1], func(g *envelope.Signature) { g.Index = 0 }),  // index alone
		with(a[1], a[1], func(g *envelope.Signature) { g.Index ^= 2 }), // higher up
		with(a[1], a[0], func(g *envelope.Signature) { g.Index = 1 }),  // path alone
		with(a[1], b[1], same), // another batch of the sender
		with(a[1], c[1], same), // another sender's
		with(c[1], a[1], same), // and the other way round
		with(a[1], a[1], func(g *envelope.Signature) { g.Sig = parse(t, b[1]).Signature.Sig }),
		with(a[1], a[1], func(g *envelope.Signature) { g.Sig = parse(t, c[1]).Signature.Sig }),
		with(a[1], a[1], func(g *envelope.Signature) { g.Path = parse(t, c[1]).Signature.Path }),
		with(a[1], a[1], func(g *envelope.Signature) { g.Path = swapped(g.Path) }),
		with(a[1], a[1], func(g *envelope.Signature) { g.Depth, g.Index, g.Path = 0, 0, nil }),
		with(a[1], a[1], func(g *envelope.Signature) { g.Depth, g.Path = 1, g.Path[:32] }),
		with(a[1], a[1], func(g *envelope.Signature) { g.Depth, g.Path = 3, append(bytes.Clone(g.Path), g.Path[:32]...) }),
	}
	// A reader's own content, in the publisher's session, hung on each place of the verified tree.
	reader := newRogue(t, w, "rogue-reader")
	k, of := reader.join("topic/prices"), parse(t, a[1])
	for i := range a {
		f := reader.forge(k, envelope.KindEvent, "prices")
		f.Sender, f.Card, f.Session, f.Seq, f.ID = of.Sender, of.Card, of.Session, of.Seq, of.ID
		f.block = &parse(t, a[i]).Signature
		bad = append(bad, f.frame(t, "forged"))
	}
	for i, frame := range bad {
		evil.inject("sb.topic.prices", frame)
		if r := planner.rejects(1, anyReason...)[0]; r.Reason != keyring.BadSignature {
			t.Errorf("forgery %d: %v", i, r.Err)
		}
	}

	for _, frame := range slices.Concat(a[1:], b[1:], c[1:]) {
		evil.inject("sb.topic.prices", frame)
		bustest.Receive(t, got)
	}
	bustest.Empty(t, got)
	planner.counted(len(bad))
}

func swapped(path []byte) []byte { return slices.Concat(path[32:64], path[:32]) }

// Flags are taken away and added, with and without what belongs to them; and a genuine sender with rules of
// its own leaves away what the policy asks for.
func TestDowngrade(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, framesPolicy)
	evil, planner, feed := attack(t, w), sit(t, w, "planner"), sit(t, w, "feed-1")
	prices, ledger, gossip := planner.subscribe(w, "prices"), planner.subscribe(w, "ledger"), planner.subscribe(w, "gossip")
	signed := event(t, feed.sender(w, "topic/prices"), "prices", "signed")
	kept := event(t, feed.sender(w, "topic/ledger"), "ledger", "kept")
	plain := event(t, feed.sender(w, "topic/gossip"), "gossip", "plain")
	if f := parse(t, kept); !f.Signed() || !f.Padded() || !f.Committed() {
		t.Fatalf("a frame of the retained topic has flags %b", f.Flags)
	}
	clear := func(flags byte) func(*envelope.Frame) {
		return func(f *envelope.Frame) {
			if f.Flags &^= flags; flags&envelope.FlagSigned != 0 {
				f.Signature = envelope.Signature{}
			}
			if flags&envelope.FlagCommitted != 0 {
				f.Commit = [32]byte{}
			}
		}
	}
	flagsOf := func(frame []byte, flags byte) []byte {
		bad := bytes.Clone(frame)
		bad[1] = flags
		return bad
	}
	writer := newRogue(t, w, "rogue-writer")
	k := writer.join("topic/prices")
	block := parse(t, signed).Signature
	for _, c := range []struct {
		name, subject string
		frame         []byte
		reason        keyring.Reason
	}{
		{"signature stripped", "prices", edited(t, signed, clear(envelope.FlagSigned)), keyring.Unsigned},
		{"signature stripped, flag left", "prices", signed[:len(signed)-69], keyring.Malformed},
		{"signed flag cleared, block left", "prices", flagsOf(signed, 0), keyring.Malformed},
		{"never signed, by a writer of its own mind", "prices", writer.forge(k, envelope.KindEvent, "prices").unsigned().frame(t, "unsigned"), keyring.Unsigned},
		{"padded flag set", "prices", edited(t, signed, func(f *envelope.Frame) { f.Flags |= envelope.FlagPadded }), keyring.BadSeal},
		{"committed flag set", "prices", edited(t, signed, func(f *envelope.Frame) { f.Flags |= envelope.FlagCommitted; f.Commit[0] = 1 }), keyring.BadSeal},
		{"an unknown flag set", "prices", flagsOf(signed, 1|8), keyring.Malformed},
		{"retained: signature stripped", "ledger", edited(t, kept, clear(envelope.FlagSigned)), keyring.Unsigned},
		{"retained: commitment stripped", "ledger", edited(t, kept, clear(envelope.FlagCommitted)), keyring.Unsigned},
		{"retained: padding denied", "ledger", edited(t, kept, clear(envelope.FlagPadded)), keyring.BadSeal},
		{"retained: everything stripped", "ledger", edited(t, kept, clear(7)), keyring.Unsigned},
		{"retained: another commitment", "ledger", edited(t, kept, func(f *envelope.Frame) { f.Commit[0] ^= 1 }), keyring.BadSeal},
		{"unsigned topic: a signature added", "gossip", edited(t, plain, func(f *envelope.Frame) { f.Flags, f.Signature = 1, block }), keyring.BadSeal},
		{"unsigned topic: signed flag alone", "gossip", flagsOf(plain, 1), keyring.Malformed},
	} {
		evil.inject("sb.topic."+c.subject, c.frame)
		if r := planner.rejects(1, anyReason...)[0]; r.Reason != c.reason {
			t.Errorf("%s: %v, want %s", c.name, r.Err, c.reason)
		}
	}
	evil.inject("sb.topic.prices", signed)
	evil.inject("sb.topic.ledger", kept)
	evil.inject("sb.topic.gossip", plain)
	wants(t, prices, "feed-1", "signed")
	wants(t, ledger, "feed-1", "kept")
	wants(t, gossip, "feed-1", "plain")
	planner.counted(14)
}
