package agentbus

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
)

// bench is an intake whose keys a test gives and takes. A frame counts as opened when it gets past the key.
type bench struct {
	t       *testing.T
	in      *intake
	missing map[string]bool // by the frame's name
	opened  []string
}

func newBench(t *testing.T) *bench {
	ring, err := keyring.Memory(identity.Fingerprint{1})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, missing: make(map[string]bool)}
	bus := &Bus{ring: ring, log: slog.New(slog.DiscardHandler)}
	bus.config.OnReject = func(r Rejection) {
		if r.Reason == keyring.Misdirected {
			b.opened = append(b.opened, r.Subject)
		}
	}
	bus.ctx, bus.cancel = context.WithCancel(context.Background())
	b.in = newIntake(bus, nil, new(counters))
	b.in.want = func(m *nats.Msg) (keyring.Want, error) {
		if b.missing[m.Subject] {
			return keyring.Want{}, &keyring.Rejection{Reason: keyring.NoKey}
		}
		return keyring.Want{}, misdirected("as far as this test goes")
	}
	t.Cleanup(func() {
		bus.cancel()
		b.in.inlet.end()
		b.in.fetches.Wait()
	})
	return b
}

// frame makes a frame that claims a card, session and key.
func frame(t *testing.T, card, session byte, key uint32) []byte {
	h := envelope.Header{Kind: envelope.KindEvent, ID: ulid.ULID{1}, Session: ulid.ULID{session}, Seq: 1, Key: key, Card: ulid.ULID{card},
		Channel: []byte("topic/prices"), Sender: []byte("spiffe://example.org/agent/a"), Recipient: []byte("prices"), Count: 1}
	b, err := envelope.AppendHeader(nil, &h)
	if err == nil {
		b, err = envelope.AppendCiphertext(b, make([]byte, 64))
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) take(name string, card, session byte, key uint32) {
	b.in.take(&b.in.unseal([]arrival{{m: &nats.Msg{Subject: name, Data: frame(b.t, card, session, key)}}})[0])
}

// resume waits for one fetch to end and opens what waited for it.
func (b *bench) resume() { b.in.resume(<-b.in.ready) }

func (b *bench) want(names ...string) {
	b.t.Helper()
	if !slices.Equal(b.opened, names) {
		b.t.Errorf("opened %v, want %v", b.opened, names)
	}
}

// TestParkedOrder has a session wait for its key: what follows in it waits too, and so does the next session of the
// sender; others do not. Then all comes out in order.
func TestParkedOrder(t *testing.T) {
	b := newBench(t)
	b.missing["a1"] = true
	b.take("a1", 7, 1, 1)
	b.take("b1", 7, 2, 2)
	b.take("other", 8, 3, 2)
	b.take("a2", 7, 1, 1)
	b.take("b2", 7, 2, 2)
	b.want("other")
	b.missing["a1"] = false
	b.resume()
	b.want("other", "a1", "a2", "b1", "b2")
	if l := b.in.parked; len(l.groups) != 0 || l.all != (load{}) || l.unproven != (load{}) {
		t.Errorf("left behind: %d groups, %+v, %+v", len(l.groups), l.all, l.unproven)
	}
}

// TestParkedChain has three sessions wait for each other, the second of which lacks a key of its own.
func TestParkedChain(t *testing.T) {
	b := newBench(t)
	b.missing["a"], b.missing["b1"] = true, true
	b.take("a", 7, 1, 1)
	b.take("b1", 7, 2, 2)
	b.take("b2", 7, 2, 2)
	b.take("c", 7, 3, 3)
	b.missing["a"] = false
	b.resume()
	b.want("a")
	b.missing["b1"] = false
	b.resume()
	b.want("a", "b1", "b2", "c")
}

// TestParkedOverdue has a session wait for one whose key does not come in time: it goes first then.
func TestParkedOverdue(t *testing.T) {
	b := newBench(t)
	b.missing["a"] = true
	b.take("a", 7, 1, 1)
	b.take("b1", 7, 2, 2)
	b.take("b2", 7, 2, 2)
	b.want()
	b.in.proceed(<-b.in.overdue)
	b.want("b1", "b2")
	b.missing["a"] = false
	b.resume()
	b.want("b1", "b2", "a")
	b.in.proceed(claim{}) // of a group that is not there any more
}

// TestParkedRejects has a key that never comes: the frames are rejected as what they were, and the next session is
// opened.
func TestParkedRejects(t *testing.T) {
	b := newBench(t)
	b.missing["a1"], b.missing["a2"] = true, true
	b.take("a1", 7, 1, 1)
	b.take("a2", 7, 1, 1)
	b.take("b", 7, 2, 2)
	b.resume()
	b.want("b")
	if n := b.in.counts.stats().Rejected[keyring.NoKey]; n != 2 {
		t.Errorf("%d rejected, want 2", n)
	}
}

// TestParkedForgeries has somebody send frames with another sender's card and session in them under keys that never
// come. That sender's own session, once a frame of it has been accepted, does not wait for any of them.
func TestParkedForgeries(t *testing.T) {
	b := newBench(t)
	b.in.parked.accepted(ulid.ULID{7}, ulid.ULID{5})
	for _, name := range []string{"forged earlier", "forged later", "forged same", "forged between"} {
		b.missing[name] = true
	}
	b.take("forged earlier", 7, 4, 1)
	b.take("forged later", 7, 6, 1)
	b.take("forged same", 7, 5, 99)
	b.take("real", 7, 5, 2)
	b.want("real")

	// A new session waits for what was there before it, not for what comes after.
	b.take("next", 7, 8, 2)
	b.want("real")
	b.take("forged between", 7, 7, 1)
	for range 3 {
		b.resume()
	}
	b.want("real", "next")
	b.resume()
}

// TestParkedLimits floods the place where frames wait, with frames that anybody can make: they fill half of it and
// are rejected then. The other half stays for frames of those who hold the channel's key.
func TestParkedLimits(t *testing.T) {
	b := newBench(t)
	b.missing["forged"] = true
	for session := range byte(maxParkedGroups) {
		b.take("forged", session+1, session+1, 1)
	}
	for range maxParked {
		b.take("forged", 1, 1, 1)
	}
	l := b.in.parked
	if want := (load{maxParkedGroups / 2, maxParked / 2, l.all.bytes}); l.all != want || l.unproven != want || len(l.groups) != want.groups {
		t.Errorf("%d groups, %+v, %+v wait", len(l.groups), l.all, l.unproven)
	}
	rejected := uint64(maxParkedGroups/2 + maxParked - (maxParked/2 - maxParkedGroups/2))
	if n := b.in.counts.stats().Rejected[keyring.NoKey]; n != rejected {
		t.Errorf("%d rejected, want %d", n, rejected)
	}
	noCard := &keyring.Rejection{Reason: keyring.NoCard}
	for session := range byte(maxParkedGroups) {
		f := frame(t, session+1, 100+session, 1)
		c, _ := claimOf(f)
		b.in.park(c, arrival{m: &nats.Msg{Subject: "sealed", Data: f}}, noCard)
	}
	if len(l.groups) != maxParkedGroups || l.unproven.groups != maxParkedGroups/2 {
		t.Errorf("%d groups, %+v wait", len(l.groups), l.unproven)
	}
	b.in.giveUp()
	if len(l.groups) != 0 || l.all != (load{}) || l.unproven != (load{}) {
		t.Errorf("left behind: %d groups, %+v, %+v", len(l.groups), l.all, l.unproven)
	}
	for i := range maxSenders + 10 {
		l.accepted(ulid.ULID{byte(i), byte(i >> 8)}, ulid.ULID{1})
	}
	if len(l.newest) > maxSenders {
		t.Errorf("%d senders remembered", len(l.newest))
	}
}

// TestInletBounds fills an inlet past its bounds in frames and in bytes.
func TestInletBounds(t *testing.T) {
	for _, test := range []struct{ size, count, want int }{
		{10, maxWaiting + 5, maxWaiting}, {1 << 20, 70, maxWaitingBytes >> 20}, {maxWaitingBytes + 1, 2, 1},
	} {
		dropped := 0
		l := &inlet{dropped: func(string) { dropped++ }, some: make(chan struct{}, 1)}
		m := &nats.Msg{Data: make([]byte, test.size)}
		for range test.count {
			l.put(arrival{m: m})
		}
		if got := len(l.take(nil)); got != test.want || dropped != test.count-test.want {
			t.Errorf("%d frames of %d bytes: %d taken, %d dropped, want %d", test.count, test.size, got, dropped, test.want)
		}
		l.put(arrival{m: m})
		if got := len(l.take(nil)); got != 1 {
			t.Errorf("%d frames taken after it was emptied", got)
		}
	}
}

// TestInletChangesOver has one connection take over from another: what the first delivered comes first, and what the
// second delivered until then is marked.
func TestInletChangesOver(t *testing.T) {
	l := newInlet(func(string) { t.Error("dropped") })
	first, next := l.source(false), l.source(true)
	next <- &nats.Msg{Subject: "2"}
	next <- &nats.Msg{Subject: "3"}
	first <- &nats.Msg{Subject: "1"}
	first <- &nats.Msg{Subject: "2"}
	l.changeOver()
	if l.source(false) != next {
		t.Error("new subscriptions would deliver to the connection before")
	}
	next <- &nats.Msg{Subject: "4"}
	l.end()
	<-l.ended
	l.changeOver() // must not block
	var got []string
	for _, a := range l.take(nil) {
		s := a.m.Subject
		if a.again {
			s += " again"
		}
		got = append(got, s)
	}
	if want := []string{"1", "2", "2 again", "3 again", "4"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestStateDirectoryErrors has frames fail for a reason that is not the frame's: they are dropped, not rejected.
func TestStateDirectoryErrors(t *testing.T) {
	b := newBench(t)
	b.in.failed(arrival{m: new(nats.Msg)}, errors.New("no space left"))
	b.in.failed(arrival{m: new(nats.Msg)}, keyring.ErrClosed)
	if s := b.in.counts.stats(); s.Dropped != 1 || len(s.Rejected) != 0 {
		t.Errorf("counted %+v", s)
	}
}

func TestReconnectDelay(t *testing.T) {
	for n := 1; n < 100; n++ {
		if d := reconnectDelay(n); d < minReconnect/2 || d > maxReconnect {
			t.Errorf("attempt %d waits %v", n, d)
		}
	}
}
