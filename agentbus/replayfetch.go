package agentbus

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// begin finds out where to begin and to end.
func (r *replay) begin() error {
	o := &r.options
	r.from = max(o.from, 1)
	if o.follow {
		return nil
	}
	last, err := r.last(r.ctx, r.from)
	if err != nil {
		return err
	}
	if r.to = last; o.to > 0 {
		r.to = min(last, o.to)
	}
	if !o.until.IsZero() {
		end, err := r.place(r.ctx, 0, o.until)
		if err != nil {
			return err
		}
		if !end.none {
			r.to = min(r.to, end.last-1)
		}
	}
	return nil
}

// fetch reads one page after another.
func (r *replay) fetch() {
	defer close(r.pages)
	defer r.follow.stop(r)
	err := r.since()
	got := false // since it waited
	for from := r.from; err == nil && (r.options.follow || from <= r.to); {
		var p *replayPage
		var more bool
		if p, more, err = r.readPage(r.ctx, from); err == nil {
			err = r.entitled()
		}
		if err != nil {
			break
		}
		if !r.pass(p) {
			return
		}
		from, got = p.next, got || len(p.pieces) > 0
		if more {
			continue
		}
		if !r.options.follow || !r.follow.wait(r, got) {
			return
		}
		got = false
	}
	if err != nil {
		r.pass(&replayPage{err: err})
	}
}

// pass gives a page to the loop, as soon as that has room for it.
func (r *replay) pass(p *replayPage) bool {
	select {
	case r.pages <- p:
		return true
	case <-r.ctx.Done():
		return false
	}
}

// since finds out where the messages begin that are from a time or later.
func (r *replay) since() error {
	for !r.options.since.IsZero() {
		end, err := r.place(r.ctx, 0, r.options.since)
		switch {
		case err != nil:
			return err
		case !end.none:
			r.from = end.last
			return nil
		case !r.options.follow:
			r.from = r.to + 1
			return nil
		case !r.follow.wait(r, false): // there are none yet
			return r.ctx.Err()
		}
	}
	return nil
}

// entitled reports whether a policy has taken the channel from this agent meanwhile.
func (r *replay) entitled() error {
	p := r.bus.ring.Policy()
	if !p.CanRead(r.channel, r.bus.self.Name()) {
		return fmt.Errorf("%w: policy revision %d does not let %q read %s", ErrNotEntitled, p.Revision(), r.bus.self.Name(), r.channel)
	}
	return nil
}

// persist does what once does until it succeeds, and tries again where there is no connection or no stream at this moment: as
// long as ctx allows or, without a deadline, for Config.RequestTimeout. A replay that follows never gives up.
func (r *replay) persist(ctx context.Context, once func(context.Context) error) error {
	b := r.bus
	patience, cancel := ctx, context.CancelFunc(func() {})
	if !r.options.follow {
		patience, cancel = b.bounded(ctx)
	}
	defer cancel()
	for {
		err := once(patience)
		if err == nil || patience.Err() == nil && !isPassing(err) && !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if patience.Err() != nil {
			return fmt.Errorf("agentbus: reading %s: no answer within %v: the broker is away, or lets %q read it by no policy: %w",
				r.reader.stream, b.config.RequestTimeout, b.self.Name(), patience.Err())
		}
		pause(patience, minReconnect)
	}
}

// place returns the place of the first message at from or behind, or stored since then, and how many follow it. The broker
// says that, whatever is in the messages and their headers.
func (r *replay) place(ctx context.Context, from uint64, since time.Time) (end pageEnd, err error) {
	err = r.persist(ctx, func(ctx context.Context) (err error) {
		end, err = r.reader.first(ctx, pageQuery{from: from, since: since})
		return err
	})
	if err == nil && !end.none && (end.last < from || end.last == 0) {
		err = errOrder(r.reader.stream)
	}
	return end, err
}

// last returns the place of the last message that there is at from or behind, 0 for none.
func (r *replay) last(ctx context.Context, from uint64) (last uint64, err error) {
	for range maxLastLooks {
		end, err := r.place(ctx, max(from, 1), time.Time{})
		if err != nil || end.none {
			return last, err
		}
		// Where there are holes the last one is farther away than so many messages. It is looked for until there is none.
		last, from = end.last, end.last+max(end.pending, 2)-1
		if from < last {
			break
		}
	}
	return last, nil
}
