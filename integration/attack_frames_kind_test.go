package integration_test

import (
	"context"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// Genuine frames are played as something that they are not: where another kind is expected, and with the kind
// written over; and agents that may send one kind seal another.
func TestKindPlayedAsAnother(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, framesPolicy)
	evil, planner, carol, bob := attack(t, w), sit(t, w, "planner"), sit(t, w, "carol"), sit(t, w, "bob")
	feed, index := sit(t, w, "feed-1"), sit(t, w, "index-1")
	asked, asCarol := serveAndCount(t, w, planner), carol.sender(w, "pair/carol~planner")
	atService := make(chan string, 8)
	_, err := index.ServeService(w.Ctx(), "lookup", func(_ context.Context, m *agentbus.Message) ([]byte, error) {
		atService <- string(m.Payload)
		return nil, nil
	})
	bustest.Check(t, err)
	gossip := planner.subscribe(w, "gossip.planner")
	_, err = carol.Request(w.Ctx(), "planner", []byte("genuine")) // the two have met
	bustest.Check(t, err)
	bustest.Receive(t, asked)

	result, held := askHeldBack(t, w, evil, planner, "carol")
	id := parse(t, held.Data).ID
	asPlanner := planner.sender(w, "pair/carol~planner")
	answer := reply(t, asCarol, "planner", id, "carol's answer")
	question := request(t, asCarol, "planner", "carol's question")
	kind := func(frame []byte, k envelope.Kind, ref ulid.ULID) []byte {
		return edited(t, frame, func(f *envelope.Frame) { f.Kind, f.Ref = k, ref })
	}
	const toPlanner, inbox = "sb.agent.planner", "sb.inbox.carol.evil"
	bobs := bob.sender(w, "pair/bob~planner")
	topic := feed.sender(w, "topic/gossip")
	for _, c := range []struct {
		name, subject string
		frame         []byte
		reason        keyring.Reason
	}{
		{"a reply as a request", toPlanner, answer, keyring.Misdirected},
		{"a reply made a request", toPlanner, kind(answer, envelope.KindRequest, ulid.ULID{}), keyring.BadSeal},
		{"a request as a reply", held.Reply, question, keyring.Misdirected},
		{"a request made the reply", held.Reply, kind(question, envelope.KindReply, id), keyring.BadSeal},
		{"a reply made an error", held.Reply, kind(answer, envelope.KindError, id), keyring.BadSeal},
		{"planner's own request as the reply to it", held.Reply, held.Data, keyring.Misdirected},
		{"planner's own request, made the reply to it", held.Reply, edited(t, held.Data, func(f *envelope.Frame) {
			f.Kind, f.Ref, f.Recipient = envelope.KindReply, id, []byte("planner")
		}), keyring.Misdirected},
		{"planner's own words to carol as a request to planner", toPlanner, request(t, asPlanner, "planner", "reflected"), keyring.Misdirected},
		{"planner's own words as the reply", held.Reply, reply(t, asPlanner, "planner", id, "reflected"), keyring.Misdirected},
		{"an event as a request", toPlanner, event(t, topic, "planner", "event"), keyring.Misdirected},
		{"a request sealed on a topic", toPlanner, request(t, topic, "planner", "event"), keyring.Misdirected},
		{"a request by who may only answer", toPlanner, request(t, bobs, "planner", "not his to ask"), keyring.NotEntitled},
		{"a task as a request", toPlanner, seal(t, asCarol, keyring.Draft{Kind: envelope.KindTask, Recipient: "planner"}, "task"), keyring.Misdirected},
		{"a request on a topic's subject", "sb.topic.gossip.planner", request(t, topic, "gossip.planner", "request"), keyring.Misdirected},
		{"a reply on a topic's subject", "sb.topic.gossip.planner", reply(t, topic, "gossip.planner", id, "reply"), keyring.Misdirected},
		{"a control on a topic's subject", "sb.topic.gossip.planner", seal(t, topic, keyring.Draft{Kind: envelope.KindControl, Recipient: "gossip.planner"}, "control"), keyring.Misdirected},
		{"a pair's event on a topic's subject", "sb.topic.gossip.planner", event(t, asCarol, "gossip.planner", "event"), keyring.Misdirected},
	} {
		evil.injectWith(c.subject, inbox, c.frame)
		if r := planner.rejects(1, anyReason...)[0]; r.Reason != c.reason {
			t.Errorf("%s: %v, want %s", c.name, r.Err, c.reason)
		}
	}

	// A request to a service and one to an agent who serves it are not the same.
	calls, direct := carol.sender(w, "service/lookup"), carol.sender(w, "pair/carol~index-1")
	_, err = index.Serve(w.Ctx(), func(_ context.Context, m *agentbus.Message) ([]byte, error) {
		atService <- string(m.Payload)
		return nil, nil
	})
	bustest.Check(t, err)
	evil.injectWith("sb.agent.index-1", inbox, request(t, calls, "index-1", "for the service"))
	evil.injectWith("sb.service.lookup", inbox, request(t, direct, "lookup", "for the agent"))
	evil.injectWith("sb.service.lookup", inbox, reply(t, calls, "lookup", id, "a reply to a service"))
	index.rejects(3, keyring.Misdirected)

	evil.inject(held.Reply, answer)
	if text := bustest.Receive(t, result); text != "carol's answer" {
		t.Errorf("the request returned %q", text)
	}
	evil.injectWith(toPlanner, inbox, question)
	if text := bustest.Receive(t, asked); text != "carol's question" {
		t.Errorf("planner was asked %q", text)
	}
	evil.injectWith("sb.service.lookup", inbox, request(t, calls, "lookup", "genuine"))
	if text := bustest.Receive(t, atService); text != "genuine" {
		t.Errorf("the service was asked %q", text)
	}
	bustest.Empty(t, asked)
	bustest.Empty(t, atService)
	bustest.Empty(t, gossip)
	planner.counted(17)
	index.counted(3)
}

// Tasks and their results travel on channels of their own. One agent is both enqueuer and worker here, so
// that nothing but the kinds and channels keep its frames apart.
func TestResultPlayedAsTask(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, framesPolicy)
	worker, both, enqueuer := sit(t, w, "writer-1"), sit(t, w, "both-1"), sit(t, w, "planner")
	queue, results := policy.MustParseChannel("queue/summarise"), policy.MustParseChannel("result/summarise")
	receiver := func(s *seat, ch policy.Channel) *keyring.Receiver {
		bustest.Check(t, s.ring.Join(w.Ctx(), ch))
		rc, err := s.ring.Receiver(ch)
		bustest.Check(t, err)
		return rc
	}
	atWorker, atEnqueuer := receiver(worker, queue), receiver(enqueuer, results)
	tasks, bothResults := both.sender(w, "queue/summarise"), both.sender(w, "result/summarise")
	workers, enqueuers := worker.sender(w, "result/summarise"), enqueuer.sender(w, "queue/summarise")

	const name = "summarise"
	wantTask := keyring.Want{Kinds: keyring.Kinds(envelope.KindTask), Recipient: name}
	task := seal(t, tasks, keyring.Draft{Kind: envelope.KindTask, Recipient: name}, "task")
	id := parse(t, task).ID
	wantResult := keyring.Want{Kinds: keyring.Kinds(envelope.KindResult, envelope.KindProgress, envelope.KindError), Recipient: name, Ref: id}
	result := seal(t, bothResults, keyring.Draft{Kind: envelope.KindResult, Recipient: name, Ref: id}, "result")

	open := func(s *seat, rc *keyring.Receiver, frame []byte, want keyring.Want) error {
		var o keyring.Opened
		err := rc.Open(frame, &want, &o)
		if reason := keyring.ReasonOf(err); reason == keyring.NoKey || reason == keyring.NoCard {
			if err := s.ring.Await(w.Ctx(), frame); err != nil {
				return err
			}
			err = rc.Open(frame, &want, &o)
		}
		return err
	}
	anything := func(want keyring.Want) keyring.Want { // as careless as can be about the kind
		want.Kinds = ^keyring.KindSet(0)
		return want
	}
	taskWith := func(ref ulid.ULID) keyring.Want {
		return keyring.Want{Kinds: ^keyring.KindSet(0), Recipient: name, Ref: ref}
	}
	for _, c := range []struct {
		name   string
		at     *seat
		rc     *keyring.Receiver
		frame  []byte
		want   keyring.Want
		reason keyring.Reason
	}{
		{"a result as a task", worker, atWorker, result, wantTask, keyring.Misdirected},
		{"a result as a task, kind not looked at", worker, atWorker, result, taskWith(id), keyring.Misdirected},
		{"a result made a task", worker, atWorker, edited(t, result, func(f *envelope.Frame) { f.Kind, f.Ref = envelope.KindTask, ulid.ULID{} }), wantTask, keyring.Misdirected},
		{"a result made a task of the queue", worker, atWorker, edited(t, result, func(f *envelope.Frame) {
			of := parse(t, task)
			f.Kind, f.Ref, f.Channel, f.Key = envelope.KindTask, ulid.ULID{}, of.Channel, of.Key
		}), wantTask, keyring.BadSeal},
		{"a task sealed on the result channel", worker, atWorker, seal(t, workers, keyring.Draft{Kind: envelope.KindTask, Recipient: name}, "task"), wantTask, keyring.Misdirected},
		{"a result sealed on the queue", worker, atWorker, seal(t, tasks, keyring.Draft{Kind: envelope.KindResult, Recipient: name, Ref: id}, "result"), anything(wantResult), keyring.NotEntitled},
		{"a task as a result", enqueuer, atEnqueuer, task, wantResult, keyring.Misdirected},
		{"a task as a result, kind not looked at", enqueuer, atEnqueuer, task, anything(wantTask), keyring.Misdirected},
		{"a result sealed on the queue, as a result", enqueuer, atEnqueuer, seal(t, enqueuers, keyring.Draft{Kind: envelope.KindResult, Recipient: name, Ref: id}, "result"), wantResult, keyring.Misdirected},
		{"a task sealed on the result channel, as a result", enqueuer, atEnqueuer, seal(t, workers, keyring.Draft{Kind: envelope.KindTask, Recipient: name}, "task"), anything(wantTask), keyring.NotEntitled},
		{"a result of another task", enqueuer, atEnqueuer, seal(t, workers, keyring.Draft{Kind: envelope.KindResult, Recipient: name, Ref: ulid.Make()}, "result"), wantResult, keyring.Misdirected},
	} {
		if err := open(c.at, c.rc, c.frame, c.want); keyring.ReasonOf(err) != c.reason {
			t.Errorf("%s: %v, want %s", c.name, err, c.reason)
		}
	}
	// A worker enqueues nothing and an enqueuer works on nothing.
	if _, err := worker.ring.Sender(w.Ctx(), queue); err == nil || !strings.Contains(err.Error(), "does not let") {
		t.Errorf("a worker may enqueue: %v", err)
	}
	if _, err := enqueuer.ring.Receiver(queue); err == nil {
		t.Error("an enqueuer may read tasks")
	}
	if err := open(worker, atWorker, task, wantTask); err != nil {
		t.Errorf("the genuine task: %v", err)
	}
	if err := open(enqueuer, atEnqueuer, result, wantResult); err != nil {
		t.Errorf("the genuine result: %v", err)
	}
	if err := open(worker, atWorker, task, wantTask); keyring.ReasonOf(err) != keyring.Seen {
		t.Errorf("the task again: %v", err)
	}
}

// The reply subject is the one part of a request that nothing seals. Wherever it points but under the
// requester's own inbox, the handler does not run, and nothing is sent there.
func TestReplySubjectPointsElsewhere(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, framesPolicy)
	evil, planner, bob, index := attack(t, w), sit(t, w, "planner"), sit(t, w, "bob"), sit(t, w, "index-1")
	asked := serveAndCount(t, w, bob)
	called := make(chan string, 8)
	_, err := index.ServeService(w.Ctx(), "lookup", func(_ context.Context, m *agentbus.Message) ([]byte, error) {
		called <- string(m.Payload)
		return []byte("served"), nil
	})
	bustest.Check(t, err)
	sender, calls := planner.sender(w, "pair/bob~planner"), planner.sender(w, "service/lookup")
	var heard []chan *nats.Msg
	targets := []string{
		"sb.inbox.carol.x.y", "sb.inbox.bob.x.y", "sb.inbox.planner2.x", "sb.inbox.planner", "sb.inbox.planner.", "sb.inbox..planner.x",
		"sb.topic.prices", "sb.topic.ledger", "sb.agent.carol", "sb.agent.bob", "sb.service.lookup",
		"$KV.SB_KEYS.topic.prices.j.bob.01ARZ3NDEKTSV4RRFFQ69G5FAV", "$KV.SB_CARDS.bob.01ARZ3NDEKTSV4RRFFQ69G5FAV", "$KV.SB_POLICY.current",
		"$JS.API.STREAM.DELETE.SB_TOPIC_ledger", "$JS.API.DIRECT.GET.KV_SB_KEYS", "_INBOX.x", "sb.store.policy.current", "planner", "",
	}
	for _, target := range targets[:len(targets)-1] {
		if !strings.HasSuffix(target, ".") && !strings.Contains(target, "..") {
			heard = append(heard, evil.tap(target))
		}
	}
	for _, target := range targets {
		evil.injectWith("sb.agent.bob", target, request(t, sender, "bob", "evil"))
		evil.injectWith("sb.service.lookup", target, request(t, calls, "lookup", "evil"))
	}
	// The taps hear the requests themselves where they point at the agent or the service.
	bob.rejects(len(targets), keyring.Misdirected)
	index.rejects(len(targets), keyring.Misdirected)

	_, err = planner.Request(w.Ctx(), "bob", []byte("genuine"))
	bustest.Check(t, err)
	_, err = planner.RequestService(w.Ctx(), "lookup", []byte("genuine"))
	bustest.Check(t, err)
	for name, c := range map[string]chan string{"bob": asked, "the service": called} {
		if text := bustest.Receive(t, c); text != "genuine" {
			t.Errorf("%s was asked %q", name, text)
		}
		bustest.Empty(t, c)
	}
	bustest.Check(t, evil.FlushWithContext(w.Ctx()))
	for _, c := range heard {
		for len(c) > 0 {
			m := <-c
			if f := new(envelope.Frame); envelope.Parse(m.Data, f) == nil && f.Kind != envelope.KindRequest {
				t.Errorf("a %s of %s was sent to %s", f.Kind, f.Sender, m.Subject)
			}
		}
	}
	bob.counted(len(targets))
	index.counted(len(targets))
}
