package agentbus

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"time"

	"github.com/sealbus/sealbus/audit"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// Verify compares a stream with the log that this auditor keeps of it, after it has logged everything that there is by
// now: whether what is there is what was logged, in its order, complete, from whom it says, and signed lately. It
// reads the whole log and the whole stream, with the checkpoints that the log, the broker and the second place have. If this agent
// may read the channel, it also opens every message, for the verdict on readability. ctx alone bounds it.
//
// What it finds wrong is in the report; the error is for what keeps it from looking.
func (a *Auditor) Verify(ctx context.Context, stream string) (*audit.Report, error) {
	f, err := a.follower(stream)
	if err != nil {
		return nil, err
	}
	if err := f.ask(ctx, nil); err != nil {
		return nil, err
	}
	return a.bus.verify(ctx, f.dir, stream, a.config.Second)
}

// Verify compares a stream with a log of it in a directory, as Auditor.Verify does: one that no auditor has open, a copy, or one
// that an auditor in another process is writing. dir is AuditConfig.Dir, or the copy of one. second is where
// checkpoints of the log were kept besides; nil: nowhere. Where this agent may not read the stream it is ErrNotEntitled.
func (b *Bus) Verify(ctx context.Context, dir, stream string, second audit.Sink) (*audit.Report, error) {
	if b.closed() {
		return nil, ErrClosed
	}
	return b.verify(ctx, filepath.Join(dir, stream), stream, second)
}

func (b *Bus) verify(ctx context.Context, dir, stream string, second audit.Sink) (*audit.Report, error) {
	log, err := audit.Read(dir)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	ctx, cancel := b.untilClosed(ctx)
	defer cancel()
	in, err := b.verifyInput(ctx, log, stream, second)
	if err != nil {
		return nil, b.closedOr(ctx, err)
	}
	r, err := audit.Verify(ctx, in)
	return r, b.closedOr(ctx, err)
}

// verifyInput puts together what verification works on.
func (b *Bus) verifyInput(ctx context.Context, log *audit.Reader, stream string, second audit.Sink) (*audit.Input, error) {
	if o := log.Origin(); o.Stream != stream {
		return nil, fmt.Errorf("agentbus: the log %s is not of %.100q", o, stream)
	}
	ch, ok := policy.StreamChannel(stream)
	if !ok || !b.ring.Policy().CanAudit(ch, b.self.Name()) {
		return nil, fmt.Errorf("%w: policy revision %d does not let %q audit %.100q", ErrNotEntitled, b.ring.Policy().Revision(), b.self.Name(), stream)
	}
	info, err := b.streamInfo(ctx, stream)
	if err != nil {
		return nil, err
	}
	in := &audit.Input{Log: log, Places: b.places(ctx, log, second), Frames: b.frames(stream), Statements: audit.NewStatements(b.trust()), Created: info.Created.UTC()}
	if _, _, err := in.Statements.AddAll(log.Statements()); err != nil {
		return nil, err
	}
	if in.Opener, err = b.opener(ctx, stream); err != nil {
		return nil, err
	}
	return in, nil
}

func (b *Bus) streamInfo(ctx context.Context, stream string) (i *streamInfo, err error) {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	err = persist(ctx, func() (err error) {
		i, err = b.store.info(ctx, stream)
		return err
	})
	return i, err
}

// places returns where checkpoints of a log were kept.
func (b *Bus) places(ctx context.Context, log *audit.Reader, second audit.Sink) []audit.Place {
	list := []audit.Place{{Name: "the log", Checkpoints: log.Checkpoints()}, {Name: policy.AuditStream, Checkpoints: b.checkpoints(ctx, log.Origin().Stream)}}
	if s, ok := second.(interface {
		Checkpoints(stream string) iter.Seq2[[]byte, error]
	}); ok {
		list = append(list, audit.Place{Name: "the second place", Checkpoints: s.Checkpoints(log.Origin().Stream)})
	}
	return list
}

// checkpoints ranges over the checkpoints of a stream's logs that the broker has. What lies there under a subject that is no
// auditor's is left out: it says nothing.
func (b *Bus) checkpoints(ctx context.Context, stream string) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for s, err := range b.pages(ctx, policy.AuditStream, policy.AuditSubject(stream, "*", "*")) {
			if !yield(s.Data, err) || err != nil {
				return
			}
		}
	}
}

// frames reads a stream from its beginning.
func (b *Bus) frames(stream string) audit.FramesFunc {
	return func(ctx context.Context) iter.Seq2[audit.Stored, error] { return b.pages(ctx, stream, "") }
}

// pages reads what a stream holds, all of it or under the subjects that a pattern takes, and reads the next page while the one
// before is looked at.
func (b *Bus) pages(ctx context.Context, stream, filter string) iter.Seq2[audit.Stored, error] {
	return b.pagesFrom(ctx, stream, filter, 1, 0)
}

// pagesFrom is pages from one sequence to another; to 0: to the end.
func (b *Bus) pagesFrom(ctx context.Context, stream, filter string, from, to uint64) iter.Seq2[audit.Stored, error] {
	type result struct {
		page auditPage
		err  error
	}
	return func(yield func(audit.Stored, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		ahead := make(chan result)
		done := make(chan struct{})
		defer func() { cancel(); <-done }()
		go func() {
			defer close(done)
			defer close(ahead)
			pager := newAuditPager(b.store, stream, filter)
			defer pager.close()
			for next, more := from, true; more; {
				var r result
				r.page, r.err = b.readPage(ctx, pager, next)
				if n := len(r.page.list); n > 0 {
					next = r.page.list[n-1].Sequence + 1
				}
				more = r.err == nil && r.page.more && (to == 0 || next <= to)
				select {
				case ahead <- r:
				case <-ctx.Done():
					return
				}
			}
		}()
		for r := range ahead {
			if r.err != nil {
				yield(audit.Stored{}, r.err)
				return
			}
			for _, s := range r.page.list {
				if to != 0 && s.Sequence > to || !yield(s, nil) {
					return
				}
			}
		}
		if err := ctx.Err(); err != nil {
			yield(audit.Stored{}, err)
		}
	}
}

func (b *Bus) readPage(ctx context.Context, pager *auditPager, from uint64) (p auditPage, err error) {
	bounded, cancel := context.WithTimeout(ctx, b.config.RequestTimeout)
	defer cancel()
	err = persist(bounded, func() (err error) {
		p, err = pager.messages(bounded, from)
		return err
	})
	return p, err
}

// opener opens the frames of a stream if this agent may read its channel; nil if not.
func (b *Bus) opener(ctx context.Context, stream string) (audit.Opener, error) {
	rc, err := b.streamReceiver(ctx, stream)
	if rc == nil || err != nil {
		return nil, err
	}
	return func(ctx context.Context, s *audit.Stored, e *audit.Expectation) error {
		var o keyring.Opened
		want := e.Want
		want.Expired = true
		ctx, cancel := context.WithTimeout(ctx, auditOpenWait)
		defer cancel()
		err := b.openStored(ctx, rc, s.Data, &want, &o)
		if err != nil && ctx.Err() != nil && errors.Is(err, context.DeadlineExceeded) {
			return rc.Open(s.Data, &want, &o) // why not, and not that it took too long
		}
		return err
	}, nil
}

// streamReceiver returns what opens the frames of a stream, nil if this agent may not read its channel.
func (b *Bus) streamReceiver(ctx context.Context, stream string) (*keyring.StoredReceiver, error) {
	ch, ok := policy.StreamChannel(stream)
	if !ok {
		return nil, fmt.Errorf("agentbus: %.100q is no stream that is audited", stream)
	}
	if ch.Kind() == policy.KindQueue && stream != policy.TaskStream(ch.Name()) {
		var err error
		if ch, err = policy.Result(ch.Name()); err != nil {
			return nil, err
		}
	}
	if !b.ring.Policy().CanRead(ch, b.self.Name()) {
		return nil, nil
	}
	return b.storedReceiver(ctx, ch)
}

// auditOpenWait is how long a key is waited for that a message needs.
const auditOpenWait = 2 * time.Second
