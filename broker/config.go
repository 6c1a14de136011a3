package broker

import (
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/policy"
)

// DefaultListen is where a node listens unless told otherwise.
const DefaultListen = "127.0.0.1:4222"

// Config says how a node runs. Identity, Policy, Operators and StoreDir are
// required.
type Config struct {
	// Identity is the certificate of a broker node,
	// spiffe://<trust domain>/broker/<node>. It is asked for again at every
	// handshake, so a renewed certificate is served without a restart.
	Identity identity.Source

	// Policy is a policy signed by an operator, as policy.Sign returns it.
	Policy []byte

	// Operators are the pinned fingerprints of operator keys. A policy
	// signed by any other key is refused, whatever the store holds.
	Operators []identity.Fingerprint

	// StoreDir is the directory for streams and buckets. It is made, with
	// mode 0700, if it does not exist.
	StoreDir string

	// Listen is the address for clients, host and port. The port 0 picks a
	// free one. The default is [DefaultListen].
	Listen string

	// SyncInterval is how often what was written is synced to disk. Zero,
	// the default, syncs every write before it is acknowledged. With
	// anything else a crash of the machine loses what was acknowledged
	// since the last sync.
	SyncInterval time.Duration

	// MaxStore is how many bytes the store may take. Zero leaves it to the
	// server: three quarters of what is free on the disk at the start. When
	// it is full, writes are refused.
	MaxStore int64

	// MaxConnections bounds the clients that are connected at a time. Zero
	// leaves it to the server: 65,536.
	MaxConnections int

	// Logger is told what happens on the node. The default is
	// slog.Default().
	Logger *slog.Logger

	// AdminClients lets a client in that shows a broker node's certificate
	// of the own trust domain. It has every permission in the account that
	// it names as its user: AGENTS (also with no user), STORE or SYS. This is
	// for operators' tools. It is off by default: whoever has a node's key
	// could then read and write all of the store over the network.
	AdminClients bool

	// When queues are trimmed, and what time it is then: tests say so.
	trimTick <-chan time.Time
	trimNow  func() time.Time
}

// checked is a Config that was found usable, with what it says read.
type checked struct {
	Config
	id     identity.ID
	policy *policy.Policy
	host   string
	port   int // 0 for any
	log    *slog.Logger
}

// check reads the configuration. It touches neither the disk nor the network
// but through Identity.
func (c Config) check(now time.Time) (*checked, error) {
	if err := c.checkValues(); err != nil {
		return nil, err
	}
	if c.Listen == "" {
		c.Listen = DefaultListen
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	host, port, err := parseListen(c.Listen)
	if err != nil {
		return nil, err
	}
	id, err := c.node(now)
	if err != nil {
		return nil, err
	}
	p, err := policy.Verify(c.Policy, c.Operators)
	if err != nil {
		return nil, fmt.Errorf("%w: Policy: %w", ErrConfig, err)
	}
	if p.TrustDomain() != id.TrustDomain() {
		return nil, fmt.Errorf("%w: the policy's is %q, the certificate is that of %s: give the policy that was signed for this bus",
			ErrTrustDomain, p.TrustDomain().Name(), id)
	}
	return &checked{Config: c, id: id, policy: p, host: host, port: port,
		log: c.Logger.With("node", id.Name())}, nil
}

func (c Config) checkValues() error {
	switch {
	case c.Identity == nil:
		return fmt.Errorf("%w: Identity is missing: load the node's certificate with identity.LoadFiles", ErrConfig)
	case len(c.Policy) == 0:
		return fmt.Errorf("%w: Policy is empty: give a policy that an operator signed with policy.Sign", ErrConfig)
	case len(c.Operators) == 0:
		return fmt.Errorf("%w: Operators is empty: pin the fingerprint of your operator's key", ErrConfig)
	case c.StoreDir == "":
		return fmt.Errorf("%w: StoreDir is empty: name a directory for streams and buckets", ErrConfig)
	case c.SyncInterval < 0:
		return fmt.Errorf("%w: SyncInterval is %v: give 0 to sync every write, or how often to sync", ErrConfig, c.SyncInterval)
	case c.MaxStore < 0:
		return fmt.Errorf("%w: MaxStore is %d: give a number of bytes, or 0 for the server's choice", ErrConfig, c.MaxStore)
	case c.MaxConnections < 0:
		return fmt.Errorf("%w: MaxConnections is %d: give a number of clients, or 0 for the server's choice", ErrConfig, c.MaxConnections)
	}
	return nil
}

// node returns which node the certificate names, provided that clients would
// accept it now.
func (c Config) node(now time.Time) (identity.ID, error) {
	id, svid, err := identity.Self(c.Identity)
	if err != nil {
		return identity.ID{}, fmt.Errorf("%w: Identity: %w", ErrConfig, err)
	}
	if !id.IsBroker() {
		return identity.ID{}, fmt.Errorf("%w: Identity is the certificate of the agent %s: give one for spiffe://%s/broker/<node>",
			ErrConfig, id, id.TrustDomain().Name())
	}
	if leaf := svid.Certificates[0]; now.After(leaf.NotAfter) {
		return identity.ID{}, fmt.Errorf("%w: Identity: %w: that of %s ended on %s: renew it",
			ErrConfig, identity.ErrExpired, id, leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return id, nil
}

func parseListen(listen string) (host string, port int, err error) {
	host, service, err := net.SplitHostPort(listen)
	if err != nil {
		return "", 0, fmt.Errorf("%w: Listen is %.80q: write host:port, such as %q", ErrConfig, listen, DefaultListen)
	}
	n, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("%w: Listen is %.80q: the port is a number up to 65535, or 0 to pick a free one", ErrConfig, listen)
	}
	if host == "" {
		host = "0.0.0.0"
	}
	return host, int(n), nil
}
