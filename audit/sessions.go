package audit

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
)

// A sender counts what it sends: see SPEC section 8.1. Here is who compares that with what the log has. Only frames that were
// attested count: nobody else can make a sender look as if it had sent more than it did.

// instance is a running instance of a sender: its sessions are a chain.
type instance struct {
	sender string
	card   ulid.ULID
}

type sessionName struct {
	instance
	id ulid.ULID
}

// session is what is known of one that is not complete.
type session struct {
	name   sessionName
	seen   spans // of frames in the log
	void   spans // that the sender gave up, or that a tolerated gap of the log may have swallowed
	first  Position
	newest Position
	logged time.Time               // of the newest
	leaf   [envelope.HashSize]byte // of the highest number
	opened bool                    // a note opens it, or it was told that none does
	closed uint64                  // number of the note that closed it; 0: none
	ended  *end                    // what the next session says of it
	early  bool                    // it may have begun before the log, or in a gap
	torn   bool                    // there was a gap since its newest frame
	lost   bool                    // more runs of numbers than are remembered
}

// end is what the next session of an instance says of the one before.
type end struct {
	last   uint64 // 0: not known, its process was killed
	leaf   [envelope.HashSize]byte
	at     Position
	logged time.Time
}

// done is what is remembered of a session that is complete. The leaf is zero where the frame of the last number is not here: it was
// declared void.
type done struct {
	last uint64
	leaf [envelope.HashSize]byte
}

// sign is the last that was heard of an instance.
type sign struct {
	logged time.Time
	latest ulid.ULID // its newest session that was opened
	closed ulid.ULID // its newest session that was closed

	live      int    // sessions of it that are followed
	forgotten uint64 // Unix ms: its sessions up to then may have been forgotten
}

// counters compares the numbers of all senders of one stream.
type counters struct {
	topic    bool // numbers ascend in the stream
	order    *Verdict
	complete *Verdict

	live   map[sessionName]*session
	done   map[sessionName]done
	ended  []sessionName // of done, a ring
	oldest int           // in it
	signs  map[instance]*sign
	unsure uint64 // Unix ms: sessions up to then may have begun unseen
}

func newCounters(topic bool, order, complete *Verdict) *counters {
	return &counters{
		topic: topic, order: order, complete: complete,
		live: make(map[sessionName]*session), done: make(map[sessionName]done), signs: make(map[instance]*sign),
	}
}

// frame takes in an attested frame of a counted session.
func (c *counters) frame(h *Header, at Position, logged time.Time) {
	in := instance{h.Sender, h.Card}
	name := sessionName{in, h.Session}
	g := c.signs[in]
	if g == nil {
		g = &sign{}
		c.signs[in] = g
	}
	g.logged = logged
	if d, ok := c.done[name]; ok {
		c.afterEnd(name, d.last, h.Seq, at)
		return
	}
	n, isNote := noteOf(h)
	s := c.live[name]
	if s == nil {
		if s = c.meet(name, at); s == nil {
			return
		}
	}
	if len(s.seen) == 0 {
		s.first = at
		if s.early = h.Session.Time() <= c.unsure; s.early && h.Seq > 1 {
			c.complete.figure(figureEarly, 1)
			s.skip(h.Seq)
		}
		if c.topic && !s.early && !(isNote && n.Kind == keyring.NoteOpen) {
			c.complete.fail(at, "session %s begins with number %d, and no note opens it", name, h.Seq)
			s.opened = true // told once
			s.skip(h.Seq)
		}
	}
	c.number(s, h, at, logged)
	if isNote {
		c.note(s, &n, h, at, logged)
	}
	c.finish(s)
}

// meet begins to follow a session; nil for one that may have been followed before, and is not remembered.
func (c *counters) meet(name sessionName, at Position) *session {
	g := c.signs[name.instance]
	if name.id.Time() <= g.forgotten {
		c.order.leave(at, "session %s is not remembered any more: whether this message was there before is not known", name)
		return nil
	}
	switch {
	case g.live >= maxPerInstance:
		c.shed(func(s *session) bool { return s.name.instance == name.instance })
	case len(c.live) >= maxSessions:
		c.shed(func(*session) bool { return true })
	}
	s := &session{name: name}
	c.live[name] = s
	g.live++
	return s
}

// leave stops following a session.
func (c *counters) leave(s *session) {
	delete(c.live, s.name)
	c.signs[s.name.instance].live--
}

// forget notes that nothing is known of a session any more.
func (c *counters) forget(name sessionName) {
	g := c.signs[name.instance]
	g.forgotten = max(g.forgotten, name.id.Time())
}

// number takes in one number of a session.
func (c *counters) number(s *session, h *Header, at Position, logged time.Time) {
	high := s.seen.max()
	switch {
	case s.seen.has(h.Seq):
		c.order.fail(at, "number %d of session %s was there before", h.Seq, s.name)
		return
	case s.closed > 0 && h.Seq > s.closed:
		c.order.fail(at, "number %d of session %s, which was closed with %d", h.Seq, s.name, s.closed)
	case c.topic && h.Seq < high && !s.void.has(h.Seq):
		c.order.fail(at, "number %d of session %s comes after number %d", h.Seq, s.name, high)
	}
	if s.torn && h.Seq > high+1 {
		s.skip(h.Seq)
	}
	if h.Seq > high {
		s.torn, s.leaf = false, h.Leaf
	}
	s.newest, s.logged = at, logged
	if len(s.seen) >= maxRanges && h.Seq != high+1 {
		s.lost = true
		return
	}
	s.seen.add(span{h.Seq, h.Seq, at, logged})
}

// skip takes all numbers below one for such as nothing can be said of.
func (s *session) skip(below uint64) {
	if from := s.seen.max() + 1; from < below {
		s.void.add(span{from: from, to: below - 1})
	}
}

func (c *counters) note(s *session, n *keyring.SessionNote, h *Header, at Position, logged time.Time) {
	g := c.signs[s.name.instance]
	switch n.Kind {
	case keyring.NoteOpen:
		c.open(s, n, at, logged)
		if s.name.id.Compare(g.latest) > 0 {
			g.latest = s.name.id
		}
	case keyring.NoteClose:
		if s.closed == 0 {
			s.closed = h.Seq
		}
		if high := s.seen.max(); high > s.closed {
			c.order.fail(at, "session %s is closed with number %d, and has had number %d", s.name, s.closed, high)
		}
		if s.name.id.Compare(g.closed) > 0 {
			g.closed = s.name.id
		}
	case keyring.NoteVoid:
		c.giveUp(sessionName{s.name.instance, n.Session}, span{n.From, n.To, at, logged})
	}
}

// giveUp takes in numbers of a session that its sender gave up.
func (c *counters) giveUp(name sessionName, n span) {
	s := c.live[name]
	if s == nil {
		if _, ok := c.done[name]; ok || name.id.Time() <= max(c.signs[name.instance].forgotten, c.unsure) {
			return
		}
		s = c.meet(name, n.at)
	}
	if len(s.void) >= maxRanges {
		s.lost = true
		return
	}
	s.void.add(n)
	c.finish(s)
}

// open takes in what a session says of the one before. It may say so more than once, and of several: what was to be said in a
// session of which nothing could be stored is said in the next.
func (c *counters) open(s *session, n *keyring.SessionNote, at Position, logged time.Time) {
	s.opened = true
	if n.Previous.IsZero() {
		if latest := c.signs[s.name.instance].latest; !latest.IsZero() && latest.Compare(s.name.id) < 0 {
			c.complete.leave(at, "session %s says it is the first of its card, and there was session %s", s.name, latest)
		}
		return
	}
	before := sessionName{s.name.instance, n.Previous}
	e := &end{n.Last, n.Leaf, at, logged}
	if d, ok := c.done[before]; ok {
		c.agree(before, d.last, d.leaf, e)
		return
	}
	p := c.live[before]
	switch {
	case p != nil:
	case n.Previous.Time() <= c.unsure:
		c.complete.figure(figureEarlier, 1)
		return
	case n.Previous.Time() <= c.signs[s.name.instance].forgotten:
		return
	case n.Last == 0:
		c.complete.leave(at, "session %s, before %s: nothing of it is here, and its sender was killed and cannot say how much there was", n.Previous, s.name)
		return
	default: // all of it is missing, but for what is said to be void
		p = c.meet(before, at)
		p.first = at
	}
	switch {
	case p.ended == nil:
		p.ended = e
	case p.ended.last != e.last || p.ended.leaf != e.leaf:
		c.complete.fail(at, "session %s says that session %s ended with number %d, and its sender has said with number %d", s.name, n.Previous, e.last, p.ended.last)
	}
	if p.torn && n.Last > p.seen.max() {
		p.skip(n.Last + 1)
	}
	if high := p.seen.max(); n.Last > 0 && high >= n.Last {
		c.agree(before, high, p.leaf, e)
	}
	c.finish(p)
}

// agree compares the highest number of a session with what the next session says it was.
func (c *counters) agree(name sessionName, last uint64, leaf [envelope.HashSize]byte, e *end) {
	switch {
	case e.last == 0:
	case last > e.last:
		c.complete.fail(e.at, "the sender of session %s says its last number was %d, and there is %d", name, e.last, last)
	case last == e.last && leaf != e.leaf && leaf != [envelope.HashSize]byte{}:
		c.complete.fail(e.at, "the sender of session %s says its last frame was another", name)
	}
}

// finish lets go of a session of which everything is there.
func (c *counters) finish(s *session) {
	last, ok := s.end()
	if !ok || s.lost || !s.opened && !s.early && len(s.seen) > 0 {
		return
	}
	whole := true
	s.seen.holes(last, func(h hole) { h.without(s.void, func(hole) { whole = false }) })
	if !whole {
		return
	}
	c.leave(s)
	c.complete.figure(figureComplete, 1)
	d := done{last: last, leaf: s.leaf}
	if high := s.seen.max(); high > last {
		d.last = high
	} else if high < last {
		d.leaf = [envelope.HashSize]byte{}
	}
	c.done[s.name] = d
	if len(c.ended) < maxEnded {
		c.ended = append(c.ended, s.name)
		return
	}
	old := &c.ended[c.oldest]
	delete(c.done, *old)
	c.forget(*old)
	*old, c.oldest = s.name, (c.oldest+1)%maxEnded
}

// end returns the last number of a session, if that is known.
func (s *session) end() (last uint64, ok bool) {
	switch {
	case s.closed > 0:
		return s.closed, true
	case s.ended != nil && s.ended.last > 0:
		return s.ended.last, true
	}
	return 0, false
}

func (c *counters) afterEnd(name sessionName, last, seq uint64, at Position) {
	if seq <= last {
		c.order.fail(at, "number %d of session %s, which was complete: it was there before", seq, name)
		return
	}
	c.order.fail(at, "number %d of session %s, which ended with %d", seq, name, last)
}

// gap says that messages up to a time may be missing from the log, and that nobody can be blamed.
func (c *counters) gap(until time.Time) {
	c.unsure = max(c.unsure, uint64(until.Add(clockLead).UnixMilli()))
	for _, s := range c.live {
		s.torn = true
	}
}

// shed judges those sessions that have been quiet for longest, to make room.
func (c *counters) shed(which func(*session) bool) {
	var all []*session
	for _, s := range c.live {
		if which(s) {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b *session) int { return cmp.Or(a.logged.Compare(b.logged), a.name.id.Compare(b.name.id)) })
	for _, s := range all[:len(all)/8+1] {
		c.judge(s)
		c.leave(s)
		c.forget(s.name)
	}
}

// settle judges what is left at the end of the log.
func (c *counters) settle() {
	for _, s := range slices.SortedFunc(maps.Values(c.live), func(a, b *session) int {
		return cmp.Or(cmp.Compare(a.first.Entry, b.first.Entry), a.name.id.Compare(b.name.id))
	}) {
		c.judge(s)
	}
}

// judge says what is missing of a session.
func (c *counters) judge(s *session) {
	v := c.complete
	if s.lost {
		v.leave(s.newest, "session %s has more than %d runs of numbers, which is more than is looked at", s.name, maxRanges)
		return
	}
	if len(s.seen) > 0 && !s.opened && !s.early {
		v.fail(s.first, "session %s is not opened by any note", s.name)
		s.void.add(span{from: 1, to: s.seen[0].from})
	}
	last, known := s.end()
	s.seen.holes(max(last, s.seen.max()), func(h hole) {
		h.without(s.void, func(h hole) { c.judgeHole(s, h, known) })
	})
	switch {
	case len(s.seen) == 0 || known:
	case s.ended != nil:
		v.leave(s.newest, "session %s ended by the death of its process: what came after number %d is not proven", s.name, s.seen.max())
	default:
		v.leave(s.newest, "session %s is not closed: what came after number %d is not proven", s.name, s.seen.max())
	}
}

func (c *counters) judgeHole(s *session, h hole, known bool) {
	at, since := h.above.at, h.above.logged
	if h.above.from == 0 {
		at, since = s.newest, s.logged
		if s.ended != nil {
			at, since = s.ended.at, s.ended.logged
		}
	}
	g := c.signs[s.name.instance]
	what := fmt.Sprintf("numbers %d to %d of session %s are", h.from, h.to, s.name)
	if h.from == h.to {
		what = fmt.Sprintf("number %d of session %s is", h.from, s.name)
	}
	switch high := s.seen.max(); {
	case s.closed > 0, s.ended != nil && known && g.closed.Compare(s.name.id) > 0, // whoever closes a session has had an answer to all before
		high > h.to && high-h.to >= keyring.MaxUnderWay,
		g.logged.Sub(since) >= holeGrace && (s.ended == nil || known):
		c.complete.fail(at, "%s missing before it", what)
	default:
		c.complete.leave(at, "%s missing before it, and may be on the way, or be said to be void yet", what)
	}
}

// String names a session for people.
func (n sessionName) String() string {
	if id, err := identity.ParseID(n.sender); err == nil {
		return id.Name() + "/" + n.id.String()
	}
	return n.id.String()
}

// noteOf returns the session note that a header is.
func noteOf(h *Header) (keyring.SessionNote, bool) {
	if h.Kind != envelope.KindControl {
		return keyring.SessionNote{}, false
	}
	n, err := keyring.ParseSessionNote(h.Recipient)
	return n, err == nil
}

// Names of figures.
const (
	figureComplete = "sessions complete, to their last number"
	figureEarly    = "sessions that began before the log"
	figureEarlier  = "sessions whose one before was before the log"
)
