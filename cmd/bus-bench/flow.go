package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// flow counts what is on the way between one publisher and its subscribers' handlers, and has the publisher wait when
// that is as much as may be, so that no buffer overflows and every message is handled. It is the same for both sides, and
// costs a message an atomic addition in the handler.
type flow struct {
	limit  uint64 // messages on the way to each
	sent   uint64 // the publisher's alone
	low    uint64 // every gauge is known to have reached this
	gauges []gauge
	faults *faults
	stall  time.Duration
	timer  *time.Timer
}

func newFlow(size, subscribers int, f *faults) *flow {
	limit := min(maxOnWay, maxOnWayBytes/size, maxOnAllWays/subscribers, maxAllBytes/(size*subscribers))
	fl := &flow{limit: uint64(max(limit, 2)), gauges: make([]gauge, subscribers), faults: f, stall: stall, timer: time.NewTimer(stall)}
	for i := range fl.gauges {
		fl.gauges[i].reached = make(chan struct{}, 1)
	}
	return fl
}

// gauge counts what one subscriber's handlers have been given.
type gauge struct {
	handled atomic.Uint64
	wanted  atomic.Uint64 // tell the publisher at this
	reached chan struct{}
	_       [104]byte // no other's counter in the same cache lines
}

// add counts one message.
func (g *gauge) add() {
	if g.handled.Add(1) == g.wanted.Load() {
		select {
		case g.reached <- struct{}{}:
		default: // there is an older token, and whoever takes it looks
		}
	}
}

// room waits until one more message may be sent, and counts it as sent.
func (f *flow) room(ctx context.Context) error {
	if f.sent-f.low >= f.limit {
		if err := f.await(ctx, f.sent-f.limit/2); err != nil {
			return err
		}
	}
	f.sent++
	return nil
}

// drain waits for everything that was sent. More than that must not come either.
func (f *flow) drain(ctx context.Context) error {
	if err := f.await(ctx, f.sent); err != nil {
		return err
	}
	for i := range f.gauges {
		if n := f.gauges[i].handled.Load(); n != f.sent {
			return fmt.Errorf("%d messages were sent and %d handled", f.sent, n)
		}
	}
	return f.faults.first()
}

// await waits until every subscriber has handled so many.
func (f *flow) await(ctx context.Context, target uint64) error {
	for i := range f.gauges {
		g := &f.gauges[i]
		g.wanted.Store(target)
		for g.handled.Load() < target {
			f.timer.Reset(f.stall)
			select {
			case <-g.reached:
			case <-f.faults.some:
				return f.faults.first()
			case <-ctx.Done():
				return ctx.Err()
			case <-f.timer.C:
				return fmt.Errorf("%d messages were sent and %d handled; the others are lost", f.sent, g.handled.Load())
			}
		}
	}
	f.low = target
	return nil
}
