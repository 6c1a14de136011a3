package agentbus_test

import (
	"context"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/identity/devca"
	"github.com/sealbus/sealbus/internal/bustest"
)

// renewable connects an agent that looks for a renewed certificate every interval.
func renewable(t *testing.T, w *bustest.World, name string, validity, interval time.Duration) (*agentbus.Bus, *identity.Memory) {
	t.Helper()
	c := w.Config(name)
	src := identity.NewMemory(nil, w.CA.Bundle())
	c.Identity = src
	renew(t, w, src, name, validity)
	return w.Connect(agentbus.Timing(c, interval, 0)), src
}

func renew(t *testing.T, w *bustest.World, src *identity.Memory, name string, validity time.Duration) {
	t.Helper()
	svid, err := w.CA.Issue(devca.Template{ID: identity.MustParseID("spiffe://" + bustest.Domain + "/agent/" + name),
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(validity)})
	bustest.Check(t, err)
	src.SetSVID(svid)
}

// TestRenewal renews the certificates of a publisher, a subscriber and a responder again and again while messages
// and requests go on. Every connection is replaced; nothing is lost, comes twice or out of order, no request fails.
func TestRenewal(t *testing.T) {
	const rounds = 5
	w := bustest.New(t, testPolicy)
	names := []string{"feed-1", "planner", "bob"}
	agents, sources := make(map[string]*agentbus.Bus), make(map[string]*identity.Memory)
	for _, name := range names {
		agents[name], sources[name] = renewable(t, w, name, time.Hour, time.Millisecond)
	}
	handler, got := collect(1 << 18)
	sub, err := agents["planner"].Subscribe(w.Ctx(), "prices.>", handler)
	bustest.Check(t, err)
	_, err = agents["bob"].Serve(w.Ctx(), echo)
	bustest.Check(t, err)

	ctx, cancel := context.WithCancel(w.Ctx())
	published := 0
	var traffic sync.WaitGroup
	traffic.Go(func() {
		for ; ctx.Err() == nil; published++ {
			if err := agents["feed-1"].Publish(w.Ctx(), "prices.n"+strconv.Itoa(published%3), []byte(strconv.Itoa(published))); err != nil {
				t.Errorf("publishing: %v", err)
				return
			}
			if published%16 == 0 {
				_ = agents["feed-1"].Flush(w.Ctx()) // so that the receiver keeps up
			}
		}
	})
	traffic.Go(func() {
		for ctx.Err() == nil {
			if _, err := agents["planner"].Request(w.Ctx(), "bob", nil); err != nil {
				t.Errorf("request: %v", err)
				return
			}
		}
	})
	for round := range rounds {
		for _, name := range names {
			renew(t, w, sources[name], name, time.Hour)
			eventually(t, "the connection replaced", func() bool { return agents[name].Stats().Reconnects > uint64(round) })
		}
	}
	cancel()
	traffic.Wait()
	for i := range published {
		if m := bustest.Receive(t, got); string(m.Payload) != strconv.Itoa(i) {
			t.Fatalf("message %s, want %d", m.Payload, i)
		}
	}
	bustest.Check(t, sub.Stop())
	bustest.Empty(t, got)
	t.Logf("%d messages", published)
	for _, name := range names {
		if s := agents[name].Stats(); s.Reconnects != rounds || s.Dropped != 0 || s.Lost != 0 || s.Late != 0 || len(s.Rejected) != 0 {
			t.Errorf("%s counts %+v", name, s)
		}
	}
	eventually(t, "the connections before have ended", func() bool { return len(w.Node.Connections()) == len(names) })
}

// TestRenewalWithoutBroker renews a certificate while the broker is away: the connection that is made when it is back
// shows the new one, and no other is made.
func TestRenewalWithoutBroker(t *testing.T) {
	w := bustest.New(t, testPolicy)
	feed, src := renewable(t, w, "feed-1", time.Hour, time.Millisecond)
	planner := w.Agent("planner")
	handler, got := collect(8)
	_, err := planner.Subscribe(w.Ctx(), "prices", handler)
	bustest.Check(t, err)
	w.Stop()
	eventually(t, "the loss is noticed", func() bool { return !feed.Connected() && !planner.Connected() })
	renew(t, w, src, "feed-1", 2*time.Hour)
	w.Start()
	eventually(t, "both are back", func() bool { return feed.Connected() && planner.Connected() })
	bustest.Check(t, planner.Flush(w.Ctx()))
	bustest.Check(t, feed.Publish(w.Ctx(), "prices", []byte("1")))
	bustest.Receive(t, got)
	for _, c := range w.Node.Connections() {
		if c.ID == feed.Self() && time.Until(c.Expires) < 90*time.Minute {
			t.Errorf("the connection shows the certificate of before, until %v", c.Expires)
		}
	}
	if n := feed.Stats().Reconnects; n != 1 {
		t.Errorf("%d connections made, want 1", n)
	}
}

// TestRenewalRefused renews a certificate with one that the broker does not accept: the agent goes on with the
// connection that it has, says so, and takes the next good one.
func TestRenewalRefused(t *testing.T) {
	w := bustest.New(t, testPolicy)
	c := w.Config("feed-1")
	src := identity.NewMemory(nil, w.CA.Bundle())
	c.Identity = src
	said := make(warnings, 64)
	c.Logger = slog.New(slog.NewTextHandler(said, nil))
	renew(t, w, src, "feed-1", time.Hour)
	feed, planner := w.Connect(agentbus.Timing(c, time.Millisecond, 0)), w.Agent("planner")
	handler, got := collect(8)
	_, err := planner.Subscribe(w.Ctx(), "prices", handler)
	bustest.Check(t, err)
	bustest.Check(t, feed.Publish(w.Ctx(), "prices", nil))
	bustest.Receive(t, got)
	other, err := devca.New(bustest.Domain)
	bustest.Check(t, err)
	svid, err := other.Agent("feed-1", time.Hour)
	bustest.Check(t, err)
	src.SetSVID(svid)
	for range 3 {
		if line := bustest.Receive(t, said); !strings.Contains(line, "refuses the certificate") {
			t.Errorf("the log says %s", line)
		}
		bustest.Check(t, feed.Publish(w.Ctx(), "prices", nil))
		bustest.Receive(t, got)
	}
	if n := feed.Stats().Reconnects; n != 0 {
		t.Errorf("%d connections made", n)
	}
	renew(t, w, src, "feed-1", time.Hour)
	eventually(t, "the connection replaced", func() bool { return feed.Stats().Reconnects == 1 })
	bustest.Check(t, feed.Publish(w.Ctx(), "prices", nil))
	bustest.Receive(t, got)
}

// warnings passes on what is logged, as far as there is room.
type warnings chan string

func (c warnings) Write(p []byte) (int, error) {
	if !strings.Contains(string(p), "level=INFO") {
		select {
		case c <- string(p):
		default:
		}
	}
	return len(p), nil
}

// TestExpiry lets a certificate expire: the broker ends the connection. With a renewed certificate it is made again by
// itself, a new card with it, and messages go on; the agent that has none stays out until it has.
func TestExpiry(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, testPolicy)
	// Neither looks for a certificate by itself.
	planner, plannerSrc := renewable(t, w, "planner", 3*time.Second, time.Hour)
	feed, feedSrc := renewable(t, w, "feed-1", 3*time.Second, time.Hour)
	exec := w.Agent("exec-1")
	handler, got := collect(8)
	_, err := planner.Subscribe(w.Ctx(), "prices", handler)
	bustest.Check(t, err)
	_, err = exec.Subscribe(w.Ctx(), "prices", handler)
	bustest.Check(t, err)
	bustest.Check(t, feed.Publish(w.Ctx(), "prices", []byte("before")))
	bustest.Receive(t, got)
	bustest.Receive(t, got)
	renew(t, w, feedSrc, "feed-1", time.Hour)
	eventually(t, "the feed is back with its new certificate", func() bool { return feed.Connected() && feed.Stats().Reconnects > 0 })
	eventually(t, "the planner is out", func() bool { return !planner.Connected() })
	bustest.Check(t, feed.Publish(w.Ctx(), "prices", []byte("after")))
	if m := bustest.Receive(t, got); string(m.Payload) != "after" {
		t.Errorf("got %q", m.Payload)
	}
	renew(t, w, plannerSrc, "planner", time.Hour)
	eventually(t, "the planner is back", planner.Connected)
	bustest.Check(t, planner.Flush(w.Ctx()))
	bustest.Check(t, feed.Publish(w.Ctx(), "prices", []byte("again")))
	bustest.Receive(t, got)
	bustest.Receive(t, got)
}
