package identity_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/identity/devca"
)

// outcome is what one side of a connection saw.
type outcome struct {
	state tls.ConnectionState
	err   error
}

// connect makes one connection over loopback, on which each side sends a byte
// to the other. In TLS 1.3 a client learns only then that it was refused.
func connect(t testing.TB, server, client *tls.Config) (atServer, atClient outcome) {
	t.Helper()
	listener := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	defer listener.Close()
	done := make(chan outcome, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			done <- outcome{err: err}
			return
		}
		done <- exchange(tls.Server(conn, server))
	}()
	conn := must[net.Conn](t)(net.Dial("tcp", listener.Addr().String()))
	atClient = exchange(tls.Client(conn, client))
	return <-done, atClient
}

func exchange(conn *tls.Conn) outcome {
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return outcome{err: err}
	}
	if err := conn.Handshake(); err != nil {
		return outcome{err: err}
	}
	if _, err := conn.Write([]byte{1}); err != nil {
		return outcome{err: err}
	}
	_, err := io.ReadFull(conn, make([]byte, 1))
	return outcome{conn.ConnectionState(), err}
}

func wantConnected(t testing.TB, atServer, atClient outcome) {
	t.Helper()
	if atServer.err != nil || atClient.err != nil {
		t.Fatalf("server: %v; client: %v", atServer.err, atClient.err)
	}
}

// plain is a configuration of somebody who keeps to no rules. It presents the
// certificate, if any, also to a server that names other authorities.
func plain(svid *x509svid.SVID) *tls.Config {
	config := &tls.Config{InsecureSkipVerify: true, ClientAuth: tls.RequestClientCert}
	cert := &tls.Certificate{}
	if svid != nil {
		cert.PrivateKey = svid.PrivateKey
		for _, c := range svid.Certificates {
			cert.Certificate = append(cert.Certificate, c.Raw)
		}
		config.Certificates = []tls.Certificate{*cert}
	}
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	return config
}

func TestTLSConnects(t *testing.T) {
	ca := newCA(t, "example.org")
	for name, client := range map[string]*identity.Memory{
		"agent":  agentSource(t, ca, "planner"),
		"broker": brokerSource(t, ca, "n2"),
	} {
		t.Run(name, func(t *testing.T) {
			atServer, atClient := connect(t, serverTLS(t, brokerSource(t, ca, "n1")), clientTLS(t, client, "n0", "n1"))
			wantConnected(t, atServer, atClient)
			id, _, err := identity.Self(client)
			if err != nil {
				t.Fatal(err)
			}
			if peer, err := identity.PeerID(atServer.state); err != nil || peer != id {
				t.Errorf("the server sees %s, %v", peer, err)
			}
			if peer, err := identity.PeerID(atClient.state); err != nil || peer.String() != "spiffe://example.org/broker/n1" {
				t.Errorf("the client sees %s, %v", peer, err)
			}
			for _, state := range []tls.ConnectionState{atServer.state, atClient.state} {
				if state.Version != tls.VersionTLS13 || state.CurveID != tls.X25519MLKEM768 || state.DidResume {
					t.Errorf("version %x, key exchange %v, resumed %v", state.Version, state.CurveID, state.DidResume)
				}
			}
		})
	}
}

func TestTLSKeyExchange(t *testing.T) {
	ca := newCA(t, "example.org")
	for _, test := range []struct {
		curve tls.CurveID
		ok    bool
	}{
		{tls.X25519MLKEM768, true}, {tls.X25519, true}, {tls.CurveP256, true}, {tls.CurveP384, false}, {tls.CurveP521, false},
	} {
		client := clientTLS(t, agentSource(t, ca, "planner"))
		client.CurvePreferences = []tls.CurveID{test.curve}
		atServer, atClient := connect(t, serverTLS(t, brokerSource(t, ca, "n1")), client)
		if !test.ok {
			wantError(t, atServer.err, nil)
			continue
		}
		wantConnected(t, atServer, atClient)
		if atServer.state.CurveID != test.curve {
			t.Errorf("%v negotiated, want %v", atServer.state.CurveID, test.curve)
		}
	}
}

// certificates that neither side of a connection accepts, all for the ID.
func badCertificates(t *testing.T, ca *devca.CA, id, foreignID string, otherUsage x509.ExtKeyUsage) map[string]struct {
	svid   *x509svid.SVID
	target error
	words  string
} {
	now := time.Now()
	edit := func(edit func(*x509.Certificate)) *x509svid.SVID { return issue(t, ca, id, edit) }
	long := edit(nil)
	for range identity.MaxChain {
		long.Certificates = append(long.Certificates, ca.Bundle().X509Authorities()[0])
	}
	type bad = struct {
		svid   *x509svid.SVID
		target error
		words  string
	}
	return map[string]bad{
		"wrong CA":                  {issue(t, newCA(t, "example.org"), id, nil), nil, "issued by no CA"},
		"self-signed":               {selfSigned(t, id), nil, "issued by no CA"},
		"expired":                   {expired(t, ca, id), identity.ErrExpired, "expired at"},
		"not yet valid":             {edit(func(c *x509.Certificate) { c.NotBefore = now.Add(time.Minute) }), identity.ErrExpired, "begins at"},
		"foreign domain, same CA":   {issue(t, ca, foreignID, nil), nil, "not of the trust domain example.org"},
		"foreign domain, other CA":  {issue(t, newCA(t, "other.org"), foreignID, nil), nil, "not of the trust domain example.org"},
		"no SPIFFE ID":              {edit(func(c *x509.Certificate) { c.URIs = nil; c.DNSNames = []string{"localhost"} }), nil, "no URI"},
		"two SPIFFE IDs":            {edit(func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }), nil, "more than one URI"},
		"URI of another scheme":     {edit(func(c *x509.Certificate) { c.URIs[0].Scheme = "https" }), nil, "scheme"},
		"SPIFFE ID of another form": {edit(func(c *x509.Certificate) { c.URIs[0].Path = "/operator/planner" }), identity.ErrInvalidID, "/operator/planner"},
		"name in upper case":        {edit(func(c *x509.Certificate) { c.URIs[0].Path += "X" }), identity.ErrInvalidID, "name"},
		"no digitalSignature":       {edit(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }), nil, "digitalSignature"},
		"a CA":                      {edit(func(c *x509.Certificate) { c.IsCA = true }), nil, "CA's own"},
		"may sign certificates":     {edit(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign; c.IsCA = true }), nil, "CA's own"},
		"for the other side only":   {edit(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{otherUsage} }), nil, "this side of TLS"},
		"for code signing":          {edit(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} }), nil, "this side of TLS"},
		"long chain":                {long, nil, "5 certificates"},
		"issued by an agent":        {issuedBy(t, agent(t, ca, "mallory"), id), nil, "certificate of " + id},
	}
}

func selfSigned(t *testing.T, id string) *x509svid.SVID {
	t.Helper()
	return issuedBy(t, nil, id)
}

// issuedBy makes a certificate for id that issuer, no CA, has signed.
func issuedBy(t *testing.T, issuer *x509svid.SVID, id string) *x509svid.SVID {
	t.Helper()
	key := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), URIs: []*url.URL{must[*url.URL](t)(url.Parse(id))}, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	parent, signer := template, any(key)
	svid := &x509svid.SVID{ID: identity.MustParseID(id).SPIFFEID(), PrivateKey: key}
	if issuer != nil {
		parent, signer = issuer.Certificates[0], issuer.PrivateKey
	}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer))
	svid.Certificates = append(svid.Certificates, must[*x509.Certificate](t)(x509.ParseCertificate(der)))
	if issuer != nil {
		svid.Certificates = append(svid.Certificates, parent)
	}
	return svid
}

func TestServerRefuses(t *testing.T) {
	ca := newCA(t, "example.org")
	server := serverTLS(t, brokerSource(t, ca, "n1"))
	for name, bad := range badCertificates(t, ca, "spiffe://example.org/agent/planner", "spiffe://other.org/agent/planner", x509.ExtKeyUsageServerAuth) {
		t.Run(name, func(t *testing.T) {
			atServer, atClient := connect(t, server, plain(bad.svid))
			wantError(t, atServer.err, identity.ErrPeer, bad.words)
			if bad.target != nil {
				wantError(t, atServer.err, bad.target)
			}
			wantError(t, atClient.err, nil)
		})
	}
	t.Run("no certificate", func(t *testing.T) {
		atServer, atClient := connect(t, server, plain(nil))
		wantError(t, atServer.err, nil, "didn't provide a certificate")
		wantError(t, atClient.err, nil, "certificate required")
	})
	t.Run("TLS 1.2", func(t *testing.T) {
		client := plain(agent(t, ca, "planner"))
		client.MaxVersion = tls.VersionTLS12
		atServer, atClient := connect(t, server, client)
		wantError(t, atServer.err, nil, "unsupported versions")
		wantError(t, atClient.err, nil, "protocol version")
	})
	t.Run("certificate with another key", func(t *testing.T) {
		svid := agent(t, ca, "planner")
		svid.PrivateKey = agent(t, ca, "mallory").PrivateKey
		atServer, _ := connect(t, server, plain(svid))
		wantError(t, atServer.err, nil, "invalid signature")
	})
}

func TestClientRefuses(t *testing.T) {
	ca := newCA(t, "example.org")
	client := clientTLS(t, agentSource(t, ca, "planner"))
	for name, bad := range badCertificates(t, ca, "spiffe://example.org/broker/n1", "spiffe://other.org/broker/n1", x509.ExtKeyUsageClientAuth) {
		t.Run(name, func(t *testing.T) {
			atServer, atClient := connect(t, plain(bad.svid), client)
			wantError(t, atClient.err, identity.ErrPeer, bad.words)
			if bad.target != nil {
				wantError(t, atClient.err, bad.target)
			}
			wantError(t, atServer.err, nil, "bad certificate")
		})
	}
	t.Run("an agent's", func(t *testing.T) {
		_, atClient := connect(t, plain(agent(t, ca, "mallory")), client)
		wantError(t, atClient.err, identity.ErrPeer, "spiffe://example.org/agent/mallory", "no broker node")
	})
	t.Run("an agent's with the name of a node", func(t *testing.T) {
		_, atClient := connect(t, plain(agent(t, ca, "n1")), clientTLS(t, agentSource(t, ca, "planner"), "n1"))
		wantError(t, atClient.err, identity.ErrPeer, "no broker node")
	})
	t.Run("another node", func(t *testing.T) {
		named := clientTLS(t, agentSource(t, ca, "planner"), "n1", "n2")
		_, atClient := connect(t, serverTLS(t, brokerSource(t, ca, "n3")), named)
		wantError(t, atClient.err, identity.ErrPeer, `"n3"`, "n1, n2")
	})
	t.Run("TLS 1.2", func(t *testing.T) {
		server := plain(must[*x509svid.SVID](t)(ca.Broker("n1", time.Hour)))
		server.MaxVersion = tls.VersionTLS12
		atServer, atClient := connect(t, server, client)
		wantError(t, atServer.err, nil, "unsupported versions")
		wantError(t, atClient.err, nil, "protocol version")
	})
}

// A certificate without extended key usages may be used for everything.
func TestTLSAcceptsWithoutExtendedKeyUsage(t *testing.T) {
	ca := newCA(t, "example.org")
	bare := func(id string) *identity.Memory {
		return identity.NewMemory(issue(t, ca, id, func(c *x509.Certificate) { c.ExtKeyUsage = nil }), ca.Bundle())
	}
	atServer, atClient := connect(t, serverTLS(t, bare("spiffe://example.org/broker/n1")), clientTLS(t, bare("spiffe://example.org/agent/planner")))
	wantConnected(t, atServer, atClient)
}

func TestTLSNoResumption(t *testing.T) {
	ca := newCA(t, "example.org")
	server, client := serverTLS(t, brokerSource(t, ca, "n1")), clientTLS(t, agentSource(t, ca, "planner"))
	if !server.SessionTicketsDisabled || !client.SessionTicketsDisabled {
		t.Error("session tickets are on")
	}
	client.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	client.SessionTicketsDisabled = false
	for range 3 {
		atServer, atClient := connect(t, server, client)
		wantConnected(t, atServer, atClient)
		if atServer.state.DidResume || atClient.state.DidResume {
			t.Error("a session was resumed")
		}
	}
}

// Should tickets ever be turned on, a resumed session is verified again: here
// the client's authority was taken away between the two connections.
func TestTLSResumptionVerifiesAgain(t *testing.T) {
	brokers, agents := newCA(t, "example.org"), newCA(t, "example.org")
	bundle := brokers.Bundle()
	bundle.AddX509Authority(agents.Bundle().X509Authorities()[0])
	node := must[*x509svid.SVID](t)(brokers.Broker("n1", time.Hour))
	server := serverTLS(t, identity.NewMemory(node, bundle))
	client := clientTLS(t, identity.NewMemory(agent(t, agents, "planner"), brokers.Bundle()))
	server.SessionTicketsDisabled, client.SessionTicketsDisabled = false, false
	client.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	client.ServerName = "n1" // the key of the session cache

	atServer, atClient := connect(t, server, client)
	wantConnected(t, atServer, atClient)
	atServer, atClient = connect(t, server, client)
	wantConnected(t, atServer, atClient)
	if !atServer.state.DidResume {
		t.Fatal("the session was not resumed, so this test shows nothing")
	}
	bundle.RemoveX509Authority(agents.Bundle().X509Authorities()[0])
	atServer, _ = connect(t, server, client)
	wantError(t, atServer.err, identity.ErrPeer, "issued by no CA")
}

func TestTLSRenewedCertificateIsServed(t *testing.T) {
	ca := newCA(t, "example.org")
	memory := brokerSource(t, ca, "n1")
	first := must[*x509svid.SVID](t)(ca.Broker("n2", time.Hour))
	dir := t.TempDir()
	files := must[*identity.Files](t)(writeFiles(t, ca, dir, first).load())
	client := agentSource(t, ca, "planner")
	clientConfig := clientTLS(t, client)
	for name, test := range map[string]struct {
		src   identity.Source
		renew func(*x509svid.SVID)
		node  string
	}{
		"memory": {memory, memory.SetSVID, "n1"},
		"files": {files, func(svid *x509svid.SVID) {
			writeFiles(t, ca, dir, svid)
			if err := files.Reload(); err != nil {
				t.Fatal(err)
			}
		}, "n2"},
	} {
		t.Run(name, func(t *testing.T) {
			server := serverTLS(t, test.src)
			atServer, atClient := connect(t, server, clientConfig)
			wantConnected(t, atServer, atClient)
			next := must[*x509svid.SVID](t)(ca.Broker(test.node, time.Hour))
			test.renew(next)
			nextClient := agent(t, ca, "planner")
			client.SetSVID(nextClient)
			atServer, atClient = connect(t, server, clientConfig)
			wantConnected(t, atServer, atClient)
			if !atClient.state.PeerCertificates[0].Equal(next.Certificates[0]) {
				t.Error("the old certificate is served")
			}
			if !atServer.state.PeerCertificates[0].Equal(nextClient.Certificates[0]) {
				t.Error("the old certificate is presented")
			}
		})
	}
}

func TestTLSConfigErrors(t *testing.T) {
	ca := newCA(t, "example.org")
	_, err := identity.ServerTLS(agentSource(t, ca, "planner"))
	wantError(t, err, identity.ErrCertificate, "agent/planner", "spiffe://example.org/broker/<node>")
	_, err = identity.ServerTLS(nil)
	wantError(t, err, identity.ErrCertificate)
	_, err = identity.ClientTLS(identity.NewMemory(nil, nil))
	wantError(t, err, identity.ErrCertificate)
	_, err = identity.ClientTLS(agentSource(t, ca, "planner"), "n1.example.org")
	wantError(t, err, identity.ErrInvalidID, "broker node", "n1.example.org")
}

func TestPeerIDWithoutHandshake(t *testing.T) {
	_, err := identity.PeerID(tls.ConnectionState{})
	wantError(t, err, identity.ErrPeer, "handshake")
	_, err = identity.PeerID(tls.ConnectionState{PeerCertificates: agent(t, newCA(t, "example.org"), "planner").Certificates})
	wantError(t, err, identity.ErrPeer, "handshake")
	_, err = identity.PeerID(tls.ConnectionState{HandshakeComplete: true, PeerCertificates: newCA(t, "example.org").Bundle().X509Authorities()})
	wantError(t, err, identity.ErrPeer, "CA's own")
}
