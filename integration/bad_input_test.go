package integration_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/broker"
	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/identity/devca"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// badCall is a call with input that cannot work. The error is there at the call, matches is where that is not
// nil, and says all of says.
type badCall struct {
	name string
	call func() error
	is   error
	says []string
}

// tryAll makes the calls and checks that none changes anything in a directory.
func tryAll(t *testing.T, dir string, calls []badCall) {
	t.Helper()
	before := listing(t, dir)
	for _, c := range calls {
		err := c.call()
		if err == nil {
			t.Errorf("%s: no error", c.name)
			continue
		}
		if c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s: %v, want %v", c.name, err, c.is)
		}
		for _, text := range c.says {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%s: the error does not say %q: %v", c.name, text, err)
			}
		}
		if after := listing(t, dir); !maps.Equal(before, after) {
			t.Errorf("%s: on disk is %q, was %q", c.name, after, before)
			before = after
		}
	}
}

// listing is everything in a directory: names, modes, contents.
func listing(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	bustest.Check(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		all[path] = info.Mode().String()
		if info.Mode().IsRegular() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			all[path] += fmt.Sprintf(" %x", sha256.Sum256(b))
		}
		return nil
	}))
	return all
}

// TestBadFiles: certificates, keys and policies that are none.
func TestBadFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, err := devca.New(bustest.Domain)
	bustest.Check(t, err)
	files := func(name string) (cert, key, root string) {
		svid, err := ca.Agent(name, time.Hour)
		bustest.Check(t, err)
		cert, key, root, err = ca.WriteFiles(dir, svid)
		bustest.Check(t, err)
		return cert, key, root
	}
	cert, key, root := files("planner")
	_, otherKey, _ := files("bob")
	write := func(name, content string) string {
		name = filepath.Join(dir, name)
		bustest.Check(t, os.WriteFile(name, []byte(content), 0o600))
		return name
	}
	empty, junk := write("empty.pem", ""), write("junk.pem", "not a certificate")
	broken := write("broken.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
	half := string(mustRead(t, cert))
	half = write("half.pem", half[:len(half)/2])
	missing := filepath.Join(dir, "missing.pem")
	operator, err := identity.GenerateOperatorKey()
	bustest.Check(t, err)
	operatorFile := filepath.Join(dir, "operator.pem")
	bustest.Check(t, operator.Save(operatorFile))

	load := func(cert, key, root string) func() error {
		return func() error { _, err := identity.LoadFiles(cert, key, root); return err }
	}
	sign := func(text string) func() error {
		return func() error { _, err := policy.Sign([]byte(text), operator, time.Now()); return err }
	}
	tryAll(t, dir, []badCall{
		{"certificate missing", load(missing, key, root), fs.ErrNotExist, []string{"certificate file", missing}},
		{"certificate empty", load(empty, key, root), nil, []string{"certificate file", empty, "is empty"}},
		{"certificate no PEM", load(junk, key, root), nil, []string{"certificate file", junk, "PEM"}},
		{"certificate half written", load(half, key, root), nil, []string{"certificate file", half, "PEM"}},
		{"certificate broken", load(broken, key, root), nil, []string{"certificate file", broken}},
		{"a key for a certificate", load(key, key, root), nil, []string{"certificate file", key, "but PRIVATE KEY", "wrong order?"}},
		{"a CA's certificate for an agent's", load(root, key, root), nil, []string{"certificate file", root, "CA's own certificate"}},
		{"key missing", load(cert, missing, root), fs.ErrNotExist, []string{"key file", missing}},
		{"key no PEM", load(cert, junk, root), nil, []string{"key file", junk, "PEM"}},
		{"a certificate for a key", load(cert, cert, root), nil, []string{"key file", cert, "but CERTIFICATE", "wrong order?"}},
		{"another certificate's key", load(cert, otherKey, root), nil, []string{"key file", otherKey, "not that of the certificate"}},
		{"CA missing", load(cert, key, missing), fs.ErrNotExist, []string{"CA file", missing}},
		{"CA no PEM", load(cert, key, junk), nil, []string{"CA file", junk, "PEM"}},
		{"an agent's certificate for the CA's", load(cert, key, cert), nil, []string{"CA file", cert}},
		{"operator key missing", func() error { _, err := identity.LoadOperatorKey(missing); return err }, fs.ErrNotExist, []string{"operator key file", missing}},
		{"operator key no PEM", func() error { _, err := identity.LoadOperatorKey(junk); return err }, nil, []string{"operator key file", junk, "PEM"}},
		{"operator key over another", func() error { return operator.Save(operatorFile) }, fs.ErrExist, []string{operatorFile}},
		{"operator key into nowhere", func() error { return operator.Save(filepath.Join(dir, "no", "such.pem")) }, fs.ErrNotExist, []string{"such.pem"}},
		{"policy: a typo in a field", sign(strings.Replace(trustPolicy, "subscribe: [planner", "subscibe: [planner", 1)), nil, []string{"line 4", "subscibe", "subscribe"}},
		{"policy: a typo at the top", sign(strings.Replace(trustPolicy, "services:", "servises:", 1)), nil, []string{"line 6", "servises", "services"}},
		{"policy: a bad name", sign(strings.Replace(trustPolicy, "gossip:", "Gossip!:", 1)), nil, []string{"line 5", "Gossip!"}},
		{"policy: a duration without a unit", sign(strings.Replace(trustPolicy, "signed: false", "max_age: 30", 1)), nil, []string{"line 5", "30s"}},
		{"policy: not YAML", sign("trust_domain: [\n"), nil, []string{"line"}},
		{"policy: no revision", sign(strings.Replace(trustPolicy, "revision: 1\n", "", 1)), nil, []string{"revision"}},
		{"policy: empty", sign(""), nil, []string{"trust_domain"}},
	})
}

// TestBadConnect: what keeps an agent from connecting is said by Connect.
func TestBadConnect(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, nextRevision(1, "direct:", "revoked: [exec-7]\ndirect:", `to: ["*"]`, `to: [bob]`))
	dir := t.TempDir()
	connect := func(name string, edit func(*agentbus.Config)) func() error {
		return func() error {
			c := w.Config(name)
			if edit != nil {
				edit(&c)
			}
			b, err := agentbus.Connect(w.Ctx(), c)
			if err == nil {
				_ = b.Close()
			}
			return err
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	bustest.Check(t, err)
	nowhere := listener.Addr().String()
	bustest.Check(t, listener.Close())
	nodes, err := w.CA.BrokerSource("node-1", time.Hour)
	bustest.Check(t, err)
	stranger, err := identity.GenerateOperatorKey()
	bustest.Check(t, err)
	state := t.TempDir() // its bus writes to it whenever it likes
	held, err := keyring.Open(state, keyring.Passphrase("correct horse"), w.Operator.Fingerprint())
	bustest.Check(t, err)
	c := w.Config("planner")
	c.Keyring = held
	planner := w.Connect(c)
	_, err = planner.Subscribe(w.Ctx(), "prices", func(context.Context, *agentbus.Message) error { return nil })
	bustest.Check(t, err)
	open := func(dir string, kek keyring.KEK, operators ...identity.Fingerprint) func() error {
		return func() error { _, err := keyring.Open(dir, kek, operators...); return err }
	}
	other := otherCA(t, bustest.Domain)
	ended, err := w.CA.Issue(devca.Template{ID: identity.MustParseID("spiffe://example.org/agent/exec-1"), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(-time.Minute)})
	bustest.Check(t, err)
	fp := w.Operator.Fingerprint()
	servers := func(list ...string) func(*agentbus.Config) { return func(c *agentbus.Config) { c.Servers = list } }
	tryAll(t, dir, []badCall{
		{"a broker that is not there", connect("exec-1", servers("tls://"+nowhere)), nil, []string{"no broker answers", nowhere, "is it running"}},
		{"a broker that is not the named one", connect("exec-1", func(c *agentbus.Config) { c.Brokers = []string{"node-7"} }), nil, []string{`"node-1" is none of node-7`, "check the address"}},
		{"a broker name that is none", connect("exec-1", func(c *agentbus.Config) { c.Brokers = []string{"Node 7"} }), identity.ErrInvalidID, []string{"Node 7"}},
		{"no servers", connect("exec-1", servers()), nil, []string{"Config.Servers is empty"}},
		{"a server that is no address", connect("exec-1", servers("://")), nil, []string{"tls://host:port"}},
		{"a server without TLS", connect("exec-1", servers("nats://127.0.0.1:4222")), nil, []string{"write tls://127.0.0.1:4222"}},
		{"a server with a password", connect("exec-1", servers("tls://me:secret@127.0.0.1:4222")), nil, []string{"its certificate says"}},
		{"no identity", connect("exec-1", func(c *agentbus.Config) { c.Identity = nil }), nil, []string{"Config.Identity is missing"}},
		{"no keyring", connect("exec-1", func(c *agentbus.Config) { c.Keyring = nil }), nil, []string{"Config.Keyring is missing"}},
		{"an agent with no place in the policy", connect("nobody", nil), nil, []string{"spiffe://example.org/agent/nobody", "the policy does not know it"}},
		{"a revoked agent", connect("exec-7", nil), nil, []string{"spiffe://example.org/agent/exec-7", "revoked"}},
		{"a broker's certificate", connect("exec-1", func(c *agentbus.Config) { c.Identity = nodes }), nil, []string{"spiffe://example.org/broker/node-1", "agent/<name>"}},
		{"an expired certificate", connect("exec-1", func(c *agentbus.Config) { c.Identity = identity.NewMemory(ended, w.CA.Bundle()) }), identity.ErrExpired, []string{"expired", "renew it"}},
		{"a certificate of another CA", connect("exec-1", func(c *agentbus.Config) {
			svid, err := other.Agent("exec-1", time.Hour)
			bustest.Check(t, err)
			c.Identity = identity.NewMemory(svid, w.CA.Bundle())
		}), nil, []string{"refuses the certificate", "CA"}},
		{"a broker of another CA", connect("exec-1", func(c *agentbus.Config) {
			svid, err := w.CA.Agent("exec-1", time.Hour)
			bustest.Check(t, err)
			c.Identity = identity.NewMemory(svid, other.Bundle())
		}), nil, []string{"another CA"}},
		{"another operator pinned", connect("exec-1", func(c *agentbus.Config) {
			ring, err := keyring.Memory(stranger.Fingerprint())
			bustest.Check(t, err)
			c.Keyring = ring
		}), policy.ErrUntrustedOperator, []string{fp.String(), "pin that fingerprint"}},
		{"one keyring for two buses", connect("planner", func(c *agentbus.Config) { c.Keyring = held }), keyring.ErrAttached, []string{"a ring of its own"}},
		{"a time that is over", func() error {
			over, cancel := context.WithCancel(w.Ctx())
			cancel()
			_, err := agentbus.Connect(over, w.Config("exec-1"))
			return err
		}, context.Canceled, nil},

		{"a state directory in use", open(state, keyring.Passphrase("correct horse"), fp), keyring.ErrLocked, nil},
		{"no operator", open(filepath.Join(dir, "new"), keyring.Passphrase("correct horse")), nil, []string{"pin at least one operator"}},
		{"no directory", open("", keyring.Passphrase("correct horse"), fp), nil, []string{"use Memory"}},
		{"no key", open(filepath.Join(dir, "new"), keyring.KEK{}, fp), nil, []string{"keyring.Passphrase"}},
		{"an empty passphrase", open(filepath.Join(dir, "new"), keyring.Passphrase(""), fp), nil, []string{"use 1 to"}},
		{"no AEAD", open(filepath.Join(dir, "new"), keyring.EncryptWith(nil), fp), nil, []string{"pass a tink.AEAD"}},
	})
	// The planner, whose keyring and directory others wanted too, was not disturbed.
	got := listen(w, planner, "prices")
	say(w, w.Agent("feed-1"), "prices.x", "all is well", got)

	bustest.Check(t, planner.Close())
	tryAll(t, state, []badCall{
		{"another passphrase", open(state, keyring.Passphrase("wrong horse"), fp), keyring.ErrWrongKey, []string{state}},
		{"another operator, for a state that knows a policy", open(state, keyring.Passphrase("correct horse"), stranger.Fingerprint()), policy.ErrUntrustedOperator, []string{"pin that fingerprint"}},
		{"a closed keyring", connect("planner", func(c *agentbus.Config) { c.Keyring = held }), keyring.ErrClosed, nil},
		{"another agent's directory", connect("exec-1", func(c *agentbus.Config) {
			ring, err := keyring.Open(state, keyring.Passphrase("correct horse"), fp)
			bustest.Check(t, err)
			c.Keyring = ring
		}), nil, []string{"belongs to spiffe://example.org/agent/planner"}},
	})
}

// TestBadBroker: a node that cannot run says so when it is started, and leaves its directory as it was.
func TestBadBroker(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, trustPolicy)
	dir := t.TempDir()
	nodes, err := w.CA.BrokerSource("node-1", time.Hour)
	bustest.Check(t, err)
	stranger, err := identity.GenerateOperatorKey()
	bustest.Check(t, err)
	foreign, err := otherCA(t, "other.org").BrokerSource("node-1", time.Hour)
	bustest.Check(t, err)
	start := func(edit func(*broker.Config)) func() error {
		return func() error {
			c := broker.Config{Identity: nodes, Policy: w.Signed, Operators: []identity.Fingerprint{w.Operator.Fingerprint()},
				StoreDir: filepath.Join(dir, "store"), Listen: "127.0.0.1:0", Logger: bustest.Quiet()}
			edit(&c)
			n, err := broker.Start(w.Ctx(), c)
			if err == nil {
				bustest.Check(t, n.Shutdown(w.Ctx()))
			}
			return err
		}
	}
	tryAll(t, dir, []badCall{
		{"no identity", start(func(c *broker.Config) { c.Identity = nil }), broker.ErrConfig, []string{"Identity is missing"}},
		{"an agent's certificate", start(func(c *broker.Config) { c.Identity = w.Source("planner") }), broker.ErrConfig, []string{"broker/<node>"}},
		{"no policy", start(func(c *broker.Config) { c.Policy = nil }), broker.ErrConfig, []string{"Policy is empty"}},
		{"a policy that is not signed", start(func(c *broker.Config) { c.Policy = []byte(trustPolicy) }), policy.ErrStatement, nil},
		{"a policy of another operator", start(func(c *broker.Config) { c.Operators = []identity.Fingerprint{stranger.Fingerprint()} }), policy.ErrUntrustedOperator, []string{"pin that fingerprint"}},
		{"no operator", start(func(c *broker.Config) { c.Operators = nil }), broker.ErrConfig, []string{"Operators is empty"}},
		{"another trust domain", start(func(c *broker.Config) { c.Identity = foreign }), broker.ErrTrustDomain, []string{"example.org", "other.org"}},
		{"no directory", start(func(c *broker.Config) { c.StoreDir = "" }), broker.ErrConfig, []string{"StoreDir is empty"}},
		{"an address that is none", start(func(c *broker.Config) { c.Listen = "here" }), broker.ErrConfig, []string{"host:port"}},
		{"an address in use", start(func(c *broker.Config) { c.Listen = w.Node.Addr().String() }), broker.ErrListen, []string{w.Node.Addr().String()}},
		{"a directory in use", start(func(c *broker.Config) { c.StoreDir = w.Dir }), broker.ErrStoreInUse, []string{w.Dir}},
	})
}

// TestBadCalls: what cannot be published, subscribed to, asked or answered is refused by the call.
func TestBadCalls(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, nextRevision(1, `to: ["*"]`, `to: [bob]`))
	dir := t.TempDir()
	planner, feed, bob := w.Agent("planner"), w.Agent("feed-1"), w.Agent("bob")
	handler := func(context.Context, *agentbus.Message) error { return nil }
	answer := func(context.Context, *agentbus.Message) ([]byte, error) { return nil, nil }
	publish := func(subject string, size int, options ...agentbus.MessageOption) func() error {
		return func() error { return feed.Publish(w.Ctx(), subject, make([]byte, size), options...) }
	}
	subscribe := func(pattern string) func() error {
		return func() error { _, err := planner.Subscribe(w.Ctx(), pattern, handler); return err }
	}
	request := func(agent string, size int) func() error {
		return func() error { _, err := planner.Request(w.Ctx(), agent, make([]byte, size)); return err }
	}
	too := agentbus.MaxPayload + 1
	tryAll(t, dir, []badCall{
		{"a space", publish("prices.eu de", 1), policy.ErrSubject, []string{"eu de"}},
		{"a space in front", publish(" prices", 1), policy.ErrSubject, nil},
		{"a line end", publish("prices.x\r\nPUB", 1), policy.ErrSubject, nil},
		{"a wildcard", publish("prices.*", 1), policy.ErrSubject, []string{"wildcards are for subscriptions"}},
		{"a wildcard at the end", publish("prices.>", 1), policy.ErrSubject, []string{"wildcards are for subscriptions"}},
		{"an empty subject", publish("", 1), policy.ErrSubject, []string{"it is empty"}},
		{"an empty token", publish("prices..eu", 1), policy.ErrSubject, []string{"single dots"}},
		{"a dot at the end", publish("prices.", 1), policy.ErrSubject, []string{"single dots"}},
		{"a long subject", publish("prices."+strings.Repeat("x", 300), 1), policy.ErrSubject, []string{"at most"}},
		{"an unknown topic", publish("price.eu", 1), policy.ErrUnknownChannel, []string{"price", "prices"}},
		{"a topic that it only reads", func() error { return planner.Publish(w.Ctx(), "prices", nil) }, agentbus.ErrNotEntitled, []string{"planner", "topic/prices"}},
		{"an oversized payload", publish("prices", too), agentbus.ErrTooLarge, []string{fmt.Sprint(too), fmt.Sprint(agentbus.MaxPayload)}},
		{"too many headers", publish("prices", 1, agentbus.Header("a", strings.Repeat("x", 9000))), nil, []string{"headers"}},
		{"a header twice", publish("prices", 1, agentbus.Header("a", "b"), agentbus.Header("a", "c")), nil, []string{"twice"}},
		{"a reserved header", publish("prices", 1, agentbus.Header("sealbus-x", "b")), nil, []string{"reserved"}},
		{"an expiry in the past", publish("prices", 1, agentbus.ExpiresIn(-time.Second)), nil, []string{"expired already"}},

		{"a pattern over topics", subscribe(">"), policy.ErrSubject, []string{"start with a topic"}},
		{"a pattern over topics, by a token", subscribe("*.eu"), policy.ErrSubject, []string{"start with a topic"}},
		{"a pattern that goes on", subscribe("prices.>.x"), policy.ErrSubject, []string{"only come last"}},
		{"a part of a token", subscribe("prices.e*"), policy.ErrSubject, []string{"stands alone"}},
		{"a pattern with a space", subscribe("prices. eu"), policy.ErrSubject, nil},
		{"a pattern on an unknown topic", subscribe("news.>"), policy.ErrUnknownChannel, []string{"news"}},
		{"a topic that it only writes", func() error { _, err := feed.Subscribe(w.Ctx(), "prices", handler); return err }, agentbus.ErrNotEntitled, []string{"feed-1"}},
		{"no handler", func() error { _, err := planner.Subscribe(w.Ctx(), "prices", nil); return err }, nil, []string{"needs a handler"}},

		{"an agent that the policy does not name", request("bop", 1), agentbus.ErrNotEntitled, []string{"planner", "bop", "no direct rule"}},
		{"a name that is none", request("Bob!", 1), identity.ErrInvalidID, []string{"Bob!"}},
		{"no name", request("", 1), identity.ErrInvalidID, nil},
		{"itself", request("planner", 1), nil, []string{"itself"}},
		{"an agent that is not there", request("bob", 1), agentbus.ErrNoResponder, []string{"bob"}},
		{"an oversized request", request("bob", too), agentbus.ErrTooLarge, []string{fmt.Sprint(agentbus.MaxPayload)}},
		{"an unknown service", func() error { _, err := planner.RequestService(w.Ctx(), "lockup", nil); return err }, policy.ErrUnknownChannel, []string{"lockup", "lookup"}},
		{"a service that it may not call", func() error { _, err := feed.RequestService(w.Ctx(), "lookup", nil); return err }, agentbus.ErrNotEntitled, []string{"feed-1"}},
		{"a service that it may not serve", func() error { _, err := planner.ServeService(w.Ctx(), "lookup", answer); return err }, agentbus.ErrNotEntitled, []string{"planner"}},
		{"serving with no handler", func() error { _, err := bob.Serve(w.Ctx(), nil); return err }, nil, []string{"needs a handler"}},
		{"serving none at a time", func() error { _, err := bob.Serve(w.Ctx(), answer, agentbus.Concurrency(0)); return err }, nil, []string{"at least 1"}},
		{"serving where nobody may ask", func() error { _, err := feed.Serve(w.Ctx(), answer); return err }, agentbus.ErrNotEntitled, []string{"feed-1", "direct"}},
	})
	got := listen(w, planner, "prices")
	say(w, feed, "prices", "all is well", got)

	bustest.Check(t, planner.Close())
	bustest.Check(t, planner.Close())
	bustest.Check(t, feed.Close())
	serve := func(b *agentbus.Bus) func() error {
		return func() error { _, err := b.Serve(w.Ctx(), answer); return err }
	}
	tryAll(t, dir, []badCall{
		{"publish on a closed bus", publish("prices", 1), agentbus.ErrClosed, nil},
		{"subscribe on a closed bus", subscribe("prices"), agentbus.ErrClosed, nil},
		{"request on a closed bus", request("bob", 1), agentbus.ErrClosed, nil},
		{"call of a service on a closed bus", func() error { _, err := planner.RequestService(w.Ctx(), "lookup", nil); return err }, agentbus.ErrClosed, nil},
		{"serve on a closed bus", serve(planner), agentbus.ErrClosed, nil},
		{"flush of a closed bus", func() error { return planner.Flush(w.Ctx()) }, agentbus.ErrClosed, nil},
	})
}

// TestEdgesOfPayload: an empty payload arrives empty and the largest arrives whole, in every direction.
func TestEdgesOfPayload(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, trustPolicy)
	planner, feed, bob := w.Agent("planner"), w.Agent("feed-1"), w.Agent("bob")
	sizes := make(chan int, 8)
	_, err := planner.Subscribe(w.Ctx(), "prices.>", func(_ context.Context, m *agentbus.Message) error {
		sizes <- len(m.Payload)
		return nil
	})
	bustest.Check(t, err)
	_, err = bob.Serve(w.Ctx(), func(_ context.Context, m *agentbus.Message) ([]byte, error) {
		sizes <- len(m.Payload)
		if string(m.Payload) == "more" {
			return make([]byte, agentbus.MaxPayload+1), nil
		}
		return m.Payload, nil
	})
	bustest.Check(t, err)
	for _, payload := range [][]byte{nil, {}, make([]byte, 1), make([]byte, agentbus.MaxPayload)} {
		bustest.Check(t, feed.Publish(w.Ctx(), "prices.x", payload))
		if n := bustest.Receive(t, sizes); n != len(payload) {
			t.Errorf("published %d bytes, %d came", len(payload), n)
		}
		m, err := planner.Request(w.Ctx(), "bob", payload)
		bustest.Check(t, err)
		if n := bustest.Receive(t, sizes); n != len(payload) || len(m.Payload) != len(payload) {
			t.Errorf("asked with %d bytes, %d came and %d went back", len(payload), n, len(m.Payload))
		}
	}
	var remote *agentbus.RemoteError
	if _, err := planner.Request(w.Ctx(), "bob", []byte("more")); !errors.As(err, &remote) || !strings.Contains(remote.Text, "too large") {
		t.Errorf("an oversized reply: %v", err)
	}
}
