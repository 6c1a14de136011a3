package agentbus

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// Connect connects an agent: mutual TLS 1.3 to a broker whose ID it verifies, a policy that a pinned operator
// has signed, the agent's card published. It returns when the bus is usable. A broker that is not there,
// not the named one or of another trust domain, a certificate that the broker refuses, and an agent without
// a place in the policy are errors here. Later the connection is restored whenever it is lost.
//
// ctx bounds connecting, not the bus. The keyring is the bus's from here on, also when Connect fails: it is
// then closed.
func Connect(ctx context.Context, config Config) (*Bus, error) {
	c, err := config.check()
	if err != nil {
		return nil, err
	}
	b, err := connect(ctx, c)
	if err != nil {
		return nil, errors.Join(err, c.Keyring.Close(context.WithoutCancel(ctx)))
	}
	return b, nil
}

func connect(ctx context.Context, c Config) (*Bus, error) {
	self, _, err := identity.Self(c.Identity)
	if err != nil {
		return nil, err
	}
	if !self.IsAgent() {
		return nil, fmt.Errorf("agentbus: the certificate is for %s: an agent's is for spiffe://%s/agent/<name>", self, self.TrustDomain().Name())
	}
	config, err := identity.ClientTLS(c.Identity, c.Brokers...)
	if err != nil {
		return nil, err
	}
	b := &Bus{
		config: c, log: c.Logger.With("agent", self.Name()), ring: c.Keyring, self: self,
		renew: make(chan struct{}, 1), stopped: make(chan struct{}), done: make(chan struct{}),
		subs: make(map[*Subscription]struct{}), past: Stats{Rejected: make(map[keyring.Reason]uint64)},
	}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	if err := b.dial(ctx, config); err != nil {
		b.cancel()
		return nil, err
	}
	if err := b.begin(ctx); err != nil {
		b.cancel()
		b.nc.Close()
		return nil, err
	}
	return b, nil
}

// dial makes the connection. nats.go knows no context while it connects, so that runs beside.
func (b *Bus) dial(ctx context.Context, config *tls.Config) error {
	timeout := connectTimeout
	if d, ok := ctx.Deadline(); ok {
		timeout = min(timeout, time.Until(d))
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	type result struct {
		nc  *nats.Conn
		err error
	}
	dialed := make(chan result, 1)
	go func() {
		nc, err := nats.Connect(strings.Join(b.config.Servers, ","), b.options(config, timeout)...)
		dialed <- result{nc, err}
	}()
	select {
	case r := <-dialed:
		b.nc = r.nc
		return b.explain(r.err)
	case <-ctx.Done():
		go func() {
			if r := <-dialed; r.nc != nil {
				r.nc.Close()
			}
		}()
		return fmt.Errorf("agentbus: connecting to %s: %w", strings.Join(b.config.Servers, ", "), ctx.Err())
	}
}

func (b *Bus) options(config *tls.Config, timeout time.Duration) []nats.Option {
	return []nats.Option{
		nats.Name(b.self.Name()),
		nats.Secure(config),
		nats.TLSHandshakeFirst(), // nothing at all goes over the wire in clear
		nats.CustomInboxPrefix(policy.InboxPrefix(b.self.Name())),
		nats.Timeout(timeout),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(100 * time.Millisecond),
		nats.ReconnectJitter(100*time.Millisecond, 400*time.Millisecond),
		// A certificate that ran out, or a policy that is being put right, is no reason to give up.
		nats.IgnoreAuthErrorAbort(),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if !b.closed() {
				b.log.Warn("connection lost", "error", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			b.counts.reconnects.Add(1)
			b.log.Info("connected again", "broker", nc.ConnectedUrl())
			b.refreshSoon()
		}),
		nats.ErrorHandler(func(_ *nats.Conn, s *nats.Subscription, err error) {
			if errors.Is(err, nats.ErrSlowConsumer) {
				b.log.Warn("frames arrive faster than they can be opened; some are dropped", "subject", s.Subject)
				return
			}
			b.log.Warn("connection error", "error", err)
		}),
	}
}

// explain says what to do about a connection that could not be made.
func (b *Bus) explain(err error) error {
	if err == nil {
		return nil
	}
	where := strings.Join(b.config.Servers, ", ")
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.Is(err, nats.ErrNoServers):
		return fmt.Errorf("agentbus: no broker answers at %s: is it running, and is that its address? (%w)", where, err)
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired):
		return fmt.Errorf("agentbus: the broker at %s does not let %s in: the policy does not know it or has revoked it (%w)", where, b.self, err)
	case errors.As(err, &unknown):
		return fmt.Errorf("agentbus: the broker at %s has a certificate of another CA than this agent's (%w)", where, err)
	default:
		return fmt.Errorf("agentbus: connecting to %s as %s: %w", where, b.self, err)
	}
}

// begin makes the connection a bus: policy, card, inbox, upkeep.
func (b *Bus) begin(ctx context.Context) (err error) {
	if b.js, err = jetstream.New(b.nc); err != nil {
		return err
	}
	b.store = &store{nc: b.nc, js: b.js}
	if err := b.ring.Attach(ctx, b.config.Identity, b.store, b.skipped); err != nil {
		return err
	}
	if b.replies, err = b.listenForReplies(ctx); err != nil {
		return err
	}
	stop, err := b.store.Follow(ctx, policy.BucketPolicy, policy.PolicyKey, b.newPolicy)
	if err != nil {
		return err
	}
	b.upkeep.Go(func() {
		defer stop()
		b.keepUp()
	})
	return nil
}

func (b *Bus) skipped(r keyring.Report) {
	b.counts.skipped.Add(1)
	b.log.Debug("entry of the store not believed", "key", r.Key, "error", r.Err)
}
