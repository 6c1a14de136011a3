package keyring

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/policy"
)

// believes expects the revisions that a witness believes.
func believes(t testing.TB, w *Witness, want ...uint64) {
	t.Helper()
	var got []uint64
	for _, p := range w.Policies() {
		got = append(got, p.Revision())
	}
	if !slices.Equal(got, want) {
		t.Errorf("revisions %v are believed, want %v", got, want)
	}
}

// names returns testPolicy under a revision, which names operators.
func names(n int, operators ...*identity.OperatorKey) string {
	text := revision(n)
	for i, o := range operators {
		if i == 0 {
			text += "operators:\n"
		}
		text += fmt.Sprintf("  - %q\n", o.Fingerprint())
	}
	return text
}

func operators(t testing.TB, n int) (list []*identity.OperatorKey) {
	for range n {
		list = append(list, value(identity.GenerateOperatorKey())(t))
	}
	return list
}

// TestWitnessPolicyForgeries: a policy counts because of whose key signed it, and for no other reason.
func TestWitnessPolicyForgeries(t *testing.T) {
	w := newWorld(t)
	witness := w.witness()
	one := w.sign(testPolicy)
	value(witness.AddPolicy(one))(t)
	stranger := operators(t, 1)[0]
	type claims struct {
		IssuedAt int64  `json:"iat"`
		Operator string `json:"operator"`
		Policy   string `json:"policy"`
	}
	byCA := value(identity.SignSVIDStatement("sealbus-policy", claims{time.Now().Unix(), "", revision(2)}, value(w.ca.Agent("operator-1", time.Hour))(t)))(t)
	cut, other := strings.Split(string(w.sign(revision(2))), "."), strings.Split(string(w.sign(revision(3))), ".")
	for name, raw := range map[string][]byte{
		"another operator's":                       w.signedBy(stranger, revision(2)),
		"one that names its own signer":            w.signedBy(stranger, names(2, stranger)),
		"of a revision before all":                 w.signedBy(stranger, strings.Replace(names(2, stranger), "revision: 2", "revision: 1", 1)),
		"signed with a certificate of the CA":      byCA,
		"another policy under a genuine signature": []byte(cut[0] + "." + other[1] + "." + cut[2]),
		"no signature":                             []byte(cut[0] + "." + cut[1] + "."),
		"empty":                                    {},
		"the text alone":                           []byte(revision(2)),
		"of another trust domain":                  w.sign(strings.ReplaceAll(revision(2), "example.org", "example.com")),
		"a statement of another type":              value(identity.SignStatement(typeKey, claims{IssuedAt: 1}, "k", w.operator.Signer()))(t),
	} {
		if p, err := witness.AddPolicy(raw); err == nil || p != nil {
			t.Errorf("%s: %v", name, err)
		}
		believes(t, witness, 1)
	}
	if _, err := witness.AddPolicy(w.signedBy(stranger, revision(2))); !errors.Is(err, policy.ErrUntrustedOperator) {
		t.Error(err)
	}
	for i := range one {
		b := bytes.Clone(one)
		b[i] ^= 1
		if p, err := w.witness().AddPolicy(b); err == nil || p != nil {
			t.Errorf("byte %d changed: %v", i, err)
		}
	}
	if _, err := NewWitness(w.ca.TrustDomain(), w.ca.Bundle()).AddPolicy(one); !errors.Is(err, policy.ErrUntrustedOperator) {
		t.Errorf("without an operator: %v", err)
	}
	if _, err := NewWitness(w.ca.TrustDomain(), w.ca.Bundle(), identity.Fingerprint{}).AddPolicy(one); !errors.Is(err, policy.ErrUntrustedOperator) {
		t.Errorf("with an empty fingerprint: %v", err)
	}
}

// TestWitnessSuccession: operators that policies name, and that later ones do not name any more, whatever the order in which
// the policies come.
func TestWitnessSuccession(t *testing.T) {
	w := newWorld(t)
	o := operators(t, 4)
	history := [][]byte{
		w.sign(names(1, o[0])),
		w.signedBy(o[0], names(2, o[1])),
		w.signedBy(o[1], names(4, o[2])), // the third is not here
		w.signedBy(o[0], names(5, o[0])), // whom the second has replaced
		w.signedBy(o[2], names(6)),
		w.signedBy(o[2], names(7)), // whom the sixth does not name any more
		w.signedBy(o[3], names(8, o[3])),
		w.signedBy(o[3], names(9, o[3])),
		w.sign(names(10)), // the pinned one counts always
	}
	for range 50 {
		shuffled := slices.Clone(history)
		for i := range shuffled {
			j := i + int(newULID(t, time.Now())[15])%(len(shuffled)-i)
			shuffled[i], shuffled[j] = shuffled[j], shuffled[i]
		}
		witness := w.witness()
		for _, raw := range shuffled {
			_, _ = witness.AddPolicy(raw) // may be judged otherwise when all are here
		}
		believes(t, witness, 1, 2, 4, 6, 10)
		for i, raw := range history {
			p, err := witness.AddPolicy(raw)
			if good := i != 3 && i != 5 && i != 6 && i != 7; (err == nil) != good || (p != nil) != good {
				t.Errorf("policy %d, again: %v", i, err)
			}
		}
		believes(t, witness, 1, 2, 4, 6, 10)
	}
}

// TestWitnessTakesBelief: an operator whose key was stolen and who was dismissed signs on. As long as the dismissal is withheld it is
// believed, as by every ring that has not heard of it; no longer.
func TestWitnessTakesBelief(t *testing.T) {
	inquestWorld(t, func(t *testing.T, q *inquest) {
		thief := operators(t, 1)[0]
		named := strings.Replace(auditedPolicy, "revision: 1", fmt.Sprintf("revision: 2\noperators: [%q]", thief.Fingerprint()), 1)
		value(q.witness.AddPolicy(q.w.sign(named)))(t)
		raw := q.w.signedBy(thief, strings.Replace(auditedPolicy, "revision: 1", "revision: 4", 1))
		p := value(q.witness.AddPolicy(raw))(t)
		frame := q.seal(t, "x")
		q.judges(t, frame, queue, p, time.Now(), q.want, 0)
		q.rule(t, 3)
		if _, err := q.witness.Attest(frame, queue, p, time.Now(), q.want); err == nil || ReasonOf(err) != 0 {
			t.Errorf("judged by the thief's policy: %v", err)
		}
		if _, err := q.witness.AddPolicy(raw); !errors.Is(err, policy.ErrUntrustedOperator) {
			t.Error(err)
		}
		believes(t, q.witness, 1, 2, 3)
	})
}

// TestWitnessForks: of two policies of one revision the first counts, and one that continues another history than is here counts not.
func TestWitnessForks(t *testing.T) {
	w := newWorld(t)
	witness := w.witness()
	one := value(witness.AddPolicy(w.sign(testPolicy)))(t)
	two := value(witness.AddPolicy(w.sign(revision(2))))(t)
	fork := w.sign(revision(2, "24h", "25h"))
	if _, err := witness.AddPolicy(fork); !errors.Is(err, policy.ErrFork) {
		t.Error(err)
	}
	strays := value(policy.Verify(fork, []identity.Fingerprint{w.operator.Fingerprint()}))(t)
	after := func(p *policy.Policy) string {
		return fmt.Sprintf("%sprevious: %q\n", revision(3), policy.FormatHash(p.Hash()))
	}
	if _, err := witness.AddPolicy(w.sign(after(strays))); !errors.Is(err, policy.ErrFork) {
		t.Error(err)
	}
	value(witness.AddPolicy(w.sign(after(two))))(t)
	believes(t, witness, 1, 2, 3)
	if witness.believes(strays) || !witness.believes(one) {
		t.Error("the fork is believed, or the first is not")
	}
}

// TestWitnessPolicyFlood: what strangers sign takes neither room without end nor that of others for good.
func TestWitnessPolicyFlood(t *testing.T) {
	w := newWorld(t)
	o := operators(t, 2)
	witness := w.witness()
	three := w.signedBy(o[0], revision(3))
	for i := range 2 * maxUnvouched {
		if _, err := witness.AddPolicy(w.signedBy(o[1], revision(4+i))); !errors.Is(err, policy.ErrUntrustedOperator) {
			t.Fatal(err)
		}
	}
	if n := len(witness.policies); n > maxUnvouched {
		t.Errorf("%d policies that nobody vouches for are kept", n)
	}
	_, err := witness.AddPolicy(three)
	if !errors.Is(err, policy.ErrUntrustedOperator) {
		t.Fatal(err)
	}
	value(witness.AddPolicy(w.sign(names(2, o[0]))))(t)
	believes(t, witness, 2, 3)
	if n := len(witness.policies); n > maxUnvouched+2 {
		t.Errorf("%d policies are kept", n)
	}
}
