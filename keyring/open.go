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
	Notes     bool      // session notes of the channel belong here too: frames of kind control, whose recipient is the note and whose one message is empty
	Expired   bool      // of a frame that was kept: also one that has expired
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
	Expires  time.Time          // zero: the channel's own limit
	Lost     uint64             // frames of this session that are now known to have been lost before it
	Messages []envelope.Message // in the order in which they were sealed; they alias the opened plaintext, which is in no other use
}

// Receiver opens live frames at one place: a subscription to a channel, an agent's own subject, an inbox.
// It holds that place's replay state: what a Receiver has accepted once it never accepts again, and it
// accepts nothing sealed before the millisecond in which it was made, nor before what the ring has accepted until
// then, nor, with a state directory, before the time up to which an earlier process may have accepted frames. It is safe
// for concurrent use. It prints as "[redacted]".
type Receiver struct {
	gate
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

// inSession is a sender's session, with what was received of it. It exists only after one of its frames has passed
// every check.
type inSession struct {
	senderSession
	window window
	newest int64 // Unix ms of its newest frame
}

// Receiver returns a receiver for the frames of one channel that this agent may read.
func (r *Ring) Receiver(ch policy.Channel) (*Receiver, error) {
	g, err := r.gateOf(ch)
	if err != nil {
		return nil, err
	}
	return r.receiver(g), nil
}

// gateOf returns the place of a channel that this agent may read.
func (r *Ring) gateOf(ch policy.Channel) (gate, error) {
	a, err := r.attachment()
	if err != nil {
		return gate{}, err
	}
	if p := r.view.Load().policy; !p.CanRead(ch, a.self.Name()) {
		return gate{}, fmt.Errorf("%w: %s does not let %q read %s", ErrNotEntitled, p.Where(ch), a.self.Name(), ch)
	}
	return gate{ring: r, att: a, only: ch, name: ch.String()}, nil
}

// PairReceiver returns a receiver for frames that other agents send to this one alone.
func (r *Ring) PairReceiver() (*Receiver, error) {
	a, err := r.attachment()
	if err != nil {
		return nil, err
	}
	return r.receiver(gate{ring: r, att: a}), nil
}

func (r *Ring) receiver(g gate) *Receiver {
	start := r.now().UnixMilli()
	rc := &Receiver{gate: g, ceiling: r.ceiling.reached(start), pruneAt: 64,
		sessions: make(map[sessionKey]*inSession), opened: make(map[identity.ID]int)}
	rc.start.Store(start)
	return rc
}

// Unsealed is a frame that passed every check but those of the replay state. The zero value is ready, and one that was
// used is too, whatever became of it. It refers to the frame's bytes, which must not change before Accept. It is not safe
// for concurrent use.
type Unsealed struct {
	at       *Receiver
	frame    envelope.Frame
	want     Want
	session  *inSession
	messages []envelope.Message
	content  string // what is wrong with the content, which only its sender can have caused; empty: nothing
}

// Open checks a frame in the order of the reasons and, if all is well, fills out; the slice of messages that out has is
// used again, but not the payloads and headers that they refer to. It does no I/O but for the state directory's
// ceiling. The error is a *Rejection, or that of the state directory, or ErrClosed. After NoKey and NoCard the frame may
// be opened later: see Ring.Await.
//
// It is Unseal and Accept in one.
func (rc *Receiver) Open(frame []byte, w *Want, out *Opened) error {
	u := Unsealed{messages: out.Messages}
	err := rc.Unseal(frame, w, &u)
	if err == nil {
		err = rc.Accept(&u, out)
	}
	if err != nil { // nothing of a frame that was not accepted is handed out
		clear(u.messages)
		*out = Opened{Messages: out.Messages[:0]}
	}
	return err
}

// Unseal runs the checks of Open that need no replay state, all that are dear among them, and fills u for Accept. It
// may be called by many goroutines at once, each with its own u, and in any order: nothing that a later Accept
// depends on is changed. What has been received before is refused here already where that is known.
func (rc *Receiver) Unseal(frame []byte, w *Want, u *Unsealed) error {
	u.reset()
	f := &u.frame
	if err := rc.parse(frame, f); err != nil {
		return err
	}
	now := rc.ring.now()
	s, reason, detail := rc.admit(f, w, now)
	if reason != 0 {
		return rc.refuse(f, reason, detail)
	}
	by := s.card
	if by != nil && !by.validAt(now) {
		by = nil
	}
	b := scratches.Get().(*scratch)
	defer b.release()
	plain, reason := rc.authentic(f, s.aead, by, b)
	if reason != 0 {
		return rc.refuse(f, reason, "")
	}
	u.at, u.session, u.want = rc, s, *w
	// What is wrong with the content is told by Accept, when the frame counts as received.
	u.messages, u.content = readContent(f, plain, u.messages, &b.tree)
	if u.content == "" && w.takesNote(f) {
		u.content = notEmpty(u.messages)
	}
	return nil
}

// reset lets go of the frame before. The headers of its messages are their receiver's to keep.
func (u *Unsealed) reset() {
	clear(u.messages)
	u.session, u.messages, u.content = nil, u.messages[:0], ""
}

// readContent parses the content of a frame, into the memory of dst, and says what is wrong with it; empty: nothing.
func readContent(f *envelope.Frame, plain []byte, dst []envelope.Message, commits *envelope.Tree) (messages []envelope.Message, wrong string) {
	messages, err := envelope.ParseMessages(plain, f.Flags, f.Count, dst)
	if err != nil {
		return dst, err.Error()
	}
	if f.Committed() {
		if err := commits.BuildCommit(messages); err != nil || commits.Root() != f.Commit {
			return messages, "the messages are not those committed to"
		}
	}
	return messages, ""
}

// Accept takes a frame into the replay state and, if it is new and its content in order, fills out. It is called in the
// order in which frames are to be delivered, once for an Unseal that succeeded. If the policy has changed
// since then, the checks that depend on it are run again. The error is one of those of Open, of any reason.
//
// The elements of out.Messages are valid until the next Unseal with u. The payloads and headers that they refer to are
// the caller's, and stay.
func (rc *Receiver) Accept(u *Unsealed, out *Opened) error {
	f, s := &u.frame, u.session
	if s == nil || u.at != rc {
		return errNotUnsealed
	}
	u.session = nil
	if s.view != rc.ring.view.Load() {
		again, reason, detail := rc.admit(f, &u.want, rc.ring.now())
		if reason != 0 {
			return rc.refuse(f, reason, detail)
		}
		if again.card == nil {
			return reject(f, NoCard, "")
		}
		s = again
	}
	ms := int64(f.ID.Time())
	if err := rc.ring.ceiling.pass(rc.ring.storage, ms, rc.ring.now); errors.Is(err, ErrClosed) {
		return err
	} else if err != nil {
		return fmt.Errorf("keyring: writing the state directory: %w", err)
	}
	lost, reason := rc.accept(s, f, ms)
	if reason != 0 {
		return reject(f, reason, "")
	}
	if u.content != "" {
		return reject(f, BadContent, u.content)
	}
	*out = s.opened(f, u.messages)
	out.Lost = lost
	return nil
}

// opened is what there is to say of a frame of the session that passed every check.
func (s *senderSession) opened(f *envelope.Frame, messages []envelope.Message) Opened {
	o := Opened{
		Kind: f.Kind, ID: f.ID, Ref: f.Ref, Channel: s.channel, Sender: s.sender, Card: f.Card, Session: f.Session,
		Seq: f.Seq, Time: timeOf(f), Signed: f.Signed(), Messages: messages,
	}
	if f.Expires != 0 {
		o.Expires = time.UnixMilli(int64(f.Expires))
	}
	return o
}

// timeOf returns when a frame was sealed, as its sender says.
func timeOf(f *envelope.Frame) time.Time { return time.UnixMilli(int64(f.ID.Time())) }

var errNotUnsealed = errors.New("keyring: Accept without an Unseal before it that succeeded, at the same receiver")

// scratch is memory for opening one frame. Nothing of a plaintext is ever in it.
type scratch struct {
	data  []byte
	tree  envelope.Tree
	frame envelope.Frame // for who has no other
	trail envelope.Trail
	names rootNames
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

func (b *scratch) release() {
	b.frame = envelope.Frame{} // it refers to what the caller keeps
	scratches.Put(b)
}

func reject(f *envelope.Frame, reason Reason, detail string) error {
	return &Rejection{Reason: reason, Channel: string(f.Channel), Sender: string(f.Sender), ID: f.ID, Detail: detail}
}

// parse reads a frame, as long as the ring is open.
func (g *gate) parse(frame []byte, f *envelope.Frame) error {
	if err := parseFrame(frame, f); err != nil {
		return err
	}
	if g.ring.ceiling.closed.Load() {
		return ErrClosed
	}
	return nil
}

func parseFrame(frame []byte, f *envelope.Frame) error {
	if err := envelope.Parse(frame, f); err != nil {
		return &Rejection{Reason: Malformed, Detail: err.Error()}
	}
	if f.Seq > SessionFrames {
		return reject(f, Malformed, "a sequence number past a session's end")
	}
	return nil
}

// authentic opens the seal of a frame that was admitted, then checks its card, nil where there is none that speaks for
// the frame, and its signature.
func (g *gate) authentic(f *envelope.Frame, aead tink.AEAD, by *card, b *scratch) (plain []byte, reason Reason) {
	b.data = envelope.AppendAssociatedData(b.data[:0], f.Head)
	plain, err := aead.Decrypt(f.Ciphertext, b.data)
	switch {
	case errors.Is(err, ErrKeyDestroyed): // just now
		return nil, NoKey
	case err != nil:
		return nil, BadSeal
	case by == nil:
		return nil, NoCard
	case f.Signed() && !g.ring.roots.verify(f, by, b):
		return nil, BadSignature
	}
	return plain, 0
}

// accept enters the frame into the replay state: the one place where that changes.
func (rc *Receiver) accept(s *inSession, f *envelope.Frame, ms int64) (lost uint64, reason Reason) {
	key := sessionKey{f.Session, f.Card, f.Key}
	rc.mu.Lock()
	defer rc.mu.Unlock()
	if ms < rc.start.Load() {
		return 0, Stale // its session was forgotten while this frame was being opened
	}
	if have := rc.sessions[key]; have != s {
		if have != nil && have.name == s.name && have.senderID == s.senderID {
			s.window, s.newest = have.window, have.newest // known before, judged anew
		} else if !rc.room(s.sender) {
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
func (rc *Receiver) room(sender identity.ID) bool {
	if len(rc.sessions) < rc.pruneAt && rc.opened[sender] < maxPerSender {
		return true
	}
	now := rc.ring.now()
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
