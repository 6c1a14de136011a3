package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

const fingerprintPrefix = "sha256:"

// Fingerprint names a public key: the SHA-256 of its SubjectPublicKeyInfo in
// DER. It can be compared with ==. The zero Fingerprint is no key's.
type Fingerprint [sha256.Size]byte

// FingerprintOf returns the fingerprint of an Ed25519, ECDSA P-256 or ECDSA
// P-384 public key. The error matches [ErrKeyType].
func FingerprintOf(key crypto.PublicKey) (Fingerprint, error) {
	if _, err := algorithmOf(key); err != nil {
		return Fingerprint{}, err
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return Fingerprint{}, fmt.Errorf("%w: %w", ErrKeyType, err)
	}
	return sha256.Sum256(der), nil
}

// ParseFingerprint parses the text form: "sha256:" and 64 lower-case
// hexadecimal digits. The error matches [ErrFingerprint].
func ParseFingerprint(s string) (Fingerprint, error) {
	var f Fingerprint
	digits, ok := strings.CutPrefix(s, fingerprintPrefix)
	if !ok || len(digits) != 2*len(f) {
		return Fingerprint{}, fmt.Errorf("%w: write sha256: and 64 hexadecimal digits", ErrFingerprint)
	}
	if _, err := hex.Decode(f[:], []byte(digits)); err != nil || f.String() != s {
		return Fingerprint{}, fmt.Errorf("%w %q: write sha256: and 64 lower-case hexadecimal digits", ErrFingerprint, s)
	}
	if f.IsZero() {
		return Fingerprint{}, fmt.Errorf("%w: sha256: and all zeros is no key's", ErrFingerprint)
	}
	return f, nil
}

// MustParseFingerprint is [ParseFingerprint] for literals. It panics when s is
// not a fingerprint.
func MustParseFingerprint(s string) Fingerprint {
	f, err := ParseFingerprint(s)
	if err != nil {
		panic(err)
	}
	return f
}

// String is the text form that [ParseFingerprint] reads.
func (f Fingerprint) String() string { return fingerprintPrefix + hex.EncodeToString(f[:]) }

// IsZero tells whether f is the zero value, which is no key's fingerprint.
func (f Fingerprint) IsZero() bool { return f == Fingerprint{} }

// MarshalText returns the text form.
func (f Fingerprint) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText is [ParseFingerprint].
func (f *Fingerprint) UnmarshalText(text []byte) error {
	parsed, err := ParseFingerprint(string(text))
	if err != nil {
		return err
	}
	*f = parsed
	return nil
}

// algorithmOf derives the one signature algorithm of a key. There is no way
// back from an algorithm's name to a kind of key, so that a statement can not
// choose how it is verified; and no other type passes, least of all bytes,
// which go-jose would take for a symmetric key.
func algorithmOf(key crypto.PublicKey) (jose.SignatureAlgorithm, error) {
	switch k := key.(type) {
	case ed25519.PublicKey:
		if len(k) == ed25519.PublicKeySize {
			return jose.EdDSA, nil
		}
	case *ecdsa.PublicKey:
		if k != nil && k.Curve == elliptic.P256() {
			return jose.ES256, nil
		}
		if k != nil && k.Curve == elliptic.P384() {
			return jose.ES384, nil
		}
	}
	return "", fmt.Errorf("%w (%T): use ECDSA P-256, ECDSA P-384 or Ed25519", ErrKeyType, key)
}
