package main

import (
	"context"
	"fmt"
	"runtime/metrics"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/sealbus/sealbus/policy"
)

// replayed is reading back all that a retained topic holds, opened and verified: plain, an ordered consumer of nats.go on a
// stream of the same kind with as many messages of the same size, on the connection of an operator, whom no import stands
// between. Lone is a message that has a subject of its own, and so is a frame of its own.
func replayed(name string, lone bool) trial {
	return trial{name: name, rules: func(point) string { return keptRules }, points: byReplay, figures: perSecond,
		open: func(ctx context.Context, st *stage, at point) (plain, sealed side, err error) {
			return openBoth(
				func() (side, error) { return plainReplay(st, at, lone) },
				func() (side, error) { return sealedReplay(ctx, st, at, lone) })
		}}
}

func byReplay(p pace) []point { return []point{{Size: replaySize, Messages: p.replay}} }

// archive is one side of it.
type archive struct {
	ends
	n      int
	fill   func(ctx context.Context) error // nil when the stream is full
	read   func(ctx context.Context) (int, error)
	faults *faults
}

// run reads the whole stream, however long that takes: the first time it is filled before. What live objects take up
// is looked at meanwhile.
func (a *archive) run(ctx context.Context, _ time.Duration) (o outcome, err error) {
	if a.fill != nil {
		if err := a.fill(ctx); err != nil {
			return o, err
		}
		a.fill = nil
	}
	look := lookAtHeap()
	begin := time.Now()
	n, err := a.read(ctx)
	o = outcome{count: n, took: time.Since(begin), peak: look()}
	if err == nil && n != a.n {
		err = fmt.Errorf("%d messages are stored and %d were read", a.n, n)
	}
	if err != nil {
		return o, err
	}
	return o, a.faults.first()
}

// lookAtHeap looks at what the live objects of the process take up, the broker's among them, until the function that it returns is
// called, which returns the most that a garbage collection has found meanwhile, in bytes.
func lookAtHeap() (end func() uint64) {
	stop, most := make(chan struct{}), make(chan uint64)
	go func() {
		sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		tick := time.NewTicker(heapLook)
		defer tick.Stop()
		for peak := uint64(0); ; {
			metrics.Read(sample)
			peak = max(peak, sample[0].Value.Uint64())
			select {
			case <-tick.C:
			case <-stop:
				most <- peak
				return
			}
		}
	}()
	return func() uint64 {
		close(stop)
		return <-most
	}
}

// subjectOf returns the subject of the i-th message.
func subjectOf(topic string, i int, lone bool) string {
	if lone {
		return topic + "." + strconv.Itoa(i)
	}
	return topic
}

func plainReplay(st *stage, at point, lone bool) (*archive, error) {
	a := &archive{n: at.Messages, faults: st.faults}
	nc, err := st.account()
	if err != nil {
		return a, err
	}
	a.plain(nc)
	js, err := jetstream.New(nc)
	if err != nil {
		return a, err
	}
	payload := randomBytes(at.Size)
	a.fill = func(ctx context.Context) error {
		for first := 0; first < a.n; first += taskBatch {
			batch := make([]*nats.Msg, min(taskBatch, a.n-first))
			for i := range batch {
				batch[i] = nats.NewMsg(policy.TopicSubject(subjectOf("plain", first+i, lone)))
				batch[i].Data = payload
			}
			if _, err := jetstreamext.PublishMsgBatch(ctx, js, batch, jetstreamext.BatchFlowControl{}); err != nil {
				return err
			}
		}
		return nil
	}
	a.read = func(ctx context.Context) (int, error) { return readOrdered(ctx, js, a.n) }
	return a, nil
}

// readOrdered reads n messages by an ordered consumer.
func readOrdered(ctx context.Context, js jetstream.JetStream, n int) (read int, err error) {
	c, err := js.OrderedConsumer(ctx, policy.TopicStream("plain"), jetstream.OrderedConsumerConfig{})
	if err != nil {
		return 0, err
	}
	all := make(chan struct{})
	pull, err := c.Consume(func(jetstream.Msg) {
		if read++; read == n {
			close(all)
		}
	})
	if err != nil {
		return 0, err
	}
	select {
	case <-all:
	case <-ctx.Done():
		err = ctx.Err()
	case <-time.After(stall + time.Duration(n)*slowest):
		err = fmt.Errorf("the other messages of %d did not come", n)
	}
	pull.Stop()
	<-pull.Closed()
	return read, err
}

func sealedReplay(ctx context.Context, st *stage, at point, lone bool) (*archive, error) {
	a := &archive{n: at.Messages, faults: st.faults}
	writer, err := st.sealed(ctx, "writer")
	if err != nil {
		return a, err
	}
	a.sealed(writer)
	reader, err := st.sealed(ctx, "reader")
	if err != nil {
		return a, err
	}
	a.sealed(reader)
	payload := randomBytes(at.Size)
	a.fill = func(ctx context.Context) error {
		for i := range a.n {
			if _, err := writer.PublishAsync(ctx, subjectOf("signed", i, lone), payload); err != nil {
				return err
			}
		}
		return writer.Flush(ctx)
	}
	a.read = func(ctx context.Context) (n int, err error) {
		for m, err := range reader.Replay(ctx, "signed.>") {
			if err != nil {
				return n, err
			}
			if len(m.Payload) == at.Size {
				n++
			}
		}
		return n, nil
	}
	return a, nil
}
