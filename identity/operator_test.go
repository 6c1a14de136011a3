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
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealbus/sealbus/identity"
)

func TestFingerprint(t *testing.T) {
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f := must[identity.Fingerprint](t)(identity.FingerprintOf(public))
	der := must[[]byte](t)(x509.MarshalPKIXPublicKey(public))
	sum := sha256.Sum256(der)
	if want := "sha256:" + hex.EncodeToString(sum[:]); f.String() != want {
		t.Errorf("fingerprint %s, want %s", f, want)
	}
	if again, err := identity.ParseFingerprint(f.String()); err != nil || again != f {
		t.Errorf("parsed as %s, %v", again, err)
	}
	text := must[[]byte](t)(json.Marshal(map[string]identity.Fingerprint{"f": f}))
	var decoded map[string]identity.Fingerprint
	if err := json.Unmarshal(text, &decoded); err != nil || decoded["f"] != f {
		t.Errorf("%s unmarshalled as %v, %v", text, decoded, err)
	}
}

func TestFingerprintRefusesKeys(t *testing.T) {
	rsaKey := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
	p521 := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))
	for name, key := range map[string]crypto.PublicKey{
		"nil":          nil,
		"bytes":        make([]byte, 32),
		"short":        ed25519.PublicKey(make([]byte, 31)),
		"RSA":          rsaKey.Public(),
		"P-521":        p521.Public(),
		"nil ECDSA":    (*ecdsa.PublicKey)(nil),
		"empty ECDSA":  &ecdsa.PublicKey{},
		"a private":    p521,
		"ECDSA, value": p521.PublicKey,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := identity.FingerprintOf(key)
			wantError(t, err, identity.ErrKeyType, "Ed25519")
		})
	}
}

func TestParseFingerprintRefuses(t *testing.T) {
	good := "sha256:" + strings.Repeat("ab", 32)
	identity.MustParseFingerprint(good)
	for name, s := range map[string]string{
		"empty":       "",
		"no prefix":   strings.Repeat("ab", 32),
		"prefix only": "sha256:",
		"short":       good[:len(good)-1],
		"long":        good + "a",
		"upper case":  strings.ToUpper(good[:7]) + good[7:],
		"upper hex":   good[:7] + strings.ToUpper(good[7:]),
		"no hex":      good[:len(good)-1] + "g",
		"zero":        "sha256:" + strings.Repeat("0", 64),
		"space":       good + " ",
		"other hash":  "sha512:" + strings.Repeat("ab", 32),
	} {
		t.Run(name, func(t *testing.T) {
			f, err := identity.ParseFingerprint(s)
			wantError(t, err, identity.ErrFingerprint, "sha256:")
			if name != "zero" && !f.IsZero() {
				t.Error("a fingerprint along with an error")
			}
		})
	}
}

func TestOperatorKeySaveAndLoad(t *testing.T) {
	key := must[*identity.OperatorKey](t)(identity.GenerateOperatorKey())
	file := filepath.Join(t.TempDir(), "operator.pem")
	if err := key.Save(file); err != nil {
		t.Fatal(err)
	}
	info := must[fs.FileInfo](t)(os.Stat(file))
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	again := must[*identity.OperatorKey](t)(identity.LoadOperatorKey(file))
	if again.Fingerprint() != key.Fingerprint() {
		t.Error("another key was loaded")
	}
	if f, err := identity.FingerprintOf(again.Public()); err != nil || f != key.Fingerprint() {
		t.Errorf("fingerprint of the public key: %s, %v", f, err)
	}

	before := readFile(t, file)
	other := must[*identity.OperatorKey](t)(identity.GenerateOperatorKey())
	wantError(t, other.Save(file), fs.ErrExist, file, "not overwritten")
	if !bytes.Equal(readFile(t, file), before) {
		t.Error("the first key was overwritten")
	}
	if entries := must[[]os.DirEntry](t)(os.ReadDir(filepath.Dir(file))); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
	wantError(t, key.Save(filepath.Join(t.TempDir(), "none", "operator.pem")), fs.ErrNotExist)
}

func TestLoadOperatorKeyRefuses(t *testing.T) {
	ca := newCA(t, "example.org")
	dir := t.TempDir()
	cert, _, _, err := ca.WriteFiles(dir, agent(t, ca, "planner"))
	if err != nil {
		t.Fatal(err)
	}
	rsaKey := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
	rsaDER := must[[]byte](t)(x509.MarshalPKCS8PrivateKey(rsaKey))
	for name, test := range map[string]struct {
		data   []byte
		target error
		words  string
	}{
		"empty":         {nil, nil, "empty"},
		"no PEM":        {[]byte("hello"), nil, "no PEM"},
		"a certificate": {readFile(t, cert), nil, "no private key in it, but CERTIFICATE"},
		"RSA":           {pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: rsaDER}), identity.ErrKeyType, "Ed25519"},
		"damaged":       {pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: rsaDER[:9]}), nil, "does not parse"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(dir, "operator.pem")
			writeFile(t, file, test.data)
			_, err := identity.LoadOperatorKey(file)
			wantError(t, err, test.target, file, test.words)
			var fileError *identity.FileError
			if !errors.As(err, &fileError) || fileError.Role != "operator key" {
				t.Errorf("error is a %T", err)
			}
		})
	}
	_, err = identity.LoadOperatorKey(filepath.Join(dir, "none.pem"))
	wantError(t, err, fs.ErrNotExist, "none.pem")
}

// However a key is printed, its bytes must not show, in whatever encoding.
func TestOperatorKeyPrintsRedacted(t *testing.T) {
	key := must[*identity.OperatorKey](t)(identity.GenerateOperatorKey())
	holder := struct{ Key *identity.OperatorKey }{key}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x", "%X", "%t", "%p"} {
		fmt.Fprintf(&out, verb+"\n"+verb+"\n", key, holder)
		fmt.Fprintf(&out, verb+"\n", *key)
	}
	fmt.Fprintln(&out, key.String(), key.GoString())
	slog.New(slog.NewTextHandler(&out, nil)).Info("key", "key", key, "holder", holder)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("key", "key", key, "holder", holder)
	marshalled := must[[]byte](t)(json.Marshal(holder))
	if want := `{"Key":"operator key ` + key.Fingerprint().String() + `"}`; string(marshalled) != want {
		t.Errorf("marshalled as %s, want %s", marshalled, want)
	}
	out.Write(marshalled)

	secret := []byte(key.Signer().(ed25519.PrivateKey))[:ed25519.SeedSize]
	for name, form := range map[string]string{
		"raw":     string(secret),
		"hex":     hex.EncodeToString(secret),
		"HEX":     strings.ToUpper(hex.EncodeToString(secret)),
		"base64":  base64.StdEncoding.EncodeToString(secret)[:40],
		"decimal": strings.Trim(fmt.Sprint(secret), "[]"),
		"Go":      strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", secret), "[]byte{"), "}"),
	} {
		if strings.Contains(out.String(), form) {
			t.Errorf("the private key shows as %s", name)
		}
	}
	if !strings.Contains(out.String(), key.Fingerprint().String()) {
		t.Error("the fingerprint does not show")
	}
}
