package agentbus

import (
	"time"

	"github.com/nats-io/nats.go"
)

// follow is how a replay waits at the end of its stream. It looks again and again, ever more seldom. Where nothing has come for a
// while it subscribes to the live subjects, if it may, so that it hears at once of what comes next; while there is enough to
// read it does not, because everything would come twice.
type follow struct {
	routes []*route
	heard  bool // it is subscribed
	pause  time.Duration
	wake   chan struct{}
}

// hears has it listen on a subject when it is idle.
func (f *follow) hears(subject string) {
	f.routes = append(f.routes, &route{subject: subject, fn: func(*nats.Msg) {
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}})
}

// wait returns when there may be more, and false when the replay is to end. got says that there was something since
// the call before.
func (f *follow) wait(r *replay, got bool) bool {
	if got || f.pause == 0 {
		f.pause = followPause
		f.stop(r)
	}
	if f.pause > followIdle && !f.heard && len(f.routes) > 0 {
		f.listen(r)
	}
	restored := r.bus.wire.restored.next()
	look := time.NewTimer(f.pause)
	defer look.Stop()
	f.pause = min(2*f.pause, followMost)
	select {
	case <-look.C:
	case <-restored:
	case <-f.wake: // what passes by is stored a moment later, or never
		f.pause = followPause
		pause(r.ctx, followPause)
	case <-r.ctx.Done():
	}
	return r.ctx.Err() == nil
}

// listen subscribes, and has the stream looked at at once when the broker has that. Where it may not, looking has to do.
func (f *follow) listen(r *replay) {
	f.heard = true
	if r.bus.wire.add(f.routes...) != nil {
		return
	}
	if r.bus.wire.settle(r.ctx, f.routes...) == nil {
		f.pause = followPause
	}
}

func (f *follow) stop(r *replay) {
	if f.heard {
		for _, route := range f.routes {
			r.bus.wire.drop(route)
		}
	}
	f.heard = false
}
