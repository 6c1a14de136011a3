package broker

import (
	"fmt"
	"net"
	"strconv"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/identity"
)

// newServer returns the NATS server of a node, not yet running.
func newServer(c *checked, auth *authenticator, log *serverLog) (*server.Server, error) {
	options, err := serverOptions(c)
	if err != nil {
		return nil, err
	}
	options.CustomClientAuthentication = auth
	s, err := server.NewServer(options)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrServer, err)
	}
	auth.server = s
	s.SetLoggerV2(log, log.debug(), false, false)
	return s, nil
}

func serverOptions(c *checked) (*server.Options, error) {
	tlsConfig, err := identity.ServerTLS(c.Identity)
	if err != nil {
		return nil, fmt.Errorf("%w: Identity: %w", ErrConfig, err)
	}
	list, err := accounts(c.policy)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrServer, err)
	}
	port := c.port
	if port == 0 {
		port = server.RANDOM_PORT // 0 would be NATS's default
	}
	maxConnections := c.MaxConnections
	if maxConnections > 0 {
		maxConnections++ // the node's own
	}
	return &server.Options{
		ServerName:    c.id.Name(),
		Host:          c.host,
		Port:          port,
		Accounts:      list,
		SystemAccount: AccountSystem,

		TLSConfig:  tlsConfig,
		TLSTimeout: tlsTimeout.Seconds(),
		// Otherwise the server speaks first, in the clear.
		TLSHandshakeFirst: true,

		JetStream:         true,
		StoreDir:          c.StoreDir,
		JetStreamMaxStore: c.MaxStore,
		// These count only here; given to the server's EnableJetStream they
		// are shown as set and do nothing.
		SyncAlways:   c.SyncInterval == 0,
		SyncInterval: c.SyncInterval,

		MaxConn:       maxConnections,
		MaxSubs:       maxSubscriptions,
		MaxPayload:    MaxPayload,
		MaxPending:    maxPending,
		WriteDeadline: writeDeadline,
		PingInterval:  pingInterval,
		MaxPingsOut:   maxPings,

		// The server would otherwise end the process on a signal.
		NoSigs:                 true,
		DisableJetStreamBanner: true,
	}, nil
}

// connect is the node's own connection to an account of its server.
func connect(s *server.Server, auth *authenticator, account string) (*nats.Conn, error) {
	nc, err := nats.Connect("",
		nats.Name("node"),
		nats.InProcessServer(s),
		nats.UserInfo(account, auth.secret),
		nats.MaxReconnects(-1),
		// The server tells clients its network addresses, where this
		// connection has no business.
		nats.IgnoreDiscoveredServers(),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			auth.log.Error("the node's own connection", "error", err)
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("%w: connect inside the process: %w", ErrServer, err)
	}
	return nc, nil
}

// openJetStream uses JetStream over one of the node's own connections.
func openJetStream(nc *nats.Conn) (jetstream.JetStream, error) {
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(apiTimeout))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrServer, err)
	}
	return js, nil
}

// probeListen reports whether the node could listen, before anything is made on
// disk. The server listens only once it has read its store.
func probeListen(c *checked) error {
	l, err := net.Listen("tcp", net.JoinHostPort(c.host, strconv.Itoa(c.port)))
	if err != nil {
		return listenError(c, err)
	}
	return l.Close()
}

func listenError(c *checked, err error) error {
	return fmt.Errorf("%w on %s: %w: stop what uses the address, or choose another Listen", ErrListen, c.Listen, err)
}
