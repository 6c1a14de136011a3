package keyring

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/policy"
)

// Store is the storage that cards, keys and policy go through. It is not trusted: it may hold back
// entries, and what it invents is not believed. Buckets and keys are those of package policy.
type Store interface {
	// Get returns the newest value of a key, or ErrNotFound.
	Get(ctx context.Context, bucket, key string) ([]byte, error)
	// Put returns when the value is stored.
	Put(ctx context.Context, bucket, key string, value []byte) error
	// List returns the newest entry of every key that matches the filter, a NATS subject filter
	// over the key: "topic.prices.j.>".
	List(ctx context.Context, bucket, filter string) ([]Entry, error)
	// Follow calls fn, one call at a time, for every entry put from now on that matches the filter,
	// until stop is called. fn does not block.
	Follow(ctx context.Context, bucket, filter string, fn func(Entry)) (stop func(), err error)
}

// Entry is one entry of a Store.
type Entry struct {
	Key   string
	Value []byte
}

// Report tells of something in the store that was not believed: it was skipped, and what it would have
// meant did not happen. Key is the store's key, Err the cause.
type Report struct {
	Key string
	Err error
}

// Ring holds what an agent needs to seal and to open: its own keysets and card, the policy it accepted,
// the channel keys it was given, its sessions. It is safe for concurrent use. It prints as "[redacted]".
type Ring struct {
	now       func() time.Time
	operators []identity.Fingerprint
	storage   *storage
	saveMu    sync.Mutex

	ids     idSource
	cards   cardBox
	roots   rootCache
	ceiling ceiling
	ends    sessionEnds
	view    atomic.Pointer[view]

	restored atomic.Pointer[savedState] // what the state directory held, but for keys that are destroyed; it is not changed

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	own      *own
	att      *attachment
	channels map[policy.Channel]*channel
	counted  map[policy.Channel]*Sender
	closed   bool
	done     chan struct{} // closed when Close is through
}

// attachment is what a ring learns from Attach.
type attachment struct {
	src    identity.Source
	store  Store
	self   identity.ID
	own    *own
	report func(Report)
}

func (*Ring) String() string             { return redacted }
func (*Ring) Format(w fmt.State, _ rune) { io.WriteString(w, redacted) }

// Open opens the ring kept in the state directory dir, encrypted under kek, or makes one there. The
// operators are the fingerprints of the keys that may sign policy; at least one is needed. The directory
// belongs to one running instance: a second one gets ErrLocked. ErrWrongKey means that kek does not fit.
func Open(dir string, kek KEK, operators ...identity.Fingerprint) (*Ring, error) {
	if dir == "" {
		return nil, errors.New("keyring: Open needs a directory; use Memory to keep keys for one life only")
	}
	r, err := newRing(operators)
	if err != nil {
		return nil, err
	}
	if r.storage, err = openStorage(dir, kek); err != nil {
		return nil, err
	}
	if err := r.restore(); err != nil {
		return nil, errors.Join(err, r.storage.close())
	}
	return r, nil
}

// Memory returns a ring that lives as long as the process: it has fresh keysets, and remembers neither
// policy nor what it received.
func Memory(operators ...identity.Fingerprint) (*Ring, error) { return newRing(operators) }

func newRing(operators []identity.Fingerprint) (*Ring, error) {
	if len(operators) == 0 {
		return nil, errors.New("keyring: pin at least one operator fingerprint: without it any policy would do")
	}
	for _, f := range operators {
		if f.IsZero() {
			return nil, errors.New("keyring: empty operator fingerprint")
		}
	}
	r := &Ring{now: time.Now, operators: operators, channels: make(map[policy.Channel]*channel), done: make(chan struct{})}
	r.ids.now = r.clock
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r, nil
}

func (r *Ring) clock() time.Time { return r.now() }

// Attach makes the ring one agent's: the one of src's certificate. It accepts the store's policy,
// publishes the agent's card and returns when both are done. report, which may be nil, is called for
// every entry of the store that is not believed; it must not block. A ring is attached once.
//
// With a state directory it takes part at once in the channels on which it made keys as a writer: it may be the only one
// to hand them on.
func (r *Ring) Attach(ctx context.Context, src identity.Source, store Store, report func(Report)) error {
	self, _, err := identity.Self(src)
	if err != nil {
		return err
	}
	if !self.IsAgent() {
		return fmt.Errorf("keyring: %s is no agent: use a certificate for spiffe://%s/agent/<name>", self, self.TrustDomain())
	}
	if report == nil {
		report = func(Report) {}
	}
	a := &attachment{src: src, store: store, self: self, report: report}
	if err := r.become(a); err != nil {
		return err
	}
	if err := r.Refresh(ctx); err != nil {
		r.mu.Lock()
		r.att = nil
		r.mu.Unlock()
		return err
	}
	r.resume(a)
	return nil
}

// become fixes whose ring this is: it restores that agent's keysets, or draws some.
func (r *Ring) become(a *attachment) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		return ErrClosed
	case r.att != nil:
		return ErrAttached
	}
	if s := r.restored.Load(); s != nil && s.Agent != "" && s.Agent != a.self.String() {
		return fmt.Errorf("keyring: the state directory belongs to %s, not to %s", s.Agent, a.self)
	}
	if r.own == nil {
		id, err := r.ids.next()
		if err != nil {
			return err
		}
		if r.own, err = newOwn(id); err != nil {
			return err
		}
	}
	a.own = r.own
	r.att = a
	return nil
}

// attachment returns whose ring this is.
func (r *Ring) attachment() (*attachment, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		return nil, ErrClosed
	case r.att == nil:
		return nil, ErrNotAttached
	}
	return r.att, nil
}

// Refresh brings the ring up to date after a connection was lost or a certificate renewed: it accepts a
// newer policy, publishes the card anew and looks again at the keys of the channels in use.
func (r *Ring) Refresh(ctx context.Context) error {
	a, err := r.attachment()
	if err != nil {
		return err
	}
	raw, err := a.store.Get(ctx, policy.BucketPolicy, policy.PolicyKey)
	if errors.Is(err, ErrNotFound) {
		return ErrNoPolicy
	}
	if err != nil {
		return fmt.Errorf("keyring: reading the policy: %w", err)
	}
	if err := r.AdoptPolicy(raw); err != nil {
		return err
	}
	if p := r.view.Load().policy; p.Revoked(a.self.Name()) || !p.Known(a.self.Name()) {
		return fmt.Errorf("%w: agent %q has no place in policy revision %d; add it there or use another certificate",
			ErrNotEntitled, a.self.Name(), p.Revision())
	}
	raw, expires, err := signCard(a.own, a.src, r.now())
	if err != nil {
		return err
	}
	if !r.now().Before(expires) {
		return fmt.Errorf("keyring: the certificate of %s expired at %s; renew it", a.self, expires.Format(time.RFC3339))
	}
	if err := a.store.Put(ctx, policy.BucketCards, policy.CardKey(a.self.Name(), a.own.card.String()), raw); err != nil {
		return fmt.Errorf("keyring: publishing the card: %w", err)
	}
	if err := r.save(); err != nil {
		return err
	}
	r.eachChannel((*channel).resync)
	return nil
}

func (r *Ring) eachChannel(f func(*channel)) {
	r.mu.Lock()
	all := make([]*channel, 0, len(r.channels))
	for _, c := range r.channels {
		all = append(all, c)
	}
	r.mu.Unlock()
	for _, c := range all {
		f(c)
	}
}

// Self returns the agent's ID, zero before Attach.
func (r *Ring) Self() identity.ID {
	if a, err := r.attachment(); err == nil {
		return a.self
	}
	return identity.ID{}
}

// Card returns the id of this instance's card, zero before Attach.
func (r *Ring) Card() ulid.ULID {
	if a, err := r.attachment(); err == nil {
		return a.own.card
	}
	return ulid.ULID{}
}

// Join takes part in a channel and returns when this agent holds a key to it: from another agent, or one
// that it made because nobody else had any to give. A reader waits about a quarter of a second for the
// others before it makes one, a writer two seconds; where nobody else has joined, neither waits. Join
// again is free. The error is ErrNotEntitled when the policy gives the agent no part in the channel,
// else ctx's.
func (r *Ring) Join(ctx context.Context, ch policy.Channel) error {
	c, err := r.channel(ch)
	if err != nil {
		return err
	}
	return c.await(ctx, func() bool { return c.current.Load() != nil })
}

// channel returns the running channel, starting it at first use.
func (r *Ring) channel(ch policy.Channel) (*channel, error) {
	a, err := r.attachment()
	if err != nil {
		return nil, err
	}
	p, me := r.view.Load().policy, a.self.Name()
	if !p.CanRead(ch, me) && !p.CanWrite(ch, me) {
		return nil, fmt.Errorf("%w: %s gives %q no part in %s", ErrNotEntitled, p.Where(ch), me, ch)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, ErrClosed
	}
	c := r.channels[ch]
	if c == nil {
		c = newChannel(r, a, ch)
		c.restore(r.restored.Load())
		r.channels[ch] = c
		r.wg.Go(func() { c.run(r.ctx) })
	}
	return c, nil
}

// Close saves what is to be kept, tells the others that a ring without a state directory will not be
// back, and forgets the keys. It is idempotent and waits. ctx bounds what it says to the store.
func (r *Ring) Close(ctx context.Context) error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		<-r.done
		return nil
	}
	defer close(r.done)
	a, all := r.att, r.channels
	r.closed, r.channels = true, nil
	r.mu.Unlock()
	r.ceiling.closed.Store(true)
	r.cancel()
	r.wg.Wait()
	err := r.finishSessions()
	if r.storage != nil {
		return errors.Join(err, r.saveState(a, all), r.ceiling.settle(r.storage), r.storage.close())
	}
	for _, c := range all {
		c.leave(ctx)
	}
	return nil
}
