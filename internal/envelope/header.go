package envelope

import (
	"encoding/binary"

	"github.com/oklog/ulid/v2"
	"golang.org/x/crypto/cryptobyte"
)

// Version is the only version of the format.
const Version = 1

// Flags of a frame. All other bits are zero.
const (
	FlagSigned    = 1 << 0 // a signature block follows the ciphertext
	FlagPadded    = 1 << 1 // the plaintext is padded to its Padmé size
	FlagCommitted = 1 << 2 // the header commits to each message

	knownFlags = FlagSigned | FlagPadded | FlagCommitted
)

// Kind is what a frame is for. The zero value is invalid. It stands in the
// associated data, so that a broker cannot play one kind as another.
type Kind uint8

// The kinds of frames. A reply, a result, a progress and an error answer the
// frame that ref names; an event, a request and a task answer nothing and have
// a ref of zero; a control may do either.
const (
	KindEvent    Kind = 1
	KindRequest  Kind = 2
	KindReply    Kind = 3
	KindTask     Kind = 4
	KindResult   Kind = 5
	KindProgress Kind = 6
	KindError    Kind = 7
	KindControl  Kind = 8
)

var kindNames = [...]string{
	"invalid", "event", "request", "reply", "task", "result", "progress", "error", "control",
}

// String returns the kind's name, "invalid" for one that is none.
func (k Kind) String() string {
	if !k.Valid() {
		return kindNames[0]
	}
	return kindNames[k]
}

// Valid reports whether k is one of the eight kinds.
func (k Kind) Valid() bool { return k >= KindEvent && k <= KindControl }

func (k Kind) answers() bool {
	return k == KindReply || k == KindResult || k == KindProgress || k == KindError
}

func (k Kind) asks() bool { return k == KindEvent || k == KindRequest || k == KindTask }

// Header is what everybody may read of a frame and nobody may change.
//
// In a parsed one, Channel, Sender and Recipient alias the frame's bytes.
type Header struct {
	Flags     uint8
	Kind      Kind
	ID        ulid.ULID      // of the frame, its nonce; never zero
	Ref       ulid.ULID      // the request or task that it answers, else zero
	Session   ulid.ULID      // never zero
	Seq       uint64         // 1, 2, 3 … within the session
	Expires   uint64         // Unix time in milliseconds; 0 is the channel's own limit
	Key       uint32         // id of the channel key
	Channel   []byte         // "topic/prices"
	Sender    []byte         // SPIFFE ID
	Card      ulid.ULID      // of the sender's instance; never zero
	Recipient []byte         // the subject without its prefix: "prices.eu.de"
	Count     uint16         // messages inside, 1 to MaxMessages
	Commit    [HashSize]byte // see [CommitRoot]; zero if not committed
}

// Signed, Padded and Committed report the flags.
func (h *Header) Signed() bool    { return h.Flags&FlagSigned != 0 }
func (h *Header) Padded() bool    { return h.Flags&FlagPadded != 0 }
func (h *Header) Committed() bool { return h.Flags&FlagCommitted != 0 }

// AppendHeader appends version, flags and the length-prefixed header to dst:
// what [Frame.Head] is in a parsed frame, at most [MaxHead] bytes. On error
// dst is returned as it was, with a [MalformedError].
func AppendHeader(dst []byte, h *Header) ([]byte, error) {
	if err := h.check(); err != nil {
		return dst, err
	}
	dst = append(dst, Version, h.Flags)
	dst = binary.BigEndian.AppendUint16(dst, uint16(h.size()))
	dst = append(dst, byte(h.Kind))
	dst = append(dst, h.ID[:]...)
	dst = append(dst, h.Ref[:]...)
	dst = append(dst, h.Session[:]...)
	dst = binary.BigEndian.AppendUint64(dst, h.Seq)
	dst = binary.BigEndian.AppendUint64(dst, h.Expires)
	dst = binary.BigEndian.AppendUint32(dst, h.Key)
	dst = appendUint8Prefixed(dst, h.Channel)
	dst = appendUint8Prefixed(dst, h.Sender)
	dst = append(dst, h.Card[:]...)
	dst = appendUint8Prefixed(dst, h.Recipient)
	dst = binary.BigEndian.AppendUint16(dst, h.Count)
	if h.Committed() {
		dst = append(dst, h.Commit[:]...)
	}
	return dst, nil
}

// size is the length of the header without what stands before it.
func (h *Header) size() int {
	n := fixedHeader + len(h.Channel) + len(h.Sender) + len(h.Recipient)
	if h.Committed() {
		n += HashSize
	}
	return n
}

// parseHead reads version, flags and header off the front of b and returns
// how long they are. The version decides first: a later one may have another
// layout altogether.
func (h *Header) parseHead(b []byte) (int, error) {
	s := cryptobyte.String(b)
	var version uint8
	if !s.ReadUint8(&version) {
		return 0, errFrameCut
	}
	if version != Version {
		return 0, errVersion
	}
	if !s.ReadUint8(&h.Flags) {
		return 0, errFrameCut
	}
	if h.Flags&^knownFlags != 0 {
		return 0, errFlags
	}
	var n uint16
	if !s.ReadUint16(&n) {
		return 0, errFrameCut
	}
	if int(n) > len(s) {
		return 0, errHeaderCut
	}
	if err := h.parseFields(s[:n]); err != nil {
		return 0, err
	}
	return headPrefix + int(n), h.check()
}

func (h *Header) parseFields(s cryptobyte.String) error {
	var lead []byte // what stands at fixed places
	var channel, sender, recipient cryptobyte.String
	if !s.ReadBytes(&lead, leadSize) ||
		!s.ReadUint8LengthPrefixed(&channel) ||
		!s.ReadUint8LengthPrefixed(&sender) ||
		!s.CopyBytes(h.Card[:]) ||
		!s.ReadUint8LengthPrefixed(&recipient) ||
		!s.ReadUint16(&h.Count) ||
		h.Committed() && !s.CopyBytes(h.Commit[:]) {
		return errHeaderCut
	}
	if !s.Empty() {
		return errHeaderTrailing
	}
	h.Channel, h.Sender, h.Recipient = clip(channel), clip(sender), clip(recipient)
	h.parseLead((*[leadSize]byte)(lead))
	return nil
}

func (h *Header) parseLead(b *[leadSize]byte) {
	const id, ref, session = 1, 1 + IDSize, 1 + 2*IDSize
	const seq = session + IDSize
	h.Kind = Kind(b[0])
	h.ID, h.Ref, h.Session = ulid.ULID(b[id:ref]), ulid.ULID(b[ref:session]), ulid.ULID(b[session:seq])
	h.Seq = binary.BigEndian.Uint64(b[seq:])
	h.Expires = binary.BigEndian.Uint64(b[seq+8:])
	h.Key = binary.BigEndian.Uint32(b[seq+16:])
}

// isZero is what [ulid.ULID.IsZero] is, in two instructions.
func isZero(id *ulid.ULID) bool { return *id == ulid.ULID{} }

// check holds for every header, appended or parsed. That one function decides
// on both sides is what keeps a sender from making what receivers refuse.
func (h *Header) check() error {
	switch {
	case h.Flags&^knownFlags != 0:
		return errFlags
	case !h.Kind.Valid():
		return errKind
	case isZero(&h.ID):
		return errID
	case h.Kind.answers() && isZero(&h.Ref):
		return errRefMissing
	case h.Kind.asks() && !isZero(&h.Ref):
		return errRefPresent
	case isZero(&h.Session):
		return errSession
	case h.Seq == 0:
		return errSeq
	case isZero(&h.Card):
		return errCard
	case h.Count == 0:
		return errCountZero
	case h.Count > MaxMessages:
		return errCountSize
	case h.Committed() && h.Commit == [HashSize]byte{}:
		return errCommitZero
	case !h.Committed() && h.Commit != [HashSize]byte{}:
		return errCommitPresent
	}
	return h.checkNames()
}

func (h *Header) checkNames() error {
	switch {
	case len(h.Channel) == 0:
		return errChannelEmpty
	case len(h.Channel) > MaxChannel:
		return errChannelSize
	case !only(h.Channel, charChannel):
		return errChannelChars
	case len(h.Sender) == 0:
		return errSenderEmpty
	case len(h.Sender) > MaxSender:
		return errSenderSize
	case !only(h.Sender, charSender):
		return errSenderChars
	case len(h.Recipient) == 0:
		return errRecipientEmpty
	case len(h.Recipient) > MaxRecipient:
		return errRecipientSize
	case !only(h.Recipient, charRecipient):
		return errRecipientChars
	case hasEmptyToken(h.Recipient):
		return errRecipientTokens
	}
	return nil
}

// clip takes away a slice's spare capacity, so that who appends to a parsed
// field does not write over what follows it on the wire.
func clip(b []byte) []byte { return b[:len(b):len(b)] }

// appendUint8Prefixed relies on check for b being at most 255 long.
func appendUint8Prefixed(dst, b []byte) []byte {
	dst = append(dst, byte(len(b)))
	return append(dst, b...)
}
