package policy

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/sealbus/sealbus/identity"
)

// The names of entries in the buckets. An author's name stands in each at a fixed place, so that NATS permissions
// keep an agent from overwriting what another wrote, and a hash or card id makes each entry's name its own.
const (
	storeJoin = "j"
	storeKey  = "k"
	storeWrap = "w"

	hashChars = 16 // hex characters of a statement's hash in a name: 8 bytes
	cardChars = 26 // a ULID
)

// CardKey returns the name of a card in [BucketCards]: "<name>.<card>". The card id is a ULID's text.
func CardKey(agent, card string) string { return agent + "." + card }

// KeyPrefix returns what the names of all of a channel's entries in [BucketKeys] start with: "topic.prices",
// "pair.a.b".
func KeyPrefix(ch Channel) string {
	if ch.kind == KindPair {
		return "pair." + ch.a + "." + ch.b
	}
	return ch.kind.String() + "." + ch.a
}

// FeedKeys returns the subject under which live updates of a channel's entries in [BucketKeys] arrive.
func FeedKeys(ch Channel) string { return feedKeysPrefix + KeyPrefix(ch) + ".>" }

// JoinKey returns the name of an agent's request to be given a channel's keys: "<prefix>.j.<name>.<card>".
func JoinKey(ch Channel, agent, card string) string {
	return KeyPrefix(ch) + "." + storeJoin + "." + agent + "." + card
}

// KeyStatementKey returns the name of a key statement: "<prefix>.k.<creator>.<id>.<hash>", the id in 8 hex digits and
// of the statement's hash the first 16.
func KeyStatementKey(ch Channel, creator string, id uint32, hash [32]byte) string {
	return fmt.Sprintf("%s.%s.%s.%08x.%x", KeyPrefix(ch), storeKey, creator, id, hash[:hashChars/2])
}

// WrapKey returns the name of a wrapped key: "<prefix>.w.<wrapper>.<recipient's card>.<id>.<hash>", with the hash of
// the wrap's own statement.
func WrapKey(ch Channel, wrapper, card string, id uint32, hash [32]byte) string {
	return fmt.Sprintf("%s.%s.%s.%s.%08x.%x", KeyPrefix(ch), storeWrap, wrapper, card, id, hash[:hashChars/2])
}

// EntryKind says what an entry of [BucketKeys] is.
type EntryKind uint8

// The kinds of entry.
const (
	EntryJoin EntryKind = iota + 1
	EntryKey
	EntryWrap
)

// Entry is the name of an entry in [BucketKeys], taken apart. It says what the entry claims to be; only the signed
// statement inside says what it is.
type Entry struct {
	Channel Channel
	Kind    EntryKind
	Author  string  // who joins, created the key, or wrapped it; NATS permissions hold the agents to it, not the broker
	Card    string  // joins: the author's card; wraps: the recipient's
	ID      uint32  // keys and wraps
	Hash    [8]byte // keys and wraps: the first bytes of the statement's hash
}

// Key returns the entry's name: what [JoinKey], [KeyStatementKey] or [WrapKey] returned.
func (e Entry) Key() string {
	var hash [32]byte
	copy(hash[:], e.Hash[:])
	switch e.Kind {
	case EntryJoin:
		return JoinKey(e.Channel, e.Author, e.Card)
	case EntryKey:
		return KeyStatementKey(e.Channel, e.Author, e.ID, hash)
	case EntryWrap:
		return WrapKey(e.Channel, e.Author, e.Card, e.ID, hash)
	}
	return ""
}

// ParseEntry reads the name of an entry in [BucketKeys]. It accepts exactly what [Entry.Key] writes. The error wraps
// [ErrStoreKey].
func ParseEntry(key string) (Entry, error) {
	e, ok := parseEntry(key)
	if !ok {
		return Entry{}, fmt.Errorf("%w: %.200q", ErrStoreKey, key)
	}
	return e, nil
}

func parseEntry(key string) (Entry, bool) {
	// The longest is a wrap on a pair: fewer than 256 bytes.
	if len(key) > 320 {
		return Entry{}, false
	}
	tokens := strings.Split(key, ".")
	ch, tokens, ok := cutChannel(tokens)
	if !ok || len(tokens) < 3 || identity.CheckName(tokens[1]) != nil {
		return Entry{}, false
	}
	e := Entry{Channel: ch, Author: tokens[1]}
	kind, tokens := tokens[0], tokens[2:]
	switch {
	case kind == storeJoin && len(tokens) == 1:
		e.Kind, e.Card = EntryJoin, tokens[0]
		return e, isCard(e.Card)
	case kind == storeKey && len(tokens) == 2:
		e.Kind = EntryKey
	case kind == storeWrap && len(tokens) == 3 && isCard(tokens[0]):
		e.Kind, e.Card, tokens = EntryWrap, tokens[0], tokens[1:]
	default:
		return Entry{}, false
	}
	return e, e.parseIDs(tokens[0], tokens[1])
}

func cutChannel(tokens []string) (Channel, []string, bool) {
	n := 2
	if tokens[0] == kindNames[KindPair] {
		n = 3
	}
	if len(tokens) < n {
		return Channel{}, nil, false
	}
	ch, err := ParseChannel(tokens[0] + "/" + strings.Join(tokens[1:n], "~"))
	return ch, tokens[n:], err == nil
}

func (e *Entry) parseIDs(id, hash string) bool {
	if len(id) != 8 || len(hash) != hashChars || strings.ToLower(id) != id || strings.ToLower(hash) != hash {
		return false
	}
	n, err := strconv.ParseUint(id, 16, 32)
	if err != nil {
		return false
	}
	e.ID = uint32(n)
	_, err = hex.Decode(e.Hash[:], []byte(hash))
	return err == nil
}

// isCard reports whether s is a ULID's one spelling: Crockford's base 32 in upper case, at most 128 bits.
func isCard(s string) bool {
	if len(s) != cardChars || s[0] > '7' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !(c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' && c != 'I' && c != 'L' && c != 'O' && c != 'U') {
			return false
		}
	}
	return true
}
