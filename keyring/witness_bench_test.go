package keyring

import (
	"fmt"
	"testing"
	"time"

	"github.com/sealbus/sealbus/internal/envelope"
)

// BenchmarkWitness judges frames of 1 KiB, each signed by itself or 64 by one signature.
func BenchmarkWitness(b *testing.B) {
	for _, together := range []int{1, 64} {
		b.Run(fmt.Sprintf("%d", together), func(b *testing.B) {
			w := newWorld(b)
			w.setPolicy(queuePolicy)
			s := w.shift(queue, w.agentUntil("exec-1", month), w.agentUntil("planner", time.Hour))
			witness := w.witness()
			p := value(witness.AddPolicy(s.worker.RawPolicy()))(b)
			value(witness.AddCard(value(s.worker.RawCard(w.ctx(), s.producer.Self(), s.producer.Card()))(b)))(b)
			var frames [][]byte
			for len(frames) < 4096 {
				bundles := make([]*Bundle, together)
				for i := range bundles {
					bundles[i] = &Bundle{Kind: envelope.KindTask, Recipient: "summarise"}
					bundles[i].Messages.Reset(true)
					check(b, bundles[i].Messages.Add(&envelope.Message{Payload: make([]byte, 1024)}))
				}
				check(b, s.sender.SealBundles(bundles))
				for _, bundle := range bundles {
					frames = append(frames, bundle.Frame)
				}
			}
			at := time.Now()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				value(witness.Attest(frames[i%len(frames)], queue, p, at, s.want))(b)
				if i%len(frames) == 0 {
					witness.roots.drop()
				}
			}
		})
	}
}
