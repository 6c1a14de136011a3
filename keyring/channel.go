package keyring

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/policy"
)

// channel is this agent's part in one channel: the statements and wraps it has seen, the keys it holds, and
// who asked for them. One goroutine, run, looks at the store's entries and acts; what others need of it is
// behind mu and current.
type channel struct {
	ring *Ring
	att  *attachment
	ch   policy.Channel
	name string // ch's text

	current atomic.Pointer[chanKey] // what to seal under; nil while there is none
	loans   loans

	mu   sync.Mutex
	keys map[uint32]*chanKey
	// Only run changes it, and reads it without mu.
	statements map[keyName]*keyStatement
	changed    chan struct{} // closed when keys, current or lastErr change
	events     []event
	stale      bool // look at the whole store again
	seekers    int  // who waits for keys of frames that were kept
	lastErr    error

	wake chan struct{}

	// Only run touches what follows.
	stops       []func()
	waiting     map[keyName]map[string]wrapEntry // wraps whose key statement has not arrived
	joins       map[joinName]*join
	makeAt      time.Time // when to make a key if none has come; zero: no need
	barred      time.Time // none that is made before then would be fit; zero: that is now
	rotateAt    time.Time // when to make a key because the current one is due; zero: not this agent's to do
	askAt       time.Time // when to join once more; zero: no need
	seekAt      time.Time // when to look and ask again for keys of frames that were kept; zero: no need
	soughtAt    time.Time // when that was last
	seekWait    time.Duration
	soughtKeys  int      // how many keys were here then
	unpublished *chanKey // a key being made
	before      *chanKey // what was current before
	changedAt   time.Time
	judged      *view // the policy that joins were last judged under
	unread      error // the store failed while an entry was looked at: the whole is looked at again
}

// event is an entry with how it came.
type event struct {
	Entry
	live bool // put while this agent was watching
}

// keyName is what a key is: two keys under one id are two names.
type keyName struct {
	id         uint32
	commitment [32]byte
}

// chanKey is a channel key that this agent holds.
type chanKey struct {
	statement *keyStatement
	k         secret // K; only if reader
	reader    bool   // k is set
	own       secret // this agent's K_s
	loans     *loans // the channel's; nil until the key is held
}

func (k *chanKey) name() keyName { return keyName{k.statement.id, k.statement.commitment} }

// joinName tells joins apart. A card id alone would not do: who joins under another's could say that it left.
type joinName struct{ name, card string }

// join is somebody who asked for the channel's keys.
type join struct {
	joinName
	found   bool            // it was there before this agent, and may have been served
	role    string          // what it was served as last; empty: it had no part in the channel
	wrapped map[uint32]bool // key ids that it has been given, as far as is known
	due     time.Time       // when to see to it; zero: not this agent's turn
}

func newChannel(r *Ring, a *attachment, ch policy.Channel) *channel {
	return &channel{
		ring: r, att: a, ch: ch, name: ch.String(),
		keys: make(map[uint32]*chanKey), changed: make(chan struct{}), stale: true,
		wake:       make(chan struct{}, 1),
		statements: make(map[keyName]*keyStatement),
		waiting:    make(map[keyName]map[string]wrapEntry),
		joins:      make(map[joinName]*join),
	}
}

// held returns the key with the id, nil if it is not here.
func (c *channel) held(id uint32) *chanKey {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.keys[id]
}

// await waits until ready says yes. It looks again whenever something about the channel changed.
func (c *channel) await(ctx context.Context, ready func() bool) error {
	for {
		c.mu.Lock()
		changed := c.changed
		c.mu.Unlock()
		if ready() {
			return nil
		}
		select {
		case <-changed:
		case <-c.ring.ctx.Done():
			return ErrClosed
		case <-ctx.Done():
			c.mu.Lock()
			last := c.lastErr
			c.mu.Unlock()
			if last != nil {
				return fmt.Errorf("keyring: no key for %s: %w (%w)", c.name, ctx.Err(), last)
			}
			return fmt.Errorf("keyring: no key for %s yet: %w", c.name, ctx.Err())
		}
	}
}

func (c *channel) broadcast() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// poke has run look at what it has again, under a policy that changed for example.
func (c *channel) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// seek says that n more wait for keys of frames that were kept.
func (c *channel) seek(n int) {
	c.mu.Lock()
	c.seekers += n
	c.mu.Unlock()
	c.poke()
}

// resync has run look at the whole store again.
func (c *channel) resync() {
	c.mu.Lock()
	c.stale = true
	c.mu.Unlock()
	c.poke()
}

// deliver queues an entry that was just put. A flood beyond the limit turns into one look at the store.
func (c *channel) deliver(e Entry) {
	c.mu.Lock()
	if len(c.events) < maxEvents {
		c.events = append(c.events, event{Entry: e, live: true})
	} else {
		c.stale = true
	}
	c.mu.Unlock()
	c.poke()
}

// run is the channel's life: look at the store once, then at what is put, and do what falls due.
func (c *channel) run(ctx context.Context) {
	defer func() {
		for _, stop := range c.stops {
			stop()
		}
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	backoff := joinStep
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		case <-timer.C:
		}
		if err := c.step(ctx); err != nil && ctx.Err() == nil {
			c.fail(err)
			timer.Reset(backoff)
			backoff = min(2*backoff, time.Second)
			continue
		}
		backoff = joinStep
		if next, ok := c.nextDuty(); ok {
			timer.Reset(max(0, next.Sub(c.ring.now())))
		}
	}
}

func (c *channel) fail(err error) {
	c.mu.Lock()
	c.lastErr = err
	c.mu.Unlock()
	c.att.report(Report{Key: policy.KeyPrefix(c.ch), Err: err})
}

// step catches up with the store and does what is due.
func (c *channel) step(ctx context.Context) error {
	if err := c.sync(ctx); err != nil {
		return err
	}
	c.mu.Lock()
	events := c.events
	c.events = nil
	c.mu.Unlock()
	for _, e := range events {
		c.apply(ctx, e)
	}
	if k := c.unpublished; k != nil && c.destroyed(k.statement) {
		k.forget()
		c.unpublished = nil
	}
	c.choose()
	c.judge()
	c.plan(ctx)
	err := c.duties(ctx)
	if c.unread != nil {
		err = errors.Join(err, c.unread)
		c.unread = nil
		c.mu.Lock()
		c.stale = true
		c.mu.Unlock()
	}
	return err
}

// sync subscribes to the channel's entries, then lists them, then asks for the keys, when it is asked to.
func (c *channel) sync(ctx context.Context) (err error) {
	c.mu.Lock()
	stale := c.stale
	c.mu.Unlock()
	if !stale {
		return nil
	}
	prefix, card := policy.KeyPrefix(c.ch), c.att.own.card.String()
	filters := []string{prefix + ".j.>", prefix + ".k.>", prefix + ".w.*." + card + ".>"}
	if c.stops == nil {
		for _, f := range filters {
			stop, err := c.att.store.Follow(ctx, policy.BucketKeys, f, c.deliver)
			if err != nil {
				return err
			}
			c.stops = append(c.stops, stop)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	joined := false
	for _, f := range filters {
		entries, err := c.att.store.List(ctx, policy.BucketKeys, f)
		if err != nil {
			return err
		}
		for _, e := range entries {
			joined = joined || e.Key == policy.JoinKey(c.ch, c.att.self.Name(), card) && len(e.Value) > 0
			c.apply(ctx, event{Entry: e})
		}
	}
	if !joined {
		if err := c.join(ctx); err != nil {
			return err
		}
	}
	for _, s := range c.statements {
		s.asked = false
	}
	c.mu.Lock()
	c.stale, c.lastErr = false, nil
	c.mu.Unlock()
	return nil
}

// leave takes the join back: the keys of a ring in memory end with it, and nobody needs to wait for it.
func (c *channel) leave(ctx context.Context) {
	key := policy.JoinKey(c.ch, c.att.self.Name(), c.att.own.card.String())
	if err := c.att.store.Put(ctx, policy.BucketKeys, key, nil); err != nil {
		c.att.report(Report{Key: key, Err: err})
	}
}

// apply takes in one entry of the store. What does not verify is reported and skipped.
func (c *channel) apply(ctx context.Context, e event) {
	entry, err := policy.ParseEntry(e.Key)
	if err == nil && entry.Channel != c.ch {
		err = errors.New("keyring: entry of another channel")
	}
	if err == nil && len(e.Value) > maxEntry {
		err = fmt.Errorf("keyring: entry of %d bytes, at most %d are looked at", len(e.Value), maxEntry)
	}
	if err == nil {
		switch entry.Kind {
		case policy.EntryJoin:
			err = c.applyJoin(entry, e)
		case policy.EntryKey:
			err = c.applyKey(ctx, entry, e.Value)
		case policy.EntryWrap:
			err = c.applyWrap(ctx, entry, e.Value)
		}
	}
	if err != nil && ctx.Err() == nil {
		c.att.report(Report{Key: e.Key, Err: err})
	}
	if errors.Is(err, errStore) {
		c.unread = err
	}
}

// isReader reports whether this agent may read the channel under the policy in force.
func (c *channel) isReader() bool {
	return c.ring.view.Load().policy.CanRead(c.ch, c.att.self.Name())
}

func (c *channel) canRead(name string) bool {
	return c.ring.view.Load().policy.CanRead(c.ch, name)
}

func (c *channel) canWrite(name string) bool {
	return c.ring.view.Load().policy.CanWrite(c.ch, name)
}

// fit reports whether this agent may seal under a key, and open live traffic sealed under it: its creator
// may read the channel and is not revoked, nobody has lost access since the policy that it was made
// under, and it is not destroyed. A key that a writer made is fit for that writer alone, and what it seals is for its readers.
func (c *channel) fit(s *keyStatement) bool {
	v := c.ring.view.Load()
	if s.lapsed || v.destroys(s) || s.revision < v.sinceOf(c.ch) || s.revision == v.policy.Revision() && s.policy != v.policy.Hash() {
		return false
	}
	return c.canRead(s.creator.Name()) || c.canWrite(s.creator.Name()) && s.creator == c.att.self
}

// opens reports whether live traffic of a sender may be sealed under a key.
func (c *channel) opens(s *keyStatement, sender string) bool {
	v := c.ring.view.Load()
	if s.lapsed || v.destroys(s) || s.revision < v.sinceOf(c.ch) || s.revision == v.policy.Revision() && s.policy != v.policy.Hash() {
		return false
	}
	creator := s.creator.Name()
	return v.policy.CanRead(c.ch, creator) || v.policy.CanWrite(c.ch, creator) && creator == sender
}

// provisional reports whether a key was made by a writer because no reader was there.
func (c *channel) provisional(s *keyStatement) bool { return !c.canRead(s.creator.Name()) }

// choose makes the newest fit key the current one.
func (c *channel) choose() {
	c.mu.Lock()
	defer c.mu.Unlock()
	var best *chanKey
	for _, k := range c.keys {
		if c.fit(k.statement) && (best == nil || c.newer(k.statement, best.statement)) {
			best = k
		}
	}
	if old := c.current.Swap(best); old != best {
		c.before, c.changedAt = old, c.ring.now()
		c.broadcast()
	}
}

// newer orders keys: one that a reader made before a provisional one, then by creation, then by commitment
// so that everybody agrees.
func (c *channel) newer(a, b *keyStatement) bool {
	if pa, pb := c.provisional(a), c.provisional(b); pa != pb {
		return pb
	}
	if n := a.created.Compare(b.created); n != 0 {
		return n > 0
	}
	return strings.Compare(string(a.commitment[:]), string(b.commitment[:])) > 0
}

// hold takes a key into use. A key under an id that another key has already is refused: whoever holds the
// first would seal what whoever holds the second cannot read, or reads otherwise. But a reader's key takes the
// place of a writer's, so that no writer keeps a reader's from anybody by choosing its id. One that is destroyed is refused too.
func (c *channel) hold(k *chanKey) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.destroyed(k.statement) { // asked under mu: a policy that is adopted now is in force before its keys are looked for
		k.forget()
		return errForgotten
	}
	c.loans.track(k)
	have := c.keys[k.statement.id]
	switch {
	case have == nil:
		c.forgetOldest()
	case have.name() == k.name():
		if have.reader && !k.reader || have.reader == k.reader && !c.outranks(k.statement, have.statement) {
			return nil
		}
	case !c.outranks(k.statement, have.statement):
		return fmt.Errorf("keyring: two keys under id %08x of %s: the one held first stays", k.statement.id, c.name)
	}
	c.keys[k.statement.id] = k
	c.broadcast()
	return nil
}

// outranks reports whether the word of a counts before that of b: a reader made the key of a, and a writer that of b; or
// both are of one kind, and the card that signed b had expired.
func (c *channel) outranks(a, b *keyStatement) bool {
	if pa, pb := c.provisional(a), c.provisional(b); pa != pb {
		return pb
	}
	return !a.lapsed && b.lapsed
}

// forgetOldest makes room for one more key, if there is none: of the creator who has made the most keys, the
// oldest goes. Nobody can crowd out the keys of others.
func (c *channel) forgetOldest() {
	if len(c.keys) < maxKeysPerChan {
		return
	}
	made := make(map[identity.ID]int)
	for _, k := range c.keys {
		made[k.statement.creator]++
	}
	var out *keyStatement
	for _, k := range c.keys {
		s := k.statement
		if out == nil || made[s.creator] > made[out.creator] ||
			made[s.creator] == made[out.creator] && s.created.Compare(out.created) < 0 {
			out = s
		}
	}
	delete(c.keys, out.id)
}
