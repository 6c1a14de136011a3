package keyring

import (
	"context"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// Attested is what the signature of a stored frame proves to an agent that may not open it.
type Attested struct {
	Kind   envelope.Kind
	ID     ulid.ULID
	Ref    ulid.ULID
	Sender identity.ID
	Time   time.Time // when it was sealed, to the millisecond, by the sender's clock
}

// Attest checks who says that they sealed a stored frame of a channel which this agent may not read: a worker what workers have
// said of a task. A signature is over the sealed bytes, and needs no channel key. Nothing is learnt of the content, which may
// even be rubbish. The checks are those of StoredReceiver.Open but for the key and the seal; a frame that is not
// signed cannot be attested, and is rejected as Unsigned on any channel. The error is a *Rejection or ErrClosed. After
// NoCard, AwaitCard may help.
func (r *Ring) Attest(frame []byte, ch policy.Channel, w *Want) (Attested, error) {
	a, err := r.attachment()
	if err != nil {
		return Attested{}, err
	}
	b := scratches.Get().(*scratch)
	defer b.release()
	f := &b.frame
	g := gate{ring: r, att: a, only: ch, name: ch.String()}
	if err := g.parse(frame, f); err != nil {
		return Attested{}, err
	}
	if reason, detail := g.directed(f, w); reason != 0 {
		return Attested{}, reject(f, reason, detail)
	}
	by, reason, detail := g.attestor(f, w)
	if reason != 0 {
		return Attested{}, reject(f, reason, detail)
	}
	if !r.roots.verify(f, by, b) {
		return Attested{}, reject(f, BadSignature, "")
	}
	return Attested{Kind: f.Kind, ID: f.ID, Ref: f.Ref, Sender: by.agent, Time: timeOf(f)}, nil
}

// attestor returns the card that speaks for a frame of the one channel of the gate, whether or not this agent may read that.
func (g *gate) attestor(f *envelope.Frame, w *Want) (by *card, reason Reason, detail string) {
	h, _, senderErr := claimsOf(f) // directed has seen to the channel
	if senderErr != nil {
		return nil, NotEntitled, senderErr.Error()
	}
	p, name, now := g.ring.view.Load().policy, h.sender.Name(), g.ring.now()
	_, ok := p.Settings(g.only)
	switch {
	case p.Revoked(name):
		return nil, Revoked, ""
	case !ok || h.sender.TrustDomain() != g.att.self.TrustDomain():
		return nil, NotEntitled, "the policy has no such channel for these two"
	case !entitled(p, g.only, name, g.att.self.Name()).has(f.Kind) || w.Sender != "" && w.Sender != name:
		return nil, NotEntitled, ""
	case !f.Signed():
		return nil, Unsigned, ""
	}
	if detail := untimely(f, now); detail != "" {
		return nil, Stale, detail
	}
	by = g.ring.cards.get(h.sender, f.Card)
	switch {
	case by != nil && by.lapsedFor(h.at, now):
		return nil, Stale, by.lapse(h.at)
	case by == nil || !by.standsFor(h.at, now):
		return nil, NoCard, ""
	}
	return by, 0, ""
}

// AwaitCard fetches the card of a stored frame's sender and returns when it is here, or ctx has ended. It is AwaitStored for a
// frame that is not to be opened.
func (r *Ring) AwaitCard(ctx context.Context, frame []byte) error {
	h, err := r.claimed(frame)
	if err != nil {
		return err
	}
	return r.awaitStoredCard(ctx, &h)
}
