package identity

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"sync"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// Source is where an own certificate and the certificates of the trust
// domain's authorities come from. It is asked again for every handshake and
// every statement, so what it returns may change at any time; its methods may
// be called from several goroutines at once. [Files], [Memory] and go-spiffe's
// workloadapi.X509Source are Sources.
type Source interface {
	x509svid.Source
	x509bundle.Source
}

// Memory is a [Source] that holds what it was given, for tests and for programs
// that get their certificates in a way of their own. It checks neither times
// nor chains; whoever relies on a certificate does.
type Memory struct {
	bundle *x509bundle.Bundle

	mu   sync.RWMutex
	svid *x509svid.SVID
}

// NewMemory returns a Source of svid and bundle. Authorities are added to and
// removed from the bundle itself.
func NewMemory(svid *x509svid.SVID, bundle *x509bundle.Bundle) *Memory {
	return &Memory{svid: svid, bundle: bundle}
}

// SetSVID replaces the certificate and its key, as a renewal does. What is
// asked for from then on is the new one; connections that exist stay as they
// are.
func (m *Memory) SetSVID(svid *x509svid.SVID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.svid = svid
}

// GetX509SVID returns the certificate and its key.
func (m *Memory) GetX509SVID() (*x509svid.SVID, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.svid == nil {
		return nil, fmt.Errorf("%w: none was given to this source in memory", ErrCertificate)
	}
	return m.svid, nil
}

// GetX509BundleForTrustDomain returns the authorities of the trust domain.
func (m *Memory) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	if m.bundle == nil {
		return nil, fmt.Errorf("%w: no authorities were given to this source in memory", ErrCertificate)
	}
	return m.bundle.GetX509BundleForTrustDomain(td)
}

// Self asks src for the own certificate and returns whom it names, an agent or
// a broker node. It checks that the certificate and its key fit each other and
// may sign; whether it is valid now is for [Files] and for peers to say. The
// error matches [ErrCertificate], [ErrInvalidID] or [ErrKeyType], or is the
// source's own.
func Self(src Source) (ID, *x509svid.SVID, error) {
	if src == nil {
		return ID{}, nil, fmt.Errorf("%w: no source given; use LoadFiles", ErrCertificate)
	}
	svid, err := src.GetX509SVID()
	if err != nil {
		return ID{}, nil, err
	}
	id, err := checkSVID(svid)
	if err != nil {
		return ID{}, nil, err
	}
	return id, svid, nil
}

func checkSVID(svid *x509svid.SVID) (ID, error) {
	if svid == nil || len(svid.Certificates) == 0 || svid.PrivateKey == nil {
		return ID{}, fmt.Errorf("%w: the source has no certificate, or none with a key", ErrCertificate)
	}
	if len(svid.Certificates) > MaxChain {
		return ID{}, fmt.Errorf("%w: a chain of %d certificates, at most %d are accepted by others; leave the root out",
			ErrCertificate, len(svid.Certificates), MaxChain)
	}
	leaf := svid.Certificates[0]
	id, err := leafID(leaf)
	if err != nil {
		return ID{}, fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	if id.SPIFFEID() != svid.ID {
		return ID{}, fmt.Errorf("%w: it names %s, but its source says %s", ErrCertificate, id, svid.ID)
	}
	if _, err := algorithmOf(leaf.PublicKey); err != nil {
		return ID{}, fmt.Errorf("certificate of %s: %w", id, err)
	}
	if !publicKeysEqual(svid.PrivateKey.Public(), leaf.PublicKey) {
		return ID{}, fmt.Errorf("%w: the private key is not that of the certificate of %s", ErrCertificate, id)
	}
	return id, nil
}

// leafID returns whom a certificate names, provided that it is one that may
// sign and no CA's. A certificate with two names is nobody's: readers could
// disagree about which one counts.
func leafID(leaf *x509.Certificate) (ID, error) {
	switch {
	case leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		return ID{}, fmt.Errorf("%s is a CA's own certificate; have one issued for this agent or node", describe(leaf))
	case leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return ID{}, fmt.Errorf("the key usage of %s lacks digitalSignature; have one issued that may sign", describe(leaf))
	}
	spiffeID, err := x509svid.IDFromCert(leaf)
	if err != nil {
		return ID{}, fmt.Errorf("%w (subject %q); have one issued with spiffe://<trust domain>/agent/<name> as its only URI name",
			err, leaf.Subject)
	}
	return FromSPIFFEID(spiffeID)
}

func publicKeysEqual(a, b crypto.PublicKey) bool {
	key, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && key.Equal(b)
}
