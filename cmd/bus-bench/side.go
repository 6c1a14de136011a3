package main

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealbus/sealbus/agentbus"
)

// side is plain NATS or Sealbus in one trial.
type side interface {
	// run goes on for about as long as it is told. When it returns, nothing is on the way and nothing was lost.
	run(ctx context.Context, d time.Duration) (outcome, error)
	close() error
}

// outcome is what a run came to.
type outcome struct {
	count int // messages, deliveries or requests
	took  time.Duration
	each  []time.Duration // of every one of them, where that is what is measured
	peak  uint64          // the most that live objects took up, in bytes, where that is looked at
}

// openBoth makes both sides ready. What a side returns with an error is closed.
func openBoth(plain, sealed func() (side, error)) (p, s side, err error) {
	if p, err = plain(); err != nil {
		return nil, nil, errors.Join(err, p.close())
	}
	if s, err = sealed(); err != nil {
		return nil, nil, errors.Join(err, p.close(), s.close())
	}
	return p, s, nil
}

// ends are the connections of a side.
type ends []func() error

func (e *ends) plain(nc *nats.Conn) {
	*e = append(*e, func() error {
		nc.Close()
		return nil
	})
}

func (e *ends) sealed(b *agentbus.Bus) { *e = append(*e, b.Close) }

func (e *ends) close() error {
	var errs []error
	for _, end := range *e {
		errs = append(errs, end())
	}
	return errors.Join(errs...)
}
