package agentbus

import (
	"context"

	"github.com/oklog/ulid/v2"
)

// Publication is what becomes of a message that PublishAsync has taken. Messages that were gathered together share one.
type Publication struct {
	done chan struct{}
	err  error
}

// Done returns a channel that is closed when the outcome is there.
func (p *Publication) Done() <-chan struct{} { return p.done }

// Err returns nil while Done is open, and when all went well. Otherwise it is what Publish would have returned.
func (p *Publication) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// Wait waits for the outcome and returns Err, or ctx's error if that ends first.
func (p *Publication) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	default:
	}
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func newPublication() *Publication { return &Publication{done: make(chan struct{})} }

// ticket is what becomes of one message that has a frame of its own.
type ticket struct {
	id   ulid.ULID // the frame's
	err  error
	done chan struct{}
	then func(*ticket) // called before done is closed; may be nil
}

func (t *ticket) finish(id ulid.ULID, err error) {
	t.id, t.err = id, err
	if t.then != nil {
		t.then(t)
	}
	close(t.done)
}
