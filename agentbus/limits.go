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

	// DefaultAuditEvery is after how many messages an auditor signs a checkpoint, and DefaultAuditInterval after what
	// time if anything has come.
	DefaultAuditEvery    = 1000
	DefaultAuditInterval = 10 * time.Second

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

	auditPoll       = 250 * time.Millisecond // between looks at a stream that holds nothing new
	auditStill      = 10 * time.Minute       // after which a log without anything new says so
	auditPatience   = 30 * time.Second       // for which nothing is said of checkpoints that the broker does not take
	auditRetry      = time.Second            // before what has failed is tried again
	auditCardTries  = 4                      // looks for a card that is not there
	auditCardPause  = time.Second            // before it is looked for again
	maxAuditMisses  = 32                     // cards that are waited for
	auditMissesIn   = 10 * time.Second       // in such a time
	maxAuditCards   = 1 << 14                // cards that are remembered as the store has them
	maxAuditKeys    = 1 << 16                // key ids of a log that are remembered as looked for
	auditKeyPause   = time.Second            // before key statements are read again
	auditLate       = time.Minute            // a policy that was put in force longer ago is logged at once
	auditSlack      = 4 * time.Second        // that clocks may differ, and a stream's limit
	auditRefresh    = time.Second            // before policies are read again for a frame that none of them allows
	auditOvertaken  = time.Minute            // after a policy that a frame may still come which was on its way (SPEC section 13)
	auditLead       = 2 * time.Second        // that two clocks may differ (SPEC section 9.3)
	maxAuditOther   = 4 << 10                // bytes of what else there is to say of a stream's configuration
	maxAuditNotes   = 64                     // checkpoints that wait to be kept elsewhere
	maxAuditRemarks = 1024                   // entries about an agent's own doings that wait to be logged
	maxAuditEras    = 64                     // policies of a log that are asked of a frame which the last one does not allow

	maxReplayBatch      = 2048                                                // messages that are read back at once
	replayBytes         = 2 << 20                                             // and what they take up, the last one apart
	maxFrameBytes       = envelope.MaxFrame                                   // which can be as large as this
	pagesAhead          = 2                                                   // such pages that wait for a loop
	pieceFrames         = 64                                                  // frames that one goroutine opens
	pieceWork           = 256 << 10                                           // and what that costs, in bytes of a seal
	frameWork           = 4 << 10                                             // what each costs besides
	piecesAhead         = (pagesAhead + 2) * (maxReplayBatch/pieceFrames + 1) // pieces that wait to be opened
	sparePieces         = 32                                                  // of which the memory is used again
	maxHistoryBytes     = 16 << 20                                            // of results and letters that are looked up ahead of a loop
	maxSeenRuns         = 16384                                               // runs of recurring tasks that it remembers, and as many from before
	maxReadSessions     = 16384                                               // sessions of which a replay remembers what it has read
	maxReadSpans        = 64                                                  // pieces that such a session may be in
	maxReplayWaits      = 1024                                                // keys and cards that a replay waits for
	replayPatience      = 5 * time.Second                                     // at most so long for each
	replayPatienceAll   = 6                                                   // times as long for all that do not come, after which
	replayPatienceLeast = 20 * time.Millisecond                               // for each
	maxLastLooks        = 64                                                  // for the last message of a stream with holes
	progressEvery       = time.Second                                         // a replay says how far it is
	followPause         = 5 * time.Millisecond                                // after which a replay looks for more at the end, twice as long each time
	followIdle          = 100 * time.Millisecond                              // until it listens as well
	followMost          = time.Second                                         // and at most
	maxPaceGap          = 100 * 365 * 24 * time.Hour                          // between two messages
	maxPaceLate         = time.Second                                         // that a slow loop may catch up with

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
	ackPatience     = 10 * time.Second       // for an acknowledgement, before what it is for is sent again
	orderWait       = 500 * time.Millisecond // that a sender's session waits for the one before it
	cardPause       = 50 * time.Millisecond  // between looks for a card that has expired
	maxPending      = 65536                  // requests waiting for their replies
	maxErrorText    = 1024                   // bytes of a handler's error that the requester is told
	idleAfter       = time.Minute            // without a message on a channel that is kept, a sender says how many there were
	idleEvery       = 10 * time.Minute       // and again
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
