package agentbus

import (
	"math/rand/v2"
	"time"

	"github.com/sealbus/sealbus/internal/envelope"
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

	maxTaskBatch      = 1000    // tasks that are stored together: what the broker takes in one atomic batch
	maxTaskBatchBytes = 8 << 20 // and what they take up
	maxLast           = 1024    // entries that are looked up at once
	maxLookUp         = 32      // results that are looked up at once: each may be of MaxPayload bytes, and the broker's answer ends at 32 MiB

	fewTasks     = 32 // tasks that are stored one by one rather than in an atomic batch
	maxDeposits  = 16 // delayed tasks that are left with the broker at a time
	maxWeight    = 1000
	maxPrefetch  = 512                    // tasks waiting at a worker
	prefetchTime = 200 * time.Millisecond // and how long it takes to work on them, about
	firstPace    = 100 * time.Millisecond // of a handler, before one has run
	keepEvery    = time.Second            // a worker looks after its leases
	pullSlack    = 2 * time.Second        // after which the answer to a pull is given up
	lookPause    = time.Second            // before a task comes again whose result could not be looked up
	keyPause     = 2 * time.Second        // or whose key is not there
	holdTime     = 2 * time.Second        // before its time a task may wait at a worker

	maxNewest   = 4096           // recurring tasks of a queue of which a worker remembers the newest template
	lateTick    = time.Hour      // after which a tick is let go of that a later one has followed
	lateAttempt = 24 * time.Hour // and one that has been tried before
	listNames   = 1024           // recurring tasks that a list has

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
