package agentbus

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/policy"
)

// wire is the connection to the brokers and what is subscribed on it. nats.go restores a connection that was
// lost. A certificate is shown only when a connection is made, so with a renewed one replace makes a second
// connection and moves everything over, in order and without a gap, before it ends the first.
type wire struct {
	bus    *Bus
	config *tls.Config

	handover handover // of live frames
	restored signal   // there is a connection again
	regained signal   // after a loss: what waits for an answer may wait in vain

	mu     sync.RWMutex // held for writing while connections change places
	link   *link
	routes map[*route]struct{}
}

// link is one connection.
type link struct {
	nc    *nats.Conn
	js    jetstream.JetStream
	users sync.WaitGroup                   // calls that wait for an answer on it
	shown atomic.Pointer[x509.Certificate] // the certificate that it was made with
	base  uint64                           // generations of the links before
}

// generation counts the connections that there have been.
func (l *link) generation() uint64 { return l.base + l.nc.Stats().Reconnects }

// carrier returns the generation that has to carry what is handed over now: this one, or where there is no connection
// the next.
func (l *link) carrier() uint64 {
	for {
		now := l.generation()
		carrier := now
		if !l.nc.IsConnected() {
			carrier++
		}
		if l.generation() == now { // else it came back in between
			return carrier
		}
	}
}

// route is one subscription of the bus, over whichever connection there is. What arrives goes to the inlet,
// or to fn, which must not block and to which it does not matter if something comes twice.
type route struct {
	subject, group string
	inlet          *inlet
	fn             nats.MsgHandler
	sub            *nats.Subscription
}

func newWire(b *Bus, config *tls.Config) *wire {
	return &wire{bus: b, config: config, routes: make(map[*route]struct{})}
}

// configFor returns the TLS configuration of one connection, which notes the certificate that it shows.
func (w *wire) configFor(l *link) *tls.Config {
	config := w.config.Clone()
	config.GetClientCertificate = func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		c, err := w.config.GetClientCertificate(r)
		if err == nil && len(c.Certificate) > 0 {
			if leaf, err := x509.ParseCertificate(c.Certificate[0]); err == nil {
				l.shown.Store(leaf)
			}
		}
		return c, err
	}
	return config
}

// dial makes a connection. ctx bounds that and no more: nats.go takes no context, so its dialer does.
func (w *wire) dial(ctx context.Context) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	d := &dialer{Dialer: net.Dialer{Timeout: connectTimeout}, first: ctx}
	defer d.connected()
	l := new(link)
	options := append(w.bus.natsOptions(), nats.Secure(w.configFor(l)), nats.SetCustomDialer(d))
	nc, err := nats.Connect(strings.Join(w.bus.config.Servers, ","), options...)
	if err != nil {
		if cause := ctx.Err(); cause != nil {
			err = cause
		}
		return nil, w.bus.explain(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("agentbus: %w", err)
	}
	l.nc, l.js = nc, js
	return l, nil
}

// dialer ends a first attempt, TLS handshake included, when its context ends.
type dialer struct {
	net.Dialer

	mu    sync.Mutex
	first context.Context // nil once connected
	stops []func() bool
}

func (d *dialer) Dial(network, address string) (net.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.first == nil {
		return d.Dialer.Dial(network, address)
	}
	conn, err := d.DialContext(d.first, network, address)
	if err == nil {
		d.stops = append(d.stops, context.AfterFunc(d.first, func() { _ = conn.Close() }))
	}
	return conn, err
}

func (d *dialer) connected() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.first = nil
	for _, stop := range d.stops {
		stop()
	}
}

// current returns the connection in use.
func (w *wire) current() *nats.Conn {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.link.nc
}

// server returns which run of which broker the connection in use leads to; empty while there is none.
func (w *wire) server() string { return w.current().ConnectedServerId() }

// shows reports whether the connection in use was made with a certificate.
func (w *wire) shows(leaf *x509.Certificate) bool {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return leaf.Equal(w.link.shown.Load())
}

// use lends the connection for a call that waits for an answer: it is kept open until done.
func (w *wire) use() (l *link, done func()) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	w.link.users.Add(1)
	return w.link, w.link.users.Done
}

// publish hands a message over. The lock keeps messages in order when one connection takes over from another.
func (w *wire) publish(m *nats.Msg) error {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.link.nc.PublishMsg(m)
}

// publishLive hands a frame over that nobody acknowledges.
func (w *wire) publishLive(subject string, frame []byte) error {
	w.mu.RLock()
	defer w.mu.RUnlock()
	carrier := w.link.carrier()
	if err := w.link.nc.Publish(subject, frame); err != nil {
		return err
	}
	w.handover.handed(carrier)
	return nil
}

// add subscribes, all of an inlet's routes at once: they change connections together. The subscriptions are the
// broker's when settle has returned.
func (w *wire) add(routes ...*route) (err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, r := range routes {
		if r.sub, err = r.subscribe(w.link.nc, false); err != nil {
			for _, done := range routes[:i] {
				delete(w.routes, done)
				_ = done.sub.Unsubscribe() // the connection is closed
			}
			return w.bus.wireError("subscribing", err)
		}
		w.routes[r] = struct{}{}
	}
	return nil
}

func (r *route) subscribe(nc *nats.Conn, next bool) (*nats.Subscription, error) {
	if r.inlet == nil {
		return nc.Subscribe(r.subject, r.fn)
	}
	return nc.ChanQueueSubscribe(r.subject, r.group, r.inlet.source(next))
}

// drop ends a subscription at once. What is on its way is lost.
func (w *wire) drop(r *route) {
	if sub := w.forget(r); sub != nil {
		_ = sub.Unsubscribe() // fails only when the connection is closed, which ends it too
	}
}

// drain ends subscriptions and returns when everything that the broker has sent for them is in their inlets,
// or when the connection is gone.
func (w *wire) drain(ctx context.Context, routes []*route) {
	subs := make([]*nats.Subscription, 0, len(routes))
	for _, r := range routes {
		if sub := w.forget(r); sub != nil {
			subs = append(subs, sub)
		}
	}
	drainAll(ctx, w.current(), subs)
}

func (w *wire) forget(r *route) *nats.Subscription {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.routes, r)
	if r.sub != nil && r.inlet != nil {
		r.inlet.missed(r.sub)
	}
	return r.sub
}

// dropped returns how many frames nats.go had no room for, over all the connections that there have been.
func (w *wire) dropped(routes ...*route) (n uint64) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	for i, r := range routes {
		if i == 0 {
			n = r.inlet.lost.Load()
		}
		if _, ok := w.routes[r]; ok {
			if d, err := r.sub.Dropped(); err == nil {
				n += uint64(d)
			}
		}
	}
	return n
}

func drainAll(ctx context.Context, nc *nats.Conn, subs []*nats.Subscription) {
	if !nc.IsConnected() {
		for _, sub := range subs {
			_ = sub.Unsubscribe() // fails only when the connection is closed, which ends it too
		}
		return
	}
	var ended []chan struct{}
	for _, sub := range subs {
		end := make(chan struct{})
		sub.SetClosedHandler(func(string) { close(end) })
		if sub.Drain() == nil && sub.IsValid() {
			ended = append(ended, end)
		}
	}
	for i, end := range ended {
		select {
		case <-end:
		case <-ctx.Done():
			for _, sub := range subs[i:] {
				_ = sub.Unsubscribe()
			}
			return
		}
	}
}

// flush waits until the broker has everything that was handed over and subscribed. Where the connection is lost
// meanwhile it fails with errLost.
func (w *wire) flush(ctx context.Context) error {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	l, done := w.use()
	defer done()
	return l.flush(ctx)
}

func (l *link) flush(ctx context.Context) error {
	err := l.nc.FlushWithContext(ctx)
	if errors.Is(err, nats.ErrConnectionClosed) && !l.nc.IsClosed() {
		return errLost
	}
	return err
}

// confirm is flush for live frames: it fails with errLost also where a connection was lost before, after frames had been
// handed over to it that no confirm has covered.
func (w *wire) confirm(ctx context.Context) error {
	l, done := w.use()
	defer done()
	count, before := w.handover.begin(), l.generation()
	if err := l.flush(ctx); err != nil {
		if errors.Is(err, errLost) { // told now, and not again
			w.handover.flushed(count, before, before)
		}
		return err
	}
	if w.handover.flushed(count, before, l.generation()) {
		return errLost
	}
	return nil
}

// settle is flush for subscriptions, which are restored with the connection: it waits for that too. It
// returns what the broker says of a subject that it does not let this agent subscribe to.
func (w *wire) settle(ctx context.Context, routes ...*route) error {
	for {
		err := w.flush(ctx)
		if errors.Is(err, errLost) || errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			continue // the next one waits until there is a connection again
		}
		if err != nil {
			return w.bus.wireError("subscribing", err)
		}
		break
	}
	last := w.current().LastError()
	if !errors.Is(last, nats.ErrPermissionViolation) {
		return nil
	}
	for _, r := range routes {
		if strings.Contains(last.Error(), "Subscription to "+strconv.Quote(r.subject)) {
			return fmt.Errorf("%w: the broker does not let %q subscribe to %s: its policy is another than revision %d",
				ErrNotEntitled, w.bus.self.Name(), r.subject, w.bus.ring.Policy().Revision())
		}
	}
	return nil
}

// replace makes a new connection, which shows the certificate that the agent has now, and ends the old one
// when everything has moved over. Nothing is lost and nothing comes out of order: what the old connection
// published has arrived before the new one publishes, and what it received is opened before what the new one
// receives. What comes over both is opened once.
func (w *wire) replace(ctx context.Context) error {
	next, err := w.dial(ctx)
	if err != nil {
		return err
	}
	old, subs, inlets, err := w.change(ctx, next)
	if err != nil {
		next.nc.Close()
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	drainAll(ctx, old.nc, subs)
	// Behind this, whatever came over both connections is in the inlets.
	_ = next.nc.FlushWithContext(ctx)
	for inlet := range inlets {
		inlet.changeOver()
	}
	idle := make(chan struct{})
	go func() {
		old.users.Wait() // at the latest until the connection is closed
		close(idle)
	}()
	select {
	case <-idle:
	case <-ctx.Done():
	}
	old.nc.Close()
	<-idle
	return nil
}

// change subscribes everything on the next connection and puts it in use. It returns what the old one still
// has to do: the subscriptions to end, and the inlets that then read from the next.
func (w *wire) change(ctx context.Context, next *link) (old *link, subs []*nats.Subscription, inlets map[*inlet]bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	w.mu.Lock()
	defer w.mu.Unlock()
	inlets = make(map[*inlet]bool)
	defer func() {
		if err != nil {
			for inlet := range inlets {
				inlet.stay()
			}
			err = fmt.Errorf("agentbus: changing over to a new connection: %w", err)
		}
	}()
	fresh := make(map[*route]*nats.Subscription, len(w.routes))
	for r := range w.routes {
		if r.inlet != nil {
			inlets[r.inlet] = true
		}
		if fresh[r], err = r.subscribe(next.nc, true); err != nil {
			return nil, nil, inlets, err
		}
	}
	if err := errors.Join(next.nc.FlushWithContext(ctx), w.link.nc.FlushWithContext(ctx)); err != nil {
		return nil, nil, inlets, err
	}
	w.handover.replaced(w.link.generation())
	next.base = w.link.generation() + 1
	for r, sub := range fresh {
		if r.inlet != nil {
			r.inlet.missed(r.sub)
		}
		subs, r.sub = append(subs, r.sub), sub
	}
	old, w.link = w.link, next
	w.restored.fire()
	return old, subs, inlets, nil
}

// close ends the connection, whatever is under way on it.
func (w *wire) close() {
	w.mu.RLock()
	defer w.mu.RUnlock()
	w.link.nc.Close()
}

// inbox returns the start of reply subjects that only this bus listens on.
func (w *wire) inbox() string {
	return w.current().NewInbox() + "."
}

// errLost is inside the error of a Flush when the connection was lost during it, or since the one before.
var errLost = errors.New("the connection was lost meanwhile: what was handed over before may have arrived or not")

// wireError says what an error of nats.go means to who made the call.
func (b *Bus) wireError(doing string, err error) error {
	switch {
	case b.closed() && (errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, nats.ErrConnectionDraining)):
		return ErrClosed
	case errors.Is(err, nats.ErrReconnectBufExceeded):
		return fmt.Errorf("%w: %d bytes wait to be sent already", ErrDisconnected, reconnectBuffer)
	default:
		return fmt.Errorf("agentbus: %s: %w", doing, err)
	}
}

// natsOptions are the options of every connection but those for TLS.
func (b *Bus) natsOptions() []nats.Option {
	return []nats.Option{
		nats.Name(b.self.Name()),
		nats.TLSHandshakeFirst(), // nothing at all goes over the wire in clear
		nats.CustomInboxPrefix(policy.InboxPrefix(b.self.Name())),
		nats.Timeout(connectTimeout),
		nats.SkipHostLookup(), // the dialer does that, under its context
		nats.MaxReconnects(-1),
		nats.CustomReconnectDelay(reconnectDelay),
		nats.ReconnectBufSize(reconnectBuffer),
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(maxPings),
		// A certificate that ran out, or a policy that is being put right, is no reason to give up.
		nats.IgnoreAuthErrorAbort(),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil && !b.closed() {
				b.log.Warn("connection lost", "error", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			b.counts.reconnects.Add(1)
			b.wire.restored.fire()
			b.wire.regained.fire()
			b.log.Info("connected again", "broker", nc.ConnectedUrl())
			b.refreshSoon()
		}),
		nats.ErrorHandler(func(_ *nats.Conn, s *nats.Subscription, err error) {
			if errors.Is(err, nats.ErrSlowConsumer) && s != nil {
				b.log.Warn("frames arrive faster than they can be taken; some are dropped", "subject", s.Subject)
				return
			}
			b.log.Warn("connection error", "error", err)
		}),
	}
}
