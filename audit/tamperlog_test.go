package audit

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"golang.org/x/mod/sumdb/tlog"
)

// longStory is story with a checkpoint after every message, and a log that goes on to 40 entries.
func longStory(w *world) {
	w.t.Helper()
	story(w)
	for w.auditor.log.Size() < 40 {
		w.auditor.event(KindStill, w.auditor.holds())
		w.auditor.sign()
		pass(time.Second)
	}
}

// edit changes a file of the auditor's log behind its back.
func (a *auditor) edit(name string, f func([]byte) []byte) {
	a.w.t.Helper()
	path := filepath.Join(a.dir, name)
	check(a.w.t, os.WriteFile(path, f(value(os.ReadFile(path))(a.w.t)), 0o600))
}

// fields of an encoded frame entry: where its outcome lies is found by changing that.
func (a *auditor) editEntry(index int64, f func(e *Entry)) {
	a.w.t.Helper()
	e := value(a.log.Entry(index))(a.w.t)
	old := value(AppendEntry(nil, &e))(a.w.t)
	f(&e)
	fresh := value(AppendEntry(nil, &e))(a.w.t)
	if len(old) != len(fresh) {
		a.w.t.Fatal("the entry has another length")
	}
	a.edit(fileEntries, func(b []byte) []byte {
		return bytes.Replace(b, appendRecord(nil, old), appendRecord(nil, fresh), 1)
	})
}

// TestLogTampered changes the log after it was signed: it is integrity that fails, at the place.
func TestLogTampered(t *testing.T) {
	for _, test := range []struct {
		name   string
		tamper func(w *world, a *auditor)
		want   string
		check  func(t *testing.T, r *Report)
	}{
		{"an entry changed", func(w *world, a *auditor) {
			a.editEntry(7, func(e *Entry) { e.Frame.Header.Count++ })
		}, "FAILED ok ok ok ok", func(t *testing.T, r *Report) {
			found(t, &r.Integrity, 1, 3, 7)
		}},
		{"an entry changed, with its hash", func(w *world, a *auditor) {
			a.editEntry(7, func(e *Entry) { e.Frame.Header.Count++ })
			e := value(a.log.Entry(7))(w.t)
			leaf := LeafHash(value(AppendEntry(nil, &e))(w.t))
			a.edit(fileHashes, func(b []byte) []byte {
				copy(b[tlog.StoredHashIndex(0, 7)*tlog.HashSize:], leaf[:])
				return b
			})
		}, "FAILED ok ok ok FAILED", func(t *testing.T, r *Report) { // nothing is signed that is still there
			found(t, &r.Integrity, 4, 3, 7) // each place's first checkpoint, and the message itself
		}},
		{"an event changed", func(w *world, a *auditor) {
			a.editEntry(30, func(e *Entry) { e.Event.Last++ })
		}, "FAILED ok ok ok ok", func(t *testing.T, r *Report) {
			found(t, &r.Integrity, 1, 0, 30)
		}},
		{"an entry that is none any more", func(w *world, a *auditor) {
			a.editEntry(30, func(e *Entry) { e.Kind = KindClosed })
			a.edit(fileEntries, func(b []byte) []byte {
				end := value(a.log.endOf(30))(w.t)
				b[end+recordHead] = 9 // of no version
				return b
			})
		}, "FAILED ok ok ok ok", func(t *testing.T, r *Report) {
			found(t, &r.Integrity, 1, 0, 30)
		}},
		{"a record's length changed", func(w *world, a *auditor) {
			a.edit(fileEntries, func(b []byte) []byte {
				end := value(a.log.endOf(30))(w.t)
				b[end+2] = 0xff
				return b
			})
		}, "FAILED ok ok ok ok", nil},
		{"the end of the log cut off", func(w *world, a *auditor) {
			end := value(a.log.endOf(35))(w.t)
			a.edit(fileEntries, func(b []byte) []byte { return b[:end] })
		}, "FAILED ok ok ok ok", func(t *testing.T, r *Report) {
			found(t, &r.Integrity, 3*5, 0, 35) // of each place five checkpoints
		}},
		{"the end of the log cut off, with its checkpoints", func(w *world, a *auditor) {
			end := value(a.log.endOf(35))(w.t)
			a.edit(fileEntries, func(b []byte) []byte { return b[:end] })
			a.edit(fileIndex, func(b []byte) []byte { return b[:35*indexSize] })
			a.edit(fileHashes, func(b []byte) []byte { return b[:tlog.StoredHashCount(35)*tlog.HashSize] })
			a.edit(fileCheckpoints, func(b []byte) []byte {
				r := newRecords(bytes.NewReader(b), 0, int64(len(b)), MaxCheckpoint)
				for {
					raw := value(r.next(true))(w.t)
					if value(UnverifiedCheckpoint(raw))(w.t).Size == 35 {
						return b[:r.at]
					}
				}
			})
			a.published = nil // the broker helps
		}, "FAILED ok ok ok ok", func(t *testing.T, r *Report) { // the second place is ahead
			found(t, &r.Integrity, 5, 0, 35)
		}},
		{"the log is gone", func(w *world, a *auditor) {
			for _, name := range []string{fileEntries, fileIndex, fileHashes, fileCheckpoints} {
				check(w.t, os.Remove(filepath.Join(a.dir, name)))
			}
		}, "FAILED ok ok ok FAILED", nil},
		{"a checkpoint with another root", func(w *world, a *auditor) {
			c := Checkpoint{Origin: a.log.Origin(), Size: 25, Root: tlog.Hash{1}}
			a.published = append(a.published[:9:9], value(SignCheckpoint(&c, a.signer))(w.t))
		}, "FAILED ok ok ok ok", func(t *testing.T, r *Report) {
			if r.Integrity.Findings != 1 || !strings.Contains(r.Integrity.Kept[0].Detail, "SB_AUDIT") {
				t.Errorf("%s", r)
			}
		}},
		{"a forged signature", func(w *world, a *auditor) {
			raw := bytes.Clone(a.published[3])
			raw[len(raw)-20] ^= 1
			a.published[3] = raw
		}, "FAILED ok ok ok ok", nil},
		{"a checkpoint with another size", func(w *world, a *auditor) {
			raw := bytes.Replace(a.published[3], []byte("\n21\n"), []byte("\n22\n"), 1)
			if bytes.Equal(raw, a.published[3]) {
				w.t.Fatal("nothing was changed")
			}
			a.published[3] = raw
		}, "FAILED ok ok ok ok", nil},
		{"a checkpoint that is none", func(w *world, a *auditor) {
			a.published[3] = []byte("rubbish")
		}, "FAILED ok ok ok ok", nil},
		{"the broker has none", func(w *world, a *auditor) { a.published = nil }, allOK, nil},
		{"the broker has a later one first", func(w *world, a *auditor) {
			a.published[0], a.published[5] = a.published[5], a.published[0]
		}, allOK, nil},
		{"a checkpoint of another key", func(w *world, a *auditor) {
			signer, _ := newSigner(w.t, a.log.Origin())
			c := Checkpoint{Origin: a.log.Origin(), Size: 25, Root: value(a.log.Root(25))(w.t)}
			a.published = append(a.published[:9:9], value(SignCheckpoint(&c, signer))(w.t))
		}, "unproven ok ok ok ok", nil},
		{"another log of the same auditor", func(w *world, a *auditor) {
			o := a.log.Origin()
			o.Log = ulid.Make()
			signer := value(a.ring.NoteSigner(o.String()))(w.t)
			a.published = append(a.published, value(SignCheckpoint(&Checkpoint{Origin: o, Size: 3}, signer))(w.t))
		}, allOK, func(t *testing.T, r *Report) {
			if len(r.Others) != 1 {
				t.Errorf("%s", r)
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
				longStory(w)
				test.tamper(w, w.auditor)
				r := w.auditor.verify()
				wants(t, r, test.want)
				if test.check != nil {
					test.check(t, r)
				}
			})
		})
	}
}

// TestForkedLog: an auditor that keeps two logs under one name, to show this one to some and that one to others, is found out wherever
// two of its checkpoints meet.
func TestForkedLog(t *testing.T) {
	inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
		a := w.auditor
		a.sign()
		other := copyLog(t, a.dir)
		story(w)
		forked := value(Open(other, a.log.Origin()))(t)
		t.Cleanup(func() { _ = forked.Close() })
		for forked.Size() < a.log.Size() { // the same messages, but for one
			e := value(a.log.Entry(forked.Size()))(t)
			if e.Frame.Sequence == 4 {
				e.Frame.Header.Leaf[0] ^= 1
			}
			value(forked.Append(&e))(t)
		}
		raw := value(forked.Checkpoint(a.signer))(t)
		if err := a.second.Put(t.Context(), w.stream.name, raw); err == nil {
			t.Error("the second place takes both without a word")
		}
		r := a.verify()
		wants(t, r, "FAILED ok ok ok ok")
		if at, _ := r.Integrity.First(); at.Entry != 4 {
			t.Errorf("%s", r)
		}
	})
}

// TestLogItself: what an auditor writes that cannot be so.
func TestLogItself(t *testing.T) {
	for name, test := range map[string]struct {
		write func(a *auditor)
		want  string
	}{
		"opened twice": {func(a *auditor) { a.event(KindOpened, Event{}) }, "FAILED ok ok ok ok"},
		"a configuration of another hash": {func(a *auditor) {
			c := StreamConfig{Created: a.w.stream.created, DenyDelete: true}
			e := value(c.Entry(time.Now(), 1, 12))(a.w.t)
			e.Event.Hash[0] ^= 1
			a.append(&e)
		}, "FAILED ok ok ok ok"},
		"a policy that nobody has": {func(a *auditor) { a.event(KindPolicy, Event{Revision: 7, Hash: [32]byte{7}}) }, "ok ok ok unproven ok"},
		"a policy under another number": {func(a *auditor) {
			a.event(KindPolicy, Event{Revision: 7, Hash: a.policy.Hash()})
		}, "FAILED ok ok ok ok"},
		"an older policy": {func(a *auditor) {
			a.w.change("queues:", "\nqueues:")
			old := a.policy
			a.adopt()
			a.event(KindPolicy, Event{Revision: 1, Hash: old.Hash()})
		}, "ok ok ok FAILED ok"},
		"a frame entry about another frame": {func(a *auditor) {
			e := FrameEntry(a.w.stream.at(2), time.Now(), 0)
			e.Frame.Sequence = 13
			a.append(&e)
			a.w.stream.put(a.w.stream.at(3).Subject, a.w.stream.at(3).Data)
			a.next = 14
		}, "ok FAILED FAILED ok ok"},
		"an entry that says other things than the frame": {func(a *auditor) {
			b := a.w.sender("feed-3")
			b.send(1)
			b.close()
			a.card(b.ring.Self(), b.ring.Card())
			for seq := uint64(13); seq <= 15; seq++ {
				e := FrameEntry(a.w.stream.at(seq), time.Now(), 0)
				if seq == 14 {
					e.Frame.Header.Count = 7
				}
				a.append(&e)
			}
			a.next = 16
		}, "FAILED ok ok ok ok"},
		"an attestation that was none": {func(a *auditor) {
			m := *a.w.stream.at(5)
			flip(&m, -100)
			a.w.stream.put(m.Subject, m.Data)
			e := FrameEntry(a.w.stream.at(13), time.Now(), 0)
			e.Frame.Header.Seq = 6 // and number 6 was there
			a.append(&e)
			a.next = 14
		}, "FAILED FAILED ok FAILED ok"},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
				story(w)
				test.write(w.auditor)
				w.auditor.audit()
				wants(t, w.auditor.verify(), test.want)
			})
		})
	}
}

// TestWhoseLog: a log of somebody whom the policy does not let audit proves nothing, and one under a card that had expired is not
// proven.
func TestWhoseLog(t *testing.T) {
	inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
		other := w.newAuditor("planner")
		other.begin()
		story(w)
		other.audit()
		r := other.verify()
		wants(t, r, "ok ok ok FAILED ok")
		found(t, &r.Authenticity, 1, 0, 0)
	})
	inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
		w.life = time.Hour
		late := w.newAuditor("auditor")
		late.begin()
		story(w)
		late.audit()
		pass(time.Hour)
		late.event(KindStill, late.holds())
		late.sign() // without having renewed its certificate
		wants(t, late.verify(), "unproven ok ok ok ok")
	})
}
