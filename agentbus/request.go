package agentbus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// Request asks another agent and returns its reply. Where several instances run under the agent's name, one
// of them is asked. Request and reply travel on the channel of the two, which nobody else can read; the
// reply is proven to be this agent's answer to this request.
//
// Delivery is at most once: without an answer it is not known whether the handler ran. The error is ctx's
// when time ran out (after Config.RequestTimeout if ctx has no deadline), ErrNoResponder when nobody serves
// there, a *RemoteError when the handler returned one, ErrNotEntitled when the policy has no direct rule for
// the two. A responder refuses the request once ctx's deadline has passed, and its handler's context ends with it.
// A request that is sent while the connection is away waits for it, as Publish does.
func (b *Bus) Request(ctx context.Context, agent string, payload []byte, options ...MessageOption) (*Message, error) {
	if err := identity.CheckName(agent); err != nil {
		return nil, err
	}
	me := b.self.Name()
	if agent == me {
		return nil, fmt.Errorf("agentbus: %s cannot send a request to itself", me)
	}
	if p := b.ring.Policy(); !p.MayRequest(me, agent) {
		return nil, fmt.Errorf("%w: policy revision %d has no direct rule from %q to %q", ErrNotEntitled, p.Revision(), me, agent)
	}
	ch, err := policy.Pair(me, agent)
	if err != nil {
		return nil, err
	}
	return b.request(ctx, ch, policy.AgentSubject(agent), agent, payload, options)
}

// RequestService asks a service and returns the reply of the one of its servers that took the request. All
// of the service's servers can read the request, only the caller the reply. Otherwise it is as Request. An agent
// that serves the service itself cannot also call it: it might be asked to answer itself.
func (b *Bus) RequestService(ctx context.Context, service string, payload []byte, options ...MessageOption) (*Message, error) {
	ch, err := b.ring.Policy().ServiceChannel(service)
	if err != nil {
		return nil, err
	}
	if b.ring.Policy().CanRead(ch, b.self.Name()) {
		return nil, fmt.Errorf("agentbus: %s serves %s and cannot call it: call what the handler does, or use an agent that does not serve it",
			b.self.Name(), service)
	}
	return b.request(ctx, ch, policy.ServiceSubject(service), service, payload, options)
}

func (b *Bus) request(ctx context.Context, ch policy.Channel, subject, recipient string, payload []byte, options []MessageOption) (*Message, error) {
	o, err := prepare(payload, options)
	if err != nil {
		return nil, err
	}
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	// The responder's clock may be ahead of this one; it still must not refuse what is in time.
	if d, _ := ctx.Deadline(); o.expires.IsZero() || d.Add(keyring.MaxClockLead).Before(o.expires) {
		o.expires = d.Add(keyring.MaxClockLead)
	}
	p := &pending{channel: ch, to: recipient, done: make(chan answer, 1)}
	draft := &keyring.Draft{Kind: envelope.KindRequest, Recipient: recipient, Expires: o.expires,
		Messages: []envelope.Message{{Headers: o.headers, Payload: payload}}}
	err = b.sealed(ctx, ch, draft, func(frame []byte, id ulid.ULID) error {
		reply, err := b.replies.expect(id, p)
		if err != nil {
			return err
		}
		return b.send(&nats.Msg{Subject: subject, Reply: reply, Data: frame})
	})
	defer b.replies.forget(p)
	if err != nil {
		return nil, err
	}
	b.counts.published.Add(1)
	closing := b.stopped
	if b.ofHandler(ctx) {
		closing = nil
	}
	select {
	case a := <-p.done:
		return a.message, a.err
	case <-closing:
		return nil, ErrClosed
	case <-b.ctx.Done():
		return nil, ErrClosed
	case <-ctx.Done():
		return nil, fmt.Errorf("agentbus: no answer from %s: %w", recipient, ctx.Err())
	}
}

// pending is a request that waits for its reply.
type pending struct {
	id      ulid.ULID // zero: not expected yet
	channel policy.Channel
	to      string // agent or service
	done    chan answer
}

type answer struct {
	message *Message
	err     error
}

// replies is the agent's inbox: one subscription for all requests, whose ids are the last token of the reply
// subject.
type replies struct {
	bus    *Bus
	prefix string
	in     *intake
	route  *route
	ended  chan struct{}
	once   sync.Once

	mu      sync.Mutex
	waiting map[ulid.ULID]*pending
}

func (b *Bus) listenForReplies(ctx context.Context) (*replies, error) {
	rc, err := b.ring.PairReceiver()
	if err != nil {
		return nil, err
	}
	r := &replies{bus: b, prefix: b.wire.inbox(), waiting: make(map[ulid.ULID]*pending), ended: make(chan struct{})}
	r.in = newIntake(b, rc, &b.counts)
	r.in.want, r.in.deliver, r.in.control = r.want, r.deliver, r.noResponder
	r.route = &route{subject: r.prefix + "*", inlet: r.in.inlet}
	go func() {
		r.in.run()
		close(r.ended)
	}()
	err = b.wire.add(r.route)
	if err == nil {
		err = b.wire.settle(ctx, r.route)
	}
	if err != nil {
		r.end()
		return nil, err
	}
	return r, nil
}

func (r *replies) end() {
	r.once.Do(func() {
		r.bus.wire.drop(r.route)
		r.in.inlet.end()
	})
	<-r.ended
}

// expect registers a request and returns the subject for its reply.
func (r *replies) expect(id ulid.ULID, p *pending) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.waiting) >= maxPending {
		return "", fmt.Errorf("agentbus: %d requests wait for their replies already", maxPending)
	}
	p.id, r.waiting[id] = id, p
	return r.prefix + id.String(), nil
}

func (r *replies) forget(p *pending) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.waiting, p.id)
}

// find returns the request that a reply subject is for.
func (r *replies) find(subject string) (ulid.ULID, *pending) {
	token, ok := strings.CutPrefix(subject, r.prefix)
	id, err := ulid.ParseStrict(token)
	if !ok || err != nil {
		return id, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return id, r.waiting[id]
}

// errLate is for a reply that nobody waits for any more: that is counted, it is no attack.
var errLate = errors.New("agentbus: nobody waits for this reply any more")

// want expects the reply to exactly the request, of exactly the agent that was asked.
func (r *replies) want(m *nats.Msg) (keyring.Want, error) {
	id, p := r.find(m.Subject)
	if p == nil {
		return keyring.Want{}, errLate
	}
	w := keyring.Want{Kinds: keyring.Kinds(envelope.KindReply, envelope.KindError), Recipient: r.bus.self.Name(), Ref: id}
	if p.channel.Kind() == policy.KindPair {
		w.Sender = p.to
	}
	return w, nil
}

func (r *replies) deliver(m *nats.Msg, o *keyring.Opened) {
	_, p := r.find(m.Subject)
	if p == nil {
		r.bus.counts.late.Add(1)
		return
	}
	// A service's reply is some server's: one that the policy names as such.
	if p.channel.Kind() == policy.KindService && !r.bus.ring.Policy().CanRead(p.channel, o.Sender.Name()) {
		r.bus.reject(&r.bus.counts, m, &keyring.Rejection{Reason: keyring.NotEntitled, Channel: o.Channel.String(),
			Sender: o.Sender.String(), ID: o.ID, Detail: "does not serve " + p.to})
		return
	}
	if len(o.Messages) != 1 {
		r.bus.reject(&r.bus.counts, m, notOne(o))
		return
	}
	a := answer{message: newMessage(p.to, o)}
	if o.Kind == envelope.KindError {
		a = answer{err: newRemoteError(a.message)}
	}
	select {
	case p.done <- a:
	default: // answered already
		r.bus.counts.late.Add(1)
	}
}

// notOne rejects a request or reply that is several messages: only its sender can have made that.
func notOne(o *keyring.Opened) *keyring.Rejection {
	return &keyring.Rejection{Reason: keyring.BadContent, Channel: o.Channel.String(), Sender: o.Sender.String(), ID: o.ID,
		Detail: "a request or reply is one message"}
}

// noResponder takes the server's own message that nobody is subscribed. It reports whether m was one.
func (r *replies) noResponder(m *nats.Msg) bool {
	if len(m.Data) > 0 || m.Header.Get("Status") != "503" {
		return false
	}
	if _, p := r.find(m.Subject); p != nil {
		select {
		case p.done <- answer{err: fmt.Errorf("%w: %s", ErrNoResponder, p.to)}:
		default:
		}
	}
	return true
}
