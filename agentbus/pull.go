package agentbus

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/policy"
)

// source is the tasks of one priority of a queue, which a worker pulls from the broker.
type source struct {
	queue    *workQueue
	priority int
	inbox    string
	route    *route

	// Behind the worker's lock.
	tasks  []*leasedTask // that have come and wait for a handler
	asked  int           // messages that are still to come of the last pull
	each   float64       // tasks in a message, about
	lively bool          // has brought a task since the last pull
	until  time.Time     // when the broker gives that up
	silent time.Time     // until when it is not asked again
	wary   time.Time     // until when it is asked for one at a time
}

func newSource(q *workQueue, priority int) *source {
	s := &source{queue: q, priority: priority, inbox: q.worker.bus.wire.inbox() + "task", each: maxShared}
	s.route = &route{subject: s.inbox, fn: s.take}
	return s
}

// take takes what comes for a pull: a task, or that there is none. It must not block.
func (s *source) take(m *nats.Msg) {
	w := s.queue.worker
	defer w.stir()
	w.mu.Lock()
	defer w.mu.Unlock()
	if m.Reply == "" { // the server's own word: a task can be answered, whatever headers its enqueuer has given it
		switch m.Header.Get(headerStatus) {
		case "100": // a sign of life
		case "404", "408": // the pull has ended; at once where others that wait are to have what there is
			if s.asked = 0; time.Now().Before(s.until.Add(-pullSlack)) && !s.lively {
				s.silence(w)
			}
		default:
			s.asked = 0
			s.silence(w)
		}
		return
	}
	if s.asked > 0 {
		s.asked--
	}
	if len(m.Data) == 0 && len(m.Header) == 0 {
		// The server takes it for the end of its answer, and what was to follow has no way here until its lease runs out.
		s.asked, s.wary = 0, time.Now().Add(waryTime)
	}
	s.lively = true
	l := newLease(s, m)
	if w.over {
		w.answer(l, ackReturn)
		return
	}
	if old := w.leaseOf[l.place]; old != nil { // the broker has forgotten that it is here
		old.reply, old.server, old.renewed = l.reply, l.server, l.came
		return
	}
	w.leaseOf[l.place] = l
	s.each += (float64(l.count()) - s.each) / 4
	w.leases[l] = struct{}{}
	if w.stopping {
		return // it goes back when the pulls have ended
	}
	w.fresh = append(w.fresh, l)
}

// silence has a source not be asked for a moment. It is called with the worker's lock held.
func (s *source) silence(w *Worker) {
	s.silent = time.Now().Add(pullPause)
	time.AfterFunc(pullPause, w.stir)
}

// stir has the keeper look.
func (w *Worker) stir() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// keep looks after what the worker has from the broker: it sorts out what is settled already, pulls, and renews leases.
func (w *Worker) keep() {
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	restored := w.bus.wire.restored.next() // kept until it is seen: it may fire during a sift
	for {
		w.pull()
		select {
		case <-w.wake:
			w.sift()
		case <-restored: // what was asked over the connection before, is forgotten
			restored = w.bus.wire.restored.next()
			w.mu.Lock()
			for s := range w.sources {
				s.asked = 0
				for _, j := range s.tasks {
					j.unsure = true // another may have worked on it since
				}
			}
			w.mu.Unlock()
		case <-tick.C:
			w.renewLeases()
			w.share()
		case <-w.ctx.Done():
			return
		}
	}
}

// pull asks for tasks where there is room for them. The broker answers with what it has, up to the number asked for; it
// waits only where it has nothing, and then for the first: no worker has a claim to what comes while it is busy.
func (w *Worker) pull() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopping {
		return
	}
	w.holdBack()
	ahead := w.prefetch()
	room := max(ahead, w.idle) - w.ready - len(w.fresh)
	now := time.Now()
	total := 0
	for s := range w.sources {
		if s.lively {
			total += s.weight()
		}
	}
	for s := range w.sources {
		if s.asked > 0 && now.After(s.until) {
			s.asked = 0 // the broker's answer was lost
		}
		// One task of each source is wanted even where there is no room, so that the urgent ones can go first.
		if s.asked > 0 || now.Before(s.silent) || room <= 0 && (ahead == 0 || len(s.tasks) > 0) {
			continue
		}
		n := 1 // of one that has had nothing: the first task makes it lively
		if s.lively {
			n = min(max(1, int(float64(room*s.weight()/total)/s.each)), maxPull)
		}
		if now.Before(s.wary) {
			n = 1
		}
		if n = min(n, s.queue.room()); n <= 0 {
			continue
		}
		s.lively = len(s.tasks) > 0
		request := fmt.Appendf(nil, `{"batch":%d,"expires":%d,"no_wait":true}`, n, policy.MaxPullWait)
		if err := w.bus.wire.publish(&nats.Msg{Subject: policy.TaskPull(s.queue.name, s.priority), Reply: s.inbox, Data: request}); err != nil {
			return // the next tick tries again
		}
		s.asked, s.until = n, now.Add(policy.MaxPullWait+pullSlack)
	}
}

// prefetch is how many tasks are to wait here beyond those that are being handled: what is done in a fifth of a second.
// A worker whose tasks take long takes none away from the others.
func (w *Worker) prefetch() int {
	return min(int(prefetchTime/max(w.pace, time.Microsecond))*w.limit, maxPrefetch)
}

// weight is a source's part of what the worker does, the urgent ones' larger.
func (s *source) weight() int { return s.queue.weight << (policy.Priorities - 1 - s.priority) }

// sift looks up which of the tasks that have come are settled already, and hands the others to the pool. A broker that
// has lost its consumers' state, or wants a task to be done twice, hands out settled ones.
func (w *Worker) sift() {
	w.mu.Lock()
	fresh := w.fresh
	w.fresh = nil
	w.mu.Unlock()
	if len(fresh) == 0 {
		return
	}
	byQueue := make(map[*workQueue][]*lease)
	for _, l := range fresh {
		byQueue[l.source.queue] = append(byQueue[l.source.queue], l)
	}
	for q, leases := range byQueue {
		for len(leases) > 0 {
			n, tasks := 1, leases[0].count()
			for n < len(leases) && tasks+leases[n].count() <= maxLookUp {
				tasks += leases[n].count()
				n++
			}
			w.admit(q, leases[:n])
			leases = leases[n:]
		}
	}
}

// admit lets those tasks be handled that have no result yet.
func (w *Worker) admit(q *workQueue, leases []*lease) {
	var ids []ulid.ULID
	for _, l := range leases {
		ids = append(ids, l.ids...)
	}
	settled, err := q.settled(w.ctx, ids)
	if err != nil {
		if w.ctx.Err() == nil {
			w.bus.log.Warn("results could not be looked up; tasks go back to their queue", "queue", q.name, "error", err)
		}
		for _, l := range leases {
			w.postpone(l, lookPause)
		}
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range leases {
		if l.back {
			continue
		}
		before := l.count()
		l.ids = slices.DeleteFunc(l.ids, func(id ulid.ULID) bool { return settled[id] })
		w.counts.settled.Add(uint64(before - l.count()))
		if l.count() == 0 {
			w.end(l, ackDone)
			continue
		}
		if w.prefetch() == 0 && w.idle <= w.ready { // no handler has time, and they take long
			w.end(l, ackReturn)
			continue
		}
		j := &leasedTask{lease: l, id: l.ids[0]}
		l.jobs = []*leasedTask{j}
		w.enlist(j, false)
	}
}

// settled looks up which tasks have a result.
func (q *workQueue) settled(ctx context.Context, ids []ulid.ULID) (map[ulid.ULID]bool, error) {
	subjects := make([]string, len(ids))
	for i, id := range ids {
		subjects[i] = policy.ResultSubject(q.name, id.String())
	}
	list, err := q.worker.bus.store.last(ctx, policy.ResultStream(q.name), subjects)
	if err != nil {
		return nil, err
	}
	settled := make(map[ulid.ULID]bool, len(list))
	prefix := policy.ResultSubject(q.name, "")
	for _, f := range list {
		if id, err := ulid.ParseStrict(strings.TrimPrefix(f.subject, prefix)); err == nil {
			settled[id] = true
		}
	}
	return settled, nil
}

// next returns the next task to work on, nil when the worker stops. Sources share by weight, and by how long their
// first task has waited, so that the least urgent one is not starved.
func (w *Worker) next() *leasedTask {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		if w.stopping {
			return nil
		}
		if s := w.pick(); s != nil {
			j := s.tasks[0]
			s.tasks = s.tasks[1:]
			w.ready -= j.tasks()
			w.stir()
			if j.back {
				continue
			}
			j.active++
			j.running = true
			s.queue.gate.begun(j)
			return j
		}
		w.idle++
		w.stir()
		w.rest()
		w.idle--
	}
}

// enlist puts a task before the pool, first or last. It is called with the lock held.
func (w *Worker) enlist(j *leasedTask, first bool) {
	s := j.source
	if first {
		s.tasks = append([]*leasedTask{j}, s.tasks...)
	} else {
		s.tasks = append(s.tasks, j)
	}
	j.enlisted = time.Now()
	w.ready += j.tasks()
	w.waiting.Signal()
}

// pick draws a source that has tasks which may begin, nil if there is none.
func (w *Worker) pick() *source {
	var total float64
	var last *source
	share := func(s *source) float64 {
		return float64(s.weight()) * (1 + time.Since(s.tasks[0].came).Seconds())
	}
	for s := range w.sources {
		if s.startable() {
			total += share(s)
			last = s
		}
	}
	at := rand.Float64() * total // no secret
	for s := range w.sources {
		if !s.startable() {
			continue
		}
		if at -= share(s); at < 0 {
			return s
		}
	}
	return last
}
