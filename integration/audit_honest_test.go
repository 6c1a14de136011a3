package integration_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/audit"
	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/identity/devca"
	"github.com/sealbus/sealbus/internal/bustest"
)

// eventually waits for what no signal tells of.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(bustest.Timeout); !ok(); {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("never came about: %s", what)
		}
	}
}

// reload restarts the broker under another policy.
func (w *auditWorld) reload(yaml string) {
	w.t.Helper()
	w.Signed = w.Sign(yaml)
	w.Stop()
	w.Start()
}

// load has agents publish and work until ctx ends, and returns when they have stopped.
type load struct {
	w      *auditWorld
	cancel context.CancelFunc
	agents sync.WaitGroup
}

func (w *auditWorld) load() *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{w: w, cancel: cancel}
	l.repeat(ctx, func(i int) error {
		return w.feed.Publish(ctx, fmt.Sprintf("ledger.x%d", i%5), fmt.Appendf(nil, "message %d", i))
	})
	boss, exec := w.Agent("boss"), w.Agent("exec-1")
	l.repeat(ctx, func(i int) error {
		_, err := boss.Enqueue(ctx, "jobs", fmt.Appendf(nil, "task %d", i), agentbus.Priority(i%4))
		return err
	})
	_, err := exec.Work(ctx, "jobs", func(_ context.Context, t *agentbus.Task) ([]byte, error) { return t.Payload, nil })
	bustest.Check(w.t, err)
	w.t.Cleanup(cancel)
	return l
}

func (l *load) repeat(ctx context.Context, do func(int) error) {
	l.agents.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			err := do(i)
			if err != nil && ctx.Err() == nil {
				l.w.t.Errorf("under load: %v", err)
				return
			}
		}
	})
}

func (l *load) stop() {
	l.cancel()
	l.agents.Wait()
}

// progress waits until the auditor has logged so many more messages of a stream.
func (w *auditWorld) progress(stream string, more uint64) {
	w.t.Helper()
	at := func() (last uint64) {
		for _, s := range w.a.Stats() {
			if s.Stream == stream {
				last = s.Last
			}
		}
		return last
	}
	from := at()
	eventually(w.t, "the auditor goes on", func() bool { return at() >= from+more })
}

// TestAuditHonest: under load, through other policies, other keys, renewed certificates, a broker that is away, retention and an
// auditor that is away, nothing is said to be wrong, and what can be proven is. A second auditor comes to the same.
func TestAuditHonest(t *testing.T) {
	t.Parallel()
	first := auditPolicy("ledger")
	w := newAuditWorld(t, first)
	src := identity.NewMemory(nil, w.CA.Bundle())
	renewed := func() {
		svid, err := w.CA.Issue(devca.Template{ID: identity.MustParseID("spiffe://example.org/agent/feed-1"), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour)})
		bustest.Check(t, err)
		src.SetSVID(svid)
	}
	renewed()
	c := w.Config("feed-1")
	c.Identity = src
	w.feed = w.Connect(c)
	twin, other := w.Agent("audit-1"), w.Agent("audit-2") // another process of the same name, and another auditor
	b := w.startAs(twin, t.TempDir(), w.second)
	d := w.startAs(other, t.TempDir(), nil)
	l := w.load()

	w.progress(topicStream("ledger"), 50)
	w.progress("SB_TASK_jobs", 50)
	isFine(t, w.verify(topicStream("ledger")))
	w.publish("brief", 10)
	renewed()
	reconnects := w.feed.Stats().Reconnects
	eventually(t, "the renewed certificate is shown", func() bool { return w.feed.Stats().Reconnects > reconnects })

	// Down, and up again.
	bustest.Check(t, w.a.Stop())
	before := w.feed.Stats().Published
	eventually(t, "messages while it is away", func() bool { return w.feed.Stats().Published > before+50 })
	w.start()
	w.progress(topicStream("ledger"), 50)

	// The reader is gone, so that there are other keys, and there is another topic.
	second := strings.NewReplacer("revision: 1", "revision: 2", "subscribe: [reader]", "subscribe: [\"rep-*\"]", "topics:\n",
		"topics:\n  extra: {publish: [\"feed-*\"], subscribe: [reader], audit: [\"audit-*\"], retain: 1h}\n").Replace(first)
	w.reload(second)
	w.progress(topicStream("ledger"), 50)
	eventually(t, "the new topic is audited", func() bool { return len(w.a.Stats()) == 6 })
	w.publish("extra", 10)
	l.stop()
	bustest.Check(t, w.feed.Close())

	eventually(t, "what was retained for two seconds is gone", func() bool {
		s, err := w.o.js.Stream(w.Ctx(), topicStream("brief"))
		return err == nil && s.CachedInfo().State.Msgs == 0
	})
	for _, a := range []*agentbus.Auditor{w.a, b, d} {
		for _, s := range a.Stats() {
			r, err := a.Verify(w.Ctx(), s.Stream)
			bustest.Check(t, err)
			isFine(t, r)
			for _, v := range r.Verdicts() {
				if v.State != audit.OK && (s.Stream == topicStream("ledger") || s.Stream == topicStream("extra")) {
					t.Errorf("%s of %s is not proven:\n%s", v.Name, s.Stream, r)
				}
			}
		}
	}
	w.quiet()
	isFine(t, w.export(topicStream("ledger")))
	isFine(t, w.export(topicStream("brief")))
	isFine(t, w.export("SB_RESULT_jobs"))
}
