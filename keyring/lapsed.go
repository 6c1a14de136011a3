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
// max_card_age of the policy and revocation are what bounds that.

// standsFor reports whether the card speaks for a frame of the time at that was kept: it is valid now, or has expired
// since, not too long ago.
//
// Nothing is said of a beginning. A card is renewed in its place, with the same keys: one that was renewed after the frame was
// sealed speaks for the frame too. And who has its keys can choose a time after its beginning as well as one before.
func (c *card) standsFor(at, now time.Time, maxAge time.Duration) bool {
	return c.validAt(now) || at.Before(c.expires) && now.Sub(at) <= maxAge && now.Sub(c.seen) < lapsedCardLife
}

// tooEarly reports whether a frame of the time at is from before there was such a card. A receiver has no need to ask, because
// who has a card's keys can choose a later time; but it is no proof.
func (c *card) tooEarly(at time.Time) bool { return at.Before(c.begins.Add(-MaxClockLead)) }

// early says in words why tooEarly is so.
func (c *card) early() string {
	return fmt.Sprintf("it says that it is from before its sender's card, which begins at %s", c.begins.UTC().Format(time.RFC3339))
}

// lapsedFor reports that the card had expired when the store was last asked for it, and does not speak for a frame of the
// time at: nor will it, but if it is renewed after all. What the store has said too long ago is not relied on, nor what it
// said before a sender that goes on with a new certificate could be expected to have renewed it.
func (c *card) lapsedFor(at, now time.Time, maxAge time.Duration) bool {
	if c.validAt(c.seen) || now.Sub(c.seen) >= lapsedCardLife {
		return false
	}
	if at.Before(c.expires) {
		return c.seen.Sub(at) > maxAge
	}
	return c.seen.Sub(at) >= renewalPatience
}

// lapse says in words why lapsedFor is so.
func (c *card) lapse(at time.Time, maxAge time.Duration) string {
	expired := c.expires.UTC().Format(time.RFC3339)
	if at.Before(c.expires) {
		return fmt.Sprintf("its sender's card expired at %s, and the frame is older than %v", expired, maxAge)
	}
	return fmt.Sprintf("its sender's card expired at %s, before the frame was sealed", expired)
}

// newestCard returns agent's card as it is in the store, expired or not; or the one that is here, if that is good
// enough.
func (r *Ring) newestCard(ctx context.Context, agent identity.ID, id ulid.ULID, good func(*card) bool) (*card, error) {
	if c := r.cards.get(agent, id); c != nil && good(c) {
		return c, nil
	}
	c, _, err := r.fetchCard(ctx, agent, id, lastMoment)
	return c, err
}

// lastMoment returns the time at which a card that was fetched now is to be verified: now, or where it says that it has
// expired, the end of its own validity. That is a moment at which its certificate was valid, or the card is refused.
func lastMoment(raw []byte, now time.Time) time.Time {
	c, err := claimedCard(raw)
	if end := c.end(); err == nil && now.After(end) {
		return end
	}
	return now
}

// end is the last moment at which a card is valid, as it says.
func (c *cardClaims) end() time.Time { return time.Unix(c.Expires, 0).Add(-1) }

// awaitStoredCard returns when a card is here that speaks for a frame that was kept. The error is a *Rejection when
// there will be none.
func (r *Ring) awaitStoredCard(ctx context.Context, h *claims) error {
	for wait := joinStep; ; wait *= 2 {
		maxAge := r.view.Load().policy.MaxCardAge()
		c, err := r.newestCard(ctx, h.sender, h.card, func(c *card) bool {
			now := r.now()
			return c.standsFor(h.at, now, maxAge) || c.lapsedFor(h.at, now, maxAge)
		})
		if err != nil && !errors.Is(err, identity.ErrExpired) {
			return err
		}
		if err == nil {
			now := r.now()
			if c.standsFor(h.at, now, maxAge) {
				return nil
			}
			err = fmt.Errorf("keyring: %s: %w", c.lapse(h.at, maxAge), identity.ErrExpired)
			if c.lapsedFor(h.at, now, maxAge) {
				return &Rejection{Reason: Stale, Channel: h.channel.String(), Sender: h.sender.String(), ID: h.id, Detail: c.lapse(h.at, maxAge)}
			}
		}
		select { // it is about to be renewed
		case <-time.After(wait):
		case <-ctx.Done():
			return err
		}
	}
}
