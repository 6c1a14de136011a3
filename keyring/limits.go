package keyring

import (
	"time"

	"github.com/sealbus/sealbus/policy"
)

// Limits, all in one place. What is checked against them is checked before anything is allocated.
const (
	// MaxClockLead is how far ahead of this machine's clock a sender's may be.
	MaxClockLead = 2 * time.Second

	// MaxCardAge is how far back a frame may have been sealed whose sender's card has expired since, where the policy has
	// no max_card_age.
	MaxCardAge = policy.DefaultMaxCardAge

	// lapsedCardLife is how long an expired card is relied on until the store, and the authorities of the trust domain, are
	// asked again.
	lapsedCardLife = time.Hour

	// renewalPatience is how long after a frame its sender may take to publish the card that it was sealed under, renewed.
	renewalPatience = time.Minute

	// What a Witness keeps.
	maxPastPolicies = 4096  // that it believes
	maxUnvouched    = 64    // policies that it does not believe, in case that changes
	maxPastCards    = 65536 // with different keys
	maxSameCard     = 8     // of one agent with one id and different keys

	// MaxPseudonymValue is the longest value of Ring.Pseudonyms, in bytes.
	MaxPseudonymValue = 1024

	// SessionFrames and SessionLife bound one sender's session: after either a new session, and so a
	// new AES-GCM key, begins. 2^31 frames stay far below the 2^32 random nonces that NIST SP 800-38D
	// (section 8.3) allows under one key.
	SessionFrames = 1 << 31
	SessionLife   = time.Hour

	// MaxUnderWay is how far a number of a counted session may be above one of which it is not known yet whether its frame is
	// stored. So of a sender that was killed, no number is missing that is further below those that were stored.
	MaxUnderWay = 4096

	// MaxUnproven is how far below the highest number that is stored of a counted session a number can be missing without anybody being
	// to blame: where the sender was killed before it could say that it had given it up. It follows from MaxUnderWay, which bounds
	// how far a number is above one that is given up, that one's void note above it, and others above that.
	MaxUnproven = 3 * MaxUnderWay

	// MaxCounted and MaxNotes are how many bundles are sealed together on a counted channel, and how many session notes with them.
	MaxCounted = 1024
	MaxNotes   = 488

	maxVoidSessions = 1024 // sessions of which numbers wait to be said to be void
	maxEnds         = 64   // sessions of which it is not known that their ends have been said

	// windowBits is the width of the sliding replay window of a session, in frames.
	windowBits = 1024

	// maxSessions bounds the sender sessions that one Receiver remembers. Past it, sessions whose
	// frames are all past the live window are forgotten first; if none are, new ones are refused.
	maxSessions  = 16384
	pruneEvery   = time.Second
	maxStored    = 1024 // sessions that a StoredReceiver remembers
	maxPerSender = 1024 // of one sender, all its instances together

	// What is kept to be used again: one large frame, or one signature over very many, is not to hold on to its
	// memory for ever.
	maxKeptFrame  = 512 << 10 // bytes
	maxKeptLeaves = 4096

	maxCards        = 8192 // verified cards kept
	maxRoots        = 2048 // verified signature roots kept, in two generations
	maxKeysPerChan  = 256  // channel keys kept per channel
	maxPerCreator   = 64   // key statements, and wraps that wait for theirs, kept per author and channel
	maxPerName      = 256  // joins kept per agent name and channel: one for each running instance
	maxJoins        = 16384
	maxEntry        = 16 << 10 // bytes of an entry of the store; a wrap, the largest, takes less than 5 KiB
	maxEvents       = 65536    // entries of the store waiting to be looked at, per channel
	maxEarlier      = 8        // policies before the one in force that are remembered
	maxStateFile    = 64 << 20
	maxPassphrase   = 1024
	argonTime       = 3         // RFC 9106, section 4, second recommended option
	argonMemory     = 64 * 1024 // KiB
	argonThreads    = 4
	ceilingAhead    = 2 * time.Second
	wrapWorkers     = 8
	joinStep        = 20 * time.Millisecond // between the answers of readers of different rank
	joinRanks       = 8
	askPatience     = 500 * time.Millisecond
	seekInterval    = 10 * time.Second // before asking again for the keys of frames that were kept, twice as long each time
	maxSeekInterval = 5 * time.Minute
	readerPatience  = 250 * time.Millisecond
	writerPatience  = 2 * time.Second
	patiencePerJoin = 2 * time.Millisecond
	maxPatience     = 10 * time.Second
	storeTimeout    = 5 * time.Second
)
