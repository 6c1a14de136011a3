package policy

import (
	"fmt"
)

// CheckSuccessor reports whether the policy may take the place of the one in force. Both must come from [Verify].
// The same policy again is no error. The error wraps [ErrRollback] when the policy has a lower revision; [ErrFork] when
// it has the same revision and another hash, or names a policy before it that is not the one in force although its
// revision is the next. A change of the trust domain is refused too: that is another bus.
func (p *Policy) CheckSuccessor(current *Policy) error {
	previous, named := p.Previous()
	switch {
	case p.domain != current.domain:
		return fmt.Errorf("policy: revision %d is for trust domain %q, the policy in force for %q", p.revision, p.domain.Name(), current.domain.Name())
	case p.revision < current.revision:
		return fmt.Errorf("%w: revision %d after %d: sign the change as revision %d", ErrRollback, p.revision, current.revision, current.revision+1)
	case p.revision == current.revision && p.hash != current.hash:
		return fmt.Errorf("%w: two policies with revision %d, %s and %s", ErrFork, p.revision, FormatHash(current.hash), FormatHash(p.hash))
	case p.revision == current.revision+1 && named && previous != current.hash:
		return fmt.Errorf("%w: revision %d follows %s, in force is %s", ErrFork, p.revision, FormatHash(previous), FormatHash(current.hash))
	}
	return nil
}

// ReadersLost reports whether anybody who could read or write a channel under an earlier policy no longer can, so that
// a channel key from then must not be used any more. It may say yes where nobody was lost (a glob replaced by several that
// match the same names), never no where somebody was. Agents gained do not count, and auditors hold no key. Without an
// earlier policy it says yes.
func (p *Policy) ReadersLost(prev *Policy, ch Channel) bool {
	switch {
	case prev == p:
		return false
	case prev == nil || prev.domain != p.domain:
		return true
	case ch.kind == KindPair:
		return prev.PairAllowed(ch.a, ch.b) && !p.PairAllowed(ch.a, ch.b)
	}
	old, ok := prev.sides(ch)
	if !ok {
		return false
	}
	now, ok := p.sides(ch)
	if !ok {
		return true
	}
	return p.lost(prev, old.write, now.write) || p.lost(prev, old.read, now.read) || p.lost(prev, old.also, now.also)
}

// lost reports whether a name that the old list matched is not matched by the new one, or was revoked since.
func (p *Policy) lost(prev *Policy, old, now *agents) bool {
	for name := range p.revoked {
		if prev.admits(name) && old.match(name) {
			return true
		}
	}
	for _, g := range old.list {
		if !g.star && !prev.admits(g.text) {
			continue
		}
		if !now.covers(g) {
			return true
		}
	}
	return false
}
