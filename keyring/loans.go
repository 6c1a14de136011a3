package keyring

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/oklog/ulid/v2"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// loans keep track of what was made of a channel's keys, wherever it is still referred to: the keys as they were held, also
// those that another has taken the place of, and the keys of sessions. Of what is destroyed all is let go of. What
// nobody refers to any more is not kept for that.
type loans struct {
	mu       sync.Mutex
	keys     tracked[chanKey]
	sessions tracked[sessionAEAD]
	before   time.Time // everything of keys that were made before is let go of
}

// tracked are things that are referred to elsewhere.
type tracked[T any] struct {
	list []weak.Pointer[T]
	left int // how many were left when those that are gone were last struck off
}

func (t *tracked[T]) add(p *T) {
	if len(t.list) >= max(64, 2*t.left) {
		t.list = slices.DeleteFunc(t.list, func(p weak.Pointer[T]) bool { return p.Value() == nil })
		t.left = len(t.list)
	}
	t.list = append(t.list, weak.Make(p))
}

func (t *tracked[T]) each(f func(*T)) {
	for _, w := range t.list {
		if p := w.Value(); p != nil {
			f(p)
		}
	}
}

// sessionAEAD seals or opens with a session's key, until that is let go of.
type sessionAEAD struct {
	made time.Time // the key that it was derived from
	aead atomic.Pointer[tink.AEAD]
}

// track is called with every key that is held.
func (l *loans) track(k *chanKey) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k.loans = l
	l.keys.add(k)
}

// lend derives the key of a session from the K_s of a key that was made at some time.
func (l *loans) lend(ks secret, made time.Time, session ulid.ULID) (tink.AEAD, error) {
	aead, err := ks.sessionAEAD(session)
	if err != nil {
		return nil, err
	}
	s := &sessionAEAD{made: made}
	s.aead.Store(&aead)
	l.mu.Lock()
	defer l.mu.Unlock()
	if made.Before(l.before) {
		return nil, errForgotten
	}
	l.sessions.add(s)
	return s, nil
}

// call lets go of everything of keys that were made before a time.
func (l *loans) call(before time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.before = before
	l.keys.each(func(k *chanKey) {
		if k.statement.madeAt().Before(before) {
			k.forget()
		}
	})
	l.sessions.each(func(s *sessionAEAD) {
		if s.made.Before(before) {
			s.aead.Store(nil)
		}
	})
}

func (s *sessionAEAD) Encrypt(plain, data []byte) ([]byte, error) {
	if a := s.aead.Load(); a != nil {
		return (*a).Encrypt(plain, data)
	}
	return nil, errForgotten
}

func (s *sessionAEAD) Decrypt(sealed, data []byte) ([]byte, error) {
	if a := s.aead.Load(); a != nil {
		return (*a).Decrypt(sealed, data)
	}
	return nil, errForgotten
}

// session derives the key of a session of this agent.
func (k *chanKey) session(id ulid.ULID) (tink.AEAD, error) {
	return k.loans.lend(k.own, k.statement.madeAt(), id)
}

// sessionOf derives the key of a sender's session, from K.
func (k *chanKey) sessionOf(channel, sender string, id ulid.ULID) (tink.AEAD, error) {
	own, err := k.k.senderKey(channel, sender)
	if err != nil {
		return nil, err
	}
	return k.loans.lend(own, k.statement.madeAt(), id)
}

// forget lets go of the key in every copy of it.
func (k *chanKey) forget() {
	k.k.forget()
	k.own.forget()
}
