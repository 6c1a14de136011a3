package identity_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/identity/devca"
)

const testType = "sealbus-test"

// testClaims has one name of each kind that a decoder could be lax about.
type testClaims struct {
	IssuedAt int64          `json:"iat"`
	Name     string         `json:"name"`
	Data     []byte         `json:"data,omitempty"`
	Pair     *[2]int        `json:"pair,omitempty"`
	Inner    *innerClaims   `json:"inner,omitempty"`
	List     []innerClaims  `json:"list,omitempty"`
	ID       *identity.ID   `json:"id,omitempty"`
	Numbers  map[string]int `json:"numbers,omitempty"`
}

type innerClaims struct {
	X string `json:"x"`
}

var issuedAt = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func goodClaims() testClaims {
	id := identity.MustParseID("spiffe://example.org/agent/planner")
	return testClaims{
		IssuedAt: issuedAt.Unix(), Name: "a <b> & ü\n", Data: []byte{0, 1, 255}, Pair: &[2]int{1, 2},
		Inner: &innerClaims{"y"}, List: []innerClaims{{"1"}, {""}}, ID: &id, Numbers: map[string]int{"b": 1, "a": 0},
	}
}

// opaque is a signer of which nothing is known but its methods, like one in a
// key store or one that wraps another library's.
type opaque struct{ key crypto.Signer }

func (o opaque) Public() crypto.PublicKey { return o.key.Public() }

func (o opaque) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return o.key.Sign(rand, digest, opts)
}

func testKeys(t testing.TB) map[string]crypto.Signer {
	t.Helper()
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]crypto.Signer{
		"EdDSA":        edKey,
		"EdDSA opaque": opaque{edKey},
		"ES256":        must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)),
		"ES256 opaque": opaque{must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))},
		"ES384":        must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)),
	}
}

func TestStatementRoundTrip(t *testing.T) {
	for name, key := range testKeys(t) {
		t.Run(name, func(t *testing.T) {
			claims := goodClaims()
			raw := must[[]byte](t)(identity.SignStatement(testType, claims, "key-1", key))
			u := must[*identity.Unverified](t)(identity.ParseStatement(raw, testType))
			if u.KeyID() != "key-1" {
				t.Errorf("key id %q", u.KeyID())
			}
			var found, got testClaims
			if err := u.UnverifiedClaims(&found); err != nil || !reflect.DeepEqual(found, claims) {
				t.Errorf("unverified claims %+v, %v", found, err)
			}
			got.Name = "left over from before"
			s := must[*identity.Statement](t)(u.Verify(key.Public(), &got))
			if !reflect.DeepEqual(got, claims) {
				t.Errorf("claims %+v", got)
			}
			dot := bytes.LastIndexByte(raw, '.')
			want := &identity.Statement{
				Type: testType, KeyID: "key-1", IssuedAt: issuedAt, Hash: sha256.Sum256(raw[:dot]),
				Claims: must[[]byte](t)(json.Marshal(claims)), Signer: key.Public(),
			}
			if !reflect.DeepEqual(s, want) || u.Hash() != want.Hash {
				t.Errorf("statement %+v", s)
			}
			wantHeader := `{"alg":"` + name[:5] + `","kid":"key-1","typ":"sealbus-test"}`
			if head, _, _ := strings.Cut(string(raw), "."); head != b64([]byte(wantHeader)) {
				t.Errorf("header %s", head)
			}
		})
	}
}

func TestStatementWithoutKeyID(t *testing.T) {
	key := testKeys(t)["EdDSA"]
	claims := goodClaims()
	raw := must[[]byte](t)(identity.SignStatement(testType, &claims, "", key))
	u := must[*identity.Unverified](t)(identity.ParseStatement(raw, testType))
	if _, err := u.Verify(key.Public(), &testClaims{}); err != nil || u.KeyID() != "" {
		t.Errorf("key id %q, %v", u.KeyID(), err)
	}
}

func TestSVIDStatementRoundTrip(t *testing.T) {
	ca := newCA(t, "example.org")
	for name, svid := range map[string]*x509svid.SVID{
		"direct":               agent(t, ca, "planner"),
		"through intermediate": viaIntermediates(t, ca, "spiffe://example.org/agent/planner", 1),
		"as long as allowed":   viaIntermediates(t, ca, "spiffe://example.org/agent/planner", 3),
		"Ed25519":              withKey(t, ca, testKeys(t)["EdDSA"]),
		"P-384":                withKey(t, ca, testKeys(t)["ES384"]),
		"opaque":               withKey(t, ca, testKeys(t)["ES256 opaque"]),
	} {
		t.Run(name, func(t *testing.T) {
			claims := goodClaims()
			raw := must[[]byte](t)(identity.SignSVIDStatement(testType, claims, svid))
			u := must[*identity.Unverified](t)(identity.ParseStatement(raw, testType))
			var got testClaims
			id, s, err := u.VerifySVID(ca.Bundle(), example, time.Now(), &got)
			if err != nil {
				t.Fatal(err)
			}
			if id.String() != "spiffe://example.org/agent/planner" || !reflect.DeepEqual(got, claims) {
				t.Errorf("%s says %+v", id, got)
			}
			if len(s.Chain) != len(svid.Certificates) || !s.Chain[0].Equal(svid.Certificates[0]) || s.KeyID != "" || s.Type != testType {
				t.Errorf("statement %+v", s)
			}
		})
	}
}

func withKey(t testing.TB, ca *devca.CA, key crypto.Signer) *x509svid.SVID {
	t.Helper()
	return must[*x509svid.SVID](t)(ca.Issue(devca.Template{
		ID: identity.MustParseID("spiffe://example.org/agent/planner"), Key: key,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}))
}

// viaIntermediates makes a certificate below n intermediate authorities.
func viaIntermediates(t testing.TB, ca *devca.CA, id string, n int) *x509svid.SVID {
	t.Helper()
	// The lowest first, each signed by the next; devca signs the highest.
	var below []*x509.Certificate
	parent := issue(t, ca, "spiffe://example.org/agent/x", func(c *x509.Certificate) {
		c.URIs, c.Subject.CommonName, c.IsCA, c.KeyUsage = nil, "intermediate", true, x509.KeyUsageCertSign
	})
	signer, last := parent.PrivateKey, parent.Certificates[0]
	below = append(below, last)
	create := func(template *x509.Certificate) (*x509.Certificate, crypto.Signer) {
		key := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
		template.SerialNumber, template.BasicConstraintsValid = big.NewInt(int64(len(below)+1)), true
		template.NotBefore, template.NotAfter = last.NotBefore, last.NotAfter
		der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, last, key.Public(), signer))
		return must[*x509.Certificate](t)(x509.ParseCertificate(der)), key
	}
	for len(below) < n {
		cert, key := create(&x509.Certificate{Subject: pkix.Name{CommonName: "intermediate"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign})
		below = append([]*x509.Certificate{cert}, below...)
		last, signer = cert, key
	}
	spiffeID := identity.MustParseID(id).SPIFFEID()
	leaf := &x509.Certificate{KeyUsage: x509.KeyUsageDigitalSignature}
	leaf.URIs = append(leaf.URIs, spiffeID.URL())
	cert, key := create(leaf)
	return &x509svid.SVID{ID: spiffeID, PrivateKey: key, Certificates: append([]*x509.Certificate{cert}, below...)}
}

// What a reader would refuse cannot be signed.
func TestSignStatementRefuses(t *testing.T) {
	keys := testKeys(t)
	good, key := goodClaims(), keys["EdDSA"]
	wrong := struct{ opaque }{opaque{key}}
	for name, test := range map[string]struct {
		typ    string
		claims any
		kid    string
		key    crypto.Signer
		target error
	}{
		"no type":                {"", good, "k", key, identity.ErrStatement},
		"type with a space":      {"a b", good, "k", key, identity.ErrStatement},
		"long type":              {strings.Repeat("t", identity.MaxType+1), good, "k", key, identity.ErrStatement},
		"key id with a line end": {testType, good, "k\n", key, identity.ErrStatement},
		"long key id":            {testType, good, strings.Repeat("k", identity.MaxKeyID+1), key, identity.ErrStatement},
		"nil claims":             {testType, nil, "k", key, identity.ErrStatement},
		"claims nil pointer":     {testType, (*testClaims)(nil), "k", key, identity.ErrStatement},
		"claims a map":           {testType, map[string]any{"iat": 1}, "k", key, identity.ErrStatement},
		"claims a list":          {testType, []int{1}, "k", key, identity.ErrStatement},
		"claims do not encode":   {testType, struct{ F func() }{}, "k", key, identity.ErrStatement},
		"no iat":                 {testType, innerClaims{"x"}, "k", key, identity.ErrStatement},
		"zero iat":               {testType, testClaims{Name: "n"}, "k", key, identity.ErrStatement},
		"too big":                {testType, testClaims{IssuedAt: 1, Data: make([]byte, identity.MaxStatement)}, "k", key, identity.ErrStatement},
		"zero ID":                {testType, testClaims{IssuedAt: 1, ID: &identity.ID{}}, "k", key, identity.ErrStatement},
		"no key":                 {testType, good, "k", nil, identity.ErrKeyType},
		"RSA":                    {testType, good, "k", must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048)), identity.ErrKeyType},
		"P-521":                  {testType, good, "k", must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P521(), rand.Reader)), identity.ErrKeyType},
		"another's public key":   {testType, good, "k", mismatched{wrong, testKeys(t)["EdDSA"].Public()}, identity.ErrSignature},
	} {
		t.Run(name, func(t *testing.T) {
			raw, err := identity.SignStatement(test.typ, test.claims, test.kid, test.key)
			wantError(t, err, test.target)
			if raw != nil {
				t.Error("a statement along with an error")
			}
		})
	}
	broken := errors.New("the key store is not there")
	_, err := identity.SignStatement(testType, good, "", failing{key, broken})
	wantError(t, err, broken)

	ca := newCA(t, "example.org")
	long := agent(t, ca, "planner")
	for range identity.MaxChain {
		long.Certificates = append(long.Certificates, ca.Bundle().X509Authorities()[0])
	}
	_, err = identity.SignSVIDStatement(testType, good, long)
	wantError(t, err, identity.ErrCertificate, "5 certificates")
	_, err = identity.SignSVIDStatement(testType, good, nil)
	wantError(t, err, identity.ErrCertificate)
}

type mismatched struct {
	crypto.Signer
	public crypto.PublicKey
}

func (m mismatched) Public() crypto.PublicKey { return m.public }

type failing struct {
	crypto.Signer
	err error
}

func (f failing) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return nil, f.err }

func TestVerifyNeedsStruct(t *testing.T) {
	key := testKeys(t)["EdDSA"]
	u := must[*identity.Unverified](t)(identity.ParseStatement(must[[]byte](t)(identity.SignStatement(testType, goodClaims(), "", key)), testType))
	var m map[string]any
	var a any
	for _, target := range []any{nil, m, &m, &a, testClaims{}, (*testClaims)(nil)} {
		_, err := u.Verify(key.Public(), target)
		wantError(t, err, identity.ErrStatement, "pointer to a struct")
	}
}

// The signer's certificate counts at the present time, whatever "iat" says, and
// in one trust domain.
func TestVerifySVIDRefuses(t *testing.T) {
	ca, foreign := newCA(t, "example.org"), newCA(t, "other.org")
	claims := goodClaims()
	const id = "spiffe://example.org/agent/planner"
	twoDomains := x509bundle.NewSet(ca.Bundle(), foreign.Bundle())
	chainOf := func(svid *x509svid.SVID) []byte { return forgeSVID(t, svid, svid.PrivateKey) }
	swapped := viaIntermediates(t, ca, id, 1)
	swapped.Certificates[0], swapped.Certificates[1] = swapped.Certificates[1], swapped.Certificates[0]
	gap := viaIntermediates(t, ca, id, 3)
	gap.Certificates = append(gap.Certificates[:2:2], gap.Certificates[3])

	for name, test := range map[string]struct {
		raw    []byte
		target error
		words  string
	}{
		"expired":               {chainOf(expired(t, ca, id)), identity.ErrExpired, "expired at"},
		"not yet valid":         {chainOf(issue(t, ca, id, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) })), identity.ErrExpired, "begins at"},
		"wrong CA":              {chainOf(issue(t, newCA(t, "example.org"), id, nil)), identity.ErrChain, "issued by no CA"},
		"self-signed":           {chainOf(selfSigned(t, id)), identity.ErrChain, "issued by no CA"},
		"issued by an agent":    {chainOf(issuedBy(t, agent(t, ca, "mallory"), id)), identity.ErrChain, id},
		"foreign domain":        {chainOf(agent(t, foreign, "planner")), identity.ErrChain, "not of the trust domain"},
		"foreign domain, CA ok": {chainOf(issue(t, ca, "spiffe://other.org/agent/planner", nil)), identity.ErrChain, "not of the trust domain"},
		"no digitalSignature":   {chainOf(issue(t, ca, id, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement })), identity.ErrChain, "digitalSignature"},
		"no key usage":          {chainOf(issue(t, ca, id, func(c *x509.Certificate) { c.KeyUsage = 0 })), identity.ErrChain, "digitalSignature"},
		"a CA":                  {chainOf(issue(t, ca, id, func(c *x509.Certificate) { c.IsCA = true })), identity.ErrChain, "CA's own"},
		"no SPIFFE ID":          {chainOf(issue(t, ca, id, func(c *x509.Certificate) { c.URIs = nil; c.DNSNames = []string{"a"} })), identity.ErrChain, "no URI"},
		"two SPIFFE IDs":        {chainOf(issue(t, ca, id, func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) })), identity.ErrChain, "more than one"},
		"other form of ID":      {chainOf(issue(t, ca, id, func(c *x509.Certificate) { c.URIs[0].Path = "/planner" })), identity.ErrInvalidID, "/planner"},
		"leaf not first":        {chainOf(swapped), identity.ErrChain, "CA's own"},
		"intermediate missing":  {chainOf(gap), identity.ErrChain, "issued by no CA"},
		"another's key":         {forgeSVID(t, agent(t, ca, "planner"), agent(t, ca, "mallory").PrivateKey), identity.ErrSignature, "expected key"},
		"RSA certificate": {forgeSVID(t, withKey(t, ca, must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))),
			agent(t, ca, "mallory").PrivateKey), identity.ErrKeyType, ""},
		"no certificate": {must[[]byte](t)(identity.SignStatement(testType, claims, "k", agent(t, ca, "planner").PrivateKey)), identity.ErrStatement, "x5c"},
	} {
		t.Run(name, func(t *testing.T) {
			u := must[*identity.Unverified](t)(identity.ParseStatement(test.raw, testType))
			got := testClaims{Name: "left over"}
			id, s, err := u.VerifySVID(twoDomains, example, time.Now(), &got)
			wantError(t, err, test.target, test.words)
			if s != nil || !id.IsZero() {
				t.Error("a statement along with an error")
			}
		})
	}

	good := must[*identity.Unverified](t)(identity.ParseStatement(chainOf(agent(t, ca, "planner")), testType))
	for name, test := range map[string]struct {
		bundles x509bundle.Source
		now     time.Time
		target  error
	}{
		"now":                {twoDomains, time.Now(), nil},
		"later":              {twoDomains, time.Now().Add(2 * time.Hour), identity.ErrExpired},
		"at the claimed iat": {twoDomains, issuedAt.AddDate(-1, 0, 0), identity.ErrExpired},
		"at no time":         {twoDomains, time.Time{}, identity.ErrChain},
		"without bundle":     {x509bundle.NewSet(), time.Now(), identity.ErrChain},
		"without source":     {nil, time.Now(), identity.ErrChain},
		"authority removed":  {newCA(t, "example.org").Bundle(), time.Now(), identity.ErrChain},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := good.VerifySVID(test.bundles, example, test.now, &testClaims{}); !errors.Is(err, test.target) {
				t.Errorf("error %v, want %v", err, test.target)
			}
		})
	}
	// Who expects a certain key does not take a certificate for it.
	_, err := good.Verify(agent(t, ca, "planner").PrivateKey.Public(), &testClaims{})
	wantError(t, err, identity.ErrStatement, "certificate's key")
}

// forgeSVID signs good claims with key and says that it is svid's.
func forgeSVID(t testing.TB, svid *x509svid.SVID, key crypto.Signer) []byte {
	t.Helper()
	var chain []string
	for _, cert := range svid.Certificates {
		chain = append(chain, base64.StdEncoding.EncodeToString(cert.Raw))
	}
	head := must[[]byte](t)(json.Marshal(map[string]any{"alg": "ES256", "typ": testType, "x5c": chain}))
	return forge(t, string(head), string(must[[]byte](t)(json.Marshal(goodClaims()))), key)
}
