package keyring

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/policy"
)

// applyJoin notes who wants the channel's keys. A join proves nothing and needs to prove nothing: a key goes
// only to a card that verifies, of an agent that the policy lets in.
func (c *channel) applyJoin(e policy.Entry, ev event) {
	if e.Card == c.att.own.card.String() {
		return
	}
	j := c.joins[e.Card]
	if j == nil {
		if len(c.joins) >= maxJoins || c.instances(e.Author) >= maxPerName {
			return
		}
		j = &join{name: e.Author, card: e.Card, wrapped: make(map[uint32]bool)}
		c.joins[e.Card] = j
	}
	j.left = len(ev.Value) == 0
	if ev.live && !j.left {
		j.due = c.ring.now().Add(c.turn(e.Card))
	}
}

// instances counts the joins under one agent's name. No name can crowd out the others.
func (c *channel) instances(name string) (n int) {
	for _, j := range c.joins {
		if j.name == name {
			n++
		}
	}
	return n
}

// turn says how long to leave a newcomer to others: the readers of a channel order themselves by a hash
// that is different for every newcomer, the first answers at once, the next a moment later if it still has to.
func (c *channel) turn(newcomer string) time.Duration {
	mine, before := rendezvous(newcomer, c.att.own.card.String()), 0
	for card, j := range c.joins {
		if !j.left && card != newcomer && c.canRead(j.name) && rendezvous(newcomer, card) < mine {
			before++
		}
	}
	return time.Duration(min(before, joinRanks)) * joinStep
}

func rendezvous(newcomer, card string) uint64 {
	sum := sha256.Sum256([]byte(newcomer + " " + card))
	return binary.BigEndian.Uint64(sum[:])
}

// plan sets when to make a key: if none comes, or when the current one is due for rotation. It clears that
// when no key is needed any more.
func (c *channel) plan(ctx context.Context) {
	cur := c.current.Load()
	switch {
	case cur == nil, c.isReader() && c.provisional(cur.statement):
		if c.makeAt.IsZero() {
			c.makeAt = c.ring.now().Add(c.patience(ctx))
		}
	case c.isReader():
		// The readers take turns again, so that one of them makes the next key.
		c.makeAt = cur.statement.due.Add(c.turn(cur.statement.created.String()))
	default:
		c.makeAt = time.Time{}
	}
}

// patience says how long to wait for others before making a key.
func (c *channel) patience(ctx context.Context) time.Duration {
	readers := c.liveReaders(ctx)
	if readers == 0 {
		return 0 // nobody could give one
	}
	if c.isReader() && !c.anyFitStatement() {
		// Nobody has one. The readers that came at the same time take turns, so that one makes it.
		return c.turn(c.name)
	}
	least := readerPatience
	if !c.isReader() {
		least = writerPatience
	}
	d := min(least+time.Duration(len(c.joins))*patiencePerJoin, maxPatience)
	return d + mathrand.N(d/4+1) // jitter, no secret
}

func (c *channel) anyFitStatement() bool {
	for _, s := range c.statements {
		if c.fit(s) && !c.provisional(s) {
			return true
		}
	}
	return false
}

// liveReaders counts the readers that have joined and whose cards are valid, up to a few.
func (c *channel) liveReaders(ctx context.Context) (n int) {
	for _, j := range c.joins {
		if n > joinRanks {
			break
		}
		if !j.left && c.canRead(j.name) {
			if _, err := c.cardOf(ctx, j); err == nil {
				n++
			}
		}
	}
	return n
}

// cardOf returns the valid card behind a join. A join whose card does not verify is as good as left.
func (c *channel) cardOf(ctx context.Context, j *join) (*card, error) {
	id, err := ulid.ParseStrict(j.card)
	if err != nil {
		return nil, err
	}
	agent, err := identity.AgentID(c.att.self.TrustDomain(), j.name)
	if err != nil {
		return nil, err
	}
	return c.ring.card(ctx, agent, id)
}

// nextDuty returns when something falls due next.
func (c *channel) nextDuty() (next time.Time, ok bool) {
	earliest := func(t time.Time) {
		if !t.IsZero() && (!ok || t.Before(next)) {
			next, ok = t, true
		}
	}
	earliest(c.makeAt)
	for _, j := range c.joins {
		earliest(j.due)
	}
	return next, ok
}

// duties does what is due: it makes a key if none has come, and gives the key to who asked for it.
func (c *channel) duties(ctx context.Context) error {
	now := c.ring.now()
	if !c.makeAt.IsZero() && !now.Before(c.makeAt) {
		c.makeAt = time.Time{}
		if err := c.makeKey(ctx); err != nil {
			c.makeAt = now.Add(10 * joinStep)
			return fmt.Errorf("keyring: making a key for %s: %w", c.name, err)
		}
	}
	var round []*join
	for _, j := range c.joins {
		if !j.due.IsZero() && !now.Before(j.due) {
			j.due = time.Time{}
			round = append(round, j)
		}
	}
	if len(round) == 0 {
		return nil
	}
	return c.serve(ctx, round)
}

// serve gives everybody in a round the keys that they lack.
func (c *channel) serve(ctx context.Context, round []*join) error {
	var work []delivery
	for _, k := range c.givable() {
		for _, j := range round {
			if !j.wrapped[k.statement.id] {
				work = append(work, delivery{j, k})
			}
		}
	}
	return c.deliverKeys(ctx, work)
}

// givable returns the keys that this agent hands out: the current one, where the policy gives newcomers the
// channel's history every fit one, and always the provisional one that it made itself as a writer, because
// what it sealed under that can be opened by nobody else.
func (c *channel) givable() []*chanKey {
	settings, _ := c.ring.view.Load().policy.Settings(c.ch)
	c.mu.Lock()
	defer c.mu.Unlock()
	var keys []*chanKey
	for _, k := range c.keys {
		if k.reader && c.fit(k.statement) && (settings.History || k == c.current.Load() || c.provisional(k.statement)) {
			keys = append(keys, k)
		}
	}
	return keys
}

// delivery is one key for one newcomer.
type delivery struct {
	to  *join
	key *chanKey
}

// deliverKeys wraps and stores, a few at a time. What cannot be delivered, because a card is missing or
// does not verify, is reported; only a store that fails is an error.
func (c *channel) deliverKeys(ctx context.Context, work []delivery) error {
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		errs  error
		slots = make(chan struct{}, wrapWorkers)
	)
	for _, d := range work {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			done, err := c.deliverKey(ctx, d)
			mu.Lock()
			defer mu.Unlock()
			errs = errors.Join(errs, err)
			if done {
				d.to.wrapped[d.key.statement.id] = true
			}
		})
	}
	wg.Wait()
	return errs
}

func (c *channel) deliverKey(ctx context.Context, d delivery) (done bool, err error) {
	s := d.key.statement
	if d.to.left || !c.canRead(d.to.name) && (!c.canWrite(d.to.name) || c.provisional(s)) {
		return false, nil
	}
	if given, err := c.givenByOthers(ctx, d); err != nil || given {
		return given, err
	}
	to, err := c.cardOf(ctx, d.to)
	if err != nil {
		c.att.report(Report{Key: policy.JoinKey(c.ch, d.to.name, d.to.card), Err: err})
		return false, nil
	}
	role, k := c.role(d.to.name), d.key.k
	if role == roleWriter {
		if k, err = k.senderKey(c.name, to.agent.String()); err != nil {
			return false, err
		}
	}
	raw, hash, err := sealWrap(c.att.own, c.att.self, s, to, role, k, c.ring.now())
	if err != nil {
		return false, err
	}
	key := policy.WrapKey(c.ch, c.att.self.Name(), d.to.card, s.id, hash)
	return true, c.att.store.Put(ctx, policy.BucketKeys, key, raw)
}

// givenByOthers reports whether another reader has given a newcomer the key already. The names of wraps are
// enough to tell: permissions keep agents to their own names, and what a broker invents here denies the
// newcomer this key, which the broker can do anyway.
func (c *channel) givenByOthers(ctx context.Context, d delivery) (bool, error) {
	if c.turn(d.to.card) == 0 {
		return false, nil
	}
	entries, err := c.att.store.List(ctx, policy.BucketKeys, policy.KeyPrefix(c.ch)+".w.*."+d.to.card+".>")
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		if p, err := policy.ParseEntry(e.Key); err == nil && p.ID == d.key.statement.id && c.canRead(p.Author) {
			return true, nil
		}
	}
	return false, nil
}

// makeKey draws a channel key, wraps it for everybody who has asked so far, then publishes its statement, so
// that whoever learns of the key has it.
func (c *channel) makeKey(ctx context.Context) error {
	k, err := c.newKey()
	if err != nil {
		return err
	}
	s := k.statement
	var work []delivery
	for _, j := range c.joins {
		j.due = time.Time{}
		work = append(work, delivery{j, k})
	}
	if err := c.deliverKeys(ctx, work); err != nil {
		return err
	}
	key := policy.KeyStatementKey(c.ch, s.creator.Name(), s.id, s.hash)
	if err := c.att.store.Put(ctx, policy.BucketKeys, key, s.raw); err != nil {
		return err
	}
	c.statements[k.name()] = s
	if err := c.hold(k); err != nil {
		return err
	}
	c.choose()
	return c.ring.save()
}

// newKey draws a key and signs its statement.
func (c *channel) newKey() (*chanKey, error) {
	k, err := newSecret()
	if err != nil {
		return nil, err
	}
	created, now, err := c.ring.ids.nextAt()
	if err != nil {
		return nil, err
	}
	v := c.ring.view.Load()
	settings, _ := v.policy.Settings(c.ch)
	s := &keyStatement{
		channel: c.ch, created: created, creator: c.att.self, card: c.att.own.card,
		revision: v.policy.Revision(), policy: v.policy.Hash(), due: now.Add(settings.Rotate),
	}
	if s.id, err = c.newID(); err != nil {
		return nil, err
	}
	s.commitment = k.commitment(c.name, s.id)
	s.raw, err = identity.SignStatement(typeKey, s.claims(now), c.att.own.card.String(), statementSigner{c.att.own})
	if err != nil {
		return nil, err
	}
	u, err := identity.ParseStatement(s.raw, typeKey)
	if err != nil {
		return nil, err
	}
	s.hash = u.Hash()
	own, err := k.senderKey(c.name, c.att.self.String())
	return &chanKey{statement: s, k: k, reader: true, own: own}, err
}

// newID draws a key id that is not in use as far as this agent knows.
func (c *channel) newID() (uint32, error) {
	for {
		var b [4]byte
		if _, err := rand.Read(b[:]); err != nil {
			return 0, err
		}
		id := binary.BigEndian.Uint32(b[:])
		used := id == 0 || c.held(id) != nil
		for name := range c.statements {
			used = used || name.id == id
		}
		if !used {
			return id, nil
		}
	}
}
