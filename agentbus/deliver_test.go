package agentbus_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
)

func TestMatches(t *testing.T) {
	for _, test := range []struct {
		pattern, subject string
		want             bool
	}{
		{"prices", "prices", true},
		{"prices", "prices.eu", false},
		{"prices.eu", "prices", false},
		{"prices.eu", "prices.eu", true},
		{"prices.eu", "prices.eux", false},
		{"prices.eu", "prices.eu.de", false},
		{"prices.*", "prices.eu", true},
		{"prices.*", "prices", false},
		{"prices.*", "prices.eu.de", false},
		{"prices.*.de", "prices.eu.de", true},
		{"prices.*.de", "prices.eu.fr", false},
		{"prices.>", "prices", true},
		{"prices.>", "prices.eu.de", true},
		{"prices.>", "pricesx", false},
		{"prices.>", "news.eu", false},
		{"prices.eu.>", "prices.eu", false},
		{"prices.eu.>", "prices.eu.de", true},
		{"prices.*.>", "prices.eu", false},
		{"prices.*.>", "prices.eu.de.x", true},
		{"prices.*.>", "prices", false},
	} {
		if got := agentbus.Matches(test.pattern, test.subject); got != test.want {
			t.Errorf("matches(%q, %q) = %v", test.pattern, test.subject, got)
		}
	}
}

// TestPatterns publishes one message to each of some subjects and looks at what each subscription got. The last
// message goes to a subject that all of them take.
func TestPatterns(t *testing.T) {
	w := bustest.New(t, testPolicy)
	planner, feed := w.Agent("planner"), w.Agent("feed-1")
	subjects := []string{"prices", "prices.eu", "prices.eu.de", "prices.us", "prices.us.ny.x"}
	tests := map[string][]string{
		"prices":        {"prices"},
		"prices.eu":     {"prices.eu"},
		"prices.*":      {"prices.eu", "prices.us"},
		"prices.>":      subjects,
		"prices.eu.>":   {"prices.eu.de"},
		"prices.*.*":    {"prices.eu.de"},
		"prices.us.*.>": {"prices.us.ny.x"},
	}
	last := map[string]string{
		"prices": "prices", "prices.eu": "prices.eu", "prices.*": "prices.last", "prices.>": "prices.last",
		"prices.eu.>": "prices.eu.last", "prices.*.*": "prices.eu.last", "prices.us.*.>": "prices.us.ny.last",
	}
	got := make(map[string]chan *agentbus.Message)
	for pattern := range tests {
		handler, c := collect(16)
		_, err := planner.Subscribe(w.Ctx(), pattern, handler)
		bustest.Check(t, err)
		got[pattern] = c
	}
	for _, subject := range subjects {
		bustest.Check(t, feed.Publish(w.Ctx(), subject, []byte("one")))
	}
	for _, subject := range slices.Sorted(maps.Values(last)) {
		bustest.Check(t, feed.Publish(w.Ctx(), subject, []byte("last")))
	}
	for pattern, want := range tests {
		var seen []string
		for m := bustest.Receive(t, got[pattern]); string(m.Payload) != "last"; m = bustest.Receive(t, got[pattern]) {
			seen = append(seen, m.Subject)
		}
		if !slices.Equal(seen, want) {
			t.Errorf("%s got %v, want %v", pattern, seen, want)
		}
	}
	if n := len(w.Rejected()); n != 0 {
		t.Errorf("%d frames rejected: %v", n, w.Rejected())
	}
}

// TestOrder has three senders publish 1,000 messages each at the same time to two subscribers of the same name and
// one of another. Everybody gets all of them, each sender's in order.
func TestOrder(t *testing.T) {
	const senders, messages = 3, 1000
	for _, topic := range []string{"prices", "gossip"} {
		t.Run(topic, func(t *testing.T) {
			w := bustest.New(t, testPolicy)
			var got []chan *agentbus.Message
			for _, name := range []string{"planner", "planner", "exec-1"} {
				handler, c := collect(senders * messages)
				_, err := w.Agent(name).Subscribe(w.Ctx(), topic+".>", handler)
				bustest.Check(t, err)
				got = append(got, c)
			}
			var publishers sync.WaitGroup
			for i := range senders {
				feed := w.Agent(fmt.Sprintf("feed-%d", i))
				publishers.Go(func() {
					for n := range messages {
						if err := feed.Publish(w.Ctx(), topic+".n"+strconv.Itoa(n%3), []byte(strconv.Itoa(n))); err != nil {
							t.Errorf("publishing: %v", err)
							return
						}
					}
				})
			}
			publishers.Wait()
			for _, c := range got {
				next := make(map[string]int)
				for range senders * messages {
					m := bustest.Receive(t, c)
					if string(m.Payload) != strconv.Itoa(next[m.Sender.Name()]) {
						t.Fatalf("%s of %s, want %d", m.Payload, m.Sender.Name(), next[m.Sender.Name()])
					}
					next[m.Sender.Name()]++
				}
			}
		})
	}
}

// TestManySubscribers has each of 20 agents, and each of 10 subscriptions in one of them, get a message once.
func TestManySubscribers(t *testing.T) {
	w := bustest.New(t, testPolicy)
	var got []chan *agentbus.Message
	var last *agentbus.Bus
	for i := range 20 {
		last = w.Agent(fmt.Sprintf("exec-%d", i))
		for range max(1, (i/19)*10) {
			handler, c := collect(2)
			_, err := last.Subscribe(w.Ctx(), "prices.>", handler)
			bustest.Check(t, err)
			got = append(got, c)
		}
	}
	feed := w.Agent("feed-1")
	bustest.Check(t, feed.Publish(w.Ctx(), "prices", []byte("1")))
	bustest.Check(t, feed.Publish(w.Ctx(), "prices", []byte("2")))
	for _, c := range got {
		for _, want := range []string{"1", "2"} {
			if m := bustest.Receive(t, c); string(m.Payload) != want {
				t.Fatalf("got %q, want %q", m.Payload, want)
			}
		}
	}
	if s := last.Stats(); s.Received != 20 {
		t.Errorf("%d received over 10 subscriptions, want 20", s.Received)
	}
}

// TestPublishBeforeSubscribe publishes when nobody has ever subscribed: it works at once, under a provisional key.
// A subscriber that comes while the sender goes on gets everything from some message on, without a gap and in
// order, although the keys change under way.
func TestPublishBeforeSubscribe(t *testing.T) {
	t.Parallel()
	for range 3 {
		w := bustest.New(t, testPolicy)
		feed := w.Agent("feed-1")
		planner := w.Connect(agentbus.OrderWait(w.Config("planner"), bustest.Timeout)) // however slow this machine is
		bustest.Check(t, feed.Publish(w.Ctx(), "prices", []byte("0")))
		ctx, cancel := context.WithCancel(w.Ctx())
		var publisher sync.WaitGroup
		publisher.Go(func() {
			for n := 1; ctx.Err() == nil; n++ {
				if err := feed.Publish(w.Ctx(), "prices", []byte(strconv.Itoa(n))); err != nil {
					t.Errorf("publishing: %v", err)
					return
				}
				if err := feed.Flush(w.Ctx()); err != nil { // so that the receiver keeps up
					t.Errorf("flush: %v", err)
					return
				}
			}
		})
		handler, got := collect(1 << 16)
		_, err := planner.Subscribe(w.Ctx(), "prices.>", handler)
		bustest.Check(t, err)
		next := -1
		for range 2000 {
			m := bustest.Receive(t, got)
			n, err := strconv.Atoi(string(m.Payload))
			bustest.Check(t, err)
			if next >= 0 && n != next {
				t.Fatalf("message %d, want %d", n, next)
			}
			next = n + 1
		}
		cancel()
		publisher.Wait()
		if n := len(w.Rejected()); n > 0 {
			t.Errorf("%d rejected, the first: %v", n, w.Rejected()[0])
		}
	}
}

// TestLost has a sender seal frames that it never sends: who reads the whole topic counts them as lost once they
// have left the replay window, and nobody else does.
func TestLost(t *testing.T) {
	const window = 1024
	w := bustest.New(t, testPolicy)
	planner := w.Agent("planner")
	c := w.Config("feed-1")
	feed := w.Connect(c)
	handler, got := collect(4 * window)
	whole, err := planner.Subscribe(w.Ctx(), "prices.>", handler)
	bustest.Check(t, err)
	ignore, _ := collect(4 * window)
	part, err := planner.Subscribe(w.Ctx(), "prices", ignore)
	bustest.Check(t, err)
	s := sealer(t, w, c.Keyring, "prices")
	publish := func(send bool) {
		frame, _, err := s.Seal(nil, &keyring.Draft{Kind: envelope.KindEvent, Recipient: "prices",
			Messages: []envelope.Message{{Payload: []byte("x")}}})
		bustest.Check(t, err)
		if send {
			bustest.Check(t, feed.Conn().Publish("sb.topic.prices", frame))
		}
	}
	publish(true)
	for range 3 {
		publish(false)
	}
	for range window + 3 {
		publish(true)
	}
	for range window + 4 {
		bustest.Receive(t, got)
	}
	if n := whole.Stats().Lost; n != 3 {
		t.Errorf("%d counted as lost, want 3", n)
	}
	eventually(t, "the other subscription has handled all", func() bool { return part.Stats().Handled == window+4 })
	if n := part.Stats().Lost; n != 0 {
		t.Errorf("%d counted as lost by a subscription to a part", n)
	}
}

// TestPayloadIsOwn appends to the payload of one message of a frame: the next one stays as it is.
func TestPayloadIsOwn(t *testing.T) {
	w := bustest.New(t, testPolicy)
	planner := w.Agent("planner")
	c := w.Config("feed-1")
	feed := w.Connect(c)
	got := make(chan *agentbus.Message, 2)
	_, err := planner.Subscribe(w.Ctx(), "prices", func(_ context.Context, m *agentbus.Message) error {
		_ = append(m.Payload, bytes.Repeat([]byte("x"), 64)...)
		got <- m
		return nil
	})
	bustest.Check(t, err)
	frame, _, err := sealer(t, w, c.Keyring, "prices").Seal(nil, &keyring.Draft{Kind: envelope.KindEvent, Recipient: "prices",
		Messages: []envelope.Message{{Payload: []byte("one")}, {Payload: []byte("two")}}})
	bustest.Check(t, err)
	bustest.Check(t, feed.Conn().Publish("sb.topic.prices", frame))
	for _, want := range []string{"one", "two"} {
		if m := bustest.Receive(t, got); string(m.Payload) != want {
			t.Errorf("got %q, want %q", m.Payload, want)
		}
	}
}
