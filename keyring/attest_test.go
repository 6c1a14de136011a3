package keyring

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// auditedPolicy is queuePolicy with an agent that has no part in its queues.
const auditedPolicy = queuePolicy + `topics:
  news: {publish: [auditor], subscribe: [auditor]}
`

// hearing is a queue, and an agent that has nothing to do with it but is shown its frames.
type hearing struct {
	*shift
	w       *world
	auditor *Ring
}

// auditedWorld runs f in a bubble with a hearing.
func auditedWorld(t *testing.T, f func(*testing.T, *hearing)) {
	bubble(t, func(t *testing.T, w *world) {
		w.setPolicy(auditedPolicy)
		h := &hearing{w: w, shift: w.shift(queue, w.agentUntil("exec-1", month), w.agentUntil("planner", time.Hour)), auditor: w.agentUntil("auditor", month)}
		f(t, h)
		if len(h.auditor.channels) != 0 {
			t.Errorf("it has joined %d channels", len(h.auditor.channels))
		}
	})
}

// attests expects the reason, zero for none, and that nothing is said of a frame that is refused.
func (h *hearing) attests(t testing.TB, frame []byte, ch policy.Channel, w *Want, reason Reason) Attested {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	a, err := h.auditor.Attest(ctx, frame, ch, w)
	if ReasonOf(err) != reason || (err == nil) != (reason == 0) {
		t.Errorf("got %v, want %s", err, reason)
	}
	if err != nil && a != (Attested{}) {
		t.Errorf("of a frame that is refused it says %+v", a)
	}
	return a
}

// TestAttest: who has no key learns who has sealed a frame, when, and what its header says; and of a result too.
func TestAttest(t *testing.T) {
	auditedWorld(t, func(t *testing.T, h *hearing) {
		frame := h.seal(t, "do it")
		pass(time.Minute)
		var f envelope.Frame
		check(t, envelope.Parse(frame, &f))
		got := h.attests(t, frame, queue, h.want, 0)
		want := Attested{Kind: envelope.KindTask, ID: f.ID, Channel: queue, Recipient: "summarise", Sender: h.producer.Self(), Card: h.producer.Card(),
			Session: f.Session, Seq: f.Seq, Time: ulid.Time(f.ID.Time()), Count: 1, Committed: true, Commit: f.Commit}
		if got != want {
			t.Errorf("got\n%+v, want\n%+v", got, want)
		}
		if text := got.String(); text != "task "+f.ID.String()+" of planner on queue/summarise" {
			t.Errorf("%q", text)
		}
		answer := value(h.worker.Sender(h.w.ctx(), results))(t)
		result, id, err := answer.Seal(nil, &Draft{Kind: envelope.KindResult, Recipient: "summarise", Ref: f.ID, Messages: []envelope.Message{{Payload: []byte("done")}}})
		check(t, err)
		wantResult := &Want{Kinds: Kinds(envelope.KindResult), Recipient: "summarise", Ref: f.ID}
		if got := h.attests(t, result, results, wantResult, 0); got.Ref != f.ID || got.ID != id || got.Sender != h.worker.Self() {
			t.Errorf("of a result: %+v", got)
		}
		// One signature over several.
		bundles := make([]*Bundle, 5)
		for i := range bundles {
			bundles[i] = &Bundle{Kind: envelope.KindTask, Recipient: "summarise"}
			bundles[i].Messages.Reset(true)
			check(t, bundles[i].Messages.Add(&envelope.Message{Payload: []byte{byte(i)}}))
		}
		check(t, h.sender.SealBundles(bundles))
		for _, b := range bundles {
			if got := h.attests(t, b.Frame, queue, h.want, 0); got.ID != b.ID {
				t.Errorf("%s is attested as %s", b.ID, got.ID)
			}
		}
		// What a reader would refuse for its content, or for its age, is proven all the same.
		c := h.craft(t)
		c.plain = []byte("no content")
		c.Expires = uint64(time.Now().Add(-time.Second).UnixMilli())
		if got := h.attests(t, c.frame(t), queue, h.want, 0); got.Expires.UnixMilli() != int64(c.Expires) {
			t.Errorf("it expires at %v", got.Expires)
		}
	})
}

// TestAttestEveryByteCounts: nothing of a frame can be changed.
func TestAttestEveryByteCounts(t *testing.T) {
	auditedWorld(t, func(t *testing.T, h *hearing) {
		frame := h.seal(t, "x")
		refuse := func(b []byte, how string, at int) {
			if a, err := h.auditor.Attest(h.w.ctx(), b, queue, h.want); err == nil || a != (Attested{}) {
				t.Errorf("%s byte %d of %d: %v", how, at, len(frame), err)
			}
		}
		h.attests(t, frame, queue, h.want, 0)
		for i := range frame {
			for _, bit := range []byte{0x01, 0x80, 0xff} {
				b := bytes.Clone(frame)
				b[i] ^= bit
				refuse(b, "changed", i)
			}
			refuse(frame[:i], "cut at", i)
			refuse(append(append(bytes.Clone(frame[:i]), 0), frame[i:]...), "zero before", i)
		}
		h.attests(t, frame, queue, h.want, 0)
	})
}

// TestAttestRefuses: each reason for which a frame proves nothing.
func TestAttestRefuses(t *testing.T) {
	auditedWorld(t, func(t *testing.T, h *hearing) {
		frame := h.seal(t, "x")
		task := func(w Want) *Want { return &w }
		for name, test := range map[string]struct {
			ch   policy.Channel
			want *Want
			says Reason
		}{
			"another channel's": {results, h.want, Misdirected},
			"another queue's":   {scribble, h.want, Misdirected},
			"another kind":      {queue, task(Want{Kinds: Kinds(envelope.KindEvent), Recipient: "summarise"}), Misdirected},
			"another recipient": {queue, task(Want{Kinds: anyTaskKind, Recipient: "summarise.x"}), Misdirected},
			"an answer":         {queue, task(Want{Kinds: anyTaskKind, Recipient: "summarise", Ref: someTask}), Misdirected},
			"another sender's":  {queue, task(Want{Kinds: anyTaskKind, Recipient: "summarise", Sender: "prod-1"}), NotEntitled},
		} {
			t.Log(name)
			h.attests(t, frame, test.ch, test.want, test.says)
		}
		edit := func(f func(*envelope.Frame)) []byte {
			var e envelope.Frame
			check(t, envelope.Parse(frame, &e))
			f(&e)
			return value(envelope.AppendFrame(nil, &e))(t)
		}
		h.attests(t, []byte("junk"), queue, h.want, Malformed)
		h.attests(t, edit(func(f *envelope.Frame) { f.Flags &^= envelope.FlagSigned; f.Signature = envelope.Signature{} }), queue, h.want, Unsigned)
		h.attests(t, edit(func(f *envelope.Frame) { f.Sender = []byte("spiffe://example.org/agent/prod-1") }), queue, h.want, NoCard)
		h.attests(t, edit(func(f *envelope.Frame) { f.Sender = []byte("spiffe://example.org/agent/exec-1") }), queue, h.want, NotEntitled)
		h.attests(t, edit(func(f *envelope.Frame) { f.Sender = []byte("spiffe://example.com/agent/planner") }), queue, h.want, NotEntitled)
		h.attests(t, edit(func(f *envelope.Frame) { f.Card = ulid.ULID{1} }), queue, h.want, NoCard)
		h.attests(t, h.craft(t).at(t, time.Now().Add(MaxClockLead+time.Second)).frame(t), queue, h.want, Stale)
		loose := h.w.shift(scribble, h.worker, h.producer)
		h.attests(t, loose.seal(t, "x"), scribble, loose.want, Unsigned)

		// A worker holds the key, and seals in the producer's name.
		forged := craftTask(t, h.worker, queue, currentKey(t, h.worker, queue))
		forged.claim(h.producer)
		h.attests(t, forged.frame(t), queue, h.want, BadSignature)

		check(t, h.auditor.AdoptPolicy(h.w.sign(strings.Replace(auditedPolicy, "revision: 1", "revision: 2\nrevoked: [planner]", 1))))
		h.attests(t, frame, queue, h.want, Revoked)
		check(t, h.auditor.AdoptPolicy(h.w.sign(strings.NewReplacer("revision: 1", "revision: 3", "enqueue: [planner, ", "enqueue: [").Replace(auditedPolicy))))
		h.attests(t, frame, queue, h.want, NotEntitled)
		check(t, h.auditor.Close(h.w.ctx()))
		if _, err := h.auditor.Attest(h.w.ctx(), frame, queue, h.want); !errors.Is(err, ErrClosed) {
			t.Errorf("closed: %v", err)
		}
	})
}

// TestAttestCards: what the card of a sender has to be, and that a store which fails says nothing of the frame.
func TestAttestCards(t *testing.T) {
	auditedWorld(t, func(t *testing.T, h *hearing) {
		frame := h.seal(t, "x")
		h.w.store.tamper(func() {
			h.w.store.fail = func(op, bucket, _ string) error {
				if bucket == policy.BucketCards {
					return errors.New("the store is away")
				}
				return nil
			}
		})
		if _, err := h.auditor.Attest(h.w.ctx(), frame, queue, h.want); err == nil || ReasonOf(err) != 0 {
			t.Errorf("the store fails: %v", err)
		}
		h.w.store.tamper(func() {
			h.w.store.fail, h.w.store.hide = nil, func(bucket, _ string) bool { return bucket == policy.BucketCards }
		})
		h.attests(t, frame, queue, h.want, NoCard)
		h.w.store.tamper(func() { h.w.store.hide = nil })
		end := time.Now().Add(time.Hour)
		pass(2 * time.Hour)
		h.attests(t, frame, queue, h.want, 0) // from before the card expired
		late := h.craft(t).at(t, end.Add(time.Minute)).frame(t)
		h.attests(t, late, queue, h.want, Stale)
		pass(MaxCardAge)
		h.attests(t, frame, queue, h.want, Stale)
		h.w.renew(h.producer, time.Hour) // the same card, with a new certificate
		pass(lapsedCardLife)             // what the store has said is not relied on any longer
		h.w.renew(h.producer, time.Hour)
		h.attests(t, frame, queue, h.want, 0)
		// Another's card in its place.
		other := h.w.agent("prod-1")
		raw := value(h.w.store.Get(h.w.ctx(), policy.BucketCards, policy.CardKey("prod-1", other.Card().String())))(t)
		h.auditor.cards.mu.Lock()
		h.auditor.cards.cards = nil
		h.auditor.cards.mu.Unlock()
		check(t, h.w.store.Put(h.w.ctx(), policy.BucketCards, policy.CardKey("planner", h.producer.Card().String()), raw))
		h.attests(t, frame, queue, h.want, NoCard)
	})
}

// TestAttestPair: a signed frame of a pair proves its sender to a third party, who need not be one of the two.
func TestAttestPair(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.setPolicy(strings.Replace(testPolicy, "direct:\n", "direct:\n  - {from: [\"exec-*\"], to: [nobody]}\n", 1))
		a, b, third := w.agent("planner"), w.agent("exec-1"), w.agent("exec-2")
		ch := value(policy.Pair("planner", "exec-1"))(t)
		check(t, b.Join(w.ctx(), ch))
		check(t, a.Join(w.ctx(), ch))
		k := currentKey(t, a, ch)
		for _, test := range []struct {
			from *Ring
			kind envelope.Kind
			says Reason
		}{{a, envelope.KindRequest, 0}, {b, envelope.KindRequest, NotEntitled}, {third, envelope.KindRequest, NotEntitled}} {
			c := craft(t, test.from, ch, k, "exec-1")
			c.Kind = test.kind
			_, err := third.Attest(w.ctx(), c.frame(t), ch, &Want{Kinds: Kinds(test.kind), Recipient: "exec-1"})
			if ReasonOf(err) != test.says || (err == nil) != (test.says == 0) {
				t.Errorf("a request of %s: %v", test.from.Self().Name(), err)
			}
		}
	})
}
