package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/broker"
	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/keyring"
)

// adversary owns the broker. It has the broker's certificate and with it every permission, in the agents'
// account and in that of the store, and it has been listening from the start.
type adversary struct {
	agents, store *tap
}

// tap is a connection that takes a copy of every message in one account.
type tap struct {
	account string
	nc      *nats.Conn
	heard   journal[heard]
	fences  int
}

// heard is a message that a tap took.
type heard struct {
	account, subject, reply string
	header                  nats.Header
	data                    []byte
}

// all is everything of a message that there is to be read.
func (h *heard) all() []byte {
	b := append([]byte(h.subject+"\n"+h.reply+"\n"), h.data...)
	for k, values := range h.header {
		b = append(b, "\n"+k+": "+strings.Join(values, ", ")...)
	}
	return b
}

func newAdversary(ctx context.Context, st *stage) (_ *adversary, err error) {
	a := &adversary{}
	if a.agents, err = newTap(ctx, st, broker.AccountAgents); err != nil {
		return nil, err
	}
	a.store, err = newTap(ctx, st, broker.AccountStore)
	return a, err
}

func newTap(ctx context.Context, st *stage, account string) (*tap, error) {
	src, err := st.ca.BrokerSource(node, certLife)
	if err != nil {
		return nil, err
	}
	config, err := identity.ClientTLS(src)
	if err != nil {
		return nil, err
	}
	t := &tap{account: account}
	t.nc, err = nats.Connect(st.node.URL(), nats.Secure(config), nats.TLSHandshakeFirst(), nats.UserInfo(account, ""),
		nats.Name("adversary"), nats.Timeout(startup), nats.NoReconnect())
	if err != nil {
		return nil, err
	}
	if err := t.listen(ctx); err != nil {
		t.nc.Close()
		return nil, err
	}
	return t, nil
}

func (t *tap) listen(ctx context.Context) error {
	sub, err := t.nc.Subscribe(">", func(m *nats.Msg) {
		t.heard.add(heard{t.account, m.Subject, m.Reply, m.Header, m.Data})
	})
	if err != nil {
		return err
	}
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return err
	}
	return t.nc.FlushWithContext(ctx)
}

func (a *adversary) close() {
	for _, t := range []*tap{a.agents, a.store} {
		if t != nil && t.nc != nil {
			t.nc.Close()
		}
	}
}

// catchUp waits until the tap has taken everything that the broker has passed on so far: messages come in
// order, so its own one comes behind them.
func (t *tap) catchUp(ctx context.Context) error {
	mark := t.heard.mark()
	t.fences++
	subject := fmt.Sprintf("fence.%d", t.fences)
	if err := t.nc.Publish(subject, nil); err != nil {
		return err
	}
	_, ok := t.heard.await(ctx, mark, func(list []heard) bool {
		return slices.ContainsFunc(list, func(h heard) bool { return h.subject == subject })
	})
	if !ok {
		return fmt.Errorf("the tap of %s hears nothing: %w", t.account, ctx.Err())
	}
	return nil
}

// everything returns all that was heard, in both accounts.
func (a *adversary) everything(ctx context.Context) ([]heard, error) {
	var all []heard
	for _, t := range []*tap{a.agents, a.store} {
		if err := t.catchUp(ctx); err != nil {
			return nil, err
		}
		for _, h := range t.heard.since(0) {
			if !strings.HasPrefix(h.subject, "fence.") {
				all = append(all, h)
			}
		}
	}
	return all, nil
}

// frames returns what was heard on a subject in an account, in order.
func (t *tap) frames(ctx context.Context, subject string) ([][]byte, error) {
	if err := t.catchUp(ctx); err != nil {
		return nil, err
	}
	var list [][]byte
	for _, h := range t.heard.since(0) {
		if h.subject == subject {
			list = append(list, h.data)
		}
	}
	return list, nil
}

// trial is something that the adversary puts on the wire.
type trial struct {
	what    string
	subject string // on NATS
	reply   string
	frames  [][]byte
	header  nats.Header
	want    []keyring.Reason // what the refusals should be; nil: any
	readers []*member        // who gets to see it
	probe   func(context.Context) error
}

// try does it, has something valid follow on the same way, and states what came of both.
func (s *scene) try(ctx context.Context, t trial) error {
	type mark struct{ got, refused int }
	marks := make(map[*member]mark)
	for _, m := range t.readers {
		marks[m] = mark{m.got.mark(), m.refused.mark()}
	}
	for _, f := range t.frames {
		if err := s.enemy.agents.nc.PublishMsg(&nats.Msg{Subject: t.subject, Reply: t.reply, Header: t.header, Data: f}); err != nil {
			return err
		}
	}
	if err := s.enemy.agents.nc.FlushWithContext(ctx); err != nil {
		return err
	}
	if err := t.probe(ctx); err != nil {
		return fmt.Errorf("after the adversary %s: %w", t.what, err)
	}
	v := verdict{held: true, reasons: make(map[keyring.Reason]int)}
	for _, m := range t.readers {
		v.judge(ctx, s.stage, &t, m, marks[m].got, marks[m].refused)
	}
	outcome, bad := outcomeOf(v.reasons), "UNCLEAR"
	if v.believed > 0 {
		v.held, bad = false, "GOT IN"
		outcome = strings.TrimPrefix(fmt.Sprintf("%s, %d believed", outcome, v.believed), ", ")
	}
	s.verdict(v.held, bad, t.what, outcome)
	s.record(len(t.frames), &v)
	return nil
}

// verdict is what came of a trial.
type verdict struct {
	held     bool // every frame was refused by every reader, for a reason that was to be expected
	believed int  // what reached a handler beside the valid message
	reasons  map[keyring.Reason]int
}

// judge adds what one reader made of a trial: marks say what it had got and refused before.
func (v *verdict) judge(ctx context.Context, st *stage, t *trial, m *member, got, refused int) {
	list, complete := m.refused.await(ctx, refused, func(list []agentbus.Rejection) bool {
		return len(on(list, t.subject)) >= len(t.frames)
	})
	list = on(list, t.subject)
	v.held = v.held && complete && len(list) == len(t.frames)
	for _, r := range list {
		v.reasons[r.Reason]++
		v.held = v.held && (t.want == nil || slices.Contains(t.want, r.Reason))
	}
	for _, msg := range m.got.since(got) {
		if string(msg.Payload) != st.probeText() {
			v.believed++
		}
	}
}

// on returns the rejections on a subject.
func on(list []agentbus.Rejection, subject string) []agentbus.Rejection {
	return slices.DeleteFunc(list, func(r agentbus.Rejection) bool { return r.Subject != subject })
}

// record adds a trial to the figures.
func (s *scene) record(frames int, v *verdict) {
	by, ok := s.figures["refused_for"].(map[string]int)
	if !ok {
		by = make(map[string]int)
		s.figures["refused_for"] = by
	}
	for r, n := range v.reasons {
		s.add("refused", n)
		by[strings.ReplaceAll(r.String(), " ", "_")] += n
	}
	s.add("tries", frames)
	s.add("believed", v.believed)
}

// add adds to a figure.
func (s *scene) add(name string, n int) {
	have, _ := s.figures[name].(int)
	s.figures[name] = have + n
}

// outcomeOf says why frames were refused, in the order of the checks.
func outcomeOf(reasons map[keyring.Reason]int) string {
	var parts []string
	for _, r := range keyring.Reasons() {
		if n := reasons[r]; n > 0 {
			parts = append(parts, fmt.Sprintf("%s %s", number(n), r))
		}
	}
	return strings.Join(parts, ", ")
}
