package main

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/agentbus"
)

// round is one task at a time, from Enqueue to its result: plain, from publishing to a work-queue stream, waiting for the
// acknowledgement, to an answer in an inbox, which is on no disk. Plain NATS is on connections of an operator, whom no
// import stands between.
func round(name string) trial {
	return trial{name: name, rules: func(point) string { return taskRules }, points: byTaskSize, figures: latency,
		open: func(ctx context.Context, st *stage, at point) (plain, sealed side, err error) {
			return openBoth(
				func() (side, error) { return plainRound(ctx, st, at) },
				func() (side, error) { return sealedRound(ctx, st, at) })
		}}
}

// headerAnswer is where the answer to a plain task goes: the reply subject is taken by the acknowledgement.
const headerAnswer = "Answer-To"

func plainRound(ctx context.Context, st *stage, at point) (*asker, error) {
	a := &asker{inFlight: 1, size: at.Size, faults: st.faults}
	worker, _, consumer, err := workQueue(ctx, st)
	if worker != nil {
		a.plain(worker)
	}
	if err != nil {
		return a, err
	}
	pull, err := consumer.Consume(func(m jetstream.Msg) {
		if err := worker.Publish(m.Headers().Get(headerAnswer), m.Data()); err != nil {
			st.faults.add(err)
		}
		if err := m.Ack(); err != nil {
			st.faults.add(err)
		}
	})
	if err != nil {
		return a, err
	}
	a.ends = append(ends{func() error { pull.Stop(); <-pull.Closed(); return nil }}, a.ends...)
	planner, js, err := operator(st)
	if planner != nil {
		a.plain(planner)
	}
	if err != nil {
		return a, err
	}
	inbox := planner.NewInbox()
	answers, err := planner.SubscribeSync(inbox)
	if err != nil {
		return a, err
	}
	payload := randomBytes(at.Size)
	a.ask = func(ctx context.Context) (int, error) {
		m := nats.NewMsg(plainTask)
		m.Data = payload
		m.Header.Set(headerAnswer, inbox)
		if _, err := js.PublishMsg(ctx, m); err != nil {
			return 0, err
		}
		answer, err := answers.NextMsg(stall)
		if err != nil {
			return 0, err
		}
		return len(answer.Data), nil
	}
	return a, nil
}

func operator(st *stage) (*nats.Conn, jetstream.JetStream, error) {
	nc, err := st.account()
	if err != nil {
		return nil, nil, err
	}
	js, err := jetstream.New(nc)
	return nc, js, err
}

func sealedRound(ctx context.Context, st *stage, at point) (*asker, error) {
	a := &asker{inFlight: 1, size: at.Size, faults: st.faults}
	worker, err := st.sealed(ctx, "worker")
	if err != nil {
		return a, err
	}
	a.sealed(worker)
	if _, err := worker.Work(ctx, "jobs", func(_ context.Context, t *agentbus.Task) ([]byte, error) { return t.Payload, nil }); err != nil {
		return a, err
	}
	planner, err := st.sealed(ctx, "planner")
	if err != nil {
		return a, err
	}
	a.sealed(planner)
	payload := randomBytes(at.Size)
	a.ask = func(ctx context.Context) (int, error) {
		ctx, cancel := context.WithTimeout(ctx, stall)
		defer cancel()
		task, err := planner.Enqueue(ctx, "jobs", payload)
		if err != nil {
			return 0, err
		}
		m, err := task.Result(ctx)
		if err != nil {
			return 0, err
		}
		return len(m.Payload), nil
	}
	return a, nil
}

// idle is one task at a time, when the one before is done with and everything has come to rest: from the call to the
// entry of the handler. Plain as in round, with a handler that says DoubleAck.
func idle(name string) trial {
	return trial{name: name, rules: func(point) string { return taskRules }, points: byTaskSize, figures: typical,
		open: func(ctx context.Context, st *stage, at point) (plain, sealed side, err error) {
			return openBoth(
				func() (side, error) { return plainIdle(ctx, st, at.Size) },
				func() (side, error) { return sealedIdle(ctx, st, at.Size) })
		}}
}

func plainIdle(ctx context.Context, st *stage, size int) (*single, error) {
	s := &single{entered: make(chan time.Time, 1), faults: st.faults}
	worker, _, consumer, err := workQueue(ctx, st)
	if worker != nil {
		s.plain(worker)
	}
	if err != nil {
		return s, err
	}
	done := make(chan error, 1)
	pull, err := consumer.Consume(func(m jetstream.Msg) {
		s.entered <- time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), stall)
		defer cancel()
		done <- m.DoubleAck(ctx)
	})
	if err != nil {
		return s, err
	}
	s.ends = append(ends{func() error { pull.Stop(); <-pull.Closed(); return nil }}, s.ends...)
	planner, js, err := operator(st)
	if planner != nil {
		s.plain(planner)
	}
	if err != nil {
		return s, err
	}
	payload := randomBytes(size)
	s.publish = func(ctx context.Context) error {
		_, err := js.Publish(ctx, plainTask, payload)
		return err
	}
	s.settled = func(ctx context.Context) error {
		select {
		case err := <-done:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return s, nil
}

func sealedIdle(ctx context.Context, st *stage, size int) (*single, error) {
	s := &single{entered: make(chan time.Time, 1), faults: st.faults}
	worker, err := st.sealed(ctx, "worker")
	if err != nil {
		return s, err
	}
	s.sealed(worker)
	if _, err := worker.Work(ctx, "jobs", func(context.Context, *agentbus.Task) ([]byte, error) {
		s.entered <- time.Now()
		return nil, nil
	}); err != nil {
		return s, err
	}
	planner, err := st.sealed(ctx, "planner")
	if err != nil {
		return s, err
	}
	s.sealed(planner)
	payload := randomBytes(size)
	var task *agentbus.TaskHandle
	s.publish = func(ctx context.Context) (err error) {
		task, err = planner.Enqueue(ctx, "jobs", payload)
		return err
	}
	s.settled = func(ctx context.Context) error {
		_, err := task.Result(ctx)
		return err
	}
	return s, nil
}
