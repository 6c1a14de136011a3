// Package envelope is the bytes of a Sealbus frame: what travels as the data of
// one NATS message. It appends, parses and hashes. It holds no keys, does no
// encryption and no I/O.
//
// # Layout
//
// Integers are big-endian. "u8 ‖ x" is x with its length in one byte before
// it, "u16 ‖ x" and "u32 ‖ x" likewise; [n] is n bytes.
//
//	frame       = version flags (u16 ‖ header) (u32 ‖ ciphertext) [signature]
//	version     = u8                    1
//	flags       = u8                    1 signed, 2 padded, 4 committed; others 0
//	header      = kind id ref session seq expires key (u8 ‖ channel)
//	              (u8 ‖ sender) card (u8 ‖ recipient) count [commit]
//	  kind      = u8                    1 event, 2 request, 3 reply, 4 task,
//	                                    5 result, 6 progress, 7 error, 8 control
//	  id        = [16]                  ULID of the frame, not zero
//	  ref       = [16]                  the frame that this one answers: not zero
//	                                    in reply, result, progress and error;
//	                                    zero in event, request and task
//	  session   = [16]                  ULID, not zero
//	  seq       = u64                   from 1
//	  expires   = u64                   Unix time in ms; 0 is the channel's limit
//	  key       = u32                   id of the channel key
//	  channel   = 1 to 136 of a-z 0-9 _ - / ~
//	  sender    = 1 to 255 of a-z 0-9 _ - . : /
//	  card      = [16]                  ULID, not zero
//	  recipient = 1 to 255: tokens of A-Z a-z 0-9 _ - with single dots between
//	  count     = u16                   messages inside, 1 to 4096
//	  commit    = [32]                  only if committed; not zero
//	ciphertext  = 28 to 1032225 bytes
//	signature   = depth index path (u16 ‖ sig)     only if signed
//	  depth     = u8                    0 to 16
//	  index     = u16                   below 2^depth
//	  path      = depth × [32]
//	  sig       = [64]
//
//	plaintext   = count × message [zeros]
//	message     = id [salt] headers (u32 ‖ payload)
//	  id        = [16]                  ULID, not zero
//	  salt      = [16]                  only if committed; not zero
//	  headers   = u16 × ((u8 ‖ key) (u16 ‖ value))
//	                                    at most 64, at most 8 KiB without the
//	                                    u16; keys of visible ASCII, not empty,
//	                                    in strictly ascending order of bytes
//	  payload   = 0 to 960 KiB
//	zeros       = only if padded: up to the Padmé size, see [PadmeSize]
//
// A frame is at most 1 MiB, a plaintext at most 1008 KiB. Nothing follows the
// last field of anything. So there is exactly one encoding of every frame and
// of every list of messages: what parses, encodes to the same bytes, and
// whatever else arrives is refused with a [MalformedError].
//
// # What is authenticated
//
//	associated data = "sealbus/v1 frame" ‖ version flags (u16 ‖ header)
//	leaf            = SHA-256(0x00 ‖ associated data ‖ ciphertext)
//	node            = SHA-256(0x01 ‖ left ‖ right)
//	signed          = "sealbus/v1 root" ‖ (u16 ‖ sender) (u16 ‖ card)
//	                  (u16 ‖ channel) (u16 ‖ session) (u16 ‖ depth) (u16 ‖ root)
//
// One signature covers up to 65536 frames of a session: the leaves of a tree,
// filled up with SHA-256(0x02) to a power of two. A frame brings the path from
// its leaf to the root. Leaves and nodes begin with bytes of their own, after
// RFC 6962, section 2.1, so that neither is taken for the other.
//
// # Showing one message to a third party
//
//	commit = root over SHA-256("sealbus/v1 message" ‖ salt ‖ message without salt)
//
// The commit of a committed frame is the root of a second tree, over its
// messages, filled up in the same way. Whoever holds the signed frame and is
// shown one message, its salt, its index and its path, can check with
// [VerifyCommit] that the sender sent it; the salts keep the other messages,
// even short ones, unguessable.
//
// # Memory
//
// Parsing aliases its input and allocates nothing, except for the headers of
// messages that have some. Appending allocates only to grow the caller's slice;
// a [Gathering] has one of its own, for messages that come one by one. The
// directory testdata/vectors holds frames, plaintexts and trees for testing
// other implementations.
package envelope
