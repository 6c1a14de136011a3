package integration_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"testing"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
)

// tampered returns frame with every bit flipped, one at a time, and with every byte inverted.
func tampered(frame []byte) (all [][]byte) {
	for i := range frame {
		for _, mask := range []byte{1, 2, 4, 8, 16, 32, 64, 128, 255} {
			bad := bytes.Clone(frame)
			bad[i] ^= mask
			all = append(all, bad)
		}
	}
	return all
}

// misshapen returns frame cut at every length, the empty one among them, and made longer, and junk up to
// what a broker carries.
func misshapen(frame []byte) (all [][]byte) {
	for i := range frame {
		all = append(all, frame[:i])
	}
	junk := make([]byte, envelope.MaxFrame)
	for i := range junk {
		junk[i] = byte(rand.Uint32())
	}
	filled := bytes.Clone(junk)
	copy(filled, frame)
	return append(all, append(bytes.Clone(frame), 0), append(bytes.Clone(frame), frame...), append(bytes.Clone(frame), junk[:100]...),
		junk, filled, make([]byte, envelope.MaxFrame), junk[:100], []byte("+OK\r\n"), []byte(`{"type":"event"}`))
}

// A flip may make a frame anything but authentic.
var anyReason = keyring.Reasons()

// The attacker holds a frame back, sends it with every single bit changed, in every wrong length, and junk,
// and lets it through at last: what was changed is refused and counted, each one, and the genuine frame is
// taken as if nothing had happened. All cases begin before the first is finished, because a frame that names
// an unknown key is looked into for five seconds.
func TestTamperedFrames(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name   string
		start  func(*testing.T) (finish func(*testing.T))
		finish func(*testing.T)
	}{
		{name: "signed topic", start: tamperTopic("prices")},
		{name: "unsigned topic", start: tamperTopic("gossip")},
		{name: "retained topic", start: tamperTopic("ledger")},
		{name: "request", start: tamperRequest},
		{name: "reply", start: tamperReply},
	}
	for i := range cases {
		cases[i].finish = cases[i].start(t)
	}
	for _, c := range cases {
		t.Run(c.name, c.finish)
	}
}

func tamperTopic(topic string) func(*testing.T) func(*testing.T) {
	return func(t *testing.T) func(*testing.T) {
		w := bustest.New(t, framesPolicy)
		evil, planner, feed := attack(t, w), sit(t, w, "planner"), sit(t, w, "feed-1")
		subject := topic + ".eu.de"
		got := planner.subscribe(w, subject)
		sender := feed.sender(w, "topic/"+topic)
		evil.inject("sb.topic."+subject, event(t, sender, subject, "the one before"))
		wants(t, got, "feed-1", "the one before")

		frame := event(t, sender, subject, "held back")
		bad := append(tampered(frame), misshapen(frame)...)
		evil.inject("sb.topic."+subject, bad...)
		evil.inject("sb.topic."+subject, frame)
		return func(t *testing.T) {
			wants(t, got, "feed-1", "held back")
			tally(t, planner.rejects(len(bad), anyReason...))
			bustest.Empty(t, got)
			planner.counted(len(bad))
		}
	}
}

func tamperRequest(t *testing.T) func(*testing.T) {
	w := bustest.New(t, framesPolicy)
	evil, planner, bob := attack(t, w), sit(t, w, "planner"), sit(t, w, "bob")
	asked := serveAndCount(t, w, bob)
	_, err := planner.Request(w.Ctx(), "bob", []byte("the one before"))
	bustest.Check(t, err)
	bustest.Receive(t, asked)

	const inbox = "sb.inbox.planner.evil"
	frame := request(t, planner.sender(w, "pair/bob~planner"), "bob", "held back")
	bad := append(tampered(frame), misshapen(frame)...)
	answers := evil.tap(inbox)
	evil.injectWith("sb.agent.bob", inbox, bad...)
	evil.injectWith("sb.agent.bob", inbox, frame)
	return func(t *testing.T) {
		if text := bustest.Receive(t, asked); text != "held back" {
			t.Errorf("the handler was given %q", text)
		}
		bustest.Receive(t, answers)
		tally(t, bob.rejects(len(bad), anyReason...))
		bustest.Empty(t, asked)
		bustest.Empty(t, answers)
		bob.counted(len(bad))
	}
}

func tamperReply(t *testing.T) func(*testing.T) {
	w := bustest.New(t, framesPolicy)
	evil, planner, bob := attack(t, w), sit(t, w, "planner"), sit(t, w, "bob")
	result, m := askHeldBack(t, w, evil, planner, "bob")
	frame := reply(t, bob.sender(w, "pair/bob~planner"), "planner", parse(t, m.Data).ID, "the answer")
	bad := append(tampered(frame), misshapen(frame)...)
	evil.inject(m.Reply, bad...)
	return func(t *testing.T) {
		tally(t, planner.rejects(len(bad), anyReason...))
		evil.inject(m.Reply, frame)
		if text := bustest.Receive(t, result); text != "the answer" {
			t.Errorf("the request returned %q", text)
		}
		planner.counted(len(bad))
	}
}

// A forged frame that names a key which does not exist must not hold up the genuine frames of the session
// that it claims: they are taken while the forgery is still being looked into.
func TestForgedKeyHoldsUpNobody(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, framesPolicy)
	evil, planner, feed := attack(t, w), sit(t, w, "planner"), sit(t, w, "feed-1")
	got := planner.subscribe(w, "prices")
	sender := feed.sender(w, "topic/prices")
	forged := edited(t, event(t, sender, "prices", "forged"), func(f *envelope.Frame) { f.Key ^= 1 })
	for range 40 {
		evil.inject("sb.topic.prices", forged, event(t, sender, "prices", "genuine"))
		wants(t, got, "feed-1", "genuine")
	}
	planner.counted(0) // not yet
}

// tally logs for which reasons frames were rejected.
func tally(t *testing.T, list []agentbus.Rejection) {
	t.Helper()
	n := map[keyring.Reason]int{}
	for _, r := range list {
		n[r.Reason]++
	}
	t.Logf("%d frames rejected: %v", len(list), n)
}

// serveAndCount has an agent answer, and reports what its handler was given.
func serveAndCount(t *testing.T, w *bustest.World, s *seat) chan string {
	t.Helper()
	asked := make(chan string, 1<<12)
	_, err := s.Serve(w.Ctx(), func(_ context.Context, m *agentbus.Message) ([]byte, error) {
		asked <- string(m.Payload)
		return append([]byte("re: "), m.Payload...), nil
	})
	bustest.Check(t, err)
	return asked
}
