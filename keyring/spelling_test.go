package keyring

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/identity"
)

// A claim has one spelling: what says the same otherwise is refused, so that a statement has one hash.
func TestSpelling(t *testing.T) {
	alice := identity.MustParseID("spiffe://example.org/agent/alice")
	s := keyStatement{channel: prices, id: 7, created: ulid.Make(), creator: alice, card: ulid.Make(), revision: 1,
		policy: [32]byte{0xab}, due: time.Unix(100, 0)}
	key := s.claims(time.Unix(50, 0))
	if _, err := key.statement(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*keyClaims){
		"policy hash": func(c *keyClaims) { c.Policy = strings.ToUpper(c.Policy) },
		"created":     func(c *keyClaims) { c.Created = strings.ToLower(c.Created) },
		"card":        func(c *keyClaims) { c.Card = strings.ToLower(c.Card) },
		"commitment":  func(c *keyClaims) { c.Commitment = c.Commitment[:4] + "\n" + c.Commitment[4:] },
	} {
		c := key
		spoil(&c)
		if _, err := c.statement(); !errors.Is(err, errSpelling) {
			t.Errorf("key statement, %s: %v", name, err)
		}
	}
	w := wrap{channel: prices, key: 7, wrapper: alice, card: ulid.Make(), recipient: alice, recipCard: ulid.Make(),
		role: roleReader, ciphertext: []byte("sealed")}
	wrapped := w.claims(time.Unix(50, 0))
	if _, err := wrapped.wrap(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*wrapClaims){
		"wrapper card":   func(c *wrapClaims) { c.WrapperCard = strings.ToLower(c.WrapperCard) },
		"recipient card": func(c *wrapClaims) { c.RecipientCard = strings.ToLower(c.RecipientCard) },
		"ciphertext":     func(c *wrapClaims) { c.Ciphertext += "\r\n" },
	} {
		c := wrapped
		spoil(&c)
		if _, err := c.wrap(); !errors.Is(err, errSpelling) {
			t.Errorf("wrap, %s: %v", name, err)
		}
	}
}
