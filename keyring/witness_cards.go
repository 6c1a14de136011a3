package keyring

import (
	"errors"
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"
	"golang.org/x/mod/sumdb/note"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/policy"
)

// CardInfo is what is proven by a card: that whoever had the certificate of Agent has named the keys of this instance.
type CardInfo struct {
	Agent identity.ID
	Card  ulid.ULID
	From  time.Time // when its keys were drawn, as its id says, or its certificate began, whichever is earlier
	Until time.Time // it is not valid from then on
	Hash  [32]byte  // of the statement
}

// pastCard is a card with what others under its id have said about the same keys: begins and expires are the first and the
// last time of all.
type pastCard struct{ card }

// AddCard takes in a card. Its chain has to verify at the last moment of the card's own validity. A card that was renewed, with the
// same keys, may be added in both forms, and speaks for the time from the beginning of the one to the end of the other. Of the
// beginning there is only the word of the card's own id where its first certificate is not here.
func (w *Witness) AddCard(raw []byte) (CardInfo, error) {
	claimed, err := claimedCard(raw)
	if err != nil {
		return CardInfo{}, err
	}
	agent, err := identity.ParseID(claimed.Agent)
	if err != nil {
		return CardInfo{}, err
	}
	id, err := ulid.ParseStrict(claimed.Card)
	if err != nil {
		return CardInfo{}, fmt.Errorf("keyring: card id: %w", err)
	}
	c, err := verifyCard(raw, w.anchors, w.domain, agent.Name(), id, claimed.end())
	if err != nil {
		return CardInfo{}, err
	}
	if err := w.keepCard(c); err != nil {
		return CardInfo{}, err
	}
	return c.info(), nil
}

func (c *card) info() CardInfo {
	return CardInfo{Agent: c.agent, Card: c.id, From: c.begins, Until: c.expires, Hash: c.hash}
}

// keepCard merges a card with what is known of its keys. An agent that signs cards with other keys under one id is believed
// about each.
func (w *Witness) keepCard(c *card) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	name := cardName{c.agent, c.id}
	known := w.cards[name]
	for i, have := range known {
		if !have.keys.signingPublic.Equal(c.keys.signingPublic) {
			continue
		}
		merged := *have // those who are reading it keep what they have
		if c.begins.Before(merged.begins) {
			merged.begins = c.begins
		}
		if c.expires.After(merged.expires) {
			merged.expires, merged.hash = c.expires, c.hash
		}
		fresh := append([]*pastCard{}, known...)
		fresh[i] = &merged
		w.cards[name] = fresh
		return nil
	}
	if len(known) >= maxSameCard {
		return fmt.Errorf("keyring: %s has signed more than %d cards with the id %s and other keys in each", c.agent, maxSameCard, c.id)
	}
	if w.ncards >= maxPastCards {
		return fmt.Errorf("keyring: a witness of more than %d cards", maxPastCards)
	}
	w.ncards++
	past := pastCard{*c}
	past.keys = &peerKeys{verifier: c.keys.verifier, signingPublic: c.keys.signingPublic} // it encrypts nothing to anybody
	w.cards[name] = append(known[:len(known):len(known)], &past)
	return nil
}

func (w *Witness) pastCards(name cardName) []*pastCard {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.cards[name]
}

// Card returns what is known of a card: from the earliest beginning to the latest end of all that were added with that
// id and the same keys. The error wraps ErrNotFound when none was; it is another when an agent has signed several with
// different keys.
func (w *Witness) Card(agent identity.ID, id ulid.ULID) (CardInfo, error) {
	c, err := w.pastCard(agent, id)
	if err != nil {
		return CardInfo{}, err
	}
	return c.info(), nil
}

func (w *Witness) pastCard(agent identity.ID, id ulid.ULID) (*card, error) {
	switch known := w.pastCards(cardName{agent, id}); len(known) {
	case 0:
		return nil, fmt.Errorf("card %s of %s: %w", id, agent, ErrNotFound)
	case 1:
		return &known[0].card, nil
	default:
		return nil, fmt.Errorf("keyring: %s has signed %d cards with the id %s and other keys in each", agent, len(known), id)
	}
}

// NoteVerifier returns the verifier of notes that Ring.NoteSigner has signed under a name, with the key of a card that
// was added. Whether the card was valid when a note was signed is for the caller to compare: see Card.
func (w *Witness) NoteVerifier(name string, agent identity.ID, id ulid.ULID) (note.Verifier, error) {
	c, err := w.pastCard(agent, id)
	if err != nil {
		return nil, err
	}
	return newNoteVerifier(name, c.keys)
}

// KeyInfo is what a key statement proves: that its creator has said that there is a channel key, by this commitment. It
// does not prove that the creator was entitled to make one: that is for the policy to say that it names.
type KeyInfo struct {
	Channel    policy.Channel
	Key        uint32
	Commitment [32]byte
	Created    ulid.ULID
	Creator    identity.ID
	Card       ulid.ULID
	Revision   uint64   // of the policy that it was made under
	Policy     [32]byte // and its hash
	Due        time.Time
	Hash       [32]byte // of the statement
}

func (s *keyStatement) info() KeyInfo {
	return KeyInfo{
		Channel: s.channel, Key: s.id, Commitment: s.commitment, Created: s.created, Creator: s.creator, Card: s.card,
		Revision: s.revision, Policy: s.policy, Due: s.due, Hash: s.hash,
	}
}

// AddKey verifies a key statement under its creator's card, which has been added and was valid when the key was made. Nothing is
// remembered. The error wraps ErrNotFound when there is no such card.
func (w *Witness) AddKey(raw []byte) (KeyInfo, error) {
	u, claimed, err := claimedKey(raw)
	if err != nil {
		return KeyInfo{}, err
	}
	made := claimed.madeAt()
	err = fmt.Errorf("card %s of %s: %w", claimed.card, claimed.creator, ErrNotFound)
	for _, c := range w.pastCards(cardName{claimed.creator, claimed.card}) {
		var s *keyStatement
		if s, err = verifyKey(u, &c.card, raw); err != nil {
			continue
		}
		if wrong := c.silentOn(made, made, 0); wrong != "" {
			err = errors.New("keyring: key made outside the life of its creator's card")
			continue
		}
		return s.info(), nil
	}
	return KeyInfo{}, err
}
