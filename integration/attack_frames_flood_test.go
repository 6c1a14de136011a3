package integration_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// An agent that may publish floods its topic with frames under keys that do not exist, each of which is looked
// into for a while. Publishers that are known go on as before, and one who comes for the first time, whose card has to
// be fetched, is heard too.
func TestFloodOfUnknownKeysMutesNobody(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, framesPolicy)
	planner, feed := sit(t, w, "planner"), sit(t, w, "feed-1")
	got := planner.subscribe(w, "prices")
	// Some newcomers are given the key by the one reader, some by the other: who gave it has their card.
	bustest.Check(t, sit(t, w, "exec-1").ring.Join(w.Ctx(), policy.MustParseChannel("topic/prices")))
	bustest.Check(t, feed.Publish(w.Ctx(), "prices", []byte("before")))
	wants(t, got, "feed-1", "before")

	writer := newRogue(t, w, "rogue-writer")
	k := writer.join("topic/prices")
	flood := w.Raw(w.Source("rogue-writer")) // with no more than its own rights
	const n, newcomers = 2000, 6
	for range n {
		f := writer.forge(k, envelope.KindEvent, "prices").unsigned()
		f.Flags |= envelope.FlagSigned
		f.Key, f.Session = rand.Uint32()|1, ulid.Make()
		bustest.Check(t, flood.Publish(policy.TopicSubject("prices"), f.frame(t, "flood")))
	}
	bustest.Check(t, flood.FlushWithContext(w.Ctx()))
	bustest.Check(t, feed.Publish(w.Ctx(), "prices", []byte("during")))
	wants(t, got, "feed-1", "during")

	for i := range newcomers {
		name := fmt.Sprintf("feed-%d", i+2)
		bustest.Check(t, sit(t, w, name).Publish(w.Ctx(), "prices", []byte("newcomer")))
		wants(t, got, name, "newcomer")
	}
}

// An agent that may publish opens more sessions than a receiver remembers. It uses up its own share, and nobody else's.
func TestFloodOfSessionsMutesNobody(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, framesPolicy)
	planner, feed := sit(t, w, "planner"), sit(t, w, "feed-1")
	got := planner.subscribe(w, "gossip.>")
	bustest.Check(t, feed.Publish(w.Ctx(), "gossip.feed", []byte("before")))
	wants(t, got, "feed-1", "before")

	writer := newRogue(t, w, "rogue-writer")
	k := writer.join("topic/gossip")
	flood := w.Raw(w.Source("rogue-writer"))
	overloaded := false
	for n := 0; n < 17000 && !overloaded; n++ {
		bustest.Check(t, flood.Publish(policy.TopicSubject("gossip.flood"), writer.forge(k, envelope.KindEvent, "gossip.flood").unsigned().frame(t, "flood")))
		select {
		case m := <-got:
			if m.Subject != "gossip.flood" {
				t.Fatalf("got %q on %s", m.Payload, m.Subject)
			}
		case r := <-planner.rejected:
			if overloaded = true; r.Reason != keyring.Overload || r.Sender != writer.id.String() {
				t.Fatalf("rejected: %v", r.Err)
			}
		case <-time.After(bustest.Timeout):
			t.Fatal("nothing arrived")
		}
	}
	if !overloaded {
		t.Error("any number of sessions of one sender is remembered")
	}
	bustest.Check(t, feed.Publish(w.Ctx(), "gossip.feed", []byte("during")))
	wants(t, got, "feed-1", "during")
	bustest.Check(t, sit(t, w, "feed-2").Publish(w.Ctx(), "gossip.feed", []byte("newcomer")))
	wants(t, got, "feed-2", "newcomer")
}
