package keyring

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// NoteKind says what a SessionNote is about.
type NoteKind uint8

const (
	NoteOpen  NoteKind = iota + 1 // opens the session that it is in, and says how the one before ended
	NoteClose                     // closes it: no frame comes after
	NoteIdle                      // there is nothing else to say
	NoteVoid                      // numbers that the sender gave up
)

var noteNames = [...]string{NoteOpen: "open", NoteClose: "close", NoteIdle: "idle", NoteVoid: "void"}

// String returns "open", "close", "idle" or "void".
func (k NoteKind) String() string {
	if k == 0 || int(k) >= len(noteNames) {
		return fmt.Sprintf("NoteKind(%d)", uint8(k))
	}
	return noteNames[k]
}

// SessionNote is what a sender says of the numbers that it gives its frames, where a stream keeps them: so that whoever reads
// the stream can tell what never came there. It is the recipient of a frame of kind control whose one message is empty: so
// everybody can read it, and check its signature, without any key. The session that it is in, and its number there, are
// those of its frame.
type SessionNote struct {
	Kind NoteKind
	Name string // of the topic or queue

	// Of a NoteOpen: the sender's session before on this channel, zero if there was none; the number of its last frame, zero
	// where the sender does not know, because it was killed; and the leaf of that frame in a signature's tree, zero with it.
	Previous ulid.ULID
	Last     uint64
	Leaf     [envelope.HashSize]byte

	// Of a NoteVoid: numbers of a session of the same sender's that it gave up. Their frames may be stored or not.
	Session  ulid.ULID
	From, To uint64
}

// String returns the note as it travels, the one spelling that it has. Of one that breaks the rules it is "".
func (n *SessionNote) String() string {
	if n.check() != nil {
		return ""
	}
	switch n.Kind {
	case NoteOpen:
		before, leaf := noteNone, noteNone
		if !n.Previous.IsZero() {
			before = n.Previous.String()
		}
		if n.Last > 0 {
			leaf = hex.EncodeToString(n.Leaf[:])
		}
		return fmt.Sprintf("%s.open.%s.%d.%s", n.Name, before, n.Last, leaf)
	case NoteVoid:
		return fmt.Sprintf("%s.void.%s.%d.%d", n.Name, n.Session, n.From, n.To)
	}
	return n.Name + "." + n.Kind.String()
}

const noteNone = "none"

var errNote = errors.New("keyring: not a session note")

// check reports what no sender would say.
func (n *SessionNote) check() error {
	if err := identity.CheckName(n.Name); err != nil {
		return err
	}
	opens, voids := n.Kind == NoteOpen, n.Kind == NoteVoid
	none := [envelope.HashSize]byte{}
	switch {
	case n.Kind == 0 || int(n.Kind) >= len(noteNames),
		!opens && (!n.Previous.IsZero() || n.Last != 0 || n.Leaf != none),
		!voids && (!n.Session.IsZero() || n.From != 0 || n.To != 0),
		n.Previous.IsZero() && n.Last != 0, (n.Last == 0) != (n.Leaf == none), n.Last > SessionFrames,
		voids && (n.Session.IsZero() || n.From == 0 || n.From > n.To || n.To > SessionFrames):
		return errNote
	}
	return nil
}

// ParseSessionNote reads what SessionNote.String writes, and nothing else.
func ParseSessionNote(recipient string) (SessionNote, error) {
	if len(recipient) > envelope.MaxRecipient {
		return SessionNote{}, errNote
	}
	fields := strings.Split(recipient, ".")
	if len(fields) < 2 {
		return SessionNote{}, errNote
	}
	n := SessionNote{Name: fields[0]}
	var errs [3]error
	switch what := fields[2:]; {
	case fields[1] == noteNames[NoteOpen] && len(what) == 3:
		n.Kind = NoteOpen
		if what[0] != noteNone {
			n.Previous, errs[0] = ulid.ParseStrict(what[0])
		}
		n.Last, errs[1] = strconv.ParseUint(what[1], 10, 64)
		if what[2] != noteNone {
			errs[2] = n.setLeaf(what[2])
		}
	case fields[1] == noteNames[NoteVoid] && len(what) == 3:
		n.Kind = NoteVoid
		n.Session, errs[0] = ulid.ParseStrict(what[0])
		n.From, errs[1] = strconv.ParseUint(what[1], 10, 64)
		n.To, errs[2] = strconv.ParseUint(what[2], 10, 64)
	case fields[1] == noteNames[NoteClose] && len(what) == 0:
		n.Kind = NoteClose
	case fields[1] == noteNames[NoteIdle] && len(what) == 0:
		n.Kind = NoteIdle
	}
	if errors.Join(errs[:]...) != nil || n.String() != recipient { // any other spelling, and what breaks the rules
		return SessionNote{}, errNote
	}
	return n, nil
}

func (n *SessionNote) setLeaf(text string) error {
	if len(text) != 2*len(n.Leaf) {
		return errNote
	}
	_, err := hex.Decode(n.Leaf[:], []byte(text))
	return err
}

// isNote reports whether a frame claims to be a session note of its channel.
func isNote(f *envelope.Frame) bool {
	if f.Kind != envelope.KindControl || !f.Ref.IsZero() {
		return false
	}
	n, err := ParseSessionNote(string(f.Recipient))
	if err != nil {
		return false
	}
	ch, err := policy.ParseChannel(string(f.Channel))
	return err == nil && ch.Name() == n.Name && (ch.Kind() == policy.KindTopic || ch.Kind() == policy.KindQueue)
}

// notEmpty says what is wrong with the content of a session note; empty: nothing.
func notEmpty(messages []envelope.Message) string {
	if len(messages) != 1 || len(messages[0].Headers) > 0 || len(messages[0].Payload) > 0 {
		return "a session note with something in it"
	}
	return ""
}
