package agentbus

import (
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
		w.end(l, ackReturn)
		return
	}
	w.counts.dead.Add(1)
	w.end(l, ackDone)
}

// passes reports whether a rejection may say more of this agent than of the task, and when to look again: a policy has
// taken the queue from it, or has not reached it that lets the enqueuer in; or its clock is behind the enqueuer's.
func (w *Worker) passes(l *lease, r *keyring.Rejection) (time.Duration, bool) {
	switch {
	case !w.bus.ring.Policy().MayWork(l.source.queue.name, w.bus.self.Name()):
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
