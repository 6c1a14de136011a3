package keyring

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/identity/devca"
	"github.com/sealbus/sealbus/policy"
)

// claimsOfCard is what a card of the keys o would say.
func claimsOfCard(o *own, agent identity.ID, until time.Time) cardClaims {
	return cardClaims{IssuedAt: time.Now().Unix(), Agent: agent.String(), Card: o.card.String(), HPKE: b64.EncodeToString(o.hpkePublic),
		Ed25519: b64.EncodeToString(o.signingPublic), Expires: until.Unix()}
}

// certificate is one of an agent for a time, from the CA of the world.
func (w *world) certificate(id identity.ID, from, until time.Time) *identity.Memory {
	w.t.Helper()
	return w.issue(devca.Template{ID: id, NotBefore: from, NotAfter: until})
}

// signedCard signs what a card says with a certificate.
func signedCard(t testing.TB, c cardClaims, src identity.Source) []byte {
	t.Helper()
	return value(identity.SignSVIDStatement(typeCard, c, value(src.GetX509SVID())(t)))(t)
}

// TestWitnessCardForgeries: a card is that of whom an authority of the trust domain has certified, at the end of its own time.
func TestWitnessCardForgeries(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		feed, mallory := w.agent("feed-1"), w.agent("exec-1")
		good := value(feed.RawCard(w.ctx(), feed.Self(), feed.Card()))(t)
		keys := *mallory.own
		keys.card = feed.Card()
		id, now := feed.Self(), time.Now()
		hour := now.Add(time.Hour)
		genuine := feed.att.src
		claims := func(change func(*cardClaims)) []byte {
			c := claimsOfCard(&keys, id, hour.Add(-time.Minute))
			change(&c)
			return signedCard(t, c, genuine)
		}
		otherCA, foreignCA := value(devca.New("example.org"))(t), value(devca.New("example.com"))(t)
		for name, raw := range map[string][]byte{
			"feed-1's name, by exec-1":                   signedCard(t, claimsOfCard(&keys, id, hour.Add(-time.Minute)), mallory.att.src),
			"feed-1's name, by another CA":               cardOf(t, &keys, value(otherCA.AgentSource("feed-1", time.Hour))(t)),
			"feed-1's name, by a CA of another domain":   cardOf(t, &keys, value(foreignCA.AgentSource("feed-1", time.Hour))(t)),
			"feed-1's name as a broker's":                cardOf(t, &keys, value(w.ca.BrokerSource("feed-1", time.Hour))(t)),
			"signed by the operator":                     value(identity.SignStatement(typeCard, claimsOfCard(&keys, id, hour), "", w.operator.Signer()))(t),
			"signed by another card":                     value(identity.SignStatement(typeCard, claimsOfCard(&keys, id, hour), "k", statementSigner{mallory.own}))(t),
			"until after its certificate":                signedCard(t, claimsOfCard(&keys, id, now.Add(2*time.Hour)), w.certificate(id, now, hour)),
			"until before its certificate":               signedCard(t, claimsOfCard(&keys, id, now), w.certificate(id, now.Add(time.Minute), hour)),
			"until the beginning of its certificate":     signedCard(t, claimsOfCard(&keys, id, now), w.certificate(id, now, hour)),
			"by a certificate that outlives the CA":      signedCard(t, claimsOfCard(&keys, id, now.Add(1e6*time.Hour)), w.certificate(id, now, now.Add(1e6*time.Hour))),
			"of nobody":                                  claims(func(c *cardClaims) { c.Agent = "" }),
			"of another trust domain":                    claims(func(c *cardClaims) { c.Agent = "spiffe://example.com/agent/feed-1" }),
			"without an id":                              claims(func(c *cardClaims) { c.Card = "" }),
			"an id in lower case":                        claims(func(c *cardClaims) { c.Card = "01arz3ndektsv4rrffq69g5fav" }),
			"a signing key of 31 bytes":                  claims(func(c *cardClaims) { c.Ed25519 = b64.EncodeToString(keys.signingPublic[1:]) }),
			"an HPKE key of 31 bytes":                    claims(func(c *cardClaims) { c.HPKE = b64.EncodeToString(keys.hpkePublic[:31]) }),
			"a line end in a key":                        claims(func(c *cardClaims) { c.HPKE += "\n" }),
			"until 1969":                                 claims(func(c *cardClaims) { c.Expires = -1 }),
			"empty":                                      nil,
			"no statement":                               []byte("card"),
			"a statement of another type":                value(identity.SignSVIDStatement(typeKey, claimsOfCard(&keys, id, hour), value(genuine.GetX509SVID())(t)))(t),
			"the genuine one with a byte of the end cut": good[:len(good)-1],
		} {
			witness := w.witness()
			if info, err := witness.AddCard(raw); err == nil || info != (CardInfo{}) || witness.ncards != 0 {
				t.Errorf("%s: %v", name, err)
			}
		}
		witness := w.witness()
		for i := range good {
			b := bytes.Clone(good)
			b[i] ^= 1
			if info, err := witness.AddCard(b); err == nil || info != (CardInfo{}) {
				t.Errorf("byte %d changed: %v", i, err)
			}
		}
		info := value(witness.AddCard(good))(t)
		if info.Agent != id || info.Card != feed.Card() || info.Hash != value(identity.ParseStatement(good, typeCard))(t).Hash() {
			t.Errorf("%+v", info)
		}
	})
}

// TestWitnessOldCards: certificates that have expired long ago are judged at their own time, and authorities that come are not
// taken for those of then.
func TestWitnessOldCards(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		feed := w.agentUntil("feed-1", time.Hour)
		raw := value(feed.RawCard(w.ctx(), feed.Self(), feed.Card()))(t)
		check(t, feed.Close(w.ctx()))
		pass(20 * 365 * 24 * time.Hour) // the CA's own certificate has expired too
		info := value(w.witness().AddCard(raw))(t)
		if age := time.Since(info.Until); age < 20*365*24*time.Hour-2*time.Hour {
			t.Errorf("it ended %v ago", age)
		}
		later := value(devca.New("example.org"))(t)
		if _, err := NewWitness(w.ca.TrustDomain(), later.Bundle(), w.operator.Fingerprint()).AddCard(raw); err == nil {
			t.Error("it is believed by who knows only the authorities of now")
		}
	})
}

// TestWitnessRenewedCard: a card that was renewed speaks from the beginning of the first to the end of the last, in
// whatever order they are added, and the last alone from when its keys were drawn.
func TestWitnessRenewedCard(t *testing.T) {
	inquestWorld(t, func(t *testing.T, q *inquest) {
		begin := time.Now()
		first := value(q.auditor.RawCard(q.w.ctx(), q.producer.Self(), q.producer.Card()))(t)
		early := q.craft(t).at(t, begin.Add(-30*time.Second)).frame(t) // within its certificate, before its keys
		inFirst := q.seal(t, "in the first")
		pass(50 * time.Minute)
		q.w.renew(q.producer, time.Hour)
		second := value(q.auditor.RawCard(q.w.ctx(), q.producer.Self(), q.producer.Card()))(t)
		pass(30 * time.Minute)
		inSecond := q.seal(t, "in the second")
		logged := time.Now()
		pass(time.Hour)
		after := q.craft(t).frame(t)
		end := time.Now()
		for _, cards := range [][][]byte{{first}, {second}, {first, second}, {second, first}, {second, first, first, second}} {
			q.witness = q.w.witness()
			value(q.witness.AddPolicy(q.auditor.RawPolicy()))(t)
			want := map[bool]Reason{true: 0, false: Stale}
			one, two := false, false
			for _, raw := range cards {
				one, two = one || bytes.Equal(raw, first), two || bytes.Equal(raw, second)
				value(q.witness.AddCard(raw))(t)
			}
			q.testifies(t, early, begin, want[one])
			q.testifies(t, inFirst, begin, 0)
			q.testifies(t, inSecond, logged, want[two])
			q.testifies(t, after, end, Stale)
			info := value(q.witness.Card(q.producer.Self(), q.producer.Card()))(t)
			if from := info.From; from.Equal(begin.Add(-time.Minute)) != one || !one && !from.Equal(ulid.Time(q.producer.Card().Time())) {
				t.Errorf("first %v: from %v", one, from)
			}
			if until := info.Until; until.Equal(begin.Add(110*time.Minute)) != two || !two && !until.Equal(begin.Add(time.Hour)) {
				t.Errorf("second %v: until %v", two, until)
			}
		}
	})
}

// TestWitnessTwinCards: who signs cards with other keys under one id is believed about all, and speaks for nobody else; and no
// checkpoint can be verified under them.
func TestWitnessTwinCards(t *testing.T) {
	inquestWorld(t, func(t *testing.T, q *inquest) {
		frame := q.seal(t, "x")
		twin := must(newOwn(q.producer.Card()))
		value(q.witness.AddCard(cardOf(t, twin, q.producer.att.src)))(t)
		c := q.craft(t)
		c.signer = twin
		q.testifies(t, c.frame(t), time.Now(), 0)
		q.testifies(t, frame, time.Now(), 0)
		if _, err := q.witness.Card(q.producer.Self(), q.producer.Card()); err == nil || errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		if _, err := q.witness.NoteVerifier("log", q.producer.Self(), q.producer.Card()); err == nil || errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		// Another agent's card under the id is another card.
		stranger := q.w.agentUntil("prod-1", month)
		same := *stranger.own
		same.card = q.producer.Card()
		value(q.witness.AddCard(cardOf(t, &same, stranger.att.src)))(t)
		c = q.craft(t)
		c.signer = stranger.own
		q.testifies(t, c.frame(t), time.Now(), BadSignature)
		for i := range maxSameCard {
			_, err := q.witness.AddCard(cardOf(t, must(newOwn(q.producer.Card())), q.producer.att.src))
			if (err == nil) != (i < maxSameCard-2) {
				t.Errorf("card %d: %v", i, err)
			}
		}
		q.testifies(t, frame, time.Now(), 0)
	})
}

// TestWitnessKeys: what a key statement proves, and what it takes.
func TestWitnessKeys(t *testing.T) {
	inquestWorld(t, func(t *testing.T, q *inquest) {
		k := currentKey(t, q.worker, queue)
		raw := k.statement.raw
		if info, err := q.witness.AddKey(raw); !errors.Is(err, ErrNotFound) || info != (KeyInfo{}) {
			t.Errorf("without its creator's card: %v", err)
		}
		card := q.show(t, q.worker)
		info := value(q.witness.AddKey(raw))(t)
		s := k.statement
		want := KeyInfo{Channel: queue, Key: s.id, Commitment: s.commitment, Created: s.created, Creator: q.worker.Self(), Card: q.worker.Card(),
			Revision: 1, Policy: q.policy.Hash(), Due: s.due, Hash: s.hash}
		if info != want {
			t.Errorf("got\n%+v, want\n%+v", info, want)
		}
		for i := range raw {
			b := bytes.Clone(raw)
			b[i] ^= 1
			if info, err := q.witness.AddKey(b); err == nil || info != (KeyInfo{}) {
				t.Errorf("byte %d changed: %v", i, err)
			}
		}
		says := func(by *own, change func(*keyStatement)) []byte {
			s := statementBy(t, q.worker, queue, 7, mustSecret(t))
			change(s)
			return value(identity.SignStatement(typeKey, s.claims(time.Now()), s.card.String(), statementSigner{by}))(t)
		}
		at := func(when time.Time) func(*keyStatement) {
			return func(s *keyStatement) { s.created = newULID(t, when) }
		}
		value(q.witness.AddKey(says(q.worker.own, at(card.Until.Add(-time.Millisecond)))))(t)
		value(q.witness.AddKey(says(q.worker.own, at(card.From.Add(-MaxClockLead)))))(t)
		for name, raw := range map[string][]byte{
			"signed by another":           says(q.producer.own, func(*keyStatement) {}),
			"of another agent":            says(q.worker.own, func(s *keyStatement) { s.creator = q.producer.Self() }),
			"of another of its cards":     says(q.worker.own, func(s *keyStatement) { s.card[15]++ }),
			"made after the card's end":   says(q.worker.own, at(card.Until)),
			"made before the card":        says(q.worker.own, at(card.From.Add(-MaxClockLead-time.Millisecond))),
			"a broker's":                  says(q.worker.own, func(s *keyStatement) { s.creator = identity.MustParseID("spiffe://example.org/broker/n1") }),
			"with a key id of zero":       says(q.worker.own, func(s *keyStatement) { s.id = 0 }),
			"of no channel":               says(q.worker.own, func(s *keyStatement) { s.channel = policy.Channel{} }),
			"signed with the certificate": value(identity.SignSVIDStatement(typeKey, statementBy(t, q.worker, queue, 7, mustSecret(t)).claims(time.Now()), value(q.worker.att.src.GetX509SVID())(t)))(t),
			"a wrap":                      value(identity.SignStatement(typeWrap, s.claims(time.Now()), s.card.String(), statementSigner{q.worker.own}))(t),
			"under another card's id":     value(identity.SignStatement(typeKey, s.claims(time.Now()), q.producer.Card().String(), statementSigner{q.worker.own}))(t),
		} {
			if info, err := q.witness.AddKey(raw); err == nil || info != (KeyInfo{}) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}
