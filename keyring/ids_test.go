package keyring

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
)

// TestIDsAscend draws many ids within one millisecond, one by one and by the frame.
func TestIDsAscend(t *testing.T) {
	at := time.UnixMilli(1764028800000)
	s := idSource{now: func() time.Time { return at }}
	seen := make(map[ulid.ULID]bool)
	var last ulid.ULID
	take := func(id ulid.ULID) {
		if id.Compare(last) <= 0 || seen[id] || id.Time() != ulid.Timestamp(at) {
			t.Fatalf("%s after %s", id, last)
		}
		seen[id], last = true, id
	}
	ids := make([]ulid.ULID, 4096)
	for i := range 2000 {
		if i%3 == 0 {
			take(value(s.next())(t))
			continue
		}
		n := 1 + i*i%len(ids)
		now, err := s.fill(ids[:n])
		check(t, err)
		if !now.Equal(at) {
			t.Fatalf("drawn at %s", now)
		}
		take(ids[0])
		for _, id := range ids[1:min(n, 5)] {
			take(id)
		}
		last = ids[n-1]
		if i%500 == 499 {
			at = at.Add(time.Millisecond)
		}
	}
	// Of a clock that is set back only uniqueness is left.
	at = at.Add(-time.Second)
	last = ulid.ULID{}
	take(value(s.next())(t))
}

// TestIDsPassWhatWasCountedOn: a draw that falls among the ids of a frame is not given a second time.
func TestIDsPassWhatWasCountedOn(t *testing.T) {
	s := idSource{now: func() time.Time { return time.UnixMilli(1764028800000) }}
	// Where the millisecond starts, then steps of two.
	s.entropy = ulid.Monotonic(bytes.NewReader(append(append(make([]byte, 9), 1), bytes.Repeat([]byte{1, 0, 0, 0}, 5)...)), 0)
	var last ulid.ULID
	for range 3 {
		ids := make([]ulid.ULID, 1000)
		_, err := s.fill(ids)
		check(t, err)
		for _, id := range append(ids, value(s.next())(t)) {
			if id.Compare(last) <= 0 {
				t.Fatalf("%s after %s", id, last)
			}
			last = id
		}
	}
}

// TestIDsRunOut: at the end of a millisecond's entropy there is an error, never an id that was given before.
func TestIDsRunOut(t *testing.T) {
	at := time.UnixMilli(1764028800000)
	s := idSource{now: func() time.Time { return at }}
	end := append(bytes.Repeat([]byte{0xff}, 9), 0xf0)
	s.entropy = ulid.Monotonic(bytes.NewReader(append(end, bytes.Repeat([]byte{1}, 100)...)), 0)
	first := value(s.next())(t)
	ids := make([]ulid.ULID, 100)
	for range 3 { // the source itself begins again from below
		if _, err := s.fill(ids); !errors.Is(err, ulid.ErrMonotonicOverflow) {
			t.Fatalf("got %v, want an overflow", err)
		}
	}
	at = at.Add(time.Millisecond)
	_, err := s.fill(ids)
	check(t, err)
	if ids[0].Compare(first) <= 0 {
		t.Errorf("%s after %s", ids[0], first)
	}
}
