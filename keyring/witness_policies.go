package keyring

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/policy"
)

// signedPolicy is a policy whose signature is that of the key that it names. Whether that key counts depends on the others.
type signedPolicy struct {
	policy *policy.Policy
	signer identity.Fingerprint
	nth    uint64 // in the order in which they were added
	wrong  error  // why it is not believed; nil: it is
}

// AddPolicy takes in a signed policy and returns it if it is believed: one of this trust domain, signed by a pinned operator
// key, or by one that the policy before it names, which is the believed one of the next lower revision that was added. They may
// be added in any order, and again; each is judged anew with every other that comes. So the error, which wraps
// policy.ErrUntrustedOperator for a policy whose signer nothing vouches for, may be gone when the one that names it has been
// added too: Policies returns all that are believed. policy.ErrFork is for a second policy with a revision, of which the first
// one counts, and for one that names another as the one before: an operator has signed both.
func (w *Witness) AddPolicy(raw []byte) (*policy.Policy, error) {
	signer, err := policy.SignedBy(raw)
	if err != nil {
		return nil, err
	}
	p, err := policy.Verify(raw, []identity.Fingerprint{signer})
	if err != nil {
		return nil, err
	}
	if p.TrustDomain() != w.domain {
		return nil, fmt.Errorf("keyring: policy of trust domain %s, but this witness is of %s", p.TrustDomain(), w.domain)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.knownPolicy(p.Hash())
	if s == nil {
		s = &signedPolicy{policy: p, signer: signer}
		if err := w.insert(s); err != nil {
			return nil, err
		}
		w.judge()
	}
	if s.wrong != nil {
		return nil, s.wrong
	}
	return s.policy, nil
}

// Policies returns the policies that are believed, in the order of their revisions.
func (w *Witness) Policies() []*policy.Policy {
	w.mu.RLock()
	defer w.mu.RUnlock()
	var list []*policy.Policy
	for _, s := range w.policies {
		if s.wrong == nil {
			list = append(list, s.policy)
		}
	}
	return list
}

func (w *Witness) believes(p *policy.Policy) bool {
	if p == nil {
		return false
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	_, ok := w.believed[p.Hash()] // zero of one that was only parsed, which is no policy's
	return ok
}

func (w *Witness) knownPolicy(hash [32]byte) *signedPolicy {
	for _, s := range w.policies {
		if s.policy.Hash() == hash {
			return s
		}
	}
	return nil
}

// insert puts a policy where it belongs. What is not believed is kept in case that changes, up to a number, and then the one
// that has waited longest goes: anybody can sign policies with a key that nobody has heard of.
func (w *Witness) insert(s *signedPolicy) error {
	if len(w.believed) >= maxPastPolicies {
		return fmt.Errorf("keyring: a witness of more than %d policies", maxPastPolicies)
	}
	oldest, waiting := -1, 0
	for i, other := range w.policies {
		if other.wrong == nil {
			continue
		}
		if waiting++; oldest < 0 || other.nth < w.policies[oldest].nth {
			oldest = i
		}
	}
	if waiting >= maxUnvouched {
		w.policies = slices.Delete(w.policies, oldest, oldest+1)
	}
	w.added++
	s.nth = w.added
	at, _ := slices.BinarySearchFunc(w.policies, s, func(a, b *signedPolicy) int {
		return cmp.Or(cmp.Compare(a.policy.Revision(), b.policy.Revision()), cmp.Compare(a.nth, b.nth))
	})
	w.policies = slices.Insert(w.policies, at, s)
	return nil
}

// judge decides which policies are believed, from the lowest revision upwards.
func (w *Witness) judge() {
	clear(w.believed)
	var before *policy.Policy
	for i := 0; i < len(w.policies); {
		revision, chosen := w.policies[i].policy.Revision(), before
		for ; i < len(w.policies) && w.policies[i].policy.Revision() == revision; i++ {
			s := w.policies[i]
			if s.wrong = w.follows(s, before, chosen); s.wrong == nil {
				chosen = s.policy
				w.believed[chosen.Hash()] = struct{}{}
			}
		}
		before = chosen
	}
}

// follows says what is wrong with a policy after those that are believed: before is the newest of a lower revision, and
// chosen is that or the one with the same revision.
func (w *Witness) follows(s *signedPolicy, before, chosen *policy.Policy) error {
	trusted := w.operators
	if before != nil {
		trusted = append(before.Operators(), w.operators...)
	}
	if !slices.Contains(trusted, s.signer) {
		return fmt.Errorf("%w: revision %d is signed by %s, which is neither pinned nor named by the policy before it",
			policy.ErrUntrustedOperator, s.policy.Revision(), s.signer)
	}
	if chosen != nil {
		return s.policy.CheckSuccessor(chosen)
	}
	return nil
}
