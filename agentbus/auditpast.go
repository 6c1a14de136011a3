package agentbus

import (
	"crypto/sha256"
	"time"

	"github.com/sealbus/sealbus/audit"
)

// logged is what a follower has to know of what its log has.
type logged struct {
	at        time.Time         // of the last entry
	last      audit.Frame       // the last message
	next      uint64            // the sequence behind the last that the stream was seen to have
	first     uint64            // the first message that the stream has, as far as that was logged
	created   time.Time         // when the stream was made
	config    [32]byte          // hash of its configuration
	eras      []auditEra        // policies, the newest last
	known     map[[32]byte]bool // hashes of statements of cards and keys that have an entry
	destroyed time.Time
}

// auditEra is from when on a policy is in force, by the log.
type auditEra struct {
	revision uint64
	hash     [32]byte
	last     uint64 // the last message that the stream had by then
	logged   time.Time
}

// read reads the whole log for that. Entries of messages, which are nearly all, are not taken apart.
func (p *logged) read(log *audit.Log) error {
	p.known, p.next = make(map[[32]byte]bool), 1
	var e audit.Entry
	for raw, err := range log.Entries(0) {
		if err != nil {
			return err
		}
		if kind, sequence := audit.Peek(raw); kind == audit.KindFrame {
			p.next = sequence + 1
			continue
		}
		if err := audit.ParseEntry(raw, &e); err != nil {
			return err
		}
		p.take(&e)
	}
	if n := log.Size(); n > 0 {
		last, err := log.Entry(n - 1)
		if err != nil {
			return err
		}
		p.at = last.Logged
	}
	e, err := log.Last()
	p.last = e.Frame
	return err
}

// take takes in an entry that is in the log.
func (p *logged) take(e *audit.Entry) {
	p.at = e.Logged
	v := &e.Event
	switch e.Kind {
	case audit.KindFrame:
		p.last, p.next = e.Frame, e.Frame.Sequence+1
	case audit.KindOpened:
		p.first = v.First
	case audit.KindResumed, audit.KindStill, audit.KindClosed:
		p.next = min(p.next, v.Last+1) // the stream's end was cut off: it goes on from there
	case audit.KindPruned:
		p.first = v.Last + 1
	case audit.KindPolicy:
		if len(p.eras) == maxAuditEras {
			p.eras = append(p.eras[:0], p.eras[1:]...)
		}
		p.eras = append(p.eras, auditEra{v.Revision, v.Hash, v.Last, e.Logged})
	case audit.KindCard, audit.KindKey:
		p.known[v.Hash] = true
	case audit.KindConfig:
		if !p.created.IsZero() && !v.Time.Equal(p.created) { // another stream
			p.first, p.next = v.First, 1
		}
		p.created, p.config = v.Time, v.Hash
	case audit.KindDestroyed:
		p.destroyed = v.Time
	}
}

// revision returns the revision of the policy that the log has last, 0 where it has none.
func (p *logged) revision() uint64 {
	if len(p.eras) == 0 {
		return 0
	}
	return p.eras[len(p.eras)-1].revision
}

// eraHash returns the hash of that policy.
func (p *logged) eraHash() (hash [32]byte) {
	if len(p.eras) > 0 {
		hash = p.eras[len(p.eras)-1].hash
	}
	return hash
}

// ends reports whether the last message that was logged is the last that the stream was seen to have.
func (p *logged) ends() bool { return p.last.Sequence > 0 && p.last.Sequence+1 == p.next }

// is reports whether a message is the last one that was logged.
func (p *logged) is(s *audit.Stored) bool {
	return s.Sequence == p.last.Sequence && s.Subject == p.last.Subject && s.Time.Equal(p.last.Stored) && sha256.Sum256(s.Data) == p.last.Data
}
