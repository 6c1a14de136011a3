package agentbus

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
)

// Header keys that have a meaning here. All headers travel inside the seal.
const (
	headerContentType = "content-type"
	headerOverloaded  = "sealbus-overloaded"
	headerTask        = "sealbus-task"  // the terms of a task
	headerRecur       = "sealbus-recur" // what makes a task the template of a recurring one
	headerDead        = "sealbus-dead"  // why a task is dead
	headerDeadText    = "sealbus-dead-text"
	headerProgress    = "sealbus-progress" // which report of a task's progress it is
	headerPresence    = "sealbus-presence" // a worker's sign of life
	headerAttempt     = "sealbus-attempt"  // the number of an attempt that has failed
	headerLetter      = "sealbus-letter"   // likewise, in a dead letter: which must not pass for a result

	reservedPrefix = "sealbus-"
)

// Message is a message that passed every check: its sender is who it says, it was meant for this
// receiver, and this receiver has not been given it before.
type Message struct {
	ID      ulid.ULID
	Subject string      // "prices.eu.de"; of a request or reply the agent's or service's name
	Sender  identity.ID // proven by the signature, on a pair by the seal; on an unsigned topic any of its readers could have said it
	Time    time.Time   // when it was sealed, by the sender's clock, in milliseconds
	Signed  bool        // there is a signature that a third party could be shown
	Payload []byte      // the receiver's own; in one piece of memory with the others of its frame, up to 128 KiB

	Sequence uint64 // of a message that was read back: its place in the stream, which messages sealed together share; else 0
	Replayed bool   // it was read back, by Replay or ReplayQueue: what it asks for may have been done long ago

	headers []envelope.Pair
}

// ContentType returns the media type that the sender gave, "" if none.
func (m *Message) ContentType() string { return m.Header(headerContentType) }

// Header returns a header's value, "" if it is not there. Keys are as the sender wrote them.
func (m *Message) Header(key string) string {
	for _, h := range m.headers {
		if string(h.Key) == key {
			return string(h.Value)
		}
	}
	return ""
}

// Headers returns a copy of all headers.
func (m *Message) Headers() map[string]string {
	all := make(map[string]string, len(m.headers))
	for _, h := range m.headers {
		all[string(h.Key)] = string(h.Value)
	}
	return all
}

// newMessages makes what a handler is given of some messages of a frame.
func newMessages(subject string, o *keyring.Opened, some []envelope.Message) []Message {
	block := make([]Message, len(some))
	for i := range some {
		m := &some[i]
		// Without its capacity, so that appending to one payload does not write into the next message of the frame.
		block[i] = Message{ID: m.ID, Subject: subject, Sender: o.Sender, Time: o.Time, Signed: o.Signed,
			Payload: slices.Clip(m.Payload), headers: m.Headers}
		m.Headers = nil // the handler's now
	}
	return block
}

// newMessage is newMessages for a frame that is one message.
func newMessage(subject string, o *keyring.Opened) *Message {
	return &newMessages(subject, o, o.Messages[:1])[0]
}

// String describes the message without its content.
func (m *Message) String() string {
	return fmt.Sprintf("message %s from %s on %s, %d bytes", m.ID, m.Sender.Name(), m.Subject, len(m.Payload))
}

// LogValue keeps the content out of logs.
func (m *Message) LogValue() slog.Value { return slog.StringValue(m.String()) }

// size is what the message counts for while it waits for a handler, in bytes.
func (m *Message) size() int { return len(m.Payload) + messageOverhead }

func sizeOf(block []Message) (messages, size int) {
	for i := range block {
		size += block[i].size()
	}
	return len(block), size
}

const messageOverhead = 256

// MessageOption is an option of one message: of a Publish, a Request or RequestService. All but ExpiresIn are options of
// a task too.
type MessageOption interface {
	EnqueueOption
	applyMessage(*outgoing) error
}

// outgoing is a message being made.
type outgoing struct {
	headers []envelope.Pair
	expires time.Time
}

type messageOption func(*outgoing) error

func (f messageOption) applyMessage(o *outgoing) error { return f(o) }

// ContentType says what the payload is, a media type such as "application/json". It travels sealed.
func ContentType(mediaType string) MessageOption {
	return messageOption(func(o *outgoing) error { return o.set(headerContentType, mediaType) })
}

// Header adds a header: a key of visible ASCII and any value, 64 headers and 8 KiB in all at most. It
// travels sealed. Keys that begin with "sealbus-" are reserved.
func Header(key, value string) MessageOption {
	return messageOption(func(o *outgoing) error {
		if strings.HasPrefix(key, reservedPrefix) {
			return fmt.Errorf("agentbus: header %q: keys that begin with %q are reserved", key, reservedPrefix)
		}
		return o.set(key, value)
	})
}

// ExpiresIn has receivers refuse the message when it is older than d. The channel's own limit, max_age in
// the policy, holds besides.
func ExpiresIn(d time.Duration) MessageOption {
	return messageOption(func(o *outgoing) error {
		if d <= 0 {
			return fmt.Errorf("agentbus: ExpiresIn(%v): the message would be expired already", d)
		}
		if !o.expires.IsZero() {
			return errors.New("agentbus: ExpiresIn is given twice")
		}
		o.expires = time.Now().Add(d)
		return nil
	})
}

func (o *outgoing) set(key, value string) error {
	for _, h := range o.headers {
		if string(h.Key) == key {
			return fmt.Errorf("agentbus: header %q is given twice", key)
		}
	}
	o.headers = append(o.headers, envelope.Pair{Key: []byte(key), Value: []byte(value)})
	return nil
}

// prepare checks all of a message that can be checked at the call.
func prepare(payload []byte, options []MessageOption) (outgoing, error) {
	if len(options) == 0 { // and nothing is allocated
		return outgoing{}, checkContent(payload, nil)
	}
	var o outgoing
	for _, option := range options {
		if err := option.applyMessage(&o); err != nil {
			return outgoing{}, err
		}
	}
	return o, checkContent(payload, o.headers)
}

// checkContent sorts headers and checks what a message is to hold.
func checkContent(payload []byte, headers []envelope.Pair) error {
	if len(payload) > MaxPayload {
		return fmt.Errorf("%w: payload of %d bytes; the limit is %d: send it in parts, or send where it can be fetched",
			ErrTooLarge, len(payload), MaxPayload)
	}
	if len(headers) == 0 {
		return nil
	}
	envelope.SortHeaders(headers)
	if _, err := envelope.AppendMessage(nil, &envelope.Message{ID: ulid.ULID{1}, Headers: headers}, false); err != nil {
		return fmt.Errorf("agentbus: headers: %w", err)
	}
	return nil
}
