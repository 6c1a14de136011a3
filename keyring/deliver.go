package keyring

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/policy"
)

// serve gives everybody in a round the keys that they lack.
func (c *channel) serve(ctx context.Context, round []*join) error {
	var work []delivery
	for _, k := range c.readable() {
		for _, j := range round {
			if !j.wrapped[k.statement.id] && c.gives(k, c.roleNow(j.name)) {
				work = append(work, delivery{to: j, key: k})
			}
		}
	}
	if err := c.deliverKeys(ctx, work); err != nil {
		return err
	}
	for _, j := range round {
		j.due, j.role = time.Time{}, c.roleNow(j.name)
	}
	return nil
}

// readable returns the keys of which this agent holds K.
func (c *channel) readable() (keys []*chanKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.keys {
		if k.reader {
			keys = append(keys, k)
		}
	}
	return keys
}

// gives reports whether this agent hands a key of which it holds K to a newcomer: a reader the current one and, where the
// policy gives newcomers the channel's history, to writers every fit one and to readers every one that they can
// believe, because what was kept may be sealed under it; a writer, to readers, those that it made itself, because what
// it sealed under them can be opened by nobody else. Between two agents the key before the current one goes along for as long as what
// was sealed under it may be on its way: such a frame is what has the other join, and there is nobody who must not open it.
func (c *channel) gives(k *chanKey, role string) bool {
	if !c.isReader() {
		return role == roleReader && k.statement.creator == c.att.self
	}
	settings, _ := c.ring.view.Load().policy.Settings(c.ch)
	switch {
	case k == c.current.Load():
		return true
	case k == c.before && c.ch.Kind() == policy.KindPair && c.ring.now().Sub(c.changedAt) <= settings.MaxAge:
		return c.fit(k.statement)
	case !settings.History:
		return false
	case role == roleReader:
		return c.mayCreate(k.statement) == nil
	}
	return c.fit(k.statement)
}

// hasOwnAsWriter reports whether this agent, a writer and no reader, holds keys that it made.
func (c *channel) hasOwnAsWriter() bool {
	return !c.isReader() && slices.ContainsFunc(c.readable(), func(k *chanKey) bool { return k.statement.creator == c.att.self })
}

// delivery is one key for one newcomer.
type delivery struct {
	to  *join
	key *chanKey
	new bool // made just now, so nobody else can have given it
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
	if c.destroyed(s) {
		return false, nil
	}
	if !c.canRead(d.to.name) && (!c.canWrite(d.to.name) || c.provisional(s)) {
		return false, nil
	}
	if !d.new {
		if given, err := c.givenAlready(ctx, d); err != nil || given {
			return given, err
		}
	}
	to, err := c.cardOf(ctx, d.to)
	if errors.Is(err, errStore) {
		return false, err
	}
	if err != nil {
		if !d.to.found || !errors.Is(err, identity.ErrExpired) { // else it is as good as left
			c.att.report(Report{Key: policy.JoinKey(c.ch, d.to.name, d.to.card), Err: err})
		}
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
	if c.destroyed(s) { // just now
		return false, nil
	}
	key := policy.WrapKey(c.ch, c.att.self.Name(), d.to.card, s.id, hash)
	if err := c.att.store.Put(ctx, policy.BucketKeys, key, raw); err != nil {
		return false, err
	}
	return true, nil
}

// givenAlready reports whether another reader, or this agent in a life before this one, has given a newcomer the key. The
// names of wraps are enough to tell: permissions keep agents to their own names, and what a broker invents here denies the
// newcomer this key, which the broker can do anyway.
func (c *channel) givenAlready(ctx context.Context, d delivery) (bool, error) {
	if !d.to.found && c.turn(d.to.card) == 0 {
		return false, nil
	}
	entries, err := c.att.store.List(ctx, policy.BucketKeys, policy.KeyPrefix(c.ch)+".w.*."+d.to.card+".>")
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		if p, err := policy.ParseEntry(e.Key); err == nil && p.ID == d.key.statement.id && (c.canRead(p.Author) || d.to.found && p.Author == c.att.self.Name()) {
			return true, nil
		}
	}
	return false, nil
}
