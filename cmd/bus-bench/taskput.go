package main

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/sealbus/sealbus/agentbus"
)

// enqueue is callers that put tasks into a queue, each waiting until its task is on the broker's disk: plain, as many
// that publish to a stream like the queue's, through the same import, and wait for the acknowledgement. each is how many
// plain ones there are.
func enqueue(name string, each int) trial {
	return trial{name: name, rules: func(point) string { return taskRules }, points: byEight, figures: perSecond,
		open: func(ctx context.Context, st *stage, at point) (plain, sealed side, err error) {
			return openBoth(
				func() (side, error) { return plainCallers(st, at, each) },
				func() (side, error) { return sealedCallers(ctx, st, at) })
		}}
}

func plainCallers(st *stage, at point, callers int) (*asker, error) {
	a := &asker{inFlight: callers, size: at.Size, faults: st.faults}
	nc, js, subject, err := st.planner()
	if err != nil {
		return a, err
	}
	a.plain(nc)
	payload := randomBytes(at.Size)
	a.ask = func(ctx context.Context) (int, error) {
		_, err := js.Publish(ctx, subject, payload)
		return at.Size, err
	}
	return a, nil
}

func sealedCallers(ctx context.Context, st *stage, at point) (*asker, error) {
	a := &asker{inFlight: at.InFlight, size: at.Size, faults: st.faults}
	b, err := st.sealed(ctx, "planner")
	if err != nil {
		return a, err
	}
	a.sealed(b)
	payload := randomBytes(at.Size)
	a.ask = func(ctx context.Context) (int, error) {
		_, err := b.Enqueue(ctx, "jobs", payload)
		return at.Size, err
	}
	return a, nil
}

// batches is one caller that puts a thousand tasks after another into a queue, a thousand stored together: plain, atomic
// batches of a thousand into a stream like the queue's, through the same import, without acknowledgements in between.
func batches(name string) trial {
	return trial{name: name, rules: func(point) string { return taskRules }, points: byTaskSize, figures: perSecond,
		open: func(ctx context.Context, st *stage, at point) (plain, sealed side, err error) {
			return openBoth(
				func() (side, error) { return plainBatches(st, at.Size) },
				func() (side, error) { return sealedBatches(ctx, st, at.Size) })
		}}
}

// batcher is one side of it.
type batcher struct {
	ends
	put    func(ctx context.Context) error // one batch
	size   int
	faults *faults
}

func (b *batcher) run(ctx context.Context, d time.Duration) (outcome, error) {
	begin, n := time.Now(), 0
	for n == 0 || time.Since(begin) < d && n*b.size < maxKeptBytes {
		if err := b.put(ctx); err != nil {
			return outcome{}, err
		}
		n += taskBatch
	}
	return outcome{count: n, took: time.Since(begin)}, b.faults.first()
}

func plainBatches(st *stage, size int) (*batcher, error) {
	b := &batcher{size: size, faults: st.faults}
	nc, js, subject, err := st.planner()
	if err != nil {
		return b, err
	}
	b.plain(nc)
	payload := randomBytes(size)
	b.put = func(ctx context.Context) error {
		_, err := jetstreamext.PublishMsgBatch(ctx, js, messages(subject, payload, taskBatch), jetstreamext.BatchFlowControl{})
		return err
	}
	return b, nil
}

func messages(subject string, payload []byte, n int) []*nats.Msg {
	list := make([]*nats.Msg, n)
	for i := range list {
		list[i] = nats.NewMsg(subject)
		list[i].Data = payload
	}
	return list
}

func sealedBatches(ctx context.Context, st *stage, size int) (*batcher, error) {
	b := &batcher{size: size, faults: st.faults}
	bus, err := st.sealed(ctx, "planner")
	if err != nil {
		return b, err
	}
	b.sealed(bus)
	payload := randomBytes(size)
	b.put = func(ctx context.Context) error {
		_, err := bus.EnqueueBatch(ctx, "jobs", tasks(payload, taskBatch))
		return err
	}
	return b, nil
}

func tasks(payload []byte, n int) []agentbus.NewTask {
	list := make([]agentbus.NewTask, n)
	for i := range list {
		list[i].Payload = payload
	}
	return list
}
