package agentbus

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"
	"unicode/utf8"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

var (
	// ErrCancelled is the cause with which a handler's context ends when its task is cancelled, see TaskHandle.Cancel.
	ErrCancelled = errors.New("agentbus: the task is cancelled")

	// ErrTaskDone is returned by TaskHandle.Cancel for a task that has succeeded or is dead.
	ErrTaskDone = errors.New("agentbus: the task is done already")
)

// QueueLimits say how much of a queue's work may go on, over all of its workers. Zero: no limit.
type QueueLimits struct {
	Running   int     // tasks that run at a time, up to 1,024
	PerSecond float64 // tasks that begin in a second, from one a day, 1.0/86400, to a million
}

// compact returns the limits as they travel.
func (l QueueLimits) compact() (queueLimits, error) {
	if l.Running < 0 || l.Running > maxRunning {
		return queueLimits{}, fmt.Errorf("agentbus: QueueLimits.Running is %d: use up to %d, and 0 for no limit", l.Running, maxRunning)
	}
	c := queueLimits{running: l.Running}
	if l.PerSecond == 0 {
		return c, nil
	}
	every := math.Round(float64(time.Second) / l.PerSecond)
	if !(every >= float64(minEvery) && every <= float64(maxEvery)) { // nor NaN
		return queueLimits{}, fmt.Errorf("agentbus: QueueLimits.PerSecond is %v: use from one task in %v to one in %v, and 0 for no limit", l.PerSecond, maxEvery, minEvery)
	}
	c.every = time.Duration(every)
	return c, nil
}

// PauseQueue has all workers of a queue begin no more tasks, until ResumeQueue. It returns when the broker has that on its disk.
// Workers that are connected hear of it within moments; those that come later, and those that were cut off, ask for it before
// they take a task. What runs goes on; what a worker has taken and not begun goes back, and none of that is an attempt.
// Tasks can be enqueued all the while.
//
// Of all that enqueuers say the newest counts, whoever of them says it, by the time at which it was sealed. Where another's clock
// is ahead, which it may be by 2 seconds, the call waits that long. A pause holds as long as the policy lets its sender enqueue;
// a worker that begins more than 7 days after it, and after the sender's certificate has expired, does not believe it any more.
//
// The broker can keep a pause from workers, as it can all else, and show a worker that begins anew, and remembers nothing, an
// older one; a worker that runs never goes back to an older word of the same agent. It cannot make one up, change one, or use one
// for another queue.
//
// ctx bounds the call, Config.RequestTimeout where it has no deadline. After an error it may be stored or not. It is
// ErrNotEntitled where the policy does not let this agent enqueue there.
func (b *Bus) PauseQueue(ctx context.Context, queue string) error {
	return b.control(ctx, queue, control{what: controlPause, paused: true})
}

// ResumeQueue has the workers of a queue go on after PauseQueue, whoever has paused it. What PauseQueue says of order, guarantees
// and errors holds here too.
func (b *Bus) ResumeQueue(ctx context.Context, queue string) error {
	return b.control(ctx, queue, control{what: controlPause})
}

// LimitQueue limits how many of a queue's tasks run at a time, and how many begin in a second, over all of its workers, until the
// next LimitQueue of whichever enqueuer. It holds for tasks that begin after a worker has heard of it. What PauseQueue says of
// order, guarantees and errors holds here too.
//
// Running is exact as long as workers live and are connected: a task runs only under one of Running slots that the broker keeps,
// which one worker has at a time. A worker that dies, or is cut off, loses its slots after 30 seconds. That is when its leases end
// and the contexts of its handlers too: a handler that goes on all the same is one too many. PerSecond spaces tasks evenly, by the
// workers' clocks, which may differ by 2 seconds. Workers reserve what is to begin within a tenth of a second, and may begin up to
// a second late; what a worker that dies has reserved is lost.
//
// Each slot that is taken, kept or given back is one write to the broker's disk; a worker keeps its slots from task to task while
// there are tasks. The broker sees how many tasks run, at which worker, and can, as any worker of the queue can, say that slots
// are free that are not: limits protect what the tasks use from honest workers, and from nobody else.
func (b *Bus) LimitQueue(ctx context.Context, queue string, limits QueueLimits) error {
	compact, err := limits.compact()
	if err != nil {
		return err
	}
	return b.control(ctx, queue, control{what: controlLimits, limits: compact})
}

// Cancel has the task end among the dead, with DeadCancelled and the reason, up to 1 KiB of text, which travels sealed. It returns
// when the broker has that on its disk; what comes of it, Result tells. Whoever may enqueue to the queue may cancel any of its tasks.
//
// A task that waits is given up when it comes to a worker, a delayed one when it is due. Of one that runs the handler's context ends,
// with ErrCancelled as its cause, and the task is given up when the handler returns, unless it returns a result: then it has
// succeeded. A handler that does not look at its context runs to its end. The error is ErrTaskDone where the broker shows that the task has a
// result, or is dead, and else as of PauseQueue.
func (h *TaskHandle) Cancel(ctx context.Context, reason string) error {
	if len(reason) > maxReason || !utf8.ValidString(reason) {
		return fmt.Errorf("agentbus: a reason of %d bytes: use valid UTF-8 and up to %d", len(reason), maxReason)
	}
	ctx, cancel := h.bus.bounded(ctx)
	defer cancel()
	if h.isDone(ctx) {
		return fmt.Errorf("%w: %s", ErrTaskDone, h.id)
	}
	return h.bus.control(ctx, h.queue, control{what: controlCancel, task: h.id, reason: reason})
}

// isDone reports whether the task has a result that is genuine. What else the broker shows is no reason not to cancel.
func (h *TaskHandle) isDone(ctx context.Context) bool {
	ch, err := policy.Result(h.queue)
	if err != nil {
		return false
	}
	rc, err := h.bus.storedReceiver(ctx, ch)
	if err != nil {
		return false
	}
	m, err := h.recorded(ctx, rc, policy.ResultSubject(h.queue, h.id.String()))
	var dead *TaskError
	return m != nil || errors.As(err, &dead)
}

// control seals a control of a queue and returns when the broker has stored it.
func (b *Bus) control(ctx context.Context, queue string, c control) error {
	if b.closed() && !b.ofHandler(ctx) {
		return ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	payload, err := c.encode()
	if err != nil {
		return err
	}
	ch, err := b.ring.Policy().QueueChannel(queue)
	if err != nil {
		return err
	}
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	ctx, cancel = b.untilClosed(ctx)
	defer cancel()
	l, err := b.queueLane(ctx, ch)
	if err != nil {
		return b.closedOr(ctx, err)
	}
	if c.what != controlCancel {
		if err := b.follows(ctx, queue, c.subject()); err != nil {
			return b.closedOr(ctx, err)
		}
	}
	return b.closedOr(ctx, b.storeControl(ctx, l, &c, payload))
}

func (b *Bus) storeControl(ctx context.Context, l *lane, c *control, payload []byte) error {
	committed, err := l.sender.Committed()
	if err != nil {
		return err
	}
	queue := l.ch.Name()
	p := &parcel{Bundle: keyring.Bundle{Kind: envelope.KindControl, Recipient: queue}, subject: policy.ControlSubject(queue, b.self.Name(), c.subject()), apart: true}
	p.Messages.Reset(committed)
	if err := p.Messages.Add(&envelope.Message{Payload: payload}); err != nil {
		return err
	}
	bt := &batch{parcels: []*parcel{p}, count: 1, since: time.Now()}
	if err := l.seal(ctx, bt); err != nil {
		return err
	}
	return b.store.append(ctx, policy.ControlStream(queue), bt.entries())
}

// follows returns when what is sealed now is newer than what other enqueuers have said, as far as the broker shows it: one whose
// clock is ahead would otherwise have the last word for as long. What it reads is proven by nothing, and costs at most the lead
// that a clock may have.
func (b *Bus) follows(ctx context.Context, queue, what string) error {
	list, err := b.controls(ctx, queue, what)
	if err != nil {
		return err
	}
	now, wait := time.Now(), time.Duration(0)
	for _, f := range list {
		var frame envelope.Frame
		if envelope.Parse(f.frame, &frame) != nil {
			continue
		}
		// The next millisecond: within one the order of two senders' ids is random.
		if lead := time.UnixMilli(int64(frame.ID.Time()) + 1).Sub(now); lead <= keyring.MaxClockLead {
			wait = max(wait, lead)
		}
	}
	if wait > 0 {
		pause(ctx, wait)
	}
	return ctx.Err()
}

// controls reads the controls of all agents whose subject ends in what, which may be a pattern. Where there are more than are
// read, the error is errListed, and what was read comes with it.
func (b *Bus) controls(ctx context.Context, queue, what string) (list []found, err error) {
	err = b.store.read(ctx, func(ctx context.Context) (err error) {
		list, err = b.store.pages(ctx, policy.ControlStream(queue), policy.ControlSubject(queue, "*", what), maxListed)
		return err
	})
	return list, err
}
