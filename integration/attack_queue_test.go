package integration_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/policy"
)

// agent connects an honest agent that is no more than a NATS client with its certificate.
func (w *storeWorld) agent(name string) jetstream.JetStream {
	w.t.Helper()
	js, err := jetstream.New(w.Raw(w.Source(name), nats.CustomInboxPrefix(policy.InboxPrefix(name))))
	bustest.Check(w.t, err)
	return js
}

// fillQueues puts something into every stream of both queues. In hidden, dave has taken a task and not settled it.
func (w *storeWorld) fillQueues() {
	w.t.Helper()
	alice, dave := w.agent("alice"), w.agent("dave")
	put := func(js jetstream.JetStream, subject, text string, headers ...string) {
		m := nats.NewMsg(subject)
		m.Data = []byte(text)
		for i := 0; i < len(headers); i += 2 {
			m.Header.Set(headers[i], headers[i+1])
		}
		_, err := js.PublishMsg(w.Ctx(), m)
		bustest.Check(w.t, err)
	}
	far := "@at " + time.Now().Add(time.Hour).Format(time.RFC3339)
	for _, q := range []string{"jobs", "hidden"} {
		put(alice, policy.TaskSubject(q, 2), "alice's")
		put(alice, policy.TaskSubject(q, 2), "alice's too")
		put(alice, policy.ControlSubject(q, "alice", "pause"), "alice's")
		put(alice, policy.DelaySubject(q, "alice", "one"), "alice's", "Nats-Schedule", far, "Nats-Schedule-Target", policy.DueSubject(q, 2))
	}
	if m := take(w, dave.Conn(), "hidden", 2); string(m.Data) != "alice's" {
		w.t.Fatalf("dave has %q", m.Data)
	}
	put(dave, policy.ResultSubject("hidden", "X"), "dave's")
	put(dave, policy.DeadSubject("hidden", "X"), "dave's")
	var evil []*nats.Msg
	for range 500 {
		m := nats.NewMsg(policy.TaskSubject("jobs", 0))
		m.Data = []byte("evil")
		evil = append(evil, m)
	}
	_, err := jetstreamext.PublishMsgBatch(w.Ctx(), w.js, evil, jetstreamext.BatchFlowControl{})
	bustest.Check(w.t, err)
	w.job = take(w, w.nc, "jobs", 0)
	_, err = w.nc.RequestWithContext(w.Ctx(), w.job.Reply, nil)
	bustest.Check(w.t, err)
	put(w.js, policy.ResultSubject("jobs", "M"), "evil")
	put(w.js, policy.DeadSubject("jobs", "M"), "evil")
	put(w.js, policy.ControlSubject("jobs", "mallory", "M"), "evil")
}

// take asks for a task as a worker does.
func take(w *storeWorld, nc *nats.Conn, queue string, priority int) *nats.Msg {
	w.t.Helper()
	m, err := nc.RequestWithContext(w.Ctx(), policy.TaskPull(queue, priority), []byte(`{"batch":1,"expires":8000000000}`))
	if err != nil || m.Header.Get("Status") != "" {
		w.t.Fatalf("no task of %s: %v %v", queue, m, err)
	}
	return m
}

// mallorysInQueue reports whether mallory may have written something to a stream of a queue.
func mallorysInQueue(subject string) bool {
	return subject == "sb.task.jobs.0" || subject == "sb.task.jobs.1" || subject == "sb.due.jobs.1" || slices.ContainsFunc(
		[]string{"sb.unique.jobs.M.", "sb.held.jobs.mallory.", "sb.result.jobs.", "sb.dead.jobs.", "sb.control.jobs.mallory.", "sb.slot.jobs."},
		func(prefix string) bool { return strings.HasPrefix(subject, prefix) })
}

type storeWay struct{ name, subject, body, expect string } // what is expected is in the answer, or its status

// queueWays are the ways to make the broker answer about a queue.
func (w *storeWorld) queueWays() []storeWay {
	list := []storeWay{
		{"a task", "sb.task.jobs.0", "evil", "SB_TASK_jobs"},
		{"a unique task", "sb.unique.jobs.M.0", "evil", "SB_TASK_jobs"},
		{"a read of a claim", policy.StreamGet("SB_TASK_jobs", "sb.unique.jobs.M.*"), "", "evil"},
		{"a read of no claim", policy.StreamGet("SB_TASK_jobs", "sb.unique.jobs.M2.*"), "", "404"},
		{"a result", "sb.result.jobs.M2", "evil", "SB_RESULT_jobs"},
		{"a dead letter", "sb.dead.jobs.M2", "evil", "SB_DEAD_jobs"},
		{"a slot", "sb.slot.jobs.0", "evil", "SB_CONTROL_jobs"},
		{"a control", "sb.control.jobs.mallory.M2", "evil", "SB_CONTROL_jobs"},
		{"a delayed task refused", "sb.delay.jobs.mallory.M2", "evil", "error"},
		{"a delayed task taken back", "sb.delay.jobs.mallory.M2", "", "purged"},
		{"how the queue stands", "sb.queue.jobs.mallory.info", "evil", "priorities"},
		{"a purge refused", "sb.queue.jobs.mallory.purge", `{"id":"evil"}`, "error"},
		{"a recurring task refused", "sb.recur.jobs.mallory.M2", "evil", "error"},
		{"a recurring task removed", "sb.recur.jobs.mallory.M2", "", "purged"},
		{"a recurring task", "sb.recur.jobs.mallory", "", "{}"},
		{"tasks", "$JS.API.CONSUMER.MSG.NEXT.SB_TASK_jobs.p0", `{"batch":1,"no_wait":true}`, "evil"},
		{"no tasks", "$JS.API.CONSUMER.MSG.NEXT.SB_TASK_jobs.p1", `{"batch":1,"no_wait":true}`, "404"},
		{"an ack", w.job.Reply, "+ACK", ""},
		{"an ack and the next", w.job.Reply, `+NXT {"batch":1,"no_wait":true}`, "evil"},
	}
	for stream, subject := range map[string]string{"SB_RESULT_jobs": "sb.result.jobs.M", "SB_DEAD_jobs": "sb.dead.jobs.M", "SB_CONTROL_jobs": "sb.control.jobs.mallory.M"} {
		list = append(list,
			storeWay{"a read of " + stream, policy.StreamGet(stream, subject), "", "evil"},
			storeWay{"a read by body of " + stream, policy.StreamGet(stream, ""), `{"last_by_subj":"` + subject + `"}`, "evil"},
			storeWay{"a batch read of " + stream, policy.StreamGet(stream, ""), `{"multi_last":["` + subject + `"]}`, "evil"},
			storeWay{"a read of nothing of " + stream, policy.StreamGet(stream, subject+"x"), "", "404"})
	}
	return list
}

// queueTargets are what mallory would like answers to be written to.
var queueTargets = []string{
	"sb.unique.hidden.X.0", "sb.unique.jobs.X.2", "$JS.API.DIRECT.GET.SB_TASK_hidden.sb.unique.hidden.X.0",
	"sb.task.hidden.0", "sb.task.hidden.2", "sb.task.jobs.2", "sb.result.hidden.X", "sb.result.hidden.Y", "sb.dead.hidden.Y",
	"sb.control.hidden.alice.pause", "sb.control.hidden.mallory.x", "sb.control.jobs.alice.pause", "sb.slot.hidden.0", "sb.slot.hidden.rate",
	"sb.delay.hidden.alice.one", "sb.delay.jobs.alice.one", "sb.held.hidden.alice.one", "sb.held.jobs.alice.one", "sb.due.hidden.2", "sb.due.jobs.2",
	"sb.queue.hidden.alice.purge", "sb.queue.jobs.alice.purge",
	"$JS.API.CONSUMER.MSG.NEXT.SB_TASK_hidden.p2", "$JS.API.CONSUMER.MSG.NEXT.SB_TASK_jobs.p2", "$JS.API.CONSUMER.DELETE.SB_TASK_hidden.p2", "$JS.API.CONSUMER.RESET.SB_TASK_hidden.p2",
	"$JS.API.STREAM.PURGE.SB_TASK_hidden", "$JS.API.STREAM.PURGE.SB_DELAY_jobs", "$JS.API.DIRECT.GET.SB_RESULT_hidden",
	"$JS.ACK.SB_TASK_hidden.p2.1.1.1.1.1", "$JS.ACK._.x.SB_TASK_hidden.p2.1.1.1.1.1", "$JS.ACK.SB_TASK_jobs.p2.1.1.1.1.1",
}

// queueForbidden are subjects that mallory, who may do everything in jobs, may not publish to.
var queueForbidden = []string{
	"sb.unique.hidden.X.0", "sb.unique.jobs.X.4", "sb.unique.*.X.0", "x.unique.jobs.X.0", "$JS.API.DIRECT.GET.SB_TASK_hidden.sb.unique.hidden.X.0", "$JS.API.DIRECT.GET.SB_TASK_jobs.sb.unique.hidden.X.0",
	"$JS.API.DIRECT.GET.SB_TASK_jobs.sb.unique.jobs.>", "$JS.API.DIRECT.GET.SB_TASK_jobs.sb.*.jobs.*.*",
	"sb.task.hidden.0", "sb.task.jobs.4", "sb.task.jobs.*", "sb.task.*.0", "x.task.jobs.0", "sb.result.hidden.X", "sb.result.*.X", "sb.dead.hidden.X", "sb.progress.hidden.X",
	"sb.control.hidden.mallory.x", "sb.control.jobs.alice.pause", "sb.control.jobs.*.pause", "sb.slot.hidden.0", "sb.slot.*.0", "sb.slot.jobs.0.x", "sb.delay.hidden.mallory.x", "sb.recur.hidden.mallory.x", "sb.recur.jobs.alice.x", "sb.recur.jobs.alice", "sb.recur.hidden.mallory", "sb.delay.jobs.alice.one", "sb.delay.jobs.*.one",
	"sb.held.jobs.mallory.x", "sb.held.jobs.alice.one", "sb.due.jobs.0",
	"sb.queue.hidden.mallory.info", "sb.queue.hidden.mallory.purge", "sb.queue.jobs.alice.purge", "sb.queue.jobs.*.info", "sb.queue.jobs.mallory.x",
	"$JS.API.CONSUMER.MSG.NEXT.SB_TASK_hidden.p2", "$JS.API.CONSUMER.MSG.NEXT.SB_TASK_jobs.*", "$JS.API.CONSUMER.MSG.NEXT.SB_TASK_jobs.p4",
	"$JS.API.DIRECT.GET.SB_TASK_jobs.sb.task.jobs.0", "$JS.API.DIRECT.GET.SB_DELAY_jobs.sb.held.jobs.mallory.x",
	"$JS.API.DIRECT.GET.SB_RESULT_hidden", "$JS.API.DIRECT.GET.SB_RESULT_hidden.sb.result.hidden.X", "$JS.API.DIRECT.GET.SB_CONTROL_hidden.sb.control.hidden.alice.pause",
	// Of the consumer from which dave has a task: as it is, with the own queue's name in every other place, and in
	// the form of later servers.
	"$JS.ACK.SB_TASK_hidden.p2.1.1.1.1.1", "$JS.ACK.SB_TASK_hidden.p2.SB_TASK_jobs.1.1.1.1", "$JS.ACK.SB_TASK_hidden.p2.SB_TASK_jobs.p0.1.1.1.1.1",
	"$JS.ACK._.x.SB_TASK_hidden.p2.1.1.1.1.1", "$JS.ACK._.SB_TASK_jobs.SB_TASK_hidden.p2.1.1.1.1.1",
}

// queueUnheard are subjects that mallory may not subscribe to.
var queueUnheard = []string{
	"sb.unique.>", "sb.unique.jobs.X.0", "sb.task.>", "sb.task.jobs.0", "sb.*.jobs.>", "sb.result.hidden.>", "sb.result.*.X", "sb.dead.hidden.>", "sb.progress.hidden.>", "sb.control.>", "sb.control.hidden.>", "sb.slot.>", "sb.slot.hidden.*",
	"sb.delay.>", "sb.delay.jobs.mallory.x", "sb.queue.>", "sb.queue.jobs.mallory.info", "sb.recur.>", "sb.recur.jobs.mallory", "sb.held.>", "sb.due.>", "$JS.ACK.SB_TASK_jobs.>", "$JS.API.CONSUMER.MSG.NEXT.SB_TASK_jobs.p0",
}

var queueStreams = []string{"SB_TASK_hidden", "SB_TASK_jobs", "SB_DELAY_jobs", "SB_RESULT_hidden", "SB_RESULT_jobs", "SB_DEAD_jobs", "SB_CONTROL_jobs"}

// TestWorkerTakesOthersTasks: a worker of one queue is handed nothing of another, whatever it asks its own consumers
// for, and settles nothing there; what its own answers say of others' tasks changes nothing.
func TestWorkerTakesOthersTasks(t *testing.T) {
	t.Parallel()
	w := newStoreWorld(t)
	before := w.others()
	for _, request := range []string{
		"", "1", "1000", "-1", "{}", `{"batch":0}`, `{"batch":1000000000,"no_wait":true}`, `{"batch":1,"no_wait":true,"filter":"sb.task.jobs.2"}`, `{"batch":1,"no_wait":true,"max_bytes":1}`,
		`{"batch":1,"no_wait":true,"group":"x","priority":0,"min_pending":0}`, `{"batch":1,"no_wait":true,"stream":"SB_TASK_hidden"}`, `{"batch":1,"expires":1000000,"id":"x"}`,
	} {
		sub, err := w.nc.SubscribeSync(w.nc.NewInbox())
		bustest.Check(t, err)
		bustest.Check(t, w.nc.PublishRequest(policy.TaskPull("jobs", 1), sub.Subject, []byte(request)))
		bustest.Check(t, w.nc.FlushWithContext(w.Ctx()))
		for n, _, _ := sub.Pending(); n > 0; n-- {
			if m, err := sub.NextMsg(bustest.Timeout); err != nil || len(m.Data) > 0 {
				t.Errorf("%s is answered %v %v", request, m, err)
			}
		}
		bustest.Check(t, sub.Unsubscribe())
	}
	// Acknowledgements under its own subject, of sequences that are others', or nobody's.
	for _, seq := range []string{"0", "1", "2", "999", "18446744073709551615", "-1", "x"} {
		for _, word := range []string{"+ACK", "-NAK", `-NAK {"delay":-1}`, "-NAK {", "+WPI", "+TERM", `+NXT {"batch":1,"no_wait":true}`, "+NXT x", "x"} {
			for _, consumer := range []string{"p0", "p1"} {
				subject := fmt.Sprintf("$JS.ACK.SB_TASK_jobs.%s.%s.%s.%s.%s.%s", consumer, seq, seq, seq, seq, seq)
				bustest.Check(t, w.nc.PublishRequest(subject, w.nc.NewInbox(), []byte(word)))
			}
		}
	}
	bustest.Check(t, w.nc.FlushWithContext(w.Ctx()))
	w.same(before, "what mallory may ask and say")
	// The honest are served: with the second task, or, where all of this took longer than the lease on the first, with that again.
	if m := take(w, w.agent("dave").Conn(), "hidden", 2); !strings.HasPrefix(string(m.Data), "alice's") {
		t.Errorf("dave has %q", m.Data)
	}
}
