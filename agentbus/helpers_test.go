package agentbus_test

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

const testPolicy = `trust_domain: example.org
revision: 1
topics:
  prices: {publish: ["feed-*"], subscribe: [planner, "exec-*"], max_age: 30s}
  gossip: {publish: ["*"], subscribe: ["*"], signed: false}
  ledger: {publish: ["feed-*"], subscribe: [planner], retain: 24h, pad: true}
services:
  lookup: {call: [planner], serve: ["index-*"]}
direct:
  - {from: [planner], to: ["*"]}
`

// revised returns testPolicy as another revision, with replacements.
func revised(revision string, replace ...string) string {
	return strings.NewReplacer(append([]string{"revision: 1", "revision: " + revision}, replace...)...).Replace(testPolicy)
}

// collect returns a handler that passes messages on.
func collect(n int) (agentbus.Handler, chan *agentbus.Message) {
	c := make(chan *agentbus.Message, n)
	return func(_ context.Context, m *agentbus.Message) error {
		c <- m
		return nil
	}, c
}

// echo answers with the request's payload.
func echo(_ context.Context, m *agentbus.Message) ([]byte, error) { return m.Payload, nil }

// eventually waits for what no signal tells of.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(bustest.Timeout)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never came about: %s", what)
		}
		runtime.Gosched()
	}
}

// publishPolicy puts a newer signed policy into the store, as an operator's tool does, and waits until the agents
// have it.
func publishPolicy(t testing.TB, w *bustest.World, yaml string, agents ...*agentbus.Bus) {
	t.Helper()
	w.Signed = w.Sign(yaml)
	_, err := w.Admin("STORE").Request(policy.BucketSubject(policy.BucketPolicy, policy.PolicyKey), w.Signed, bustest.Timeout)
	bustest.Check(t, err)
	p, err := policy.Parse([]byte(yaml))
	bustest.Check(t, err)
	for _, b := range agents {
		eventually(t, "the policy in force", func() bool { return b.Policy().Revision() == p.Revision() })
	}
}

// sender joins a topic with a ring that its bus shares with the test, so that frames can be sealed and not sent.
func sealer(t testing.TB, w *bustest.World, ring *keyring.Ring, topic string) *keyring.Sender {
	t.Helper()
	ch, err := policy.Topic(topic)
	bustest.Check(t, err)
	s, err := ring.Sender(w.Ctx(), ch)
	bustest.Check(t, err)
	return s
}

// tap records the frames on a subject, as whoever owns the broker can.
func tap(t testing.TB, nc *nats.Conn, subject string) chan *nats.Msg {
	t.Helper()
	c := make(chan *nats.Msg, 1024)
	_, err := nc.ChanSubscribe(subject, c)
	bustest.Check(t, err)
	bustest.Check(t, nc.Flush())
	return c
}

// streamOf returns what the broker says of a stream.
func streamOf(t testing.TB, w *bustest.World, stream string) jetstream.StreamState {
	t.Helper()
	js, err := jetstream.New(w.Admin("STORE"))
	bustest.Check(t, err)
	s, err := js.Stream(w.Ctx(), stream)
	bustest.Check(t, err)
	info, err := s.Info(w.Ctx())
	bustest.Check(t, err)
	return info.State
}

// storedMessages returns how many messages the frames in a topic's stream hold.
func storedMessages(t testing.TB, w *bustest.World, topic string) (n int) {
	t.Helper()
	name := "SB_TOPIC_" + topic
	js, err := jetstream.New(w.Admin("STORE"))
	bustest.Check(t, err)
	s, err := js.Stream(w.Ctx(), name)
	bustest.Check(t, err)
	state := streamOf(t, w, name)
	for seq := state.FirstSeq; seq <= state.LastSeq; seq++ {
		m, err := s.GetMsg(w.Ctx(), seq)
		bustest.Check(t, err)
		var f envelope.Frame
		bustest.Check(t, envelope.Parse(m.Data, &f))
		if f.Kind == envelope.KindEvent { // and not a session note
			n += int(f.Count)
		}
	}
	return n
}

// channelOf parses a channel's name.
func channelOf(t testing.TB, name string) policy.Channel {
	t.Helper()
	ch, err := policy.ParseChannel(name)
	bustest.Check(t, err)
	return ch
}
