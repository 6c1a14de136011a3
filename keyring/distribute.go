package keyring

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/policy"
)

// applyJoin notes who wants the channel's keys. A join proves nothing and needs to prove nothing: a key goes
// only to a card that verifies, of an agent that the policy lets in.
func (c *channel) applyJoin(e policy.Entry, ev event) error {
	name := joinName{e.Author, e.Card}
	if name == (joinName{c.att.self.Name(), c.att.own.card.String()}) {
		return nil
	}
	if len(ev.Value) == 0 {
		delete(c.joins, name) // it has left
		return nil
	}
	j := c.joins[name]
	if j == nil {
		if err := c.makeRoom(name); err != nil {
			return err
		}
		j = &join{joinName: name, wrapped: make(map[uint32]bool), found: !ev.live}
		if !ev.live {
			j.role = c.roleNow(e.Author) // left to those who were there when it came
			if c.canRead(e.Author) && c.hasOwnAsWriter() {
				j.due = c.ring.now() // nobody else could serve it
			}
		}
		c.joins[name] = j
	}
	if ev.live {
		j.found, j.due = false, c.ring.now().Add(c.turn(e.Card))
	}
	return nil
}

// makeRoom sees to it that one more join may be kept. An agent that is restarted often, and does not get to say that it
// leaves, has many: its oldest cards go first. No name can crowd out the others.
func (c *channel) makeRoom(newcomer joinName) error {
	joins := make(map[string]int)
	for name := range c.joins {
		joins[name.name]++
	}
	crowd := newcomer.name
	switch {
	case joins[crowd] >= maxPerName:
	case len(c.joins) >= maxJoins:
		for name, n := range joins {
			if n > joins[crowd] {
				crowd = name
			}
		}
	default:
		return nil
	}
	oldest := newcomer
	for name := range c.joins {
		if name.name == crowd && (oldest.name != crowd || name.card < oldest.card) {
			oldest = name
		}
	}
	if oldest == newcomer {
		return fmt.Errorf("keyring: more joins of %s than are kept, %d of a name and %d in all, and newer ones", c.name, maxPerName, maxJoins)
	}
	delete(c.joins, oldest)
	return nil
}

// roleNow is what the policy in force gives a name: a role, or none.
func (c *channel) roleNow(name string) string {
	if !c.canRead(name) && !c.canWrite(name) {
		return ""
	}
	return c.role(name)
}

// judge sees to those whose part in the channel a new policy has changed: they may have joined under it before
// this agent adopted it.
func (c *channel) judge() {
	v := c.ring.view.Load()
	if c.judged == v {
		return
	}
	c.judged = v
	if !c.untilKeys().IsZero() {
		c.att.report(Report{Key: policy.KeyPrefix(c.ch), Err: c.tooEarly()})
	}
	for _, j := range c.joins {
		switch role := c.roleNow(j.name); role {
		case j.role:
		case "":
			j.role = "" // so that a later policy that lets it in again changes its part
		default:
			clear(j.wrapped)
			j.found = false // what it was given before is not what it is to have now
			j.due = c.ring.now().Add(c.turn(j.card))
		}
	}
}

// turn says how long to leave a newcomer to others: the readers of a channel order themselves by a hash
// that is different for every newcomer, the first answers at once, the next a moment later if it still has to.
func (c *channel) turn(newcomer string) time.Duration {
	return time.Duration(min(c.rank(newcomer), joinRanks)) * joinStep
}

// makeTurn is turn for making a key. That takes until it is wrapped for everybody, and a second one is wrapped for
// everybody too: so each leaves the ones before it as long as that may take.
func (c *channel) makeTurn(what string) time.Duration {
	return min(time.Duration(c.rank(what))*c.makeStep(), maxPatience)
}

func (c *channel) makeStep() time.Duration {
	return joinStep + time.Duration(len(c.joins))*patiencePerJoin
}

// making is what the readers order themselves by when a key is to be made: the key that is to be replaced.
func (c *channel) making() string {
	if cur := c.current.Load(); cur != nil {
		return cur.statement.created.String()
	}
	return c.name
}

// rank counts the readers that come before this one.
func (c *channel) rank(newcomer string) (before int) {
	mine := rendezvous(newcomer, c.att.own.card.String())
	for _, j := range c.joins {
		if j.card != newcomer && c.canRead(j.name) && rendezvous(newcomer, j.card) < mine {
			before++
		}
	}
	return before
}

func rendezvous(newcomer, card string) uint64 {
	sum := sha256.Sum256([]byte(newcomer + " " + card))
	return binary.BigEndian.Uint64(sum[:])
}

// plan sets when to make a key: if none comes, or when the current one is due for rotation. It clears that
// when no key is needed any more.
func (c *channel) plan(ctx context.Context) {
	cur := c.current.Load()
	c.rotateAt = time.Time{}
	if until := c.untilKeys(); !until.Equal(c.barred) {
		c.barred, c.makeAt = until, time.Time{}
	}
	switch {
	case c.roleNow(c.att.self.Name()) == "":
		c.makeAt = time.Time{} // the policy has taken the channel from this agent
	case cur == nil, c.isReader() && (!cur.reader || c.provisional(cur.statement)):
		if c.makeAt.IsZero() {
			c.makeAt = c.ring.now().Add(c.patience(ctx))
		}
	case c.isReader():
		c.makeAt = time.Time{}
		// The readers take turns again, so that one of them makes the next key.
		c.rotateAt = cur.statement.due.Add(c.makeTurn(c.making()))
	default:
		c.makeAt = time.Time{}
	}
	if until := c.promised(); c.isReader() && !until.IsZero() {
		for _, at := range [...]*time.Time{&c.makeAt, &c.rotateAt} {
			if !at.IsZero() && at.Before(until) {
				*at = until
			}
		}
	}
	if !c.barred.IsZero() && !c.makeAt.IsZero() {
		c.makeAt = c.barred // and then anew
		c.mu.Lock()
		c.lastErr = c.tooEarly()
		c.mu.Unlock()
	}
	c.planAsking(cur)
	c.planSeeking()
}

// promised says how long to leave it to somebody else who is making a key at this moment: a wrap of it is here, and its
// statement, which is published when all have theirs, is not. Whoever hands out wraps of nothing delays others by no more
// than maxPatience.
func (c *channel) promised() (until time.Time) {
	now := c.ring.now()
	var first time.Time
	for _, wraps := range c.waiting {
		for _, e := range wraps {
			if now.Sub(e.came) > maxPatience || !c.canRead(e.wrap.wrapper.Name()) {
				continue
			}
			if first.IsZero() || e.came.Before(first) {
				first = e.came
			}
			if t := e.came.Add(askPatience + c.makeStep()); t.After(until) {
				until = t
			}
		}
	}
	if most := first.Add(maxPatience); until.After(most) {
		return most
	}
	return until
}

// planAsking sets when to join once more: when others seal under a newer key, which this agent has not been given
// although it joined. That is for each such key once, and again after a resync: whoever publishes statements and
// hands out no keys does not have the whole channel asking for ever.
func (c *channel) planAsking(cur *chanKey) {
	lacking := false
	for _, s := range c.statements {
		if !s.asked && c.fit(s) && c.held(s.id) == nil && (cur == nil || c.newer(s, cur.statement)) {
			lacking = true
		}
	}
	switch {
	case !lacking:
		c.askAt = time.Time{}
	case c.askAt.IsZero():
		c.askAt = c.ring.now().Add(askPatience)
	}
}

// planSeeking sets when to look for the keys of frames that were kept: whoever can hand them on may have come back.
func (c *channel) planSeeking() {
	c.mu.Lock()
	sought := c.seekers > 0
	c.mu.Unlock()
	switch {
	case !sought:
		c.seekAt = time.Time{}
	case c.seekAt.IsZero():
		c.seekAt = c.ring.now().Add(askPatience)
		if again := c.soughtAt.Add(c.seekWait); c.seekAt.Before(again) {
			c.seekAt = again
		}
	}
}

// look joins once more and has the whole store looked at again: a wrap that was not believed may be by now, because the
// card of who made it was renewed.
func (c *channel) look(ctx context.Context) error {
	if err := c.join(ctx); err != nil {
		return err
	}
	c.seekAt, c.soughtAt = time.Time{}, c.ring.now()
	if n := len(c.readable()); n != c.soughtKeys {
		c.seekWait, c.soughtKeys = 0, n
	}
	c.seekWait = min(max(seekInterval, 2*c.seekWait), maxSeekInterval)
	c.resync()
	return nil
}

func (c *channel) ask(ctx context.Context) error {
	if err := c.join(ctx); err != nil {
		return err
	}
	c.askAt = time.Time{}
	for _, s := range c.statements {
		s.asked = true
	}
	return nil
}

func (c *channel) join(ctx context.Context) error {
	key := policy.JoinKey(c.ch, c.att.self.Name(), c.att.own.card.String())
	return c.att.store.Put(ctx, policy.BucketKeys, key, []byte(c.att.self.String()))
}

// patience says how long to wait for others before making a key.
func (c *channel) patience(ctx context.Context) time.Duration {
	readers := c.liveReaders(ctx)
	if readers == 0 {
		return 0 // nobody could give one
	}
	if c.isReader() && !c.anyFitStatement() {
		// Nobody has one. The readers that came at the same time take turns, so that one makes it.
		return c.makeTurn(c.making())
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
		if c.canRead(j.name) {
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
	earliest(c.rotateAt)
	earliest(c.askAt)
	earliest(c.seekAt)
	for _, j := range c.joins {
		earliest(j.due)
	}
	return next, ok
}

// duties does what is due: it makes a key if none has come, and gives the key to who asked for it.
func (c *channel) duties(ctx context.Context) error {
	now := c.ring.now()
	due := func(t time.Time) bool { return !t.IsZero() && !now.Before(t) }
	var round []*join
	for _, j := range c.joins {
		if due(j.due) {
			round = append(round, j)
		}
	}
	if due(c.makeAt) || due(c.rotateAt) || c.outdated(round) {
		if err := c.makeKey(ctx); err != nil {
			return fmt.Errorf("keyring: making a key for %s: %w", c.name, err) // what is due stays due
		}
		c.makeAt = time.Time{}
	}
	if due(c.askAt) {
		if err := c.ask(ctx); err != nil {
			return err
		}
	}
	if due(c.seekAt) {
		if err := c.look(ctx); err != nil {
			return err
		}
	}
	if len(round) == 0 {
		return nil
	}
	return c.serve(ctx, round)
}

// outdated reports whether somebody is to be given a key and the current one is from before the policy in force.
// A newcomer does not know that nobody has lost the channel since, so to it such a key is not fit.
func (c *channel) outdated(round []*join) bool {
	cur := c.current.Load()
	return cur != nil && c.isReader() && cur.statement.revision < c.ring.view.Load().policy.Revision() &&
		slices.ContainsFunc(round, func(j *join) bool { return c.roleNow(j.name) != "" })
}

// makeKey draws a channel key, wraps it for everybody who has asked so far, then publishes its statement, so
// that whoever learns of the key has it.
//
// When the store fails in between, the same key is published later: what has been stored of it stays good.
func (c *channel) makeKey(ctx context.Context) error {
	k := c.unpublished
	if k == nil || !c.fit(k.statement) {
		var err error
		if k, err = c.newKey(); err != nil {
			return err
		}
		c.unpublished = k
	}
	s := k.statement
	var work []delivery
	for _, j := range c.joins {
		if !j.wrapped[s.id] {
			work = append(work, delivery{to: j, key: k, new: true})
		}
	}
	// Who would make the next one hears of it first.
	what := c.making()
	slices.SortFunc(work, func(a, b delivery) int {
		return cmp.Or(cmp.Compare(c.later(a.to), c.later(b.to)), cmp.Compare(rendezvous(what, a.to.card), rendezvous(what, b.to.card)))
	})
	if err := c.deliverKeys(ctx, work); err != nil {
		return err
	}
	if c.destroyed(s) {
		return nil // just now
	}
	key := policy.KeyStatementKey(c.ch, s.creator.Name(), s.id, s.hash)
	if err := c.att.store.Put(ctx, policy.BucketKeys, key, s.raw); err != nil {
		return err
	}
	c.unpublished = nil
	c.state(s)
	if err := c.hold(k); err != nil {
		return err
	}
	c.choose()
	return c.ring.save()
}

// later is 1 for writers, who come after the readers.
func (c *channel) later(j *join) int {
	if c.canRead(j.name) {
		return 0
	}
	return 1
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
