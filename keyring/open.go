package keyring

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// Want says what a receiver expects of a frame at the place where it arrived.
type Want struct {
	Kinds     KindSet
	Recipient string    // what the header must name: the subject without its prefix
	Ref       ulid.ULID // what it must answer; zero: nothing
	Sender    string    // whose it must be, by name; empty: any entitled one's
}

// KindSet is a set of message kinds.
type KindSet uint16

// Kinds returns the set of the kinds given.
func Kinds(kinds ...envelope.Kind) (s KindSet) {
	for _, k := range kinds {
		s |= 1 << k
	}
	return s
}

func (s KindSet) has(k envelope.Kind) bool { return s&(1<<k) != 0 }

// Opened is a frame that passed every check.
type Opened struct {
	Kind     envelope.Kind
	ID       ulid.ULID // the frame's
	Ref      ulid.ULID
	Channel  policy.Channel
	Sender   identity.ID
	Card     ulid.ULID
	Session  ulid.ULID
	Seq      uint64
	Time     time.Time // when it was sealed, to the millisecond, by the sender's clock
	Signed   bool
	Lost     uint64             // frames of this session that are now known to have been lost before it
	Messages []envelope.Message // alias the opened plaintext
}

// Receiver opens live frames at one place: a subscription to a channel, an agent's own subject, an inbox.
// It holds that place's replay state: what a Receiver has accepted once it never accepts again, and it
// accepts nothing sealed before the millisecond in which it was made, nor before what the ring has accepted until
// then, nor, with a state directory, before the time up to which an earlier process may have accepted frames. It is safe for concurrent use. It prints as "[redacted]".
type Receiver struct {
	ring *Ring
	att  *attachment
	only policy.Channel // zero: every pair channel of this agent
	name string

	start   atomic.Int64 // Unix ms: nothing sealed earlier is accepted
	ceiling int64        // nor this or earlier

	mu       sync.Mutex
	sessions map[sessionKey]*inSession
	opened   map[identity.ID]int // sessions by sender
	pruneAt  int
	pruned   int64 // Unix ms: when sessions were last forgotten
}

func (*Receiver) String() string             { return redacted }
func (*Receiver) Format(w fmt.State, _ rune) { io.WriteString(w, redacted) }

type sessionKey struct {
	session, card ulid.ULID
	key           uint32
}

// inSession is what is known of a sender's session. It exists only after one of its frames has passed
// every check.
type inSession struct {
	channel  policy.Channel
	name     string
	sender   identity.ID
	senderID string
	settings policy.Settings
	view     *view   // under which the next field was found
	kinds    KindSet // what the sender may do here
	aead     tink.AEAD
	card     *card

	window window
	newest int64 // Unix ms of its newest frame
}

// Receiver returns a receiver for the frames of one channel that this agent may read.
func (r *Ring) Receiver(ch policy.Channel) (*Receiver, error) {
	a, err := r.attachment()
	if err != nil {
		return nil, err
	}
	if p := r.view.Load().policy; !p.CanRead(ch, a.self.Name()) {
		return nil, fmt.Errorf("%w: policy revision %d does not let %q read %s", ErrNotEntitled, p.Revision(), a.self.Name(), ch)
	}
	rc := r.receiver(a)
	rc.only, rc.name = ch, ch.String()
	return rc, nil
}

// PairReceiver returns a receiver for frames that other agents send to this one alone.
func (r *Ring) PairReceiver() (*Receiver, error) {
	a, err := r.attachment()
	if err != nil {
		return nil, err
	}
	return r.receiver(a), nil
}

func (r *Ring) receiver(a *attachment) *Receiver {
	start := r.now().UnixMilli()
	rc := &Receiver{ring: r, att: a, ceiling: r.ceiling.reached(start), pruneAt: 64,
		sessions: make(map[sessionKey]*inSession), opened: make(map[identity.ID]int)}
	rc.start.Store(start)
	return rc
}

// Open checks a frame in the order of the reasons and, if all is well, fills out; the slices that out has
// are used again. It does no I/O but for the state directory's ceiling. The error is a *Rejection, or that of
// the state directory, or ErrClosed. After NoKey and NoCard the frame may be opened later: see Ring.Await.
func (rc *Receiver) Open(frame []byte, w *Want, out *Opened) error {
	var f envelope.Frame
	if err := envelope.Parse(frame, &f); err != nil {
		return &Rejection{Reason: Malformed, Detail: err.Error()}
	}
	if f.Seq > SessionFrames {
		return reject(&f, Malformed, "a sequence number past a session's end")
	}
	if rc.ring.ceiling.closed.Load() {
		return ErrClosed
	}
	now := rc.ring.now()
	s, reason, detail := rc.admit(&f, w, now)
	if reason != 0 {
		return reject(&f, reason, detail)
	}
	b := scratches.Get().(*scratch)
	defer b.release()
	b.data = envelope.AppendAssociatedData(b.data, f.Head)
	plain, err := s.aead.Decrypt(f.Ciphertext, b.data)
	if err != nil {
		return reject(&f, BadSeal, "")
	}
	if reason, detail := rc.authentic(s, &f, now, b); reason != 0 {
		return reject(&f, reason, detail)
	}
	ms := int64(f.ID.Time())
	if err := rc.ring.ceiling.pass(rc.ring.storage, ms, now.UnixMilli()); errors.Is(err, ErrClosed) {
		return err
	} else if err != nil {
		return fmt.Errorf("keyring: writing the state directory: %w", err)
	}
	lost, reason := rc.accept(s, &f, ms, now)
	if reason != 0 {
		return reject(&f, reason, "")
	}
	messages, err := envelope.ParseMessages(plain, f.Flags, f.Count, out.Messages[:0])
	if err != nil {
		return reject(&f, BadContent, err.Error())
	}
	if f.Committed() {
		if root, err := envelope.CommitRoot(messages); err != nil || root != f.Commit {
			return reject(&f, BadContent, "the messages are not those committed to")
		}
	}
	*out = Opened{
		Kind: f.Kind, ID: f.ID, Ref: f.Ref, Channel: s.channel, Sender: s.sender, Card: f.Card, Session: f.Session,
		Seq: f.Seq, Time: time.UnixMilli(ms), Signed: f.Signed(), Lost: lost, Messages: messages,
	}
	return nil
}

func reject(f *envelope.Frame, reason Reason, detail string) error {
	return &Rejection{Reason: reason, Channel: string(f.Channel), Sender: string(f.Sender), ID: f.ID, Detail: detail}
}

// admit runs the checks that need no cryptography but to derive a new session's key.
func (rc *Receiver) admit(f *envelope.Frame, w *Want, now time.Time) (s *inSession, reason Reason, detail string) {
	if reason, detail := rc.directed(f, w); reason != 0 {
		return nil, reason, detail
	}
	v := rc.ring.view.Load()
	rc.mu.Lock()
	s = rc.sessions[sessionKey{f.Session, f.Card, f.Key}]
	if s != nil && (s.name != string(f.Channel) || s.senderID != string(f.Sender)) {
		s = nil
	}
	seen := s != nil && !s.window.check(f.Seq)
	rc.mu.Unlock()
	if s != nil && s.view == v && s.card.validAt(now) {
		if reason := rc.fresh(s, f, w, now); reason != 0 {
			return nil, reason, ""
		}
		if seen {
			return nil, Seen, ""
		}
		return s, 0, ""
	}
	return rc.meet(v, f, w, now, seen) // judged anew; accept keeps the window of a session that is the same
}

// directed checks that the frame belongs where it arrived.
func (rc *Receiver) directed(f *envelope.Frame, w *Want) (Reason, string) {
	switch {
	case !w.Kinds.has(f.Kind):
		return Misdirected, "a " + f.Kind.String() + " is not expected here"
	case string(f.Recipient) != w.Recipient:
		return Misdirected, "for another recipient"
	case f.Ref != w.Ref:
		return Misdirected, "answers something else"
	case !rc.only.IsZero() && string(f.Channel) != rc.name:
		return Misdirected, "of another channel"
	}
	return 0, ""
}

// fresh runs the checks of a session that are left before its key and its window are looked at.
func (rc *Receiver) fresh(s *inSession, f *envelope.Frame, w *Want, now time.Time) Reason {
	switch {
	case !s.kinds.has(f.Kind) || w.Sender != "" && w.Sender != s.sender.Name():
		return NotEntitled
	case s.settings.Signed && !f.Signed() || s.settings.Retain > 0 && !f.Committed():
		return Unsigned
	case rc.stale(f, s.settings, now):
		return Stale
	}
	return 0
}

// stale reports whether a frame's time is past its limit, outside the live window, or before this
// receiver's own time.
func (rc *Receiver) stale(f *envelope.Frame, settings policy.Settings, now time.Time) bool {
	ms, at := int64(f.ID.Time()), now.UnixMilli()
	return f.Expires != 0 && uint64(at) >= f.Expires ||
		ms < at-settings.MaxAge.Milliseconds() || ms > at+MaxClockLead.Milliseconds() ||
		ms < rc.start.Load() || ms <= rc.ceiling
}

// meet judges a frame of a session that is not known under the policy in force. The session that it returns
// is remembered only after the frame has passed every check.
func (rc *Receiver) meet(v *view, f *envelope.Frame, w *Want, now time.Time, seen bool) (*inSession, Reason, string) {
	h, channelErr, senderErr := claimsOf(&f.Header)
	me := rc.att.self
	switch {
	case channelErr != nil:
		return nil, Misdirected, channelErr.Error()
	case rc.only.IsZero() && h.channel.Kind() != policy.KindPair:
		return nil, Misdirected, "not of a pair channel"
	case h.channel.Kind() == policy.KindPair && (senderErr != nil || h.sender == me || h.channel.Other(me.Name()) != h.sender.Name()):
		return nil, Misdirected, "not of a pair of this agent with the sender"
	case senderErr != nil:
		return nil, NotEntitled, senderErr.Error()
	}
	s := &inSession{channel: h.channel, name: h.channel.String(), sender: h.sender, senderID: h.sender.String(), view: v}
	p, name := v.policy, h.sender.Name()
	if p.Revoked(name) {
		return nil, Revoked, ""
	}
	var ok bool
	if s.settings, ok = p.Settings(h.channel); !ok || h.sender.TrustDomain() != me.TrustDomain() || !p.CanRead(h.channel, me.Name()) {
		return nil, NotEntitled, "the policy has no such channel for these two"
	}
	s.kinds = entitled(p, h.channel, name, me.Name())
	if reason := rc.fresh(s, f, w, now); reason != 0 {
		return nil, reason, ""
	}
	if reason, detail := s.findKeys(rc, f, now); reason != 0 {
		return nil, reason, detail
	}
	if seen {
		return nil, Seen, ""
	}
	return s, 0, ""
}

// entitled returns the kinds of message that the policy lets an agent send to another on a channel.
func entitled(p *policy.Policy, ch policy.Channel, sender, receiver string) KindSet {
	if ch.Kind() == policy.KindPair {
		var s KindSet
		if p.MayRequest(sender, receiver) {
			s |= Kinds(envelope.KindRequest)
		}
		if p.MayReply(sender, receiver) {
			s |= Kinds(envelope.KindReply, envelope.KindError)
		}
		return s
	}
	if !p.CanWrite(ch, sender) {
		return 0
	}
	switch ch.Kind() {
	case policy.KindTopic:
		return Kinds(envelope.KindEvent, envelope.KindControl)
	case policy.KindService:
		return Kinds(envelope.KindRequest)
	case policy.KindQueue:
		return Kinds(envelope.KindTask, envelope.KindControl)
	case policy.KindResult:
		return Kinds(envelope.KindResult, envelope.KindProgress, envelope.KindError)
	}
	return 0
}

// findKeys finds the session's AEAD, and its sender's card if that is here already.
func (s *inSession) findKeys(rc *Receiver, f *envelope.Frame, now time.Time) (Reason, string) {
	rc.ring.mu.Lock()
	c := rc.ring.channels[s.channel]
	rc.ring.mu.Unlock()
	if c == nil {
		return NoKey, "not joined"
	}
	k := c.held(f.Key)
	switch {
	case k == nil || !k.reader:
		return NoKey, ""
	case !c.opens(k.statement, s.sender.Name()):
		return NoKey, "the key is not fit for live traffic any more"
	}
	own, err := k.k.senderKey(s.name, s.senderID)
	if err == nil {
		s.aead, err = own.sessionAEAD(f.Session)
	}
	if err != nil {
		return NoKey, err.Error()
	}
	s.card = rc.ring.cards.cached(s.sender, f.Card, now)
	return 0, ""
}

// authentic checks the card and the signature of a frame whose seal has opened.
func (rc *Receiver) authentic(s *inSession, f *envelope.Frame, now time.Time, b *scratch) (Reason, string) {
	if s.card == nil || !s.card.validAt(now) {
		return NoCard, ""
	}
	if !f.Signed() {
		return 0, ""
	}
	if !rc.ring.roots.verify(f, s.card, b.data) {
		return BadSignature, ""
	}
	return 0, ""
}

// accept enters the frame into the replay state: the one place where that changes.
func (rc *Receiver) accept(s *inSession, f *envelope.Frame, ms int64, now time.Time) (lost uint64, reason Reason) {
	key := sessionKey{f.Session, f.Card, f.Key}
	rc.mu.Lock()
	defer rc.mu.Unlock()
	if ms < rc.start.Load() {
		return 0, Stale // its session was forgotten while this frame was being opened
	}
	if have := rc.sessions[key]; have != s {
		if have != nil && have.name == s.name && have.senderID == s.senderID {
			s.window, s.newest = have.window, have.newest // known before, judged anew
		} else if !rc.room(s.sender, now) {
			return 0, Overload
		} else {
			if have != nil {
				rc.opened[have.sender]--
			}
			rc.opened[s.sender]++
		}
		rc.sessions[key] = s
	}
	if !s.window.check(f.Seq) {
		return 0, Seen
	}
	s.newest = max(s.newest, ms)
	return s.window.accept(f.Seq), 0
}

// room makes sure that one more session of a sender fits, without those of others having to go. It forgets sessions of which every frame is stale by now, and
// sees to it that they stay stale, whatever becomes of the clock and of the policy's max_age.
func (rc *Receiver) room(sender identity.ID, now time.Time) bool {
	if len(rc.sessions) < rc.pruneAt && rc.opened[sender] < maxPerSender {
		return true
	}
	if since := now.UnixMilli() - rc.pruned; since < 0 || since >= pruneEvery.Milliseconds() {
		rc.prune(now)
	}
	return len(rc.sessions) < maxSessions && rc.opened[sender] < maxPerSender
}

func (rc *Receiver) prune(now time.Time) {
	rc.pruned = now.UnixMilli()
	for key, s := range rc.sessions {
		if s.newest+(s.settings.MaxAge+MaxClockLead).Milliseconds() < now.UnixMilli() {
			delete(rc.sessions, key)
			if rc.opened[s.sender]--; rc.opened[s.sender] <= 0 {
				delete(rc.opened, s.sender)
			}
			rc.start.Store(max(rc.start.Load(), s.newest+1))
		}
	}
	rc.pruneAt = min(max(64, 2*len(rc.sessions)), maxSessions)
}

// claims is what a frame's header says, as values. Nothing of it is proven.
type claims struct {
	channel policy.Channel
	sender  identity.ID
	card    ulid.ULID
	key     uint32
}

func claimsOf(h *envelope.Header) (c claims, channelErr, senderErr error) {
	c.card, c.key = h.Card, h.Key
	c.channel, channelErr = policy.ParseChannel(string(h.Channel))
	c.sender, senderErr = identity.ParseID(string(h.Sender))
	if senderErr == nil && !c.sender.IsAgent() {
		senderErr = errors.New("keyring: the sender is no agent")
	}
	return c, channelErr, senderErr
}

func claimedHeader(frame []byte) (claims, error) {
	var f envelope.Frame
	if err := envelope.Parse(frame, &f); err != nil {
		return claims{}, err
	}
	c, channelErr, senderErr := claimsOf(&f.Header)
	return c, errors.Join(channelErr, senderErr)
}
