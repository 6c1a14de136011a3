package agentbus

import (
	"math/rand/v2"
	"testing"

	"github.com/oklog/ulid/v2"
)

// TestReadFrames: each number of a session counts once, in whatever order they come.
func TestReadFrames(t *testing.T) {
	const sessions, numbers = 5, 400
	for _, shift := range []int{0, 1, 3, 40} { // how far frames are out of order
		r := newReadFrames(maxReadSessions)
		var list [][2]uint64
		for n := uint64(1); n <= numbers; n++ {
			for s := range uint64(sessions) {
				list = append(list, [2]uint64{s, n})
			}
		}
		random := rand.New(rand.NewPCG(uint64(shift), 1))
		for i := range list {
			j := min(i+random.IntN(shift+1)*sessions, len(list)-1)
			list[i], list[j] = list[j], list[i]
		}
		seen := make(map[[2]uint64]bool)
		for i, f := range list {
			if why := r.add(sessionNo(f[0]), ulid.ULID{1}, f[1], 1); why != "" {
				t.Fatalf("shift %d: number %d of session %d: %s", shift, f[1], f[0], why)
			}
			seen[f] = true
			for range 3 { // any that has come
				again := list[random.IntN(i+1)]
				if r.add(sessionNo(again[0]), ulid.ULID{1}, again[1], 1) != readBefore {
					t.Fatalf("shift %d: number %d of session %d counts twice", shift, again[1], again[0])
				}
			}
		}
		for id, s := range r.sessions {
			if len(s.list) != 1 || s.list[0] != (span{1, numbers}) {
				t.Errorf("shift %d: of session %v it remembers %v", shift, id, s.list)
			}
		}
	}
}

func sessionNo(n uint64) ulid.ULID { return ulid.ULID{14: byte(n >> 8), 15: byte(n)} }

// TestReadFramesOfAnother: sessions are told apart by sender too: whoever has the same id in another's card takes nothing from it.
func TestReadFramesOfAnother(t *testing.T) {
	r := newReadFrames(maxReadSessions)
	for card := range byte(3) {
		if why := r.add(sessionNo(1), ulid.ULID{card}, 1, 1); why != "" {
			t.Errorf("card %d: %s", card, why)
		}
	}
}

// TestReadFramesScattered has a session in far more pieces than are remembered: nothing counts twice, and memory is bounded.
func TestReadFramesScattered(t *testing.T) {
	r := newReadFrames(maxReadSessions)
	var s *readSpans
	for n := uint64(1); n < 1000; n++ {
		if why := r.add(sessionNo(1), ulid.ULID{1}, 2*n, 1); why != "" {
			t.Fatalf("number %d: %s", 2*n, why)
		}
		s = r.sessions[readSession{sessionNo(1), ulid.ULID{1}}]
		if len(s.list) > maxReadSpans {
			t.Fatalf("%d pieces", len(s.list))
		}
	}
	for n := uint64(1); n < 1000; n++ {
		if r.add(sessionNo(1), ulid.ULID{1}, 2*n, 1) == "" {
			t.Errorf("number %d counts twice", 2*n)
		}
	}
	if why := r.add(sessionNo(1), ulid.ULID{1}, 2*999-1, 1); why != "" { // a late one among the newest
		t.Errorf("the last hole: %s", why)
	}
	if r.add(sessionNo(1), ulid.ULID{1}, 3, 1) == "" { // among the oldest it cannot be told any more
		t.Error("a hole that was given up counts")
	}
}

// TestReadFramesForgets: however many sessions come, memory is bounded and no frame counts twice; those that go on do.
func TestReadFramesForgets(t *testing.T) {
	const most = 64
	r := newReadFrames(most)
	for n := range uint64(10 * most) {
		if why := r.add(sessionNo(n), ulid.ULID{1}, 1, 1000+n); why != "" {
			t.Fatalf("session %d: %s", n, why)
		}
		if why := r.add(sessionNo(1<<15), ulid.ULID{2}, n+1, 1000+n); why != "" { // goes on all the while
			t.Fatalf("frame %d of the long session: %s", n, why)
		}
		if len(r.sessions) > most {
			t.Fatalf("%d sessions", len(r.sessions))
		}
	}
	for n := range uint64(10 * most) {
		if r.add(sessionNo(n), ulid.ULID{1}, 1, 1000+n) == "" {
			t.Errorf("session %d counts twice", n)
		}
		if r.add(sessionNo(1<<15), ulid.ULID{2}, n+1, 1000+n) != readBefore {
			t.Errorf("frame %d of the long session counts twice", n)
		}
	}
	if why := r.add(sessionNo(1<<14), ulid.ULID{1}, 1, 1000); why != readUnknown {
		t.Errorf("a session of a time that was forgotten: %q", why)
	}
}

// TestSeenRuns: memory is bounded, and what was added last is remembered.
func TestSeenRuns(t *testing.T) {
	var r seenRuns
	run := func(n uint64) ulid.ULID { return ulid.ULID{13: byte(n >> 16), 14: byte(n >> 8), 15: byte(n)} }
	for n := range uint64(3 * maxSeenRuns) {
		if !r.add(run(n)) || r.add(run(n)) || len(r.now)+len(r.before) > 2*maxSeenRuns {
			t.Fatalf("run %d: %d and %d are remembered", n, len(r.now), len(r.before))
		}
	}
	if r.add(run(2 * maxSeenRuns)) {
		t.Error("a run of before counts twice")
	}
}

// BenchmarkReadFrames is a session that goes on.
func BenchmarkReadFrames(b *testing.B) {
	r := newReadFrames(maxReadSessions)
	b.ReportAllocs()
	for i := range b.N {
		r.add(ulid.ULID{1}, ulid.ULID{2}, uint64(i)+1, 1)
	}
}
