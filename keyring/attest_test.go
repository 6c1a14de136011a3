package keyring

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// says is a worker's word of a task, and another worker, who may not read it.
type says struct {
	speaker, other, planner *Ring
	sender                  *Sender
	want                    *Want
}

func (w *world) says() *says {
	w.t.Helper()
	s := &says{speaker: w.agentUntil("exec-1", month), other: w.agentUntil("exec-2", month), planner: w.agentUntil("planner", month)}
	check(w.t, s.planner.Join(w.ctx(), results))
	s.sender = value(s.speaker.Sender(w.ctx(), results))(w.t)
	s.want = &Want{Kinds: Kinds(envelope.KindControl), Recipient: "summarise", Ref: someTask, Sender: "exec-1"}
	return s
}

func (s *says) seal(t testing.TB, kind envelope.Kind) []byte {
	t.Helper()
	frame, _, err := s.sender.Seal(nil, &Draft{Kind: kind, Recipient: "summarise", Ref: someTask, Messages: []envelope.Message{{Payload: []byte("it failed")}}})
	check(t, err)
	return frame
}

func (s *says) refused(t testing.TB, what string, frame []byte, ch policy.Channel, want *Want, reason Reason) {
	t.Helper()
	if a, err := s.other.Attest(frame, ch, want); ReasonOf(err) != reason || !a.ID.IsZero() {
		t.Errorf("%s: got %v, want %s", what, err, reason)
	}
}

// TestAttest: a worker can tell what another has said of a task, also of one that it may not open, from what anybody else
// has put in its place.
func TestAttest(t *testing.T) {
	queueWorld(t, func(t *testing.T, w *world) {
		s := w.says()
		frame := s.seal(t, envelope.KindControl)
		s.refused(t, "without a card", frame, results, s.want, NoCard)
		check(t, s.other.AwaitCard(w.ctx(), frame))
		pass(5 * 24 * time.Hour)
		var f envelope.Frame
		check(t, envelope.Parse(frame, &f))
		a, err := s.other.Attest(frame, results, s.want)
		if err != nil || a.ID != f.ID || a.Ref != someTask || a.Sender != s.speaker.Self() || a.Kind != envelope.KindControl || a.Time != timeOf(&f) {
			t.Fatalf("%+v, %v", a, err)
		}
		if _, err := s.other.StoredReceiver(results); err == nil {
			t.Error("it may open it too, and this test shows nothing")
		}
		for i := range frame {
			for bit := range 8 {
				bad := bytes.Clone(frame)
				bad[i] ^= 1 << bit
				if a, err := s.other.Attest(bad, results, s.want); err == nil {
					t.Errorf("byte %d, bit %d: %+v", i, bit, a)
				}
			}
		}
		for name, c := range map[string]struct {
			ch   policy.Channel
			want Want
			says Reason
		}{
			"another channel": {policy.MustParseChannel("result/scribble"), *s.want, Misdirected},
			"another queue":   {results, Want{Kinds: s.want.Kinds, Recipient: "scribble", Ref: someTask}, Misdirected},
			"another task":    {results, Want{Kinds: s.want.Kinds, Recipient: "summarise", Ref: f.ID}, Misdirected},
			"another kind":    {results, Want{Kinds: Kinds(envelope.KindError), Recipient: "summarise", Ref: someTask}, Misdirected},
			"another's":       {results, Want{Kinds: s.want.Kinds, Recipient: "summarise", Ref: someTask, Sender: "exec-2"}, NotEntitled},
		} {
			s.refused(t, name, frame, c.ch, &c.want, c.says)
		}
		theirs := f
		theirs.Sender, theirs.Card = []byte(s.other.Self().String()), s.other.own.card
		check(t, s.other.AwaitCard(w.ctx(), value(envelope.AppendFrame(nil, &theirs))(t)))
		anybody := &Want{Kinds: s.want.Kinds, Recipient: "summarise", Ref: someTask}
		for name, c := range map[string]struct {
			edit func(*envelope.Frame)
			says Reason
		}{
			"stripped":           {func(f *envelope.Frame) { f.Flags &^= envelope.FlagSigned; f.Signature = envelope.Signature{} }, Unsigned},
			"an enqueuer's name": {func(f *envelope.Frame) { f.Sender = []byte("spiffe://example.org/agent/planner") }, NotEntitled},
			"a stranger's":       {func(f *envelope.Frame) { f.Sender = []byte("spiffe://example.org/agent/nobody") }, NotEntitled},
			"another domain's":   {func(f *envelope.Frame) { f.Sender = []byte("spiffe://example.com/agent/exec-1") }, NotEntitled},
			"the other's":        {func(f *envelope.Frame) { f.Sender, f.Card = []byte(s.other.Self().String()), s.other.own.card }, BadSignature},
			"another card":       {func(f *envelope.Frame) { f.Card = f.ID }, NoCard},
			"of the future":      {func(f *envelope.Frame) { f.ID = newULID(t, time.Now().Add(time.Hour)) }, Stale},
			"another time":       {func(f *envelope.Frame) { f.ID = newULID(t, time.Now()) }, BadSignature},
			"other content":      {func(f *envelope.Frame) { f.Ciphertext = append(bytes.Clone(f.Ciphertext), 0) }, BadSignature},
		} {
			g := f
			c.edit(&g)
			s.refused(t, name, value(envelope.AppendFrame(nil, &g))(t), results, anybody, c.says)
		}
		s.refused(t, "junk", []byte("junk"), results, s.want, Malformed)
		w.setPolicy(queueRevision(2) + "revoked: [exec-1]\n")
		check(t, s.other.Refresh(w.ctx()))
		s.refused(t, "of a revoked one", frame, results, s.want, Revoked)
		check(t, s.other.Close(context.Background()))
		if _, err := s.other.Attest(frame, results, s.want); err == nil {
			t.Error("after Close")
		}
	})
}

// TestAttestExpired: an expired card attests what is from before, for as long as MaxCardAge, and nothing from after.
func TestAttestExpired(t *testing.T) {
	queueWorld(t, func(t *testing.T, w *world) {
		s := &says{speaker: w.agentUntil("exec-1", time.Hour), other: w.agentUntil("exec-2", month), planner: w.agentUntil("planner", month)}
		check(t, s.planner.Join(w.ctx(), results))
		s.sender = value(s.speaker.Sender(w.ctx(), results))(t)
		s.want = &Want{Kinds: Kinds(envelope.KindControl), Recipient: "summarise", Ref: someTask}
		frame := s.seal(t, envelope.KindControl)
		pass(2 * time.Hour)
		check(t, s.other.AwaitCard(w.ctx(), frame))
		if _, err := s.other.Attest(frame, results, s.want); err != nil {
			t.Error(err)
		}
		pass(8 * 24 * time.Hour)
		if _, err := s.other.Attest(frame, results, s.want); ReasonOf(err) == 0 {
			t.Error("older than any card speaks for")
		}
	})
}

// TestAttestUnsigned: where frames are not signed nothing attests them.
func TestAttestUnsigned(t *testing.T) {
	queueWorld(t, func(t *testing.T, w *world) {
		ch := policy.MustParseChannel("result/scribble")
		speaker, other, planner := w.agent("exec-1"), w.agent("exec-2"), w.agent("planner")
		check(t, planner.Join(w.ctx(), ch))
		sender := value(speaker.Sender(w.ctx(), ch))(t)
		frame, _, err := sender.Seal(nil, &Draft{Kind: envelope.KindControl, Recipient: "scribble", Ref: someTask, Messages: []envelope.Message{{}}})
		check(t, err)
		if _, err := other.Attest(frame, ch, &Want{Kinds: Kinds(envelope.KindControl), Recipient: "scribble", Ref: someTask}); ReasonOf(err) != Unsigned {
			t.Errorf("got %v", err)
		}
	})
}
