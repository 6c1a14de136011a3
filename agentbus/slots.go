package agentbus

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/policy"
)

// slotView is the slots of a queue as the broker showed them last.
type slotView struct {
	slots map[int]seenSlot
	rate  seenRate
}

type seenSlot struct {
	slotHold
	seq   uint64
	since time.Time // when it was first seen so, by this machine's clock and no other
}

type seenRate struct {
	seq  uint64
	next time.Time
}

func newSlotView() slotView { return slotView{slots: make(map[int]seenSlot)} }

// isFree reports whether a slot may be taken: nobody has it, or whoever has it has not written it again for its term.
func (s seenSlot) isFree(now time.Time) bool { return s.free() || now.Sub(s.since) >= s.term }

func (v *slotView) anyFree(running int, now time.Time) bool {
	for n := range running {
		if s := v.slots[n]; s.isFree(now) {
			return true
		}
	}
	return false
}

// see reads a queue's slots.
func (g *gate) see(ctx context.Context) error {
	q := g.queue
	w := q.worker
	w.mu.Lock()
	if g.pause = min(2*g.pause, g.term()/3); g.hint || g.pause == 0 {
		g.pause = storeLook // what passed by may be stored only after this look
	}
	g.hint, g.looked = false, time.Now()
	w.mu.Unlock()
	prefix := policy.SlotSubject(q.name, "")
	list, err := w.bus.store.last(ctx, policy.ControlStream(q.name), []string{prefix + "*"})
	if err != nil {
		return err
	}
	now, slots, rate := time.Now(), make(map[int]seenSlot), seenRate{}
	for _, f := range list {
		name := strings.TrimPrefix(f.subject, prefix)
		if name == policy.SlotRate {
			rate.seq = f.seq
			rate.next, _ = decodeRate(f.frame) // what is no time lies long back
			continue
		}
		n, err := strconv.Atoi(name)
		if err != nil || n < 0 || n >= maxRunning || strconv.Itoa(n) != name {
			continue
		}
		h, err := decodeSlot(f.frame)
		if err != nil {
			h = slotHold{} // what says nothing is free
		}
		s := seenSlot{h, f.seq, now}
		if before := g.view.slots[n]; before.seq == f.seq {
			s.since = before.since
		}
		slots[n] = s
	}
	g.view = slotView{slots, rate}
	return nil
}

// write puts something into a slot if nobody has since it was seen. It returns the slot's new place in the stream.
func (g *gate) write(ctx context.Context, slot string, seen uint64, content []byte) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	l, done := g.queue.worker.bus.wire.use()
	defer done()
	ack, err := l.js.Publish(ctx, policy.SlotSubject(g.queue.name, slot), content, jetstream.WithExpectStream(policy.ControlStream(g.queue.name)),
		jetstream.WithExpectLastSequencePerSubject(seen))
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

func isOutrun(err error) bool {
	code := jetStreamCode(err)
	return code == codeWrongSequence || code == codeWrongSequenceNow
}

// hold writes that this worker has a slot.
func (g *gate) hold(ctx context.Context, n int, seen uint64) error {
	w := g.queue.worker
	now := time.Now()
	mine := slotHold{w.bus.self.Name(), w.id, g.term()}
	seq, err := g.write(ctx, strconv.Itoa(n), seen, mine.encode())
	if err == nil {
		g.view.slots[n] = seenSlot{mine, seq, now}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err == nil:
		g.held[n] = &heldSlot{seq, now}
	case isOutrun(err):
		delete(g.held, n)
	}
	return err
}

// free writes that nobody has a slot. Where it fails, the slot is free when its term is over.
func (g *gate) free(ctx context.Context, n int, seen uint64) {
	if seq, err := g.write(ctx, strconv.Itoa(n), seen, slotHold{}.encode()); err == nil {
		g.view.slots[n] = seenSlot{slotHold{}, seq, time.Now()}
	} else if ctx.Err() == nil {
		g.queue.worker.bus.log.Debug("a slot could not be given back", "queue", g.queue.name, "error", err)
	}
}

// run looks after slots and starts until the worker ends, and gives back what is not in use then.
func (g *gate) run() {
	w := g.queue.worker
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-g.wake:
		case <-timer.C:
		case <-w.ctx.Done():
			w.bus.wire.drop(g.route)
			ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
			defer cancel()
			if w.bus.Connected() {
				g.release(ctx, true)
			}
			return
		}
		timer.Reset(g.step(w.ctx))
	}
}

// step does what is due, and returns when to come again.
func (g *gate) step(ctx context.Context) time.Duration {
	w := g.queue.worker
	w.mu.Lock()
	nothing := !g.limited() && len(g.held) == 0
	w.mu.Unlock()
	if nothing {
		return ordersEvery
	}
	if w.bus.Connected() {
		g.renew(ctx)
		g.release(ctx, false)
		g.takeSlots(ctx)
		g.takeStarts(ctx)
	}
	return g.after()
}

// renew writes slots again before their term is over.
func (g *gate) renew(ctx context.Context) {
	w := g.queue.worker
	w.mu.Lock()
	g.drop(time.Now())
	due := make(map[int]uint64)
	for n, s := range g.held {
		if time.Since(s.renewed) >= g.term()/3 {
			due[n] = s.seq
		}
	}
	w.mu.Unlock()
	for n, seq := range due {
		if err := g.hold(ctx, n, seq); err != nil && ctx.Err() == nil {
			w.bus.log.Warn("a slot could not be kept", "queue", g.queue.name, "error", err)
		}
	}
}

// release gives back slots that nothing runs under: those beyond the limit at once, others when nothing has come for a moment.
func (g *gate) release(ctx context.Context, all bool) {
	q := g.queue
	w := q.worker
	w.mu.Lock()
	now, spare := time.Now(), len(g.held)-g.used
	waits := q.ready() > 0 && w.idle > 0
	if spare <= 0 || waits {
		g.idle = time.Time{}
	} else if g.idle.IsZero() {
		g.idle = now
	}
	all = all || q.orders.paused || w.stopping || !g.idle.IsZero() && now.Sub(g.idle) >= slotLinger
	back := make(map[int]uint64)
	for _, n := range slices.Backward(slices.Sorted(maps.Keys(g.held))) {
		if len(back) < spare && (all || n >= g.limits.running) {
			back[n] = g.held[n].seq
			delete(g.held, n) // so that nothing begins under it
		}
	}
	if all && len(back) > 0 {
		g.idle, g.short = time.Time{}, false
		w.stir() // to see whether there is any task
	}
	w.mu.Unlock()
	for n, seq := range back {
		g.free(ctx, n, seq)
	}
}

// wanted returns how many more slots this worker has use for. It is called with the lock held.
func (g *gate) wanted() int {
	q := g.queue
	if g.limits.running == 0 || q.orders.paused || q.worker.stopping {
		return 0
	}
	n := q.ready()
	if g.short {
		n = max(n, 1) // before a task is asked for: others would have to wait for it
	}
	n = min(n, q.worker.idle) - (len(g.held) - g.used)
	return min(n, g.limits.running-len(g.held))
}

// takeSlots tries for as many slots as this worker has use for.
func (g *gate) takeSlots(ctx context.Context) {
	w := g.queue.worker
	for range slotTries {
		w.mu.Lock()
		want, running := g.wanted(), g.limits.running
		look := g.hint || !g.short || time.Since(g.looked) >= g.pause
		w.mu.Unlock()
		if want <= 0 || !look && !g.view.anyFree(running, time.Now()) {
			return
		}
		if look {
			if err := g.see(ctx); err != nil {
				return
			}
		}
		got, outrun := g.takeFree(ctx, want, running)
		w.mu.Lock()
		g.hint = g.hint || outrun
		if g.short = got < want; g.short {
			w.unready(g.queue, len(g.held))
		}
		if got > 0 {
			w.waiting.Broadcast()
			w.stir() // there is room for tasks
		}
		w.mu.Unlock()
		if !outrun {
			return
		}
		pause(ctx, rand.N(slotPause)) // no secret
	}
}

// takeFree writes to slots that look free. It reports whether another was faster at one.
func (g *gate) takeFree(ctx context.Context, want, running int) (got int, outrun bool) {
	w := g.queue.worker
	now := time.Now()
	for _, n := range rand.Perm(running) {
		if got == want {
			break
		}
		w.mu.Lock()
		_, mine := g.held[n]
		w.mu.Unlock()
		s := g.view.slots[n]
		// One that this worker has without knowing it is one whose acknowledgement was lost.
		if mine || !s.isFree(now) && s.worker != w.id {
			continue
		}
		switch err := g.hold(ctx, n, s.seq); {
		case err == nil:
			got++
		case isOutrun(err):
			outrun = true
		default:
			return got, false
		}
	}
	return got, outrun
}

// takeStarts reserves starts when there is a task, a handler and, where one is needed, a slot for it.
func (g *gate) takeStarts(ctx context.Context) {
	q := g.queue
	w := q.worker
	for range slotTries {
		w.mu.Lock()
		now := time.Now()
		g.starts.late(now)
		need := g.limits.every > 0 && g.starts.left == 0 && q.ready() > 0 && w.idle > 0 && !q.orders.paused && !w.stopping &&
			(g.limits.running == 0 || len(g.held) > g.used) && !now.Before(g.asking)
		every, n := g.limits.every, g.starts.next(g.limits.every)
		w.mu.Unlock()
		if !need {
			return
		}
		if err := g.see(ctx); err != nil {
			return
		}
		first, then, wait := reserve(g.view.rate.next, now, every, n)
		if wait == 0 {
			_, err := g.write(ctx, policy.SlotRate, g.view.rate.seq, encodeRate(then))
			if isOutrun(err) {
				pause(ctx, rand.N(slotPause)) // no secret
				continue
			}
			if err != nil {
				return
			}
		}
		w.mu.Lock()
		if wait > 0 {
			g.asking = now.Add(wait)
		} else if g.limits.every == every {
			g.starts.give(first, every, n)
		}
		w.mu.Unlock()
		return
	}
}

// after returns when to look again, and has the handlers look now.
func (g *gate) after() time.Duration {
	q := g.queue
	w := q.worker
	now, next := time.Now(), g.term()/3
	sooner := func(d time.Duration) { next = min(next, max(d, time.Millisecond)) }
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range g.held {
		sooner(g.term()/3 - now.Sub(s.renewed))
	}
	if !g.idle.IsZero() {
		sooner(slotLinger - now.Sub(g.idle))
	}
	if g.short {
		sooner(g.pause - now.Sub(g.looked))
		for _, s := range g.view.slots {
			if !s.free() {
				sooner(s.term - now.Sub(s.since))
			}
		}
	}
	if q.ready() > 0 && w.idle > 0 {
		if q.open() {
			w.waiting.Broadcast()
		} else if g.limits.every > 0 && g.starts.left > 0 {
			sooner(g.starts.at.Sub(now))
		} else if g.asking.After(now) {
			sooner(g.asking.Sub(now))
		} else if !g.short {
			sooner(slotPause)
		}
	}
	return next
}
