package agentbus

import (
	"math/rand/v2"
	"time"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

const (
	// MaxPayload is the longest payload of one message, in bytes.
	MaxPayload = envelope.MaxPayload

	// DefaultBuffer is how many opened messages wait for a subscription's handler.
	DefaultBuffer = 65536

	// DefaultConcurrency is how many requests Serve handles at once.
	DefaultConcurrency = 16

	// DefaultRequestTimeout bounds a call whose context has no deadline.
	DefaultRequestTimeout = 30 * time.Second

	// DefaultPriority is the priority of a task that is given none.
	DefaultPriority = 2

	// DefaultMaxAttempts is how often a task is tried.
	DefaultMaxAttempts = 10

	// DefaultBackoff and DefaultMaxBackoff are how long to wait after the first failed attempt of a task, and at most.
	DefaultBackoff    = time.Second
	DefaultMaxBackoff = 10 * time.Minute

	// MaxProgress is the longest progress of a task, in bytes.
	MaxProgress = 4 << 10

	maxProgressFrame = MaxProgress + 4<<10   // sealed, padded and signed
	maxFollowed      = 64                    // frames that wait for who follows a task
	progressPause    = 50 * time.Millisecond // between what a worker sends of its tasks' progress
	progressAgain    = 2 * time.Second       // and after which it says the newest once more

	notesAtOnce    = 64               // attempts that are looked up at once
	presenceEvery  = 10 * time.Second // a worker says that it lives
	presenceStale  = 3                // times that, after which it does not count as alive
	maxSigns       = 1 << 14          // signs of life that are looked at, junk among them
	maxSignFetches = 64               // for which a key or card is fetched
	signTimeout    = 2 * time.Second  // and for how long
	maxAnswer      = 64 << 10         // bytes of the broker's answer about a queue

	maxTaskBatch      = 1000    // tasks that are stored together: what the broker takes in one atomic batch
	maxTaskBatchBytes = 8 << 20 // and what they take up
	maxBatchErrors    = 16      // delayed tasks of a batch of which it is said why they are not stored
	maxLast           = 1024    // entries that are looked up at once
	maxLookUp         = 32      // results that are looked up at once: each may be of MaxPayload bytes, and the broker's answer ends at 32 MiB

	maxShared      = 16       // tasks in one message of a queue's log
	maxSharedBytes = 16 << 10 // and what they take up
	regroupPart    = 4        // of the time that a batch of tasks has taken, the next is waited for
	lingerPart     = 2        // and of the time that a batch of results has taken, where there are
	manyResults    = 32       // that many more by then, until there are
	lingerFor      = 4        // times as many

	fewTasks     = 32 // tasks that are stored one by one rather than in an atomic batch
	maxDeposits  = 16 // delayed tasks that are left with the broker at a time
	maxWeight    = 1000
	maxPrefetch  = 512                    // tasks waiting at a worker
	maxPull      = 64                     // messages that are asked for at once
	waryTime     = time.Minute            // after an empty message they are asked for one by one
	prefetchTime = 200 * time.Millisecond // and how long it takes to work on them, about
	firstPace    = time.Second            // of a handler, before one has run
	shareAfter   = time.Second            // that a task has waited at a worker for a handler, it goes back
	keepEvery    = time.Second            // a worker looks after its leases
	pullPause    = 20 * time.Millisecond  // before a pull that was refused is tried again
	pullSlack    = 2 * time.Second        // after which the answer to a pull is given up
	lookPause    = time.Second            // before a task comes again whose result could not be looked up
	keyPause     = 2 * time.Second        // or whose key is not there
	maxAhead     = time.Minute            // or whose time is ahead of the clock, at most
	holdTime     = 2 * time.Second        // before its time a task may wait at a worker

	maxUniqueKey   = keyring.MaxPseudonymValue
	maxClaimReads  = 16                     // hashes of one unique key that are looked up at a time
	claimPatience  = time.Second            // for the card or key that what stands under a claim needs
	maxReason      = maxErrorText           // bytes of why a task is cancelled
	maxRunning     = 1024                   // tasks of a queue under QueueLimits.Running
	minEvery       = time.Microsecond       // between two starts under QueueLimits.PerSecond
	maxEvery       = 24 * time.Hour         // and at most
	maxCancelled   = 4096                   // cancelled tasks of a queue that a worker remembers; for others it asks the broker
	maxControllers = 1024                   // agents whose pauses and limits it remembers
	maxOrders      = 1024                   // controls that have come and wait to be opened
	maxOrderWaits  = 16                     // that wait for a key or a card
	maxRefused     = 1024                   // that were rejected, and are not looked at again
	ordersEvery    = 30 * time.Second       // a worker reads what the broker has of them
	maxSlotAgent   = 63                     // bytes of an agent's name
	slotTerm       = policy.TaskAckWait     // for which a slot is held; so that it is lost with the leases, and not before
	maxSlotTerm    = 5 * time.Minute        // that a slot may say
	slotLinger     = 50 * time.Millisecond  // that a slot is kept while nothing is to run
	slotPause      = 10 * time.Millisecond  // at most before a slot is tried for again that another was faster to write
	slotTries      = 4                      // at a time
	rateSpan       = 100 * time.Millisecond // of starts that are reserved at once
	startLate      = time.Second            // after its time, a start that was reserved is lost
	maxNewest      = 4096                   // recurring tasks of a queue of which a worker remembers the newest template
	lateTick       = time.Hour              // after which a tick is let go of that a later one has followed
	lateAttempt    = 24 * time.Hour         // and one that has been tried before
	listNames      = 1024                   // recurring tasks that a list has

	maxAttempts = 1000
	maxTaskKind = 64
	maxTaskTime = 366 * 24 * time.Hour
	maxMillis   = 1 << 53

	frameBytes       = 128 << 10 // plaintext of a frame that holds several messages
	maxGathered      = 16384     // messages of one topic that wait while others are sealed and sent
	maxGatheredBytes = 512 << 10 // and what they take up
	maxFrames        = 512       // frames that they make, each to another subject or with another expiry; an atomic batch has at most 1,000

	maxKeptFrame = 64 << 10 // bytes of memory kept for a frame that is sealed alone

	openFrames    = 64       // frames unsealed together
	openWork      = 1 << 20  // and what that costs, in bytes of a seal
	keptSlots     = 4        // frames whose memory is kept until the next come
	openAlone     = 32 << 10 // below which it is done by one goroutine
	signatureWork = 48 << 10 // what a signature costs

	messageBlock = 64 // messages of a frame that are made for a handler at once

	maxBuffered     = 64 << 20 // bytes of opened messages waiting for a subscription's handler
	wireBuffer      = 4096     // frames between nats.go and the inlet, which empties it at once
	maxWaiting      = 65536    // frames waiting to be opened, per subscription
	maxWaitingBytes = 64 << 20 // and what they take up
	maxParked       = 8192     // frames waiting for a key or card, per subscription
	maxParkedBytes  = 16 << 20 // and what they take up
	maxParkedGroups = 64       // sessions that they belong to
	maxSenders      = 4096     // senders whose newest session is remembered, per subscription
	maxRefusals     = 256      // requests waiting to be told that the responder is overloaded
	parkTimeout     = 5 * time.Second
	drainWait       = time.Second            // that Stop waits for keys
	orderWait       = 500 * time.Millisecond // that a sender's session waits for the one before it
	cardPause       = 50 * time.Millisecond  // between looks for a card that has expired
	maxPending      = 65536                  // requests waiting for their replies
	maxErrorText    = 1024                   // bytes of a handler's error that the requester is told
	listBatch       = 256                    // entries read from the store at once
	maxListed       = 1 << 17                // and in all
	reconnectBuffer = 8 << 20                // bytes that wait for a connection
	storeTimeout    = 5 * time.Second
	connectTimeout  = 10 * time.Second
	closeTimeout    = 30 * time.Second
	endTimeout      = 2 * time.Second // for the last words to the broker
	refreshTimeout  = 20 * time.Second
	renewEvery      = 5 * time.Second
	pingInterval    = 20 * time.Second // a broker that died without a word is noticed after maxPings of them
	maxPings        = 2
	minReconnect    = 100 * time.Millisecond
	maxReconnect    = 3 * time.Second
)

// reconnectDelay is how long to wait after the n-th time that no broker could be reached: it doubles, and half of
// it is random, so that a thousand agents do not come back in the same moment.
func reconnectDelay(n int) time.Duration {
	d := min(minReconnect<<min(n-1, 10), maxReconnect)
	return d/2 + rand.N(d/2+1) // no secret
}
