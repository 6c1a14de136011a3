package keyring

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// counter is what a counted sender knows of its sessions. It is under the sender's mu.
type counter struct {
	ends    []sessionEnd  // of sessions before the latest, as long as it is not known that a note which says so is stored, oldest first
	void    []void        // what is to be said to be void, oldest session first
	saying  []*Bundle     // notes under way that say so
	latest  *outSession   // the counted session that was begun last; nil if none was
	changed chan struct{} // closed when numbers are no longer under way; nil if nobody waits for that
	spoke   time.Time     // when a frame was sealed last that is no note
	over    bool          // the ring has closed, and has saved how everything ended
}

// count is what a counted sender knows of one session.
type count struct {
	opened   bool       // its opening notes are stored
	closed   bool       // a closing note has its number
	underWay numbers    // given, and neither stored nor given up
	end      sessionEnd // as far as it has been sealed
}

// sessionEnd is the last frame of a session: its number and leaf, zero where they are not known.
type sessionEnd struct {
	session ulid.ULID
	last    uint64
	leaf    [envelope.HashSize]byte
}

// void is numbers of a session that were given up.
type void struct {
	session ulid.ULID
	numbers numbers
}

// CountedSender joins a channel of a topic or queue as Sender does, and returns the one sender of this ring whose sessions are
// counted there, as long as the policy has the channel's frames kept. Session notes tell a reader of the stream how many frames
// there were, see SessionNote; so all of its frames, and no others, go into that one stream. With a state directory
// the first session of a process says how the last of the process before ended.
//
// Frames are sealed by SealCounted, and of each it is said what became of it, by Stored or GiveUp.
func (r *Ring) CountedSender(ctx context.Context, ch policy.Channel) (*Sender, error) {
	if k := ch.Kind(); k != policy.KindTopic && k != policy.KindQueue {
		return nil, fmt.Errorf("keyring: sessions are counted on topics and queues, not on %s", ch)
	}
	s, err := r.Sender(ctx, ch)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, ErrClosed
	}
	if have := r.counted[ch]; have != nil {
		return have, nil
	}
	s.count = &counter{}
	s.count.ends, s.count.void = r.ends.of(ch, s.att.own.card)
	if r.counted == nil {
		r.counted = make(map[policy.Channel]*Sender)
	}
	r.counted[ch] = s
	return s, nil
}

// SealCounted is SealBundles for a counted sender. It returns the session notes that belong before the bundles, sealed with them
// and under the same signature: who has none of them stored, must not have the bundles stored. There are at most MaxNotes. It
// takes up to MaxCounted bundles. A number is given only when all of the session that are MaxUnderWay or more below
// are stored or given up, and a new session is begun when all of the one before are: ctx bounds the wait for that.
//
// After it has succeeded, say with Stored or GiveUp what became of the bundles and notes, each once. Where the policy does not have
// the channel kept there are no notes, and nothing need be said.
func (s *Sender) SealCounted(ctx context.Context, bundles []*Bundle) (notes []*Bundle, err error) {
	settings, err := s.settings()
	if err != nil {
		reuseFrames(bundles)
		return nil, err
	}
	if !s.counts(settings) {
		return nil, s.sealBundles(bundles, settings)
	}
	reuseFrames(bundles)
	switch {
	case len(bundles) == 0:
		return nil, errNoBundles
	case len(bundles) > MaxCounted:
		return nil, fmt.Errorf("%w: %d frames, at most %d are sealed together where they are counted", ErrTooLarge, len(bundles), MaxCounted)
	}
	notes, err = s.sealCounted(ctx, bundles, 0, settings)
	if err != nil {
		reuseFrames(bundles)
	}
	return notes, err
}

// SealNote seals a note that the session is idle, or closes it. It returns the note, behind others that belong before it, all of
// which are treated as those of SealCounted; nil where there is nothing to say, because no session has
// been begun since the last was closed, and nothing given up.
func (s *Sender) SealNote(ctx context.Context, kind NoteKind) (notes []*Bundle, err error) {
	if kind != NoteIdle && kind != NoteClose {
		return nil, fmt.Errorf("keyring: SealNote of a note of kind %s", kind)
	}
	settings, err := s.settings()
	if err != nil || !s.counts(settings) {
		return nil, err
	}
	if _, _, ok := s.Quiet(); !ok && !s.hasVoid() {
		return nil, nil
	}
	return s.sealCounted(ctx, nil, kind, settings)
}

// Quiet returns since when the open session of a counted sender has had no frame but notes, and when it ends in any case. ok
// is false where no session is open.
func (s *Sender) Quiet() (since, until time.Time, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count == nil || s.count.latest == nil || s.count.latest.count.closed {
		return time.Time{}, time.Time{}, false
	}
	return s.count.spoke, s.count.latest.born.Add(SessionLife), true
}

// Stored says that frames are in the stream.
func (s *Sender) Stored(bundles []*Bundle) { s.settle(bundles, true) }

// GiveUp says that nobody tries any more to have frames stored: they may be, or not. Notes with the next frames say so.
func (s *Sender) GiveUp(bundles []*Bundle) { s.settle(bundles, false) }

func (s *Sender) counts(settings policy.Settings) bool { return s.count != nil && settings.Retain > 0 }

func (s *Sender) hasVoid() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.count.void) > 0
}

// sealCounted seals bundles behind the notes that are due, and before one more of a kind that is not zero.
func (s *Sender) sealCounted(ctx context.Context, bundles []*Bundle, last NoteKind, settings policy.Settings) (notes []*Bundle, err error) {
	n := len(bundles)
	if last != 0 {
		n++
	}
	o, first, notes, err := s.begin(ctx, n, last)
	if err != nil {
		return nil, err
	}
	all := append(slices.Clip(notes), bundles...)
	if last != 0 {
		notes = append(notes, newNote(&SessionNote{Kind: last, Name: s.c.ch.Name()}))
		all = notes
	}
	w := sealings.Get().(*sealing)
	defer w.release()
	for _, b := range all {
		if _, err = s.stamp(w, b, settings); err != nil {
			break
		}
	}
	if err == nil {
		err = s.sealIn(w, o, first, all, settings)
	}
	var leaf [envelope.HashSize]byte
	if err == nil {
		leaf, err = w.lastLeaf(all)
	}
	if err = s.sealed(o, first, all, leaf, err); err != nil {
		return nil, err
	}
	return notes, nil
}

// lastLeaf returns the leaf of the frame that was sealed last.
func (w *sealing) lastLeaf(bundles []*Bundle) (leaf [envelope.HashSize]byte, err error) {
	if n := len(w.leaves); n > 0 {
		return w.leaves[n-1], nil
	}
	var f envelope.Frame // it is not signed
	if err := envelope.Parse(bundles[len(bundles)-1].Frame, &f); err != nil {
		return leaf, err
	}
	return envelope.Leaf(f.Head, f.Ciphertext), nil
}

// begin gives numbers to n frames, and to the notes that are due before them, in one session.
func (s *Sender) begin(ctx context.Context, n int, last NoteKind) (o *outSession, first uint64, notes []*Bundle, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if s.count.over {
			return nil, 0, nil, ErrClosed
		}
		now, most := s.ring.now(), uint64(n+MaxNotes)
		cur := s.c.current.Load()
		if cur == nil {
			return nil, 0, nil, s.noKey()
		}
		o = s.count.latest
		switch goesOn := o != nil && o == s.session && !o.count.closed && o.goesOn(cur, most, now); {
		case o != nil && len(o.count.underWay) > 0 && (!goesOn || last == NoteClose):
			// Who says how it ended says that nothing is missing of it.
		case !goesOn:
			if o, err = s.beginCounted(cur, now); err != nil {
				return nil, 0, nil, err
			}
			continue
		case len(o.count.underWay) > 0 && o.seq+most-o.count.underWay[0].from >= MaxUnderWay:
		default:
			notes = s.due(o)
			first = o.seq + 1
			o.seq += uint64(len(notes) + n)
			o.count.underWay.add(first, o.seq)
			o.count.closed = last == NoteClose
			if last == 0 {
				s.count.spoke = now
			}
			return o, first, notes, nil
		}
		if err := s.awaitChange(ctx); err != nil {
			return nil, 0, nil, err
		}
	}
}

// awaitChange waits until numbers are no longer under way. It is called with the lock held, and returns with it.
func (s *Sender) awaitChange(ctx context.Context) error {
	if s.count.changed == nil {
		s.count.changed = make(chan struct{})
	}
	changed := s.count.changed
	s.mu.Unlock()
	defer s.mu.Lock()
	select {
	case <-changed:
		return nil
	case <-s.ring.ctx.Done():
		return ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("keyring: too many frames of %s are under way: %w", s.name, ctx.Err())
	}
}

func (c *counter) broadcast() {
	if c.changed != nil {
		close(c.changed)
		c.changed = nil
	}
}

// beginCounted begins a session, once that is on disk.
func (s *Sender) beginCounted(cur *chanKey, now time.Time) (*outSession, error) {
	o, err := s.newSession(cur, now)
	if err != nil {
		return nil, err
	}
	o.count = &count{end: sessionEnd{session: o.id}}
	ends := s.count.allEnds()
	if err := s.ring.ends.begin(s.ring.storage, s.c.ch, s.att.own.card, append(slices.Clip(ends), o.count.end), s.unsettled()); err != nil {
		return nil, fmt.Errorf("keyring: writing the state directory: %w", err)
	}
	s.session, s.count.latest, s.count.ends = o, o, ends
	return o, nil
}

// allEnds returns ends as they are when the latest session is over, too. One of which nothing was sealed is none.
func (c *counter) allEnds() []sessionEnd {
	ends := slices.Clone(c.ends)
	if c.latest != nil && c.latest.count.end.last > 0 {
		ends = append(ends, c.latest.count.end)
	}
	for len(ends) > maxEnds { // something of the first is stored; of the others nothing is known to be
		ends = slices.Delete(ends, 1, 2)
	}
	return ends
}

// due returns the notes that belong before whatever is sealed next.
func (s *Sender) due(o *outSession) (notes []*Bundle) {
	name := s.c.ch.Name()
	if !o.count.opened {
		for _, e := range s.count.ends {
			notes = append(notes, newNote(&SessionNote{Kind: NoteOpen, Name: name, Previous: e.session, Last: e.last, Leaf: e.leaf}))
		}
		if len(notes) == 0 {
			notes = append(notes, newNote(&SessionNote{Kind: NoteOpen, Name: name}))
		}
	}
	for len(s.count.void) > 0 && len(notes) < MaxNotes {
		v := &s.count.void[0]
		n := v.numbers[0]
		b := newNote(&SessionNote{Kind: NoteVoid, Name: name, Session: v.session, From: n.from, To: n.to})
		notes, s.count.saying = append(notes, b), append(s.count.saying, b)
		if v.numbers = v.numbers[1:]; len(v.numbers) == 0 {
			s.count.void = s.count.void[1:]
		}
	}
	return notes
}

// newNote returns a note that is to be sealed.
func newNote(n *SessionNote) *Bundle {
	b := &Bundle{Kind: envelope.KindControl, Recipient: n.String(), note: n}
	b.Messages.Reset(true)
	if err := b.Messages.Add(&envelope.Message{}); err != nil {
		panic(err) // an empty message fits
	}
	return b
}

// sealed notes what has come of numbers that begin gave. Where err is set nothing of that is to be sent.
func (s *Sender) sealed(o *outSession, first uint64, all []*Bundle, leaf [envelope.HashSize]byte, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.count.broadcast()
	if err == nil && s.count.over {
		err = ErrClosed
	}
	last := first + uint64(len(all)) - 1
	if err != nil {
		s.giveUp(o, first, last)
		for _, b := range all {
			s.said(b, false)
			b.session = nil
		}
		return err
	}
	if last > o.count.end.last {
		o.count.end.last, o.count.end.leaf = last, leaf
	}
	return nil
}

// giveUp has numbers said to be void. It is called with the lock held.
func (s *Sender) giveUp(o *outSession, from, to uint64) {
	o.count.underWay.remove(from, to)
	s.count.add(o.id, from, to)
}

func (c *counter) add(session ulid.ULID, from, to uint64) {
	i := slices.IndexFunc(c.void, func(v void) bool { return v.session == session })
	if i < 0 {
		if len(c.void) >= maxVoidSessions {
			c.void = slices.Delete(c.void, 0, 1)
		}
		i, c.void = len(c.void), append(c.void, void{session: session})
	}
	c.void[i].numbers.add(from, to)
}

// said notes whether a note is stored.
func (s *Sender) said(b *Bundle, stored bool) {
	switch {
	case b.note == nil:
	case b.note.Kind == NoteOpen && stored:
		b.session.count.opened = true
		s.count.ends = slices.DeleteFunc(slices.Clone(s.count.ends), func(e sessionEnd) bool { return e.session == b.note.Previous })
	case b.note.Kind == NoteVoid:
		s.count.saying = slices.DeleteFunc(s.count.saying, func(other *Bundle) bool { return other == b })
		if !stored {
			s.count.add(b.note.Session, b.note.From, b.note.To)
		}
	}
}

// settle notes what became of frames.
func (s *Sender) settle(bundles []*Bundle, stored bool) {
	if s.count == nil || len(bundles) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := 0; i < len(bundles); {
		o, first := bundles[i].session, bundles[i].seq
		n := 1
		for i+n < len(bundles) && bundles[i+n].session == o && bundles[i+n].seq == first+uint64(n) {
			n++
		}
		if o != nil && stored {
			o.count.underWay.remove(first, first+uint64(n)-1)
		} else if o != nil {
			s.giveUp(o, first, first+uint64(n)-1)
		}
		i += n
	}
	for _, b := range bundles {
		if b.session != nil {
			s.said(b, stored)
		}
		b.session = nil
	}
	s.count.broadcast()
}

// unsettled returns what is void, and what would be if this process ended now. It is called with the lock held.
func (s *Sender) unsettled() []void {
	c := &counter{}
	add := func(session ulid.ULID, list numbers) {
		for _, n := range list {
			c.add(session, n.from, n.to)
		}
	}
	for _, v := range s.count.void {
		add(v.session, v.numbers)
	}
	for _, b := range s.count.saying {
		c.add(b.note.Session, b.note.From, b.note.To)
	}
	if o := s.count.latest; o != nil {
		add(o.id, o.count.underWay)
	}
	return c.void
}

// finish says how everything ended, when the ring closes. Nothing is sealed after it.
func (s *Sender) finish() ([]sessionEnd, []void) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count.over = true
	return s.count.allEnds(), s.unsettled()
}

var (
	errNoBundles = errors.New("keyring: no bundles to seal")
	errCounted   = errors.New("keyring: a counted sender: use SealCounted")
)
