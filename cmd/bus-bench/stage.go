package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/broker"
	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/identity/devca"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

const (
	domain = "bench.example"
	node   = "node-1"
)

// stage is what a trial runs on: one broker node, and those who connect to it.
type stage struct {
	dir      string // the broker's store
	log      *slog.Logger
	ca       *devca.CA
	operator *identity.OperatorKey
	node     *broker.Node
	faults   *faults
}

// newStage starts a broker under a policy, whose trust domain and revision are put in front. Its store is in a new
// directory below work.
func newStage(ctx context.Context, work, rules string) (_ *stage, err error) {
	ctx, cancel := context.WithTimeout(ctx, startup)
	defer cancel()
	st := &stage{log: slog.New(slog.DiscardHandler), faults: newFaults()}
	if st.dir, err = os.MkdirTemp(work, "store-"); err != nil {
		return nil, err
	}
	if st.ca, err = devca.New(domain); err != nil {
		return nil, err
	}
	if st.operator, err = identity.GenerateOperatorKey(); err != nil {
		return nil, err
	}
	signed, err := st.sign(1, rules)
	if err != nil {
		return nil, err
	}
	src, err := st.ca.BrokerSource(node, certLife)
	if err != nil {
		return nil, err
	}
	// SyncInterval is left at its default: what is retained is synced before it is acknowledged.
	st.node, err = broker.Start(ctx, broker.Config{
		Identity: src, Policy: signed, Operators: []identity.Fingerprint{st.operator.Fingerprint()},
		StoreDir: st.dir, Listen: "127.0.0.1:0", Logger: st.log, AdminClients: true,
	})
	if err != nil {
		return nil, err
	}
	return st, nil
}

func (st *stage) sign(revision int, rules string) ([]byte, error) {
	text := fmt.Sprintf("trust_domain: %s\nrevision: %d\n%s", domain, revision, strings.TrimLeft(rules, "\n"))
	return policy.Sign([]byte(text), st.operator, time.Now())
}

// sealed connects an agent as a program would.
func (st *stage) sealed(ctx context.Context, name string) (*agentbus.Bus, error) {
	ctx, cancel := context.WithTimeout(ctx, startup)
	defer cancel()
	src, err := st.ca.AgentSource(name, certLife)
	if err != nil {
		return nil, err
	}
	ring, err := keyring.Memory(st.operator.Fingerprint())
	if err != nil {
		return nil, err
	}
	b, err := agentbus.Connect(ctx, agentbus.Config{
		Servers: []string{st.node.URL()}, Identity: src, Keyring: ring, Brokers: []string{node}, Logger: st.log,
		OnReject: func(r agentbus.Rejection) { st.faults.add(fmt.Errorf("%s rejected a frame: %w", name, r.Err)) },
		OnError:  func(subject string, err error) { st.faults.add(fmt.Errorf("handler of %s: %w", subject, err)) },
	})
	if err != nil {
		return nil, fmt.Errorf("connecting %s: %w", name, err)
	}
	return b, nil
}

// plain connects with nats.go alone, as the agent of that name: by the same kind of certificate, over the same TLS,
// with the same rights.
func (st *stage) plain(name string) (*nats.Conn, error) {
	src, err := st.ca.AgentSource(name, certLife)
	if err != nil {
		return nil, err
	}
	return st.connect(name, src)
}

func (st *stage) connect(name string, src identity.Source, options ...nats.Option) (*nats.Conn, error) {
	config, err := identity.ClientTLS(src, node)
	if err != nil {
		return nil, err
	}
	options = append([]nats.Option{
		nats.Name(name), nats.Secure(config), nats.TLSHandshakeFirst(), nats.Timeout(startup),
		nats.CustomInboxPrefix(policy.InboxPrefix(name)), nats.NoReconnect(),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { st.faults.add(fmt.Errorf("%s: %w", name, err)) }),
	}, options...)
	nc, err := nats.Connect(st.node.URL(), options...)
	if err != nil {
		return nil, fmt.Errorf("connecting %s: %w", name, err)
	}
	return nc, nil
}

// close stops the broker and removes its store.
func (st *stage) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closing)
	defer cancel()
	return errors.Join(st.node.Shutdown(ctx), os.RemoveAll(st.dir))
}

// faults keeps the first thing that went wrong somewhere else than in a call.
type faults struct {
	once sync.Once
	some chan struct{} // closed by the first
	err  error
}

func newFaults() *faults { return &faults{some: make(chan struct{})} }

func (f *faults) add(err error) {
	f.once.Do(func() {
		f.err = err
		close(f.some)
	})
}

// first returns what went wrong first, nil if nothing has.
func (f *faults) first() error {
	select {
	case <-f.some:
		return f.err
	default:
		return nil
	}
}
