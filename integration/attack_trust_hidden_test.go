package integration_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// sayUntil publishes until a listener is given something; the others read every message meanwhile.
func sayUntil(w *bustest.World, b *agentbus.Bus, subject string, late <-chan string, listeners ...<-chan string) {
	w.T.Helper()
	for deadline := time.Now().Add(bustest.Timeout); time.Now().Before(deadline); {
		say(w, b, subject, "again", listeners...)
		select {
		case text := <-late:
			if text != b.Self().Name()+": again" {
				w.T.Fatalf("got %q", text)
			}
			return
		case <-time.After(20 * time.Millisecond): // it may not have the key yet: again
		}
	}
	w.T.Fatal("nothing arrived")
}

// TestHiddenStatements: the broker forgets what it is to keep. Those who are connected go on with what they
// have, and newcomers find a key that all of them hold.
func TestHiddenStatements(t *testing.T) {
	t.Parallel()
	for name, hide := range map[string]func(w *keyWorld){
		"everything about keys, at a restart": func(w *keyWorld) {
			w.o.empty(policy.BucketKeys)
			say(w.World, w.feed, "gossip.x", "go on", w.got)
			w.read.clear()
			w.write.clear()
			w.Stop()
			w.Start()
			w.read.await(w.t, "connected again", "", "")
			w.write.await(w.t, "connected again", "", "")
			w.o = newOwner(w.World)
		},
		"key statements": func(w *keyWorld) {
			for _, key := range w.o.keys(policy.BucketKeys, "topic.gossip.k.>") {
				w.o.put(policy.BucketKeys, key, nil)
			}
		},
		"wraps": func(w *keyWorld) {
			for _, key := range w.o.keys(policy.BucketKeys, "topic.gossip.w.>") {
				w.o.put(policy.BucketKeys, key, nil)
			}
		},
		"cards, but for a while": func(w *keyWorld) {
			kept := make(map[string][]byte)
			for _, key := range w.o.keys(policy.BucketCards, ">") {
				kept[key] = w.o.get(policy.BucketCards, key)
			}
			w.o.empty(policy.BucketCards)
			say(w.World, w.feed, "gossip.x", "go on", w.got)
			for key, value := range kept {
				w.o.put(policy.BucketCards, key, value)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newKeyWorld(t)
			hide(w)
			say(w.World, w.feed, "gossip.x", "go on", w.got)
			sayUntil(w.World, w.feed, "gossip.x", listen(w.World, w.Agent("exec-1"), "gossip"), w.got)
		})
	}
}

// TestHiddenCards: the broker shows nobody's card. A newcomer believes nobody then, and says so.
func TestHiddenCards(t *testing.T) {
	t.Parallel()
	w := newKeyWorld(t)
	w.o.empty(policy.BucketCards)
	late, log := watched(w.World, "exec-1")
	got := listen(w.World, late, "gossip")
	log.await(t, notBelieved, "", keyring.ErrNotFound.Error())
	say(w.World, w.feed, "gossip.x", "go on", w.got)
	w.AwaitRejections(1, keyring.NoKey) // by the newcomer, whose own key nobody has
	bustest.Empty(t, got)
}

// TestNoStore: the broker's store answers nothing. The call that needs it says so; who needs nothing of it
// goes on.
func TestNoStore(t *testing.T) {
	t.Parallel()
	w := newKeyWorld(t)
	const text = "the broker's store is not there"

	w.o.drop(policy.BucketKeys)
	late := w.Agent("exec-1")
	short, cancel := context.WithTimeout(w.Ctx(), 300*time.Millisecond) // it tries until its time is over
	defer cancel()
	_, err := late.Subscribe(short, "gossip.>", func(context.Context, *agentbus.Message) error { return nil })
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), text) {
		t.Errorf("subscribing without keys: %v", err)
	}
	say(w.World, w.feed, "gossip.x", "without keys", w.got)

	w.o.drop(policy.BucketCards)
	if _, err := agentbus.Connect(w.Ctx(), w.Config("exec-2")); err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("connecting without cards: %v", err)
	}
	say(w.World, w.feed, "gossip.x", "without cards", w.got)

	w.o.empty(policy.BucketPolicy)
	if _, err := agentbus.Connect(w.Ctx(), w.Config("exec-2")); !errors.Is(err, keyring.ErrNoPolicy) {
		t.Errorf("connecting with no policy: %v, want ErrNoPolicy", err)
	}
	w.o.drop(policy.BucketPolicy)
	if _, err := agentbus.Connect(w.Ctx(), w.Config("exec-2")); err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("connecting without policies: %v", err)
	}
	say(w.World, w.feed, "gossip.x", "without anything", w.got)
}
