package main

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/policy"
)

// keptRules is retained topics; their streams are alike.
const keptRules = `
topics:
  signed:   {publish: [writer], subscribe: [reader], retain: 1h}
  unsigned: {publish: [writer], subscribe: [reader], retain: 1h, signed: false}
  plain:    {publish: [plain-writer], subscribe: [plain-reader], retain: 1h}
`

// retained is publishing to a retained topic, until the broker has acknowledged that everything is on its disk: plain,
// JetStream's PublishAsync, which is synced message by message. Both have as much on the way as is good for them. Who
// gathers messages into atomic batches by hand is quicker with plain NATS than this; agentbus does that by itself.
func retained(name, topic string) trial {
	return trial{name: name, rules: func(point) string { return keptRules }, points: bySize, figures: perSecond,
		open: func(ctx context.Context, st *stage, at point) (plain, sealed side, err error) {
			return openBoth(
				func() (side, error) { return plainLedger(st, at.Size) },
				func() (side, error) { return sealedLedger(ctx, st, at.Size, topic) })
		}}
}

// ledger is one side of it.
type ledger struct {
	ends
	publish func(ctx context.Context) error
	settled func(ctx context.Context) error
	size    int
}

// run publishes, and then waits for all acknowledgements. What it writes is bounded: nobody's disk is to be filled.
func (l *ledger) run(ctx context.Context, d time.Duration) (outcome, error) {
	begin, n := time.Now(), 0
	for n == 0 || time.Since(begin) < d && n*l.size < maxKeptBytes {
		for range 8 {
			if err := l.publish(ctx); err != nil {
				return outcome{}, err
			}
			n++
		}
	}
	if err := l.settled(ctx); err != nil {
		return outcome{}, err
	}
	return outcome{count: n, took: time.Since(begin)}, nil
}

func plainLedger(st *stage, size int) (*ledger, error) {
	l := &ledger{size: size}
	nc, err := st.plain("plain-writer")
	if err != nil {
		return l, err
	}
	l.plain(nc)
	js, err := jetstream.New(nc,
		jetstream.WithPublishAsyncMaxPending(max(2, min(maxUnacknowledged, maxOnWayBytes/size))),
		jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, _ *nats.Msg, err error) { st.faults.add(err) }))
	if err != nil {
		return l, err
	}
	subject, payload := policy.TopicSubject("plain"), randomBytes(size)
	l.publish = func(context.Context) error {
		_, err := js.PublishAsync(subject, payload, jetstream.WithStallWait(stall))
		return err
	}
	l.settled = func(ctx context.Context) error {
		select {
		case <-js.PublishAsyncComplete():
			return st.faults.first()
		case <-st.faults.some:
			return st.faults.first()
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(stall):
			return errors.New("acknowledgements did not come")
		}
	}
	return l, nil
}

func sealedLedger(ctx context.Context, st *stage, size int, topic string) (*ledger, error) {
	l := &ledger{size: size}
	b, err := st.sealed(ctx, "writer")
	if err != nil {
		return l, err
	}
	l.sealed(b)
	payload := randomBytes(size)
	var waiting []*agentbus.Publication // agentbus bounds by itself what is on the way
	l.publish = func(ctx context.Context) error {
		p, err := b.PublishAsync(ctx, topic, payload)
		if err == nil && (len(waiting) == 0 || waiting[len(waiting)-1] != p) {
			waiting = append(waiting, p)
		}
		return err
	}
	l.settled = func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, stall)
		defer cancel()
		for _, p := range waiting {
			if err := p.Wait(ctx); err != nil {
				return err
			}
		}
		waiting = waiting[:0]
		return nil
	}
	return l, nil
}
