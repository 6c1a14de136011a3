package agentbus

import (
	"context"
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/policy"
)

// cancelledError is the cause with which a cancelled task's context ends.
type cancelledError struct{ reason string }

func (e *cancelledError) Error() string {
	if e.reason == "" {
		return ErrCancelled.Error()
	}
	return fmt.Sprintf("%v: %s", ErrCancelled, e.reason)
}

func (e *cancelledError) Unwrap() error { return ErrCancelled }

// cancelled gives a task up that is cancelled. It reports whether the handler must not run.
func (w *Worker) cancelled(t *leasedTask) bool {
	o, id := t.source.queue.orders, t.id
	w.mu.Lock()
	c, ok := o.cancelled[id]
	overflow := o.overflow
	w.mu.Unlock()
	if !ok && overflow {
		var err error
		if c, ok, err = o.lookUp(w.ctx, id); err != nil {
			w.putOff(t, lookPause)
			return true
		}
	}
	ch, err := policy.Queue(o.queue.name)
	if !ok || err != nil || !w.bus.ring.Policy().CanWrite(ch, c.agent) {
		return false
	}
	w.bury(t, verdict{DeadCancelled, t.failures}, c.reason)
	return true
}

// lookUp asks the broker whether a task is cancelled.
func (o *orders) lookUp(ctx context.Context, task ulid.ULID) (order, bool, error) {
	w := o.queue.worker
	pattern := policy.ControlSubject(o.queue.name, "*", policy.ControlCancel+"."+task.String())
	list, err := w.bus.store.last(ctx, policy.ControlStream(o.queue.name), []string{pattern})
	if err != nil {
		return order{}, false, err
	}
	for _, f := range list {
		c, err := o.open(f)
		if err == nil {
			return c, true, nil
		}
		if missing(err) {
			o.await(f)
			return order{}, false, err
		}
	}
	return order{}, false, nil
}

// acceptCancel remembers a cancellation and ends what runs. It is called with the lock held.
func (o *orders) acceptCancel(c order) {
	have, ok := o.cancelled[c.task]
	if ok && c.id.Compare(have.id) <= 0 {
		return
	}
	if !ok && len(o.cancelled) >= maxCancelled {
		dropOldest(o.cancelled)
		o.overflow = true
	}
	o.cancelled[c.task] = c
	for l := range o.queue.worker.leases {
		if l.source.queue != o.queue {
			continue
		}
		for _, j := range l.jobs {
			if j.id == c.task && j.lost != nil {
				j.lost(&cancelledError{c.reason})
			}
		}
	}
}

func dropOldest[K comparable](kept map[K]order) {
	var oldest K
	var at ulid.ULID
	for k, c := range kept {
		if at.IsZero() || c.id.Compare(at) < 0 {
			oldest, at = k, c.id
		}
	}
	delete(kept, oldest)
}

// tidy forgets cancellations that the broker no longer has and that are older than it needs to keep them. It does not go by the
// broker's word alone: that would have a task run which this worker knows to be cancelled.
func (o *orders) tidy(list []found, whole bool) {
	q := o.queue
	ch, err := policy.Queue(q.name)
	if err != nil {
		return
	}
	settings, _ := q.worker.bus.ring.Policy().Settings(ch)
	limit := time.Now().Add(-settings.Retain)
	here := make(map[ulid.ULID]bool, len(list))
	for _, f := range list {
		if id, err := ulid.ParseStrict(f.subject[max(0, len(f.subject)-ulid.EncodedSize):]); err == nil {
			here[id] = true
		}
	}
	q.worker.mu.Lock()
	defer q.worker.mu.Unlock()
	for task, c := range o.cancelled {
		if whole && !here[task] && ulid.Time(c.id.Time()).Before(limit) {
			delete(o.cancelled, task)
		}
	}
	o.overflow = !whole || len(here) > maxCancelled
}
