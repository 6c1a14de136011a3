package agentbus

import (
	"math"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealbus/sealbus/policy"
)

// gate lets a queue's tasks begin as its limits allow. A task of a queue with a limit on how many run begins under a slot that
// this worker holds; one of a queue with a limit on how many begin, at a start that it has reserved.
type gate struct {
	queue *workQueue
	route *route // of slots
	wake  chan struct{}

	// Behind the worker's lock.
	limits queueLimits
	held   map[int]*heldSlot
	used   int       // tasks that run under a slot
	short  bool      // there were fewer slots than tasks
	idle   time.Time // since when a slot is held for nothing; zero: none is
	starts starts
	asking time.Time // when to try for starts again
	hint   bool      // slots may have changed since they were looked at

	// Of the goroutine that looks after it.
	view   slotView
	looked time.Time     // when slots were looked at
	pause  time.Duration // until they are looked at again while there are too few
}

// heldSlot is a slot that this worker has.
type heldSlot struct {
	seq     uint64
	renewed time.Time // before it was written
}

func newGate(q *workQueue) *gate {
	g := &gate{queue: q, wake: make(chan struct{}, 1), held: make(map[int]*heldSlot), view: newSlotView()}
	g.route = &route{subject: policy.SlotSubject(q.name, "*"), fn: g.hear}
	return g
}

// hear notes that a slot may have changed. What comes is no more than a hint: it is not stored yet, and may be refused.
func (g *gate) hear(*nats.Msg) {
	w := g.queue.worker
	w.mu.Lock()
	g.hint = true
	short := g.short
	w.mu.Unlock()
	if short {
		g.stir()
	}
}

func (g *gate) stir() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// set puts limits in force. It is called with the lock held.
func (g *gate) set(l queueLimits) {
	if l == g.limits {
		return
	}
	if l.every != g.limits.every {
		g.starts, g.asking = starts{}, time.Time{}
	}
	g.limits, g.short = l, false
}

func (g *gate) limited() bool { return g.limits != queueLimits{} }

// ready returns how many tasks wait here for a handler.
func (q *workQueue) ready() (n int) {
	for _, s := range q.sources {
		n += len(s.tasks)
	}
	return n
}

// room returns how many tasks may be asked for, beside other bounds. It is called with the worker's lock held, as all that
// follows here.
func (q *workQueue) room() int {
	g := q.gate
	if q.orders.paused || !q.orders.currentNow() {
		return 0
	}
	if !g.limited() {
		return math.MaxInt
	}
	room := math.MaxInt
	if g.limits.running > 0 {
		if room = len(g.held); !g.short {
			room++ // one to see whether there is any
		}
	}
	if g.limits.every > 0 {
		room = min(room, max(g.starts.left, g.starts.batch)+1)
	}
	for _, l := range q.worker.fresh {
		if l.source.queue == q {
			room--
		}
	}
	return room - q.ready()
}

// open reports whether a task may begin.
func (q *workQueue) open() bool {
	g := q.gate
	switch {
	case q.orders.paused:
		return false
	case !g.limited():
		return true
	}
	now := time.Now()
	if g.limits.running > 0 {
		if g.drop(now); len(g.held) <= g.used {
			return false
		}
	}
	return g.limits.every == 0 || g.starts.due(now)
}

// startable reports whether a task of the source may begin.
func (s *source) startable() bool { return len(s.tasks) > 0 && s.queue.open() }

// drop lets go of slots that this worker has not been able to keep: others take them by now. They count from when they saw it
// written, which is later than here.
func (g *gate) drop(now time.Time) {
	for n, s := range g.held {
		if now.Sub(s.renewed) >= g.term() {
			delete(g.held, n)
		}
	}
}

func (g *gate) term() time.Duration { return g.queue.worker.bus.config.slotTerm }

// begun notes that a task begins.
func (g *gate) begun(j *leasedTask) {
	if !g.limited() {
		return
	}
	if g.limits.running > 0 {
		j.slot, g.used = true, g.used+1
	}
	if g.limits.every > 0 {
		if g.starts.take(); g.starts.left == 0 {
			g.stir()
		}
	}
}

// through notes that the handler of a task has returned, or that it did not come to that. It is called without the lock.
func (w *Worker) through(j *leasedTask) {
	if !j.slot { // which only the handler's goroutine touches
		return
	}
	g := j.source.queue.gate
	w.mu.Lock()
	j.slot, g.used = false, g.used-1
	w.mu.Unlock()
	g.stir()
}

// rest waits until there may be a task for a handler.
func (w *Worker) rest() {
	if w.ready > 0 { // they are held back
		for _, q := range w.queues {
			q.gate.stir()
		}
	}
	w.waiting.Wait()
}

// holdBack returns tasks to their queues that are paused, or that others may have slots for.
func (w *Worker) holdBack() {
	for _, q := range w.queues {
		g := q.gate
		if q.orders.paused {
			w.unready(q, 0)
			w.giveBack(func(l *lease) bool { return l.source.queue == q && l.active == 0 })
		} else if g.limits.running > 0 && g.short {
			w.unready(q, len(g.held))
		}
		if g.limited() || len(g.held) > 0 {
			g.stir()
		}
	}
}

// unready returns all but a few tasks that wait for a handler, the least urgent first.
func (w *Worker) unready(q *workQueue, keep int) {
	over := q.ready() - keep
	var out []*leasedTask
	for i := len(q.sources) - 1; i >= 0 && over > 0; i-- {
		s := q.sources[i]
		for n := len(s.tasks); n > 0 && over > 0; n-- {
			out = append(out, s.tasks[n-1])
			s.tasks = s.tasks[:n-1]
			over--
		}
	}
	w.sendBack(out)
}
