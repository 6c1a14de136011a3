package audit

import (
	"slices"
	"testing"
	"time"
)

// TestCompare: two auditors that were shown the same agree; a broker that shows one of them something else is found.
func TestCompare(t *testing.T) {
	inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
		a := w.sender("feed-1")
		a.send(3)
		w.auditor.follow()
		late := w.newAuditor("auditor") // begins with what is there
		w.stream.list = w.stream.list[2:]
		late.begin()
		a.send(3)
		shown := slices.Clone(w.stream.list)
		w.auditor.follow()
		late.follow()
		v := value(Compare(t.Context(), w.auditor.log, late.log))(t)
		if v.State != OK || v.Figure("messages that both logs have") != 5 || v.Figure("messages from before one of the logs") != 2 {
			t.Errorf("%+v", v)
		}
		a.send(2)
		w.auditor.follow()
		w.stream.at(9).Data = shown[3].Data
		late.follow()
		v = value(Compare(t.Context(), late.log, w.auditor.log))(t)
		found(t, v, 1, 9, -1)
		a.send(2)
		w.auditor.follow()
		w.stream.remove(10)
		a.send(1)
		w.auditor.follow()
		late.follow()
		v = value(Compare(t.Context(), late.log, w.auditor.log))(t)
		if v.Open != 1 || v.Findings != 1 {
			t.Errorf("%+v", v)
		}
		w.stream.name = "SB_TOPIC_loose"
		if _, err := Compare(t.Context(), late.log, w.newAuditor("auditor").log); err == nil {
			t.Error("logs of two streams are compared")
		}
	})
}

// TestVerifyWhileWritten: a log and its checkpoints grow while they are verified. That is no contradiction.
func TestVerifyWhileWritten(t *testing.T) {
	inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
		a := w.sender("feed-1")
		a.send(3)
		a.close()
		w.auditor.audit()
		for _, own := range []bool{true, false} {
			in := w.auditor.input()
			if own {
				in.Log = w.auditor.log
			}
			grown := false
			places := in.Places
			in.Places = append([]Place{{"slow", func(yield func([]byte, error) bool) {
				for i := 0; i < len(w.auditor.published); i++ {
					if !yield(w.auditor.published[i], nil) {
						return
					}
					if !grown { // in the middle of it all
						grown = true
						a.send(2)
						a.close()
						w.auditor.audit()
					}
				}
			}}}, places...)
			r := value(Verify(t.Context(), in))(t)
			wants(t, r, allOK)
			if r.Integrity.Figure("checkpoints of what came while this was verified") == 0 {
				t.Errorf("%s", r)
			}
		}
		w.stream.remove(2)
		wants(t, w.auditor.verify(), "ok ok FAILED ok ok")
	})
}

// TestFlood: a sender that opens sessions without end takes nobody else's place, and makes nobody look bad.
func TestFlood(t *testing.T) {
	var order, complete Verdict
	c := newCounters(true, &order, &complete)
	h := testEntry(0).Frame.Header
	at := Position{1, 1}
	honest := h
	honest.Kind, honest.Recipient, honest.Seq, honest.Sender = 8, "ledger.open.none.0.none", 1, "spiffe://example.org/agent/feed-2"
	c.frame(&honest, at, testEpoch)
	for i := range 3 * maxPerInstance {
		h.Kind, h.Recipient, h.Seq = 8, "ledger.open.none.0.none", 1
		h.Session[0], h.Session[8], h.Session[9] = 7, byte(i>>8), byte(i)
		at.Sequence++
		c.frame(&h, at, testEpoch.Add(time.Duration(i)))
	}
	if len(c.live) > maxPerInstance+1 {
		t.Errorf("%d sessions are followed", len(c.live))
	}
	for i := range 3 {
		honest.Kind, honest.Recipient, honest.Seq = 1, "ledger.a", uint64(i)+2
		at.Sequence++
		c.frame(&honest, at, testEpoch.Add(time.Hour))
	}
	honest.Seq, honest.Kind, honest.Recipient = 5, 8, "ledger.close"
	c.frame(&honest, at, testEpoch.Add(time.Hour))
	c.settle()
	if order.Findings > 0 || complete.Findings > 0 || complete.Figure(figureComplete) != 1 {
		t.Errorf("%+v, %+v", order, complete)
	}
}
