package audit

import (
	"context"
	"errors"
	"fmt"
	"iter"
)

// Compare tells whether two logs of one stream, of two auditors or of one that began anew, agree on what the stream held: on
// every message that both have, and on which there were, where both were looking. A broker that shows each something else is
// found by this. It reads both once, side by side. The logs themselves are Verify's to judge.
func Compare(ctx context.Context, a, b Entries) (*Verdict, error) {
	if a.Origin().Stream != b.Origin().Stream {
		return nil, fmt.Errorf("audit: a log of %s and one of %s", a.Origin().Stream, b.Origin().Stream)
	}
	v := &Verdict{}
	one, other := frameEntries(a), frameEntries(b)
	defer one.stop()
	defer other.stop()
	for _, c := range []*cursor{one, other} {
		if err := c.next(); err != nil {
			return nil, err
		}
	}
	both := max(one.first(), other.first()) // where both had begun
	for one.have && other.have {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		x, y := &one.e.Frame, &other.e.Frame
		at := Position{min(x.Sequence, y.Sequence), -1}
		behind := one
		switch {
		case x.Sequence == y.Sequence:
			v.figure("messages that both logs have", 1)
			if x.Data != y.Data || x.Subject != y.Subject || !x.Stored.Equal(y.Stored) {
				v.fail(at, "%s has another message than %s", a.Origin(), b.Origin())
			}
			if err := other.next(); err != nil {
				return nil, err
			}
		case x.Sequence < y.Sequence:
			v.lonely(at, both, a.Origin())
		default:
			behind = other
			v.lonely(at, both, b.Origin())
		}
		if err := behind.next(); err != nil {
			return nil, err
		}
	}
	v.settle("agreement", "both logs say the same of every message that they both have")
	return v, nil
}

// lonely takes in a message that only one of two logs has.
func (v *Verdict) lonely(at Position, both uint64, has Origin) {
	if at.Sequence < both {
		v.figure("messages from before one of the logs", 1)
		return
	}
	v.leave(at, "only %s has it: the other auditor may have been away while it was there", has)
}

// cursor goes through the frame entries of a log.
type cursor struct {
	pull func() ([]byte, error, bool)
	stop func()
	e    Entry
	have bool
	seen uint64
}

func frameEntries(l Entries) *cursor {
	next, stop := iter.Pull2(l.Entries(0))
	return &cursor{pull: next, stop: stop}
}

// next goes on to the next entry of a message, as far as the sequences ascend: what a stream that was made anew holds is compared
// with nothing.
func (c *cursor) next() error {
	for {
		raw, err, ok := c.pull()
		switch {
		case !ok || errors.Is(err, ErrDamaged):
			c.have = false
			return nil
		case err != nil:
			return err
		case ParseEntry(raw, &c.e) != nil || c.e.Kind != KindFrame:
			continue
		case c.e.Frame.Sequence <= c.seen:
			c.have = false
			return nil
		}
		c.seen, c.have = c.e.Frame.Sequence, true
		return nil
	}
}

func (c *cursor) first() uint64 {
	if !c.have {
		return ^uint64(0)
	}
	return c.e.Frame.Sequence
}
