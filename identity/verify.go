package identity

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// Verify verifies that key signed the statement and then decodes the claims
// into the struct that claims points to. A statement that carries certificates
// is refused: who expects a certain key does not accept a CA's word instead.
//
// Decoding is strict: the claims must be what the decoded struct encodes to
// again. So every name without omitempty must be there, no other name may be,
// in no other spelling and only once, and null is no value. After an error
// nothing of the statement is in the struct. The error matches [ErrStatement], [ErrSignature] or
// [ErrKeyType].
func (u *Unverified) Verify(key crypto.PublicKey, claims any) (*Statement, error) {
	if u.chain != nil {
		return nil, statementError("signed with a certificate's key (%s) where a certain key was expected", describe(u.chain[0]))
	}
	return u.verified(key, claims)
}

// VerifySVID verifies that the statement was signed with the key of the
// certificate that it carries, and that this certificate is valid at the time
// now: issued under an authority that bundles has for the trust domain td,
// naming an agent or a broker node of td, allowed to sign. Give the present
// time as now; "iat" is only a claim, and whoever stole the key of an expired
// certificate can write any. Then it decodes the claims as [Unverified.Verify]
// does and returns whom the certificate names.
//
// The error matches [ErrStatement], [ErrChain] (and [ErrExpired]),
// [ErrSignature] or [ErrKeyType].
func (u *Unverified) VerifySVID(bundles x509bundle.Source, td spiffeid.TrustDomain, now time.Time, claims any) (ID, *Statement, error) {
	if u.chain == nil {
		return ID{}, nil, statementError(`no certificate in it ("x5c")`)
	}
	id, err := verifyChain(u.chain, bundles, td, now)
	if err != nil {
		return ID{}, nil, fmt.Errorf("%w: %w", ErrChain, err)
	}
	s, err := u.verified(u.chain[0].PublicKey, claims)
	if err != nil {
		return ID{}, nil, err
	}
	return id, s, nil
}

func (u *Unverified) verified(key crypto.PublicKey, claims any) (*Statement, error) {
	if err := u.checkSignature(key); err != nil {
		return nil, err
	}
	if err := u.UnverifiedClaims(claims); err != nil {
		return nil, err
	}
	return &Statement{
		Type:     u.header.Type,
		KeyID:    u.header.KeyID,
		IssuedAt: u.issuedAt,
		Hash:     u.hash,
		Claims:   bytes.Clone(u.claims),
		Chain:    slices.Clone(u.chain),
		Signer:   key,
	}, nil
}

func (u *Unverified) checkSignature(key crypto.PublicKey) error {
	alg, err := algorithmOf(key)
	if err != nil {
		return err
	}
	if u.header.Algorithm != string(alg) {
		return fmt.Errorf("%w: algorithm %q, but the key's is %s", ErrSignature, u.header.Algorithm, alg)
	}
	jws, err := jose.ParseSignedCompact(u.raw, []jose.SignatureAlgorithm{alg})
	if err != nil {
		return statementError("%w", err)
	}
	payload, err := jws.Verify(key)
	if err != nil {
		return fmt.Errorf("%w: it is not that of the expected key", ErrSignature)
	}
	// What go-jose verified must be what was parsed here.
	if !bytes.Equal(payload, u.claims) {
		return statementError("ambiguous claims")
	}
	return nil
}

// verifyChain verifies a chain of certificates at the time now and returns
// whom its leaf names. The form and the trust domain come first, so that no
// source is asked for the authorities of somebody else's.
func verifyChain(chain []*x509.Certificate, bundles x509bundle.Source, td spiffeid.TrustDomain, now time.Time) (ID, error) {
	switch {
	case len(chain) == 0:
		return ID{}, errors.New("no certificate")
	case len(chain) > MaxChain:
		return ID{}, fmt.Errorf("%d certificates, at most %d are allowed", len(chain), MaxChain)
	case td.IsZero():
		return ID{}, errors.New("no trust domain given")
	}
	leaf := chain[0]
	id, err := leafID(leaf)
	if err != nil {
		return ID{}, err
	}
	if id.TrustDomain() != td {
		return ID{}, fmt.Errorf("%s is not of the trust domain %s", id, td)
	}
	if err := checkValidity(leaf, now); err != nil {
		return ID{}, fmt.Errorf("certificate of %s: %w", id, err)
	}
	if _, _, err := x509svid.Verify(chain, bundles, x509svid.WithTime(now)); err != nil {
		return ID{}, verifyError(id, err)
	}
	return id, nil
}

func verifyError(id ID, err error) error {
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return fmt.Errorf("a CA's certificate over that of %s: %w: %w", id, ErrExpired, err)
	}
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return fmt.Errorf("certificate of %s: issued by no CA of the trust domain; check the CA file: %w", id, err)
	}
	return fmt.Errorf("certificate of %s: %w", id, err)
}

// checkValidity checks a certificate's times as x509 does: both ends belong to it.
func checkValidity(cert *x509.Certificate, now time.Time) error {
	switch {
	case now.After(cert.NotAfter):
		return fmt.Errorf("%w: it expired at %s, and now is %s; renew it",
			ErrExpired, cert.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case now.Before(cert.NotBefore):
		return fmt.Errorf("%w: it begins at %s, and now is %s; check this machine's clock",
			ErrExpired, cert.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return nil
}
