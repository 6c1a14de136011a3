package keyring

import (
	"context"
	"crypto/x509"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/identity/devca"
	"github.com/sealbus/sealbus/policy"
)

// putCard stores a card where the card id of r would have it.
func (w *world) putCard(agent string, r *Ring, raw []byte) {
	w.t.Helper()
	check(w.t, w.store.Put(w.ctx(), policy.BucketCards, policy.CardKey(agent, r.own.card.String()), raw))
}

// cardOf signs a card for the keys of o under src, whoever that is.
func cardOf(t testing.TB, o *own, src identity.Source) []byte {
	t.Helper()
	raw, _, err := signCard(o, src, time.Now())
	check(t, err)
	return raw
}

func (w *world) issue(tmpl devca.Template) *identity.Memory {
	w.t.Helper()
	return identity.NewMemory(value(w.ca.Issue(tmpl))(w.t), w.ca.Bundle())
}

// TestSubstitutedCards puts cards in the place of feed-1's as a broker can. Its frames are not believed then, and
// what mallory signs is not believed as feed-1's.
func TestSubstitutedCards(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		reader, feed, mallory := w.agent("planner"), w.agent("feed-1"), w.agent("exec-1")
		check(t, reader.Join(w.ctx(), prices))
		check(t, mallory.Join(w.ctx(), prices))
		s := value(feed.Sender(w.ctx(), prices))(t)
		synctest.Wait()
		rc, want := value(reader.Receiver(prices))(t), wantEvent("prices.x")
		genuine, _, err := s.Seal(nil, draft("prices.x", "x"))
		check(t, err)
		good := value(w.store.Get(w.ctx(), policy.BucketCards, policy.CardKey("feed-1", feed.own.card.String())))(t)

		mallorysKeys := *mallory.own
		mallorysKeys.card = feed.own.card
		selfID := feed.att.self
		now := time.Now()
		otherCA := value(devca.New("example.org"))(t)
		foreignCA := value(devca.New("example.com"))(t)
		operatorSigned := value(identity.SignStatement(typeCard, cardClaims{IssuedAt: now.Unix(), Agent: selfID.String(),
			Card: feed.own.card.String(), HPKE: b64.EncodeToString(mallory.own.hpkePublic),
			Ed25519: b64.EncodeToString(mallory.own.signingPublic), Expires: now.Add(time.Hour).Unix()}, "", w.operator.Signer()))(t)
		for name, raw := range map[string][]byte{
			"mallory's card as it is":                  cardOf(t, mallory.own, mallory.att.src),
			"mallory's card with feed-1's card id":     cardOf(t, &mallorysKeys, mallory.att.src),
			"feed-1's name, by another CA":             cardOf(t, &mallorysKeys, value(otherCA.AgentSource("feed-1", time.Hour))(t)),
			"feed-1's name, by a CA of another domain": cardOf(t, &mallorysKeys, value(foreignCA.AgentSource("feed-1", time.Hour))(t)),
			"feed-1's name as a broker's":              cardOf(t, &mallorysKeys, value(w.ca.BrokerSource("feed-1", time.Hour))(t)),
			"signed by the operator":                   operatorSigned,
			"of feed-1, of another instance":           cardOf(t, must(newOwn(newULID(t, now))), feed.att.src),
			"by an expired certificate of feed-1":      cardOf(t, &mallorysKeys, w.issue(devca.Template{ID: selfID, NotBefore: now.Add(-2 * time.Hour), NotAfter: now.Add(-time.Hour)})),
			"by a certificate of feed-1 not valid yet": cardOf(t, &mallorysKeys, w.issue(devca.Template{ID: selfID, NotBefore: now.Add(time.Hour), NotAfter: now.Add(2 * time.Hour)})),
			"empty":                       nil,
			"no statement":                []byte("card"),
			"a statement of another type": value(identity.SignSVIDStatement(typeKey, cardClaims{IssuedAt: now.Unix()}, must(feed.att.src.GetX509SVID())))(t),
			"the genuine one with a byte of the end cut": good[:len(good)-1],
		} {
			t.Log(name)
			reader.cards = cardBox{}
			w.putCard("feed-1", feed, raw)
			if err := reader.Await(cut(), genuine); err == nil {
				t.Error("it was believed")
			}
			mustReject(t, rc, genuine, want, NoCard)
			c := craft(t, mallory, prices, currentKey(t, mallory, prices), "prices.x")
			c.claim(feed)
			mustReject(t, rc, c.frame(t), want, NoCard)
		}
		w.putCard("feed-1", feed, good)
		if _, err := open(t, reader, rc, genuine, want); err != nil {
			t.Error(err)
		}
	})
}

// TestSelfSignedCard: a certificate that is its own authority.
func TestSelfSignedCard(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		feed := w.agent("feed-1")
		src := w.issue(devca.Template{ID: feed.att.self, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
			Edit: func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }})
		if _, _, err := signCard(feed.own, src, time.Now()); err == nil {
			t.Error("a certificate that may not sign signed a card")
		}
	})
}

// TestCardOutlivesItsCertificate: what a card says of its own expiry counts only downwards.
func TestCardOutlivesItsCertificate(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		feed := w.agent("feed-1")
		svid := value(feed.att.src.GetX509SVID())(t)
		end := svid.Certificates[0].NotAfter
		for _, test := range []struct {
			expires time.Time
			ok      bool
		}{{end, true}, {end.Add(time.Second), false}, {time.Now().Add(time.Minute), true}, {time.Now(), false}} {
			raw := value(identity.SignSVIDStatement(typeCard, cardClaims{IssuedAt: time.Now().Unix(), Agent: feed.att.self.String(),
				Card: feed.own.card.String(), HPKE: b64.EncodeToString(feed.own.hpkePublic),
				Ed25519: b64.EncodeToString(feed.own.signingPublic), Expires: test.expires.Unix()}, svid))(t)
			_, err := verifyCard(raw, feed.att.src, feed.att.self.TrustDomain(), "feed-1", feed.own.card, time.Now())
			if (err == nil) != test.ok {
				t.Errorf("expires %v after the certificate: %v", test.expires.Sub(end), err)
			}
		}
	})
}

// TestExpiredKeyIsDead: who stole the key of an expired certificate can seal and sign, and is not believed; nor is the card
// that was good an hour ago, in a session that is open.
func TestExpiredKeyIsDead(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.setPolicy(testPolicy)
		w.certificates = 2 * time.Hour
		reader := w.agent("planner")
		w.certificates = time.Hour
		p := w.meet(prices, reader, w.agent("feed-1"))
		pass(time.Hour - time.Second)
		mustOpen(t, p.rc, p.seal(t, "x"), p.want)
		pass(2 * time.Second)
		frame := p.seal(t, "x")
		mustReject(t, p.rc, frame, p.want, NoCard)
		if err := reader.Await(cut(), frame); err == nil {
			t.Error("an expired card was believed")
		}
		if err := p.writer.Refresh(w.ctx()); err == nil {
			t.Error("a ring with an expired certificate refreshed")
		}
		// Renewed, with the same keys, it goes on.
		p.writer.att.src.(*identity.Memory).SetSVID(value(w.ca.Agent("feed-1", time.Hour))(t))
		check(t, p.writer.Refresh(w.ctx()))
		if _, err := open(t, reader, p.rc, frame, p.want); err != nil {
			t.Error(err)
		}
	})
}

// TestCardUnderAnothersID: agents choose their card ids, and may choose another's. That takes nothing from the other.
func TestCardUnderAnothersID(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		reader, feed, mallory := w.agent("planner"), w.agent("feed-1"), w.agent("feed-2")
		p := w.meet(prices, reader, feed)
		same := *mallory.own
		same.card = feed.own.card
		raw := cardOf(t, &same, mallory.att.src)
		w.putCard("feed-2", feed, raw)
		if _, err := reader.card(w.ctx(), mallory.att.self, feed.own.card); err != nil {
			t.Fatal(err)
		}
		if reader.cards.cached(feed.att.self, feed.own.card, time.Now()) == nil {
			t.Error("feed-2's card of the same id has displaced feed-1's")
		}
		mustOpen(t, p.rc, craft(t, feed, prices, currentKey(t, reader, prices), p.subject).frame(t), p.want)
	})
}

// TestChainEndsEarly: a card made under an intermediate that expires before its leaf says the earlier time.
func TestCardExpiresWithItsChain(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		feed := w.agent("feed-1")
		svid := *value(feed.att.src.GetX509SVID())(t)
		early := *svid.Certificates[0]
		early.NotAfter = early.NotAfter.Add(-time.Minute)
		svid.Certificates = append(svid.Certificates, &early)
		_, expires, err := signCard(feed.own, identity.NewMemory(&svid, w.ca.Bundle()), time.Now())
		check(t, err)
		if !expires.Equal(early.NotAfter) {
			t.Errorf("the card expires %v after its chain", expires.Sub(early.NotAfter))
		}
	})
}

// TestCardCacheIsBounded.
func TestCardCacheIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		feed := w.agent("feed-1")
		var b cardBox
		for range maxCards + 100 {
			c := *w.cardOfRingKeys(feed)
			c.id = newULID(t, time.Now())
			b.put(&c)
			if b.cached(c.agent, c.id, time.Now()) == nil {
				t.Fatal("a card that was just put is gone")
			}
		}
		if len(b.cards) > maxCards {
			t.Errorf("%d cards kept", len(b.cards))
		}
	})
}

func (w *world) cardOfRingKeys(r *Ring) *card {
	return &card{agent: r.att.self, expires: time.Now().Add(time.Hour)}
}

// TestUnknownAgentsDoNotAttach: who the policy does not know, or knows as revoked, gets no further than Attach.
func TestUnknownAgentsDoNotAttach(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.setPolicy(strangersPolicy)
		for _, name := range []string{"stranger", "feed-bad"} {
			r := value(Memory(w.operator.Fingerprint()))(t)
			if err := r.Attach(w.ctx(), w.source(name), w.store, nil); !errors.Is(err, ErrNotEntitled) {
				t.Errorf("%s: %v", name, err)
			}
			check(t, r.Close(context.Background()))
		}
		r := value(Memory(w.operator.Fingerprint()))(t)
		if err := r.Attach(w.ctx(), value(w.ca.BrokerSource("n1", time.Hour))(t), w.store, nil); err == nil {
			t.Error("a broker node attached as an agent")
		}
		check(t, r.Close(context.Background()))
	})
}

const strangersPolicy = `trust_domain: example.org
revision: 1
topics:
  prices: {publish: ["feed-*"], subscribe: [planner]}
revoked: [feed-bad]
`
