package integration_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
)

// Two agents that share a channel talk soon after both have connected for the first time: nobody types a
// key, and no handshake is waited for. The bound is generous because machines are busy; the log has the figures.
func TestFirstContact(t *testing.T) {
	const (
		runs  = 7
		aim   = 300 * time.Millisecond
		bound = 5 * time.Second
	)
	answer := func(_ context.Context, m *agentbus.Message) ([]byte, error) { return m.Payload, nil }
	topic := func(subject string) func(*testing.T, *bustest.World, *seat, *seat) {
		return func(t *testing.T, w *bustest.World, planner, other *seat) {
			got := planner.subscribe(w, subject)
			bustest.Check(t, other.Publish(w.Ctx(), subject, []byte("hello")))
			wants(t, got, "feed-1", "hello")
		}
	}
	for _, c := range []struct {
		name, other string
		talk        func(*testing.T, *bustest.World, *seat, *seat)
	}{
		{"signed topic", "feed-1", topic("prices")},
		{"unsigned topic", "feed-1", topic("gossip")},
		{"retained topic", "feed-1", topic("ledger")},
		{"request and reply", "bob", func(t *testing.T, w *bustest.World, planner, bob *seat) {
			_, err := bob.Serve(w.Ctx(), answer)
			bustest.Check(t, err)
			_, err = planner.Request(w.Ctx(), "bob", []byte("hello"))
			bustest.Check(t, err)
		}},
		{"service", "index-1", func(t *testing.T, w *bustest.World, planner, index *seat) {
			_, err := index.ServeService(w.Ctx(), "lookup", answer)
			bustest.Check(t, err)
			_, err = planner.RequestService(w.Ctx(), "lookup", []byte("hello"))
			bustest.Check(t, err)
		}},
		{"topic, both at once", "feed-1", func(t *testing.T, w *bustest.World, planner, feed *seat) {
			published := make(chan error, 1)
			go func() { published <- feed.Publish(w.Ctx(), "prices", []byte("perhaps too early")) }()
			got := planner.subscribe(w, "prices")
			bustest.Check(t, bustest.Receive(t, published))
			bustest.Check(t, feed.Publish(w.Ctx(), "prices", []byte("hello")))
			for string(bustest.Receive(t, got).Payload) != "hello" {
			}
		}},
		{"requests that cross", "carol", func(t *testing.T, w *bustest.World, planner, carol *seat) {
			for _, s := range []*seat{planner, carol} {
				_, err := s.Serve(w.Ctx(), answer)
				bustest.Check(t, err)
			}
			answered := make(chan error, 1)
			go func() {
				_, err := carol.Request(w.Ctx(), "planner", []byte("hello"))
				answered <- err
			}()
			_, err := planner.Request(w.Ctx(), "carol", []byte("hello"))
			bustest.Check(t, err)
			bustest.Check(t, bustest.Receive(t, answered))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			took := make([]time.Duration, runs)
			for i := range took {
				w := bustest.New(t, framesPolicy)
				planner, other := sit(t, w, "planner"), sit(t, w, c.other)
				start := time.Now()
				c.talk(t, w, planner, other)
				took[i] = time.Since(start)
			}
			slices.Sort(took)
			most := took[runs-1]
			t.Logf("first contact over %d runs: median %v, most %v (aim %v)", runs, took[runs/2].Round(time.Microsecond), most.Round(time.Microsecond), aim)
			if most > bound {
				t.Errorf("first contact took %v; even a busy machine should stay below %v", most, bound)
			}
		})
	}
}
