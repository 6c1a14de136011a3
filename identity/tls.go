package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
)

// ServerTLS returns the configuration of a broker node: TLS 1.3 only, with a
// client certificate that names an agent or a broker node of the node's own
// trust domain and is valid at the time of the handshake. src is asked for the
// certificates at every handshake, so a renewed one is served without a
// restart. The own trust domain is fixed when ServerTLS is called.
//
// It fails when src cannot name a broker node now; see [Self] for the errors.
func ServerTLS(src Source) (*tls.Config, error) {
	id, _, err := Self(src)
	if err != nil {
		return nil, err
	}
	if !id.IsBroker() {
		return nil, fmt.Errorf("%w: it is the agent's %s, clients would refuse it; "+
			"have one issued for spiffe://%s/broker/<node>", ErrCertificate, id, id.TrustDomain())
	}
	config := baseTLS(src, id.TrustDomain(), x509.ExtKeyUsageClientAuth, nil)
	config.GetCertificate = tlsconfig.GetCertificate(src)
	// Any certificate, because crypto/tls is to leave the verification to
	// VerifyConnection; none at all is refused.
	config.ClientAuth = tls.RequireAnyClientCert
	return config, nil
}

// ClientTLS returns the configuration of a client of broker nodes: TLS 1.3
// only, with a server certificate that names a broker node of the client's own
// trust domain and is valid at the time of the handshake. Host names do not
// count. When brokers are given, only nodes of these names are accepted. src is
// asked for the certificates at every handshake; a renewed certificate is
// presented from the next connection on. The own trust domain is fixed when
// ClientTLS is called.
//
// It fails when src cannot name an agent or a broker node now, or a name in
// brokers is none; see [Self] and [CheckName] for the errors.
func ClientTLS(src Source, brokers ...string) (*tls.Config, error) {
	id, _, err := Self(src)
	if err != nil {
		return nil, err
	}
	for _, node := range brokers {
		if err := CheckName(node); err != nil {
			return nil, fmt.Errorf("broker node: %w", err)
		}
	}
	brokers = slices.Clone(brokers)
	config := baseTLS(src, id.TrustDomain(), x509.ExtKeyUsageServerAuth, func(peer ID) error {
		if !peer.IsBroker() {
			// Otherwise any agent could pose as a broker to the others.
			return fmt.Errorf("%s is no broker node; check the address", peer)
		}
		if len(brokers) > 0 && !slices.Contains(brokers, peer.Name()) {
			return fmt.Errorf("broker node %q is none of %s; check the address", peer.Name(), strings.Join(brokers, ", "))
		}
		return nil
	})
	config.GetClientCertificate = tlsconfig.GetClientCertificate(src)
	// This turns off the verification of host names and of the web's
	// authorities. VerifyConnection verifies instead.
	config.InsecureSkipVerify = true
	return config, nil
}

// PeerID returns whom the peer's certificate names, on a connection whose
// handshake was done under a configuration from this package. It does not
// verify again: on any other connection the answer means nothing. The error
// matches [ErrPeer].
func PeerID(cs tls.ConnectionState) (ID, error) {
	if !cs.HandshakeComplete || len(cs.PeerCertificates) == 0 {
		return ID{}, fmt.Errorf("%w: no completed TLS handshake with a certificate", ErrPeer)
	}
	id, err := leafID(cs.PeerCertificates[0])
	if err != nil {
		return ID{}, fmt.Errorf("%w: %w", ErrPeer, err)
	}
	return id, nil
}

func baseTLS(bundles x509bundle.Source, td spiffeid.TrustDomain, usage x509.ExtKeyUsage, accept func(ID) error) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// The hybrid first: whoever records traffic now and has a quantum
		// computer later still learns nothing.
		CurvePreferences: []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256},
		// A resumed session would bring a certificate back that has expired
		// or whose authority was removed since.
		SessionTicketsDisabled: true,
		// Here and not in VerifyPeerCertificate, which a resumed session
		// does not call.
		VerifyConnection: func(cs tls.ConnectionState) error {
			if err := verifyPeer(cs, bundles, td, usage, accept); err != nil {
				return fmt.Errorf("%w: %w", ErrPeer, err)
			}
			return nil
		},
	}
}

func verifyPeer(cs tls.ConnectionState, bundles x509bundle.Source, td spiffeid.TrustDomain, usage x509.ExtKeyUsage, accept func(ID) error) error {
	if cs.Version != tls.VersionTLS13 {
		return errors.New("not TLS 1.3")
	}
	id, err := verifyChain(cs.PeerCertificates, bundles, td, time.Now())
	if err != nil {
		return err
	}
	// x509svid.Verify accepts any extended key usage. A certificate without
	// one may be used for everything.
	leaf := cs.PeerCertificates[0]
	if len(leaf.ExtKeyUsage)+len(leaf.UnknownExtKeyUsage) > 0 &&
		!slices.Contains(leaf.ExtKeyUsage, usage) && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny) {
		return fmt.Errorf("the certificate of %s may not be used for this side of TLS; have one issued with serverAuth and clientAuth", id)
	}
	if accept == nil {
		return nil
	}
	return accept(id)
}
