package broker_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealbus/sealbus/broker"
	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/identity/devca"
	"github.com/sealbus/sealbus/policy"
)

// TestBadConfig tries everything that Start refuses before it writes anything.
func TestBadConfig(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	stranger, err := identity.GenerateOperatorKey()
	ok(t, err)
	authority, err := b.ca.Broker("operator-to-be", time.Hour)
	ok(t, err)
	byAuthority, err := identity.SignSVIDStatement("sealbus-policy", struct {
		IssuedAt int64  `json:"iat"`
		Policy   string `json:"policy"`
	}{1, rulesText(1)}, authority)
	ok(t, err)
	agent, err := b.ca.AgentSource("alice", time.Hour)
	ok(t, err)
	old, err := b.ca.Issue(devca.Template{ID: identity.MustParseID("spiffe://example.org/broker/n1"),
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)})
	ok(t, err)

	for name, c := range map[string]struct {
		edit func(*broker.Config)
		want error
		text string
	}{
		"no identity": {func(c *broker.Config) { c.Identity = nil }, broker.ErrConfig, "identity.LoadFiles"},
		"an agent's certificate": {func(c *broker.Config) { c.Identity = agent }, broker.ErrConfig,
			"the certificate of the agent spiffe://example.org/agent/alice: give one for spiffe://example.org/broker/<node>"},
		"expired certificate": {func(c *broker.Config) { c.Identity = identity.NewMemory(old, b.ca.Bundle()) }, identity.ErrExpired, "renew it"},
		"source without one":  {func(c *broker.Config) { c.Identity = identity.NewMemory(nil, nil) }, identity.ErrCertificate, "Identity"},
		"no policy":           {func(c *broker.Config) { c.Policy = nil }, broker.ErrConfig, "policy.Sign"},
		"unsigned policy":     {func(c *broker.Config) { c.Policy = []byte(rulesText(1)) }, policy.ErrStatement, "Policy"},
		"policy cut short":    {func(c *broker.Config) { c.Policy = c.Policy[:len(c.Policy)-9] }, policy.ErrStatement, "Policy"},
		"no operators":        {func(c *broker.Config) { c.Operators = nil }, broker.ErrConfig, "pin the fingerprint"},
		"another operator": {func(c *broker.Config) { c.Operators = []identity.Fingerprint{stranger.Fingerprint()} },
			policy.ErrUntrustedOperator, b.op.Fingerprint().String()},
		"signed with a certificate": {func(c *broker.Config) { c.Policy = byAuthority }, policy.ErrStatement, "Policy"},
		"other trust domain": {func(c *broker.Config) {
			c.Policy = b.sign(strings.Replace(rulesText(1), "example.org", "example.com", 1))
		},
			broker.ErrTrustDomain, `"example.com", the certificate is that of spiffe://example.org/broker/n1`},
		"no store":        {func(c *broker.Config) { c.StoreDir = "" }, broker.ErrConfig, "StoreDir"},
		"no port":         {func(c *broker.Config) { c.Listen = "localhost" }, broker.ErrConfig, broker.DefaultListen},
		"named port":      {func(c *broker.Config) { c.Listen = "localhost:nats" }, broker.ErrConfig, "number"},
		"port too high":   {func(c *broker.Config) { c.Listen = "localhost:65536" }, broker.ErrConfig, "65535"},
		"address unknown": {func(c *broker.Config) { c.Listen = "192.0.2.1:0" }, broker.ErrListen, "192.0.2.1"},
		"sync":            {func(c *broker.Config) { c.SyncInterval = -1 }, broker.ErrConfig, "SyncInterval"},
		"store":           {func(c *broker.Config) { c.MaxStore = -1 }, broker.ErrConfig, "MaxStore"},
		"connections":     {func(c *broker.Config) { c.MaxConnections = -1 }, broker.ErrConfig, "MaxConnections"},
	} {
		t.Run(name, func(t *testing.T) {
			config := b.config(rulesText(1))
			config.StoreDir = filepath.Join(t.TempDir(), "store")
			c.edit(&config)
			n, err := broker.Start(timeout(t), config)
			if n != nil || !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Fatalf("Start: %v\nwant %v with %q", err, c.want, c.text)
			}
			if config.StoreDir == "" {
				return
			}
			if _, err := os.Stat(config.StoreDir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the store directory was made: %v", err)
			}
		})
	}
}

func TestAddressInUse(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	defer l.Close()
	config := b.config(rulesText(1))
	config.Listen = l.Addr().String()
	if _, err := broker.Start(timeout(t), config); !errors.Is(err, broker.ErrListen) || !strings.Contains(err.Error(), config.Listen) {
		t.Errorf("Start: %v", err)
	}
}

// TestAddressTaken takes the address while the server reads its store.
func TestAddressTaken(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	n := b.startDefault()
	config := b.config(rulesText(1))
	config.Listen = n.Addr().String()
	stop(t, n)
	var l net.Listener
	b.log.when("Starting JetStream", func() { l, _ = net.Listen("tcp", config.Listen) })
	_, err := broker.Start(timeout(t), config)
	if l == nil {
		t.Skip("somebody else took the port")
	}
	defer l.Close()
	if !errors.Is(err, broker.ErrListen) || !errors.Is(err, broker.ErrServer) {
		t.Errorf("Start: %v", err)
	}
	config.Listen = "127.0.0.1:0"
	b.start(config) // the first has let go of the store
}

func TestStoreDir(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	b.startDefault()
	if _, err := broker.Start(timeout(t), b.config(rulesText(1))); !errors.Is(err, broker.ErrStoreInUse) || !strings.Contains(err.Error(), b.dir) {
		t.Errorf("two nodes on one directory: %v", err)
	}

	config := b.config(rulesText(1))
	file := filepath.Join(t.TempDir(), "file")
	ok(t, os.WriteFile(file, nil, 0o600))
	for _, dir := range []string{file, filepath.Join(file, "below")} {
		config.StoreDir = dir
		if _, err := broker.Start(timeout(t), config); !errors.Is(err, broker.ErrStoreDir) {
			t.Errorf("a file as directory: %v", err)
		}
	}
	if os.Getuid() == 0 {
		return // root writes anywhere
	}
	config.StoreDir = t.TempDir()
	ok(t, os.Chmod(config.StoreDir, 0o500))
	if _, err := broker.Start(timeout(t), config); !errors.Is(err, broker.ErrStoreDir) {
		t.Errorf("a directory that cannot be written to: %v", err)
	}
}

// TestStoreUnusable lets JetStream fail where the server would end the process.
func TestStoreUnusable(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	ok(t, os.WriteFile(filepath.Join(b.dir, "jetstream"), nil, 0o600))
	if _, err := broker.Start(timeout(t), b.config(rulesText(1))); !errors.Is(err, broker.ErrServer) || !strings.Contains(err.Error(), "JetStream") {
		t.Errorf("Start: %v", err)
	}
	ok(t, os.Remove(filepath.Join(b.dir, "jetstream")))
	b.startDefault()
}

// TestStartCancelled ends the context at several points. Nothing may be left.
func TestStartCancelled(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	for _, at := range []string{"", "Starting JetStream", "Listening for client connections"} {
		ctx, cancel := context.WithCancel(context.Background())
		if at == "" {
			cancel()
		} else {
			b.log.when(at, cancel)
		}
		if _, err := broker.Start(ctx, b.config(rulesText(1))); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled at %q: %v", at, err)
		}
		cancel()
	}
	n := b.startDefault() // the store is free
	ok(t, n.Healthy(timeout(t)))
}

// TestEarlyClient connects while the node is not ready. It waits, and then finds
// everything there; on a node that does not start it is sent away.
func TestEarlyClient(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	n := b.startDefault()
	address := n.Addr().String()
	stop(t, n)
	src, err := b.ca.AgentSource("bob", time.Hour)
	ok(t, err)
	config, err := identity.ClientTLS(src)
	ok(t, err)
	early := func() <-chan error {
		result := make(chan error, 1)
		b.log.when("Listening for client connections", func() {
			go func() {
				nc, err := nats.Connect("tls://"+address, nats.Secure(config), nats.TLSHandshakeFirst(), nats.NoReconnect(), nats.Timeout(wait),
					nats.CustomInboxPrefix(policy.InboxPrefix("bob")))
				if err == nil {
					_, err = nc.RequestWithContext(timeout(t), policy.DirectGet(policy.BucketPolicy, policy.PolicyKey), nil)
					nc.Close()
				}
				result <- err
			}()
		})
		return result
	}
	settings := b.config(rulesText(2))
	settings.Listen = address
	result := early()
	n = b.start(settings)
	if err := <-result; err != nil {
		t.Errorf("on a node that gets ready: %v", err)
	}
	stop(t, n)

	settings.Policy = b.sign(rulesText(1))
	result = early()
	if _, err := broker.Start(timeout(t), settings); !errors.Is(err, policy.ErrRollback) {
		t.Errorf("Start: %v", err)
	}
	if err := <-result; err == nil {
		t.Error("served by a node that did not start")
	}
}

// TestStartContext: once started, the context has done its work.
func TestStartContext(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	ctx, cancel := context.WithCancel(context.Background())
	n, err := broker.Start(ctx, b.config(rulesText(1)))
	ok(t, err)
	defer stop(t, n)
	cancel()
	ok(t, n.Healthy(timeout(t)))
}

func TestShutdown(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	n := b.startDefault()
	alice := b.agent(n, "alice")
	if err := n.Err(); err != nil {
		t.Errorf("a running node: %v", err)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := n.Shutdown(ended); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown with no time: %v", err)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if err := n.Shutdown(context.Background()); err != nil {
				t.Errorf("Shutdown: %v", err)
			}
			if n.Server().Running() {
				t.Error("Shutdown did not wait")
			}
		})
	}
	all.Wait()
	await(t, n.Done(), "Done")
	await(t, alice.closed, "alice to be disconnected")
	if err := n.Err(); !errors.Is(err, broker.ErrStopped) {
		t.Errorf("Err: %v", err)
	}
	if err := n.Healthy(timeout(t)); !errors.Is(err, broker.ErrUnhealthy) || !errors.Is(err, broker.ErrStopped) {
		t.Errorf("Healthy: %v", err)
	}
	if l, err := net.Listen("tcp", n.Addr().String()); err != nil {
		t.Errorf("the address is not free: %v", err)
	} else {
		l.Close()
	}
	b.startDefault() // the store is free
}

// TestServerFails is about a server that cannot go on.
func TestServerFails(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	n := b.startDefault()
	alice := b.agent(n, "alice")
	cause := errors.New("out of luck")
	n.Fail("Can't go on: %v", cause)
	await(t, n.Done(), "the node to stop by itself")
	await(t, alice.closed, "alice to be disconnected")
	if err := n.Err(); !errors.Is(err, broker.ErrServer) || !errors.Is(err, cause) || !strings.Contains(err.Error(), "Can't go on: out of luck") {
		t.Errorf("Err: %v", err)
	}
	if err := n.Healthy(timeout(t)); !errors.Is(err, broker.ErrUnhealthy) || !errors.Is(err, cause) {
		t.Errorf("Healthy: %v", err)
	}
	stop(t, n)
}

func TestHealthy(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	config := b.config(rulesText(1))
	src := b.brokerSource()
	config.Identity = src
	n := b.start(config)
	ok(t, n.Healthy(timeout(t)))
	expired, err := b.ca.Issue(devca.Template{ID: n.ID(), NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)})
	ok(t, err)
	src.SetSVID(expired)
	if err := n.Healthy(timeout(t)); !errors.Is(err, broker.ErrUnhealthy) || !errors.Is(err, identity.ErrExpired) {
		t.Errorf("with an expired certificate: %v", err)
	}
	valid, err := b.brokerSource().GetX509SVID()
	ok(t, err)
	src.SetSVID(valid)
	ok(t, n.Healthy(timeout(t)))
	ok(t, n.Server().DisableJetStream())
	if err := n.Healthy(timeout(t)); !errors.Is(err, broker.ErrUnhealthy) {
		t.Errorf("without JetStream: %v", err)
	}
}

func TestURL(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	for listen, host := range map[string]string{"127.0.0.1:0": "127.0.0.1", ":0": "127.0.0.1", "0.0.0.0:0": "127.0.0.1", "localhost:0": "localhost"} {
		config := b.config(rulesText(1))
		config.Listen = listen
		n := b.start(config)
		if !strings.HasPrefix(n.URL(), "tls://"+host+":") || strings.HasSuffix(n.URL(), ":0") {
			t.Errorf("Listen %q: URL %s", listen, n.URL())
		}
		b.agent(n, "alice")
		stop(t, n)
	}
}

func TestDurability(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	for _, interval := range []time.Duration{0, time.Minute} {
		config := b.config(rulesText(1))
		config.SyncInterval = interval
		config.MaxStore = 64 << 20
		n := b.start(config)
		set := n.Server().JetStreamConfig()
		if set.SyncAlways != (interval == 0) || set.MaxStore != 64<<20 || (interval > 0 && set.SyncInterval != interval) {
			t.Errorf("SyncInterval %v: %+v", interval, set)
		}
		stop(t, n)
	}
}

func TestTooLarge(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	n := b.startDefault()
	mallory := b.agent(n, "mallory")
	if mallory.MaxPayload() != broker.MaxPayload {
		t.Errorf("clients are told %d bytes", mallory.MaxPayload())
	}
	if err := mallory.Publish("sb.topic.live", make([]byte, broker.MaxPayload+1)); !errors.Is(err, nats.ErrMaxPayload) {
		t.Errorf("a message too large: %v", err)
	}
	if _, err := mallory.js().Publish(timeout(t), "$KV.SB_CARDS.mallory.M1", make([]byte, identity.MaxStatement+8<<10)); err == nil {
		t.Error("an entry larger than any statement is stored")
	}
	if _, err := mallory.js().Publish(timeout(t), "$KV.SB_CARDS.mallory.M1", make([]byte, identity.MaxStatement)); err != nil {
		t.Errorf("the largest statement: %v", err)
	}
}
