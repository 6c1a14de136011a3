package keyring

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/internal/envelope"
)

// newRandom returns a source that a failed test can be run again with.
func newRandom(t testing.TB) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	})
	return rand.New(rand.NewPCG(seed, 0))
}

// tally is what somebody without any key reads out of the frames that a stream holds of one sender's.
type tally struct {
	sessions map[ulid.ULID]*tallied
	order    []*tallied // as they begin in the stream
}

type tallied struct {
	id     ulid.ULID
	stored map[uint64][envelope.HashSize]byte
	notes  map[uint64]SessionNote
	void   numbers
	end    uint64 // as a closing note says, or the opening note of the next; 0: nobody says
	top    uint64
}

func newTally(t testing.TB, frames [][]byte) *tally {
	t.Helper()
	y := &tally{sessions: make(map[ulid.ULID]*tallied)}
	for _, raw := range frames {
		var f envelope.Frame
		check(t, envelope.Parse(raw, &f))
		s := y.of(f.Session)
		if len(s.stored) == 0 {
			y.order = append(y.order, s)
		}
		s.stored[f.Seq] = envelope.Leaf(f.Head, f.Ciphertext)
		s.top = max(s.top, f.Seq)
		if f.Kind != envelope.KindControl {
			continue
		}
		n, err := ParseSessionNote(string(f.Recipient))
		check(t, err)
		s.notes[f.Seq] = n
		if n.Kind == NoteVoid {
			y.of(n.Session).void.add(n.From, n.To)
		}
	}
	return y
}

func (y *tally) of(id ulid.ULID) *tallied {
	if y.sessions[id] == nil {
		y.sessions[id] = &tallied{id: id, stored: make(map[uint64][envelope.HashSize]byte), notes: make(map[uint64]SessionNote)}
	}
	return y.sessions[id]
}

func (s *tallied) isVoid(n uint64) bool {
	for _, v := range s.void {
		if v.from <= n && n <= v.to {
			return true
		}
	}
	return false
}

// findings are what is wrong with the sessions, and of how many nobody says how they ended.
func (y *tally) findings() (wrong []string, open int) {
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	for i, s := range y.order {
		opened := false
		for seq, n := range s.notes {
			switch n.Kind {
			case NoteClose:
				s.end = max(s.end, seq)
			case NoteOpen:
				opened = true
				if n.Previous.IsZero() && i > 0 {
					say("%s says that there was none before", s.id)
				} else if n.Last > 0 {
					before := y.of(n.Previous)
					before.end = max(before.end, n.Last)
					if leaf, ok := before.stored[n.Last]; ok && leaf != n.Leaf || !ok && !before.isVoid(n.Last) {
						say("%s ended otherwise than %s says", n.Previous, s.id)
					}
				}
			}
		}
		if !opened {
			say("%s is not opened", s.id)
		}
	}
	for _, s := range y.sessions {
		if s.end == 0 && len(s.stored) > 0 {
			open++
			continue
		}
		if s.top > s.end {
			say("%s goes on until %d, after its end at %d", s.id, s.top, s.end)
		}
		for n := uint64(1); n <= s.end; n++ {
			if _, ok := s.stored[n]; !ok && !s.isVoid(n) {
				say("number %d of %s is missing, of %d", n, s.id, s.end)
			}
		}
	}
	return wrong, open
}
