package broker_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/broker"
	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/policy"
)

func TestRestartKeepsStreams(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	n := b.startDefault()
	b.agent(n, "alice").put("$KV.SB_CARDS.alice.A1", "card")
	b.agent(n, "feed").put("sb.topic.prices.eu", "1")
	stop(t, n)

	n = b.startDefault()
	if got := b.agent(n, "bob").get(policy.BucketCards, "alice.A1"); got != "card" {
		t.Errorf("alice's card after a restart: %q", got)
	}
	if seq := b.agent(n, "feed").put("sb.topic.prices.eu", "2"); seq != 2 {
		t.Errorf("the topic goes on at %d", seq)
	}
	if got, want := contents(t, store(t, n), "SB_TOPIC_prices"), []string{"sb.topic.prices.eu=1", "sb.topic.prices.eu=2"}; !slices.Equal(got, want) {
		t.Errorf("the topic's stream holds %q, want %q", got, want)
	}
	// The policy is the same one and is not stored again.
	if got := contents(t, store(t, n), "KV_SB_POLICY"); len(got) != 1 {
		t.Errorf("the policy is stored %d times", len(got))
	}
}

// TestNewRevision replaces the policy at a restart: mallory is revoked, the topic
// news is new, secret is no longer retained, prices for a shorter time, feed may
// no longer publish to it but eve may.
func TestNewRevision(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	n := b.startDefault()
	b.agent(n, "mallory").put("sb.topic.prices", "mallory's")
	b.agent(n, "feed").put("sb.topic.secret", "the feed's")
	first := n.Policy()
	stop(t, n)

	n = b.start(b.config(`
trust_domain: example.org
revision: 2
previous: ` + policy.FormatHash(first.Hash()) + `
topics:
  prices: {publish: [eve], subscribe: [bob, feed], retain: 30m}
  secret: {publish: [feed], subscribe: [bob]}
  news: {publish: [feed], subscribe: [bob], retain: 90d}
revoked: [mallory]
`))
	if n.Policy().Revision() != 2 || !slices.Equal(n.Streams(), []string{"KV_SB_POLICY", "KV_SB_CARDS", "KV_SB_KEYS", "SB_TOPIC_news", "SB_TOPIC_prices"}) {
		t.Errorf("revision %d with streams %q", n.Policy().Revision(), n.Streams())
	}
	src, err := b.ca.AgentSource("mallory", time.Hour)
	ok(t, err)
	if _, err := dial(n, src, "mallory"); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("the revoked agent: %v", err)
	}
	feed, bob := b.agent(n, "feed"), b.agent(n, "bob")
	if got := bob.get(policy.BucketPolicy, policy.PolicyKey); got != string(b.sign(string(n.Policy().YAML()))) {
		t.Error("the new policy is not the one that agents find")
	}
	b.agent(n, "eve").put("sb.topic.prices", "eve's")
	feed.put("sb.topic.news", "new")
	ok(t, feed.Publish("sb.topic.prices", nil))
	ok(t, feed.FlushWithContext(timeout(t)))
	if err := <-feed.errs; !errors.Is(err, nats.ErrPermissionViolation) {
		t.Errorf("feed publishes to prices: %v", err)
	}
	if _, err := feed.js().Publish(timeout(t), "sb.topic.secret", nil); !errors.Is(err, jetstream.ErrNoStreamResponse) {
		t.Errorf("the topic that is no longer retained: %v", err)
	}
	js := store(t, n)
	if err := broker.Provision(timeout(t), js, first, b.sign(rulesText(1))); !errors.Is(err, policy.ErrRollback) {
		t.Errorf("the old policy while the new one is in force: %v", err)
	}
	for name, age := range map[string]time.Duration{"prices": 30 * time.Minute, "news": 90 * 24 * time.Hour, "secret": time.Hour} {
		s, err := js.Stream(timeout(t), policy.TopicStream(name))
		ok(t, err)
		if got := s.CachedInfo().Config.MaxAge; got != age {
			t.Errorf("%s is kept for %v, want %v", name, got, age)
		}
	}
	if got := contents(t, js, "SB_TOPIC_secret"); !slices.Equal(got, []string{"sb.topic.secret=the feed's"}) {
		t.Errorf("what is no longer retained was touched: %q", got)
	}
	stop(t, n)

	for name, c := range map[string]struct {
		text string
		want error
	}{
		"the old revision again":          {rulesText(1), policy.ErrRollback},
		"another policy of that revision": {rulesText(2), policy.ErrFork},
		"the next, after some other":      {strings.Replace(rulesText(3), "revision: 3", "revision: 3\nprevious: sha256:"+strings.Repeat("ab", 32), 1), policy.ErrFork},
	} {
		_, err := broker.Start(timeout(t), b.config(c.text))
		if !errors.Is(err, c.want) || !errors.Is(err, broker.ErrProvision) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	n = b.start(b.config(rulesText(4)))
	b.agent(n, "mallory")
	if got := contents(t, store(t, n), "KV_SB_POLICY"); len(got) != 3 {
		t.Errorf("the bucket remembers %d policies", len(got))
	}
}

// TestOperatorReplaced starts a node that pins only the new operator's key on a
// store whose policy the old one signed.
func TestOperatorReplaced(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	stop(t, b.startDefault())
	next, err := identity.GenerateOperatorKey()
	ok(t, err)
	b.op = next
	n := b.start(b.config(rulesText(2)))
	if n.Policy().Revision() != 2 {
		t.Errorf("revision %d", n.Policy().Revision())
	}
	stop(t, n)
	if _, err := broker.Start(timeout(t), b.config(rulesText(1))); !errors.Is(err, policy.ErrRollback) {
		t.Errorf("an older policy of the new operator: %v", err)
	}
}

func TestProvisionTwice(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	config := b.config(rulesText(1))
	n := b.start(config)
	js := store(t, n)
	ctx := timeout(t)
	for _, want := range broker.StreamsOf(n.Policy()) {
		s, err := js.Stream(ctx, want.Name)
		ok(t, err)
		if next, changed := broker.Merged(s.CachedInfo().Config, want); changed {
			t.Errorf("%s would be changed at every start:\n%+v\n%+v", want.Name, s.CachedInfo().Config, next)
		}
	}
	ok(t, broker.Provision(ctx, js, n.Policy(), config.Policy))

	// What somebody changed by hand is put right, but for what is theirs.
	s, err := js.Stream(ctx, "KV_SB_CARDS")
	ok(t, err)
	edited := s.CachedInfo().Config
	edited.AllowRollup, edited.MaxMsgsPerSubject, edited.MaxBytes, edited.Description = true, 5, 1<<20, "theirs"
	edited.DenyPurge = true
	if _, err := js.UpdateStream(ctx, edited); err != nil {
		edited.AllowRollup = false // the server refuses it beside DenyPurge
		_, err = js.UpdateStream(ctx, edited)
		ok(t, err)
	}
	ok(t, broker.Provision(ctx, js, n.Policy(), config.Policy))
	s, err = js.Stream(ctx, "KV_SB_CARDS")
	ok(t, err)
	if c := s.CachedInfo().Config; c.AllowRollup || c.MaxMsgsPerSubject != 1 || c.MaxBytes != 1<<20 || c.Description != "theirs" {
		t.Errorf("provisioned again: %+v", c)
	}
}

func TestProvisionRefuses(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	config := b.config(rulesText(1))
	n := b.start(config)
	js := store(t, n)
	parsed, err := policy.Parse([]byte(rulesText(2)))
	ok(t, err)
	second, err := policy.Verify(b.sign(rulesText(2)), config.Operators)
	ok(t, err)
	for name, c := range map[string]struct {
		p   *policy.Policy
		raw []byte
	}{
		"no policy":       {nil, config.Policy},
		"not signed":      {parsed, []byte(rulesText(2))},
		"only parsed":     {parsed, b.sign(rulesText(2))},
		"not one another": {second, config.Policy},
	} {
		if err := broker.Provision(timeout(t), js, c.p, c.raw); !errors.Is(err, broker.ErrProvision) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Whoever owns the store can put in what it likes. The node refuses to go
	// on from there, as nobody can say what was in force.
	if _, err := js.Publish(timeout(t), "$KV.SB_POLICY.current", []byte("junk")); err != nil {
		t.Fatal(err)
	}
	err = broker.Provision(timeout(t), js, second, b.sign(rulesText(2)))
	if !errors.Is(err, broker.ErrProvision) || !strings.Contains(err.Error(), "stored policy cannot be read") {
		t.Errorf("junk in the store: %v", err)
	}
}
