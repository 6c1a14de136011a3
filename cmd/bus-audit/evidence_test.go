package main

import (
	"bytes"
	"context"
	"encoding/pem"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/audit"
	"github.com/sealbus/sealbus/identity/devca"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/internal/vault"
	"github.com/sealbus/sealbus/policy"
)

const ledgerPolicy = `trust_domain: example.org
revision: 1
topics:
  ledger: {publish: [feed], subscribe: [planner, clerk], audit: [auditor, clerk], retain: 24h}
`

// evil is a message that would do something to a terminal, and pretends to be more than it is.
const evil = "\x1b[2Jsell\r\u202e everything\n\nProven: the sender has signed nothing\n"

// evidence is what an auditor has handed out, of a real broker's stream.
type evidence struct {
	dir        string
	export     string // of a stream with nothing wrong in it
	unclosed   string // of one whose sender was still there
	forged     string // of one into which the broker's owner has put a message of its own
	log        string // directory of the log
	second     string // of another auditor's, which was shown the same
	third      string // and of one that was shown a message with a bit turned over
	disclosure string // of the message that is evil
	data       string // that message as the stream holds it
	sequence   uint64 // its place
	trust      []string
}

// gather has an agent publish, an auditor follow, and takes what that auditor hands out.
func gather(t *testing.T) *evidence {
	t.Helper()
	w := bustest.New(t, ledgerPolicy)
	e := &evidence{dir: t.TempDir(), sequence: 3} // the first opens the session
	e.trust = []string{"--operator", w.Operator.Fingerprint().String(), "--ca", e.write(t, "ca.pem", authority(w.CA))}
	clerk, feed := w.Agent("clerk"), w.Agent("feed")
	_, err := clerk.Subscribe(w.Ctx(), "ledger.>", func(context.Context, *agentbus.Message) error { return nil })
	check(t, err)
	a, err := clerk.Audit(w.Ctx(), agentbus.AuditConfig{Dir: filepath.Join(e.dir, "audit")})
	check(t, err)
	for _, text := range []string{"one", evil, "three", "four", "five"} {
		check(t, feed.Publish(w.Ctx(), "ledger.a", []byte(text), agentbus.ContentType("text/plain")))
	}
	stream := policy.TopicStream("ledger")
	e.unclosed = filepath.Join(e.dir, "unclosed")
	check(t, a.Export(w.Ctx(), stream, e.unclosed, agentbus.AuditRange{}))
	check(t, feed.Close())
	e.second = e.another(t, w, "second")
	e.export, e.log = filepath.Join(e.dir, "export"), filepath.Join(e.dir, "audit", stream)
	check(t, a.Export(w.Ctx(), stream, e.export, agentbus.AuditRange{}))
	raw, err := a.Disclose(w.Ctx(), stream, e.sequence, 0)
	check(t, err)
	e.disclosure = e.write(t, "disclosure", raw)
	frames := e.frames(t)
	e.data = e.write(t, "data", frames[e.sequence-1].Data)
	_, err = w.Admin("STORE").Request(policy.TopicSubject("ledger.a"), frames[2].Data[:100], bustest.Timeout)
	check(t, err)
	e.forged = filepath.Join(e.dir, "forged")
	check(t, a.Export(w.Ctx(), stream, e.forged, agentbus.AuditRange{}))
	check(t, a.Stop())
	store := w.Admin("STORE")
	v, err := vault.TakeOut(w.Ctx(), store, stream)
	check(t, err)
	bent := slices.Clone(v.Messages)
	bent[2].Data = bytes.Clone(bent[2].Data)
	bent[2].Data[len(bent[2].Data)-1] ^= 1
	check(t, v.With(bent).PutBack(w.Ctx(), store))
	e.third = e.another(t, w, "third")
	return e
}

// another has another auditor log what the broker shows it, and returns the directory of its log.
func (e *evidence) another(t *testing.T, w *bustest.World, name string) string {
	t.Helper()
	dir := filepath.Join(e.dir, name)
	b := w.Agent("auditor")
	defer b.Close()
	a, err := b.Audit(w.Ctx(), agentbus.AuditConfig{Dir: dir})
	check(t, err)
	if _, err := a.Verify(w.Ctx(), policy.TopicStream("ledger")); err != nil { // when all is logged that is there
		t.Fatal(err)
	}
	check(t, a.Stop())
	return filepath.Join(dir, policy.TopicStream("ledger"))
}

func authority(ca *devca.CA) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Bundle().X509Authorities()[0].Raw})
}

func (e *evidence) write(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(e.dir, name)
	check(t, os.WriteFile(path, data, 0o600))
	return path
}

// frames are the messages of the export.
func (e *evidence) frames(t *testing.T) (list []audit.Stored) {
	t.Helper()
	x, err := audit.OpenExport(e.export)
	check(t, err)
	defer x.Close()
	for m, err := range x.Frames(t.Context()) {
		check(t, err)
		list = append(list, m)
	}
	return list
}

// changed writes the export anew with other messages in it, as whoever gets hold of it can.
func (e *evidence) changed(t *testing.T, name string, change func([]audit.Stored) []audit.Stored) string {
	t.Helper()
	x, err := audit.OpenExport(e.export)
	check(t, err)
	defer x.Close()
	list := change(e.frames(t))
	frames := func(context.Context) iter.Seq2[audit.Stored, error] {
		return func(yield func(audit.Stored, error) bool) {
			for _, m := range list {
				if !yield(m, nil) {
					return
				}
			}
		}
	}
	var b bytes.Buffer
	check(t, audit.Export(t.Context(), &b, &audit.ExportInput{Log: x, Places: x.Places(), Made: x.Made(), Frames: audit.FramesFunc(frames), Statements: x.Statements()}))
	return e.write(t, name, b.Bytes())
}

// with adds what a verifying command goes by.
func (e *evidence) with(args ...string) []string { return append(args, e.trust...) }
