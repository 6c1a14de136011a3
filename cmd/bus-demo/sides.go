package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// sides puts what the planner read beside what the broker held of the same message.
func sides(ctx context.Context, s *scene) error {
	frames, err := s.enemy.agents.frames(ctx, policy.TopicSubject(ledger))
	if err != nil {
		return err
	}
	msg, f, err := s.pair(frames)
	if err != nil {
		return err
	}
	const rows = 9
	left := wrap(string(msg.Payload), 46)
	if len(left) > rows {
		left = append(left[:rows-1], "…")
	}
	var right []string
	for b := f.Ciphertext; len(b) > 0 && len(right) < rows; b = b[min(15, len(b)):] {
		right = append(right, fmt.Sprintf("% x", b[:min(15, len(b))]))
	}
	if len(f.Ciphertext) > 15*rows {
		right[rows-1] = fmt.Sprintf("… %s bytes in all", number(len(f.Ciphertext)))
	}
	s.page.columns("what the planner read", "what the broker held", left, right)
	s.page.print("")
	s.say("The broker is not blind: it delivers by what stands on the outside, and sees all of this.")
	for _, row := range [][2]string{
		{"from", string(f.Sender)},
		{"to", fmt.Sprintf("%s, subject %s, as %s", f.Channel, f.Recipient, f.Kind)},
		{"when", f.ID.Timestamp().Format(time.DateTime + ".000")},
		{"how much", fmt.Sprintf("%s bytes of ciphertext for %s (a topic's `pad: true` rounds this up)", number(len(f.Ciphertext)), plural(len(msg.Payload), "byte"))},
		{"also", fmt.Sprintf("key %08x, the sender's %s frame, card and session, a signature", f.Key, ordinal(f.Seq))},
	} {
		s.page.block(fmt.Sprintf("%-9s %s", row[0], row[1]))
	}
	hits := len(newNeedles([]string{string(msg.Payload)}).find(f.Ciphertext))
	s.fact(hits == 0, "in the ciphertext there is no fragment of the paragraph")
	s.fact(string(f.Sender) == msg.Sender.String() && string(f.Recipient) == msg.Subject,
		"the outside says the same as the agent was told; who changes it breaks the seal (see 6)")
	s.figure("payload_bytes", len(msg.Payload))
	s.figure("ciphertext_bytes", len(f.Ciphertext))
	s.figure("fragments_in_ciphertext", hits)
	s.figure("visible", map[string]any{"sender": string(f.Sender), "channel": string(f.Channel), "recipient": string(f.Recipient),
		"kind": f.Kind.String(), "seq": f.Seq})
	return nil
}

// pair finds a message of the ledger that is worth showing, and the frame that it came in.
func (s *scene) pair(frames [][]byte) (*agentbus.Message, *envelope.Frame, error) {
	var best *agentbus.Message
	for _, m := range s.planner.got.since(0) {
		if m.Subject != ledger || m.ContentType() == "" {
			continue
		}
		if n := len(m.Payload); best == nil || len(best.Payload) < 200 && n > len(best.Payload) {
			best = m
		}
	}
	if best == nil {
		return nil, nil, errors.New("the planner has read nothing of the ledger")
	}
	for _, raw := range frames {
		f := new(envelope.Frame)
		if err := envelope.Parse(raw, f); err != nil {
			return nil, nil, err
		}
		if f.ID == best.ID {
			return best, f, nil
		}
	}
	return nil, nil, errors.New("the broker has not seen the frame that the planner read")
}

func ordinal(n uint64) string {
	suffix := "th"
	if n/10%10 != 1 {
		switch n % 10 {
		case 1:
			suffix = "st"
		case 2:
			suffix = "nd"
		case 3:
			suffix = "rd"
		}
	}
	return fmt.Sprint(n) + suffix
}
