package audit

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"golang.org/x/mod/sumdb/note"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/internal/envelope"
)

// underRace says that the race detector is on. Tests that do the same thing very often do it less often then.
var underRace bool

// sparsely returns the step with which to go through what is tried one by one.
func sparsely(step int) int {
	if underRace {
		return 8 * step
	}
	return step
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func value[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		check(t, err)
		return v
	}
}

// testOrigin is a log of the auditor of example.org.
func testOrigin() Origin {
	return Origin{
		Auditor: identity.MustParseID("spiffe://example.org/agent/auditor"),
		Log:     ulid.MustParseStrict("01M82T3C6NF9XAJ1X38GD0BNKB"), Stream: "SB_TOPIC_ledger",
	}
}

// newSigner returns a key for checkpoints that has nothing to do with cards.
func newSigner(t testing.TB, o Origin) (note.Signer, note.Verifiers) {
	t.Helper()
	private, public, err := note.GenerateKey(rand.Reader, o.String())
	check(t, err)
	return value(note.NewSigner(private))(t), note.VerifierList(value(note.NewVerifier(public))(t))
}

var testEpoch = time.Date(2026, 11, 24, 6, 0, 0, 0, time.UTC)

// testEntry is an entry such as a log has many of.
func testEntry(i int) *Entry {
	at := testEpoch.Add(time.Duration(i) * time.Millisecond)
	var id ulid.ULID
	_ = id.SetTime(ulid.Timestamp(at))
	binary.BigEndian.PutUint64(id[8:], uint64(i)+1)
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(i))
	return &Entry{Kind: KindFrame, Logged: at, Frame: Frame{
		Sequence: uint64(i) + 1, Stored: at, Subject: "sb.topic.ledger.a", Size: 1200, Data: sha256.Sum256(n[:]),
		Header: Header{
			Leaf: sha256.Sum256(append(n[:], 1)), Kind: envelope.KindEvent, Flags: 5, ID: id, Session: ulid.ULID{1}, Seq: uint64(i) + 1,
			Key: 7, Sender: "spiffe://example.org/agent/feed-1", Card: ulid.ULID{2}, Recipient: "ledger.a", Count: 3,
		},
	}}
}

func testEntries(from, to int) []*Entry {
	list := make([]*Entry, 0, to-from)
	for i := from; i < to; i++ {
		list = append(list, testEntry(i))
	}
	return list
}

// eventOf returns an event with every field that its kind has.
func eventOf(kind Kind) *Entry {
	e := &Entry{Kind: kind, Logged: testEpoch}
	full := Event{
		First: 1, Last: 1 << 40, Hash: sha256.Sum256([]byte{byte(kind)}), Revision: 9, Agent: "spiffe://example.org/agent/feed-1",
		Card: ulid.ULID{2}, Channel: "topic/ledger", Key: 7, Time: testEpoch.Add(time.Nanosecond), Text: fmt.Sprintf("an event of kind %d", kind),
	}
	for bit := uint16(hasFirst); bit <= hasText; bit <<= 1 {
		if eventFields[kind]&bit != 0 {
			e.Event.take(&full, bit)
		}
	}
	return e
}
