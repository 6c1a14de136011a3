package keyring

import (
	"fmt"
	"slices"

	"github.com/sealbus/sealbus/policy"
)

// labelPseudonym is of Derive(K, "pseudonym", channel, purpose, value).
const labelPseudonym = "pseudonym"

// PseudonymSize is the length of a pseudonym in bytes.
const PseudonymSize = 16

// Pseudonyms returns what stands for a value where the broker can see it: the same for all readers of a channel, and to
// whoever does not hold the channel's key as random as a value that never came up before; even one that can be guessed
// cannot be tried. What it does show is that two are the same. Different purposes have different pseudonyms.
//
// There is one for each key of the channel that this agent holds as a reader: first that of the key which it would seal
// under, then the others', newest first. Readers that do not hold the same newest key at the moment, because one has not
// been handed it yet, begin with different ones.
//
// The purpose is a constant of the program. A value has 1 to MaxPseudonymValue bytes. The error is ErrNotEntitled where
// the policy does not let this agent read the channel, and ErrNoKey where it has no key; Join waits for that.
func (r *Ring) Pseudonyms(ch policy.Channel, purpose, value string) ([][]byte, error) {
	if len(value) == 0 || len(value) > MaxPseudonymValue || len(purpose) > MaxPseudonymValue {
		return nil, fmt.Errorf("keyring: a pseudonym for %d bytes: use 1 to %d", len(value), MaxPseudonymValue)
	}
	g, err := r.gateOf(ch)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	c := r.channels[ch]
	r.mu.Unlock()
	if c == nil {
		return nil, fmt.Errorf("%w: %s is not joined", ErrNoKey, g.name)
	}
	current := c.current.Load()
	if current == nil || !current.reader {
		return nil, fmt.Errorf("%w for %s", ErrNoKey, g.name)
	}
	keys := slices.DeleteFunc(c.readable(), func(k *chanKey) bool { return k.name() == current.name() })
	slices.SortFunc(keys, func(a, b *chanKey) int {
		if c.newer(a.statement, b.statement) {
			return -1
		}
		return 1
	})
	list := make([][]byte, 0, 1+len(keys))
	for _, k := range append([]*chanKey{current}, keys...) {
		p, err := k.k.derive(PseudonymSize, labelPseudonym, g.name, purpose, value)
		if err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return list, nil
}
