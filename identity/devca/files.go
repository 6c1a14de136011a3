package devca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/internal/safefile"
)

// Names in the directory of an authority. Those of agents and nodes are made by
// fileBase so that they cannot be these.
const (
	caFile  = "ca.pem"
	caKey   = "ca-key.pem"
	keyFile = "-key.pem"
)

// Save writes the authority into dir, which must exist, as ca.pem and
// ca-key.pem (mode 0600), for [LoadCA]. An authority that is there already is
// never overwritten; the error then matches fs.ErrExist.
func (c *CA) Save(dir string) error {
	der, err := x509.MarshalPKCS8PrivateKey(c.key)
	if err != nil {
		return fmt.Errorf("devca: save: %w", err)
	}
	// The key first: who finds the name taken must not leave a certificate
	// beside another authority's key.
	file := filepath.Join(dir, caKey)
	if err := safefile.Create(file, encodeKey(der), 0o600); err != nil {
		return fmt.Errorf("devca: save: %w", err)
	}
	if err := c.writeCertificate(dir); err != nil {
		return errors.Join(err, os.Remove(file))
	}
	return nil
}

// writeCertificate writes ca.pem, unless it is there with the same content.
func (c *CA) writeCertificate(dir string) error {
	file := filepath.Join(dir, caFile)
	data := encodeCertificates(c.cert)
	err := safefile.Create(file, data, 0o644)
	if errors.Is(err, fs.ErrExist) {
		old, readErr := os.ReadFile(file)
		if readErr == nil && bytes.Equal(old, data) {
			return nil
		}
		return fmt.Errorf("devca: %s is another authority's; use LoadCA or another directory: %w", file, fs.ErrExist)
	}
	if err != nil {
		return fmt.Errorf("devca: %w", err)
	}
	return nil
}

// LoadCA reads the authority that [CA.Save] wrote into dir. When there is none
// the error matches fs.ErrNotExist.
func LoadCA(dir string, options ...Option) (*CA, error) {
	certPEM, err := os.ReadFile(filepath.Join(dir, caFile))
	if err != nil {
		return nil, fmt.Errorf("devca: load: %w", err)
	}
	keyPEM, err := os.ReadFile(filepath.Join(dir, caKey))
	if err != nil {
		return nil, fmt.Errorf("devca: load: %w", err)
	}
	cert, key, err := parseCA(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("devca: load from %s: %w; make a new one in another directory", dir, err)
	}
	td, err := authorityDomain(cert)
	if err != nil {
		return nil, fmt.Errorf("devca: load from %s: %w", dir, err)
	}
	return newCA(td, cert, key, options), nil
}

func parseCA(certPEM, keyPEM []byte) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	certBlock, _ := pem.Decode(certPEM)
	keyBlock, _ := pem.Decode(keyPEM)
	if certBlock == nil || keyBlock == nil {
		return nil, nil, errors.New("no PEM in " + caFile + " or " + caKey)
	}
	cert, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return nil, nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(keyBlock.Bytes)
	if err != nil {
		return nil, nil, err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	switch {
	case !ok || key.Curve != elliptic.P256():
		return nil, nil, errors.New("the key in " + caKey + " is not ECDSA P-256")
	case !cert.IsCA:
		return nil, nil, errors.New("the certificate in " + caFile + " is no CA's")
	case !key.PublicKey.Equal(cert.PublicKey):
		return nil, nil, errors.New("the key in " + caKey + " is not that of the certificate in " + caFile)
	}
	return cert, key, nil
}

// authorityDomain returns the trust domain that a CA's certificate names.
func authorityDomain(cert *x509.Certificate) (spiffeid.TrustDomain, error) {
	id, err := x509svid.IDFromCert(cert)
	if err != nil {
		return spiffeid.TrustDomain{}, err
	}
	return identity.ParseTrustDomain(id.TrustDomain().Name())
}

// WriteFiles writes a certificate, its key (mode 0600) and the authority's
// certificate into dir, which must exist: planner.pem, planner-key.pem and
// ca.pem for the agent planner, broker.n1.pem, broker.n1-key.pem and ca.pem for
// the broker node n1. It returns the three paths as identity.LoadFiles takes
// them. Files of the same identity are replaced, each in one step,
// so a renewal may be written over them while they are in use. Names that would
// collide ("ca" for an agent, and names that end in "-key") are refused, and so
// is a directory with another authority's ca.pem.
func (c *CA) WriteFiles(dir string, svid *x509svid.SVID) (cert, key, ca string, err error) {
	base, err := fileBase(svid)
	if err != nil {
		return "", "", "", err
	}
	der, err := x509.MarshalPKCS8PrivateKey(svid.PrivateKey)
	if err != nil {
		return "", "", "", fmt.Errorf("devca: write files: %w", err)
	}
	if err := c.writeCertificate(dir); err != nil {
		return "", "", "", err
	}
	cert, key, ca = filepath.Join(dir, base+".pem"), filepath.Join(dir, base+keyFile), filepath.Join(dir, caFile)
	if err := safefile.Replace(key, encodeKey(der), 0o600); err != nil {
		return "", "", "", fmt.Errorf("devca: write files: %w", err)
	}
	if err := safefile.Replace(cert, encodeCertificates(svid.Certificates...), 0o644); err != nil {
		return "", "", "", fmt.Errorf("devca: write files: %w", err)
	}
	return cert, key, ca, nil
}

func fileBase(svid *x509svid.SVID) (string, error) {
	id, err := identity.FromSPIFFEID(svid.ID)
	if err != nil {
		return "", err
	}
	switch {
	case strings.HasSuffix(id.Name(), "-key") || id.IsAgent() && id.Name() == "ca":
		return "", fmt.Errorf("devca: write files: the files of %s would be taken for others; choose another name", id)
	case id.IsBroker():
		// No name has a dot in it, so no agent's file is called this.
		return "broker." + id.Name(), nil
	}
	return id.Name(), nil
}

func encodeKey(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func encodeCertificates(certs ...*x509.Certificate) []byte {
	var out bytes.Buffer
	for _, cert := range certs {
		_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	}
	return out.Bytes()
}
