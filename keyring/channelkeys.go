package keyring

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/policy"
)

// wrapEntry is a wrap with the statement it came in.
type wrapEntry struct {
	unverified *identity.Unverified
	wrap       *wrap
	came       time.Time
}

// applyKey takes in a key statement: signed by a valid card of an agent that may make keys here, and found
// under the name that belongs to it.
func (c *channel) applyKey(ctx context.Context, e policy.Entry, raw []byte) error {
	u, claimed, err := claimedKey(raw)
	if err != nil {
		return err
	}
	if err := claimed.isAt(e, c.ch, u); err != nil {
		return err
	}
	name := keyName{claimed.id, claimed.commitment}
	// Two creators may claim one key, and a writer that does makes it look provisional: a reader's word counts.
	have := c.statements[name]
	if have != nil && !c.outranks(claimed, have) {
		return nil
	}
	if err := c.mayCreate(claimed); err != nil {
		return err
	}
	s, err := c.believe(ctx, u, claimed, raw)
	if err != nil {
		return err
	}
	if have != nil && !c.outranks(s, have) {
		return nil
	}
	c.forgetStatement(s.creator)
	c.state(s)
	if j := c.joins[joinName{s.creator.Name(), s.card.String()}]; j != nil && c.provisional(s) {
		j.due = c.ring.now().Add(c.turn(j.card)) // nobody has given it a key
	}
	waiting := c.waiting[name]
	delete(c.waiting, name)
	for _, w := range waiting {
		err = errors.Join(err, c.accept(ctx, s, w))
	}
	if k := c.held(s.id); k != nil && k.name() == name && k.statement != s {
		restated := *k
		restated.statement = s
		err = errors.Join(err, c.hold(&restated))
	}
	return err
}

// state takes in the statement of a key.
func (c *channel) state(s *keyStatement) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.statements[keyName{s.id, s.commitment}] = s
	if c.destroyed(s) {
		c.broadcast() // who waits for it need not any more
	}
}

// believe verifies a key statement under its creator's card. That may have expired since the key was made: then the key is only
// for opening what was kept. Whoever stole an expired card's keys gains nothing by dating a key of its own back to then: a key
// is taken only out of a wrap, made by an agent that may read the channel and whose card is valid now.
func (c *channel) believe(ctx context.Context, u *identity.Unverified, claimed *keyStatement, raw []byte) (*keyStatement, error) {
	now := c.ring.now()
	creator, err := c.ring.newestCard(ctx, claimed.creator, claimed.card, func(by *card) bool { return by.validAt(now) })
	if err != nil {
		return nil, err
	}
	s, err := verifyKey(u, creator, raw)
	if err != nil {
		return nil, err
	}
	if s.lapsed = !creator.validAt(now); s.lapsed && !s.madeBefore(creator) {
		return nil, errAfterCard(s)
	}
	return s, nil
}

// mayCreate checks what the policy and the clock say about a key statement.
func (c *channel) mayCreate(s *keyStatement) error {
	v := c.ring.view.Load()
	name := s.creator.Name()
	switch {
	case s.creator.TrustDomain() != c.att.self.TrustDomain():
		return errors.New("keyring: key made in another trust domain")
	case v.policy.Revoked(name):
		return fmt.Errorf("keyring: key made by %s, who is revoked", name)
	case !c.canRead(name) && !c.canWrite(name):
		return fmt.Errorf("keyring: key made by %s, who has no part in %s", name, c.name)
	case s.revision == v.policy.Revision() && s.policy != v.policy.Hash():
		return fmt.Errorf("keyring: key made by %s under another policy of revision %d", name, s.revision)
	case ulid.Time(s.created.Time()).After(c.ring.now().Add(MaxClockLead)):
		return fmt.Errorf("keyring: key made by %s in the future", name)
	}
	return nil
}

// applyWrap takes in a key wrapped for this agent's card.
func (c *channel) applyWrap(ctx context.Context, e policy.Entry, raw []byte) error {
	if e.Card != c.att.own.card.String() {
		return nil
	}
	u, w, err := claimedWrap(raw)
	if err != nil {
		return err
	}
	if hash := u.Hash(); w.channel != c.ch || w.key != e.ID || w.wrapper.Name() != e.Author ||
		[8]byte(hash[:8]) != e.Hash {
		return errors.New("keyring: wrap under a name that is not its own")
	}
	if w.recipient != c.att.self || w.recipCard != c.att.own.card {
		return errors.New("keyring: wrap for somebody else")
	}
	if k := c.held(w.key); k != nil && k.statement.commitment == w.commitment && k.reader == c.isReader() {
		return nil
	}
	name := keyName{w.key, w.commitment}
	if s := c.statements[name]; s != nil {
		return c.accept(ctx, s, wrapEntry{unverified: u, wrap: w})
	}
	if from := w.wrapper.Name(); !c.canRead(from) && !c.canWrite(from) {
		return fmt.Errorf("keyring: wrap made by %s, who has no part in %s", from, c.name)
	}
	return c.wait(name, e.Key(), wrapEntry{u, w, c.ring.now()})
}

// forgetStatement makes room for one more statement of a creator: its oldest that no key is held for goes.
// Nobody can crowd out the statements of others.
func (c *channel) forgetStatement(creator identity.ID) {
	var oldest *keyStatement
	n := 0
	for _, s := range c.statements {
		if s.creator != creator {
			continue
		}
		n++
		if c.held(s.id) == nil && (oldest == nil || s.created.Compare(oldest.created) < 0) {
			oldest = s
		}
	}
	if n >= maxPerCreator && oldest != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.statements, keyName{oldest.id, oldest.commitment})
	}
}

// wait keeps a wrap until its key statement comes.
func (c *channel) wait(name keyName, key string, w wrapEntry) error {
	n := 0
	for _, m := range c.waiting {
		for _, other := range m {
			if other.wrap.wrapper == w.wrap.wrapper {
				n++
			}
		}
	}
	if n >= maxPerCreator {
		return fmt.Errorf("keyring: more than %d wraps of %s for %s wait for their key statement", maxPerCreator, w.wrap.wrapper.Name(), c.name)
	}
	if c.waiting[name] == nil {
		c.waiting[name] = make(map[string]wrapEntry)
	}
	c.waiting[name][key] = w
	return nil
}

// accept takes the key out of a wrap. It believes a wrap of an agent that may read the channel now, and a reader
// that of the writer that made a provisional key; never one of anybody else, the broker least of all. A key that is destroyed
// stays where it is.
func (c *channel) accept(ctx context.Context, s *keyStatement, e wrapEntry) error {
	if c.destroyed(s) {
		return nil // its wraps are still in the store
	}
	w := e.wrap
	from := w.wrapper.Name()
	provisional := w.wrapper == s.creator && c.canWrite(from) && c.isReader()
	if w.wrapper.TrustDomain() != c.att.self.TrustDomain() || !c.canRead(from) && !provisional {
		return fmt.Errorf("keyring: wrap made by %s, who may not hand out keys of %s", from, c.name)
	}
	if want := c.role(c.att.self.Name()); w.role != want {
		return fmt.Errorf("keyring: wrap for a %s, but this agent is a %s of %s", w.role, want, c.name)
	}
	wrapper, err := c.ring.card(ctx, w.wrapper, w.card)
	if err != nil {
		return err
	}
	if err := verifyWrap(e.unverified, wrapper); err != nil {
		return err
	}
	opened, err := w.open(c.att.own)
	if err != nil {
		return err
	}
	k := &chanKey{statement: s, own: opened}
	if w.role == roleReader {
		if opened.commitment(c.name, s.id) != s.commitment {
			return fmt.Errorf("keyring: key %08x of %s from %s does not match its commitment", s.id, c.name, from)
		}
		k.k, k.reader = opened, true
		if k.own, err = opened.senderKey(c.name, c.att.self.String()); err != nil {
			return err
		}
	}
	if err := c.hold(k); err != nil {
		return err
	}
	return c.ring.save()
}

// role says which kind of key an agent is given: K for who may read, else its own K_s.
func (c *channel) role(name string) string {
	if c.canRead(name) {
		return roleReader
	}
	return roleWriter
}
