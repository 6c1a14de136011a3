package keyring

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/policy"
)

// The types of the statements that this package signs and believes.
const (
	typeCard = "sealbus-card"
	typeKey  = "sealbus-key"
	typeWrap = "sealbus-wrap"
)

var b64 = base64.RawURLEncoding.Strict()

// cardClaims is what a card says, signed by the key of the agent's certificate.
type cardClaims struct {
	IssuedAt int64  `json:"iat"`
	Agent    string `json:"agent"`   // SPIFFE ID
	Card     string `json:"card"`    // ULID of the running instance
	HPKE     string `json:"hpke"`    // X-Wing encapsulation key, 1216 bytes, base64url
	Ed25519  string `json:"ed25519"` // public signing key, 32 bytes, base64url
	Expires  int64  `json:"exp"`     // Unix seconds, not after the certificate
}

// card is a verified card.
type card struct {
	agent   identity.ID
	id      ulid.ULID
	keys    *peerKeys
	begins  time.Time // when its keys were drawn, as its id says, or its certificates began, whichever is earlier
	expires time.Time
	hash    [32]byte
	seen    time.Time // when the store said that this is the newest
}

func (c *card) validAt(now time.Time) bool { return now.Before(c.expires) }

// signCard makes the card of o for the certificate that src holds now.
func signCard(o *own, src identity.Source, now time.Time) (raw []byte, expires time.Time, err error) {
	self, svid, err := identity.Self(src)
	if err != nil {
		return nil, time.Time{}, err
	}
	expires = svid.Certificates[0].NotAfter
	for _, cert := range svid.Certificates[1:] {
		if cert.NotAfter.Before(expires) {
			expires = cert.NotAfter
		}
	}
	raw, err = identity.SignSVIDStatement(typeCard, cardClaims{
		IssuedAt: now.Unix(), Agent: self.String(), Card: o.card.String(),
		HPKE: b64.EncodeToString(o.hpkePublic), Ed25519: b64.EncodeToString(o.signingPublic),
		Expires: expires.Unix(),
	}, svid)
	return raw, expires, err
}

// claimedCard reads a card before it is verified, to learn whose it says it is, and until when it is valid.
func claimedCard(raw []byte) (c cardClaims, err error) {
	u, err := identity.ParseStatement(raw, typeCard)
	if err == nil {
		err = u.UnverifiedClaims(&c)
	}
	return c, err
}

// verifyCard believes a card: the chain verifies at the time at, and it names the agent and card it was asked for.
func verifyCard(raw []byte, bundles x509bundle.Source, td spiffeid.TrustDomain, agent string, id ulid.ULID, at time.Time) (*card, error) {
	u, err := identity.ParseStatement(raw, typeCard)
	if err != nil {
		return nil, err
	}
	var c cardClaims
	who, st, err := u.VerifySVID(bundles, td, at, &c)
	if err != nil {
		return nil, err
	}
	var begins time.Time
	expires := time.Unix(c.Expires, 0)
	for _, cert := range st.Chain {
		if begins.Before(cert.NotBefore) {
			begins = cert.NotBefore
		}
		if expires.After(cert.NotAfter) {
			return nil, errors.New("keyring: card outlives its certificate")
		}
	}
	switch {
	case !who.IsAgent() || who.String() != c.Agent:
		return nil, fmt.Errorf("keyring: card of %q signed by %s", c.Agent, who)
	case who.Name() != agent || c.Card != id.String():
		return nil, fmt.Errorf("keyring: card of %s %s found in the place of %s %s", who.Name(), c.Card, agent, id)
	case !at.Before(expires):
		return nil, fmt.Errorf("keyring: card has expired: %w", identity.ErrExpired)
	}
	signing, err := b64.DecodeString(c.Ed25519)
	if err != nil {
		return nil, err
	}
	hpkeKey, err := b64.DecodeString(c.HPKE)
	if err != nil {
		return nil, err
	}
	if b64.EncodeToString(signing) != c.Ed25519 || b64.EncodeToString(hpkeKey) != c.HPKE {
		return nil, errSpelling
	}
	keys, err := newPeerKeys(signing, hpkeKey)
	if err != nil {
		return nil, err
	}
	if drawn := ulid.Time(id.Time()); drawn.Before(begins) {
		begins = drawn
	}
	return &card{agent: who, id: id, keys: keys, begins: begins, expires: expires, hash: st.Hash}, nil
}

// cardBox keeps verified cards, fetching them when they are named. An agent chooses the id of its card, and
// may choose another's: so a card is kept under both.
type cardBox struct {
	mu    sync.RWMutex
	cards map[cardName]*card
}

type cardName struct {
	agent identity.ID
	id    ulid.ULID
}

// get returns the card if it is here, expired or not. It does no I/O.
func (b *cardBox) get(agent identity.ID, id ulid.ULID) *card {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.cards[cardName{agent, id}]
}

// cached returns the card if it is here and valid now. It does no I/O.
func (b *cardBox) cached(agent identity.ID, id ulid.ULID, now time.Time) *card {
	c := b.get(agent, id)
	if c == nil || !c.validAt(now) {
		return nil
	}
	return c
}

func (b *cardBox) put(c *card) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cards == nil {
		b.cards = make(map[cardName]*card)
	}
	if len(b.cards) >= maxCards {
		for id := range b.cards { // any: a card that is needed again is fetched again
			delete(b.cards, id)
			break
		}
	}
	b.cards[cardName{c.agent, c.id}] = c
}

// card returns agent's card, from the store if it is not here or has been renewed since.
func (r *Ring) card(ctx context.Context, agent identity.ID, id ulid.ULID) (*card, error) {
	if c := r.cards.cached(agent, id, r.now()); c != nil {
		return c, nil
	}
	c, _, err := r.fetchCard(ctx, agent, id, func(_ []byte, now time.Time) time.Time { return now })
	return c, err
}

// fetchCard returns agent's card as it is in the store, verified at the time that the moment function says.
func (r *Ring) fetchCard(ctx context.Context, agent identity.ID, id ulid.ULID, moment func(raw []byte, now time.Time) time.Time) (*card, []byte, error) {
	a, err := r.attachment()
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	raw, err := a.store.Get(ctx, policy.BucketCards, policy.CardKey(agent.Name(), id.String()))
	if errors.Is(err, ErrNotFound) {
		return nil, nil, fmt.Errorf("card %s of %s: %w", id, agent.Name(), err)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("card %s of %s: %w: %w", id, agent.Name(), errStore, err)
	}
	now := r.now()
	c, err := verifyCard(raw, a.src, a.self.TrustDomain(), agent.Name(), id, moment(raw, now))
	if err != nil {
		return nil, nil, err
	}
	if c.agent != agent {
		return nil, nil, fmt.Errorf("keyring: card of %s in the place of %s", c.agent, agent)
	}
	c.seen = now
	r.cards.put(c)
	return c, raw, nil
}

// awaitCard returns when agent's card is here. A card that is true but has expired is about to be renewed by an
// agent that goes on sending with a renewed certificate, so that is waited for; nothing else is.
func (r *Ring) awaitCard(ctx context.Context, agent identity.ID, id ulid.ULID) error {
	for wait := joinStep; ; wait *= 2 {
		_, err := r.card(ctx, agent, id)
		if err == nil || !errors.Is(err, identity.ErrExpired) {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return err
		}
	}
}
