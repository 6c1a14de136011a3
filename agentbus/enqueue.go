package agentbus

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// NewTask is one task of an EnqueueBatch.
type NewTask struct {
	Payload []byte
	Options []EnqueueOption
}

// Enqueue puts a task into a queue and returns when the broker has it on disk. From then on it runs until it has
// succeeded or is declared dead, whatever becomes of this agent, of workers and of the broker: at least once, with one
// recorded result. Payload, kind, headers and terms are sealed for the queue's workers.
//
// Calls at the same time share a signature and a sync of the broker's disk. Where the acknowledgement does not come, the
// same task is sent again until ctx ends (after Config.RequestTimeout if ctx has no deadline); the broker stores it once.
// After an error the task may be stored or not.
//
// The error is a *DuplicateError for a Unique task whose key another has, ErrNotEntitled where the policy does not let this agent enqueue there, ErrTooLarge for a payload of more
// than MaxPayload bytes, and of the broker when the queue's stream is full.
func (b *Bus) Enqueue(ctx context.Context, queue string, payload []byte, options ...EnqueueOption) (*TaskHandle, error) {
	l, it, err := b.preparedTask(ctx, queue, payload, options)
	if err != nil {
		return nil, err
	}
	if it.unique != nil {
		return b.enqueueUnique(ctx, queue, l, it)
	}
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	it.until, _ = ctx.Deadline()
	it.ticket = &ticket{done: make(chan struct{})}
	if _, err := l.add(ctx, it); err != nil {
		return nil, err
	}
	select {
	case <-it.ticket.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-b.closing(ctx):
		return nil, ErrClosed
	}
	if it.ticket.err != nil {
		return nil, it.ticket.err
	}
	return &TaskHandle{bus: b, queue: queue, id: it.ticket.id}, nil
}

// EnqueueBatch is Enqueue for many tasks. It returns a handle for each, in their places, whatever the error: nil where the task is
// not stored, or is not known to be. All or none of each thousand, or of 8 MiB where that is less, are stored, with one sync of the
// broker's disk; delayed ones each for itself. It ends with the first thousand of which one is not stored, and the error
// says what became of it: of those that stand and fall together once, of each delayed one by its place in tasks.
func (b *Bus) EnqueueBatch(ctx context.Context, queue string, tasks []NewTask) ([]*TaskHandle, error) {
	handles := make([]*TaskHandle, len(tasks))
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	for first := 0; len(tasks) > 0; {
		some, rest, err := b.batchOf(ctx, queue, tasks, first)
		if err != nil {
			return handles, err
		}
		err = b.enqueueAll(ctx, queue, some, first)
		at := first
		for _, p := range some {
			for i := range p.Messages.Len() {
				if p.err == nil {
					handles[at] = &TaskHandle{bus: b, queue: queue, id: nthID(p.ID, i)}
				}
				at++
			}
		}
		if err != nil {
			return handles, err
		}
		first += len(tasks) - len(rest)
		tasks = rest
	}
	return handles, nil
}

// batchOf makes frames of the first tasks, as many as are stored together.
func (b *Bus) batchOf(ctx context.Context, queue string, tasks []NewTask, first int) (some []*parcel, rest []NewTask, err error) {
	size := 0
	for i, t := range tasks {
		if i == maxTaskBatch || size > maxTaskBatchBytes {
			return some, tasks[i:], nil
		}
		_, it, err := b.preparedTask(ctx, queue, t.Payload, t.Options)
		if err == nil && it.unique != nil {
			err = errUniqueBatch
		}
		if err != nil {
			return nil, nil, fmt.Errorf("task %d of the batch: %w", first+i, err)
		}
		if len(some) == 0 || !some[len(some)-1].takes(it) {
			p := &parcel{Bundle: keyring.Bundle{Kind: it.kind, Recipient: it.subject}, subject: it.nats, due: it.due, shared: it.shares, apart: !it.due.IsZero()}
			p.Messages.Reset(it.committed)
			some = append(some, p)
		}
		p := some[len(some)-1]
		before := p.Messages.Size()
		if err := p.Messages.Add(&it.message); err != nil {
			return nil, nil, fmt.Errorf("task %d of the batch: %w", first+i, err)
		}
		size += p.Messages.Size() - before
	}
	return some, nil, nil
}

// letterHeaders are what a dead letter has besides the headers of its task, at their largest.
var letterHeaders = []envelope.Pair{{Key: []byte(headerDead), Value: make([]byte, 4)}, {Key: []byte(headerDeadText), Value: make([]byte, maxErrorText)}}

// enqueueAll seals and stores tasks together. It notes with each what became of it.
func (b *Bus) enqueueAll(ctx context.Context, queue string, some []*parcel, first int) error {
	err := b.storeAll(ctx, queue, some)
	if err != nil {
		for _, p := range some {
			p.err = err
		}
		return err
	}
	stored, place := 0, first
	var failed failures
	for _, p := range some {
		switch {
		case p.err == nil:
			stored += p.Messages.Len()
		case p.due.IsZero():
			failed.all(p.err)
		default:
			failed.one(place, p.err)
		}
		place += p.Messages.Len()
	}
	b.counts.published.Add(uint64(stored))
	return failed.err()
}

// storeAll returns an error where nothing was stored.
func (b *Bus) storeAll(ctx context.Context, queue string, some []*parcel) error {
	ch, err := policy.Queue(queue)
	if err != nil {
		return err
	}
	l, err := b.queueLane(ctx, ch)
	if err != nil {
		return err
	}
	ctx, cancel := b.untilClosed(ctx)
	defer cancel()
	bt := &batch{parcels: some, since: time.Now()}
	for _, p := range some {
		bt.count += p.Messages.Len()
	}
	bt.until, _ = ctx.Deadline()
	if err := l.seal(ctx, bt); err != nil {
		return b.closedOr(ctx, err)
	}
	if err := l.deposit(ctx, bt); err != nil {
		return b.closedOr(ctx, err)
	}
	for _, p := range some {
		if p.err != nil {
			p.err = b.closedOr(ctx, p.err)
		}
	}
	return nil
}

// preparedTask checks a task and finds its lane.
func (b *Bus) preparedTask(ctx context.Context, queue string, payload []byte, options []EnqueueOption) (*lane, *item, error) {
	if b.closed() && !b.ofHandler(ctx) {
		return nil, nil, ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	ch, err := b.ring.Policy().QueueChannel(queue)
	if err != nil {
		return nil, nil, err
	}
	d := taskDraft{terms: defaultTerms()}
	for _, option := range options {
		if err := option.applyEnqueue(&d); err != nil {
			return nil, nil, err
		}
	}
	encoded, err := d.terms.encode()
	if err != nil {
		return nil, nil, err
	}
	headers := append(d.headers, envelope.Pair{Key: []byte(headerTask), Value: encoded})
	// A dead letter has all of these, and says why besides.
	if len(d.headers) > 0 {
		err = checkContent(payload, append(slices.Clone(headers), letterHeaders...))
	} else {
		err = checkContent(payload, nil) // the terms alone fit
	}
	if err != nil {
		return nil, nil, err
	}
	envelope.SortHeaders(headers)
	l, err := b.queueLane(ctx, ch)
	if err != nil {
		return nil, nil, err
	}
	it := &item{kind: envelope.KindTask, subject: queue, nats: policy.TaskSubject(queue, d.priority),
		message: envelope.Message{Headers: headers, Payload: payload}, unique: d.uniqueAt(d.priority)}
	if time.Until(d.notBefore) > holdTime {
		// The broker's clock tells when it is due, the worker's when it begins.
		it.due, it.nats = d.notBefore.Add(-holdTime/2), policy.DueSubject(queue, d.priority)
	}
	if it.committed, err = l.sender.Committed(); err != nil {
		return nil, nil, ownError(err)
	}
	it.shares = d.notBefore.IsZero()
	return l, it, nil
}

// queueLane returns the lane of a queue. The first time this agent joins the channel of results too: who reads results
// makes their key and hands it to the workers, which they would otherwise have to make up for themselves.
func (b *Bus) queueLane(ctx context.Context, ch policy.Channel) (*lane, error) {
	if l, ok := b.lanes.Load(ch); ok {
		return l.(*lane), nil
	}
	results, err := policy.Result(ch.Name())
	if err != nil {
		return nil, err
	}
	l, err := b.channelLane(ctx, ch, (*lane).enqueue)
	if err != nil {
		return nil, err
	}
	if _, err := b.storedReceiver(ctx, results); err != nil {
		return nil, err
	}
	return l, nil
}

// TaskHandle is a task that was enqueued.
type TaskHandle struct {
	bus   *Bus
	queue string
	id    ulid.ULID
}

// Task returns the handle of a task that was enqueued before, perhaps by another process: its id is all it takes.
func (b *Bus) Task(queue string, id ulid.ULID) (*TaskHandle, error) {
	if _, err := b.ring.Policy().QueueChannel(queue); err != nil {
		return nil, err
	}
	if id.IsZero() {
		return nil, fmt.Errorf("agentbus: no id for a task of %s", queue)
	}
	return &TaskHandle{bus: b, queue: queue, id: id}, nil
}

// ID returns the task's id.
func (h *TaskHandle) ID() ulid.ULID { return h.id }

// Queue returns the name of the task's queue.
func (h *TaskHandle) Queue() string { return h.queue }
