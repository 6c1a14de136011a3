package agentbus

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// replay is one loop over a stream. One goroutine reads pages, others open what is in them, a piece at a time, and the loop is
// given that in the order of the stream. A page is read while those before it are opened and given out; how many wait is
// bounded, and with that how much memory it takes.
type replay struct {
	bus      *Bus
	options  replayOptions
	sender   string // whose alone is wanted, an identity; empty: everybody's
	channel  policy.Channel
	source   replaySource
	reader   *streamReader
	full     bool // the broker's headers are needed
	follow   follow
	from, to uint64 // to is 0 while the replay follows
	waits    keyWaits

	ctx    context.Context
	cancel context.CancelFunc
	others sync.WaitGroup
	pages  chan *replayPage // closed at the end
	work   chan *replayPiece
	spare  chan *replayPiece

	// Of the loop alone.
	details *streamReader // of what cannot be opened
	read    *readFrames
	pacer   pacer
	meter   replayMeter
	scratch openerScratch
}

// replaySource is what is different about topics and queues.
type replaySource interface {
	// open opens messages of the stream. It is called by several goroutines at a time.
	open(slots []replaySlot, b *openerScratch)

	// prepare makes a piece ready that was opened, while the loop is at the one before.
	prepare(slots []replaySlot) error

	// again reports whether a frame that was read before is in the stream again for a reason.
	again(s *replaySlot) bool

	// give gives to the loop what was opened, and reports whether it goes on.
	give(s *replaySlot) bool
}

func (b *Bus) newReplay(ch policy.Channel, stream string, o replayOptions) (*replay, error) {
	r := &replay{bus: b, options: o, channel: ch, reader: newStreamReader(b.store, stream), details: newStreamReader(b.store, stream),
		follow: follow{wake: make(chan struct{}, 1)}, read: newReadFrames(maxReadSessions), pacer: pacer{speed: o.speed},
		pages: make(chan *replayPage, pagesAhead), work: make(chan *replayPiece, piecesAhead), spare: make(chan *replayPiece, sparePieces)}
	if o.sender != "" {
		id, err := identity.AgentID(b.self.TrustDomain(), o.sender)
		if err != nil {
			return nil, fmt.Errorf("agentbus: BySender(%.80q): give the agent's name, as the policy has it: %w", o.sender, err)
		}
		r.sender = id.String()
	}
	return r, nil
}

// run reads, opens and gives everything to the loop. fail gives it an error, and reports whether it goes on.
func (r *replay) run(ctx context.Context, fail func(error) bool) {
	r.ctx, r.cancel = context.WithCancel(ctx)
	defer r.end()
	if err := r.begin(); err != nil {
		fail(r.bus.closedOr(r.ctx, err))
		return
	}
	r.bus.remark(r.reader.stream, r.from, r.to)
	for range runtime.GOMAXPROCS(0) {
		r.others.Go(r.opener)
	}
	r.others.Go(r.fetch)
	r.meter.begin(r)
	defer r.meter.stop()
	for {
		select {
		case p := <-r.pages:
			switch {
			case p == nil && r.ctx.Err() == nil:
				r.meter.last()
				return
			case p == nil: // the context says why
			case p.err != nil:
				fail(r.bus.closedOr(r.ctx, p.err))
				return
			case !r.page(p, fail):
				return
			}
		case <-r.meter.tick:
			r.meter.tell()
		case <-r.ctx.Done():
			r.interrupted(fail)
			return
		}
	}
}

// end ends everything, and waits for that.
func (r *replay) end() {
	r.cancel()
	r.others.Wait()
	r.reader.close()
	r.details.close()
}

func (r *replay) interrupted(fail func(error) bool) {
	fail(r.bus.closedOr(r.ctx, fmt.Errorf("agentbus: replaying %s: %w", r.channel, r.ctx.Err())))
}

// opener opens pieces.
func (r *replay) opener() {
	var scratch openerScratch
	for {
		select {
		case p := <-r.work:
			r.source.open(p.slots, &scratch)
			close(p.done)
		case <-r.ctx.Done():
			return
		}
	}
}

// page gives a page to the loop.
func (r *replay) page(p *replayPage, fail func(error) bool) bool {
	if r.meter.end = r.to; r.to == 0 {
		r.meter.end = p.end
	}
	var next <-chan struct{}
	for n, piece := range p.pieces {
		ready := next
		if ready == nil {
			ready = r.prepare(piece)
		}
		if !r.await(ready) {
			r.interrupted(fail)
			return false
		}
		if piece.err != nil {
			fail(r.bus.closedOr(r.ctx, piece.err))
			return false
		}
		if n+1 < len(p.pieces) {
			next = r.prepare(p.pieces[n+1])
		}
		for i := range piece.slots {
			s := &piece.slots[i]
			if r.to > 0 && s.seq > r.to {
				break
			}
			r.meter.position = s.seq
			if !r.slot(p, s, fail) {
				return false
			}
			r.meter.look()
		}
		r.release(piece)
	}
	return true
}

// prepare returns a channel that is closed when a piece is opened and ready.
func (r *replay) prepare(piece *replayPiece) <-chan struct{} {
	if !r.full { // there is nothing to do
		return piece.done
	}
	ready := make(chan struct{})
	r.others.Go(func() {
		defer close(ready)
		select {
		case <-piece.done:
			piece.err = r.source.prepare(piece.slots)
		case <-r.ctx.Done():
		}
	})
	return ready
}

// await waits until a channel is closed or has something, or the replay is to end.
func (r *replay) await(done <-chan struct{}) bool {
	for {
		select {
		case <-done:
			return true
		case <-r.meter.tick:
			r.meter.tell()
		case <-r.ctx.Done():
			return false
		}
	}
}

// slot gives what is in one message of the stream to the loop.
func (r *replay) slot(p *replayPage, s *replaySlot, fail func(error) bool) bool {
	if missing(s.err) {
		r.retry(s)
	}
	if s.pass && keyring.ReasonOf(s.err) == keyring.NoKey {
		r.attest(s)
	}
	if o := &s.opened; s.err == nil && !o.Session.IsZero() {
		if why := r.read.add(o.Session, o.Card, o.Seq, o.ID.Time()); why != "" && !r.source.again(s) {
			s.err = &keyring.Rejection{Reason: keyring.Seen, Channel: o.Channel.String(), Sender: o.Sender.String(), ID: o.ID, Detail: why}
		}
	}
	switch {
	case s.err != nil:
		return r.failed(p, s, fail)
	case s.pass:
		return true
	case r.pacer.speed > 0 && !r.pause(r.pacer.wait(s.time, time.Now())):
		r.interrupted(fail)
		return false
	}
	return r.source.give(s)
}

// failed tells the loop of what could not be opened.
func (r *replay) failed(p *replayPage, s *replaySlot, fail func(error) bool) bool {
	reason := keyring.ReasonOf(s.err)
	if reason == 0 { // the keyring is closed, or the store does not answer
		fail(r.bus.closedOr(r.ctx, s.err))
		return false
	}
	r.bus.counts.rejectedFor(reason)
	r.meter.errors++
	r.describe(p, s)
	return fail(&ReplayError{Sequence: s.seq, Subject: s.subject, Stored: s.at(), Err: s.err})
}

// pause waits, and reports whether that was all.
func (r *replay) pause(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	over := make(chan struct{})
	t := time.AfterFunc(d, func() { close(over) })
	defer t.Stop()
	return r.await(over)
}
