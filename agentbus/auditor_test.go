package agentbus_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/audit"
	"github.com/sealbus/sealbus/internal/bustest"
)

const auditPolicy = `trust_domain: example.org
revision: 1
topics:
  ledger: {publish: ["feed-*"], subscribe: [planner], audit: [witness], retain: 24h}
queues:
  work: {enqueue: [planner], work: ["exec-*"], audit: [witness]}
`

const ledger = "SB_TOPIC_ledger"

// auditing starts an auditor that keeps its logs in a directory.
func auditing(t *testing.T, w *bustest.World, b *agentbus.Bus, c agentbus.AuditConfig) *agentbus.Auditor {
	t.Helper()
	a, err := b.Audit(w.Ctx(), c)
	bustest.Check(t, err)
	return a
}

// kinds returns the kinds of a log's entries but for those of messages, and the last event of each.
func kinds(t *testing.T, dir string) (list []string, last map[audit.Kind]audit.Event) {
	t.Helper()
	log, err := audit.Read(dir)
	bustest.Check(t, err)
	defer log.Close()
	last = make(map[audit.Kind]audit.Event)
	for raw, err := range log.Entries(0) {
		bustest.Check(t, err)
		var e audit.Entry
		bustest.Check(t, audit.ParseEntry(raw, &e))
		if e.Kind != audit.KindFrame {
			list, last[e.Kind] = append(list, e.Kind.String()), e.Event
		}
	}
	return list, last
}

// TestAuditEvents: what happens to a stream, and what is done with its log, is in the log.
func TestAuditEvents(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, auditPolicy)
	b, feed := w.Agent("witness"), w.Agent("feed-1")
	dir := t.TempDir()
	c := agentbus.StillAfter(agentbus.AuditConfig{Dir: dir, Interval: 50 * time.Millisecond}, 100*time.Millisecond)
	a := auditing(t, w, b, c)
	bustest.Check(t, feed.Publish(w.Ctx(), "ledger.x", []byte("text")))
	_, err := a.Verify(w.Ctx(), ledger)
	bustest.Check(t, err)
	has := func(kind audit.Kind) func() bool {
		return func() bool { _, last := kinds(t, filepath.Join(dir, ledger)); _, ok := last[kind]; return ok }
	}
	eventually(t, "nothing new is logged", has(audit.KindStill))
	next := strings.Replace(auditPolicy, "revision: 1", "revision: 2\nrevoked: [\"feed-9\"]\ndestroyed: [{channel: topic/ledger, before: \"2026-01-01T00:00:00Z\"}]", 1)
	publishPolicy(t, w, next, b)
	eventually(t, "the policy is logged", has(audit.KindDestroyed))
	bustest.Check(t, a.Export(w.Ctx(), ledger, filepath.Join(dir, "export"), agentbus.AuditRange{First: 1, Last: 2}))
	if r, err := audit.VerifyExport(w.Ctx(), filepath.Join(dir, "export"), audit.Trust{Domain: b.Self().TrustDomain(), Anchors: w.CA.Bundle(), Operators: b.Ring().Operators()}); err != nil || r.ExitCode() != 0 {
		t.Errorf("%v\n%s", err, r)
	}
	bustest.Check(t, a.Stop())
	bustest.Check(t, a.Stop())
	a = auditing(t, w, b, c)
	bustest.Check(t, a.Stop())

	list, last := kinds(t, filepath.Join(dir, ledger))
	if list[0] != "opened" || list[len(list)-1] != "closed" {
		t.Errorf("%q", list)
	}
	for kind, want := range map[audit.Kind]audit.Event{
		audit.KindPolicy:    {Last: 2, Revision: 2},
		audit.KindRevoked:   {Last: 2, Revision: 2, Agent: "feed-9"},
		audit.KindDestroyed: {Channel: "topic/ledger", Time: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)},
		audit.KindExported:  {First: 1, Last: 2, Agent: b.Self().String(), Text: "an export"},
		audit.KindResumed:   {First: 1, Last: 2, Agent: b.Self().String(), Card: b.Ring().Card()},
		audit.KindClosed:    {First: 1, Last: 2},
	} {
		got := last[kind]
		if kind == audit.KindPolicy {
			got.Hash = [32]byte{}
		}
		if got != want {
			t.Errorf("%s: %+v, want %+v", kind, got, want)
		}
	}
	if k := last[audit.KindKey]; k.Channel != "topic/ledger" || k.Agent != feed.Self().String() {
		t.Errorf("the key: %+v", k)
	}
	count := strings.Count(strings.Join(list, " "), "policy")
	if count != 2 {
		t.Errorf("%d policies in %q", count, list)
	}
}

// TestAuditReplayed: an auditor that may read, and does, has that in its log.
func TestAuditReplayed(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, strings.Replace(auditPolicy, "audit: [witness], retain", "audit: [planner], retain", 1))
	b, feed := w.Agent("planner"), w.Agent("feed-1")
	dir := t.TempDir()
	a := auditing(t, w, b, agentbus.AuditConfig{Dir: dir})
	bustest.Check(t, feed.Publish(w.Ctx(), "ledger.x", []byte("text")))
	n := 0
	for m, err := range b.Replay(w.Ctx(), "ledger.>") {
		bustest.Check(t, err)
		if n++; string(m.Payload) != "text" {
			t.Errorf("%q", m.Payload)
		}
	}
	r, err := a.Verify(w.Ctx(), ledger)
	bustest.Check(t, err)
	if n != 1 || r.ExitCode() != 0 || r.Readability.State != audit.OK {
		t.Errorf("%d messages:\n%s", n, r)
	}
	_, last := kinds(t, filepath.Join(dir, ledger))
	if got, want := last[audit.KindReplayed], (audit.Event{First: 1, Last: 2, Agent: b.Self().String(), Text: "read back"}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// TestAuditCheckpoints: a checkpoint is signed after so many messages, and is at the broker and in the second place.
func TestAuditCheckpoints(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, auditPolicy)
	b, feed := w.Agent("witness"), w.Agent("feed-1")
	second, err := audit.NewDirectory(t.TempDir())
	bustest.Check(t, err)
	seen := make(chan agentbus.AuditState, 4096)
	a := auditing(t, w, b, agentbus.AuditConfig{Dir: t.TempDir(), Every: 10, Interval: time.Hour, Second: second, OnProgress: func(s agentbus.AuditState) {
		if s.Stream == ledger {
			seen <- s
		}
	}})
	for i := range 30 {
		bustest.Check(t, feed.Publish(w.Ctx(), fmt.Sprintf("ledger.x%d", i), []byte("text")))
	}
	var s agentbus.AuditState
	for s.Last < 31 || s.Signed < s.Entries-10 {
		s = bustest.Receive(t, seen)
	}
	eventually(t, "it is kept elsewhere", func() bool {
		for _, now := range a.Stats() {
			if now.Stream == ledger {
				return now.Kept == now.Signed && now.Frames == 31 && now.Err == nil && !now.Tampered
			}
		}
		return false
	})
	raw, err := second.Latest(s.Log)
	bustest.Check(t, err)
	c, err := audit.UnverifiedCheckpoint(raw)
	if err != nil || c.Size < s.Signed || c.Origin.Auditor != b.Self() {
		t.Errorf("%+v, %v", c, err)
	}
}

// TestAuditRefused: what cannot be audited is refused with a reason.
func TestAuditRefused(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, auditPolicy)
	b := w.Agent("witness")
	dir := t.TempDir()
	for _, x := range []struct {
		by    *agentbus.Bus
		c     agentbus.AuditConfig
		wrong string
		is    error
	}{
		{b, agentbus.AuditConfig{}, "Dir is missing", nil},
		{b, agentbus.AuditConfig{Dir: dir, Every: -1}, "negative", nil},
		{w.Agent("planner"), agentbus.AuditConfig{Dir: dir}, "auditor of nothing", agentbus.ErrNotEntitled},
	} {
		if _, err := x.by.Audit(w.Ctx(), x.c); err == nil || !strings.Contains(err.Error(), x.wrong) || x.is != nil && !errors.Is(err, x.is) {
			t.Errorf("%+v: %v", x.c, err)
		}
	}
	a := auditing(t, w, b, agentbus.AuditConfig{Dir: dir})
	if _, err := b.Audit(w.Ctx(), agentbus.AuditConfig{Dir: dir}); !errors.Is(err, audit.ErrLocked) {
		t.Errorf("a second auditor in one directory: %v", err)
	}
	if _, err := a.Verify(w.Ctx(), "SB_TOPIC_other"); err == nil || !strings.Contains(err.Error(), "no stream that") {
		t.Errorf("a stream that is not audited: %v", err)
	}
	if _, err := w.Agent("planner").Verify(w.Ctx(), dir, ledger, nil); !errors.Is(err, agentbus.ErrNotEntitled) {
		t.Errorf("verified by who may not: %v", err)
	}
	if err := a.Export(w.Ctx(), ledger, filepath.Join(dir, "x"), agentbus.AuditRange{First: 3, Last: 2}); err == nil {
		t.Error("an export from 3 to 2")
	}
	bustest.Check(t, a.Stop())
	foreign := t.TempDir()
	bustest.Check(t, os.CopyFS(foreign, os.DirFS(dir)))
	bustest.Check(t, os.RemoveAll(filepath.Join(foreign, ledger)))
	bustest.Check(t, os.Rename(filepath.Join(foreign, "SB_TASK_work"), filepath.Join(foreign, ledger)))
	if _, err := b.Audit(w.Ctx(), agentbus.AuditConfig{Dir: foreign}); err == nil || !strings.Contains(err.Error(), "holds the log") {
		t.Errorf("another stream's log: %v", err)
	}
	a = auditing(t, w, b, agentbus.AuditConfig{Dir: dir}) // the locks are free again
	bustest.Check(t, b.Close())                           // ends it
	bustest.Check(t, a.Stop())
	if _, err := b.Audit(w.Ctx(), agentbus.AuditConfig{Dir: dir}); !errors.Is(err, agentbus.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := a.Verify(w.Ctx(), ledger); !errors.Is(err, agentbus.ErrClosed) {
		t.Errorf("after Stop: %v", err)
	}
}
