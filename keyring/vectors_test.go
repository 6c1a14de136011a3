package keyring

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/tink-crypto/tink-go/v2/hybrid"
	tinkhpke "github.com/tink-crypto/tink-go/v2/hybrid/hpke"
	"github.com/tink-crypto/tink-go/v2/insecuresecretdataaccess"
	"github.com/tink-crypto/tink-go/v2/secretdata"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

var update = flag.Bool("update", false, "write testdata/vectors")

const vectorDir = "testdata/vectors"

// vector is one file of testdata/vectors; the README there explains it.
type vector struct {
	Name    string `json:"name"`
	Comment string `json:"comment"`

	Channel    string   `json:"channel"`
	Key        uint32   `json:"key"`
	K          hexBytes `json:"k"`
	Commitment hexBytes `json:"commitment"`

	Sender      string   `json:"sender"`
	SenderInfo  hexBytes `json:"sender_info"`
	SenderKey   hexBytes `json:"sender_key"`
	Session     hexBytes `json:"session"`
	SessionInfo hexBytes `json:"session_info"`
	SessionKey  hexBytes `json:"session_key"`

	Wrap  *vectorWrap  `json:"wrap,omitempty"`
	Frame *vectorFrame `json:"frame,omitempty"`

	Pseudonym *vectorPseudonym `json:"pseudonym,omitempty"`
}

type vectorWrap struct {
	Wrapper       string   `json:"wrapper"`
	WrapperCard   hexBytes `json:"wrapper_card"`
	Recipient     string   `json:"recipient"`
	RecipientCard hexBytes `json:"recipient_card"`
	Role          string   `json:"role"`
	Info          hexBytes `json:"info"`
	PrivateKey    hexBytes `json:"private_key"`
	PublicKey     hexBytes `json:"public_key"`
	Ciphertext    hexBytes `json:"ciphertext"`
	Plaintext     hexBytes `json:"plaintext"`
}

type vectorFrame struct {
	Flags          uint8    `json:"flags"`
	Kind           uint8    `json:"kind"`
	ID             hexBytes `json:"id"`
	Seq            uint64   `json:"seq,string"`
	Card           hexBytes `json:"card"`
	Recipient      string   `json:"recipient"`
	Commit         hexBytes `json:"commit,omitempty"`
	Payloads       []string `json:"payloads"`
	Plaintext      hexBytes `json:"plaintext"`
	IV             hexBytes `json:"iv"`
	AssociatedData hexBytes `json:"associated_data"`
	Ciphertext     hexBytes `json:"ciphertext"`
	SigningKey     hexBytes `json:"signing_key,omitempty"`
	PublicKey      hexBytes `json:"public_key,omitempty"`
	Leaf           hexBytes `json:"leaf,omitempty"`
	Signed         hexBytes `json:"signed,omitempty"`
	Signature      hexBytes `json:"signature,omitempty"`
	Bytes          hexBytes `json:"bytes"`
}

type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

func (h *hexBytes) UnmarshalText(b []byte) (err error) {
	*h, err = hex.DecodeString(string(b))
	return err
}

// fixed returns n bytes that are the same every time.
func fixed(label string, n int) hexBytes {
	return must(hkdf.Expand(sha256.New, []byte("the test vectors of sealbus, not a secret"), label, n))
}

// vectorTime is in the ids: the beginning of a bubble's time, and a bit.
var vectorTime = time.Date(2000, 1, 1, 0, 0, 1, 0, time.UTC)

func fixedULID(label string) hexBytes {
	var id ulid.ULID
	_ = id.SetTime(ulid.Timestamp(vectorTime))
	copy(id[6:], fixed(label, 10))
	return id[:]
}

// derive is HKDF-SHA-256 with an empty salt, as RFC 5869 has it, and nothing of Tink.
func derive(secret, info []byte) hexBytes {
	return must(hkdf.Key(sha256.New, secret, nil, string(info), 32))
}

// newVector fills in the derivations with nothing but the standard library and the layouts as they are written down.
func newVector(name, comment, channel, sender string, key uint32) *vector {
	v := &vector{Name: name, Comment: comment, Channel: channel, Key: key, K: fixed(name+" K", 32), Sender: sender, Session: fixedULID(name + " session")}
	prefixed := func(b []byte, parts ...string) []byte {
		for _, p := range parts {
			b = append(append(b, byte(len(p)>>8), byte(len(p))), p...)
		}
		return b
	}
	id := []byte{byte(key >> 24), byte(key >> 16), byte(key >> 8), byte(key)}
	commitment := sha256.Sum256(append(append(prefixed([]byte("sealbus/v1 commitment"), channel), id...), v.K...))
	v.Commitment = commitment[:]
	v.SenderInfo = prefixed([]byte("sealbus/v1 sender"), channel, sender)
	v.SenderKey = derive(v.K, v.SenderInfo)
	v.SessionInfo = prefixed([]byte("sealbus/v1 session"), string(v.Session))
	v.SessionKey = derive(v.SenderKey, v.SessionInfo)
	return v
}

func (v *vector) withFrame(flags uint8, recipient string, payloads ...string) *vector {
	f := &vectorFrame{Flags: flags, Kind: uint8(envelope.KindEvent), ID: fixedULID(v.Name + " id"), Seq: 7, Card: fixedULID(v.Name + " card"),
		Recipient: recipient, Payloads: payloads, IV: fixed(v.Name+" iv", 12)}
	v.Frame = f
	var messages []envelope.Message
	for i, p := range payloads {
		m := envelope.Message{ID: ulid.ULID(fixedULID(v.Name + p)), Payload: []byte(p)}
		if flags&envelope.FlagCommitted != 0 {
			m.Salt = [16]byte(fixed(v.Name+p+" salt", 16))
		}
		if i == 0 {
			m.ID = ulid.ULID(f.ID)
		}
		messages = append(messages, m)
		f.Plaintext = must(envelope.AppendMessage(f.Plaintext, &m, flags&envelope.FlagCommitted != 0))
	}
	h := envelope.Header{Flags: flags, Kind: envelope.Kind(f.Kind), ID: ulid.ULID(f.ID), Session: ulid.ULID(v.Session), Seq: f.Seq, Key: v.Key,
		Channel: []byte(v.Channel), Sender: []byte(v.Sender), Card: ulid.ULID(f.Card), Recipient: []byte(recipient), Count: uint16(len(payloads))}
	if flags&envelope.FlagCommitted != 0 {
		h.Commit = must(envelope.CommitRoot(messages))
		f.Commit = h.Commit[:]
	}
	if flags&envelope.FlagPadded != 0 {
		f.Plaintext = envelope.AppendPadding(f.Plaintext, 0)
	}
	head := must(envelope.AppendHeader(nil, &h))
	f.AssociatedData = append([]byte("sealbus/v1 frame"), head...)
	f.Ciphertext = append(bytes.Clone(f.IV), v.gcm().Seal(nil, f.IV, f.Plaintext, f.AssociatedData)...)
	f.Bytes = must(envelope.AppendCiphertext(head, f.Ciphertext))
	if flags&envelope.FlagSigned != 0 {
		f.SigningKey = fixed(v.Name+" signing key", ed25519.SeedSize)
		private := ed25519.NewKeyFromSeed(f.SigningKey)
		f.PublicKey = hexBytes(private.Public().(ed25519.PublicKey))
		leaf := sha256.Sum256(append(append([]byte{0}, f.AssociatedData...), f.Ciphertext...))
		f.Leaf = leaf[:]
		f.Signed = envelope.AppendSignedRoot(nil, &h, 0, leaf)
		f.Signature = ed25519.Sign(private, f.Signed)
		f.Bytes = must(envelope.AppendSignature(f.Bytes, &envelope.Signature{Sig: f.Signature}))
	}
	return v
}

func (v *vector) gcm() cipher.AEAD { return must(cipher.NewGCM(must(aes.NewCipher(v.SessionKey)))) }

func (v *vector) withWrap(role, recipient string) *vector {
	w := &vectorWrap{Wrapper: "spiffe://example.org/agent/planner", WrapperCard: fixedULID(v.Name + " wrapper"), Recipient: recipient,
		RecipientCard: fixedULID(v.Name + " recipient"), Role: role, PrivateKey: fixed(v.Name+" private key", 32), Plaintext: v.K}
	if role == roleWriter {
		w.Plaintext = v.SenderKey
	}
	b := []byte("sealbus/v1 wrap")
	for _, p := range [][]byte{[]byte(v.Channel), {byte(v.Key >> 24), byte(v.Key >> 16), byte(v.Key >> 8), byte(v.Key)}, v.Commitment, []byte(w.Wrapper),
		w.WrapperCard, []byte(w.Recipient), w.RecipientCard, []byte(w.Role)} {
		b = append(append(b, byte(len(p)>>8), byte(len(p))), p...)
	}
	w.Info = b
	public := must(hpke.MLKEM768X25519().NewPrivateKey(w.PrivateKey)).PublicKey()
	w.PublicKey = public.Bytes()
	// HPKE draws its own randomness: what was written once stays.
	var have vector
	raw, err := os.ReadFile(filepath.Join(vectorDir, v.Name+".json"))
	if err == nil && json.Unmarshal(raw, &have) == nil && have.Wrap != nil {
		w.Ciphertext = have.Wrap.Ciphertext
	} else {
		w.Ciphertext = must(hpke.Seal(public, hpke.HKDFSHA256(), hpke.AES256GCM(), w.Info, w.Plaintext))
	}
	v.Wrap = w
	return v
}

func allVectors() []*vector {
	const feed, exec = "spiffe://example.org/agent/feed-1", "spiffe://example.org/agent/exec-1"
	return []*vector{
		newVector("derivation-topic", "K, K_s, session key and commitment on a topic", "topic/prices", feed, 1),
		newVector("derivation-pair", "the same on a pair, under the highest key id", "pair/exec-1~planner", exec, 1<<32-1),
		newVector("derivation-other-sender", "another sender of the first vector's channel", "topic/prices", "spiffe://example.org/agent/feed-2", 1),
		newVector("pseudonym-unique-task", "the claim of a unique task", "result/work", exec, 7).withPseudonym("unique task", "report 2026-11-24"),
		newVector("wrap-reader", "K for a reader", "topic/prices", exec, 0x01020304).withWrap(roleReader, exec),
		newVector("wrap-writer", "K_s for a writer", "topic/prices", feed, 0x01020304).withWrap(roleWriter, feed),
		newVector("frame-unsigned", "one message, no signature", "topic/gossip", feed, 0xcafe).withFrame(0, "gossip.x", "hello"),
		newVector("frame-signed", "one message, signed alone", "topic/prices", feed, 0xcafe).withFrame(envelope.FlagSigned, "prices.eu.de", "hello"),
		newVector("frame-signed-padded-committed", "three messages of a retained channel", "topic/ledger", feed, 0xcafe).
			withFrame(envelope.FlagSigned|envelope.FlagPadded|envelope.FlagCommitted, "ledger.x", "one", "two", "and three, which is longer than the others, so that padding has something to do"),
	}
}

// TestVectors holds the files to what the standard library makes of them, and the package to the files.
func TestVectors(t *testing.T) {
	made := map[string]bool{}
	for _, v := range allVectors() {
		name := filepath.Join(vectorDir, v.Name+".json")
		made[name] = true
		want := append(must(json.MarshalIndent(v, "", "  ")), '\n')
		if *update {
			check(t, os.MkdirAll(vectorDir, 0o755))
			check(t, os.WriteFile(name, want, 0o644))
		}
		got, err := os.ReadFile(name)
		if err != nil {
			t.Fatalf("%v; run go test ./keyring -run Vectors -update", err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what the test makes; if the format was meant to change, run go test ./keyring -run Vectors -update", name)
		}
		t.Run(v.Name, func(t *testing.T) { v.verify(t) })
	}
	for _, name := range value(filepath.Glob(filepath.Join(vectorDir, "*.json")))(t) {
		if !made[name] {
			t.Errorf("%s is no longer made: delete it", name)
		}
	}
}

// verify has the package derive, unwrap and open what the vector says.
func (v *vector) verify(t *testing.T) {
	k := value(secretFrom(v.K))(t)
	own := value(k.senderKey(v.Channel, v.Sender))(t)
	commitment := k.commitment(v.Channel, v.Key)
	equal(t, "commitment", commitment[:], v.Commitment)
	equal(t, "sender info", info(labelSender, v.Channel, v.Sender), v.SenderInfo)
	equal(t, "sender key", own.bytes(), v.SenderKey)
	equal(t, "session info", info(labelSession, string(v.Session)), v.SessionInfo)
	aead := value(own.sessionAEAD(ulid.ULID(v.Session)))(t)
	iv := fixed("iv", 12)
	plain, err := aead.Decrypt(append(iv, v.gcm().Seal(nil, iv, []byte("x"), []byte("ad"))...), []byte("ad"))
	check(t, err)
	equal(t, "what the session key opens", plain, []byte("x"))
	if v.Wrap != nil {
		v.verifyWrap(t)
	}
	if v.Pseudonym != nil {
		v.verifyPseudonym(t, k)
	}
	if v.Frame != nil {
		bubble(t, v.verifyFrame)
	}
}

func (v *vector) verifyWrap(t *testing.T) {
	x := v.Wrap
	w := wrap{channel: policy.MustParseChannel(v.Channel), key: v.Key, commitment: [32]byte(v.Commitment), wrapper: identity.MustParseID(x.Wrapper),
		card: ulid.ULID(x.WrapperCard), recipient: identity.MustParseID(x.Recipient), recipCard: ulid.ULID(x.RecipientCard), role: x.Role, ciphertext: x.Ciphertext}
	equal(t, "info", w.context(), x.Info)
	private := value(hpke.MLKEM768X25519().NewPrivateKey(x.PrivateKey))(t)
	equal(t, "what the standard library unwraps", value(hpke.Open(private, hpke.HKDFSHA256(), hpke.AES256GCM(), x.Info, x.Ciphertext))(t), x.Plaintext)
	public := value(tinkhpke.NewPublicKey(x.PublicKey, 0, hpkeParameters))(t)
	key := value(tinkhpke.NewPrivateKeyFromPublicKey(secretdata.NewBytesFromData(x.PrivateKey, insecuresecretdataaccess.Token{}), public))(t)
	opened := value(w.open(&own{decrypter: value(hybrid.NewHybridDecrypt(value(handleOf(key))(t)))(t)}))(t)
	equal(t, "what the package unwraps", opened.bytes(), x.Plaintext)
}

// verifyFrame opens the frame as any other is opened, at a reader that holds the key and the card.
func (v *vector) verifyFrame(t *testing.T, w *world) {
	f, ch := v.Frame, policy.MustParseChannel(v.Channel)
	reader := w.agent("planner")
	check(t, reader.Join(w.ctx(), ch))
	k := value(secretFrom(v.K))(t)
	s := statementBy(t, reader, ch, v.Key, k)
	check(t, channelOf(t, reader, ch).hold(&chanKey{statement: s, k: k, reader: true, own: k}))
	public := []byte(f.PublicKey)
	if public == nil {
		public = reader.own.signingPublic
	}
	reader.cards.put(&card{agent: identity.MustParseID(v.Sender), id: ulid.ULID(f.Card), expires: time.Now().Add(time.Hour),
		keys: value(newPeerKeys(public, reader.own.hpkePublic))(t)})
	got := mustOpen(t, value(reader.Receiver(ch))(t), f.Bytes, wantEvent(f.Recipient))
	if len(got.Messages) != len(f.Payloads) || !got.Time.Equal(vectorTime) || got.Seq != f.Seq || got.Signed != (f.Flags&envelope.FlagSigned != 0) {
		t.Fatalf("got %+v", got)
	}
	for i, p := range f.Payloads {
		equal(t, "payload", got.Messages[i].Payload, []byte(p))
	}
}

func equal(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s is\n%x, want\n%x", what, got, want)
	}
}
