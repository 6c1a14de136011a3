package agentbus

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// Attempt is a failed attempt at a task.
type Attempt struct {
	Number int         // from 1; two workers that had the task at once can have noted the same
	Time   time.Time   // when it failed, by the worker's clock
	Worker identity.ID // who says so
	Text   string      // of the handler's error
}

// Attempts returns the failed attempts at a task that workers have noted, in their order, for who may enqueue there. The
// one that a task died of is not among them: its dead letter has that. A note goes when it is older than the queue's retain and
// than every task in its log. The broker can hide notes; it can make none up. What does not verify is counted as
// rejected and left out. The error is ErrNotEntitled where the policy does not let this agent enqueue there.
func (b *Bus) Attempts(ctx context.Context, queue string, task ulid.ULID) ([]Attempt, error) {
	if b.closed() && !b.ofHandler(ctx) {
		return nil, ErrClosed
	}
	if _, err := b.ring.Policy().QueueChannel(queue); err != nil {
		return nil, err
	}
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	ctx, cancel = b.untilClosed(ctx)
	defer cancel()
	list, err := b.attempts(ctx, queue, task)
	if err != nil {
		return nil, b.closedOr(ctx, err)
	}
	return list, nil
}

func (b *Bus) attempts(ctx context.Context, queue string, task ulid.ULID) (list []Attempt, err error) {
	ch, err := policy.Result(queue)
	if err != nil {
		return nil, err
	}
	rc, err := b.storedReceiver(ctx, ch)
	if err != nil {
		return nil, err
	}
	notes, err := b.notes(ctx, queue, task, maxAttempts)
	if err != nil {
		return nil, err
	}
	open := b.opens(ctx, rc)
	for _, n := range notes {
		a, err := openNote(open, queue, task, n)
		if r := (*keyring.Rejection)(nil); errors.As(err, &r) {
			b.counts.rejectedFor(r.Reason)
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, *a)
	}
	sortAttempts(list)
	return list, nil
}

func sortAttempts(list []Attempt) {
	slices.SortStableFunc(list, func(x, y Attempt) int { return x.Time.Compare(y.Time) })
}

func openNote(open opens, queue string, task ulid.ULID, n note) (*Attempt, error) {
	var o keyring.Opened
	want := &keyring.Want{Kinds: keyring.Kinds(envelope.KindControl), Recipient: queue, Ref: task, Sender: n.agent}
	if err := open(n.frame, want, &o); err != nil {
		return nil, err
	}
	if len(o.Messages) != 1 {
		return nil, notOne(&o)
	}
	m := newMessage(queue, &o)
	number, ok := decodeAttempt(headerOf(m.headers, headerAttempt))
	switch {
	case !ok:
		return nil, &keyring.Rejection{Reason: keyring.BadContent, Sender: o.Sender.String(), ID: o.ID, Detail: "no attempt"}
	case number != n.number:
		return nil, misdirected("the note of another attempt")
	}
	return &Attempt{Number: number, Time: o.Time, Worker: o.Sender, Text: string(m.Payload)}, nil
}

// An attempt's number travels sealed, in the header "sealbus-attempt" of its note: version u8 = 1 · number u16.
func encodeAttempt(number int) []byte {
	return binary.BigEndian.AppendUint16([]byte{1}, uint16(number))
}

func decodeAttempt(b []byte) (number int, ok bool) {
	if len(b) != 3 || b[0] != 1 {
		return 0, false
	}
	number = int(binary.BigEndian.Uint16(b[1:]))
	return number, number >= 1 && number <= maxAttempts
}

// attemptNote is what a worker notes of an attempt that has failed.
func attemptNote(number int, text string) envelope.Message {
	return envelope.Message{Headers: []envelope.Pair{{Key: []byte(headerAttempt), Value: encodeAttempt(number)}}, Payload: []byte(text)}
}

// failures returns how many attempts at a task have failed, and when the last did, as far as workers have noted it and the broker
// shows it. Workers may not read what others have noted. Where the queue is signed they can tell whose it is: else a broker
// could use up a task's attempts without anybody having tried. A note whose author's card is not to be had does not
// count.
func (q *workQueue) failures(ctx context.Context, task ulid.ULID, most int) (n int, last time.Time, err error) {
	b := q.worker.bus
	list, err := b.notes(ctx, q.name, task, most)
	if err != nil || len(list) == 0 {
		return 0, last, err
	}
	ch, err := policy.Result(q.name)
	if err != nil {
		return 0, last, err
	}
	vouched := b.attestNote
	if s, ok := b.ring.Policy().Settings(ch); ok && !s.Signed {
		vouched = believeNote
	}
	genuine := make(map[ulid.ULID]bool) // one frame under several numbers is one attempt
	for _, note := range list {
		id, err := vouched(ctx, ch, task, note)
		if err != nil {
			return 0, last, err
		}
		if id.IsZero() {
			continue
		}
		genuine[id] = true
		if at := ulid.Time(id.Time()); at.After(last) {
			last = at
		}
	}
	return len(genuine), last, nil
}

// attestNote returns the id of a note's frame, zero where it is not of whom it says that it is, or where that cannot be known
// now.
func (b *Bus) attestNote(ctx context.Context, ch policy.Channel, task ulid.ULID, n note) (ulid.ULID, error) {
	patience, cancel := context.WithTimeout(ctx, signTimeout)
	defer cancel()
	want := &keyring.Want{Kinds: keyring.Kinds(envelope.KindControl), Recipient: ch.Name(), Ref: task, Sender: n.agent}
	a, err := b.ring.Attest(patience, n.frame, ch, want)
	var r *keyring.Rejection
	switch {
	case err == nil:
		return a.ID, nil
	case errors.As(err, &r):
		b.counts.rejectedFor(r.Reason)
	case ctx.Err() != nil || patience.Err() == nil || !b.Connected():
		return ulid.ULID{}, err
	}
	return ulid.ULID{}, nil
}

// believeNote is attestNote where nothing is signed.
func believeNote(_ context.Context, _ policy.Channel, task ulid.ULID, n note) (ulid.ULID, error) {
	var f envelope.Frame
	if envelope.Parse(n.frame, &f) != nil || f.Ref != task {
		return ulid.ULID{}, nil
	}
	return f.ID, nil
}

// note is a frame that lies where an agent that may work on a queue notes a failed attempt.
type note struct {
	agent  string
	number int
	frame  []byte
}

// notes reads which of the first attempts at a task have been noted. It asks for numbers, because everybody with a part in
// the queue can write any number of notes under its own name: of one number that is one each. A worker numbers its note one
// higher than it has found notes. So when fewer are found than were asked for, there are none with a higher number.
func (b *Bus) notes(ctx context.Context, queue string, task ulid.ULID, most int) (list []note, err error) {
	for from := 1; from <= most && len(list) >= from-1; {
		to := min(from+notesAtOnce-1, most)
		some, err := b.notesBetween(ctx, queue, task, from, to)
		if err != nil {
			return nil, err
		}
		list, from = append(list, some...), to+1
	}
	return list, nil
}

func (b *Bus) notesBetween(ctx context.Context, queue string, task ulid.ULID, from, to int) (list []note, err error) {
	what := policy.ControlAttempt + "." + task.String() + "."
	var patterns []string
	for n := from; n <= to; n++ {
		patterns = append(patterns, policy.ControlSubject(queue, "*", what+strconv.Itoa(n)))
	}
	// Not store.last: that takes what it has found from what it asks for again, and these are patterns.
	entries, more, err := b.notesOnce(ctx, queue, patterns)
	if (isTooMany(err) || more) && from < to {
		half := (from + to) / 2
		list, err = b.notesBetween(ctx, queue, task, from, half)
		if err != nil {
			return nil, err
		}
		rest, err := b.notesBetween(ctx, queue, task, half+1, to)
		return append(list, rest...), err
	}
	if err != nil {
		return nil, err
	}
	p := b.ring.Policy()
	for _, e := range entries {
		_, agent, which, ok := policy.CutControlSubject(e.subject)
		text, mine := strings.CutPrefix(which, what)
		n, wrong := strconv.Atoi(text)
		if ok && mine && wrong == nil && n >= from && n <= to && p.MayWork(queue, agent) {
			list = append(list, note{agent, n, e.frame})
		}
	}
	return list, nil
}

func (b *Bus) notesOnce(ctx context.Context, queue string, patterns []string) (entries []found, more bool, err error) {
	err = b.store.read(ctx, func(ctx context.Context) (err error) {
		entries, more, err = b.store.lastOnce(ctx, policy.ControlStream(queue), patterns)
		return err
	})
	return entries, more, err
}
