package integration_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/broker"
	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/identity/devca"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/keyring"
)

// TestRefusedConnections: whoever is not a known agent with a certificate that is good now is not let in. The
// attacker trusts any broker and speaks NATS as soon as it is allowed to.
func TestRefusedConnections(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, nextRevision(1, "direct:", "revoked: [exec-7]\ndirect:", `to: ["*"]`, `to: [mallory]`))
	const exec = "spiffe://example.org/agent/exec-1"
	issue := func(ca *devca.CA, id string, from, to time.Duration, edit func(*x509.Certificate)) []tls.Certificate {
		svid, err := ca.Issue(devca.Template{ID: identity.MustParseID(id), NotBefore: time.Now().Add(from), NotAfter: time.Now().Add(to), Edit: edit})
		bustest.Check(t, err)
		return []tls.Certificate{{Certificate: [][]byte{svid.Certificates[0].Raw}, PrivateKey: svid.PrivateKey}}
	}
	uris := func(list ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.URIs = nil
			for _, s := range list {
				u, err := url.Parse(s)
				bustest.Check(t, err)
				c.URIs = append(c.URIs, u)
			}
		}
	}
	good := issue(w.CA, exec, -time.Minute, time.Hour, nil)
	ca := authorityOf(t, w.CA)
	foreign := issue(otherCA(t, bustest.Domain), exec, -time.Minute, time.Hour, nil)
	foreign[0].Certificate = append(foreign[0].Certificate, ca.Certificates[0].Raw)
	for _, c := range []struct {
		name    string
		config  *tls.Config
		options []nats.Option
	}{
		{name: "no certificate", config: &tls.Config{}},
		{name: "another authority's", config: &tls.Config{Certificates: issue(otherCA(t, bustest.Domain), exec, -time.Minute, time.Hour, nil)}},
		{name: "another authority's, with the right one's certificate beside", config: &tls.Config{Certificates: foreign}},
		{name: "the authority's own", config: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{ca.Certificates[0].Raw}, PrivateKey: ca.PrivateKey}}}},
		{name: "expired", config: &tls.Config{Certificates: issue(w.CA, exec, -time.Hour, -time.Second, nil)}},
		{name: "not valid yet", config: &tls.Config{Certificates: issue(w.CA, exec, time.Hour, 2*time.Hour, nil)}},
		{name: "another trust domain", config: &tls.Config{Certificates: issue(otherCA(t, "other.org"), "spiffe://other.org/agent/exec-1", -time.Minute, time.Hour, nil)}},
		{name: "another trust domain's name", config: &tls.Config{Certificates: issue(w.CA, "spiffe://other.org/agent/exec-1", -time.Minute, time.Hour, nil)}},
		{name: "no URI", config: &tls.Config{Certificates: issue(w.CA, exec, -time.Minute, time.Hour, uris())}},
		{name: "two URIs", config: &tls.Config{Certificates: issue(w.CA, exec, -time.Minute, time.Hour, uris(exec, "spiffe://example.org/agent/planner"))}},
		{name: "another kind of URI", config: &tls.Config{Certificates: issue(w.CA, exec, -time.Minute, time.Hour, uris("https://example.org/agent/exec-1"))}},
		{name: "another path", config: &tls.Config{Certificates: issue(w.CA, exec, -time.Minute, time.Hour, uris("spiffe://example.org/agent/exec-1/x"))}},
		{name: "a name in the common name alone", config: &tls.Config{Certificates: issue(w.CA, exec, -time.Minute, time.Hour, func(c *x509.Certificate) {
			c.URIs, c.Subject.CommonName, c.DNSNames = nil, "exec-1", []string{"exec-1"}
		})}},
		{name: "not for clients", config: &tls.Config{Certificates: issue(w.CA, exec, -time.Minute, time.Hour, func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		})}},
		{name: "not for signing", config: &tls.Config{Certificates: issue(w.CA, exec, -time.Minute, time.Hour, func(c *x509.Certificate) {
			c.KeyUsage = x509.KeyUsageKeyAgreement
		})}},
		{name: "an authority's mark on it", config: &tls.Config{Certificates: issue(w.CA, exec, -time.Minute, time.Hour, func(c *x509.Certificate) { c.IsCA = true })}},
		{name: "TLS 1.2", config: &tls.Config{MaxVersion: tls.VersionTLS12, Certificates: good}},
		{name: "unknown to the policy", config: &tls.Config{Certificates: issue(w.CA, "spiffe://example.org/agent/nobody", -time.Minute, time.Hour, nil)}},
		{name: "a name that no agent may have", config: &tls.Config{Certificates: issue(w.CA, "spiffe://example.org/agent/operator", -time.Minute, time.Hour, nil)}},
		{name: "revoked", config: &tls.Config{Certificates: issue(w.CA, "spiffe://example.org/agent/exec-7", -time.Minute, time.Hour, nil)}},
		{name: "an account that is not there", config: &tls.Config{Certificates: issue(w.CA, "spiffe://example.org/broker/node-1", -time.Minute, time.Hour, nil)}, options: []nats.Option{nats.UserInfo("$G", "")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			config := c.config.Clone()
			config.InsecureSkipVerify = true
			nc, err := nats.Connect(w.Node.URL(), append(c.options, nats.Secure(config), nats.TLSHandshakeFirst(), nats.Timeout(bustest.Timeout))...)
			if err == nil {
				nc.Close()
				t.Fatal("let in")
			}
		})
	}
	t.Run("plain text", func(t *testing.T) {
		t.Parallel()
		conn, err := net.Dial("tcp", w.Node.Addr().String())
		bustest.Check(t, err)
		defer conn.Close()
		bustest.Check(t, conn.SetDeadline(time.Now().Add(bustest.Timeout)))
		_, err = io.WriteString(conn, "CONNECT {\"user\":\"STORE\",\"pass\":\"\"}\r\nPING\r\n")
		bustest.Check(t, err)
		said, _ := io.ReadAll(conn) // ends with an alert, or with a reset
		if bytes.Contains(said, []byte("INFO")) || bytes.Contains(said, []byte("PONG")) || len(said) > 0 && said[0] != 0x15 {
			t.Errorf("the broker said %q", said)
		}
	})
	t.Run("good", func(t *testing.T) {
		t.Parallel()
		nc, err := nats.Connect(w.Node.URL(), nats.Secure(&tls.Config{Certificates: good, InsecureSkipVerify: true}), nats.TLSHandshakeFirst())
		bustest.Check(t, err)
		nc.Close()
	})
}

// TestAgentClaimsToBeMore: an agent names the node's own accounts and guesses at credentials. It stays what its
// certificate says.
func TestAgentClaimsToBeMore(t *testing.T) {
	t.Parallel()
	w := newStoreWorld(t)
	before := w.others()
	for _, option := range []nats.Option{
		nats.UserInfo("STORE", ""), nats.UserInfo("STORE", "STORE"), nats.UserInfo("SYS", ""), nats.UserInfo("node", ""), nats.UserInfo("AGENTS", ""),
		nats.UserInfo("alice", ""), nats.UserInfo("spiffe://example.org/agent/alice", ""), nats.Token("STORE"), nats.Name("node"),
	} {
		errs := make(chan error, 16)
		nc := w.Raw(w.Source("mallory"), option, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { errs <- err }))
		for _, subject := range []string{"$KV.SB_POLICY.current", "sb.topic.secret", "$JS.API.STREAM.DELETE.SB_TOPIC_secret", "$SYS.REQ.SERVER.PING"} {
			bustest.Check(t, nc.Publish(subject, []byte("evil")))
			if err := bustest.Receive(t, errs); !errors.Is(err, nats.ErrPermissionViolation) {
				t.Errorf("publish to %s: %v", subject, err)
			}
		}
		for _, c := range w.Node.Connections() {
			if c.ID.Name() == "mallory" && c.Account != broker.AccountAgents {
				t.Errorf("mallory is in account %s", c.Account)
			}
		}
	}
	w.same(before, "claims")
}

// TestBrokerCertificateAsClient: with AdminClients off, which is the default, a node's certificate opens nothing.
func TestBrokerCertificateAsClient(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, trustPolicy)
	src, err := w.CA.BrokerSource("node-1", time.Hour)
	bustest.Check(t, err)
	w.Stop()
	node, err := broker.Start(w.Ctx(), broker.Config{Identity: src, Policy: w.Signed, StoreDir: w.Dir, Listen: "127.0.0.1:0",
		Operators: []identity.Fingerprint{w.Operator.Fingerprint()}, Logger: bustest.Quiet()})
	bustest.Check(t, err)
	w.Node = node
	for _, user := range []string{"", "STORE", "AGENTS", "SYS"} {
		if _, err := w.Dial(src, nats.UserInfo(user, "")); !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("a node's certificate as %q: %v, want ErrAuthorization", user, err)
		}
	}
	w.Agent("planner") // who else comes is let in
}

// TestRevokedAgent: under the policy's next revision an agent is revoked. It is not let in again, and what it
// still sends, with the broker's help, is refused, as is what it sent before.
func TestRevokedAgent(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, trustPolicy)
	planner, log := watched(w, "planner")
	got := listen(w, planner, "gossip")
	feed := w.Agent("feed-1")
	o := newOwner(w)
	f, k := insider(w, o, "feed-2", trustGossip)
	own := func(text string) []byte { return f.frame(k, k.secret, "gossip.x", text, false, nil) }
	o.inject("sb.topic.gossip.x", own("still welcome"))
	if text := bustest.Receive(t, got); text != "feed-2: still welcome" {
		t.Fatalf("got %q", text)
	}
	kept := own("kept")

	w.Stop()
	w.Signed = w.Sign(nextRevision(2, "direct:", "revoked: [feed-2]\ndirect:"))
	w.Start()
	log.await(t, policyInForce, "", "")
	if _, err := agentbus.Connect(w.Ctx(), w.Config("feed-2")); err == nil || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("connecting: %v", err)
	}
	o = newOwner(w)
	log.await(t, "connected again", "", "")
	o.inject("sb.topic.gossip.x", kept)
	o.inject("sb.topic.gossip.x", own("anew"))
	w.AwaitRejections(2, keyring.Revoked)
	// A new instance of it is given no key, and the channel has a new one that it does not know.
	again := newForger(t, f.svid, f.agent.String())
	wraps := o.tap("sb.store.keys.topic.gossip.w.*." + again.card.String() + ".>")
	again.join(o, trustGossip, again.cardStatement(nil))
	wire := o.tap("sb.topic.gossip.>")
	say(w, feed, "gossip.x", "without feed-2", got)
	if key := keyOf(t, bustest.Receive(t, wire).Data); key == k.id {
		t.Errorf("key %08x, which feed-2 took part in, is still in use", key)
	}
	bustest.Empty(t, wraps)
}
