package broker_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/sealbus/sealbus/policy"
)

const joins = "topic.prices.j."

func TestBucketsFromAgents(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	config := b.config(rulesText(1))
	n := b.start(config)
	alice, bob := b.agent(n, "alice"), b.agent(n, "bob")
	feed := bob.listen("sb.store.keys.topic.prices.>")

	if got := bob.get(policy.BucketCards, "alice.A1"); got != "" {
		t.Errorf("a card before it is put: %q", got)
	}
	alice.put(policy.BucketSubject(policy.BucketCards, "alice.A1"), "card")
	if got := bob.get(policy.BucketCards, "alice.A1"); got != "card" {
		t.Errorf("bob reads %q as alice's card", got)
	}
	if got := bob.get(policy.BucketPolicy, policy.PolicyKey); got != string(config.Policy) {
		t.Errorf("bob reads %.40q as the policy", got)
	}

	const count = 300
	for i := range count {
		alice.put(policy.BucketSubject(policy.BucketKeys, fmt.Sprintf("%salice.%03d", joins, i)), "join")
	}
	for i := range count {
		m := bob.next(feed)
		if want := fmt.Sprintf("sb.store.keys.%salice.%03d", joins, i); m.Subject != want || string(m.Data) != "join" {
			t.Fatalf("update %d is %s %q, want %s", i, m.Subject, m.Data, want)
		}
	}
	keys := list(t, bob, policy.BucketSubject(policy.BucketKeys, "topic.prices.>"))
	if len(keys) != count {
		t.Errorf("a batch read lists %d entries, want %d", len(keys), count)
	}
	if keys := list(t, bob, policy.BucketSubject(policy.BucketKeys, "topic.secret.>")); len(keys) != 0 {
		t.Errorf("a batch read of nothing lists %v", keys)
	}
}

// list reads the keys of a bucket in one batch, as the subjects of its entries.
func list(t *testing.T, c *client, filter string) []string {
	t.Helper()
	var subjects []string
	batch, err := jetstreamext.GetBatch(timeout(t), c.js(), policy.StreamOfBucket(policy.BucketKeys), 1000, jetstreamext.GetBatchSubject(filter))
	ok(t, err)
	for m, err := range batch {
		if err == jetstreamext.ErrNoMessages {
			break
		}
		ok(t, err)
		subjects = append(subjects, m.Subject)
	}
	return subjects
}

func TestRetainedTopic(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	n := b.startDefault()
	feed, bob := b.agent(n, "feed"), b.agent(n, "bob")
	live := bob.listen("sb.topic.prices.>")
	root := bob.listen("sb.topic.prices")

	feed.put("sb.topic.prices", "root")
	feed.put("sb.topic.prices.eu.de", "below")
	batch := []*nats.Msg{nats.NewMsg("sb.topic.prices.a"), nats.NewMsg("sb.topic.prices.b")}
	if _, err := jetstreamext.PublishMsgBatch(timeout(t), feed.js(), batch); err != nil {
		t.Errorf("atomic batch: %v", err)
	}
	ok(t, feed.Publish("sb.topic.prices.end", nil))

	// Everything once, although it went to the stream too.
	if m := bob.next(root); string(m.Data) != "root" {
		t.Errorf("got %q", m.Data)
	}
	var got []string
	for {
		m := bob.next(live)
		if got = append(got, m.Subject); m.Subject == "sb.topic.prices.end" {
			break
		}
	}
	want := []string{"sb.topic.prices.eu.de", "sb.topic.prices.a", "sb.topic.prices.b", "sb.topic.prices.end"}
	if !slices.Equal(got, want) {
		t.Errorf("live: got %q, want %q", got, want)
	}
	if n, _, _ := root.Pending(); n != 0 {
		t.Errorf("%d more copies of what was published once", n)
	}
	if got := contents(t, store(t, n), policy.TopicStream("prices")); len(got) < 4 {
		t.Errorf("the stream holds %q", got)
	}
}

func TestLiveTopicAndRequests(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	n := b.startDefault()
	mallory, bob := b.agent(n, "mallory"), b.agent(n, "bob")
	live := bob.listen("sb.topic.live")
	ok(t, mallory.Publish("sb.topic.live", []byte("x")))
	if m := bob.next(live); string(m.Data) != "x" {
		t.Errorf("got %q", m.Data)
	}
	for _, subject := range []string{policy.AgentSubject("bob"), policy.ServiceSubject("lookup")} {
		if _, err := bob.QueueSubscribe(subject, "bob", func(m *nats.Msg) { _ = m.Respond([]byte("pong")) }); err != nil {
			t.Fatal(err)
		}
		ok(t, bob.FlushWithContext(timeout(t)))
		m, err := mallory.RequestWithContext(timeout(t), subject, []byte("ping"))
		if err != nil || string(m.Data) != "pong" {
			t.Errorf("%s: %v %v", subject, m, err)
		}
	}
	// Nobody answers on a topic that is not retained.
	if _, err := mallory.js().Publish(timeout(t), "sb.topic.live.x", nil); err != jetstream.ErrNoStreamResponse {
		t.Errorf("a stream keeps the live topic: %v", err)
	}
}

func TestPolicyFeed(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	n := b.startDefault()
	bob := b.agent(n, "bob")
	feed := bob.listen(policy.FeedPolicy)
	if _, err := store(t, n).Publish(timeout(t), "$KV.SB_POLICY.current", []byte("next")); err != nil {
		t.Fatal(err)
	}
	if m := bob.next(feed); m.Subject != "sb.store.policy.current" || string(m.Data) != "next" {
		t.Errorf("got %s %q", m.Subject, m.Data)
	}
}
