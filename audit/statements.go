package audit

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/mod/sumdb/note"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// StatementKind is what a statement is: see SPEC section 3.
type StatementKind uint8

// The statements that a log needs to be verified. There are no wraps among them: nothing here opens a key.
const (
	StatementPolicy StatementKind = iota + 1
	StatementCard
	StatementKey
	statementCount
)

var statementNames = [statementCount]string{StatementPolicy: "policy", StatementCard: "card", StatementKey: "key"}

// String returns "policy", "card" or "key".
func (k StatementKind) String() string {
	if k == 0 || k >= statementCount {
		return fmt.Sprintf("StatementKind(%d)", uint8(k))
	}
	return statementNames[k]
}

// Statement is a signed statement as it stands in the store.
type Statement struct {
	Kind StatementKind
	Raw  []byte
}

func (s *Statement) check() error {
	switch {
	case s.Kind == 0 || s.Kind >= statementCount:
		return malformed("a statement of kind %d", s.Kind)
	case len(s.Raw) == 0 || len(s.Raw) > MaxStatement:
		return malformed("a statement of %d bytes, 1 to %d are allowed", len(s.Raw), MaxStatement)
	}
	return nil
}

// Trust is what a verifier goes by, from elsewhere: the trust domain, its authorities, also those of the past, and the
// fingerprints of its operators.
type Trust struct {
	Domain    spiffeid.TrustDomain
	Anchors   x509bundle.Source
	Operators []identity.Fingerprint
}

// Statements are what a verifier believes. They may come from anybody: each is verified, under the Trust. Memory grows with
// their number. It is safe for concurrent use.
type Statements struct {
	witness *keyring.Witness

	mu       sync.Mutex
	policies map[[32]byte]*policy.Policy // believed, by their hashes
	cards    map[identity.ID][]ulid.ULID
	hashes   map[[32]byte]bool // of cards and keys that were believed
}

// NewStatements returns a set without any.
func NewStatements(t Trust) *Statements {
	return &Statements{
		witness:  keyring.NewWitness(t.Domain, t.Anchors, t.Operators...),
		policies: make(map[[32]byte]*policy.Policy), cards: make(map[identity.ID][]ulid.ULID), hashes: make(map[[32]byte]bool),
	}
}

// Add takes a statement in; one that was added before costs little. A policy may come before the one that names its operator, a
// key only after the card of its creator. The error says why a statement is not believed; the others are as before.
func (s *Statements) Add(st Statement) error {
	if err := st.check(); err != nil {
		return err
	}
	switch st.Kind {
	case StatementPolicy:
		_, err := s.witness.AddPolicy(st.Raw)
		return err
	case StatementCard:
		info, err := s.witness.AddCard(st.Raw)
		if err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.hashes[info.Hash] = true
		if !slices.Contains(s.cards[info.Agent], info.Card) {
			s.cards[info.Agent] = append(s.cards[info.Agent], info.Card)
		}
		return nil
	}
	info, err := s.witness.AddKey(st.Raw)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hashes[info.Hash] = true
	return nil
}

// AddAll takes in all statements of a log or an export, and returns how many are not believed, and the first reason.
func (s *Statements) AddAll(list iter.Seq2[Statement, error]) (refused int, why, err error) {
	for st, err := range list {
		if err != nil {
			return refused, why, err
		}
		if wrong := s.Add(st); wrong != nil && !errors.Is(wrong, policy.ErrUntrustedOperator) {
			if refused++; why == nil {
				why = wrong
			}
		}
	}
	return refused, why, nil
}

// Witness returns who judges by these statements. What is added to it directly counts too, but for the cards of auditors.
func (s *Statements) Witness() *keyring.Witness { return s.witness }

// Attest says what attesting a message of a stream comes to, under the policy of a hash and as of when it was logged: 0, or the
// reason for an entry's Outcome. After NoCard and Stale it may be another when the sender's card has been added, as it
// is now. The error says that the policy is not here, or not believed.
func (s *Statements) Attest(stream string, m *Stored, policy [32]byte, logged time.Time) (keyring.Reason, error) {
	h := HeaderOf(m.Data)
	e, ok := Expect(stream, m.Subject, &h)
	switch {
	case h.IsZero():
		return keyring.Malformed, nil
	case !ok:
		return keyring.Misdirected, nil
	}
	p := s.policy(policy)
	if p == nil {
		return 0, errors.New("audit: the policy to attest by is not among the statements, or not believed")
	}
	_, err := s.witness.Attest(m.Data, e.Channel, p, logged, &e.Want)
	if reason := keyring.ReasonOf(err); reason != 0 {
		return reason, nil
	}
	return 0, err
}

// has reports whether a card or key statement of this hash is believed.
func (s *Statements) has(hash [32]byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hashes[hash]
}

// policy returns the policy of a hash, nil if it is not here or not believed.
func (s *Statements) policy(hash [32]byte) *policy.Policy {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.policies[hash]; p != nil {
		return p
	}
	clear(s.policies) // what is believed may have become more, or less
	for _, p := range s.witness.Policies() {
		s.policies[p.Hash()] = p
	}
	return s.policies[hash]
}

// Verifiers returns the verifiers of the checkpoints of one log: the keys of its auditor's cards.
func (s *Statements) Verifiers(o Origin) note.Verifiers { return &verifiers{statements: s, origin: o} }

// verifiers finds the cards of one log's auditor by the hashes of their keys.
type verifiers struct {
	statements *Statements
	origin     Origin

	mu    sync.Mutex
	known map[uint32]auditorKey
}

type auditorKey struct {
	note.Verifier
	card ulid.ULID
}

// Verifier implements note.Verifiers.
func (v *verifiers) Verifier(name string, hash uint32) (note.Verifier, error) {
	unknown := &note.UnknownVerifierError{Name: name, KeyHash: hash}
	if name != v.origin.String() {
		return nil, unknown
	}
	k, ok := v.key(hash)
	if !ok {
		return nil, unknown
	}
	return k.Verifier, nil
}

func (v *verifiers) key(hash uint32) (auditorKey, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if k, ok := v.known[hash]; ok {
		return k, true
	}
	v.known = make(map[uint32]auditorKey)
	v.statements.mu.Lock()
	cards := slices.Clone(v.statements.cards[v.origin.Auditor])
	v.statements.mu.Unlock()
	for _, card := range cards {
		if k, err := v.statements.witness.NoteVerifier(v.origin.String(), v.origin.Auditor, card); err == nil {
			v.known[k.KeyHash()] = auditorKey{k, card}
		}
	}
	k, ok := v.known[hash]
	return k, ok
}
