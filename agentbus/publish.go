package agentbus

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// Publish seals a message and sends it to a topic, or to a subject below one: "prices", "prices.eu.de".
//
// On a topic that the policy does not retain, delivery is at most once: Publish returns when the frame is
// handed over to the connection, as nats.go's own Publish does, and Flush waits until the broker has it.
// Whoever is subscribed then and holds the key receives it. On a retained topic Publish returns after the
// broker has acknowledged that the frame is on its disk; if the acknowledgement does not come it is an
// error, and the frame may be stored or not.
//
// The first Publish to a topic waits for the channel's key: a few milliseconds where a subscriber is
// connected, up to about two seconds where subscribers are known but do not answer. Everything that can be
// checked is checked at the call: the subject, the sizes, whether the policy lets this agent publish there.
func (b *Bus) Publish(ctx context.Context, subject string, payload []byte, options ...MessageOption) error {
	if err := policy.CheckSubject(subject); err != nil {
		return err
	}
	o, err := prepare(payload, options)
	if err != nil {
		return err
	}
	p := b.ring.Policy()
	ch, err := p.TopicChannel(subject)
	if err != nil {
		return err
	}
	s, err := b.sender(ctx, ch)
	if err != nil {
		return err
	}
	frame, id, err := s.Seal(nil, &keyring.Draft{Kind: envelope.KindEvent, Recipient: subject, Expires: o.expires,
		Messages: []envelope.Message{{Headers: o.headers, Payload: payload}}})
	if err != nil {
		return sealError(err)
	}
	settings, _ := p.Settings(ch)
	if settings.Retain > 0 {
		_, err = b.js.Publish(ctx, policy.TopicSubject(subject), frame, jetstream.WithMsgID(id.String()),
			jetstream.WithExpectStream(policy.TopicStream(ch.Name())))
		if err != nil {
			return fmt.Errorf("agentbus: publishing to the retained topic %s was not acknowledged: %w", ch.Name(), err)
		}
	} else if err = b.send(&nats.Msg{Subject: policy.TopicSubject(subject), Data: frame}); err != nil {
		return err
	}
	b.counts.published.Add(1)
	return nil
}

// Flush waits until the broker has everything that was handed over before.
func (b *Bus) Flush(ctx context.Context) error {
	if b.closed() {
		return ErrClosed
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, b.config.RequestTimeout)
		defer cancel()
	}
	if err := b.nc.FlushWithContext(ctx); err != nil {
		return fmt.Errorf("agentbus: flush: %w", err)
	}
	return nil
}

// sender returns the one sender, and so the one session, that this bus has for a channel.
func (b *Bus) sender(ctx context.Context, ch policy.Channel) (*keyring.Sender, error) {
	if b.closed() {
		return nil, ErrClosed
	}
	return b.anySender(ctx, ch)
}

// anySender is sender also while Close waits for handlers, whose replies still go out.
func (b *Bus) anySender(ctx context.Context, ch policy.Channel) (*keyring.Sender, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if s, ok := b.senders.Load(ch); ok {
		return s.(*keyring.Sender), nil
	}
	s, err := b.ring.Sender(ctx, ch)
	if err != nil {
		return nil, err
	}
	kept, _ := b.senders.LoadOrStore(ch, s)
	return kept.(*keyring.Sender), nil
}

func (b *Bus) send(m *nats.Msg) error {
	err := b.nc.PublishMsg(m)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrConnectionDraining):
		return ErrClosed
	default:
		return fmt.Errorf("agentbus: sending: %w", err)
	}
}

func sealError(err error) error {
	if errors.Is(err, keyring.ErrTooLarge) {
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	}
	return err
}
