package integration_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// Frames that were taken once are played again at once.
func TestReplayAtOnce(t *testing.T) {
	t.Parallel()
	for _, topic := range []string{"prices", "gossip", "ledger"} {
		t.Run("topic "+topic, func(t *testing.T) {
			t.Parallel()
			w := bustest.New(t, framesPolicy)
			evil, planner, feed := attack(t, w), sit(t, w, "planner"), sit(t, w, "feed-1")
			got, tapped := planner.subscribe(w, topic+".>"), evil.tap("sb.topic."+topic+".a")
			bustest.Check(t, feed.Publish(w.Ctx(), topic+".a", []byte("once")))
			wants(t, got, "feed-1", "once")
			frame := bustest.Receive(t, tapped).Data
			evil.inject("sb.topic."+topic+".a", frame, frame, frame)
			bustest.Check(t, feed.Publish(w.Ctx(), topic+".a", []byte("twice")))
			wants(t, got, "feed-1", "twice")
			planner.rejects(3, keyring.Seen)
			planner.counted(3)
		})
	}
	t.Run("request", func(t *testing.T) {
		t.Parallel()
		w := bustest.New(t, framesPolicy)
		evil, planner, bob := attack(t, w), sit(t, w, "planner"), sit(t, w, "bob")
		asked, tapped := serveAndCount(t, w, bob), evil.tap("sb.agent.bob")
		_, err := planner.Request(w.Ctx(), "bob", []byte("once"))
		bustest.Check(t, err)
		m := bustest.Receive(t, tapped)
		evil.injectWith("sb.agent.bob", m.Reply, m.Data, m.Data, m.Data)
		bob.rejects(3, keyring.Seen)
		_, err = planner.Request(w.Ctx(), "bob", []byte("twice"))
		bustest.Check(t, err)
		for _, text := range []string{"once", "twice"} {
			if got := bustest.Receive(t, asked); got != text {
				t.Errorf("the handler was given %q, want %q", got, text)
			}
		}
		bustest.Empty(t, asked)
		bob.counted(3)
	})
	t.Run("request to a service", func(t *testing.T) {
		t.Parallel()
		w := bustest.New(t, framesPolicy)
		evil, planner, index := attack(t, w), sit(t, w, "planner"), sit(t, w, "index-1")
		asked, tapped := make(chan string, 8), evil.tap("sb.service.lookup")
		_, err := index.ServeService(w.Ctx(), "lookup", func(_ context.Context, m *agentbus.Message) ([]byte, error) {
			asked <- string(m.Payload)
			return nil, nil
		})
		bustest.Check(t, err)
		_, err = planner.RequestService(w.Ctx(), "lookup", []byte("once"))
		bustest.Check(t, err)
		m := bustest.Receive(t, tapped)
		evil.injectWith("sb.service.lookup", m.Reply, m.Data, m.Data)
		index.rejects(2, keyring.Seen)
		bustest.Receive(t, asked)
		bustest.Empty(t, asked)
		index.counted(2)
	})
	// An old reply is played as the answer to a new request; then the reply to the new one is played twice.
	t.Run("reply", func(t *testing.T) {
		t.Parallel()
		w := bustest.New(t, framesPolicy)
		evil, planner, bob := attack(t, w), sit(t, w, "planner"), sit(t, w, "bob")
		tapped := evil.tap("sb.inbox.planner.>")
		srv, err := bob.Serve(w.Ctx(), func(context.Context, *agentbus.Message) ([]byte, error) { return []byte("old"), nil })
		bustest.Check(t, err)
		_, err = planner.Request(w.Ctx(), "bob", []byte("first"))
		bustest.Check(t, err)
		old := receiveFrame(t, tapped)
		srv.Stop()

		result, m := askHeldBack(t, w, evil, planner, "bob")
		id := parse(t, m.Data).ID
		evil.inject(m.Reply, old, edited(t, old, func(f *envelope.Frame) { f.Ref = id }))
		rejected := planner.rejects(2, keyring.Misdirected, keyring.Seen)
		if rejected[0].Reason != keyring.Misdirected {
			t.Errorf("an old reply to a new request: %v", rejected[0].Err)
		}
		sender := bob.sender(w, "pair/bob~planner")
		fresh := reply(t, sender, "planner", id, "new")
		evil.inject(m.Reply, edited(t, fresh, func(f *envelope.Frame) { f.ID[15] ^= 1 })) // somebody else's answer to it
		planner.rejects(1, keyring.BadSeal)
		second := reply(t, sender, "planner", id, "second")
		evil.inject(m.Reply, fresh, fresh, second)
		if text := bustest.Receive(t, result); text != "new" {
			t.Errorf("the request returned %q", text)
		}
		// What comes after the answer is replayed, or late if nobody waits any more. Either way it is counted.
		again, m := askHeldBack(t, w, evil, planner, "bob")
		evil.inject(m.Reply, reply(t, sender, "planner", parse(t, m.Data).ID, "newest"))
		if text := bustest.Receive(t, again); text != "newest" {
			t.Errorf("the request returned %q", text)
		}
		s := planner.Stats()
		if n := s.Late + s.Rejected[keyring.Seen]; n != 3 && n != 2 {
			t.Errorf("%d replies late and %v rejected, want two or three in all", s.Late, s.Rejected)
		}
	})
}

// restart is a way in which a receiver's process ends and another takes its place.
type restart struct {
	name    string
	keyring func(*testing.T, *bustest.World) (*keyring.Ring, string)
	again   func(t *testing.T, w *bustest.World, first *seat, dir string) *keyring.Ring
	kept    bool // the state directory
}

// Frames that a receiver took are played again to the process that takes its place, inside the window in which
// live frames are fresh. Another reader has been there all along, so the key that they were sealed under is
// there to be had.
func TestReplayAfterRestart(t *testing.T) {
	t.Parallel()
	key, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	bustest.Check(t, err)
	kek, err := aead.New(key)
	bustest.Check(t, err)
	open := func(t *testing.T, w *bustest.World, dir string) *keyring.Ring {
		r, err := keyring.Open(dir, keyring.EncryptWith(kek), w.Operator.Fingerprint())
		bustest.Check(t, err)
		return r
	}
	inDirectory := func(t *testing.T, w *bustest.World) (*keyring.Ring, string) {
		dir := filepath.Join(t.TempDir(), "state")
		return open(t, w, dir), dir
	}
	for _, how := range []restart{
		{"keys in memory",
			func(t *testing.T, w *bustest.World) (*keyring.Ring, string) { return w.Ring(), "" },
			func(t *testing.T, w *bustest.World, first *seat, _ string) *keyring.Ring {
				bustest.Check(t, first.Close())
				return w.Ring()
			}, false},
		{"state directory, closed in order", inDirectory,
			func(t *testing.T, w *bustest.World, first *seat, dir string) *keyring.Ring {
				bustest.Check(t, first.Close())
				return open(t, w, dir)
			}, true},
		// What is on disk while the process runs is what a crash would leave.
		{"state directory, after a crash", inDirectory,
			func(t *testing.T, w *bustest.World, first *seat, dir string) *keyring.Ring {
				left := filepath.Join(t.TempDir(), "left behind")
				bustest.Check(t, os.CopyFS(left, os.DirFS(dir)))
				bustest.Check(t, first.Close())
				return open(t, w, left)
			}, true},
	} {
		t.Run(how.name, func(t *testing.T) {
			t.Parallel()
			replayAfter(t, how)
		})
	}
}

func replayAfter(t *testing.T, how restart) {
	w := bustest.New(t, framesPolicy)
	evil, planner, feed := attack(t, w), sit(t, w, "planner"), sit(t, w, "feed-1")
	bustest.Check(t, planner.ring.Join(w.Ctx(), policy.MustParseChannel("topic/prices")))
	c := w.Config("exec-1")
	ring, dir := how.keyring(t, w)
	c.Keyring = ring
	exec := sitWith(t, w, c)
	got, asked := exec.subscribe(w, "prices"), serveAndCount(t, w, exec)
	frames, requests := evil.tapOnce("sb.topic.prices"), evil.tapOnce("sb.agent.exec-1")
	bustest.Check(t, feed.Publish(w.Ctx(), "prices", []byte("once")))
	wants(t, got, "feed-1", "once")
	_, err := planner.Request(w.Ctx(), "exec-1", []byte("once"))
	bustest.Check(t, err)
	bustest.Receive(t, asked)
	replays := [][]byte{bustest.Receive(t, frames).Data}
	if how.kept {
		// A writer whose clock is ahead, as it may be: what it sealed seems to be from after the restart.
		writer := newRogue(t, w, "rogue-writer")
		ahead := writer.forge(writer.join("topic/prices"), envelope.KindEvent, "prices").at(t, time.Now().Add(500*time.Millisecond)).frame(t, "ahead")
		evil.inject("sb.topic.prices", ahead)
		wants(t, got, "rogue-writer", "ahead")
		replays = append(replays, ahead)
	}
	asking := bustest.Receive(t, requests)
	exec.counted(0)

	c = w.Config("exec-1")
	c.Keyring = how.again(t, w, exec, dir)
	exec = sitWith(t, w, c)
	got, asked = exec.subscribe(w, "prices"), serveAndCount(t, w, exec)
	evil.inject("sb.topic.prices", replays...)
	evil.injectWith("sb.agent.exec-1", asking.Reply, asking.Data)
	exec.rejects(len(replays)+1, keyring.Stale)

	// New ones come through: at once, or, where the state directory has to be careful about the last two
	// seconds, as soon as these are over.
	attempts := 0
	for fresh := false; !fresh; attempts++ {
		bustest.Check(t, feed.Publish(w.Ctx(), "prices", []byte("new")))
		select {
		case m := <-got:
			fresh = true
			if string(m.Payload) != "new" {
				t.Errorf("got %q", m.Payload)
			}
		case r := <-exec.rejected:
			if !how.kept || r.Reason != keyring.Stale {
				t.Fatalf("a new message was rejected: %v", r.Err)
			}
		}
	}
	t.Logf("new messages come through after %d attempts", attempts)
	evil.inject("sb.topic.prices", replays...)
	evil.injectWith("sb.agent.exec-1", asking.Reply, asking.Data)
	exec.rejects(len(replays)+1, keyring.Stale)
	if _, err := planner.Request(w.Ctx(), "exec-1", []byte("new")); err != nil {
		t.Error(err)
	}
	if text := bustest.Receive(t, asked); text != "new" {
		t.Errorf("the handler was given %q", text)
	}
	bustest.Empty(t, asked)
	bustest.Empty(t, got)
}

// A subscription that is made anew in the same process has not seen what the one before took.
func TestReplayToNewSubscription(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, framesPolicy)
	evil, planner, feed := attack(t, w), sit(t, w, "planner"), sit(t, w, "feed-1")
	first := make(chan *agentbus.Message, 8)
	sub, err := planner.Subscribe(w.Ctx(), "prices", func(_ context.Context, m *agentbus.Message) error {
		first <- m
		return nil
	})
	bustest.Check(t, err)
	writer := newRogue(t, w, "rogue-writer")
	ahead := writer.forge(writer.join("topic/prices"), envelope.KindEvent, "prices").at(t, time.Now().Add(1900*time.Millisecond)).frame(t, "ahead")
	usual := event(t, feed.sender(w, "topic/prices"), "prices", "usual")
	evil.inject("sb.topic.prices", usual, ahead)
	wants(t, first, "feed-1", "usual")
	wants(t, first, "rogue-writer", "ahead")
	sub.Stop()
	second := planner.subscribe(w, "prices")
	evil.inject("sb.topic.prices", usual, ahead)
	planner.rejects(2, keyring.Stale)
	bustest.Empty(t, second)
	planner.counted(2)
}
