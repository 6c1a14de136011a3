package identity

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/go-jose/go-jose/v4/json"
)

// Statement is a verified statement: somebody whose key the caller trusts for
// the purpose signed exactly these claims.
type Statement struct {
	// Type is the kind of statement, "typ" in its header.
	Type string

	// KeyID is "kid" in its header, or "" when it carries certificates.
	KeyID string

	// IssuedAt is the claim "iat". It is a claim: a signer can write any time.
	IssuedAt time.Time

	// Hash is the SHA-256 of the signing input. It does not cover the
	// signature, because others than the signer can change an ECDSA
	// signature into a second valid one.
	Hash [sha256.Size]byte

	// Claims are the claims as they were signed, a JSON object.
	Claims []byte

	// Chain are the signer's certificates, leaf first, or nil.
	Chain []*x509.Certificate

	// Signer is the key that the signature was verified with.
	Signer crypto.PublicKey
}

// Unverified is a statement whose form was checked and whose signature was
// not. It is immutable.
type Unverified struct {
	raw      string
	header   header
	claims   []byte
	tree     map[string]any
	issuedAt time.Time
	hash     [sha256.Size]byte
	chain    []*x509.Certificate
}

// header has every name that the protected header of a statement may have.
// Names that would give the verifier a key or other rules (jwk, jku, x5u, crit,
// b64) are refused like every other name that is not here.
type header struct {
	Algorithm string   `json:"alg"`
	KeyID     string   `json:"kid,omitempty"`
	Type      string   `json:"typ"`
	Chain     []string `json:"x5c,omitempty"`
}

// ParseStatement checks the form of a statement of type typ: a compact JWS of
// at most [MaxStatement] bytes in the profile that the package documentation
// gives. It does not verify who signed it. The error matches [ErrStatement].
func ParseStatement(raw []byte, typ string) (*Unverified, error) {
	if len(raw) > MaxStatement {
		return nil, statementError("%d bytes, at most %d are allowed", len(raw), MaxStatement)
	}
	parts := bytes.SplitN(raw, []byte{'.'}, 4)
	if len(parts) != 3 {
		return nil, statementError("not 3 parts separated by dots; only the compact serialization is accepted")
	}
	u := &Unverified{raw: string(raw), hash: sha256.Sum256(raw[:len(parts[0])+1+len(parts[1])])}
	head, err := decodeBase64(base64.RawURLEncoding, parts[0])
	if err != nil {
		return nil, statementError("header: %w", err)
	}
	if u.claims, err = decodeBase64(base64.RawURLEncoding, parts[1]); err != nil {
		return nil, statementError("claims: %w", err)
	}
	if _, err := decodeBase64(base64.RawURLEncoding, parts[2]); err != nil {
		return nil, statementError("signature: %w", err)
	}
	if err := u.parseHeader(head, typ); err != nil {
		return nil, statementError("header: %w", err)
	}
	if err := u.parseClaims(); err != nil {
		return nil, statementError("claims: %w", err)
	}
	return u, nil
}

func (u *Unverified) parseHeader(head []byte, typ string) error {
	tree, err := parseObject(head)
	if err != nil {
		return err
	}
	if err := decodeStrict(head, tree, &u.header); err != nil {
		return err
	}
	if err := checkType(typ); err != nil {
		return err
	}
	if u.header.Type != typ {
		return fmt.Errorf("type %q instead of %q", u.header.Type, typ)
	}
	if u.header.KeyID != "" && u.header.Chain != nil {
		return errors.New(`both "kid" and "x5c"; one of them says whose key it is`)
	}
	if u.header.KeyID != "" {
		if err := checkKeyID(u.header.KeyID); err != nil {
			return err
		}
	}
	u.chain, err = parseChain(u.header.Chain)
	return err
}

func (u *Unverified) parseClaims() (err error) {
	if u.tree, err = parseObject(u.claims); err != nil {
		return err
	}
	number, ok := u.tree["iat"].(json.Number)
	if !ok {
		return errors.New(`"iat" is missing or no number`)
	}
	seconds, err := strconv.ParseInt(string(number), 10, 64)
	if err != nil || seconds <= 0 || seconds > maxIssuedAt {
		return errors.New(`"iat" is not a whole number of seconds since 1970`)
	}
	u.issuedAt = time.Unix(seconds, 0).UTC()
	return nil
}

// parseChain decodes "x5c": certificates in DER, in base64 with padding.
func parseChain(encoded []string) ([]*x509.Certificate, error) {
	if len(encoded) > MaxChain {
		return nil, fmt.Errorf("%d certificates, at most %d are allowed", len(encoded), MaxChain)
	}
	var chain []*x509.Certificate
	for i, text := range encoded {
		der, err := decodeBase64(base64.StdEncoding, []byte(text))
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", i+1, err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", i+1, err)
		}
		chain = append(chain, cert)
	}
	return chain, nil
}

// decodeBase64 accepts only what encoding gives back: Go's decoder passes over
// line ends, and without Strict also over stray bits at the end.
func decodeBase64(encoding *base64.Encoding, text []byte) ([]byte, error) {
	if len(text) == 0 {
		return nil, errors.New("empty")
	}
	data, err := encoding.AppendDecode(nil, text)
	if err != nil || !bytes.Equal(encoding.AppendEncode(nil, data), text) {
		return nil, errors.New("not canonical base64")
	}
	return data, nil
}

// checkType checks what callers give as a statement's type.
func checkType(typ string) error {
	if typ == "" || len(typ) > MaxType || !printable(typ) {
		return fmt.Errorf("type %q: write 1 to %d visible ASCII characters", typ, MaxType)
	}
	return nil
}

func checkKeyID(kid string) error {
	if kid == "" || len(kid) > MaxKeyID || !printable(kid) {
		return fmt.Errorf("key id %q: write 1 to %d visible ASCII characters", kid, MaxKeyID)
	}
	return nil
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

func statementError(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrStatement, fmt.Errorf(format, args...))
}

// KeyID is "kid" in the header, which says nothing about who signed: it is for
// finding the key to verify with. It is "" when the statement carries
// certificates.
func (u *Unverified) KeyID() string { return u.header.KeyID }

// Hash is the SHA-256 of the signing input, as in [Statement].
func (u *Unverified) Hash() [sha256.Size]byte { return u.hash }

// UnverifiedClaims decodes the claims into the struct that claims points to,
// as [Unverified.Verify] does, but without a proof of who wrote them. It is
// for finding the key to verify with, and for nothing else.
func (u *Unverified) UnverifiedClaims(claims any) error {
	if err := decodeStrict(u.claims, u.tree, claims); err != nil {
		return statementError("claims: %w", err)
	}
	return nil
}
