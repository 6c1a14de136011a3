// Package bustest sets up what tests need of a whole bus: a CA, an operator, a signed policy, a real broker
// on loopback with its store in a directory of the test's own, and agents that connect to it over mutual TLS.
// It also lends the attacker's tools: a raw NATS connection with every permission.
package bustest

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/broker"
	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/identity/devca"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// Timeout bounds every wait for something that should happen at once. No test waits for it to pass.
const Timeout = 2 * time.Minute

// Domain is the trust domain of every world.
const Domain = "example.org"

// World is one trust domain with one broker.
type World struct {
	T        testing.TB
	CA       *devca.CA
	Operator *identity.OperatorKey
	Dir      string // the broker's store
	Signed   []byte // the policy
	Node     *broker.Node

	mu       sync.Mutex
	rejected []agentbus.Rejection
	waiters  []chan struct{}
}

// New starts a world under a policy, YAML.
func New(t testing.TB, yaml string) *World {
	t.Helper()
	ca, err := devca.New(Domain)
	Check(t, err)
	operator, err := identity.GenerateOperatorKey()
	Check(t, err)
	w := &World{T: t, CA: ca, Operator: operator, Dir: t.TempDir()}
	w.Signed = w.Sign(yaml)
	w.Start()
	t.Cleanup(w.Stop)
	return w
}

// Sign signs a policy with the world's operator key.
func (w *World) Sign(yaml string) []byte {
	w.T.Helper()
	raw, err := policy.Sign([]byte(yaml), w.Operator, time.Now())
	Check(w.T, err)
	return raw
}

// Start starts the broker on the world's store: the first time on a free port, then on the same.
func (w *World) Start() {
	w.T.Helper()
	listen := "127.0.0.1:0"
	if w.Node != nil {
		listen = w.Node.Addr().String()
	}
	src, err := w.CA.BrokerSource("node-1", time.Hour)
	Check(w.T, err)
	node, err := broker.Start(w.Ctx(), broker.Config{
		Identity: src, Policy: w.Signed, Operators: []identity.Fingerprint{w.Operator.Fingerprint()},
		StoreDir: w.Dir, Listen: listen, AdminClients: true, Logger: Quiet(),
	})
	Check(w.T, err)
	w.Node = node
}

// Stop stops the broker and waits for it.
func (w *World) Stop() {
	if err := w.Node.Shutdown(context.Background()); err != nil {
		w.T.Errorf("stopping the broker: %v", err)
	}
}

// Ctx returns a context that ends with the test, or after Timeout.
func (w *World) Ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), Timeout)
	w.T.Cleanup(cancel)
	return ctx
}

// Source returns a certificate of an hour for an agent.
func (w *World) Source(name string) *identity.Memory {
	w.T.Helper()
	src, err := w.CA.AgentSource(name, time.Hour)
	Check(w.T, err)
	return src
}

// Ring returns a fresh keyring in memory.
func (w *World) Ring() *keyring.Ring {
	w.T.Helper()
	r, err := keyring.Memory(w.Operator.Fingerprint())
	Check(w.T, err)
	return r
}

// Config returns how an agent connects to the world's broker, with a keyring in memory.
func (w *World) Config(name string) agentbus.Config {
	w.T.Helper()
	return agentbus.Config{
		Servers: []string{w.Node.URL()}, Identity: w.Source(name), Keyring: w.Ring(), Logger: Quiet(), OnReject: w.reject,
	}
}

// Agent connects an agent with a keyring in memory.
func (w *World) Agent(name string) *agentbus.Bus {
	w.T.Helper()
	return w.Connect(w.Config(name))
}

// Connect connects an agent and closes it at the end of the test.
func (w *World) Connect(c agentbus.Config) *agentbus.Bus {
	w.T.Helper()
	b, err := agentbus.Connect(w.Ctx(), c)
	Check(w.T, err)
	w.T.Cleanup(func() { _ = b.Close() })
	return b
}

// Admin returns the attacker's connection: over mutual TLS like everybody's, with the broker's own
// certificate and every permission in an account, "AGENTS" or "STORE".
func (w *World) Admin(account string) *nats.Conn {
	w.T.Helper()
	src, err := w.CA.BrokerSource("node-1", time.Hour)
	Check(w.T, err)
	return w.Raw(src, nats.UserInfo(account, ""))
}

// Raw returns a plain NATS connection with the certificate of src and the rights that this gives.
func (w *World) Raw(src identity.Source, options ...nats.Option) *nats.Conn {
	w.T.Helper()
	nc, err := w.Dial(src, options...)
	Check(w.T, err)
	return nc
}

// Dial is Raw for a connection that should fail.
func (w *World) Dial(src identity.Source, options ...nats.Option) (*nats.Conn, error) {
	w.T.Helper()
	config, err := identity.ClientTLS(src)
	Check(w.T, err)
	options = append([]nats.Option{nats.Secure(config), nats.TLSHandshakeFirst(), nats.Timeout(Timeout)}, options...)
	nc, err := nats.Connect(w.Node.URL(), options...)
	if err != nil {
		return nil, err
	}
	w.T.Cleanup(nc.Close)
	return nc, nil
}

func (w *World) reject(r agentbus.Rejection) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rejected = append(w.rejected, r)
	for _, c := range w.waiters {
		close(c)
	}
	w.waiters = nil
}

// Rejected returns every rejection so far, of all agents made with Config or Agent.
func (w *World) Rejected() []agentbus.Rejection {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]agentbus.Rejection(nil), w.rejected...)
}

// AwaitRejections waits until at least n frames have been rejected for a reason, and returns them.
func (w *World) AwaitRejections(n int, reason keyring.Reason) []agentbus.Rejection {
	w.T.Helper()
	deadline := time.After(Timeout)
	for {
		var found []agentbus.Rejection
		w.mu.Lock()
		for _, r := range w.rejected {
			if r.Reason == reason {
				found = append(found, r)
			}
		}
		more := make(chan struct{})
		w.waiters = append(w.waiters, more)
		all := len(w.rejected)
		w.mu.Unlock()
		if len(found) >= n {
			return found
		}
		select {
		case <-more:
		case <-deadline:
			w.T.Fatalf("%d frames rejected for %q, want %d; %d rejected in all: %v", len(found), reason, n, all, w.Rejected())
		}
	}
}

// Receive waits for a value.
func Receive[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(Timeout):
		t.Fatal("nothing arrived")
		panic("unreachable")
	}
}

// Empty fails the test if something waits in c. What must not arrive is followed by something that must,
// on the same way: once that is here, so would the other be.
func Empty[T any](t testing.TB, c <-chan T) {
	t.Helper()
	select {
	case v := <-c:
		t.Errorf("arrived, and should not have: %v", v)
	default:
	}
}

// Check ends the test at an error.
func Check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Quiet returns a logger that discards.
func Quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
