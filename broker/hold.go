package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/policy"
)

// ServeQueues answers agents who want a task held back or to recur, ask how a queue stands or
// purge dead letters, until ctx ends; it then answers what has come, for at most
// five seconds, and returns nil. An embedded node does this by itself. An operator runs it against an external cluster, with js connected
// to the account that holds the streams; where it does not run, all of that is
// refused, and delayed tasks that wait already are not concerned. Any number may run
// at a time.
//
// An agent asks for a delay by a request to policy.DelaySubject with the task as
// body and two headers: "Nats-Schedule" is "@at " and a time as in RFC 3339, "Nats-Schedule-Target"
// is the policy.DueSubject of a priority. The answer is JetStream's; the task is
// then on disk. It goes into the log at that time or within a quarter of a second
// after it, at once when the time is past. The same id again replaces what is
// still held. A request with neither headers nor body removes it; the answer's
// field "purged" is 1, or 0 where nothing was held under that id.
//
// For a recurring task the request goes to policy.RecurSubject, with its
// template as body and the headers "Sealbus-Schedule", a cron expression and a
// time zone, or "@every" and an interval, and "Nats-Schedule-Target" as above.
// The template goes into the log at each of its ticks, by this node's clock and
// time zones. The same name again, whoever asks, replaces it; a request with
// neither headers nor body removes it. The tick that a cluster has missed while
// it was stopped comes when it is back, of several the last one. A queue has up
// to 256 recurring tasks. A request to the subject without a name is answered
// with the template whose name is the first after that in its body.
func ServeQueues(ctx context.Context, js jetstream.JetStream, p *policy.Policy) error {
	h, err := hold(js, p, slog.Default())
	if err != nil {
		return err
	}
	defer h.stop()
	i, err := inspect(js, p, slog.Default())
	if err != nil {
		return err
	}
	defer i.stop()
	<-ctx.Done()
	return nil
}

// Headers of a stream with schedules.
const (
	headerSchedule = "Nats-Schedule"
	headerTarget   = "Nats-Schedule-Target"

	scheduleAt = "@at "
)

// holder writes to the streams of delayed tasks in the agents' place, and lets
// none of their headers through.
type holder struct {
	js     jetstream.JetStream
	policy *policy.Policy
	log    *slog.Logger
	sub    *nats.Subscription
	recurs *nats.Subscription // see recur.go
	one    sync.Mutex         // asks for a recurring task at a time, so that their number stays what it is

	ctx    context.Context
	cancel context.CancelFunc
	busy   chan struct{} // a place for each request that is being answered
	once   sync.Once
}

// hold starts to answer. It returns once the server knows.
func hold(js jetstream.JetStream, p *policy.Policy, log *slog.Logger) (*holder, error) {
	h := &holder{js: js, policy: p, log: log, busy: make(chan struct{}, maxHolding)}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	var err error
	if h.sub, err = js.Conn().QueueSubscribe(policy.DelaySubject("*", "*", "*"), "hold", h.take); err == nil {
		h.recurs, err = js.Conn().QueueSubscribe(policy.RecurPattern, "hold", h.takeRecurring)
	}
	if err == nil {
		err = js.Conn().FlushTimeout(apiTimeout)
	}
	if err != nil {
		h.cancel()
		return nil, fmt.Errorf("%w: hold tasks back: %w", ErrServer, err)
	}
	return h, nil
}

// stop ends it once every request that has come is answered, or after stopTimeout.
func (h *holder) stop() {
	h.once.Do(func() { leave(h.ctx, h.cancel, h.busy, h.sub, h.recurs) })
}

// leave takes no more requests and waits until those that have come are answered:
// one that the server sent before it knew would otherwise wait for an answer in
// vain. After stopTimeout, or once the connection is closed, it cancels what is left.
func leave(ctx context.Context, cancel func(), busy chan struct{}, subs ...*nats.Subscription) {
	defer cancel()
	defer time.AfterFunc(stopTimeout, cancel).Stop()
	for _, sub := range subs {
		closed := sub.StatusChanged(nats.SubscriptionClosed)
		if sub.Drain() != nil {
			cancel() // the connection is closed
			break
		}
		select {
		case <-closed:
		case <-ctx.Done():
			_ = sub.Unsubscribe()
		}
	}
	for range cap(busy) {
		busy <- struct{}{}
	}
}

// take answers in its own time, because every write waits for the disk.
func (h *holder) take(m *nats.Msg) {
	select {
	case h.busy <- struct{}{}:
	case <-h.ctx.Done():
		return
	}
	go func() {
		defer func() { <-h.busy }()
		answer, err := h.answer(m)
		if err != nil {
			h.log.Debug("delayed task refused", "subject", m.Subject, "reason", err)
			answer = refusal(err)
		}
		_ = m.Respond(answer)
	}()
}

func (h *holder) answer(m *nats.Msg) ([]byte, error) {
	queue, agent, id, ok := policy.CutDelaySubject(m.Subject)
	if !ok {
		return nil, errors.New("no such subject")
	}
	// The server has checked this too; an external one may be told otherwise.
	ch, err := h.policy.QueueChannel(queue)
	if err != nil {
		return nil, err
	}
	if !h.policy.CanWrite(ch, agent) {
		return nil, fmt.Errorf("%s may not put tasks into queue %s", agent, queue)
	}
	ctx, cancel := context.WithTimeout(h.ctx, apiTimeout)
	defer cancel()
	held := policy.HeldSubject(queue, agent, id)
	schedule, target := m.Header.Get(headerSchedule), m.Header.Get(headerTarget)
	if schedule == "" && target == "" && len(m.Data) == 0 {
		return purge(ctx, h.js, policy.DelayStream(queue), purgeRequest{Subject: held})
	}
	at, err := parseSchedule(schedule, time.Now())
	if err != nil {
		return nil, err
	}
	if !isDue(queue, target) {
		return nil, fmt.Errorf("the target %.80q is no priority of queue %s", target, queue)
	}
	next := &nats.Msg{Subject: held, Data: m.Data, Header: nats.Header{
		headerSchedule: {scheduleAt + at.UTC().Format(time.RFC3339Nano)},
		headerTarget:   {target},
	}}
	reply, err := h.js.Conn().RequestMsgWithContext(ctx, next)
	if err != nil {
		return nil, err
	}
	return reply.Data, nil
}

// parseSchedule reads a single time. What repeats is refused: it would put the
// same bytes into the queue again, which is a replay. See recur.go for templates.
func parseSchedule(s string, now time.Time) (time.Time, error) {
	text, ok := strings.CutPrefix(s, scheduleAt)
	if !ok {
		return time.Time{}, fmt.Errorf("the schedule %.80q is not %q and a time", s, scheduleAt)
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("the schedule %.80q has no time as in RFC 3339", s)
	}
	if at.After(now.Add(policy.MaxDelay)) {
		return time.Time{}, fmt.Errorf("%s is more than %v ahead", at.Format(time.RFC3339), policy.MaxDelay)
	}
	return at, nil
}

func isDue(queue, target string) bool {
	for priority := range policy.Priorities {
		if target == policy.DueSubject(queue, priority) {
			return true
		}
	}
	return false
}

// refusal is an error in JetStream's form.
func refusal(err error) []byte {
	var answer struct {
		Error jetstream.APIError `json:"error"`
	}
	answer.Error = jetstream.APIError{Code: 400, ErrorCode: errCodeSchedule, Description: err.Error()}
	raw, _ := json.Marshal(answer)
	return raw
}

// errCodeSchedule is what a stream answers to a schedule that it cannot read.
const errCodeSchedule = 10189
