package integration_test

import (
	"crypto/tls"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/identity/devca"
	"github.com/sealbus/sealbus/internal/bustest"
)

// TestImpostorBroker: somebody else listens where a broker should. The agent ends the handshake, so that
// nothing of it is sent, not its certificate either.
func TestImpostorBroker(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, trustPolicy)
	certificate := func(ca *devca.CA, id string, from, to time.Duration) tls.Certificate {
		svid, err := ca.Issue(devca.Template{ID: identity.MustParseID(id), NotBefore: time.Now().Add(from), NotAfter: time.Now().Add(to)})
		bustest.Check(t, err)
		return tls.Certificate{Certificate: [][]byte{svid.Certificates[0].Raw}, PrivateKey: svid.PrivateKey}
	}
	const node = "spiffe://example.org/broker/node-1"
	for _, c := range []struct {
		name    string
		serve   *tls.Config
		brokers []string
		text    string
	}{
		{"another authority's", &tls.Config{Certificates: []tls.Certificate{certificate(otherCA(t, bustest.Domain), node, -time.Hour, time.Hour)}}, nil, "another CA"},
		{"an agent's", &tls.Config{Certificates: []tls.Certificate{certificate(w.CA, "spiffe://example.org/agent/mallory", -time.Hour, time.Hour)}}, nil, "is no broker node"},
		{"another trust domain's", &tls.Config{Certificates: []tls.Certificate{certificate(otherCA(t, "other.org"), "spiffe://other.org/broker/node-1", -time.Hour, time.Hour)}}, nil, "not of the trust domain"},
		{"another trust domain's name", &tls.Config{Certificates: []tls.Certificate{certificate(w.CA, "spiffe://other.org/broker/node-1", -time.Hour, time.Hour)}}, nil, "not of the trust domain"},
		{"an expired one", &tls.Config{Certificates: []tls.Certificate{certificate(w.CA, node, -2*time.Hour, -time.Hour)}}, nil, "expired"},
		{"a node not named", &tls.Config{Certificates: []tls.Certificate{certificate(w.CA, "spiffe://example.org/broker/node-2", -time.Hour, time.Hour)}}, []string{"node-1"}, `"node-2" is none of node-1`},
		{"TLS 1.2", &tls.Config{MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate(w.CA, node, -time.Hour, time.Hour)}}, nil, "version"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.serve.ClientAuth = tls.RequireAnyClientCert
			var seen []byte
			addr, stop := imposter(t, func(conn net.Conn) {
				_ = conn.SetDeadline(time.Now().Add(bustest.Timeout))
				server := tls.Server(conn, c.serve)
				if err := server.Handshake(); err == nil {
					t.Error("the agent finished the handshake")
				}
				for _, cert := range server.ConnectionState().PeerCertificates {
					seen = cert.Raw
				}
			})
			config := w.Config("planner")
			config.Servers, config.Brokers = []string{"tls://" + addr}, c.brokers
			_, err := agentbus.Connect(w.Ctx(), config)
			stop()
			if err == nil || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want an error with %q", err, c.text)
			}
			if seen != nil {
				t.Error("the agent showed its certificate")
			}
		})
	}
	t.Run("plain NATS", func(t *testing.T) {
		t.Parallel()
		got := make([]byte, 1)
		addr, stop := imposter(t, func(conn net.Conn) {
			_ = conn.SetDeadline(time.Now().Add(bustest.Timeout))
			_, _ = conn.Write([]byte("INFO {\"server_id\":\"x\",\"version\":\"2.15.2\",\"max_payload\":1048576,\"headers\":true}\r\n"))
			_, _ = conn.Read(got)
		})
		config := w.Config("planner")
		config.Servers = []string{"tls://" + addr}
		_, err := agentbus.Connect(w.Ctx(), config)
		stop()
		if err == nil {
			t.Error("connected without TLS")
		}
		if got[0] != 0x16 {
			t.Errorf("the first byte on the wire is %#x, want that of a TLS handshake", got[0])
		}
	})
	t.Run("the real one", func(t *testing.T) {
		t.Parallel()
		config := w.Config("planner")
		config.Brokers = []string{"node-2", "node-1"}
		w.Connect(config)
		config = w.Config("planner")
		config.Brokers = []string{"node-2", "node-3"}
		if _, err := agentbus.Connect(w.Ctx(), config); err == nil || !strings.Contains(err.Error(), `"node-1" is none of node-2, node-3`) {
			t.Errorf("got %v", err)
		}
	})
}

// imposter serves every connection to its address until it is stopped.
func imposter(t testing.TB, serve func(net.Conn)) (addr string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	bustest.Check(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serve(conn)
			_ = conn.Close()
		}
	})
	return l.Addr().String(), func() {
		_ = l.Close()
		wg.Wait()
	}
}
