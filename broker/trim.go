package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/policy"
)

// Trim removes once what the queues of a policy no longer need. An embedded node
// does this every minute; an operator does it with js connected to an external
// cluster, in the account that holds the streams. It may run in several places
// at once and is bounded: of a stream at most a million messages go at a time.
//
// Of each queue these go:
//
//   - tasks that every worker is through with and that are older than the queue's
//     retain, from the oldest on: one that is not settled holds back all that came
//     after it;
//   - delayed tasks that have come into the log, from where they waited;
//   - results that are older than retain and than every task left in the log. A
//     task may be handed out again as long as it is there, and its result says
//     that it is done;
//   - cancellations likewise, and none that is newer than a delayed task which
//     still waits: it may be that one's;
//   - dead letters and signs of life that are older than retain.
//
// Times are those at which the broker stored a message. What it stored while its
// clock was ahead stays for as much longer.
//
// The error matches [ErrTrim]; the other queues are trimmed all the same.
func Trim(ctx context.Context, js jetstream.JetStream, p *policy.Policy) error {
	return newTrimmer(js, slog.Default()).round(ctx, p)
}

type trimmer struct {
	js    jetstream.JetStream
	log   *slog.Logger
	now   func() time.Time
	slack time.Duration // of results
	most  uint64        // messages of a stream at a time
}

func newTrimmer(js jetstream.JetStream, log *slog.Logger) *trimmer {
	return &trimmer{js: js, log: log, now: time.Now, slack: resultSlack, most: maxTrimmed}
}

// run trims until ctx ends.
func (t *trimmer) run(ctx context.Context, p *policy.Policy, tick <-chan time.Time) {
	for {
		select {
		case <-tick:
		case <-ctx.Done():
			return
		}
		if err := t.round(ctx, p); err != nil && ctx.Err() == nil {
			t.log.Warn("queues are not trimmed", "error", err)
		}
	}
}

func (t *trimmer) round(ctx context.Context, p *policy.Policy) error {
	var failed []error
	for _, q := range queues(p) {
		if err := t.queue(ctx, q); err != nil {
			failed = append(failed, fmt.Errorf("%w: queue %s: %w", ErrTrim, q.name, err))
		}
	}
	return errors.Join(failed...)
}

func (t *trimmer) queue(ctx context.Context, q queue) error {
	cutoff := t.now().Add(-q.retain)
	if err := t.tasks(ctx, q, cutoff); err != nil {
		return err
	}
	done, err := t.done(ctx, q, cutoff)
	if err != nil {
		return err
	}
	cancelled, err := t.cancelled(ctx, q, done)
	if err != nil {
		return err
	}
	return errors.Join(
		t.before(ctx, policy.ResultStream(q.name), "", done),
		t.before(ctx, policy.ControlStream(q.name), policy.ControlSubject(q.name, "*", policy.ControlCancel+".>"), cancelled),
		t.before(ctx, policy.ControlStream(q.name), policy.ControlSubject(q.name, "*", policy.ControlAttempt+".>"), done),
		t.before(ctx, policy.ControlStream(q.name), policy.ControlSubject(q.name, "*", policy.ControlPresence+".>"), cutoff),
		t.before(ctx, policy.DeadStream(q.name), "", cutoff),
	)
}

// tasks takes out of the log what is settled and old. All that it goes by is no
// newer than the state with which it begins.
func (t *trimmer) tasks(ctx context.Context, q queue, cutoff time.Time) error {
	name := policy.TaskStream(q.name)
	state, err := t.state(ctx, name)
	if err != nil {
		return err
	}
	// Before anything leaves the log: were the traces there of what has come
	// from the delayed tasks gone first, they could come once more.
	if err := t.arrived(ctx, q); err != nil {
		return err
	}
	upTo, err := t.older(ctx, name, state, cutoff)
	if err != nil {
		return err
	}
	for _, want := range q.consumers() {
		if upTo < state.FirstSeq {
			return nil
		}
		settled, err := t.settled(ctx, name, state, want)
		if err != nil {
			return err
		}
		upTo = min(upTo, settled)
	}
	return t.purge(ctx, name, "", state, upTo)
}

// settled returns the last sequence of the log up to which a consumer has nothing
// left to do.
func (t *trimmer) settled(ctx context.Context, stream string, state jetstream.StreamState, want jetstream.ConsumerConfig) (uint64, error) {
	c, err := t.js.Consumer(ctx, stream, want.Durable)
	if err != nil {
		return 0, fmt.Errorf("consumer %s of stream %s: %w", want.Durable, stream, err)
	}
	info := c.CachedInfo()
	// One that was told to look elsewhere, or to give up, has a floor above
	// tasks that nobody has worked on.
	if _, changed := mergedConsumer(info.Config, want); changed {
		return 0, fmt.Errorf("consumer %s of stream %s is not as it was provisioned", want.Durable, stream)
	}
	upTo := state.LastSeq
	for _, subject := range want.FilterSubjects {
		// The floor stands still while there is nothing to do. What decides
		// is the first task after it; the server's own count of what is
		// pending is an estimate.
		next, err := find(ctx, t.js, stream, findRequest{Seq: info.AckFloor.Stream + 1, Next: subject})
		if err != nil {
			return 0, err
		}
		if next != nil {
			upTo = min(upTo, next.Seq-1)
		}
	}
	return upTo, nil
}

// done returns the time before which results are needed no longer.
func (t *trimmer) done(ctx context.Context, q queue, cutoff time.Time) (time.Time, error) {
	oldest, err := find(ctx, t.js, policy.TaskStream(q.name), findRequest{Seq: 1, Next: ">"})
	if err != nil || oldest == nil {
		return cutoff, err
	}
	if limit := oldest.Time.Add(-t.slack); limit.Before(cutoff) {
		return limit, nil
	}
	return cutoff, nil
}

// before takes out of a stream what was stored before a time.
func (t *trimmer) before(ctx context.Context, stream, subject string, limit time.Time) error {
	state, err := t.state(ctx, stream)
	if err != nil {
		return err
	}
	upTo, err := t.older(ctx, stream, state, limit)
	if err != nil {
		return err
	}
	return t.purge(ctx, stream, subject, state, upTo)
}

// arrived takes the copies of delayed tasks that have come into the log out of
// the stream where they waited. Which those are is read from the log itself: the
// server notes there what each has come from, and brings them in order.
func (t *trimmer) arrived(ctx context.Context, q queue) error {
	delays := policy.DelayStream(q.name)
	s, err := t.js.Stream(ctx, delays)
	if err != nil {
		return fmt.Errorf("stream %s: %w", delays, err)
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(policy.DuePattern(q.name)))
	if err != nil {
		return fmt.Errorf("stream %s: %w", delays, err)
	}
	for subject := range info.State.Subjects {
		last, err := find(ctx, t.js, policy.TaskStream(q.name), findRequest{Last: subject})
		if err != nil {
			return err
		}
		// A stream that was made anew counts from one again.
		if last == nil || last.Time.Before(info.Created) {
			continue
		}
		origin, err := last.origin(delays)
		if err != nil {
			return err
		}
		if err := t.purge(ctx, delays, subject, info.State, origin); err != nil {
			return err
		}
	}
	return nil
}

// headerSource is "<stream> <sequence> …": where a message was sourced from.
const headerSource = "Nats-Stream-Source"

// origin returns the sequence that a message had in the stream that it was
// sourced from.
func (m *found) origin(stream string) (uint64, error) {
	value, err := m.header(headerSource)
	if err != nil {
		return 0, fmt.Errorf("sequence %d, %s: %w", m.Seq, m.Subject, err)
	}
	fields := strings.Fields(value)
	if len(fields) < 2 || fields[0] != stream {
		return 0, fmt.Errorf("sequence %d, %s: it does not come from %s", m.Seq, m.Subject, stream)
	}
	return strconv.ParseUint(fields[1], 10, 64)
}

func (t *trimmer) state(ctx context.Context, stream string) (jetstream.StreamState, error) {
	s, err := t.js.Stream(ctx, stream)
	if err != nil {
		return jetstream.StreamState{}, fmt.Errorf("stream %s: %w", stream, err)
	}
	return s.CachedInfo().State, nil
}

// older returns the last sequence of a state before the first message that was
// stored at a time or later.
func (t *trimmer) older(ctx context.Context, stream string, state jetstream.StreamState, limit time.Time) (uint64, error) {
	if state.Msgs == 0 {
		return 0, nil
	}
	first, err := find(ctx, t.js, stream, findRequest{Since: &limit, Next: ">"})
	if err != nil {
		return 0, err
	}
	if first == nil {
		return state.LastSeq, nil
	}
	return min(state.LastSeq, first.Seq-1), nil
}

// purge takes messages of a subject, "" for all, up to a sequence out of a stream.
func (t *trimmer) purge(ctx context.Context, stream, subject string, state jetstream.StreamState, upTo uint64) error {
	if state.Msgs == 0 || upTo < state.FirstSeq {
		return nil
	}
	if subject == "" {
		upTo = min(upTo, state.FirstSeq+t.most-1)
	}
	answer, err := purge(ctx, t.js, stream, purgeRequest{Below: upTo + 1, Subject: subject})
	if err != nil {
		return err
	}
	count, err := purged(answer)
	if err != nil {
		return fmt.Errorf("trim stream %s: %w", stream, err)
	}
	if count > 0 {
		t.log.Debug("trimmed", "stream", stream, "subject", subject, "up_to", upTo, "messages", count)
	}
	return nil
}
