package agentbus

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// orders is what enqueuers have told the workers of a queue, as far as this worker has heard. It hears it live, and reads what
// the broker has before it takes a task over a connection, and from time to time.
type orders struct {
	queue  *workQueue
	routes []*route
	wake   chan struct{}
	waits  chan struct{} // a place for each that waits for a key

	mu   sync.Mutex
	come []found // live
	late bool    // some had no room, or wait: what the broker has is to be read again

	// Behind the worker's lock.
	paused    bool
	pauses    map[string]order // by agent, the newest. What counts is the newest of those that the policy lets enqueue
	limits    map[string]order
	cancelled map[ulid.ULID]order
	overflow  bool   // more were cancelled than are remembered
	current   bool   // what the broker has was read
	read      uint64 // over the connection of this generation

	// Of the goroutine that reads.
	refused  map[string]bool
	revision *policy.Policy
}

// order is a control that was opened.
type order struct {
	control
	id    ulid.ULID // of its frame, by which it is older or newer than others
	agent string
}

func newOrders(q *workQueue) *orders {
	o := &orders{queue: q, wake: make(chan struct{}, 1), waits: make(chan struct{}, maxOrderWaits), pauses: make(map[string]order),
		limits: make(map[string]order), cancelled: make(map[ulid.ULID]order), refused: make(map[string]bool)}
	for _, what := range orderPatterns {
		o.routes = append(o.routes, &route{subject: policy.ControlSubject(q.name, "*", what), fn: o.hear})
	}
	return o
}

// orderPatterns are what subjects of controls end in. Others lie in the same stream.
var orderPatterns = [...]string{policy.ControlPause, policy.ControlLimits, policy.ControlCancel + ".*"}

// hear takes what comes live. It must not block.
func (o *orders) hear(m *nats.Msg) {
	o.mu.Lock()
	if len(o.come) < maxOrders {
		o.come = append(o.come, found{subject: m.Subject, frame: m.Data})
	} else {
		o.late = true
	}
	o.mu.Unlock()
	o.stir()
}

func (o *orders) stir() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// begin reads what the broker has, and waits a while for keys that are missing for that. The routes must stand.
func (o *orders) begin(ctx context.Context) error {
	o.revision = o.queue.worker.bus.ring.Policy()
	if err := o.readAll(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, parkTimeout)
	defer cancel()
	for n := range maxOrderWaits { // until none waits
		select {
		case o.waits <- struct{}{}:
			defer func() { <-o.waits }()
		case <-ctx.Done():
			o.queue.worker.bus.log.Warn("controls of a queue wait for a key", "queue", o.queue.name, "controls", maxOrderWaits-n)
			return nil
		}
	}
	return nil
}

// run follows until the worker ends.
func (o *orders) run() {
	w := o.queue.worker
	defer func() {
		for _, r := range o.routes {
			w.bus.wire.drop(r)
		}
	}()
	look, read := time.NewTicker(keepEvery), time.NewTicker(ordersEvery)
	defer look.Stop()
	defer read.Stop()
	restored := w.bus.wire.restored.next()
	for {
		again := !o.isCurrent()
		select {
		case <-o.wake:
			o.takeLive()
			continue
		case <-restored:
			restored = w.bus.wire.restored.next()
			again = true
		case <-read.C:
			again = true
		case <-look.C:
			again = o.due() || again
		case <-w.ctx.Done():
			return
		}
		if again && w.bus.Connected() {
			if err := o.readAll(w.ctx); err != nil && w.ctx.Err() == nil {
				w.bus.log.Warn("the controls of a queue could not be read; none of its tasks is taken until then", "queue", o.queue.name, "error", err)
			}
		}
	}
}

// due reports whether what the broker has should be read again, and lets a new policy say who may control.
func (o *orders) due() bool {
	o.mu.Lock()
	due := o.late
	o.late = false
	o.mu.Unlock()
	w := o.queue.worker
	if p := w.bus.ring.Policy(); p != o.revision {
		o.revision, due = p, true
		clear(o.refused) // it may let a sender in
		w.mu.Lock()
		o.decide()
		w.mu.Unlock()
	}
	return due
}

// isCurrent reports whether the broker was asked over the connection that there is. A worker that was cut off may have missed a
// pause.
func (o *orders) isCurrent() bool {
	w := o.queue.worker
	w.mu.Lock()
	defer w.mu.Unlock()
	return o.currentNow()
}

func (o *orders) currentNow() bool {
	return o.current && o.read == o.queue.worker.bus.wire.generation()
}

// generation returns that of the connection in use.
func (w *wire) generation() uint64 {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.link.generation()
}

func (o *orders) takeLive() {
	o.mu.Lock()
	come := o.come
	o.come = nil
	o.mu.Unlock()
	for _, f := range come {
		o.take(f)
	}
}

// readAll reads what the broker has.
func (o *orders) readAll(ctx context.Context) error {
	w := o.queue.worker
	generation := w.bus.wire.generation()
	for _, what := range orderPatterns {
		list, err := w.bus.controls(ctx, o.queue.name, what)
		whole := !errors.Is(err, errListed)
		if err != nil && whole {
			return err
		}
		if what == orderPatterns[2] {
			o.tidy(list, whole)
		}
		for _, f := range list {
			o.take(f)
		}
	}
	w.mu.Lock()
	o.current, o.read = true, generation
	w.mu.Unlock()
	w.stir()
	return nil
}

// take opens a control and obeys it.
func (o *orders) take(f found) {
	key, known := o.known(f)
	if known {
		return
	}
	c, err := o.open(f)
	var r *keyring.Rejection
	switch {
	case err == nil:
		o.accept(c)
	case missing(err):
		o.await(f)
	case !errors.As(err, &r): // the keyring is closed
	case r.Reason == keyring.Stale && ulid.Time(r.ID.Time()).After(time.Now()):
		o.setLate() // this clock is behind
	default:
		if len(o.refused) >= maxRefused {
			clear(o.refused)
		}
		o.refused[key] = true
		w := o.queue.worker
		w.bus.reject(&w.bus.counts, &nats.Msg{Subject: f.subject, Data: f.frame}, r)
	}
}

func (o *orders) setLate() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.late = true
}

// known reports whether nothing would come of opening a frame: the very same was rejected before, or it claims to be no newer than
// what was obeyed.
func (o *orders) known(f found) (key string, known bool) {
	sum := sha256.Sum256(f.frame) // not its id: one that was tampered with has that of the genuine
	if key = f.subject + " " + string(sum[:]); o.refused[key] {
		return key, true
	}
	var frame envelope.Frame
	if envelope.Parse(f.frame, &frame) != nil {
		return key, false
	}
	_, agent, what, _ := policy.CutControlSubject(f.subject)
	w := o.queue.worker
	w.mu.Lock()
	defer w.mu.Unlock()
	var have order
	switch what {
	case policy.ControlPause:
		have = o.pauses[agent]
	case policy.ControlLimits:
		have = o.limits[agent]
	default:
		if id, err := ulid.ParseStrict(what[min(len(what), len(policy.ControlCancel)+1):]); err == nil {
			have = o.cancelled[id]
		}
	}
	return key, !have.id.IsZero() && frame.ID.Compare(have.id) <= 0
}

// open opens a control, which must be that of the agent, and of what, its subject names.
func (o *orders) open(f found) (order, error) {
	q := o.queue
	queue, agent, what, ok := policy.CutControlSubject(f.subject)
	if !ok || queue != q.name {
		return order{}, misdirected("no control of this queue")
	}
	var opened keyring.Opened
	want := &keyring.Want{Kinds: keyring.Kinds(envelope.KindControl), Recipient: q.name, Sender: agent}
	if err := q.rc.Open(f.frame, want, &opened); err != nil {
		return order{}, err
	}
	if len(opened.Messages) != 1 {
		return order{}, notOne(&opened)
	}
	r := &keyring.Rejection{Reason: keyring.BadContent, Channel: opened.Channel.String(), Sender: opened.Sender.String(), ID: opened.ID}
	m := &opened.Messages[0]
	c, err := decodeControl(m.Payload)
	if err != nil || len(m.Headers) > 0 {
		r.Detail = errControl.Error()
		return order{}, r
	}
	if c.subject() != what {
		r.Reason, r.Detail = keyring.Misdirected, "a control in the place of another"
		return order{}, r
	}
	return order{control: c, id: opened.ID, agent: agent}, nil
}

// await has a control wait for its key or its sender's card, a few at a time.
func (o *orders) await(f found) {
	w := o.queue.worker
	select {
	case o.waits <- struct{}{}:
	default:
		o.setLate()
		return
	}
	f.frame = bytes.Clone(f.frame)
	w.keeper.Go(func() {
		defer func() { <-o.waits }()
		ctx, cancel := context.WithTimeout(w.ctx, parkTimeout)
		defer cancel()
		if w.bus.ring.AwaitStored(ctx, f.frame) != nil {
			return // it is read again from time to time
		}
		if c, err := o.open(f); err == nil {
			o.accept(c)
			return
		}
		o.setLate()
	})
}

// accept obeys a control.
func (o *orders) accept(c order) {
	w := o.queue.worker
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.what == controlCancel {
		o.acceptCancel(c)
		return
	}
	kept := o.pauses
	if c.what == controlLimits {
		kept = o.limits
	}
	have, ok := kept[c.agent]
	if ok && c.id.Compare(have.id) <= 0 {
		return // older, or the same again: a broker may show it at any time
	}
	if !ok && len(kept) >= maxControllers {
		dropOldest(kept)
	}
	kept[c.agent] = c
	o.decide()
}

// decide puts in force what the newest word of those says who may enqueue. It is called with the lock held.
func (o *orders) decide() {
	q := o.queue
	ch, err := policy.Queue(q.name)
	if err != nil {
		return
	}
	p := q.worker.bus.ring.Policy()
	newest := func(kept map[string]order) (n control) {
		var at ulid.ULID
		for agent, c := range kept {
			if p.CanWrite(ch, agent) && c.id.Compare(at) > 0 {
				n, at = c.control, c.id
			}
		}
		return n
	}
	o.paused = newest(o.pauses).paused
	q.gate.set(newest(o.limits).limits)
	q.worker.stir()
	q.worker.waiting.Broadcast()
	q.gate.stir()
}

// orderRoutes are what a worker listens on for what enqueuers, and other workers, say of its queues.
func (w *Worker) orderRoutes() (routes []*route) {
	for _, q := range w.queues {
		routes = append(append(routes, q.orders.routes...), q.gate.route)
	}
	return routes
}

// beginOrders returns when the worker knows what holds of its queues.
func (w *Worker) beginOrders(ctx context.Context) error {
	for _, q := range w.queues {
		if err := q.orders.begin(ctx); err != nil {
			return err
		}
	}
	return nil
}

// followOrders has the worker obey from here on.
func (w *Worker) followOrders() {
	for _, q := range w.queues {
		w.keeper.Go(q.orders.run)
		w.keeper.Go(q.gate.run)
	}
}
