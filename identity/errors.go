package identity

import (
	"errors"
	"fmt"
)

var (
	// ErrInvalidID is returned when a name, a trust domain or a SPIFFE ID
	// does not have the form that Sealbus requires. Its text is the first
	// word of "invalid name" and so on.
	ErrInvalidID = errors.New("invalid")

	// ErrCertificate is returned when an own certificate cannot be used: it
	// names nobody, its key is another's, or its use is not allowed.
	ErrCertificate = errors.New("unusable certificate")

	// ErrExpired is returned when a certificate, an own one or a peer's, is
	// not valid at the time of the call.
	ErrExpired = errors.New("certificate not valid now")

	// ErrPeer is returned by a TLS handshake when the peer's certificate is
	// not one to talk to. It also matches ErrExpired where that is the cause.
	ErrPeer = errors.New("peer refused")

	// ErrStatement is returned when a statement is outside the profile: its
	// form, its header or its claims are not exactly what they must be.
	ErrStatement = errors.New("invalid statement")

	// ErrSignature is returned when a statement's signature is not that of
	// the given key, or its algorithm is not that key's.
	ErrSignature = errors.New("wrong signature")

	// ErrChain is returned when the certificates in a statement do not prove
	// its signer. It also matches ErrExpired where that is the cause.
	ErrChain = errors.New("signer's certificate refused")

	// ErrKeyType is returned when a key is none of Ed25519, ECDSA P-256 and
	// ECDSA P-384.
	ErrKeyType = errors.New("unsupported key")

	// ErrFingerprint is returned when a text is not a fingerprint.
	ErrFingerprint = errors.New("invalid fingerprint")
)

// FileError is returned when a file cannot be used. It names the file; Err
// says what is wrong with it and what to do.
type FileError struct {
	Role string // what the file was given as: "certificate", "key", "CA", "operator key"
	File string // its path, as given
	Err  error
}

func (e *FileError) Error() string {
	return fmt.Sprintf("%s file %s: %v", e.Role, e.File, e.Err)
}

func (e *FileError) Unwrap() error { return e.Err }
