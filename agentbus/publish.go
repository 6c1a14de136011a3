package agentbus

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// Publish seals a message and sends it to a topic, or to a subject below one: "prices", "prices.eu.de". Whoever is
// subscribed then and holds the key receives it, this agent's own subscriptions included. Messages of calls that
// follow one another arrive in that order, over all subjects of a topic.
//
// Everything that can be checked is checked at the call: the subject, the sizes, whether the policy lets this
// agent publish there. The payload is copied. A message to a topic where nothing else is under way leaves at once; what
// comes while others are being sealed and sent is gathered, and shares a seal, a signature and a frame with them as far
// as subject and expiry are the same. So a sender is the quicker the busier it is.
//
// On a topic that the policy does not retain, delivery is at most once: Publish hands the message over, as nats.go's
// own Publish does, and Flush waits until the broker has it and tells what went wrong. It blocks while 512 KiB
// of the topic's messages wait to be sealed. While the connection is away up to 8 MiB of frames wait for it besides, and
// go out when it is back; beyond that Publish fails with ErrDisconnected. Receivers refuse what is older than the
// topic's max_age by then. What was handed over in the moments before the connection was lost may be lost with it.
//
// On a retained topic Publish returns after the broker has acknowledged that the message is on its disk. Where the
// acknowledgement does not come, because the connection is lost or the broker restarts, the same frames are sent
// again until ctx ends (after Config.RequestTimeout if ctx has no deadline); the broker stores them once. After an
// error the message may be stored or not. Calls at the same time share one sync of the broker's disk.
//
// The first Publish to a topic waits for the channel's key: a few milliseconds where a subscriber is
// connected or nobody has ever been, up to about two seconds where subscribers are known but do not answer. What
// is published before anybody has subscribed is sealed under a provisional key, which the first subscriber gets too.
func (b *Bus) Publish(ctx context.Context, subject string, payload []byte, options ...MessageOption) error {
	it := item{kind: envelope.KindEvent, subject: subject}
	l, err := b.prepared(ctx, &it, payload, options)
	if err != nil {
		return err
	}
	it.wanted = it.committed
	it.alone = !it.committed
	p, err := l.add(ctx, &it)
	if err != nil || !it.committed {
		return err
	}
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	ctx, cancel = b.untilClosed(ctx)
	defer cancel()
	if err := p.Wait(ctx); err != nil {
		return b.closedOr(ctx, err)
	}
	return nil
}

// PublishAsync is Publish that waits for nothing but room: on a retained topic the Publication tells when the broker
// has acknowledged the message, on any other when it has been handed to the connection. At most 512 KiB of a topic's
// messages wait to be sealed; then it blocks until there is room, or ctx ends. ctx bounds only that, and its deadline
// (Config.RequestTimeout if it has none) the time after which an acknowledgement is given up.
//
// Flush waits for what was published so too, and returns the first error.
func (b *Bus) PublishAsync(ctx context.Context, subject string, payload []byte, options ...MessageOption) (*Publication, error) {
	it := item{kind: envelope.KindEvent, subject: subject}
	l, err := b.prepared(ctx, &it, payload, options)
	if err != nil {
		return nil, err
	}
	it.wanted, it.alone = true, true
	return l.add(ctx, &it)
}

// prepared checks a message and finds its lane.
func (b *Bus) prepared(ctx context.Context, it *item, payload []byte, options []MessageOption) (*lane, error) {
	if b.closed() && !b.ofHandler(ctx) {
		return nil, ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l, err := b.lane(ctx, it.subject)
	if err != nil {
		return nil, err
	}
	if it.committed, err = l.sender.Committed(); err != nil {
		return nil, ownError(err)
	}
	o, err := prepare(payload, options)
	if err != nil {
		return nil, err
	}
	it.message = envelope.Message{Headers: o.headers, Payload: payload}
	it.expires = o.expires
	if it.committed {
		var ok bool
		if it.until, ok = ctx.Deadline(); !ok {
			it.until = time.Now().Add(b.config.RequestTimeout)
		}
	}
	return l, nil
}

// outlet is where the messages to one subject go under one policy.
type outlet struct {
	subject string
	policy  *policy.Policy
	lane    *lane
}

// lane finds where a subject's messages gather. The first time it waits for the channel's key.
func (b *Bus) lane(ctx context.Context, subject string) (*lane, error) {
	p := b.ring.Policy()
	if o := b.recent.Load(); o != nil && o.policy == p && o.subject == subject {
		return o.lane, nil
	}
	if err := policy.CheckSubject(subject); err != nil {
		return nil, err
	}
	ch, err := p.TopicChannel(subject)
	if err != nil {
		return nil, err
	}
	l, err := b.channelLane(ctx, ch, (*lane).publish)
	if err != nil {
		return nil, err
	}
	b.recent.Store(&outlet{subject: subject, policy: p, lane: l})
	return l, nil
}

// channelLane returns the lane of a channel. The first time it waits for the channel's key.
func (b *Bus) channelLane(ctx context.Context, ch policy.Channel, ship func(*lane, *batch) error) (*lane, error) {
	if l, ok := b.lanes.Load(ch); ok {
		return l.(*lane), nil
	}
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	ctx, cancel = b.untilClosed(ctx)
	defer cancel()
	s, apart, err := b.laneSenders(ctx, ch)
	if err != nil {
		return nil, b.closedOr(ctx, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gathered.Err() != nil {
		return nil, ErrClosed
	}
	if l, ok := b.lanes.Load(ch); ok {
		return l.(*lane), nil
	}
	l := newLane(b, ch, s, apart, ship)
	b.lanes.Store(ch, l)
	b.sealers.Go(l.run)
	return l, nil
}

// laneSenders returns what seals in a channel's lane, and of a queue what seals apart. The first time it waits for a key.
func (b *Bus) laneSenders(ctx context.Context, ch policy.Channel) (s, apart *keyring.Sender, err error) {
	switch ch.Kind() {
	case policy.KindTopic:
		s, err = b.ring.CountedSender(ctx, ch)
	case policy.KindQueue:
		if s, err = b.ring.CountedSender(ctx, ch); err == nil {
			apart, err = b.sender(ctx, ch)
		}
	default:
		s, err = b.sender(ctx, ch)
	}
	return s, apart, err
}

// Flush waits until the broker has everything that was handed over before, acknowledged where it is retained, and
// returns the first error since the last Flush of what no call has returned: of a message that could not be sealed or
// sent, or that the connection was lost, during Flush or after messages had been handed to it. Then it is not known
// whether those arrived.
func (b *Bus) Flush(ctx context.Context) error {
	if b.closed() && !b.ofHandler(ctx) {
		return ErrClosed
	}
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	if err := b.settleLanes(ctx); err != nil {
		return b.flushError(ctx, err)
	}
	err := b.wire.confirm(ctx)
	if first := b.failure.Swap(nil); first != nil {
		return *first
	}
	return b.flushError(ctx, err)
}

func (b *Bus) flushError(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	return b.wireError("flush", err)
}

// settleLanes waits until everything that has gathered is with the connection, or acknowledged.
func (b *Bus) settleLanes(ctx context.Context) (err error) {
	b.lanes.Range(func(_, l any) bool {
		err = l.(*lane).drain(ctx)
		return err == nil
	})
	return err
}

// gatheredError says what an error means to whoever gave a message away.
func (b *Bus) gatheredError(err error) error {
	if err != nil && b.gathered.Err() != nil {
		return ErrClosed
	}
	return ownError(err)
}

// sender returns the one sender that this bus has on a channel. The first time it waits for a key.
func (b *Bus) sender(ctx context.Context, ch policy.Channel) (*keyring.Sender, error) {
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

// frames keeps the memory of frames that are sealed alone: nats.go copies what it is given.
var frames = sync.Pool{New: func() any { return new([]byte) }}

// sealed seals a draft in the one session that this bus has on a channel, and lends the frame to send. It waits for a
// key where there is none: at first, and when a policy has just taken the channel from somebody.
func (b *Bus) sealed(ctx context.Context, ch policy.Channel, d *keyring.Draft, send func(frame []byte, id ulid.ULID) error) error {
	if b.closed() && !b.ofHandler(ctx) {
		return ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	buf := frames.Get().(*[]byte)
	defer frames.Put(buf)
	frame, id, err := b.seal(ctx, ch, d, (*buf)[:0])
	if cap(frame) <= maxKeptFrame {
		*buf = frame
	}
	if err != nil {
		return err
	}
	return send(frame, id)
}

func (b *Bus) seal(ctx context.Context, ch policy.Channel, d *keyring.Draft, dst []byte) ([]byte, ulid.ULID, error) {
	if s, ok := b.senders.Load(ch); ok {
		frame, id, err := s.(*keyring.Sender).Seal(dst, d)
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
			return dst, ulid.ULID{}, b.closedOr(ctx, err)
		}
		kept, _ := b.senders.LoadOrStore(ch, s)
		frame, id, err := kept.(*keyring.Sender).Seal(dst, d)
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

// closing returns what ends when Close begins, or, for a handler, gives up waiting.
func (b *Bus) closing(ctx context.Context) <-chan struct{} {
	if b.ofHandler(ctx) {
		return b.ctx.Done()
	}
	return b.stopped
}

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
