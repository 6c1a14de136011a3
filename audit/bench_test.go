package audit

import (
	"fmt"
	"testing"
)

// BenchmarkAppend is what a log takes in: batches of so many entries, synced once a batch.
func BenchmarkAppend(b *testing.B) {
	for _, n := range []int{1, 64, 512, 4096} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			l, _ := newLog(b)
			at := 0
			for b.Loop() {
				b.StopTimer()
				batch := testEntries(at, at+n)
				at += n
				b.StartTimer()
				value(l.Append(batch...))(b)
				check(b, l.Sync())
			}
			b.ReportMetric(float64(at)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}

// BenchmarkParseEntry is what reading one costs.
func BenchmarkParseEntry(b *testing.B) {
	raw := value(AppendEntry(nil, testEntry(7)))(b)
	b.ReportMetric(float64(len(raw)), "bytes")
	b.ReportAllocs()
	var e Entry
	for b.Loop() {
		check(b, ParseEntry(raw, &e))
	}
}
