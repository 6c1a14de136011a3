package agentbus

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
)

// intake opens the frames that arrive at one place and hands on, in their order, what passed every check. A frame
// whose key or sender's card is not here yet is parked while one goroutine fetches what is missing: the other
// senders do not wait for it.
type intake struct {
	bus     *Bus
	rc      *keyring.Receiver
	counts  *counters
	inlet   *inlet
	whole   bool                                    // every frame of the channel is due here
	want    func(m *nats.Msg) (keyring.Want, error) // what is expected of a frame that arrived so
	deliver func(m *nats.Msg, o *keyring.Opened)    // does not block; o is used again
	control func(m *nats.Msg) bool                  // takes the server's own messages; may be nil

	opening opening
	again   keyring.Unsealed
	opened  keyring.Opened

	parked  *lot
	ready   chan claim // sessions whose fetch has ended
	overdue chan claim // sessions that have waited long enough for another
	ctx     context.Context
	cancel  context.CancelFunc
	fetches sync.WaitGroup
}

func newIntake(b *Bus, rc *keyring.Receiver, c *counters) *intake {
	in := &intake{bus: b, rc: rc, counts: c, parked: newLot(), ready: make(chan claim, maxParkedGroups), overdue: make(chan claim)}
	in.opening.in = in
	in.ctx, in.cancel = context.WithCancel(b.ctx)
	in.inlet = newInlet(func(subject string) {
		if c.dropped.Add(1) == 1 {
			b.log.Warn("frames arrive faster than they can be opened; some are dropped", "subject", subject)
		}
	})
	return in
}

// run opens frames until the inlet has ended, then those that have arrived by then. Those that wait for a key
// get their chance too, for a moment.
func (in *intake) run() {
	defer in.fetches.Wait()
	defer in.cancel()
	var batch []arrival
	for ended := false; !ended; batch = in.takeAll(batch) {
		select {
		case <-in.inlet.some:
		case c := <-in.ready:
			in.resume(c)
		case c := <-in.overdue:
			in.proceed(c)
		case <-in.inlet.ended:
			ended = true
		}
	}
	timeout := time.NewTimer(drainWait)
	defer timeout.Stop()
	for len(in.parked.groups) > 0 {
		select {
		case c := <-in.ready:
			in.resume(c)
		case c := <-in.overdue:
			in.proceed(c)
		case <-timeout.C:
			in.giveUp()
		}
	}
}

// takeAll takes what waits in the inlet.
func (in *intake) takeAll(spare []arrival) []arrival {
	batch := in.inlet.take(spare)
	for rest := batch; len(rest) > 0; {
		slots := in.unseal(rest)
		rest = rest[len(slots):]
		for i := range slots {
			in.take(&slots[i])
			slots[i].arrival = arrival{}
			select {
			case c := <-in.ready:
				in.resume(c)
			case c := <-in.overdue:
				in.proceed(c)
			default:
			}
		}
	}
	in.opening.release()
	return batch
}

// take accepts a frame that has been unsealed, or parks it.
func (in *intake) take(s *slot) {
	a := s.arrival
	if in.control != nil && in.control(a.m) {
		return
	}
	if len(in.parked.groups) > 0 {
		c, ok := claimOf(a.m.Data)
		if ok && in.parked.groups[c] != nil {
			in.park(c, a, nil)
			return
		}
		if ok && in.parked.blocked(c, in.parked.count+1) {
			in.await(in.park(c, a, nil))
			return
		}
	}
	err := s.err
	if err == nil {
		err = in.accept(a.m, &s.unsealed)
	}
	if missing(err) {
		if c, ok := claimOf(a.m.Data); ok {
			in.fetch(in.park(c, a, err))
			return
		}
	}
	in.failed(a, err)
}

// missing reports whether a frame could not be opened for want of something that can be fetched.
func missing(err error) bool {
	if err == nil {
		return false
	}
	reason := keyring.ReasonOf(err)
	return (reason == keyring.NoKey || reason == keyring.NoCard) && !errors.Is(err, keyring.ErrKeyDestroyed)
}

// open opens a frame that was parked.
func (in *intake) open(a arrival) error {
	if err := in.unsealOne(a.m, &in.again); err != nil {
		return err
	}
	return in.accept(a.m, &in.again)
}

// accept enters a frame into the replay state and hands its messages on.
func (in *intake) accept(m *nats.Msg, u *keyring.Unsealed) error {
	o := &in.opened
	if err := in.rc.Accept(u, o); err != nil {
		return err
	}
	in.parked.accepted(o.Card, o.Session)
	if in.whole {
		in.counts.lost.Add(o.Lost)
	}
	if o.Kind == envelope.KindControl {
		return nil // a session note, of which nobody here need know more
	}
	in.counts.received.Add(uint64(len(o.Messages)))
	in.deliver(m, o)
	return nil
}

// failed counts a frame that was not accepted.
func (in *intake) failed(a arrival, err error) {
	if err == nil {
		return
	}
	var r *keyring.Rejection
	switch {
	case errors.Is(err, keyring.ErrClosed):
	case a.again && (errors.Is(err, errLate) || keyring.ReasonOf(err) == keyring.Seen):
		// It came over the connection before as well.
	case errors.Is(err, errLate):
		in.counts.late.Add(1)
	case errors.As(err, &r):
		in.bus.reject(in.counts, a.m, r)
	default: // the state directory cannot be written
		if in.counts.dropped.Add(1)%1000 == 1 {
			in.bus.log.Error("frames cannot be accepted and are dropped", "error", err)
		}
	}
}

// park sets a frame aside. cause is why it could not be opened. It returns nil where there is no room.
func (in *intake) park(c claim, a arrival, cause error) *group {
	g := in.parked.add(c, a, keyring.ReasonOf(cause) == keyring.NoCard)
	if g == nil {
		if cause == nil {
			cause = &keyring.Rejection{Reason: keyring.NoKey, Channel: c.channel, Sender: c.sender, Detail: "too many frames wait for keys"}
		}
		in.failed(a, cause)
	}
	return g
}

// fetch fetches what the frames of a group lack.
func (in *intake) fetch(g *group) {
	if g == nil {
		return
	}
	g.fetching = true
	c, frame, until, sealed := g.claim, g.frames[0].m.Data, g.until, g.sealed
	in.fetches.Go(func() {
		// Not from now on: sessions that wait for one another, made up by somebody, would add up.
		ctx, cancel := context.WithDeadline(in.ctx, until)
		defer cancel()
		// Whether it worked is seen when the frames are opened again.
		for in.bus.ring.Await(ctx, frame) != nil && sealed && ctx.Err() == nil {
			pause(ctx, cardPause) // its sender renews the card at this moment, or comes back with a new certificate
		}
		in.ready <- c // has room: there are never more than maxParkedGroups
	})
}

// await sees to it that a group does not wait for another session for longer than orderWait: that one's key may
// never come, because it is not given to newcomers for example.
func (in *intake) await(g *group) {
	if g == nil {
		return
	}
	c := g.claim
	in.fetches.Go(func() {
		pause(in.ctx, in.bus.config.orderWait)
		select {
		case in.overdue <- c:
		case <-in.ctx.Done():
		}
	})
}

// proceed opens the frames of a group that need not wait for another any more.
func (in *intake) proceed(c claim) {
	if g := in.parked.groups[c]; g != nil && !g.fetching {
		in.retry(g)
	}
}

// resume opens the frames of a group whose fetch has ended, and of those that waited for it.
func (in *intake) resume(c claim) {
	for _, a := range in.parked.remove(c) {
		in.failed(a, in.open(a))
	}
	for g := in.parked.unblocked(c.card); g != nil; g = in.parked.unblocked(c.card) {
		in.retry(g)
	}
}

// retry opens the frames of a group that waited for another; it may lack something itself.
func (in *intake) retry(g *group) {
	first := g.frames[0]
	err := in.open(first)
	if missing(err) {
		in.fetch(g)
		return
	}
	in.failed(first, err)
	for _, a := range in.parked.remove(g.claim)[1:] {
		in.failed(a, in.open(a))
	}
}

// giveUp rejects what still waits.
func (in *intake) giveUp() {
	for c := range in.parked.groups {
		for _, a := range in.parked.remove(c) {
			in.failed(a, &keyring.Rejection{Reason: keyring.NoKey, Channel: c.channel, Sender: c.sender,
				Detail: "the subscription ended before the key came"})
		}
	}
}

// misdirected is a rejection before the keyring is asked.
func misdirected(detail string) error {
	return &keyring.Rejection{Reason: keyring.Misdirected, Detail: detail}
}
