package keyring

import (
	"fmt"
	"testing"
	"time"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// BenchmarkSealBundles gathers and seals what fills eight frames of 64 KiB, under one signature where there is one.
func BenchmarkSealBundles(b *testing.B) {
	benchmarkBundles(b, func(b *testing.B, x *bundled) {
		for b.Loop() {
			x.seal(b)
		}
	})
}

// BenchmarkUnsealAccept opens eight such frames, one after the other. The root of each eight is verified once.
func BenchmarkUnsealAccept(b *testing.B) {
	benchmarkBundles(b, func(b *testing.B, x *bundled) {
		x.seal(b)
		for b.Loop() {
			x.rc.forget()
			x.reader.roots.drop()
			x.open(b)
		}
	})
}

// BenchmarkFrameSize is for choosing how much to gather for a frame: messages of 1 KiB, half a MiB of them.
func BenchmarkFrameSize(b *testing.B) {
	for _, kib := range []int{16, 32, 64, 128, 256} {
		for _, ch := range []policy.Channel{gossip, prices} {
			b.Run(fmt.Sprintf("%s/%dKiB", benchNames[ch], kib), func(b *testing.B) {
				x := newBundled(b, ch, 1<<10, kib<<10, 512/kib)
				b.Run("seal", func(b *testing.B) {
					measureBundles(b, x, func(b *testing.B, x *bundled) {
						for b.Loop() {
							x.seal(b)
						}
					})
				})
				x.seal(b)
				b.Run("open", func(b *testing.B) {
					measureBundles(b, x, func(b *testing.B, x *bundled) {
						for b.Loop() {
							x.rc.forget()
							x.reader.roots.drop()
							x.open(b)
						}
					})
				})
			})
		}
	}
}

var benchNames = map[policy.Channel]string{gossip: "unsigned", prices: "signed", ledger: "committed"}

func benchmarkBundles(b *testing.B, run func(*testing.B, *bundled)) {
	for _, ch := range []policy.Channel{gossip, prices, ledger} {
		for _, size := range []int{128, 1 << 10, 16 << 10} {
			b.Run(fmt.Sprintf("%s/%d", benchNames[ch], size), func(b *testing.B) {
				measureBundles(b, newBundled(b, ch, size, 64<<10, 8), run)
			})
		}
	}
}

func measureBundles(b *testing.B, x *bundled, run func(*testing.B, *bundled)) {
	b.ReportAllocs()
	b.SetBytes(int64(x.messages * len(x.message.Payload)))
	run(b, x)
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*x.messages), "ns/message")
	b.ReportMetric(0, "ns/op")
}

// bundled is an exchange of several frames with many messages each.
type bundled struct {
	*exchange
	reader   *Ring
	bundles  []*Bundle
	message  envelope.Message
	each     int // messages in a frame
	messages int // in all
	u        Unsealed
}

func newBundled(t testing.TB, ch policy.Channel, size, frame, frames int) *bundled {
	x := &bundled{exchange: newExchange(t, ch, size), message: envelope.Message{Payload: make([]byte, size)}}
	x.reader = x.rc.ring
	x.each = frame / x.message.Size(value(x.sender.Committed())(t))
	x.messages = frames * x.each
	for range frames {
		x.bundles = append(x.bundles, &Bundle{Kind: envelope.KindEvent, Recipient: ch.Name()})
	}
	return x
}

func (x *bundled) seal(t testing.TB) {
	committed, err := x.sender.Committed()
	check(t, err)
	for _, b := range x.bundles {
		b.Expires = time.Time{}
		b.Messages.Reset(committed)
		for range x.each {
			if err := b.Messages.Add(&x.message); err != nil {
				t.Fatal(err)
			}
		}
	}
	check(t, x.sender.SealBundles(x.bundles))
}

func (x *bundled) open(t testing.TB) {
	for _, b := range x.bundles {
		check(t, x.rc.Unseal(b.Frame, x.want, &x.u))
		check(t, x.rc.Accept(&x.u, &x.out))
		if len(x.out.Messages) != x.each {
			t.Fatalf("%d messages, want %d", len(x.out.Messages), x.each)
		}
	}
}
