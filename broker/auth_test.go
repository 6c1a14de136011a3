package broker_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealbus/sealbus/broker"
	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/identity/devca"
	"github.com/sealbus/sealbus/policy"
)

// TestRefusedByPolicy is about agents that have a good certificate.
func TestRefusedByPolicy(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	n := b.start(b.config(`
trust_domain: example.org
revision: 7
topics:
  prices: {publish: [feed, eve], subscribe: [bob]}
revoked: [eve]
`))
	for name, reason := range map[string]string{
		"eve":      "spiffe://example.org/agent/eve is revoked by revision 7 of the policy",
		"stranger": "spiffe://example.org/agent/stranger is not known to revision 7 of the policy",
	} {
		logged := b.log.seen(reason)
		src, err := b.ca.AgentSource(name, time.Hour)
		ok(t, err)
		if _, err := dial(n, src, name); !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("%s connects: %v", name, err)
		}
		await(t, logged, reason)
	}
	b.agent(n, "bob")
}

// TestRefusedByTLS is about certificates.
func TestRefusedByTLS(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	n := b.startDefault()
	mallory, err := b.ca.Agent("mallory", time.Hour)
	ok(t, err)
	other, err := devca.New("example.org")
	ok(t, err)
	foreign, err := other.Agent("mallory", time.Hour)
	ok(t, err)
	elsewhere, err := devca.New("example.com")
	ok(t, err)
	visitor, err := elsewhere.Agent("mallory", time.Hour)
	ok(t, err)
	now := time.Now()
	expired, err := b.ca.Issue(devca.Template{ID: identity.MustParseID("spiffe://example.org/agent/mallory"),
		NotBefore: now.Add(-2 * time.Hour), NotAfter: now.Add(-time.Minute)})
	ok(t, err)

	certificate := func(certs []*x509.Certificate, key any) []tls.Certificate {
		c := tls.Certificate{PrivateKey: key}
		for _, cert := range certs {
			c.Certificate = append(c.Certificate, cert.Raw)
		}
		return []tls.Certificate{c}
	}
	for name, config := range map[string]*tls.Config{
		"no certificate":      {MinVersion: tls.VersionTLS13},
		"an authority's name": {MinVersion: tls.VersionTLS13, Certificates: certificate(foreign.Certificates, foreign.PrivateKey)},
		"other trust domain":  {MinVersion: tls.VersionTLS13, Certificates: certificate(visitor.Certificates, visitor.PrivateKey)},
		"expired":             {MinVersion: tls.VersionTLS13, Certificates: certificate(expired.Certificates, expired.PrivateKey)},
		"TLS 1.2":             {MaxVersion: tls.VersionTLS12, Certificates: certificate(mallory.Certificates, mallory.PrivateKey)},
	} {
		config.InsecureSkipVerify = true // what is tested is the node
		_, err := nats.Connect(n.URL(), nats.Secure(config), nats.TLSHandshakeFirst(), nats.NoReconnect())
		if err == nil {
			t.Errorf("%s: connected", name)
		}
	}
	// The last of these shows that the way they were tried works.
	nc, err := nats.Connect(n.URL(), nats.TLSHandshakeFirst(), nats.Secure(&tls.Config{InsecureSkipVerify: true,
		Certificates: certificate(mallory.Certificates, mallory.PrivateKey)}))
	ok(t, err)
	nc.Close()
}

// TestNothingInTheClear connects without TLS. The node says nothing, not even who
// it is, before the handshake.
func TestNothingInTheClear(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	n := b.startDefault()
	conn, err := net.Dial("tcp", n.Addr().String())
	ok(t, err)
	defer conn.Close()
	ok(t, conn.SetDeadline(time.Now().Add(wait)))
	_, err = conn.Write([]byte("CONNECT {\"user\":\"STORE\",\"pass\":\"" + n.Secret() + "\"}\r\nPING\r\n"))
	ok(t, err)
	answer := make([]byte, 4096)
	got, _ := conn.Read(answer)
	if text := string(answer[:got]); strings.Contains(text, "INFO") || strings.Contains(text, "PONG") {
		t.Errorf("the node answers in the clear: %q", text)
	}
}

func TestExpiryEndsConnection(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	n := b.startDefault()
	now := time.Now()
	// Certificates have whole seconds.
	svid, err := b.ca.Issue(devca.Template{ID: identity.MustParseID("spiffe://example.org/agent/alice"),
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(2 * time.Second)})
	ok(t, err)
	src := identity.NewMemory(svid, b.ca.Bundle())
	alice, err := dial(n, src, "alice")
	ok(t, err)
	defer alice.Close()
	if list := n.Connections(); len(list) != 1 || !list[0].Expires.Equal(svid.Certificates[0].NotAfter) {
		t.Errorf("connections: %+v", list)
	}
	await(t, alice.closed, "the connection to end with the certificate")
	if time.Now().Before(svid.Certificates[0].NotAfter) {
		t.Error("the connection ended before the certificate")
	}
	if err := <-alice.errs; !errors.Is(err, nats.ErrAuthExpired) {
		t.Errorf("the client is told %v", err)
	}
	if _, err := dial(n, src, "alice"); err == nil {
		t.Error("the expired certificate connects again")
	}
}

// TestReconnectAfterRenewal shows the options with which a client comes back.
func TestReconnectAfterRenewal(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	n := b.startDefault()
	now := time.Now()
	svid, err := b.ca.Issue(devca.Template{ID: identity.MustParseID("spiffe://example.org/agent/alice"),
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(2 * time.Second)})
	ok(t, err)
	src := identity.NewMemory(svid, b.ca.Bundle())
	back := make(chan struct{})
	// The renewal comes late, after the first try has failed.
	b.log.when("TLS handshake error", func() {
		if svid, err := b.ca.Agent("alice", time.Hour); err == nil {
			src.SetSVID(svid)
		}
	})
	config, err := identity.ClientTLS(src)
	ok(t, err)
	nc, err := nats.Connect(n.URL(), nats.Secure(config), nats.TLSHandshakeFirst(),
		nats.MaxReconnects(-1), nats.IgnoreAuthErrorAbort(), nats.ReconnectWait(50*time.Millisecond),
		nats.ReconnectHandler(func(*nats.Conn) { close(back) }))
	ok(t, err)
	defer nc.Close()
	await(t, back, "the client to come back")
}

// TestNodeCertificateRenewed checks what clients are shown.
func TestNodeCertificateRenewed(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	config := b.config(rulesText(1))
	src := b.brokerSource()
	config.Identity = src
	n := b.start(config)
	alice := b.agent(n, "alice")
	shown := func() *x509.Certificate {
		state, err := b.agent(n, "bob").TLSConnectionState()
		ok(t, err)
		return state.PeerCertificates[0]
	}
	first := shown()
	svid, err := b.ca.Broker("n1", 2*time.Hour)
	ok(t, err)
	src.SetSVID(svid)
	if second := shown(); second.Equal(first) || !second.Equal(svid.Certificates[0]) {
		t.Error("the node does not show its new certificate")
	}
	ok(t, alice.FlushWithContext(timeout(t))) // and nobody was disconnected
	ok(t, n.Healthy(timeout(t)))
}

func TestKeyExchangeAndVersion(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	n := b.startDefault()
	state, err := b.agent(n, "alice").TLSConnectionState()
	ok(t, err)
	if state.Version != tls.VersionTLS13 || state.CurveID != tls.X25519MLKEM768 || state.DidResume {
		t.Errorf("version %x, key exchange %v, resumed %v", state.Version, state.CurveID, state.DidResume)
	}
	if id, err := identity.PeerID(state); err != nil || id != n.ID() {
		t.Errorf("the node is %v, %v", id, err)
	}
}

// TestOwnCredential is about the node's own connections: inside the process only
// the credential counts, over the network it is worth nothing.
func TestOwnCredential(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	n := b.startDefault()
	// By hand, because nats.go waits long for a refusal inside the process.
	inside := func(user, password string) bool {
		conn, err := n.Server().InProcessConn()
		ok(t, err)
		defer conn.Close()
		ok(t, conn.SetDeadline(time.Now().Add(wait)))
		lines := bufio.NewReader(conn)
		if info, err := lines.ReadString('\n'); err != nil || !strings.HasPrefix(info, "INFO ") {
			t.Fatalf("the node says %q, %v", info, err)
		}
		connect := `CONNECT {"verbose":true,"user":"` + user + `","pass":"` + password + "\"}\r\n"
		_, err = conn.Write([]byte(connect))
		ok(t, err)
		answer, err := lines.ReadString('\n')
		ok(t, err)
		return strings.HasPrefix(answer, "+OK")
	}
	if len(n.Secret()) != 64 {
		t.Fatalf("a credential of %d characters", len(n.Secret()))
	}
	if !inside(broker.AccountStore, n.Secret()) {
		t.Error("the credential is refused")
	}
	for _, try := range [][2]string{
		{broker.AccountStore, ""},
		{broker.AccountStore, n.Secret()[:63]},
		{broker.AccountStore, strings.Repeat("0", 64)},
		{"", n.Secret()},
		{"$G", n.Secret()},
	} {
		if inside(try[0], try[1]) {
			t.Errorf("user %q with a password of %d characters gets in", try[0], len(try[1]))
		}
	}
	// An agent with the credential is still that agent.
	mallory := b.agent(n, "mallory", nats.UserInfo(broker.AccountStore, n.Secret()))
	sub, err := mallory.SubscribeSync("$KV.>")
	ok(t, err)
	_ = mallory.FlushWithContext(timeout(t))
	if err := <-mallory.errs; !errors.Is(err, nats.ErrPermissionViolation) {
		t.Errorf("subscribe in STORE: %v", err)
	}
	_ = sub.Unsubscribe()
	if list := n.Connections(); len(list) != 1 || list[0].Account != broker.AccountAgents {
		t.Errorf("connections: %+v", list)
	}
	if n.Secret() == b.secondNode().Secret() {
		t.Error("two nodes have one credential")
	}
	if strings.Contains(b.log.all(), n.Secret()) {
		t.Error("the credential is logged")
	}
}

// secondNode runs beside the first, on a directory of its own.
func (b *bus) secondNode() *broker.Node {
	config := b.config(rulesText(1))
	config.StoreDir = b.t.TempDir()
	return b.start(config)
}

func TestAdminClients(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	tool, err := b.ca.BrokerSource("tool", time.Hour)
	ok(t, err)

	n := b.startDefault()
	logged := b.log.seen("spiffe://example.org/broker/tool is a broker node, and Config.AdminClients is off")
	if _, err := dial(n, tool, "tool"); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("a broker node's certificate gets in: %v", err)
	}
	await(t, logged, "the reason in the log")
	stop(t, n)

	config := b.config(rulesText(1))
	config.AdminClients = true
	n = b.start(config)
	admin := b.admin(n, broker.AccountStore)
	if _, err := admin.js().Stream(timeout(t), policy.StreamOfBucket(policy.BucketKeys)); err != nil {
		t.Errorf("in STORE: %v", err)
	}
	tap := b.admin(n, "").listen(">")
	ok(t, b.agent(n, "mallory").Publish("sb.topic.live", []byte("x")))
	for m := admin.next(tap); m.Subject != "sb.topic.live"; m = admin.next(tap) {
	}
	if m, err := b.admin(n, broker.AccountSystem).RequestWithContext(timeout(t), "$SYS.REQ.SERVER.PING", nil); err != nil || len(m.Data) == 0 {
		t.Errorf("in SYS: %v", err)
	}
	if _, err := dial(n, tool, "tool", nats.UserInfo("$G", "")); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("in an account that is none: %v", err)
	}
	// An agent that names an account gets the one that it belongs in.
	b.agent(n, "alice", nats.UserInfo(broker.AccountStore, ""))
	list := n.Connections()
	if last := list[len(list)-1]; last.ID.Name() != "alice" || last.Account != broker.AccountAgents {
		t.Errorf("alice is %+v", last)
	}
}

func TestConnections(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	n := b.startDefault()
	if list := n.Connections(); len(list) != 0 {
		t.Errorf("before anybody came: %+v", list)
	}
	alice, bob := b.agent(n, "alice"), b.agent(n, "bob")
	list := n.Connections()
	if len(list) != 2 || list[0].ID.Name() != "alice" || list[1].ID.Name() != "bob" || list[0].Remote == "" {
		t.Fatalf("connections: %+v", list)
	}
	ok(t, n.Server().DisconnectClientByID(list[0].ClientID))
	await(t, alice.closed, "alice to be disconnected")
	if list := n.Connections(); len(list) != 1 || list[0].ID.Name() != "bob" {
		t.Errorf("connections: %+v", list)
	}
	ok(t, bob.FlushWithContext(timeout(t)))
	// So many that those which have ended are looked for.
	for range 130 {
		b.agent(n, "alice").Close()
	}
}

func TestMaxConnections(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	config := b.config(rulesText(1))
	config.MaxConnections = 2
	n := b.start(config)
	b.agent(n, "alice")
	b.agent(n, "bob")
	src, err := b.ca.AgentSource("feed", time.Hour)
	ok(t, err)
	if _, err := dial(n, src, "feed"); err == nil {
		t.Error("a third client gets in")
	}
	ok(t, n.Healthy(context.Background()))
}
