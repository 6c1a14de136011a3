package audit

import (
	"testing"
	"time"
)

// TestHonest: a stream that nobody has touched passes every verdict.
func TestHonest(t *testing.T) {
	inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
		a, b := w.sender("feed-1"), w.sender("feed-2")
		for range 5 {
			a.send(3)
			b.send(1)
			w.auditor.audit()
			pass(time.Second)
		}
		a.close()
		b.close()
		w.auditor.audit()
		r := w.auditor.verify()
		wants(t, r, allOK)
		t.Log(r)
	})
}
