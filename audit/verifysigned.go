package audit

import (
	"errors"
	"fmt"
	"iter"
	"slices"

	"golang.org/x/mod/sumdb/note"
)

// place is a Place that is being read.
type place struct {
	name string
	pull func() ([]byte, error, bool)
	stop func()
	raw  []byte // the next checkpoint that is to be compared
	next Checkpoint
	over bool
	good int64 // size of the last that fits
	last int64 // and of the one of another size before it
	bad  bool  // there was one that does not
}

func openPlaces(list []Place) (places []*place, err error) {
	for i, p := range list {
		if p.Checkpoints == nil || p.Name == "" {
			return nil, fmt.Errorf("audit: place %d has no name or no checkpoints", i)
		}
		next, stop := iter.Pull2(p.Checkpoints)
		places = append(places, &place{name: p.Name, pull: next, stop: stop, next: Checkpoint{Size: -1}})
	}
	return places, nil
}

// advance reads on to the next checkpoint of this log.
func (l *logReader) advance(p *place) error {
	for {
		raw, err, ok := p.pull()
		if !ok {
			p.over = true
			return nil
		}
		if errors.Is(err, ErrDamaged) {
			l.Integrity.fail(Position{Entry: -1}, "%s: %v", p.name, err)
			p.over = true
			return nil
		}
		if err != nil {
			return fmt.Errorf("audit: reading checkpoints of %s: %w", p.name, err)
		}
		l.Integrity.figure("checkpoints looked at", 1)
		c, err := UnverifiedCheckpoint(raw)
		switch {
		case err != nil:
			l.Integrity.fail(Position{Entry: -1}, "%s has a checkpoint that is none: %v", p.name, err)
			continue
		case c.Origin != l.Origin:
			l.other(c.Origin)
			continue
		}
		p.raw, p.next = slices.Clone(raw), c
		return nil
	}
}

// other tells of another log.
func (l *logReader) other(o Origin) {
	if !slices.Contains(l.Others, o) && len(l.Others) < MaxFindings {
		l.Others = append(l.Others, o)
	}
}

// checkpoints compares those of the size that the log has come to.
func (l *logReader) checkpoints(known note.Verifiers) error {
	for _, p := range l.places {
		for !p.over && p.next.Size <= l.tree.size {
			if p.next.Size >= 0 {
				if err := l.compare(p, known); err != nil {
					return err
				}
			}
			if err := l.advance(p); err != nil {
				return err
			}
		}
	}
	return nil
}

// ahead looks at the checkpoints of more entries than there are.
func (l *logReader) ahead(known note.Verifiers) error {
	if err := l.checkpoints(known); err != nil { // of a log without entries
		return err
	}
	for _, p := range l.places {
		for !p.over {
			if l.verified(p, known) && !l.cameMeanwhile(&p.next) {
				l.Integrity.fail(Position{Entry: l.Size}, "%s has a checkpoint of %d entries, and the log has %d: its end was cut off", p.name, p.next.Size, l.Size)
			}
			if err := l.advance(p); err != nil {
				return err
			}
			for !p.over && p.next.Size <= l.Size {
				if err := l.compare(p, known); err != nil {
					return err
				}
				if err := l.advance(p); err != nil {
					return err
				}
			}
		}
	}
	if l.Covered == 0 && l.Size > 0 && !l.audited() {
		return nil
	}
	if !l.audited() {
		l.Authenticity.fail(Position{Entry: 0}, "no policy of the log lets %s audit %s", l.Origin.Auditor.Name(), l.channel)
	}
	return nil
}

// growing is a log that is being written to.
type growing interface {
	hashed
	refresh() error
	Size() int64
}

// cameMeanwhile reports whether a checkpoint is of entries that the log has got since it was looked at.
func (l *logReader) cameMeanwhile(c *Checkpoint) bool {
	g, ok := l.in.Log.(growing)
	if !ok || g.refresh() != nil || g.Size() < c.Size {
		return false
	}
	root, err := g.Root(c.Size)
	if err != nil || root != c.Root {
		return false
	}
	l.Integrity.figure("checkpoints of what came while this was verified", 1)
	return true
}

// compare compares a checkpoint with the log.
func (l *logReader) compare(p *place, known note.Verifiers) error {
	at := Position{Entry: p.next.Size - 1}
	if !l.verified(p, known) {
		return nil
	}
	root := l.tree.root()
	if p.next.Size < l.tree.size { // out of order
		if l.hashes == nil {
			l.Integrity.leave(at, "%s has a checkpoint of %d entries after one of more, which is not compared", p.name, p.next.Size)
			return nil
		}
		var err error
		if root, err = l.hashes.Root(p.next.Size); err != nil {
			return err
		}
	}
	switch {
	case p.next.Root == root:
		if p.next.Size > p.good {
			p.last, p.good = p.good, p.next.Size
		}
		if p.next.Size > l.Covered {
			l.Covered, l.Until = p.next.Size, l.logged
		}
		l.Integrity.figure("checkpoints that verify", 1)
	case l.hashes != nil && p.next.Size == l.stored.size && l.stored.root() == p.next.Root: // the entry that has changed has been found
		if p.next.Size > l.Covered {
			l.Covered, l.Until = p.next.Size, l.logged
		}
		l.Integrity.figure("checkpoints that verify over the hashes alone", 1)
	case p.bad: // the first of a place is told
		l.Integrity.figure("further checkpoints that do not fit", 1)
	default:
		from := p.good
		if from == p.next.Size { // and here is another of that size
			from = p.last
		}
		p.bad = true
		l.Integrity.failFrom(Position{Entry: from}, "%s has a checkpoint of %d entries with another root: entries from %d on are not those that were signed, or the log was forked",
			p.name, p.next.Size, from)
	}
	return nil
}

// verified looks at the signature of a checkpoint.
func (l *logReader) verified(p *place, known note.Verifiers) bool {
	at := Position{Entry: p.next.Size - 1}
	n, err := openNote(p.raw, known)
	var wrong *note.InvalidSignatureError
	switch {
	case errors.As(err, &wrong):
		l.Integrity.fail(at, "%s has a checkpoint of %d entries with a forged signature", p.name, p.next.Size)
		return false
	case err != nil:
		l.Integrity.leave(at, "%s has a checkpoint of %d entries, signed with no card of %s that is here", p.name, p.next.Size, l.Origin.Auditor.Name())
		return false
	}
	if p.next.Size != l.Size { // its time is not here
		return true
	}
	keys, _ := known.(*verifiers)
	for _, s := range n.Sigs {
		k, ok := keys.key(s.Hash)
		if !ok {
			continue
		}
		info, err := l.in.Statements.witness.Card(l.Origin.Auditor, k.card)
		if err == nil && l.logged.Before(info.Until) && !l.logged.Before(info.From.Add(-clockLead)) {
			return true
		}
	}
	l.Integrity.leave(at, "%s has a checkpoint of %d entries, signed with a card that was not valid at %s", p.name, p.next.Size, stamp(l.logged))
	return true
}
