package policy

import (
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sealbus/sealbus/identity"
)

// statementType is the kind of statement that a signed policy is.
const statementType = "sealbus-policy"

// claims are what an operator signs. The key stands in the claims and not in the header, where a verifier might be
// tempted to take it for a key that counts.
type claims struct {
	IssuedAt int64  `json:"iat"`
	Operator string `json:"operator"` // SubjectPublicKeyInfo in DER, base64url without padding
	Policy   string `json:"policy"`   // the YAML text
}

// Sign parses a policy's text and signs it with an operator's key, as of the time now. The error is an [*Errors] when
// the text is refused, also for keys that it destroys until after now. The text is signed as it stands, with its comments.
func Sign(text []byte, key *identity.OperatorKey, now time.Time) ([]byte, error) {
	p, err := parse(text, now)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("policy: operator key: %w", err)
	}
	c := claims{IssuedAt: now.Unix(), Operator: base64.RawURLEncoding.EncodeToString(der), Policy: p.text}
	raw, err := identity.SignStatement(statementType, c, key.Fingerprint().String(), key.Signer())
	if err != nil {
		return nil, fmt.Errorf("policy: sign revision %d: %w", p.revision, err)
	}
	return raw, nil
}

// Verify reads a signed policy. The operator's key that signed it must have one of the trusted fingerprints: those that
// an agent or broker has pinned, and those that the policy in force names. Nothing else makes a policy believed, least
// of all a certificate, so that who can issue certificates cannot become operator.
//
// The error wraps [ErrUntrustedOperator], naming the fingerprint that was seen; or [ErrStatement]; or is an [*Errors],
// when a trusted operator signed a text that this version refuses. Whether the policy may follow the one in force is
// for [Policy.CheckSuccessor].
func Verify(raw []byte, trusted []identity.Fingerprint) (*Policy, error) {
	u, err := identity.ParseStatement(raw, statementType)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStatement, err)
	}
	key, seen, err := operatorOf(u)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStatement, err)
	}
	if !slices.Contains(trusted, seen) {
		return nil, fmt.Errorf("%w: it is signed by %s, trusted %s: pin that fingerprint if it is your operator's",
			ErrUntrustedOperator, seen, these(trusted))
	}
	var c claims
	s, err := u.Verify(key, &c)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStatement, err)
	}
	p, err := Parse([]byte(c.Policy))
	if err != nil {
		return nil, err
	}
	p.hash = s.Hash
	return p, nil
}

// SignedBy returns the fingerprint of the operator key that a signed policy says it is signed by. Nothing is verified
// and nothing follows from it but which key to look for: whoever made the policy chose what it says. The error wraps
// [ErrStatement].
func SignedBy(raw []byte) (identity.Fingerprint, error) {
	u, err := identity.ParseStatement(raw, statementType)
	if err != nil {
		return identity.Fingerprint{}, fmt.Errorf("%w: %w", ErrStatement, err)
	}
	_, f, err := operatorOf(u)
	if err != nil {
		return identity.Fingerprint{}, fmt.Errorf("%w: %w", ErrStatement, err)
	}
	return f, nil
}

// operatorOf returns the key that a statement claims to be signed with. The claims are not verified here: the caller
// compares the fingerprint with those that it trusts, and then verifies with this very key.
func operatorOf(u *identity.Unverified) (crypto.PublicKey, identity.Fingerprint, error) {
	var c claims
	if err := u.UnverifiedClaims(&c); err != nil {
		return nil, identity.Fingerprint{}, err
	}
	der, err := base64.RawURLEncoding.DecodeString(c.Operator)
	if err != nil {
		return nil, identity.Fingerprint{}, errors.New("operator is not base64url")
	}
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, identity.Fingerprint{}, errors.New("operator is not a public key")
	}
	f, err := identity.FingerprintOf(key)
	if err != nil {
		return nil, identity.Fingerprint{}, err
	}
	// One spelling of a key, in the claims and in the header.
	canonical, err := x509.MarshalPKIXPublicKey(key)
	if err != nil || base64.RawURLEncoding.EncodeToString(canonical) != c.Operator || u.KeyID() != f.String() {
		return nil, identity.Fingerprint{}, errors.New("operator and the statement's key id are not one key in its canonical form")
	}
	return key, f, nil
}

func these(list []identity.Fingerprint) string {
	if len(list) == 0 {
		return "are none"
	}
	texts := make([]string, len(list))
	for i, f := range list {
		texts[i] = f.String()
	}
	return "are " + strings.Join(texts, ", ")
}
