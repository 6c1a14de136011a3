package audit

import (
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
)

// Kind is what an entry is about. The zero value is invalid.
type Kind uint8

// The kinds of entries. All but KindFrame are events.
const (
	KindFrame     Kind = iota + 1 // a message of the stream
	KindOpened                    // the log begins
	KindResumed                   // the auditor goes on after it was away
	KindStill                     // nothing has come for a while; the stream ends where it did
	KindPolicy                    // a policy is in force from here on
	KindCard                      // a card that speaks for frames from here on
	KindKey                       // a channel key was made
	KindDestroyed                 // keys of the channel were destroyed by policy
	KindRevoked                   // an agent was revoked by policy
	KindConfig                    // the stream's configuration, at first and when it has changed
	KindPruned                    // the stream holds less than before, from its front
	KindGap                       // messages that were gone before they were logged
	KindReplayed                  // somebody has read the stream back
	KindExported                  // the log was exported
	KindClosed                    // the auditor stops in good order
	kindCount
)

var kindNames = [kindCount]string{
	"invalid", "frame", "opened", "resumed", "still", "policy", "card", "key", "destroyed", "revoked", "config", "pruned", "gap",
	"replayed", "exported", "closed",
}

// String returns the kind's name, "invalid" for one that is none.
func (k Kind) String() string {
	if k >= kindCount {
		return kindNames[0]
	}
	return kindNames[k]
}

// Entry is one leaf of a log: a frame or an event. Of the two fields Frame and Event the one that Kind does not ask for is
// zero.
type Entry struct {
	Kind   Kind
	Logged time.Time // by the auditor's clock, to the millisecond; never before the entry before
	Frame  Frame
	Event  Event
}

// Frame is what a log holds of a message in a stream: no payload, nothing that opens one.
type Frame struct {
	Sequence uint64    // in the stream
	Stored   time.Time // when the broker says it has stored it, to the nanosecond
	Subject  string    // on NATS
	Size     uint32    // of the data
	Data     [sha256.Size]byte

	// Outcome is what attesting the frame came to when it was logged: 0 if its sender has signed it and was entitled to.
	Outcome keyring.Reason

	// Header is what the frame's header says, zero if the data is no frame. It is proven only if Outcome is 0.
	Header Header
}

// Header is the part of a frame's header that a log holds.
type Header struct {
	Leaf      [envelope.HashSize]byte // of the frame (SPEC section 7.1)
	Kind      envelope.Kind
	Flags     uint8
	ID        ulid.ULID
	Ref       ulid.ULID
	Session   ulid.ULID
	Seq       uint64
	Key       uint32
	Sender    string // SPIFFE ID
	Card      ulid.ULID
	Recipient string
	Count     uint16
}

// IsZero reports whether there is no header: the data is no frame.
func (h *Header) IsZero() bool { return h.Kind == 0 }

// Event is what a log holds of something that happened. Which fields an event has depends on its kind; all others are
// zero.
//
//	opened     First Last Agent Card           what the stream holds; the auditor and its card
//	resumed    First Last Agent Card
//	still      First Last
//	policy     Last Hash Revision              the last message when it was adopted; the statement's hash
//	card       Hash Agent Card Time            the statement's hash; whose; until when it is valid
//	key        Hash Agent Card Channel Key Time  the statement's hash; its creator; when it was made
//	destroyed  Channel Time                    all of its keys that were made before
//	revoked    Last Agent Revision             the last message when it was; by name; by which policy
//	config     First Last Hash Time Text       of the text; when the stream was made; the configuration
//	pruned     First Last Time                 the messages that are gone; all of them were stored before
//	gap        First Last Text                 the messages that are not there; what the auditor knows of why
//	replayed   First Last Agent Text           which; who; how
//	exported   First Last Agent Text
//	closed     First Last
type Event struct {
	First, Last uint64 // sequences in the stream
	Hash        [sha256.Size]byte
	Revision    uint64
	Agent       string // SPIFFE ID; of a revoked agent the name
	Card        ulid.ULID
	Channel     string
	Key         uint32
	Time        time.Time // to the nanosecond
	Text        string
}

// Stored is a message as a stream holds it. Who yields one does not change Data afterwards.
type Stored struct {
	Sequence uint64
	Time     time.Time // when the broker says it has stored it
	Subject  string
	Data     []byte
}

// FrameEntry returns the entry for a message that was read from a stream: outcome is what attesting it came to, 0 if it was
// attested.
func FrameEntry(s *Stored, logged time.Time, outcome keyring.Reason) Entry {
	return Entry{Kind: KindFrame, Logged: logged, Frame: Frame{
		Sequence: s.Sequence, Stored: s.Time, Subject: s.Subject, Size: uint32(len(s.Data)), Data: sha256.Sum256(s.Data),
		Outcome: outcome, Header: HeaderOf(s.Data),
	}}
}

// HeaderOf returns what a log holds of a frame's header; zero if the data is no frame. Nothing of it is proven.
func HeaderOf(data []byte) Header {
	var f envelope.Frame
	if envelope.Parse(data, &f) != nil {
		return Header{}
	}
	return Header{
		Leaf: envelope.Leaf(f.Head, f.Ciphertext), Kind: f.Kind, Flags: f.Flags, ID: f.ID, Ref: f.Ref, Session: f.Session,
		Seq: f.Seq, Key: f.Key, Sender: string(f.Sender), Card: f.Card, Recipient: string(f.Recipient), Count: f.Count,
	}
}

// Sealed returns when the frame was sealed, by its sender's clock; zero if there is no header.
func (h *Header) Sealed() time.Time {
	if h.IsZero() {
		return time.Time{}
	}
	return time.UnixMilli(int64(h.ID.Time()))
}

// since returns when a message was stored, for how old it is: the broker's word, but not before its sender has sealed it.
func (f *Frame) since() time.Time {
	if sealed := f.Header.Sealed(); f.Outcome == 0 && sealed.After(f.Stored) {
		return sealed
	}
	return f.Stored
}

// String names the entry, for people.
func (e *Entry) String() string {
	if e.Kind != KindFrame {
		return e.Kind.String() + " at " + stamp(e.Logged)
	}
	return fmt.Sprintf("message %d on %s, logged %s", e.Frame.Sequence, e.Frame.Subject, stamp(e.Logged))
}

// stamp writes a time for people.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }
