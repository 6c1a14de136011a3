package policy_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/identity/devca"
	"github.com/sealbus/sealbus/policy"
)

var signedAt = time.Unix(1_800_000_000, 0)

func newKey(t testing.TB) *identity.OperatorKey {
	t.Helper()
	key, err := identity.GenerateOperatorKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// claims are a signed policy's, for tests that sign what Sign would not.
type claims struct {
	IssuedAt int64  `json:"iat"`
	Operator string `json:"operator"`
	Policy   string `json:"policy"`
}

func operatorClaim(t testing.TB, public any) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(der)
}

func TestSignAndVerify(t *testing.T) {
	key := newKey(t)
	raw, err := policy.Sign([]byte(full), key, signedAt)
	if err != nil {
		t.Fatal(err)
	}
	other := newKey(t).Fingerprint()
	p, err := policy.Verify(raw, []identity.Fingerprint{other, key.Fingerprint()})
	if err != nil {
		t.Fatal(err)
	}
	if string(p.YAML()) != full || p.Revision() != 7 || p.Hash() == [32]byte{} {
		t.Errorf("revision %d, hash %x", p.Revision(), p.Hash())
	}
	u, err := identity.ParseStatement(raw, "sealbus-policy")
	if err != nil {
		t.Fatal(err)
	}
	var c claims
	s, err := u.Verify(key.Public(), &c)
	if err != nil {
		t.Fatal(err)
	}
	if s.Hash != p.Hash() || !s.IssuedAt.Equal(signedAt) || c.Policy != full || u.KeyID() != key.Fingerprint().String() {
		t.Errorf("the statement is %+v", s)
	}
}

func TestSignRefusesWhatParseRefuses(t *testing.T) {
	raw, err := policy.Sign([]byte(head+"topcs: {}\n"), newKey(t), signedAt)
	var all *policy.Errors
	if !errors.As(err, &all) || raw != nil {
		t.Errorf("got %q, %v", raw, err)
	}
}

func TestVerifyUntrusted(t *testing.T) {
	key, pinned := newKey(t), newKey(t)
	// A policy that names its own signer as operator is no reason to trust that signer.
	raw, err := policy.Sign([]byte(head+"operators: ["+key.Fingerprint().String()+"]\n"), key, signedAt)
	if err != nil {
		t.Fatal(err)
	}
	for _, trusted := range [][]identity.Fingerprint{nil, {pinned.Fingerprint()}, {{}}} {
		p, err := policy.Verify(raw, trusted)
		if !errors.Is(err, policy.ErrUntrustedOperator) || !strings.Contains(err.Error(), key.Fingerprint().String()) || p != nil {
			t.Errorf("got %v, %v", p, err)
		}
	}
}

// The certificate authority can issue any identity, and must not become operator by it.
func TestVerifyRefusesCertificates(t *testing.T) {
	ca, err := devca.New("example.org")
	if err != nil {
		t.Fatal(err)
	}
	svid, err := ca.Agent("operator", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	fingerprint, err := identity.FingerprintOf(svid.PrivateKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	pinned := newKey(t)
	for name, operator := range map[string]string{
		"its own key":  operatorClaim(t, svid.PrivateKey.Public()),
		"a pinned key": operatorClaim(t, pinned.Public()),
	} {
		raw, err := identity.SignSVIDStatement("sealbus-policy", claims{signedAt.Unix(), operator, full}, svid)
		if err != nil {
			t.Fatal(err)
		}
		// Even where somebody pinned the key of a certificate.
		for _, trusted := range [][]identity.Fingerprint{{pinned.Fingerprint()}, {pinned.Fingerprint(), fingerprint}} {
			if p, err := policy.Verify(raw, trusted); !errors.Is(err, policy.ErrStatement) || p != nil {
				t.Errorf("%s: got %v, %v", name, p, err)
			}
		}
	}
}

func TestVerifyRefuses(t *testing.T) {
	key, other := newKey(t), newKey(t)
	trusted := []identity.Fingerprint{key.Fingerprint()}
	kid, operator := key.Fingerprint().String(), operatorClaim(t, key.Public())
	sign := func(typ, kid string, c any, k *identity.OperatorKey) []byte {
		t.Helper()
		raw, err := identity.SignStatement(typ, c, kid, k.Signer())
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	good := claims{signedAt.Unix(), operator, full}
	weak, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string][]byte{
		"nothing":               nil,
		"the text alone":        []byte(full),
		"another type":          sign("sealbus-card", kid, good, key),
		"signed by another":     sign("sealbus-policy", kid, good, other),
		"no key id":             sign("sealbus-policy", "", good, key),
		"another's key id":      sign("sealbus-policy", other.Fingerprint().String(), good, key),
		"no operator":           sign("sealbus-policy", kid, claims{signedAt.Unix(), "", full}, key),
		"operator no base64url": sign("sealbus-policy", kid, claims{signedAt.Unix(), operator + "=", full}, key),
		"operator with a line":  sign("sealbus-policy", kid, claims{signedAt.Unix(), operator[:10] + "\n" + operator[10:], full}, key),
		"operator no key":       sign("sealbus-policy", kid, claims{signedAt.Unix(), "AAAA", full}, key),
		"operator a weak key":   sign("sealbus-policy", kid, claims{signedAt.Unix(), operatorClaim(t, &weak.PublicKey), full}, key),
		"operator as a bare key": sign("sealbus-policy", kid,
			claims{signedAt.Unix(), base64.RawURLEncoding.EncodeToString(key.Public().(ed25519.PublicKey)), full}, key),
		"one claim more": sign("sealbus-policy", kid, struct {
			claims
			More int `json:"more"`
		}{good, 1}, key),
	} {
		if p, err := policy.Verify(raw, trusted); !errors.Is(err, policy.ErrStatement) || p != nil {
			t.Errorf("%s: got %v, %v", name, p, err)
		}
	}
	// A text that an operator signed with another program is read as strictly.
	raw := sign("sealbus-policy", kid, claims{signedAt.Unix(), operator, head + "topcs: {}\n"}, key)
	var all *policy.Errors
	if p, err := policy.Verify(raw, trusted); !errors.As(err, &all) || p != nil {
		t.Errorf("got %v, %v", p, err)
	}
}

// Every byte counts: a signed policy with any bit changed is refused.
func TestVerifyTampered(t *testing.T) {
	key := newKey(t)
	raw, err := policy.Sign([]byte(head+"revoked: [eve]\n"), key, signedAt)
	if err != nil {
		t.Fatal(err)
	}
	trusted := []identity.Fingerprint{key.Fingerprint()}
	for i := range raw {
		for bit := range 8 {
			bad := bytes.Clone(raw)
			bad[i] ^= 1 << bit
			if p, err := policy.Verify(bad, trusted); err == nil {
				t.Fatalf("byte %d, bit %d: revision %d is accepted", i, bit, p.Revision())
			}
		}
		if _, err := policy.Verify(raw[:i], trusted); err == nil {
			t.Fatalf("the first %d bytes are accepted", i)
		}
	}
}

// fixedKey returns the same key in every process: the fuzzer's workers must agree on what is signed.
func fixedKey(t testing.TB) *identity.OperatorKey {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "operator.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := identity.LoadOperatorKey(file)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func FuzzVerify(f *testing.F) {
	key := fixedKey(f)
	raw, err := policy.Sign([]byte(head), key, signedAt)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte("a.b.c"))
	trusted := []identity.Fingerprint{key.Fingerprint()}
	f.Fuzz(func(t *testing.T, data []byte) {
		if p, err := policy.Verify(data, trusted); err == nil && !bytes.Equal(data, raw) {
			t.Errorf("revision %d is accepted, and nobody signed it", p.Revision())
		}
	})
}
