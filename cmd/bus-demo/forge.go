package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// forge is done with the keys of a reader: they open everything on the channels that it reads, and seal there
// in anybody's name. Signatures are what is left, and they hold.
func forge(ctx context.Context, s *scene) error {
	s.say("The critic's machine is broken into and its keys are stolen. A reader's key opens the channel, and seals on it in anybody's name. It does not sign for them.")
	loot, err := steal(s.criticDir(), s.lock)
	if err != nil {
		return fmt.Errorf("reading the critic's state: %w", err)
	}
	live, err := s.enemy.agents.frames(ctx, policy.TopicSubject(findings))
	if err != nil {
		return err
	}
	k, real, err := s.unlock(loot, live)
	if err != nil {
		return err
	}
	s.fact(k != channelKey{}, "the stolen keys open what the scout published: a reader can give away what it reads")
	list, err := s.forgeries(loot, k, real)
	if err != nil {
		return err
	}
	for _, t := range list {
		if err := s.try(ctx, t); err != nil {
			return err
		}
	}
	return s.unsignedForgery(ctx, loot)
}

// unlock finds the stolen key that opens a frame of the text, and such a frame.
func (s *scene) unlock(loot *loot, frames [][]byte) (channelKey, *envelope.Frame, error) {
	for _, raw := range frames {
		f := new(envelope.Frame)
		if envelope.Parse(raw, f) != nil || !s.wasRead(f) || !f.Signed() {
			continue
		}
		for _, k := range loot.keys {
			plain, err := k.open(f)
			if err != nil {
				continue
			}
			if list, err := envelope.ParseMessages(plain, f.Flags, f.Count, nil); err == nil && string(list[0].Payload) == s.text.pieces[0] {
				return k, f, nil
			}
		}
	}
	return channelKey{}, nil, errors.New("the stolen keys open nothing: then the forgeries would prove nothing")
}

// forgeries are frames in the scout's name under the channel's own key. real is one of the scout's.
func (s *scene) forgeries(loot *loot, k channelKey, real *envelope.Frame) ([]trial, error) {
	scout, self := s.scout.bus.Self().String(), s.critic.bus.Self().String()
	var errs []error
	frame := func(sender string, change func(*draft)) []byte {
		d := &draft{key: k, channel: "topic/findings", recipient: findings, keyID: real.Key, sender: sender,
			card: real.Card, text: "sell everything", signer: loot.signer}
		change(d)
		b, err := d.frame()
		errs = append(errs, err)
		return b
	}
	list := []trial{
		s.on(findings, "a message from “scout”, signed with the critic's key", reasons(keyring.BadSignature),
			frame(scout, func(*draft) {})),
		s.on(findings, "the same, with a signature cut from a real one", reasons(keyring.BadSignature),
			frame(scout, func(d *draft) { d.borrowed = &real.Signature })),
		s.on(findings, "the same, with no signature", reasons(keyring.Unsigned),
			frame(scout, func(d *draft) { d.signer = nil })),
		s.on(findings, "the same, naming the critic's card as the scout's", reasons(keyring.NoCard),
			frame(scout, func(d *draft) { d.card = loot.card })),
		s.on(findings, "a message as the critic, who may only read here", reasons(keyring.NotEntitled),
			frame(self, func(d *draft) { d.card = loot.card })),
	}
	for i := range list {
		list[i].readers = []*member{s.planner} // the critic itself is the thief's now
	}
	return list, errors.Join(errs...)
}

// unsignedForgery does the same where the policy asks for no signature. There it is believed, as documented:
// which shows that the forgeries above are well made but for the signature.
func (s *scene) unsignedForgery(ctx context.Context, loot *loot) error {
	frames, err := s.enemy.agents.frames(ctx, policy.TopicSubject(scratch))
	if err != nil {
		return err
	}
	var sample envelope.Frame
	var key channelKey
	for _, raw := range frames {
		if envelope.Parse(raw, &sample) != nil || !s.wasRead(&sample) {
			continue
		}
		for _, k := range loot.keys {
			if _, err := k.open(&sample); err == nil {
				key = k
			}
		}
	}
	if key == (channelKey{}) {
		return errors.New("the stolen keys do not open the scratch channel")
	}
	d := &draft{key: key, channel: "topic/scratch", recipient: scratch, keyID: sample.Key, sender: s.scout.bus.Self().String(),
		card: sample.Card, text: "sell everything"}
	b, err := d.frame()
	if err != nil {
		return err
	}
	mark := s.planner.got.mark()
	if err := s.enemy.agents.nc.Publish(policy.TopicSubject(scratch), b); err != nil {
		return err
	}
	if err := s.enemy.agents.nc.FlushWithContext(ctx); err != nil {
		return err
	}
	if err := s.probe(ctx, scratch); err != nil {
		return err
	}
	believed := 0
	for _, m := range s.planner.got.since(mark) {
		if strings.HasPrefix(string(m.Payload), "sell") && m.Sender == s.scout.bus.Self() && !m.Signed {
			believed++
		}
	}
	s.fact(believed == 1, "on scratch, which the policy leaves unsigned, it is believed: signing is what stops it")
	s.figure("control_believed_where_unsigned", believed)
	return nil
}
