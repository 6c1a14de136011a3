package main

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/signature"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/sealbus/sealbus/internal/envelope"
)

// loot is what somebody has who stole an agent's state directory and the key that it is encrypted under.
type loot struct {
	keys   []channelKey
	card   ulid.ULID
	signer tink.Signer // of the card
}

// channelKey is K of a channel.
type channelKey [32]byte

// steal decrypts a state directory. It does by hand what package keyring does for its owner.
func steal(dir string, lock tink.AEAD) (*loot, error) {
	unlocked, err := openKeyset(filepath.Join(dir, "keyset.enc"), lock)
	if err != nil {
		return nil, err
	}
	state, err := aead.New(unlocked)
	if err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(filepath.Join(dir, "state.enc"))
	if err != nil {
		return nil, err
	}
	plain, err := state.Decrypt(raw, []byte("sealbus/v1 state state.enc"))
	if err != nil {
		return nil, err
	}
	var saved struct {
		Card    string
		Signing []byte
		Keys    []struct {
			Reader bool
			Key    []byte
		}
	}
	if err := json.Unmarshal(plain, &saved); err != nil {
		return nil, err
	}
	l := new(loot)
	if l.card, err = ulid.ParseStrict(saved.Card); err != nil {
		return nil, err
	}
	h, err := keyset.ReadWithAssociatedData(keyset.NewBinaryReader(bytes.NewReader(saved.Signing)), state, []byte("sealbus/v1 state signing"))
	if err != nil {
		return nil, err
	}
	if l.signer, err = signature.NewSigner(h); err != nil {
		return nil, err
	}
	for _, k := range saved.Keys {
		if k.Reader && len(k.Key) == len(channelKey{}) {
			l.keys = append(l.keys, channelKey(k.Key))
		}
	}
	if len(l.keys) == 0 {
		return nil, errors.New("no channel key in it")
	}
	return l, nil
}

func openKeyset(file string, lock tink.AEAD) (*keyset.Handle, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return keyset.ReadWithAssociatedData(keyset.NewBinaryReader(bytes.NewReader(raw)), lock, []byte("sealbus/v1 state keyset"))
}

// derive is the format's Derive(key, label, parts…): HKDF-SHA-256 without a salt.
func derive(key []byte, label string, parts ...string) ([]byte, error) {
	info := []byte("sealbus/v1 " + label)
	for _, p := range parts {
		info = binary.BigEndian.AppendUint16(info, uint16(len(p)))
		info = append(info, p...)
	}
	return hkdf.Key(sha256.New, key, nil, string(info), 32)
}

// session returns the AES-256-GCM of a sender's session. Whoever holds K has everybody's.
func (k channelKey) session(channel, sender string, session ulid.ULID) (cipher.AEAD, error) {
	own, err := derive(k[:], "sender", channel, sender)
	if err != nil {
		return nil, err
	}
	key, err := derive(own, "session", string(session[:]))
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func (k channelKey) open(f *envelope.Frame) ([]byte, error) {
	gcm, err := k.session(string(f.Channel), string(f.Sender), f.Session)
	if err != nil {
		return nil, err
	}
	n := gcm.NonceSize()
	return gcm.Open(nil, f.Ciphertext[:n], f.Ciphertext[n:], envelope.AppendAssociatedData(nil, f.Head))
}

// draft is a forgery.
type draft struct {
	key                              channelKey
	keyID                            uint32
	channel, recipient, sender, text string
	card                             ulid.ULID
	signer                           tink.Signer         // nil: no signature
	borrowed                         *envelope.Signature // somebody else's, instead
}

// frame seals and signs it, as its sender's own frame would be in all but the signing key.
func (d *draft) frame() ([]byte, error) {
	id, err := ulid.New(ulid.Timestamp(time.Now()), rand.Reader)
	if err != nil {
		return nil, err
	}
	session, err := ulid.New(ulid.Timestamp(time.Now()), rand.Reader)
	if err != nil {
		return nil, err
	}
	f := &envelope.Frame{Header: envelope.Header{Kind: envelope.KindEvent, ID: id, Session: session, Seq: 1, Key: d.keyID,
		Channel: []byte(d.channel), Sender: []byte(d.sender), Card: d.card, Recipient: []byte(d.recipient), Count: 1}}
	if d.signer != nil {
		f.Flags = envelope.FlagSigned
	}
	plain, err := envelope.AppendMessage(nil, &envelope.Message{ID: id, Payload: []byte(d.text)}, false)
	if err != nil {
		return nil, err
	}
	head, err := envelope.AppendHeader(nil, &f.Header)
	if err != nil {
		return nil, err
	}
	gcm, err := d.key.session(d.channel, d.sender, session)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, gcm.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	f.Ciphertext = gcm.Seal(nonce, nonce, plain, envelope.AppendAssociatedData(nil, head))
	if err := d.sign(f, head); err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	return envelope.AppendFrame(nil, f)
}

func (d *draft) sign(f *envelope.Frame, head []byte) (err error) {
	switch {
	case d.signer == nil:
	case d.borrowed != nil:
		f.Signature = *d.borrowed
	default:
		f.Signature.Sig, err = d.signer.Sign(envelope.AppendSignedRoot(nil, &f.Header, 0, envelope.Leaf(head, f.Ciphertext)))
	}
	return err
}
