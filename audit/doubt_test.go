package audit

import (
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
)

// TestCardsOfThePast: what an expired card still speaks for, what it may have, and what it never does.
func TestCardsOfThePast(t *testing.T) {
	inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
		w.life = time.Hour
		w.change("trust_domain: example.org\n", "trust_domain: example.org\nmax_card_age: 2h\n")
		a := w.sender("feed-1")
		w.auditor.adopt()
		a.send(1) // 1, 2
		pass(90 * time.Minute)
		w.auditor.follow() // its card has expired since, and it is young enough
		w.auditor.sign()
		wants(t, w.auditor.verify(), "ok ok unproven ok ok")
		b := w.sender("feed-2")
		b.send(1)               // 3, 4
		pass(4 * time.Hour)     // the auditor is away
		w.auditor.follow()      // and they are too old by now
		_, list, s := a.seal(1) // with a card that has long expired
		w.auditor.sign()
		r := w.auditor.verify()
		wants(t, r, "ok ok unproven unproven ok")
		if r.Authenticity.Open != 2 {
			t.Errorf("%s", r)
		}
		w.stream.put(s, list[0].Frame) // 5
		w.auditor.audit()
		r = w.auditor.verify()
		wants(t, r, "ok ok unproven FAILED ok")
		found(t, &r.Authenticity, 1, 5, -1)
	})
}

// TestTakenOutOfTheMiddle: messages that had vanished before they were logged may have been old enough, but not if older ones are
// there.
func TestTakenOutOfTheMiddle(t *testing.T) {
	inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
		a := w.sender("feed-1")
		a.send(4)
		w.auditor.audit()
		pass(25 * time.Hour) // and the broker has not pruned yet
		a.send(4)            // 6 to 10
		w.stream.remove(6)
		a.close()
		w.auditor.audit()
		r := w.auditor.verify()
		wants(t, r, "ok ok FAILED ok ok")
		found(t, &r.Completeness, 1, 6, -1)
		w.stream.prune(24 * time.Hour) // with what was before, the proof goes
		wants(t, w.auditor.verify(), "ok ok unproven ok ok")
	})
}

// TestGoneAtTheBeginning: what the stream had when the log was opened, and was gone before it was logged, is told of.
func TestGoneAtTheBeginning(t *testing.T) {
	inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
		a := w.sender("feed-1")
		a.send(4)
		late := w.newAuditor("auditor")
		late.begin()
		w.stream.list = w.stream.list[1:]
		a.close()
		late.audit()
		r := late.verify()
		wants(t, r, "ok ok unproven ok ok")
		if r.Completeness.Open != 1 || r.Completeness.Kept[0].At.Sequence != 1 {
			t.Errorf("%s", r)
		}
	})
}

// TestLooseStream: a configuration that lets the stream drop what the policy keeps is told of from the beginning.
func TestLooseStream(t *testing.T) {
	inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
		w.change("audit: [auditor], retain: 24h", "audit: [auditor], retain: 48h")
		late := w.newAuditor("auditor")
		late.begin() // the stream's limit is still a day
		late.sign()
		r := late.verify()
		wants(t, r, "ok ok unproven ok ok")
		if !strings.Contains(r.Completeness.Detail, "drops messages after 24h") {
			t.Errorf("%s", r)
		}
	})
}

// TestKeptNoMore: a stream that the policy did not have kept for a time may be made anew.
func TestKeptNoMore(t *testing.T) {
	inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
		story(w)
		before := "ledger: {publish: [\"feed-*\"], subscribe: [planner], audit: [auditor], retain: 24h}"
		w.change(before, "ledger: {publish: [\"feed-*\"], subscribe: [planner]}")
		w.auditor.adopt()
		w.stream.list, w.stream.last, w.stream.created = nil, 0, time.Now()
		pass(time.Hour)
		w.change("ledger: {publish: [\"feed-*\"], subscribe: [planner]}", before)
		w.auditor.adopt()
		w.auditor.configured()
		w.auditor.next = 1
		a := w.sender("feed-3")
		a.send(2)
		a.close()
		w.auditor.audit()
		wants(t, w.auditor.verify(), "ok ok unproven ok ok")
		w.stream.remove(2)
		r := w.auditor.verify()
		wants(t, r, "ok ok FAILED ok ok")
		found(t, &r.Completeness, 1, 2, -1)
	})
}

// counted feeds counters with the frames of one sender.
type counted struct {
	order, complete Verdict
	c               *counters
	at              Position
	now             time.Time
}

func newCounted(topic bool) *counted {
	n := &counted{now: testEpoch}
	n.c = newCounters(topic, &n.order, &n.complete)
	return n
}

// session is an id that is later for a higher number.
func sessionID(n byte) ulid.ULID { return ulid.ULID{0, n, 15: n} }

func (n *counted) frame(session byte, seq uint64, note *keyring.SessionNote) {
	h := testEntry(0).Frame.Header
	h.Session, h.Seq, h.Leaf = sessionID(session), seq, [32]byte{session, byte(seq)}
	if note != nil {
		note.Name = "ledger"
		h.Kind, h.Recipient = envelope.KindControl, note.String()
	}
	n.at.Sequence++
	n.at.Entry++
	n.c.frame(&h, n.at, n.now)
}

func open(previous byte, last uint64) *keyring.SessionNote {
	o := &keyring.SessionNote{Kind: keyring.NoteOpen}
	if previous > 0 {
		o.Previous, o.Last = sessionID(previous), last
		if last > 0 {
			o.Leaf = [32]byte{previous, byte(last)}
		}
	}
	return o
}

// TestSessionsSaid: what a sender says of its sessions, in all ways in which that can be wrong.
func TestSessionsSaid(t *testing.T) {
	closing := func() *keyring.SessionNote { return &keyring.SessionNote{Kind: keyring.NoteClose} }
	void := func(session byte, from, to uint64) *keyring.SessionNote {
		return &keyring.SessionNote{Kind: keyring.NoteVoid, Session: sessionID(session), From: from, To: to}
	}
	for name, test := range map[string]struct {
		say               func(n *counted)
		failed, open      int64 // of completeness
		outOfOrder, doubt int64
		text              string
	}{
		"another last frame": {say: func(n *counted) {
			n.frame(1, 1, open(0, 0))
			n.frame(1, 2, nil)
			o := open(1, 2)
			o.Leaf[9] = 1
			n.frame(2, 1, o)
			n.frame(2, 2, closing())
		}, failed: 1, text: "last frame was another"},
		"another last frame of one that is complete": {say: func(n *counted) {
			n.frame(1, 1, open(0, 0))
			n.frame(1, 2, closing())
			o := open(1, 2)
			o.Leaf[9] = 1
			n.frame(2, 1, o)
			n.frame(2, 2, closing())
		}, failed: 1, text: "last frame was another"},
		"fewer than there are": {say: func(n *counted) {
			n.frame(1, 1, open(0, 0))
			n.frame(1, 2, nil)
			n.frame(1, 3, nil)
			n.frame(2, 1, open(1, 2))
			n.frame(2, 2, closing())
		}, failed: 1, text: "says its last number was 2"},
		"two ends of one session": {say: func(n *counted) {
			n.frame(1, 1, open(0, 0))
			n.frame(2, 1, open(1, 3))
			n.frame(2, 2, open(1, 4))
			n.frame(2, 3, closing())
		}, failed: 2, text: "ended with number 4"},
		"the same end twice": {say: func(n *counted) {
			n.frame(1, 1, open(0, 0))
			n.frame(2, 1, open(1, 1))
			n.frame(2, 2, open(1, 1))
			n.frame(2, 3, closing())
		}},
		"the first, after another": {say: func(n *counted) {
			n.frame(1, 1, open(0, 0))
			n.frame(1, 2, closing())
			n.frame(2, 1, open(0, 0))
			n.frame(2, 2, closing())
		}, open: 1, text: "says it is the first"},
		"one before of which nothing is here, and nobody knows": {say: func(n *counted) {
			n.frame(2, 1, open(1, 0))
			n.frame(2, 2, closing())
		}, open: 1, text: "was killed"},
		"one before of which nothing is here": {say: func(n *counted) {
			n.frame(2, 1, open(1, 5))
			n.frame(2, 2, closing())
		}, failed: 1, text: "numbers 1 to 5"},
		"one before of which all is void": {say: func(n *counted) {
			n.frame(2, 1, open(1, 5))
			n.frame(2, 2, void(1, 1, 2))
			n.frame(2, 3, void(1, 3, 5))
			n.frame(2, 4, closing())
		}},
		"void before it is named": {say: func(n *counted) {
			n.frame(2, 1, void(1, 1, 5))
			n.frame(2, 2, open(1, 5))
			n.frame(2, 3, closing())
		}, failed: 1, text: "no note opens it"},
		"an end that is void, said twice": {say: func(n *counted) {
			n.frame(1, 1, open(0, 0))
			n.frame(2, 1, open(1, 3))
			n.frame(2, 2, void(1, 2, 3))
			n.frame(2, 3, open(1, 3))
			n.frame(2, 4, closing())
		}},
		"more after the end": {say: func(n *counted) {
			n.frame(1, 1, open(0, 0))
			n.frame(1, 2, closing())
			n.frame(1, 3, nil)
		}, outOfOrder: 1},
		"more after an end with a hole": {say: func(n *counted) {
			n.frame(1, 1, open(0, 0))
			n.frame(1, 3, closing())
			n.frame(1, 4, nil)
		}, outOfOrder: 1, failed: 1},
		"the end before the rest": {say: func(n *counted) {
			n.frame(1, 1, open(0, 0))
			n.frame(1, 4, closing())
			n.frame(1, 2, nil)
			n.frame(1, 3, nil)
		}, outOfOrder: 2},
		"void, and stored all the same": {say: func(n *counted) {
			n.frame(1, 1, open(0, 0))
			n.frame(1, 4, void(1, 2, 3))
			n.frame(1, 3, nil)
			n.frame(1, 5, closing())
		}},
		"runs without end": {say: func(n *counted) {
			n.frame(1, 1, open(0, 0))
			for i := range uint64(3 * maxRanges) {
				n.frame(1, 3+2*i, nil)
			}
		}, open: 1, text: "runs of numbers"},
		"a killed one, and far below its last": {say: func(n *counted) {
			n.frame(1, 1, open(0, 0))
			n.frame(1, 3, nil)
			n.frame(1, 3+keyring.MaxUnderWay, nil)
			n.frame(2, 1, open(1, 0))
			n.frame(2, 2, closing())
		}, failed: 1, open: 2, text: "number 2 "},
	} {
		t.Run(name, func(t *testing.T) {
			n := newCounted(true)
			test.say(n)
			n.c.settle()
			n.complete.settle("completeness", "")
			n.order.settle("order", "")
			page := (&Report{Completeness: n.complete, Order: n.order}).String()
			if n.complete.Findings != test.failed || n.complete.Open != test.open || n.order.Findings != test.outOfOrder || n.order.Open != test.doubt ||
				!strings.Contains(page, test.text) {
				t.Errorf("%s", page)
			}
			if len(n.c.live) > 0 && test.failed+test.open+test.outOfOrder == 0 {
				t.Errorf("%d sessions are not complete", len(n.c.live))
			}
		})
	}
}

// TestManySessions: more sessions end than are remembered. Of an old one that comes again it is said that nobody can tell.
func TestManySessions(t *testing.T) {
	n := newCounted(true)
	h := testEntry(0).Frame.Header
	id := func(i int) ulid.ULID { return ulid.ULID{2: byte(i >> 16), 3: byte(i >> 8), 4: byte(i), 15: 1} }
	send := func(i int, seq uint64, recipient string) {
		h.Session, h.Seq, h.Kind, h.Recipient = id(i), seq, envelope.KindControl, recipient
		n.c.frame(&h, Position{uint64(i), int64(i)}, testEpoch)
	}
	for i := 1; i < maxEnded+1000; i++ {
		send(i, 1, "ledger.open.none.0.none")
		send(i, 2, "ledger.close")
	}
	if len(n.c.done) != maxEnded || len(n.c.live) != 0 {
		t.Errorf("%d sessions are remembered, %d followed", len(n.c.done), len(n.c.live))
	}
	send(5, 2, "ledger.close")
	send(maxEnded+5, 2, "ledger.close")
	if n.order.Open != 1 || n.order.Findings != 1 {
		t.Errorf("%+v", n.order)
	}
}
