package keyring

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"

	"github.com/oklog/ulid/v2"
	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/aead/aesgcm"
	"github.com/tink-crypto/tink-go/v2/insecuresecretdataaccess"
	"github.com/tink-crypto/tink-go/v2/key"
	"github.com/tink-crypto/tink-go/v2/keyderivation"
	"github.com/tink-crypto/tink-go/v2/keyderivation/prfbasedkeyderivation"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/prf"
	"github.com/tink-crypto/tink-go/v2/prf/hkdfprf"
	"github.com/tink-crypto/tink-go/v2/secretdata"
	"github.com/tink-crypto/tink-go/v2/tink"
)

const (
	labelPrefix     = "sealbus/v1 "
	labelSender     = "sender"
	labelSession    = "session"
	labelCommitment = "sealbus/v1 commitment"
	labelWrap       = "sealbus/v1 wrap"
	secretSize      = 32
)

// secret is the 32 bytes of a channel key K or of a writer's K_s; the zero value is none. It never prints: the
// methods see to that where fmt may call them, and the function where it may not, inside an unexported field of
// whatever struct. (A pointer would not do: fmt follows it for a verb that does not fit.)
type secret struct {
	reveal func() *[secretSize]byte // nil when it was let go of
	erase  func()
}

// bytes returns the secret itself, nil if there is none. It is not to be changed.
func (s secret) bytes() []byte {
	if s.reveal == nil {
		return nil
	}
	if b := s.reveal(); b != nil {
		return b[:]
	}
	return nil
}

// forget lets go of the secret, in every copy of s.
func (s secret) forget() {
	if s.erase != nil {
		s.erase()
	}
}

func secretOf(b *[secretSize]byte) secret {
	var p atomic.Pointer[[secretSize]byte]
	p.Store(b)
	return secret{p.Load, func() { p.Store(nil) }}
}

const redacted = "[redacted]"

func (secret) String() string               { return redacted }
func (secret) GoString() string             { return redacted }
func (secret) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }
func (secret) Format(w fmt.State, _ rune)   { io.WriteString(w, redacted) }

func newSecret() (secret, error) {
	b := new([secretSize]byte)
	_, err := rand.Read(b[:])
	return secretOf(b), err
}

func secretFrom(b []byte) (s secret, err error) {
	if len(b) != secretSize {
		return s, fmt.Errorf("keyring: key of %d bytes, want %d", len(b), secretSize)
	}
	return secretOf((*[secretSize]byte)(bytes.Clone(b))), nil
}

// errForgotten is for a key that was let go of while somebody was about to use it.
var errForgotten = fmt.Errorf("%w: %w", ErrNoKey, ErrKeyDestroyed)

// info is the input of every derivation: the label, then the parts, each behind its length as two
// bytes, big-endian, so that no two lists of parts are the same bytes.
func info(label string, parts ...string) []byte {
	b := append([]byte(labelPrefix), label...)
	return appendParts(b, parts...)
}

func appendParts[T ~string | ~[]byte](b []byte, parts ...T) []byte {
	for _, p := range parts {
		b = binary.BigEndian.AppendUint16(b, uint16(len(p)))
		b = append(b, p...)
	}
	return b
}

// The one suite of version 1: HKDF-SHA-256 with an empty salt, and AES-256-GCM without an output
// prefix. Key material never brings its own parameters along.
var (
	prfParameters  = must(hkdfprf.NewParameters(secretSize, hkdfprf.SHA256, nil))
	aeadParameters = must(aesgcm.NewParameters(aesgcm.ParametersOpts{
		KeySizeInBytes: 32, IVSizeInBytes: 12, TagSizeInBytes: 16, Variant: aesgcm.VariantNoPrefix,
	}))
	derivationParameters = must(prfbasedkeyderivation.NewParameters(prfParameters, aeadParameters))
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // parameters that Tink itself offers
	}
	return v
}

// handleOf makes the keyset handle that holds exactly k.
func handleOf(k key.Key) (*keyset.Handle, error) {
	m := keyset.NewManager()
	id, err := m.AddKey(k)
	if err != nil {
		return nil, err
	}
	if err := m.SetPrimary(id); err != nil {
		return nil, err
	}
	return m.Handle()
}

func (s secret) prfKey() (*hkdfprf.Key, error) {
	b := s.bytes()
	if b == nil {
		return nil, errForgotten
	}
	return hkdfprf.NewKey(secretdata.NewBytesFromData(b, insecuresecretdataaccess.Token{}), prfParameters)
}

// derive is Derive(K, label, parts), its first size bytes.
func (s secret) derive(size uint32, label string, parts ...string) ([]byte, error) {
	k, err := s.prfKey()
	if err != nil {
		return nil, err
	}
	h, err := handleOf(k)
	if err != nil {
		return nil, err
	}
	set, err := prf.NewPRFSet(h)
	if err != nil {
		return nil, err
	}
	return set.ComputePrimaryPRF(info(label, parts...), size)
}

// senderKey is K_s = Derive(K, "sender", channel, SPIFFE ID): all that a writer who is no reader holds.
func (s secret) senderKey(channel, sender string) (secret, error) {
	out, err := s.derive(secretSize, labelSender, channel, sender)
	if err != nil {
		return secret{}, err
	}
	return secretFrom(out)
}

// sessionAEAD is the AEAD of Derive(K_s, "session", session), called on a K_s. Every running sender
// has a session of its own, and so an AES-GCM key of its own.
func (s secret) sessionAEAD(session ulid.ULID) (tink.AEAD, error) {
	pk, err := s.prfKey()
	if err != nil {
		return nil, err
	}
	k, err := prfbasedkeyderivation.NewKey(derivationParameters, pk, 0)
	if err != nil {
		return nil, err
	}
	h, err := handleOf(k)
	if err != nil {
		return nil, err
	}
	deriver, err := keyderivation.New(h)
	if err != nil {
		return nil, err
	}
	derived, err := deriver.DeriveKeyset(info(labelSession, string(session[:])))
	if err != nil {
		return nil, err
	}
	return aead.New(derived)
}

// commitment binds a channel key to its channel and id: AES-GCM alone would let whoever makes a
// ciphertext choose one that opens under two keys.
func (s secret) commitment(channel string, id uint32) [32]byte {
	b := appendParts([]byte(labelCommitment), channel)
	b = binary.BigEndian.AppendUint32(b, id)
	return sha256.Sum256(append(b, s.bytes()...))
}
