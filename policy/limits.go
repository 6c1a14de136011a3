package policy

import "time"

// Limits on what is parsed, checked before anything is allocated for it.
const (
	// MaxYAML is the size of a policy's text in bytes.
	MaxYAML = 128 << 10

	// MaxChannels is the number of topics, queues and services together.
	MaxChannels = 10_000

	// MaxPatterns is the number of names and globs in one list.
	MaxPatterns = 1_000

	// MaxDirect is the number of direct rules.
	MaxDirect = 1_000

	// MaxRevoked is the number of revoked agents.
	MaxRevoked = 10_000

	// MaxDestroyed is the number of channels of which a policy says that keys are destroyed.
	MaxDestroyed = 1_000

	// MaxOperators is the number of operator keys that a policy names.
	MaxOperators = 16

	// MaxRevision is the highest revision: the largest integer that every JSON and YAML reader holds exactly.
	MaxRevision = 1<<53 - 1

	// MaxProblems is how many problems an [Errors] lists.
	MaxProblems = 20

	// maxDepth is how deep a policy's YAML nests: direct, its list, a rule, a list of names, with room for error.
	maxDepth = 16
)

// Limits on names and subjects.
const (
	// MaxChannel is the length of a channel's text in bytes: "pair/" and two names of 63 bytes around a "~".
	MaxChannel = 5 + 63 + 1 + 63

	// MaxSubject is the length of a subject or pattern in bytes, without the prefix that it has on NATS.
	MaxSubject = 200

	// MaxTokens is the number of tokens between the dots of a subject or pattern.
	MaxTokens = 16

	// MaxCheckpoints is how many checkpoints of one log [AuditStream] keeps.
	MaxCheckpoints = 1_024

	// MaxCheckpoint is the size of a checkpoint in bytes, its NATS headers included.
	MaxCheckpoint = 16 << 10

	// MaxDelayID is the length of a delayed task's id in bytes.
	MaxDelayID = 64
)

// Ranges and defaults of the durations in a policy.
const (
	// DefaultMaxAge is how old a live message may be when it is opened, unless a topic sets max_age.
	DefaultMaxAge = 30 * time.Second
	// MinMaxAge and MaxMaxAge bound max_age. Clocks may differ by two seconds, and every receiver remembers what it
	// saw for this long.
	MinMaxAge = time.Second
	MaxMaxAge = 10 * time.Minute

	// DefaultRotate is how long a channel key is used to seal, unless the channel sets rotate.
	DefaultRotate = 24 * time.Hour
	// MinRotate and MaxRotate bound rotate.
	MinRotate = time.Minute
	MaxRotate = 90 * 24 * time.Hour

	// DefaultQueueRetain is how long a queue keeps settled tasks and results, unless it sets retain.
	DefaultQueueRetain = 7 * 24 * time.Hour
	// MinQueueRetain is the shortest retain of a queue: an enqueuer must have time to fetch a result.
	MinQueueRetain = time.Minute
	// MaxRetain is the longest retain: ten years.
	MaxRetain = 3650 * 24 * time.Hour

	// DefaultMaxCardAge is how long after it was sealed a kept frame of an expired card is believed, unless the policy
	// sets max_card_age.
	DefaultMaxCardAge = 7 * 24 * time.Hour
	// MinMaxCardAge and MaxMaxCardAge bound max_card_age. Whoever stole an expired card's key and owns the broker can
	// backdate a frame by as much.
	MinMaxCardAge = time.Hour
	MaxMaxCardAge = MaxRetain

	// MaxDelay is how far ahead a task may be due: ten years.
	MaxDelay = 3650 * 24 * time.Hour
)
