package audit

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// logReader reads the log from its beginning, without the stream.
type logReader struct {
	*verification
	tree   tree // of the entries as they are
	stored tree // of the hashes that the log has for them, where it has any
	hashes hashed
	places []*place

	e       Entry
	before  Entry // the frame before
	logged  time.Time
	config  *StreamConfig
	due     uint64 // the sequence that the next message is to have, where there is none before it; 0: any
	repeats recent

	unjudged   *StreamConfig // which no policy was known for
	unjudgedAt Position
}

// readLog judges what the log alone can tell: that it is the one that was signed, that it has no holes, that senders' numbers
// have none.
func (v *verification) readLog(ctx context.Context) error {
	l := &logReader{verification: v}
	l.hashes, _ = v.in.Log.(hashed)
	var err error
	if l.places, err = openPlaces(v.in.Places); err != nil {
		return err
	}
	defer func() {
		for _, p := range l.places {
			p.stop()
		}
	}()
	verify := &verifiers{statements: v.in.Statements, origin: v.Origin}
	for raw, err := range v.in.Log.Entries(0) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, ErrDamaged) {
			l.Integrity.fail(Position{Entry: l.tree.size}, "the log cannot be read any further: %v", err)
			break
		}
		if err != nil {
			return err
		}
		if err := l.entry(raw); err != nil {
			return err
		}
		if err := l.checkpoints(verify); err != nil {
			return err
		}
		v.progress(v.Size, 0)
	}
	v.Integrity.figure("entries in the log", v.Size)
	return l.ahead(verify)
}

// entry takes in the next entry.
func (l *logReader) entry(raw []byte) error {
	at := Position{Entry: l.tree.size}
	leaf := LeafHash(raw)
	l.tree.add(nil, leaf)
	l.Size = l.tree.size
	wrong := ParseEntry(raw, &l.e)
	if l.e.Kind == KindFrame {
		at.Sequence = l.e.Frame.Sequence
	}
	if l.hashes != nil {
		have, err := l.hashes.LeafHash(at.Entry)
		if err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNotFound) {
			return err
		}
		l.stored.add(nil, have)
		if have != leaf {
			wrong = errors.Join(errors.New("it is not the entry that was logged"), wrong)
		}
	}
	if wrong != nil {
		l.Integrity.fail(at, "%v", wrong)
		l.distrust(at.Entry)
		return nil
	}
	e := &l.e
	if e.Logged.Before(l.logged) {
		l.Integrity.fail(at, "logged at %s, after an entry of %s", stamp(e.Logged), stamp(l.logged))
	}
	l.logged = e.Logged
	if at.Entry == 0 {
		l.begin(e)
	}
	if e.Kind == KindFrame {
		l.frame(&e.Frame, at)
		return nil
	}
	l.event(e, at)
	return nil
}

// distrust passes over an entry that is not the one that was logged: what it was nobody knows.
func (l *logReader) distrust(entry int64) {
	if l.bad == nil {
		l.bad = make(map[int64]bool)
	}
	if len(l.bad) < maxMismatched {
		l.bad[entry] = true
	}
	l.before = Entry{}
	l.counters.gap(l.logged)
}

// begin looks at the first entry: what the stream held before the log.
func (l *logReader) begin(e *Entry) {
	l.From = e.Logged
	switch {
	case e.Kind != KindOpened:
		l.Integrity.fail(Position{Entry: 0}, "the log begins with a %s entry, not with that of its opening", e.Kind)
		return
	case e.Event.Agent != l.Origin.Auditor.String():
		l.Integrity.fail(Position{Entry: 0}, "the log was opened by %.300q, and is that of %s", e.Event.Agent, l.Origin.Auditor)
	}
	if e.Event.Last >= e.Event.First {
		l.due = e.Event.First
	}
	if e.Event.First > 1 { // senders may have begun before what it has
		l.counters.gap(e.Logged)
		l.Completeness.figure("messages that were gone before the log began", int64(e.Event.First-1))
	}
}

// frame takes in a frame entry.
func (l *logReader) frame(f *Frame, at Position) {
	l.Integrity.figure("messages in the log", 1)
	logged := l.e.Logged
	if l.firstSeq == 0 {
		l.firstSeq = f.Sequence
	}
	if l.before.Kind == 0 && l.due > 0 && f.Sequence > l.due {
		l.holeBefore(l.due, f, at)
	}
	l.due = 0
	if p := &l.before.Frame; l.before.Kind == KindFrame {
		switch {
		case f.Sequence <= p.Sequence:
			l.back(f, at)
		case f.Sequence > p.Sequence+1:
			l.hole(p, f, at)
		}
		if f.Stored.Before(p.Stored.Add(-clockLead)) {
			l.Order.leave(at, "stored at %s, and the message before it at %s: the broker's clock was put back, or what it says is not so",
				stamp(f.Stored), stamp(p.Stored))
		}
	}
	if sealed := f.Header.Sealed(); f.Outcome == 0 && sealed.After(f.Stored.Add(2*clockLead)) {
		l.Order.leave(at, "stored at %s, and sealed at %s, by its sender's clock", stamp(f.Stored), stamp(sealed))
	}
	if f.Stored.After(logged.Add(2 * clockLead)) {
		l.Order.leave(at, "stored at %s, and logged at %s", stamp(f.Stored), stamp(logged))
	}
	l.lastSeq = f.Sequence
	l.before.Kind, l.before.Logged, l.before.Frame = KindFrame, logged, *f
	l.count(f, at)
}

// count has a sender's number compared.
func (l *logReader) count(f *Frame, at Position) {
	e, ok := Expect(l.Origin.Stream, f.Subject, &f.Header)
	if f.Outcome != 0 || !ok {
		l.Completeness.figure("messages that no sender is known to have counted", 1)
		return
	}
	switch {
	case e.Counted:
		l.counters.frame(&f.Header, at, l.e.Logged)
		l.Completeness.figure("messages that their senders counted", 1)
	case l.results:
		if l.repeats.seen(f.Header.Leaf) {
			l.Order.fail(at, "the same frame was there before")
		}
	default:
		l.Completeness.figure("messages that their senders do not count", 1)
	}
}

// back takes in a frame that does not follow the one before: the stream's end was cut off, or it was made anew.
func (l *logReader) back(f *Frame, at Position) {
	if len(l.epochs) >= maxEpochs {
		l.Order.fail(at, "message %d after %d", f.Sequence, l.before.Frame.Sequence)
		return
	}
	l.epochs = append(l.epochs, epoch{at.Entry, f.Sequence, l.e.Logged})
	what := fmt.Sprintf("the stream had come to message %d, and goes on at %d: its end was cut off", l.before.Frame.Sequence, f.Sequence)
	if l.config != nil && l.created.After(l.before.Logged) {
		what = fmt.Sprintf("the stream was made anew at %s, and begins again at message %d", stamp(l.created), f.Sequence)
	}
	if !l.keptThroughout(l.before.Logged) {
		l.Completeness.leave(at, "%s; the policy had it not kept in between", what)
		l.counters.gap(f.Stored)
		return
	}
	l.Completeness.fail(at, "%s", what)
}

// keptThroughout reports whether every policy since a time has the channel kept.
func (l *logReader) keptThroughout(since time.Time) bool {
	for i, e := range l.eras {
		if e.policy != nil && e.retain == 0 && (i+1 == len(l.eras) || l.eras[i+1].logged.After(since)) {
			return false
		}
	}
	return true
}

// hole takes in messages that the stream numbered and the log never had.
func (l *logReader) hole(before, after *Frame, at Position) {
	retain, known := l.retain()
	if known && !l.purged && !before.since().Add(retain).Before(l.e.Logged.Add(retainSlack)) { // none of them can have been old enough
		at = Position{Sequence: before.Sequence + 1, Entry: at.Entry}
		what, n := messages(at.Sequence, after.Sequence-1)
		l.Completeness.figure(figureVanished, n)
		l.Completeness.fail(at, "%s had vanished before they were logged, younger than %v", what, retain)
		return
	}
	l.holeBefore(before.Sequence+1, after, at)
}

// holeBefore is hole where the first of them may have been old enough to go.
func (l *logReader) holeBefore(from uint64, after *Frame, at Position) {
	at = Position{Sequence: from, Entry: at.Entry}
	what, n := messages(from, after.Sequence-1)
	l.Completeness.figure(figureVanished, n)
	l.counters.gap(after.Stored)
	retain, known := l.retain()
	switch {
	case known && after.since().Add(retain).Before(l.e.Logged.Add(retainSlack)): // and so was the last
	case len(l.doubtful) < maxEpochs:
		l.doubtful = append(l.doubtful, doubtful{at, what})
	default:
		l.Completeness.leave(at, "%s had vanished before they were logged", what)
	}
}

const figureVanished = "messages that were gone before they were logged"

// messages names some in a row, and counts them.
func messages(from, to uint64) (string, int64) {
	if from == to {
		return fmt.Sprintf("message %d", from), 1
	}
	return fmt.Sprintf("messages %d to %d", from, to), int64(to - from + 1)
}

// retain returns for how long the policy of now has messages kept, and false where that is not known.
func (l *logReader) retain() (time.Duration, bool) {
	if len(l.eras) == 0 {
		return 0, false
	}
	e := &l.eras[len(l.eras)-1]
	return e.retain, e.retain > 0
}

// event takes in an event.
func (l *logReader) event(e *Entry, at Position) {
	ev := &e.Event
	switch e.Kind {
	case KindOpened:
		if at.Entry > 0 {
			l.Integrity.fail(at, "the log is opened a second time")
		}
	case KindResumed, KindStill, KindClosed:
		if ev.Last < l.lastSeq && len(l.epochs) < maxEpochs && l.before.Kind == KindFrame {
			l.shrunk(ev, at)
		}
	case KindPolicy:
		l.adopt(e, at)
	case KindCard, KindKey:
		if !l.in.Statements.has(ev.Hash) {
			l.Authenticity.figure("statements of cards and keys that are not here, or not believed", 1)
		}
		l.Authenticity.figure(e.Kind.String()+"s in the log", 1)
	case KindConfig:
		l.configure(e, at)
	case KindPruned:
		l.prune(e, at)
	case KindDestroyed, KindRevoked, KindReplayed, KindExported:
		l.Completeness.figure(e.Kind.String()+" entries", 1)
	}
}

// shrunk takes in that the stream ends before what the log has of it.
func (l *logReader) shrunk(ev *Event, at Position) {
	l.Completeness.fail(Position{Sequence: ev.Last + 1, Entry: at.Entry}, "the stream ended at message %d, and the log has %d: its end was cut off", ev.Last, l.lastSeq)
	l.epochs = append(l.epochs, epoch{at.Entry, ev.Last + 1, l.e.Logged})
	l.lastSeq = ev.Last
	l.before.Frame.Sequence = ev.Last
}

// adopt takes in a policy.
func (l *logReader) adopt(e *Entry, at Position) {
	if len(l.eras) >= maxEras {
		l.Authenticity.leave(at, "more than %d policies: this one is not looked at", maxEras)
		return
	}
	p := l.in.Statements.policy(e.Event.Hash)
	next := era{at.Entry, e.Logged, e.Event.Last, e.Event.Revision, p, l.retainOf(p)}
	l.Authenticity.figure("policies in the log", 1)
	switch {
	case p == nil:
		l.Authenticity.leave(at, "the policy of revision %d is not here, or not believed: what was sent under it cannot be judged", e.Event.Revision)
	case p.Revision() != e.Event.Revision:
		l.Integrity.fail(at, "the log says revision %d, and the policy %d", e.Event.Revision, p.Revision())
	}
	if n := len(l.eras); n > 0 && l.eras[n-1].revision >= next.revision && l.eras[n-1].policy != p {
		l.Authenticity.fail(at, "a policy of revision %d after one of %d", next.revision, l.eras[n-1].revision)
	}
	l.eras = append(l.eras, next)
	if _, known := l.retain(); known && l.unjudged != nil {
		l.oddities(l.unjudged, l.unjudgedAt)
		l.unjudged = nil
	}
}

// prune takes in that the auditor saw messages go.
func (l *logReader) prune(e *Entry, _ Position) {
	retain, known := l.retain()
	if !known || e.Event.Time.Add(retain).Before(e.Logged.Add(retainSlack)) || len(l.unpruned) >= maxEras {
		return
	}
	l.unpruned = append(l.unpruned, pruned{e.Event.First, e.Event.Last, e.Logged, retain})
}

// audited reports whether any policy of the log lets its auditor audit.
func (l *logReader) audited() bool {
	judged := false
	for _, e := range l.eras {
		if e.policy == nil {
			continue
		}
		if judged = true; e.policy.CanAudit(l.channel, l.Origin.Auditor.Name()) {
			return true
		}
	}
	return !judged
}
