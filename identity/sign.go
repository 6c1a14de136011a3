package identity

import (
	"crypto"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/cryptosigner"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// SignStatement signs claims as a statement of type typ. claims is a struct, or
// a pointer to one, that encodes to a JSON object with "iat" in whole seconds
// since 1970. kid tells readers which key to verify with; it may be empty. The
// algorithm is the key's: EdDSA for Ed25519, ES256 and ES384 for ECDSA P-256
// and P-384; the key may be any crypto.Signer whose Public returns an
// ed25519.PublicKey or a *ecdsa.PublicKey. An Ed25519 signer is given the whole
// message and crypto.Hash(0).
//
// What is returned was parsed and verified again, so that a statement that
// readers would refuse fails here. The error matches [ErrStatement],
// [ErrSignature] (the signer's signature is not that of its public key) or
// [ErrKeyType], or is the signer's own.
func SignStatement(typ string, claims any, kid string, key crypto.Signer) ([]byte, error) {
	var options jose.SignerOptions
	if kid != "" {
		if err := checkKeyID(kid); err != nil {
			return nil, statementError("%w", err)
		}
		options.WithHeader("kid", kid)
	}
	return sign(typ, claims, key, &options)
}

// SignSVIDStatement is [SignStatement] with the key of a certificate. The
// statement carries the certificates, at most [MaxChain], for
// [Unverified.VerifySVID].
func SignSVIDStatement(typ string, claims any, svid *x509svid.SVID) ([]byte, error) {
	if _, err := checkSVID(svid); err != nil {
		return nil, err
	}
	var chain []string
	for _, cert := range svid.Certificates {
		chain = append(chain, base64.StdEncoding.EncodeToString(cert.Raw))
	}
	var options jose.SignerOptions
	options.WithHeader("x5c", chain)
	return sign(typ, claims, svid.PrivateKey, &options)
}

func sign(typ string, claims any, key crypto.Signer, options *jose.SignerOptions) ([]byte, error) {
	if key == nil {
		return nil, fmt.Errorf("%w: none given to sign with", ErrKeyType)
	}
	if err := checkType(typ); err != nil {
		return nil, statementError("%w", err)
	}
	public := key.Public()
	alg, err := algorithmOf(public)
	if err != nil {
		return nil, err
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return nil, statementError("claims: %w", err)
	}
	options.WithType(jose.ContentType(typ))
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: cryptosigner.Opaque(key)}, options)
	if err != nil {
		return nil, fmt.Errorf("sign statement: %w", err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		return nil, fmt.Errorf("sign statement: %w", err)
	}
	compact, err := jws.CompactSerialize()
	if err != nil {
		return nil, fmt.Errorf("sign statement: %w", err)
	}
	raw := []byte(compact)
	if err := checkSigned(raw, typ, claims, public); err != nil {
		return nil, err
	}
	return raw, nil
}

// checkSigned reads a new statement as others will.
func checkSigned(raw []byte, typ string, claims any, key crypto.PublicKey) error {
	u, err := ParseStatement(raw, typ)
	if err != nil {
		return err
	}
	t := reflect.TypeOf(claims)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return statementError("claims: %w", errors.New("they must be a struct or a pointer to one"))
	}
	_, err = u.verified(key, reflect.New(t).Interface())
	return err
}
