package agentbus

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/policy"
)

// TaskState is what had become of a task when its history was read.
type TaskState uint8

// The states.
const (
	TaskPending   TaskState = iota + 1 // it has no result: it waits, or runs; of a run of a recurring task also that it was let go of
	TaskSucceeded                      // it has a result
	TaskDead                           // it was given up
	TaskUnclear                        // what stands in the place of its result cannot be opened
)

var taskStates = [...]string{"", "pending", "succeeded", "dead", "unclear"}

// String returns the state in a word.
func (s TaskState) String() string {
	if s < TaskPending || s > TaskUnclear {
		return fmt.Sprintf("state %d", uint8(s))
	}
	return taskStates[s]
}

// TaskHistory is a task and what became of it, as far as the broker shows it.
type TaskHistory struct {
	ID    ulid.ULID // of a run of a recurring task that of the run, see RunID
	Queue string
	State TaskState

	// Task is what its enqueuer has sealed: payload, headers, Sender, and Time, when. Of a run of a recurring task it is the
	// template.
	Task *Message

	// Its terms.
	Kind        string
	Priority    int
	NotBefore   time.Time // zero: at once
	Deadline    time.Time // by which it had to begin; zero: none
	Timeout     time.Duration
	MaxAttempts int
	Revives     ulid.ULID // the dead task that it is another try of; else zero
	Recurring   string    // the name of the recurring task that this is a run of; else empty
	Tick        time.Time // and its tick

	Sequence uint64    // its place in the queue's log, which tasks that were enqueued together share
	Stored   time.Time // when it came there, by the broker's clock

	Attempts []Attempt   // that have failed, as Bus.Attempts has them
	Result   *Message    // of a task that has succeeded
	Dead     *TaskError  // why a dead one has no result
	Letter   *DeadLetter // its dead letter, while that is kept

	// Err says what of all this, but the task itself, could not be opened: a *keyring.Rejection of each.
	Err error

	looked bool // what came of it is filled in
}

// ReplayQueue reads back the log of a queue: every task with its failed attempts, its result or why it is dead, in the order in
// which the broker has stored the tasks. It is for the agents in the queue's field read in the policy, which can open what
// enqueuers seal for workers and what workers seal for enqueuers. Options are those of Replay, and are about the tasks: BySender about
// who has enqueued, WithHeader about the tasks' own headers, Pace about when they were sealed.
//
// Each task comes once, also where the log has it more than once: because a worker has put it back, or as one of a recurring
// task's runs, of which each comes with its tick. What becomes of a task later is not followed, with Follow neither.
// Delayed tasks are in the log once they are due. The log keeps a task until it is through and older than the queue's retain;
// results, attempts and letters go when the policy says so, and the broker can hide each of them: that a task is pending is its word. It can
// make none up.
//
// A frame of the log that cannot be opened is a *ReplayError, as with Replay, and so is one that the log holds twice where no worker has
// put it. All that Replay says of errors holds here too; ErrNotEntitled is returned to agents that the field read does not name.
func (b *Bus) ReplayQueue(ctx context.Context, queue string, options ...ReplayOption) iter.Seq2[*TaskHistory, error] {
	return func(yield func(*TaskHistory, error) bool) {
		fail := func(err error) bool { return yield(nil, err) }
		ctx, cancel := b.untilClosed(ctx)
		defer cancel()
		r, err := b.replayQueue(ctx, queue, options, yield)
		if err != nil {
			fail(b.closedOr(ctx, err))
			return
		}
		r.run(ctx, fail)
	}
}

func (b *Bus) replayQueue(ctx context.Context, queue string, options []ReplayOption, yield func(*TaskHistory, error) bool) (*replay, error) {
	if b.closed() && !b.ofHandler(ctx) {
		return nil, ErrClosed
	}
	p := b.ring.Policy()
	ch, err := p.QueueChannel(queue)
	if err != nil {
		return nil, err
	}
	results, err := policy.Result(queue)
	if err != nil {
		return nil, err
	}
	o, err := parseReplayOptions(options)
	if err != nil {
		return nil, err
	}
	if !p.MayReplay(queue, b.self.Name()) {
		return nil, fmt.Errorf("%w: policy revision %d does not let %q read what came of the tasks in queue %s: add it to the queue's \"read\" list",
			ErrNotEntitled, p.Revision(), b.self.Name(), queue)
	}
	r, err := b.newReplay(ch, policy.TaskStream(queue), o)
	if err != nil {
		return nil, err
	}
	q := &replayedQueue{replay: r, queue: queue, subjects: taskSubjects(queue), yield: yield}
	if q.tasks, err = b.storedReceiver(ctx, ch); err != nil {
		return nil, err
	}
	if q.results, err = b.storedReceiver(ctx, results); err != nil {
		return nil, err
	}
	r.source, r.full = q, true
	return r, nil
}
