package broker_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/sealbus/sealbus/broker"
	"github.com/sealbus/sealbus/policy"
)

// queueRules is a policy with two queues. Alice and mallory put tasks into q, bob works on
// them, rita may read them; carol and dave do so in other.
const queueRules = `
trust_domain: example.org
revision: %d
queues:
  q: {enqueue: [alice, mallory], work: [bob], read: [rita], retain: 1h}
  other: {enqueue: [carol], work: [dave], retain: 1h}
`

// office is a node with queues.
type office struct {
	*bus
	n          *broker.Node
	js         jetstream.JetStream
	alice, bob *client
}

func newOffice(t *testing.T) *office {
	t.Helper()
	o := &office{bus: newBus(t)}
	o.open()
	return o
}

// open starts the node, also once more.
func (o *office) open() {
	o.t.Helper()
	o.n = o.start(o.config(fmt.Sprintf(queueRules, 1)))
	o.js = store(o.t, o.n)
	o.alice, o.bob = o.agent(o.n, "alice"), o.agent(o.n, "bob")
}

// enqueue puts in tasks of one priority, together.
func (c *client) enqueue(queue string, priority int, tasks ...string) {
	c.t.Helper()
	var batch []*nats.Msg
	for _, task := range tasks {
		m := nats.NewMsg(policy.TaskSubject(queue, priority))
		m.Data = []byte(task)
		batch = append(batch, m)
	}
	if _, err := jetstreamext.PublishMsgBatch(timeout(c.t), c.js(), batch, jetstreamext.BatchFlowControl{}); err != nil {
		c.t.Fatalf("%s enqueues: %v", c.name, err)
	}
}

// pull asks for tasks, the way a worker does it: a plain request whose answers
// come to an inbox.
func (c *client) pull(queue string, priority int, request string) *nats.Subscription {
	c.t.Helper()
	inbox := c.NewInbox()
	sub, err := c.SubscribeSync(inbox)
	ok(c.t, err)
	ok(c.t, c.PublishRequest(policy.TaskPull(queue, priority), inbox, []byte(request)))
	c.t.Cleanup(func() { _ = sub.Unsubscribe() })
	return sub
}

// take waits for one task.
func (c *client) take(queue string, priority int) *nats.Msg {
	c.t.Helper()
	m := c.next(c.pull(queue, priority, `{"batch":1,"expires":8000000000}`))
	if m.Header.Get("Status") != "" {
		c.t.Fatalf("%s waits for a task of priority %d: %v", c.name, priority, m.Header)
	}
	return m
}

// settle answers a task and waits until the broker has taken note.
func (c *client) settle(m *nats.Msg, answer string) {
	c.t.Helper()
	if _, err := c.RequestWithContext(timeout(c.t), m.Reply, []byte(answer)); err != nil {
		c.t.Fatalf("%s answers %s to %s: %v", c.name, answer, m.Reply, err)
	}
}

// nothing expects that no task of a priority waits.
func (c *client) nothing(queue string, priority int) {
	c.t.Helper()
	if m := c.next(c.pull(queue, priority, `{"batch":1,"no_wait":true}`)); m.Header.Get("Status") != "404" {
		c.t.Errorf("priority %d of %s holds %q %v", priority, queue, m.Data, m.Header)
	}
}

// delivered is how often a task has been handed out, as its reply subject says.
func delivered(m *nats.Msg) string { return strings.Split(m.Reply, ".")[4] }

// consumer is what the broker knows of one.
func (o *office) consumer(queue string, priority int) *jetstream.ConsumerInfo {
	o.t.Helper()
	c, err := o.js.Consumer(timeout(o.t), policy.TaskStream(queue), policy.TaskConsumer(priority))
	ok(o.t, err)
	return c.CachedInfo()
}

// TestPull is the whole protocol by which a worker gets tasks.
func TestPull(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.alice.enqueue("q", 2, "a", "b", "c")
	o.alice.enqueue("q", 0, "urgent")

	sub := o.bob.pull("q", 2, `{"batch":2,"expires":8000000000}`)
	for _, want := range []string{"a", "b"} {
		m := o.bob.next(sub)
		if string(m.Data) != want || m.Subject != "sb.task.q.2" || !strings.HasPrefix(m.Reply, "$JS.ACK.SB_TASK_q.p2.1.") {
			t.Errorf("got %q on %s with reply %s, want %q", m.Data, m.Subject, m.Reply, want)
		}
	}
	// One that waits already is served when a task comes, and says so between.
	early := o.bob.pull("q", 3, `{"batch":1,"expires":8000000000,"idle_heartbeat":1000000000}`)
	if m := o.bob.next(early); m.Header.Get("Status") != "100" {
		t.Errorf("waiting: %v, want a sign of life", m.Header)
	}
	o.alice.enqueue("q", 3, "late")
	for {
		if m := o.bob.next(early); string(m.Data) == "late" {
			break
		} else if m.Header.Get("Status") != "100" {
			t.Fatalf("waiting: %q %v", m.Data, m.Header)
		}
	}
	for request, want := range map[string]string{
		`{"batch":1,"no_wait":true}`:                                  "404 No Messages",
		`{"batch":1,"expires":1000000}`:                               "408 Request Timeout",
		`{"batch":1,"expires":9000000000}`:                            "409 Exceeded MaxRequestExpires of 8s",
		`{"batch":1,"expires":1000000000,"idle_heartbeat":900000000}`: "400 Bad Request - heartbeat value too large",
	} {
		m := o.bob.next(o.bob.pull("q", 1, request))
		if got := m.Header.Get("Status") + " " + m.Header.Get("Description"); got != want {
			t.Errorf("%s: %q, want %q", request, got, want)
		}
	}
	if m := o.bob.take("q", 0); string(m.Data) != "urgent" {
		t.Errorf("got %q", m.Data)
	}
}

// TestSettle answers tasks in every way there is.
func TestSettle(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.alice.enqueue("q", 1, "acked", "again", "at once", "later", "given up", "silent")
	sub := o.bob.pull("q", 1, `{"batch":6,"expires":8000000000}`)
	tasks := make(map[string]*nats.Msg)
	for range 6 {
		m := o.bob.next(sub)
		tasks[string(m.Data)] = m
	}
	o.bob.settle(tasks["acked"], "+ACK")
	o.bob.settle(tasks["again"], "+WPI")
	o.bob.settle(tasks["again"], "+WPI")
	// One that is to wait is overtaken by one that is not.
	o.bob.settle(tasks["later"], `-NAK {"delay": 500000000}`)
	o.bob.settle(tasks["at once"], "-NAK")
	for _, want := range []string{"at once", "later"} {
		if m := o.bob.take("q", 1); string(m.Data) != want || delivered(m) != "2" {
			t.Errorf("after -NAK came %q, handed out %s times, want %q", m.Data, delivered(m), want)
		}
	}
	o.bob.settle(tasks["given up"], "+TERM")
	if c := o.consumer("q", 1); c.NumAckPending != 4 || c.AckFloor.Stream != 1 {
		t.Errorf("%d tasks are out and the first %d are settled, want 4 and 1", c.NumAckPending, c.AckFloor.Stream)
	}
	// Without a reply there is no answer, and the flush that follows says that
	// the broker has it.
	ok(t, o.bob.Publish(tasks["silent"].Reply, nil))
	ok(t, o.bob.Publish(tasks["again"].Reply, []byte("+ACK")))
	ok(t, o.bob.Publish(tasks["at once"].Reply, []byte("+ACK")))
	o.bob.settle(tasks["later"], "+ACK")
	if c := o.consumer("q", 1); c.NumAckPending != 0 || c.AckFloor.Stream != 6 {
		t.Errorf("%d tasks are out and the first %d are settled, want 0 and 6", c.NumAckPending, c.AckFloor.Stream)
	}
	o.bob.settle(tasks["acked"], "+ACK") // once more does no harm
	o.bob.nothing("q", 1)
}

// TestLease: a task comes back when its worker is silent, and does not as long as
// the worker says that it is at work.
func TestLease(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	c, err := o.js.Consumer(timeout(t), "SB_TASK_q", "p0")
	ok(t, err)
	if c.CachedInfo().Config.AckWait != policy.TaskAckWait {
		t.Errorf("a worker has a task for %v", c.CachedInfo().Config.AckWait)
	}
	short := c.CachedInfo().Config
	short.AckWait = 2 * time.Second
	_, err = o.js.UpdateConsumer(timeout(t), "SB_TASK_q", short)
	ok(t, err)
	o.alice.enqueue("q", 0, "kept", "silent")
	kept, _ := o.bob.take("q", 0), o.bob.take("q", 0)
	again := o.bob.pull("q", 0, `{"batch":2,"expires":8000000000}`)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	came := make(chan *nats.Msg, 1)
	go func() {
		m, _ := again.NextMsgWithContext(timeout(t))
		came <- m
	}()
	for {
		select {
		case <-tick.C:
			o.bob.settle(kept, "+WPI")
			continue
		case m := <-came:
			if m == nil || string(m.Data) != "silent" || delivered(m) != "2" {
				t.Errorf("came back: %v", m)
			}
		}
		break
	}
	o.bob.settle(kept, "+ACK")
	if n, _, _ := again.Pending(); n != 0 {
		t.Error("the other one came back too")
	}
}

// TestOneResult: the first result of a task is its result, written alone or with
// others.
func TestOneResult(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	var ids []string
	for range 4 {
		ids = append(ids, ulid.Make().String())
	}
	batch := func(ids ...string) error {
		var list []*nats.Msg
		for _, id := range ids {
			list = append(list, nats.NewMsg(policy.ResultSubject("q", id)))
		}
		_, err := jetstreamext.PublishMsgBatch(timeout(t), o.bob.js(), list, jetstreamext.BatchFlowControl{})
		return err
	}
	alone := func(id string) error {
		_, err := o.bob.js().Publish(timeout(t), policy.ResultSubject("q", id), []byte("result"))
		return err
	}
	live := o.alice.listen("sb.result.q.>")
	if err := alone(ids[0]); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{"alone": alone(ids[0]), "among others": batch(ids[1], ids[0], ids[2]), "twice in one": batch(ids[1], ids[1])} {
		var refused *jetstream.APIError
		if !errors.As(err, &refused) || refused.ErrorCode != 10077 || refused.Description != "maximum messages per subject exceeded" {
			t.Errorf("a second result, %s: %v", name, err)
		}
	}
	if got := contents(t, o.js, "SB_RESULT_q"); !slices.Equal(got, []string{policy.ResultSubject("q", ids[0]) + "=result"}) {
		t.Errorf("recorded are %q", got)
	}
	ok(t, batch(ids[1:]...))

	// An enqueuer reads one, or all together, and hears of each that is sent.
	get := func(id string) *nats.Msg {
		m, err := o.alice.RequestWithContext(timeout(t), policy.StreamGet("SB_RESULT_q", policy.ResultSubject("q", id)), nil)
		ok(t, err)
		return m
	}
	if m := get(ids[0]); string(m.Data) != "result" || m.Header.Get("Nats-Sequence") != "1" {
		t.Errorf("the result: %q %v", m.Data, m.Header)
	}
	if m := get(ulid.Make().String()); m.Header.Get("Status") != "404" {
		t.Errorf("none: %q %v", m.Data, m.Header)
	}
	if got := subjects(t, o.alice, "SB_RESULT_q", "sb.result.q.*"); len(got) != 4 {
		t.Errorf("all results: %q", got)
	}
	if m := o.alice.next(live); m.Subject != policy.ResultSubject("q", ids[0]) {
		t.Errorf("heard first: %s", m.Subject)
	}
}

// subjects reads a stream in one batch.
func subjects(t *testing.T, c *client, stream, filter string) (list []string) {
	t.Helper()
	batch, err := jetstreamext.GetBatch(timeout(t), c.js(), stream, 1000, jetstreamext.GetBatchSubject(filter))
	ok(t, err)
	for m, err := range batch {
		if errors.Is(err, jetstreamext.ErrNoMessages) {
			break
		}
		ok(t, err)
		list = append(list, m.Subject)
	}
	return list
}

// TestLiveNews: what is said of a queue is heard by those who should, and what is
// to be kept is kept.
func TestLiveNews(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	id := ulid.Make().String()
	for _, c := range []struct {
		from, to *client
		subject  string
		kept     string
	}{
		{o.bob, o.alice, policy.ResultSubject("q", id), "SB_RESULT_q"},
		{o.bob, o.alice, policy.DeadSubject("q", id), "SB_DEAD_q"},
		{o.bob, o.alice, policy.ProgressSubject("q", id), ""},
		{o.bob, o.alice, policy.ControlSubject("q", "bob", "presence."+id), "SB_CONTROL_q"},
		{o.alice, o.bob, policy.ControlSubject("q", "alice", "cancel."+id), "SB_CONTROL_q"},
	} {
		live := c.to.listen(c.subject)
		if c.kept == "" {
			ok(t, c.from.Publish(c.subject, []byte("news")))
		} else {
			c.from.put(c.subject, "news")
		}
		if m := c.to.next(live); string(m.Data) != "news" {
			t.Errorf("%s: %q", c.subject, m.Data)
		}
		if c.kept == "" {
			continue
		}
		for _, reader := range []*client{o.alice, o.bob} {
			if c.kept == "SB_DEAD_q" && reader == o.bob {
				continue
			}
			m, err := reader.RequestWithContext(timeout(t), policy.StreamGet(c.kept, c.subject), nil)
			if err != nil || string(m.Data) != "news" {
				t.Errorf("%s reads %s: %v %v", reader.name, c.subject, m, err)
			}
		}
	}
	// Of a control the last word counts.
	for _, word := range []string{"on", "off"} {
		o.alice.put(policy.ControlSubject("q", "alice", "pause"), word)
	}
	if got := contents(t, o.js, "SB_CONTROL_q"); !slices.Contains(got, "sb.control.q.alice.pause=off") || len(got) != 3 {
		t.Errorf("the controls are %q", got)
	}
}

// TestSameTaskTwice: an enqueuer that is not sure repeats the task under the same
// message id.
func TestSameTaskTwice(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	task := func(id string) *nats.Msg {
		return &nats.Msg{Subject: policy.TaskSubject("q", 1), Header: nats.Header{"Nats-Msg-Id": {id}}}
	}
	batch := func(list ...*nats.Msg) error {
		_, err := jetstreamext.PublishMsgBatch(timeout(t), o.alice.js(), list, jetstreamext.BatchFlowControl{})
		return err
	}
	ok(t, batch(task("a"), task("b")))
	ack, err := o.alice.js().PublishMsg(timeout(t), task("b"))
	if err != nil || !ack.Duplicate || ack.Sequence != 2 {
		t.Errorf("alone: %+v %v", ack, err)
	}
	for name, err := range map[string]error{"with a new one": batch(task("c"), task("b")), "twice the same": batch(task("d"), task("d"))} {
		var refused *jetstream.APIError
		if !errors.As(err, &refused) || refused.ErrorCode != jetstreamext.JSErrCodeBatchPublishDuplicateMsgID {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := contents(t, o.js, "SB_TASK_q"); len(got) != 2 {
		t.Errorf("the log holds %q", got)
	}
}

// TestAckUnderAnotherStreamsName: the server takes an acknowledgement of one
// queue from a subject that has another queue's name in it. This is why a right
// to acknowledge has the stream's name in its place, and no ">".
func TestAckUnderAnotherStreamsName(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.alice.enqueue("q", 0, "task")
	o.bob.take("q", 0)
	if c := o.consumer("q", 0); c.NumAckPending != 1 {
		t.Fatalf("%d tasks are out", c.NumAckPending)
	}
	subject := "$JS.ACK.SB_TASK_q.p0.SB_TASK_other.1.1.1.1"
	if _, err := o.n.Own().RequestWithContext(timeout(t), subject, nil); err != nil {
		t.Fatal(err)
	}
	if c := o.consumer("q", 0); c.NumAckPending != 0 {
		t.Errorf("%d tasks are out: the comments on acknowledgements are out of date", c.NumAckPending)
	}
}

// TestConsumersStay: what hands out tasks keeps how far it has come over a
// restart and another provisioning, and what was changed by hand is put right.
func TestConsumersStay(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.alice.enqueue("q", 0, "a", "b", "c")
	o.bob.settle(o.bob.take("q", 0), "+ACK")
	o.bob.take("q", 0)
	stop(t, o.n)
	o.open()
	if c := o.consumer("q", 0); c.AckFloor.Stream != 1 || c.NumAckPending != 1 || c.NumPending != 1 {
		t.Errorf("after a restart %d are settled, %d out, %d wait, want one each", c.AckFloor.Stream, c.NumAckPending, c.NumPending)
	}
	want := make(map[string]jetstream.ConsumerConfig)
	for _, c := range broker.ConsumersOf(o.n.Policy(), "q") {
		want[c.Durable] = c
	}
	if len(want) != policy.Priorities {
		t.Fatalf("the consumers are %v", want)
	}
	c := o.consumer("q", 0).Config
	if next, changed := broker.MergedConsumer(c, want["p0"]); changed {
		t.Errorf("it would be changed at every start:\n%+v\n%+v", c, next)
	}
	c.MaxDeliver, c.AckWait, c.FilterSubjects = 3, time.Hour, []string{"sb.task.q.1"}
	c.Description = "theirs"
	_, err := o.js.UpdateConsumer(timeout(t), "SB_TASK_q", c)
	ok(t, err)
	_, err = o.js.PauseConsumer(timeout(t), "SB_TASK_q", "p0", time.Now().Add(time.Hour))
	ok(t, err)
	ok(t, broker.Provision(timeout(t), o.js, o.n.Policy(), o.sign(fmt.Sprintf(queueRules, 1))))
	c = o.consumer("q", 0).Config
	if c.MaxDeliver != -1 || c.AckWait != policy.TaskAckWait || !slices.Equal(c.FilterSubjects, want["p0"].FilterSubjects) || c.Description != "theirs" || c.PauseUntil == nil {
		t.Errorf("provisioned again: %+v", c)
	}
}
