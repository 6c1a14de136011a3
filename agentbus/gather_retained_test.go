package agentbus_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// archive reads a topic's stream as one of its readers does who was there from the beginning.
type archive struct {
	stream jetstream.Stream
	rc     *keyring.Receiver
	next   uint64
}

// kept is a message in a stream.
type kept struct {
	subject string
	payload string
	header  string // "id"
	frame   int
	batch   string // the id of the atomic batch that the frame came in, if any
}

// newArchive is for a topic that the agent of a keyring has joined, before anything is published that it is to read.
func newArchive(t testing.TB, w *bustest.World, ring *keyring.Ring, topic string) *archive {
	t.Helper()
	ch, err := policy.Topic(topic)
	bustest.Check(t, err)
	rc, err := ring.Receiver(ch)
	bustest.Check(t, err)
	js, err := jetstream.New(w.Admin("STORE"))
	bustest.Check(t, err)
	stream, err := js.Stream(w.Ctx(), policy.TopicStream(topic))
	bustest.Check(t, err)
	return &archive{stream: stream, rc: rc, next: stream.CachedInfo().State.LastSeq + 1}
}

// read returns what has been stored since it was called before. Every frame must open, and for the first time.
func (a *archive) read(t testing.TB) (all []kept) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), bustest.Timeout)
	defer cancel()
	info, err := a.stream.Info(ctx)
	bustest.Check(t, err)
	for ; a.next <= info.State.LastSeq; a.next++ {
		m, err := a.stream.GetMsg(ctx, a.next)
		bustest.Check(t, err)
		subject, _ := policy.CutTopicSubject(m.Subject)
		var o keyring.Opened
		err = a.rc.Open(m.Data, &keyring.Want{Kinds: keyring.Kinds(envelope.KindEvent), Recipient: subject, Notes: true}, &o)
		if err != nil {
			t.Fatalf("frame %d of the stream: %v", a.next, err)
		}
		if o.Kind == envelope.KindControl {
			continue // a session note
		}
		for i := range o.Messages {
			k := kept{subject: subject, payload: string(o.Messages[i].Payload), frame: int(a.next), batch: m.Header.Get("Nats-Batch-Id")}
			for _, h := range o.Messages[i].Headers {
				if string(h.Key) == "id" {
					k.header = string(h.Value)
				}
			}
			all = append(all, k)
		}
	}
	return all
}

// frames returns how many frames messages are in.
func frames(all []kept) int {
	distinct := make(map[int]bool)
	for _, k := range all {
		distinct[k.frame] = true
	}
	return len(distinct)
}

// joined connects an agent that has the key of the topic "ledger", and opens that topic's archive.
func joined(t testing.TB, w *bustest.World) (got chan *agentbus.Message, a *archive) {
	t.Helper()
	c := w.Config("planner")
	handler, got := collect(1 << 14)
	_, err := w.Connect(c).Subscribe(w.Ctx(), "ledger.>", handler)
	bustest.Check(t, err)
	return got, newArchive(t, w, c.Keyring, "ledger")
}

// TestRetainedConcurrent publishes to a retained topic from eight goroutines: every message is
// acknowledged, stored once and in its goroutine's order, and they share frames.
func TestRetainedConcurrent(t *testing.T) {
	const goroutines, each = 8, 250
	w := bustest.New(t, testPolicy)
	got, archive := joined(t, w)
	feed, ctx := w.Agent("feed-1"), w.Ctx()
	var publishers sync.WaitGroup
	for g := range goroutines {
		publishers.Go(func() {
			for i := range each {
				if err := feed.Publish(ctx, "ledger.x", fmt.Appendf(nil, "%d/%d", g, i)); err != nil {
					t.Errorf("publishing: %v", err)
					return
				}
			}
		})
	}
	publishers.Wait()
	stored := archive.read(t)
	if len(stored) != goroutines*each {
		t.Errorf("%d messages stored, want %d", len(stored), goroutines*each)
	}
	if n := frames(stored); n > len(stored)/2 {
		t.Errorf("%d frames for %d messages", n, len(stored))
	}
	t.Logf("%d messages in %d frames", len(stored), frames(stored))
	inOrder(t, stored, goroutines)
	var live []kept
	for range stored {
		m := bustest.Receive(t, got)
		live = append(live, kept{subject: m.Subject, payload: string(m.Payload)})
	}
	inOrder(t, live, goroutines)
	if n := feed.Stats().Published; n != goroutines*each {
		t.Errorf("%d counted as published", n)
	}
}

// inOrder checks that messages "goroutine/number" are there once each, and every goroutine's in its order.
func inOrder(t testing.TB, all []kept, goroutines int) {
	t.Helper()
	next := make([]int, goroutines)
	for _, k := range all {
		var g, i int
		if _, err := fmt.Sscanf(k.payload, "%d/%d", &g, &i); err != nil || i != next[g] {
			t.Fatalf("message %s, after %v", k.payload, next)
		}
		next[g]++
	}
}

// TestRetainedBatch has retained messages to changing subjects wait: they become one atomic batch, in their order.
func TestRetainedBatch(t *testing.T) {
	const messages = 100
	w := bustest.New(t, testPolicy)
	got, archive := joined(t, w)
	feed, ctx := w.Agent("feed-1"), w.Ctx()
	release := hold(t, w, feed, "ledger")
	subjects := []string{"ledger.a", "ledger.b", "ledger", "ledger.a"}
	var last *agentbus.Publication
	for i := range messages {
		p, err := feed.PublishAsync(ctx, subjects[i/5%4], []byte(strconv.Itoa(i)))
		bustest.Check(t, err)
		if last != nil && last != p {
			t.Error("messages that were gathered together have two outcomes")
		}
		last = p
	}
	bustest.Empty(t, last.Done())
	release()
	bustest.Check(t, last.Wait(ctx))
	stored := archive.read(t)
	if len(stored) != messages+2 {
		t.Fatalf("%d messages stored, want %d", len(stored), messages+2)
	}
	bustest.Receive(t, got)
	bustest.Receive(t, got)
	stored = stored[2:]
	for i, k := range stored {
		if k.subject != subjects[i/5%4] || k.payload != strconv.Itoa(i) {
			t.Errorf("message %d is %q to %s", i, k.payload, k.subject)
		}
		if k.batch == "" || k.batch != stored[0].batch {
			t.Errorf("message %d came in the atomic batch %q, the first in %q", i, k.batch, stored[0].batch)
		}
		if m := bustest.Receive(t, got); m.Subject != k.subject || string(m.Payload) != k.payload {
			t.Errorf("got %q on %s as number %d", m.Payload, m.Subject, i)
		}
	}
	// The fourth and the first subject are one, and follow one another: "a b . aa b . aa …".
	if n, want := frames(stored), 1+messages/5*3/4; n != want {
		t.Errorf("%d frames, want %d", n, want)
	}
}

// TestLostOnTheWay breaks the connection under retained messages, singly and in atomic batches, in every way: the
// acknowledgement is lost, the messages are lost, or nobody knows. They are sent again at once, and stored once.
func TestLostOnTheWay(t *testing.T) {
	t.Parallel()
	const rounds = 3
	lastSeq := func(w *bustest.World) uint64 { return streamOf(w.T, w, "SB_TOPIC_ledger").LastSeq }
	for _, how := range []struct {
		name       string
		mute, deaf bool
		lose       func(t *testing.T, w *bustest.World, feed *agentbus.Bus, l *line, before uint64)
	}{
		{"the acknowledgement", false, true, func(t *testing.T, w *bustest.World, _ *agentbus.Bus, l *line, before uint64) {
			eventually(t, "it is stored", func() bool { return lastSeq(w) > before })
			l.cut()
		}},
		{"the messages", true, false, func(t *testing.T, _ *bustest.World, _ *agentbus.Bus, l *line, _ uint64) {
			eventually(t, "they have been sent", func() bool { return l.lost.Load() > 0 })
			l.cut()
		}},
		{"a connection that was ended here", false, false, func(t *testing.T, _ *bustest.World, feed *agentbus.Bus, _ *line, _ uint64) {
			eventually(t, "it is under way", func() bool { waiting, _ := feed.Gathered("ledger"); return waiting == 0 })
			bustest.Check(t, feed.Conn().ForceReconnect())
		}},
	} {
		for _, subjects := range [][]string{{"ledger.a"}, {"ledger.a", "ledger.b", "ledger.c", "ledger.a"}} {
			t.Run(fmt.Sprintf("%s, frames: %d", how.name, len(subjects)), func(t *testing.T) {
				w := bustest.New(t, testPolicy)
				got, archive := joined(t, w)
				l := newLine(t, w)
				feed := l.agent("feed-1")
				bustest.Check(t, feed.Publish(w.Ctx(), "ledger", nil))
				bustest.Receive(t, got)
				archive.read(t)
				for range rounds {
					ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
					defer cancel()
					before := lastSeq(w)
					release := feed.Hold()
					defer release()
					l.lost.Store(0)
					l.deaf.Store(how.deaf)
					l.mute.Store(how.mute)
					p := burst(t, ctx, feed, subjects)
					release()
					how.lose(t, w, feed, l, before)
					l.deaf.Store(false)
					l.mute.Store(false)
					if err := p.Wait(ctx); err != nil {
						t.Fatalf("the outcome: %v", err)
					}
					bustest.Check(t, feed.Flush(ctx))
					var stored, live []string
					for _, k := range archive.read(t) {
						stored = append(stored, k.subject+" "+k.payload)
						m := bustest.Receive(t, got)
						live = append(live, m.Subject+" "+string(m.Payload))
					}
					var want []string
					for i, subject := range subjects {
						want = append(want, subject+" "+strconv.Itoa(i))
					}
					if !slices.Equal(stored, want) {
						t.Errorf("stored are %v", stored)
					}
					slices.Sort(live) // a batch that was split between two connections is sent again
					slices.Sort(want)
					if !slices.Equal(live, want) {
						t.Errorf("%v came", live)
					}
				}
				bustest.Empty(t, got)
			})
		}
	}
}

// burst publishes a message to each subject. They may leave in two batches: the first alone, then the rest.
func burst(t *testing.T, ctx context.Context, b *agentbus.Bus, subjects []string) (last *agentbus.Publication) {
	t.Helper()
	for i, subject := range subjects {
		p, err := b.PublishAsync(ctx, subject, []byte(strconv.Itoa(i)))
		bustest.Check(t, err)
		last = p
	}
	return last
}

// TestRetainedThroughRestarts restarts the broker again and again while goroutines publish: every message is
// acknowledged in the end, stored once, and in its goroutine's order.
func TestRetainedThroughRestarts(t *testing.T) {
	const goroutines, restarts = 4, 3
	w := bustest.New(t, testPolicy)
	_, archive := joined(t, w)
	feed, ctx := w.Agent("feed-1"), w.Ctx()
	bustest.Check(t, feed.Publish(ctx, "ledger", nil))
	archive.read(t)
	stop := make(chan struct{})
	progress := make(chan struct{}, 1)
	var publishers sync.WaitGroup
	var mu sync.Mutex
	sent := make([]int, goroutines)
	for g := range goroutines {
		publishers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := feed.Publish(ctx, fmt.Sprintf("ledger.n%d", i%3), fmt.Appendf(nil, "%d/%d", g, i)); err != nil {
					t.Errorf("publishing: %v", err)
					return
				}
				mu.Lock()
				sent[g]++
				mu.Unlock()
				select {
				case progress <- struct{}{}:
				default:
				}
			}
		})
	}
	for range restarts {
		for range 20 {
			bustest.Receive(t, progress)
		}
		w.Stop()
		w.Start()
	}
	bustest.Receive(t, progress)
	bustest.Receive(t, progress)
	close(stop)
	publishers.Wait()
	js, err := jetstream.New(w.Admin("STORE"))
	bustest.Check(t, err)
	archive.stream, err = js.Stream(w.Ctx(), policy.TopicStream("ledger"))
	bustest.Check(t, err)
	stored := archive.read(t)
	inOrder(t, stored, goroutines)
	total := 0
	for _, n := range sent {
		total += n
	}
	if len(stored) != total {
		t.Errorf("%d messages stored, %d acknowledged", len(stored), total)
	}
	t.Logf("%d messages in %d frames", total, frames(stored))
}

// TestRetainedGivenUp ends the context of a retained message while it cannot be acknowledged, and says so once. What was
// gathered together is given up together, when the last of the contexts ends.
func TestRetainedGivenUp(t *testing.T) {
	w := bustest.New(t, testPolicy)
	l := newLine(t, w)
	feed := l.agent("feed-1")
	bustest.Check(t, feed.Publish(w.Ctx(), "ledger", nil))
	l.down()
	eventually(t, "the loss is noticed", func() bool { return !feed.Connected() })
	soon, cancel := context.WithTimeout(w.Ctx(), 10*time.Second) // long before Config.RequestTimeout
	defer cancel()
	if err := feed.Publish(briefly(t), "ledger", nil); err == nil || !strings.Contains(err.Error(), "deadline") {
		t.Errorf("Publish: %v", err)
	}
	p, err := feed.PublishAsync(briefly(t), "ledger.x", nil)
	bustest.Check(t, err)
	if err := p.Wait(soon); err == nil || !strings.Contains(err.Error(), "deadline") || soon.Err() != nil {
		t.Errorf("PublishAsync: %v", err)
	}
	l.up(t)
	if err := feed.Flush(w.Ctx()); err == nil || !strings.Contains(err.Error(), "deadline") {
		t.Errorf("Flush: %v", err)
	}
	bustest.Check(t, feed.Flush(w.Ctx()))

	release, short := hold(t, w, feed, "ledger"), briefly(t)
	first, err := feed.PublishAsync(short, "ledger.x", nil)
	bustest.Check(t, err)
	second, err := feed.PublishAsync(w.Ctx(), "ledger.y", nil)
	bustest.Check(t, err)
	third, err := feed.PublishAsync(briefly(t), "ledger.z", nil)
	bustest.Check(t, err)
	<-short.Done()
	release()
	for _, p := range []*agentbus.Publication{first, second, third} {
		bustest.Check(t, p.Wait(w.Ctx()))
	}
}
