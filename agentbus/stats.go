package agentbus

import (
	"sync/atomic"

	"github.com/sealbus/sealbus/keyring"
)

// Stats are counts since a Bus connected or a Subscription began. A Bus's are those of all its subscriptions, also of
// those that have ended, and of what it does besides them.
type Stats struct {
	Published     uint64 // messages handed over or, if retained, acknowledged; requests too, replies not
	Unsent        uint64 // messages handed over that could not be sealed or sent; Flush returns the first's error
	Received      uint64 // messages that passed every check
	Handled       uint64 // handler calls that returned nil
	HandlerErrors uint64 // handler calls that returned an error
	Panics        uint64 // handler calls that panicked
	Dropped       uint64 // frames and messages that found a buffer full, requests that expired in it
	Lost          uint64 // frames missing from senders' sessions, where a whole topic is read; see the package's text
	Late          uint64 // replies that nobody waited for any more
	Reconnects    uint64 // connections made after the first: after a loss, or to show a renewed certificate
	Skipped       uint64 // entries of the store, policies among them, that were not believed

	// Rejected counts the frames that were not accepted.
	Rejected map[keyring.Reason]uint64
}

// counters counts for one subscription, or for what a bus does besides them.
type counters struct {
	published, unsent, received, handled, errors, panics, dropped, lost, late, reconnects, skipped count
	rejected                                                                                       [32]count
}

type count struct{ atomic.Uint64 }

func (c *counters) rejectedFor(r keyring.Reason) { c.rejected[r&31].Add(1) }

func (c *counters) stats() Stats {
	s := Stats{
		Published: c.published.Load(), Unsent: c.unsent.Load(), Received: c.received.Load(), Handled: c.handled.Load(),
		HandlerErrors: c.errors.Load(), Panics: c.panics.Load(), Dropped: c.dropped.Load(), Lost: c.lost.Load(),
		Late: c.late.Load(), Reconnects: c.reconnects.Load(), Skipped: c.skipped.Load(),
		Rejected: make(map[keyring.Reason]uint64),
	}
	for _, r := range keyring.Reasons() {
		if n := c.rejected[r&31].Load(); n > 0 {
			s.Rejected[r] = n
		}
	}
	return s
}

// plus adds the counts of another.
func (s Stats) plus(o Stats) Stats {
	s.Published += o.Published
	s.Unsent += o.Unsent
	s.Received += o.Received
	s.Handled += o.Handled
	s.HandlerErrors += o.HandlerErrors
	s.Panics += o.Panics
	s.Dropped += o.Dropped
	s.Lost += o.Lost
	s.Late += o.Late
	s.Reconnects += o.Reconnects
	s.Skipped += o.Skipped
	for r, n := range o.Rejected {
		s.Rejected[r] += n
	}
	return s
}
