package audit

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
)

// What the broker does before the auditor sees it.

// TestInserted: what no entitled sender has signed is named wherever it comes from.
func TestInserted(t *testing.T) {
	for name, insert := range map[string]func(w *world){
		"rubbish": func(w *world) { w.stream.put("sb.topic.ledger.a", []byte("rubbish")) },
		"nothing": func(w *world) { w.stream.put("sb.topic.ledger.a", nil) },
		"a frame with a changed header": func(w *world) {
			m := *w.stream.at(5)
			flip(&m, 30)
			w.stream.put(m.Subject, m.Data)
		},
		"a frame with a changed seal": func(w *world) {
			m := *w.stream.at(5)
			flip(&m, -100)
			w.stream.put(m.Subject, m.Data)
		},
		"a frame under another subject":            func(w *world) { w.stream.put("sb.topic.ledger.b", w.stream.at(5).Data) },
		"a frame under a subject of another topic": func(w *world) { w.stream.put("sb.topic.other.a", w.stream.at(5).Data) },
		"a note under an event's subject":          func(w *world) { w.stream.put("sb.topic.ledger.a", w.stream.at(1).Data) },
		"a frame of a stranger": func(w *world) {
			other := newWorld(w.t, "SB_TOPIC_ledger")
			s := other.sender("feed-1")
			_, list, subject := s.seal(1)
			w.stream.put(subject, list[0].Frame)
		},
		"a frame without its signature": func(w *world) {
			var f envelope.Frame
			check(w.t, envelope.Parse(w.stream.at(5).Data, &f))
			f.Flags &^= envelope.FlagSigned
			f.Signature = envelope.Signature{}
			w.stream.put(w.stream.at(5).Subject, value(envelope.AppendFrame(nil, &f))(w.t))
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
				story(w)
				insert(w)
				w.auditor.audit()
				r := w.auditor.verify()
				wants(t, r, "ok ok ok FAILED ok")
				found(t, &r.Authenticity, 1, 13, -1)
				// What the auditor saw stays in the log when the message is gone.
				pass(25 * time.Hour)
				w.stream.prune(24 * time.Hour)
				w.auditor.event(KindStill, w.auditor.holds())
				w.auditor.sign()
				r = w.auditor.verify()
				wants(t, r, "ok ok ok FAILED ok")
				found(t, &r.Authenticity, 1, 13, -1)
			})
		})
	}
}

// TestNotEntitled: frames of a sender that was revoked or lost its right, sealed after that, with the broker's help.
func TestNotEntitled(t *testing.T) {
	for name, change := range map[string][2]string{
		"revoked":    {"queues:", "revoked: [feed-1]\nqueues:"},
		"taken away": {`ledger: {publish: ["feed-*"]`, `ledger: {publish: ["feed-2"]`},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
				a := w.sender("feed-1")
				a.send(3) // 1 to 4
				w.auditor.audit()
				_, list, subject := a.seal(1) // on its way
				w.change(change[0], change[1])
				pass(10 * time.Second)
				w.auditor.adopt()
				w.stream.put(subject, list[0].Frame) // 5
				w.auditor.audit()
				r := w.auditor.verify()
				wants(t, r, "ok ok unproven unproven ok") // the session was not closed either
				if r.Authenticity.Open != 1 || !strings.Contains(r.Authenticity.Detail, "revision 2") {
					w.t.Errorf("%s", r)
				}
				pass(time.Minute)
				_, list, subject = a.seal(1)
				w.stream.put(subject, list[0].Frame) // 6: it has not heard of the policy, or does not care
				w.auditor.audit()
				r = w.auditor.verify()
				wants(t, r, "ok ok unproven FAILED ok")
				found(t, &r.Authenticity, 1, 6, -1)
			})
		})
	}
}

// TestRepeated: the broker stores a message once more.
func TestRepeated(t *testing.T) {
	for name, which := range map[string]uint64{"of a session that goes on": 15, "of one that was closed": 3, "its opening": 1, "its end": 11} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
				story(w)
				c := w.sender("feed-3")
				c.send(4) // 13 to 17
				m := w.stream.at(which)
				w.stream.put(m.Subject, m.Data)
				c.send(1)
				c.close()
				w.auditor.audit()
				r := w.auditor.verify()
				wants(t, r, "ok FAILED ok ok ok")
				found(t, &r.Order, 1, 18, -1)
			})
		})
	}
}

// TestOutOfOrder: the broker stores two messages of one sender the wrong way round. On a topic that is not so; in a queue it
// may be.
func TestOutOfOrder(t *testing.T) {
	for name, want := range map[string]string{"SB_TOPIC_ledger": "ok FAILED ok ok ok", "SB_TASK_work": allOK} {
		inWorld(t, name, func(t *testing.T, w *world) {
			a := w.sender("feed-1")
			notes, list, subject := a.seal(5)
			a.put(a.noteSubject(), notes)
			list[2], list[3] = list[3], list[2]
			a.put(subject, list)
			a.close()
			w.auditor.audit()
			r := w.auditor.verify()
			wants(t, r, want)
			if name == "SB_TOPIC_ledger" {
				found(t, &r.Order, 1, 5, -1)
			}
		})
	}
}

// TestDropped: the broker acknowledges messages and does not store them. The senders' counters tell, as soon as there is anything
// to tell by.
func TestDropped(t *testing.T) {
	for _, name := range []string{"SB_TOPIC_ledger", "SB_TASK_work"} {
		for _, test := range []struct {
			what  string
			drop  []int  // of the 8 messages: opening, 6, closing
			want  string // then
			count int64
			next  string // and when the sender has opened and closed its next session
			then  int64
		}{
			{"one in the middle", []int{3}, "ok ok FAILED ok ok", 1, "ok ok FAILED ok ok", 1},
			{"two", []int{3, 5}, "ok ok FAILED ok ok", 2, "ok ok FAILED ok ok", 2},
			{"the first", []int{1}, "ok ok FAILED ok ok", 1, "ok ok FAILED ok ok", 1},
			{"the opening", []int{0}, "ok ok FAILED ok ok", 1, "ok ok FAILED ok ok", 1},
			{"the end", []int{7}, "ok ok unproven ok ok", 0, "ok ok FAILED ok ok", 1},
			{"the end and what came before", []int{5, 6, 7}, "ok ok unproven ok ok", 0, "ok ok FAILED ok ok", 1},
			{"one, and the end", []int{2, 7}, "ok ok unproven ok ok", 0, "ok ok FAILED ok ok", 2},
			{"everything", []int{0, 1, 2, 3, 4, 5, 6, 7}, allOK, 0, "ok ok FAILED ok ok", 1},
		} {
			t.Run(name+"/"+test.what, func(t *testing.T) {
				inWorld(t, name, func(t *testing.T, w *world) {
					n := 0
					w.stream.intake = func(string, []byte) bool {
						n++
						return n > 8 || !slices.Contains(test.drop, n-1)
					}
					a := w.sender("feed-1")
					a.send(6)
					a.close()
					w.auditor.event(KindStill, w.auditor.holds())
					w.auditor.audit()
					r := w.auditor.verify()
					wants(t, r, test.want)
					if r.Completeness.Findings != test.count {
						w.t.Errorf("%d findings, want %d\n%s", r.Completeness.Findings, test.count, r)
					}
					a.send(1)
					a.close()
					w.auditor.audit()
					r = w.auditor.verify()
					wants(t, r, test.next)
					if r.Completeness.Findings != test.then {
						w.t.Errorf("then %d findings, want %d\n%s", r.Completeness.Findings, test.then, r)
					}
				})
			})
		}
	}
}

// TestDroppedInOpenSession: of a session that goes on, a hole may yet be filled or declared void, for a time.
func TestDroppedInOpenSession(t *testing.T) {
	inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
		n := 0
		w.stream.intake = func(string, []byte) bool { n++; return n != 4 }
		a := w.sender("feed-1")
		a.send(5)
		w.auditor.audit()
		wants(t, w.auditor.verify(), "ok ok unproven ok ok")
		pass(time.Minute)
		a.idle()
		w.auditor.audit()
		wants(t, w.auditor.verify(), "ok ok unproven ok ok")
		pass(10 * time.Minute)
		a.idle()
		w.auditor.audit()
		r := w.auditor.verify()
		wants(t, r, "ok ok FAILED ok ok")
		found(t, &r.Completeness, 1, 4, -1) // before what is message 4 now
	})
	inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
		n := 0
		w.stream.intake = func(string, []byte) bool { n++; return n != 4 }
		a := w.sender("feed-1")
		a.send(5)
		for range 5 {
			a.send(1000)
		}
		w.auditor.audit()
		wants(t, w.auditor.verify(), "ok ok FAILED ok ok") // no number is given so far above one that is under way
	})
}

// TestVanishedBeforeLogged: messages are taken out of the stream before the auditor has seen them.
func TestVanishedBeforeLogged(t *testing.T) {
	inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
		a := w.sender("feed-1")
		a.send(4)
		w.auditor.audit()
		a.send(4) // 6 to 9
		w.stream.remove(7)
		w.stream.remove(8)
		a.close()
		w.auditor.audit()
		r := w.auditor.verify()
		wants(t, r, "ok ok FAILED ok ok")
		found(t, &r.Completeness, 2, 7, -1) // the log has a hole, and so has the sender's session
	})
}

// TestAnotherSays: a sender that lies about another's session, or is not attested, makes nobody look as if anything were missing.
func TestAnotherSays(t *testing.T) {
	inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
		story(w)
		victim := HeaderOf(w.stream.at(2).Data)
		// An entitled sender declares the victim's numbers void, in its own session.
		n := keyring.SessionNote{Kind: keyring.NoteVoid, Name: "ledger", Session: victim.Session, From: 1, To: 3}
		b := w.sender("feed-3")
		list, _ := b.bundles(1)
		list[0].Kind, list[0].Recipient = envelope.KindControl, n.String()
		list[0].Messages.Reset(true)
		check(t, list[0].Messages.Add(&envelope.Message{}))
		notes := value(b.of.SealCounted(t.Context(), list))(t)
		b.put(b.noteSubject(), notes)
		b.put(b.noteSubject(), list)
		b.close()
		w.auditor.audit()
		wants(t, w.auditor.verify(), allOK)
		w.stream.remove(2)
		r := w.auditor.verify()
		wants(t, r, "ok ok FAILED ok ok")
		found(t, &r.Completeness, 1, 2, -1)
	})
}
