package audit

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

func policyDomain(name string) (spiffeid.TrustDomain, error) {
	return spiffeid.TrustDomainFromString(name)
}

// opened is what a reader finds in a message of the world's stream.
func (w *world) opened(sequence uint64) []envelope.Message {
	w.t.Helper()
	ch := policy.MustParseChannel("topic/ledger")
	rc := value(w.planner.StoredReceiver(ch))(w.t)
	m := w.stream.at(sequence)
	h := HeaderOf(m.Data)
	e, _ := Expect(w.stream.name, m.Subject, &h)
	var out keyring.Opened
	check(w.t, w.planner.AwaitStored(w.t.Context(), m.Data))
	check(w.t, rc.Open(m.Data, &e.Want, &out))
	return out.Messages
}

func disclosing(t *testing.T, f func(t *testing.T, w *world)) {
	inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
		check(t, w.planner.Join(t.Context(), policy.MustParseChannel("topic/ledger")))
		longStory(w)
		f(t, w)
	})
}

// TestDisclose: a third party learns of the chosen messages everything, and of the others nothing, from the log or from an export.
func TestDisclose(t *testing.T) {
	disclosing(t, func(t *testing.T, w *world) {
		r := value(Read(w.auditor.dir))(t)
		t.Cleanup(func() { _ = r.Close() })
		x := value(OpenExport(w.auditor.export(w.auditor.exportInput())))(t)
		t.Cleanup(func() { _ = x.Close() })
		m, all := w.stream.at(4), w.opened(4)
		for _, log := range []Prover{w.auditor.log, r, x} {
			for _, chosen := range [][]int{{0}, {1}, {1, 0}} {
				raw := value(Disclose(log, m, all, chosen, r.Statements(), w.trust()))(t)
				d := value(VerifyDisclosure(raw, w.trust()))(t)
				h := HeaderOf(m.Data)
				if d.Sender.Name() != "feed-1" || d.Sequence != 4 || d.Subject != m.Subject || d.ID != h.ID || d.Count != 2 || d.Revision != 1 ||
					d.Channel.String() != "topic/ledger" || !d.Stored.Equal(m.Time) || d.Sealed.IsZero() || d.Logged.Before(d.Sealed) ||
					d.Log.Origin != r.Origin() || len(d.Messages) != len(chosen) {
					t.Fatalf("%+v", d)
				}
				slices.Sort(chosen)
				for i, at := range chosen {
					if got := d.Messages[i]; got.Index != at || string(got.Payload) != string(all[at].Payload) || got.ID != all[at].ID {
						t.Errorf("%+v", got)
					}
				}
				for i := range all {
					if shown := bytes.Contains(raw, all[i].Payload); shown != slices.Contains(chosen, i) {
						t.Errorf("message %d is shown: %v", i, shown)
					}
					if shown := bytes.Contains(raw, all[i].Salt[:]); shown != slices.Contains(chosen, i) {
						t.Errorf("the salt of message %d is shown: %v", i, shown)
					}
				}
			}
		}
		for name, chosen := range map[string][]int{"none": {}, "one that is not there": {2}, "a negative one": {-1}, "one twice": {0, 0}} {
			if _, err := Disclose(r, m, all, chosen, r.Statements(), w.trust()); err == nil {
				t.Errorf("%s: it is disclosed", name)
			}
		}
		lie := slices.Clone(all)
		lie[0].Payload = []byte("I never said that")
		if _, err := Disclose(r, m, lie, []int{0}, r.Statements(), w.trust()); !errors.Is(err, ErrDisclosure) {
			t.Errorf("other messages: %v", err)
		}
		if _, err := Disclose(r, m, all, []int{0}, func(func(Statement, error) bool) {}, w.trust()); !errors.Is(err, ErrDisclosure) {
			t.Errorf("without statements: %v", err)
		}
		unknown := *m
		unknown.Sequence = 99
		if _, err := Disclose(r, &unknown, all, []int{0}, r.Statements(), w.trust()); !errors.Is(err, ErrNotFound) {
			t.Errorf("a message that was not logged: %v", err)
		}
	})
}

// TestDisclosureTampered changes each byte of a disclosure: nothing else is ever proven.
func TestDisclosureTampered(t *testing.T) {
	disclosing(t, func(t *testing.T, w *world) {
		m, all := w.stream.at(4), w.opened(4)
		whole := value(Disclose(w.auditor.log, m, all, []int{1}, w.auditor.log.Statements(), w.trust()))(t)
		statements := bytes.Index(whole, all[1].Payload)
		for at := 0; at < len(whole); at += sparsely(1) {
			if at > statements+200 {
				at += 36 // each flip in a statement takes a chain of certificates to find
			}
			bent := bytes.Clone(whole)
			bent[min(at, len(whole)-1)] ^= 1
			_, err := VerifyDisclosure(bent, w.trust())
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrDisclosure) {
				t.Fatalf("changed at %d: %v", at, err)
			}
		}
		for n := 0; n < len(whole); n += sparsely(7) {
			if _, err := VerifyDisclosure(whole[:n], w.trust()); !errors.Is(err, ErrMalformed) {
				t.Fatalf("cut to %d bytes: %v", n, err)
			}
		}
		if _, err := VerifyDisclosure(append(bytes.Clone(whole), 0), w.trust()); !errors.Is(err, ErrMalformed) {
			t.Errorf("something follows: %v", err)
		}
		other := newWorld(t, "SB_TOPIC_ledger")
		for name, trust := range map[string]Trust{
			"another CA":           {w.ca.TrustDomain(), other.ca.Bundle(), w.trust().Operators},
			"another operator":     {w.ca.TrustDomain(), w.ca.Bundle(), other.trust().Operators},
			"another trust domain": {value(policyDomain("example.com"))(t), w.ca.Bundle(), w.trust().Operators},
		} {
			if _, err := VerifyDisclosure(whole, trust); !errors.Is(err, ErrDisclosure) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// TestDisclosureOfOther puts together what does not belong together.
func TestDisclosureOfOther(t *testing.T) {
	disclosing(t, func(t *testing.T, w *world) {
		make := func(sequence uint64) *disclosure {
			raw := value(Disclose(w.auditor.log, w.stream.at(sequence), w.opened(sequence), []int{0}, w.auditor.log.Statements(), w.trust()))(t)
			return value(parseDisclosure(raw))(t)
		}
		refused := func(name string, d *disclosure) {
			t.Helper()
			if _, err := VerifyDisclosure(value(d.append(nil))(t), w.trust()); !errors.Is(err, ErrDisclosure) {
				t.Errorf("%s: %v", name, err)
			}
		}
		d := make(4)
		d.frame = make(5).frame
		refused("the frame of another", d)
		d = make(4)
		d.shown = make(5).shown
		refused("the messages of another", d)
		d = make(4)
		d.proof = make(5).proof
		refused("the proof of another", d)
		d = make(4)
		d.proof.Index++
		refused("another index", d)
		d = make(4)
		d.shown[0].index = 1
		refused("another place in the frame", d)
		d = make(4)
		d.shown[0].message.Salt[0] ^= 1
		refused("another salt", d)
		d = make(4)
		d.proof.Extra = value(AppendEntry(nil, eventOf(KindStill)))(t)
		refused("an event for an entry", d)
		d = make(4)
		d.statements = slices.DeleteFunc(d.statements, func(s Statement) bool { return s.Kind == StatementPolicy })
		refused("no policy", d)
		d = make(4)
		d.statements = slices.DeleteFunc(d.statements, func(s Statement) bool { return s.Kind == StatementCard })
		refused("no cards", d)

		// A frame that was logged, and is none that its sender could send: the auditor says so.
		w.stream.put("sb.topic.ledger.b", w.stream.at(4).Data)
		w.auditor.audit()
		if _, err := Disclose(w.auditor.log, w.stream.at(13), w.opened(4), []int{0}, w.auditor.log.Statements(), w.trust()); !errors.Is(err, ErrDisclosure) {
			t.Errorf("a frame that was moved: %v", err)
		}
	})
}

// TestDisclosureLater: after the policy has changed, by another operator, and the sender is gone, what it sent is proven as before.
func TestDisclosureLater(t *testing.T) {
	disclosing(t, func(t *testing.T, w *world) {
		trust := w.trust()
		c := w.sender("feed-3")
		adopt := func() {
			check(t, c.ring.Refresh(t.Context()))
			check(t, w.planner.Refresh(t.Context()))
			w.auditor.adopt()
		}
		next := value(identity.GenerateOperatorKey())(t)
		w.change("topics:", "operators: [\""+next.Fingerprint().String()+"\"]\ntopics:")
		adopt()
		w.operator = next
		w.change("topics:", "\ntopics:")
		adopt()
		c.send(1) // 13, 14
		w.auditor.audit()
		messages := map[uint64][]envelope.Message{4: w.opened(4), 14: w.opened(14)}
		w.change("queues:", "revoked: [feed-1, feed-3]\nqueues:")
		w.auditor.adopt()
		w.auditor.sign()
		for sequence, revision := range map[uint64]uint64{4: 1, 14: 3} {
			raw := value(Disclose(w.auditor.log, w.stream.at(sequence), messages[sequence], []int{0}, w.auditor.log.Statements(), trust))(t)
			if d := value(VerifyDisclosure(raw, trust))(t); d.Revision != revision {
				t.Errorf("message %d: by the policy of revision %d", sequence, d.Revision)
			}
		}
	})
}
