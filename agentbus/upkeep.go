package agentbus

import (
	"context"
	"crypto/x509"
	"time"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// newPolicy puts a policy in force that the broker has just been given. The keyring believes it only if an
// operator signed it and it is newer.
func (b *Bus) newPolicy(e keyring.Entry) {
	before := b.ring.Policy()
	if err := b.ring.AdoptPolicy(e.Value); err != nil {
		b.counts.skipped.Add(1)
		b.log.Error("policy refused", "error", err)
		return
	}
	b.notePolicy(before)
}

// notePolicy logs that there is another policy than before.
func (b *Bus) notePolicy(before *policy.Policy) {
	if p := b.ring.Policy(); p != before {
		b.log.Info("policy in force", "revision", p.Revision())
	}
}

// refreshSoon has the upkeep look at everything again.
func (b *Bus) refreshSoon() {
	select {
	case b.renew <- struct{}{}:
	default:
	}
}

// keepUp renews what a long life of a bus needs: the card when the certificate is renewed, and everything
// that was missed while the connection was away. What fails is tried again at the next tick.
func (b *Bus) keepUp() {
	ticker := time.NewTicker(b.config.renewEvery)
	defer ticker.Stop()
	due := false
	for {
		select {
		case <-b.stopped:
			return
		case <-b.renew:
			due = true
		case <-ticker.C:
		}
		due = b.keepUpOnce(due)
	}
}

// keepUpOnce does what is due, and reports whether it still is.
func (b *Bus) keepUpOnce(due bool) bool {
	leaf := b.ownLeaf()
	// The connection first: a certificate that the broker does not accept makes no card that others would not.
	if leaf != nil && !b.wire.shows(leaf) && b.wire.current().IsConnected() && !b.reconnect(leaf) && !due {
		return false
	}
	if due || leaf != nil && !leaf.Equal(b.leaf.Load()) {
		if err := b.refresh(); err != nil {
			b.log.Warn("refreshing keys and policy failed; trying again", "error", err)
			return true
		}
		b.leaf.Store(leaf)
	}
	return false
}

// reconnect makes a connection that shows a renewed certificate. The broker ends one with the certificate that it
// was made with. While there is none nats.go makes one in any case.
func (b *Bus) reconnect(leaf *x509.Certificate) bool {
	ctx, cancel := context.WithTimeout(b.ctx, refreshTimeout)
	defer cancel()
	if err := b.wire.replace(ctx); err != nil {
		b.log.Warn("connecting with the renewed certificate failed; trying again", "error", err)
		return false
	}
	b.counts.reconnects.Add(1)
	b.log.Info("connected with the renewed certificate", "until", leaf.NotAfter)
	return true
}

// ownLeaf returns the certificate that the source holds now, nil if it has none.
func (b *Bus) ownLeaf() *x509.Certificate {
	_, svid, err := identity.Self(b.config.Identity)
	if err != nil {
		return nil
	}
	return svid.Certificates[0]
}

func (b *Bus) refresh() error {
	ctx, cancel := context.WithTimeout(b.ctx, refreshTimeout)
	defer cancel()
	before := b.ring.Policy()
	err := b.ring.Refresh(ctx)
	b.notePolicy(before)
	return err
}
