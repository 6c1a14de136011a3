package agentbus

import (
	"time"

	"github.com/sealbus/sealbus/internal/envelope"
)

const (
	// MaxPayload is the longest payload of one message, in bytes.
	MaxPayload = envelope.MaxPayload

	// DefaultBuffer is how many opened messages wait for a subscription's handler.
	DefaultBuffer = 4096

	// DefaultConcurrency is how many requests Serve handles at once.
	DefaultConcurrency = 16

	// DefaultRequestTimeout bounds a request whose context has no deadline.
	DefaultRequestTimeout = 30 * time.Second

	arrivals        = 16384    // frames waiting to be opened, per subscription
	maxParked       = 1024     // frames waiting for a key or card, per subscription
	maxParkedBytes  = 16 << 20 // and what they take up
	maxParkedGroups = 64       // sessions that they belong to
	parkTimeout     = 5 * time.Second
	maxPending      = 65536 // requests waiting for their replies
	maxErrorText    = 1024  // bytes of a handler's error that the requester is told
	listBatch       = 256   // entries read from the store at once
	storeTimeout    = 5 * time.Second
	connectTimeout  = 10 * time.Second
	closeTimeout    = 30 * time.Second
	refreshTimeout  = 20 * time.Second
	renewEvery      = 5 * time.Second
	renewMargin     = 10 * time.Second
)
