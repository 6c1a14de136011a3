package integration_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// rogue is an agent with a genuine certificate and software of its own. It takes part in channels as the
// format has it, so that honest agents hand it what the policy gives it, and then does with the keys as it
// likes. It shares no cryptography with package keyring: what follows is written from the format, with the
// standard library.
type rogue struct {
	t      testing.TB
	w      *bustest.World
	id     identity.ID
	card   ulid.ULID
	signer ed25519.PrivateKey
	hpke   hpke.PrivateKey
	store  *nats.Conn
}

var b64 = base64.RawURLEncoding

func newRogue(t testing.TB, w *bustest.World, name string) *rogue {
	t.Helper()
	r := &rogue{t: t, w: w, card: ulid.Make(), store: w.Admin("STORE")}
	id, svid, err := identity.Self(w.Source(name))
	bustest.Check(t, err)
	r.id = id
	public, signer, err := ed25519.GenerateKey(nil)
	bustest.Check(t, err)
	r.signer = signer
	r.hpke, err = hpke.MLKEM768X25519().GenerateKey()
	bustest.Check(t, err)
	raw, err := identity.SignSVIDStatement("sealbus-card", struct {
		IssuedAt int64  `json:"iat"`
		Agent    string `json:"agent"`
		Card     string `json:"card"`
		HPKE     string `json:"hpke"`
		Ed25519  string `json:"ed25519"`
		Expires  int64  `json:"exp"`
	}{time.Now().Unix(), id.String(), r.card.String(), b64.EncodeToString(r.hpke.PublicKey().Bytes()), b64.EncodeToString(public),
		svid.Certificates[0].NotAfter.Unix()}, svid)
	bustest.Check(t, err)
	r.put(policy.BucketCards, policy.CardKey(name, r.card.String()), raw)
	return r
}

func (r *rogue) put(bucket, key string, value []byte) {
	r.t.Helper()
	_, err := r.store.RequestWithContext(r.w.Ctx(), policy.BucketSubject(bucket, key), value)
	bustest.Check(r.t, err)
}

// roguesKey is a channel key that a reader was given, or a writer's own part of one.
type roguesKey struct {
	channel string
	id      uint32
	secret  []byte // K of a reader, else K_s
	reader  bool
}

// join asks for a channel's key and waits for an honest reader to wrap it.
func (r *rogue) join(channel string) *roguesKey {
	r.t.Helper()
	ch := policy.MustParseChannel(channel)
	card := r.card.String()
	sub, err := r.store.SubscribeSync(policy.BucketSubject(policy.BucketKeys, policy.KeyPrefix(ch)+".w.*."+card+".>"))
	bustest.Check(r.t, err)
	bustest.Check(r.t, r.store.FlushWithContext(r.w.Ctx()))
	r.put(policy.BucketKeys, policy.JoinKey(ch, r.id.Name(), card), []byte(r.id.String()))
	m, err := sub.NextMsgWithContext(r.w.Ctx())
	bustest.Check(r.t, err)

	var c struct {
		Channel     string `json:"channel"`
		Key         uint32 `json:"key"`
		Commitment  string `json:"commitment"`
		Wrapper     string `json:"wrapper"`
		WrapperCard string `json:"wrapper_card"`
		Role        string `json:"role"`
		Ciphertext  string `json:"ciphertext"`
	}
	claims, err := b64.DecodeString(string(bytes.Split(m.Data, []byte("."))[1]))
	bustest.Check(r.t, err)
	bustest.Check(r.t, json.Unmarshal(claims, &c))
	commitment, err := b64.DecodeString(c.Commitment)
	bustest.Check(r.t, err)
	ciphertext, err := b64.DecodeString(c.Ciphertext)
	bustest.Check(r.t, err)
	wrapper := ulid.MustParseStrict(c.WrapperCard)
	id := binary.BigEndian.AppendUint32(nil, c.Key)
	info := parts("sealbus/v1 wrap", c.Channel, string(id), string(commitment), c.Wrapper, string(wrapper[:]), r.id.String(), string(r.card[:]), c.Role)
	secret, err := hpke.Open(r.hpke, hpke.HKDFSHA256(), hpke.AES256GCM(), info, ciphertext)
	bustest.Check(r.t, err)
	return &roguesKey{channel, c.Key, secret, c.Role == "reader"}
}

func parts(label string, list ...string) []byte {
	b := []byte(label)
	for _, p := range list {
		b = binary.BigEndian.AppendUint16(b, uint16(len(p)))
		b = append(b, p...)
	}
	return b
}

func derive(t testing.TB, secret, info []byte) []byte {
	t.Helper()
	out, err := hkdf.Key(sha256.New, secret, nil, string(info), 32)
	bustest.Check(t, err)
	return out
}

// session returns the AES-256-GCM key of a sender's session. Who holds K has everybody's.
func (k *roguesKey) session(t testing.TB, sender string, session ulid.ULID) []byte {
	t.Helper()
	own := k.secret
	if k.reader {
		own = derive(t, k.secret, parts("sealbus/v1 sender", k.channel, sender))
	}
	return derive(t, own, parts("sealbus/v1 session", string(session[:])))
}

func (k *roguesKey) aead(t testing.TB, sender string, session ulid.ULID) cipher.AEAD {
	t.Helper()
	block, err := aes.NewCipher(k.session(t, sender, session))
	bustest.Check(t, err)
	gcm, err := cipher.NewGCM(block)
	bustest.Check(t, err)
	return gcm
}

// open tries to read a captured frame.
func (k *roguesKey) open(t testing.TB, frame []byte) ([]byte, error) {
	t.Helper()
	f := parse(t, frame)
	gcm := k.aead(t, string(f.Sender), f.Session)
	n := gcm.NonceSize()
	return gcm.Open(nil, f.Ciphertext[:n], f.Ciphertext[n:], append([]byte("sealbus/v1 frame"), f.Head...))
}

// forgery is a frame that a rogue makes: first as an honest one would be, then as the test changes it.
type forgery struct {
	envelope.Header
	key     *roguesKey
	plain   []byte // nil: one message
	signers ed25519.PrivateKey
	block   *envelope.Signature // instead of one by signers
}

// forge starts a frame of the rogue's own, signed, the first of a new session.
func (r *rogue) forge(k *roguesKey, kind envelope.Kind, recipient string) *forgery {
	return &forgery{key: k, signers: r.signer, Header: envelope.Header{
		Flags: envelope.FlagSigned, Kind: kind, ID: ulid.Make(), Session: ulid.Make(), Seq: 1, Key: k.id,
		Channel: []byte(k.channel), Sender: []byte(r.id.String()), Card: r.card, Recipient: []byte(recipient), Count: 1,
	}}
}

// unsigned leaves the signature away.
func (f *forgery) unsigned() *forgery {
	f.Flags &^= envelope.FlagSigned
	return f
}

// at moves the frame in time.
func (f *forgery) at(t testing.TB, when time.Time) *forgery {
	t.Helper()
	bustest.Check(t, f.ID.SetTime(ulid.Timestamp(when)))
	return f
}

func (f *forgery) frame(t testing.TB, payload string) []byte {
	t.Helper()
	if f.plain == nil {
		var err error
		f.plain, err = envelope.AppendMessage(nil, &envelope.Message{ID: f.ID, Payload: []byte(payload)}, false)
		bustest.Check(t, err)
	}
	head, err := envelope.AppendHeader(nil, &f.Header)
	bustest.Check(t, err)
	gcm := f.key.aead(t, string(f.Sender), f.Session)
	nonce := make([]byte, gcm.NonceSize())
	_, _ = rand.Read(nonce)
	ciphertext := gcm.Seal(nonce, nonce, f.plain, append([]byte("sealbus/v1 frame"), head...))
	out, err := envelope.AppendCiphertext(head, ciphertext)
	bustest.Check(t, err)
	if !f.Signed() {
		return out
	}
	g := f.block
	if g == nil {
		g = &envelope.Signature{Sig: ed25519.Sign(f.signers, envelope.AppendSignedRoot(nil, &f.Header, 0, envelope.Leaf(head, ciphertext)))}
	}
	out, err = envelope.AppendSignature(out, g)
	bustest.Check(t, err)
	return out
}
