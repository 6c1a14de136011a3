package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/audit"
	"github.com/sealbus/sealbus/internal/vault"
)

// trick is something that the adversary does to the stream of the ledger.
type trick struct {
	what    string
	do      func(context.Context) error
	verdict string // that has to fail, and no other
	at      uint64 // where, first
}

// laidHandsOn has the adversary change what the broker keeps, in one way after another, and the auditor say each time what was
// done.
func (s *scene) laidHandsOn(ctx context.Context) error {
	s.say("The adversary may do with the broker's store what it likes. Each time it takes the stream out, changes it, and puts it in the place of the true one, with the numbers, times and checksums that the broker would have written.")
	nc := s.enemy.store.nc
	v, err := vault.TakeOut(ctx, nc, ledgerStream)
	if err != nil {
		return err
	}
	named := 0
	for _, t := range s.tricks(v) {
		if err := t.do(ctx); err != nil {
			return fmt.Errorf("the adversary %s: %w", t.what, err)
		}
		r, err := s.auditor.bus.Verify(ctx, s.auditDir(), ledgerStream, s.second)
		if err != nil {
			return fmt.Errorf("verifying, after the adversary %s: %w", t.what, err)
		}
		good, outcome := t.judge(r)
		if good {
			named++
		}
		s.caught(good, t.what, outcome)
		if err := v.PutBack(ctx, nc); err != nil {
			return err
		}
	}
	r, err := s.auditor.bus.Verify(ctx, s.auditDir(), ledgerStream, s.second)
	if err != nil {
		return err
	}
	s.fact(sound(r), "with the true stream back in its place nothing is wrong any more")
	s.figure("tricks", named)
	return nil
}

// tricks are what the adversary does, given the true stream.
func (s *scene) tricks(v *vault.Vault) []trick {
	n := len(v.Messages)
	i := n / 2
	changed := func(change func([]vault.Message) []vault.Message) func(context.Context) error {
		return func(ctx context.Context) error {
			return v.With(change(slices.Clone(v.Messages))).PutBack(ctx, s.enemy.store.nc)
		}
	}
	return []trick{
		{fmt.Sprintf("deletes message %d", v.Messages[i].Sequence), changed(func(list []vault.Message) []vault.Message { return slices.Delete(list, i, i+1) }),
			"completeness", v.Messages[i].Sequence},
		{fmt.Sprintf("swaps messages %d and %d", v.Messages[i].Sequence, v.Messages[i+1].Sequence), changed(func(list []vault.Message) []vault.Message {
			a, b := &list[i], &list[i+1]
			a.Subject, b.Subject, a.Header, b.Header, a.Data, b.Data = b.Subject, a.Subject, b.Header, a.Header, b.Data, a.Data
			return list
		}), "order", v.Messages[i].Sequence},
		{fmt.Sprintf("edits message %d, by one bit", v.Messages[i].Sequence), changed(func(list []vault.Message) []vault.Message {
			list[i].Data = bytes.Clone(list[i].Data)
			list[i].Data[len(list[i].Data)*2/3] ^= 1
			return list
		}), "integrity", v.Messages[i].Sequence},
		{"cuts off the last two messages", changed(func(list []vault.Message) []vault.Message { return list[:n-2] }), "completeness", v.Messages[n-2].Sequence},
		{fmt.Sprintf("lowers the stream's limit to %d messages", n-2), func(ctx context.Context) error {
			return s.limit(ctx, n-2)
		}, "completeness", v.Messages[0].Sequence},
	}
}

// limit has the broker keep no more than so many messages: what denies deletion does not deny this.
func (s *scene) limit(ctx context.Context, n int) error {
	js, err := jetstream.New(s.enemy.store.nc)
	if err != nil {
		return err
	}
	stream, err := js.Stream(ctx, ledgerStream)
	if err != nil {
		return err
	}
	config := stream.CachedInfo().Config
	config.MaxMsgs = int64(n)
	if _, err := js.UpdateStream(ctx, config); err != nil {
		return err
	}
	if !eventually(ctx, func() bool {
		info, err := stream.Info(ctx)
		return err == nil && info.State.Msgs <= uint64(n)
	}) {
		return errors.New("the broker keeps more than it may")
	}
	return nil
}

// judge says whether a report names a trick for what it is, and what it says.
func (t *trick) judge(r *audit.Report) (good bool, outcome string) {
	var parts []string
	good = true
	for _, v := range r.Verdicts() {
		at, failed := v.First()
		if failed {
			parts = append(parts, fmt.Sprintf("%s fails at message %d", v.Name, at.Sequence))
		}
		if want := v.Name == t.verdict; failed != want || want && at.Sequence != t.at {
			good = false
		}
	}
	if parts == nil {
		return false, "it says that nothing is wrong"
	}
	return good, strings.Join(parts, ", ")
}

// sound reports whether all verdicts are good, without reserve.
func sound(r *audit.Report) bool {
	return !slices.ContainsFunc(r.Verdicts(), func(v *audit.Verdict) bool { return v.State != audit.OK })
}
