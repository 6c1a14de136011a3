package agentbus

import (
	"context"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// RequestHandler answers one request. What it returns is the reply's payload. An error is sent to the
// requester, who gets its text, cut at 1 KiB, in a RemoteError; after a panic the requester is told that
// the handler failed and no more. Its context ends when the bus gives up waiting for it at Close.
type RequestHandler func(ctx context.Context, request *Message) ([]byte, error)

// ServeOption is an option of Serve and ServeService.
type ServeOption interface{ applyServe(*serveOptions) error }

type serveOptions struct{ concurrency int }

type serveOption func(*serveOptions) error

func (f serveOption) applyServe(o *serveOptions) error { return f(o) }

// Concurrency is how many requests are handled at once, DefaultConcurrency if it is not given.
func Concurrency(n int) ServeOption {
	return serveOption(func(o *serveOptions) error {
		if n < 1 {
			return fmt.Errorf("agentbus: Concurrency(%d): use at least 1", n)
		}
		o.concurrency = n
		return nil
	})
}

// Serve answers the requests that other agents send to this one. Where several instances run under this
// agent's name, each request goes to one of them. A request that finds Config.Buffer full is answered with
// ErrOverloaded. ctx bounds the call, not the serving.
func (b *Bus) Serve(ctx context.Context, handler RequestHandler, options ...ServeOption) (*Subscription, error) {
	if b.closed() {
		return nil, ErrClosed
	}
	rc, err := b.ring.PairReceiver()
	if err != nil {
		return nil, err
	}
	me := b.self.Name()
	return b.serve(ctx, rc, me, policy.AgentSubject(me), handler, options)
}

// ServeService answers the requests to a service that the policy lets this agent serve; each request goes to
// one of the service's servers. Otherwise it is as Serve.
func (b *Bus) ServeService(ctx context.Context, service string, handler RequestHandler, options ...ServeOption) (*Subscription, error) {
	ch, err := b.ring.Policy().ServiceChannel(service)
	if err != nil {
		return nil, err
	}
	rc, err := b.receiver(ctx, ch)
	if err != nil {
		return nil, err
	}
	return b.serve(ctx, rc, service, policy.ServiceSubject(service), handler, options)
}

// job is a request on its way through a handler.
type job struct {
	opened  *keyring.Opened
	request *Message
	reply   string
}

func (b *Bus) serve(ctx context.Context, rc *keyring.Receiver, recipient, subject string, handler RequestHandler, options []ServeOption) (*Subscription, error) {
	if handler == nil {
		return nil, errors.New("agentbus: serving needs a handler")
	}
	o := serveOptions{concurrency: DefaultConcurrency}
	for _, option := range options {
		if err := option.applyServe(&o); err != nil {
			return nil, err
		}
	}
	s := b.newSubscription(rc)
	queue := make(chan job, b.config.Buffer)
	s.in.want = func(m *nats.Msg) (keyring.Want, error) {
		if m.Subject != subject {
			return keyring.Want{}, misdirected("on a subject that is not served")
		}
		return keyring.Want{Kinds: keyring.Kinds(envelope.KindRequest), Recipient: recipient}, nil
	}
	s.in.deliver = func(m *nats.Msg, opened *keyring.Opened) {
		// The broker does not check where a client asks others to answer to, and could change it.
		if agent, ok := policy.InboxOf(m.Reply); !ok || agent != opened.Sender.Name() {
			b.reject(&s.counts, m, &keyring.Rejection{Reason: keyring.Misdirected, Channel: opened.Channel.String(),
				Sender: opened.Sender.String(), ID: opened.ID, Detail: "the reply subject is not the sender's own inbox"})
			return
		}
		j := job{opened, newMessage(recipient, opened, &opened.Messages[0]), m.Reply}
		select {
		case queue <- j:
		default:
			s.dropped(m.Subject)
			b.overloaded(j)
		}
	}
	for range o.concurrency {
		s.workers.Go(func() {
			for j := range queue {
				b.answer(s, j, handler)
			}
		})
	}
	return s.start(ctx, []string{subject}, recipient, func() { close(queue) })
}

// answer runs the handler on a request and sends what it returned.
func (b *Bus) answer(s *Subscription, j job, handler RequestHandler) {
	var payload []byte
	err := protect(func() (err error) {
		payload, err = handler(b.ctx, j.request)
		return err
	})
	if err == nil && len(payload) > MaxPayload {
		err = fmt.Errorf("%w: reply of %d bytes; the limit is %d", ErrTooLarge, len(payload), MaxPayload)
	}
	d := &keyring.Draft{Kind: envelope.KindReply, Messages: []envelope.Message{{Payload: payload}}}
	if err != nil {
		d = failure(err)
	}
	// The handler's outcome is counted before the requester can know of it.
	if err != nil {
		b.failed(&s.counts, j.request.Subject, err)
	} else {
		s.counts.handled.Add(1)
	}
	if err := b.reply(b.ctx, j, d); err != nil {
		b.log.Warn("a reply could not be sent", "to", j.opened.Sender.Name(), "error", err)
	}
}

// failure is what a requester is told of a handler's error.
func failure(err error) *keyring.Draft {
	text := err.Error()
	var p *panicError
	if errors.As(err, &p) {
		text = "the handler failed" // what it panicked with is not for others
	}
	if len(text) > maxErrorText {
		text = text[:maxErrorText]
		for !utf8.ValidString(text) && len(text) > maxErrorText-utf8.UTFMax {
			text = text[:len(text)-1]
		}
	}
	return &keyring.Draft{Kind: envelope.KindError, Messages: []envelope.Message{{Payload: []byte(text)}}}
}

// overloaded answers a request that cannot be taken, if that costs next to nothing: the sender's pair is in
// use already.
func (b *Bus) overloaded(j job) {
	ch, err := policy.Pair(b.self.Name(), j.opened.Sender.Name())
	if err != nil {
		return
	}
	if _, ok := b.senders.Load(ch); !ok {
		return
	}
	d := &keyring.Draft{Kind: envelope.KindError, Messages: []envelope.Message{{
		Headers: []envelope.Pair{{Key: []byte(headerOverloaded), Value: []byte("1")}}, Payload: []byte("overloaded")}}}
	if err := b.reply(b.ctx, j, d); err != nil {
		b.log.Warn("a reply could not be sent", "to", j.opened.Sender.Name(), "error", err)
	}
}

// reply seals an answer to a request and sends it. It always travels on the pair of the two.
func (b *Bus) reply(ctx context.Context, j job, d *keyring.Draft) error {
	to := j.opened.Sender.Name()
	ch, err := policy.Pair(b.self.Name(), to)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, b.config.RequestTimeout)
	defer cancel()
	s, err := b.anySender(ctx, ch)
	if err != nil {
		return err
	}
	d.Recipient, d.Ref = to, j.opened.ID
	frame, _, err := s.Seal(nil, d)
	if err != nil {
		return err
	}
	return b.send(&nats.Msg{Subject: j.reply, Data: frame})
}
