package agentbus

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// enqueue puts the tasks of a batch into their queue. They need not stand or fall together: a few go one beside the other,
// because an atomic batch costs the broker more than a sync of its disk for each of so few.
func (l *lane) enqueue(bt *batch) error {
	ctx, cancel := context.WithDeadline(l.bus.gathered, bt.until)
	defer cancel()
	if len(bt.parcels) == 1 || len(bt.parcels) > fewTasks || len(bt.notes) > 0 {
		return l.bus.gatheredError(l.deposit(ctx, bt))
	}
	var stored sync.WaitGroup
	for _, p := range bt.parcels {
		stored.Go(func() {
			one := &batch{parcels: []*parcel{p}}
			if err := l.deposit(ctx, one); err != nil {
				p.err = l.bus.gatheredError(err)
			}
			// It need not wait for the others.
			l.tell(p, p.err)
		})
	}
	stored.Wait()
	return nil
}

// deposit puts tasks into their queue: those that may begin at once into its log, all or none; delayed ones are left with
// the broker, each for itself. It notes the errors of delayed tasks with them, and returns that of the others.
func (l *lane) deposit(ctx context.Context, bt *batch) error {
	var now, later []*parcel
	for _, p := range bt.parcels {
		if p.due.IsZero() {
			now = append(now, p)
		} else {
			later = append(later, p)
		}
	}
	var err error
	if len(now) > 0 {
		err = l.append(ctx, bt.notes, now)
		for _, p := range now {
			p.err = l.bus.gatheredError(err)
		}
	}
	var held sync.WaitGroup
	places := make(chan struct{}, maxDeposits)
	for _, p := range later {
		places <- struct{}{}
		held.Go(func() {
			defer func() { <-places }()
			p.err = l.bus.gatheredError(l.bus.store.hold(ctx, l.ch.Name(), p))
		})
	}
	held.Wait()
	if len(later) > 0 {
		return nil // each has its own
	}
	return err
}

// append puts tasks into the queue's log, all or none, with the session notes that belong before them.
func (l *lane) append(ctx context.Context, notes []*keyring.Bundle, tasks []*parcel) (err error) {
	first, list := l.noteEntries(notes), (&batch{parcels: tasks}).entries()
	if len(first)+len(list) > maxTaskBatch {
		err = l.bus.store.append(ctx, l.stream(), first)
		l.settle(err, notes)
		notes, first = nil, nil
	}
	if err == nil {
		err = l.bus.store.append(ctx, l.stream(), append(first, list...))
	}
	l.settle(err, notes, countedOf(tasks))
	return err
}

// hold leaves a task with the broker until it is due. The same task again replaces what is held, so that it may be
// asked for until there is an answer.
func (s *store) hold(ctx context.Context, queue string, p *parcel) error {
	m := nats.NewMsg(policy.DelaySubject(queue, s.wire.bus.self.Name(), p.ID.String()))
	m.Data = p.Frame
	m.Header.Set("Nats-Schedule", "@at "+p.due.UTC().Format(time.RFC3339Nano))
	m.Header.Set("Nats-Schedule-Target", p.subject)
	for {
		err := s.holdOnce(ctx, m)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil || !isPassing(err) {
			return fmt.Errorf("agentbus: leaving a delayed task with the broker: %w", err)
		}
		pause(ctx, minReconnect)
	}
}

func (s *store) holdOnce(ctx context.Context, m *nats.Msg) error {
	l, done := s.wire.use()
	defer done()
	reply, err := l.nc.RequestMsgWithContext(ctx, m)
	if err != nil {
		return err
	}
	var answer struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return fmt.Errorf("the answer is malformed: %w", err)
	}
	if answer.Error != nil {
		return answer.Error
	}
	return nil
}
