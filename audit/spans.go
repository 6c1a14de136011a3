package audit

import (
	"cmp"
	"slices"
	"time"
)

// span is the numbers of a session from one to another, both included, with where the first of them is.
type span struct {
	from, to uint64
	at       Position
	logged   time.Time
}

// spans are numbers that ascend, and neither overlap nor touch. The zero value has none.
type spans []span

// has reports whether a number is in the set.
func (s spans) has(n uint64) bool {
	i, _ := slices.BinarySearchFunc(s, n, func(have span, n uint64) int { return cmp.Compare(have.to, n) })
	return i < len(s) && s[i].from <= n
}

// add puts numbers in. Spans that come to touch become one, with the place of the lowest.
func (s *spans) add(n span) {
	if i := len(*s) - 1; i >= 0 && (*s)[i].to+1 == n.from { // the next one, nearly always
		(*s)[i].to = n.to
		return
	}
	i, _ := slices.BinarySearchFunc(*s, n.from, func(have span, from uint64) int { return cmp.Compare(have.to+1, from) })
	end := i
	for ; end < len(*s) && (*s)[end].from <= n.to+1; end++ {
		have := (*s)[end]
		if have.from <= n.from {
			n.from, n.at, n.logged = have.from, have.at, have.logged
		}
		n.to = max(n.to, have.to)
	}
	*s = slices.Replace(*s, i, end, n)
}

// max returns the highest number, 0 where there is none.
func (s spans) max() uint64 {
	if len(s) == 0 {
		return 0
	}
	return s[len(s)-1].to
}

// hole is numbers that are missing: below the span that above is, which has no numbers where nothing is above.
type hole struct {
	from, to uint64
	above    span
}

// holes calls f for what is missing up to a number.
func (s spans) holes(last uint64, f func(hole)) {
	next := uint64(1)
	for _, have := range s {
		if have.from > last {
			break
		}
		if have.from > next {
			f(hole{next, have.from - 1, have})
		}
		next = have.to + 1
	}
	if next <= last {
		var above span
		if i, _ := slices.BinarySearchFunc(s, next, func(have span, n uint64) int { return cmp.Compare(have.from, n) }); i < len(s) {
			above = s[i]
		}
		f(hole{next, last, above})
	}
}

// without calls f for the parts of a hole that are not in the set.
func (h hole) without(s spans, f func(hole)) {
	next := h.from
	for _, have := range s {
		if have.to < next {
			continue
		}
		if have.from > h.to {
			break
		}
		if have.from > next {
			f(hole{next, have.from - 1, h.above})
		}
		next = have.to + 1
	}
	if next <= h.to {
		f(hole{next, h.to, h.above})
	}
}
