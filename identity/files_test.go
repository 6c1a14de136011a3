package identity_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/identity/devca"
)

// paths are those of one identity's files.
type paths struct{ cert, key, ca string }

func (p paths) load() (*identity.Files, error) { return identity.LoadFiles(p.cert, p.key, p.ca) }

func writeFiles(t testing.TB, ca *devca.CA, dir string, svid *x509svid.SVID) paths {
	t.Helper()
	cert, key, caFile, err := ca.WriteFiles(dir, svid)
	if err != nil {
		t.Fatal(err)
	}
	return paths{cert, key, caFile}
}

func TestLoadFiles(t *testing.T) {
	ca := newCA(t, "example.org")
	want := agent(t, ca, "planner")
	p := writeFiles(t, ca, t.TempDir(), want)
	src := must[*identity.Files](t)(p.load())
	id, svid, err := identity.Self(src)
	if err != nil || id.String() != "spiffe://example.org/agent/planner" || !svid.Certificates[0].Equal(want.Certificates[0]) {
		t.Errorf("loaded %s, %v", id, err)
	}
	bundle, err := src.GetX509BundleForTrustDomain(example)
	if err != nil || !bundle.Equal(ca.Bundle()) {
		t.Errorf("bundle %v, %v", bundle, err)
	}
	if _, err := src.GetX509BundleForTrustDomain(must[*devca.CA](t)(devca.New("other.org")).TrustDomain()); err == nil {
		t.Error("a bundle for another trust domain")
	}
}

// Certificate and key in one file, in either order, and a key in the older form
// that openssl ecparam writes.
func TestLoadFilesOtherForms(t *testing.T) {
	ca := newCA(t, "example.org")
	svid := agent(t, ca, "planner")
	p := writeFiles(t, ca, t.TempDir(), svid)
	cert, key := readFile(t, p.cert), readFile(t, p.key)
	der := must[[]byte](t)(x509.MarshalECPrivateKey(svid.PrivateKey.(*ecdsa.PrivateKey)))
	sec1 := append([]byte("-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})...)
	for name, data := range map[string][]byte{
		"certificate first": append(bytes.Clone(cert), key...),
		"key first":         append(bytes.Clone(key), cert...),
		"SEC 1":             append(sec1, cert...),
		"comments":          append(append([]byte("subject=planner\n\n"), cert...), key...),
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "both.pem")
			writeFile(t, file, data)
			if _, err := identity.LoadFiles(file, file, p.ca); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestLoadFilesRefuses(t *testing.T) {
	ca, foreign := newCA(t, "example.org"), newCA(t, "example.org")
	self := agent(t, ca, "planner")
	pemOf := func(svid *x509svid.SVID) []byte {
		cert, _ := mustPEM(t, svid)
		return cert
	}
	edited := func(edit func(*x509.Certificate)) []byte {
		now := time.Now()
		return pemOf(must[*x509svid.SVID](t)(ca.Issue(devca.Template{
			ID: identity.MustParseID("spiffe://example.org/agent/planner"), Key: self.PrivateKey,
			NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), Edit: edit,
		})))
	}
	goodCert, goodKey := mustPEM(t, self)
	goodCA := must[[]byte](t)(ca.Bundle().Marshal())
	_, otherKey := mustPEM(t, agent(t, ca, "planner"))
	rsaKey := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
	rsaDER := must[[]byte](t)(x509.MarshalPKCS8PrivateKey(rsaKey))
	p521 := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))
	p521DER := must[[]byte](t)(x509.MarshalPKCS8PrivateKey(p521))
	block := func(typ string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der}) }

	for name, test := range map[string]struct {
		cert, key, ca []byte // nil stands for the good one
		target        error
		file          string // which file the error must name
		words         []string
	}{
		"certificate empty":             {cert: []byte{}, file: "cert.pem", words: []string{"empty"}},
		"certificate no PEM":            {cert: []byte("hello"), file: "cert.pem", words: []string{"no PEM", "-----BEGIN"}},
		"certificate DER":               {cert: self.Certificates[0].Raw, file: "cert.pem", words: []string{"convert it to PEM"}},
		"certificate is the key":        {cert: goodKey, file: "cert.pem", words: []string{"PRIVATE KEY", "wrong order"}},
		"certificate cut short":         {cert: goodCert[:len(goodCert)/2], file: "cert.pem", words: []string{"cut short"}},
		"second certificate cut short":  {cert: append(bytes.Clone(goodCert), goodCert[:len(goodCert)/2]...), file: "cert.pem", words: []string{"cut short"}},
		"certificate damaged":           {cert: block("CERTIFICATE", self.Certificates[0].Raw[:99]), file: "cert.pem", words: []string{"certificate 1"}},
		"certificate too big":           {cert: bytes.Repeat([]byte("\n"), identity.MaxFile+1), file: "cert.pem", words: []string{"1048576"}},
		"certificate is the CA's":       {cert: goodCA, file: "cert.pem", target: identity.ErrCertificate, words: []string{"CA's own"}},
		"chain too long":                {cert: bytes.Repeat(goodCert, 5), file: "cert.pem", target: identity.ErrCertificate, words: []string{"5 certificates", "at most 4"}},
		"no SPIFFE ID":                  {cert: edited(func(c *x509.Certificate) { c.URIs = nil; c.DNSNames = []string{"planner"} }), file: "cert.pem", target: identity.ErrCertificate, words: []string{"no URI", "spiffe://<trust domain>/agent/<name>"}},
		"two SPIFFE IDs":                {cert: edited(func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }), file: "cert.pem", target: identity.ErrCertificate, words: []string{"more than one URI"}},
		"SPIFFE ID of another form":     {cert: edited(func(c *x509.Certificate) { c.URIs[0].Path = "/ns/default/sa/planner" }), file: "cert.pem", target: identity.ErrInvalidID, words: []string{"/ns/default/sa/planner", "/agent/<name>"}},
		"no digitalSignature":           {cert: edited(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }), file: "cert.pem", target: identity.ErrCertificate, words: []string{"digitalSignature"}},
		"certificate may sign others":   {cert: edited(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign }), file: "cert.pem", target: identity.ErrCertificate, words: []string{"CA's own"}},
		"certificate expired":           {cert: edited(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), file: "cert.pem", target: identity.ErrExpired, words: []string{"expired at", "renew"}},
		"certificate not yet valid":     {cert: edited(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), file: "cert.pem", target: identity.ErrExpired, words: []string{"begins at", "clock"}},
		"key empty":                     {key: []byte{}, file: "key.pem", words: []string{"empty"}},
		"key is the certificate":        {key: goodCert, file: "key.pem", words: []string{"CERTIFICATE", "wrong order"}},
		"key cut short":                 {key: goodKey[:len(goodKey)/2], file: "key.pem", words: []string{"cut short"}},
		"key damaged":                   {key: block("PRIVATE KEY", []byte{1}), file: "key.pem", words: []string{"does not parse"}},
		"key encrypted":                 {key: block("ENCRYPTED PRIVATE KEY", []byte{1}), file: "key.pem", words: []string{"encrypted", "openssl"}},
		"key RSA":                       {key: block("PRIVATE KEY", rsaDER), file: "key.pem", target: identity.ErrKeyType, words: []string{"ECDSA P-256"}},
		"key RSA, PKCS#1":               {key: block("RSA PRIVATE KEY", []byte{1}), file: "key.pem", target: identity.ErrKeyType, words: []string{"ECDSA P-256"}},
		"key P-521":                     {key: block("PRIVATE KEY", p521DER), file: "key.pem", target: identity.ErrKeyType, words: []string{"ECDSA P-256"}},
		"two keys":                      {key: append(bytes.Clone(goodKey), otherKey...), file: "key.pem", words: []string{"two private keys"}},
		"key of another certificate":    {key: otherKey, file: "key.pem", target: identity.ErrCertificate, words: []string{"cert.pem", "not that of the certificate"}},
		"CA empty":                      {ca: []byte{}, file: "ca.pem", words: []string{"empty"}},
		"CA without certificates":       {ca: goodKey, file: "ca.pem", words: []string{"no certificate in it"}},
		"CA cut short":                  {ca: append(bytes.Clone(goodCA), goodCA[:len(goodCA)/2]...), file: "ca.pem", words: []string{"cut short"}},
		"CA is an agent's":              {ca: goodCert, file: "ca.pem", words: []string{"no CA's", "spiffe://example.org/agent/planner"}},
		"CA with its key":               {ca: append(bytes.Clone(goodCA), goodKey...), file: "ca.pem", words: []string{"PRIVATE KEY", "away"}},
		"CA of somebody else":           {ca: must[[]byte](t)(foreign.Bundle().Marshal()), file: "cert.pem", words: []string{"ca.pem", "issued by no CA"}},
		"everything wrong, all is told": {cert: []byte("x"), key: []byte("y"), ca: []byte("z"), file: "cert.pem", words: []string{"key.pem", "ca.pem"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			p := paths{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "ca.pem")}
			for file, data := range map[string][2][]byte{p.cert: {test.cert, goodCert}, p.key: {test.key, goodKey}, p.ca: {test.ca, goodCA}} {
				if data[0] == nil {
					data[0] = data[1]
				}
				writeFile(t, file, data[0])
			}
			src, err := p.load()
			wantError(t, err, test.target, test.words...)
			var fileError *identity.FileError
			if !errors.As(err, &fileError) || filepath.Base(fileError.File) != test.file {
				t.Errorf("error is not about %s: %v", test.file, err)
			}
			if src != nil {
				t.Error("a source along with an error")
			}
		})
	}
}

func TestLoadFilesMissing(t *testing.T) {
	ca := newCA(t, "example.org")
	for i, role := range []string{"certificate", "key", "CA"} {
		p := writeFiles(t, ca, t.TempDir(), agent(t, ca, "planner"))
		file := []string{p.cert, p.key, p.ca}[i]
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		_, err := p.load()
		wantError(t, err, fs.ErrNotExist, role+" file "+file, "no such file")
	}
	_, err := identity.LoadFiles(t.TempDir(), t.TempDir(), t.TempDir())
	wantError(t, err, nil, "directory")
}

// mustPEM returns a certificate and its key as PEM.
func mustPEM(t testing.TB, svid *x509svid.SVID) (cert, key []byte) {
	t.Helper()
	cert, key, err := svid.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func TestSelfRefuses(t *testing.T) {
	ca := newCA(t, "example.org")
	good, other := agent(t, ca, "planner"), agent(t, ca, "other")
	_, _, err := identity.Self(nil)
	wantError(t, err, identity.ErrCertificate, "LoadFiles")
	for name, svid := range map[string]*x509svid.SVID{
		"nil":            nil,
		"no certificate": {ID: good.ID, PrivateKey: good.PrivateKey},
		"no key":         {ID: good.ID, Certificates: good.Certificates},
		"another's ID":   {ID: other.ID, Certificates: good.Certificates, PrivateKey: good.PrivateKey},
		"another's key":  {ID: good.ID, Certificates: good.Certificates, PrivateKey: other.PrivateKey},
	} {
		t.Run(name, func(t *testing.T) {
			id, _, err := identity.Self(identity.NewMemory(svid, ca.Bundle()))
			wantError(t, err, identity.ErrCertificate)
			if !id.IsZero() {
				t.Error("an ID along with an error")
			}
		})
	}
	if _, err := identity.NewMemory(good, nil).GetX509BundleForTrustDomain(example); err == nil {
		t.Error("authorities out of nothing")
	}
}
