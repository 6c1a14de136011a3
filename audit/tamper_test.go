package audit

import (
	"context"
	"iter"
	"slices"
	"testing"
	"time"
)

// story is what most tests tamper with: messages 1 to 12 of two senders, closed and logged.
func story(w *world) {
	w.t.Helper()
	a, b := w.sender("feed-1"), w.sender("feed-2")
	a.send(5) // 1 to 6, with the note that opens the session
	pass(time.Second)
	b.send(3) // 7 to 10
	pass(time.Second)
	a.close() // 11
	b.close() // 12
	w.auditor.audit()
	pass(time.Minute)
}

// found checks that a verdict failed, how often, and where first.
func found(t testing.TB, v *Verdict, findings int64, sequence uint64, entry int64) {
	t.Helper()
	at, ok := v.First()
	if !ok || v.Findings != findings || at.Sequence != sequence || entry >= 0 && at.Entry != entry {
		t.Errorf("%s: %d findings, the first at %s; want %d at message %d, entry %d\n%v", v.Name, v.Findings, at, findings, sequence, entry, v.Kept)
	}
}

// TestTampered changes the stored stream after it was logged: each change is named, with its position, by the verdict that it is
// about, and by no other.
func TestTampered(t *testing.T) {
	const header = 4 // entries before the first message
	for _, test := range []struct {
		name   string
		tamper func(s *stream)
		want   string
		check  func(t *testing.T, r *Report)
	}{
		{"a message deleted", func(s *stream) { s.remove(4) }, "ok ok FAILED ok ok", func(t *testing.T, r *Report) {
			found(t, &r.Completeness, 1, 4, header+4)
		}},
		{"two messages deleted", func(s *stream) { s.remove(9); s.remove(2) }, "ok ok FAILED ok ok", func(t *testing.T, r *Report) {
			found(t, &r.Completeness, 2, 2, -1)
		}},
		{"the end cut off", func(s *stream) { s.list = s.list[:9] }, "ok ok FAILED ok ok", func(t *testing.T, r *Report) {
			found(t, &r.Completeness, 3, 10, -1)
		}},
		{"the front trimmed", func(s *stream) { s.list = s.list[4:] }, "ok ok FAILED ok ok", func(t *testing.T, r *Report) {
			found(t, &r.Completeness, 4, 1, -1)
		}},
		{"everything gone", func(s *stream) { s.list = nil }, "ok ok FAILED ok ok", func(t *testing.T, r *Report) {
			found(t, &r.Completeness, 12, 1, -1)
		}},
		{"a byte changed", func(s *stream) { flip(s.at(5), -100) }, "FAILED ok ok ok ok", func(t *testing.T, r *Report) {
			found(t, &r.Integrity, 1, 5, -1)
		}},
		{"a header changed", func(s *stream) { flip(s.at(5), 30) }, "FAILED ok ok ok ok", func(t *testing.T, r *Report) {
			found(t, &r.Integrity, 1, 5, -1)
		}},
		{"a message emptied", func(s *stream) { s.at(7).Data = nil }, "FAILED ok ok ok ok", func(t *testing.T, r *Report) {
			found(t, &r.Integrity, 1, 7, -1)
		}},
		{"two messages swapped", func(s *stream) { swap(s, 3, 9) }, "ok FAILED ok ok ok", func(t *testing.T, r *Report) {
			found(t, &r.Order, 2, 3, -1)
		}},
		{"three messages in a circle", func(s *stream) { swap(s, 3, 9); swap(s, 3, 5) }, "ok FAILED ok ok ok", func(t *testing.T, r *Report) {
			found(t, &r.Order, 3, 3, -1)
		}},
		{"a message written over another", func(s *stream) { s.at(8).Data = s.at(3).Data }, "ok FAILED FAILED ok ok", func(t *testing.T, r *Report) {
			found(t, &r.Order, 1, 8, -1)
			found(t, &r.Completeness, 1, 8, -1)
		}},
		{"a message under another subject", func(s *stream) { s.at(6).Subject += ".b" }, "FAILED ok ok ok ok", func(t *testing.T, r *Report) {
			found(t, &r.Integrity, 1, 6, -1)
		}},
		{"another time", func(s *stream) { s.at(6).Time = s.at(6).Time.Add(time.Nanosecond) }, "FAILED ok ok ok ok", func(t *testing.T, r *Report) {
			found(t, &r.Integrity, 1, 6, -1)
		}},
		{"made anew, with the same messages", func(s *stream) { s.created = time.Now() }, "ok ok FAILED ok ok", func(t *testing.T, r *Report) {
			found(t, &r.Completeness, 13, 1, -1)
		}},
		{"a message that is not logged yet", func(s *stream) {
			s.list = append(s.list, Stored{13, time.Now(), "sb.topic.ledger.a", []byte("later")})
		}, allOK, func(t *testing.T, r *Report) {
			if r.Integrity.Figure("messages that are not in the log yet") != 1 {
				t.Error("it is not told of")
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
				story(w)
				test.tamper(w.stream)
				r := w.auditor.verify()
				wants(t, r, test.want)
				test.check(t, r)
				if test.want != allOK && r.ExitCode() < 10 {
					w.t.Errorf("exit code %d", r.ExitCode())
				}
			})
		})
	}
}

func flip(m *Stored, at int) {
	m.Data = slices.Clone(m.Data)
	if at < 0 {
		at += len(m.Data)
	}
	m.Data[at] ^= 1
}

func swap(s *stream, a, b uint64) { s.at(a).Data, s.at(b).Data = s.at(b).Data, s.at(a).Data }

// TestFilledHole: a message that is put where the log has none, and a stream that does not even ascend.
func TestFilledHole(t *testing.T) {
	inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
		a := w.sender("feed-1")
		a.send(3)
		w.auditor.follow()
		w.stream.last += 2 // two numbers that were never messages, as far as the auditor has seen
		a.send(3)
		a.close()
		w.auditor.audit()
		r := w.auditor.verify()
		wants(t, r, "ok ok FAILED ok ok")
		found(t, &r.Completeness, 1, 5, -1)
		late := *w.stream.at(2)
		late.Sequence = 5
		w.stream.list = slices.Insert(w.stream.list, 4, late)
		r = w.auditor.verify()
		wants(t, r, "FAILED ok FAILED ok ok")
		found(t, &r.Integrity, 1, 5, -1)
		in := w.auditor.input()
		in.Frames = FramesFunc(func(context.Context) iter.Seq2[Stored, error] {
			return func(yield func(Stored, error) bool) {
				for _, i := range []int{0, 1, 3, 2, 5, 6, 7, 8} {
					if !yield(w.stream.list[i], nil) {
						return
					}
				}
			}
		})
		r = value(Verify(t.Context(), in))(t)
		wants(t, r, "ok FAILED FAILED ok ok")
	})
}

// TestMadeAnew: a stream that was deleted and made again is told from one that was cut, whether the broker says when it was made or
// not, and whether the auditor saw it or not.
func TestMadeAnew(t *testing.T) {
	inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
		story(w)
		w.stream.list, w.stream.last, w.stream.created = nil, 0, time.Now()
		c := w.sender("feed-3")
		c.send(2)
		in := w.auditor.input()
		r := value(Verify(t.Context(), in))(t)
		wants(t, r, "ok ok FAILED ok ok")
		found(t, &r.Completeness, 13, 1, -1)
		in = w.auditor.input()
		in.Created = time.Time{}
		r = value(Verify(t.Context(), in))(t)
		wants(t, r, "FAILED ok FAILED ok ok")
		found(t, &r.Integrity, 3, 1, -1)
		found(t, &r.Completeness, 9, 4, -1)

		// The auditor comes back, sees it and goes on.
		w.auditor.configured()
		w.auditor.next = 1
		c.close()
		w.auditor.audit()
		r = w.auditor.verify()
		wants(t, r, "ok ok FAILED ok ok")
		found(t, &r.Completeness, 13, 1, -1)
		if r.Authenticity.Figure("messages attested") != 4 {
			t.Errorf("of the new stream not all was looked at\n%s", r)
		}
	})
}

// TestCutAndGoneOn: the end of a stream is cut off while the broker is stopped, and its sequences are given again.
func TestCutAndGoneOn(t *testing.T) {
	for _, told := range []bool{false, true} {
		inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
			story(w)
			w.stream.list, w.stream.last = w.stream.list[:9], 9
			if told {
				w.auditor.event(KindResumed, Event{First: 1, Last: 9, Agent: w.auditor.ring.Self().String(), Card: w.auditor.ring.Card()})
			}
			c := w.sender("feed-3")
			c.send(2)
			c.close()
			w.auditor.next = 10
			w.auditor.audit()
			r := w.auditor.verify()
			wants(t, r, "ok ok FAILED ok ok")
			found(t, &r.Completeness, 4, 10, -1) // that it was, and the three
		})
	}
}
