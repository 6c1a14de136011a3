package keyring

import (
	"bytes"
	"fmt"
	"time"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/policy"
)

// view is the accepted policy with what follows from its history.
type view struct {
	policy *policy.Policy
	raw    []byte

	// since says from which policy revision on a channel's keys may be sealed under: nobody who
	// could use the channel at that revision or later has lost access to it. A channel that is not
	// named counts from base.
	since map[policy.Channel]uint64
	base  uint64

	// floors say which keys are destroyed, by this policy or one before it.
	floors map[policy.Channel]floor

	// earlier are the policies before, newest first, as far as they are remembered: for a channel that comes into
	// use only now, and of which a message under a key from before may be on its way.
	earlier []*view
}

// sinceOf returns the lowest revision that a key of ch may name.
func (v *view) sinceOf(ch policy.Channel) uint64 {
	for _, old := range v.earlier {
		if n, ok := v.since[ch]; ok {
			return n
		}
		if v.policy.ReadersLost(old.policy, ch) {
			return v.policy.Revision()
		}
		v = old
	}
	if n, ok := v.since[ch]; ok {
		return n
	}
	return v.base
}

// Policy returns the accepted policy, nil before Attach.
func (r *Ring) Policy() *policy.Policy {
	if v := r.view.Load(); v != nil {
		return v.policy
	}
	return nil
}

// AdoptPolicy verifies a signed policy and puts it in force if it is newer than the one accepted before.
// It is signed by a pinned operator key or by one that the policy accepted before names. The error
// wraps policy.ErrRollback for an older one, policy.ErrFork for another one under the same revision, which
// an honest operator never signs, and policy.ErrUntrustedOperator for one that anybody else signed. Once it has
// returned, nothing is sealed under a key that the policy makes unfit, nothing is opened under one that it destroys, and a
// state directory remembers the policy and holds no key that is destroyed; any other error is the directory's, and the policy is in force all the same.
func (r *Ring) AdoptPolicy(raw []byte) error {
	adopted, err := r.adopt(raw)
	if err != nil || !adopted {
		return err
	}
	return r.save()
}

func (r *Ring) adopt(raw []byte) (adopted bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.view.Load()
	if old != nil && bytes.Equal(old.raw, raw) {
		return false, nil
	}
	p, err := policy.Verify(raw, r.trusted(old))
	if err != nil {
		return false, err
	}
	if r.att != nil && p.TrustDomain() != r.att.self.TrustDomain() {
		return false, fmt.Errorf("keyring: policy of trust domain %s, but this agent is %s", p.TrustDomain(), r.att.self)
	}
	if old != nil {
		if err := p.CheckSuccessor(old.policy); err != nil {
			return false, err
		}
		if p.Revision() == old.policy.Revision() {
			return false, nil
		}
	}
	v := nextView(old, p, raw, r.inUse(), r.now())
	r.view.Store(v)
	r.roots.drop()
	r.shred(v)
	for _, c := range r.channels {
		c.choose() // here and not only by the channel's own goroutine, which may be waiting for the store
		c.resync() // what was not believed under the policy before may be now
	}
	return true, nil
}

func (r *Ring) trusted(old *view) []identity.Fingerprint {
	if old == nil {
		return r.operators
	}
	return append(append([]identity.Fingerprint{}, r.operators...), old.policy.Operators()...)
}

func (r *Ring) inUse() []policy.Channel {
	var all []policy.Channel
	for ch := range r.channels {
		all = append(all, ch)
	}
	return all
}

// nextView carries the history of the channels in use over to a newer policy. What is not in use starts
// at the oldest revision that is remembered: the caution costs a new key, no more.
func nextView(old *view, p *policy.Policy, raw []byte, inUse []policy.Channel, now time.Time) *view {
	v := &view{policy: p, raw: raw, since: make(map[policy.Channel]uint64), base: p.Revision()}
	if old == nil {
		v.floors = floorsOf(nil, p, now)
		return v
	}
	v.floors = floorsOf(old.floors, p, now)
	v.earlier = append([]*view{{policy: old.policy, since: old.since, base: old.base}}, old.earlier...)
	v.earlier = v.earlier[:min(len(v.earlier), maxEarlier)]
	carry := func(ch policy.Channel) {
		if !p.ReadersLost(old.policy, ch) {
			v.since[ch] = old.sinceOf(ch)
		}
	}
	for ch := range old.since {
		carry(ch)
	}
	for _, ch := range inUse {
		carry(ch)
	}
	return v
}
