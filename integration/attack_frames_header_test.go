package integration_test

import (
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
)

// An entitled writer with software of its own seals frames with impossible times and numbers, and with content
// that breaks the format. Each is refused, and the subscription goes on.
func TestImpossibleHeaders(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, framesPolicy)
	evil, planner, feed := attack(t, w), sit(t, w, "planner"), sit(t, w, "feed-1")
	got := planner.subscribe(w, "prices")
	writer := newRogue(t, w, "rogue-writer")
	k := writer.join("topic/prices")
	now := time.Now()
	forge := func(change func(*forgery)) []byte {
		f := writer.forge(k, envelope.KindEvent, "prices")
		change(f)
		return f.frame(t, "from another time")
	}
	accepted := 0
	for _, c := range []struct {
		name   string
		frame  []byte
		reason keyring.Reason // zero: accepted
	}{
		{"as it should be", forge(func(*forgery) {}), 0},
		{"one second ahead", forge(func(f *forgery) { f.at(t, now.Add(time.Second)) }), 0},
		{"a minute ahead", forge(func(f *forgery) { f.at(t, now.Add(time.Minute)) }), keyring.Stale},
		{"at the end of time", forge(func(f *forgery) { f.at(t, ulid.Time(ulid.MaxTime())) }), keyring.Stale},
		{"from before the subscription", forge(func(f *forgery) { f.at(t, now.Add(-20*time.Second)) }), keyring.Stale},
		{"past max_age", forge(func(f *forgery) { f.at(t, now.Add(-31*time.Second)) }), keyring.Stale},
		{"at the beginning of time", forge(func(f *forgery) { f.at(t, time.UnixMilli(0)) }), keyring.Stale},
		{"expired", forge(func(f *forgery) { f.Expires = uint64(now.UnixMilli()) }), keyring.Stale},
		{"expired in 1970", forge(func(f *forgery) { f.Expires = 1 }), keyring.Stale},
		{"expiring at the end of time", forge(func(f *forgery) { f.Expires = 1<<64 - 1 }), 0},
		{"past a session's end", forge(func(f *forgery) { f.Seq = keyring.SessionFrames + 1 }), keyring.Malformed},
		{"at the end of the numbers", forge(func(f *forgery) { f.Seq = 1<<64 - 1 }), keyring.Malformed},
		{"the last of a session", forge(func(f *forgery) { f.Seq = keyring.SessionFrames }), 0},
		{"more messages counted than are there", forge(func(f *forgery) { f.Count = 2 }), keyring.BadContent},
		{"the most messages counted", forge(func(f *forgery) { f.Count = envelope.MaxMessages }), keyring.BadContent},
		{"no content", forge(func(f *forgery) { f.plain = []byte{} }), keyring.BadContent},
		{"content that is none", forge(func(f *forgery) { f.plain = make([]byte, 100) }), keyring.BadContent},
		{"content said to be padded", forge(func(f *forgery) { f.Flags |= envelope.FlagPadded; f.plain = make([]byte, 27) }), keyring.BadContent},
		{"a commitment to something else", forge(func(f *forgery) { f.Flags |= envelope.FlagCommitted; f.Commit[0] = 1 }), keyring.BadContent},
	} {
		evil.inject("sb.topic.prices", c.frame)
		if c.reason == 0 {
			wants(t, got, "rogue-writer", "from another time")
			accepted++
			continue
		}
		if r := planner.rejects(1, anyReason...)[0]; r.Reason != c.reason {
			t.Errorf("%s: %v, want %s", c.name, r.Err, c.reason)
		}
	}
	// An honest publisher's message that lives shorter than its way.
	bustest.Check(t, feed.Publish(w.Ctx(), "prices", []byte("expired"), agentbus.ExpiresIn(time.Nanosecond)))
	planner.rejects(1, keyring.Stale)
	bustest.Check(t, feed.Publish(w.Ctx(), "prices", []byte("in time"), agentbus.ExpiresIn(time.Minute)))
	wants(t, got, "feed-1", "in time")
	bustest.Empty(t, got)
	planner.counted(19 - accepted + 1)
}

// A frame is held back until it is older than max_age, here a second, while the publisher talks on. It was
// sealed after the subscription began and nobody has seen it: its age alone condemns it.
func TestHeldBackTooLong(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, framesPolicy)
	evil, planner, feed := attack(t, w), sit(t, w, "planner"), sit(t, w, "feed-1")
	got := planner.subscribe(w, "brief")
	sender := feed.sender(w, "topic/brief")
	held := event(t, sender, "brief", "held back")
	until := ulid.Time(parse(t, held).ID.Time()).Add(time.Second + 2*time.Millisecond)
	for time.Now().Before(until) {
		bustest.Check(t, feed.Publish(w.Ctx(), "brief", []byte("on time")))
		wants(t, got, "feed-1", "on time")
	}
	evil.inject("sb.topic.brief", held)
	planner.rejects(1, keyring.Stale)
	bustest.Check(t, feed.Publish(w.Ctx(), "brief", []byte("on time")))
	wants(t, got, "feed-1", "on time")
	planner.counted(1)
}
