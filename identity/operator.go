package identity

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/sealbus/sealbus/internal/safefile"
)

// OperatorKey is the private key that signs policies. Agents and brokers hold
// only its [Fingerprint]; the key itself belongs on the operator's own machine
// and neither on a broker's host nor with the certificate authority. However
// it is printed, logged or marshalled, only its fingerprint shows.
type OperatorKey struct {
	// Behind a pointer, because %d and %p go past String and print the
	// fields, but of a pointer among them only the address.
	signer      *crypto.Signer
	fingerprint Fingerprint
}

// GenerateOperatorKey makes a new Ed25519 operator key.
func GenerateOperatorKey() (*OperatorKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate operator key: %w", err)
	}
	return newOperatorKey(key)
}

// LoadOperatorKey reads an operator key from a PKCS#8 PEM file: Ed25519, as
// [OperatorKey.Save] writes it, or ECDSA P-256 or P-384. The error is a
// [*FileError].
func LoadOperatorKey(file string) (*OperatorKey, error) {
	data, err := readFile("operator key", file)
	if err != nil {
		return nil, err
	}
	signer, err := parsePrivateKey(data)
	if err != nil {
		return nil, &FileError{"operator key", file, err}
	}
	key, err := newOperatorKey(signer)
	if err != nil {
		return nil, &FileError{"operator key", file, err}
	}
	return key, nil
}

func newOperatorKey(signer crypto.Signer) (*OperatorKey, error) {
	fingerprint, err := FingerprintOf(signer.Public())
	if err != nil {
		return nil, err
	}
	return &OperatorKey{&signer, fingerprint}, nil
}

// Save writes the key as PKCS#8 PEM into a new file that only its owner may
// read (mode 0600). A file that exists is never overwritten, and after an error
// nothing is left behind. The error is a [*FileError]; it matches fs.ErrExist
// when the file exists.
func (k *OperatorKey) Save(file string) error {
	der, err := x509.MarshalPKCS8PrivateKey(k.Signer())
	if err != nil {
		return &FileError{"operator key", file, err}
	}
	err = safefile.Create(file, pem.EncodeToMemory(&pem.Block{Type: pemPKCS8, Bytes: der}), 0o600)
	if errors.Is(err, fs.ErrExist) {
		err = fmt.Errorf("%w; it is not overwritten, choose another name", fs.ErrExist)
	}
	if err != nil {
		return &FileError{"operator key", file, err}
	}
	return nil
}

// Fingerprint is what agents and brokers pin.
func (k *OperatorKey) Fingerprint() Fingerprint { return k.fingerprint }

// Public is the public key.
func (k *OperatorKey) Public() crypto.PublicKey { return k.Signer().Public() }

// Signer is the key for signing, for [SignStatement].
func (k *OperatorKey) Signer() crypto.Signer { return *k.signer }

// String names the key by its fingerprint. The private part is not shown. Like
// the methods below it is one of copies too, so that none of them shows more.
func (k OperatorKey) String() string { return "operator key " + k.fingerprint.String() }

// GoString is String.
func (k OperatorKey) GoString() string { return k.String() }

// LogValue is String, for slog.
func (k OperatorKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalJSON writes String, so that no structure that holds a key can write it
// out by accident. Save does it on purpose.
func (k OperatorKey) MarshalJSON() ([]byte, error) { return json.Marshal(k.String()) }
