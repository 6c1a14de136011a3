package agentbus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
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
// the two. A responder refuses the request once ctx's deadline has passed.
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
// of the service's servers can read the request, only the caller the reply. Otherwise it is as Request.
func (b *Bus) RequestService(ctx context.Context, service string, payload []byte, options ...MessageOption) (*Message, error) {
	ch, err := b.ring.Policy().ServiceChannel(service)
	if err != nil {
		return nil, err
	}
	return b.request(ctx, ch, policy.ServiceSubject(service), service, payload, options)
}

func (b *Bus) request(ctx context.Context, ch policy.Channel, subject, recipient string, payload []byte, options []MessageOption) (*Message, error) {
	o, err := prepare(payload, options)
	if err != nil {
		return nil, err
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, b.config.RequestTimeout)
		defer cancel()
	}
	if d, _ := ctx.Deadline(); o.expires.IsZero() || d.Before(o.expires) {
		// The responder's clock may be ahead of this one; it still must not refuse what is in time.
		o.expires = d.Add(keyring.MaxClockLead)
	}
	s, err := b.sender(ctx, ch)
	if err != nil {
		return nil, err
	}
	frame, id, err := s.Seal(nil, &keyring.Draft{Kind: envelope.KindRequest, Recipient: recipient, Expires: o.expires,
		Messages: []envelope.Message{{Headers: o.headers, Payload: payload}}})
	if err != nil {
		return nil, sealError(err)
	}
	p := &pending{channel: ch, to: recipient, done: make(chan answer, 1)}
	reply, err := b.replies.expect(id, p)
	if err != nil {
		return nil, err
	}
	defer b.replies.forget(id)
	if err := b.send(&nats.Msg{Subject: subject, Reply: reply, Data: frame}); err != nil {
		return nil, err
	}
	b.counts.published.Add(1)
	select {
	case a := <-p.done:
		return a.message, a.err
	case <-b.stopped:
		return nil, ErrClosed
	case <-ctx.Done():
		return nil, fmt.Errorf("agentbus: no answer from %s: %w", recipient, ctx.Err())
	}
}

// pending is a request that waits for its reply.
type pending struct {
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
	sub    *nats.Subscription
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
	r := &replies{bus: b, prefix: policy.InboxPrefix(b.self.Name()) + "." + nuid.Next() + ".",
		waiting: make(map[ulid.ULID]*pending), ended: make(chan struct{})}
	r.in = newIntake(b, rc, &b.counts)
	r.in.want, r.in.deliver, r.in.control = r.want, r.deliver, r.noResponder
	if r.sub, err = b.nc.ChanSubscribe(r.prefix+"*", r.in.arrived); err != nil {
		return nil, err
	}
	go func() {
		r.in.run()
		close(r.ended)
	}()
	if err := b.nc.FlushWithContext(ctx); err != nil {
		r.end()
		return nil, err
	}
	return r, nil
}

func (r *replies) end() {
	r.once.Do(func() {
		_ = r.sub.Unsubscribe() // fails only when the connection is closed, which ends it too
		close(r.in.stop)
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
	r.waiting[id] = p
	return r.prefix + id.String(), nil
}

func (r *replies) forget(id ulid.ULID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.waiting, id)
}

func (r *replies) idle() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.waiting) == 0
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
	a := answer{message: newMessage(p.to, o, &o.Messages[0])}
	if o.Kind == envelope.KindError {
		a = answer{err: &RemoteError{Agent: o.Sender.Name(), Text: string(a.message.Payload),
			overloaded: a.message.Header(headerOverloaded) != ""}}
	}
	select {
	case p.done <- a:
	default: // answered already
		r.bus.counts.late.Add(1)
	}
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
