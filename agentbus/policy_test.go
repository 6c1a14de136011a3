package agentbus_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// TestPolicyUpdate puts a newer policy into the store that takes a topic from one agent and revokes another. The agents
// adopt it at once: who lost the right gets errors and reads nothing more, the rest goes on under a new key without
// a call that fails.
func TestPolicyUpdate(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, testPolicy)
	planner, exec, feed, gone := w.Agent("planner"), w.Agent("exec-1"), w.Agent("feed-1"), w.Agent("feed-2")
	handler, got := collect(1 << 12)
	_, err := planner.Subscribe(w.Ctx(), "prices.>", handler)
	bustest.Check(t, err)
	lost, never := collect(1 << 12)
	sub, err := exec.Subscribe(w.Ctx(), "prices.>", lost)
	bustest.Check(t, err)
	for _, b := range []*agentbus.Bus{feed, gone} {
		bustest.Check(t, b.Publish(w.Ctx(), "prices", []byte("before")))
		bustest.Receive(t, got)
		bustest.Receive(t, never)
	}
	publishPolicy(t, w, revised("2", `subscribe: [planner, "exec-*"]`, "subscribe: [planner]")+"revoked: [feed-2]\n", planner, exec, feed, gone)

	for range 20 {
		bustest.Check(t, feed.Publish(w.Ctx(), "prices", []byte("after")))
		if m := bustest.Receive(t, got); string(m.Payload) != "after" || m.Sender != feed.Self() {
			t.Errorf("got %v", m)
		}
	}
	if err := gone.Publish(w.Ctx(), "prices", nil); !errors.Is(err, agentbus.ErrNotEntitled) || !strings.Contains(err.Error(), "revision 2") {
		t.Errorf("publishing when revoked: %v", err)
	}
	if _, err := exec.Subscribe(w.Ctx(), "prices", lost); !errors.Is(err, agentbus.ErrNotEntitled) {
		t.Errorf("subscribing without the right: %v", err)
	}
	// The broker, which does not know yet, still delivers to exec-1: it cannot open any of it, and does not try.
	eventually(t, "all have come to who lost the right", func() bool { return sub.Stats().Rejected[keyring.NotEntitled] >= 20 })
	bustest.Empty(t, never)

	// And back again: under the next key, since the one in use was made for others. What was sealed under that until
	// the publisher has the next one is lost to it, and holds up what follows for half a second at most.
	publishPolicy(t, w, revised("3"), planner, exec, feed)
	back, deadline := make(chan *agentbus.Message, 1), time.After(bustest.Timeout)
	go func() { back <- <-never }()
	for tick := time.NewTicker(20 * time.Millisecond); ; {
		bustest.Check(t, feed.Publish(w.Ctx(), "prices", []byte("again")))
		if m := bustest.Receive(t, got); string(m.Payload) != "again" {
			t.Errorf("got %q", m.Payload)
		}
		select {
		case m := <-back:
			if string(m.Payload) != "again" {
				t.Errorf("got %q", m.Payload)
			}
			return
		case <-deadline:
			t.Fatal("nothing arrives although the right is back")
		case <-tick.C:
		}
	}
}

// TestPolicyWhilePublishing takes the topic from somebody while others publish without a pause: no call fails, and what
// was published after the last policy arrives.
func TestPolicyWhilePublishing(t *testing.T) {
	w := bustest.New(t, testPolicy)
	planner, feed := w.Agent("planner"), w.Agent("feed-1")
	handler, got := collect(1 << 18)
	_, err := planner.Subscribe(w.Ctx(), "prices.>", handler)
	bustest.Check(t, err)
	bustest.Check(t, feed.Publish(w.Ctx(), "prices", []byte("0")))
	var publisher sync.WaitGroup
	stop := make(chan struct{})
	publisher.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if err := feed.Publish(w.Ctx(), "prices", []byte("x")); err != nil {
					t.Errorf("publishing: %v", err)
					return
				}
				_ = feed.Flush(w.Ctx())
			}
		}
	})
	publishPolicy(t, w, revised("2", "exec-*", "trader-*"), planner, feed)
	publishPolicy(t, w, revised("3", "exec-*", "other-*"), planner, feed)
	close(stop)
	publisher.Wait()
	bustest.Check(t, feed.Publish(w.Ctx(), "prices", []byte("last")))
	for m := bustest.Receive(t, got); string(m.Payload) != "last"; m = bustest.Receive(t, got) {
	}
}

// TestPolicyAfterRestart starts the broker again under a newer policy: the agents adopt it when they are back, and
// the broker's own permissions follow it. What it no longer lets an agent subscribe to is an error at the call.
func TestPolicyAfterRestart(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, testPolicy)
	planner, exec := w.Agent("planner"), w.Agent("exec-1")
	w.Stop()
	w.Signed = w.Sign(revised("2", `subscribe: [planner, "exec-*"]`, "subscribe: [planner]"))
	w.Start()
	for _, b := range []*agentbus.Bus{planner, exec} {
		eventually(t, "revision 2", func() bool { return b.Policy().Revision() == 2 })
	}
	handler, _ := collect(1)
	if _, err := exec.Subscribe(w.Ctx(), "prices", handler); !errors.Is(err, agentbus.ErrNotEntitled) {
		t.Errorf("got %v", err)
	}
	// The agents learn of a policy before the broker does.
	publishPolicy(t, w, revised("3"), planner, exec)
	ctx, cancel := context.WithTimeout(w.Ctx(), 200*time.Millisecond) // the broker could learn of it any moment
	defer cancel()
	_, err := exec.Subscribe(ctx, "prices", handler)
	if !errors.Is(err, agentbus.ErrNotEntitled) || !strings.Contains(err.Error(), "the broker does not let") {
		t.Errorf("a subscription that the broker refuses: %v", err)
	}
	_, err = planner.Subscribe(w.Ctx(), "prices", handler)
	bustest.Check(t, err)
}

// TestPolicyNotBelieved puts an older policy, another one under the same revision and one of another operator into
// the store: the agents keep the one that they have, and count.
func TestPolicyNotBelieved(t *testing.T) {
	w := bustest.New(t, revised("5"))
	other := bustest.New(t, testPolicy)
	planner := w.Agent("planner")
	skipped := planner.Stats().Skipped
	owner := w.Admin("STORE")
	for i, raw := range [][]byte{
		w.Sign(revised("4")), w.Sign(revised("5", "30s", "40s")), other.Sign(revised("6")), []byte("{}"),
	} {
		_, err := owner.Request(policy.BucketSubject(policy.BucketPolicy, policy.PolicyKey), raw, bustest.Timeout)
		bustest.Check(t, err)
		eventually(t, "it was refused", func() bool { return planner.Stats().Skipped == skipped+uint64(i)+1 })
	}
	if n := planner.Policy().Revision(); n != 5 {
		t.Errorf("revision %d in force", n)
	}
}
