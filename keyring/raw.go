package keyring

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/policy"
)

// KeyStatement is a key statement that was verified, with what it says.
type KeyStatement struct {
	KeyInfo
	Raw []byte
}

// Operators returns the fingerprints that are pinned: of the keys that may sign policy whatever the policy before names.
func (r *Ring) Operators() []identity.Fingerprint { return slices.Clone(r.operators) }

// RawPolicy returns the accepted policy as it was signed, nil before Attach: for Witness.AddPolicy.
func (r *Ring) RawPolicy() []byte {
	if v := r.view.Load(); v != nil {
		return bytes.Clone(v.raw)
	}
	return nil
}

// RawCard returns agent's card as the store has it, expired or not, once it has been verified as Witness.AddCard does. The
// error wraps ErrNotFound where the store has none.
func (r *Ring) RawCard(ctx context.Context, agent identity.ID, id ulid.ULID) ([]byte, error) {
	_, raw, err := r.fetchCard(ctx, agent, id, lastMoment)
	return raw, err
}

// KeyStatements returns the statements of a channel's keys that the store has: all that verify under the card of their creator,
// which may have expired since, of whatever time. This agent need have no part in the channel; no key comes with
// them. Whether their creators were entitled to make keys is not asked: see KeyInfo. An entry that does not verify is
// reported and left out, one whose creator's card is not in the store too. The error is the store's, or ErrClosed.
func (r *Ring) KeyStatements(ctx context.Context, ch policy.Channel) ([]KeyStatement, error) {
	a, err := r.attachment()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	entries, err := a.store.List(ctx, policy.BucketKeys, policy.KeyPrefix(ch)+".k.>")
	if err != nil {
		return nil, fmt.Errorf("keyring: key statements of %s: %w", ch, err)
	}
	var list []KeyStatement
	for _, e := range entries {
		s, err := r.pastKey(ctx, ch, e)
		switch {
		case errors.Is(err, errStore) || errors.Is(err, ErrClosed):
			return nil, fmt.Errorf("keyring: key statements of %s: %w", ch, err)
		case err != nil:
			a.report(Report{Key: e.Key, Err: err})
		default:
			list = append(list, KeyStatement{KeyInfo: s.info(), Raw: e.Value})
		}
	}
	return list, nil
}

// pastKey verifies a key statement of whatever time.
func (r *Ring) pastKey(ctx context.Context, ch policy.Channel, e Entry) (*keyStatement, error) {
	entry, err := policy.ParseEntry(e.Key)
	if err != nil {
		return nil, err
	}
	if len(e.Value) > maxEntry {
		return nil, fmt.Errorf("keyring: entry of %d bytes, at most %d are looked at", len(e.Value), maxEntry)
	}
	u, claimed, err := claimedKey(e.Value)
	if err != nil {
		return nil, err
	}
	if err := claimed.isAt(entry, ch, u); err != nil {
		return nil, err
	}
	creator, err := r.newestCard(ctx, claimed.creator, claimed.card, claimed.madeBefore)
	if err != nil {
		return nil, err
	}
	if !claimed.madeBefore(creator) {
		return nil, errAfterCard(claimed)
	}
	return verifyKey(u, creator, e.Value)
}
