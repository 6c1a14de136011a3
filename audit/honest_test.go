package audit

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/keyring"
)

// What happens to an honest stream in the course of time raises no alarm. Where something cannot be proven any more, it is
// said.

// TestPolicyAndCards: the policy changes, cards are renewed, certificates expire, in the middle.
func TestPolicyAndCards(t *testing.T) {
	inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
		w.life = time.Hour
		renewing, short := w.sender("feed-1"), w.sender("feed-2")
		src := value(w.ca.AgentSource("feed-3", time.Hour))(t)
		ring := value(keyring.Memory(w.operator.Fingerprint()))(t)
		check(t, ring.Attach(t.Context(), src, w.store, nil))
		t.Cleanup(func() { _ = ring.Close(context.Background()) })
		renewed := w.senderOf(ring)
		for i := range 6 {
			renewing.send(2)
			renewed.send(2)
			if i < 2 {
				short.send(1)
			}
			if i == 2 {
				short.close()
				w.change("retain: 24h, signed: false", "retain: 48h, signed: false") // of another topic
			}
			w.auditor.follow()
			w.auditor.adopt()
			w.auditor.sign()
			pass(20 * time.Minute)
			if i%2 == 1 {
				src.SetSVID(value(w.ca.Agent("feed-3", time.Hour))(t))
				check(t, ring.Refresh(t.Context()))
				check(t, renewing.ring.Close(t.Context())) // and begins anew, with another card
				renewing = w.sender("feed-1")
			}
		}
		renewing.close()
		renewed.close()
		w.auditor.audit()
		r := w.auditor.verify()
		wants(t, r, "ok ok unproven ok ok") // three rings were closed without a word
		if r.Completeness.Open != 3 {
			t.Errorf("%s", r)
		}
		pass(20 * 24 * time.Hour) // all certificates have expired, and most frames are older than cards are believed
		in := w.auditor.input()
		in.Fresh = 365 * 24 * time.Hour
		in.Now = r.As
		wants(t, value(Verify(t.Context(), in))(t), "ok ok unproven ok ok")
	})
}

// TestRetention: what is old enough goes, under whichever policy it was.
func TestRetention(t *testing.T) {
	inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
		a := w.sender("feed-1")
		for range 10 {
			a.send(2)
			a.close()
			pass(4 * time.Hour)
			w.stream.prune(24 * time.Hour)
			w.auditor.follow()
			w.auditor.event(KindStill, w.auditor.holds())
			w.auditor.sign()
			wants(t, w.auditor.verify(), allOK)
		}
		if w.stream.first() == 1 {
			t.Fatal("nothing was pruned")
		}
		w.change("ledger: {publish: [\"feed-*\"], subscribe: [planner], audit: [auditor], retain: 24h", "ledger: {publish: [\"feed-*\"], subscribe: [planner], audit: [auditor], retain: 8h")
		w.auditor.adopt()
		w.stream.prune(8 * time.Hour)
		w.auditor.event(KindStill, w.auditor.holds())
		w.auditor.sign()
		wants(t, w.auditor.verify(), allOK)
		pass(time.Hour)
		w.change("retain: 8h", "retain: 720h") // what is gone was right to go
		w.auditor.adopt()
		a.send(1)
		a.close()
		w.auditor.audit()
		r := w.auditor.verify()
		wants(t, r, allOK)
		if r.Completeness.Figure("messages that are gone, and were old enough to go") == 0 {
			t.Errorf("%s", r)
		}
		w.stream.list = w.stream.list[1:] // but this one was not
		r = w.auditor.verify()
		wants(t, r, "ok ok FAILED ok ok")
	})
}

// TestPolicyNotLogged: the broker goes by a policy that the auditor, which is away, has not logged.
func TestPolicyNotLogged(t *testing.T) {
	inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
		story(w)
		w.change("audit: [auditor], retain: 24h", "audit: [auditor], retain: 1h")
		pass(2 * time.Hour)
		w.stream.prune(time.Hour)
		in := w.auditor.input()
		in.Fresh = 24 * time.Hour
		wants(t, value(Verify(t.Context(), in))(t), "ok ok FAILED ok ok")
		check(t, w.auditor.ring.Refresh(t.Context()))
		in = w.auditor.input()
		in.Fresh = 24 * time.Hour
		check(t, in.Statements.Add(Statement{StatementPolicy, w.auditor.ring.RawPolicy()}))
		wants(t, value(Verify(t.Context(), in))(t), "ok ok unproven ok ok")
	})
}

// TestPrunedTooEarly: what the auditor saw vanish is held against the stream also when it would be old enough by now.
func TestPrunedTooEarly(t *testing.T) {
	inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
		story(w)
		w.stream.list = w.stream.list[3:]
		w.auditor.event(KindPruned, Event{First: 1, Last: 3, Time: time.Now()})
		w.auditor.sign()
		pass(30 * time.Hour)
		w.stream.prune(24 * time.Hour)
		w.auditor.event(KindStill, w.auditor.holds())
		w.auditor.sign()
		r := w.auditor.verify()
		wants(t, r, "ok ok FAILED ok ok")
		found(t, &r.Completeness, 3, 1, -1)
	})
}

// TestAuditorAway: it comes back after an hour, and has everything; after two days, and says what it has not.
func TestAuditorAway(t *testing.T) {
	for _, name := range []string{"SB_TOPIC_ledger", "SB_TASK_work"} {
		inWorld(t, name, func(t *testing.T, w *world) {
			a := w.sender("feed-1")
			a.send(3)
			w.auditor.audit()
			gone := w.sender("feed-2")
			back := func() {
				w.stream.prune(24 * time.Hour)
				ev := w.auditor.holds()
				ev.Agent, ev.Card = w.auditor.ring.Self().String(), w.auditor.ring.Card()
				w.auditor.event(KindResumed, ev)
				w.auditor.adopt()
				w.auditor.audit()
			}
			for range 10 {
				pass(6 * time.Minute)
				a.send(1)
			}
			back()
			r := w.auditor.verify()
			wants(t, r, "ok ok unproven ok ok")
			if r.Completeness.Open != 1 { // that a's session goes on
				t.Errorf("%s", r)
			}
			gone.send(5)
			gone.close() // nobody will ever see it
			for range 48 {
				pass(time.Hour)
				a.send(1)
			}
			a.close()
			back()
			w.auditor.sign()
			r = w.auditor.verify()
			wants(t, r, "ok ok unproven ok ok")
			gone.send(1)
			gone.close()
			w.auditor.audit()
			r = w.auditor.verify()
			wants(t, r, "ok ok unproven ok ok")
			// After that everything is proven again.
			w.stream.remove(w.stream.last - 1)
			r = w.auditor.verify()
			wants(t, r, "ok ok FAILED ok ok")
			found(t, &r.Completeness, 1, w.stream.last-1, -1)
		})
	}
}

// TestLogBeginsLate: the log of a stream that has been there for long, and was pruned, blames nobody for what was before.
func TestLogBeginsLate(t *testing.T) {
	inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
		a, b := w.sender("feed-1"), w.sender("feed-2")
		a.send(3)
		b.send(2)
		b.close()
		pass(25 * time.Hour)
		a.send(1) // a new session, after one of which nothing will be there
		b.send(1)
		pass(50 * time.Minute)
		w.stream.prune(24 * time.Hour)
		w.stream.list = w.stream.list[1:] // the note that opens a's session, too
		late := w.newAuditor("auditor")
		late.begin()
		a.send(2)
		a.close()
		b.send(2)
		b.close()
		late.audit()
		r := late.verify()
		wants(t, r, allOK)
		w.stream.remove(w.stream.last - 2)
		wants(t, late.verify(), "ok ok FAILED ok ok")
	})
}

// TestTwoAuditors: each log is its own; the other's checkpoints in the same places are no contradiction.
func TestTwoAuditors(t *testing.T) {
	inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
		other := w.newAuditor("auditor")
		other.begin()
		other.second = w.auditor.second
		story(w)
		other.follow()
		other.sign()
		both := append(append([][]byte{}, w.auditor.published...), other.published...)
		w.auditor.published, other.published = both, both
		for _, a := range []*auditor{w.auditor, other} {
			r := a.verify()
			wants(t, r, allOK)
			if len(r.Others) != 1 || r.Others[0] == r.Origin {
				t.Errorf("others: %v", r.Others)
			}
		}
	})
}

// TestSessions: sessions end by the hour, by a new key, by the death of their process; frames that could not be stored are declared
// void, in the same session or the next.
func TestSessions(t *testing.T) {
	for _, name := range []string{"SB_TOPIC_ledger", "SB_TASK_work"} {
		inWorld(t, name, func(t *testing.T, w *world) {
			a := w.sender("feed-1")
			for range 30 {
				a.send(1)
				pass(5 * time.Minute) // over the end of two sessions
			}
			a.close()
			w.auditor.audit()
			wants(t, w.auditor.verify(), allOK)

			notes, list, subject := a.seal(4) // of which two are stored
			a.put(a.noteSubject(), notes)
			w.stream.put(subject, list[0].Frame)
			w.stream.put(subject, list[2].Frame)
			a.of.Stored([]*keyring.Bundle{list[0], list[2]})
			w.auditor.audit()
			wants(t, w.auditor.verify(), "ok ok unproven ok ok")
			a.of.GiveUp([]*keyring.Bundle{list[1], list[3]})
			a.send(1)
			w.auditor.audit()
			r := w.auditor.verify()
			wants(t, r, "ok ok unproven ok ok")
			if r.Completeness.Open != 1 {
				t.Errorf("what was declared void is missing\n%s", r)
			}
			pass(2 * time.Hour)
			notes, list, _ = a.seal(2) // nothing of this session is ever stored
			a.of.GiveUp(append(notes, list...))
			pass(2 * time.Hour)
			a.send(1)
			a.close()
			w.auditor.audit()
			wants(t, w.auditor.verify(), allOK)
		})
	}
}

// TestKilledSender: a process that is killed leaves its session open. What came last in it is not proven, and with its state its
// next process says so itself; nothing is called missing.
func TestKilledSender(t *testing.T) {
	inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
		dir := filepath.Join(t.TempDir(), "state")
		open := func(dir string) *sender {
			ring := value(keyring.Open(dir, keyring.EncryptWith(openly{}), w.operator.Fingerprint()))(t)
			w.attach(ring, "feed-1")
			return w.senderOf(ring)
		}
		a := open(dir)
		a.send(3)
		a.idle()
		notes, list, subject := a.seal(3) // on their way when it is killed
		a.put(a.noteSubject(), notes)
		w.stream.put(subject, list[1].Frame)
		killed := filepath.Join(t.TempDir(), "state")
		check(t, os.CopyFS(killed, os.DirFS(dir)))
		w.auditor.audit()
		wants(t, w.auditor.verify(), "ok ok unproven ok ok")
		pass(time.Minute)
		b := open(killed)
		b.send(3)
		b.close()
		pass(time.Hour)
		b.send(1)
		b.close()
		w.auditor.audit()
		r := w.auditor.verify()
		wants(t, r, "ok ok unproven ok ok")
		if !strings.Contains(r.String(), "death") {
			t.Errorf("%s", r)
		}
	})
}

// TestQueue: tasks are put back by workers, come late, in any order; results and dead letters are not counted.
func TestQueue(t *testing.T) {
	inWorld(t, "SB_TASK_work", func(t *testing.T, w *world) {
		a := w.sender("feed-1")
		notes, list, subject := a.seal(4)
		a.put(a.noteSubject(), notes)
		list[0], list[3] = list[3], list[0]
		a.put(subject, list)
		for range 3 {
			w.stream.put("sb.spread.work.1", list[1].Frame)
		}
		apart := value(a.ring.Sender(t.Context(), a.ch))(t) // delayed tasks are sealed by another
		var late []*keyring.Bundle
		for range 2 {
			some, _ := a.bundles(1)
			late = append(late, some...)
		}
		check(t, apart.SealBundles(late))
		pass(time.Hour)
		for range 3 { // a recurring one
			w.stream.put("sb.due.work.1", late[0].Frame)
			pass(time.Minute)
		}
		w.change("queues:", "revoked: [feed-1]\nqueues:")
		w.auditor.follow()
		a.close()
		w.auditor.follow()
		w.auditor.adopt()
		w.auditor.sign()
		wants(t, w.auditor.verify(), allOK)
		pass(time.Hour)
		w.stream.put("sb.due.work.1", late[1].Frame) // when its sender has no right any more
		w.auditor.audit()
		r := w.auditor.verify()
		wants(t, r, "ok ok ok unproven ok")
	})
}

// TestResults: a queue's other streams. Nobody counts there; the same frame twice is found all the same.
func TestResults(t *testing.T) {
	for name, subject := range map[string]string{"SB_RESULT_work": "sb.result.work.", "SB_DEAD_work": "sb.dead.work."} {
		inWorld(t, name, func(t *testing.T, w *world) {
			of := value(w.planner.Sender(t.Context(), resultChannel))(t)
			put := func() ulid.ULID {
				task := ulid.Make()
				b := resultBundle(t, task)
				check(t, of.SealBundles([]*keyring.Bundle{b}))
				w.stream.put(subject+task.String(), b.Frame)
				return task
			}
			for range 5 {
				put()
			}
			w.auditor.audit()
			r := w.auditor.verify()
			wants(t, r, "ok ok unproven ok ok")
			if !strings.Contains(r.Completeness.Detail, "do not count results") {
				t.Errorf("%s", r)
			}
			w.stream.remove(3)
			want := "ok ok FAILED ok ok"
			if name == "SB_DEAD_work" { // which an enqueuer may have asked for
				want = "ok ok unproven ok ok"
			}
			wants(t, w.auditor.verify(), want)
			w.stream.put(w.stream.at(2).Subject, w.stream.at(2).Data)
			w.auditor.audit()
			r = w.auditor.verify()
			found(t, &r.Order, 1, 6, -1)
			w.stream.put(subject+ulid.Make().String(), w.stream.at(2).Data) // of another task
			w.auditor.audit()
			r = w.auditor.verify()
			if name == "SB_RESULT_work" {
				found(t, &r.Authenticity, 1, 7, -1)
			} else {
				found(t, &r.Order, 2, 6, -1) // which task a letter is of is sealed
			}
		})
	}
}

// TestUnsigned: where the policy asks for no signatures, nobody without the key can tell who has sent what.
func TestUnsigned(t *testing.T) {
	inWorld(t, "SB_TOPIC_loose", func(t *testing.T, w *world) {
		a := w.sender("feed-1")
		a.send(3)
		a.close()
		w.auditor.audit()
		r := w.auditor.verify()
		wants(t, r, "ok ok ok unproven ok")
		if r.Authenticity.Open != 5 {
			t.Errorf("%s", r)
		}
		w.stream.remove(2)
		wants(t, w.auditor.verify(), "ok ok FAILED unproven ok")
	})
}

// TestStale: how old the last checkpoint may be.
func TestStale(t *testing.T) {
	inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
		wants(t, w.auditor.verify(), "unproven ok ok ok FAILED") // nothing was ever signed
		story(w)
		wants(t, w.auditor.verify(), allOK)
		pass(time.Hour)
		r := w.auditor.verify()
		wants(t, r, "ok ok ok ok FAILED")
		if r.ExitCode() != 14 {
			t.Errorf("exit code %d", r.ExitCode())
		}
		w.auditor.event(KindStill, w.auditor.holds())
		w.auditor.sign()
		wants(t, w.auditor.verify(), allOK)
	})
}

// TestConfiguration: what a stream's configuration allows to be lost is told of, without anything being lost.
func TestConfiguration(t *testing.T) {
	inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
		story(w)
		c := StreamConfig{Created: w.stream.created, MaxAge: 24 * time.Hour, MaxMessages: 5, DenyDelete: true, DenyPurge: true}
		e := value(c.Entry(time.Now(), 1, 12))(t)
		w.auditor.append(&e)
		w.auditor.sign()
		r := w.auditor.verify()
		wants(t, r, "ok ok unproven ok ok")
		w.stream.list = w.stream.list[7:]
		r = w.auditor.verify()
		wants(t, r, "ok ok FAILED ok ok")
		found(t, &r.Completeness, 7, 1, -1)
	})
}

// TestClocks: a broker's clock that was put back, or that disagrees with everybody's, is told of.
func TestClocks(t *testing.T) {
	for name, by := range map[string]time.Duration{"back": -time.Hour, "ahead": time.Hour} {
		inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
			a := w.sender("feed-1")
			a.send(3)
			pass(time.Second)
			a.send(1)
			w.stream.at(5).Time = w.stream.at(5).Time.Add(by)
			a.close()
			w.auditor.audit()
			r := w.auditor.verify()
			wants(t, r, "ok unproven ok ok ok")
			if at := r.Order.Kept[0].At; at.Sequence != 5 && name == "ahead" || at.Sequence > 6 {
				t.Errorf("%s\n%s", name, r)
			}
		})
	}
}
