package keyring

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"
)

// noteEd25519 is the signature type of plain Ed25519 in C2SP signed-note.
const noteEd25519 = 0x01

// noteKey is a name with the id that C2SP signed-note gives its key: the first four bytes of
// SHA-256(name ‖ 0x0A ‖ 0x01 ‖ Ed25519 public key).
type noteKey struct {
	name string
	hash uint32
}

func newNoteKey(name string, public ed25519.PublicKey) (noteKey, error) {
	if name == "" || !utf8.ValidString(name) || strings.ContainsRune(name, '+') || strings.IndexFunc(name, unicode.IsSpace) >= 0 {
		return noteKey{}, fmt.Errorf("keyring: %.80q cannot be the name of a note's key: no space and no plus", name)
	}
	h := sha256.New()
	h.Write([]byte(name))
	h.Write([]byte{'\n', noteEd25519})
	h.Write(public)
	return noteKey{name, binary.BigEndian.Uint32(h.Sum(nil))}, nil
}

func (k noteKey) Name() string    { return k.name }
func (k noteKey) KeyHash() uint32 { return k.hash }

// isNoteText tells the text of a note from everything else that a card's key signs: the signed root of a frame begins with
// this format's label, and a statement's signing input has no line end in it.
func isNoteText(text []byte) bool {
	return bytes.HasSuffix(text, []byte("\n")) && !bytes.HasPrefix(text, []byte(labelPrefix))
}

type noteSigner struct {
	noteKey
	ring *Ring
}

// NoteSigner returns a signer of C2SP notes with the key of this instance's card, under a name that is in the signatures: a
// checkpoint's is that of its log. It refuses what is no note's text, or could be taken for a frame's signed root. The
// error is ErrNotAttached or ErrClosed, or says what is wrong with the name.
func (r *Ring) NoteSigner(name string) (note.Signer, error) {
	a, err := r.attachment()
	if err != nil {
		return nil, err
	}
	k, err := newNoteKey(name, a.own.signingPublic)
	if err != nil {
		return nil, err
	}
	return noteSigner{k, r}, nil
}

// Sign returns the signature alone, without the key's hash before it.
func (s noteSigner) Sign(text []byte) ([]byte, error) {
	if !isNoteText(text) {
		return nil, errors.New("keyring: not the text of a note: it ends with a line end and does not begin as a frame's signed root does")
	}
	a, err := s.ring.attachment()
	if err != nil {
		return nil, err
	}
	return a.own.signer.Sign(text)
}

type noteVerifier struct {
	noteKey
	keys *peerKeys
}

func newNoteVerifier(name string, keys *peerKeys) (note.Verifier, error) {
	k, err := newNoteKey(name, keys.signingPublic)
	if err != nil {
		return nil, err
	}
	return noteVerifier{k, keys}, nil
}

func (v noteVerifier) Verify(text, sig []byte) bool {
	return isNoteText(text) && v.keys.verifier.Verify(sig, text) == nil
}
