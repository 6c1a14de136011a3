package audit

import (
	"strings"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// uniquePrefix is what the subject of a unique task has before its recipient (SPEC section 10.4).
const uniquePrefix = "sb.unique."

// Expectation is what a message under a subject of an audited stream has to be.
type Expectation struct {
	Channel policy.Channel
	Want    keyring.Want
	Counted bool // its session is counted: notes open and close it, and it has no holes
	Note    bool // it is a session note
	Copy    bool // the stream has or had the same bytes under another subject
	Late    bool // it may have been sealed long before it was stored
}

// Expect says what a message that a stream holds under a subject has to be, for Witness.Attest and Ring.Attest: h is the
// message's header, which decides where several things are possible. ok is false for a subject that the stream does not have,
// and for a header that cannot be there: nothing attests such a message.
func Expect(stream, subject string, h *Header) (e Expectation, ok bool) {
	ch, ok := policy.StreamChannel(stream)
	if !ok || h.IsZero() {
		return e, false
	}
	switch name := ch.Name(); {
	case ch.Kind() == policy.KindTopic:
		return expectTopic(ch, subject, h)
	case stream == policy.TaskStream(name):
		return expectTask(ch, subject, h)
	default:
		return expectResult(name, stream == policy.DeadStream(name), subject, h)
	}
}

func expectTopic(ch policy.Channel, subject string, h *Header) (e Expectation, ok bool) {
	rest, ok := policy.CutTopicSubject(subject)
	if topic, _, _ := strings.Cut(rest, "."); !ok || topic != ch.Name() {
		return e, false
	}
	e = Expectation{Channel: ch, Want: keyring.Want{Kinds: keyring.Kinds(envelope.KindEvent), Recipient: rest}, Counted: true}
	if h.Kind != envelope.KindControl {
		return e, true
	}
	return e.note(h), rest == ch.Name() && isNoteOf(ch, h)
}

func expectTask(ch policy.Channel, subject string, h *Header) (e Expectation, ok bool) {
	e = Expectation{Channel: ch, Want: keyring.Want{Kinds: keyring.Kinds(envelope.KindTask), Recipient: ch.Name()}, Counted: true}
	if queue, ok := policy.CutSessionSubject(subject); ok {
		return e.note(h), queue == ch.Name() && isNoteOf(ch, h)
	}
	if queue, claim, priority, ok := policy.CutUniqueSubject(subject); ok {
		e.Want.Recipient = policy.UniqueRecipient(queue, claim, priority)
		return e, queue == ch.Name()
	}
	for p := range policy.Priorities {
		switch subject {
		case policy.TaskSubject(ch.Name(), p):
			return e, true
		case policy.DueSubject(ch.Name(), p): // left with the node, by a sender that does not count
			e.Counted, e.Late = false, true
			return e, true
		case policy.SpreadSubject(ch.Name(), p): // put back by a worker: whatever task it was
			e.Counted, e.Copy, e.Late = false, true, true
			if queue, _, _, ok := policy.CutUniqueSubject(uniquePrefix + h.Recipient); ok && queue == ch.Name() {
				e.Want.Recipient = h.Recipient
			}
			return e, true
		}
	}
	return e, false
}

func expectResult(queue string, dead bool, subject string, h *Header) (e Expectation, ok bool) {
	ch, err := policy.Result(queue)
	if err != nil {
		return e, false
	}
	kinds := keyring.Kinds(envelope.KindResult, envelope.KindError)
	of, task, ok := policy.CutResultSubject(subject)
	if dead {
		kinds = keyring.Kinds(envelope.KindError)
		of, task, ok = policy.CutDeadSubject(subject)
	}
	if !ok || of != queue {
		return e, false
	}
	// A letter of a task that could not be opened lies under an id of its own: what it says it is of is sealed.
	if !dead && task != h.Ref.String() {
		return e, false
	}
	return Expectation{Channel: ch, Want: keyring.Want{Kinds: kinds, Recipient: queue, Ref: h.Ref}}, true
}

func (e Expectation) note(h *Header) Expectation {
	e.Want, e.Note = keyring.Want{Kinds: keyring.Kinds(envelope.KindControl), Recipient: h.Recipient}, true
	return e
}

func isNoteOf(ch policy.Channel, h *Header) bool {
	n, err := keyring.ParseSessionNote(h.Recipient)
	return err == nil && n.Name == ch.Name()
}
