package main

import (
	"context"

	"github.com/sealbus/sealbus/policy"
)

// listen searches everything that went through the broker.
func listen(ctx context.Context, s *scene) error {
	s.say("It has every permission, and a copy of every message since the start, on every subject of both accounts. It searches them for the text: any %d bytes of it, from any place on.", window)
	all, err := s.enemy.everything(ctx)
	if err != nil {
		return err
	}
	size, found := 0, make(map[string]bool)
	var haystacks [][]byte
	for _, m := range all {
		b := m.all()
		size += len(b)
		haystacks = append(haystacks, b)
		for _, fragment := range s.needles.find(b) {
			found[fragment] = true
		}
	}
	live, err := s.enemy.agents.frames(ctx, policy.TopicSubject(findings))
	if err != nil {
		return err
	}
	kept, err := s.enemy.store.frames(ctx, policy.TopicSubject(ledger))
	if err != nil {
		return err
	}
	clear := []string{s.scout.bus.Self().String(), "topic/findings", "topic/ledger", "service/summarise", "pair/critic~planner"}
	there := controls(clear, haystacks)
	_, published := s.ofText(findings, live)
	_, stored := s.ofText(ledger, kept)
	s.fact(published == len(s.text.pieces) && stored == len(s.text.pieces), "it took %s, %s bytes, every frame of the text among them",
		plural(len(all), "message"), number(size))
	s.search(len(found), "of "+plural(s.needles.size(), "fragment")+" of the text")
	s.fact(there == len(clear), "the same messages do hold the names of sender and channels: %d of %d found", there, len(clear))
	s.figure("messages", len(all))
	s.figure("bytes", size)
	s.figure("fragments", s.needles.size())
	s.figure("fragments_found", len(found))
	s.figure("names_found", there)
	return nil
}
