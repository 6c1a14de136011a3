package keyring

import (
	"bytes"
	"slices"
	"testing"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// TestEveryByteCounts changes each byte of each kind of frame, in several ways, and cuts the frame at each
// length: nothing of it is accepted or changes the replay state, and the frame itself still opens afterwards.
func TestEveryByteCounts(t *testing.T) {
	for _, test := range []struct {
		name         string
		ch           policy.Channel
		flags        uint8
		frames, each int // bundles and their messages; 0: one draft
		depth        uint8
	}{
		{"unsigned", gossip, 0, 0, 1, 0},
		{"signed", prices, envelope.FlagSigned, 0, 1, 0},
		{"signed, padded, committed", ledger, envelope.FlagSigned | envelope.FlagPadded | envelope.FlagCommitted, 0, 1, 0},
		{"one signature over five", prices, envelope.FlagSigned, 5, 1, 3},
		{"three messages each, unsigned", gossip, 0, 2, 3, 0},
		{"three messages each, one signature over two", prices, envelope.FlagSigned, 2, 3, 1},
		{"three messages each, one signature over four, padded, committed", ledger, envelope.FlagSigned | envelope.FlagPadded | envelope.FlagCommitted, 4, 3, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				p := w.meet(test.ch, w.agent("planner"), w.agent("feed-1"))
				frames := [][]byte{p.seal(t, "seventy bytes or so of plaintext, so that padding adds some")}
				if test.frames > 0 {
					frames = p.sealAll(t, test.frames, test.each)
				}
				last := len(frames) - 1
				for _, f := range frames[:last] { // fills the cache of verified roots
					mustOpen(t, p.rc, f, p.want)
				}
				var f envelope.Frame
				check(t, envelope.Parse(frames[last], &f))
				if f.Flags != test.flags || f.Signature.Depth != test.depth {
					t.Fatalf("flags %d, depth %d", f.Flags, f.Signature.Depth)
				}
				p.tamper(t, frames[last])
				got := mustOpen(t, p.rc, frames[last], p.want)
				if got.Lost != 0 || len(got.Messages) != test.each {
					t.Errorf("%d lost, %d messages", got.Lost, len(got.Messages))
				}
				mustReject(t, p.rc, frames[last], p.want, Seen)
			})
		})
	}
}

// sealAll seals n frames of so many messages each, under one signature.
func (p *pairOf) sealAll(t testing.TB, n, each int) (frames [][]byte) {
	t.Helper()
	var bundles []*Bundle
	for range n {
		bundles = append(bundles, p.gather(t, slices.Repeat([]string{"one of several"}, each)...))
	}
	check(t, p.sender.SealBundles(bundles))
	for _, b := range bundles {
		frames = append(frames, b.Frame)
	}
	return frames
}

// gather returns what is to be one frame.
func (p *pairOf) gather(t testing.TB, texts ...string) *Bundle {
	t.Helper()
	b := &Bundle{Kind: envelope.KindEvent, Recipient: p.subject}
	b.Messages.Reset(value(p.sender.Committed())(t))
	for _, text := range texts {
		check(t, b.Messages.Add(&envelope.Message{Payload: []byte(text)}))
	}
	return b
}

func (p *pairOf) tamper(t *testing.T, frame []byte) {
	t.Helper()
	before := p.rc.snapshot()
	refuse := func(b []byte, how string, at int) {
		var out Opened
		if err := p.rc.Open(b, p.want, &out); ReasonOf(err) == 0 {
			t.Errorf("%s byte %d of %d: %v", how, at, len(frame), err)
		}
		if out.Messages != nil {
			t.Errorf("%s byte %d: content of a rejected frame was handed out", how, at)
		}
	}
	for i := range frame {
		for _, bit := range []byte{0x01, 0x80, 0xff} {
			b := bytes.Clone(frame)
			b[i] ^= bit
			refuse(b, "changed", i)
		}
		refuse(frame[:i], "cut at", i)
		refuse(append(bytes.Clone(frame[:i]), frame[i+1:]...), "without", i)
		refuse(append(append(bytes.Clone(frame[:i]), 0), frame[i:]...), "zero before", i)
	}
	if p.rc.snapshot() != before {
		t.Error("rejected frames changed the replay state")
	}
}

// TestDowngrades takes properties off a frame as a broker can, without the keys, and as the sender itself
// could, with them.
func TestDowngrades(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		p := w.meet(ledger, w.agent("planner"), w.agent("feed-1"))
		k := currentKey(t, p.reader, ledger)
		frame := p.seal(t, "x")
		var f envelope.Frame
		check(t, envelope.Parse(frame, &f))
		rebuild := func(edit func(*envelope.Frame)) []byte {
			g := f
			edit(&g)
			return value(envelope.AppendFrame(nil, &g))(t)
		}
		for name, test := range map[string]struct {
			frame []byte
			want  Reason
		}{
			"signature stripped": {rebuild(func(f *envelope.Frame) { f.Flags &^= envelope.FlagSigned; f.Signature = envelope.Signature{} }), Unsigned},
			"no longer padded":   {rebuild(func(f *envelope.Frame) { f.Flags &^= envelope.FlagPadded }), BadSeal},
			"no longer committed": {rebuild(func(f *envelope.Frame) {
				f.Flags &^= envelope.FlagCommitted
				f.Commit = [envelope.HashSize]byte{}
			}), Unsigned},
			"another commitment": {rebuild(func(f *envelope.Frame) { f.Commit[0] ^= 1 }), BadSeal},
		} {
			t.Log(name)
			mustReject(t, p.rc, test.frame, p.want, test.want)
		}
		mustOpen(t, p.rc, frame, p.want)

		uncommitted := craft(t, p.writer, ledger, k, p.subject)
		mustReject(t, p.rc, uncommitted.frame(t), p.want, Unsigned)
		wrong := craft(t, p.writer, ledger, k, p.subject)
		wrong.Flags |= envelope.FlagCommitted
		wrong.Commit[5] = 1
		m := &envelope.Message{ID: wrong.ID, Salt: [16]byte{1}, Payload: []byte("not what is committed to")}
		wrong.plain = value(envelope.AppendMessage(nil, m, true))(t)
		var out Opened
		if err := p.rc.Open(wrong.frame(t), p.want, &out); ReasonOf(err) != BadContent || out.Messages != nil {
			t.Errorf("got %v, want bad content", err)
		}
	})
}

// TestMoved plays frames where they do not belong.
func TestMoved(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		reader, feed, exec := w.agent("planner"), w.agent("feed-1"), w.agent("exec-1")
		p, g := w.meet(prices, reader, feed), w.meet(gossip, reader, feed)
		rename := func(frame []byte, edit func(*envelope.Frame)) []byte {
			var f envelope.Frame
			check(t, envelope.Parse(frame, &f))
			edit(&f)
			return value(envelope.AppendFrame(nil, &f))(t)
		}
		event := p.seal(t, "x")
		t.Log("cross-subject")
		mustReject(t, p.rc, event, wantEvent("prices.y"), Misdirected)
		mustReject(t, p.rc, rename(event, func(f *envelope.Frame) { f.Recipient = []byte("prices.y") }), wantEvent("prices.y"), BadSeal)
		t.Log("cross-channel")
		mustReject(t, g.rc, event, p.want, Misdirected)
		mustReject(t, p.rc, rename(g.seal(t, "x"), func(f *envelope.Frame) { f.Channel, f.Recipient = []byte("topic/prices"), []byte(p.subject) }), p.want, Unsigned)
		mustReject(t, g.rc, rename(event, func(f *envelope.Frame) { f.Channel = []byte("topic/gossip") }), p.want, NoKey)
		mustReject(t, g.rc, rename(event, func(f *envelope.Frame) {
			f.Channel, f.Key = []byte("topic/gossip"), currentKey(t, reader, gossip).statement.id
		}), p.want, BadSeal)
		t.Log("as another kind")
		mustReject(t, p.rc, rename(event, func(f *envelope.Frame) { f.Kind = envelope.KindControl }), &Want{Kinds: Kinds(envelope.KindControl), Recipient: p.subject}, NotEntitled)
		mustOpen(t, p.rc, event, p.want)

		request := w.request(reader, exec)
		t.Log("cross-recipient")
		other := w.agent("exec-2")
		mustReject(t, value(other.PairReceiver())(t), request, &Want{Kinds: Kinds(envelope.KindRequest), Recipient: "exec-1"}, Misdirected)
		mustReject(t, value(reader.PairReceiver())(t), request, &Want{Kinds: Kinds(envelope.KindRequest), Recipient: "exec-1"}, Misdirected)
	})
}

// request returns a request from one agent to another.
func (w *world) request(from, to *Ring) []byte {
	w.t.Helper()
	ch := value(policy.Pair(from.Self().Name(), to.Self().Name()))(w.t)
	s := value(from.Sender(w.ctx(), ch))(w.t)
	check(w.t, to.Join(w.ctx(), ch))
	frame, _, err := s.Seal(nil, &Draft{Kind: envelope.KindRequest, Recipient: to.Self().Name(), Messages: []envelope.Message{{}}})
	check(w.t, err)
	return frame
}
