package agentbus

import (
	"bytes"
	"context"
	"crypto/x509"
	"time"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/keyring"
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
// that was missed while the connection was away.
func (b *Bus) keepUp() {
	ticker := time.NewTicker(renewEvery)
	defer ticker.Stop()
	shown := b.leaf()
	for {
		refresh := false
		select {
		case <-b.stopped:
			return
		case <-b.renew:
			refresh = true
		case <-ticker.C:
		}
		leaf := b.leaf()
		renewed := leaf != nil && (shown == nil || !bytes.Equal(leaf.Raw, shown.Raw))
		if refresh || renewed {
			if err := b.refresh(); err != nil {
				b.log.Warn("refreshing keys and policy failed; trying again", "error", err)
				continue
			}
		}
		// The broker ends a connection with its certificate, so a new connection shows the new one: when
		// nothing waits for an answer, or at the last moment.
		if renewed && (b.replies.idle() || time.Until(shown.NotAfter) < renewMargin) {
			b.log.Info("certificate renewed", "until", leaf.NotAfter)
			shown = leaf
			if err := b.nc.ForceReconnect(); err != nil {
				b.log.Warn("reconnecting with the new certificate failed", "error", err)
			}
		}
	}
}

// leaf returns the certificate that the source holds now, nil if it has none.
func (b *Bus) leaf() *x509.Certificate {
	_, svid, err := identity.Self(b.config.Identity)
	if err != nil {
		return nil
	}
	return svid.Certificates[0]
}

func (b *Bus) refresh() error {
	ctx, cancel := context.WithTimeout(b.ctx, refreshTimeout)
	defer cancel()
	return b.ring.Refresh(ctx)
}
