package agentbus

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// Connect connects an agent: mutual TLS 1.3 to a broker whose ID it verifies, a policy that a pinned operator
// has signed, the agent's card published. It returns when the bus is usable. A broker that is not there,
// not the named one or of another trust domain, a certificate that the broker refuses, and an agent without
// a place in the policy are errors here. Later the connection is restored whenever it is lost.
//
// ctx bounds connecting, not the bus; without a deadline Config.RequestTimeout does. The keyring is the bus's from
// here on, also when Connect fails: it is then closed. One that is another bus's is refused, and left to that.
func Connect(ctx context.Context, config Config) (*Bus, error) {
	c, err := config.check()
	if err == nil {
		var b *Bus
		if b, err = connect(ctx, c); err == nil {
			return b, nil
		}
	}
	if config.Keyring != nil && !errors.Is(err, keyring.ErrAttached) {
		err = errors.Join(err, config.Keyring.Close(context.WithoutCancel(ctx)))
	}
	return nil, err
}

func connect(ctx context.Context, c Config) (*Bus, error) {
	self, svid, err := identity.Self(c.Identity)
	if err != nil {
		return nil, fmt.Errorf("agentbus: Config.Identity: %w", err)
	}
	if !self.IsAgent() {
		return nil, fmt.Errorf("agentbus: the certificate is for %s: an agent's is for spiffe://%s/agent/<name>", self, self.TrustDomain().Name())
	}
	if leaf := svid.Certificates[0]; time.Now().After(leaf.NotAfter) {
		return nil, fmt.Errorf("agentbus: %w: that of %s expired at %s: renew it", identity.ErrExpired, self, leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	config, err := identity.ClientTLS(c.Identity, c.Brokers...)
	if err != nil {
		return nil, fmt.Errorf("agentbus: %w", err)
	}
	b := &Bus{
		config: c, log: c.Logger.With("agent", self.Name()), ring: c.Keyring, self: self,
		renew: make(chan struct{}, 1), stopped: make(chan struct{}), done: make(chan struct{}),
		subs: make(map[*Subscription]struct{}), workers: make(map[*Worker]struct{}), auditors: make(map[*Auditor]struct{}), lingering: make(map[*route]*time.Timer), served: make(map[string]bool), past: Stats{Rejected: make(map[keyring.Reason]uint64)},
	}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.gathered, b.endLanes = context.WithCancel(context.Background())
	b.openers = newOpeners(b.gathered.Done())
	b.wire = newWire(b, config)
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	if b.wire.link, err = b.wire.dial(ctx); err != nil {
		b.cancel()
		b.endLanes()
		return nil, err
	}
	if err := b.begin(ctx); err != nil {
		b.cancel()
		b.endLanes()
		if b.replies != nil {
			b.replies.end()
		}
		b.wire.close()
		return nil, err
	}
	return b, nil
}

// bounded gives a context a deadline if it has none.
func (b *Bus) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, b.config.RequestTimeout)
}

// explain says what to do about a connection that could not be made.
func (b *Bus) explain(err error) error {
	where := strings.Join(b.config.Servers, ", ")
	var unknown x509.UnknownAuthorityError
	var op *net.OpError
	switch {
	case errors.Is(err, nats.ErrNoServers):
		return fmt.Errorf("agentbus: no broker answers at %s: is it running, and is that its address? (%w)", where, err)
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired):
		return fmt.Errorf("agentbus: the broker at %s does not let %s in: the policy does not know it or has revoked it (%w)", where, b.self, err)
	case errors.As(err, &unknown):
		return fmt.Errorf("agentbus: the broker at %s has a certificate of another CA than this agent's (%w)", where, err)
	case errors.As(err, &op) && op.Op == "remote error":
		return fmt.Errorf("agentbus: the broker at %s refuses the certificate of %s: is it of the broker's CA and in date? (%w)", where, b.self, err)
	default:
		return fmt.Errorf("agentbus: connecting to %s as %s: %w", where, b.self, err)
	}
}

// begin makes the connection a bus: policy, card, inbox, upkeep.
func (b *Bus) begin(ctx context.Context) (err error) {
	b.store = &store{wire: b.wire}
	if err := b.ring.Attach(ctx, b.config.Identity, b.store, b.skipped); err != nil {
		return err
	}
	b.leaf.Store(b.ownLeaf())
	if b.replies, err = b.listenForReplies(ctx); err != nil {
		return err
	}
	stop, err := b.store.Follow(ctx, policy.BucketPolicy, policy.PolicyKey, b.newPolicy)
	if err != nil {
		return err
	}
	// What was put between Attach and Follow.
	raw, err := b.store.Get(ctx, policy.BucketPolicy, policy.PolicyKey)
	if err != nil {
		stop()
		return err
	}
	b.newPolicy(keyring.Entry{Key: policy.PolicyKey, Value: raw})
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
