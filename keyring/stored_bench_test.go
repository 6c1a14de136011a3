package keyring

import (
	"context"
	"fmt"
	"testing"

	"github.com/sealbus/sealbus/internal/envelope"
)

// BenchmarkOpenStored opens signed tasks of 128 bytes, one message a frame: each signed alone, and 64 under one root.
func BenchmarkOpenStored(b *testing.B) {
	for _, under := range []int{1, 64} {
		b.Run(fmt.Sprintf("%d under a root", under), func(b *testing.B) {
			x := newStoredExchange(b, under)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if i%under == 0 {
					x.worker.roots.drop() // each root is met once
				}
				x.open(b, x.frames[i%under])
			}
		})
	}
}

// BenchmarkOpenStoredStrangers opens the same of senders that are met for the first time: their session keys are derived.
func BenchmarkOpenStoredStrangers(b *testing.B) {
	x := newStoredExchange(b, 1)
	b.ReportAllocs()
	for b.Loop() {
		clear(x.sr.sessions)
		x.open(b, x.frames[0])
	}
}

// BenchmarkOpenLive is for comparison: what BenchmarkOpenStored opens, as live traffic.
func BenchmarkOpenLive(b *testing.B) {
	for _, under := range []int{1, 64} {
		b.Run(fmt.Sprintf("%d under a root", under), func(b *testing.B) {
			x := newStoredExchange(b, under)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if i%under == 0 {
					x.worker.roots.drop()
					x.rc.forget()
				}
				if err := x.rc.Open(x.frames[i%under], x.want, &x.out); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

type storedExchange struct {
	*shift
	rc     *Receiver
	frames [][]byte
	out    Opened
}

func newStoredExchange(b *testing.B, under int) *storedExchange {
	b.Helper()
	w := newWorld(b)
	w.setPolicy(queuePolicy)
	x := &storedExchange{shift: w.shift(queue, w.agent("exec-1"), w.agent("planner"))}
	x.rc = value(x.worker.Receiver(queue))(b)
	drafts := make([]*Draft, under)
	for i := range drafts {
		drafts[i] = &Draft{Kind: envelope.KindTask, Recipient: queue.Name(), Messages: []envelope.Message{{Payload: make([]byte, 128)}}}
	}
	x.frames = x.sealTogether(b, drafts)
	x.open(b, x.frames[0])
	check(b, x.worker.Join(context.Background(), queue))
	return x
}

func (x *storedExchange) open(b *testing.B, frame []byte) {
	if err := x.sr.Open(frame, x.want, &x.out); err != nil {
		b.Fatal(err)
	}
}
