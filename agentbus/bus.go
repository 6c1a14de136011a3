package agentbus

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// Bus is one agent's connection. It is safe for concurrent use. It goes on through reconnects: subscriptions
// and sessions are kept.
type Bus struct {
	config Config
	log    *slog.Logger
	ring   *keyring.Ring
	self   identity.ID
	wire   *wire
	store  *store

	senders sync.Map // policy.Channel → *keyring.Sender
	stored  sync.Map // policy.Channel → *keyring.StoredReceiver
	lanes   sync.Map // policy.Channel → *lane
	recent  atomic.Pointer[outlet]
	failure atomic.Pointer[error] // the first since Flush

	gathered context.Context // ends when nothing that has gathered is sent any more
	endLanes context.CancelFunc
	sealers  sync.WaitGroup
	replies  *replies
	counts   counters
	openers  *openers

	ctx     context.Context // ends when Close gives up waiting for handlers
	cancel  context.CancelFunc
	leaf    atomic.Pointer[x509.Certificate] // of the card that is published
	renew   chan struct{}                    // look at policy, card and certificate now
	stopped chan struct{}                    // Close has begun
	upkeep  sync.WaitGroup

	mu        sync.Mutex
	subs      map[*Subscription]struct{}
	workers   map[*Worker]struct{}
	auditors  map[*Auditor]struct{}
	lingering map[*route]*time.Timer // of workers that have stopped
	served    map[string]bool        // subjects of requests
	past      Stats                  // of subscriptions that have ended
	done      chan struct{}
	ending    bool
	err       error
}

// Self returns the agent's own ID.
func (b *Bus) Self() identity.ID { return b.self }

// Policy returns the policy in force for this agent.
func (b *Bus) Policy() *policy.Policy { return b.ring.Policy() }

// Stats returns what the bus has counted, all of its subscriptions included.
func (b *Bus) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.counts.stats().plus(b.past)
	s.Dropped += b.wire.dropped(b.replies.route)
	for sub := range b.subs {
		s = s.plus(sub.Stats())
	}
	return s
}

// Connected reports whether the connection to a broker stands at this moment.
func (b *Bus) Connected() bool { return b.wire.current().IsConnected() }

func (b *Bus) closed() bool {
	select {
	case <-b.stopped:
		return true
	default:
		return false
	}
}

// Close ends the bus in order: nothing new is taken, handlers finish what has arrived, what was handed over goes
// out, the broker is told that no more will come of what it keeps, the keyring is closed, and the connection with it. Calls that are under way end with ErrClosed; those of
// handlers, with the context that they were given, go on until the handlers have returned.
//
// It waits up to 30 seconds for handlers, then cancels their contexts, goes on and returns an error. It is
// idempotent, and every call waits. A handler that calls it waits for itself: let it use a goroutine.
func (b *Bus) Close() error {
	b.mu.Lock()
	if b.ending {
		b.mu.Unlock()
		<-b.done
		return b.err
	}
	b.ending = true
	close(b.stopped)
	var subs []ender
	for s := range b.subs {
		subs = append(subs, s)
	}
	for w := range b.workers {
		subs = append(subs, w)
	}
	for a := range b.auditors {
		subs = append(subs, a)
	}
	b.mu.Unlock()
	b.err = b.closeAll(subs)
	close(b.done)
	return b.err
}

func (b *Bus) closeAll(subs []ender) error {
	ctx, cancel := context.WithTimeout(context.Background(), b.config.closeTimeout)
	defer cancel()
	var errs []error
	for _, s := range subs {
		s.begin()
	}
	for _, s := range subs {
		errs = append(errs, s.wait(ctx))
	}
	b.cancel()
	b.upkeep.Wait()
	end, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	b.endLingering(end)
	if !b.Connected() {
		cancel() // there is nobody to tell anything
	} else {
		err := b.settleLanes(end)
		b.closeSessions(end)
		if err = errors.Join(err, b.wire.flush(end)); err != nil {
			errs = append(errs, fmt.Errorf("agentbus: flushing at the end: %w", err))
		}
	}
	b.mu.Lock()
	b.endLanes() // under the lock: no lane begins after this
	b.mu.Unlock()
	b.sealers.Wait()
	errs = append(errs, b.ring.Close(end))
	b.replies.end()
	b.wire.close()
	return errors.Join(errs...)
}

// ender is what Close ends: it begins with all, and then waits for each.
type ender interface {
	begin()
	wait(ctx context.Context) error
}

// addWorker takes a worker in, unless the bus is closing.
func (b *Bus) addWorker(w *Worker) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ending {
		return ErrClosed
	}
	b.workers[w] = struct{}{}
	return nil
}

// addAuditor takes an auditor in, unless the bus is closing.
func (b *Bus) addAuditor(a *Auditor) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ending {
		return ErrClosed
	}
	b.auditors[a] = struct{}{}
	return nil
}

func (b *Bus) removeAuditor(a *Auditor) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.auditors, a)
}

// linger keeps subscriptions for a while, at most until Close.
func (b *Bus) linger(routes []*route, d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range routes {
		b.lingering[r] = time.AfterFunc(d, func() {
			b.mu.Lock()
			delete(b.lingering, r)
			b.mu.Unlock()
			b.wire.drop(r)
		})
	}
}

// endLingering ends these subscriptions.
func (b *Bus) endLingering(ctx context.Context) {
	b.mu.Lock()
	var routes []*route
	for r, t := range b.lingering {
		t.Stop()
		routes = append(routes, r)
	}
	clear(b.lingering)
	b.mu.Unlock()
	if len(routes) > 0 {
		b.wire.drain(ctx, routes)
	}
}

func (b *Bus) removeWorker(w *Worker) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.workers, w)
}

// add takes a subscription in, unless the bus is closing.
func (b *Bus) add(s *Subscription) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ending {
		return ErrClosed
	}
	b.subs[s] = struct{}{}
	return nil
}

func (b *Bus) remove(s *Subscription) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.subs[s]; ok {
		delete(b.subs, s)
		b.past = b.past.plus(s.Stats())
	}
}

// ownError turns the errors of what lies below into those of this package.
func ownError(err error) error {
	switch {
	case errors.Is(err, keyring.ErrClosed):
		return ErrClosed
	case errors.Is(err, keyring.ErrTooLarge):
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	}
	return err
}

// reject counts a frame that was not accepted and tells who wants to know.
func (b *Bus) reject(c *counters, m *nats.Msg, err *keyring.Rejection) {
	c.rejectedFor(err.Reason)
	if b.config.OnReject != nil {
		b.config.OnReject(Rejection{Subject: m.Subject, Reason: err.Reason, Channel: err.Channel, Sender: err.Sender, ID: err.ID, Err: err})
	}
}

// failed counts what a handler returned or panicked with. The log does not get the text: it may hold what
// was in the message.
func (b *Bus) failed(c *counters, subject string, err error) {
	var p *panicError
	if errors.As(err, &p) {
		c.panics.Add(1)
		b.log.Error("handler panicked", "subject", subject, "type", fmt.Sprintf("%T", p.value), "stack", p.stack)
	} else {
		c.errors.Add(1)
		b.log.Warn("handler returned an error", "subject", subject, "type", fmt.Sprintf("%T", err))
	}
	if b.config.OnError != nil {
		b.config.OnError(subject, err)
	}
}
