package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/sealbus/sealbus/agentbus"
)

// topic has the scout publish the text, once live and once to be kept.
func topic(ctx context.Context, s *scene) error {
	s.say("The scout publishes the text twice: live on findings, and on ledger, which is kept for a day.")
	type mark struct {
		m   *member
		got int
	}
	var marks []mark
	for _, m := range s.readers() {
		marks = append(marks, mark{m, m.got.mark()})
	}
	begin := time.Now()
	for _, subject := range []string{findings, ledger} {
		for _, piece := range s.text.pieces {
			if err := s.scout.bus.Publish(ctx, subject, []byte(piece), agentbus.ContentType("text/plain")); err != nil {
				return err
			}
		}
	}
	n := len(s.text.pieces)
	for _, k := range marks {
		got, complete := k.m.got.await(ctx, k.got, func(list []*agentbus.Message) bool { return len(list) >= 2*n })
		if !complete {
			return fmt.Errorf("%s received %d of %d messages: %w", k.m.name, len(got), 2*n, ctx.Err())
		}
		live, kept := read(got, findings), read(got, ledger)
		s.fact(len(got) == 2*n && slices.Equal(live, s.text.pieces) && slices.Equal(kept, s.text.pieces) && s.proven(got),
			"the %s read %s live and %s of the ledger, as written, signed by the scout", k.m.name, plural(len(live), "message"), number(len(kept)))
		s.add("received", len(got))
	}
	took := time.Since(begin)
	s.page.under("“%s”", fit(printable(firstLine(s.text.pieces[0])), 72))
	s.page.under("All of it took %d ms, writing the ledger to disk included.", took.Milliseconds())
	s.figure("published", 2*n)
	s.figure("bytes", s.text.bytes)
	s.figure("milliseconds", took.Milliseconds())
	return nil
}

// read returns what came on a subject.
func read(list []*agentbus.Message, subject string) (texts []string) {
	for _, m := range list {
		if m.Subject == subject {
			texts = append(texts, string(m.Payload))
		}
	}
	return texts
}

// proven reports whether all messages are signed, and the scout's.
func (s *scene) proven(list []*agentbus.Message) bool {
	return !slices.ContainsFunc(list, func(m *agentbus.Message) bool { return !m.Signed || m.Sender != s.scout.bus.Self() })
}
