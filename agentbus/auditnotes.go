package agentbus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/audit"
	"github.com/sealbus/sealbus/policy"
)

// checkpoint signs what the log is, if anything has come since the last time, and has that kept elsewhere.
func (f *auditFollower) checkpoint() error {
	f.signed, f.since = time.Now(), 0
	f.mu.Lock()
	signed := f.shown.Signed
	f.mu.Unlock()
	size := f.log.Size()
	if size == signed {
		return nil
	}
	raw, err := f.log.Checkpoint(f.signer)
	if err != nil {
		return fmt.Errorf("agentbus: signing a checkpoint of %s: %w", f.stream, err)
	}
	f.mu.Lock()
	f.shown.Signed = size
	f.mu.Unlock()
	f.notes.put(auditNote{size, raw})
	f.show(false)
	return nil
}

// kept compares the log with the last checkpoints of it that were kept elsewhere: one that was put back to an earlier state
// is not to go on, or its auditor would sign what contradicts what it has signed.
func (f *auditFollower) kept(ctx context.Context) error {
	if latest, ok := f.a.config.Second.(interface {
		Latest(audit.Origin) ([]byte, error)
	}); ok {
		raw, err := latest.Latest(f.log.Origin())
		if err == nil && raw != nil {
			err = f.log.Extends(raw)
		}
		if err != nil {
			return fmt.Errorf("agentbus: the second place of %s: %w", f.stream, err)
		}
	}
	if last := f.log.LastCheckpoint(); last != nil && f.a.config.Second != nil {
		if err := f.a.config.Second.Put(ctx, f.stream, last); err != nil {
			return fmt.Errorf("agentbus: the second place of %s: %w", f.stream, err)
		}
	}
	o := f.log.Origin()
	raw, err := f.a.bus.store.lastUnder(ctx, policy.AuditStream, policy.AuditSubject(o.Stream, o.Auditor.Name(), o.Log.String()))
	if err != nil || raw == nil {
		return err
	}
	known := audit.NewStatements(f.a.bus.trust())
	if _, _, err := known.AddAll(f.log.Statements()); err != nil {
		return err
	}
	if _, err := audit.OpenCheckpoint(raw, known.Verifiers(o)); err != nil {
		f.tampered("the broker's last checkpoint of this log is none of this auditor's: %v", err)
		return nil
	}
	if err := f.log.Extends(raw); err != nil {
		return fmt.Errorf("agentbus: the broker's last checkpoint of %s: %w", f.stream, err)
	}
	return nil
}

// auditNote is a checkpoint on its way to where it is kept besides the log.
type auditNote struct {
	size int64
	raw  []byte
}

// auditNotes has the checkpoints of one log kept elsewhere, in their order. Where that takes longer than they come, some are
// left out: each says what those before it say.
type auditNotes struct {
	f      *auditFollower
	more   chan struct{}
	ended  chan struct{}
	cancel context.CancelFunc

	mu      sync.Mutex
	waiting []auditNote
	ending  bool
	done    int64 // entries that the last one covers that is kept
	err     error
}

func newAuditNotes(f *auditFollower) *auditNotes {
	return &auditNotes{f: f, more: make(chan struct{}, 1), ended: make(chan struct{})}
}

func (n *auditNotes) put(note auditNote) {
	n.mu.Lock()
	if len(n.waiting) == maxAuditNotes {
		n.waiting = append(n.waiting[:0], n.waiting[1:]...)
	}
	n.waiting = append(n.waiting, note)
	n.mu.Unlock()
	n.wake()
}

func (n *auditNotes) wake() {
	select {
	case n.more <- struct{}{}:
	default:
	}
}

func (n *auditNotes) kept() int64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.done
}

func (n *auditNotes) start() {
	ctx, cancel := context.WithCancel(n.f.a.hard)
	n.cancel = cancel
	go n.run(ctx)
}

// stop has what waits kept, for a moment, and ends.
func (n *auditNotes) stop() error {
	n.mu.Lock()
	n.ending = true
	n.mu.Unlock()
	n.wake()
	t := time.AfterFunc(storeTimeout, n.cancel)
	<-n.ended
	t.Stop()
	n.cancel()
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.err
}

func (n *auditNotes) run(ctx context.Context) {
	defer close(n.ended)
	told := ""
	var since time.Time // nothing was kept
	for {
		n.mu.Lock()
		var next *auditNote
		if len(n.waiting) > 0 {
			next = &auditNote{n.waiting[0].size, n.waiting[0].raw}
		}
		ending := n.ending
		n.mu.Unlock()
		if next == nil {
			if ending {
				return
			}
			select {
			case <-n.more:
			case <-ctx.Done():
				return
			}
			continue
		}
		err := n.keep(ctx, next)
		if err == nil || errors.Is(err, audit.ErrInconsistent) {
			n.mu.Lock()
			for len(n.waiting) > 0 && n.waiting[0].size <= next.size {
				n.waiting = n.waiting[1:]
			}
			if err == nil {
				n.done = next.size
			}
			n.mu.Unlock()
		}
		if err == nil {
			told, since = "", time.Time{}
			continue
		}
		if since.IsZero() {
			since = time.Now()
		}
		patient := isAway(err) && time.Since(since) < auditPatience // a broker that starts again is no news
		if text := err.Error(); text != told && ctx.Err() == nil && !patient {
			told = text
			n.f.a.tell(n.f.stream, fmt.Errorf("agentbus: a checkpoint of %s is not kept elsewhere; trying again: %w", n.f.stream, err))
		}
		if ending && !errors.Is(err, audit.ErrInconsistent) && !n.f.a.bus.Connected() {
			return
		}
		pause(ctx, auditRetry)
		if ctx.Err() != nil {
			return
		}
	}
}

// keep publishes a checkpoint, and gives it to the second place.
func (n *auditNotes) keep(ctx context.Context, note *auditNote) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	f := n.f
	o := f.log.Origin()
	var errs []error
	if second := f.a.config.Second; second != nil { // first: it is the one that the broker's owner does not have
		errs = append(errs, second.Put(ctx, f.stream, note.raw))
	}
	errs = append(errs, func() error {
		l, done := f.a.bus.store.wire.use()
		defer done()
		_, err := l.js.Publish(ctx, policy.AuditSubject(o.Stream, o.Auditor.Name(), o.Log.String()), note.raw, jetstream.WithExpectStream(policy.AuditStream))
		return storeError(err)
	}())
	return errors.Join(errs...)
}
