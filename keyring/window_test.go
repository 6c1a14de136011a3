package keyring

import (
	"encoding/binary"
	"math"
	"testing"
)

func (w *window) take(seq uint64) (fresh bool, lost uint64) {
	if !w.check(seq) {
		return false, 0
	}
	return true, w.accept(seq)
}

func TestWindow(t *testing.T) {
	type step struct {
		seq   uint64
		fresh bool
		lost  uint64
	}
	for name, steps := range map[string][]step{
		"in order":          {{1, true, 0}, {2, true, 0}, {3, true, 0}, {3, false, 0}, {1, false, 0}},
		"zero":              {{0, false, 0}, {1, true, 0}, {0, false, 0}},
		"late but inside":   {{1, true, 0}, {1024, true, 0}, {2, true, 0}, {2, false, 0}, {1023, true, 0}},
		"late and outside":  {{1, true, 0}, {1025, true, 0}, {1, false, 0}, {2, true, 0}},
		"edge":              {{5000, true, 0}, {5000 - 1023, true, 0}, {5000 - 1024, false, 0}},
		"joined in between": {{100, true, 0}, {99, true, 0}, {1123, true, 0}, {1124, true, 0}, {99, false, 0}},
		"one lost":          {{1, true, 0}, {3, true, 0}, {1026, true, 1}, {2, false, 0}},
		"slot shared":       {{1, true, 0}, {2, true, 0}, {1026, true, 0}, {2, false, 0}, {1026, false, 0}, {1025, true, 0}},
		"jump of a window":  {{1, true, 0}, {1025, true, 0}, {2049, true, 1023}},
		"jump far":          {{1, true, 0}, {1 << 40, true, 1<<40 - 1024 - 1}, {1 << 40, false, 0}, {1<<40 - 1, true, 0}, {1, false, 0}},
		"at the very end":   {{math.MaxUint64 - 3, true, 0}, {math.MaxUint64, true, 0}, {math.MaxUint64 - 3, false, 0}, {math.MaxUint64, false, 0}, {math.MaxUint64 - 1, true, 0}},
		"to the very end":   {{1, true, 0}, {math.MaxUint64, true, math.MaxUint64 - 1025}, {math.MaxUint64, false, 0}, {1, false, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			var w window
			for i, s := range steps {
				if fresh, lost := w.take(s.seq); fresh != s.fresh || lost != s.lost {
					t.Fatalf("step %d, %d: fresh %v with %d lost, want %v with %d", i, s.seq, fresh, lost, s.fresh, s.lost)
				}
			}
		})
	}
}

// model is a window that remembers everything.
type model struct {
	seen      map[uint64]bool
	base, top uint64
	gone      uint64 // everything up to here has left the window and been counted
	lost      uint64
}

func (m *model) take(seq uint64) bool {
	if seq == 0 || m.seen[seq] || m.top >= windowBits && seq <= m.top-windowBits {
		return false
	}
	if len(m.seen) == 0 {
		m.base = seq
	}
	m.base = min(m.base, seq)
	m.top = max(m.top, seq)
	m.seen[seq] = true
	return true
}

// count returns how many numbers from base on have left the window unseen. A number counts when it leaves;
// what a lower base brings in later and has left already is not counted.
func (m *model) count() uint64 {
	if m.top <= windowBits {
		return 0
	}
	from := max(m.base, m.gone+1)
	for n := from; n <= m.top-windowBits; n++ {
		if !m.seen[n] {
			m.lost++
		}
	}
	m.gone = max(m.gone, m.top-windowBits)
	return m.lost
}

func FuzzWindow(f *testing.F) {
	f.Add([]byte{0, 1, 0, 2, 0, 3})
	f.Add([]byte{0, 1, 4, 0, 8, 0, 0, 1})
	f.Add([]byte{255, 255, 0, 1, 252, 0, 251, 255})
	f.Fuzz(func(t *testing.T, in []byte) {
		w, m := window{}, model{seen: map[uint64]bool{}}
		var lost uint64
		for len(in) >= 2 && len(m.seen) < 4096 {
			seq := uint64(binary.BigEndian.Uint16(in))
			in = in[2:]
			fresh, more := w.take(seq)
			if want := m.take(seq); fresh != want {
				t.Fatalf("%d after %d: fresh %v, want %v", seq, m.top, fresh, want)
			}
			lost += more
			if want := m.count(); lost != want {
				t.Fatalf("%d after %d: %d lost, want %d", seq, m.top, lost, want)
			}
		}
	})
}
