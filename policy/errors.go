package policy

import (
	"errors"
	"fmt"
	"strings"
)

var (
	// ErrChannel is returned when a name or a text is not that of a channel.
	ErrChannel = errors.New("policy: not a channel")

	// ErrSubject is returned when a text is not a subject to publish to or not a pattern to subscribe to.
	ErrSubject = errors.New("policy: not a subject")

	// ErrStoreKey is returned when a text is not the name of an entry in the bucket of keys.
	ErrStoreKey = errors.New("policy: not a store key")

	// ErrUnknownChannel is returned when the policy has no topic, queue or service of the name that was asked for.
	ErrUnknownChannel = errors.New("policy: unknown channel")

	// ErrStatement is returned when a signed policy is not one: malformed, of another type, with a certificate chain
	// where only an operator's key counts, or with a signature that does not fit.
	ErrStatement = errors.New("policy: not a signed policy")

	// ErrUntrustedOperator is returned when a policy is signed by a key whose fingerprint is not among the trusted.
	ErrUntrustedOperator = errors.New("policy: operator key is not trusted")

	// ErrRollback is returned when a policy is older than the one that it should follow.
	ErrRollback = errors.New("policy: older than the policy in force")

	// ErrFork is returned when two policies claim the same place: the same revision with different content, or a
	// revision that names another policy as the one before. An operator key signed both, so somebody should be told.
	ErrFork = errors.New("policy: conflicts with the policy in force")
)

// Problem is one thing wrong with a policy's text.
type Problem struct {
	Line   int    // from 1
	Column int    // from 1, in characters; 0 when the whole line is meant
	Msg    string // what is wrong and what to write instead
}

// Error returns "policy line 7: …".
func (p Problem) Error() string { return fmt.Sprintf("policy line %d: %s", p.Line, p.Msg) }

// Errors is returned when a policy's text is refused. It holds everything that was found in one reading, in the
// order of the lines, up to [MaxProblems].
type Errors struct {
	Problems []Problem
	More     int // found beyond MaxProblems
}

// Error returns one line for each problem.
func (e *Errors) Error() string {
	var b strings.Builder
	for i, p := range e.Problems {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(p.Error())
	}
	if e.More > 0 {
		fmt.Fprintf(&b, "\npolicy: and %d more", e.More)
	}
	return b.String()
}

// Unwrap returns the problems, so that [errors.As] finds a [Problem].
func (e *Errors) Unwrap() []error {
	list := make([]error, len(e.Problems))
	for i, p := range e.Problems {
		list[i] = p
	}
	return list
}
