package integration_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/audit"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/internal/vault"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// stateful connects an agent whose keyring outlives it, and returns the ring too.
func (w *auditWorld) stateful(name, dir string) (*agentbus.Bus, *keyring.Ring) {
	w.t.Helper()
	ring, err := keyring.Open(dir, keyring.Passphrase("audit"), w.Operator.Fingerprint())
	bustest.Check(w.t, err)
	c := w.Config(name)
	c.Keyring = ring
	return w.Connect(c), ring
}

// checkpointSubject is where an auditor's checkpoints lie.
func checkpointSubject(o audit.Origin) string {
	return policy.AuditSubject(o.Stream, o.Auditor.Name(), o.Log.String())
}

// logOf returns which log is kept of a stream.
func (w *auditWorld) logOf(stream string) audit.Origin {
	w.t.Helper()
	for _, o := range w.a.Logs() {
		if o.Stream == stream {
			return o
		}
	}
	w.t.Fatalf("no log of %s", stream)
	return audit.Origin{}
}

// TestAuditForgedCheckpoint: a checkpoint that the broker has made up, or changed, is named, and the auditor goes on; one that it
// shows no more is not missed as long as the log has it.
func TestAuditForgedCheckpoint(t *testing.T) {
	t.Parallel()
	w := newAuditWorld(t, auditPolicy("ledger"))
	stream := topicStream("ledger")
	w.publish("ledger", 10)
	isFine(t, w.verify(stream))
	v := w.vault(policy.AuditStream)
	w.putBack(v.With(v.Messages[:len(v.Messages)-1]))
	isFine(t, w.verify(stream))

	of := checkpointSubject(w.logOf(stream))
	at := slices.IndexFunc(v.Messages, func(m vault.Message) bool { return m.Subject == of })
	forged := bytes.Clone(v.Messages[at].Data)
	size, _ := audit.UnverifiedCheckpoint(forged)
	if in := &forged[len(forged)-20]; *in == 'A' { // in the signature, base64
		*in = 'B'
	} else {
		*in = 'A'
	}
	if c, err := audit.UnverifiedCheckpoint(forged); err != nil || c != size {
		t.Fatal(c, err)
	}
	_, err := w.o.js.PublishMsg(w.Ctx(), &nats.Msg{Subject: of, Data: forged})
	bustest.Check(t, err)
	r := w.verify(stream)
	finds(t, r, "integrity", audit.Position{Entry: size.Size - 1})
	sameVerdicts(t, w.verify(stream), w.export(stream))

	// It is no reason to stop.
	bustest.Check(t, w.a.Stop())
	w.start()
	w.publish("ledger", 10)
	w.progressTo(stream, 21)
}

// progressTo waits until the auditor has logged a message.
func (w *auditWorld) progressTo(stream string, last uint64) {
	w.t.Helper()
	eventually(w.t, "the auditor goes on", func() bool {
		for _, s := range w.a.Stats() {
			if s.Stream == stream {
				return s.Last >= last
			}
		}
		return false
	})
}

// TestAuditLogRolledBack: an auditor whose log was put back from a copy refuses to go on, because of what the broker has of it,
// and without that because of the second place; and a verifier sees that its end is cut off.
func TestAuditLogRolledBack(t *testing.T) {
	t.Parallel()
	for _, broker := range []bool{true, false} {
		w := newAuditWorld(t, auditPolicy("ledger"))
		stream := topicStream("ledger")
		w.publish("ledger", 10)
		isFine(t, w.verify(stream))
		bustest.Check(t, w.a.Stop())
		copied := t.TempDir()
		bustest.Check(t, os.CopyFS(copied, os.DirFS(w.dir)))
		early := w.vault(policy.AuditStream)
		w.start()
		w.publish("ledger", 10)
		isFine(t, w.verify(stream))
		bustest.Check(t, w.a.Stop())

		second := audit.Sink(w.second)
		if broker {
			second = nil
		} else {
			w.putBack(early)
		}
		config := agentbus.AuditConfig{Dir: copied, Second: second}
		if _, err := w.bus.Audit(w.Ctx(), config); !errors.Is(err, audit.ErrInconsistent) {
			t.Errorf("an auditor of a log that was put back: %v", err)
		}
		r, err := w.bus.Verify(w.Ctx(), copied, stream, second)
		bustest.Check(t, err)
		log, err := audit.Read(filepath.Join(copied, stream))
		bustest.Check(t, err)
		finds(t, r, "integrity", audit.Position{Entry: log.Size()})
		bustest.Check(t, log.Close())
		r, err = w.bus.Verify(w.Ctx(), w.dir, stream, w.second)
		bustest.Check(t, err)
		isFine(t, r)
	}
}

// TestAuditLogEdited: an entry that was changed in the auditor's directory is named.
func TestAuditLogEdited(t *testing.T) {
	t.Parallel()
	w := newAuditWorld(t, auditPolicy("ledger"))
	stream := topicStream("ledger")
	w.publish("ledger", 10)
	isFine(t, w.verify(stream))
	name := filepath.Join(w.dir, stream, "entries")
	raw, err := os.ReadFile(name)
	bustest.Check(t, err)
	log, err := audit.Read(filepath.Join(w.dir, stream))
	bustest.Check(t, err)
	var entry []byte
	index, at := int64(-1), 0
	for e, err := range log.Entries(0) {
		bustest.Check(t, err)
		index++
		if _, sequence := audit.Peek(e); sequence == 7 {
			entry = bytes.Clone(e)
			break
		}
	}
	bustest.Check(t, log.Close())
	if at = bytes.Index(raw, entry); at < 0 || entry == nil {
		t.Fatal("the entry is not in the file")
	}
	raw[at+len(entry)/4] ^= 1 // in the hash of the data
	bustest.Check(t, os.WriteFile(name, raw, 0o600))
	finds(t, w.verify(stream), "integrity", audit.Position{Sequence: 7, Entry: index})
	if r := w.export(stream); r.ExitCode() != 10 { // it has no hashes of its own to tell which entry it is
		t.Errorf("an export of it:\n%s", r)
	}
}

// TestAuditForked: an auditor that has signed two logs of one name is given away by either's checkpoint, and the second place says so
// at once.
func TestAuditForked(t *testing.T) {
	t.Parallel()
	w := newAuditWorld(t, auditPolicy("ledger"))
	stream := topicStream("ledger")
	bus, ring := w.stateful("audit-2", t.TempDir())
	dir := t.TempDir()
	w.publish("ledger", 10)
	a := w.startAs(bus, dir, w.second)
	r, err := a.Verify(w.Ctx(), stream)
	bustest.Check(t, err)
	isFine(t, r)
	bustest.Check(t, a.Stop())

	// The rogue's copy lacks what comes next, and has something else.
	copied := t.TempDir()
	bustest.Check(t, os.CopyFS(copied, os.DirFS(dir)))
	fork, err := audit.Open(filepath.Join(copied, stream), audit.Origin{})
	bustest.Check(t, err)
	size := fork.Size()
	last, err := fork.Entry(size - 1)
	bustest.Check(t, err)
	_, err = fork.Append(&audit.Entry{Kind: audit.KindExported, Logged: last.Logged, Event: audit.Event{Agent: bus.Self().String(), Text: "never happened"}})
	bustest.Check(t, err)
	signer, err := ring.NoteSigner(fork.Origin().String())
	bustest.Check(t, err)
	note, err := fork.Checkpoint(signer)
	bustest.Check(t, err)
	bustest.Check(t, fork.Close())

	w.publish("ledger", 10)
	a = w.startAs(bus, dir, w.second)
	r, err = a.Verify(w.Ctx(), stream)
	bustest.Check(t, err)
	isFine(t, r)
	if err := w.second.Put(context.Background(), stream, note); !errors.Is(err, audit.ErrInconsistent) {
		t.Errorf("the second place takes a fork: %v", err)
	}
	r, err = a.Verify(w.Ctx(), stream)
	bustest.Check(t, err)
	if at, _ := r.Integrity.First(); r.ExitCode() != 10 || at.Entry < size-1 || at.Entry > size {
		t.Errorf("a fork after %d entries:\n%s", size, r)
	}
}
