package integration_test

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/identity/devca"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// authorityOf returns the certificate and key of the authority itself.
func authorityOf(t testing.TB, ca *devca.CA) *x509svid.SVID {
	t.Helper()
	dir := t.TempDir()
	bustest.Check(t, ca.Save(dir))
	cert, _ := pem.Decode(mustRead(t, filepath.Join(dir, "ca.pem")))
	key, _ := pem.Decode(mustRead(t, filepath.Join(dir, "ca-key.pem")))
	parsed, err := x509.ParseCertificate(cert.Bytes)
	bustest.Check(t, err)
	private, err := x509.ParsePKCS8PrivateKey(key.Bytes)
	bustest.Check(t, err)
	return &x509svid.SVID{Certificates: []*x509.Certificate{parsed}, PrivateKey: private.(*ecdsa.PrivateKey)}
}

func mustRead(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	bustest.Check(t, err)
	return b
}

// TestSubstitutedCard: whoever owns the broker puts a card of its own making into a reader's place and asks
// for the channel's key. The key is wrapped for no card but one that the authority's certificate signs for.
func TestSubstitutedCard(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, trustPolicy)
	o := newOwner(w)
	planner, log := watched(w, "planner")
	listen(w, planner, "gossip")

	const exec = "spiffe://example.org/agent/exec-1"
	agent := func(name string) *x509svid.SVID {
		svid, err := w.CA.Agent(name, time.Hour)
		bustest.Check(t, err)
		return svid
	}
	issue := func(ca *devca.CA, id string, from, to time.Duration) *x509svid.SVID {
		svid, err := ca.Issue(devca.Template{ID: identity.MustParseID(id), NotBefore: time.Now().Add(from), NotAfter: time.Now().Add(to)})
		bustest.Check(t, err)
		return svid
	}
	node, err := w.CA.Broker("node-1", time.Hour)
	bustest.Check(t, err)
	for _, c := range []struct {
		name   string
		signer *x509svid.SVID
		edit   func(*jwsHeader, *cardClaims)
		text   string // of the refusal
	}{
		{"another agent's own card", agent("mallory"), func(_ *jwsHeader, c *cardClaims) { c.Agent = "spiffe://example.org/agent/mallory" }, "in the place of"},
		{"signed by another agent", agent("mallory"), nil, "signed by spiffe://example.org/agent/mallory"},
		{"signed by another reader", agent("exec-2"), nil, "signed by spiffe://example.org/agent/exec-2"},
		{"signed by the broker", node, nil, "signed by spiffe://example.org/broker/node-1"},
		{"the broker's own", node, func(_ *jwsHeader, c *cardClaims) { c.Agent = "spiffe://example.org/broker/node-1" }, "signed by spiffe://example.org/broker/node-1"},
		{"signed by the authority itself", authorityOf(t, w.CA), nil, "CA's own certificate"},
		{"of another authority", issue(otherCA(t, bustest.Domain), exec, -time.Hour, time.Hour), nil, "issued by no CA of the trust domain"},
		{"of another trust domain", issue(otherCA(t, "other.org"), "spiffe://other.org/agent/exec-1", -time.Hour, time.Hour), nil, "not of the trust domain"},
		{"another trust domain's name from this authority", issue(w.CA, "spiffe://other.org/agent/exec-1", -time.Hour, time.Hour), nil, "not of the trust domain"},
		{"self-made, no certificate", agent("mallory"), func(h *jwsHeader, _ *cardClaims) { h.Chain = nil }, "no certificate in it"},
		{"of an expired certificate", issue(w.CA, exec, -2*time.Hour, -time.Hour), nil, "expired"},
		{"of an expired certificate, prolonged", issue(w.CA, exec, -2*time.Hour, -time.Hour), func(_ *jwsHeader, c *cardClaims) { c.Expires = time.Now().Add(time.Hour).Unix() }, "expired"},
		{"of an expired certificate, dated back", issue(w.CA, exec, -2*time.Hour, -time.Hour), func(_ *jwsHeader, c *cardClaims) { c.IssuedAt = time.Now().Add(-90 * time.Minute).Unix() }, "expired"},
		{"of a certificate that is not valid yet", issue(w.CA, exec, time.Hour, 2*time.Hour), nil, "begins"},
		{"outliving its certificate", agent("exec-1"), func(_ *jwsHeader, c *cardClaims) { c.Expires += 3600 }, "outlives its certificate"},
		{"of another instance", agent("exec-1"), func(_ *jwsHeader, c *cardClaims) { c.Card = "01ARZ3NDEKTSV4RRFFQ69G5FAV" }, "in the place of"},
		{"of another type", agent("exec-1"), func(h *jwsHeader, _ *cardClaims) { h.Type = "sealbus-key" }, "type"},
		{"another's chain", agent("exec-1"), func(h *jwsHeader, _ *cardClaims) {
			h.Chain = []string{b64std(agent("exec-1").Certificates[0].Raw)}
		}, "wrong signature"},
	} {
		f := newForger(t, c.signer, exec)
		key := f.join(o, trustGossip, f.cardStatement(c.edit))
		log.await(t, notBelieved, key, c.text)
		if got := o.keys(policy.BucketKeys, "topic.gossip.w.*."+f.card.String()+".>"); len(got) > 0 {
			t.Errorf("%s: it was given the key: %q", c.name, got)
		}
	}

	// The same by an agent whom the authority has certified is believed, and given the real key.
	f := certified(w, "exec-1")
	feed := o.tap("sb.store.keys.topic.gossip.w.planner." + f.card.String() + ".>")
	f.join(o, trustGossip, f.cardStatement(nil))
	c, secret := f.open(bustest.Receive(t, feed).Data)
	if k := forgedKeyOf(trustGossip, c.Key, secret); b64url(k.commitment) != c.Commitment || c.Role != "reader" {
		t.Errorf("a reader was given a key as %s that does not match its commitment", c.Role)
	}
}

// insider returns a forger that is a certified member of a channel, and the channel key it was given.
func insider(w *bustest.World, o *owner, name string, ch policy.Channel) (*forger, *forgedKey) {
	w.T.Helper()
	f := certified(w, name)
	wraps := o.tap("sb.store.keys." + policy.KeyPrefix(ch) + ".w.*." + f.card.String() + ".>")
	f.join(o, ch, f.cardStatement(nil))
	c, secret := f.open(bustest.Receive(w.T, wraps).Data)
	return f, forgedKeyOf(ch, c.Key, secret)
}

// TestReplacedCard: a reader of a signed channel, who can seal as anybody there, is friends with the broker,
// who puts a card with the reader's signing key in a writer's place.
func TestReplacedCard(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, trustPolicy)
	o := newOwner(w)
	planner, feed := w.Agent("planner"), w.Agent("feed-1")
	got := listen(w, planner, "prices")
	bustest.Check(t, feed.Publish(w.Ctx(), "prices.x", []byte("one")))
	bustest.Receive(t, got)
	traitor, key := insider(w, o, "exec-2", trustPrices)
	feed1 := victimOf(o, "feed-1")
	place := policy.CardKey("feed-1", feed1.Card)
	original := o.get(policy.BucketCards, place)

	stranger := newForger(t, authorityOf(t, otherCA(t, bustest.Domain)), feed1.Agent)
	svid, err := otherCA(t, bustest.Domain).Agent("feed-1", time.Hour)
	bustest.Check(t, err)
	stranger.svid, stranger.signing = svid, traitor.signing
	mine := func(c *cardClaims) { c.Agent, c.Card = feed1.Agent, feed1.Card }
	fakes := [][]byte{
		traitor.cardStatement(nil),
		traitor.cardStatement(func(_ *jwsHeader, c *cardClaims) { mine(c) }),
		stranger.cardStatement(func(_ *jwsHeader, c *cardClaims) { mine(c) }),
	}
	forged := func() []byte {
		return traitor.frame(key, key.senderKey(t, feed1.Agent), "prices.x", "forged", true, feed1.claim)
	}
	// The planner has seen the true card. A reader that comes now has not, and looks for it, in vain.
	var late []<-chan string
	for i, fake := range fakes {
		o.put(policy.BucketCards, place, fake)
		late = append(late, listen(w, w.Agent("exec-"+string(rune('3'+i))), "prices"))
		o.inject("sb.topic.prices.x", forged())
	}
	w.AwaitRejections(3, keyring.BadSignature) // by the planner
	w.AwaitRejections(1+2+3, keyring.NoCard)
	for _, c := range late {
		bustest.Empty(t, c)
	}
	o.put(policy.BucketCards, place, original)
	say(w, feed, "prices.x", "two", got, listen(w, w.Agent("exec-9"), "prices"))
}

// TestExpiredKeyThief: somebody has an agent's key, and its certificate has expired. Nothing that it signs
// from then on is believed, the card from before least of all, and the broker cuts it off.
func TestExpiredKeyThief(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, trustPolicy)
	o := newOwner(w)
	planner, log := watched(w, "planner")
	got := listen(w, planner, "prices")
	feed := w.Agent("feed-1")

	end := time.Now().Add(3 * time.Second).Truncate(time.Second)
	src := issued(t, w, w.CA, devca.Template{ID: identity.MustParseID("spiffe://example.org/agent/feed-2"), NotBefore: end.Add(-time.Hour), NotAfter: end})
	svid, err := src.GetX509SVID()
	bustest.Check(t, err)
	thief := newForger(t, svid, "spiffe://example.org/agent/feed-2")
	wraps := o.tap("sb.store.keys.topic.prices.w.*." + thief.card.String() + ".>")
	thief.join(o, trustPrices, thief.cardStatement(nil))
	c, senderKey := thief.open(bustest.Receive(t, wraps).Data)
	key := &forgedKey{ch: trustPrices, id: c.Key}
	if c.Role != "writer" {
		t.Fatalf("a writer was given a key as %s", c.Role)
	}
	closed := make(chan struct{})
	nc := w.Raw(src, onClosed(closed)...)
	bustest.Check(t, nc.Publish("sb.topic.prices.x", thief.frame(key, senderKey, "prices.x", "in time", true, nil)))
	if text := bustest.Receive(t, got); text != "feed-2: in time" {
		t.Fatalf("got %q", text)
	}

	bustest.Receive(t, closed) // by the broker
	if time.Now().Before(end) {
		t.Errorf("cut off %v before the certificate's end", time.Until(end))
	}
	if _, err := w.Dial(src); err == nil {
		t.Error("connected with a certificate that has expired")
	}
	// The broker lets it in all the same.
	o.inject("sb.topic.prices.x", thief.frame(key, senderKey, "prices.x", "late", true, nil))
	o.put(policy.BucketCards, policy.CardKey("feed-2", thief.card.String()), thief.cardStatement(func(_ *jwsHeader, c *cardClaims) {
		c.Expires = time.Now().Add(time.Hour).Unix()
	}))
	o.inject("sb.topic.prices.x", thief.frame(key, senderKey, "prices.x", "late", true, nil))
	w.AwaitRejections(2, keyring.NoCard)
	// A fresh instance of it gets nothing.
	again := newForger(t, svid, "spiffe://example.org/agent/feed-2")
	log.await(t, notBelieved, again.join(o, trustPrices, again.cardStatement(nil)), "expired")
	say(w, feed, "prices.x", "still here", got)
	if keys := o.keys(policy.BucketKeys, "topic.prices.w.*."+again.card.String()+".>"); len(keys) > 0 {
		t.Errorf("it was given the keys %q", keys)
	}
}
