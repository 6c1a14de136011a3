package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// tamper works on a frame that the scout has sealed and no reader has seen yet, as a broker can that holds a
// message back, and on frames that were delivered.
func tamper(ctx context.Context, s *scene) error {
	s.say("It holds a message of the scout's back, and tries everything with it. After each try a valid message takes the same way: that has to arrive, and nothing else may have.")
	// What it will replay is what it heard until here, before it sends anything of its own.
	live, err := s.enemy.agents.frames(ctx, policy.TopicSubject(findings))
	if err != nil {
		return err
	}
	kept, err := s.enemy.store.frames(ctx, policy.TopicSubject(ledger))
	if err != nil {
		return err
	}
	held, err := s.heldBack(ctx, "the water is good\n")
	if err != nil {
		return err
	}
	var f envelope.Frame
	if err := envelope.Parse(held, &f); err != nil {
		return err
	}
	list, err := s.tampered(ctx, held, &f)
	if err != nil {
		return err
	}
	for _, t := range list {
		if err := s.try(ctx, t); err != nil {
			return err
		}
	}
	if err := s.release(ctx, held); err != nil {
		return err
	}
	old := reasons(keyring.Seen, keyring.Stale) // stale where the machine is so slow that they are too old by now
	for _, t := range []trial{
		s.on(findings, "replays it", old, held),
		s.on(findings, "replays all "+number(len(live))+" that it has heard on findings", old, live...),
		s.on(ledger, "replays all "+number(len(kept))+" that are kept in the ledger", old, kept...),
	} {
		t.header = unstored
		if len(t.frames) == 0 {
			return errors.New("nothing was heard that could be replayed")
		}
		if err := s.try(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

// unstored has the store refuse a message that is delivered live all the same: the adversary leaves no traces in the ledger.
var unstored = nats.Header{"Nats-Expected-Stream": {"another"}}

// heldBack returns a frame sealed by the scout that was never sent.
func (s *scene) heldBack(ctx context.Context, text string) ([]byte, error) {
	ch, err := policy.Topic("findings")
	if err != nil {
		return nil, err
	}
	sender, err := s.scout.ring.Sender(ctx, ch)
	if err != nil {
		return nil, err
	}
	frame, _, err := sender.Seal(nil, &keyring.Draft{Kind: envelope.KindEvent, Recipient: findings,
		Messages: []envelope.Message{{Payload: []byte(text)}}})
	return frame, err
}

// on returns the ways of a trial: to the readers of a topic.
func (s *scene) on(subject, what string, want []keyring.Reason, frames ...[]byte) trial {
	return trial{what: what, subject: policy.TopicSubject(subject), frames: frames, want: want, readers: s.readers(),
		probe: func(ctx context.Context) error { return s.probe(ctx, subject) }}
}

func reasons(list ...keyring.Reason) []keyring.Reason { return list }

func (s *scene) tampered(ctx context.Context, held []byte, f *envelope.Frame) ([]trial, error) {
	unsigned, err := rewritten(f, func(g *envelope.Frame) { g.Flags, g.Signature = g.Flags&^envelope.FlagSigned, envelope.Signature{} })
	if err != nil {
		return nil, err
	}
	other := s.writers[0].bus.Self().String() // may publish on findings too
	forged, err := rewritten(f, func(g *envelope.Frame) { g.Sender = []byte(other) })
	if err != nil {
		return nil, err
	}
	var key uint32
	open, err := s.enemy.agents.frames(ctx, policy.TopicSubject(scratch))
	if err != nil {
		return nil, err
	}
	for _, raw := range open {
		var g envelope.Frame
		if err := envelope.Parse(raw, &g); err != nil {
			return nil, err
		}
		key = g.Key
	}
	moved, err := rewritten(f, func(g *envelope.Frame) {
		g.Flags, g.Signature = g.Flags&^envelope.FlagSigned, envelope.Signature{}
		g.Channel, g.Recipient, g.Key = []byte("topic/scratch"), []byte(scratch), key
	})
	if err != nil {
		return nil, err
	}
	below := "findings.other"
	flips := flipped(held, f)
	return []trial{
		s.on(findings, fmt.Sprintf("flips a bit, in %d of its %d bytes in turn", len(flips), len(held)), nil, flips...),
		s.on(findings, "cuts it off after a hundred bytes", reasons(keyring.Malformed), held[:100]),
		s.on(findings, "takes the signature away", reasons(keyring.Unsigned), unsigned),
		s.on(findings, "writes another sender into the header", reasons(keyring.BadSeal), forged),
		s.on(below, "sends it on another subject, "+below, reasons(keyring.Misdirected), held),
		s.on(scratch, "sends it on another channel, scratch", reasons(keyring.Misdirected), held),
		s.on(scratch, "the same, with the header rewritten to fit", reasons(keyring.BadSeal), moved),
		{what: "sends it to the critic as if it were a request", subject: policy.AgentSubject(s.critic.name),
			reply: policy.InboxPrefix(s.scout.name) + ".x", frames: [][]byte{held}, want: reasons(keyring.Misdirected),
			readers: []*member{s.critic}, probe: func(ctx context.Context) error {
				_, err := s.planner.bus.Request(ctx, s.critic.name, []byte("probe"))
				return err
			}},
	}, nil
}

// rewritten returns a frame with some of it changed, well formed.
func rewritten(f *envelope.Frame, change func(*envelope.Frame)) ([]byte, error) {
	g := *f
	change(&g)
	return envelope.AppendFrame(nil, &g)
}

// flipped returns a frame as often as it has bytes, with a bit of another byte flipped in each. The four bytes
// of the key's id are left alone: a reader waits up to five seconds for a key that it does not know, in case
// it is new, before it refuses the frame, and the demo is not to take that long.
func flipped(frame []byte, f *envelope.Frame) (list [][]byte) {
	key := bytes.Index(frame, append([]byte{byte(len(f.Channel))}, f.Channel...)) - 4
	for i := range frame {
		if i >= key && i < key+4 {
			continue
		}
		b := bytes.Clone(frame)
		b[i] ^= 1 << (i % 8)
		list = append(list, b)
	}
	return list
}

// release delivers the frame as it is: had it been refused too, the refusals would prove nothing.
func (s *scene) release(ctx context.Context, held []byte) error {
	subject := policy.TopicSubject(findings)
	arrived := 0
	var marks []int
	for _, m := range s.readers() {
		marks = append(marks, m.got.mark())
	}
	if err := s.enemy.agents.nc.Publish(subject, held); err != nil {
		return err
	}
	if err := s.enemy.agents.nc.FlushWithContext(ctx); err != nil {
		return err
	}
	if err := s.probe(ctx, findings); err != nil {
		return err
	}
	for i, m := range s.readers() {
		for _, msg := range m.got.since(marks[i]) {
			if s.proven([]*agentbus.Message{msg}) && string(msg.Payload) == "the water is good\n" {
				arrived++
			}
		}
	}
	s.fact(arrived == len(s.readers()), "unchanged, the same bytes are read by both: it was the changes that were refused")
	s.figure("control_delivered", arrived)
	return nil
}

// wasRead reports whether a frame is one that the planner accepted, unchanged.
func (s *scene) wasRead(f *envelope.Frame) bool {
	for _, m := range s.planner.got.since(0) {
		if m.ID == f.ID && m.Sender.String() == string(f.Sender) {
			return true
		}
	}
	return false
}
