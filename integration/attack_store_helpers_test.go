package integration_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
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

// storePolicy gives mallory a part in something of each kind, and none in secret and quiet.
const storePolicy = `trust_domain: example.org
revision: 1
topics:
  board:  {publish: [alice, mallory], subscribe: [bob], retain: 1h}
  secret: {publish: [alice], subscribe: [bob], retain: 1h}
  chat:   {publish: [alice, mallory], subscribe: [bob, carol], signed: false}
  quiet:  {publish: [alice], subscribe: [bob]}
services:
  lookup: {call: [alice], serve: [mallory]}
direct:
  - {from: [alice, mallory], to: [bob]}
queues:
  jobs:   {enqueue: [alice, mallory], work: [mallory]}
  hidden: {enqueue: [alice], work: [dave]}
`

// storeWorld is a bus with honest agents at work, and mallory: an agent with no more than its own
// permissions, a plain NATS client, and a keyring of its own to seal with.
type storeWorld struct {
	*bustest.World
	t          *testing.T
	o          *owner
	alice, bob *agentbus.Bus
	heard      map[string]<-chan string // by bob

	nc   *nats.Conn // mallory's
	js   jetstream.JetStream
	errs chan error
	ring *keyring.Ring
	ask  *keyring.Sender // mallory to bob
	job  *nats.Msg       // a task that mallory has settled

	markers int
	own     map[string]map[uint64]bool // by stream: what mallory or this test has put there, by its number
}

func newStoreWorld(t *testing.T) *storeWorld {
	t.Helper()
	w := &storeWorld{World: bustest.New(t, storePolicy), t: t, heard: make(map[string]<-chan string), errs: make(chan error, 1024), own: make(map[string]map[uint64]bool)}
	w.o = newOwner(w.World)
	w.alice, w.bob = w.Agent("alice"), w.Agent("bob")
	_, err := w.bob.Serve(w.Ctx(), func(_ context.Context, m *agentbus.Message) ([]byte, error) { return m.Payload, nil })
	bustest.Check(t, err)
	for _, topic := range []string{"board", "secret", "chat", "quiet"} {
		w.heard[topic] = listen(w.World, w.bob, topic)
	}
	w.talk("before")

	src := w.Source("mallory")
	w.nc = w.Raw(src, nats.CustomInboxPrefix(policy.InboxPrefix("mallory")),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { w.errs <- err }))
	w.js, err = jetstream.New(w.nc)
	bustest.Check(t, err)
	w.ring = w.Ring()
	bustest.Check(t, w.ring.Attach(w.Ctx(), src, &rawStore{w.nc, w.js}, nil))
	t.Cleanup(func() { _ = w.ring.Close(context.Background()) })
	w.ask, err = w.ring.Sender(w.Ctx(), policy.MustParseChannel("pair/bob~mallory"))
	bustest.Check(t, err)
	// The pair's key is settled, so that nobody writes to the store by itself any more.
	if _, err := w.nc.RequestWithContext(w.Ctx(), "sb.agent.bob", w.question()); err != nil {
		t.Fatal(err)
	}
	if err := w.nc.Publish("$KV.SB_CARDS.mallory.M1", []byte("evil")); err != nil {
		t.Fatal(err)
	}
	w.fillQueues()
	return w
}

// talk has the honest agents do all that they do.
func (w *storeWorld) talk(text string) {
	w.t.Helper()
	for topic, heard := range w.heard {
		say(w.World, w.alice, topic+".x", text, heard)
	}
	m, err := w.alice.Request(w.Ctx(), "bob", []byte(text))
	if err != nil || string(m.Payload) != text {
		w.t.Fatalf("alice asks bob: %v %v", m, err)
	}
}

// question is a request that bob answers.
func (w *storeWorld) question() []byte {
	w.t.Helper()
	frame, _, err := w.ask.Seal(nil, &keyring.Draft{Kind: envelope.KindRequest, Recipient: "bob",
		Messages: []envelope.Message{{Payload: []byte("question")}}})
	bustest.Check(w.t, err)
	return frame
}

// mallorys reports whether mallory may have written something.
func mallorys(subject string) bool {
	return strings.HasPrefix(subject, "$KV.SB_CARDS.mallory.") || subject == "sb.topic.board.mallory" || subject == "sb.topic.board.>" ||
		mallorysInQueue(subject) ||
		strings.HasPrefix(subject, "$KV.SB_KEYS.") && (strings.Contains(subject, ".j.mallory.") || strings.Contains(subject, ".k.mallory.") || strings.Contains(subject, ".w.mallory."))
}

// others returns everything that the store holds but for what mallory may write: the streams with their
// configuration, their consumers, every message with its headers.
func (w *storeWorld) others() []string {
	w.t.Helper()
	var all []string
	names := w.o.js.StreamNames(w.Ctx())
	for name := range names.Name() {
		s, err := w.o.js.Stream(w.Ctx(), name)
		bustest.Check(w.t, err)
		// A stream takes messages in their order: what was under way is there when this is.
		_, err = w.o.js.PublishMsg(w.Ctx(), w.marker(s.CachedInfo().Config.Subjects))
		bustest.Check(w.t, err)
		config, err := json.Marshal(s.CachedInfo().Config)
		bustest.Check(w.t, err)
		all = append(all, string(config))
		consumers := s.ListConsumers(w.Ctx())
		for c := range consumers.Info() {
			all = append(all, consumerState(c))
		}
		bustest.Check(w.t, consumers.Err())
		all = append(all, w.messages(s)...)
	}
	bustest.Check(w.t, names.Err())
	slices.Sort(all)
	return all
}

// marker returns a message for a stream. Where it can it is under a subject of its own, because some streams take
// one message a subject.
func (w *storeWorld) marker(subjects []string) *nats.Msg {
	w.markers++
	for _, s := range subjects {
		if strings.ContainsAny(s, "*>") {
			token := fmt.Sprint("m", w.markers, markerSuffix)
			m := &nats.Msg{Subject: strings.NewReplacer("*", token, ">", token).Replace(s)}
			if !strings.HasSuffix(m.Subject, markerSuffix) {
				m.Data = []byte(markerSuffix)
			}
			return m
		}
	}
	return &nats.Msg{Subject: subjects[len(subjects)-1], Data: []byte(markerSuffix)}
}

const markerSuffix = "-marker"

// consumerState says what a consumer is, and how far it has come unless it is one of mallory's.
func consumerState(c *jetstream.ConsumerInfo) string {
	config, _ := json.Marshal(c.Config)
	state := fmt.Sprint(c.Stream, " consumer ", c.Name, " ", string(config))
	if c.Stream == "SB_TASK_jobs" && (c.Name == "p0" || c.Name == "p1") {
		return state
	}
	return fmt.Sprint(state, " ", c.Delivered.Consumer, c.AckFloor.Consumer, c.NumAckPending, c.NumRedelivered)
}

// messages reads a stream by its API, in which what the server says is apart from a message's own headers.
func (w *storeWorld) messages(s jetstream.Stream) (all []string) {
	w.t.Helper()
	info, err := s.Info(w.Ctx())
	bustest.Check(w.t, err)
	own := w.own[info.Config.Name]
	if own == nil {
		own = make(map[uint64]bool)
		w.own[info.Config.Name] = own
	}
	all = append(all, fmt.Sprint(info.Config.Name, " of ", info.Created))
	for seq := info.State.FirstSeq; seq <= info.State.LastSeq; seq++ {
		if own[seq] {
			continue // nothing else ever gets this number
		}
		reply, err := w.o.js.Conn().RequestWithContext(w.Ctx(), "$JS.API.STREAM.MSG.GET."+info.Config.Name, fmt.Appendf(nil, `{"seq":%d}`, seq))
		bustest.Check(w.t, err)
		var got struct {
			Message struct {
				Subject string
				Hdrs    []byte
				Data    []byte
			}
		}
		bustest.Check(w.t, json.Unmarshal(reply.Data, &got))
		if m := got.Message; m.Subject != "" && !mallorys(m.Subject) && !strings.HasSuffix(m.Subject, markerSuffix) && string(m.Data) != markerSuffix && !isNote(m.Data) {
			all = append(all, fmt.Sprintf("%s %q %x", m.Subject, m.Hdrs, sha256.Sum256(m.Data)))
		} else {
			own[seq] = true
		}
	}
	return all
}

// isNote reports whether a message is a session note of an honest agent's, who says that it has had nothing else to say for a minute.
func isNote(data []byte) bool {
	var f envelope.Frame
	if envelope.Parse(data, &f) != nil || f.Kind != envelope.KindControl || strings.HasSuffix(string(f.Sender), "/mallory") {
		return false
	}
	_, err := keyring.ParseSessionNote(string(f.Recipient))
	return err == nil
}

// same compares two states of the store.
func (w *storeWorld) same(before []string, what string) {
	w.t.Helper()
	after := w.others()
	if slices.Equal(before, after) {
		return
	}
	gone, come := maps.Collect(index(before)), maps.Collect(index(after))
	for _, e := range after {
		delete(gone, e)
	}
	for _, e := range before {
		delete(come, e)
	}
	w.t.Fatalf("%s: gone from the store %q, come %q", what, slices.Sorted(maps.Keys(gone)), slices.Sorted(maps.Keys(come)))
}

func index(list []string) func(func(string, bool) bool) {
	return func(yield func(string, bool) bool) {
		for _, e := range list {
			if !yield(e, true) {
				return
			}
		}
	}
}

// refuses expects the broker to refuse what mallory has just sent.
func (w *storeWorld) refuses(what string) {
	w.t.Helper()
	bustest.Check(w.t, w.nc.FlushWithContext(w.Ctx()))
	select {
	case err := <-w.errs:
		if !errors.Is(err, nats.ErrPermissionViolation) {
			w.t.Errorf("%s: %v, want a permission violation", what, err)
		}
	case <-time.After(bustest.Timeout):
		w.t.Fatalf("%s: the broker let it", what)
	}
}

// rawStore is the least that a keyring needs of a store, over any NATS connection.
type rawStore struct {
	nc *nats.Conn
	js jetstream.JetStream
}

func (s *rawStore) Get(ctx context.Context, bucket, key string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, bustest.Timeout) // nats.go wants a deadline
	defer cancel()
	m, err := s.nc.RequestWithContext(ctx, policy.DirectGet(bucket, key), nil)
	if err != nil {
		return nil, err
	}
	if m.Header.Get("Status") != "" {
		return nil, keyring.ErrNotFound
	}
	return m.Data, nil
}

func (s *rawStore) Put(ctx context.Context, bucket, key string, value []byte) error {
	ctx, cancel := context.WithTimeout(ctx, bustest.Timeout) // nats.go wants a deadline
	defer cancel()
	_, err := s.js.Publish(ctx, policy.BucketSubject(bucket, key), value)
	return err
}

func (s *rawStore) List(ctx context.Context, bucket, filter string) (list []keyring.Entry, err error) {
	ctx, cancel := context.WithTimeout(ctx, bustest.Timeout) // nats.go wants a deadline
	defer cancel()
	inbox := s.nc.NewInbox()
	sub, err := s.nc.SubscribeSync(inbox)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, sub.Unsubscribe()) }()
	body := fmt.Appendf(nil, `{"multi_last":[%q]}`, policy.BucketSubject(bucket, filter))
	if err := s.nc.PublishRequest(policy.DirectGet(bucket, ""), inbox, body); err != nil {
		return nil, err
	}
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return nil, err
		}
		if m.Header.Get("Status") != "" { // the end, or that there is nothing
			return list, nil
		}
		key := strings.TrimPrefix(m.Header.Get("Nats-Subject"), policy.BucketSubject(bucket, ""))
		list = append(list, keyring.Entry{Key: key, Value: bytes.Clone(m.Data)})
	}
}

func (s *rawStore) Follow(ctx context.Context, bucket, filter string, fn func(keyring.Entry)) (func(), error) {
	ctx, cancel := context.WithTimeout(ctx, bustest.Timeout) // nats.go wants a deadline
	defer cancel()
	if bucket != policy.BucketKeys {
		return nil, errors.New("only keys are followed")
	}
	prefix := strings.TrimSuffix(policy.FeedAllKeys, ">")
	sub, err := s.nc.Subscribe(prefix+filter, func(m *nats.Msg) {
		fn(keyring.Entry{Key: strings.TrimPrefix(m.Subject, prefix), Value: m.Data})
	})
	if err != nil {
		return nil, err
	}
	return func() { _ = sub.Unsubscribe() }, s.nc.FlushWithContext(ctx)
}
