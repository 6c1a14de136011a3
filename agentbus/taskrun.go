package agentbus

import (
	"cmp"
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

// job of a worker: a task that was opened.
type opened struct {
	*lease
	terms    terms
	message  *Message
	headers  []envelope.Pair // all of them
	failures int             // attempts that have failed before
	tick     time.Time       // of a recurring task, else zero
	recurs   string          // its name
}

// run works on one task.
func (w *Worker) run(l *lease) {
	t, err := w.open(l)
	if err != nil {
		w.refuse(l, err)
		return
	}
	if t == nil {
		return // postponed
	}
	w.work(t)
}

// open opens a task and looks whether it is time for it. It returns nil where it is not.
func (w *Worker) open(l *lease) (*opened, error) {
	q := l.source.queue
	var o keyring.Opened
	want := &keyring.Want{Kinds: keyring.Kinds(envelope.KindTask), Recipient: q.name}
	if err := q.rc.Open(l.msg.Data, want, &o); err != nil {
		if missing(err) {
			w.await(l)
			return nil, nil
		}
		return nil, err
	}
	if len(o.Messages) != 1 {
		return nil, notOne(&o)
	}
	t := &opened{lease: l, message: newMessage(q.name, &o)}
	t.headers = t.message.headers
	t.message.headers = ownHeaders(t.headers)
	var err error
	if t.terms, err = decodeTerms(headerOf(t.headers, headerTask)); err != nil {
		return nil, &keyring.Rejection{Reason: keyring.BadContent, Channel: o.Channel.String(), Sender: o.Sender.String(), ID: o.ID, Detail: err.Error()}
	}
	if t.terms.priority != l.source.priority {
		// Somebody has moved the frame. The task itself is where it belongs.
		w.moved(t, &o)
		return nil, nil
	}
	if runs, err := w.tick(t, &o); !runs { // a template of a recurring task only, see recurrun.go
		return nil, err
	}
	if wait := time.Until(t.terms.notBefore); wait > 0 {
		w.early(t, wait)
		return nil, nil
	}
	if l.delivered > 1 || !t.tick.IsZero() {
		if t.failures, err = q.failures(w.ctx, t.message.ID); err != nil {
			w.postpone(l, lookPause)
			return nil, nil
		}
	}
	return t, nil
}

// await has a task wait whose key or sender's card is not here. It is not dead.
func (w *Worker) await(l *lease) {
	ctx, cancel := context.WithTimeout(w.ctx, parkTimeout)
	frame := l.msg.Data
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopping {
		cancel()
		w.end(l, "-NAK")
		return
	}
	w.keeper.Go(func() {
		defer cancel()
		if w.bus.ring.AwaitStored(ctx, frame) != nil {
			w.counts.keyless.Add(1)
			w.postpone(l, keyPause)
			return
		}
		w.again(l)
	})
}

// early has a task wait whose time has not come: here if that is soon, else with the broker.
func (w *Worker) early(t *opened, wait time.Duration) {
	if wait > holdTime {
		w.postpone(t.lease, wait-holdTime/2)
		return
	}
	w.mu.Lock()
	t.running = false // it goes back when the worker stops
	w.mu.Unlock()
	time.AfterFunc(wait, func() { w.again(t.lease) })
}

// again puts a task before the pool once more.
func (w *Worker) again(l *lease) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if l.back {
		return
	}
	if l.running = false; w.stopping {
		w.end(l, "-NAK")
		return
	}
	l.source.tasks = append([]*lease{l}, l.source.tasks...)
	w.ready++
	w.waiting.Signal()
}

func (w *Worker) moved(t *opened, o *keyring.Opened) {
	w.bus.reject(&w.bus.counts, t.msg, &keyring.Rejection{Reason: keyring.Misdirected, Channel: o.Channel.String(), Sender: o.Sender.String(),
		ID: o.ID, Detail: "a task of another priority"})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.end(t.lease, "+ACK")
}

// failures returns how many attempts of a task have failed, as far as workers have noted it and the broker shows it.
func (q *workQueue) failures(ctx context.Context, task ulid.ULID) (int, error) {
	pattern := policy.ControlSubject(q.name, "*", policy.ControlAttempt+"."+task.String()+".*")
	list, err := q.worker.bus.store.last(ctx, policy.ControlStream(q.name), []string{pattern})
	ch, wrong := policy.Queue(q.name)
	if err = cmp.Or(err, wrong); err != nil {
		return 0, err
	}
	n := 0
	for _, f := range list {
		_, agent, _, ok := policy.CutControlSubject(f.subject)
		if ok && q.worker.bus.ring.Policy().CanRead(ch, agent) { // enqueuers have controls too
			n++
		}
	}
	return n, err
}

// work runs the handler and sees to what comes of it.
func (w *Worker) work(t *opened) {
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
	err := protect(func() (err error) {
		result, err = w.handler(ctx, &Task{Message: t.message, Queue: t.source.queue.name, Kind: t.terms.kind,
			Attempt: t.failures + 1, MaxAttempts: t.terms.attempts, Deadline: t.terms.deadline, Tick: t.tick, Recurring: t.recurs})
		return err
	})
	returned = true
	w.paced(time.Since(now))
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

// paced notes how long a handler takes, for prefetch.
func (w *Worker) paced(took time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pace += (took - w.pace) / 8
}

// succeed records the result, and then settles the task. The pool goes on meanwhile.
func (w *Worker) succeed(t *opened, result []byte) {
	q, id := t.source.queue, t.message.ID
	w.records.Add(1)
	_, err := q.say(w.ctx, envelope.KindResult, policy.ResultStream(q.name), policy.ResultSubject(q.name, id.String()), id,
		envelope.Message{Payload: result}, func(k *ticket) {
			defer w.records.Done()
			w.recorded(t, k.err)
		})
	if err != nil {
		w.records.Done()
		w.recorded(t, err)
	}
}

// recorded settles a task when its result is recorded, by this worker or by another.
func (w *Worker) recorded(t *opened, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err == nil:
		w.counts.succeeded.Add(1)
		w.end(t.lease, "+ACK")
	case errors.Is(err, errStands):
		w.counts.late.Add(1)
		w.end(t.lease, "+ACK")
	default:
		w.bus.log.Warn("a result could not be recorded; the task is worked on again", "queue", t.source.queue.name, "task", t.message.ID.String(), "error", err)
		w.end(t.lease, fmt.Sprintf(`-NAK {"delay": %d}`, lookPause))
	}
}

// failed decides what an error of the handler means.
func (w *Worker) failed(t *opened, err error) {
	var s *steer
	switch {
	case errors.As(err, &s) && !s.cancel:
		w.counts.snoozed.Add(1)
		w.postpone(t.lease, s.snooze)
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
func (w *Worker) retry(t *opened, failures int, text string) {
	q, id := t.source.queue, t.message.ID
	subject := policy.ControlSubject(q.name, w.bus.self.Name(), fmt.Sprintf("%s.%s.%d", policy.ControlAttempt, id, failures))
	k, err := q.say(w.ctx, envelope.KindError, policy.ControlStream(q.name), subject, id, envelope.Message{Payload: []byte(text)}, nil)
	if err == nil {
		err = k.wait(w.ctx)
	}
	if err != nil {
		w.bus.log.Warn("a failed attempt could not be noted and does not count", "queue", q.name, "task", id.String(), "error", err)
	}
	d := t.terms.backoffMost
	if shift := failures - 1; shift < 32 && t.terms.backoff<<shift < d {
		d = t.terms.backoff << shift
	}
	w.postpone(t.lease, d/2+rand.N(d/2+1)) // no secret
}

// bury gives a task up: its dead letter is kept, then its enqueuer told, then the task settled.
func (w *Worker) bury(t *opened, v verdict, text string) {
	q, id := t.source.queue, t.message.ID
	err := w.letter(q, id, id, v, text, t.message.Payload, t.headers)
	if err == nil {
		var k *ticket
		k, err = q.say(w.ctx, envelope.KindError, policy.ResultStream(q.name), policy.ResultSubject(q.name, id.String()), id,
			envelope.Message{Headers: []envelope.Pair{{Key: []byte(headerDead), Value: v.encode()}}, Payload: []byte(text)}, nil)
		if err == nil {
			err = k.wait(w.ctx)
		}
	}
	if err == nil {
		w.counts.dead.Add(1)
	}
	w.recorded(t, err)
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
	if !errors.As(err, &r) || w.passes(l, r) { // or the keyring is closed
		w.postpone(l, lookPause)
		return
	}
	w.bus.reject(&w.bus.counts, l.msg, r)
	id := l.id
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

// passes reports whether a rejection may say more of this agent than of the task: a policy has taken the queue from it, or
// has not reached it that lets the enqueuer in; or its clock is behind the enqueuer's.
func (w *Worker) passes(l *lease, r *keyring.Rejection) bool {
	ch, err := policy.Queue(l.source.queue.name)
	switch {
	case err != nil || !w.bus.ring.Policy().CanRead(ch, w.bus.self.Name()):
		return true
	case r.Reason == keyring.NotEntitled:
		return l.delivered < 3
	case r.Reason == keyring.Stale:
		return ulid.Time(r.ID.Time()).After(time.Now())
	}
	return false
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
