package envelope

import "errors"

var (
	// ErrMalformed is returned, inside a [MalformedError], when bytes are not
	// the one encoding of a frame, of messages or of a path, and when a value
	// has no encoding.
	ErrMalformed = errors.New("envelope: malformed")

	// ErrTooLarge is returned, inside a [MalformedError] and together with
	// [ErrMalformed], when a limit of this package is exceeded.
	ErrTooLarge = errors.New("envelope: too large")

	// ErrCommitment is returned by [VerifyCommit] when the message is well
	// formed and is not the one that the frame commits to.
	ErrCommitment = errors.New("envelope: the message is not what the frame commits to")
)

// MalformedError says which part is wrong and how. It never holds any of the
// bytes. Those from parsing are preallocated, so that a flood of bad frames
// costs its receiver no memory.
type MalformedError struct {
	Part     string // the field's name in the layout of the package comment, as "header seq"
	Problem  string // what is wrong with it, as "is zero"
	TooLarge bool   // whether a limit was exceeded
}

func (e *MalformedError) Error() string {
	return "envelope: " + e.Part + " " + e.Problem
}

// Is makes every MalformedError an [ErrMalformed], and one of an exceeded
// limit an [ErrTooLarge] too.
func (e *MalformedError) Is(target error) bool {
	return target == ErrMalformed || e.TooLarge && target == ErrTooLarge
}

// Preallocated because an attacker chooses how often they are returned.
var (
	errFrameSize     = &MalformedError{"frame", "is longer than 1 MiB", true}
	errFrameTrailing = &MalformedError{"frame", "goes on after its end", false}
	errVersion       = &MalformedError{"version", "is not 1", false}
	errFlags         = &MalformedError{"flags", "has bits set that this version does not know", false}
	errFrameCut      = &MalformedError{"frame", "ends within version, flags or the header's length", false}

	errHeaderCut       = &MalformedError{"header", "is shorter than its fields, or than its length says", false}
	errHeaderTrailing  = &MalformedError{"header", "goes on after its last field", false}
	errKind            = &MalformedError{"header kind", "is not one of the eight kinds", false}
	errID              = &MalformedError{"header id", "is zero", false}
	errRefMissing      = &MalformedError{"header ref", "is zero in a kind that answers something", false}
	errRefPresent      = &MalformedError{"header ref", "is not zero in a kind that answers nothing", false}
	errSession         = &MalformedError{"header session", "is zero", false}
	errSeq             = &MalformedError{"header seq", "is zero, but counts from 1", false}
	errChannelEmpty    = &MalformedError{"header channel", "is empty", false}
	errChannelSize     = &MalformedError{"header channel", "is longer than 136 bytes", true}
	errChannelChars    = &MalformedError{"header channel", "has characters other than a-z 0-9 _ - / ~", false}
	errSenderEmpty     = &MalformedError{"header sender", "is empty", false}
	errSenderSize      = &MalformedError{"header sender", "is longer than 255 bytes", true}
	errSenderChars     = &MalformedError{"header sender", "has characters other than a-z 0-9 _ - . : /", false}
	errCard            = &MalformedError{"header card", "is zero", false}
	errRecipientEmpty  = &MalformedError{"header recipient", "is empty", false}
	errRecipientSize   = &MalformedError{"header recipient", "is longer than 255 bytes", true}
	errRecipientChars  = &MalformedError{"header recipient", "has characters other than A-Z a-z 0-9 _ - .", false}
	errRecipientTokens = &MalformedError{"header recipient", "has an empty token: a dot at an end, or two in a row", false}
	errCountZero       = &MalformedError{"header count", "is zero", false}
	errCountSize       = &MalformedError{"header count", "is more than 4096", true}
	errCommitZero      = &MalformedError{"header commit", "is zero in a committed frame", false}
	errCommitPresent   = &MalformedError{"header commit", "is set in a frame that is not committed", false}

	errCiphertextCut   = &MalformedError{"ciphertext", "is shorter than its length says, or has no length", false}
	errCiphertextShort = &MalformedError{"ciphertext", "is shorter than an IV of 12 and a tag of 16 bytes", false}
	errCiphertextSize  = &MalformedError{"ciphertext", "is longer than 1032225 bytes", true}

	errSignatureMissing = &MalformedError{"signature", "is missing or cut short in a signed frame", false}
	errSignaturePresent = &MalformedError{"signature", "is there in a frame that is not signed", false}
	errSignatureDepth   = &MalformedError{"signature depth", "is more than 16", true}
	errSignatureIndex   = &MalformedError{"signature index", "has bits set beyond the depth", false}
	errSignatureSig     = &MalformedError{"signature sig", "is not 64 bytes long", false}
	errPath             = &MalformedError{"signature path", "is not 32 bytes for each level of the depth", false}

	errPlaintextSize    = &MalformedError{"plaintext", "is longer than 1008 KiB", true}
	errPlaintextCount   = &MalformedError{"plaintext", "is too short for the header's count of messages", false}
	errPlaintextTail    = &MalformedError{"plaintext", "goes on after the last message and is not padded", false}
	errPaddingSize      = &MalformedError{"padding", "does not end at the Padmé size", false}
	errPaddingZero      = &MalformedError{"padding", "is not all zero", false}
	errMessageCut       = &MalformedError{"message", "is shorter than its fields", false}
	errMessageID        = &MalformedError{"message id", "is zero", false}
	errMessageSalt      = &MalformedError{"message salt", "is zero", false}
	errHeadersSize      = &MalformedError{"message headers", "are more than 64", true}
	errHeadersBytes     = &MalformedError{"message headers", "take up more than 8 KiB", true}
	errHeaderKeyEmpty   = &MalformedError{"message header key", "is empty", false}
	errHeaderKeySize    = &MalformedError{"message header key", "is longer than 255 bytes", true}
	errHeaderKeyChars   = &MalformedError{"message header key", "has characters other than visible ASCII", false}
	errHeadersUnordered = &MalformedError{"message headers", "are not in strictly ascending order of their keys", false}
	errPayloadSize      = &MalformedError{"message payload", "is longer than 960 KiB", true}

	errLeavesNone   = &MalformedError{"tree", "has no leaves", false}
	errLeavesSize   = &MalformedError{"tree", "has more than 65536 leaves", true}
	errLeafIndex    = &MalformedError{"tree index", "is not that of a leaf", false}
	errNotCommitted = &MalformedError{"header commit", "is not there: the frame is not committed", false}
	errPathDepth    = &MalformedError{"path", "is not as long as the count of messages makes it", false}
)
