package agentbus

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/keyring"
)

var (
	// ErrClosed is returned by every call on a Bus after Close.
	ErrClosed = errors.New("agentbus: closed")

	// ErrDisconnected is returned by Publish and Request when the connection is away and the 8 MiB that may wait
	// for it are full.
	ErrDisconnected = errors.New("agentbus: not connected")

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
	Text  string // of the handler's error: valid UTF-8, cut at 1 KiB

	overloaded bool
}

func newRemoteError(m *Message) *RemoteError {
	return &RemoteError{Agent: m.Sender.Name(), Text: cutText(string(m.Payload)), overloaded: m.Header(headerOverloaded) != ""}
}

// cutText makes a text of at most maxErrorText bytes and valid UTF-8.
func cutText(s string) string {
	if len(s) > maxErrorText {
		s = s[:maxErrorText]
		for i := 1; i < utf8.UTFMax; i++ { // no half of a rune
			if r, n := utf8.DecodeLastRuneInString(s); r != utf8.RuneError || n != 1 {
				break
			}
			s = s[:len(s)-1]
		}
	}
	return strings.ToValidUTF8(s, "?")
}

func (e *RemoteError) Error() string {
	return fmt.Sprintf("agentbus: %s answered: %q", e.Agent, e.Text)
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
