package keyring

import (
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"

	"github.com/oklog/ulid/v2"
	"github.com/tink-crypto/tink-go/v2/hybrid"
	"github.com/tink-crypto/tink-go/v2/hybrid/hpke"
	"github.com/tink-crypto/tink-go/v2/key"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/signature"
	tinked25519 "github.com/tink-crypto/tink-go/v2/signature/ed25519"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// The parameters of what a card carries: HPKE with the X-Wing KEM (ML-KEM-768 with X25519), so that a
// wrap stored today resists a later quantum computer, and Ed25519. Public keys travel as their raw
// bytes and become Tink handles here, from these parameters alone.
var (
	hpkeParameters = must(hpke.NewParameters(hpke.ParametersOpts{
		KEMID: hpke.X_WING, KDFID: hpke.HKDFSHA256, AEADID: hpke.AES256GCM, Variant: hpke.VariantNoPrefix,
	}))
	signingParameters = must(tinked25519.NewParameters(tinked25519.VariantNoPrefix))
)

const (
	hpkePublicSize    = 1216 // X-Wing encapsulation key
	signingPublicSize = ed25519.PublicKeySize
)

// own is what one running instance of an agent holds for itself: the private keysets behind its card.
type own struct {
	card    ulid.ULID
	signing *keyset.Handle
	hybrid  *keyset.Handle

	signer        tink.Signer
	decrypter     tink.HybridDecrypt
	signingPublic ed25519.PublicKey
	hpkePublic    []byte
}

func (*own) String() string             { return redacted }
func (*own) Format(w fmt.State, _ rune) { io.WriteString(w, redacted) }

// newOwn draws fresh keysets.
func newOwn(card ulid.ULID) (*own, error) {
	signing, err := generate(&signingParameters)
	if err != nil {
		return nil, err
	}
	hybridKey, err := generate(hpkeParameters)
	if err != nil {
		return nil, err
	}
	return ownFrom(card, signing, hybridKey)
}

// ownFrom builds the primitives of two private keysets and checks that they are what this package makes.
func ownFrom(card ulid.ULID, signing, hybridKey *keyset.Handle) (*own, error) {
	o := &own{card: card, signing: signing, hybrid: hybridKey}
	var err error
	if o.signer, err = signature.NewSigner(signing); err != nil {
		return nil, err
	}
	if o.decrypter, err = hybrid.NewHybridDecrypt(hybridKey); err != nil {
		return nil, err
	}
	sk, ok := primaryKey(signing).(*tinked25519.PrivateKey)
	if !ok {
		return nil, errors.New("keyring: signing keyset is not Ed25519")
	}
	spub, err := sk.PublicKey()
	if err != nil {
		return nil, err
	}
	hk, ok := primaryKey(hybridKey).(*hpke.PrivateKey)
	if !ok {
		return nil, errors.New("keyring: hybrid keyset is not HPKE")
	}
	hpub, err := hk.PublicKey()
	if err != nil {
		return nil, err
	}
	o.signingPublic = spub.(*tinked25519.PublicKey).KeyBytes()
	o.hpkePublic = hpub.(*hpke.PublicKey).PublicKeyBytes()
	return o, nil
}

// statementSigner lends the card key's Tink signer to package identity as a crypto.Signer.
type statementSigner struct{ o *own }

func (s statementSigner) Public() crypto.PublicKey { return s.o.signingPublic }

func (s statementSigner) Sign(_ io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts != nil && opts.HashFunc() != 0 {
		return nil, errors.New("keyring: Ed25519 signs messages, not digests")
	}
	return s.o.signer.Sign(message)
}

// peerKeys are the public keys of somebody's card.
type peerKeys struct {
	verifier      tink.Verifier
	encrypter     tink.HybridEncrypt
	signingPublic ed25519.PublicKey
}

func newPeerKeys(signing, hpkeKey []byte) (*peerKeys, error) {
	if len(signing) != signingPublicSize || len(hpkeKey) != hpkePublicSize {
		return nil, errors.New("keyring: card with public keys of the wrong size")
	}
	sk, err := tinked25519.NewPublicKey(signing, 0, signingParameters)
	if err != nil {
		return nil, err
	}
	sh, err := handleOf(sk)
	if err != nil {
		return nil, err
	}
	verifier, err := signature.NewVerifier(sh)
	if err != nil {
		return nil, err
	}
	hk, err := hpke.NewPublicKey(hpkeKey, 0, hpkeParameters)
	if err != nil {
		return nil, err
	}
	hh, err := handleOf(hk)
	if err != nil {
		return nil, err
	}
	encrypter, err := hybrid.NewHybridEncrypt(hh)
	if err != nil {
		return nil, err
	}
	return &peerKeys{verifier: verifier, encrypter: encrypter, signingPublic: signing}, nil
}

// generate draws a fresh keyset of exactly one key.
func generate(p key.Parameters) (*keyset.Handle, error) {
	m := keyset.NewManager()
	id, err := m.AddNewKeyFromParameters(p)
	if err != nil {
		return nil, err
	}
	if err := m.SetPrimary(id); err != nil {
		return nil, err
	}
	return m.Handle()
}

// primaryKey returns the primary of a keyset that must hold one key and no more, or nil.
func primaryKey(h *keyset.Handle) key.Key {
	if h.Len() != 1 {
		return nil
	}
	e, err := h.Primary()
	if err != nil {
		return nil
	}
	return e.Key()
}
