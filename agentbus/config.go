package agentbus

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"time"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// Config says how an agent connects. Servers, Identity and Keyring are required.
type Config struct {
	// Servers are the brokers' addresses, "tls://host:port" or "host:port". The first that answers is
	// used; the others are for when it goes away. Others of the same cluster are learnt from it.
	Servers []string

	// Identity is the agent's certificate, spiffe://<trust domain>/agent/<name>. It is asked for again
	// at every connection, and a renewed one is taken into use without a restart.
	Identity identity.Source

	// Keyring is this agent's own, fresh from keyring.Open or keyring.Memory. The bus closes it.
	Keyring *keyring.Ring

	// Brokers are the names of the broker nodes that the agent talks to. Empty: any that the trust
	// domain's CA has certified as a broker.
	Brokers []string

	// Logger is told what happens to the connection. Nothing of a message is ever logged. The default
	// is slog.Default().
	Logger *slog.Logger

	// OnReject is called for every frame that was not accepted, one call at a time for a subscription.
	// It must not block: the subscription's frames wait for it. Nil: rejections are only counted.
	OnReject func(Rejection)

	// OnError is called for what a handler returned or panicked with. Nil: it is counted, and that it
	// happened is logged.
	OnError func(subject string, err error)

	// Buffer is how many opened messages may wait for a subscription's handler, and they may take up 64 MiB. Up to 64
	// of one frame are taken together when there is room for one. What comes when it is full is dropped
	// and counted. The default is DefaultBuffer.
	Buffer int

	// RequestTimeout bounds requests, and all else that waits for others, where the context has no deadline.
	// The default is DefaultRequestTimeout.
	RequestTimeout time.Duration

	renewEvery, closeTimeout, lease, presence, slotTerm, idleAfter, idleEvery, replayPatience, orderWait, ackPatience time.Duration // for tests
}

// check fills in the defaults and refuses what cannot work.
func (c Config) check() (Config, error) {
	switch {
	case c.Keyring != nil && !c.Keyring.Self().IsZero(): // before any other error has it closed
		return c, fmt.Errorf("agentbus: Config.Keyring is another bus's: %w", keyring.ErrAttached)
	case len(c.Servers) == 0:
		return c, errors.New("agentbus: Config.Servers is empty: name at least one broker, such as \"tls://127.0.0.1:4222\"")
	case c.Identity == nil:
		return c, errors.New("agentbus: Config.Identity is missing: use identity.LoadFiles")
	case c.Keyring == nil:
		return c, errors.New("agentbus: Config.Keyring is missing: use keyring.Open, or keyring.Memory for keys of one life")
	case c.Buffer < 0 || c.RequestTimeout < 0:
		return c, errors.New("agentbus: Config.Buffer and Config.RequestTimeout cannot be negative")
	}
	servers := make([]string, len(c.Servers))
	for i, s := range c.Servers {
		u, err := serverURL(s)
		if err != nil {
			return c, err
		}
		servers[i] = u
	}
	c.Servers = servers
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	c.Buffer = cmp.Or(c.Buffer, DefaultBuffer)
	c.RequestTimeout = cmp.Or(c.RequestTimeout, DefaultRequestTimeout)
	c.renewEvery = cmp.Or(c.renewEvery, renewEvery)
	c.lease = cmp.Or(c.lease, policy.TaskAckWait)
	c.presence = cmp.Or(c.presence, presenceEvery)
	c.slotTerm = cmp.Or(c.slotTerm, slotTerm)
	c.idleAfter = cmp.Or(c.idleAfter, idleAfter)
	c.idleEvery = cmp.Or(c.idleEvery, idleEvery)
	c.replayPatience = cmp.Or(c.replayPatience, replayPatience)
	c.ackPatience = cmp.Or(c.ackPatience, ackPatience)
	c.orderWait = cmp.Or(c.orderWait, orderWait)
	c.closeTimeout = cmp.Or(c.closeTimeout, closeTimeout)
	return c, nil
}

// serverURL accepts tls:// and a bare host:port. nats:// would connect too, since every connection is TLS
// here, but says something that is not so.
func serverURL(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		if u, err = url.Parse("tls://" + s); err != nil || u.Host == "" {
			return "", fmt.Errorf("agentbus: server %q is no address: write tls://host:port", s)
		}
	}
	if u.Scheme != "tls" {
		return "", fmt.Errorf("agentbus: server %q: only tls:// is spoken: write tls://%s", s, u.Host)
	}
	if u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("agentbus: server %q: write tls://host:port and no more; who the agent is, its certificate says", s)
	}
	return u.String(), nil
}
