package keyring

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/sealbus/sealbus/policy"
)

// Sender seals frames on one channel, under the newest key that is fit. It is safe for concurrent use;
// sequence numbers are given in the order of the calls, so who wants frames to arrive in that order sends
// them in it. It prints as "[redacted]".
type Sender struct {
	ring *Ring
	att  *attachment
	c    *channel
	name []byte // of the channel
	self []byte // SPIFFE ID

	allowed atomic.Pointer[writing] // what the policy in force says of this sender

	mu      sync.Mutex
	session *outSession
	count   *counter // nil where sessions are not counted
}

// writing is what one policy says about writing to a channel.
type writing struct {
	view     *view
	settings policy.Settings
	err      error
}

// outSession is a sender's session: an AES-GCM key that is this sender's alone. Only seq ever changes.
type outSession struct {
	key  *chanKey
	id   ulid.ULID
	aead tink.AEAD
	born time.Time
	seq  uint64 // the last one given, under the sender's mu

	count *count // of a counted session, under the sender's mu; else nil
}

func (*Sender) String() string             { return redacted }
func (*Sender) Format(w fmt.State, _ rune) { io.WriteString(w, redacted) }

// Sender joins a channel that this agent may write to and returns when it can seal, as Join does.
func (r *Ring) Sender(ctx context.Context, ch policy.Channel) (*Sender, error) {
	a, err := r.attachment()
	if err != nil {
		return nil, err
	}
	if p := r.view.Load().policy; !p.CanWrite(ch, a.self.Name()) {
		return nil, mayNotWrite(p, a.self.Name(), ch)
	}
	if err := r.Join(ctx, ch); err != nil {
		return nil, err
	}
	c, err := r.channel(ch)
	if err != nil {
		return nil, err
	}
	return &Sender{ring: r, att: a, c: c, name: []byte(ch.String()), self: []byte(a.self.String())}, nil
}

// settings returns what the policy in force says of this sender's frames, looked up once a policy.
func (s *Sender) settings() (policy.Settings, error) {
	if s.ring.ceiling.closed.Load() {
		return policy.Settings{}, ErrClosed
	}
	v := s.ring.view.Load()
	if w := s.allowed.Load(); w != nil && w.view == v {
		return w.settings, w.err
	}
	w := &writing{view: v}
	var ok bool
	if w.settings, ok = v.policy.Settings(s.c.ch); !ok || !v.policy.CanWrite(s.c.ch, s.att.self.Name()) {
		w.err = mayNotWrite(v.policy, s.att.self.Name(), s.c.ch)
	}
	s.allowed.Store(w)
	return w.settings, w.err
}

func mayNotWrite(p *policy.Policy, agent string, ch policy.Channel) error {
	return fmt.Errorf("%w: %s does not let %q write to %s", ErrNotEntitled, p.Where(ch), agent, ch)
}

// Committed reports whether frames carry a commitment under the policy in force: what a Gathering for this sender is
// to be Reset with. It fails with ErrNotEntitled where the policy does not let this agent write any more, and with ErrClosed.
// It is cheap.
func (s *Sender) Committed() (bool, error) {
	settings, err := s.settings()
	return settings.Retain > 0, err
}

// reserve gives n frames, at most envelope.MaxLeaves, the sequence numbers from first on, all in one session.
func (s *Sender) reserve(n int, now time.Time) (o *outSession, first uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.renew(uint64(n), now); err != nil {
		return nil, 0, err
	}
	first = s.session.seq + 1
	s.session.seq += uint64(n)
	return s.session, first, nil
}

// renew begins a new session where there is none yet, the key has been replaced, or the session is at
// its end: what is left of it has no room for n frames.
func (s *Sender) renew(n uint64, now time.Time) error {
	cur := s.c.current.Load()
	if cur == nil {
		return s.noKey()
	}
	if o := s.session; o != nil && o.count == nil && o.goesOn(cur, n, now) {
		return nil
	}
	o, err := s.newSession(cur, now)
	if err != nil {
		return err
	}
	s.session = o
	return nil
}

// goesOn reports whether the session has room for n frames under a key.
func (o *outSession) goesOn(cur *chanKey, n uint64, now time.Time) bool {
	return o.key == cur && o.seq+n <= SessionFrames && now.Sub(o.born) < SessionLife
}

func (s *Sender) newSession(cur *chanKey, now time.Time) (*outSession, error) {
	id, err := s.ring.ids.next()
	if err != nil {
		return nil, err
	}
	aead, err := cur.session(id)
	if err != nil {
		return nil, err
	}
	return &outSession{key: cur, id: id, aead: aead, born: now}, nil
}

func (s *Sender) noKey() error {
	return fmt.Errorf("%w: none for %s is fit any more and no other has come; try again", ErrNoKey, s.c.name)
}
