package agentbus

import (
	"slices"

	"github.com/oklog/ulid/v2"
)

// readFrames remembers which frames of a stream have been read, so that one that the stream holds twice counts once. The
// numbers of a sender's session follow one another, also in the stream, but where somebody has moved frames: so what was read
// of a session is a few spans. It is bounded: in spans of a session, and in sessions. What can then not be told any more is
// not taken for new.
type readFrames struct {
	sessions map[readSession]*readSpans
	most     int
	floor    uint64 // Unix ms: sessions whose frames are all as old as this may have been forgotten
}

type readSession struct{ session, card ulid.ULID }

// readSpans is what was read of a session.
type readSpans struct {
	list   []span // ascending; between two of them there is a hole
	newest uint64 // Unix ms of its newest frame
}

type span struct{ from, to uint64 }

func newReadFrames(most int) *readFrames {
	return &readFrames{sessions: make(map[readSession]*readSpans), most: most}
}

// Why a frame is not taken for new.
const (
	readBefore  = "the stream has held it before"
	readUnknown = "whether the stream has held it before cannot be told any more: too many sessions have come since"
)

// add notes a frame of a session and its time. It returns why it does not count, empty if it does.
func (r *readFrames) add(session, card ulid.ULID, seq, ms uint64) string {
	key := readSession{session, card}
	s := r.sessions[key]
	if s == nil {
		if ms <= r.floor && r.floor > 0 {
			return readUnknown
		}
		if len(r.sessions) >= r.most {
			r.forget()
		}
		s = new(readSpans)
		r.sessions[key] = s
	}
	s.newest = max(s.newest, ms)
	if !s.add(seq) {
		return readBefore
	}
	return ""
}

// forget drops the half of the sessions that have had no frame for longest, by their senders' clocks.
func (r *readFrames) forget() {
	times := make([]uint64, 0, len(r.sessions))
	for _, s := range r.sessions {
		times = append(times, s.newest)
	}
	slices.Sort(times)
	r.floor = max(r.floor, times[len(times)/2])
	for key, s := range r.sessions {
		if s.newest <= r.floor {
			delete(r.sessions, key)
		}
	}
}

// add reports whether a number is new. Where a session has been cut into too many pieces, the hole between the first two
// counts as read.
func (s *readSpans) add(seq uint64) bool {
	if n := len(s.list); n > 0 && seq == s.list[n-1].to+1 {
		s.list[n-1].to = seq
		return true
	}
	i, _ := slices.BinarySearchFunc(s.list, seq, func(p span, seq uint64) int {
		if p.to < seq {
			return -1
		}
		return 1
	})
	if i < len(s.list) && s.list[i].from <= seq {
		return false
	}
	behind := i > 0 && s.list[i-1].to+1 == seq
	before := i < len(s.list) && s.list[i].from == seq+1
	switch {
	case behind && before:
		s.list[i-1].to = s.list[i].to
		s.list = slices.Delete(s.list, i, i+1)
	case behind:
		s.list[i-1].to = seq
	case before:
		s.list[i].from = seq
	default:
		s.list = slices.Insert(s.list, i, span{seq, seq})
	}
	if len(s.list) > maxReadSpans {
		s.list[1].from = s.list[0].from
		s.list = slices.Delete(s.list, 0, 1)
	}
	return true
}
