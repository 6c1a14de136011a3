package audit

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/sealbus/sealbus/policy"
)

// streamReader reads the stream beside the log.
type streamReader struct {
	*verification
	pull func() (Stored, error, bool)
	cur  Stored
	have bool // cur is the next message

	era   int      // of the entry
	cuts  []uint64 // for each epoch, from which sequence on what came before it is gone
	epoch int
	bad   int    // entries since the last frame's that cannot be trusted
	low   uint64 // the lowest sequence that the stream has
	top   uint64 // the highest that the log has, of what is not gone

	newer *policy.Policy // than those of the log; nil: there is none

	chunk  []job
	bytes  int
	differ []mismatch
}

// mismatch is a message that is not the one that was logged there: another that was moved, or none that was logged at all.
type mismatch struct {
	at     Position
	logged [32]byte // SHA-256 of what was logged
	found  [32]byte // and of what is there
	from   uint64   // where that was logged; 0: nowhere
}

// readStream judges whether the stream is what was logged.
func (v *verification) readStream(ctx context.Context) error {
	s := &streamReader{verification: v}
	s.cut()
	if all := v.in.Statements.witness.Policies(); len(all) > 0 && len(v.eras) > 0 {
		if last := all[len(all)-1]; last.Revision() > v.eras[len(v.eras)-1].revision {
			s.newer = last
		}
		for _, p := range all {
			if p.Revision() > v.eras[0].revision && !slices.ContainsFunc(v.eras, func(e era) bool { return e.policy == p }) {
				v.Authenticity.figure("policies that are here, and that the log does not have", 1)
			}
		}
	}
	if v.in.Frames != nil {
		if !v.in.Created.IsZero() && !v.created.IsZero() && !v.in.Created.Equal(v.created) {
			v.replaced = true
			v.Completeness.fail(Position{Sequence: v.firstSeq, Entry: -1}, "the stream was made anew at %s, and the log is of one made at %s", stamp(v.in.Created), stamp(v.created))
		}
		next, stop := iter.Pull2(v.in.Frames.Frames(ctx))
		defer stop()
		s.pull = next
		if err := s.advance(); err != nil {
			return err
		}
	}
	var e Entry
	i := int64(-1)
	for raw, err := range v.in.Log.Entries(0) {
		if i++; i >= v.Size {
			break
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil: // readLog has told of what can be told
			return err
		case v.bad[i]:
			s.bad++
			continue
		case ParseEntry(raw, &e) != nil || e.Kind != KindFrame:
			continue
		}
		for s.era+1 < len(v.eras) && v.eras[s.era+1].entry <= i {
			s.era++
		}
		if err := s.entry(ctx, &e, i); err != nil {
			return err
		}
	}
	for s.have {
		if err := s.extra(); err != nil {
			return err
		}
	}
	if err := s.flush(ctx); err != nil {
		return err
	}
	s.doubts()
	return s.moved(ctx)
}

// cut finds, for each epoch, from where on what came before was lost.
func (s *streamReader) cut() {
	s.cuts = make([]uint64, len(s.epochs))
	low := ^uint64(0)
	for i := len(s.epochs) - 1; i >= 0; i-- {
		low = min(low, s.epochs[i].first)
		s.cuts[i] = low
	}
	if len(s.epochs) > 0 {
		s.firstSeq = min(s.firstSeq, low)
	}
	s.top = s.lastSeq
}

// advance reads the next message of the stream that is asked for.
func (s *streamReader) advance() error {
	for {
		before := s.cur.Sequence
		next, err, ok := s.pull()
		if !ok {
			s.have = false
			return nil
		}
		if err != nil {
			return fmt.Errorf("audit: reading the stream: %w", err)
		}
		s.Frames++
		s.verification.progress(s.Size, s.Frames)
		if next.Sequence <= before {
			s.Order.fail(Position{next.Sequence, -1}, "the stream has message %d after %d", next.Sequence, before)
			continue
		}
		s.cur, s.have = next, true
		if s.low == 0 {
			s.low = next.Sequence
		}
		if s.asked(next.Sequence) {
			return nil
		}
	}
}

// asked reports whether a message is one of those that are looked for.
func (v *verification) asked(sequence uint64) bool {
	return sequence >= v.in.First && (v.in.Last == 0 || sequence <= v.in.Last)
}

// entry compares a frame entry with the stream.
func (s *streamReader) entry(ctx context.Context, e *Entry, index int64) error {
	at := Position{e.Frame.Sequence, index}
	for s.epoch < len(s.epochs) && s.epochs[s.epoch].entry <= index {
		s.epoch++
	}
	lost := s.epoch < len(s.epochs) && e.Frame.Sequence >= s.cuts[s.epoch]
	switch {
	case s.pull == nil || !s.asked(e.Frame.Sequence):
		s.unseen(e, at)
		return nil
	case lost:
		s.missing(e, at, s.epochs[s.epoch].logged)
		return nil
	case s.replaced:
		s.missing(e, at, s.now())
		return nil
	}
	for s.have && s.cur.Sequence < e.Frame.Sequence {
		if err := s.extra(); err != nil {
			return err
		}
	}
	s.bad = 0
	if !s.have || s.cur.Sequence > e.Frame.Sequence {
		s.missing(e, at, s.now())
		return nil
	}
	s.chunk = append(s.chunk, job{entry: *e, at: at, stored: s.cur, era: s.era})
	if s.bytes += len(s.cur.Data); len(s.chunk) >= chunkFrames || s.bytes >= chunkBytes {
		if err := s.flush(ctx); err != nil {
			return err
		}
	}
	return s.advance()
}

// extra takes in a message that the log does not have.
func (s *streamReader) extra() error {
	at := Position{s.cur.Sequence, -1}
	switch {
	case s.bad > 0:
		s.bad--
		s.Integrity.figure("messages whose entries are not those that were logged", 1)
	case s.replaced || s.firstSeq == 0 || s.cur.Sequence > s.top:
		s.Integrity.figure("messages that are not in the log yet", 1)
	case s.cur.Sequence < s.firstSeq:
		s.Integrity.figure("messages from before the log", 1)
	default:
		s.Integrity.fail(at, "it is in the stream, and was never logged there")
	}
	return s.advance()
}

// missing takes in that a message which was logged is gone at a time.
func (s *streamReader) missing(e *Entry, at Position, now time.Time) {
	s.unseen(e, at)
	v, f := &s.Completeness, &e.Frame
	base := f.since()
	for _, p := range s.unpruned {
		if f.Sequence >= p.first && f.Sequence <= p.last && base.Add(p.retain).After(p.logged.Add(retainSlack)) {
			v.fail(at, "it vanished before %s, younger than %v", stamp(p.logged), p.retain)
			return
		}
	}
	old, known := s.oldEnough(base, now)
	switch {
	case old:
		v.figure("messages that are gone, and were old enough to go", 1)
	case !known:
		v.leave(at, "it is gone, and how long it had to be kept is not known: no policy is here")
	case s.purged:
		v.leave(at, "it is gone: dead letters may be removed on request")
	case s.newer != nil && !base.Add(s.retainOf(s.newer)).After(now.Add(retainSlack)):
		v.leave(at, "it is gone: a policy of revision %d, which the log does not have yet, lets it go", s.newer.Revision())
	default:
		v.fail(at, "it is gone: it was stored at %s, and was to be kept for %v", stamp(f.Stored), s.eras[len(s.eras)-1].retain)
	}
}

// oldEnough reports whether a message of a time may be gone now, by the policy of now or one before, and whether that can
// be said.
func (s *streamReader) oldEnough(stored, now time.Time) (old, known bool) {
	for i := len(s.eras) - 1; i >= 0; i-- {
		e, until := &s.eras[i], now
		if i+1 < len(s.eras) {
			until = s.eras[i+1].logged
		}
		if i+1 < len(s.eras) && !stored.Before(until) {
			break
		}
		if e.policy == nil || e.logged.After(now) {
			continue
		}
		known = true
		if !stored.Add(e.retain).After(until.Add(retainSlack)) {
			return true, true
		}
	}
	return false, known
}

// doubts looks again at messages that had vanished before they were logged, and may have been old: if the stream has older
// ones, they were taken out of its middle.
func (s *streamReader) doubts() {
	for _, d := range s.doubtful {
		if s.low > 0 && s.low < d.at.Sequence && !s.purged {
			s.Completeness.fail(d.at, "%s had vanished before they were logged, and older ones are there", d.what)
			continue
		}
		s.Completeness.leave(d.at, "%s had vanished before they were logged: the auditor was away, and they may have been old enough to go", d.what)
	}
}

// moved finds out of messages that are not the ones that were logged there, whether they are such as were logged elsewhere.
func (s *streamReader) moved(ctx context.Context) error {
	if len(s.differ) == 0 {
		return nil
	}
	byFound := make(map[[32]byte][]*mismatch)
	for i := range s.differ {
		m := &s.differ[i]
		byFound[m.found] = append(byFound[m.found], m)
	}
	var e Entry
	i := int64(-1)
	for raw, err := range s.in.Log.Entries(0) {
		if i++; i >= s.Size || ctx.Err() != nil {
			break
		}
		if err != nil {
			return err
		}
		if ParseEntry(raw, &e) != nil || e.Kind != KindFrame {
			continue
		}
		for _, m := range byFound[e.Frame.Data] {
			if m.from == 0 {
				m.from = e.Frame.Sequence
			}
		}
	}
	for _, m := range s.differ {
		if m.from == 0 {
			s.Integrity.fail(m.at, "it is not the message that was logged: something in it was changed")
			continue
		}
		s.Order.fail(m.at, "here is what was logged as message %d", m.from)
		if len(byFound[m.logged]) == 0 {
			s.Completeness.fail(m.at, "it is gone: message %d is in its place", m.from)
		}
	}
	return ctx.Err()
}
