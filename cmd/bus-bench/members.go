package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/broker"
	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/policy"
)

// members is what it takes to change the key of a topic with many members, which plain NATS has nothing to compare
// with: a new revision of the policy takes the topic from one agent, so that the others need a key that this one does
// not get. The time is from putting the policy in force until a message under the new key has reached every member;
// the bytes are what the broker's bucket of keys has grown by.
func members(name string) trial {
	return trial{name: name, rules: crewRules(1), points: byMembers,
		figures: []figure{{suffix: "/rotate", unit: "ms"}, {suffix: "/stored", unit: "bytes"}}, alone: rotations}
}

// crewRules is the policy of a revision: at each another agent has lost the topic.
func crewRules(revision int) func(point) string {
	return func(point) string {
		var leavers strings.Builder
		for i := revision; i <= maxRotations+1; i++ {
			fmt.Fprintf(&leavers, ", leaver-%d", i)
		}
		return fmt.Sprintf("topics:\n  crew: {publish: [lead], subscribe: [\"member-*\"%s]}\n", &leavers)
	}
}

func byMembers(p pace) (list []point) {
	for _, n := range p.members {
		list = append(list, point{Members: n})
	}
	return list
}

// crew is a topic's members, and what an operator needs to put another policy in force.
type crew struct {
	stage    *stage
	lead     *agentbus.Bus
	members  []*agentbus.Bus
	received chan int // which probe a member has received
	admin    *nats.Conn
	js       jetstream.JetStream
	revision int
}

// rotations measures the milliseconds and bytes of some rotations.
func rotations(ctx context.Context, st *stage, at point, p pace, progress func(string)) (figures [][]float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, crewPatience)
	defer cancel()
	c := &crew{stage: st, received: make(chan int, (maxRotations+1)*at.Members), revision: 1}
	defer func() { err = errors.Join(err, c.close(progress)) }()
	if err := c.gather(ctx, at.Members, progress); err != nil {
		return nil, err
	}
	n := min(p.rounds, maxRotations)
	var times, sizes []float64
	for i := range n {
		progress(fmt.Sprintf("rotation %d of %d", i+1, n))
		before, err := c.stored(ctx)
		if err != nil {
			return nil, err
		}
		took, err := c.rotate(ctx)
		if err != nil {
			return nil, fmt.Errorf("rotation %d: %w", i+1, err)
		}
		after, err := c.stored(ctx)
		if err != nil {
			return nil, err
		}
		times, sizes = append(times, took.Seconds()*1e3), append(sizes, float64(after-before))
	}
	return [][]float64{times, sizes}, nil
}

// gather connects everybody and waits until all have the topic's first key.
func (c *crew) gather(ctx context.Context, n int, progress func(string)) (err error) {
	if c.admin, err = c.stage.account(); err != nil {
		return err
	}
	if c.js, err = jetstream.New(c.admin); err != nil {
		return err
	}
	for i := range n {
		if i%10 == 0 {
			progress(fmt.Sprintf("%d of %d connected", i, n))
		}
		b, err := c.stage.sealed(ctx, fmt.Sprintf("member-%d", i+1))
		if err != nil {
			return err
		}
		c.members = append(c.members, b)
		if _, err := b.Subscribe(ctx, "crew.>", c.receive); err != nil {
			return err
		}
	}
	if c.lead, err = c.stage.sealed(ctx, "lead"); err != nil {
		return err
	}
	return c.probe(ctx)
}

func (c *crew) receive(_ context.Context, m *agentbus.Message) error {
	n := 0
	if _, err := fmt.Sscan(string(m.Payload), &n); err != nil {
		return err
	}
	c.received <- n
	return nil
}

// probe publishes a message and waits until every member has it.
func (c *crew) probe(ctx context.Context) error {
	if err := c.lead.Publish(ctx, "crew", fmt.Append(nil, c.revision)); err != nil {
		return err
	}
	for missing := len(c.members); missing > 0; {
		select {
		case n := <-c.received:
			if n == c.revision {
				missing--
			}
		case <-c.stage.faults.some:
			return c.stage.faults.first()
		case <-ctx.Done():
			return fmt.Errorf("%d of %d members have not received what was published: %w", missing, len(c.members), ctx.Err())
		}
	}
	return nil
}

// rotate puts the next policy in force.
func (c *crew) rotate(ctx context.Context) (time.Duration, error) {
	c.revision++
	signed, err := c.stage.sign(c.revision, crewRules(c.revision)(point{}))
	if err != nil {
		return 0, err
	}
	p, err := policy.Verify(signed, []identity.Fingerprint{c.stage.operator.Fingerprint()})
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	if err := broker.Provision(ctx, c.js, p, signed); err != nil {
		return 0, err
	}
	for c.lead.Policy().Revision() < p.Revision() {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	if err := c.probe(ctx); err != nil {
		return 0, err
	}
	return time.Since(begin), nil
}

// stored returns the size of the bucket of keys.
func (c *crew) stored(ctx context.Context) (uint64, error) {
	s, err := c.js.Stream(ctx, policy.StreamOfBucket(policy.BucketKeys))
	if err != nil {
		return 0, err
	}
	return s.CachedInfo().State.Bytes, nil
}

func (c *crew) close(progress func(string)) error {
	progress("closing")
	all := c.members
	if c.lead != nil {
		all = append(all, c.lead)
	}
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, b := range all {
		wg.Go(func() { errs[i] = b.Close() })
	}
	wg.Wait()
	if c.admin != nil {
		c.admin.Close()
	}
	return errors.Join(errs...)
}
