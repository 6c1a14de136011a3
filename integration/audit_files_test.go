package integration_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealbus/sealbus/audit"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/internal/vault"
)

// filesOf returns the directory of a stream in a stopped broker's store.
func (w *auditWorld) filesOf(stream string) (dir string) {
	w.t.Helper()
	bustest.Check(w.t, filepath.WalkDir(w.Dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == stream {
			dir = path
			return fs.SkipAll
		}
		return err
	}))
	if dir == "" {
		w.t.Fatalf("no files of %s", stream)
	}
	return dir
}

// TestAuditFilesPutBack: a stream whose files are put back to an older copy while the broker is stopped is noticed by the auditor that
// goes on, and named from the first message that is gone, also when the stream has grown again over what it had.
func TestAuditFilesPutBack(t *testing.T) {
	t.Parallel()
	for _, grown := range []bool{false, true} {
		w := newAuditWorld(t, auditPolicy("ledger"))
		stream := topicStream("ledger")
		w.publish("ledger", 10)
		isFine(t, w.verify(stream))
		w.Stop()
		files, older := w.filesOf(stream), t.TempDir()
		bustest.Check(t, os.CopyFS(older, os.DirFS(files)))
		w.Start()
		w.publish("ledger", 10)
		isFine(t, w.verify(stream))
		if grown {
			bustest.Check(t, w.a.Stop())
		}
		w.Stop()
		bustest.Check(t, os.RemoveAll(files))
		bustest.Check(t, os.CopyFS(files, os.DirFS(older)))
		w.Start()
		if grown {
			w.publish("ledger", 15)
			w.start()
		}
		r := w.verify(stream)
		if grown { // other messages are where those were
			finds(t, r, "integrity", audit.Position{Sequence: 12, Entry: -1})
		} else {
			finds(t, r, "completeness", audit.Position{Sequence: 12, Entry: -1})
		}
		w.tampered(stream)
		sameVerdicts(t, w.verify(stream), w.export(stream))
		// What comes from now on is logged.
		w.publish("ledger", 3)
		if r := w.verify(stream); r.Size == 0 {
			t.Error("nothing was logged")
		}
	}
}

// TestAuditNeverLogged: a message that the broker drops before the auditor has logged it is missed in its sender's count, also
// where the broker numbers what is left anew, and named by the message behind it.
func TestAuditNeverLogged(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		name   string
		change func(list []vault.Message) []vault.Message
		at     uint64
	}{
		{"with a hole", func(l []vault.Message) []vault.Message { return slices.Delete(l, 14, 15) }, 15},
		{"numbered anew", func(l []vault.Message) []vault.Message {
			l = slices.Delete(l, 14, 15)
			for i := range l {
				l[i].Sequence = uint64(i + 1)
			}
			return l
		}, 15},
		{"two swapped", func(l []vault.Message) []vault.Message {
			l[14].Data, l[16].Data, l[14].Subject, l[16].Subject = l[16].Data, l[14].Data, l[16].Subject, l[14].Subject
			return l
		}, 0},
	} {
		t.Run(x.name, func(t *testing.T) {
			w := newAuditWorld(t, auditPolicy("ledger"))
			stream := topicStream("ledger")
			w.publish("ledger", 10)
			isFine(t, w.verify(stream))
			bustest.Check(t, w.a.Stop())
			w.publish("ledger", 10)
			bustest.Check(t, w.feed.Close()) // what it says last is how many there were
			v := w.vault(stream)
			w.putBack(v.With(x.change(v.Messages)))
			w.start()
			verdict := "completeness"
			if x.at == 0 {
				verdict, x.at = "order", 16
			}
			finds(t, w.verify(stream), verdict, audit.Position{Sequence: x.at, Entry: -1})
			sameVerdicts(t, w.verify(stream), w.export(stream))
		})
	}
}

// TestAuditSpoiledHeaders: a publisher who sends headers that nobody can read hides no message from the auditor by them, neither its
// own nor those around it.
func TestAuditSpoiledHeaders(t *testing.T) {
	t.Parallel()
	w := newAuditWorld(t, auditPolicy("ledger"))
	stream := topicStream("ledger")
	w.publish("ledger", 3)
	bustest.Check(t, w.a.Stop())
	for _, header := range []string{"NATS/1.0\r\nno colon here\r\n\r\n", "NATS/1.0 204\r\nStatus: 204\r\nNats-Num-Pending: 0\r\nNats-Last-Sequence: 99\r\n\r\n",
		"NATS/1.0\r\nNats-Sequence: 2\r\nNats-Subject: sb.topic.other\r\nNats-Time-Stamp: never\r\n\r\n"} {
		publishHeader(t, w.World, "mallory", "sb.topic.ledger.mallory", header)
	}
	w.publish("ledger", 3)
	w.start()
	w.progressTo(stream, 10)
	r := w.verify(stream)
	finds(t, r, "authenticity", audit.Position{Sequence: 5, Entry: -1})
	if n := r.Authenticity.Findings; n != 3 || r.Integrity.State != audit.OK || r.Completeness.State == audit.Failed {
		t.Errorf("%d messages are nobody's:\n%s", n, r)
	}
	sameVerdicts(t, w.verify(stream), w.export(stream))
}

// TestAuditDisclosure: a reader shows a third party one message of a frame, with proof of who has sealed it and when it was logged,
// and nothing of the others; a disclosure of which anything is changed proves nothing.
func TestAuditDisclosure(t *testing.T) {
	t.Parallel()
	w := newAuditWorld(t, auditPolicy("ledger"))
	stream := topicStream("ledger")
	reader := w.Agent("reader")
	a := w.startAs(reader, t.TempDir(), nil)
	w.publish("ledger", 5)
	r, err := a.Verify(w.Ctx(), stream)
	bustest.Check(t, err)
	isFine(t, r)
	if r.Readability.State != audit.OK {
		t.Errorf("the reader's own verdict:\n%s", r)
	}
	raw, err := a.Disclose(w.Ctx(), stream, 3, 0)
	bustest.Check(t, err)
	d, err := audit.VerifyDisclosure(raw, w.trust())
	bustest.Check(t, err)
	if d.Sender != w.feed.Self() || d.Sequence != 3 || len(d.Messages) != 1 || string(d.Messages[0].Payload) != "message 1 of ledger" {
		t.Errorf("%+v", d)
	}
	for i := 0; i < len(raw); i += 7 {
		changed := bytes.Clone(raw)
		changed[i] ^= 1
		if d, err := audit.VerifyDisclosure(changed, w.trust()); err == nil && (string(d.Messages[0].Payload) != "message 1 of ledger" || d.Sender != w.feed.Self()) {
			t.Errorf("byte %d changed, and it proves %+v", i, d)
		}
	}
	if _, err := w.a.Disclose(w.Ctx(), stream, 3, 0); err == nil || !strings.Contains(err.Error(), "may") && !strings.Contains(err.Error(), "let") {
		t.Errorf("an auditor without keys discloses: %v", err)
	}
	if _, err := a.Disclose(w.Ctx(), stream, 3, 1); err == nil {
		t.Error("a second message of one")
	}
	if _, err := a.Disclose(w.Ctx(), stream, 99, 0); !errors.Is(err, audit.ErrNotFound) {
		t.Errorf("a message that is not there: %v", err)
	}

	text, err := w.a.Prove(w.Ctx(), stream, 3)
	bustest.Check(t, err)
	p, err := audit.ParseProof(text)
	bustest.Check(t, err)
	var e audit.Entry
	bustest.Check(t, audit.ParseEntry(p.Extra, &e))
	if e.Frame.Sequence != 3 || e.Frame.Header.Sender != w.feed.Self().String() {
		t.Errorf("proven is %+v", e)
	}
}

// TestAuditShredded: when the keys of a channel are destroyed nobody can read what it holds, and every other verdict is as it was.
func TestAuditShredded(t *testing.T) {
	t.Parallel()
	yaml := auditPolicy("ledger")
	w := newAuditWorld(t, yaml)
	stream := topicStream("ledger")
	reader := w.Agent("reader")
	a := w.startAs(reader, t.TempDir(), nil)
	w.publish("ledger", 10)
	before, err := a.Verify(w.Ctx(), stream) // the publisher hands over the key
	bustest.Check(t, err)
	isFine(t, before)
	bustest.Check(t, w.feed.Close())
	before, err = a.Verify(w.Ctx(), stream)
	bustest.Check(t, err)
	for _, v := range before.Verdicts() {
		if v.State != audit.OK {
			t.Errorf("%s before:\n%s", v.Name, before)
		}
	}
	at := time.Now().UTC().Truncate(time.Second)
	eventually(t, "a second is over", func() bool { return time.Since(at) > 2*time.Second })
	at = at.Add(time.Second)
	w.reload(strings.Replace(yaml, "revision: 1\n", "revision: 2\ndestroyed: [{channel: topic/ledger, before: \""+at.Format(time.RFC3339)+"\"}]\n", 1))
	eventually(t, "the policy in force", func() bool { return reader.Policy().Revision() == 2 })
	after, err := a.Verify(w.Ctx(), stream)
	bustest.Check(t, err)
	if after.Readability.State != audit.Failed || after.Readability.Findings < 10 {
		t.Errorf("it can be read still:\n%s", after)
	}
	for i, v := range after.Verdicts() {
		if u := before.Verdicts()[i]; v.Name != "readability" && (v.State != u.State || v.Findings != 0) {
			t.Errorf("%s was %s, and is %s:\n%s", v.Name, u.State, v.State, after)
		}
	}
	isFine(t, w.verify(stream))
	isFine(t, w.export(stream))
}
