package agentbus_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
)

var benchSizes = []int{128, 1 << 10, 16 << 10}

// BenchmarkPublish measures messages from one publisher through the broker to one handler, everything in one process.
// The publisher never has more on the way than the receiver's buffer holds, so that nothing is dropped.
func BenchmarkPublish(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(fmt.Sprintf("signed/%dB", size), func(b *testing.B) { benchmarkPublish(b, "prices", size) })
		b.Run(fmt.Sprintf("unsigned/%dB", size), func(b *testing.B) { benchmarkPublish(b, "gossip", size) })
	}
}

func benchmarkPublish(b *testing.B, topic string, size int) {
	const window = 2048
	w := bustest.New(b, testPolicy)
	planner, feed := w.Agent("planner"), w.Agent("feed-1")
	room := make(chan struct{}, window)
	done := make(chan struct{})
	handled := 0
	_, err := planner.Subscribe(w.Ctx(), topic+".>", func(context.Context, *agentbus.Message) error {
		<-room
		if handled++; handled == b.N+1 {
			close(done)
		}
		return nil
	})
	bustest.Check(b, err)
	ctx, payload := w.Ctx(), make([]byte, size)
	room <- struct{}{}
	bustest.Check(b, feed.Publish(ctx, topic, payload)) // keys are there from here on
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		room <- struct{}{}
		if err := feed.Publish(ctx, topic, payload); err != nil {
			b.Fatal(err)
		}
	}
	bustest.Receive(b, done)
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}

// BenchmarkRequest measures one request at a time, and its reply.
func BenchmarkRequest(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			w := bustest.New(b, testPolicy)
			planner, bob := w.Agent("planner"), w.Agent("bob")
			_, err := bob.Serve(w.Ctx(), echo)
			bustest.Check(b, err)
			ctx, payload := context.Background(), make([]byte, size)
			_, err = planner.Request(ctx, "bob", payload)
			bustest.Check(b, err)
			b.SetBytes(int64(2 * size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := planner.Request(ctx, "bob", payload); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkRetained measures publishing to a retained topic, each message acknowledged after it is synced to disk.
func BenchmarkRetained(b *testing.B) {
	w := bustest.New(b, testPolicy)
	feed, ctx, payload := w.Agent("feed-1"), context.Background(), make([]byte, 128)
	bustest.Check(b, feed.Publish(ctx, "ledger", payload))
	for b.Loop() {
		if err := feed.Publish(ctx, "ledger", payload); err != nil {
			b.Fatal(err)
		}
	}
}
