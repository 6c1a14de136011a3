package agentbus_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
)

const replayPolicy = `trust_domain: example.org
revision: 1
topics:
  ledger: {publish: ["feed-*"], subscribe: [planner, "boss-*"], retain: 24h, history: true}
  open:   {publish: ["feed-*"], subscribe: [planner], retain: 24h, signed: false, pad: true}
  fresh:  {publish: ["feed-*"], subscribe: ["boss-*"], retain: 24h}
  prices: {publish: ["feed-*"], subscribe: [planner]}
`

// texts returns the payloads of a replay, in which nothing may be wrong.
func texts(t testing.TB, replay iter.Seq2[*agentbus.Message, error]) (all []string) {
	t.Helper()
	for m, err := range replay {
		if err != nil {
			t.Fatalf("after %d messages: %v", len(all), err)
		}
		all = append(all, string(m.Payload))
	}
	return all
}

// places returns where in the stream of a topic each message is.
func places(t testing.TB, w *bustest.World, b *agentbus.Bus, topic string) map[string]uint64 {
	t.Helper()
	at := make(map[string]uint64)
	for m, err := range b.Replay(w.Ctx(), topic+".>") {
		bustest.Check(t, err)
		at[string(m.Payload)] = m.Sequence
	}
	return at
}

// expect compares texts.
func expect(t testing.TB, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// publish publishes one message after another, each in a frame of its own.
func publish(t testing.TB, w *bustest.World, b *agentbus.Bus, subject string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		bustest.Check(t, b.Publish(w.Ctx(), subject, []byte(text)))
	}
}

// TestReplay reads back what several agents have published, alone and together, to all subjects of a topic, in the order of the
// stream, once for each loop; and changes nothing by that.
func TestReplay(t *testing.T) {
	t.Parallel()
	for _, topic := range []string{"ledger", "open"} {
		t.Run(topic, func(t *testing.T) {
			t.Parallel()
			w := bustest.New(t, replayPolicy)
			planner := w.Agent("planner")
			handler, live := collect(1 << 12)
			_, err := planner.Subscribe(w.Ctx(), topic+".>", handler)
			bustest.Check(t, err)
			begin := time.Now()
			want := make(map[string][]string) // by sender and subject
			for _, name := range []string{"feed-1", "feed-2"} {
				feed := w.Agent(name)
				for i := range 300 {
					subject, text := topic, fmt.Sprintf("%s %d", name, i)
					if i%3 > 0 {
						subject = fmt.Sprintf("%s.eu.%d", topic, i%3)
					}
					key := name + " " + subject
					want[key] = append(want[key], text)
					_, err := feed.PublishAsync(w.Ctx(), subject, []byte(text), agentbus.Header("id", text), agentbus.ContentType("text/plain"))
					bustest.Check(t, err)
				}
				bustest.Check(t, feed.Flush(w.Ctx()))
			}
			before := streamOf(t, w, "SB_TOPIC_"+topic)
			for range 2 {
				got, last := make(map[string][]string), uint64(0)
				for m, err := range planner.Replay(w.Ctx(), topic+".>") {
					bustest.Check(t, err)
					if m.Sequence < last || m.Sequence > before.LastSeq || !m.Replayed || m.Signed != (topic == "ledger") ||
						m.Header("id") != string(m.Payload) || m.ContentType() != "text/plain" || m.Time.Before(begin.Add(-time.Second)) || m.ID.IsZero() {
						t.Fatalf("%+v after place %d", m, last)
					}
					last = m.Sequence
					key := m.Sender.Name() + " " + m.Subject
					got[key] = append(got[key], string(m.Payload))
				}
				for key, list := range want {
					if !slices.Equal(got[key], list) {
						t.Errorf("of %s: %q", key, got[key])
					}
				}
				if len(got) != len(want) || last != before.LastSeq {
					t.Errorf("%d senders' subjects, the last at place %d of %d", len(got), last, before.LastSeq)
				}
			}
			if after := streamOf(t, w, "SB_TOPIC_"+topic); after.LastSeq != before.LastSeq || after.Msgs != before.Msgs || after.Consumers != 0 {
				t.Errorf("after it the stream is at %+v, before at %+v", after, before)
			}
			for range 600 {
				if m := bustest.Receive(t, live); m.Replayed || m.Sequence != 0 {
					t.Fatalf("live: %+v", m)
				}
			}
			bustest.Empty(t, live)
			if s := planner.Stats(); len(s.Rejected) > 0 || s.Received != 600 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestReplayPart asks for parts of a stream.
func TestReplayPart(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, replayPolicy)
	planner, feed, other := w.Agent("planner"), w.Agent("feed-1"), w.Agent("feed-2")
	var times []time.Time // before each
	for i, subject := range []string{"ledger", "ledger.eu", "ledger.eu.de", "ledger.us", "ledger.eu.fr"} {
		times = append(times, time.Now())
		from := feed
		if i == 3 {
			from = other
		}
		bustest.Check(t, from.Publish(w.Ctx(), subject, fmt.Append(nil, i+1), agentbus.Header("odd", fmt.Sprint(i%2 == 0)), agentbus.Header("n", fmt.Sprint(i+1))))
	}
	places := places(t, w, planner, "ledger")
	at := func(n int) uint64 { return places[fmt.Sprint(n)] }
	for _, test := range []struct {
		pattern string
		options []agentbus.ReplayOption
		want    string
	}{
		{"ledger.>", nil, "1 2 3 4 5"},
		{"ledger", nil, "1"},
		{"ledger.eu", nil, "2"},
		{"ledger.*", nil, "2 4"},
		{"ledger.eu.*", nil, "3 5"},
		{"ledger.*.de", nil, "3"},
		{"ledger.eu.>", nil, "3 5"},
		{"ledger.asia.>", nil, ""},
		{"ledger.>", []agentbus.ReplayOption{agentbus.FromSequence(at(3))}, "3 4 5"},
		{"ledger.>", []agentbus.ReplayOption{agentbus.ToSequence(at(3))}, "1 2 3"},
		{"ledger.>", []agentbus.ReplayOption{agentbus.FromSequence(at(2)), agentbus.ToSequence(at(2))}, "2"},
		{"ledger.>", []agentbus.ReplayOption{agentbus.FromSequence(at(5) + 1)}, ""},
		{"ledger.>", []agentbus.ReplayOption{agentbus.FromSequence(1 << 60)}, ""},
		{"ledger.>", []agentbus.ReplayOption{agentbus.ToSequence(1 << 60)}, "1 2 3 4 5"},
		{"ledger.eu.>", []agentbus.ReplayOption{agentbus.FromSequence(at(4))}, "5"},
		{"ledger.>", []agentbus.ReplayOption{agentbus.Since(times[2])}, "3 4 5"},
		{"ledger.>", []agentbus.ReplayOption{agentbus.Until(times[2])}, "1 2"},
		{"ledger.>", []agentbus.ReplayOption{agentbus.Since(times[1]), agentbus.Until(times[4])}, "2 3 4"},
		{"ledger.>", []agentbus.ReplayOption{agentbus.Since(times[1]), agentbus.ToSequence(at(3))}, "2 3"},
		{"ledger.>", []agentbus.ReplayOption{agentbus.FromSequence(at(2)), agentbus.Until(times[3])}, "2 3"},
		{"ledger.eu.>", []agentbus.ReplayOption{agentbus.Since(times[3])}, "5"},
		{"ledger.>", []agentbus.ReplayOption{agentbus.Since(time.Now().Add(time.Hour))}, ""},
		{"ledger.>", []agentbus.ReplayOption{agentbus.Until(times[0].Add(-time.Hour))}, ""},
		{"ledger.>", []agentbus.ReplayOption{agentbus.Since(times[0].Add(-time.Hour)), agentbus.Until(time.Now().Add(time.Hour))}, "1 2 3 4 5"},
		{"ledger.>", []agentbus.ReplayOption{agentbus.BySender("feed-2")}, "4"},
		{"ledger.>", []agentbus.ReplayOption{agentbus.BySender("feed-3")}, ""},
		{"ledger.>", []agentbus.ReplayOption{agentbus.WithHeader("odd", "true")}, "1 3 5"},
		{"ledger.>", []agentbus.ReplayOption{agentbus.WithHeader("odd", "true"), agentbus.WithHeader("n", "3")}, "3"},
		{"ledger.>", []agentbus.ReplayOption{agentbus.WithHeader("even", "true")}, ""},
		{"ledger.eu.>", []agentbus.ReplayOption{agentbus.BySender("feed-1"), agentbus.WithHeader("n", "5"), agentbus.FromSequence(at(2))}, "5"},
	} {
		got := texts(t, planner.Replay(w.Ctx(), test.pattern, test.options...))
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s, %d options: %q, want %q", test.pattern, len(test.options), got, test.want)
		}
	}
}

// TestReplayRefuses: what is wrong with a call comes once, alone, and says what to do.
func TestReplayRefuses(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, replayPolicy)
	planner, feed := w.Agent("planner"), w.Agent("feed-1")
	publish(t, w, feed, "ledger", "x")
	now := time.Now()
	for _, test := range []struct {
		what    string
		agent   *agentbus.Bus
		pattern string
		options []agentbus.ReplayOption
		want    string
	}{
		{"no topic", planner, "nothing.>", nil, `"nothing"`},
		{"no pattern", planner, "ledger..x", nil, "empty token"},
		{"not retained", planner, "prices.>", nil, `revision 1 does not retain topic/prices`},
		{"who publishes", feed, "ledger.>", nil, `does not let "feed-1" read topic/ledger`},
		{"of another topic", planner, "fresh.>", nil, `does not let "planner" read topic/fresh`},
		{"place 0", planner, "ledger.>", []agentbus.ReplayOption{agentbus.FromSequence(0)}, "is 1"},
		{"to place 0", planner, "ledger.>", []agentbus.ReplayOption{agentbus.ToSequence(0)}, "is 1"},
		{"no time", planner, "ledger.>", []agentbus.ReplayOption{agentbus.Since(time.Time{})}, "leave it out"},
		{"no end", planner, "ledger.>", []agentbus.ReplayOption{agentbus.Until(time.Time{})}, "leave it out"},
		{"twice", planner, "ledger.>", []agentbus.ReplayOption{agentbus.FromSequence(1), agentbus.FromSequence(2)}, "FromSequence is given twice"},
		{"two beginnings", planner, "ledger.>", []agentbus.ReplayOption{agentbus.FromSequence(1), agentbus.Since(now)}, "FromSequence and Since"},
		{"two ends", planner, "ledger.>", []agentbus.ReplayOption{agentbus.ToSequence(1), agentbus.Until(now)}, "ToSequence and Until"},
		{"an end and none", planner, "ledger.>", []agentbus.ReplayOption{agentbus.ToSequence(1), agentbus.Follow()}, "Follow goes on"},
		{"an end and none", planner, "ledger.>", []agentbus.ReplayOption{agentbus.Until(now), agentbus.Follow()}, "Follow goes on"},
		{"backwards", planner, "ledger.>", []agentbus.ReplayOption{agentbus.FromSequence(2), agentbus.ToSequence(1)}, "is behind"},
		{"back in time", planner, "ledger.>", []agentbus.ReplayOption{agentbus.Since(now), agentbus.Until(now)}, "is not after"},
		{"no sender", planner, "ledger.>", []agentbus.ReplayOption{agentbus.BySender("")}, "agent's name"},
		{"an identity", planner, "ledger.>", []agentbus.ReplayOption{agentbus.BySender("spiffe://example.org/agent/feed-1")}, "agent's name"},
		{"no key", planner, "ledger.>", []agentbus.ReplayOption{agentbus.WithHeader("", "x")}, "without a key"},
		{"no pace", planner, "ledger.>", []agentbus.ReplayOption{agentbus.Pace(0)}, "Pace(0)"},
		{"backwards", planner, "ledger.>", []agentbus.ReplayOption{agentbus.Pace(-1)}, "Pace(-1)"},
		{"endless pace", planner, "ledger.>", []agentbus.ReplayOption{agentbus.Pace(1 / zero)}, "Pace(+Inf)"},
		{"no number", planner, "ledger.>", []agentbus.ReplayOption{agentbus.Pace(zero / zero)}, "Pace(NaN)"},
		{"no function", planner, "ledger.>", []agentbus.ReplayOption{agentbus.OnProgress(nil)}, "needs a function"},
	} {
		n := 0
		for m, err := range test.agent.Replay(w.Ctx(), test.pattern, test.options...) {
			if n++; m != nil || err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: %v, %v; want %q", test.what, m, err, test.want)
			}
			if entitled := !strings.Contains(test.want, "does not let"); errors.Is(err, agentbus.ErrNotEntitled) == entitled {
				t.Errorf("%s: %v", test.what, err)
			}
		}
		if n != 1 {
			t.Errorf("%s: %d errors", test.what, n)
		}
	}
	ctx, cancel := context.WithCancel(w.Ctx())
	cancel()
	for m, err := range planner.Replay(ctx, "ledger.>") {
		if m != nil || !errors.Is(err, context.Canceled) {
			t.Errorf("with a context that has ended: %v, %v", m, err)
		}
	}
	bustest.Check(t, planner.Close())
	for m, err := range planner.Replay(w.Ctx(), "ledger.>") {
		if m != nil || !errors.Is(err, agentbus.ErrClosed) {
			t.Errorf("after Close: %v, %v", m, err)
		}
	}
}

var zero float64

// TestReplayEmpty: there is nothing, and that is no error.
func TestReplayEmpty(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, replayPolicy)
	planner := w.Agent("planner")
	for _, options := range [][]agentbus.ReplayOption{nil, {agentbus.Since(time.Now())}, {agentbus.Until(time.Now())}, {agentbus.FromSequence(5)}, {agentbus.ToSequence(5)}} {
		expect(t, "an empty stream", texts(t, planner.Replay(w.Ctx(), "ledger.>", options...)))
		expect(t, "a part of it", texts(t, planner.Replay(w.Ctx(), "ledger.x", options...)))
	}
}

// TestReplayExpired: what was is told also when it counts no more.
func TestReplayExpired(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, replayPolicy)
	planner, feed := w.Agent("planner"), w.Agent("feed-1")
	bustest.Check(t, feed.Publish(w.Ctx(), "ledger", []byte("short"), agentbus.ExpiresIn(time.Millisecond)))
	publish(t, w, feed, "ledger", "long")
	bustest.Receive(t, time.After(2*time.Millisecond))
	expect(t, "with one that has expired", texts(t, planner.Replay(w.Ctx(), "ledger.>")), "short", "long")
}

// TestReplayWithoutKey: who was given no older keys is told of each message under them where it lies, is not held up by them,
// and gets all that it can open.
func TestReplayWithoutKey(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, replayPolicy)
	early, feed := w.Agent("boss-1"), w.Agent("feed-1")
	handler, _ := collect(64)
	_, err := early.Subscribe(w.Ctx(), "fresh.>", handler)
	bustest.Check(t, err)
	publish(t, w, feed, "fresh", "1", "2", "3")
	// Somebody loses the topic, so that there is another key; and one comes who gets only that.
	publishPolicy(t, w, strings.NewReplacer("revision: 1", "revision: 2", `subscribe: ["boss-*"]`, `subscribe: [boss-1, boss-2]`).Replace(replayPolicy), early, feed)
	publish(t, w, feed, "fresh", "4")
	late := w.Agent("boss-2")
	publish(t, w, feed, "fresh", "5")
	lost := make(map[uint64]string)
	for text, at := range places(t, w, early, "fresh") {
		lost[at] = text
	}
	var got []string
	var progress []agentbus.ReplayProgress
	for m, err := range late.Replay(w.Ctx(), "fresh.>", agentbus.OnProgress(func(p agentbus.ReplayProgress) { progress = append(progress, p) })) {
		var wrong *agentbus.ReplayError
		switch {
		case err == nil:
			got = append(got, string(m.Payload))
		case errors.As(err, &wrong) && keyring.ReasonOf(err) == keyring.NoKey && wrong.Subject == "sb.topic.fresh" && time.Since(wrong.Stored) < time.Minute:
			got = append(got, fmt.Sprint("no key for ", lost[wrong.Sequence]))
		default:
			t.Fatal(err)
		}
	}
	// The note that opens the session is under that key too. It says nothing that is not on the outside, and is no error.
	expect(t, "with the second key", got, "no key for 1", "no key for 2", "no key for 3", "4", "5")
	if s := late.Stats(); s.Rejected[keyring.NoKey] != 3 {
		t.Errorf("%+v", s)
	}
	if last := progress[len(progress)-1]; last.Position != last.End || last.Position < 5 || last.Messages != 2 || last.Errors != 3 || last.Rate <= 0 {
		t.Errorf("at the end: %+v", last)
	}
	expect(t, "with both", texts(t, early.Replay(w.Ctx(), "fresh.>")), "1", "2", "3", "4", "5")
}

// TestReplayAsksForKeys: who alone has the key was away when others joined the topic, and gives it to the one who has something to
// open with it.
func TestReplayAsksForKeys(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, replayPolicy)
	dir := t.TempDir()
	connect := func() *agentbus.Bus {
		c := w.Config("planner")
		ring, err := keyring.Open(dir, keyring.Passphrase("for tests"), w.Operator.Fingerprint())
		bustest.Check(t, err)
		c.Keyring = ring
		return w.Connect(c)
	}
	holder, feed := connect(), w.Agent("feed-1")
	publish(t, w, feed, "ledger", "1", "2")
	expect(t, "of who has the key", texts(t, holder.Replay(w.Ctx(), "ledger.>")), "1", "2")
	bustest.Check(t, feed.Close()) // who has one of its own from that key
	bustest.Check(t, holder.Close())
	boss := w.Agent("boss-1")
	bustest.Check(t, boss.Ring().Join(w.Ctx(), channelOf(t, "topic/ledger")))
	bustest.Check(t, connect().Ring().Join(w.Ctx(), channelOf(t, "topic/ledger")))
	expect(t, "of who was given it", texts(t, boss.Replay(w.Ctx(), "ledger.>")), "1", "2")
}

// TestReplayFlood: frames under keys that nobody has, and of cards that nobody has, each of another, hold a replay up for a bounded
// time, and what is genuine among them comes.
func TestReplayFlood(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, replayPolicy)
	planner := w.Connect(agentbus.Patience(w.Config("planner"), 100*time.Millisecond))
	feed := w.Agent("feed-1")
	publish(t, w, feed, "ledger", "before")
	expect(t, "before", texts(t, planner.Replay(w.Ctx(), "ledger.>")), "before")
	js := ownerOf(t, w)
	s, err := js.Stream(w.Ctx(), "SB_TOPIC_ledger")
	bustest.Check(t, err)
	m, err := s.GetMsg(w.Ctx(), 1)
	bustest.Check(t, err)
	var f envelope.Frame
	bustest.Check(t, envelope.Parse(m.Data, &f))
	const n = 150
	for i := range n {
		g := f
		if i%2 == 0 {
			g.Key += uint32(i + 1)
		} else {
			g.Card[15] += byte(i)
			g.Key++
		}
		frame, err := envelope.AppendFrame(nil, &g)
		bustest.Check(t, err)
		_, err = js.Publish(w.Ctx(), "sb.topic.ledger", frame)
		bustest.Check(t, err)
	}
	publish(t, w, feed, "ledger", "after")
	var got []string
	errs, begin := 0, time.Now()
	for m, err := range planner.Replay(w.Ctx(), "ledger.>") {
		switch reason := keyring.ReasonOf(err); {
		case err == nil:
			got = append(got, string(m.Payload))
		case reason == keyring.NoKey || reason == keyring.BadSeal || reason == keyring.NoCard:
			errs++
		default:
			t.Fatal(err)
		}
	}
	expect(t, "among the flood", got, "before", "after")
	// Six times the patience, and a fiftieth of a second for each that is asked for after that.
	if took := time.Since(begin); errs != n || took > 15*time.Second {
		t.Errorf("%d errors, in %v", errs, took)
	}
}

// TestReplayDestroyed: of what was sealed under a key that the policy has destroyed it is said so, at once; what came after is there.
func TestReplayDestroyed(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, replayPolicy)
	planner, feed := w.Agent("planner"), w.Agent("feed-1")
	publish(t, w, feed, "ledger", "1", "2")
	expect(t, "before", texts(t, planner.Replay(w.Ctx(), "ledger.>")), "1", "2")
	sealed := time.Now()
	eventually(t, "the second after", func() bool { return time.Now().Unix() > sealed.Unix() })
	publishPolicy(t, w, strings.Replace(replayPolicy, "revision: 1", "revision: 2", 1)+
		fmt.Sprintf("destroyed:\n  - {channel: topic/ledger, before: %q}\n", time.Now().UTC().Format(time.RFC3339)), planner, feed)
	publish(t, w, feed, "ledger", "3")
	var got []string
	begin := time.Now()
	for m, err := range planner.Replay(w.Ctx(), "ledger.>") {
		switch {
		case err == nil:
			got = append(got, string(m.Payload))
		case errors.Is(err, keyring.ErrKeyDestroyed) && keyring.ReasonOf(err) == keyring.NoKey:
			got = append(got, "destroyed")
		default:
			t.Fatal(err)
		}
	}
	expect(t, "after", got, "destroyed", "destroyed", "3")
	if took := time.Since(begin); took > 4*time.Second { // for nothing of this it waits
		t.Errorf("it took %v", took)
	}
}
