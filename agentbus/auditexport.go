package agentbus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"

	"github.com/sealbus/sealbus/audit"
	"github.com/sealbus/sealbus/keyring"
)

// AuditRange is which messages of a stream, by their sequences, both included. The zero value is all of them; a Last of 0 is to
// the end.
type AuditRange struct{ First, Last uint64 }

func (r AuditRange) check() error {
	if r.Last != 0 && r.First > r.Last {
		return fmt.Errorf("agentbus: messages %d to %d: the first comes after the last", r.First, r.Last)
	}
	return nil
}

// Export writes one file from which audit.VerifyExport gives the verdicts of Verify on another machine, with no network and no key:
// the whole log, its checkpoints and statements, and the stream's messages in a range, sealed as they are. It notes first in
// the log that it was made. The file appears whole or not at all, and replaces one that is there. ctx alone bounds it.
func (a *Auditor) Export(ctx context.Context, stream, path string, r AuditRange) error {
	f, err := a.follower(stream)
	if err == nil {
		err = r.check()
	}
	if err != nil {
		return err
	}
	if err := f.ask(ctx, func(context.Context) error { return f.exported("an export", r) }); err != nil {
		return err
	}
	ctx, cancel := a.bus.untilClosed(ctx)
	defer cancel()
	return a.bus.closedOr(ctx, a.export(ctx, f, path, r))
}

func (a *Auditor) export(ctx context.Context, f *auditFollower, path string, r AuditRange) error {
	log, err := audit.Read(f.dir)
	if err != nil {
		return err
	}
	defer log.Close()
	info, err := a.bus.streamInfo(ctx, f.stream)
	if err != nil {
		return err
	}
	in := &audit.ExportInput{
		Log: log, Places: a.bus.places(ctx, log, a.config.Second), Statements: log.Statements(), Created: info.Created.UTC(), First: r.First, Last: r.Last,
		Frames: audit.FramesFunc(func(ctx context.Context) iter.Seq2[audit.Stored, error] {
			return a.bus.pagesFrom(ctx, f.stream, "", max(r.First, 1), r.Last)
		}),
	}
	return writeWhole(path, func(w io.Writer) error { return audit.Export(ctx, w, in) })
}

// writeWhole writes a file that is there whole or not at all.
func writeWhole(path string, write func(io.Writer) error) error {
	temp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.tmp")
	if err != nil {
		return fmt.Errorf("agentbus: %w", err)
	}
	err = write(temp)
	if err == nil {
		err = temp.Sync()
	}
	if err = errors.Join(err, temp.Close()); err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp.Name()))
	}
	return nil
}

// exported notes that something was made of a log which leaves the house, and signs that.
func (f *auditFollower) exported(what string, r AuditRange) error {
	return errors.Join(f.append(&audit.Entry{Kind: audit.KindExported, Event: audit.Event{
		First: r.First, Last: r.Last, Agent: f.a.bus.self.String(), Text: what,
	}}), f.checkpoint())
}

// Prove returns the proof, as C2SP tlog-proof has it, that a message of a stream is in the log, for whoever believes the
// auditor's checkpoint: see audit.ParseProof. The entry is the proof's extra data. The error wraps audit.ErrNotFound where the
// stream has no such message, or the log not this one.
func (a *Auditor) Prove(ctx context.Context, stream string, sequence uint64) ([]byte, error) {
	f, err := a.follower(stream)
	if err != nil {
		return nil, err
	}
	if err := f.ask(ctx, nil); err != nil {
		return nil, err
	}
	s, log, err := a.message(ctx, f, sequence)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	index, err := log.Find(s)
	if err != nil {
		return nil, err
	}
	p, err := log.Prove(index)
	if err != nil {
		return nil, err
	}
	return p.Text()
}

// message reads a message of a stream, and opens its log.
func (a *Auditor) message(ctx context.Context, f *auditFollower, sequence uint64) (*audit.Stored, *audit.Reader, error) {
	ctx, cancel := a.bus.bounded(ctx)
	defer cancel()
	ctx, cancel = a.bus.untilClosed(ctx)
	defer cancel()
	pager := newAuditPager(a.bus.store, f.stream, "")
	defer pager.close()
	var s audit.Stored
	err := persist(ctx, func() (err error) {
		s, err = pager.at(ctx, sequence)
		return err
	})
	if err != nil {
		return nil, nil, a.bus.closedOr(ctx, err)
	}
	if s.Sequence == 0 {
		return nil, nil, fmt.Errorf("%w: %s has no message %d", audit.ErrNotFound, f.stream, sequence)
	}
	log, err := audit.Read(f.dir)
	return &s, log, err
}

// Disclose returns a file that shows a third party some of the messages that one message of a stream holds, sealed together, and
// nothing of the others: that they are what its sender has sealed and signed, and when that was logged; see audit.VerifyDisclosure.
// places are theirs among those of the frame, from 0. This agent has to be one that may read the channel: ErrNotEntitled if not. It
// notes in the log that the disclosure was made. Where the frame was sealed without a commitment to its messages there is
// nothing to disclose.
func (a *Auditor) Disclose(ctx context.Context, stream string, sequence uint64, places ...int) ([]byte, error) {
	f, err := a.follower(stream)
	if err != nil {
		return nil, err
	}
	rc, err := a.bus.streamReceiver(ctx, stream)
	if err != nil {
		return nil, err
	}
	if rc == nil {
		return nil, fmt.Errorf("%w: policy revision %d does not let %q read %s: only who can open a message can disclose it",
			ErrNotEntitled, a.bus.ring.Policy().Revision(), a.bus.self.Name(), f.keys)
	}
	places = slices.Sorted(slices.Values(places))
	what := fmt.Sprintf("a disclosure of places %v of the message", places)
	if err := f.ask(ctx, func(context.Context) error {
		return f.exported(what[:min(len(what), audit.MaxText)], AuditRange{sequence, sequence})
	}); err != nil {
		return nil, err
	}
	s, log, err := a.message(ctx, f, sequence)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	e := audit.FrameEntry(s, s.Time, 0)
	x, ok := audit.Expect(stream, s.Subject, &e.Frame.Header)
	if !ok {
		return nil, fmt.Errorf("agentbus: message %d of %s is none that belongs there", sequence, stream)
	}
	ctx, cancel := a.bus.bounded(ctx)
	defer cancel()
	ctx, cancel = a.bus.untilClosed(ctx)
	defer cancel()
	var o keyring.Opened
	want := x.Want
	want.Expired = true
	if err := a.bus.openStored(ctx, rc, s.Data, &want, &o); err != nil {
		return nil, a.bus.closedOr(ctx, err)
	}
	return audit.Disclose(log, s, o.Messages, places, log.Statements(), a.bus.trust())
}
