package audit

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// Prover is a log that can prove what is in it: a *Log, a *Reader, or an *Exported.
type Prover interface {
	Entries
	Find(s *Stored) (int64, error)
	Prove(index int64) (*Proof, error)
}

// Disclose returns a file that shows the chosen messages of a frame to a third party: that they are what its sender has sealed,
// and when that was logged. Of the others it shows no more than how many there are, and of all together how long they are, sealed.
// messages are all that the frame holds, with their salts, as opening it gives them; chosen are places among them, from 0. Of the
// statements it takes those that are needed. What it returns has been verified.
func Disclose(log Prover, frame *Stored, messages []envelope.Message, chosen []int, statements iter.Seq2[Statement, error], t Trust) ([]byte, error) {
	index, err := log.Find(frame)
	if err != nil {
		return nil, err
	}
	d := &disclosure{frame: frame.Data}
	if d.proof, err = log.Prove(index); err != nil {
		return nil, err
	}
	if err := d.choose(messages, chosen); err != nil {
		return nil, err
	}
	if err := d.take(log, index, statements, t); err != nil {
		return nil, err
	}
	raw, err := d.append(nil)
	if err != nil {
		return nil, err
	}
	if _, err := VerifyDisclosure(raw, t); err != nil {
		return nil, err
	}
	return raw, nil
}

// choose puts in the messages that are to be shown.
func (d *disclosure) choose(messages []envelope.Message, chosen []int) error {
	chosen = slices.Clone(chosen)
	slices.Sort(chosen)
	for i, at := range chosen {
		if at < 0 || at >= len(messages) || i > 0 && chosen[i-1] == at {
			return fmt.Errorf("audit: no message %d to disclose, or twice: the frame has %d", at, len(messages))
		}
		path, err := envelope.CommitPath(messages, at)
		if err != nil {
			return fmt.Errorf("audit: %w", err)
		}
		d.shown = append(d.shown, shown{index: uint16(at), message: messages[at], path: path})
	}
	return nil
}

// take puts in the statements that are needed: the policy that was in force for the entry, with those before it where their
// operators vouch for it, and the cards of sender and auditor.
func (d *disclosure) take(log Prover, index int64, statements iter.Seq2[Statement, error], t Trust) error {
	in, err := policyAt(log, index)
	if err != nil {
		return err
	}
	var e Entry
	if err := ParseEntry(d.proof.Extra, &e); err != nil {
		return err
	}
	all := NewStatements(t)
	sender, auditor := agentOf(&e.Frame.Header), log.Origin().Auditor
	var policies []Statement
	for s, err := range statements {
		if err != nil {
			return err
		}
		switch s.Kind {
		case StatementPolicy:
			_ = all.Add(s) // whether it is believed is seen when all are here
			policies = append(policies, s)
		case StatementCard:
			info, err := all.witness.AddCard(s.Raw)
			if err == nil && (info.Agent == sender && info.Card == e.Frame.Header.Card || info.Agent == auditor) {
				d.statements = append(d.statements, s)
			}
		}
	}
	governing := all.policy(in)
	if governing == nil {
		return fmt.Errorf("%w: the policy that was in force is not among the statements, or not believed", ErrDisclosure)
	}
	alone := NewStatements(t)
	for _, s := range policies {
		p, err := all.witness.AddPolicy(s.Raw)
		if err == nil && p.Hash() == in {
			d.statements = append(d.statements, s)
			_ = alone.Add(s) // and whether it is alone, too
		}
	}
	if alone.policy(in) != nil {
		return nil
	}
	for _, s := range policies {
		if p, err := all.witness.AddPolicy(s.Raw); err == nil && p.Revision() < governing.Revision() {
			d.statements = append(d.statements, s)
		}
	}
	return nil
}

// policyAt returns the hash of the policy that was in force for an entry.
func policyAt(log Entries, index int64) (hash [32]byte, err error) {
	var e Entry
	i := int64(-1)
	for raw, err := range log.Entries(0) {
		if i++; i > index {
			break
		}
		if err != nil {
			return hash, err
		}
		if len(raw) > 1 && Kind(raw[1]) == KindPolicy && ParseEntry(raw, &e) == nil {
			hash = e.Event.Hash
		}
	}
	return hash, nil
}

// Disclosed is what a disclosure proves.
type Disclosed struct {
	Sender    identity.ID // has sealed and signed the frame, and was entitled to
	Channel   policy.Channel
	Recipient string
	Kind      envelope.Kind
	ID        ulid.ULID
	Sealed    time.Time // by the sender's clock
	Logged    time.Time // by the auditor's
	Stored    time.Time // by the broker's, as the auditor was told
	Sequence  uint64    // in the stream
	Subject   string
	Count     int    // of messages in the frame
	Revision  uint64 // of the policy by which the sender was entitled
	Log       Checkpoint
	Index     int64 // of the entry in it
	Messages  []DisclosedMessage
}

// DisclosedMessage is one message that is shown.
type DisclosedMessage struct {
	Index int // among those of the frame
	envelope.Message
}

// VerifyDisclosure checks a disclosure and returns what it proves: that the sender has sealed these messages in one frame, and that the
// log of an auditor which the policy names has it. The error wraps ErrMalformed or ErrDisclosure. What the auditor says of the time is its
// word; that it was not made up later, only a checkpoint can show that somebody else has kept.
func VerifyDisclosure(raw []byte, t Trust) (*Disclosed, error) {
	d, err := parseDisclosure(raw)
	if err != nil {
		return nil, err
	}
	out, err := d.verify(t)
	if err != nil && !errors.Is(err, ErrMalformed) {
		err = fmt.Errorf("%w: %w", ErrDisclosure, err)
	}
	return out, err
}

func (d *disclosure) verify(t Trust) (*Disclosed, error) {
	c, err := UnverifiedCheckpoint(d.proof.Checkpoint)
	if err != nil {
		return nil, err
	}
	if c.Origin.Auditor.TrustDomain() != t.Domain {
		return nil, fmt.Errorf("a log of %s, and the trust domain is %s", c.Origin, t.Domain)
	}
	var e Entry
	if err := ParseEntry(d.proof.Extra, &e); err != nil {
		return nil, err
	}
	if err := d.agree(&e); err != nil {
		return nil, err
	}
	st := NewStatements(t)
	for _, s := range d.statements {
		if err := st.Add(s); err != nil && !errors.Is(err, policy.ErrUntrustedOperator) {
			return nil, fmt.Errorf("a %s in it is not believed: %w", s.Kind, err)
		}
	}
	if _, err := d.proof.Verify(d.proof.Extra, st.Verifiers(c.Origin)); err != nil {
		return nil, err
	}
	policies := st.witness.Policies()
	if len(policies) == 0 {
		return nil, errors.New("no policy in it is believed")
	}
	return d.judge(st, &e, c, policies[len(policies)-1])
}

// agree checks that the parts belong together: the messages to the frame, and that to the entry.
func (d *disclosure) agree(e *Entry) error {
	same := FrameEntry(&Stored{e.Frame.Sequence, e.Frame.Stored, e.Frame.Subject, d.frame}, e.Logged, e.Frame.Outcome)
	var f envelope.Frame
	switch err := envelope.Parse(d.frame, &f); {
	case e.Kind != KindFrame || same != *e:
		return errors.New("the entry in the log is that of another frame")
	case e.Frame.Outcome != 0:
		return errors.New("the frame was not attested when it was logged")
	case err != nil:
		return err
	}
	for i := range d.shown {
		s := &d.shown[i]
		if err := envelope.VerifyCommit(&f.Header, int(s.index), &s.message, s.path); err != nil {
			return fmt.Errorf("message %d: %w", s.index, err)
		}
	}
	return nil
}

// judge says who has sealed the frame, and whether the policy lets that agent, and the auditor.
func (d *disclosure) judge(st *Statements, e *Entry, c Checkpoint, p *policy.Policy) (*Disclosed, error) {
	expect, ok := Expect(c.Origin.Stream, e.Frame.Subject, &e.Frame.Header)
	watched, _ := policy.StreamChannel(c.Origin.Stream)
	switch {
	case !ok:
		return nil, errors.New("the frame does not belong under its subject")
	case !p.CanAudit(watched, c.Origin.Auditor.Name()):
		return nil, fmt.Errorf("the policy of revision %d does not let %s audit %s", p.Revision(), c.Origin.Auditor.Name(), watched)
	}
	by, err := st.witness.Attest(d.frame, expect.Channel, p, e.Logged, &expect.Want)
	if err != nil {
		return nil, err
	}
	out := &Disclosed{
		Sender: by.Sender, Channel: by.Channel, Recipient: by.Recipient, Kind: by.Kind, ID: by.ID, Sealed: by.Time, Logged: e.Logged,
		Stored: e.Frame.Stored, Sequence: e.Frame.Sequence, Subject: e.Frame.Subject, Count: by.Count, Revision: p.Revision(),
		Log: c, Index: d.proof.Index,
	}
	for _, s := range d.shown {
		out.Messages = append(out.Messages, DisclosedMessage{int(s.index), s.message})
	}
	return out, nil
}
