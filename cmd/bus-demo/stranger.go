package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/sealbus/sealbus/audit"
	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
)

// trust is what a stranger goes by, who has no key and no connection: the authority and the operator's fingerprint.
func (s *scene) trust() audit.Trust {
	return audit.Trust{Domain: s.ca.TrustDomain(), Anchors: s.ca.Bundle(), Operators: []identity.Fingerprint{s.operator.Fingerprint()}}
}

// offline has a stranger verify what the auditor has exported.
func (s *scene) offline(ctx context.Context, file string) error {
	s.say("The auditor has exported it all as one file. A stranger verifies that without network or key: what it goes by is the authority and the operator's fingerprint.")
	r, err := audit.VerifyExport(ctx, file, s.trust())
	if err != nil {
		return err
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	s.fact(sound(r), "it comes to the same verdicts, on %s beside %s entries of the log, in a file of %s bytes", plural(int(r.Frames), "message"), number(r.Size), number(len(raw)))
	s.search(len(s.needles.find(raw)), "of "+plural(s.needles.size(), "fragment")+" of the text in the file")
	s.figure("export_bytes", len(raw))
	s.figure("export_messages", r.Frames)
	return nil
}

// disclosed has the planner show one message to the stranger, of many that were sealed together.
func (s *scene) disclosed(ctx context.Context, file string) error {
	x, err := audit.OpenExport(file)
	if err != nil {
		return err
	}
	defer x.Close()
	m, list, err := s.largest(ctx, x)
	if err != nil {
		return err
	}
	i := len(list) / 2
	chosen := string(list[i].Payload)
	raw, err := audit.Disclose(x, m, list, []int{i}, x.Statements(), s.trust())
	if err != nil {
		return fmt.Errorf("disclosing: %w", err)
	}
	d, err := audit.VerifyDisclosure(raw, s.trust())
	if err != nil {
		return fmt.Errorf("verifying a disclosure: %w", err)
	}
	s.fact(len(d.Messages) == 1 && string(d.Messages[0].Payload) == chosen && d.Sender == s.scout.bus.Self(),
		"the planner shows it one of the %d offers that were sealed as one: “%s”, signed by the %s at %s, logged as message %d", len(list), chosen,
		d.Sender.Name(), d.Sealed.Local().Format("15:04:05"), d.Sequence)
	others := 0
	for j := range list {
		if j != i && (bytes.Contains(raw, list[j].Payload) || bytes.Contains(raw, list[j].Salt[:])) {
			others++
		}
	}
	s.search(others, fmt.Sprintf("of the %d others in what it was given", len(list)-1))
	other := bytes.Replace(raw, []byte("crowns"), []byte("pounds"), 1)
	_, err = audit.VerifyDisclosure(other, s.trust())
	s.attempt(errors.Is(err, audit.ErrDisclosure), "the planner says “pounds” instead of “crowns”", "it is not what was sealed")
	s.figure("sealed_together", len(list))
	s.figure("disclosed", len(d.Messages))
	s.figure("others_seen", others)
	return nil
}

// largest returns the message of an export that holds the most messages, and what the planner finds in it.
func (s *scene) largest(ctx context.Context, x *audit.Exported) (*audit.Stored, []envelope.Message, error) {
	var most *audit.Stored
	count := uint16(1)
	for m, err := range x.Frames(ctx) {
		if err != nil {
			return nil, nil, err
		}
		var f envelope.Frame
		if envelope.Parse(m.Data, &f) == nil && f.Count > count {
			most, count = &m, f.Count
		}
	}
	if most == nil {
		return nil, nil, errors.New("no messages were sealed together")
	}
	entry := audit.FrameEntry(most, most.Time, 0)
	expected, ok := audit.Expect(ledgerStream, most.Subject, &entry.Frame.Header)
	if !ok {
		return nil, nil, errors.New("a message that does not belong into the ledger")
	}
	receiver, err := s.planner.ring.StoredReceiver(expected.Channel)
	if err != nil {
		return nil, nil, err
	}
	var opened keyring.Opened
	err = receiver.Open(most.Data, &expected.Want, &opened)
	return most, opened.Messages, err
}
