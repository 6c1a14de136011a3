package agentbus

import (
	"strconv"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// headerNext is when the server is to put the same bytes into the queue again.
const headerNext = "Nats-Schedule-Next"

// tick makes the template of a recurring task that task's run for one of its ticks, and reports whether it is to be worked on.
// Other tasks are left as they are.
//
// The same bytes come at each tick. Which tick they have come for is the broker's word: the last one before it
// says that they are to come next. That stands with the message, and so is the same when it is handed out again. What
// the broker can choose by it is one of the ticks that are sealed; that has one id whoever asks, and so runs
// once; and before its time nothing begins.
func (w *Worker) tick(t *leasedTask, o *keyring.Opened) (runs bool, err error) {
	if !isTemplate(t.headers) {
		return true, nil
	}
	tmpl, _, err := templateOf(t.headers, o)
	if err != nil {
		return false, err
	}
	next, err := time.Parse(time.RFC3339Nano, t.msg.Header.Get(headerNext))
	if err != nil {
		w.letGo(t.lease, o, "a template that no schedule has put here")
		return false, nil
	}
	q, tick := t.source.queue, tmpl.schedule.Latest(o.Time, next)
	switch inForce := w.inForce(q, tmpl.name, o.ID, tick); {
	case tick.IsZero(): // it was registered after its last one
		w.skip(t.lease)
	case !inForce:
		w.letGo(t.lease, o, "a template that was replaced before this tick")
	case tooLate(tmpl, t.lease, tick, time.Now()) || isBetween(tmpl, t.lease, next):
		w.skip(t.lease)
	default:
		t.id, t.tick, t.recurs, t.terms.notBefore = RunID(q.name, tmpl.name, tick), tick, tmpl.name, tick
		t.message.ID = t.id
		return w.alone(t.lease, t.id), nil
	}
	return false, nil
}

func isTemplate(headers []envelope.Pair) bool {
	for _, h := range headers {
		if string(h.Key) == headerRecur {
			return true
		}
	}
	return false
}

// templateOf reads the template in a frame of one message. One that is not signed could be any worker's.
func templateOf(headers []envelope.Pair, o *keyring.Opened) (template, terms, error) {
	tmpl, err := decodeTemplate(headerOf(headers, headerRecur))
	given, wrong := decodeTerms(headerOf(headers, headerTask))
	if err == nil {
		err = wrong
	}
	if err == nil && (!o.Signed || !given.notBefore.IsZero() || !given.deadline.IsZero() || given.origin != [16]byte{}) {
		err = errTemplate
	}
	if err != nil {
		err = &keyring.Rejection{Reason: keyring.BadContent, Channel: o.Channel.String(), Sender: o.Sender.String(), ID: o.ID, Detail: err.Error()}
	}
	return tmpl, given, err
}

// inForce reports whether a template speaks for a tick, as far as this worker knows: not if it has met one of that name that
// was registered later, and before the tick. Ticks before that are the former one's, and may still be tried again.
func (w *Worker) inForce(q *workQueue, name string, id ulid.ULID, tick time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	newest, known := q.newest[name]
	if known && newest.Compare(id) > 0 {
		return !tick.After(ulid.Time(newest.Time()))
	}
	if q.newest == nil {
		q.newest = make(map[string]ulid.ULID)
	}
	if !known && len(q.newest) >= maxNewest {
		for other := range q.newest { // any: it is met again
			delete(q.newest, other)
			break
		}
	}
	q.newest[name] = id
	return true
}

// tooLate reports whether a tick is let go of, because a later one has come long ago.
func tooLate(tmpl template, l *lease, tick, now time.Time) bool {
	limit := lateTick
	if l.delivered > 1 {
		limit = lateAttempt
	}
	after := tmpl.schedule.Next(tick)
	return now.Sub(tick) > limit && !after.IsZero() && !after.After(now)
}

// isBetween reports whether the broker has put a template into the queue between two ticks, which it has to where no cron
// expression has an interval's ticks alone: the run of the last tick may not be through yet. A broker that lies about when it did it
// gains nothing: it lets a tick pass, as it could anyway. What comes late makes up for a tick that was missed.
func isBetween(tmpl template, l *lease, next time.Time) bool {
	at := tmpl.schedule.Between(next)
	if at.IsZero() {
		return false
	}
	tokens := strings.Split(l.msg.Reply, ".")
	if len(tokens) != 9 {
		return false
	}
	stored, err := strconv.ParseInt(tokens[7], 10, 64)
	return err == nil && time.Unix(0, stored).Sub(at) < holdTime
}

// alone reports whether a run is to begin: it has no result yet, and is not here already.
func (w *Worker) alone(l *lease, run ulid.ULID) bool {
	w.mu.Lock()
	l.run = run
	for other := range w.leases {
		if other != l && other.run == run && !other.back {
			// It is not done with: only its own message goes when it is.
			w.mu.Unlock()
			w.postpone(l, lookPause)
			return false
		}
	}
	w.mu.Unlock()
	q := l.source.queue
	result, err := w.bus.store.lastUnder(w.ctx, policy.ResultStream(q.name), policy.ResultSubject(q.name, run.String()))
	if err != nil {
		if w.ctx.Err() == nil {
			w.bus.log.Warn("a result could not be looked up; the recurring task goes back to its queue", "queue", q.name, "error", err)
		}
		w.postpone(l, lookPause)
		return false
	}
	if result == nil {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts.settled.Add(1)
	w.end(l, ackDone)
	return false
}

func (w *Worker) skip(l *lease) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts.skipped.Add(1)
	w.end(l, ackDone)
}

// letGo lets go of a template that is in order, and has no business here. It is not dead: its next tick may be.
func (w *Worker) letGo(l *lease, o *keyring.Opened, detail string) {
	w.bus.reject(&w.bus.counts, l.msg, &keyring.Rejection{Reason: keyring.Misdirected, Channel: o.Channel.String(), Sender: o.Sender.String(),
		ID: o.ID, Detail: detail})
	w.skip(l)
}
