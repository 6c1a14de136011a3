package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/sealbus/sealbus/agentbus"
)

// work is handlers that do nothing, on tasks that wait already, until each has its result on the broker's disk: plain,
// a work-queue stream, from which as many goroutines remove each message by DoubleAck. That leaves no result behind, and
// is on the connection of an operator, whom no import stands between.
func work(name string) trial {
	return trial{name: name, rules: func(point) string { return taskRules }, points: byEight, figures: perSecond,
		open: func(ctx context.Context, st *stage, at point) (plain, sealed side, err error) {
			return openBoth(
				func() (side, error) { return plainWork(ctx, st, at) },
				func() (side, error) { return sealedWork(ctx, st, at) })
		}}
}

// labour is one side of it.
type labour struct {
	ends
	fill   func(ctx context.Context, n int) error // up to taskBatch tasks
	handle func(ctx context.Context, n int) error // returns when they are all done with
	most   int                                    // tasks of a run
	rate   float64                                // of the run before, in tasks a second
	faults *faults
}

// run has as many tasks wait as the time is about enough for, and measures no more than how long it takes over them.
func (l *labour) run(ctx context.Context, d time.Duration) (o outcome, err error) {
	o.count = max(min(int(l.rate*d.Seconds()), l.most), fewTasks)
	for n := 0; n < o.count; n += taskBatch {
		if err := l.fill(ctx, min(taskBatch, o.count-n)); err != nil {
			return o, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, stall)
	defer cancel()
	begin := time.Now()
	if err := l.handle(ctx, o.count); err != nil {
		return o, err
	}
	o.took = time.Since(begin)
	l.rate = rate(o)
	return o, l.faults.first()
}

func plainWork(ctx context.Context, st *stage, at point) (*labour, error) {
	l := &labour{faults: st.faults, most: maxKeptBytes / at.Size}
	nc, js, consumer, err := workQueue(ctx, st)
	if nc != nil {
		l.plain(nc)
	}
	if err != nil {
		return l, err
	}
	payload := randomBytes(at.Size)
	l.fill = func(ctx context.Context, n int) error {
		_, err := jetstreamext.PublishMsgBatch(ctx, js, messages(plainTask, payload, n), jetstreamext.BatchFlowControl{})
		return err
	}
	l.handle = func(ctx context.Context, n int) error { return acknowledge(ctx, consumer, at.InFlight, n) }
	return l, nil
}

// acknowledge has goroutines remove n messages.
func acknowledge(ctx context.Context, consumer jetstream.Consumer, goroutines, n int) error {
	arrived := make(chan jetstream.Msg, n)
	pull, err := consumer.Consume(func(m jetstream.Msg) { arrived <- m }, jetstream.PullMaxMessages(maxUnacknowledged))
	if err != nil {
		return err
	}
	defer func() { pull.Stop(); <-pull.Closed() }()
	var wg sync.WaitGroup
	errs := make(chan error, goroutines)
	todo := make(chan struct{}, n)
	for range n {
		todo <- struct{}{}
	}
	close(todo)
	for range goroutines {
		wg.Go(func() {
			for range todo {
				select {
				case m := <-arrived:
					if err := m.DoubleAck(ctx); err != nil {
						errs <- err
						return
					}
				case <-ctx.Done():
					errs <- fmt.Errorf("messages are lost: %w", ctx.Err())
					return
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

func sealedWork(ctx context.Context, st *stage, at point) (*labour, error) {
	l := &labour{faults: st.faults, most: maxKeptBytes / at.Size}
	planner, err := st.sealed(ctx, "planner")
	if err != nil {
		return l, err
	}
	l.sealed(planner)
	worker, err := st.sealed(ctx, "worker")
	if err != nil {
		return l, err
	}
	l.sealed(worker)
	payload := randomBytes(at.Size)
	l.fill = func(ctx context.Context, n int) error {
		_, err := planner.EnqueueBatch(ctx, "jobs", tasks(payload, n))
		return err
	}
	l.handle = func(ctx context.Context, n int) error {
		handled := make(chan struct{}, n)
		w, err := worker.Work(ctx, "jobs", func(context.Context, *agentbus.Task) ([]byte, error) {
			handled <- struct{}{}
			return nil, nil
		}, agentbus.Concurrency(at.InFlight))
		if err != nil {
			return err
		}
		for i := range n {
			select {
			case <-handled:
			case <-ctx.Done():
				return fmt.Errorf("%d tasks of %d were handled: %w", i, n, ctx.Err())
			}
		}
		if err := w.Stop(); err != nil { // which waits until the results are recorded
			return err
		}
		if s := w.Stats(); s.Succeeded != uint64(n) {
			return fmt.Errorf("of %d tasks: %+v", n, s)
		}
		return nil
	}
	return l, nil
}
