package integration_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

const framesPolicy = `trust_domain: example.org
revision: 1
topics:
  prices: {publish: ["feed-*", rogue-writer], subscribe: [planner, "exec-*", rogue-reader]}
  orders: {publish: ["desk-*"], subscribe: [planner, "exec-*", rogue-reader]}
  brief:  {publish: ["feed-*", rogue-writer], subscribe: [planner], max_age: 1s}
  gossip: {publish: ["*"], subscribe: ["*"], signed: false}
  ledger: {publish: ["feed-*"], subscribe: [planner], retain: 24h, pad: true}
queues:
  summarise: {enqueue: [planner, "both-*"], work: ["writer-*", "both-*"]}
services:
  lookup: {call: [planner, carol], serve: ["index-*"]}
direct:
  - {from: [planner, carol], to: ["*"]}
revoked: [feed-revoked]
`

// seat is an agent under attack: everything that it rejects is handed on, so that a test can wait for it.
type seat struct {
	*agentbus.Bus
	t        testing.TB
	ring     *keyring.Ring
	rejected chan agentbus.Rejection
}

func sit(t testing.TB, w *bustest.World, name string) *seat {
	t.Helper()
	return sitWith(t, w, w.Config(name))
}

func sitWith(t testing.TB, w *bustest.World, c agentbus.Config) *seat {
	t.Helper()
	s := &seat{t: t, ring: c.Keyring, rejected: make(chan agentbus.Rejection, 1<<15)}
	c.OnReject = func(r agentbus.Rejection) { s.rejected <- r }
	s.Bus = w.Connect(c)
	return s
}

// rejects waits until n more frames have been rejected, each for one of the reasons, and returns them.
func (s *seat) rejects(n int, reasons ...keyring.Reason) []agentbus.Rejection {
	s.t.Helper()
	all := make([]agentbus.Rejection, n)
	for i := range all {
		all[i] = bustest.Receive(s.t, s.rejected)
		if !slices.Contains(reasons, all[i].Reason) {
			s.t.Errorf("rejected for %v, want one of %v", all[i].Err, reasons)
		}
	}
	return all
}

// counted ends a test: nothing has been rejected but what the test waited for, and all of it was counted.
func (s *seat) counted(want int) {
	s.t.Helper()
	bustest.Empty(s.t, s.rejected)
	n := 0
	for _, k := range s.Stats().Rejected {
		n += int(k)
	}
	if n != want {
		s.t.Errorf("%d rejections counted, want %d: %v", n, want, s.Stats().Rejected)
	}
}

// subscribe collects what a pattern brings.
func (s *seat) subscribe(w *bustest.World, pattern string) chan *agentbus.Message {
	s.t.Helper()
	got := make(chan *agentbus.Message, 1<<12)
	_, err := s.Subscribe(w.Ctx(), pattern, func(_ context.Context, m *agentbus.Message) error {
		got <- m
		return nil
	})
	bustest.Check(s.t, err)
	return got
}

// wants receives one message and checks who sent what.
func wants(t testing.TB, got <-chan *agentbus.Message, sender, payload string) {
	t.Helper()
	m := bustest.Receive(t, got)
	if m.Sender.Name() != sender || string(m.Payload) != payload {
		t.Fatalf("got %q from %s, want %q from %s", m.Payload, m.Sender.Name(), payload, sender)
	}
}

// sender returns a sender of the agent's own ring, so that a test holds genuine frames that nobody has been
// sent yet: what a broker has that holds them back.
func (s *seat) sender(w *bustest.World, channel string) *keyring.Sender {
	s.t.Helper()
	sender, err := s.ring.Sender(w.Ctx(), policy.MustParseChannel(channel))
	bustest.Check(s.t, err)
	return sender
}

func seal(t testing.TB, s *keyring.Sender, d keyring.Draft, payload string) []byte {
	t.Helper()
	d.Messages = []envelope.Message{{Payload: []byte(payload)}}
	frame, _, err := s.Seal(nil, &d)
	bustest.Check(t, err)
	return frame
}

func event(t testing.TB, s *keyring.Sender, subject, payload string) []byte {
	t.Helper()
	return seal(t, s, keyring.Draft{Kind: envelope.KindEvent, Recipient: subject}, payload)
}

func request(t testing.TB, s *keyring.Sender, to, payload string) []byte {
	t.Helper()
	return seal(t, s, keyring.Draft{Kind: envelope.KindRequest, Recipient: to}, payload)
}

func reply(t testing.TB, s *keyring.Sender, to string, ref ulid.ULID, payload string) []byte {
	t.Helper()
	return seal(t, s, keyring.Draft{Kind: envelope.KindReply, Recipient: to, Ref: ref}, payload)
}

// parse reads a frame that must be well formed.
func parse(t testing.TB, frame []byte) *envelope.Frame {
	t.Helper()
	f := new(envelope.Frame)
	bustest.Check(t, envelope.Parse(bytes.Clone(frame), f))
	return f
}

// edited returns a frame with some of its fields changed and the rest as it was.
func edited(t testing.TB, frame []byte, change func(*envelope.Frame)) []byte {
	t.Helper()
	f := parse(t, frame)
	change(f)
	out, err := envelope.AppendFrame(nil, f)
	bustest.Check(t, err)
	return out
}

// attacker owns the broker: a raw connection with every permission among the agents.
type attacker struct {
	*nats.Conn
	t testing.TB
	w *bustest.World
}

func attack(t testing.TB, w *bustest.World) *attacker {
	t.Helper()
	return &attacker{w.Admin("AGENTS"), t, w}
}

// inject puts frames on a subject, in order.
func (a *attacker) inject(subject string, frames ...[]byte) {
	a.t.Helper()
	a.injectWith(subject, "", frames...)
}

func (a *attacker) injectWith(subject, reply string, frames ...[]byte) {
	a.t.Helper()
	for _, f := range frames {
		bustest.Check(a.t, a.PublishMsg(&nats.Msg{Subject: subject, Reply: reply, Data: f}))
	}
	bustest.Check(a.t, a.FlushWithContext(a.w.Ctx()))
}

// tap listens to a subject from now on.
func (a *attacker) tap(subject string) chan *nats.Msg {
	a.t.Helper()
	seen := make(chan *nats.Msg, 1<<12)
	_, err := a.ChanSubscribe(subject, seen)
	bustest.Check(a.t, err)
	bustest.Check(a.t, a.FlushWithContext(a.w.Ctx()))
	return seen
}

// tapOnce listens to a subject for one message.
func (a *attacker) tapOnce(subject string) chan *nats.Msg {
	a.t.Helper()
	seen := make(chan *nats.Msg, 1)
	sub, err := a.Subscribe(subject, func(m *nats.Msg) { seen <- m })
	bustest.Check(a.t, err)
	bustest.Check(a.t, sub.AutoUnsubscribe(1))
	bustest.Check(a.t, a.FlushWithContext(a.w.Ctx()))
	return seen
}

// receiveFrame waits for a frame among the server's own acknowledgements.
func receiveFrame(t testing.TB, tapped <-chan *nats.Msg) []byte {
	t.Helper()
	for {
		m, f := bustest.Receive(t, tapped), new(envelope.Frame)
		if envelope.Parse(m.Data, f) == nil {
			return m.Data
		}
	}
}

// askHeldBack has an agent send a request that the attacker keeps to itself. The result will be what the
// request returns: the reply's payload, or an error's text.
func askHeldBack(t testing.TB, w *bustest.World, evil *attacker, from *seat, to string) (result chan string, held *nats.Msg) {
	t.Helper()
	taken := evil.tap(policy.AgentSubject(to))
	result = make(chan string, 1)
	go func() {
		m, err := from.Request(w.Ctx(), to, []byte("question"))
		if err != nil {
			result <- err.Error()
			return
		}
		result <- string(m.Payload)
	}()
	return result, bustest.Receive(t, taken)
}

// secrets are texts that must not be found anywhere.
type secrets []string

// needles returns a text as it is and as the usual encodings would show it.
func needles(secret string) [][]byte {
	all := [][]byte{[]byte(secret), []byte(hex.EncodeToString([]byte(secret)))}
	for shift := range 3 { // wherever it begins in what is encoded
		part := []byte(secret)[shift:]
		part = part[:len(part)/3*3]
		all = append(all, []byte(base64.StdEncoding.EncodeToString(part)), []byte(base64.URLEncoding.EncodeToString(part)))
	}
	return all
}

func (s secrets) notIn(t testing.TB, where string, data []byte) {
	t.Helper()
	for _, secret := range s {
		for _, n := range needles(secret) {
			if bytes.Contains(data, n) {
				t.Errorf("%s holds %q", where, n)
			}
		}
	}
}

// syncBuffer is a buffer that several goroutines write to.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) Bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.b.Bytes())
}
