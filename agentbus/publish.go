package agentbus

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go"
	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// Publish seals a message and sends it to a topic, or to a subject below one: "prices", "prices.eu.de". Whoever is
// subscribed then and holds the key receives it, this agent's own subscriptions included. Messages of calls that
// follow one another arrive in that order.
//
// On a topic that the policy does not retain, delivery is at most once: Publish returns when the frame is
// handed over to the connection, as nats.go's own Publish does, and Flush waits until the broker has it. While the
// connection is away up to 8 MiB of frames wait for it, and go out when it is back; then Publish fails with
// ErrDisconnected. Receivers refuse what is older than the topic's max_age by then. What was handed over in the
// moments before the connection was lost may be lost with it.
//
// On a retained topic Publish returns after the broker has acknowledged that the frame is on its disk. Where the
// acknowledgement does not come, because the connection is lost or the broker restarts, it sends the same frame
// again until ctx ends (after Config.RequestTimeout if ctx has no deadline); the broker stores it once. After an
// error the frame may be stored or not.
//
// The first Publish to a topic waits for the channel's key: a few milliseconds where a subscriber is
// connected or nobody has ever been, up to about two seconds where subscribers are known but do not answer. What
// is published before anybody has subscribed is sealed under a provisional key, which the first subscriber gets too.
// Everything that can be checked is checked at the call: the subject, the sizes, whether the policy lets this
// agent publish there.
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
	frame, id, err := b.seal(ctx, ch, &keyring.Draft{Kind: envelope.KindEvent, Recipient: subject, Expires: o.expires,
		Messages: []envelope.Message{{Headers: o.headers, Payload: payload}}})
	if err != nil {
		return err
	}
	if settings, _ := p.Settings(ch); settings.Retain > 0 {
		err = b.store.append(ctx, policy.TopicStream(ch.Name()), policy.TopicSubject(subject), frame, id)
	} else {
		err = b.send(&nats.Msg{Subject: policy.TopicSubject(subject), Data: frame})
	}
	if err != nil {
		return err
	}
	b.counts.published.Add(1)
	return nil
}

// Flush waits until the broker has everything that was handed over before. It fails when the connection is lost
// meanwhile: then it is not known.
func (b *Bus) Flush(ctx context.Context) error {
	if b.closed() && !b.ofHandler(ctx) {
		return ErrClosed
	}
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	if err := b.wire.flush(ctx); err != nil {
		return b.wireError("flush", err)
	}
	return nil
}

// seal seals a draft in the one session that this bus has on a channel. It waits for a key where there is none:
// at first, and when a policy has just taken the channel from somebody.
func (b *Bus) seal(ctx context.Context, ch policy.Channel, d *keyring.Draft) ([]byte, ulid.ULID, error) {
	if b.closed() && !b.ofHandler(ctx) {
		return nil, ulid.ULID{}, ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, ulid.ULID{}, err
	}
	if s, ok := b.senders.Load(ch); ok {
		frame, id, err := s.(*keyring.Sender).Seal(nil, d)
		if !errors.Is(err, keyring.ErrNoKey) {
			return frame, id, ownError(err)
		}
	}
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	ctx, cancel = b.untilClosed(ctx)
	defer cancel()
	for {
		s, err := b.ring.Sender(ctx, ch)
		if err != nil {
			return nil, ulid.ULID{}, b.closedOr(ctx, err)
		}
		kept, _ := b.senders.LoadOrStore(ch, s)
		frame, id, err := kept.(*keyring.Sender).Seal(nil, d)
		if !errors.Is(err, keyring.ErrNoKey) || ctx.Err() != nil {
			return frame, id, ownError(err)
		}
	}
}

// send hands a frame over.
func (b *Bus) send(m *nats.Msg) error {
	if err := b.wire.publish(m); err != nil {
		return b.wireError("sending", err)
	}
	return nil
}

// handlerOf is the key under which a handler's context has its bus: a handler may finish its work while Close
// waits for it.
type handlerOf struct{}

func (b *Bus) handlerContext(parent context.Context) context.Context {
	return context.WithValue(parent, handlerOf{}, b)
}

func (b *Bus) ofHandler(ctx context.Context) bool { return ctx.Value(handlerOf{}) == b }

// untilClosed returns a context that also ends when Close begins, or, for a handler, gives up waiting.
func (b *Bus) untilClosed(ctx context.Context) (context.Context, context.CancelFunc) {
	bounded, cancel := context.WithCancelCause(ctx)
	if b.ofHandler(ctx) {
		stop := context.AfterFunc(b.ctx, func() { cancel(ErrClosed) })
		return bounded, func() { stop(); cancel(nil) }
	}
	ended := make(chan struct{})
	go func() {
		select {
		case <-b.stopped:
			cancel(ErrClosed)
		case <-ended:
		}
	}()
	return bounded, func() { close(ended); cancel(nil) }
}

// closedOr returns ErrClosed where that is why a context of untilClosed has ended, else err.
func (b *Bus) closedOr(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), ErrClosed) {
		return ErrClosed
	}
	return ownError(err)
}
