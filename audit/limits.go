package audit

import "time"

// Limits, all in one place. Each is checked before anything of that size is allocated.
const (
	// MaxEntry is the longest encoded entry, in bytes. The longest frame entry has under 5 KiB, an event at most MaxText more
	// than a few names.
	MaxEntry = 16 << 10

	// MaxSubject is the longest NATS subject that an entry holds, in bytes: a server's longest control line. What somebody puts
	// into a stream past the rules has an entry too.
	MaxSubject = 4096

	// MaxText is the longest text of an event, in bytes: a stream's configuration, what was exported.
	MaxText = 8 << 10

	// MaxCheckpoint is the longest checkpoint with its signatures, in bytes: what the stream SB_AUDIT takes.
	MaxCheckpoint = 16 << 10

	// MaxProof is the longest proof, in bytes.
	MaxProof = 64 << 10

	// MaxStatement is the longest statement, in bytes (SPEC section 3).
	MaxStatement = 256 << 10

	// MaxData is the longest message of a stream that is exported, in bytes. Frames have at most 1 MiB.
	MaxData = 8 << 20

	// MaxDisclosure is the longest disclosure, in bytes: a frame, its messages once more, a few statements.
	MaxDisclosure = 8 << 20

	// MaxFindings is how many findings of a verdict are kept. All are counted.
	MaxFindings = 100

	maxName   = 255     // of an agent, a channel, a place
	maxEvents = 1 << 16 // kinds of events that there may ever be: a byte says which
)

// What verification allows for.
const (
	// DefaultFreshness is how old the last checkpoint may be where nothing else is asked for.
	DefaultFreshness = time.Hour

	// clockLead is how far apart two clocks may be (SPEC section 9.3).
	clockLead = 2 * time.Second

	// retainSlack is how much younger than its channel's retain a frame may be that is gone: the broker's clock and this
	// one's may differ, and a stream's limit has whole seconds.
	retainSlack = 2 * clockLead

	// overtaken is how long after a policy was logged a frame may still come that was sealed under the one before: what was
	// on its way.
	overtaken = time.Minute

	// holeGrace is how long a number of a session that goes on may be missing: its sender may yet send the frame again or
	// declare it void.
	holeGrace = 5 * time.Minute
)

// What a verification remembers at a time. None of it grows with the stream.
const (
	chunkFrames    = 512     // frames that are attested together
	chunkBytes     = 8 << 20 // of their data, unless one alone has more
	maxSessions    = 1 << 16 // sessions that are not complete
	maxPerInstance = 1 << 10 // of one running instance of a sender, so that none takes the place of others
	maxEnded       = 1 << 17 // sessions that are, with their last number
	maxRanges      = 1 << 10 // runs of numbers of one session
	maxMismatched  = 1 << 12 // frames that differ from their entries, until it is known whether they were moved
	maxIDs         = 1 << 16 // frames of sessions that are not counted, to find repeated ones
)

const (
	maxEras       = 1 << 14 // policies of one log
	maxEpochs     = 1 << 10 // times that a stream goes back
	maxBack       = 64      // policies before the one of a message that are asked
	progressEvery = 1 << 14 // entries or frames
)
