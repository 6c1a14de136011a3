package agentbus

import "time"

// SlotTerm sets for how long a worker of a bus made with c has a slot that it does not keep.
func SlotTerm(c Config, d time.Duration) Config {
	c.slotTerm = d
	return c
}

// Paused reports whether the worker takes a queue for paused.
func (w *Worker) Paused(queue string) (paused bool) {
	w.with(queue, func(q *workQueue) { paused = q.orders.paused })
	return paused
}

// Held returns how many tasks of a queue the worker has from the broker.
func (w *Worker) Held(queue string) (n int) {
	w.with(queue, func(q *workQueue) {
		for l := range w.leases {
			if l.source.queue == q {
				n += max(1, len(l.jobs))
			}
		}
	})
	return n
}

// Limits returns the limits that the worker has heard of.
func (w *Worker) Limits(queue string) (l QueueLimits) {
	w.with(queue, func(q *workQueue) {
		l.Running = q.gate.limits.running
		if every := q.gate.limits.every; every > 0 {
			l.PerSecond = float64(time.Second) / float64(every)
		}
	})
	return l
}

// Slots returns how many slots of a queue the worker has.
func (w *Worker) Slots(queue string) (n int) {
	w.with(queue, func(q *workQueue) { n = len(q.gate.held) })
	return n
}

// RememberOneCancelled has the worker forget all cancelled tasks of a queue but one, as it does when there are more than it has room for.
func (w *Worker) RememberOneCancelled(queue string) {
	w.with(queue, func(q *workQueue) {
		for len(q.orders.cancelled) > 1 {
			dropOldest(q.orders.cancelled)
			q.orders.overflow = true
		}
	})
}

// Cancelled returns how many cancelled tasks of a queue the worker remembers.
func (w *Worker) Cancelled(queue string) (n int) {
	w.with(queue, func(q *workQueue) { n = len(q.orders.cancelled) })
	return n
}

func (w *Worker) with(queue string, fn func(*workQueue)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, q := range w.queues {
		if q.name == queue {
			fn(q)
		}
	}
}

// Bus returns the bus of a handle.
func (h *TaskHandle) Bus() *Bus { return h.bus }
