package broker

import (
	"context"
	"log/slog"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/policy"
)

// Server returns the NATS server inside a node.
func (n *Node) Server() *server.Server { return n.server }

// Own returns the node's own connection.
func (n *Node) Own() *nats.Conn { return n.own }

// Secret returns the password of the node's own connections.
func (n *Node) Secret() string { return n.own.Opts.Password }

// Fail is what the server does when it cannot go on.
func (n *Node) Fail(format string, v ...any) { n.logged.Fatalf(format, v...) }

// StopHolding has the node answer no more requests to hold a task back.
func (n *Node) StopHolding() { n.holder.stop() }

// StopInspecting has the node answer no more questions about queues.
func (n *Node) StopInspecting() { n.asked.stop() }

// WithTrims has the node trim its queues whenever something comes from tick.
func (c Config) WithTrims(tick <-chan time.Time, now func() time.Time) Config {
	c.trimTick, c.trimNow = tick, now
	return c
}

// TrimAt is Trim at a time, with no slack between streams and of at most so many
// messages.
func TrimAt(ctx context.Context, js jetstream.JetStream, p *policy.Policy, now time.Time, most uint64) error {
	t := newTrimmer(js, slog.New(slog.DiscardHandler))
	t.now, t.slack, t.most = func() time.Time { return now }, 0, most
	return t.round(ctx, p)
}

// Merged and Streams are tested directly.
func Merged(have, want jetstream.StreamConfig) (jetstream.StreamConfig, bool) {
	return merged(have, want)
}

var StreamsOf = streams

// MergedConsumer and ConsumersOf likewise.
func MergedConsumer(have, want jetstream.ConsumerConfig) (jetstream.ConsumerConfig, bool) {
	return mergedConsumer(have, want)
}

func ConsumersOf(p *policy.Policy, name string) []jetstream.ConsumerConfig {
	for _, q := range queues(p) {
		if q.name == name {
			return q.consumers()
		}
	}
	return nil
}
