package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/audit"
	"github.com/sealbus/sealbus/policy"
)

// offers is a subject of the ledger.
const offers = "ledger.offers"

// offered is how many offers there are: enough for some of them to be sealed together.
const offered = 24

// ledgerStream is what the broker keeps the ledger in.
var ledgerStream = policy.TopicStream("ledger")

// auditing has an agent that cannot read a word of the ledger say whether it is whole, before and after the adversary lays hands
// on it.
func auditing(ctx context.Context, s *scene) error {
	s.say("The auditor may not read the ledger: the policy lets it keep a log of hashes, which it signs, and it has done so since the start. The scout makes its last entries, some offers, and leaves.")
	if err := s.offer(ctx); err != nil {
		return err
	}
	if err := s.replayed(ctx); err != nil {
		return err
	}
	if err := s.scout.bus.Close(); err != nil {
		return fmt.Errorf("closing the scout: %w", err)
	}
	if err := s.whole(ctx); err != nil {
		return err
	}
	file := filepath.Join(s.work, "ledger.export")
	if err := errors.Join(s.audit.Export(ctx, ledgerStream, file, agentbus.AuditRange{}), s.audit.Stop()); err != nil {
		return err
	}
	if err := s.laidHandsOn(ctx); err != nil {
		return err
	}
	if err := s.offline(ctx, file); err != nil {
		return err
	}
	return s.disclosed(ctx, file)
}

func offer(n int) string { return fmt.Sprintf("offer %d: %d crowns for the mill", n, 100+n*n) }

// offer has the scout publish many messages at once, so that some of them are sealed together.
func (s *scene) offer(ctx context.Context) error {
	mark := s.planner.got.mark()
	var list []*agentbus.Publication
	for n := range offered {
		p, err := s.scout.bus.PublishAsync(ctx, offers, []byte(offer(n)))
		if err != nil {
			return err
		}
		list = append(list, p)
	}
	for _, p := range list {
		if err := p.Wait(ctx); err != nil {
			return err
		}
	}
	if got, ok := s.planner.got.await(ctx, mark, func(list []*agentbus.Message) bool { return len(list) >= offered }); !ok {
		return fmt.Errorf("the planner received %d of %d offers: %w", len(got), offered, ctx.Err())
	}
	return nil
}

// replayed has the planner read back what it was sent.
func (s *scene) replayed(ctx context.Context) error {
	var texts []string
	heard := make(map[string]bool)
	for _, m := range s.planner.got.since(0) {
		heard[m.ID.String()] = true
	}
	before, same, last := s.planner.got.mark(), 0, uint64(0)
	for m, err := range s.planner.bus.Replay(ctx, "ledger.>", agentbus.WithHeader("content-type", "text/plain")) {
		if err != nil {
			return err
		}
		texts = append(texts, string(m.Payload))
		if m.Replayed && m.Signed && m.Sender == s.scout.bus.Self() && heard[m.ID.String()] && m.Sequence > last {
			same++
		}
		last = m.Sequence
	}
	s.fact(slices.Equal(texts, s.text.pieces) && same == len(texts) && s.planner.got.mark() == before,
		"the planner, which may read, replays the ledger: the %s of the text, as it got them then, in their order", plural(len(texts), "message"))
	s.figure("replayed", len(texts))
	return nil
}

// whole has the auditor verify the ledger before anybody has touched it.
func (s *scene) whole(ctx context.Context) error {
	r, err := s.audit.Verify(ctx, ledgerStream)
	if err != nil {
		return err
	}
	for _, v := range r.Verdicts() {
		s.fact(v.State == audit.OK, "%s: %s", v.Name, v.Detail)
		for _, line := range wrap(figuresOf(v), width-13) {
			s.page.under("%s", line)
		}
	}
	s.figure("messages", r.Frames)
	s.figure("entries", r.Size)
	s.figure("signed", r.Covered)
	return nil
}

// figuresOf are the figures that say how much was looked at.
func figuresOf(v *audit.Verdict) string {
	var parts []string
	for _, f := range v.Figures {
		parts = append(parts, number(f.Value)+" "+f.Name)
	}
	return strings.Join(parts, "; ")
}
