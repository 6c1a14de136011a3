package agentbus

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealbus/sealbus/audit"
)

// auditPage is some of what a stream holds, in its order.
type auditPage struct {
	list []audit.Stored
	more bool // there is more behind it
}

// auditPager reads a whole stream page by page. It is not safe for concurrent use.
type auditPager struct{ *streamReader }

func newAuditPager(s *store, stream, filter string) *auditPager {
	r := newStreamReader(s, stream)
	r.filter, r.largest = filter, audit.MaxData // whoever has every right may have put in what is no frame
	return &auditPager{r}
}

// unknownSubject and unknownTime stand for what the server does not say of a message: its author's headers are such that
// nobody can read the server's own behind them.
const unknownSubject = "?"

var unknownTime = time.Unix(0, 1).UTC()

// messages reads the messages from a sequence on, as many as fit a page. Every message of the stream is in one, whatever
// is in it and in its headers.
func (r *auditPager) messages(ctx context.Context, from uint64) (p auditPage, err error) {
	from = max(from, 1)
	p.list, p.more, err = r.read(ctx, from, maxReplayBatch)
	if err != nil {
		return auditPage{}, err
	}
	next := from
	for i := range p.list {
		s := &p.list[i]
		if s.Sequence == 0 {
			if s.Sequence, err = r.locate(ctx, next); err != nil {
				return auditPage{}, err
			}
		}
		if s.Sequence < next {
			return auditPage{}, errOrder(r.stream)
		}
		next = s.Sequence + 1
	}
	return p, nil
}

// read reads messages; a Sequence of 0 says that it is not known.
func (r *auditPager) read(ctx context.Context, from uint64, batch int) (list []audit.Stored, more bool, err error) {
	end, err := r.page(ctx, pageQuery{from: from, batch: batch}, func(m *nats.Msg) (err error) {
		s := audit.Stored{Data: m.Data, Subject: unknownSubject, Time: unknownTime}
		if m.Header != nil {
			s.Sequence = sequenceOf(m)
			s.Subject, _ = storedHeader(m, headerSubject)
			at, _ := storedHeader(m, headerStored)
			if s.Time, err = time.Parse(time.RFC3339Nano, at); err != nil || s.Sequence == 0 || s.Subject == "" {
				return errOrder(r.stream)
			}
		}
		list = append(list, s)
		return nil
	})
	if err == nil && !end.none && len(list) == 0 {
		err = errOrder(r.stream)
	}
	return list, end.pending > 0, err
}

// at reads the message at a sequence; its Sequence is zero where there is none.
func (r *auditPager) at(ctx context.Context, sequence uint64) (audit.Stored, error) {
	s, err := r.first(ctx, sequence)
	if s.Sequence != sequence {
		s = audit.Stored{}
	}
	return s, err
}

// first reads the first message from a sequence on; its Sequence is zero where there is none.
func (r *auditPager) first(ctx context.Context, from uint64) (audit.Stored, error) {
	list, _, err := r.read(ctx, from, 1)
	if err != nil || len(list) == 0 {
		return audit.Stored{}, err
	}
	s := list[0]
	if s.Sequence == 0 {
		s.Sequence, err = r.locate(ctx, from)
	}
	return s, err
}

// locate returns where the first message from a sequence on lies. Without the authors' headers, only the server's own
// say anything.
func (r *auditPager) locate(ctx context.Context, from uint64) (uint64, error) {
	end, err := r.streamReader.first(ctx, pageQuery{from: from})
	if err == nil && (end.none || end.last < from) { // it is gone in the meantime
		return from, nil
	}
	return end.last, err
}

// persist does what once does until it succeeds, and tries again where there is no connection or no stream at this
// moment, until ctx ends.
func persist(ctx context.Context, once func() error) error {
	for {
		err := once()
		if err == nil || !isAway(err) {
			return err
		}
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), err)
		}
		pause(ctx, minReconnect)
	}
}

// isAway reports whether an error says no more than that the broker does not answer at this moment.
func isAway(err error) bool {
	return isPassing(err) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout)
}
