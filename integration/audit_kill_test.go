package integration_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/audit"
	"github.com/sealbus/sealbus/internal/bustest"
)

// killAuditor audits until it is killed, and tells how many messages it has logged.
func killAuditor(s killSpec) error {
	b, err := s.connect()
	if err != nil {
		return err
	}
	_, err = b.Audit(context.Background(), s.audit())
	if err != nil {
		return err
	}
	tellTest("ready")
	select {} // until it is killed
}

func (s killSpec) audit() agentbus.AuditConfig {
	second, err := audit.NewDirectory(s.file("second"))
	if err != nil {
		panic(err)
	}
	return agentbus.AuditConfig{Dir: s.file("logs-" + s.Name), Second: second, Every: 20, OnProgress: func(a agentbus.AuditState) {
		if a.Stream == topicStream("ledger") {
			tellTest("logged", a.Last)
		}
	}}
}

// TestAuditKilled kills an auditor with SIGKILL again and again, wherever it is: its log goes on, with nothing twice and nothing missing,
// and no false alarm.
func TestAuditKilled(t *testing.T) {
	t.Parallel()
	const kills = 6
	w := newKillWorldUnder(t, auditPolicy("ledger"))
	feed := w.connect("feed-1")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var publishing sync.WaitGroup
	publishing.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			if err := feed.Publish(ctx, fmt.Sprintf("ledger.x%d", i%7), fmt.Appendf(nil, "message %d", i)); err != nil && ctx.Err() == nil {
				t.Errorf("publishing: %v", err)
				return
			}
		}
	})
	random := rand.New(rand.NewPCG(7, 7))
	for range kills {
		logged := make(chan struct{}, 1024)
		p := w.start("auditor", "audit-1", func(string) {
			select {
			case logged <- struct{}{}:
			default:
			}
		})
		select {
		case <-p.ready:
		case <-p.gone:
			t.Fatal("the auditor has ended by itself")
		case <-time.After(killPatience):
			t.Fatal("the auditor does not begin")
		}
		for range 1 + random.IntN(6) {
			bustest.Receive(t, logged)
		}
		p.kill()
	}
	cancel()
	publishing.Wait()
	bustest.Check(t, feed.Close())

	b := w.connect("audit-1")
	s := killSpec{Name: "audit-1", Dir: w.dir}
	c := s.audit()
	c.OnProgress = nil
	c.OnError = func(stream string, err error) { t.Errorf("the auditor complains of %s: %v", stream, err) }
	a, err := b.Audit(t.Context(), c)
	bustest.Check(t, err)
	r, err := a.Verify(t.Context(), topicStream("ledger"))
	bustest.Check(t, err)
	isFine(t, r)
	for _, v := range r.Verdicts() {
		if v.State != audit.OK {
			t.Errorf("%s is not proven:\n%s", v.Name, r)
		}
	}
	log, err := audit.Read(filepath.Join(c.Dir, topicStream("ledger")))
	bustest.Check(t, err)
	defer log.Close()
	counts := make(map[audit.Kind]int)
	for raw, err := range log.Entries(0) {
		bustest.Check(t, err)
		kind, _ := audit.Peek(raw)
		counts[kind]++
	}
	if counts[audit.KindOpened] != 1 || counts[audit.KindResumed] != kills || counts[audit.KindPolicy] != 1 || counts[audit.KindGap] != 0 || int64(counts[audit.KindFrame]) != r.Frames {
		t.Errorf("%v in the log, of %d messages", counts, r.Frames)
	}
}
