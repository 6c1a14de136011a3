package agentbus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// TaskError is why a task has no result.
type TaskError struct {
	Reason   DeadReason
	Attempts int    // that have failed
	Text     string // of the last failure
}

func (e *TaskError) Error() string {
	if e.Text == "" {
		return fmt.Sprintf("the task is dead: %s, after %d attempts", e.Reason, e.Attempts)
	}
	return fmt.Sprintf("the task is dead: %s, after %d attempts: %s", e.Reason, e.Attempts, e.Text)
}

// Result waits until the task has succeeded and returns what its handler returned, as a message from the worker. The
// error is a *TaskError when the task is dead, ErrNotEntitled where the policy does not let this agent enqueue there, and
// ctx's when that ends. A result stays as long as the queue's retain says, at least as long as its task is in the log;
// asked for later, it is waited for in vain.
func (h *TaskHandle) Result(ctx context.Context) (*Message, error) {
	b := h.bus
	ch, err := policy.Result(h.queue)
	if err != nil {
		return nil, err
	}
	ctx, cancel := b.untilClosed(ctx)
	defer cancel()
	rc, err := b.storedReceiver(ctx, ch)
	if err != nil {
		return nil, b.closedOr(ctx, err)
	}
	stored := make(chan struct{}, 1)
	subject := policy.ResultSubject(h.queue, h.id.String())
	// What passes by is no more than a hint: it is not on disk yet, and may never be, where the broker refuses it.
	r := &route{subject: subject, fn: func(*nats.Msg) {
		select {
		case stored <- struct{}{}:
		default:
		}
	}}
	if err := b.wire.add(r); err != nil {
		return nil, err
	}
	defer b.wire.drop(r)
	restored := b.wire.restored.next()
	if err := b.wire.settle(ctx, r); err != nil {
		return nil, b.closedOr(ctx, err)
	}
	look := time.NewTimer(0)
	defer look.Stop()
	// One that passed by before the subscription stood may be stored after the first look, so there are further ones.
	for pause := firstLook; ; {
		select {
		case <-look.C:
			m, err := h.recorded(ctx, rc, subject)
			if m != nil || err != nil && (ctx.Err() != nil || !isPassing(err) && !errors.Is(err, context.DeadlineExceeded)) {
				return m, b.closedOr(ctx, err)
			}
			look.Reset(pause)
			pause = min(2*pause, lastLook)
			continue
		case <-stored:
			pause = storeLook
		case <-restored: // it may have been recorded while there was no connection
			restored = b.wire.restored.next()
			if err := b.wire.settle(ctx, r); err != nil {
				return nil, b.closedOr(ctx, err)
			}
			pause = firstLook
		case <-ctx.Done():
			return nil, b.closedOr(ctx, fmt.Errorf("agentbus: no result of task %s yet: %w", h.id, ctx.Err()))
		}
		look.Reset(0)
	}
}

// When Result looks for a result: so long after the look before, and twice as long each time.
const (
	storeLook = 500 * time.Microsecond // when one has passed by and is being stored
	firstLook = 10 * time.Millisecond
	lastLook  = 10 * time.Second
)

// recorded returns the result that the broker has, nil if it has none.
func (h *TaskHandle) recorded(ctx context.Context, rc *keyring.StoredReceiver, subject string) (*Message, error) {
	frame, err := h.bus.store.lastUnder(ctx, policy.ResultStream(h.queue), subject)
	if err != nil || frame == nil {
		return nil, err
	}
	return h.open(ctx, rc, frame)
}

// open opens a frame that is said to be the task's result.
func (h *TaskHandle) open(ctx context.Context, rc *keyring.StoredReceiver, frame []byte) (*Message, error) {
	return openResult(h.bus.opens(ctx, rc), h.queue, h.id, frame)
}

// opens is a way to open a frame that a stream has kept.
type opens func(frame []byte, want *keyring.Want, o *keyring.Opened) error

// opens is that of openStored.
func (b *Bus) opens(ctx context.Context, rc *keyring.StoredReceiver) opens {
	return func(frame []byte, want *keyring.Want, o *keyring.Opened) error {
		return b.openStored(ctx, rc, frame, want, o)
	}
}

// openResult opens a frame that is said to be a task's result. The error is a *TaskError where it says that the task is dead.
func openResult(open opens, queue string, task ulid.ULID, frame []byte) (*Message, error) {
	var o keyring.Opened
	want := &keyring.Want{Kinds: keyring.Kinds(envelope.KindResult, envelope.KindError), Recipient: queue, Ref: task}
	if err := open(frame, want, &o); err != nil {
		return nil, err
	}
	if len(o.Messages) != 1 {
		return nil, notOne(&o)
	}
	m := newMessage(queue, &o)
	if o.Kind == envelope.KindError {
		return nil, taskErrorOf(m)
	}
	return m, nil
}

// openStored opens a frame that a stream has kept, and waits for what is missing for that.
func (b *Bus) openStored(ctx context.Context, rc *keyring.StoredReceiver, frame []byte, want *keyring.Want, o *keyring.Opened) error {
	for {
		err := rc.Open(frame, want, o)
		if !missing(err) {
			return ownError(err)
		}
		if err := b.ring.AwaitStored(ctx, frame); err != nil {
			return ownError(err)
		}
	}
}

// storedReceiver joins a channel and returns what opens its stored frames.
func (b *Bus) storedReceiver(ctx context.Context, ch policy.Channel) (*keyring.StoredReceiver, error) {
	if rc, ok := b.stored.Load(ch); ok {
		return rc.(*keyring.StoredReceiver), nil
	}
	rc, err := b.ring.StoredReceiver(ch)
	if err != nil {
		return nil, ownError(err)
	}
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	if err := b.ring.Join(ctx, ch); err != nil {
		return nil, err
	}
	kept, _ := b.stored.LoadOrStore(ch, rc)
	return kept.(*keyring.StoredReceiver), nil
}
