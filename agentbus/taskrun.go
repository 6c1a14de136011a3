package agentbus

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
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
	if j.message == nil {
		if j = w.unpack(j); j == nil {
			return
		}
	}
	if w.due(j) {
		w.work(j)
	}
}

// unpack opens a message and returns the first of its tasks, nil where there is nothing to be done now. The others go
// before the pool.
func (w *Worker) unpack(first *leasedTask) *leasedTask {
	l := first.lease
	jobs, err := w.open(first)
	if err != nil {
		w.refuse(l, err)
	}
	if len(jobs) == 0 || w.spread(l, jobs) {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if l.back {
		return nil
	}
	l.jobs = jobs
	jobs[0].running = true
	for _, j := range slices.Backward(jobs[1:]) {
		w.enlist(j, true)
	}
	return jobs[0]
}

// open opens a message. It returns no tasks where it is not for this worker to decide what they are, or not now.
func (w *Worker) open(first *leasedTask) ([]*leasedTask, error) {
	l := first.lease
	q := l.source.queue
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
		if slices.Contains(l.ids, j.id) {
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
	if (j.delivered > 1 || j.part >= 0) && !j.counted {
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
	w.end(l, "+ACK")
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
	if gone {
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
		Attempt: t.failures + 1, MaxAttempts: t.terms.attempts, Deadline: t.terms.deadline, teller: t.source.queue.teller}
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
	case errors.Is(cause, errTimeout):
		err = fmt.Errorf("%w (%w)", cause, err)
	}
	w.failed(t, err)
}

// took notes how long a handler takes, for prefetch.
func (w *Worker) took(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.paced {
		w.pace, w.paced = d, true
	}
	w.pace += (d - w.pace) / 8
}

// succeed records the result, and then settles the task. The pool goes on meanwhile.
func (w *Worker) succeed(t *leasedTask, result []byte) {
	q, id := t.source.queue, t.id
	w.records.Add(1)
	_, err := q.say(w.ctx, envelope.KindResult, policy.ResultStream(q.name), policy.ResultSubject(q.name, id.String()), id,
		envelope.Message{Payload: result}, func(k *ticket) {
			defer w.records.Done()
			w.recorded(t, &w.counts.succeeded, k.err)
		})
	if err != nil {
		w.records.Done()
		w.recorded(t, &w.counts.succeeded, err)
	}
}

// recorded settles a task when its result is recorded, by this worker, who then counts it, or by another.
func (w *Worker) recorded(t *leasedTask, as *count, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err == nil:
		as.Add(1)
		w.settle(t)
	case errors.Is(err, errStands):
		w.counts.late.Add(1)
		w.settle(t)
	default:
		w.bus.log.Warn("a result could not be recorded; the task is worked on again", "queue", t.source.queue.name, "task", t.id.String(), "error", err)
		if len(t.jobs) == 1 {
			w.end(t.lease, nakIn(lookPause))
			return
		}
		t.unsure = true
		w.hold(t, lookPause)
	}
}

// failed decides what an error of the handler means.
func (w *Worker) failed(t *leasedTask, err error) {
	var s *steer
	switch {
	case errors.As(err, &s) && !s.cancel:
		w.counts.snoozed.Add(1)
		w.putOff(t, s.snooze)
		return
	case w.ctx.Err() != nil: // the worker has stopped, and the handler with it
		w.postpone(t.lease, 0)
		return
	}
	w.bus.failed(&w.bus.counts, t.source.queue.name, err)
	w.counts.failed.Add(1)
	text := err.Error()
	var p *panicError
	if errors.As(err, &p) {
		text = "the handler failed" // what it panicked with is not for others
	}
	text = cutText(text)
	failures := t.failures + 1
	switch {
	case s != nil:
		w.bury(t, verdict{DeadCancelled, failures}, text)
	case failures >= t.terms.attempts:
		w.bury(t, verdict{DeadAttempts, failures}, text)
	default:
		w.retry(t, failures, text)
	}
}

// retry notes that an attempt has failed, and has the broker hand the task out again after its backoff.
func (w *Worker) retry(t *leasedTask, failures int, text string) {
	q, id := t.source.queue, t.id
	subject := policy.ControlSubject(q.name, w.bus.self.Name(), fmt.Sprintf("%s.%s.%d", policy.ControlAttempt, id, failures))
	k, err := q.say(w.ctx, envelope.KindControl, policy.ControlStream(q.name), subject, id, attemptNote(failures, text), nil)
	if err == nil {
		err = k.wait(w.ctx)
	}
	if err != nil {
		w.bus.log.Warn("a failed attempt could not be noted and does not count", "queue", q.name, "task", id.String(), "error", err)
	}
	t.failures, t.counted = failures, true
	d := t.terms.pause(failures)
	w.putOff(t, d/2+rand.N(d/2+1)) // no secret
}

// bury gives a task up: its dead letter is kept, then its enqueuer told, then the task settled.
func (w *Worker) bury(t *leasedTask, v verdict, text string) {
	q, id := t.source.queue, t.id
	err := w.letter(q, id, id, v, text, t.message.Payload, t.headers)
	if err == nil {
		var k *ticket
		k, err = q.say(w.ctx, envelope.KindError, policy.ResultStream(q.name), policy.ResultSubject(q.name, id.String()), id,
			envelope.Message{Headers: []envelope.Pair{{Key: []byte(headerDead), Value: v.encode()}}, Payload: []byte(text)}, nil)
		if err == nil {
			err = k.wait(w.ctx)
		}
	}
	w.recorded(t, &w.counts.dead, err)
}

// letter keeps a dead letter: why, with all of the task that revives it.
func (w *Worker) letter(q *workQueue, letter, task ulid.ULID, v verdict, text string, payload []byte, headers []envelope.Pair) error {
	kept := append(slices.Clone(headers), envelope.Pair{Key: []byte(headerLetter), Value: v.encode()}, envelope.Pair{Key: []byte(headerDeadText), Value: []byte(text)})
	k, err := q.say(w.ctx, envelope.KindError, policy.DeadStream(q.name), policy.DeadSubject(q.name, letter.String()), task,
		envelope.Message{Headers: kept, Payload: payload}, nil)
	if err == nil {
		err = k.wait(w.ctx)
	}
	if errors.Is(err, errStands) {
		return nil
	}
	return err
}

// refuse keeps a dead letter for what is no task, and lets go of it at once. Its id is one of its own: what the frame
// claims is not proven, and a task of that id may be in order.
func (w *Worker) refuse(l *lease, err error) {
	q := l.source.queue
	var r *keyring.Rejection
	if !errors.As(err, &r) { // the keyring is closed
		w.postpone(l, lookPause)
		return
	}
	if pause, passes := w.passes(l, r); passes {
		w.postpone(l, pause)
		return
	}
	w.bus.reject(&w.bus.counts, l.msg, r)
	id := l.ids[0]
	if id.IsZero() {
		id = ulid.ULID{15: 1} // of a frame that has none: an answer has to name something
	}
	payload := l.msg.Data
	if len(payload) > MaxPayload {
		payload = nil
	}
	letter, err := ulid.New(ulid.Now(), crand.Reader)
	if err != nil {
		w.postpone(l, lookPause)
		return
	}
	err = w.letter(q, letter, id, verdict{DeadUnopenable, 0}, cutText(r.Error()), payload, nil)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.bus.log.Warn("a dead letter could not be kept", "queue", q.name, "error", err)
		w.end(l, "-NAK")
		return
	}
	w.counts.dead.Add(1)
	w.end(l, "+ACK")
}

// passes reports whether a rejection may say more of this agent than of the task, and when to look again: a policy has
// taken the queue from it, or has not reached it that lets the enqueuer in; or its clock is behind the enqueuer's.
func (w *Worker) passes(l *lease, r *keyring.Rejection) (time.Duration, bool) {
	ch, err := policy.Queue(l.source.queue.name)
	switch {
	case err != nil || !w.bus.ring.Policy().CanRead(ch, w.bus.self.Name()):
		return lookPause, true
	case r.Reason == keyring.NotEntitled:
		return lookPause, l.delivered < 3
	case r.Reason == keyring.Stale:
		ahead := time.Until(ulid.Time(r.ID.Time()))
		if ahead > 0 {
			w.counts.ahead.Add(1)
		}
		return min(max(ahead, lookPause), maxAhead), ahead > 0
	}
	return 0, false
}

// ownHeaders returns the headers that are the sender's own.
func ownHeaders(headers []envelope.Pair) (own []envelope.Pair) {
	for _, h := range headers {
		if !strings.HasPrefix(string(h.Key), reservedPrefix) {
			own = append(own, h)
		}
	}
	return own
}

func headerOf(headers []envelope.Pair, key string) []byte {
	for _, h := range headers {
		if string(h.Key) == key {
			return h.Value
		}
	}
	return nil
}
