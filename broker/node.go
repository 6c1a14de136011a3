package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/policy"
)

// Node is a running broker node. Its methods may be called from several
// goroutines at once.
type Node struct {
	config *checked
	log    *slog.Logger

	lock    *os.File
	server  *server.Server
	started bool
	logged  *serverLog
	peers   *peers
	own     *nats.Conn // in STORE
	js      jetstream.JetStream
	addr    net.Addr
	holder  *holder
	asked   *inspector
	trims   chan struct{} // closed when the trimmer has ended

	stop    sync.Once
	closing chan struct{}
	done    chan struct{}
	err     error // why it stopped by itself; read after done is closed
}

// Start runs a node. It returns once clients can connect, streams and buckets
// are there and the policy is in force, or it fails and leaves nothing running.
// Configuration and policy are checked before anything is written.
//
// When ctx ends before, Start gives up and returns its error; what the server is
// doing to read its store is waited for. Afterwards ctx has no effect on the
// node.
//
// The error matches one of this package's; where a certificate, the policy or
// JetStream was the cause, that error too.
func Start(ctx context.Context, config Config) (*Node, error) {
	c, err := config.check(time.Now())
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("broker: start: %w", err)
	}
	n := &Node{
		config:  c,
		log:     c.log,
		logged:  newServerLog(c.log),
		peers:   newPeers(),
		closing: make(chan struct{}),
		done:    make(chan struct{}),
	}
	if err := n.start(ctx); err != nil {
		n.teardown(err)
		return nil, err
	}
	go n.watch()
	n.log.Info("broker node is ready", "url", n.URL(), "id", c.id.String(), "policy_revision", c.policy.Revision())
	return n, nil
}

func (n *Node) start(ctx context.Context) (err error) {
	if err := probeListen(n.config); err != nil {
		return err
	}
	if n.lock, err = openStore(n.config.StoreDir); err != nil {
		return err
	}
	ready := make(chan struct{})
	auth := &authenticator{
		policy:  n.config.policy,
		admins:  n.config.AdminClients,
		secret:  newCredential(),
		log:     n.log,
		peers:   n.peers,
		ready:   ready,
		closing: n.closing,
	}
	if n.server, err = newServer(n.config, auth, n.logged); err != nil {
		return err
	}
	if err := n.run(ctx); err != nil {
		return err
	}
	if n.own, err = connect(n.server, auth, AccountStore); err != nil {
		return err
	}
	if n.js, err = openJetStream(n.own); err != nil {
		return err
	}
	if err := Provision(ctx, n.js, n.config.policy, n.config.Policy); err != nil {
		return err
	}
	if n.holder, err = hold(n.js, n.config.policy, n.log); err != nil {
		return err
	}
	if n.asked, err = inspect(n.js, n.config.policy, n.log); err != nil {
		return err
	}
	// A fatal error of the server that came while it was provisioned.
	if err := n.logged.failed(); err != nil {
		return err
	}
	n.trim()
	close(ready)
	return nil
}

// trim trims the queues until the node stops.
func (n *Node) trim() {
	n.trims = make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-n.closing
		cancel()
	}()
	go func() {
		defer close(n.trims)
		t := newTrimmer(n.js, n.log)
		if n.config.trimNow != nil {
			t.now = n.config.trimNow
		}
		tick := n.config.trimTick
		if tick == nil {
			ticker := time.NewTicker(trimInterval)
			defer ticker.Stop()
			tick = ticker.C
		}
		t.run(ctx, n.config.policy, tick)
	}()
}

// run starts the server. Stopping it while it reads its store could leave parts
// of it running, so the end of ctx takes effect after that.
func (n *Node) run(ctx context.Context) error {
	n.started = true
	n.server.Start()
	if err := n.logged.failed(); err != nil {
		var network *net.OpError
		if errors.As(err, &network) && network.Op == "listen" {
			return listenError(n.config, err)
		}
		return err
	}
	if n.addr = n.server.Addr(); n.addr == nil {
		return fmt.Errorf("%w: it does not listen", ErrServer)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("broker: start: %w", err)
	}
	return nil
}

// watch stops the node when the server cannot go on.
func (n *Node) watch() {
	select {
	case <-n.logged.fatal:
		n.stop.Do(func() { n.teardown(n.logged.err) })
	case <-n.closing:
	}
}

// Shutdown disconnects every client, stops the node, writes out and closes its
// store, and waits for that. It may be called any number of times, also at
// once; every call waits. When ctx ends first its error is returned and the node
// goes on stopping, see [Node.Done].
func (n *Node) Shutdown(ctx context.Context) error {
	go n.stop.Do(func() { n.teardown(nil) })
	select {
	case <-n.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("broker: shut down: %w", ctx.Err())
	}
}

// teardown ends whatever of the node there is.
func (n *Node) teardown(reason error) {
	close(n.closing)
	if n.own != nil {
		n.own.Close()
	}
	if n.holder != nil {
		n.holder.stop()
	}
	if n.asked != nil {
		n.asked.stop()
	}
	if n.trims != nil {
		<-n.trims
	}
	if n.started {
		n.server.Shutdown()
		n.server.WaitForShutdown()
	}
	if n.lock != nil {
		_ = n.lock.Close()
	}
	if reason == nil {
		n.log.Info("broker node is stopped")
	}
	n.err = reason
	close(n.done)
}

// Done returns a channel that is closed when the node has stopped, after
// [Node.Shutdown] or by itself; [Node.Err] then says which.
func (n *Node) Done() <-chan struct{} { return n.done }

// Err returns nil while the node runs; then why it stopped: [ErrStopped] after
// [Node.Shutdown], an error that matches [ErrServer] when the server could not
// go on.
func (n *Node) Err() error {
	select {
	case <-n.done:
	default:
		return nil
	}
	if n.err != nil {
		return n.err
	}
	return ErrStopped
}

// ID returns whom the node's certificate named at the start.
func (n *Node) ID() identity.ID { return n.config.id }

// Policy returns the policy in force on the node.
func (n *Node) Policy() *policy.Policy { return n.config.policy }

// Streams returns the names of the streams that were provisioned.
func (n *Node) Streams() []string {
	var names []string
	for _, c := range streams(n.config.policy) {
		names = append(names, c.Name)
	}
	return names
}

// Addr returns the address that the node listens on, with the port that was
// picked where none was given.
func (n *Node) Addr() net.Addr { return n.addr }

// URL returns where clients connect to, "tls://host:port", with the host that
// the node was told to listen on. For a node that listens on all addresses it is
// the loopback's, which is right on this machine only.
func (n *Node) URL() string {
	host := n.config.host
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		if host = "127.0.0.1"; ip.To4() == nil {
			host = "::1"
		}
	}
	_, port, _ := net.SplitHostPort(n.addr.String())
	return "tls://" + net.JoinHostPort(host, port)
}

// Healthy reports whether the node can serve: it runs, its certificate is valid,
// JetStream works and the policy in force can be read from it. The error matches
// [ErrUnhealthy]; for a node that has stopped also what [Node.Err] returns.
// Without a deadline in ctx it answers within five seconds.
func (n *Node) Healthy(ctx context.Context) error {
	if err := n.health(ctx); err != nil {
		return fmt.Errorf("%w: %w", ErrUnhealthy, err)
	}
	return nil
}

func (n *Node) health(ctx context.Context) error {
	if err := n.Err(); err != nil {
		return err
	}
	select {
	case <-n.closing:
		return errors.New("it is stopping")
	default:
	}
	if _, err := n.config.node(time.Now()); err != nil {
		return err
	}
	if s := n.server.Healthz(nil); s.Error != "" {
		return fmt.Errorf("%w: %s", ErrServer, s.Error)
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	policies, err := n.js.Stream(ctx, policy.StreamOfBucket(policy.BucketPolicy))
	if err != nil {
		return fmt.Errorf("read the policy from the store: %w", err)
	}
	if _, err := policies.GetLastMsgForSubject(ctx, policySubject()); err != nil {
		return fmt.Errorf("read the policy from the store: %w", err)
	}
	return nil
}
