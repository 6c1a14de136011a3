package agentbus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
)

// Cancel is an error of a TaskHandler that ends the task: it is dead, for the reason that err says.
func Cancel(err error) error { return &steer{err: err, cancel: true} }

// Snooze is an error of a TaskHandler that has the task tried again after d, without counting this attempt.
func Snooze(d time.Duration) error { return &steer{snooze: max(d, 0)} }

// steer is an error with a meaning.
type steer struct {
	err    error
	cancel bool
	snooze time.Duration
}

func (s *steer) Error() string {
	switch {
	case !s.cancel:
		return fmt.Sprintf("snooze for %v", s.snooze)
	case s.err == nil:
		return "cancelled"
	}
	return s.err.Error()
}

func (s *steer) Unwrap() error { return s.err }

// errLeaseLost is the cause with which a handler's context ends when its task was handed to another.
var errLeaseLost = errors.New("agentbus: the lease on the task is lost")

// errTimeout is the cause with which a handler's context ends when an attempt has taken too long.
var errTimeout = errors.New("agentbus: the attempt has taken longer than the task's timeout")

// errGoexit is the failure of an attempt whose handler did not return.
var errGoexit = errors.New("agentbus: the handler ended its goroutine")

// run works on one task.
func (w *Worker) run(j *leasedTask) {
	defer w.through(j)
	if j.message == nil {
		if j = w.unpack(j); j == nil {
			return
		}
	}
	if w.due(j) {
		w.work(j)
	}
}

// unpack opens a message and returns the first of its tasks, nil where there is nothing to be done now. As many others as
// this worker has time for go before the pool.
func (w *Worker) unpack(first *leasedTask) *leasedTask {
	l := first.lease
	jobs, err := w.open(first)
	if err != nil {
		w.refuse(l, err)
	}
	if len(jobs) == 0 {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if l.back {
		return nil
	}
	l.jobs = jobs
	jobs[0].running = true
	here := len(jobs)
	if !w.stopping {
		here = min(here, max(1+w.idle, w.prefetch()))
		if q := l.source.queue; q.gate.limited() || q.orders.paused {
			here = min(here, 1+max(0, q.room()))
		}
	}
	for _, j := range slices.Backward(jobs[1:here]) {
		w.enlist(j, true)
	}
	if here < len(jobs) {
		w.spread(l, jobs[here:])
	}
	return jobs[0]
}

// open opens a message. It returns no tasks where it is not for this worker to decide what they are, or not now.
func (w *Worker) open(first *leasedTask) ([]*leasedTask, error) {
	l := first.lease
	q := l.source.queue
	if !w.bus.ring.Policy().MayWork(q.name, w.bus.self.Name()) {
		// It may still read the queue, and so could open the task.
		return nil, &keyring.Rejection{Reason: keyring.NotEntitled, Detail: "this agent no longer works on the queue"}
	}
	var o keyring.Opened
	want := &keyring.Want{Kinds: keyring.Kinds(envelope.KindTask), Recipient: taskRecipient(q.name, l.msg.Subject)}
	if err := q.rc.Open(l.msg.Data, want, &o); err != nil {
		if missing(err) {
			w.await(first)
			return nil, nil
		}
		return nil, err
	}
	if len(o.Messages) > maxShared {
		return nil, badTask(&o, fmt.Sprintf("%d tasks in one message", len(o.Messages)))
	}
	jobs := make([]*leasedTask, 0, len(o.Messages))
	all := newMessages(q.name, &o, o.Messages)
	for i := range all {
		m := &all[i]
		if m.ID != nthID(o.ID, i) {
			return nil, badTask(&o, "the ids of its tasks do not follow one another")
		}
		j := &leasedTask{lease: l, id: m.ID, place: i, message: m, headers: m.headers}
		m.headers = ownHeaders(j.headers)
		var err error
		if j.terms, err = decodeTerms(headerOf(j.headers, headerTask)); err != nil {
			return nil, badTask(&o, err.Error())
		}
		if j.terms.priority != l.source.priority {
			// Somebody has moved the frame. The task itself is where it belongs.
			w.moved(l, &o)
			return nil, nil
		}
		if isTemplate(j.headers) && len(all) > 1 {
			return nil, badTask(&o, "a template beside other tasks")
		}
		if runs, err := w.tick(j, &o); !runs { // a template of a recurring task only, see recurrun.go
			return nil, err
		}
		if slices.Contains(l.ids, m.ID) || !j.tick.IsZero() {
			jobs = append(jobs, j)
		}
	}
	return jobs, nil
}

func badTask(o *keyring.Opened, detail string) error {
	return &keyring.Rejection{Reason: keyring.BadContent, Channel: o.Channel.String(), Sender: o.Sender.String(), ID: o.ID, Detail: detail}
}

// await has a message wait whose key or sender's card is not here. It is not dead.
func (w *Worker) await(first *leasedTask) {
	ctx, cancel := context.WithTimeout(w.ctx, parkTimeout)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.leave(first); first.back {
		cancel()
		return
	}
	w.keeper.Go(func() {
		defer cancel()
		if w.bus.ring.AwaitStored(ctx, first.msg.Data) != nil {
			w.counts.keyless.Add(1)
			w.postpone(first.lease, keyPause)
			return
		}
		w.again(first)
	})
}

// due reports whether a task is to be worked on now. If not, it sees to that.
func (w *Worker) due(j *leasedTask) bool {
	if j.unsure {
		settled, err := j.source.queue.settled(w.ctx, []ulid.ULID{j.id})
		if err != nil {
			w.putOff(j, lookPause)
			return false
		}
		if settled[j.id] {
			w.counts.settled.Add(1)
			w.settled(j)
			return false
		}
		j.unsure = false
	}
	if wait := time.Until(j.terms.notBefore); wait > 0 {
		w.early(j, wait)
		return false
	}
	if (j.delivered > 1 || j.part >= 0 || !j.tick.IsZero()) && !j.counted {
		failures, last, err := j.source.queue.failures(w.ctx, j.id, j.terms.attempts)
		if err != nil {
			w.putOff(j, lookPause)
			return false
		}
		j.failures, j.counted = failures, true
		// Its message may have come again for the sake of another task.
		if wait := time.Until(last.Add(j.terms.pause(failures) / 2)); failures > 0 && wait > 0 {
			w.early(j, wait)
			return false
		}
	}
	return true
}

// early has a task wait whose time has not come: here if that is soon, else with the broker.
func (w *Worker) early(j *leasedTask, wait time.Duration) {
	if wait > holdTime {
		w.putOff(j, wait-holdTime/2)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hold(j, wait)
}

func (w *Worker) settled(j *leasedTask) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settle(j)
}

func (w *Worker) moved(l *lease, o *keyring.Opened) {
	w.bus.reject(&w.bus.counts, l.msg, &keyring.Rejection{Reason: keyring.Misdirected, Channel: o.Channel.String(), Sender: o.Sender.String(),
		ID: o.ID, Detail: "a task of another priority"})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.end(l, ackDone)
}

// work runs the handler and sees to what comes of it.
func (w *Worker) work(t *leasedTask) {
	now := time.Now()
	switch {
	case !t.terms.deadline.IsZero() && !now.Before(t.terms.deadline):
		w.bury(t, verdict{DeadDeadline, t.failures}, "")
		return
	case t.failures >= t.terms.attempts:
		w.bury(t, verdict{DeadAttempts, t.failures}, "")
		return
	}
	ctx, cancel := context.WithCancelCause(w.ctx)
	defer cancel(nil)
	if t.terms.timeout > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeoutCause(ctx, t.terms.timeout, errTimeout)
		defer stop()
	}
	w.mu.Lock()
	gone := t.back
	t.lost = cancel
	w.mu.Unlock()
	if gone || w.cancelled(t) {
		return
	}
	var result []byte
	returned := false
	defer func() {
		if !returned { // the handler has called runtime.Goexit
			w.failed(t, errGoexit)
		}
	}()
	task := &Task{Message: t.message, Queue: t.source.queue.name, Kind: t.terms.kind,
		Attempt: t.failures + 1, MaxAttempts: t.terms.attempts, Deadline: t.terms.deadline,
		Recurring: t.recurs, Tick: t.tick, teller: t.source.queue.teller}
	defer task.teller.end(task)
	err := protect(func() (err error) {
		result, err = w.handler(ctx, task)
		return err
	})
	returned = true
	w.took(time.Since(now))
	if err == nil && len(result) > MaxPayload {
		err = Cancel(fmt.Errorf("%w: a result of %d bytes; the limit is %d", ErrTooLarge, len(result), MaxPayload))
	}
	if err == nil {
		w.succeed(t, result)
		return
	}
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errLeaseLost):
		return // another has the task
	case errors.Is(cause, ErrCancelled) && w.cancelled(t):
		return
	case errors.Is(cause, errTimeout):
		err = fmt.Errorf("%w (%w)", cause, err)
	}
	w.failed(t, err)
}
