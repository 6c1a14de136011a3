package policy

import "time"

// Subjects on which an agent asks the broker side about a queue. The answers are the broker's word.

const askPrefix = "sb.queue."

// What can be asked.
const (
	// AskInfo asks how a queue stands. The answer is a [QueueState] as JSON. It is for who may enqueue or work there.
	AskInfo = "info"

	// AskPurge asks for dead letters to be removed. The body is a [PurgeRequest] as JSON, the answer a [PurgeAnswer]. It
	// is for who may enqueue there.
	AskPurge = "purge"
)

// AskSubject returns the subject on which an agent asks something about a queue.
func AskSubject(queue, agent, what string) string {
	return askPrefix + queue + "." + agent + "." + what
}

// CutAskSubject takes an [AskSubject] apart; ok is false for every other subject.
func CutAskSubject(nats string) (queue, agent, what string, ok bool) {
	queue, agent, what, ok = cutAgent(nats, askPrefix)
	if !ok || what != AskInfo && what != AskPurge {
		return "", "", "", false
	}
	return queue, agent, what, true
}

// QueueState is how a queue stands, as the broker says. Tasks are counted in messages of the log.
type QueueState struct {
	Priorities [Priorities]PriorityState `json:"priorities"`
	Delayed    uint64                    `json:"delayed"` // wait for their time
	Log        StreamState               `json:"log"`
	Delays     StreamState               `json:"delays"`
	Dead       StreamState               `json:"dead"`
	Results    StreamState               `json:"results"`
	Controls   StreamState               `json:"controls"`
	Error      string                    `json:"error,omitempty"` // why there is nothing else
}

// PriorityState is how the tasks of one priority stand.
type PriorityState struct {
	Pending uint64    `json:"pending"` // no worker has them
	Out     uint64    `json:"out"`     // at workers, or waiting for another attempt
	Oldest  time.Time `json:"oldest"`  // when the broker stored the oldest that is not settled; zero: there is none
}

// StreamState is how full a stream is. A limit of zero is none.
type StreamState struct {
	Messages    uint64 `json:"messages"`
	Bytes       uint64 `json:"bytes"`
	MaxMessages uint64 `json:"max_messages"`
	MaxBytes    uint64 `json:"max_bytes"`
}

// PurgeRequest asks for one dead letter to be removed, or for all that there are.
type PurgeRequest struct {
	ID  string `json:"id,omitempty"`
	All bool   `json:"all,omitempty"`
}

// PurgeAnswer says how many dead letters went.
type PurgeAnswer struct {
	Purged uint64 `json:"purged"`
	Error  string `json:"error,omitempty"`
}
