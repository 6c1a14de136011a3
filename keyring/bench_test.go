package keyring

import (
	"context"
	"fmt"
	"testing"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// TestAllocations bounds what one small message costs the collector, sealed and opened, without a signature.
func TestAllocations(t *testing.T) {
	x := newExchange(t, gossip, 128)
	if n := testing.AllocsPerRun(1000, func() {
		x.seal(t)
		x.open(t)
	}); n > 6 {
		t.Errorf("%.1f allocations to seal and open 128 bytes, at most 6 are allowed", n)
	}
}

func BenchmarkSeal(b *testing.B) {
	benchmark(b, func(b *testing.B, x *exchange) {
		for b.Loop() {
			x.seal(b)
		}
	})
}

// BenchmarkOpen opens frames that were sealed beforehand: a receiver that has seen one refuses it, so there are many,
// and a new receiver for each round of them.
func BenchmarkOpen(b *testing.B) {
	benchmark(b, func(b *testing.B, x *exchange) {
		var frames [][]byte
		for range 256 {
			x.buf = nil
			frames = append(frames, x.seal(b))
		}
		x.open(b)
		for i := 0; b.Loop(); i++ {
			if i%256 == 0 {
				x.rc.forget()
			}
			x.buf = frames[i%256]
			x.open(b)
		}
	})
}

// forget empties every window, as if nothing had been received.
func (rc *Receiver) forget() {
	for _, s := range rc.sessions {
		s.window = window{}
	}
}

func BenchmarkSealOpen(b *testing.B) {
	benchmark(b, func(b *testing.B, x *exchange) {
		for b.Loop() {
			x.seal(b)
			x.open(b)
		}
	})
}

func benchmark(b *testing.B, run func(*testing.B, *exchange)) {
	for _, ch := range []policy.Channel{gossip, prices} {
		for _, size := range []int{128, 1 << 10, 16 << 10} {
			signed := map[policy.Channel]string{gossip: "unsigned", prices: "signed"}[ch]
			b.Run(fmt.Sprintf("%s/%d", signed, size), func(b *testing.B) {
				x := newExchange(b, ch, size)
				b.ReportAllocs()
				b.SetBytes(int64(size))
				run(b, x)
			})
		}
	}
}

// exchange is a sender and a receiver that have met, and a message.
type exchange struct {
	sender *Sender
	rc     *Receiver
	want   *Want
	draft  Draft
	text   []byte
	buf    []byte
	out    Opened
}

func newExchange(t testing.TB, ch policy.Channel, size int) *exchange {
	w := newWorld(t)
	reader, writer := w.agent("planner"), w.agent("feed-1")
	check(t, reader.Join(context.Background(), ch))
	x := &exchange{
		sender: value(writer.Sender(context.Background(), ch))(t), rc: value(reader.Receiver(ch))(t),
		want: wantEvent(ch.Name()), draft: *draft(ch.Name(), ""), text: make([]byte, size),
	}
	if _, err := open(t, reader, x.rc, x.seal(t), x.want); err != nil {
		t.Fatal(err)
	}
	return x
}

func (x *exchange) seal(t testing.TB) []byte {
	var err error
	x.draft.Messages[0] = envelope.Message{Payload: x.text}
	if x.buf, _, err = x.sender.Seal(x.buf[:0], &x.draft); err != nil {
		t.Fatal(err)
	}
	return x.buf
}

func (x *exchange) open(t testing.TB) {
	if err := x.rc.Open(x.buf, x.want, &x.out); err != nil {
		t.Fatal(err)
	}
}
