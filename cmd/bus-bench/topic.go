package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/policy"
)

// topicRules lets two writers speak to two readers: one of each is plain.
const topicRules = `
topics:
  signed:   {publish: [writer], subscribe: ["reader-*"]}
  unsigned: {publish: [writer], subscribe: ["reader-*"], signed: false}
  plain:    {publish: [plain-writer], subscribe: ["plain-reader-*"]}
`

// live is publishing to a topic that is not retained, for one subscriber: plain, Publish and the callback of Subscribe.
func live(name, topic string) trial {
	return trial{name: name, rules: func(point) string { return topicRules }, points: bySize, figures: perSecond,
		open: func(ctx context.Context, st *stage, at point) (plain, sealed side, err error) {
			return streams(ctx, st, at.Size, 1, []string{"plain"}, []string{topic})
		}}
}

// stream is one side of a trial in which messages go one way.
type stream struct {
	ends
	flow    *flow
	least   int // messages in a run: one to every topic
	publish func(ctx context.Context) error
	flush   func(ctx context.Context) error
}

func (s *stream) run(ctx context.Context, d time.Duration) (outcome, error) {
	begin, first := time.Now(), s.flow.sent
	for n := 0; n%8 != 0 || n < s.least || time.Since(begin) < d; n++ {
		if err := s.flow.room(ctx); err != nil {
			return outcome{}, err
		}
		if err := s.publish(ctx); err != nil {
			return outcome{}, err
		}
	}
	if err := s.flush(ctx); err != nil {
		return outcome{}, err
	}
	if err := s.flow.drain(ctx); err != nil {
		return outcome{}, err
	}
	return outcome{count: int(s.flow.sent-first) * len(s.flow.gauges), took: time.Since(begin)}, nil
}

// streams connects a writer and its readers on each side. Every reader subscribes to all of the topics, and the writer
// publishes to them in turns.
func streams(ctx context.Context, st *stage, size, readers int, plainTopics, topics []string) (side, side, error) {
	return openBoth(
		func() (side, error) { return plainStream(st, size, readers, plainTopics) },
		func() (side, error) { return sealedStream(ctx, st, size, readers, topics) })
}

func plainStream(st *stage, size, readers int, topics []string) (*stream, error) {
	s := &stream{flow: newFlow(size, readers, st.faults), least: len(topics)}
	subjects := make([]string, len(topics))
	for i, topic := range topics {
		subjects[i] = policy.TopicSubject(topic)
	}
	for i := range readers {
		nc, err := st.plain(fmt.Sprintf("plain-reader-%d", i+1))
		if err != nil {
			return s, err
		}
		s.plain(nc)
		g := &s.flow.gauges[i]
		for _, subject := range subjects {
			if _, err := nc.Subscribe(subject, func(m *nats.Msg) {
				if len(m.Data) == size {
					g.add()
				}
			}); err != nil {
				return s, err
			}
		}
		if err := nc.Flush(); err != nil {
			return s, err
		}
	}
	nc, err := st.plain("plain-writer")
	if err != nil {
		return s, err
	}
	s.plain(nc)
	next, payload := turns(subjects), randomBytes(size)
	s.publish = func(context.Context) error { return nc.Publish(next(), payload) }
	s.flush = func(context.Context) error { return nc.Flush() }
	return s, nil
}

func sealedStream(ctx context.Context, st *stage, size, readers int, topics []string) (*stream, error) {
	s := &stream{flow: newFlow(size, readers, st.faults), least: len(topics)}
	for i := range readers {
		b, err := st.sealed(ctx, fmt.Sprintf("reader-%d", i+1))
		if err != nil {
			return s, err
		}
		s.sealed(b)
		g := &s.flow.gauges[i]
		for _, topic := range topics {
			if _, err := b.Subscribe(ctx, topic+".>", func(_ context.Context, m *agentbus.Message) error {
				if len(m.Payload) == size {
					g.add()
				}
				return nil
			}); err != nil {
				return s, err
			}
		}
	}
	b, err := st.sealed(ctx, "writer")
	if err != nil {
		return s, err
	}
	s.sealed(b)
	next, payload := turns(topics), randomBytes(size)
	s.publish = func(ctx context.Context) error { return b.Publish(ctx, next(), payload) }
	s.flush = b.Flush
	return s, nil
}

// turns returns one after the other.
func turns(list []string) func() string {
	i := 0
	return func() string {
		if i++; i >= len(list) {
			i = 0
		}
		return list[i]
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return b
}
