package keyring

import (
	"cmp"
	"slices"
)

// numbers is a set of sequence numbers of one session: spans that ascend, and neither overlap nor touch. The zero value is
// empty.
type numbers []span

// span is the numbers from one to another, both included.
type span struct{ from, to uint64 }

// add puts a span in.
func (s *numbers) add(from, to uint64) {
	i, _ := slices.BinarySearchFunc(*s, from, func(have span, from uint64) int { return cmp.Compare(have.to+1, from) })
	end := i
	for ; end < len(*s) && (*s)[end].from <= to+1; end++ {
		from, to = min(from, (*s)[end].from), max(to, (*s)[end].to)
	}
	*s = slices.Replace(*s, i, end, span{from, to})
}

// remove takes a span out.
func (s *numbers) remove(from, to uint64) {
	i, _ := slices.BinarySearchFunc(*s, from, func(have span, from uint64) int { return cmp.Compare(have.to, from) })
	var rest []span
	end := i
	for ; end < len(*s) && (*s)[end].from <= to; end++ {
		if have := (*s)[end]; have.from < from {
			rest = append(rest, span{have.from, from - 1})
		}
		if have := (*s)[end]; have.to > to {
			rest = append(rest, span{to + 1, have.to})
		}
	}
	*s = slices.Replace(*s, i, end, rest...)
}
