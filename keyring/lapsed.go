package keyring

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/identity"
)

// What a stream has kept outlives the certificate of who sealed it. An expired card still speaks for a frame from
// before it expired. Whoever has stolen the keys of an expired card, and owns the broker, can date a frame back to then:
// MaxCardAge and revocation are what bounds that.

// standsFor reports whether the card speaks for a frame of the time at that was kept: it is valid now, or has expired
// since, not too long ago.
//
// Nothing is said of a beginning. A card is renewed in its place, with the same keys: one that was renewed after the frame was
// sealed speaks for the frame too. And who has its keys can choose a time after its beginning as well as one before.
func (c *card) standsFor(at, now time.Time) bool {
	return c.validAt(now) || at.Before(c.expires) && now.Sub(at) <= MaxCardAge && now.Sub(c.seen) < lapsedCardLife
}

// lapsedFor reports that the card had expired when the store was last asked for it, and does not speak for a frame of the
// time at: nor will it, but if it is renewed after all. What the store has said too long ago is not relied on, nor what it
// said before a sender that goes on with a new certificate could be expected to have renewed it.
func (c *card) lapsedFor(at, now time.Time) bool {
	if c.validAt(c.seen) || now.Sub(c.seen) >= lapsedCardLife {
		return false
	}
	if at.Before(c.expires) {
		return c.seen.Sub(at) > MaxCardAge
	}
	return c.seen.Sub(at) >= renewalPatience
}

// lapse says in words why lapsedFor is so.
func (c *card) lapse(at time.Time) string {
	expired := c.expires.UTC().Format(time.RFC3339)
	if at.Before(c.expires) {
		return fmt.Sprintf("its sender's card expired at %s, and the frame is older than %v", expired, MaxCardAge)
	}
	return fmt.Sprintf("its sender's card expired at %s, before the frame was sealed", expired)
}

// newestCard returns agent's card as it is in the store, expired or not; or the one that is here, if that is good
// enough.
func (r *Ring) newestCard(ctx context.Context, agent identity.ID, id ulid.ULID, good func(*card) bool) (*card, error) {
	if c := r.cards.get(agent, id); c != nil && good(c) {
		return c, nil
	}
	return r.fetchCard(ctx, agent, id, lastMoment)
}

// lastMoment returns the time at which a card that was fetched now is to be verified: now, or where it says that it has
// expired, the end of its own validity. That is a moment at which its certificate was valid, or the card is refused.
func lastMoment(raw []byte, now time.Time) time.Time {
	u, err := identity.ParseStatement(raw, typeCard)
	if err != nil {
		return now
	}
	var c cardClaims
	if err := u.UnverifiedClaims(&c); err != nil {
		return now
	}
	if end := time.Unix(c.Expires, 0); !now.Before(end) {
		return end.Add(-1)
	}
	return now
}

// awaitStoredCard returns when a card is here that speaks for a frame that was kept. The error is a *Rejection when
// there will be none.
func (r *Ring) awaitStoredCard(ctx context.Context, h *claims) error {
	for wait := joinStep; ; wait *= 2 {
		c, err := r.newestCard(ctx, h.sender, h.card, func(c *card) bool {
			now := r.now()
			return c.standsFor(h.at, now) || c.lapsedFor(h.at, now)
		})
		if err != nil && !errors.Is(err, identity.ErrExpired) {
			return err
		}
		if err == nil {
			now := r.now()
			if c.standsFor(h.at, now) {
				return nil
			}
			err = fmt.Errorf("keyring: %s: %w", c.lapse(h.at), identity.ErrExpired)
			if c.lapsedFor(h.at, now) {
				return &Rejection{Reason: Stale, Channel: h.channel.String(), Sender: h.sender.String(), ID: h.id, Detail: c.lapse(h.at)}
			}
		}
		select { // it is about to be renewed
		case <-time.After(wait):
		case <-ctx.Done():
			return err
		}
	}
}
