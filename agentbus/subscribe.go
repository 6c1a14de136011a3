package agentbus

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// Handler handles one message. Its context ends when the bus or the subscription gives up waiting for it. With that
// context the bus can still be used for publishing and requests while Close waits for the handler.
//
// An error and a panic are counted and handed to Config.OnError; the message is not delivered again, and the
// subscription goes on.
type Handler func(ctx context.Context, m *Message) error

// Subscription is a running Subscribe, Serve or ServeService.
type Subscription struct {
	bus    *Bus
	in     *intake
	counts counters
	routes []*route

	ctx     context.Context // of the handlers
	cancel  context.CancelFunc
	workers sync.WaitGroup
	ended   chan struct{} // intake and workers have returned
	once    sync.Once
}

// Subscribe calls handler for every message published to the subjects that a pattern matches, one at a time
// and, for each sender, in the order of sending. A pattern lies inside one topic: "prices", "prices.eu.*",
// "prices.>". A "*" stands for one token. A final ">" stands for everything below, and after the bare topic
// for the topic itself too, so that "prices.>" is the whole channel; there missing messages are counted as
// lost.
//
// Delivery is at most once. It returns when the broker has the subscription and this agent holds the
// channel's key, for which a first subscriber does not wait. A handler that is slower than its messages
// has up to Config.Buffer of them wait; what comes after is dropped, counted and logged. Frames that fail a
// check are counted by reason and handed to Config.OnReject; they never stop a subscription. When a later policy
// takes the right to read the topic from this agent, the subscription stays and all that comes is rejected as
// NotEntitled, until a policy gives the right back.
//
// ctx bounds subscribing, not the subscription.
func (b *Bus) Subscribe(ctx context.Context, pattern string, handler Handler) (*Subscription, error) {
	if handler == nil {
		return nil, errors.New("agentbus: Subscribe needs a handler")
	}
	if err := policy.CheckPattern(pattern); err != nil {
		return nil, err
	}
	topic, _, _ := strings.Cut(pattern, ".")
	ch, err := b.ring.Policy().TopicChannel(topic)
	if err != nil {
		return nil, err
	}
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	rc, err := b.receiver(ctx, ch)
	if err != nil {
		return nil, err
	}
	s := b.newSubscription(rc)
	s.in.whole = pattern == topic+".>" // only who reads the whole channel can tell what is missing
	s.in.want = func(m *nats.Msg) (keyring.Want, error) {
		subject, ok := policy.CutTopicSubject(m.Subject)
		if !ok || !matches(pattern, subject) {
			return keyring.Want{}, misdirected("on a subject that was not subscribed to")
		}
		return keyring.Want{Kinds: keyring.Kinds(envelope.KindEvent), Recipient: subject, Notes: subject == topic}, nil
	}
	box := newMailbox(b.config.Buffer, sizeOf)
	s.in.deliver = func(m *nats.Msg, o *keyring.Opened) {
		subject, _ := policy.CutTopicSubject(m.Subject)
		for some := range slices.Chunk(o.Messages, messageBlock) {
			if block := newMessages(subject, o, some); !box.offer(block) {
				s.dropped(m.Subject, len(block))
			}
		}
	}
	var rest []Message // of a block whose handler has ended its goroutine
	s.work(func() {
		each := func(block []Message) {
			for rest = block; len(rest) > 0; {
				m := &rest[0]
				rest = rest[1:]
				s.handle(m, handler)
			}
		}
		each(rest)
		box.each(each)
	})
	return s.start(ctx, "", box.close, natsSubjects(pattern, topic)...)
}

// natsSubjects returns the subjects on NATS that a pattern takes. Both arrive in one inlet, in order.
func natsSubjects(pattern, topic string) []string {
	if pattern == topic+".>" {
		return []string{policy.TopicSubject(topic), policy.TopicSubject(pattern)}
	}
	return []string{policy.TopicSubject(pattern)}
}

// matches reports whether a subject is one that a pattern takes. The broker's word is not enough: it could
// deliver a frame of another subject of the channel here.
func matches(pattern, subject string) bool {
	for first := true; ; first = false {
		p, patternRest, patternMore := strings.Cut(pattern, ".")
		s, subjectRest, subjectMore := strings.Cut(subject, ".")
		switch {
		case p == ">":
			return true
		case p != "*" && p != s:
			return false
		case !subjectMore:
			return !patternMore || first && patternRest == ">"
		case !patternMore:
			return false
		}
		pattern, subject = patternRest, subjectRest
	}
}

// receiver joins a channel and returns a receiver for it.
func (b *Bus) receiver(ctx context.Context, ch policy.Channel) (*keyring.Receiver, error) {
	if b.closed() {
		return nil, ErrClosed
	}
	rc, err := b.ring.Receiver(ch)
	if err != nil {
		return nil, ownError(err)
	}
	ctx, cancel := b.untilClosed(ctx)
	defer cancel()
	if err := b.ring.Join(ctx, ch); err != nil {
		return nil, b.closedOr(ctx, err)
	}
	return rc, nil
}

func (b *Bus) newSubscription(rc *keyring.Receiver) *Subscription {
	s := &Subscription{bus: b, ended: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(b.handlerContext(b.ctx))
	s.in = newIntake(b, rc, &s.counts)
	return s
}

// work runs a loop over a mailbox in a goroutine of its own, until the mailbox is closed.
func (s *Subscription) work(loop func()) {
	s.workers.Go(func() {
		returned := false
		defer func() {
			if !returned { // a handler has called runtime.Goexit, as testing's FailNow does
				s.counts.panics.Add(1)
				s.bus.log.Error("handler ended its goroutine")
				s.work(loop)
			}
		}()
		loop()
		returned = true
	})
}

// start subscribes on NATS and begins. finish is called when the last frame has been handed on.
func (s *Subscription) start(ctx context.Context, group string, finish func(), subjects ...string) (*Subscription, error) {
	for _, subject := range subjects {
		s.routes = append(s.routes, &route{subject: subject, group: group, inlet: s.in.inlet})
	}
	go func() {
		s.in.run()
		finish()
		s.workers.Wait()
		s.cancel()
		s.bus.remove(s)
		close(s.ended)
	}()
	err := s.bus.add(s)
	if err == nil {
		err = s.bus.wire.add(s.routes...)
	}
	if err == nil {
		ctx, cancel := s.bus.untilClosed(ctx)
		defer cancel()
		if err = s.bus.wire.settle(ctx, s.routes...); err != nil {
			err = s.bus.closedOr(ctx, err)
		}
	}
	if err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// Stop ends the subscription: nothing new arrives, what has arrived is handled, then it returns. A message whose key
// is still on its way is waited for, up to a second. It waits up to 30 seconds for handlers, then cancels their
// contexts and returns an error. It is idempotent, and every call waits. A handler that calls it for its own
// subscription waits for itself: let it use a goroutine.
func (s *Subscription) Stop() error {
	s.begin()
	ctx, cancel := context.WithTimeout(context.Background(), s.bus.config.closeTimeout)
	defer cancel()
	return s.wait(ctx)
}

// begin begins to stop.
func (s *Subscription) begin() {
	s.once.Do(func() {
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
			defer cancel()
			s.bus.wire.drain(ctx, s.routes)
			s.in.inlet.end()
		}()
	})
}

// wait waits for the end, or cancels the handlers that are still running and says so.
func (s *Subscription) wait(ctx context.Context) error {
	select {
	case <-s.ended:
		return nil
	case <-ctx.Done():
		s.cancel()
		return fmt.Errorf("agentbus: a handler has not returned within %v; its context is cancelled", s.bus.config.closeTimeout)
	}
}

// Stats returns what the subscription has counted. They stay as they are when it has ended, and remain part of
// the bus's.
func (s *Subscription) Stats() Stats {
	st := s.counts.stats()
	st.Dropped += s.bus.wire.dropped(s.routes...)
	return st
}

func (s *Subscription) dropped(subject string, messages int) {
	if s.counts.dropped.Add(uint64(messages)) == uint64(messages) {
		s.bus.log.Warn("the handler is too slow and its buffer full: messages are dropped", "subject", subject)
	}
}

// handle runs a handler on a message and counts what came of it.
func (s *Subscription) handle(m *Message, handler Handler) {
	if err := protect(func() error { return handler(s.ctx, m) }); err != nil {
		s.bus.failed(&s.counts, m.Subject, err)
		return
	}
	s.counts.handled.Add(1)
}

// panicError is a handler's panic as an error.
type panicError struct {
	value any
	stack string
}

func (p *panicError) Error() string { return fmt.Sprintf("handler panicked: %v", p.value) }

// protect turns a panic into an error.
func protect(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &panicError{value: v, stack: string(debug.Stack())}
		}
	}()
	return f()
}
