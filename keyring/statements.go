package keyring

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/policy"
)

// keyClaims is a key statement: that a channel key exists, never the key. Its creator's card key signs it.
type keyClaims struct {
	IssuedAt   int64  `json:"iat"`
	Channel    string `json:"channel"`
	Key        uint32 `json:"key"`
	Commitment string `json:"commitment"` // 32 bytes, base64url
	Created    string `json:"created"`    // ULID
	Creator    string `json:"creator"`    // SPIFFE ID
	Card       string `json:"card"`
	Revision   uint64 `json:"policy_revision"`
	Policy     string `json:"policy_hash"` // hex
	Due        int64  `json:"due"`         // Unix seconds when it is due for rotation
}

// keyStatement is a verified one.
type keyStatement struct {
	channel    policy.Channel
	id         uint32
	commitment [32]byte
	created    ulid.ULID
	creator    identity.ID
	card       ulid.ULID
	revision   uint64
	policy     [32]byte
	due        time.Time
	hash       [32]byte
	raw        []byte

	lapsed bool // its creator's card had expired when this was verified: believed for what was kept, never for live traffic
	asked  bool // its key has been asked for; only the channel's own goroutine touches this
}

func (s *keyStatement) claims(now time.Time) keyClaims {
	return keyClaims{
		IssuedAt: now.Unix(), Channel: s.channel.String(), Key: s.id,
		Commitment: b64.EncodeToString(s.commitment[:]), Created: s.created.String(),
		Creator: s.creator.String(), Card: s.card.String(),
		Revision: s.revision, Policy: hex.EncodeToString(s.policy[:]), Due: s.due.Unix(),
	}
}

func (c *keyClaims) statement() (*keyStatement, error) {
	s := &keyStatement{id: c.Key, revision: c.Revision, due: time.Unix(c.Due, 0)}
	var errs [6]error
	s.channel, errs[0] = policy.ParseChannel(c.Channel)
	errs[1] = decode32(&s.commitment, b64.DecodeString, c.Commitment)
	s.created, errs[2] = ulid.ParseStrict(c.Created)
	s.creator, errs[3] = identity.ParseID(c.Creator)
	s.card, errs[4] = ulid.ParseStrict(c.Card)
	errs[5] = decode32(&s.policy, hex.DecodeString, c.Policy)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	if s.id == 0 || !s.creator.IsAgent() {
		return nil, errors.New("keyring: key statement without an id or by no agent")
	}
	if s.claims(time.Unix(c.IssuedAt, 0)) != *c {
		return nil, errSpelling
	}
	return s, nil
}

// isAt checks that a statement was found under its own name among those of a channel.
func (s *keyStatement) isAt(e policy.Entry, ch policy.Channel, u *identity.Unverified) error {
	if hash := u.Hash(); e.Kind != policy.EntryKey || e.Channel != ch || s.channel != ch || s.id != e.ID ||
		s.creator.Name() != e.Author || [8]byte(hash[:8]) != e.Hash {
		return errors.New("keyring: key statement under a name that is not its own")
	}
	return nil
}

// madeAt returns when the key was made, as its creator says.
func (s *keyStatement) madeAt() time.Time { return ulid.Time(s.created.Time()) }

// madeBefore reports whether the key was made before a card expired.
func (s *keyStatement) madeBefore(c *card) bool { return s.madeAt().Before(c.expires) }

func errAfterCard(s *keyStatement) error {
	return fmt.Errorf("keyring: key made by %s after its card had expired: %w", s.creator.Name(), identity.ErrExpired)
}

// errSpelling is for values that say the same in another way: in upper case, with a line end inside.
var errSpelling = errors.New("keyring: a claim is not spelled as this format has it")

func decode32(dst *[32]byte, decode func(string) ([]byte, error), text string) error {
	b, err := decode(text)
	if err != nil {
		return err
	}
	if copy(dst[:], b) != len(dst) || len(b) != len(dst) {
		return fmt.Errorf("keyring: %d bytes, want %d", len(b), len(dst))
	}
	return nil
}

// claimedKey reads a key statement before it is verified, to learn whose card to fetch.
func claimedKey(raw []byte) (*identity.Unverified, *keyStatement, error) {
	u, err := identity.ParseStatement(raw, typeKey)
	if err != nil {
		return nil, nil, err
	}
	var c keyClaims
	if err := u.UnverifiedClaims(&c); err != nil {
		return nil, nil, err
	}
	s, err := c.statement()
	return u, s, err
}

// verifyKey believes a key statement under its creator's card.
func verifyKey(u *identity.Unverified, creator *card, raw []byte) (*keyStatement, error) {
	var c keyClaims
	st, err := u.Verify(creator.keys.signingPublic, &c)
	if err != nil {
		return nil, err
	}
	s, err := c.statement()
	if err != nil {
		return nil, err
	}
	if s.creator != creator.agent || s.card != creator.id || u.KeyID() != creator.id.String() {
		return nil, errors.New("keyring: key statement signed by another card than it names")
	}
	s.hash, s.raw = st.Hash, raw
	return s, nil
}

// Roles of a wrap's recipient.
const (
	roleReader = "reader" // is given K
	roleWriter = "writer" // is given its own K_s
)

// wrapClaims is a channel key for one card, signed by the card key of whoever wrapped it.
type wrapClaims struct {
	IssuedAt      int64  `json:"iat"`
	Channel       string `json:"channel"`
	Key           uint32 `json:"key"`
	Commitment    string `json:"commitment"`
	Wrapper       string `json:"wrapper"` // SPIFFE ID
	WrapperCard   string `json:"wrapper_card"`
	Recipient     string `json:"recipient"` // SPIFFE ID
	RecipientCard string `json:"recipient_card"`
	Role          string `json:"role"`
	Ciphertext    string `json:"ciphertext"` // HPKE, base64url
}

// wrap is a wrap before its ciphertext is opened.
type wrap struct {
	channel    policy.Channel
	key        uint32
	commitment [32]byte
	wrapper    identity.ID
	card       ulid.ULID
	recipient  identity.ID
	recipCard  ulid.ULID
	role       string
	ciphertext []byte
}

func (c *wrapClaims) wrap() (*wrap, error) {
	w := &wrap{key: c.Key, role: c.Role}
	var errs [7]error
	w.channel, errs[0] = policy.ParseChannel(c.Channel)
	errs[1] = decode32(&w.commitment, b64.DecodeString, c.Commitment)
	w.wrapper, errs[2] = identity.ParseID(c.Wrapper)
	w.card, errs[3] = ulid.ParseStrict(c.WrapperCard)
	w.recipient, errs[4] = identity.ParseID(c.Recipient)
	w.recipCard, errs[5] = ulid.ParseStrict(c.RecipientCard)
	w.ciphertext, errs[6] = b64.DecodeString(c.Ciphertext)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	if w.role != roleReader && w.role != roleWriter {
		return nil, errors.New("keyring: wrap with an unknown role")
	}
	if w.claims(time.Unix(c.IssuedAt, 0)) != *c {
		return nil, errSpelling
	}
	return w, nil
}

func (w *wrap) claims(now time.Time) wrapClaims {
	return wrapClaims{
		IssuedAt: now.Unix(), Channel: w.channel.String(), Key: w.key,
		Commitment: b64.EncodeToString(w.commitment[:]),
		Wrapper:    w.wrapper.String(), WrapperCard: w.card.String(),
		Recipient: w.recipient.String(), RecipientCard: w.recipCard.String(),
		Role: w.role, Ciphertext: b64.EncodeToString(w.ciphertext),
	}
}

// context is HPKE's info: everything that the wrap is about, so that its ciphertext fits nowhere else.
func (w *wrap) context() []byte {
	var id [4]byte
	binary.BigEndian.PutUint32(id[:], w.key)
	return appendParts([]byte(labelWrap), w.channel.String(), string(id[:]), string(w.commitment[:]),
		w.wrapper.String(), string(w.card[:]), w.recipient.String(), string(w.recipCard[:]), w.role)
}

// sealWrap encrypts k, a K or a K_s as the role says, to a card and signs the statement.
func sealWrap(o *own, self identity.ID, st *keyStatement, to *card, role string, k secret, now time.Time) (raw []byte, hash [32]byte, err error) {
	w := wrap{channel: st.channel, key: st.id, commitment: st.commitment, wrapper: self, card: o.card,
		recipient: to.agent, recipCard: to.id, role: role}
	if w.ciphertext, err = to.keys.encrypter.Encrypt(k.bytes(), w.context()); err != nil {
		return nil, hash, err
	}
	raw, err = identity.SignStatement(typeWrap, w.claims(now), o.card.String(), statementSigner{o})
	if err != nil {
		return nil, hash, err
	}
	u, err := identity.ParseStatement(raw, typeWrap)
	if err != nil {
		return nil, hash, err
	}
	return raw, u.Hash(), nil
}

// claimedWrap reads a wrap before it is verified, to learn whose card to fetch.
func claimedWrap(raw []byte) (*identity.Unverified, *wrap, error) {
	u, err := identity.ParseStatement(raw, typeWrap)
	if err != nil {
		return nil, nil, err
	}
	var c wrapClaims
	if err := u.UnverifiedClaims(&c); err != nil {
		return nil, nil, err
	}
	w, err := c.wrap()
	return u, w, err
}

// verifyWrap believes that a wrap was made by the card's holder. Whether that holder may hand keys
// out is the channel's to judge.
func verifyWrap(u *identity.Unverified, wrapper *card) error {
	var c wrapClaims
	if _, err := u.Verify(wrapper.keys.signingPublic, &c); err != nil {
		return err
	}
	w, err := c.wrap()
	if err != nil {
		return err
	}
	if w.wrapper != wrapper.agent || w.card != wrapper.id || u.KeyID() != wrapper.id.String() {
		return errors.New("keyring: wrap signed by another card than it names")
	}
	return nil
}

// open decrypts the wrap with this instance's own keyset.
func (w *wrap) open(o *own) (secret, error) {
	plain, err := o.decrypter.Decrypt(w.ciphertext, w.context())
	if err != nil {
		return secret{}, errors.New("keyring: wrap does not open")
	}
	return secretFrom(plain)
}
