package broker

import (
	"time"

	"github.com/sealbus/sealbus/identity"
)

// MaxPayload is the size in bytes of the largest message that a client may
// send, its NATS headers included.
const MaxPayload = 1 << 20

const (
	// maxPending is how many bytes may wait for a client that reads too
	// slowly before it is disconnected. It also bounds the answer to one
	// batch read.
	maxPending = 32 << 20

	// writeDeadline is how long one write to a client may block before the
	// client is disconnected.
	writeDeadline = 10 * time.Second

	// tlsTimeout bounds the handshake of a client that has connected.
	tlsTimeout = 5 * time.Second

	// pingInterval and maxPings say when a silent client is given up: after
	// a minute and a half.
	pingInterval = 30 * time.Second
	maxPings     = 2

	// maxSubscriptions bounds the subscriptions of one connection.
	maxSubscriptions = 65_536

	// responseWait is how long STORE remembers where to send further parts
	// of an answer after the last one. It is short because an agent makes
	// the server remember one such place for every read that it asks for.
	responseWait = 10 * time.Second

	// duplicateWindow is how long a retained topic remembers message ids.
	duplicateWindow = 2 * time.Minute

	// shortestWindow is the shortest time for which the server lets a stream
	// remember message ids.
	shortestWindow = 100 * time.Millisecond

	// policyHistory is how many policies the bucket keeps. An auditor that
	// was away needs those that were in force meanwhile.
	policyHistory = 64

	// maxEntry bounds an entry of a bucket in bytes: a statement, and room
	// for NATS headers.
	maxEntry = identity.MaxStatement + 4<<10

	// maxControl bounds a control of a queue in bytes.
	maxControl = 64 << 10

	// maxPulls is how many workers' requests for tasks of one priority may
	// wait at a time.
	maxPulls = 16_384

	// maxHolding is how many requests to hold a task back are answered at a
	// time. Each waits for the disk.
	maxHolding = 256

	// maxInspecting is how many questions about queues are answered at a time.
	// Each makes some twenty requests to JetStream.
	maxInspecting = 8

	// maxQuestion bounds the body of such a question in bytes.
	maxQuestion = 256
	// maxRecurring is how many recurring tasks a queue has.
	maxRecurring = 256

	// maxTemplate bounds the template of a recurring task in bytes. It leaves
	// room for the headers with which it is stored and shown.
	maxTemplate = MaxPayload - 4<<10

	// trimInterval is how often the node looks for what its queues no longer
	// need.
	trimInterval = time.Minute

	// maxTrimmed is how many messages of a stream go at a time. While they
	// do, the stream takes no others.
	maxTrimmed = 1_000_000

	// resultSlack is how much older than the oldest task in the log a result
	// has to be before it goes: the two are written by streams whose clocks
	// may differ.
	resultSlack = time.Minute

	// maxStoredRetries is how often another node may get in between reading
	// and replacing the stored policy.
	maxStoredRetries = 8

	// apiTimeout bounds one request to JetStream where the caller's context
	// sets no deadline. A synced disk under load takes its time.
	apiTimeout = 30 * time.Second

	// stopTimeout bounds how long [ServeQueues] answers what had come before its end.
	stopTimeout = 5 * time.Second

	// healthTimeout bounds [Node.Healthy] likewise.
	healthTimeout = 5 * time.Second

	// credentialSize is the size in bytes of the secret that the node's own
	// connections show.
	credentialSize = 32
)
