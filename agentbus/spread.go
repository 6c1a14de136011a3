package agentbus

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealbus/sealbus/policy"
)

// headerPart says which of a frame's tasks a message stands for. It is not sealed: a broker that changes it has another
// task of the frame worked on, as it could by handing out the whole.
const headerPart = "Sealbus-Part"

// spread puts tasks of a message that have not begun back into the queue, each as a message of its own, where this worker would
// take long over all of them and others may be idle. Tasks are enqueued together because that costs the broker less;
// short ones are also worked on together for less. It is called with the lock held, and returns before it is done.
func (w *Worker) spread(l *lease, some []*leasedTask) {
	l.active++                // so that it is not given back meanwhile
	some = slices.Clone(some) // it may be a part of l.jobs, which changes meanwhile
	w.records.Go(func() {
		gone := w.putBack(l, some)
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, j := range some {
			switch {
			case gone:
				l.jobs = slices.DeleteFunc(l.jobs, func(other *leasedTask) bool { return other == j })
			case !l.back:
				w.enlist(j, true)
			}
		}
		w.release(l)
	})
}

// putBack puts tasks of a message into the queue as messages of their own.
func (w *Worker) putBack(l *lease, some []*leasedTask) bool {
	s := l.source
	entries := make([]entry, len(some))
	for i, j := range some {
		entries[i] = entry{subject: policy.SpreadSubject(s.queue.name, s.priority), frame: l.msg.Data, id: j.id, part: strconv.Itoa(j.place)}
	}
	ctx, cancel := context.WithTimeout(w.ctx, storeTimeout)
	defer cancel()
	stream := policy.TaskStream(s.queue.name)
	err := w.bus.store.append(ctx, stream, entries)
	if isStoredAlready(err) { // some of them, by a worker that had the message before and has died
		for i := range entries {
			if err = w.bus.store.append(ctx, stream, entries[i:i+1]); err != nil {
				break
			}
		}
	}
	if err != nil {
		w.bus.log.Warn("tasks could not be shared with other workers", "queue", s.queue.name, "error", err)
		return false
	}
	return true
}

// share returns what has waited here for too long for a handler, because tasks take longer than those before have:
// another worker may be idle.
func (w *Worker) share() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.idle > 0 || w.stopping {
		return
	}
	var late []*leasedTask
	for s := range w.sources {
		s.tasks = slices.DeleteFunc(s.tasks, func(j *leasedTask) bool {
			if time.Since(j.enlisted) < shareAfter {
				return false
			}
			late = append(late, j)
			return true
		})
	}
	if len(late) > 0 {
		w.pace = max(w.pace, shareAfter)
		w.sendBack(late)
	}
}

// sendBack returns tasks that were taken from before the pool: with their message where nobody is at that, else by
// themselves. It is called with the lock held.
func (w *Worker) sendBack(some []*leasedTask) {
	parts := make(map[*lease][]*leasedTask)
	for _, j := range some {
		w.ready -= j.tasks()
		switch {
		case j.back:
		case j.active == 0 && len(j.jobs) == 1: // or not opened
			w.end(j.lease, j.nak())
		default:
			parts[j.lease] = append(parts[j.lease], j)
		}
	}
	for l, some := range parts {
		w.spread(l, some)
	}
}

// returnAll gives back what has not begun, when the worker stops.
func (w *Worker) returnAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	w.giveBack(func(l *lease) bool { return l.active == 0 })
	for l := range w.leases {
		var rest []*leasedTask
		for _, j := range l.jobs {
			if !j.running && j.until.IsZero() {
				rest = append(rest, j)
			}
		}
		if len(rest) > 0 {
			w.spread(l, rest)
		}
	}
}

// partOf reads which of a frame's n tasks a message stands for.
func partOf(m *nats.Msg, n int) (part int, ok bool) {
	text := m.Header.Get(headerPart)
	if text == "" {
		return 0, false
	}
	part, err := strconv.Atoi(text)
	return part, err == nil && part >= 0 && part < n
}
