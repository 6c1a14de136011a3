package agentbus

import (
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
)

// slot is a frame being opened.
type slot struct {
	arrival
	unsealed keyring.Unsealed
	err      error
}

// opening is some frames of one intake being unsealed, by its own goroutine and by openers that have nothing else to do.
type opening struct {
	in      *intake
	slots   []slot
	next    atomic.Int64
	helpers sync.WaitGroup
}

// openers are the goroutines that help to unseal: one for each further core, for all intakes of a bus.
type openers struct {
	offers chan *opening
	end    <-chan struct{}
}

func newOpeners(end <-chan struct{}) *openers {
	o := &openers{offers: make(chan *opening), end: end}
	for range runtime.GOMAXPROCS(0) - 1 {
		go o.run()
	}
	return o
}

func (o *openers) run() {
	for {
		select {
		case p := <-o.offers:
			p.run()
			p.helpers.Done()
		case <-o.end:
			return
		}
	}
}

// unseal unseals some of the frames that wait, and returns them in their order. What depends on that, the replay state
// first of all, comes after.
func (in *intake) unseal(waiting []arrival) []slot {
	p := &in.opening
	n, work := chunk(waiting)
	if len(p.slots) < n {
		p.slots = append(p.slots, make([]slot, n-len(p.slots))...)
	}
	all := p.slots
	defer func() { p.slots = all }()
	p.slots = all[:n]
	for i := range p.slots {
		p.slots[i].arrival = waiting[i]
	}
	p.next.Store(0)
	if n > 1 && work >= openAlone {
		in.bus.openers.help(p, n-1)
	}
	p.run()
	p.helpers.Wait()
	return p.slots
}

// chunk returns how many of the frames are unsealed together, and what it costs in bytes of a seal.
func chunk(waiting []arrival) (n, work int) {
	for n < min(len(waiting), openFrames) && work < openWork {
		work += len(waiting[n].m.Data)
		if isSigned(waiting[n].m.Data) {
			work += signatureWork
		}
		n++
	}
	return n, work
}

// isSigned and isCommitted read a frame's flags. Of one that has just come nothing is known to be true: all that
// hangs on it is who does the work.
func isSigned(frame []byte) bool    { return len(frame) > 1 && frame[1]&envelope.FlagSigned != 0 }
func isCommitted(frame []byte) bool { return len(frame) > 1 && frame[1]&envelope.FlagCommitted != 0 }

// release lets go of the frames that were opened last, but for a few.
func (p *opening) release() {
	if len(p.slots) > keptSlots {
		clear(p.slots[keptSlots:])
	}
}

// help has at most n goroutines that are idle take part.
func (o *openers) help(p *opening, n int) {
	for range n {
		p.helpers.Add(1)
		select {
		case o.offers <- p:
		default:
			p.helpers.Done()
			return
		}
	}
}

// run unseals one frame after another until none is left.
func (p *opening) run() {
	for i := p.next.Add(1) - 1; i < int64(len(p.slots)); i = p.next.Add(1) - 1 {
		s := &p.slots[i]
		s.err = p.in.unsealOne(s.m, &s.unsealed)
	}
}

func (in *intake) unsealOne(m *nats.Msg, u *keyring.Unsealed) error {
	want, err := in.want(m)
	if err != nil {
		return err
	}
	return in.rc.Unseal(m.Data, &want, u)
}
