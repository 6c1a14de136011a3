package envelope

// Fixed sizes, in bytes.
const (
	IDSize        = 16 // a ULID
	HashSize      = 32 // SHA-256
	SaltSize      = 16 // a committed message's salt
	SignatureSize = 64 // Ed25519
)

// Limits on what is encoded and on what is parsed. Sizes are in bytes. Each is
// checked before anything of that length is copied or allocated.
const (
	// MaxFrame is the longest frame that is parsed: max_payload of a NATS
	// server in its default configuration. What this package appends stays at
	// least 14 KiB below, because NATS counts a message's headers as well.
	MaxFrame = 1 << 20

	// MaxPlaintext is the longest sealed content, padding included. It is a
	// Padmé size itself, so whatever fits unpadded fits padded too.
	MaxPlaintext = 1008 << 10

	// MinCiphertext is what AES-GCM adds: an IV of 12 and a tag of 16.
	MinCiphertext = 12 + 16

	// MaxCiphertext leaves room for Tink's key prefix of 5.
	MaxCiphertext = MaxPlaintext + 5 + MinCiphertext

	// MaxChannel holds the longest channel name there is, a pair of two names
	// of 63.
	MaxChannel = 136

	// MaxSender and MaxRecipient are what a length of one byte can say.
	MaxSender    = 255
	MaxRecipient = 255

	// MaxMessages is the most messages in one frame.
	MaxMessages = 4096

	// MaxPayload is the longest payload of one message.
	MaxPayload = 960 << 10

	// MaxHeaders is the most headers of one message.
	MaxHeaders = 64

	// MaxHeaderBytes is the most that all headers of one message take up as
	// encoded, their lengths included.
	MaxHeaderBytes = 8 << 10

	// MaxHeaderKey is what a length of one byte can say.
	MaxHeaderKey = 255

	// MaxDepth is the depth of the deepest Merkle path: 65536 leaves.
	MaxDepth = 16

	// maxGathering is how much memory a [Gathering] keeps when it is emptied,
	// so that one large message does not hold on to it for ever.
	maxGathering = 512 << 10

	// pairsAtOnce is how many headers of a parsed plaintext are allocated
	// together: 6 KiB of them.
	pairsAtOnce = 128

	// MaxLeaves is the most leaves of one tree.
	MaxLeaves = 1 << MaxDepth
)

// Sizes that follow from the layout, in bytes.
const (
	// leadSize is kind, id, ref, session, seq, expires and key.
	leadSize = 1 + 3*IDSize + 8 + 8 + 4

	// and with it card, count and the lengths of channel, sender and recipient
	fixedHeader = leadSize + IDSize + 2 + 3

	// headPrefix is version, flags and the header's length.
	headPrefix = 1 + 1 + 2

	// MaxHead is the longest [Frame.Head].
	MaxHead = headPrefix + fixedHeader + MaxChannel + MaxSender + MaxRecipient + HashSize

	// MaxSignatureBlock is the longest signature block.
	MaxSignatureBlock = 1 + 2 + MaxDepth*HashSize + 2 + SignatureSize

	// minMessage is a message with no headers and an empty payload.
	minMessage = IDSize + 2 + 4

	minHeaderPair = 1 + 1 + 2
)

// The longest frame that can be appended, with room for the headers that NATS
// counts as part of a message. It does not compile if that does not fit.
const _ = uint(MaxFrame - 14<<10 - (MaxHead + 4 + MaxCiphertext + MaxSignatureBlock))

// A single message of the longest payload and headers fits into a frame.
const _ = uint(MaxPlaintext - (minMessage + SaltSize + MaxHeaderBytes + MaxPayload))
