package agentbus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/audit"
	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// auditTrust is what an auditor believes: the policies that were in force and the cards of senders, for all of its logs.
// It judges frames as who verifies a log later does, by the statements alone.
type auditTrust struct {
	bus     *Bus
	witness *keyring.Witness

	mu       sync.Mutex
	seen     [32]byte // hash of the policy in force when the list was read
	policies []auditPolicy
	byHash   map[[32]byte]*policy.Policy
	cards    map[auditCardName]*auditCard
	misses   []time.Time // when a card was not there, of late
}

// auditPolicy is a policy that was or is in force.
type auditPolicy struct {
	*policy.Policy
	raw    []byte
	stored time.Time // when, by the broker's clock, it was put in force
}

type auditCardName struct {
	agent identity.ID
	card  ulid.ULID
}

// auditCard is what the store has of a card; raw is nil where it has none that is believed.
type auditCard struct {
	keyring.CardInfo
	raw    []byte
	looked time.Time
}

func newAuditTrust(b *Bus) *auditTrust {
	return &auditTrust{
		bus: b, witness: keyring.NewWitness(b.self.TrustDomain(), b.config.Identity, b.ring.Operators()...),
		byHash: make(map[[32]byte]*policy.Policy), cards: make(map[auditCardName]*auditCard),
	}
}

// trust is what verification goes by.
func (b *Bus) trust() audit.Trust {
	return audit.Trust{Domain: b.self.TrustDomain(), Anchors: b.config.Identity, Operators: b.ring.Operators()}
}

// known takes in the statements that a log has kept.
func (t *auditTrust) known(log *audit.Log) error {
	for s, err := range log.Statements() {
		if err != nil {
			return err
		}
		switch s.Kind {
		case audit.StatementPolicy:
			_, _ = t.witness.AddPolicy(s.Raw) // one that is not believed is of no use, and does no harm
		case audit.StatementCard:
			_, _ = t.witness.AddCard(s.Raw)
		}
	}
	return nil
}

// refresh reads which policies were in force, where there may be one that is not known.
func (t *auditTrust) refresh(ctx context.Context, anyway bool) error {
	now := t.bus.ring.Policy().Hash()
	t.mu.Lock()
	done := !anyway && now == t.seen
	t.mu.Unlock()
	if done {
		return nil
	}
	pager := newAuditPager(t.bus.store, policy.StreamOfBucket(policy.BucketPolicy), policy.BucketSubject(policy.BucketPolicy, policy.PolicyKey))
	defer pager.close()
	var raws []audit.Stored
	for next, more := uint64(1), true; more; {
		page, err := pager.messages(ctx, next)
		if err != nil {
			return fmt.Errorf("agentbus: reading the policies that were in force: %w", err)
		}
		for _, s := range page.list {
			raws = append(raws, s)
			next = s.Sequence + 1
		}
		more = page.more
	}
	// What this agent has accepted counts, whatever the broker shows.
	raws = append(raws, audit.Stored{Data: t.bus.ring.RawPolicy(), Time: time.Now()})
	for range 2 { // one may be believed only once a later one of the list is known
		for _, s := range raws {
			_, _ = t.witness.AddPolicy(s.Data)
		}
	}
	at := make(map[[32]byte]audit.Stored, len(raws))
	for _, s := range raws {
		p, err := t.witness.AddPolicy(s.Data)
		if err != nil {
			continue
		}
		if _, ok := at[p.Hash()]; !ok { // a broker that starts again puts the same one
			at[p.Hash()] = s
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.policies = t.policies[:0:0]
	for _, p := range t.witness.Policies() {
		if s, ok := at[p.Hash()]; ok {
			t.policies = append(t.policies, auditPolicy{p, s.Data, s.Time})
		}
	}
	if n := len(t.policies); n == 0 || t.policies[n-1].Hash() != now {
		if len(t.policies) == 0 || t.policies[len(t.policies)-1].Revision() < t.bus.ring.Policy().Revision() {
			return errors.New("agentbus: the policy in force was signed by no operator that is pinned, nor named by a policy that the broker still has: " +
				"pin the operator's key to audit")
		}
	}
	t.seen = now
	return nil
}

// after returns the policies with a higher revision, in their order.
func (t *auditTrust) after(revision uint64) (list []auditPolicy) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.policies {
		if p.Revision() > revision {
			list = append(list, p)
		}
	}
	return list
}

// find returns a policy that is believed, nil where there is none of that hash.
func (t *auditTrust) find(hash [32]byte) *policy.Policy {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.byHash[hash]; p != nil {
		return p
	}
	for _, p := range t.witness.Policies() {
		t.byHash[p.Hash()] = p
	}
	return t.byHash[hash]
}

// card returns a card as the store has it, nil where it has none that is believed. It waits a moment for one that has
// not come yet. again looks anew: a card that was renewed. The error is the store's.
func (t *auditTrust) card(ctx context.Context, name auditCardName, again bool) (*auditCard, error) {
	t.mu.Lock()
	c := t.cards[name]
	t.mu.Unlock()
	if c != nil && (c.raw != nil && !again || time.Since(c.looked) < auditCardPause) {
		return c.orNil(), nil
	}
	next := &auditCard{looked: time.Now()}
	for tries := 0; ; tries++ {
		raw, err := t.bus.ring.RawCard(ctx, name.agent, name.card)
		if err == nil {
			next.raw = raw
			if next.CardInfo, err = t.witness.AddCard(raw); err == nil {
				break
			}
			next.raw = nil
		}
		if isAway(err) || errors.Is(err, keyring.ErrClosed) || ctx.Err() != nil {
			return nil, err
		}
		if c != nil || tries == auditCardTries || !t.patient() {
			break
		}
		pause(ctx, cardPause)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if next.raw == nil && c != nil && c.raw != nil { // what was believed once is
		c.looked = next.looked
		return c, nil
	}
	if len(t.cards) >= maxAuditCards {
		clear(t.cards)
	}
	t.cards[name] = next
	return next.orNil(), nil
}

func (c *auditCard) orNil() *auditCard {
	if c == nil || c.raw == nil {
		return nil
	}
	return c
}

// patient reports whether there is time to wait for a card: not where somebody names many that there are not.
func (t *auditTrust) patient() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	for len(t.misses) > 0 && now.Sub(t.misses[0]) > auditMissesIn {
		t.misses = t.misses[1:]
	}
	if len(t.misses) >= maxAuditMisses {
		return false
	}
	t.misses = append(t.misses, now)
	return true
}
