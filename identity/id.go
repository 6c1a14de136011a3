package identity

import (
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	agentPath  = "/agent/"
	brokerPath = "/broker/"
)

// ID is who somebody is: an agent, spiffe://<trust domain>/agent/<name>, or a
// broker node, spiffe://<trust domain>/broker/<node>. IDs are made by the
// functions of this package only, are valid when they are not zero, and can be
// compared with == and used as map keys.
type ID struct {
	id spiffeid.ID
}

// ParseID parses the text form of an ID. Only the canonical form is accepted,
// so ParseID(s).String() is s. The error matches [ErrInvalidID].
func ParseID(s string) (ID, error) {
	if len(s) > MaxID {
		return ID{}, fmt.Errorf("%w SPIFFE ID: %d bytes, at most %d fit; shorten the trust domain or the name",
			ErrInvalidID, len(s), MaxID)
	}
	id, err := spiffeid.FromString(s)
	if err != nil {
		return ID{}, fmt.Errorf("%w SPIFFE ID %q: %w; write spiffe://<trust domain>/agent/<name>", ErrInvalidID, s, err)
	}
	return FromSPIFFEID(id)
}

// MustParseID is [ParseID] for literals. It panics when s is not an ID.
func MustParseID(s string) ID {
	id, err := ParseID(s)
	if err != nil {
		panic(err)
	}
	return id
}

// FromSPIFFEID converts a SPIFFE ID from go-spiffe. The error matches
// [ErrInvalidID].
func FromSPIFFEID(id spiffeid.ID) (ID, error) {
	name, ok := strings.CutPrefix(id.Path(), agentPath)
	if !ok {
		name, ok = strings.CutPrefix(id.Path(), brokerPath)
	}
	if !ok {
		return ID{}, fmt.Errorf("%w SPIFFE ID %q: neither an agent's nor a broker's; "+
			"write spiffe://<trust domain>/agent/<name> or spiffe://<trust domain>/broker/<node>", ErrInvalidID, id.String())
	}
	if err := CheckName(name); err != nil {
		return ID{}, fmt.Errorf("SPIFFE ID %q: %w", id.String(), err)
	}
	if err := checkTrustDomain(id.TrustDomain().Name()); err != nil {
		return ID{}, fmt.Errorf("SPIFFE ID %q: %w", id.String(), err)
	}
	if len(id.String()) > MaxID {
		return ID{}, fmt.Errorf("%w SPIFFE ID %q: %d bytes, at most %d fit; shorten the trust domain or the name",
			ErrInvalidID, id.String(), len(id.String()), MaxID)
	}
	return ID{id}, nil
}

// AgentID is the ID of the agent called name in td. The error matches
// [ErrInvalidID].
func AgentID(td spiffeid.TrustDomain, name string) (ID, error) {
	return fromParts(td, agentPath, name)
}

// BrokerID is the ID of the broker node called node in td. The error matches
// [ErrInvalidID].
func BrokerID(td spiffeid.TrustDomain, node string) (ID, error) {
	return fromParts(td, brokerPath, node)
}

func fromParts(td spiffeid.TrustDomain, path, name string) (ID, error) {
	// Checked before they are joined: "x/agent/y" as a name must not become
	// a path of another shape.
	if err := CheckName(name); err != nil {
		return ID{}, err
	}
	if td.IsZero() {
		return ID{}, fmt.Errorf("%w trust domain: it is empty; write one such as example.org", ErrInvalidID)
	}
	id, err := spiffeid.FromPath(td, path+name)
	if err != nil {
		return ID{}, fmt.Errorf("%w SPIFFE ID: %w", ErrInvalidID, err)
	}
	return FromSPIFFEID(id)
}

// String is the SPIFFE ID as text, or "" for the zero ID.
func (id ID) String() string { return id.id.String() }

// Name is the agent's or node's name, or "" for the zero ID.
func (id ID) Name() string {
	path := id.id.Path()
	return path[strings.LastIndexByte(path, '/')+1:]
}

// TrustDomain is the trust domain that the ID belongs to.
func (id ID) TrustDomain() spiffeid.TrustDomain { return id.id.TrustDomain() }

// SPIFFEID is the ID as a value of go-spiffe.
func (id ID) SPIFFEID() spiffeid.ID { return id.id }

// IsAgent tells whether the ID is an agent's.
func (id ID) IsAgent() bool { return strings.HasPrefix(id.id.Path(), agentPath) }

// IsBroker tells whether the ID is a broker node's.
func (id ID) IsBroker() bool { return strings.HasPrefix(id.id.Path(), brokerPath) }

// IsZero tells whether the ID is the zero value, which is nobody's.
func (id ID) IsZero() bool { return id.id.IsZero() }

// MarshalText returns the text form. The zero ID has none and is an error, so
// that nobody's name is never written down by accident.
func (id ID) MarshalText() ([]byte, error) {
	if id.IsZero() {
		return nil, fmt.Errorf("%w SPIFFE ID: the zero ID has no text form", ErrInvalidID)
	}
	return []byte(id.String()), nil
}

// UnmarshalText is [ParseID].
func (id *ID) UnmarshalText(text []byte) error {
	parsed, err := ParseID(string(text))
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}

// CheckName checks the name of an agent or a broker node: 1 to 63 characters
// of a-z, 0-9, '-' and '_', the first one a letter or a digit. Such a name is
// one token of a NATS subject and one segment of a SPIFFE ID. The error
// matches [ErrInvalidID].
func CheckName(s string) error {
	const rule = "write 1 to 63 characters of a-z, 0-9, '-' and '_', beginning with a letter or a digit"
	if s == "" {
		return fmt.Errorf("%w name: it is empty; %s", ErrInvalidID, rule)
	}
	if len(s) > MaxName {
		return fmt.Errorf("%w name: %d bytes; %s", ErrInvalidID, len(s), rule)
	}
	for i := range len(s) {
		c := s[i]
		alnum := 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
		if !alnum && (i == 0 || c != '-' && c != '_') {
			return fmt.Errorf("%w name %q: %q at position %d is not allowed; %s", ErrInvalidID, s, c, i+1, rule)
		}
	}
	return nil
}

// ParseTrustDomain parses the bare name of a trust domain, such as
// "example.org". The error matches [ErrInvalidID].
func ParseTrustDomain(s string) (spiffeid.TrustDomain, error) {
	if err := checkTrustDomain(s); err != nil {
		return spiffeid.TrustDomain{}, err
	}
	td, err := spiffeid.TrustDomainFromString(s)
	if err != nil {
		return spiffeid.TrustDomain{}, fmt.Errorf("%w trust domain %q: %w", ErrInvalidID, s, err)
	}
	return td, nil
}

// checkTrustDomain spells the characters out, because go-spiffe accepts more
// of them under a build tag that any program may set.
func checkTrustDomain(s string) error {
	const rule = "write a name such as example.org, of a-z, 0-9, '.', '-' and '_', without spiffe://"
	if s == "" {
		return fmt.Errorf("%w trust domain: it is empty; %s", ErrInvalidID, rule)
	}
	if len(s) > MaxTrustDomain {
		return fmt.Errorf("%w trust domain: %d bytes, at most %d are allowed", ErrInvalidID, len(s), MaxTrustDomain)
	}
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '.' || c == '-' || c == '_') {
			return fmt.Errorf("%w trust domain %q: %q at position %d is not allowed; %s", ErrInvalidID, s, c, i+1, rule)
		}
	}
	return nil
}
