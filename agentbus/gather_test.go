package agentbus_test

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// hold has a topic's messages wait until release. Before, there are two to the subject given: one that has arrived, and
// one that is under way and alone.
func hold(t testing.TB, w *bustest.World, b *agentbus.Bus, subject string) (release func()) {
	t.Helper()
	topic, _, _ := strings.Cut(subject, ".")
	bustest.Check(t, b.Publish(w.Ctx(), subject, nil))
	bustest.Check(t, b.Flush(w.Ctx()))
	release = b.Hold()
	t.Cleanup(release)
	_, err := b.PublishAsync(w.Ctx(), subject, nil)
	bustest.Check(t, err)
	eventually(t, "it is under way", func() bool {
		waiting, sending := b.Gathered(topic)
		return sending && waiting == 0
	})
	return release
}

// parsed returns the frames that a tap has recorded, when all of them are there.
func parsed(t testing.TB, nc *nats.Conn, tapped chan *nats.Msg) []envelope.Frame {
	t.Helper()
	bustest.Check(t, nc.Flush())
	frames := make([]envelope.Frame, len(tapped))
	for i := range frames {
		m := <-tapped
		bustest.Check(t, envelope.Parse(m.Data, &frames[i]))
		if subject := policy.TopicSubject(string(frames[i].Recipient)); subject != m.Subject {
			t.Errorf("a frame for %s was sent to %s", subject, m.Subject)
		}
	}
	return frames
}

// oneBatch checks that frames are of one session without a hole, and signed together if they are signed.
func oneBatch(t testing.TB, frames []envelope.Frame) {
	t.Helper()
	for i, f := range frames {
		first := &frames[0]
		if f.Session != first.Session || f.Seq != first.Seq+uint64(i) {
			t.Errorf("frame %d is number %d of its session, the first is %d", i, f.Seq, first.Seq)
		}
		if !f.Signed() {
			continue
		}
		if want := envelope.DepthOf(len(frames)); f.Signature.Depth != want || int(f.Signature.Index) != i {
			t.Errorf("frame %d is leaf %d of a tree of depth %d, want depth %d", i, f.Signature.Index, f.Signature.Depth, want)
		}
		if !bytes.Equal(f.Signature.Sig, first.Signature.Sig) {
			t.Errorf("frame %d has a signature of its own", i)
		}
	}
}

// TestGathered has messages wait while another is under way, and looks at what they become: those that follow one
// another to one subject with one expiry share a frame, up to its bounds, and all frames have one signature.
func TestGathered(t *testing.T) {
	type run struct {
		subject string
		size, n int
		expires bool
		frames  []uint16
	}
	for _, test := range []struct {
		name  string
		topic string
		runs  []run
	}{
		{"one subject", "prices", []run{{subject: "prices.a", size: 10, n: 100, frames: []uint16{100}}}},
		{"subjects alternate", "prices", []run{
			{subject: "prices.a", size: 10, n: 10, frames: []uint16{10}}, {subject: "prices.b", size: 100, n: 5, frames: []uint16{5}},
			{subject: "prices.a", n: 1, frames: []uint16{1}}, {subject: "prices", size: 1000, n: 3, frames: []uint16{3}},
			{subject: "prices", n: 1, expires: true, frames: []uint16{1}}, {subject: "prices", n: 1, frames: []uint16{1}},
		}},
		{"unsigned", "gossip", []run{
			{subject: "gossip.a", size: 10, n: 10, frames: []uint16{10}}, {subject: "gossip.b", n: 2, frames: []uint16{2}},
		}},
		{"frames of bytes", "prices", []run{{subject: "prices.a", size: 50 << 10, n: 5, frames: []uint16{2, 2, 1}}}},
		{"frames of messages", "prices", []run{{subject: "prices.a", n: 5000, frames: []uint16{envelope.MaxMessages, 5000 - envelope.MaxMessages}}}},
		{"large among small", "prices", []run{
			{subject: "prices.a", n: 3, frames: []uint16{3}}, {subject: "prices.a", size: 200 << 10, n: 2, frames: []uint16{1, 1}},
			{subject: "prices.a", n: 3, frames: []uint16{3}},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := bustest.New(t, testPolicy)
			planner, feed, owner := w.Agent("planner"), w.Agent("feed-1"), w.Admin("AGENTS")
			handler, got := collect(1 << 14)
			_, err := planner.Subscribe(w.Ctx(), test.topic+".>", handler)
			bustest.Check(t, err)
			release := hold(t, w, feed, test.topic)
			tapped := tap(t, owner, "sb.topic.>")
			ctx := w.Ctx()
			var counts []uint16
			var subjects []string
			n := 0
			for _, r := range test.runs {
				var options []agentbus.MessageOption
				if r.expires {
					options = append(options, agentbus.ExpiresIn(time.Minute))
				}
				for range r.n {
					payload := make([]byte, r.size)
					copy(payload, strconv.Itoa(n))
					n++
					bustest.Check(t, feed.Publish(ctx, r.subject, payload, options...))
				}
				counts = append(counts, r.frames...)
				for range r.frames {
					subjects = append(subjects, r.subject)
				}
			}
			release()
			bustest.Check(t, feed.Flush(ctx))
			frames := parsed(t, owner, tapped)
			if len(frames) == 0 || frames[0].Count != 1 {
				t.Fatalf("%d frames", len(frames))
			}
			frames = frames[1:] // without that which was under way
			if len(frames) != len(counts) {
				t.Fatalf("%d frames, want %d", len(frames), len(counts))
			}
			oneBatch(t, frames)
			for i, f := range frames {
				if string(f.Recipient) != subjects[i] || f.Count != counts[i] {
					t.Errorf("frame %d holds %d messages to %s, want %d to %s", i, f.Count, f.Recipient, counts[i], subjects[i])
				}
			}
			bustest.Receive(t, got)
			bustest.Receive(t, got)
			n = 0
			for _, r := range test.runs {
				for range r.n {
					m := bustest.Receive(t, got)
					payload := make([]byte, r.size)
					copy(payload, strconv.Itoa(n))
					if m.Subject != r.subject || !bytes.Equal(m.Payload, payload) {
						t.Fatalf("message %d is to %s, %d bytes, %.10q", n, m.Subject, len(m.Payload), m.Payload)
					}
					n++
				}
			}
		})
	}
}

// TestBusyPublisher publishes as fast as it can, and nothing holds it: there are far fewer frames than messages, fewer
// signatures than frames, and every message is in one of them.
func TestBusyPublisher(t *testing.T) {
	const messages = 20000
	for _, topic := range []string{"prices", "gossip"} {
		t.Run(topic, func(t *testing.T) {
			w := bustest.New(t, testPolicy)
			planner, feed, owner := w.Agent("planner"), w.Agent("feed-1"), w.Admin("AGENTS")
			handler, got := collect(messages)
			sub, err := planner.Subscribe(w.Ctx(), topic+".>", handler)
			bustest.Check(t, err)
			tapped := make(chan *nats.Msg, messages)
			_, err = owner.ChanSubscribe("sb.topic.>", tapped)
			bustest.Check(t, err)
			bustest.Check(t, owner.Flush())
			ctx, payload := w.Ctx(), make([]byte, 128)
			subjects := []string{topic + ".a", topic + ".b"}
			for i := range messages {
				bustest.Check(t, feed.Publish(ctx, subjects[i/50%2], payload))
			}
			bustest.Check(t, feed.Flush(ctx))
			count, signatures := 0, make(map[string]bool)
			frames := parsed(t, owner, tapped)
			for _, f := range frames {
				count += int(f.Count)
				signatures[string(f.Signature.Sig)] = true
			}
			if count != messages {
				t.Errorf("the frames hold %d messages, want %d", count, messages)
			}
			if len(frames) > messages/4 {
				t.Errorf("%d frames for %d messages", len(frames), messages)
			}
			if frames[0].Signed() && len(signatures) > len(frames)/2 {
				t.Errorf("%d signatures for %d frames", len(signatures), len(frames))
			}
			t.Logf("%d messages in %d frames under %d signatures", messages, len(frames), len(signatures))
			for range messages {
				bustest.Receive(t, got)
			}
			if s := sub.Stats(); s.Received != messages || s.Lost != 0 || s.Dropped != 0 || len(s.Rejected) != 0 {
				t.Errorf("counted %+v", s)
			}
			if n := feed.Stats().Published; n != messages {
				t.Errorf("%d counted as published", n)
			}
		})
	}
}

// TestLoneMessage publishes one message at a time: each is a frame of its own with a signature of its own, and arrives
// without anything after it.
func TestLoneMessage(t *testing.T) {
	const messages = 20
	w := bustest.New(t, testPolicy)
	planner, feed, owner := w.Agent("planner"), w.Agent("feed-1"), w.Admin("AGENTS")
	handler, got := collect(1)
	_, err := planner.Subscribe(w.Ctx(), "prices.>", handler)
	bustest.Check(t, err)
	tapped := tap(t, owner, "sb.topic.>")
	for i := range messages {
		bustest.Check(t, feed.Publish(w.Ctx(), "prices.a", []byte(strconv.Itoa(i))))
		if m := bustest.Receive(t, got); string(m.Payload) != strconv.Itoa(i) {
			t.Errorf("got %s, want %d", m.Payload, i)
		}
	}
	frames := parsed(t, owner, tapped)
	if len(frames) != messages {
		t.Errorf("%d frames for %d messages", len(frames), messages)
	}
	for i := range frames {
		if frames[i].Count != 1 {
			t.Errorf("frame %d holds %d messages", i, frames[i].Count)
		}
		oneBatch(t, frames[i:i+1])
	}
}

const orderPolicy = `trust_domain: example.org
revision: 1
topics:
  plain: {publish: ["feed-*"], subscribe: [planner], signed: false}
  signed: {publish: ["feed-*"], subscribe: [planner]}
  padded: {publish: ["feed-*"], subscribe: [planner], pad: true}
  kept: {publish: ["feed-*"], subscribe: [planner], retain: 24h}
  hidden: {publish: ["feed-*"], subscribe: [planner], retain: 24h, pad: true, signed: false}
`

// TestGatheredOrder publishes messages of all sizes to many subjects from several goroutines of one sender: those of
// each arrive in its order, every one once and as it was, whatever the topic is like.
func TestGatheredOrder(t *testing.T) {
	const goroutines, each = 4, 150
	sizes := []int{0, 1, 100, 100, 3000, 0, 40 << 10, 10, 10, 130 << 10, 500}
	w := bustest.New(t, orderPolicy)
	for _, topic := range []string{"plain", "signed", "padded", "kept", "hidden"} {
		t.Run(topic, func(t *testing.T) {
			planner, feed := w.Agent("planner"), w.Agent("feed-1")
			handler, got := collect(goroutines * each)
			_, err := planner.Subscribe(w.Ctx(), topic+".>", handler)
			bustest.Check(t, err)
			ctx := w.Ctx()
			payload := func(g, i int) []byte {
				size := sizes[(i+g)%len(sizes)]
				if i == 20+10*g {
					size = 900 << 10
				}
				return bytes.Repeat([]byte{byte(i), byte(g)}, size)[:size]
			}
			var publishers sync.WaitGroup
			for g := range goroutines {
				publishers.Go(func() {
					for i := range each {
						subject := topic
						if n := i * (g + 1) / 3 % 4; n > 0 {
							subject += fmt.Sprintf(".n%d", n)
						}
						options := []agentbus.MessageOption{agentbus.Header("from", fmt.Sprintf("%d/%d", g, i))}
						if i%7 == 0 {
							options = append(options, agentbus.ExpiresIn(time.Minute))
						}
						if _, err := feed.PublishAsync(ctx, subject, payload(g, i), options...); err != nil {
							t.Errorf("publishing: %v", err)
						}
					}
				})
			}
			publishers.Wait()
			bustest.Check(t, feed.Flush(ctx))
			var next [goroutines]int
			for range goroutines * each {
				m := bustest.Receive(t, got)
				var g, i int
				if _, err := fmt.Sscanf(m.Header("from"), "%d/%d", &g, &i); err != nil || i != next[g] {
					t.Fatalf("message %s, after %v", m.Header("from"), next)
				}
				if !bytes.Equal(m.Payload, payload(g, i)) {
					t.Errorf("message %d/%d is not what it was: %d bytes", g, i, len(m.Payload))
				}
				next[g]++
			}
			bustest.Check(t, feed.Close())
			bustest.Check(t, planner.Close())
			bustest.Empty(t, got)
		})
	}
	if r := w.Rejected(); len(r) > 0 {
		t.Errorf("rejected %v", r)
	}
}

// TestBulkAllocations sends messages in bulk from one agent to another: sealing, sending, the broker in the middle,
// opening and handling together allocate less than once a message.
func TestBulkAllocations(t *testing.T) {
	const messages, rounds = 20000, 3
	w := bustest.New(t, testPolicy)
	planner, feed := w.Agent("planner"), w.Agent("feed-1")
	handled, done := 0, make(chan struct{})
	_, err := planner.Subscribe(w.Ctx(), "gossip", func(context.Context, *agentbus.Message) error {
		if handled++; handled%messages == 0 {
			done <- struct{}{}
		}
		return nil
	})
	bustest.Check(t, err)
	ctx, payload := w.Ctx(), make([]byte, 128)
	best := float64(messages)
	for range rounds {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range messages {
			bustest.Check(t, feed.Publish(ctx, "gossip", payload))
		}
		bustest.Receive(t, done)
		runtime.ReadMemStats(&after)
		best = min(best, float64(after.Mallocs-before.Mallocs)/messages)
	}
	t.Logf("%.3f allocations a message", best)
	if best >= 1 {
		t.Errorf("%.2f allocations a message", best)
	}
}
