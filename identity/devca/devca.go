package devca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/url"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/sealbus/sealbus/identity"
)

const (
	// MinValidity is the shortest life of a certificate from Agent or Broker.
	MinValidity = time.Minute

	// MaxValidity is the longest life of a certificate from Agent or Broker.
	// Certificates are not revoked before they expire, so they are short.
	MaxValidity = 7 * 24 * time.Hour

	// authorityValidity is the life of the authority's own certificate.
	authorityValidity = 365 * 24 * time.Hour

	// backdate is how long before its issue a certificate begins, for clocks
	// that are behind.
	backdate = time.Minute
)

// ErrValidity is returned when a certificate is asked for that would live
// shorter than [MinValidity] or longer than [MaxValidity], or end before it
// begins.
var ErrValidity = errors.New("devca: validity out of range")

// CA is a development authority of one trust domain. It may be used by several
// goroutines at once. However it is printed, its key does not show.
type CA struct {
	td   spiffeid.TrustDomain
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	now  func() time.Time
}

// Option changes how an authority works.
type Option func(*CA)

// WithClock sets where the authority takes the time from. The default is
// time.Now.
func WithClock(now func() time.Time) Option {
	return func(c *CA) { c.now = now }
}

// New makes an authority for the trust domain td, such as "example.org", with a
// new key, valid for a year. The error matches identity.ErrInvalidID.
func New(td string, options ...Option) (*CA, error) {
	domain, err := identity.ParseTrustDomain(td)
	if err != nil {
		return nil, err
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	c := newCA(domain, nil, key, options)
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "Sealbus development CA"},
		URIs:                  []*url.URL{domain.ID().URL()},
		NotBefore:             c.now().Add(-backdate),
		NotAfter:              c.now().Add(authorityValidity),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	if c.cert, err = createCertificate(template, template, key.Public(), key); err != nil {
		return nil, err
	}
	return c, nil
}

func newCA(td spiffeid.TrustDomain, cert *x509.Certificate, key *ecdsa.PrivateKey, options []Option) *CA {
	c := &CA{td: td, cert: cert, key: key, now: time.Now}
	for _, option := range options {
		option(c)
	}
	return c
}

// TrustDomain is the trust domain that the authority issues for.
func (c *CA) TrustDomain() spiffeid.TrustDomain { return c.td }

// Bundle returns the authority's certificate, as what its trust domain trusts.
func (c *CA) Bundle() *x509bundle.Bundle {
	return x509bundle.FromX509Authorities(c.td, []*x509.Certificate{c.cert})
}

// Agent issues a certificate with a new key to the agent called name. It is
// valid for validity from now on, between [MinValidity] and [MaxValidity]. The
// error matches identity.ErrInvalidID or [ErrValidity].
func (c *CA) Agent(name string, validity time.Duration) (*x509svid.SVID, error) {
	id, err := identity.AgentID(c.td, name)
	if err != nil {
		return nil, err
	}
	return c.issueFor(id, validity)
}

// Broker is [CA.Agent] for a broker node.
func (c *CA) Broker(node string, validity time.Duration) (*x509svid.SVID, error) {
	id, err := identity.BrokerID(c.td, node)
	if err != nil {
		return nil, err
	}
	return c.issueFor(id, validity)
}

func (c *CA) issueFor(id identity.ID, validity time.Duration) (*x509svid.SVID, error) {
	if validity < MinValidity || validity > MaxValidity {
		return nil, fmt.Errorf("%w: %v for %s; choose between %v and %v", ErrValidity, validity, id, MinValidity, MaxValidity)
	}
	now := c.now()
	return c.Issue(Template{ID: id, NotBefore: now.Add(-backdate), NotAfter: now.Add(validity)})
}

// AgentSource issues a certificate as [CA.Agent] does, as a source that is
// ready to use.
func (c *CA) AgentSource(name string, validity time.Duration) (*identity.Memory, error) {
	svid, err := c.Agent(name, validity)
	if err != nil {
		return nil, err
	}
	return identity.NewMemory(svid, c.Bundle()), nil
}

// BrokerSource is [CA.AgentSource] for a broker node.
func (c *CA) BrokerSource(node string, validity time.Duration) (*identity.Memory, error) {
	svid, err := c.Broker(node, validity)
	if err != nil {
		return nil, err
	}
	return identity.NewMemory(svid, c.Bundle()), nil
}

// Template is what a certificate from [CA.Issue] is to say.
type Template struct {
	// ID is whom it names, in any trust domain.
	ID identity.ID

	// NotBefore and NotAfter are its times, in whole seconds.
	NotBefore, NotAfter time.Time

	// Key is its private key. Nil stands for a new ECDSA P-256 key.
	Key crypto.Signer

	// Edit, if not nil, has the last word on the certificate before it is
	// signed: on its key usage, say, or its names.
	Edit func(*x509.Certificate)
}

// Issue issues a certificate exactly as the template says, with no check but
// that its times are in order. It is for tests of how expired and otherwise bad
// certificates are refused.
func (c *CA) Issue(t Template) (*x509svid.SVID, error) {
	if t.ID.IsZero() {
		return nil, fmt.Errorf("%w SPIFFE ID: the template has none", identity.ErrInvalidID)
	}
	if !t.NotBefore.Before(t.NotAfter) {
		return nil, fmt.Errorf("%w: from %v to %v", ErrValidity, t.NotBefore, t.NotAfter)
	}
	if t.Key == nil {
		key, err := newKey()
		if err != nil {
			return nil, err
		}
		t.Key = key
	}
	template := &x509.Certificate{
		URIs:                  []*url.URL{t.ID.SPIFFEID().URL()},
		NotBefore:             t.NotBefore,
		NotAfter:              t.NotAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	if t.Edit != nil {
		t.Edit(template)
	}
	cert, err := createCertificate(template, c.cert, t.Key.Public(), c.key)
	if err != nil {
		return nil, err
	}
	return &x509svid.SVID{ID: t.ID.SPIFFEID(), Certificates: []*x509.Certificate{cert}, PrivateKey: t.Key}, nil
}

// String names the authority. Its key is not shown.
func (c *CA) String() string { return "development CA of " + c.td.Name() }

// LogValue is String, for slog.
func (c *CA) LogValue() slog.Value { return slog.StringValue(c.String()) }

func newKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("devca: generate key: %w", err)
	}
	return key, nil
}

func createCertificate(template, parent *x509.Certificate, public crypto.PublicKey, signer crypto.Signer) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("devca: serial number: %w", err)
	}
	template.SerialNumber = serial.Add(serial, big.NewInt(1))
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		return nil, fmt.Errorf("devca: create certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("devca: create certificate: %w", err)
	}
	return cert, nil
}
