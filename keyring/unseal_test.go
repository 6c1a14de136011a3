package keyring

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// unseal returns the frames unsealed, each by a goroutine of its own.
func (p *pairOf) unseal(t testing.TB, frames ...[]byte) []Unsealed {
	t.Helper()
	all := make([]Unsealed, len(frames))
	var wg sync.WaitGroup
	for i := range frames {
		wg.Go(func() {
			if err := p.rc.Unseal(frames[i], p.want, &all[i]); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	return all
}

// TestUnsealChangesNothing that is remembered of what was received, and Accept does what Open does.
func TestUnsealChangesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		p := w.meet(prices, w.agent("planner"), w.agent("feed-1"))
		frames := append(p.sealAll(t, 3, 2), p.seal(t, "alone"))
		before := p.rc.snapshot()
		all := p.unseal(t, frames...)
		again := p.unseal(t, frames...) // they came twice, at once
		if p.rc.snapshot() != before {
			t.Error("Unseal changed the replay state")
		}
		var out Opened
		for i := range all {
			check(t, p.rc.Accept(&all[i], &out))
			var f envelope.Frame
			check(t, envelope.Parse(frames[i], &f))
			if out.ID != f.ID || out.Seq != f.Seq || len(out.Messages) != int(f.Count) || out.Messages[0].ID != f.ID || !out.Signed || out.Lost != 0 {
				t.Errorf("frame %d: accepted as %s, number %d, %d messages", i, out.ID, out.Seq, len(out.Messages))
			}
			if err := p.rc.Accept(&again[i], &out); ReasonOf(err) != Seen {
				t.Errorf("frame %d, the second time: got %v, want %s", i, err, Seen)
			}
			mustReject(t, p.rc, frames[i], p.want, Seen)
		}
	})
}

// TestAcceptOutOfOrder within the window, and past its end.
func TestAcceptOutOfOrder(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		p := w.meet(gossip, w.agent("planner"), w.agent("feed-1"))
		frames := p.sealAll(t, 40, 1)
		all := p.unseal(t, frames...)
		late := p.unseal(t, p.seal(t, "late"))
		var out Opened
		for _, i := range rand.Perm(len(all)) {
			check(t, p.rc.Accept(&all[i], &out))
		}
		p.sender.session.seq += windowBits
		mustOpen(t, p.rc, p.seal(t, "far ahead"), p.want)
		if err := p.rc.Accept(&late[0], &out); ReasonOf(err) != Seen {
			t.Errorf("got %v, want %s", err, Seen)
		}
	})
}

// TestAcceptNeedsUnseal: there is no way around the checks.
func TestAcceptNeedsUnseal(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		p := w.meet(prices, w.agent("planner"), w.agent("feed-1"))
		var u Unsealed
		var out Opened
		refuse := func(what string, rc *Receiver) {
			t.Helper()
			if err := rc.Accept(&u, &out); err == nil || out.Messages != nil {
				t.Errorf("%s: accepted", what)
			}
		}
		refuse("nothing", p.rc)
		frame := p.seal(t, "x")
		spoiled := slices.Clone(frame)
		spoiled[len(spoiled)-1] ^= 1
		check(t, p.rc.Unseal(frame, p.want, &u))
		refuse("at another place", value(p.reader.Receiver(prices))(t))
		if err := p.rc.Unseal(spoiled, p.want, &u); ReasonOf(err) != BadSignature {
			t.Errorf("got %v, want %s", err, BadSignature)
		}
		refuse("after one that failed", p.rc)
		check(t, p.rc.Unseal(frame, p.want, &u))
		check(t, p.rc.Accept(&u, &out))
		out = Opened{}
		refuse("a second time", p.rc)
	})
}

// TestBadContentCountsAsReceived: it is told only when the frame has been taken into the replay state.
func TestBadContentCountsAsReceived(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		p := w.meet(prices, w.agent("planner"), w.agent("feed-1"))
		a := p.attempt(t)
		a.plain = make([]byte, 40)
		var first, second Unsealed
		var out Opened
		check(t, a.rc.Unseal(a.frame(t), a.want, &first))
		check(t, a.rc.Unseal(a.frame(t), a.want, &second))
		if err := a.rc.Accept(&first, &out); ReasonOf(err) != BadContent || out.Messages != nil {
			t.Errorf("got %v, want %s", err, BadContent)
		}
		if err := a.rc.Accept(&second, &out); ReasonOf(err) != Seen {
			t.Errorf("got %v, want %s", err, Seen)
		}
	})
}

// TestPolicyChangesBeforeAccept: what counts is the policy at Accept.
func TestPolicyChangesBeforeAccept(t *testing.T) {
	for name, test := range map[string]struct {
		ch      policy.Channel
		old, to string
		want    Reason
	}{
		"the same":         {prices, "", "", 0},
		"sender revoked":   {prices, "topics:", "revoked: [feed-1]\ntopics:", Revoked},
		"no writer":        {prices, `prices: {publish: ["feed-*"]`, `prices: {publish: ["feed-2"]`, NotEntitled},
		"no reader":        {prices, `subscribe: [planner, "exec-*"]`, `subscribe: ["exec-*"]`, NotEntitled},
		"signed now":       {gossip, ", signed: false", "", Unsigned},
		"retained now":     {prices, "prices: {", "prices: {retain: 1h, ", Unsigned},
		"max_age is less":  {prices, "prices: {", "prices: {max_age: 1s, ", Stale},
		"lost by somebody": {prices, `prices: {publish: ["feed-*"]`, `prices: {publish: ["feed-1"]`, NoKey},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				p := w.meet(test.ch, w.agent("planner"), w.agent("feed-1"))
				all := p.unseal(t, p.seal(t, "x"))
				pass(2 * time.Second)
				check(t, p.reader.AdoptPolicy(w.sign(strings.Replace(nextPolicy, test.old, test.to, 1))))
				before := p.rc.snapshot()
				var out Opened
				err := p.rc.Accept(&all[0], &out)
				if ReasonOf(err) != test.want || (err == nil) != (test.want == 0) {
					t.Errorf("got %v, want %s", err, test.want)
				}
				if err != nil && (p.rc.snapshot() != before || out.Messages != nil) {
					t.Error("it was taken in all the same")
				}
			})
		})
	}
	bubble(t, func(t *testing.T, w *world) {
		p := w.meet(prices, w.agent("planner"), w.agent("feed-1"))
		all := p.unseal(t, p.seal(t, "x"))
		check(t, p.reader.Close(cut()))
		var out Opened
		if err := p.rc.Accept(&all[0], &out); !errors.Is(err, ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
	})
}

// TestAcceptAfterTheSessionWasForgotten: a frame that waited for longer than its session is remembered is stale.
func TestAcceptAfterTheSessionWasForgotten(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		p := w.meet(gossip, w.agent("planner"), w.agent("feed-1"))
		all := p.unseal(t, p.seal(t, "x"))
		mustOpen(t, p.rc, p.seal(t, "y"), p.want)
		pass(time.Minute)
		p.rc.mu.Lock()
		p.rc.prune(p.reader.now())
		p.rc.mu.Unlock()
		var out Opened
		if err := p.rc.Accept(&all[0], &out); ReasonOf(err) != Stale {
			t.Errorf("got %v, want %s", err, Stale)
		}
	})
}

// TestOpenedIsTheCallers: what an Opened refers to outlives the next use of what it was made with.
func TestOpenedIsTheCallers(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		p := w.meet(ledger, w.agent("planner"), w.agent("feed-1"))
		var u Unsealed
		var out Opened
		type kept struct {
			payload []byte
			headers []envelope.Pair
			want    string
		}
		var all []kept
		describe := func(payload []byte, headers []envelope.Pair) string { return fmt.Sprintf("%s %s", payload, headers) }
		for round := range 6 {
			b := p.gather(t)
			for j := range 9 - round {
				check(t, b.Messages.Add(textOf(round, 0, j)))
			}
			check(t, p.sender.SealBundles([]*Bundle{b}))
			if round%2 == 0 {
				check(t, p.rc.Open(b.Frame, p.want, &out))
			} else {
				check(t, p.rc.Unseal(b.Frame, p.want, &u))
				check(t, p.rc.Accept(&u, &out))
			}
			for j, m := range out.Messages {
				want := textOf(round, 0, j)
				all = append(all, kept{m.Payload, m.Headers, describe(want.Payload, want.Headers)})
			}
			clear(b.Frame)
		}
		for i, k := range all {
			if got := describe(k.payload, k.headers); got != k.want {
				t.Errorf("message %d became %s, was %s", i, got, k.want)
			}
		}
		// Of a frame that is rejected nothing is left in what the caller has lent.
		frame := p.seal(t, "x")
		mustOpen(t, p.rc, frame, p.want)
		lent := out.Messages
		if err := p.rc.Open(frame, p.want, &out); ReasonOf(err) != Seen || len(out.Messages) != 0 {
			t.Errorf("got %v and %d messages", err, len(out.Messages))
		}
		if lent[0].Payload != nil {
			t.Error("the messages before are still referred to")
		}
	})
}

// TestUnsealAtOnce has some goroutines unseal what several senders send, over and over and in any order, while another
// accepts: each frame is accepted once, and its content is its own.
func TestUnsealAtOnce(t *testing.T) {
	w := newWorld(t)
	reader := w.agent("planner")
	a, b := w.meet(prices, reader, w.agent("feed-1")), w.meet(prices, reader, w.agent("feed-2"))
	_, err := reader.card(w.ctx(), b.writer.att.self, b.writer.own.card)
	check(t, err)
	var frames [][]byte
	for range 10 {
		frames = append(append(frames, a.sealAll(t, 4, 5)...), b.sealAll(t, 3, 7)...)
		frames = append(frames, a.seal(t, "alone"))
	}
	work := slices.Concat(frames, frames)
	rand.Shuffle(len(work), func(i, j int) { work[i], work[j] = work[j], work[i] })

	var next atomic.Int64
	unsealed := make(chan *Unsealed, 8)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(work)); i = next.Add(1) - 1 {
				u := new(Unsealed)
				switch err := a.rc.Unseal(work[i], a.want, u); {
				case err == nil:
					unsealed <- u
				case ReasonOf(err) != Seen:
					t.Error(err)
				}
			}
		})
	}
	go func() { wg.Wait(); close(unsealed) }()
	seen := make(map[ulid.ULID]bool)
	var out Opened
	for u := range unsealed {
		switch err := a.rc.Accept(u, &out); {
		case err == nil:
			if seen[out.ID] || out.Messages[0].ID != out.ID {
				t.Errorf("frame %s accepted with the content of %s", out.ID, out.Messages[0].ID)
			}
			seen[out.ID] = true
		case ReasonOf(err) != Seen:
			t.Error(err)
		}
	}
	if len(seen) != len(frames) {
		t.Errorf("%d of %d frames were accepted", len(seen), len(frames))
	}
}

// countingVerifier counts, and holds every verification until it is let go.
type countingVerifier struct {
	asked  atomic.Int64
	hold   chan struct{}
	answer func(sig, data []byte) error
}

func (v *countingVerifier) Verify(sig, data []byte) error {
	v.asked.Add(1)
	<-v.hold
	return v.answer(sig, data)
}

// count has the signatures of p's writer verified by a verifier that counts.
func (p *pairOf) count(t testing.TB) *countingVerifier {
	t.Helper()
	c := p.reader.cards.cached(p.writer.att.self, p.writer.own.card, p.reader.now())
	v := &countingVerifier{hold: make(chan struct{}), answer: c.keys.verifier.Verify}
	c.keys.verifier = v
	return v
}

// TestOneVerificationARoot: frames of one signature that are unsealed at the same time cost one verification; those that
// come later none.
func TestOneVerificationARoot(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		p := w.meet(prices, w.agent("planner"), w.agent("feed-1"))
		frames, later := p.sealAll(t, 16, 2), p.sealAll(t, 2, 2)
		v := p.count(t)
		var wg sync.WaitGroup
		for _, f := range frames[:15] {
			wg.Go(func() {
				var u Unsealed
				if err := p.rc.Unseal(f, p.want, &u); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait() // all wait for the one that is held, and p.rc is held by none
		if n := v.asked.Load(); n != 1 {
			t.Errorf("%d verifications of one root", n)
		}
		p.rc.snapshot()
		close(v.hold)
		wg.Wait()
		p.unseal(t, frames[15])
		if n := v.asked.Load(); n != 1 {
			t.Errorf("%d verifications after all", n)
		}
		p.unseal(t, later...)
		if n := v.asked.Load(); n != 2 {
			t.Errorf("%d verifications of two roots", n)
		}
	})
}

// TestFailedVerification is not remembered: not against a root, and not for it.
func TestFailedVerification(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		p := w.meet(prices, w.agent("planner"), w.agent("feed-1"))
		frames := p.sealAll(t, 8, 1)
		v := p.count(t)
		genuine := v.answer
		v.answer = func(_, _ []byte) error { return errors.New("not today") }
		var rejected atomic.Int64
		var wg sync.WaitGroup
		for _, f := range frames {
			wg.Go(func() {
				var u Unsealed
				if ReasonOf(p.rc.Unseal(f, p.want, &u)) == BadSignature {
					rejected.Add(1)
				}
			})
		}
		synctest.Wait()
		close(v.hold)
		wg.Wait()
		if rejected.Load() != int64(len(frames)) || v.asked.Load() != 1 {
			t.Errorf("%d rejected after %d verifications", rejected.Load(), v.asked.Load())
		}
		mustReject(t, p.rc, frames[0], p.want, BadSignature)
		if v.asked.Load() != 2 || len(p.reader.roots.now) != 0 || len(p.reader.roots.pending) != 0 {
			t.Errorf("%d verifications, %d roots, %d pending", v.asked.Load(), len(p.reader.roots.now), len(p.reader.roots.pending))
		}
		v.answer = genuine
		mustOpen(t, p.rc, frames[0], p.want)
	})
}

// TestRootsDroppedMeanwhile: what a verification finds that began before the policy changed is not remembered.
func TestRootsDroppedMeanwhile(t *testing.T) {
	bubble(t, func(t *testing.T, _ *world) {
		var c rootCache
		hold := make(chan struct{})
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if !c.once(rootName{1}, func() bool { <-hold; return true }) {
					t.Error("somebody who waited was told that it is not genuine")
				}
			})
		}
		synctest.Wait()
		c.drop()
		wg.Go(func() { c.once(rootName{1}, func() bool { <-hold; return false }) })
		synctest.Wait()
		close(hold)
		wg.Wait()
		if len(c.now)+len(c.old)+len(c.pending) != 0 {
			t.Error("it was remembered")
		}
	})
}
