package keyring

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// Attested is what the signature of a frame proves: that Sender has sealed a frame with this header. It says nothing of
// the content, which only who holds the channel's key can open: that may be malformed, or not open at all.
type Attested struct {
	Kind      envelope.Kind
	ID        ulid.ULID
	Ref       ulid.ULID
	Channel   policy.Channel
	Recipient string
	Sender    identity.ID
	Card      ulid.ULID
	Session   ulid.ULID
	Seq       uint64
	Time      time.Time // when it was sealed, to the millisecond, by the sender's clock
	Expires   time.Time // zero: the channel's own limit; it may have passed
	Count     int       // messages inside, as the sender says
	Committed bool
	Commit    [envelope.HashSize]byte // to the messages; zero if not committed
}

// Attest checks who has sealed a frame that a stream has kept, without a key of its channel: this agent need have no part
// in that. The frame is one of the channel ch and as w says, and it is signed, whatever the policy says. As with
// a StoredReceiver it may be of any age, the policy in force says who may send and whom it revokes, and its sender's card may
// have expired since if the frame is at most as old as the policy's max_card_age. It was there when the frame was sealed: the
// frame is not from before the card's keys were drawn, as its id says, and before its certificate began. Nothing is remembered: the same frame may be attested any
// number of times, and whether it was seen before, or is where it belongs, is the caller's to know.
//
// It fetches the sender's card where that is not here, and waits, until ctx ends, for one that is about to be
// renewed. The error is a *Rejection, of the reasons that a StoredReceiver has but for those of keys and content; of them NoCard
// says that the store has no card that would do, which it may have some other time. What is no Rejection is the store's error,
// or ErrClosed, and says nothing of the frame.
func (r *Ring) Attest(ctx context.Context, frame []byte, ch policy.Channel, w *Want) (Attested, error) {
	a, err := r.attachment()
	if err != nil {
		return Attested{}, err
	}
	b := scratches.Get().(*scratch)
	defer b.release()
	f := &b.frame
	if err := parseFrame(frame, f); err != nil {
		return Attested{}, err
	}
	h, reason, detail := attributable(f, w, ch, r.view.Load().policy, a.self.TrustDomain(), r.now())
	if reason != 0 {
		return Attested{}, reject(f, reason, detail)
	}
	by, err := r.speaker(ctx, f, &h)
	if err != nil {
		return Attested{}, err
	}
	if !r.roots.verify(f, by, b) {
		return Attested{}, reject(f, BadSignature, "")
	}
	return attested(f, &h), nil
}

// attributable runs the checks that need no cryptography, in the order of the reasons: whether a frame that was here at
// the time now is one of the channel ch that the policy p lets its sender send. It says nothing of cards.
func attributable(f *envelope.Frame, w *Want, ch policy.Channel, p *policy.Policy, td spiffeid.TrustDomain, now time.Time) (h claims, reason Reason, detail string) {
	if reason, detail := w.meets(f); reason != 0 {
		return h, reason, detail
	}
	h, channelErr, senderErr := claimsOf(f)
	switch {
	case channelErr != nil:
		return h, Misdirected, channelErr.Error()
	case h.channel != ch:
		return h, Misdirected, "of another channel"
	case senderErr != nil:
		return h, NotEntitled, senderErr.Error()
	}
	name := h.sender.Name()
	if p.Revoked(name) {
		return h, Revoked, ""
	}
	settings, ok := p.Settings(h.channel)
	if !ok || h.sender.TrustDomain() != td {
		return h, NotEntitled, "the policy has no such channel for it"
	}
	s := senderSession{sender: h.sender, settings: settings, kinds: entitled(p, h.channel, name, h.channel.Other(name))}
	if reason := s.permits(f, w); reason != 0 {
		return h, reason, ""
	}
	if !f.Signed() {
		return h, Unsigned, "only a signature proves without a key who has sealed a frame"
	}
	if h.at.After(now.Add(MaxClockLead)) {
		return h, Stale, "its time is ahead of the clock where it was received"
	}
	return h, 0, ""
}

// speaker returns the card that speaks for a frame. The error is a *Rejection where there is none.
func (r *Ring) speaker(ctx context.Context, f *envelope.Frame, h *claims) (*card, error) {
	err := r.awaitStoredCard(ctx, h)
	if err == nil {
		by := r.cards.get(h.sender, h.card)
		switch {
		case by == nil || !by.standsFor(h.at, r.now(), r.view.Load().policy.MaxCardAge()):
		case by.tooEarly(h.at):
			return nil, reject(f, Stale, by.early())
		default:
			return by, nil
		}
		err = errors.New("the card is gone again")
	}
	if ReasonOf(err) != 0 || errors.Is(err, errStore) || errors.Is(err, ErrClosed) || errors.Is(err, ErrNotAttached) {
		return nil, err
	}
	return nil, reject(f, NoCard, err.Error())
}

func attested(f *envelope.Frame, h *claims) Attested {
	a := Attested{
		Kind: f.Kind, ID: f.ID, Ref: f.Ref, Channel: h.channel, Recipient: string(f.Recipient), Sender: h.sender, Card: f.Card,
		Session: f.Session, Seq: f.Seq, Time: h.at, Count: int(f.Count), Committed: f.Committed(), Commit: f.Commit,
	}
	if f.Expires != 0 {
		a.Expires = time.UnixMilli(int64(f.Expires))
	}
	return a
}

// String says what is proven, in words.
func (a *Attested) String() string {
	return fmt.Sprintf("%s %s of %s on %s", a.Kind, a.ID, a.Sender.Name(), a.Channel)
}
