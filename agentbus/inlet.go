package agentbus

import (
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"
)

// inlet is where the frames of a subscription wait to be opened, in the order in which they came. It is bounded
// in frames and in bytes: opening a signed frame takes longer than receiving one, so that whoever may publish
// could otherwise fill this agent's memory. nats.go's own bound on bytes does not hold for channels.
type inlet struct {
	dropped func(subject string) // called for a frame that found no room

	mu      sync.Mutex
	current chan *nats.Msg
	next    chan *nats.Msg // of the connection that is taking over; nil if none is
	waiting []arrival
	bytes   int
	lost    atomic.Uint64 // frames that nats.go had to drop

	some    chan struct{} // something is waiting
	change  chan struct{} // next is to become current
	stopped chan struct{} // take in what has come, then end
	ended   chan struct{}
}

// arrival is a frame as it came. again: it may have come before, over the connection that was replaced.
type arrival struct {
	m     *nats.Msg
	again bool
}

func newInlet(dropped func(subject string)) *inlet {
	l := &inlet{dropped: dropped, current: make(chan *nats.Msg, wireBuffer), some: make(chan struct{}, 1),
		change: make(chan struct{}), stopped: make(chan struct{}), ended: make(chan struct{})}
	go l.run()
	return l
}

// source returns the channel that nats.go delivers into: that of the connection in use, or of the next one.
func (l *inlet) source(next bool) chan *nats.Msg {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !next {
		return l.current
	}
	if l.next == nil {
		l.next = make(chan *nats.Msg, wireBuffer)
	}
	return l.next
}

// changeOver has the inlet read from the next connection once the current one is read to its end. Nothing more
// comes over that.
func (l *inlet) changeOver() {
	select {
	case l.change <- struct{}{}:
	case <-l.ended:
	}
}

// stay forgets a next connection that did not come to be used.
func (l *inlet) stay() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next = nil
}

// end stops the inlet. What has come is still in waiting.
func (l *inlet) end() { close(l.stopped) }

// run moves frames from nats.go's bounded channel to where they wait.
func (l *inlet) run() {
	defer close(l.ended)
	in := l.source(false)
	for {
		select {
		case m := <-in:
			l.put(arrival{m: m})
		case <-l.change:
			l.empty(in, false)
			l.mu.Lock()
			if l.next != nil {
				l.current, l.next = l.next, nil
			}
			in = l.current
			l.mu.Unlock()
			l.empty(in, true)
		case <-l.stopped:
			l.empty(in, false)
			l.mu.Lock()
			next := l.next
			l.mu.Unlock()
			if next != nil {
				l.empty(next, true)
			}
			return
		}
	}
}

// empty moves what is in a channel now.
func (l *inlet) empty(in <-chan *nats.Msg, again bool) {
	for n := len(in); n > 0; n-- {
		l.put(arrival{<-in, again})
	}
}

func (l *inlet) put(a arrival) {
	l.mu.Lock()
	full := len(l.waiting) >= maxWaiting || l.bytes+len(a.m.Data) > maxWaitingBytes && len(l.waiting) > 0
	if !full {
		l.waiting = append(l.waiting, a)
		l.bytes += len(a.m.Data)
	}
	l.mu.Unlock()
	if full {
		l.dropped(a.m.Subject)
		return
	}
	select {
	case l.some <- struct{}{}:
	default:
	}
}

// take returns the frames that wait, all of them, in order. Its argument is what it returned before.
func (l *inlet) take(spare []arrival) []arrival {
	clear(spare)
	l.mu.Lock()
	defer l.mu.Unlock()
	taken := l.waiting
	l.waiting, l.bytes = spare[:0], 0
	return taken
}

// missed notes what nats.go dropped on a subscription that is about to end.
func (l *inlet) missed(sub *nats.Subscription) {
	if n, err := sub.Dropped(); err == nil {
		l.lost.Add(uint64(n))
	}
}
