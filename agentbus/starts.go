package agentbus

import (
	"time"

	"github.com/sealbus/sealbus/keyring"
)

// starts are beginnings of tasks that a worker has reserved: left of them, the first at a time, one every so often.
type starts struct {
	at    time.Time
	every time.Duration
	left  int
	batch int // were reserved last
	lost  bool
}

// late drops those that were not used in time: what many of them would begin at once is over the limit.
func (s *starts) late(now time.Time) {
	if over := now.Sub(s.at) - startLate; s.left > 0 && over > 0 {
		n := min(int(over/s.every)+1, s.left)
		s.left, s.at, s.lost = s.left-n, s.at.Add(time.Duration(n)*s.every), true
	}
}

// due reports whether a task may begin.
func (s *starts) due(now time.Time) bool {
	s.late(now)
	return s.left > 0 && !now.Before(s.at)
}

// take uses one.
func (s *starts) take() {
	s.left--
	s.at = s.at.Add(s.every)
}

// next returns how many to reserve: twice as many as were used up, so that a fast queue does not pay a write for each, and one
// again when some were lost, so that a worker with little to do takes none away from others.
func (s *starts) next(every time.Duration) int {
	if s.lost || s.batch == 0 {
		return 1
	}
	return max(1, min(2*s.batch, int(rateSpan/every)))
}

// give adds what was reserved.
func (s *starts) give(first time.Time, every time.Duration, n int) {
	*s = starts{at: first, every: every, left: n, batch: n}
}

// reserve is the generic cell rate algorithm, ITU-T I.371, without a tolerance: next is the theoretical arrival time that all
// workers share. It returns when the first of n starts may be and the time to share then, or for how long to wait because too many
// are reserved.
func reserve(next, now time.Time, every time.Duration, n int) (first, then time.Time, wait time.Duration) {
	most := max(every, rateSpan)
	switch ahead := next.Sub(now); {
	case ahead > 2*most+keyring.MaxClockLead:
		next = now // nobody reserves so far ahead: it is of another rate, or of a clock that is wrong
	case ahead > most:
		return first, then, ahead - most
	case ahead < 0:
		next = now
	}
	return next, next.Add(time.Duration(n) * every), 0
}
