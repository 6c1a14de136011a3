package agentbus

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// errStands is for a result that is not the first of its task.
var errStands = errors.New("agentbus: the task has a result already")

// record stores what workers have to say of tasks. Results go in one atomic batch: the broker then syncs once. Where one
// of them stands already it refuses the batch as a whole, and they go one by one.
func (l *lane) record(bt *batch) error {
	b := l.bus
	if bt.until.IsZero() {
		bt.until = time.Now().Add(b.config.RequestTimeout)
	}
	ctx, cancel := context.WithDeadline(b.gathered, bt.until)
	defer cancel()
	for rest := bt.parcels; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].stream == rest[0].stream {
			n++
		}
		l.recordIn(ctx, rest[0].stream, rest[:n])
		rest = rest[n:]
	}
	return nil
}

// recordIn stores frames in one stream and notes with each what came of it.
func (l *lane) recordIn(ctx context.Context, stream string, parcels []*parcel) {
	b := l.bus
	one := &batch{parcels: parcels}
	err := b.store.append(ctx, stream, one.entries())
	if !isRefused(err) {
		for _, p := range parcels {
			p.err = b.gatheredError(err)
		}
		return
	}
	if len(parcels) > 1 {
		for i := range parcels {
			l.recordIn(ctx, stream, parcels[i:i+1])
		}
		return
	}
	// It may be this very frame, whose acknowledgement was lost.
	p, refused := parcels[0], b.gatheredError(err)
	list, err := b.store.last(ctx, stream, []string{p.subject})
	switch {
	case err != nil:
		p.err = b.gatheredError(err)
	case len(list) == 0: // the same code says that the stream is full
		p.err = refused
	case len(list) != 1 || !bytes.Equal(list[0].frame, p.Frame):
		p.err = errStands
	}
}

// isRefused reports whether a stream has refused a second message under a subject that takes one.
func isRefused(err error) bool {
	var e jetstream.JetStreamError
	return errors.As(err, &e) && e.APIError() != nil && e.APIError().ErrorCode == codeOnePerSubject
}

const codeOnePerSubject = 10077

// say has a lane take something that a worker has to say of a task: sealed for the enqueuers, stored, and then told to
// then, which must not block.
func (q *workQueue) say(ctx context.Context, kind envelope.Kind, stream, subject string, task ulid.ULID, m envelope.Message, then func(*ticket)) (*ticket, error) {
	b := q.worker.bus
	ch, err := policy.Result(q.name)
	if err != nil {
		return nil, err
	}
	l, err := b.channelLane(ctx, ch, (*lane).record)
	if err != nil {
		return nil, err
	}
	it := &item{kind: kind, subject: q.name, ref: task, nats: subject, stream: stream, message: m,
		ticket: &ticket{done: make(chan struct{}), then: then}}
	if it.committed, err = l.sender.Committed(); err != nil {
		return nil, ownError(err)
	}
	if err := checkContent(m.Payload, m.Headers); err != nil {
		return nil, err
	}
	it.until = time.Now().Add(b.config.RequestTimeout)
	_, err = l.add(ctx, it)
	return it.ticket, err
}

// wait waits for what has come of a message.
func (t *ticket) wait(ctx context.Context) error {
	select {
	case <-t.done:
		return t.err
	case <-ctx.Done():
		return ctx.Err()
	}
}
