package integration_test

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// forger makes cards, key statements, wraps and frames with nothing of the packages under test but the bytes
// of a frame: every signature is by the key that the attack says, whatever the content claims. What it makes
// for somebody entitled is accepted, and every table of forgeries ends with that, so that the others are
// known to have failed for the reason given.
type forger struct {
	t       testing.TB
	svid    *x509svid.SVID // signs the card
	agent   identity.ID    // whom its cards, statements and frames claim
	card    ulid.ULID
	signing ed25519.PrivateKey
	hpke    hpke.PrivateKey
}

// newForger returns one that claims to be a certain agent, with the certificate that it has.
func newForger(t testing.TB, svid *x509svid.SVID, agent string) *forger {
	t.Helper()
	_, signing, err := ed25519.GenerateKey(rand.Reader)
	bustest.Check(t, err)
	key, err := hpke.MLKEM768X25519().GenerateKey()
	bustest.Check(t, err)
	return &forger{t: t, svid: svid, agent: identity.MustParseID(agent), card: ulid.MustNew(ulid.Now(), rand.Reader),
		signing: signing, hpke: key}
}

// certified returns a forger with a good certificate: an agent that does as it likes.
func certified(w *bustest.World, name string) *forger {
	w.T.Helper()
	svid, err := w.CA.Agent(name, time.Hour)
	bustest.Check(w.T, err)
	return newForger(w.T, svid, "spiffe://"+bustest.Domain+"/agent/"+name)
}

func b64url(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func b64std(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

type jwsHeader struct {
	Algorithm string   `json:"alg"`
	KeyID     string   `json:"kid,omitempty"`
	Type      string   `json:"typ"`
	Chain     []string `json:"x5c,omitempty"`
}

// jws signs whatever it is given.
func jws(t testing.TB, h jwsHeader, claims any, key crypto.Signer) []byte {
	t.Helper()
	h.Algorithm = "EdDSA"
	if _, ok := key.(*ecdsa.PrivateKey); ok {
		h.Algorithm = "ES256"
	}
	head, err := json.Marshal(h)
	bustest.Check(t, err)
	body, err := json.Marshal(claims)
	bustest.Check(t, err)
	input := []byte(b64url(head) + "." + b64url(body))
	var sig []byte
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		sum := sha256.Sum256(input)
		r, s, err := ecdsa.Sign(rand.Reader, k, sum[:])
		bustest.Check(t, err)
		sig = make([]byte, 64)
		r.FillBytes(sig[:32])
		s.FillBytes(sig[32:])
	case ed25519.PrivateKey:
		sig = ed25519.Sign(k, input)
	default:
		t.Fatalf("no way to sign with %T", key)
	}
	return append(input, "."+b64url(sig)...)
}

// statementHash is the hash of what is signed.
func statementHash(raw []byte) [32]byte { return sha256.Sum256(raw[:bytes.LastIndexByte(raw, '.')]) }

type cardClaims struct {
	IssuedAt int64  `json:"iat"`
	Agent    string `json:"agent"`
	Card     string `json:"card"`
	HPKE     string `json:"hpke"`
	Ed25519  string `json:"ed25519"`
	Expires  int64  `json:"exp"`
}

// cardStatement signs a card; edit, which may be nil, changes what it says before.
func (f *forger) cardStatement(edit func(*jwsHeader, *cardClaims)) []byte {
	f.t.Helper()
	h := jwsHeader{Type: "sealbus-card"}
	for _, cert := range f.svid.Certificates {
		h.Chain = append(h.Chain, b64std(cert.Raw))
	}
	c := cardClaims{IssuedAt: time.Now().Unix(), Agent: f.agent.String(), Card: f.card.String(),
		HPKE: b64url(f.hpke.PublicKey().Bytes()), Ed25519: b64url(f.signing.Public().(ed25519.PublicKey)),
		Expires: f.svid.Certificates[0].NotAfter.Unix()}
	if edit != nil {
		edit(&h, &c)
	}
	return jws(f.t, h, c, f.svid.PrivateKey)
}

// join puts a card into the store under its name, and asks for a channel's keys.
func (f *forger) join(o *owner, ch policy.Channel, card []byte) (joinKey string) {
	f.t.Helper()
	o.put(policy.BucketCards, policy.CardKey(f.agent.Name(), f.card.String()), card)
	key := policy.JoinKey(ch, f.agent.Name(), f.card.String())
	o.put(policy.BucketKeys, key, []byte(f.agent.String()))
	return key
}

type keyClaims struct {
	IssuedAt   int64  `json:"iat"`
	Channel    string `json:"channel"`
	Key        uint32 `json:"key"`
	Commitment string `json:"commitment"`
	Created    string `json:"created"`
	Creator    string `json:"creator"`
	Card       string `json:"card"`
	Revision   uint64 `json:"policy_revision"`
	Policy     string `json:"policy_hash"`
	Due        int64  `json:"due"`
}

// forgedKey is a channel key that the attacker knows.
type forgedKey struct {
	ch         policy.Channel
	id         uint32
	secret     []byte
	commitment []byte
}

func newForgedKey(t testing.TB, ch policy.Channel) *forgedKey {
	t.Helper()
	var b [4 + 32]byte
	_, err := rand.Read(b[:])
	bustest.Check(t, err)
	return forgedKeyOf(ch, binary.BigEndian.Uint32(b[:4])|1, b[4:])
}

func forgedKeyOf(ch policy.Channel, id uint32, secret []byte) *forgedKey {
	sum := sha256.New()
	sum.Write(labelled("sealbus/v1 commitment", ch.String()))
	sum.Write(binary.BigEndian.AppendUint32(nil, id))
	sum.Write(secret)
	return &forgedKey{ch: ch, id: id, secret: secret, commitment: sum.Sum(nil)}
}

func labelled(label string, list ...string) []byte {
	b := []byte(label)
	for _, p := range list {
		b = binary.BigEndian.AppendUint16(b, uint16(len(p)))
		b = append(b, p...)
	}
	return b
}

// senderKey is what a writer is given of a channel key.
func (k *forgedKey) senderKey(t testing.TB, sender string) []byte {
	t.Helper()
	out, err := hkdf.Key(sha256.New, k.secret, nil, string(labelled("sealbus/v1 sender", k.ch.String(), sender)), 32)
	bustest.Check(t, err)
	return out
}

// publish puts the statement of a key into the store, where its name says that it belongs.
func (f *forger) publish(o *owner, k *forgedKey, edit func(*keyClaims)) (storeKey string) {
	f.t.Helper()
	p, err := policy.Verify(o.get(policy.BucketPolicy, policy.PolicyKey), []identity.Fingerprint{o.w.Operator.Fingerprint()})
	bustest.Check(f.t, err)
	hash := p.Hash()
	c := keyClaims{IssuedAt: time.Now().Unix(), Channel: k.ch.String(), Key: k.id, Commitment: b64url(k.commitment),
		Created: ulid.MustNew(ulid.Now(), rand.Reader).String(), Creator: f.agent.String(), Card: f.card.String(),
		Revision: p.Revision(), Policy: hex.EncodeToString(hash[:]), Due: time.Now().Add(time.Hour).Unix()}
	if edit != nil {
		edit(&c)
	}
	raw := jws(f.t, jwsHeader{Type: "sealbus-key", KeyID: c.Card}, c, f.signing)
	key := policy.KeyStatementKey(k.ch, c.Creator[strings.LastIndexByte(c.Creator, '/')+1:], c.Key, statementHash(raw))
	o.put(policy.BucketKeys, key, raw)
	return key
}

type wrapClaims struct {
	IssuedAt      int64  `json:"iat"`
	Channel       string `json:"channel"`
	Key           uint32 `json:"key"`
	Commitment    string `json:"commitment"`
	Wrapper       string `json:"wrapper"`
	WrapperCard   string `json:"wrapper_card"`
	Recipient     string `json:"recipient"`
	RecipientCard string `json:"recipient_card"`
	Role          string `json:"role"`
	Ciphertext    string `json:"ciphertext"`
}

// victim is somebody's card as the store has it.
type victim struct {
	cardClaims
	name string
}

// victimOf reads the only card of an agent.
func victimOf(o *owner, name string) victim {
	o.w.T.Helper()
	keys := o.keys(policy.BucketCards, name+".*")
	if len(keys) != 1 {
		o.w.T.Fatalf("%s has the cards %q, want one", name, keys)
	}
	v := victim{name: name}
	claimsIn(o.w.T, o.get(policy.BucketCards, keys[0]), &v.cardClaims)
	return v
}

// claimsIn reads what a statement says.
func claimsIn(t testing.TB, raw []byte, claims any) {
	t.Helper()
	body, err := base64.RawURLEncoding.DecodeString(strings.Split(string(raw), ".")[1])
	bustest.Check(t, err)
	bustest.Check(t, json.Unmarshal(body, claims))
}

func wrapContext(t testing.TB, c *wrapClaims) []byte {
	t.Helper()
	from, err := ulid.Parse(c.WrapperCard)
	bustest.Check(t, err)
	to, err := ulid.Parse(c.RecipientCard)
	bustest.Check(t, err)
	commitment, err := base64.RawURLEncoding.DecodeString(c.Commitment)
	bustest.Check(t, err)
	return labelled("sealbus/v1 wrap", c.Channel, string(binary.BigEndian.AppendUint32(nil, c.Key)), string(commitment),
		c.Wrapper, string(from[:]), c.Recipient, string(to[:]), c.Role)
}

// wrap gives somebody a secret as if it were a channel key, and puts it where it belongs.
func (f *forger) wrap(o *owner, k *forgedKey, to victim, role string, secret []byte, edit func(*wrapClaims)) (storeKey string) {
	f.t.Helper()
	c := wrapClaims{IssuedAt: time.Now().Unix(), Channel: k.ch.String(), Key: k.id, Commitment: b64url(k.commitment),
		Wrapper: f.agent.String(), WrapperCard: f.card.String(), Recipient: to.Agent, RecipientCard: to.Card, Role: role}
	if edit != nil {
		edit(&c)
	}
	pub, err := base64.RawURLEncoding.DecodeString(to.HPKE)
	bustest.Check(f.t, err)
	recipient, err := hpke.MLKEM768X25519().NewPublicKey(pub)
	bustest.Check(f.t, err)
	sealed, err := hpke.Seal(recipient, hpke.HKDFSHA256(), hpke.AES256GCM(), wrapContext(f.t, &c), secret)
	bustest.Check(f.t, err)
	c.Ciphertext = b64url(sealed)
	raw := jws(f.t, jwsHeader{Type: "sealbus-wrap", KeyID: c.WrapperCard}, c, f.signing)
	key := policy.WrapKey(k.ch, c.Wrapper[strings.LastIndexByte(c.Wrapper, '/')+1:], to.Card, c.Key, statementHash(raw))
	o.put(policy.BucketKeys, key, raw)
	return key
}

// give wraps a key for a reader and for a writer, as an honest reader would.
func (f *forger) give(o *owner, k *forgedKey, readers, writers []victim) (storeKeys []string) {
	f.t.Helper()
	for _, v := range readers {
		storeKeys = append(storeKeys, f.wrap(o, k, v, "reader", k.secret, nil))
	}
	for _, v := range writers {
		storeKeys = append(storeKeys, f.wrap(o, k, v, "writer", k.senderKey(f.t, v.Agent), nil))
	}
	return storeKeys
}

// open takes the secret out of a wrap for this forger's card.
func (f *forger) open(raw []byte) (c wrapClaims, secret []byte) {
	f.t.Helper()
	claimsIn(f.t, raw, &c)
	sealed, err := base64.RawURLEncoding.DecodeString(c.Ciphertext)
	bustest.Check(f.t, err)
	secret, err = hpke.Open(f.hpke, hpke.HKDFSHA256(), hpke.AES256GCM(), wrapContext(f.t, &c), sealed)
	bustest.Check(f.t, err)
	return c, secret
}

func sessionCipher(t testing.TB, senderKey []byte, session ulid.ULID) cipher.AEAD {
	t.Helper()
	key, err := hkdf.Key(sha256.New, senderKey, nil, string(labelled("sealbus/v1 session", string(session[:]))), 32)
	bustest.Check(t, err)
	block, err := aes.NewCipher(key)
	bustest.Check(t, err)
	gcm, err := cipher.NewGCMWithRandomNonce(block) // the nonce goes in front
	bustest.Check(t, err)
	return gcm
}

// frame seals one event under a sender's key, in a session of its own; edit, which may be nil, changes the
// header before. A signed one carries this forger's signature.
func (f *forger) frame(k *forgedKey, senderKey []byte, subject, text string, signed bool, edit func(*envelope.Header)) []byte {
	f.t.Helper()
	h := envelope.Header{Kind: envelope.KindEvent, ID: ulid.MustNew(ulid.Now(), rand.Reader),
		Session: ulid.MustNew(ulid.Now(), rand.Reader), Seq: 1, Key: k.id, Channel: []byte(k.ch.String()),
		Sender: []byte(f.agent.String()), Card: f.card, Recipient: []byte(subject), Count: 1}
	if signed {
		h.Flags |= envelope.FlagSigned
	}
	if edit != nil {
		edit(&h)
	}
	plain, err := envelope.AppendMessage(nil, &envelope.Message{ID: h.ID, Payload: []byte(text)}, false)
	bustest.Check(f.t, err)
	head, err := envelope.AppendHeader(nil, &h)
	bustest.Check(f.t, err)
	head = head[:len(head):len(head)]
	sealed := sessionCipher(f.t, senderKey, h.Session).Seal(nil, nil, plain, envelope.AppendAssociatedData(nil, head))
	out, err := envelope.AppendCiphertext(head, sealed)
	bustest.Check(f.t, err)
	if !signed {
		return out
	}
	sig := ed25519.Sign(f.signing, envelope.AppendSignedRoot(nil, &h, 0, envelope.Leaf(head, sealed)))
	out, err = envelope.AppendSignature(out, &envelope.Signature{Sig: sig})
	bustest.Check(f.t, err)
	return out
}

// claim makes a frame name somebody else's card.
func (v victim) claim(h *envelope.Header) {
	h.Sender, h.Card = []byte(v.Agent), ulid.MustParse(v.Card)
}
