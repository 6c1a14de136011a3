package agentbus

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// Handler handles one message. Its context ends when the bus gives up waiting for it at Close. An error and
// a panic are counted and handed to Config.OnError; the message is not delivered again, and the
// subscription goes on.
type Handler func(ctx context.Context, m *Message) error

// Subscription is a running Subscribe, Serve or ServeService.
type Subscription struct {
	bus    *Bus
	in     *intake
	counts counters
	subs   []*nats.Subscription

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
// check are counted by reason and handed to Config.OnReject; they never stop a subscription.
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
	rc, err := b.receiver(ctx, ch)
	if err != nil {
		return nil, err
	}
	s := b.newSubscription(rc)
	s.in.whole = pattern == topic+".>" // only who reads the whole channel can tell what is missing
	queue := make(chan *Message, b.config.Buffer)
	s.in.want = func(m *nats.Msg) (keyring.Want, error) {
		subject, ok := policy.CutTopicSubject(m.Subject)
		if !ok || !matches(pattern, subject) {
			return keyring.Want{}, misdirected("on a subject that was not subscribed to")
		}
		return keyring.Want{Kinds: keyring.Kinds(envelope.KindEvent), Recipient: subject}, nil
	}
	s.in.deliver = func(m *nats.Msg, o *keyring.Opened) {
		subject, _ := policy.CutTopicSubject(m.Subject)
		for i := range o.Messages {
			select {
			case queue <- newMessage(subject, o, &o.Messages[i]):
			default:
				s.dropped(m.Subject)
			}
		}
	}
	s.workers.Go(func() {
		for m := range queue {
			s.handle(m, handler)
		}
	})
	return s.start(ctx, natsSubjects(pattern, topic), "", func() { close(queue) })
}

// natsSubjects returns the subjects on NATS that a pattern takes. Both arrive in one channel, in order.
func natsSubjects(pattern, topic string) []string {
	if pattern == topic+".>" {
		return []string{policy.TopicSubject(topic), policy.TopicSubject(pattern)}
	}
	return []string{policy.TopicSubject(pattern)}
}

// matches reports whether a subject is one that a pattern takes. The broker's word is not enough: it could
// deliver a frame of another subject of the channel here.
func matches(pattern, subject string) bool {
	p, s := strings.Split(pattern, "."), strings.Split(subject, ".")
	for i, token := range p {
		switch {
		case token == ">":
			return len(s) > i || i == 1 && len(s) == 1
		case i >= len(s) || token != "*" && token != s[i]:
			return false
		}
	}
	return len(p) == len(s)
}

// receiver joins a channel and returns a receiver for it.
func (b *Bus) receiver(ctx context.Context, ch policy.Channel) (*keyring.Receiver, error) {
	if b.closed() {
		return nil, ErrClosed
	}
	rc, err := b.ring.Receiver(ch)
	if err != nil {
		return nil, err
	}
	return rc, b.ring.Join(ctx, ch)
}

func (b *Bus) newSubscription(rc *keyring.Receiver) *Subscription {
	s := &Subscription{bus: b, ended: make(chan struct{})}
	s.in = newIntake(b, rc, &s.counts)
	return s
}

// start subscribes on NATS and begins. finish is called when the last frame has been handed on.
func (s *Subscription) start(ctx context.Context, subjects []string, group string, finish func()) (*Subscription, error) {
	var err error
	for _, subject := range subjects {
		var sub *nats.Subscription
		if sub, err = s.bus.nc.ChanQueueSubscribe(subject, group, s.in.arrived); err != nil {
			break
		}
		s.subs = append(s.subs, sub)
	}
	go func() {
		s.in.run()
		finish()
		s.workers.Wait()
		s.bus.remove(s)
		close(s.ended)
	}()
	if err == nil {
		err = s.bus.add(s)
	}
	if err == nil {
		err = s.bus.Flush(ctx)
	}
	if err != nil {
		s.Stop()
		return nil, fmt.Errorf("agentbus: subscribing: %w", err)
	}
	return s, nil
}

// Stop ends the subscription: nothing new arrives, what has arrived is handled, then it returns. It is
// idempotent. Called from the subscription's own handler it would wait for itself; use a goroutine there.
func (s *Subscription) Stop() {
	s.begin()
	<-s.ended
}

func (s *Subscription) begin() {
	s.once.Do(func() {
		for _, sub := range s.subs {
			_ = sub.Unsubscribe() // fails only when the connection is closed, which ends it too
		}
		close(s.in.stop)
	})
}

// wait waits for the end, or says that handlers are still running.
func (s *Subscription) wait(ctx context.Context) error {
	select {
	case <-s.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("agentbus: a handler has not returned within %v; its context is cancelled", closeTimeout)
	}
}

// Stats returns what the subscription has counted.
func (s *Subscription) Stats() Stats {
	st := s.counts.stats()
	for _, sub := range s.subs {
		if n, err := sub.Dropped(); err == nil {
			st.Dropped += uint64(n)
		}
	}
	return st
}

func (s *Subscription) dropped(subject string) {
	if s.counts.dropped.Add(1) == 1 {
		s.bus.log.Warn("the handler is too slow and its buffer full: messages are dropped", "subject", subject)
	}
}

// handle runs a handler on a message and counts what came of it.
func (s *Subscription) handle(m *Message, handler Handler) {
	err := protect(func() error { return handler(s.bus.ctx, m) })
	if err != nil {
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
