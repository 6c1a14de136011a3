package agentbus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// Progress follows what the task's handler reports from now on, and ends by itself when the task has a result or is dead,
// without an error; what came of it, Result says. The messages are from whoever works on the task: ID and Time are those
// of the report, by the worker's clock.
//
// It is live and at most once, and the newest counts: a loop that is slow is given the newest value and not those
// before it, and a value that comes after a newer one is refused. Who begins late gets the last value within 2 seconds
// if the handler still runs; of a task that nobody works on there is none. When an attempt fails, the next begins anew. The
// broker can hold progress back; it can change none, give none of another task, and none again that was given.
//
// The error, which ends it, is ErrNotEntitled where the policy does not let this agent enqueue there, ctx's, ErrClosed,
// or says that what stands in the place of the result is not genuine. Each loop over it follows anew.
func (h *TaskHandle) Progress(ctx context.Context) iter.Seq2[*Message, error] {
	return func(yield func(*Message, error) bool) {
		ctx, cancel := h.bus.untilClosed(ctx)
		defer cancel()
		f, err := h.follow(ctx)
		if err != nil {
			yield(nil, h.bus.closedOr(ctx, err))
			return
		}
		defer f.stop()
		for {
			m, err := f.next()
			if m == nil && err == nil {
				return
			}
			if !yield(m, err) || err != nil {
				return
			}
		}
	}
}

// follower is one loop over a task's progress.
type follower struct {
	handle *TaskHandle
	rc     *keyring.Receiver
	want   keyring.Want
	route  *route
	ctx    context.Context
	cancel context.CancelFunc
	others sync.WaitGroup
	ended  chan error // what Result returned
	some   chan struct{}

	// Of the loop alone.
	over   bool
	last   ulid.ULID // of the last frame that was accepted
	report ulid.ULID // and what it said
	opened keyring.Opened

	mu       sync.Mutex
	waiting  [][]byte // frames; the oldest goes where there are too many
	parked   []byte   // the newest whose key or sender's card is not here
	fetching bool     // what that needs
}

func (h *TaskHandle) follow(ctx context.Context) (*follower, error) {
	b := h.bus
	if b.closed() && !b.ofHandler(ctx) {
		return nil, ErrClosed
	}
	ch, err := policy.Result(h.queue)
	if err != nil {
		return nil, err
	}
	f := &follower{handle: h, ended: make(chan error, 1), some: make(chan struct{}, 1),
		want: keyring.Want{Kinds: keyring.Kinds(envelope.KindProgress), Recipient: h.queue, Ref: h.id}}
	if f.rc, err = b.ring.Receiver(ch); err != nil {
		return nil, ownError(err)
	}
	if _, err := b.storedReceiver(ctx, ch); err != nil { // which joins
		return nil, err
	}
	f.ctx, f.cancel = context.WithCancel(ctx)
	f.route = &route{subject: policy.ProgressSubject(h.queue, h.id.String()), fn: f.take}
	if err := b.wire.add(f.route); err != nil {
		f.cancel()
		return nil, err
	}
	if err := b.wire.settle(f.ctx, f.route); err != nil {
		f.stop()
		return nil, err
	}
	f.others.Go(func() {
		_, err := h.Result(f.ctx)
		f.ended <- err
	})
	return f, nil
}

func (f *follower) stop() {
	f.handle.bus.wire.drop(f.route)
	f.cancel()
	f.others.Wait()
}

// take takes a frame as it comes. It must not block.
func (f *follower) take(m *nats.Msg) {
	if len(m.Data) > maxProgressFrame { // before memory is kept for it: no worker seals such
		f.handle.bus.counts.rejectedFor(keyring.BadContent)
		return
	}
	f.put(m.Data)
}

func (f *follower) put(frame []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.waiting) == maxFollowed {
		f.waiting = f.waiting[1:]
	}
	f.waiting = append(f.waiting, frame)
	select {
	case f.some <- struct{}{}:
	default:
	}
}

// next returns the newest that has come, and nothing when the task has ended.
func (f *follower) next() (*Message, error) {
	for !f.over {
		select {
		case <-f.some:
		case err := <-f.ended:
			var dead *TaskError
			if err != nil && !errors.As(err, &dead) {
				return nil, f.handle.bus.closedOr(f.ctx, err)
			}
			f.over = true
		case <-f.ctx.Done():
			return nil, f.handle.bus.closedOr(f.ctx, fmt.Errorf("agentbus: following task %s: %w", f.handle.id, f.ctx.Err()))
		}
		m, err := f.newest()
		if m != nil || err != nil {
			return m, err
		}
	}
	return nil, nil
}

// newest opens what waits and returns the last that is genuine and new.
func (f *follower) newest() (newest *Message, err error) {
	f.mu.Lock()
	frames := f.waiting
	f.waiting = nil
	f.mu.Unlock()
	for _, frame := range frames {
		m, err := f.open(frame)
		var r *keyring.Rejection
		switch {
		case err == nil:
			if m != nil {
				newest = m
			}
		case missing(err):
			f.park(frame)
		case errors.As(err, &r):
			f.handle.bus.reject(&f.handle.bus.counts, &nats.Msg{Subject: f.route.subject}, r)
		default:
			return nil, f.handle.bus.closedOr(f.ctx, err)
		}
	}
	return newest, nil
}

// open opens a frame. It returns nil for what has been returned before: a report that was sent again, or a frame that came over
// two connections.
func (f *follower) open(frame []byte) (*Message, error) {
	var claimed envelope.Frame
	if envelope.Parse(frame, &claimed) == nil && claimed.ID == f.last {
		return nil, nil
	}
	o := &f.opened
	if err := f.rc.Open(frame, &f.want, o); err != nil {
		return nil, err
	}
	if len(o.Messages) != 1 {
		return nil, notOne(o)
	}
	m := newMessage(f.handle.queue, o)
	id, ok := decodeReport(headerOf(m.headers, headerProgress))
	if !ok {
		return nil, &keyring.Rejection{Reason: keyring.BadContent, Channel: o.Channel.String(), Sender: o.Sender.String(), ID: o.ID, Detail: "no progress"}
	}
	// The keyring refuses what has come before; this, what comes after a newer one.
	if bytes.Compare(o.ID[:], f.last[:]) <= 0 {
		return nil, &keyring.Rejection{Reason: keyring.Seen, Channel: o.Channel.String(), Sender: o.Sender.String(), ID: o.ID, Detail: "older than what has come before"}
	}
	again := id == f.report
	if f.last, f.report = o.ID, id; again {
		return nil, nil
	}
	f.handle.bus.counts.received.Add(1)
	m.ID, m.Time, m.headers = id, ulid.Time(id.Time()), ownHeaders(m.headers)
	return m, nil
}

// park has a frame wait for what it needs, if it is the newest that does. One fetch is under way at a time, so that who
// names keys that nobody has costs little.
func (f *follower) park(frame []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.parked = frame
	if f.fetching {
		return
	}
	f.fetching = true
	f.others.Go(func() {
		ctx, cancel := context.WithTimeout(f.ctx, parkTimeout)
		defer cancel()
		err := f.handle.bus.ring.Await(ctx, frame)
		f.mu.Lock()
		newest := f.parked
		f.parked, f.fetching = nil, false
		f.mu.Unlock()
		if err == nil {
			f.put(newest)
		}
	})
}
