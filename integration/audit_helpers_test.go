package integration_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/audit"
	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/internal/vault"
)

// auditPolicy has topics of the names given, whose auditors may not read them; reader may.
func auditPolicy(topics ...string) string {
	var b strings.Builder
	b.WriteString("trust_domain: example.org\nrevision: 1\ntopics:\n")
	for _, name := range topics {
		fmt.Fprintf(&b, "  %s: {publish: [\"feed-*\", mallory], subscribe: [reader], audit: [\"audit-*\", reader], retain: 24h}\n", name)
	}
	b.WriteString(`  brief: {publish: ["feed-*"], subscribe: [reader], audit: ["audit-*", reader], max_age: 1s, retain: 2s}
queues:
  jobs: {enqueue: [boss], work: ["exec-*"], read: [reader], audit: ["audit-*", reader], retain: 24h}
`)
	return b.String()
}

func topicStream(topic string) string { return "SB_TOPIC_" + topic }

// auditWorld is a bus with agents at work, and somebody who audits them.
type auditWorld struct {
	*bustest.World
	t      *testing.T
	o      *owner
	store  *nats.Conn // with every right where the streams are
	feed   *agentbus.Bus
	bus    *agentbus.Bus // the auditor's
	dir    string        // of its logs
	second *audit.Directory
	a      *agentbus.Auditor
	errs   chan error
}

func newAuditWorld(t *testing.T, yaml string) *auditWorld {
	t.Helper()
	w := &auditWorld{World: bustest.New(t, yaml), t: t, dir: t.TempDir(), errs: make(chan error, 1024)}
	w.o = newOwner(w.World)
	w.store = w.o.js.Conn()
	var err error
	w.second, err = audit.NewDirectory(t.TempDir())
	bustest.Check(t, err)
	w.bus = w.Agent("audit-1")
	w.start()
	w.feed = w.Agent("feed-1")
	return w
}

// start starts the auditor, from where it has left off.
func (w *auditWorld) start() {
	w.t.Helper()
	w.a = w.startAs(w.bus, w.dir, w.second)
}

func (w *auditWorld) startAs(b *agentbus.Bus, dir string, second audit.Sink) *agentbus.Auditor {
	w.t.Helper()
	a, err := b.Audit(w.Ctx(), agentbus.AuditConfig{Dir: dir, Second: second, OnError: func(stream string, err error) {
		select {
		case w.errs <- fmt.Errorf("%s: %w", stream, err):
		default:
		}
	}})
	bustest.Check(w.t, err)
	return a
}

// publish publishes messages on a topic, each a frame of its own: 1 and the sender's first note come before them.
func (w *auditWorld) publish(topic string, n int) {
	w.t.Helper()
	for i := range n {
		bustest.Check(w.t, w.feed.Publish(w.Ctx(), fmt.Sprintf("%s.x%d", topic, i), fmt.Appendf(nil, "message %d of %s", i, topic)))
	}
}

// verify returns what the auditor says of a stream.
func (w *auditWorld) verify(stream string) *audit.Report {
	w.t.Helper()
	r, err := w.a.Verify(w.Ctx(), stream)
	bustest.Check(w.t, err)
	return r
}

// isFine checks that there is nothing wrong.
func isFine(t *testing.T, r *audit.Report) {
	t.Helper()
	if r.ExitCode() != 0 {
		t.Errorf("a false alarm:\n%s", r)
	}
}

// quiet checks that the auditor has complained of nothing.
func (w *auditWorld) quiet() {
	w.t.Helper()
	select {
	case err := <-w.errs:
		w.t.Errorf("the auditor complains: %v", err)
	default:
	}
}

// trust is what a verifier elsewhere goes by.
func (w *auditWorld) trust() audit.Trust {
	return audit.Trust{Domain: spiffeid.RequireTrustDomainFromString(bustest.Domain), Anchors: w.CA.Bundle(), Operators: []identity.Fingerprint{w.Operator.Fingerprint()}}
}

// export makes an export and verifies it as another machine does, with no broker.
func (w *auditWorld) export(stream string) *audit.Report {
	w.t.Helper()
	path := filepath.Join(w.t.TempDir(), "export")
	bustest.Check(w.t, w.a.Export(w.Ctx(), stream, path, agentbus.AuditRange{}))
	r, err := audit.VerifyExport(context.Background(), path, w.trust())
	bustest.Check(w.t, err)
	return r
}

// finds checks that a verdict has failed, from where on, and that it is the first that has.
func finds(t *testing.T, r *audit.Report, verdict string, at audit.Position) {
	t.Helper()
	for _, v := range r.Verdicts() {
		if v.State != audit.Failed {
			continue
		}
		first, _ := v.First()
		if v.Name != verdict || first.Sequence != at.Sequence || at.Entry >= 0 && first.Entry != at.Entry {
			t.Errorf("%s failed at %s, want %s at %s:\n%s", v.Name, first, verdict, at, r)
		}
		return
	}
	t.Errorf("nothing has failed, want %s at %s:\n%s", verdict, at, r)
}

// sameVerdicts checks that two reports come to the same.
func sameVerdicts(t *testing.T, a, b *audit.Report) {
	t.Helper()
	for i, v := range a.Verdicts() {
		if i >= len(b.Verdicts()) { // no readability without keys
			break
		}
		u := b.Verdicts()[i]
		at, _ := v.First()
		also, _ := u.First()
		if v.State != u.State || v.Findings != u.Findings || at != also {
			t.Errorf("%s is %s with %d findings from %s, and %s with %d from %s elsewhere:\n%s\n%s", v.Name, v.State, v.Findings, at, u.State, u.Findings, also, a, b)
		}
	}
}

// vault takes a stream out of the broker.
func (w *auditWorld) vault(stream string) *vault.Vault {
	w.t.Helper()
	v, err := vault.TakeOut(w.Ctx(), w.store, stream)
	bustest.Check(w.t, err)
	return v
}

func (w *auditWorld) putBack(v *vault.Vault) {
	w.t.Helper()
	bustest.Check(w.t, v.PutBack(w.Ctx(), w.store))
}

// tampered waits until the auditor has complained by itself that a stream is not what it has logged.
func (w *auditWorld) tampered(stream string) {
	w.t.Helper()
	for {
		if err := bustest.Receive(w.t, w.errs); errors.Is(err, agentbus.ErrTampered) && strings.HasPrefix(err.Error(), stream+":") {
			return
		}
	}
}
