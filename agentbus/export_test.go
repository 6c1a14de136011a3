package agentbus

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealbus/sealbus/keyring"
)

// Timing sets how often a bus made with c looks for a renewed certificate, and how long Close and Stop wait for
// handlers. Zero: as usual.
func Timing(c Config, renewEvery, closeTimeout time.Duration) Config {
	c.renewEvery, c.closeTimeout = renewEvery, closeTimeout
	return c
}

// Lease sets how long a worker of a bus made with c has a task to itself.
func Lease(c Config, d time.Duration) Config {
	c.lease = d
	return c
}

// Presence sets how often a worker of a bus made with c says that it lives, and a third of how long that counts.
func Presence(c Config, d time.Duration) Config {
	c.presence = d
	return c
}

// Patience sets how long a replay of a bus made with c waits for a key or card.
func Patience(c Config, d time.Duration) Config {
	c.replayPatience = d
	return c
}

// AckPatience sets how long a bus made with c waits for an acknowledgement before it sends again.
func AckPatience(c Config, d time.Duration) Config {
	c.ackPatience = d
	return c
}

// OrderWait sets how long a bus made with c has a sender's session wait for the one before it.
func OrderWait(c Config, d time.Duration) Config {
	c.orderWait = d
	return c
}

// CutOff is a read from the store that ends when its connection has been lost and is back, and its time has run out.
func CutOff(ctx context.Context) error {
	s := &store{wire: new(wire)}
	return s.read(ctx, func(attempt context.Context) error {
		s.wire.regained.fire()
		<-attempt.Done()
		<-ctx.Done()
		return attempt.Err()
	})
}

// Conn returns the NATS connection in use, which a test may cut off.
func (b *Bus) Conn() *nats.Conn { return b.wire.current() }

// Matches exposes the check of a subject against a pattern.
var Matches = matches

// Ring returns the keyring of a bus, for frames that are to be sealed and not sent.
func (b *Bus) Ring() *keyring.Ring { return b.ring }

// StillAfter sets after what time without anything new an auditor's log says so.
func StillAfter(c AuditConfig, d time.Duration) AuditConfig {
	c.still = d
	return c
}

// Idle sets after how long a bus made with c notes that it has nothing to say, and how often it does so again.
func Idle(c Config, after, every time.Duration) Config {
	c.idleAfter, c.idleEvery = after, every
	return c
}
