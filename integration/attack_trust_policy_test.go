package integration_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/broker"
	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// everybody is a policy that an attacker would like to see in force: it lets mallory read.
var everybody = nextRevision(7, `subscribe: [planner, "exec-*"]`, `subscribe: ["*"]`)

type policyClaims struct {
	IssuedAt int64  `json:"iat"`
	Operator string `json:"operator"`
	Policy   string `json:"policy"`
}

// policyBy signs a policy with any key. The claims name the key that operator says, or the one that signs.
func policyBy(t testing.TB, text string, key crypto.Signer, operator crypto.PublicKey, h jwsHeader) []byte {
	t.Helper()
	if operator == nil {
		operator = key.Public()
	}
	der, err := x509.MarshalPKIXPublicKey(operator)
	bustest.Check(t, err)
	if h.KeyID == "" && h.Chain == nil {
		f, err := identity.FingerprintOf(operator)
		bustest.Check(t, err)
		h.KeyID = f.String()
	}
	if h.Type == "" {
		h.Type = "sealbus-policy"
	}
	return jws(t, h, policyClaims{IssuedAt: time.Now().Unix(), Operator: b64url(der), Policy: text}, key)
}

// TestForeignPolicy: whoever owns the broker, and whoever owns the authority, is no operator. What they put in
// the policy's place is refused by who is connected and by who connects.
func TestForeignPolicy(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, trustPolicy)
	o := newOwner(w)
	genuine := o.get(policy.BucketPolicy, policy.PolicyKey)
	planner, log := watched(w, "planner")

	node, err := w.CA.Broker("node-1", time.Hour)
	bustest.Check(t, err)
	authority := authorityOf(t, w.CA)
	chain := func(certs ...*x509.Certificate) (h jwsHeader) {
		for _, c := range certs {
			h.Chain = append(h.Chain, b64std(c.Raw))
		}
		return h
	}
	stranger, err := identity.GenerateOperatorKey()
	bustest.Check(t, err)
	ca := authority.PrivateKey.(*ecdsa.PrivateKey)
	for _, c := range []struct {
		name string
		raw  []byte
		is   error
	}{
		{"another operator's key", policyBy(t, everybody, stranger.Signer(), nil, jwsHeader{}), policy.ErrUntrustedOperator},
		{"the broker's certificate's key", policyBy(t, everybody, node.PrivateKey, nil, jwsHeader{}), policy.ErrUntrustedOperator},
		{"the authority's key", policyBy(t, everybody, ca, nil, jwsHeader{}), policy.ErrUntrustedOperator},
		{"the broker's certificate", policyBy(t, everybody, node.PrivateKey, nil, chain(node.Certificates[0])), policy.ErrStatement},
		{"the authority's certificate", policyBy(t, everybody, ca, nil, chain(authority.Certificates[0])), policy.ErrStatement},
		{"a certificate beside the operator's name", policyBy(t, everybody, ca, w.Operator.Public(), chain(authority.Certificates[0])), policy.ErrStatement},
		{"another operator's key under the operator's name", policyBy(t, everybody, stranger.Signer(), w.Operator.Public(), jwsHeader{}), policy.ErrStatement},
		{"the authority's key under the operator's name", policyBy(t, everybody, ca, w.Operator.Public(), jwsHeader{}), policy.ErrStatement},
		{"the operator's fingerprint over another key", policyBy(t, everybody, stranger.Signer(), nil, jwsHeader{KeyID: w.Operator.Fingerprint().String()}), policy.ErrStatement},
		{"another kind of statement", policyBy(t, everybody, w.Operator.Signer(), nil, jwsHeader{Type: "sealbus-key"}), policy.ErrStatement},
		{"a byte less", genuine[:len(genuine)-1], policy.ErrStatement},
		{"junk", []byte("junk"), policy.ErrStatement},
		{"nothing", nil, policy.ErrStatement},
	} {
		o.put(policy.BucketPolicy, policy.PolicyKey, c.raw)
		log.await(t, policyRefused, "", c.is.Error())
		if _, err := agentbus.Connect(w.Ctx(), w.Config("mallory")); !errors.Is(err, c.is) {
			t.Errorf("%s: connecting: %v, want %v", c.name, err, c.is)
		}
		if planner.Policy().Revision() != 1 {
			t.Fatalf("%s: revision %d is in force", c.name, planner.Policy().Revision())
		}
		log.clear()
	}
	// The operator's own is believed, so that the reason was in each case the one given.
	o.put(policy.BucketPolicy, policy.PolicyKey, policyBy(t, nextRevision(2), w.Operator.Signer(), nil, jwsHeader{}))
	log.await(t, policyInForce, "", "")
	if planner.Policy().Revision() != 2 {
		t.Errorf("revision %d is in force, want 2", planner.Policy().Revision())
	}
	w.Agent("exec-1")
}

// TestRollbackAndForkWhileConnected: an agent in memory has accepted revision 2 and is shown others.
func TestRollbackAndForkWhileConnected(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, trustPolicy)
	o := newOwner(w)
	first := o.get(policy.BucketPolicy, policy.PolicyKey)
	planner, log := watched(w, "planner")
	second := w.Sign(nextRevision(2))
	o.put(policy.BucketPolicy, policy.PolicyKey, second)
	log.await(t, policyInForce, "", "")

	o.put(policy.BucketPolicy, policy.PolicyKey, first)
	log.await(t, policyRefused, "", policy.ErrRollback.Error())
	o.put(policy.BucketPolicy, policy.PolicyKey, w.Sign(nextRevision(2, "signed: false", "signed: true")))
	log.await(t, policyRefused, "", policy.ErrFork.Error())
	log.clear()
	fork := nextRevision(3, "topics:", "previous: "+policy.FormatHash([32]byte{1})+"\ntopics:")
	o.put(policy.BucketPolicy, policy.PolicyKey, w.Sign(fork))
	log.await(t, policyRefused, "", policy.ErrFork.Error())
	if r := planner.Policy().Revision(); r != 2 {
		t.Fatalf("revision %d is in force", r)
	}

	// A whole new broker, with a store from before.
	w.Stop()
	w.Dir, w.Signed = t.TempDir(), first
	log.clear()
	w.Start()
	log.await(t, refreshFailed, "", policy.ErrRollback.Error())
	if r := planner.Policy().Revision(); r != 2 {
		t.Fatalf("revision %d is in force", r)
	}
}

// TestRollbackOverRestart: an agent with a state directory has seen revision 2, when it connected or only
// later, and is shown others when it comes again, also after a crash.
func TestRollbackOverRestart(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, trustPolicy)
	o := newOwner(w)
	first := o.get(policy.BucketPolicy, policy.PolicyKey)
	connect := func(dir string, log *watch) (*agentbus.Bus, error) {
		c := w.Config("planner")
		ring, err := keyring.Open(dir, keyring.Passphrase("correct horse"), w.Operator.Fingerprint())
		bustest.Check(t, err)
		c.Keyring, c.Logger = ring, slog.New(log)
		return agentbus.Connect(w.Ctx(), c)
	}
	dir, crashed, log := t.TempDir(), t.TempDir(), newWatch()
	planner, err := connect(dir, log)
	bustest.Check(t, err)
	o.put(policy.BucketPolicy, policy.PolicyKey, w.Sign(nextRevision(2)))
	log.await(t, policyInForce, "", "")
	bustest.Check(t, os.CopyFS(crashed, os.DirFS(dir))) // as a crash would leave it
	bustest.Check(t, planner.Close())

	for name, dir := range map[string]string{"restart": dir, "crash": crashed} {
		o.put(policy.BucketPolicy, policy.PolicyKey, first)
		if _, err := connect(dir, newWatch()); !errors.Is(err, policy.ErrRollback) {
			t.Errorf("%s, an older policy: %v, want ErrRollback", name, err)
		}
		o.put(policy.BucketPolicy, policy.PolicyKey, w.Sign(nextRevision(2, "signed: false", "signed: true")))
		if _, err := connect(dir, newWatch()); !errors.Is(err, policy.ErrFork) {
			t.Errorf("%s, another policy of the same revision: %v, want ErrFork", name, err)
		}
		o.put(policy.BucketPolicy, policy.PolicyKey, w.Sign(nextRevision(3)))
		again, err := connect(dir, newWatch())
		if err != nil {
			t.Fatalf("%s, a newer policy: %v", name, err)
		}
		bustest.Check(t, again.Close())
	}
}

// TestBrokerPolicy: an honest node on a store that was tampered with, or with a policy that is not an
// operator's, does not start.
func TestBrokerPolicy(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, trustPolicy)
	o := newOwner(w)
	o.put(policy.BucketPolicy, policy.PolicyKey, w.Sign(nextRevision(5)))
	src, err := w.CA.BrokerSource("node-1", time.Hour)
	bustest.Check(t, err)
	node, err := src.GetX509SVID()
	bustest.Check(t, err)
	w.Stop()
	start := func(raw []byte) error {
		n, err := broker.Start(w.Ctx(), broker.Config{Identity: src, Policy: raw, StoreDir: w.Dir, Listen: "127.0.0.1:0",
			Operators: []identity.Fingerprint{w.Operator.Fingerprint()}, Logger: bustest.Quiet()})
		if err == nil {
			bustest.Check(t, n.Shutdown(w.Ctx()))
		}
		return err
	}
	for name, c := range map[string]struct {
		raw []byte
		is  error
	}{
		"older than the store's":        {w.Sign(nextRevision(4)), policy.ErrRollback},
		"another of the same revision":  {w.Sign(nextRevision(5, "signed: false", "signed: true")), policy.ErrFork},
		"signed by a certificate's key": {policyBy(t, everybody, node.PrivateKey, nil, jwsHeader{}), policy.ErrUntrustedOperator},
		"signed by a certificate": {policyBy(t, everybody, node.PrivateKey, nil,
			jwsHeader{Chain: []string{b64std(node.Certificates[0].Raw)}}), policy.ErrStatement},
	} {
		if err := start(c.raw); !errors.Is(err, c.is) {
			t.Errorf("%s: %v, want %v", name, err, c.is)
		}
	}
	bustest.Check(t, start(w.Sign(nextRevision(6))))
	w.Signed = w.Sign(nextRevision(7))
	w.Start()
}
