package agentbus

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// errNotRunning is for progress of a task that nobody is working on.
var errNotRunning = errors.New("agentbus: progress can be reported while the task's handler runs, and not of a task that no worker has handed out")

// Progress tells whoever follows the task how it comes along: up to MaxProgress bytes, sealed for the queue's enqueuers.
// It returns at once and sends nothing itself, so that a handler may call it as often as it likes: a newer value takes
// the place of one that has not gone out yet, and no more than some 20 a second do. The newest is repeated every 2 seconds
// as long as the handler runs, for those who begin to follow later. It is delivered at most once; nothing keeps it.
//
// The error is ErrTooLarge, ctx's where that has ended, or says that the handler has returned. Progress may be called by
// several goroutines of the handler at once. The payload is copied.
func (t *Task) Progress(ctx context.Context, payload []byte) error {
	if len(payload) > MaxProgress {
		return fmt.Errorf("%w: progress of %d bytes; the limit is %d", ErrTooLarge, len(payload), MaxProgress)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if t.teller == nil {
		return errNotRunning
	}
	return t.teller.take(t, payload)
}

// teller sends what the handlers of a queue's tasks report. Whatever came while it sealed and sent goes together, under
// one signature. It has no part in a lane: what is recorded of tasks waits for the broker's disk there.
type teller struct {
	queue *workQueue
	once  sync.Once
	wake  chan struct{}

	mu      sync.Mutex
	reports map[*Task]*report // of tasks whose handlers have reported something
}

// report is the newest that is to be said of a task.
type report struct {
	task    ulid.ULID
	id      ulid.ULID // of this value, however often it is sent
	payload []byte
	fresh   bool // it has not been sent
	over    bool // the handler has returned
}

func newTeller(q *workQueue) *teller {
	return &teller{queue: q, wake: make(chan struct{}, 1), reports: make(map[*Task]*report)}
}

func (t *teller) take(task *Task, payload []byte) error {
	id, err := ulid.New(ulid.Now(), crand.Reader)
	if err != nil {
		return fmt.Errorf("agentbus: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if task.over {
		return errNotRunning
	}
	r := t.reports[task]
	if r == nil {
		r = &report{task: task.ID}
		t.reports[task] = r
	}
	r.id, r.payload, r.fresh = id, slices.Clone(payload), true
	t.once.Do(func() { t.queue.worker.keeper.Go(t.run) })
	select {
	case t.wake <- struct{}{}:
	default:
	}
	return nil
}

// end takes no more reports of a task. The last one still goes out.
func (t *teller) end(task *Task) {
	t.mu.Lock()
	defer t.mu.Unlock()
	task.over = true
	if r := t.reports[task]; r != nil {
		if r.over = true; !r.fresh {
			delete(t.reports, task)
		}
	}
}

func (t *teller) run() {
	ctx := t.queue.worker.ctx
	again := time.NewTicker(progressAgain)
	defer again.Stop()
	for {
		select {
		case <-t.wake:
		case <-again.C:
			t.refresh()
		case <-ctx.Done():
			return
		}
		if err := t.tell(ctx); err != nil && ctx.Err() == nil {
			t.queue.worker.bus.log.Debug("progress could not be sent", "queue", t.queue.name, "error", err)
		}
		pause(ctx, progressPause)
	}
}

// refresh has everything sent once more.
func (t *teller) refresh() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.reports {
		r.fresh = true
	}
}

// pick takes what is to be sent.
func (t *teller) pick() (list []report) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for task, r := range t.reports {
		if !r.fresh {
			continue
		}
		list = append(list, *r) // its payload is replaced, never written to
		if r.fresh = false; r.over {
			delete(t.reports, task)
		}
	}
	return list
}

// tell seals and sends. What it could not send goes with the next round, or is lost if its handler has returned.
func (t *teller) tell(ctx context.Context) error {
	b := t.queue.worker.bus
	if !b.Connected() {
		return ErrDisconnected
	}
	ch, err := policy.Result(t.queue.name)
	if err != nil {
		return err
	}
	for some := range slices.Chunk(t.pick(), maxFrames) {
		bundles, err := t.sealed(ctx, ch, some)
		if err != nil {
			return err
		}
		for i, p := range bundles {
			// Not as a live frame that a Flush would have to answer for.
			if err := b.wire.publish(&nats.Msg{Subject: policy.ProgressSubject(t.queue.name, some[i].task.String()), Data: p.Frame}); err != nil {
				return b.wireError("sending", err)
			}
		}
	}
	return nil
}

func (t *teller) sealed(ctx context.Context, ch policy.Channel, some []report) ([]*keyring.Bundle, error) {
	b := t.queue.worker.bus
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	s, err := b.sender(ctx, ch)
	if err != nil {
		return nil, err
	}
	committed, err := s.Committed()
	if err != nil {
		return nil, err
	}
	bundles := make([]*keyring.Bundle, len(some))
	for i, r := range some {
		p := &keyring.Bundle{Kind: envelope.KindProgress, Recipient: t.queue.name, Ref: r.task}
		p.Messages.Reset(committed)
		m := envelope.Message{Headers: []envelope.Pair{{Key: []byte(headerProgress), Value: encodeReport(r.id)}}, Payload: r.payload}
		if err := p.Messages.Add(&m); err != nil {
			return nil, err
		}
		bundles[i] = p
	}
	for {
		err := s.SealBundles(bundles)
		if !errors.Is(err, keyring.ErrNoKey) {
			return bundles, err
		}
		if _, err := b.ring.Sender(ctx, ch); err != nil {
			return nil, err
		}
	}
}

// A report's id travels sealed, in the header "sealbus-progress":
//
//	version u8 = 1 · id 16 bytes, a ULID of when it was reported
func encodeReport(id ulid.ULID) []byte { return append([]byte{1}, id[:]...) }

func decodeReport(b []byte) (id ulid.ULID, ok bool) {
	if len(b) != 1+len(id) || b[0] != 1 {
		return id, false
	}
	return ulid.ULID(b[1:]), true
}
