package keyring

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// textOf is the message at a place of TestBundles, some with headers.
func textOf(round, frame, message int) *envelope.Message {
	m := &envelope.Message{Payload: fmt.Appendf(nil, "round %d, frame %d, message %d", round, frame, message)}
	if message%3 == 1 {
		m.Headers = []envelope.Pair{{Key: []byte("content-type"), Value: []byte("text/plain")}, {Key: []byte("n"), Value: fmt.Append(nil, message)}}
	}
	return m
}

// TestBundles seals the same bundles again and again, with other messages and more or less of them, and opens what comes out.
func TestBundles(t *testing.T) {
	for _, ch := range []policy.Channel{gossip, prices, ledger} {
		t.Run(ch.Name(), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				p := w.meet(ch, w.agent("planner"), w.agent("feed-1"))
				all := make([]*Bundle, 5)
				for i := range all {
					all[i] = &Bundle{Kind: envelope.KindEvent, Recipient: p.subject}
				}
				var last *Opened
				for round, frames := range []int{5, 1, 3, 4} {
					bundles := all[:frames]
					for i, b := range bundles {
						b.Expires = time.Time{}
						if i%2 == 1 {
							b.Expires = time.Now().Add(time.Second)
						}
						b.Messages.Reset(value(p.sender.Committed())(t))
						for j := range 1 + 7*i + round {
							check(t, b.Messages.Add(textOf(round, i, j)))
						}
					}
					check(t, p.sender.SealBundles(bundles))
					last = p.openBundles(t, round, bundles, last)
				}
			})
		})
	}
}

// openBundles opens the frames of one SealBundles and checks that they are what was gathered, in order, and that what
// they have in common and what ascends does. last is the frame before.
func (p *pairOf) openBundles(t *testing.T, round int, bundles []*Bundle, last *Opened) *Opened {
	t.Helper()
	var first envelope.Frame
	check(t, envelope.Parse(bundles[0].Frame, &first))
	for i, b := range bundles {
		var f envelope.Frame
		check(t, envelope.Parse(b.Frame, &f))
		if f.Session != first.Session || f.Seq != first.Seq+uint64(i) || f.ID != b.ID {
			t.Errorf("frame %d: session %s, number %d, id %s", i, f.Session, f.Seq, f.ID)
		}
		if f.Signed() && (!bytes.Equal(f.Signature.Sig, first.Signature.Sig) || f.Signature.Depth != envelope.DepthOf(len(bundles))) {
			t.Errorf("frame %d: another signature, or at depth %d", i, f.Signature.Depth)
		}
		got := mustOpen(t, p.rc, b.Frame, p.want)
		if last != nil {
			before := last.Messages[len(last.Messages)-1].ID
			if got.ID.Compare(before) <= 0 || got.Session == last.Session && got.Seq != last.Seq+1 {
				t.Errorf("frame %d: id %s and number %d after %s and %d", i, got.ID, got.Seq, before, last.Seq)
			}
		}
		if len(got.Messages) != b.Messages.Len() || got.Messages[0].ID != got.ID || !got.Expires.Equal(b.Expires.Truncate(time.Millisecond)) {
			t.Errorf("frame %d: %d messages, the first %s, until %s", i, len(got.Messages), got.Messages[0].ID, got.Expires)
		}
		for j := range got.Messages {
			m, want := &got.Messages[j], textOf(round, i, j)
			if string(m.Payload) != string(want.Payload) || fmt.Sprint(m.Headers) != fmt.Sprint(want.Headers) {
				t.Errorf("frame %d, message %d: %q with %s", i, j, m.Payload, m.Headers)
			}
			if j > 0 && m.ID.Compare(got.Messages[j-1].ID) <= 0 {
				t.Errorf("frame %d, message %d: id %s after %s", i, j, m.ID, got.Messages[j-1].ID)
			}
		}
		last = got
	}
	return last
}

// TestBundlesThatCannotBeSealed are as they were, and are sealed when what was in the way is gone.
func TestBundlesThatCannotBeSealed(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		p := w.meet(prices, w.agent("planner"), w.agent("feed-1"))
		b := p.gather(t, "one", "two")
		fails := func(want error, bundles ...*Bundle) {
			t.Helper()
			if err := p.sender.SealBundles(bundles); err == nil || want != nil && !errors.Is(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
			if len(b.Frame) != 0 {
				t.Error("there is a frame")
			}
		}
		before := p.sender.session.seq
		fails(nil)
		fails(nil, b, p.gather(t))
		fails(ErrTooLarge, slices.Repeat([]*Bundle{b}, envelope.MaxLeaves+1)...)
		key := p.sender.c.current.Swap(nil)
		fails(ErrNoKey, b)
		p.sender.c.current.Store(key)
		check(t, p.writer.AdoptPolicy(w.sign(strings.NewReplacer("revision: 1", "revision: 2", `prices: {publish: ["feed-*"]`, `prices: {publish: ["feed-2"]`).Replace(testPolicy))))
		fails(ErrNotEntitled, b)
		if _, err := p.sender.Committed(); !errors.Is(err, ErrNotEntitled) {
			t.Errorf("got %v, want ErrNotEntitled", err)
		}
		for _, r := range []*Ring{p.reader, p.writer} {
			check(t, r.AdoptPolicy(w.sign(strings.Replace(testPolicy, "revision: 1", "revision: 3", 1))))
			check(t, r.Join(w.ctx(), prices))
		}
		if seq := p.sender.session.seq; seq != before {
			t.Errorf("%d numbers were given to frames that were never begun", seq-before)
		}
		wrong := p.gather(t, "three")
		wrong.Recipient = "two..dots"
		fails(envelope.ErrMalformed, b, wrong)
		check(t, p.sender.SealBundles([]*Bundle{b}))
		got, err := open(t, p.reader, p.rc, b.Frame, p.want)
		check(t, err)
		if len(got.Messages) != 2 || string(got.Messages[1].Payload) != "two" {
			t.Errorf("got %d messages", len(got.Messages))
		}
		check(t, p.writer.Close(cut()))
		fails(ErrClosed, b)
		if _, err := p.sender.Committed(); !errors.Is(err, ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
	})
}

// TestPolicyChangesWhileGathering: what is sealed is what the policy in force asks for, not the one that it was gathered under.
func TestPolicyChangesWhileGathering(t *testing.T) {
	retained := strings.NewReplacer("revision: 1", "revision: 2", "prices: {", "prices: {retain: 1h, pad: true, ").Replace(testPolicy)
	bubble(t, func(t *testing.T, w *world) {
		p := w.meet(prices, w.agent("planner"), w.agent("feed-1"))
		for _, text := range []string{retained, strings.Replace(testPolicy, "revision: 1", "revision: 3", 1)} {
			bundles := []*Bundle{p.gather(t, "one", "two", "three"), p.gather(t, "four")}
			committed := value(p.sender.Committed())(t)
			for _, r := range []*Ring{p.reader, p.writer} {
				check(t, r.AdoptPolicy(w.sign(text)))
				check(t, r.Join(w.ctx(), prices))
			}
			check(t, p.sender.SealBundles(bundles))
			for i, b := range bundles {
				var f envelope.Frame
				check(t, envelope.Parse(b.Frame, &f))
				if f.Committed() == committed || f.Padded() == committed {
					t.Errorf("frame %d has flags %d", i, f.Flags)
				}
				got, err := open(t, p.reader, p.rc, b.Frame, p.want)
				check(t, err)
				if len(got.Messages) != b.Messages.Len() || string(got.Messages[0].Payload) != []string{"one", "four"}[i] {
					t.Errorf("frame %d: %d messages, %q", i, len(got.Messages), got.Messages[0].Payload)
				}
				if (got.Messages[0].Salt != [envelope.SaltSize]byte{}) != f.Committed() {
					t.Errorf("frame %d: salt %x", i, got.Messages[0].Salt)
				}
			}
		}
	})
}

// TestSessionEndsBetweenBundles: frames of one signature are of one session, so one that has no room for all of them ends
// before its last number.
func TestSessionEndsBetweenBundles(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		p := w.meet(prices, w.agent("planner"), w.agent("feed-1"))
		headers := func(n int) (all []envelope.Header) {
			for _, frame := range p.sealAll(t, n, 2) {
				var f envelope.Frame
				check(t, envelope.Parse(frame, &f))
				all = append(all, f.Header)
			}
			return all
		}
		first := headers(1)[0].Session
		p.sender.session.seq = SessionFrames - 4
		if h := headers(4); h[0].Session != first || h[3].Session != first || h[3].Seq != SessionFrames {
			t.Errorf("the last four: numbers %d to %d", h[0].Seq, h[3].Seq)
		}
		second := headers(2)
		if second[0].Session == first || second[1].Session != second[0].Session || second[1].Seq != 2 {
			t.Errorf("after the end: numbers %d and %d", second[0].Seq, second[1].Seq)
		}
		p.sender.session.seq = SessionFrames - 3
		third := headers(4)
		for i, h := range third {
			if h.Session == second[0].Session || h.Session != third[0].Session || h.Seq != uint64(i+1) {
				t.Errorf("frame %d of four, with room for three: number %d", i, h.Seq)
			}
		}
	})
}

// TestBundlesAtOnce seals from many goroutines: no number, no id and no message is given twice or lost.
func TestBundlesAtOnce(t *testing.T) {
	w := newWorld(t)
	p := w.meet(prices, w.agent("planner"), w.agent("feed-1"))
	type place struct {
		session ulid.ULID
		seq     uint64
	}
	var mu sync.Mutex
	places, ids := map[place]bool{}, map[ulid.ULID]bool{}
	note := func(frame []byte) {
		var f envelope.Frame
		check(t, envelope.Parse(frame, &f))
		got := mustOpen(t, p.rc, frame, p.want)
		mu.Lock()
		defer mu.Unlock()
		places[place{f.Session, f.Seq}] = true
		for i := range got.Messages {
			ids[got.Messages[i].ID] = true
		}
	}
	const rounds, frames, each = 12, 3, 40
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range rounds {
				for _, frame := range p.sealAll(t, frames, each) {
					note(frame)
				}
				note(p.seal(t, "alone"))
			}
		})
	}
	wg.Wait()
	if len(places) != 4*rounds*(frames+1) || len(ids) != 4*rounds*(frames*each+1) {
		t.Errorf("%d frames with %d messages", len(places), len(ids))
	}
}

// TestSealedMemory: plaintext does not stay behind in what is used again, and neither does much memory.
func TestSealedMemory(t *testing.T) {
	w := sealings.New().(*sealing) // it ends in the pool
	check(t, w.own.take(draft("prices", "secret"), policy.Settings{}))
	memory := w.own.Messages.Plaintext(false)
	w.own.Frame = make([]byte, 10)
	w.release()
	if !bytes.Equal(memory, make([]byte, len(memory))) || w.own.Frame != nil {
		t.Errorf("left behind: %q, a frame of %d bytes", memory, len(w.own.Frame))
	}
	x := newBundled(t, prices, 4096, 64<<10, 2)
	x.seal(t)
	kept := &x.bundles[0].Frame[0]
	x.bundles[1].Frame = make([]byte, 0, maxKeptFrame+1)
	x.seal(t)
	if &x.bundles[0].Frame[0] != kept {
		t.Error("a frame's memory was not used again")
	}
	if n := cap(x.bundles[1].Frame); n > maxKeptFrame {
		t.Errorf("%d bytes are kept for a frame of %d", n, len(x.bundles[1].Frame))
	}
}

var underRace bool

// TestBundleAllocations: many messages cost no more than a frame does, which is Tink's own: a ciphertext each, and two for
// the signature.
func TestBundleAllocations(t *testing.T) {
	if underRace {
		t.Skip("the race detector has pools forget at random")
	}
	for _, ch := range []policy.Channel{gossip, prices, ledger} {
		x := newBundled(t, ch, 100, 16<<10, 8)
		x.seal(t)
		if n := testing.AllocsPerRun(50, func() { x.seal(t) }); n > 8+2 {
			t.Errorf("%s: %.1f allocations for 8 frames", ch, n)
		}
		x.open(t)
		if n := testing.AllocsPerRun(50, func() { x.rc.forget(); x.open(t) }); n > 8+1 {
			t.Errorf("%s: %.1f allocations to open 8 frames", ch, n)
		}
	}
}

// bundlesOf gathers one bundle for each text.
func (p *pairOf) bundlesOf(t *testing.T, texts ...string) (list []*Bundle) {
	t.Helper()
	for _, text := range texts {
		b := &Bundle{Kind: envelope.KindEvent, Recipient: p.subject}
		b.Messages.Reset(value(p.sender.Committed())(t))
		check(t, b.Messages.Add(&envelope.Message{Payload: []byte(text)}))
		list = append(list, b)
	}
	return list
}

// TestSealTogether seals several frames at once, and appends one to what is there.
func TestSealTogether(t *testing.T) {
	w := newWorld(t)
	p := w.meet(ledger, w.agent("planner"), w.agent("feed-1"))
	texts := []string{"one", "two", "three"}
	bundles := p.bundlesOf(t, texts...)
	check(t, p.sender.SealBundles(bundles))
	for i, b := range bundles {
		if got := mustOpen(t, p.rc, b.Frame, p.want); string(got.Messages[0].Payload) != texts[i] {
			t.Errorf("frame %d: %q", i, got.Messages[0].Payload)
		}
	}
	long := draft(p.subject, strings.Repeat("x", envelope.MaxPayload+1))
	if _, _, err := p.sender.Seal(nil, long); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
	dst := []byte("before")
	for _, d := range []*Draft{long, {Kind: envelope.KindEvent, Recipient: p.subject}, draft("..", "x")} {
		if out, _, err := p.sender.Seal(dst, d); err == nil || string(out) != "before" {
			t.Errorf("%q, %v", out, err)
		}
	}
	frame, _, err := p.sender.Seal(dst, draft(p.subject, "x"))
	check(t, err)
	if !bytes.HasPrefix(frame, dst) {
		t.Error("the frame is not behind what was there")
	}
	mustOpen(t, p.rc, frame[len(dst):], p.want)
	check(t, p.writer.Close(context.Background()))
	if err := p.sender.SealBundles(bundles); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
}
