package agentbus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"golang.org/x/crypto/cryptobyte"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// DeadReason is why a task was given up.
type DeadReason uint8

// The reasons.
const (
	DeadAttempts   DeadReason = 1 // it has failed as often as it may
	DeadDeadline   DeadReason = 2 // it had not begun by its deadline
	DeadCancelled  DeadReason = 3 // its handler returned Cancel, or TaskHandle.Cancel was called
	DeadUnopenable DeadReason = 4 // a check of the sealed frame failed
)

var deadReasons = [...]string{"", "attempts used up", "deadline passed", "cancelled", "cannot be opened"}

// String returns the reason in words.
func (r DeadReason) String() string {
	if r < DeadAttempts || r > DeadUnopenable {
		return fmt.Sprintf("reason %d", uint8(r))
	}
	return deadReasons[r]
}

// verdict is why a task is dead. It travels sealed, in the header "sealbus-dead" of its result and its dead letter:
//
//	version u8 = 1 · reason u8 · attempts u16, that have failed
type verdict struct {
	reason   DeadReason
	attempts int
}

func (v verdict) encode() []byte {
	b := cryptobyte.NewFixedBuilder(make([]byte, 0, 4))
	b.AddUint8(1)
	b.AddUint8(uint8(v.reason))
	b.AddUint16(uint16(min(v.attempts, maxAttempts)))
	return b.BytesOrPanic()
}

func decodeVerdict(text string) (v verdict, ok bool) {
	s := cryptobyte.String(text)
	var version, reason uint8
	var attempts uint16
	if !s.ReadUint8(&version) || version != 1 || !s.ReadUint8(&reason) || !s.ReadUint16(&attempts) || !s.Empty() {
		return v, false
	}
	return verdict{DeadReason(reason), int(attempts)}, true
}

// taskErrorOf reads a result that says that a task is dead.
func taskErrorOf(m *Message) error {
	v, ok := decodeVerdict(m.Header(headerDead))
	if !ok {
		return misdirected("what a worker said of an attempt, or a dead letter, in the place of a result")
	}
	return &TaskError{Reason: v.reason, Attempts: v.attempts, Text: string(m.Payload)}
}

// DeadLetter is what is kept of a task that was given up.
type DeadLetter struct {
	ID       ulid.ULID // the letter's: of a task that could be opened the task's own
	Task     ulid.ULID // the task's; of a frame that could not be opened what it claims to be
	Queue    string
	Reason   DeadReason
	Attempts int
	Text     string      // of the last failure
	Worker   identity.ID // who gave it up
	Time     time.Time   // when
	Kind     string      // the task's
	Payload  []byte      // the task's; of a frame that could not be opened the frame
	History  []Attempt   // its failed attempts, as far as they are known; of Bus.DeadLetter alone

	terms   terms
	headers []envelope.Pair
}

// ErrNoLetter is returned when a queue has no dead letter of the id that was asked for.
var ErrNoLetter = errors.New("agentbus: no such dead letter")

// DeadLetters returns the dead letters of a queue that this agent may enqueue to, oldest first, all in memory at once: up to
// 131,072 of them. What does not verify is counted as rejected and left out.
func (b *Bus) DeadLetters(ctx context.Context, queue string) ([]*DeadLetter, error) {
	return b.deadLetters(ctx, queue, "*")
}

// DeadLetter returns one dead letter, with the history of its task. The error is ErrNoLetter where there is none.
func (b *Bus) DeadLetter(ctx context.Context, queue string, id ulid.ULID) (*DeadLetter, error) {
	list, err := b.deadLetters(ctx, queue, id.String())
	if err == nil && len(list) == 0 {
		err = fmt.Errorf("%w: %s in %s", ErrNoLetter, id, queue)
	}
	if err != nil {
		return nil, err
	}
	return b.withHistory(ctx, list[0])
}

func (b *Bus) deadLetters(ctx context.Context, queue, which string) (list []*DeadLetter, err error) {
	if _, err := b.ring.Policy().QueueChannel(queue); err != nil {
		return nil, err
	}
	ch, err := policy.Result(queue)
	if err != nil {
		return nil, err
	}
	if b.closed() && !b.ofHandler(ctx) {
		return nil, ErrClosed
	}
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	ctx, cancel = b.untilClosed(ctx)
	defer cancel()
	rc, err := b.storedReceiver(ctx, ch)
	if err != nil {
		return nil, b.closedOr(ctx, err)
	}
	var entries []found
	err = b.store.read(ctx, func(ctx context.Context) (err error) {
		entries, err = b.store.pages(ctx, policy.DeadStream(queue), policy.DeadSubject(queue, which), maxListed)
		return err
	})
	if err != nil {
		return nil, b.closedOr(ctx, err)
	}
	for _, e := range entries {
		d, err := b.letterOf(ctx, rc, queue, e)
		if err != nil {
			return nil, b.closedOr(ctx, err)
		}
		if d != nil {
			list = append(list, d)
		}
	}
	return list, nil
}

func openLetter(open opens, queue string, e found) (*DeadLetter, error) {
	id, err := ulid.ParseStrict(strings.TrimPrefix(e.subject, policy.DeadSubject(queue, "")))
	if err != nil {
		return nil, misdirected("a dead letter without an id")
	}
	var f envelope.Frame
	if err := envelope.Parse(e.frame, &f); err != nil {
		return nil, &keyring.Rejection{Reason: keyring.Malformed, Detail: err.Error()}
	}
	var o keyring.Opened
	want := &keyring.Want{Kinds: keyring.Kinds(envelope.KindError), Recipient: queue, Ref: f.Ref}
	if err := open(e.frame, want, &o); err != nil {
		return nil, err
	}
	if len(o.Messages) != 1 {
		return nil, notOne(&o)
	}
	m := newMessage(queue, &o)
	v, ok := decodeVerdict(m.Header(headerLetter))
	if !ok {
		return nil, &keyring.Rejection{Reason: keyring.BadContent, Sender: o.Sender.String(), ID: o.ID, Detail: "no verdict"}
	}
	// A letter of a task lies under the task's id, so that the broker cannot pass it off as another's.
	if v.reason != DeadUnopenable && o.Ref != id {
		return nil, misdirected("a dead letter of another task")
	}
	d := &DeadLetter{ID: id, Task: o.Ref, Queue: queue, Reason: v.reason, Attempts: v.attempts, Text: m.Header(headerDeadText),
		Worker: o.Sender, Time: o.Time, Payload: m.Payload}
	if v.reason == DeadUnopenable {
		return d, nil
	}
	if d.terms, err = decodeTerms([]byte(m.Header(headerTask))); err != nil {
		return nil, &keyring.Rejection{Reason: keyring.BadContent, Sender: o.Sender.String(), ID: o.ID, Detail: err.Error()}
	}
	d.Kind, d.headers = d.terms.kind, ownHeaders(m.headers)
	return d, nil
}

// Revive puts a dead task back into its queue, as a new task with the same payload, kind and headers and all of its
// attempts, to begin at once, and returns its handle. The dead letter stays, and so does the old task's result. A frame
// that could not be opened cannot be revived.
func (b *Bus) Revive(ctx context.Context, letter *DeadLetter) (*TaskHandle, error) {
	if letter.Reason == DeadUnopenable {
		return nil, fmt.Errorf("agentbus: dead letter %s is of a frame that could not be opened: there is no task in it", letter.ID)
	}
	restore := enqueueOption(func(d *taskDraft) error {
		d.terms = letter.terms
		d.notBefore, d.deadline, d.origin = time.Time{}, time.Time{}, letter.Task
		d.headers = append(d.headers, letter.headers...)
		return nil
	})
	return b.Enqueue(ctx, letter.Queue, letter.Payload, restore)
}
