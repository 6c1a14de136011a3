package agentbus

import (
	"time"

	"github.com/sealbus/sealbus/policy"
)

// regroup waits a moment for company, of a batch that took d to store.
//
// Those who have been told that their task is stored, each of whom had waited, are given a moment in which to come back with their
// next: else the first of them leaves alone, and all others wait for it. A lone caller is not kept waiting.
//
// Where many results have come while others were being stored, the worker is busier than the broker's disk, and waiting for
// more of them makes that the less work: an atomic batch costs it some milliseconds, however few are in it.
//
// The moment is short beside what all of them have waited for anyway.
func (l *lane) regroup(d time.Duration) {
	l.mu.Lock()
	callers := l.most
	l.most = l.asked
	switch l.ch.Kind() {
	case policy.KindQueue:
		d /= regroupPart
	case policy.KindResult:
		d /= lingerPart
		if callers = 0; l.asked >= manyResults {
			callers = lingerFor * l.asked
		}
	default:
		callers = 0
	}
	if callers < 2 || l.asked >= callers {
		l.mu.Unlock()
		return
	}
	l.needed = callers
	l.mu.Unlock()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-l.back:
		return
	case <-t.C:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.needed == 0 {
		<-l.back // they came just now
	}
	l.needed = 0
}

// tell tells those who wait for a frame's messages what has become of them.
func (l *lane) tell(p *parcel, err error) {
	l.mu.Lock()
	l.asked -= len(p.tickets)
	l.mu.Unlock()
	p.finish(err)
}
