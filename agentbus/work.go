package agentbus

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// Task is a task that a handler works on. Its Message is what the enqueuer sealed: ID, Sender, Time, Payload, headers.
type Task struct {
	*Message
	Queue       string
	Kind        string
	Attempt     int // this one, from 1
	MaxAttempts int
	Deadline    time.Time // by which it had to begin; zero if there is none
	Recurring   string    // the name of the recurring task that this is a run of, see Bus.Recur; else empty
	Tick        time.Time // and its tick; ID is the run's, the rest of the Message that of the template

	teller *teller
	over   bool // behind the teller's lock: the handler has returned
}

// TaskHandler works on a task. What it returns is the task's result, which its enqueuer gets. Its error steers:
//
//   - nil: the result is recorded, and the task is done.
//   - Cancel(err): the task is dead at once.
//   - Snooze(d): it is tried again after d, and this attempt does not count.
//   - any other, and a panic: the attempt has failed; it is tried again after its backoff, or is dead when it has been
//     tried as often as it may. The text, cut at 1 KiB, is sealed for the enqueuers; a panic's is not passed on.
//
// Its context ends when the task's Timeout is over, when the lease on the task is lost, because the broker cannot be
// reached for so long that it hands the task to another, and when the worker gives up waiting for it.
// With that context the bus can still be used while Stop and Close wait for the handler.
type TaskHandler func(ctx context.Context, t *Task) ([]byte, error)

// WorkOption is an option of Work.
type WorkOption interface{ applyWork(*workOptions) error }

type workOptions struct {
	concurrency int
	weights     map[string]int
	names       []string
}

type workOption func(*workOptions) error

func (f workOption) applyWork(o *workOptions) error { return f(o) }

// AlsoQueue has a worker take the tasks of another queue too. A queue of weight 3 is served three times as often as one
// of weight 1 when both have tasks. The queue given to Work has weight 1 unless it is named here too.
func AlsoQueue(name string, weight int) WorkOption {
	return workOption(func(o *workOptions) error {
		if weight < 1 || weight > maxWeight {
			return fmt.Errorf("agentbus: AlsoQueue(%q, %d): use a weight from 1 to %d", name, weight, maxWeight)
		}
		if _, ok := o.weights[name]; !ok {
			o.names = append(o.names, name)
		}
		o.weights[name] = weight
		return nil
	})
}

// Worker works on the tasks of one or more queues.
type Worker struct {
	bus     *Bus
	handler TaskHandler
	limit   int // tasks handled at a time
	queues  []*workQueue
	counts  workCounters
	id      [16]byte // at random, by which slots are this worker's

	ctx     context.Context // of the handlers
	cancel  context.CancelFunc
	pool    sync.WaitGroup
	keeper  sync.WaitGroup
	records sync.WaitGroup // results that are being stored
	once    sync.Once
	ended   chan struct{}

	presenter *presenter

	mu       sync.Mutex
	waiting  sync.Cond           // for a task
	leases   map[*lease]struct{} // all that have not been given back
	leaseOf  map[place]*lease    // the same
	fresh    []*lease            // have come, and may be settled already
	ready    int                 // tasks in the sources
	idle     int                 // handlers without one
	stopping bool
	over     bool          // its pulls have ended
	pace     time.Duration // of a handler, about
	paced    bool          // one has run
	wake     chan struct{}
}

// workQueue is a queue that a worker serves.
type workQueue struct {
	worker  *Worker
	name    string
	weight  int
	rc      *keyring.StoredReceiver
	sources [policy.Priorities]*source
	teller  *teller
	orders  *orders
	gate    *gate
	newest  map[string]ulid.ULID // template of each recurring task that has been here, behind the worker's lock
}

// Work has handler work on the tasks of a queue, DefaultConcurrency at a time unless Concurrency says otherwise. It
// returns when this agent holds the queue's key and tasks can come.
//
// A task is worked on at least once: again when its worker dies or loses the broker before the result is recorded, and
// then perhaps by another worker while the first is still at it. One result is recorded, the first; others are dropped
// and counted. The lease on a task is kept while its handler runs, however long that takes.
//
// ctx bounds the call, not the worker. The error is ErrNotEntitled where the policy does not let this agent work there.
func (b *Bus) Work(ctx context.Context, queue string, handler TaskHandler, options ...WorkOption) (*Worker, error) {
	if handler == nil {
		return nil, errors.New("agentbus: Work needs a handler")
	}
	o := workOptions{weights: map[string]int{queue: 1}, names: []string{queue}}
	for _, option := range options {
		if err := option.applyWork(&o); err != nil {
			return nil, err
		}
	}
	if o.concurrency == 0 {
		o.concurrency = DefaultConcurrency
	}
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	ctx, cancel = b.untilClosed(ctx)
	defer cancel()
	w := &Worker{bus: b, handler: handler, limit: o.concurrency, leases: make(map[*lease]struct{}), leaseOf: make(map[place]*lease), pace: firstPace,
		wake: make(chan struct{}, 1), ended: make(chan struct{})}
	w.waiting.L = &w.mu
	_, _ = rand.Read(w.id[:]) // it does not fail
	w.ctx, w.cancel = context.WithCancel(b.handlerContext(b.ctx))
	w.presenter = newPresenter(w)
	for _, name := range o.names {
		q, err := w.queue(ctx, name, o.weights[name])
		if err != nil {
			w.cancel()
			return nil, b.closedOr(ctx, err)
		}
		w.queues = append(w.queues, q)
	}
	return w, w.start(ctx)
}

func (w *Worker) queue(ctx context.Context, name string, weight int) (*workQueue, error) {
	b := w.bus
	ch, err := b.ring.Policy().QueueChannel(name)
	if err != nil {
		return nil, err
	}
	if p := b.ring.Policy(); !p.MayWork(name, b.self.Name()) {
		return nil, fmt.Errorf("%w: %s does not let %q work on queue %s", ErrNotEntitled, p.Where(ch), b.self.Name(), name)
	}
	q := &workQueue{worker: w, name: name, weight: weight}
	q.teller = newTeller(q)
	if q.rc, err = b.storedReceiver(ctx, ch); err != nil {
		return nil, err
	}
	for p := range policy.Priorities {
		q.sources[p] = newSource(q, p)
	}
	q.orders, q.gate = newOrders(q), newGate(q)
	return q, nil
}

func (w *Worker) start(ctx context.Context) error {
	b := w.bus
	if err := b.addWorker(w); err != nil {
		w.cancel()
		return err
	}
	var routes []*route
	for s := range w.sources {
		routes = append(routes, s.route)
	}
	routes = append(routes, w.orderRoutes()...)
	err := b.wire.add(routes...)
	if err == nil {
		err = b.wire.settle(ctx, routes...)
	}
	if err == nil {
		err = w.beginOrders(ctx)
	}
	if err != nil {
		for _, r := range routes {
			b.wire.drop(r)
		}
		w.cancel()
		b.removeWorker(w)
		return b.closedOr(ctx, err)
	}
	w.followOrders()
	w.keeper.Go(w.keep)
	for range w.limit {
		w.hand()
	}
	w.presenter.begin()
	return nil
}

// hand runs a goroutine that works on one task after another.
func (w *Worker) hand() {
	w.pool.Go(func() {
		returned := false
		defer func() {
			if !returned { // a handler has called runtime.Goexit
				w.bus.log.Error("task handler ended its goroutine")
				w.hand()
			}
		}()
		for j := w.next(); j != nil; j = w.next() {
			w.run(j)
		}
		returned = true
	})
}

// sources ranges over all queues and priorities.
func (w *Worker) sources(yield func(*source) bool) {
	for _, q := range w.queues {
		for _, s := range q.sources {
			if !yield(s) {
				return
			}
		}
	}
}

// Stop ends the worker: it takes no new task, tasks that have not begun go back to the queue at once, and running ones
// finish. It waits up to 30 seconds for these, then cancels their contexts, gives their tasks back, and returns an
// error. None of that counts as an attempt. It is idempotent, and every call waits.
func (w *Worker) Stop() error {
	w.begin()
	ctx, cancel := context.WithTimeout(context.Background(), w.bus.config.closeTimeout)
	defer cancel()
	return w.wait(ctx)
}

// begin begins to stop.
func (w *Worker) begin() {
	w.once.Do(func() {
		w.mu.Lock()
		w.stopping = true
		w.mu.Unlock()
		w.waiting.Broadcast()
		go func() {
			w.endPulls() // first, or what goes back comes again
			w.returnAll()
			w.pool.Wait()
			w.records.Wait()
			w.presenter.leave()
			w.cancel()
			w.keeper.Wait()
			w.bus.removeWorker(w)
			close(w.ended)
		}()
	})
}

// endPulls sees to it that what the broker still hands out for what it was asked goes back, and is not lost until its
// lease runs out. So the subscriptions stay for as long as a pull does. Where there is no time for that, because the bus
// closes, they end when the broker has looked at all pulls: one that it looks at only later it keeps.
func (w *Worker) endPulls() {
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	var routes []*route
	for s := range w.sources {
		routes = append(routes, s.route)
	}
	switch {
	case !w.bus.Connected():
		w.bus.wire.drain(ctx, routes)
	case !w.bus.closed():
		w.bus.linger(routes, policy.MaxPullWait+pullSlack)
	default:
		for s := range w.sources {
			w.lastPull(ctx, s)
		}
		w.bus.wire.drain(ctx, routes)
	}
}

// lastPull returns when the broker has looked at all pulls of a source: it does so in their order.
func (w *Worker) lastPull(ctx context.Context, s *source) {
	l, done := w.bus.wire.use()
	defer done()
	m, err := l.nc.RequestWithContext(ctx, policy.TaskPull(s.queue.name, s.priority), []byte(`{"batch":1,"no_wait":true}`))
	if err == nil && m.Reply != "" {
		w.answer(&lease{reply: m.Reply}, ackReturn)
	}
}

// wait waits for the end, or cancels the handlers that are still running and says so.
func (w *Worker) wait(ctx context.Context) error {
	select {
	case <-w.ended:
		return nil
	case <-ctx.Done():
		w.cancel()
		w.mu.Lock()
		defer w.mu.Unlock()
		w.giveBack(func(*lease) bool { return true })
		return fmt.Errorf("agentbus: a task handler has not returned within %v; its context is cancelled and its task given back", w.bus.config.closeTimeout)
	}
}

// WorkStats are counts since a Worker began.
type WorkStats struct {
	Succeeded uint64 // results recorded
	Failed    uint64 // attempts that failed, panics among them
	Snoozed   uint64
	Dead      uint64 // tasks given up
	Settled   uint64 // tasks that came although they had a result, and were not worked on
	Late      uint64 // results dropped because the task had one by then
	Lost      uint64 // leases lost
	Keyless   uint64 // tasks put back because their key or their sender's card was not there
	Ahead     uint64 // tasks put back because their time is ahead of this machine's clock
	Skipped   uint64 // templates of recurring tasks that were let go of: too late, between two ticks, or superseded
}

type workCounters struct {
	succeeded, failed, snoozed, dead, settled, late, lost, keyless, ahead, skipped count
}

// Stats returns what the worker has counted.
func (w *Worker) Stats() WorkStats {
	c := &w.counts
	return WorkStats{Succeeded: c.succeeded.Load(), Failed: c.failed.Load(), Snoozed: c.snoozed.Load(), Dead: c.dead.Load(),
		Settled: c.settled.Load(), Late: c.late.Load(), Lost: c.lost.Load(), Keyless: c.keyless.Load(), Ahead: c.ahead.Load(), Skipped: c.skipped.Load()}
}
