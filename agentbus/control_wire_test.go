package agentbus

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
)

func controls() []control {
	return []control{
		{what: controlPause}, {what: controlPause, paused: true}, {what: controlLimits},
		{what: controlLimits, limits: queueLimits{maxRunning, maxEvery}}, {what: controlLimits, limits: queueLimits{1, minEvery}},
		{what: controlCancel, task: ulid.ULID{15: 1}}, {what: controlCancel, task: ulid.ULID{0: 0xff, 15: 0xff}, reason: strings.Repeat("é", maxReason/2)},
	}
}

// FuzzControl: what is read is what would be written, byte for byte, and nothing is read that no call can mean.
func FuzzControl(f *testing.F) {
	for _, c := range controls() {
		b, err := c.encode()
		if err != nil {
			f.Fatal(err)
		}
		got, err := decodeControl(b)
		if err != nil || got != c {
			f.Errorf("%+v became %+v: %v", c, got, err)
		}
		f.Add(b)
	}
	f.Add([]byte{})
	f.Add([]byte{1, 1, 2})
	f.Add([]byte{1, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := decodeControl(b)
		if err != nil {
			if c != (control{}) {
				t.Errorf("an error, and %+v", c)
			}
			return
		}
		again, err := c.encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%x became %x: %v", b, again, err)
		}
		if c.limits.running > maxRunning || len(c.reason) > maxReason {
			t.Errorf("over the limits: %+v", c)
		}
	})
}

// TestControlRefused: what is almost a control is none.
func TestControlRefused(t *testing.T) {
	for _, c := range []control{{}, {what: 4}, {what: controlLimits, limits: queueLimits{maxRunning + 1, 0}}, {what: controlLimits, limits: queueLimits{0, minEvery - 1}},
		{what: controlLimits, limits: queueLimits{0, maxEvery + 1}}, {what: controlCancel}, {what: controlCancel, task: ulid.ULID{1}, reason: "\xff"},
		{what: controlCancel, task: ulid.ULID{1}, reason: strings.Repeat("x", maxReason+1)}} {
		if b, err := c.encode(); err == nil {
			t.Errorf("%+v is encoded as %x", c, b)
		}
	}
	for _, c := range controls() {
		b, _ := c.encode()
		for n := range b {
			if _, err := decodeControl(b[:n]); err == nil {
				t.Errorf("%x is read", b[:n])
			}
		}
		if _, err := decodeControl(append(slices.Clone(b), 0)); err == nil {
			t.Errorf("%x is read with a byte behind it", b)
		}
	}
}

// FuzzSlot: the same for slots.
func FuzzSlot(f *testing.F) {
	for _, h := range []slotHold{{}, {"exec-1", [16]byte{1}, time.Second}, {strings.Repeat("x", maxSlotAgent), [16]byte{15: 1}, maxSlotTerm}} {
		got, err := decodeSlot(h.encode())
		if err != nil || got != h {
			f.Errorf("%+v became %+v: %v", h, got, err)
		}
		f.Add(h.encode())
	}
	f.Add(encodeRate(time.Unix(1, 1)))
	f.Add(slotHold{"x", [16]byte{}, time.Second}.encode())
	f.Add(slotHold{"x", [16]byte{1}, maxSlotTerm + time.Millisecond}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := decodeSlot(b); err == nil && (!bytes.Equal(h.encode(), b) || h.term > maxSlotTerm) {
			t.Errorf("%x became %x", b, h.encode())
		}
		if at, err := decodeRate(b); err == nil && !bytes.Equal(encodeRate(at), b) {
			t.Errorf("%x became %x", b, encodeRate(at))
		}
	})
}

// TestReserve: whatever workers ask for, and whenever, no two starts are closer than they may be, and of what is reserved nothing is
// far ahead. The clock is the test's.
func TestReserve(t *testing.T) {
	for _, every := range []time.Duration{time.Microsecond, time.Millisecond, 7 * time.Millisecond, time.Second, time.Hour} {
		now := time.Unix(1000, 0)
		var next, last time.Time
		for i := range 1000 {
			n := 1 + i%max(1, int(rateSpan/every))
			first, then, wait := reserve(next, now, every, n)
			if wait > 0 {
				now = now.Add(wait)
				if first, then, wait = reserve(next, now, every, n); wait > 0 {
					t.Fatalf("one in %v: after the wait there is another of %v", every, wait)
				}
			}
			if !last.IsZero() && first.Sub(last) < every {
				t.Fatalf("one in %v: two starts are %v from one another", every, first.Sub(last))
			}
			if then.Sub(now) > 2*max(every, rateSpan) || first.Before(now) {
				t.Fatalf("one in %v: reserved from %v to %v from now", every, first.Sub(now), then.Sub(now))
			}
			next, last = then, then.Add(-every)
			if i%10 == 0 {
				now = now.Add(every * time.Duration(i%3)) // now and then nobody has anything to do
			}
		}
		// A time that nobody can have reserved, of a clock that is wrong or of a rate before, holds up nobody.
		if first, _, wait := reserve(now.Add(24*time.Hour), now, time.Second, 1); wait != 0 || !first.Equal(now) {
			t.Errorf("a wait of %v", wait)
		}
	}
}

// TestStarts: starts that were reserved are used in their time, and are lost when they are not.
func TestStarts(t *testing.T) {
	now := time.Unix(1000, 0)
	const every = 10 * time.Millisecond
	var s starts
	if s.due(now) || s.next(every) != 1 {
		t.Error("there is none, and the first time one is reserved")
	}
	for _, n := range []int{1, 2, 4, 8, 10, 10} {
		if got := s.next(every); got != n {
			t.Errorf("%d are reserved, want %d", got, n)
		}
		s.give(now, every, n)
		for range n {
			if s.due(now.Add(-1)) || !s.due(now) {
				t.Errorf("one is not due in its time: %+v", s)
			}
			s.take()
			now = now.Add(every)
		}
	}
	s.give(now, every, 10)
	now = now.Add(startLate + 45*time.Millisecond)
	if !s.due(now) || s.left != 5 {
		t.Errorf("%d are left", s.left)
	}
	now = now.Add(time.Hour)
	if s.due(now) || s.left != 0 || s.next(every) != 1 {
		t.Errorf("an hour later: %+v", s)
	}
	if n := new(starts).next(time.Nanosecond); n != 1 {
		t.Errorf("%d", n)
	}
}
