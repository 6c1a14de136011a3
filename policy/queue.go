package policy

import (
	"fmt"
	"strings"
	"time"
)

// Priorities is the number of priorities that a task can have, from 0, the most urgent, to 3.
const Priorities = 4

// How the durable consumers of a queue hand out tasks. Workers rely on it, so it is one for all queues.
const (
	// TaskAckWait is how long a worker has a task to itself. It is handed out again afterwards, unless the worker
	// has settled it or said, in time, that it is still at work.
	TaskAckWait = 30 * time.Second

	// MaxTasksOut is how many tasks of a priority are out at workers at a time; further ones wait.
	MaxTasksOut = 8192

	// MaxPullWait is the longest that one pull may wait for tasks. A longer one is refused, because the broker
	// remembers for little more than this where the answers to a request go.
	MaxPullWait = 8 * time.Second
)

// Prefixes of a queue's subjects on NATS.
const (
	taskPrefix     = "sb.task."
	resultPrefix   = "sb.result."
	deadPrefix     = "sb.dead."
	progressPrefix = "sb.progress."
	controlPrefix  = "sb.control."
	delayPrefix    = "sb.delay."
	heldPrefix     = "sb.held."
	duePrefix      = "sb.due."
	spreadPrefix   = "sb.spread."
	slotPrefix     = "sb.slot."
)

// Streams of a queue.

// TaskStream returns the name of the stream that is a queue's log of tasks.
func TaskStream(queue string) string { return "SB_TASK_" + queue }

// ResultStream returns the name of the stream that records one result for each task of a queue.
func ResultStream(queue string) string { return "SB_RESULT_" + queue }

// DeadStream returns the name of the stream that keeps what became of the tasks which were given up.
func DeadStream(queue string) string { return "SB_DEAD_" + queue }

// ControlStream returns the name of the stream that holds the last word on each of a queue's controls.
func ControlStream(queue string) string { return "SB_CONTROL_" + queue }

// DelayStream returns the name of the stream in which a queue's delayed tasks wait.
func DelayStream(queue string) string { return "SB_DELAY_" + queue }

// TaskConsumer returns the name of the durable consumer that hands out a queue's tasks of one priority.
func TaskConsumer(priority int) string { return fmt.Sprintf("p%d", priority) }

// Subjects that agents use.

// TaskSubject returns the subject that puts a task into a queue. The priority is one of the [Priorities].
func TaskSubject(queue string, priority int) string {
	return fmt.Sprintf("%s%s.%d", taskPrefix, queue, priority)
}

// SpreadSubject returns the subject on which a worker puts tasks back that came to it in one message, each in a message
// of its own.
func SpreadSubject(queue string, priority int) string {
	return fmt.Sprintf("%s%s.%d", spreadPrefix, queue, priority)
}

// ResultSubject returns the subject that records a task's result. The task is given by its id, a ULID's text.
func ResultSubject(queue, task string) string { return resultPrefix + queue + "." + task }

// DeadSubject returns the subject that records that a task was given up.
func DeadSubject(queue, task string) string { return deadPrefix + queue + "." + task }

// ProgressSubject returns the subject of live news of a task; nothing keeps it.
func ProgressSubject(queue, task string) string { return progressPrefix + queue + "." + task }

// ControlSubject returns the subject of one of an agent's controls of a queue. What it controls is one token or more.
// The last message under each subject is kept.
func ControlSubject(queue, agent, what string) string {
	return controlPrefix + queue + "." + agent + "." + what
}

// Controls that an agent has one of, by which enqueuers steer a queue's workers.
const (
	// ControlPause is the control that says whether the queue is paused.
	ControlPause = "pause"

	// ControlLimits is the control that says how many of the queue's tasks may run, and begin.
	ControlLimits = "limits"
)

// SlotRate is the name of the slot by which workers agree on when tasks begin.
const SlotRate = "rate"

// SlotSubject returns the subject by which a queue's workers agree on who may run tasks: a slot is one's who has written
// there last, and is written only over what the writer has seen. It is one token, a number or [SlotRate]. Slots lie with the
// controls, in [ControlStream].
func SlotSubject(queue, slot string) string { return slotPrefix + queue + "." + slot }

// Controls of which there would be ever more, and which the broker therefore removes. All others stay until their
// agent replaces them.
const (
	// ControlCancel is the first token of a control for one task, "cancel.<task>". It is removed once its task is no
	// longer in the log and the queue's retain is over.
	ControlCancel = "cancel"

	// ControlAttempt is the first token of a worker's note that an attempt has failed, "attempt.<task>.<n>". It is
	// removed as ControlCancel is.
	ControlAttempt = "attempt"

	// ControlPresence is the first token of a sign of life, "presence.<instance>". It is removed when it is older than
	// the queue's retain.
	ControlPresence = "presence"
)

// DelaySubject returns the subject on which an agent asks the broker to hold a task back, and to forget one that is
// held back. The id is one token of letters, digits, - and _, at most [MaxDelayID] bytes.
func DelaySubject(queue, agent, id string) string {
	return delayPrefix + queue + "." + agent + "." + id
}

// TaskPull returns the subject on which a worker asks a queue for tasks of one priority.
func TaskPull(queue string, priority int) string {
	return "$JS.API.CONSUMER.MSG.NEXT." + TaskStream(queue) + "." + TaskConsumer(priority)
}

// TaskAcks returns the pattern of the subjects on which tasks of one priority are settled; each task brings its own,
// as its reply subject. The number of tokens is exact: a pattern that ends in ">", or one with a wildcard in the
// place of the stream's name, would also match acknowledgements of another queue.
func TaskAcks(queue string, priority int) string {
	return "$JS.ACK." + TaskStream(queue) + "." + TaskConsumer(priority) + ".*.*.*.*.*"
}

// Patterns of all priorities, for the broker's imports and filters. No agent is given one of these.

// TaskPattern returns the pattern of a queue's [TaskSubject].
func TaskPattern(queue string) string { return taskPrefix + queue + ".*" }

// SpreadPattern returns the pattern of a queue's [SpreadSubject].
func SpreadPattern(queue string) string { return spreadPrefix + queue + ".*" }

// DuePattern returns the pattern of a queue's [DueSubject].
func DuePattern(queue string) string { return duePrefix + queue + ".*" }

// PullPattern returns the pattern of a queue's [TaskPull].
func PullPattern(queue string) string {
	return "$JS.API.CONSUMER.MSG.NEXT." + TaskStream(queue) + ".*"
}

// AckPattern returns the pattern of a queue's [TaskAcks].
func AckPattern(queue string) string { return "$JS.ACK." + TaskStream(queue) + ".*.*.*.*.*.*" }

// StreamGet returns the subject on which a stream answers reads: with a subject (or wildcards), reads of the last
// message there; with an empty one, the reads that name what they want in their body, such as a batch.
func StreamGet(stream, subject string) string {
	api := "$JS.API.DIRECT.GET." + stream
	if subject == "" {
		return api
	}
	return api + "." + subject
}

// Subjects inside the broker. No agent can reach them.

// HeldSubject returns the subject under which a delayed task waits in [DelayStream].
func HeldSubject(queue, agent, id string) string {
	return heldPrefix + queue + "." + agent + "." + id
}

// DueSubject returns the subject of a delayed task whose time has come, in [DelayStream] and in [TaskStream].
func DueSubject(queue string, priority int) string {
	return fmt.Sprintf("%s%s.%d", duePrefix, queue, priority)
}

// CutResultSubject takes a [ResultSubject] apart; ok is false for every other subject.
func CutResultSubject(nats string) (queue, task string, ok bool) { return cutTask(nats, resultPrefix) }

// CutDeadSubject takes a [DeadSubject] apart; ok is false for every other subject.
func CutDeadSubject(nats string) (queue, task string, ok bool) { return cutTask(nats, deadPrefix) }

// CutProgressSubject takes a [ProgressSubject] apart; ok is false for every other subject.
func CutProgressSubject(nats string) (queue, task string, ok bool) {
	return cutTask(nats, progressPrefix)
}

// CutControlSubject takes a [ControlSubject] apart; ok is false for every other subject.
func CutControlSubject(nats string) (queue, agent, what string, ok bool) {
	queue, agent, what, ok = cutAgent(nats, controlPrefix)
	if !ok || len(what) > MaxSubject {
		return "", "", "", false
	}
	for token := range strings.SplitSeq(what, ".") {
		if !isToken(token) {
			return "", "", "", false
		}
	}
	return queue, agent, what, true
}

// CutDelaySubject takes a [DelaySubject] apart; ok is false for every other subject.
func CutDelaySubject(nats string) (queue, agent, id string, ok bool) {
	queue, agent, id, ok = cutAgent(nats, delayPrefix)
	if !ok || !isToken(id) || len(id) > MaxDelayID {
		return "", "", "", false
	}
	return queue, agent, id, true
}

func cutTask(nats, prefix string) (queue, task string, ok bool) {
	rest, ok := strings.CutPrefix(nats, prefix)
	if !ok {
		return "", "", false
	}
	queue, task, ok = strings.Cut(rest, ".")
	if !ok || !isName(queue) || !isCard(task) {
		return "", "", false
	}
	return queue, task, true
}

func cutAgent(nats, prefix string) (queue, agent, rest string, ok bool) {
	rest, ok = strings.CutPrefix(nats, prefix)
	if !ok {
		return "", "", "", false
	}
	queue, rest, _ = strings.Cut(rest, ".")
	agent, rest, ok = strings.Cut(rest, ".")
	return queue, agent, rest, ok && isName(queue) && isName(agent)
}
