package agentbus

import (
	"bytes"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
)

// FuzzTaskHeaders: what is decoded of a sign of life, a report and an attempt encodes to the same bytes.
func FuzzTaskHeaders(f *testing.F) {
	here := presence{instance: ulid.Make(), since: time.UnixMilli(1_700_000_000_000), concurrency: 16, running: 3}
	f.Add(here.encode())
	here.gone = true
	f.Add(here.encode())
	f.Add((&presence{instance: ulid.ULID{15: 1}}).encode())
	f.Add(encodeReport(ulid.Make()))
	f.Add(encodeAttempt(1))
	f.Add(encodeAttempt(maxAttempts))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, ok := decodePresence(b); ok && !bytes.Equal(p.encode(), b) {
			t.Errorf("presence %x is encoded as %x", b, p.encode())
		}
		if id, ok := decodeReport(b); ok && !bytes.Equal(encodeReport(id), b) {
			t.Errorf("report %x is encoded as %x", b, encodeReport(id))
		}
		if n, ok := decodeAttempt(b); ok && !bytes.Equal(encodeAttempt(n), b) {
			t.Errorf("attempt %x is encoded as %x", b, encodeAttempt(n))
		}
	})
}

// TestTaskHeaders: each field comes back, and what no encoder writes is refused.
func TestTaskHeaders(t *testing.T) {
	want := presence{instance: ulid.Make(), since: time.UnixMilli(1_700_000_000_123), concurrency: 1 << 20, running: 7, gone: true}
	if got, ok := decodePresence(want.encode()); !ok || got != want {
		t.Errorf("%+v", got)
	}
	id := ulid.Make()
	if got, ok := decodeReport(encodeReport(id)); !ok || got != id {
		t.Errorf("%s", got)
	}
	if got, ok := decodeAttempt(encodeAttempt(777)); !ok || got != 777 {
		t.Errorf("%d", got)
	}
	change := func(b []byte, at int, to byte) []byte {
		b = bytes.Clone(b)
		b[at] = to
		return b
	}
	good := want.encode()
	for name, b := range map[string][]byte{
		"empty": nil, "short": good[:len(good)-1], "long": append(bytes.Clone(good), 0), "another version": change(good, 0, 2), "half gone": change(good, 33, 2),
		"no instance": (&presence{}).encode(), "too late": change(good, 17, 1), "too many": change(good, 25, 0x80), "too busy": change(good, 29, 0x80),
	} {
		if p, ok := decodePresence(b); ok {
			t.Errorf("presence, %s: %+v", name, p)
		}
	}
	for _, b := range [][]byte{nil, {1}, encodeReport(id)[:16], append(encodeReport(id), 0), change(encodeReport(id), 0, 0)} {
		if _, ok := decodeReport(b); ok {
			t.Errorf("%x is a report", b)
		}
	}
	for _, b := range [][]byte{nil, {1, 0}, {1, 0, 0}, {1, 0, 1, 0}, {0, 0, 1}, encodeAttempt(maxAttempts + 1)} {
		if _, ok := decodeAttempt(b); ok {
			t.Errorf("%x is an attempt", b)
		}
	}
}
