package agentbus

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// DuplicateError is the error of Enqueue for a Unique task whose key another task has. Bus.Task makes a handle of it,
// with which that task's Result can be waited for.
type DuplicateError struct {
	Queue string
	Task  ulid.ULID // the one that stands
}

func (e *DuplicateError) Error() string {
	return fmt.Sprintf("agentbus: task %s of queue %s stands under this key already", e.Task, e.Queue)
}

// Unique has a task enqueued only if none of the same key stands in the queue. A task stands from its Enqueue until it has
// a result, or is dead; where after is more than nothing, no longer than that: a later one with the key is then enqueued beside
// it, whether it has run or not. What counts is the after of that later one, the time of the standing one by its enqueuer's
// clock. Otherwise Enqueue returns a *DuplicateError, which names the task that stands.
//
// The key is 1 to 1,024 bytes, and one namespace for all enqueuers of the queue. The broker sees a hash of it, which
// it cannot make for keys that it guesses: it sees that two tasks have the same key, not which. The task is its own claim: it is
// stored only if nothing else has been since Enqueue looked, so that of any number that try at the same time one gets in, and nobody who dies
// midway leaves a key taken. A task whose result cannot be opened any more, because that is more than 7 days old and its
// worker's card has expired, holds its key until it leaves the log, after the queue's retain. Revive does not take the key again.
//
// Hashes are made with the key of the queue's results, which rotates. Enqueue looks under all that this agent holds, at the cost of one
// read each. For the moments in which one enqueuer holds the newest key and another not yet, each can enqueue a task; and so
// can one that was not given an older key under which one stands.
//
// Uniqueness is the broker's to break, as is everything that depends on what was stored last: by hiding that a task stands or that it has its result, by
// storing two, or by putting something else in the claim's place, it has a second task run, or the caller told of one that is done; and so
// does any other enqueuer of the queue, which could enqueue the task anyway. Neither makes up a task that stands: what a
// *DuplicateError names is one that an enqueuer of the queue has signed, for this key.
//
// The queue must be signed. A unique task is enqueued for itself, and is refused in an EnqueueBatch. One with a Delay, or with an At, waits in the
// queue's log, and takes up one of the 8,192 places for tasks of its priority that workers have, or have put back, at a time.
func Unique(key string, after time.Duration) EnqueueOption {
	return enqueueOption(func(t *taskDraft) error {
		if len(key) == 0 || len(key) > maxUniqueKey {
			return fmt.Errorf("agentbus: Unique with a key of %d bytes: use 1 to %d", len(key), maxUniqueKey)
		}
		if after < 0 || after > maxTaskTime {
			return fmt.Errorf("agentbus: Unique(…, %v): use up to %v, and 0 for no limit", after, maxTaskTime)
		}
		t.unique = &uniqueKey{key: key, after: after}
		return t.once("Unique")
	})
}

// uniqueKey is what a unique task asks for.
type uniqueKey struct {
	key      string
	after    time.Duration
	priority int
}

func (t *taskDraft) uniqueAt(priority int) *uniqueKey {
	if t.unique != nil {
		t.unique.priority = priority
	}
	return t.unique
}

// errUniqueBatch is for a unique task in a batch: its claim stands or falls alone, a batch does so together.
var errUniqueBatch = errors.New("agentbus: a Unique task cannot be part of a batch: Enqueue it alone")

// purposeUnique tells the pseudonyms of unique keys from others.
const purposeUnique = "unique task"

// enqueueUnique puts a task into the queue if none of its key stands there.
func (b *Bus) enqueueUnique(ctx context.Context, queue string, l *lane, it *item) (*TaskHandle, error) {
	settings, _ := b.ring.Policy().Settings(l.ch)
	if !settings.Signed {
		return nil, fmt.Errorf("agentbus: Unique on queue %s, which is not signed: the broker could name any task as the one that stands", queue)
	}
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	ctx, cancel = b.untilClosed(ctx)
	defer cancel()
	c, err := b.claimOf(ctx, queue, it)
	if err != nil {
		return nil, b.closedOr(ctx, err)
	}
	if err := c.enqueue(ctx, l, it); err != nil {
		return nil, b.closedOr(ctx, err)
	}
	b.counts.published.Add(1)
	return &TaskHandle{bus: b, queue: queue, id: c.task.ID}, nil
}

// uniqueClaim is an attempt to be the one task of a key.
type uniqueClaim struct {
	bus     *Bus
	queue   string
	channel policy.Channel
	results *keyring.StoredReceiver
	after   time.Duration
	hashes  []string // the first is the one to claim
	task    *parcel
	notes   []*keyring.Bundle // that are to be stored before it
}

// claimOf finds the hashes of a key.
func (b *Bus) claimOf(ctx context.Context, queue string, it *item) (*uniqueClaim, error) {
	ch, err := policy.Queue(queue)
	if err != nil {
		return nil, err
	}
	results, err := policy.Result(queue)
	if err != nil {
		return nil, err
	}
	c := &uniqueClaim{bus: b, queue: queue, channel: ch, after: it.unique.after}
	if c.results, err = b.storedReceiver(ctx, results); err != nil {
		return nil, err
	}
	names, err := b.ring.Pseudonyms(results, purposeUnique, it.unique.key)
	for errors.Is(err, keyring.ErrNoKey) { // a policy has just taken the channel from somebody
		if err = b.ring.Join(ctx, results); err == nil {
			names, err = b.ring.Pseudonyms(results, purposeUnique, it.unique.key)
		}
	}
	for _, name := range names {
		c.hashes = append(c.hashes, hex.EncodeToString(name))
	}
	return c, err
}

// enqueue stores the task where its claim belongs, as soon as nothing stands there. The frame is sealed once: what was
// stored of an attempt whose acknowledgement was lost is recognised.
func (c *uniqueClaim) enqueue(ctx context.Context, l *lane, it *item) (err error) {
	if err := c.older(ctx); err != nil {
		return err
	}
	defer func() {
		if c.task != nil {
			l.settle(err, c.notes, []*keyring.Bundle{&c.task.Bundle})
		}
	}()
	for wait := firstLook; ; wait = min(2*wait, time.Second) {
		last, err := c.look(ctx, c.hashes[0])
		if err != nil {
			return err
		}
		if c.task != nil && bytes.Equal(last.frame, c.task.Frame) {
			return nil
		}
		if err := c.free(ctx, c.hashes[0], last); err != nil {
			return err
		}
		if c.task == nil {
			if err = c.seal(ctx, l, it); err != nil {
				return err
			}
		}
		if err = c.store(ctx, last.sequence); err == nil || !isMismatch(err) {
			return err
		}
		// Another was first. Where the streams are replicated, the replica that is asked may not have it yet.
		if pause(ctx, wait); ctx.Err() != nil {
			return err
		}
	}
}

// older looks what stands under the keys before the one that claims are made under.
func (c *uniqueClaim) older(ctx context.Context) error {
	errs := make([]error, len(c.hashes))
	places := make(chan struct{}, maxClaimReads)
	var reads sync.WaitGroup
	for i, hash := range c.hashes[1:] {
		places <- struct{}{}
		reads.Go(func() {
			defer func() { <-places }()
			last, err := c.look(ctx, hash)
			if err == nil {
				err = c.free(ctx, hash, last)
			}
			errs[i] = err
		})
	}
	reads.Wait()
	var failed error
	for _, err := range errs {
		if d := (*DuplicateError)(nil); errors.As(err, &d) {
			return err
		}
		failed = errors.Join(failed, err)
	}
	return failed
}

// seal makes the frame, and stores the session notes that belong before it.
func (c *uniqueClaim) seal(ctx context.Context, l *lane, it *item) error {
	p := &parcel{Bundle: keyring.Bundle{Kind: it.kind, Recipient: policy.UniqueRecipient(c.queue, c.hashes[0], it.unique.priority)},
		subject: policy.UniqueSubject(c.queue, c.hashes[0], it.unique.priority)}
	p.Messages.Reset(it.committed)
	if err := p.Messages.Add(&it.message); err != nil {
		return err
	}
	bt := &batch{parcels: []*parcel{p}, count: 1, since: time.Now()}
	if err := l.seal(ctx, bt); err != nil {
		return err
	}
	c.task, c.notes = p, bt.notes
	if len(c.notes) == 0 {
		return ctx.Err()
	}
	err := c.bus.store.append(ctx, l.stream(), l.noteEntries(c.notes))
	if err == nil {
		l.settle(nil, c.notes)
		c.notes = nil
	}
	return err
}

// store stores the task if what was stored last under the claim is what was seen.
func (c *uniqueClaim) store(ctx context.Context, seen uint64) error {
	return c.bus.store.append(ctx, policy.TaskStream(c.queue), []entry{{subject: c.task.subject, frame: c.task.Frame, id: c.task.ID,
		expect: jetstream.WithExpectLastSequenceForSubject(seen, policy.ClaimPattern(c.queue, c.hashes[0]))}})
}

// isMismatch reports whether a stream has refused a message because it is not behind the one that it names.
func isMismatch(err error) bool {
	code := jetStreamCode(err)
	return code == codeWrongSequence || code == codeWrongSequenceNow
}

const (
	codeWrongSequence    = 10071
	codeWrongSequenceNow = 10164 // of a replicated stream that is just storing another
)

// standing is what was stored last under a claim.
type standing struct {
	frame    []byte // nil if there is nothing
	subject  string
	sequence uint64
}

// free returns a *DuplicateError if what was stored last under a claim is a task that still has it. What is not proven
// to be one has no claim: workers would not take it either.
func (c *uniqueClaim) free(ctx context.Context, hash string, last standing) error {
	if last.frame == nil {
		return nil
	}
	a, err := c.attest(ctx, hash, last)
	if isRejected(err) {
		c.bus.counts.rejectedFor(keyring.ReasonOf(err))
		return nil
	}
	if err != nil {
		return err
	}
	if c.after > 0 && !time.Now().Before(a.Time.Add(c.after)) {
		return nil
	}
	settled, err := c.settled(ctx, a.ID)
	if err != nil || settled {
		return err
	}
	return &DuplicateError{Queue: c.queue, Task: a.ID}
}

// attest proves who has enqueued what was stored under a claim. The card of one who has just come may be on its way to
// the replica that is asked.
func (c *uniqueClaim) attest(ctx context.Context, hash string, last standing) (keyring.Attested, error) {
	queue, found, priority, ok := policy.CutUniqueSubject(last.subject)
	if !ok || queue != c.queue || found != hash {
		return keyring.Attested{}, misdirected("under the claim of another key")
	}
	want := &keyring.Want{Kinds: keyring.Kinds(envelope.KindTask), Recipient: policy.UniqueRecipient(queue, hash, priority)}
	patience, cancel := context.WithTimeout(ctx, claimPatience)
	defer cancel()
	var none error
	for {
		a, err := c.bus.ring.Attest(patience, last.frame, c.channel, want)
		switch {
		case keyring.ReasonOf(err) == keyring.NoCard:
			none = err
		case err == nil || none == nil || patience.Err() == nil || ctx.Err() != nil:
			return a, err
		}
		if pause(patience, cardPause); patience.Err() != nil {
			return a, none
		}
	}
}

// settled reports whether a task has a result that is a worker's own. What cannot be opened is none: else the broker
// could have a task done twice by putting anything there.
func (c *uniqueClaim) settled(ctx context.Context, id ulid.ULID) (bool, error) {
	h := &TaskHandle{bus: c.bus, queue: c.queue, id: id}
	frame, err := c.bus.store.lastUnder(ctx, policy.ResultStream(c.queue), policy.ResultSubject(c.queue, id.String()))
	if err != nil || frame == nil {
		return false, err
	}
	opening, cancel := context.WithTimeout(ctx, claimPatience)
	defer cancel()
	_, err = h.open(opening, c.results, frame)
	if dead := (*TaskError)(nil); err == nil || errors.As(err, &dead) {
		return true, nil
	}
	return false, ctx.Err()
}

// look reads what was stored last under a claim.
func (c *uniqueClaim) look(ctx context.Context, hash string) (last standing, err error) {
	s := c.bus.store
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	err = s.read(ctx, func(ctx context.Context) (err error) {
		last, err = s.lastMatch(ctx, policy.TaskStream(c.queue), policy.ClaimPattern(c.queue, hash))
		return err
	})
	return last, err
}

// lastMatch returns the last message in a stream under the subjects that a pattern takes.
func (s *store) lastMatch(ctx context.Context, stream, pattern string) (standing, error) {
	l, done := s.wire.use()
	defer done()
	m, err := l.nc.RequestWithContext(ctx, policy.StreamGet(stream, pattern), nil)
	if err != nil {
		return standing{}, storeError(err)
	}
	subject, ok := storedHeader(m, headerSubject)
	if !ok {
		if m.Header.Get(headerStatus) == "404" {
			return standing{}, nil
		}
		return standing{}, storeError(errAnswer(m))
	}
	text, _ := storedHeader(m, headerSequence)
	sequence, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return standing{}, storeError(fmt.Errorf("no sequence in an answer: %w", err))
	}
	return standing{frame: m.Data, subject: subject, sequence: sequence}, nil
}

const headerSequence = "Nats-Sequence"

// taskRecipient is what the frame of a task names that is stored under a subject: of a unique one its claim.
func taskRecipient(queue, subject string) string {
	if q, hash, priority, ok := policy.CutUniqueSubject(subject); ok {
		return policy.UniqueRecipient(q, hash, priority)
	}
	return queue
}

func isRejected(err error) bool {
	var r *keyring.Rejection
	return errors.As(err, &r)
}
