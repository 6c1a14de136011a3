package audit

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sealbus/sealbus/keyring"
)

// entryVersion is the only version of the encoding.
const entryVersion = 1

// Which fields an event has. They are encoded in the order of these bits.
const (
	hasFirst = 1 << iota
	hasLast
	hasHash
	hasRevision
	hasAgent
	hasCard
	hasChannel
	hasKey
	hasTime
	hasText
)

const hasRange = hasFirst | hasLast

var eventFields = [kindCount]uint16{
	KindOpened:    hasRange | hasAgent | hasCard,
	KindResumed:   hasRange | hasAgent | hasCard,
	KindStill:     hasRange,
	KindPolicy:    hasLast | hasHash | hasRevision,
	KindCard:      hasHash | hasAgent | hasCard | hasTime,
	KindKey:       hasHash | hasAgent | hasCard | hasChannel | hasKey | hasTime,
	KindDestroyed: hasChannel | hasTime,
	KindRevoked:   hasLast | hasRevision | hasAgent,
	KindConfig:    hasRange | hasHash | hasTime | hasText,
	KindPruned:    hasRange | hasTime,
	KindGap:       hasRange | hasText,
	KindReplayed:  hasRange | hasAgent | hasText,
	KindExported:  hasRange | hasAgent | hasText,
	KindClosed:    hasRange,
}

// LeafHash returns the hash that the log's tree has for an encoded entry (RFC 6962, section 2.1).
func LeafHash(entry []byte) tlog.Hash { return tlog.RecordHash(entry) }

// AppendEntry appends the one encoding of an entry to dst. On error, which wraps ErrMalformed, dst is returned as it was.
func AppendEntry(dst []byte, e *Entry) ([]byte, error) {
	if err := e.check(); err != nil {
		return dst, err
	}
	out := append(dst, entryVersion, byte(e.Kind))
	out = binary.BigEndian.AppendUint64(out, uint64(e.Logged.UnixMilli()))
	if e.Kind == KindFrame {
		return e.Frame.append(out), nil
	}
	return e.Event.append(out, eventFields[e.Kind]), nil
}

func (f *Frame) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, f.Sequence)
	b = appendNano(b, f.Stored)
	b = append16(b, f.Subject)
	b = binary.BigEndian.AppendUint32(b, f.Size)
	b = append(b, f.Data[:]...)
	b = append(b, byte(f.Outcome))
	h := &f.Header
	if h.IsZero() {
		return append(b, 0)
	}
	b = append(b, 1)
	b = append(b, h.Leaf[:]...)
	b = append(b, byte(h.Kind), h.Flags)
	b = append(b, h.ID[:]...)
	b = append(b, h.Ref[:]...)
	b = append(b, h.Session[:]...)
	b = binary.BigEndian.AppendUint64(b, h.Seq)
	b = binary.BigEndian.AppendUint32(b, h.Key)
	b = append8(b, h.Sender)
	b = append(b, h.Card[:]...)
	b = append8(b, h.Recipient)
	return binary.BigEndian.AppendUint16(b, h.Count)
}

func (v *Event) append(b []byte, fields uint16) []byte {
	for bit := uint16(hasFirst); bit <= hasText; bit <<= 1 {
		switch fields & bit {
		case hasFirst:
			b = binary.BigEndian.AppendUint64(b, v.First)
		case hasLast:
			b = binary.BigEndian.AppendUint64(b, v.Last)
		case hasHash:
			b = append(b, v.Hash[:]...)
		case hasRevision:
			b = binary.BigEndian.AppendUint64(b, v.Revision)
		case hasAgent:
			b = append8(b, v.Agent)
		case hasCard:
			b = append(b, v.Card[:]...)
		case hasChannel:
			b = append8(b, v.Channel)
		case hasKey:
			b = binary.BigEndian.AppendUint32(b, v.Key)
		case hasTime:
			b = appendNano(b, v.Time)
		case hasText:
			b = append16(b, v.Text)
		}
	}
	return b
}

// ParseEntry reads the one entry that b is into e. Nothing in e refers to b. On error, which wraps ErrMalformed, e is
// zero.
func ParseEntry(b []byte, e *Entry) error {
	*e = Entry{}
	err := e.parse(b)
	if err == nil {
		err = e.check()
	}
	if err != nil {
		*e = Entry{}
	}
	return err
}

func (e *Entry) parse(b []byte) error {
	if len(b) > MaxEntry {
		return malformed("an entry of %d bytes, at most %d are allowed", len(b), MaxEntry)
	}
	s := cryptobyte.String(b)
	var version, kind uint8
	var logged uint64
	if !s.ReadUint8(&version) || !s.ReadUint8(&kind) || !s.ReadUint64(&logged) {
		return malformed("the entry is cut short")
	}
	if version != entryVersion {
		return malformed("an entry of version %d: this program knows version %d", version, entryVersion)
	}
	if logged > maxMilli {
		return malformed("the entry's time is out of range")
	}
	e.Kind, e.Logged = Kind(kind), time.UnixMilli(int64(logged)).UTC()
	var ok bool
	switch {
	case e.Kind == KindFrame:
		ok = e.Frame.parse(&s)
	case e.Kind < kindCount && e.Kind > 0:
		ok = e.Event.parse(&s, eventFields[e.Kind])
	default:
		return malformed("an entry of kind %d", kind)
	}
	switch {
	case !ok:
		return malformed("the %s entry is cut short or has a time out of range", e.Kind)
	case !s.Empty():
		return malformed("something follows the %s entry", e.Kind)
	}
	return nil
}

func (f *Frame) parse(s *cryptobyte.String) bool {
	var outcome, form uint8
	if !s.ReadUint64(&f.Sequence) || !readNano(s, &f.Stored) || !read16(s, &f.Subject) || !s.ReadUint32(&f.Size) ||
		!s.CopyBytes(f.Data[:]) || !s.ReadUint8(&outcome) || !s.ReadUint8(&form) || form > 1 {
		return false
	}
	f.Outcome = keyring.Reason(outcome)
	if form == 0 {
		return true
	}
	h := &f.Header
	return s.CopyBytes(h.Leaf[:]) && s.ReadUint8((*uint8)(&h.Kind)) && s.ReadUint8(&h.Flags) && s.CopyBytes(h.ID[:]) &&
		s.CopyBytes(h.Ref[:]) && s.CopyBytes(h.Session[:]) && s.ReadUint64(&h.Seq) && s.ReadUint32(&h.Key) &&
		read8(s, &h.Sender) && s.CopyBytes(h.Card[:]) && read8(s, &h.Recipient) && s.ReadUint16(&h.Count) && h.Kind != 0
}

func (v *Event) parse(s *cryptobyte.String, fields uint16) bool {
	ok := true
	for bit := uint16(hasFirst); ok && bit <= hasText; bit <<= 1 {
		switch fields & bit {
		case hasFirst:
			ok = s.ReadUint64(&v.First)
		case hasLast:
			ok = s.ReadUint64(&v.Last)
		case hasHash:
			ok = s.CopyBytes(v.Hash[:])
		case hasRevision:
			ok = s.ReadUint64(&v.Revision)
		case hasAgent:
			ok = read8(s, &v.Agent)
		case hasCard:
			ok = s.CopyBytes(v.Card[:])
		case hasChannel:
			ok = read8(s, &v.Channel)
		case hasKey:
			ok = s.ReadUint32(&v.Key)
		case hasTime:
			ok = readNano(s, &v.Time)
		case hasText:
			ok = read16(s, &v.Text)
		}
	}
	return ok
}

const maxMilli = math.MaxInt64 / uint64(time.Millisecond) // the last one that nanoseconds can say

// check holds for every entry, appended or parsed.
func (e *Entry) check() error {
	switch {
	case e.Kind == 0 || e.Kind >= kindCount:
		return malformed("an entry of kind %d", e.Kind)
	case !inRange(e.Logged) || e.Logged.UnixMilli() <= 0:
		return malformed("an entry's time is out of range")
	case e.Kind == KindFrame:
		if e.Event != (Event{}) {
			return malformed("a frame entry with an event")
		}
		return e.Frame.check()
	case e.Frame != (Frame{}):
		return malformed("an event with a frame")
	}
	return e.Event.check(e.Kind)
}

// outcomes are what attesting a frame can come to.
var outcomes = []keyring.Reason{
	0, keyring.Malformed, keyring.Misdirected, keyring.Revoked, keyring.NotEntitled, keyring.Unsigned, keyring.Stale, keyring.NoCard,
	keyring.BadSignature,
}

func (f *Frame) check() error {
	h := &f.Header
	switch {
	case f.Sequence == 0:
		return malformed("a message without a sequence")
	case len(f.Subject) == 0 || len(f.Subject) > MaxSubject:
		return malformed("a subject of %d bytes, 1 to %d are allowed", len(f.Subject), MaxSubject)
	case !inRange(f.Stored):
		return malformed("a message stored at a time out of range")
	case !slices.Contains(outcomes, f.Outcome):
		return malformed("an outcome %d, which attesting a frame does not have", f.Outcome)
	case h.IsZero():
		if *h != (Header{}) {
			return malformed("a header without a kind")
		}
		if f.Outcome == 0 {
			return malformed("what is no frame cannot have been attested")
		}
		return nil
	case !h.Kind.Valid() || h.Seq == 0 || h.Count == 0 || h.ID.IsZero() || h.Session.IsZero() || h.Card.IsZero():
		return malformed("a header that no frame has")
	case len(h.Sender) == 0 || len(h.Sender) > maxName || len(h.Recipient) == 0 || len(h.Recipient) > maxName:
		return malformed("a header with names that no frame has")
	}
	return nil
}

func (v *Event) check(kind Kind) error {
	has := eventFields[kind]
	var extra Event
	for bit := uint16(hasFirst); bit <= hasText; bit <<= 1 {
		if has&bit == 0 {
			extra.take(v, bit)
		}
	}
	switch {
	case extra != (Event{}):
		return malformed("a field that a %s entry does not have", kind)
	case len(v.Agent) > maxName || len(v.Channel) > maxName:
		return malformed("a name of more than %d bytes", maxName)
	case !utf8.ValidString(v.Text):
		return malformed("a text that is not UTF-8")
	case len(v.Text) > MaxText:
		return malformed("a text of %d bytes, at most %d are allowed", len(v.Text), MaxText)
	case !inRange(v.Time):
		return malformed("an event's time is out of range")
	}
	return nil
}

// take copies one field.
func (v *Event) take(from *Event, bit uint16) {
	switch bit {
	case hasFirst:
		v.First = from.First
	case hasLast:
		v.Last = from.Last
	case hasHash:
		v.Hash = from.Hash
	case hasRevision:
		v.Revision = from.Revision
	case hasAgent:
		v.Agent = from.Agent
	case hasCard:
		v.Card = from.Card
	case hasChannel:
		v.Channel = from.Channel
	case hasKey:
		v.Key = from.Key
	case hasTime:
		v.Time = from.Time
	case hasText:
		v.Text = from.Text
	}
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// inRange reports whether nanoseconds since 1970 can say the time, or it is none.
func inRange(t time.Time) bool {
	return t.IsZero() || t.Unix() >= 0 && t.Unix() < math.MaxInt64/int64(time.Second)
}

func appendNano(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return binary.BigEndian.AppendUint64(b, 0)
	}
	return binary.BigEndian.AppendUint64(b, uint64(t.UnixNano()))
}

func readNano(s *cryptobyte.String, t *time.Time) bool {
	var n uint64
	if !s.ReadUint64(&n) || n > math.MaxInt64 || int64(n)/int64(time.Second) >= math.MaxInt64/int64(time.Second) {
		return false
	}
	if n > 0 {
		*t = time.Unix(0, int64(n)).UTC()
	}
	return true
}

func append8(b []byte, s string) []byte { return append(append(b, byte(len(s))), s...) }

func append16(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

func read8(s *cryptobyte.String, out *string) bool {
	var b cryptobyte.String
	if !s.ReadUint8LengthPrefixed(&b) {
		return false
	}
	*out = string(b)
	return true
}

func read16(s *cryptobyte.String, out *string) bool {
	var b cryptobyte.String
	if !s.ReadUint16LengthPrefixed(&b) {
		return false
	}
	*out = string(b)
	return true
}
