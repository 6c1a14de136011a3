package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/internal/schedule"
	"github.com/sealbus/sealbus/policy"
)

// Headers of recurring tasks.
const (
	headerZone      = "Nats-Schedule-Time-Zone"
	headerRecurrent = "Sealbus-Schedule"
	headerName      = "Sealbus-Name"
)

// takeRecurring is take for recurring tasks.
func (h *holder) takeRecurring(m *nats.Msg) {
	select {
	case h.busy <- struct{}{}:
	case <-h.ctx.Done():
		return
	}
	go func() {
		defer func() { <-h.busy }()
		answer, err := h.answerRecurring(m)
		if err != nil {
			h.log.Debug("recurring task refused", "subject", m.Subject, "reason", err)
			answer = &nats.Msg{Data: refusal(err)}
		}
		_ = m.RespondMsg(answer)
	}()
}

func (h *holder) answerRecurring(m *nats.Msg) (*nats.Msg, error) {
	queue, agent, name, ok := policy.CutRecurSubject(m.Subject)
	if !ok {
		return nil, errors.New("no such subject")
	}
	// The server has checked this too; an external one may be told otherwise.
	ch, err := h.policy.QueueChannel(queue)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(h.ctx, apiTimeout)
	defer cancel()
	writes := h.policy.CanWrite(ch, agent)
	switch {
	case name == "" && (writes || h.policy.MayWork(queue, agent)):
		return h.showAfter(ctx, queue, string(m.Data))
	case !writes || name == "":
		return nil, fmt.Errorf("%s may not put tasks into queue %s", agent, queue)
	case len(m.Data) == 0 && m.Header.Get(headerRecurrent) == "" && m.Header.Get(headerTarget) == "":
		raw, err := purge(ctx, h.js, policy.DelayStream(queue), purgeRequest{Subject: policy.RecurringSubject(queue, name)})
		return &nats.Msg{Data: raw}, err
	}
	return h.holdRecurring(ctx, queue, name, m)
}

// holdRecurring writes a schedule that puts the same bytes into the queue at
// every tick. That they are run once for each is for workers to see to, who do so
// for templates and for nothing else.
func (h *holder) holdRecurring(ctx context.Context, queue, name string, m *nats.Msg) (*nats.Msg, error) {
	text := m.Header.Get(headerRecurrent)
	s, err := schedule.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("the schedule %.80q: %w", text, err)
	}
	target := m.Header.Get(headerTarget)
	switch {
	case !isDue(queue, target):
		return nil, fmt.Errorf("the target %.80q is no priority of queue %s", target, queue)
	case len(m.Data) == 0 || len(m.Data) > maxTemplate:
		return nil, fmt.Errorf("a template of %d bytes; the limit is %d", len(m.Data), maxTemplate)
	}
	h.one.Lock()
	defer h.one.Unlock()
	names, err := h.recurring(ctx, queue)
	if err != nil {
		return nil, err
	}
	if len(names) >= maxRecurring && !slices.Contains(names, name) {
		return nil, fmt.Errorf("queue %s has %d recurring tasks already; the limit is %d", queue, len(names), maxRecurring)
	}
	next := &nats.Msg{Subject: policy.RecurringSubject(queue, name), Data: m.Data, Header: nats.Header{
		headerSchedule:  {s.Wakes()},
		headerZone:      {s.Zone()},
		headerTarget:    {target},
		headerRecurrent: {s.String()},
	}}
	reply, err := h.js.Conn().RequestMsgWithContext(ctx, next)
	if err != nil {
		return nil, err
	}
	return &nats.Msg{Data: reply.Data}, nil
}

// recurring returns the names of a queue's recurring tasks, sorted.
func (h *holder) recurring(ctx context.Context, queue string) ([]string, error) {
	s, err := h.js.Stream(ctx, policy.DelayStream(queue))
	if err != nil {
		return nil, err
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(policy.RecurringSubject(queue, "*")))
	if err != nil {
		return nil, err
	}
	var names []string
	for subject := range info.State.Subjects {
		names = append(names, strings.TrimPrefix(subject, policy.RecurringSubject(queue, "")))
	}
	slices.Sort(names)
	return names, nil
}

// showAfter answers with the first template whose name comes after another, and
// with an empty object when there is none: one at a time, because one can be as
// large as a message may be.
func (h *holder) showAfter(ctx context.Context, queue, after string) (*nats.Msg, error) {
	if after != "" && !policy.IsRecurName(after) {
		return nil, errors.New("no such name")
	}
	names, err := h.recurring(ctx, queue)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if name <= after {
			continue
		}
		held, err := find(ctx, h.js, policy.DelayStream(queue), findRequest{Last: policy.RecurringSubject(queue, name)})
		if err != nil {
			return nil, err
		}
		if held == nil { // removed meanwhile
			continue
		}
		text, err := held.header(headerRecurrent)
		if err != nil {
			return nil, err
		}
		return &nats.Msg{Data: held.Data, Header: nats.Header{headerName: {name}, headerRecurrent: {text}}}, nil
	}
	return &nats.Msg{Data: []byte("{}")}, nil
}
