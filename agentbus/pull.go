package agentbus

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// source is the tasks of one priority of a queue, which a worker pulls from the broker.
type source struct {
	queue    *workQueue
	priority int
	inbox    string
	route    *route

	// Behind the worker's lock.
	tasks  []*lease  // that have come and wait for a handler
	asked  int       // that are still to come of the last pull
	lively bool      // has brought a task since the last pull
	until  time.Time // when the broker gives that up
}

// lease is a task that the broker has given to this worker.
type lease struct {
	source    *source
	msg       *nats.Msg
	id        ulid.ULID // as the frame claims
	delivered int       // how often the broker has handed it out, by its own word
	came      time.Time
	renewed   time.Time // when the broker was last told that it is being worked on

	// Behind the worker's lock.
	running bool
	lost    context.CancelCauseFunc // of the handler's context; nil if none runs
	back    bool                    // given back, or settled
	run     ulid.ULID               // of a recurring task, once it is opened
}

func newSource(q *workQueue, priority int) *source {
	s := &source{queue: q, priority: priority, inbox: q.worker.bus.wire.inbox() + "task"}
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

		if m.Header.Get(headerStatus) != "100" { // anything but a sign of life ends the pull
			s.asked = 0
		}
		return
	}
	if s.asked > 0 {
		s.asked--
	}
	s.lively = true
	l := &lease{source: s, msg: m, delivered: deliveredOf(m.Reply), came: time.Now()}
	l.renewed = l.came
	w.leases[l] = struct{}{}
	if w.stopping {
		return // it goes back when the pulls have ended
	}
	w.fresh = append(w.fresh, l)
}

// deliveredOf reads from an acknowledgement's subject how often the task was handed out.
func deliveredOf(reply string) int {
	tokens := strings.SplitN(reply, ".", 6)
	if len(tokens) < 6 {
		return 1
	}
	n, err := strconv.Atoi(tokens[4])
	if err != nil {
		return 1
	}
	return n
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
			}
			w.mu.Unlock()
		case <-tick.C:
			w.renewLeases()
		case <-w.ctx.Done():
			return
		}
	}
}

// pull asks for tasks where there is room for them.
func (w *Worker) pull() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopping {
		return
	}
	room := w.prefetch() - w.ready - len(w.fresh)
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
		if s.asked > 0 || len(s.tasks) > 0 && room <= 0 {
			continue
		}
		n := 1 // of one that has had nothing: the first task makes it lively
		if s.lively {
			n = max(1, room*s.weight()/total)
		}
		s.lively = len(s.tasks) > 0
		request := fmt.Appendf(nil, `{"batch":%d,"expires":%d}`, n, policy.MaxPullWait)
		if err := w.bus.wire.publish(&nats.Msg{Subject: policy.TaskPull(s.queue.name, s.priority), Reply: s.inbox, Data: request}); err != nil {
			return // the next tick tries again
		}
		s.asked, s.until = n, now.Add(policy.MaxPullWait+pullSlack)
	}
}

// prefetch is how many tasks are to wait here beyond those that are being handled: what is done in a fifth of a second.
// A worker whose tasks take long takes none away from the others.
func (w *Worker) prefetch() int {
	n := int(prefetchTime/max(w.pace, time.Microsecond)) * w.limit
	return min(max(n, 1), maxPrefetch)
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
		var f envelope.Frame
		if envelope.Parse(l.msg.Data, &f) == nil {
			l.id = f.ID
		}
		byQueue[l.source.queue] = append(byQueue[l.source.queue], l)
	}
	for q, leases := range byQueue {
		for len(leases) > 0 {
			n := min(len(leases), maxLookUp)
			w.admit(q, leases[:n])
			leases = leases[n:]
		}
	}
}

// admit lets those tasks be handled that have no result yet.
func (w *Worker) admit(q *workQueue, leases []*lease) {
	settled, err := q.settled(w.ctx, leases)
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
		switch {
		case l.back:
		case settled[l.id]:
			w.counts.settled.Add(1)
			w.end(l, "+ACK")
		default:
			l.source.tasks = append(l.source.tasks, l)
			w.ready++
			w.waiting.Signal()
		}
	}
}

// settled looks up which tasks have a result.
func (q *workQueue) settled(ctx context.Context, leases []*lease) (map[ulid.ULID]bool, error) {
	subjects := make([]string, len(leases))
	for i, l := range leases {
		subjects[i] = policy.ResultSubject(q.name, l.id.String())
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
func (w *Worker) next() *lease {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		if w.stopping {
			return nil
		}
		if w.ready > 0 {
			s := w.pick()
			l := s.tasks[0]
			s.tasks = s.tasks[1:]
			w.ready--
			w.stir()
			if l.back {
				continue
			}
			l.running = true
			return l
		}
		w.waiting.Wait()
	}
}

// pick draws a source that has tasks.
func (w *Worker) pick() *source {
	var total float64
	var last *source
	share := func(s *source) float64 {
		return float64(s.weight()) * (1 + time.Since(s.tasks[0].came).Seconds())
	}
	for s := range w.sources {
		if len(s.tasks) > 0 {
			total += share(s)
			last = s
		}
	}
	at := rand.Float64() * total // no secret
	for s := range w.sources {
		if len(s.tasks) == 0 {
			continue
		}
		if at -= share(s); at < 0 {
			return s
		}
	}
	return last
}

// renewLeases tells the broker of every task that is here that it is being worked on. What it could not be told of for
// so long that the broker hands it to another is lost.
func (w *Worker) renewLeases() {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	connected := w.bus.Connected()
	for l := range w.leases {
		switch {
		case now.Sub(l.renewed) >= w.bus.config.lease:
			w.lose(l)
		case connected && now.Sub(l.renewed) >= w.bus.config.lease/3:
			if w.answer(l, "+WPI") {
				l.renewed = now
			}
		}
	}
}

// lose gives up a task that the broker has handed to another by now.
func (w *Worker) lose(l *lease) {
	l.back = true
	delete(w.leases, l)
	w.counts.lost.Add(1)
	if l.lost != nil {
		l.lost(errLeaseLost)
	}
}

// end tells the broker what has become of a task. It is called with the lock held.
func (w *Worker) end(l *lease, answer string) {
	if l.back {
		return
	}
	l.back = true
	delete(w.leases, l)
	w.answer(l, answer) // unheard, the lease runs out and the task comes again, perhaps to be found settled
}

func (w *Worker) answer(l *lease, answer string) bool {
	return w.bus.wire.publish(&nats.Msg{Subject: l.msg.Reply, Data: []byte(answer)}) == nil
}

// giveBack returns tasks to their queues at once.
func (w *Worker) giveBack(which func(*lease) bool) {
	for l := range w.leases {
		if which(l) {
			w.end(l, "-NAK")
		}
	}
}

// postpone returns a task to its queue, to come again after d.
func (w *Worker) postpone(l *lease, d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.end(l, fmt.Sprintf(`-NAK {"delay": %d}`, d))
}
