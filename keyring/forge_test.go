package keyring

import (
	"context"
	"crypto/rand"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// What attackers make: statements, wraps and frames that the package itself would not.

// bubble runs f with a clock of its own, in which waiting costs no time and synctest.Wait returns once
// every agent has nothing left to do. It fails when a goroutine is left behind.
func bubble(t *testing.T, f func(*testing.T, *world)) {
	synctest.Test(t, func(t *testing.T) { f(t, newWorld(t)) })
}

func mustSecret(t testing.TB) secret {
	t.Helper()
	return value(newSecret())(t)
}

// newULID returns a ULID of the time at.
func newULID(t testing.TB, at time.Time) (id ulid.ULID) {
	t.Helper()
	check(t, id.SetTime(ulid.Timestamp(at)))
	_, err := rand.Read(id[6:])
	check(t, err)
	return id
}

// statementBy returns what by would say of a key, not signed yet.
func statementBy(t testing.TB, by *Ring, ch policy.Channel, id uint32, k secret) *keyStatement {
	t.Helper()
	p := by.view.Load().policy
	return &keyStatement{
		channel: ch, id: id, commitment: k.commitment(ch.String(), id), created: newULID(t, by.now()),
		creator: by.att.self, card: by.own.card, revision: p.Revision(), policy: p.Hash(), due: by.now().Add(time.Hour),
	}
}

// publishKey signs s with by's card key and stores it where s says that it belongs.
func (w *world) publishKey(by *Ring, s *keyStatement) {
	w.t.Helper()
	raw, err := identity.SignStatement(typeKey, s.claims(by.now()), s.card.String(), statementSigner{by.own})
	check(w.t, err)
	s.raw, s.hash = raw, value(identity.ParseStatement(raw, typeKey))(w.t).Hash()
	check(w.t, w.store.Put(w.ctx(), policy.BucketKeys, policy.KeyStatementKey(s.channel, s.creator.Name(), s.id, s.hash), raw))
}

// cardOfRing is the card of a ring as others see it.
func (w *world) cardOfRing(r *Ring) *card {
	w.t.Helper()
	return &card{agent: r.att.self, id: r.own.card, keys: value(newPeerKeys(r.own.signingPublic, r.own.hpkePublic))(w.t),
		expires: r.now().Add(time.Hour)}
}

// publishWrap wraps k for to with by's card key and stores it where it belongs.
func (w *world) publishWrap(by *Ring, s *keyStatement, to *Ring, role string, k secret) {
	w.t.Helper()
	raw, hash, err := sealWrap(by.own, by.att.self, s, w.cardOfRing(to), role, k, by.now())
	check(w.t, err)
	check(w.t, w.store.Put(w.ctx(), policy.BucketKeys, policy.WrapKey(s.channel, by.att.self.Name(), to.own.card.String(), s.id, hash), raw))
}

// channelOf returns a ring's running channel.
func channelOf(t testing.TB, r *Ring, ch policy.Channel) *channel {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.channels[ch]
	if c == nil {
		t.Fatalf("%s has not joined %s", r.att.self.Name(), ch)
	}
	return c
}

// currentKey returns the key that a ring seals under.
func currentKey(t testing.TB, r *Ring, ch policy.Channel) *chanKey {
	t.Helper()
	k := channelOf(t, r, ch).current.Load()
	if k == nil {
		t.Fatalf("%s has no key for %s", r.att.self.Name(), ch)
	}
	return k
}

// crafted seals a frame as somebody who holds K can: under any header, with any content, signed with any
// key or none.
type crafted struct {
	envelope.Header
	k      secret
	plain  []byte // content; nil: one message
	flip   bool   // spoil the ciphertext before it is signed
	signer *own   // nil: no signature
}

// craft returns the frame that from would send to ch.
func craft(t testing.TB, from *Ring, ch policy.Channel, k *chanKey, recipient string) *crafted {
	t.Helper()
	c := &crafted{k: k.k, signer: from.own}
	c.Header = envelope.Header{
		Flags: envelope.FlagSigned, Kind: envelope.KindEvent, ID: newULID(t, from.now()), Session: newULID(t, from.now()), Seq: 1,
		Key: k.statement.id, Channel: []byte(ch.String()), Sender: []byte(from.att.self.String()), Card: from.own.card,
		Recipient: []byte(recipient), Count: 1,
	}
	return c
}

// claim makes the frame name r as its sender.
func (c *crafted) claim(r *Ring) { c.Sender, c.Card = []byte(r.att.self.String()), r.own.card }

func (c *crafted) frame(t testing.TB) []byte {
	t.Helper()
	own := value(c.k.senderKey(string(c.Channel), string(c.Sender)))(t)
	return sealWith(t, c, value(own.sessionAEAD(c.Session))(t))
}

func sealWith(t testing.TB, c *crafted, aead tink.AEAD) []byte {
	t.Helper()
	if c.Flags&envelope.FlagSigned == 0 || c.signer == nil {
		c.Flags, c.signer = c.Flags&^envelope.FlagSigned, nil
	}
	if c.plain == nil {
		c.plain = value(envelope.AppendMessage(nil, &envelope.Message{ID: c.ID, Payload: []byte("crafted")}, false))(t)
	}
	out := value(envelope.AppendHeader(nil, &c.Header))(t)
	head := out[:len(out):len(out)]
	ct := value(aead.Encrypt(c.plain, envelope.AppendAssociatedData(nil, head)))(t)
	if c.flip {
		ct[len(ct)/2] ^= 1
	}
	out = value(envelope.AppendCiphertext(out, ct))(t)
	if c.signer == nil {
		return out
	}
	signed := envelope.AppendSignedRoot(nil, &c.Header, 0, envelope.Leaf(head, ct))
	sig := value(c.signer.signer.Sign(signed))(t)
	return value(envelope.AppendSignature(out, &envelope.Signature{Sig: sig}))(t)
}

// mustReject opens a frame, waiting for nothing, and expects the reason.
func mustReject(t testing.TB, rc *Receiver, frame []byte, want *Want, reason Reason) {
	t.Helper()
	before := rc.snapshot()
	var out Opened
	if err := rc.Open(frame, want, &out); ReasonOf(err) != reason {
		t.Errorf("got %v, want %s", err, reason)
	}
	if rc.snapshot() != before {
		t.Errorf("a rejected frame changed the replay state")
	}
}

// mustOpen opens a frame.
func mustOpen(t testing.TB, rc *Receiver, frame []byte, want *Want) *Opened {
	t.Helper()
	var out Opened
	if err := rc.Open(frame, want, &out); err != nil {
		t.Fatalf("%v", err)
	}
	return &out
}

// replayState is what a Receiver remembers, in a form that can be compared.
type replayState struct {
	sessions int
	sum      uint64
}

func (rc *Receiver) snapshot() (s replayState) {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	s.sessions = len(rc.sessions)
	for _, in := range rc.sessions {
		s.sum += in.window.top*31 + in.window.base*37 + uint64(in.newest)*41
		for i, b := range in.window.bits {
			s.sum += b * uint64(2*i+43)
		}
	}
	return s
}

// pairOf is a sender and a receiver that have met on a channel.
type pairOf struct {
	reader, writer *Ring
	sender         *Sender
	rc             *Receiver
	want           *Want
	subject        string
}

// meet has reader and writer join ch and lets a first frame pass, so that cards and keys are here.
func (w *world) meet(ch policy.Channel, reader, writer *Ring) *pairOf {
	w.t.Helper()
	check(w.t, reader.Join(w.ctx(), ch))
	p := &pairOf{reader: reader, writer: writer, sender: value(writer.Sender(w.ctx(), ch))(w.t), subject: ch.Name() + ".x"}
	p.rc, p.want = value(reader.Receiver(ch))(w.t), wantEvent(p.subject)
	if _, err := open(w.t, reader, p.rc, p.seal(w.t, "first"), p.want); err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (p *pairOf) seal(t testing.TB, text string) []byte {
	t.Helper()
	frame, _, err := p.sender.Seal(nil, draft(p.subject, text))
	check(t, err)
	return frame
}

// cut ends a context at once, for calls that must not have to wait.
func cut() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// pass lets time go by in a bubble, where that takes none.
func pass(d time.Duration) { <-time.After(d) }

// cut2 gives a call that may fail a moment of the bubble's time.
func cut2() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	context.AfterFunc(ctx, cancel)
	return ctx
}
