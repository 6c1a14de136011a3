package keyring

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// inquest is a hearing whose frames are judged by a witness, who is shown statements and nothing else.
type inquest struct {
	*hearing
	witness *Witness
	policy  *policy.Policy
}

// inquestWorld runs f in a bubble with an inquest that knows the policy and the producer's card, which is valid for an hour.
func inquestWorld(t *testing.T, f func(*testing.T, *inquest)) {
	auditedWorld(t, func(t *testing.T, h *hearing) {
		q := &inquest{hearing: h, witness: h.w.witness()}
		q.policy = value(q.witness.AddPolicy(h.auditor.RawPolicy()))(t)
		q.show(t, h.producer)
		f(t, q)
	})
}

// witness returns one that knows the authorities and the operator of the world, and nothing else.
func (w *world) witness() *Witness {
	return NewWitness(w.ca.TrustDomain(), w.ca.Bundle(), w.operator.Fingerprint())
}

// show adds a ring's card as the store has it.
func (q *inquest) show(t testing.TB, r *Ring) CardInfo {
	t.Helper()
	return value(q.witness.AddCard(value(q.auditor.RawCard(q.w.ctx(), r.Self(), r.Card()))(t)))(t)
}

// rule adds auditedPolicy under another revision, changed as old and new texts in turn say.
func (q *inquest) rule(t testing.TB, n int, changes ...string) *policy.Policy {
	t.Helper()
	changes = append([]string{"revision: 1", fmt.Sprintf("revision: %d", n)}, changes...)
	return value(q.witness.AddPolicy(q.w.sign(strings.NewReplacer(changes...).Replace(auditedPolicy))))(t)
}

// judges expects the reason, zero for none, and that nothing is said of a frame that is refused.
func (q *inquest) judges(t testing.TB, frame []byte, ch policy.Channel, p *policy.Policy, at time.Time, w *Want, reason Reason) Attested {
	t.Helper()
	a, err := q.witness.Attest(frame, ch, p, at, w)
	if ReasonOf(err) != reason || (err == nil) != (reason == 0) {
		t.Errorf("got %v, want %s", err, reason)
	}
	if err != nil && a != (Attested{}) {
		t.Errorf("of a frame that is refused it says %+v", a)
	}
	return a
}

// testifies is judges where nothing but the frame and its time is of interest.
func (q *inquest) testifies(t testing.TB, frame []byte, at time.Time, reason Reason) Attested {
	t.Helper()
	return q.judges(t, frame, queue, q.policy, at, q.want, reason)
}

// TestWitness: with statements alone it says of a frame what a ring with a store says, then and ten years later.
func TestWitness(t *testing.T) {
	inquestWorld(t, func(t *testing.T, q *inquest) {
		frame := q.seal(t, "do it")
		answer := value(q.worker.Sender(q.w.ctx(), results))(t)
		result, _, err := answer.Seal(nil, &Draft{Kind: envelope.KindResult, Recipient: "summarise", Ref: someTask, Messages: []envelope.Message{{}}})
		check(t, err)
		wantResult := &Want{Kinds: Kinds(envelope.KindResult), Recipient: "summarise", Ref: someTask}
		bundles := make([]*Bundle, 5) // one signature over several
		for i := range bundles {
			bundles[i] = &Bundle{Kind: envelope.KindTask, Recipient: "summarise"}
			bundles[i].Messages.Reset(true)
			check(t, bundles[i].Messages.Add(&envelope.Message{Payload: []byte{byte(i)}}))
		}
		check(t, q.sender.SealBundles(bundles))
		logged := time.Now()
		want := q.attests(t, frame, queue, q.want, 0)
		wantAnswer := q.attests(t, result, results, wantResult, 0)
		q.show(t, q.worker)
		for range 2 {
			if got := q.testifies(t, frame, logged, 0); got != want {
				t.Errorf("got\n%+v, want\n%+v", got, want)
			}
			if got := q.judges(t, result, results, q.policy, logged, wantResult, 0); got != wantAnswer {
				t.Errorf("of a result: got\n%+v, want\n%+v", got, wantAnswer)
			}
			for _, b := range bundles {
				if got := q.testifies(t, b.Frame, logged, 0); got.ID != b.ID {
					t.Errorf("%s is attested as %s", b.ID, got.ID)
				}
			}
			for _, r := range []*Ring{q.worker, q.producer, q.auditor} {
				check(t, r.Close(q.w.ctx()))
			}
			pass(10 * 365 * 24 * time.Hour)
		}
		if text := fmt.Sprintf("%v %d", q.witness, q.witness); text != "witness of example.org witness of example.org" {
			t.Error(text)
		}
	})
}

// TestWitnessEveryByteCounts: nothing of a frame can be changed.
func TestWitnessEveryByteCounts(t *testing.T) {
	inquestWorld(t, func(t *testing.T, q *inquest) {
		frame := q.seal(t, "x")
		logged := time.Now()
		refuse := func(b []byte, how string, at int) {
			if a, err := q.witness.Attest(b, queue, q.policy, logged, q.want); ReasonOf(err) == 0 || a != (Attested{}) {
				t.Errorf("%s byte %d of %d: %v", how, at, len(frame), err)
			}
		}
		q.testifies(t, frame, logged, 0)
		for i := range frame {
			for _, bit := range []byte{0x01, 0x80, 0xff} {
				b := bytes.Clone(frame)
				b[i] ^= bit
				refuse(b, "changed", i)
			}
			refuse(frame[:i], "cut at", i)
			refuse(append(append(bytes.Clone(frame[:i]), 0), frame[i:]...), "zero before", i)
		}
		q.testifies(t, frame, logged, 0)
	})
}

// TestWitnessRefuses: each reason for which a frame proves nothing.
func TestWitnessRefuses(t *testing.T) {
	inquestWorld(t, func(t *testing.T, q *inquest) {
		frame, logged := q.seal(t, "x"), time.Now()
		want := func(w Want) *Want { return &w }
		for name, test := range map[string]struct {
			ch   policy.Channel
			want *Want
			says Reason
		}{
			"another channel's": {results, q.want, Misdirected},
			"another queue's":   {scribble, q.want, Misdirected},
			"no channel's":      {policy.Channel{}, q.want, Misdirected},
			"another kind":      {queue, want(Want{Kinds: Kinds(envelope.KindEvent), Recipient: "summarise"}), Misdirected},
			"another recipient": {queue, want(Want{Kinds: anyTaskKind, Recipient: "summarise.x"}), Misdirected},
			"an answer":         {queue, want(Want{Kinds: anyTaskKind, Recipient: "summarise", Ref: someTask}), Misdirected},
			"another sender's":  {queue, want(Want{Kinds: anyTaskKind, Recipient: "summarise", Sender: "prod-1"}), NotEntitled},
		} {
			t.Log(name)
			q.judges(t, frame, test.ch, q.policy, logged, test.want, test.says)
		}
		edit := func(f func(*envelope.Frame)) []byte {
			var e envelope.Frame
			check(t, envelope.Parse(frame, &e))
			f(&e)
			return value(envelope.AppendFrame(nil, &e))(t)
		}
		q.testifies(t, []byte("junk"), logged, Malformed)
		q.testifies(t, edit(func(f *envelope.Frame) { f.Seq = SessionFrames + 1 }), logged, Malformed)
		q.testifies(t, edit(func(f *envelope.Frame) { f.Flags &^= envelope.FlagSigned; f.Signature = envelope.Signature{} }), logged, Unsigned)
		q.testifies(t, edit(func(f *envelope.Frame) { f.Sender = []byte("spiffe://example.org/agent/prod-1") }), logged, NoCard)
		q.testifies(t, edit(func(f *envelope.Frame) { f.Sender = []byte("spiffe://example.org/agent/exec-1") }), logged, NotEntitled)
		q.testifies(t, edit(func(f *envelope.Frame) { f.Sender = []byte("spiffe://example.com/agent/planner") }), logged, NotEntitled)
		q.testifies(t, edit(func(f *envelope.Frame) { f.Card = ulid.ULID{1} }), logged, NoCard)
		loose := q.w.shift(scribble, q.worker, q.producer)
		q.judges(t, loose.seal(t, "x"), scribble, q.policy, logged, loose.want, Unsigned)

		// A worker holds the key, and seals in the producer's name.
		forged := craftTask(t, q.worker, queue, currentKey(t, q.worker, queue))
		forged.claim(q.producer)
		q.testifies(t, forged.frame(t), logged, BadSignature)
		// And so does somebody with a certificate of the same name and a card of its own, under the other's id.
		twin := *q.worker.own
		twin.card = q.producer.Card()
		forged.signer = &twin
		q.testifies(t, forged.frame(t), logged, BadSignature)

		// Under the policies of other times.
		revoked := q.rule(t, 2, "queues:", "revoked: [planner]\nqueues:")
		q.judges(t, frame, queue, revoked, logged, q.want, Revoked)
		demoted := q.rule(t, 3, "enqueue: [planner, ", "enqueue: [")
		q.judges(t, frame, queue, demoted, logged, q.want, NotEntitled)
		q.judges(t, frame, queue, q.rule(t, 4, "summarise:", "precise:"), logged, q.want, NotEntitled)
		q.testifies(t, frame, logged, 0)
	})
}

// TestWitnessWithoutPolicy: a policy that the witness does not believe says nothing of a frame, and that is no word on the frame.
func TestWitnessWithoutPolicy(t *testing.T) {
	inquestWorld(t, func(t *testing.T, q *inquest) {
		frame := q.seal(t, "x")
		stranger := value(identity.GenerateOperatorKey())(t)
		raw := q.w.signedBy(stranger, auditedPolicy)
		for name, p := range map[string]*policy.Policy{
			"none":                   nil,
			"one that is not signed": value(policy.Parse([]byte(auditedPolicy)))(t),
			"another operator's":     value(policy.Verify(raw, []identity.Fingerprint{stranger.Fingerprint()}))(t),
			"the operator's next":    value(policy.Verify(q.w.sign(revision(2)), []identity.Fingerprint{q.w.operator.Fingerprint()}))(t),
		} {
			if a, err := q.witness.Attest(frame, queue, p, time.Now(), q.want); err == nil || ReasonOf(err) != 0 || a != (Attested{}) {
				t.Errorf("%s: %v", name, err)
			}
		}
		// The same statement, read by somebody else, is the same policy.
		q.judges(t, frame, queue, q.auditor.Policy(), time.Now(), q.want, 0)
	})
}

// TestWitnessTimes: when a card speaks for a frame, by the times at which it was sealed and logged.
func TestWitnessTimes(t *testing.T) {
	const life, lead, moment = time.Hour, MaxClockLead, time.Millisecond
	for name, test := range map[string]struct {
		sealed, logged time.Duration // from the end of the card
		age            string        // max_card_age
		want           Reason
	}{
		"a moment ago":                         {-time.Minute, -time.Minute, "", 0},
		"just before the end":                  {-moment, -moment, "", 0},
		"at the end":                           {0, 0, "", Stale},
		"after the end":                        {moment, time.Minute, "", Stale},
		"ahead of the log as far as may be":    {-time.Minute + lead, -time.Minute, "", 0},
		"further ahead of the log":             {-time.Minute + lead + moment, -time.Minute, "", Stale},
		"ahead, over the end":                  {moment, -moment, "", Stale},
		"at the beginning":                     {-life - time.Minute, -time.Minute, "", 0},
		"as long before as clocks may differ":  {-life - time.Minute - lead, -time.Minute, "", 0},
		"before the beginning":                 {-life - time.Minute - lead - moment, -time.Minute, "", Stale},
		"a year before the beginning":          {-365 * 24 * time.Hour, -time.Minute, "", Stale},
		"logged as late as may be":             {-moment, MaxCardAge - moment, "", 0},
		"logged later":                         {-moment, MaxCardAge, "", Stale},
		"logged years later":                   {-moment, 1000 * 24 * time.Hour, "", Stale},
		"as late as a shorter max_card_age":    {-moment, time.Hour - moment, "1h", 0},
		"later than a shorter max_card_age":    {-moment, time.Hour, "1h", Stale},
		"old, while the card is valid":         {-50 * time.Minute, -moment, "1h", 0},
		"older than may be, since it is not":   {-59 * time.Minute, 2 * time.Minute, "1h", Stale},
		"as late as a longer max_card_age":     {-moment, 30*24*time.Hour - moment, "30d", 0},
		"later than that":                      {-moment, 30 * 24 * time.Hour, "30d", Stale},
		"logged before it was sealed, by much": {-time.Minute, -life, "", Stale},
	} {
		t.Run(name, func(t *testing.T) {
			inquestWorld(t, func(t *testing.T, q *inquest) {
				info := value(q.witness.Card(q.producer.Self(), q.producer.Card()))(t)
				if !info.From.Add(life + time.Minute).Equal(info.Until) {
					t.Fatalf("the card is from %v until %v", info.From, info.Until)
				}
				p := q.policy
				if test.age != "" {
					p = q.rule(t, 2, "queues:", "max_card_age: "+test.age+"\nqueues:")
				}
				frame := q.craft(t).at(t, info.Until.Add(test.sealed)).frame(t)
				q.judges(t, frame, queue, p, info.Until.Add(test.logged), q.want, test.want)
			})
		})
	}
}

// TestWitnessAtOnce: all of it may be used by many at once.
func TestWitnessAtOnce(t *testing.T) {
	inquestWorld(t, func(t *testing.T, q *inquest) {
		frames := [][]byte{q.seal(t, "a"), q.seal(t, "b"), q.seal(t, "c")}
		card := value(q.auditor.RawCard(q.w.ctx(), q.producer.Self(), q.producer.Card()))(t)
		next := q.w.sign(revision(2))
		at := time.Now()
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for range 20 {
					q.testifies(t, frames[i%3], at, 0)
					_, err := q.witness.AddCard(card)
					_, err2 := q.witness.AddPolicy(next)
					if err != nil || err2 != nil || len(q.witness.Policies()) != 2 {
						t.Error(err, err2)
					}
				}
			})
		}
		wg.Wait()
	})
}
