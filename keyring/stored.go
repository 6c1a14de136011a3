package keyring

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// StoredReceiver opens frames of one channel that a stream has kept: tasks, results, events that are read back. It has no
// replay state: whether a frame has been dealt with already is the caller's to know. It is safe for concurrent use. It
// prints as "[redacted]".
//
// What differs from a Receiver: a frame may be of any age. Its sender's card may have expired since, if the
// frame is at most as old as the policy's max_card_age. A signed frame may be under any key of the channel that this agent holds as a reader,
// also one that is not fit for live traffic any more; one that is not signed only under a key that is, because whoever holds
// K can make every writer's seal, and choose the time too. The policy in force says who may send, and whom it revokes. Who only
// reads back what was, and acts on none of it, asks for what has expired too, by Want.Expired.
type StoredReceiver struct {
	gate

	mu       sync.RWMutex
	sessions map[sessionKey]*storedSession
}

func (*StoredReceiver) String() string             { return redacted }
func (*StoredReceiver) Format(w fmt.State, _ rune) { io.WriteString(w, redacted) }

// storedSession is known only after one of its frames has passed every check. It does not change.
type storedSession struct {
	senderSession
	live bool // its key is fit for live traffic
}

// StoredReceiver returns a receiver for the frames of one channel that this agent may read. Ring.Join or
// Ring.AwaitStored takes part in the channel, without which no key is here.
func (r *Ring) StoredReceiver(ch policy.Channel) (*StoredReceiver, error) {
	g, err := r.gateOf(ch)
	if err != nil {
		return nil, err
	}
	return &StoredReceiver{gate: g, sessions: make(map[sessionKey]*storedSession)}, nil
}

// Open checks a frame in the order of the reasons and, if all is well, fills out; the slice of messages that out has is
// used again, but not the payloads and headers that they refer to. It does no I/O, and may be called for one frame
// any number of times. The error is a *Rejection or ErrClosed.
//
// After NoKey and NoCard the frame may be opened later: see Ring.AwaitStored. Stale is the reason also when the card of
// its sender has expired and will not do any more, and NoKey is for good where the error wraps ErrKeyDestroyed. NotEntitled and Revoked are the word of the policy that this ring has
// accepted; there may be a newer one.
func (sr *StoredReceiver) Open(frame []byte, w *Want, out *Opened) error {
	lent := out.Messages
	err := sr.open(frame, w, out)
	if err != nil { // nothing of a frame that was not accepted is handed out
		clear(lent[:cap(lent)])
		*out = Opened{Messages: lent[:0]}
	}
	return err
}

func (sr *StoredReceiver) open(frame []byte, w *Want, out *Opened) error {
	b := scratches.Get().(*scratch)
	defer b.release()
	f := &b.frame
	if err := sr.parse(frame, f); err != nil {
		return err
	}
	now := sr.ring.now()
	s, reason, detail := sr.admit(f, w, now)
	if reason != 0 {
		return sr.refuse(f, reason, detail)
	}
	plain, reason := sr.authentic(f, s.aead, s.card, b)
	if reason != 0 {
		return sr.refuse(f, reason, "")
	}
	messages, wrong := readContent(f, plain, out.Messages[:0], &b.tree)
	if wrong == "" && w.takesNote(f) {
		wrong = notEmpty(messages)
	}
	if wrong != "" {
		return reject(f, BadContent, wrong)
	}
	sr.remember(s, f)
	*out = s.opened(f, messages)
	return nil
}

// admit runs the checks that need no cryptography but to derive a new session's key. The session that it returns has
// a card only if that speaks for the frame.
func (sr *StoredReceiver) admit(f *envelope.Frame, w *Want, now time.Time) (*storedSession, Reason, string) {
	if reason, detail := sr.directed(f, w); reason != 0 {
		return nil, reason, detail
	}
	v := sr.ring.view.Load()
	sr.mu.RLock()
	s := sr.sessions[sessionKey{f.Session, f.Card, f.Key}]
	sr.mu.RUnlock()
	if s == nil || s.view != v || !s.of(f) || !s.card.standsFor(timeOf(f), now, v.policy.MaxCardAge()) || !f.Signed() && !s.live {
		return sr.meet(v, f, w, now)
	}
	if reason := s.permits(f, w); reason != 0 {
		return nil, reason, ""
	}
	if detail := untimely(f, w, now); detail != "" {
		return nil, Stale, detail
	}
	return s, 0, ""
}

// meet judges a frame of a session that is not known under the policy in force.
func (sr *StoredReceiver) meet(v *view, f *envelope.Frame, w *Want, now time.Time) (*storedSession, Reason, string) {
	base, reason, detail := sr.judge(v, f)
	if reason != 0 {
		return nil, reason, detail
	}
	s := &storedSession{senderSession: base}
	if reason := s.permits(f, w); reason != 0 {
		return nil, reason, ""
	}
	if detail := untimely(f, w, now); detail != "" {
		return nil, Stale, detail
	}
	at, maxAge, by := timeOf(f), v.policy.MaxCardAge(), sr.ring.cards.get(s.sender, f.Card)
	if by != nil && by.lapsedFor(at, now, maxAge) {
		return nil, Stale, by.lapse(at, maxAge)
	}
	k, live, detail := sr.keyOf(&s.senderSession, f)
	if k != nil && !live && !f.Signed() {
		k, detail = nil, "the frame is not signed, and its key is not fit for live traffic any more"
	}
	if k == nil {
		return nil, NoKey, detail
	}
	s.live = live
	if err := s.derive(k, f); err != nil {
		return nil, NoKey, err.Error()
	}
	if by != nil && by.standsFor(at, now, maxAge) {
		s.card = by
	}
	return s, 0, ""
}

// untimely says what is wrong with a frame's times by themselves; empty: nothing.
func untimely(f *envelope.Frame, w *Want, now time.Time) string {
	switch at := uint64(now.UnixMilli()); {
	case f.Expires != 0 && at >= f.Expires && !w.Expired:
		return "it has expired"
	case f.ID.Time() > at+uint64(MaxClockLead.Milliseconds()):
		return "its time is ahead of this machine's clock"
	}
	return ""
}

// remember keeps a session of which a frame has passed every check.
func (sr *StoredReceiver) remember(s *storedSession, f *envelope.Frame) {
	key := sessionKey{f.Session, f.Card, f.Key}
	sr.mu.RLock()
	known := sr.sessions[key] == s
	sr.mu.RUnlock()
	if known {
		return
	}
	sr.mu.Lock()
	defer sr.mu.Unlock()
	if len(sr.sessions) >= maxStored {
		for other := range sr.sessions { // any: a session that goes on is met again
			delete(sr.sessions, other)
			break
		}
	}
	sr.sessions[key] = s
}
