package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/policy"
)

// inspector answers what agents ask about queues on a policy.AskSubject. They have
// no right to look at streams and consumers, nor to take anything out, because
// who has it for one queue's streams could read more there than the answer says.
type inspector struct {
	js     jetstream.JetStream
	policy *policy.Policy
	log    *slog.Logger
	sub    *nats.Subscription

	ctx    context.Context
	cancel context.CancelFunc
	busy   chan struct{} // a place for each question that is being answered
	once   sync.Once
}

// inspect starts to answer. It returns once the server knows.
func inspect(js jetstream.JetStream, p *policy.Policy, log *slog.Logger) (*inspector, error) {
	i := &inspector{js: js, policy: p, log: log, busy: make(chan struct{}, maxInspecting)}
	i.ctx, i.cancel = context.WithCancel(context.Background())
	var err error
	if i.sub, err = js.Conn().QueueSubscribe(policy.AskSubject("*", "*", "*"), "inspect", i.take); err == nil {
		err = js.Conn().FlushTimeout(apiTimeout)
	}
	if err != nil {
		i.cancel()
		return nil, fmt.Errorf("%w: answer about queues: %w", ErrServer, err)
	}
	return i, nil
}

// stop ends it once every question that has come is answered, or after stopTimeout.
func (i *inspector) stop() {
	i.once.Do(func() { leave(i.ctx, i.cancel, i.busy, i.sub) })
}

func (i *inspector) take(m *nats.Msg) {
	select {
	case i.busy <- struct{}{}:
	case <-i.ctx.Done():
		return
	}
	go func() {
		defer func() { <-i.busy }()
		ctx, cancel := context.WithTimeout(i.ctx, apiTimeout)
		defer cancel()
		raw, err := json.Marshal(i.answer(ctx, m))
		if err != nil {
			i.log.Warn("a question about a queue cannot be answered", "subject", m.Subject, "error", err)
			return
		}
		_ = m.Respond(raw)
	}()
}

func (i *inspector) answer(ctx context.Context, m *nats.Msg) any {
	queue, what, err := i.question(m.Subject)
	switch {
	case err != nil:
		i.log.Debug("question about a queue refused", "subject", m.Subject, "reason", err)
		return policy.PurgeAnswer{Error: err.Error()}
	case what == policy.AskPurge:
		n, err := i.purgeDead(ctx, queue, m.Data)
		if err != nil {
			return policy.PurgeAnswer{Error: err.Error()}
		}
		return policy.PurgeAnswer{Purged: n}
	}
	state, err := i.state(ctx, queue)
	if err != nil {
		i.log.Warn("the state of a queue cannot be read", "queue", queue, "error", err)
		return policy.QueueState{Error: "the broker cannot read the state of queue " + queue}
	}
	return state
}

// question checks what an agent asks. The server has checked it too; an external
// one may be told otherwise.
func (i *inspector) question(subject string) (queue, what string, err error) {
	queue, agent, what, ok := policy.CutAskSubject(subject)
	if !ok {
		return "", "", errors.New("no such subject")
	}
	ch, err := i.policy.QueueChannel(queue)
	if err != nil {
		return "", "", err
	}
	enqueues, works := i.policy.CanWrite(ch, agent), i.policy.MayWork(queue, agent)
	switch {
	case what == policy.AskPurge && !enqueues:
		return "", "", fmt.Errorf("%s may not put tasks into queue %s, and so not purge its dead letters", agent, queue)
	case !enqueues && !works:
		return "", "", fmt.Errorf("%s has no part in queue %s", agent, queue)
	}
	return queue, what, nil
}

// purgeDead removes dead letters. The server has synced that when it answers.
func (i *inspector) purgeDead(ctx context.Context, queue string, body []byte) (uint64, error) {
	var request policy.PurgeRequest
	if len(body) > maxQuestion || json.Unmarshal(body, &request) != nil || request.All == (request.ID != "") {
		return 0, errors.New("the request names neither one dead letter nor all")
	}
	stream := policy.DeadStream(queue)
	var take purgeRequest
	if request.All {
		s, err := i.js.Stream(ctx, stream)
		if err != nil {
			return 0, fmt.Errorf("stream %s cannot be read", stream)
		}
		state := s.CachedInfo().State
		if state.Msgs == 0 {
			return 0, nil
		}
		take.Below = state.LastSeq + 1
	} else {
		take.Subject = policy.DeadSubject(queue, request.ID)
		// A wildcard would take more than the one.
		if _, _, ok := policy.CutDeadSubject(take.Subject); !ok {
			return 0, fmt.Errorf("%.40q is no id of a dead letter", request.ID)
		}
	}
	answer, err := purge(ctx, i.js, stream, take)
	if err != nil {
		return 0, fmt.Errorf("stream %s cannot be purged", stream)
	}
	n, err := purged(answer)
	if err != nil {
		return 0, fmt.Errorf("purge stream %s: %w", stream, err)
	}
	i.log.Info("dead letters purged", "queue", queue, "letters", n)
	return n, nil
}

// state reads how a queue stands. What it reads follows one another: under load
// the numbers are of slightly different moments.
func (i *inspector) state(ctx context.Context, queue string) (s policy.QueueState, err error) {
	for _, want := range []struct {
		stream string
		state  *policy.StreamState
	}{
		{policy.TaskStream(queue), &s.Log},
		{policy.DeadStream(queue), &s.Dead},
		{policy.ResultStream(queue), &s.Results},
		{policy.ControlStream(queue), &s.Controls},
	} {
		stream, err := i.js.Stream(ctx, want.stream)
		if err != nil {
			return s, fmt.Errorf("stream %s: %w", want.stream, err)
		}
		*want.state = streamState(stream.CachedInfo())
	}
	if err := i.delays(ctx, queue, &s); err != nil {
		return s, err
	}
	for priority := range s.Priorities {
		if s.Priorities[priority], err = i.priority(ctx, queue, priority); err != nil {
			return s, err
		}
	}
	return s, nil
}

func streamState(i *jetstream.StreamInfo) policy.StreamState {
	return policy.StreamState{Messages: i.State.Msgs, Bytes: i.State.Bytes,
		MaxMessages: uint64(max(i.Config.MaxMsgs, 0)), MaxBytes: uint64(max(i.Config.MaxBytes, 0))}
}

// delays counts what waits for its time. Besides, the stream has what has come
// into the log already, until the trimmer has been there.
func (i *inspector) delays(ctx context.Context, queue string, s *policy.QueueState) error {
	name := policy.DelayStream(queue)
	stream, err := i.js.Stream(ctx, name)
	if err != nil {
		return fmt.Errorf("stream %s: %w", name, err)
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(policy.DuePattern(queue)))
	if err != nil {
		return fmt.Errorf("stream %s: %w", name, err)
	}
	s.Delays = streamState(info)
	if all, due := info.State.NumSubjects, uint64(len(info.State.Subjects)); all > due {
		s.Delayed = all - due
	}
	return nil
}

func (i *inspector) priority(ctx context.Context, queue string, priority int) (s policy.PriorityState, err error) {
	log, name := policy.TaskStream(queue), policy.TaskConsumer(priority)
	c, err := i.js.Consumer(ctx, log, name)
	if err != nil {
		return s, fmt.Errorf("consumer %s of stream %s: %w", name, log, err)
	}
	info := c.CachedInfo()
	s.Pending, s.Out = info.NumPending, uint64(max(info.NumAckPending, 0))
	if s.Pending == 0 && s.Out == 0 {
		return s, nil
	}
	for _, subject := range append(info.Config.FilterSubjects, info.Config.FilterSubject) {
		if subject == "" {
			continue
		}
		first, err := find(ctx, i.js, log, findRequest{Seq: info.AckFloor.Stream + 1, Next: subject})
		if err != nil {
			return s, err
		}
		if first != nil && (s.Oldest.IsZero() || first.Time.Before(s.Oldest)) {
			s.Oldest = first.Time.UTC().Round(time.Millisecond)
		}
	}
	return s, nil
}
