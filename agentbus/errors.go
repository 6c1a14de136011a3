package agentbus

import (
	"errors"
	"fmt"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/keyring"
)

var (
	// ErrClosed is returned by every call on a Bus after Close.
	ErrClosed = errors.New("agentbus: closed")

	// ErrTooLarge is returned for a payload or headers over the limits.
	ErrTooLarge = errors.New("agentbus: message too large")

	// ErrNoResponder is returned when the broker says that nobody listens where a request went. Only the
	// broker says so: it is no proof that the agent is gone.
	ErrNoResponder = errors.New("agentbus: nobody answers there")

	// ErrNotEntitled is returned when the policy does not let this agent do what it asked for.
	ErrNotEntitled = keyring.ErrNotEntitled

	// ErrOverloaded is inside the RemoteError of a request that found the responder's buffer full.
	ErrOverloaded = errors.New("agentbus: the responder is overloaded")
)

// RemoteError is the answer to a request that the responder's handler did not carry out. It is as
// authentic as a reply.
type RemoteError struct {
	Agent string // the responder
	Text  string // of the handler's error, cut at 1 KiB

	overloaded bool
}

func (e *RemoteError) Error() string {
	return fmt.Sprintf("agentbus: %s answered: %s", e.Agent, e.Text)
}

// Is makes the error of a full buffer an ErrOverloaded.
func (e *RemoteError) Is(target error) bool { return e.overloaded && target == ErrOverloaded }

// Rejection tells of a frame that was not accepted. Everything but Subject and Reason is what the frame
// claims; nothing of it is proven, and nothing of its content is in here.
type Rejection struct {
	Subject string // on NATS
	Reason  keyring.Reason
	Channel string
	Sender  string
	ID      ulid.ULID
	Err     error
}

func rejection(subject string, err error) Rejection {
	r := Rejection{Subject: subject, Reason: keyring.Malformed, Err: err}
	var k *keyring.Rejection
	if errors.As(err, &k) {
		r.Reason, r.Channel, r.Sender, r.ID = k.Reason, k.Channel, k.Sender, k.ID
	}
	return r
}
