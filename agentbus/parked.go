package agentbus

import (
	"bytes"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/internal/envelope"
)

// lot is where frames wait whose key or card has not come yet. Those of one session wait together, in order, and
// a sender's next session waits for the one before, so that a change of keys does not put messages out of order.
//
// Nothing about these frames is proven. Somebody who may publish could send frames with the session or the card
// of another sender in them, under a key that never comes, to have that sender's frames wait too. So they are
// told apart by everything that they claim: the group of a real session waits only for keys that this session
// needs itself. A session of which a frame has been accepted waits for no other any more; a new one waits only
// for what was here before it, and for orderWait at most.
//
// Of those that lack only a card the seal has opened: they come from a holder of the channel's key. All others can be
// made by whoever may publish, in any number, so that these get half of the room and no more.
type lot struct {
	groups   map[claim]*group
	all      load
	unproven load
	count    uint64
	newest   map[ulid.ULID]ulid.ULID // by card: the newest session of which a frame was accepted
}

// load is what waits.
type load struct{ groups, frames, bytes int }

func (l *load) add(groups, frames, bytes int) {
	l.groups += groups
	l.frames += frames
	l.bytes += bytes
}

// fits reports whether there is room in one of parts equal parts of the lot.
func (l load) fits(groups, bytes, parts int) bool {
	return l.groups+groups <= maxParkedGroups/parts && l.frames < maxParked/parts && l.bytes+bytes <= maxParkedBytes/parts
}

// claim is what a frame says of itself that decides whether it can be opened.
type claim struct {
	channel, sender string
	card, session   ulid.ULID
	key             uint32
}

// group is the waiting frames of one session.
type group struct {
	claim
	n        uint64    // in the order of coming
	until    time.Time // when its first frame has waited for parkTimeout, for its key or for another session
	frames   []arrival
	sealed   bool // the first one's seal has opened
	fetching bool // its key or card is being fetched; else it waits for the sender's session before
}

func newLot() *lot {
	return &lot{groups: make(map[claim]*group), newest: make(map[ulid.ULID]ulid.ULID)}
}

// claimOf reads what a frame claims.
func claimOf(frame []byte) (c claim, ok bool) {
	var f envelope.Frame
	if envelope.Parse(frame, &f) != nil {
		return c, false
	}
	return claim{string(f.Channel), string(f.Sender), f.Card, f.Session, f.Key}, true
}

// accepted notes that a frame has passed every check.
func (l *lot) accepted(card, session ulid.ULID) {
	have, ok := l.newest[card]
	if ok && bytes.Compare(session[:], have[:]) <= 0 {
		return
	}
	if len(l.newest) >= maxSenders {
		clear(l.newest) // costs no more than a wait
	}
	l.newest[card] = session
}

// blocked reports whether a session that came as the n-th must wait for an earlier one of its sender.
func (l *lot) blocked(c claim, n uint64) bool {
	newest := l.newest[c.card]
	if bytes.Compare(c.session[:], newest[:]) <= 0 {
		return false
	}
	for _, g := range l.groups {
		if g.fetching && g.card == c.card && g.n < n && bytes.Compare(g.session[:], c.session[:]) < 0 &&
			bytes.Compare(g.session[:], newest[:]) > 0 {
			return true
		}
	}
	return false
}

// add sets a frame aside, behind those of its session. sealed says that its seal has opened. It returns nil when
// there is no room.
func (l *lot) add(c claim, a arrival, sealed bool) *group {
	g, size, fresh := l.groups[c], len(a.m.Data), 0
	if g == nil {
		g, fresh = &group{claim: c, n: l.count + 1, until: time.Now().Add(parkTimeout), sealed: sealed}, 1
	}
	if !l.all.fits(fresh, size, 1) || !g.sealed && !l.unproven.fits(fresh, size, 2) {
		return nil
	}
	if fresh > 0 {
		l.count++
		l.groups[c] = g
	}
	g.frames = append(g.frames, a)
	l.note(g, fresh, 1, size)
	return g
}

func (l *lot) note(g *group, groups, frames, bytes int) {
	l.all.add(groups, frames, bytes)
	if !g.sealed {
		l.unproven.add(groups, frames, bytes)
	}
}

// remove takes a group out.
func (l *lot) remove(c claim) []arrival {
	g := l.groups[c]
	if g == nil {
		return nil
	}
	delete(l.groups, c)
	l.note(g, -1, 0, 0)
	for _, a := range g.frames {
		l.note(g, 0, -1, -len(a.m.Data))
	}
	return g.frames
}

// unblocked returns the earliest session of a card that waits for another and need not any more.
func (l *lot) unblocked(card ulid.ULID) *group {
	var first *group
	for _, g := range l.groups {
		if g.card == card && !g.fetching && !l.blocked(g.claim, g.n) &&
			(first == nil || bytes.Compare(g.session[:], first.session[:]) < 0) {
			first = g
		}
	}
	return first
}
