package agentbus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// RequestHandler answers one request. What it returns is the reply's payload. An error is sent to the
// requester, who gets its text, cut at 1 KiB, in a RemoteError: it is for the other agent to read. After a panic the
// requester is told that the handler failed and no more. Both are counted and handed to Config.OnError.
//
// Its context ends when nobody waits for the answer any more, 2 seconds after the requester's own deadline, and when
// the bus or the subscription gives up waiting for it. With that context the bus can still be used for publishing
// and requests while Close waits for the handler.
type RequestHandler func(ctx context.Context, request *Message) ([]byte, error)

// ServeOption is an option of Serve and ServeService.
type ServeOption interface{ applyServe(*serveOptions) error }

type serveOptions struct{ concurrency int }

// ConcurrencyOption is what Concurrency returns, for Serve, ServeService and Work.
type ConcurrencyOption int

// Concurrency is how many requests or tasks are handled at once, DefaultConcurrency if it is not given.
func Concurrency(n int) ConcurrencyOption { return ConcurrencyOption(n) }

func (n ConcurrencyOption) applyServe(o *serveOptions) error { return n.set(&o.concurrency) }
func (n ConcurrencyOption) applyWork(o *workOptions) error   { return n.set(&o.concurrency) }

func (n ConcurrencyOption) set(concurrency *int) error {
	if n < 1 {
		return fmt.Errorf("agentbus: Concurrency(%d): use at least 1", int(n))
	}
	if *concurrency != 0 {
		return errors.New("agentbus: Concurrency is given twice")
	}
	*concurrency = int(n)
	return nil
}

// Serve answers the requests that other agents send to this one. Where several instances run under this
// agent's name, each request goes to one of them. A bus serves its requests once: a second Serve before the first
// has stopped is an error.
//
// Delivery is at most once. A request that finds Config.Buffer full, or that has waited there until nobody waits for
// its answer any more, is dropped and counted; in the first case the requester is told, with ErrOverloaded. A
// reply goes only to the inbox of the authenticated requester. ctx bounds the call, not the serving.
func (b *Bus) Serve(ctx context.Context, handler RequestHandler, options ...ServeOption) (*Subscription, error) {
	if b.closed() {
		return nil, ErrClosed
	}
	me, p := b.self.Name(), b.ring.Policy()
	if !slices.Contains(p.Permissions(me).Subscribe, policy.AgentSubject(me)) {
		return nil, fmt.Errorf("%w: policy revision %d has no direct rule to %q: nobody may send it requests", ErrNotEntitled, p.Revision(), me)
	}
	rc, err := b.ring.PairReceiver()
	if err != nil {
		return nil, ownError(err)
	}
	return b.serve(ctx, rc, me, policy.AgentSubject(me), handler, options)
}

// ServeService answers the requests to a service that the policy lets this agent serve; each request goes to
// one of the service's servers. Otherwise it is as Serve.
func (b *Bus) ServeService(ctx context.Context, service string, handler RequestHandler, options ...ServeOption) (*Subscription, error) {
	ch, err := b.ring.Policy().ServiceChannel(service)
	if err != nil {
		return nil, err
	}
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	rc, err := b.receiver(ctx, ch)
	if err != nil {
		return nil, err
	}
	return b.serve(ctx, rc, service, policy.ServiceSubject(service), handler, options)
}

// job is a request on its way through a handler.
type job struct {
	request *Message
	sender  identity.ID
	id      ulid.ULID // the frame's
	reply   string
	expires time.Time
}

// server is what Serve and ServeService run.
type server struct {
	*Subscription
	recipient, subject string
	handler            RequestHandler
	box                *mailbox[job]
	refusals           *mailbox[job] // requests that the box had no room for
}

func (b *Bus) serve(ctx context.Context, rc *keyring.Receiver, recipient, subject string, handler RequestHandler, options []ServeOption) (*Subscription, error) {
	if handler == nil {
		return nil, errors.New("agentbus: serving needs a handler")
	}
	var o serveOptions
	for _, option := range options {
		if err := option.applyServe(&o); err != nil {
			return nil, err
		}
	}
	if o.concurrency == 0 {
		o.concurrency = DefaultConcurrency
	}
	// Two receivers would each accept a frame that the broker plays to both.
	if !b.claimSubject(subject) {
		return nil, fmt.Errorf("agentbus: %s is served by this bus already", recipient)
	}
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	size := func(j job) (messages, size int) { return 1, j.request.size() }
	v := &server{Subscription: b.newSubscription(rc), recipient: recipient, subject: subject, handler: handler,
		box: newMailbox(b.config.Buffer, size), refusals: newMailbox(maxRefusals, size)}
	v.in.want, v.in.deliver = v.want, v.deliver
	for range o.concurrency {
		v.work(func() { v.box.each(v.answer) })
	}
	v.work(func() { v.refusals.each(v.refuse) })
	return v.start(ctx, recipient, func() {
		v.box.close()
		v.refusals.close()
		v.workers.Wait()
		b.releaseSubject(subject)
	}, subject)
}

// claimSubject notes that a subject is served, unless it is already.
func (b *Bus) claimSubject(subject string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.served[subject] {
		return false
	}
	b.served[subject] = true
	return true
}

func (b *Bus) releaseSubject(subject string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.served, subject)
}

func (v *server) want(m *nats.Msg) (keyring.Want, error) {
	if m.Subject != v.subject {
		return keyring.Want{}, misdirected("on a subject that is not served")
	}
	return keyring.Want{Kinds: keyring.Kinds(envelope.KindRequest), Recipient: v.recipient}, nil
}

func (v *server) deliver(m *nats.Msg, o *keyring.Opened) {
	// The broker does not check where a client asks others to answer to, and could change it.
	if agent, ok := policy.InboxOf(m.Reply); !ok || agent != o.Sender.Name() {
		v.bus.reject(&v.counts, m, &keyring.Rejection{Reason: keyring.Misdirected, Channel: o.Channel.String(),
			Sender: o.Sender.String(), ID: o.ID, Detail: "the reply subject is not the sender's own inbox"})
		return
	}
	if len(o.Messages) != 1 {
		v.bus.reject(&v.counts, m, notOne(o))
		return
	}
	j := job{request: newMessage(v.recipient, o), sender: o.Sender, id: o.ID, reply: m.Reply, expires: o.Expires}
	if !v.box.offer(j) {
		v.dropped(m.Subject, 1)
		v.refusals.offer(j) // as far as these keep up
	}
}

// answer runs the handler on a request and sends what it returned.
func (v *server) answer(j job) {
	ctx, cancel := v.ctx, context.CancelFunc(func() {})
	if !j.expires.IsZero() {
		ctx, cancel = context.WithDeadline(ctx, j.expires)
	}
	defer cancel()
	if v.ctx.Err() == nil && ctx.Err() != nil {
		v.dropped(v.subject, 1)
		return
	}
	var payload []byte
	err := protect(func() (err error) {
		payload, err = v.handler(ctx, j.request)
		return err
	})
	if err == nil && len(payload) > MaxPayload {
		err = fmt.Errorf("%w: reply of %d bytes; the limit is %d", ErrTooLarge, len(payload), MaxPayload)
	}
	// The handler's outcome is counted before the requester can know of it.
	if err != nil {
		v.bus.failed(&v.counts, j.request.Subject, err)
		v.reply(j, failure(err))
		return
	}
	v.counts.handled.Add(1)
	v.reply(j, &keyring.Draft{Kind: envelope.KindReply, Messages: []envelope.Message{{Payload: payload}}})
}

// failure is what a requester is told of a handler's error.
func failure(err error) *keyring.Draft {
	text := err.Error()
	var p *panicError
	if errors.As(err, &p) {
		text = "the handler failed" // what it panicked with is not for others
	}
	return &keyring.Draft{Kind: envelope.KindError, Messages: []envelope.Message{{Payload: []byte(cutText(text))}}}
}

// refuse answers a request that could not be taken.
func (v *server) refuse(j job) {
	v.reply(j, &keyring.Draft{Kind: envelope.KindError, Messages: []envelope.Message{{
		Headers: []envelope.Pair{{Key: []byte(headerOverloaded), Value: []byte("1")}}, Payload: []byte("overloaded")}}})
}

// reply seals an answer to a request and sends it. It always travels on the pair of the two.
func (v *server) reply(j job, d *keyring.Draft) {
	b, to := v.bus, j.sender.Name()
	err := func() error {
		ch, err := policy.Pair(b.self.Name(), to)
		if err != nil {
			return err
		}
		d.Recipient, d.Ref = to, j.id
		return b.sealed(v.ctx, ch, d, func(frame []byte, _ ulid.ULID) error {
			return b.send(&nats.Msg{Subject: j.reply, Data: frame})
		})
	}()
	if err != nil {
		b.log.Warn("a reply could not be sent", "to", to, "error", err)
	}
}
