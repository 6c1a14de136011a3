package main

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/policy"
)

// lone is one message at a time over connections on which nothing else happens, with a pause before each: from the
// publisher's call to the entry of the handler.
func lone(name, topic string) trial {
	return trial{name: name, rules: func(point) string { return topicRules }, points: func(p pace) []point { return sizesOf(p.loneSizes) }, figures: typical,
		open: func(ctx context.Context, st *stage, at point) (plain, sealed side, err error) {
			return openBoth(
				func() (side, error) { return plainLone(st, at.Size) },
				func() (side, error) { return sealedLone(ctx, st, at.Size, topic) })
		}}
}

// single is one side of it.
type single struct {
	ends
	publish func(ctx context.Context) error
	entered chan time.Time
	settled func(ctx context.Context) error // waits until nothing more comes of it; may be nil
	faults  *faults
}

func (s *single) run(ctx context.Context, d time.Duration) (outcome, error) {
	o := outcome{each: make([]time.Duration, 0, 1<<12)}
	timeout := time.NewTimer(stall)
	defer timeout.Stop()
	for start := time.Now(); len(o.each) == 0 || o.took < d; o.took = time.Since(start) {
		time.Sleep(pause)
		timeout.Reset(stall)
		begin := time.Now()
		if err := s.publish(ctx); err != nil {
			return o, err
		}
		select {
		case end := <-s.entered:
			o.each = append(o.each, end.Sub(begin))
		case <-s.faults.some:
			return o, s.faults.first()
		case <-ctx.Done():
			return o, ctx.Err()
		case <-timeout.C:
			return o, fmt.Errorf("after %d messages one was lost", len(o.each))
		}
		if err := s.settle(ctx); err != nil {
			return o, err
		}
	}
	o.count = len(o.each)
	return o, s.faults.first()
}

func (s *single) settle(ctx context.Context) error {
	if s.settled == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, stall)
	defer cancel()
	return s.settled(ctx)
}

func plainLone(st *stage, size int) (*single, error) {
	s := &single{entered: make(chan time.Time, 1), faults: st.faults}
	subject, payload := policy.TopicSubject("plain"), randomBytes(size)
	reader, err := st.plain("plain-reader-1")
	if err != nil {
		return s, err
	}
	s.plain(reader)
	if _, err := reader.Subscribe(subject, func(*nats.Msg) { s.entered <- time.Now() }); err != nil {
		return s, err
	}
	if err := reader.Flush(); err != nil {
		return s, err
	}
	nc, err := st.plain("plain-writer")
	if err != nil {
		return s, err
	}
	s.plain(nc)
	s.publish = func(context.Context) error { return nc.Publish(subject, payload) }
	return s, nil
}

func sealedLone(ctx context.Context, st *stage, size int, topic string) (*single, error) {
	s := &single{entered: make(chan time.Time, 1), faults: st.faults}
	payload := randomBytes(size)
	reader, err := st.sealed(ctx, "reader-1")
	if err != nil {
		return s, err
	}
	s.sealed(reader)
	if _, err := reader.Subscribe(ctx, topic+".>", func(context.Context, *agentbus.Message) error {
		s.entered <- time.Now()
		return nil
	}); err != nil {
		return s, err
	}
	b, err := st.sealed(ctx, "writer")
	if err != nil {
		return s, err
	}
	s.sealed(b)
	s.publish = func(ctx context.Context) error { return b.Publish(ctx, topic, payload) }
	return s, nil
}
