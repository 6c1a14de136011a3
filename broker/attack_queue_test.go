package broker_test

import (
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/policy"
)

// attackQueues gives mallory every part in one queue, and none in another.
const attackQueues = `
queues:
  q: {enqueue: [alice, mallory], work: [mallory], read: [mallory], audit: [audrey, mallory]}
  other: {enqueue: [alice], work: [dave], audit: [audrey]}
`

// farAhead is a time at which tests are over.
var farAhead = "@at " + time.Now().Add(1000*time.Hour).Format(time.RFC3339)

// queues fills the queues. In other, dave has taken one of alice's tasks.
func (a *attack) queues(alice, dave *client) {
	a.t.Helper()
	for _, queue := range []string{"q", "other"} {
		alice.enqueue(queue, 2, "alice's", "alice's too")
		m := nats.NewMsg(policy.DelaySubject(queue, "alice", "one"))
		m.Header.Set("Nats-Schedule", farAhead)
		m.Header.Set("Nats-Schedule-Target", policy.DueSubject(queue, 2))
		m.Data = []byte("alice's")
		_, err := alice.js().PublishMsg(timeout(a.t), m)
		ok(a.t, err)
		alice.put(policy.ControlSubject(queue, "alice", "pause"), "alice's")
	}
	dave.take("other", 2)
	dave.put(policy.ResultSubject("other", "X"), "dave's")
	dave.put(policy.DeadSubject("other", "X"), "dave's")

	var evil []string
	for range 500 {
		evil = append(evil, "evil")
	}
	a.mallory.enqueue("q", 0, evil...)
	a.settled = a.mallory.take("q", 0)
	a.mallory.settle(a.settled, "+ACK")
	a.mallory.put(policy.ResultSubject("q", "M"), "evil")
	a.mallory.put(policy.DeadSubject("q", "M"), "evil")
	a.mallory.put(policy.ControlSubject("q", "mallory", "M"), "evil")
}

// ownInQueue reports whether mallory may have written a message to a stream of a
// queue.
func ownInQueue(m string) bool {
	for _, own := range []string{"sb.task.q.0=", "sb.task.q.1=", "sb.unique.q.M.0=", "sb.session.q=", "sb.due.q.1=", "sb.held.q.mallory.", "sb.result.q.", "sb.dead.q.", "sb.control.q.mallory.", "sb.slot.q."} {
		if strings.HasPrefix(m, own) {
			return true
		}
	}
	return false
}

// consumers adds how far those have come from which mallory takes nothing.
func (a *attack) consumers(all map[string][]string) {
	a.t.Helper()
	for _, queue := range []string{"q", "other"} {
		for priority := range policy.Priorities {
			if queue == "q" && priority < 2 {
				continue
			}
			c, err := a.js.Consumer(timeout(a.t), policy.TaskStream(queue), policy.TaskConsumer(priority))
			ok(a.t, err)
			i := c.CachedInfo()
			// What is pending counts fences too where they are tasks.
			all["consumers"] = append(all["consumers"], fmt.Sprint(queue, priority, i.Delivered, i.AckFloor, i.NumAckPending, i.NumRedelivered))
		}
	}
}

// queueWays are the ways to make the broker answer about a queue.
func (a *attack) queueWays() []way {
	list := []way{
		{name: "ack of a task", subject: "sb.task.q.0", body: "evil", expect: "SB_TASK_q"},
		{name: "ack of a unique task", subject: "sb.unique.q.M.0", body: "evil", expect: "SB_TASK_q"},
		{name: "a unique task that comes too late", subject: "sb.unique.q.M.0", body: "evil", expect: "wrong last sequence",
			header: nats.Header{"Nats-Expected-Last-Subject-Sequence": {"99999"}, "Nats-Expected-Last-Subject-Sequence-Subject": {"sb.unique.q.M.*"}}},
		{name: "read of a claim", subject: policy.StreamGet("SB_TASK_q", "sb.unique.q.M.*"), expect: "evil"},
		{name: "read of no claim", subject: policy.StreamGet("SB_TASK_q", "sb.unique.q.M2.*"), expect: "404"},
		{name: "read of a claim with a body", subject: policy.StreamGet("SB_TASK_q", "sb.unique.q.M.0"), body: `{"next_by_subj":"sb.task.q.2","seq":1}`, expect: "408"},
		{name: "ack of a result", subject: "sb.result.q.M2", body: "evil", expect: "SB_RESULT_q"},
		{name: "ack of a dead letter", subject: "sb.dead.q.M2", body: "evil", expect: "SB_DEAD_q"},
		{name: "ack of a control", subject: "sb.control.q.mallory.M2", body: "evil", expect: "SB_CONTROL_q"},
		{name: "ack of a slot", subject: "sb.slot.q.0", body: "evil", expect: "SB_CONTROL_q"},
		{name: "ack of a delayed task", subject: "sb.delay.q.mallory.M2", body: "evil", expect: "SB_DELAY_q",
			header: nats.Header{"Nats-Schedule": {farAhead}, "Nats-Schedule-Target": {"sb.due.q.1"}}},
		{name: "a delayed task refused", subject: "sb.delay.q.mallory.M2", body: "evil", expect: "evil",
			header: nats.Header{"Nats-Schedule": {"evil"}}},
		{name: "a recurring task refused", subject: "sb.recur.q.mallory.M2", body: "evil", expect: "evil",
			header: nats.Header{"Sealbus-Schedule": {"evil"}}},
		{name: "a recurring task removed", subject: "sb.recur.q.mallory.M3", expect: "purged"},
		{name: "a delayed task taken back", subject: "sb.delay.q.mallory.M3", expect: "purged"},
		{name: "how the queue stands", subject: "sb.queue.q.mallory.info", body: "evil", expect: "priorities"},
		{name: "a purge refused", subject: "sb.queue.q.mallory.purge", body: `{"id":"evil"}`, expect: "evil"},
		{name: "tasks", subject: "$JS.API.CONSUMER.MSG.NEXT.SB_TASK_q.p0", body: `{"batch":1,"no_wait":true}`, expect: "evil"},
		{name: "no tasks", subject: "$JS.API.CONSUMER.MSG.NEXT.SB_TASK_q.p1", body: `{"batch":1,"no_wait":true}`, expect: "404"},
		{name: "a bad request for tasks", subject: "$JS.API.CONSUMER.MSG.NEXT.SB_TASK_q.p0", body: `{"batch":`, expect: "400"},
		{name: "ack of an ack", subject: a.settled.Reply, body: "+ACK"},
		{name: "ack and the next", subject: a.settled.Reply, body: `+NXT {"batch":1,"no_wait":true}`, expect: "evil"},
	}
	for stream, subject := range map[string]string{"SB_RESULT_q": "sb.result.q.M", "SB_DEAD_q": "sb.dead.q.M", "SB_CONTROL_q": "sb.control.q.mallory.M"} {
		list = append(list,
			way{name: "read of " + stream, subject: policy.StreamGet(stream, subject), expect: "evil"},
			way{name: "read by body of " + stream, subject: policy.StreamGet(stream, ""), body: `{"last_by_subj":"` + subject + `"}`, expect: "evil"},
			way{name: "batch read of " + stream, subject: policy.StreamGet(stream, ""), body: `{"multi_last":["` + subject + `"]}`, expect: "evil"},
			way{name: "read of nothing of " + stream, subject: policy.StreamGet(stream, subject+"x"), expect: "404"})
	}
	return list
}

// queueTargets are what mallory would like others' answers to be written to.
var queueTargets = []string{
	"sb.task.other.0", "sb.task.other.2", "sb.task.q.2", "sb.task.q.3", "sb.unique.other.X.0", "sb.unique.q.X.2", "$JS.API.DIRECT.GET.SB_TASK_other.sb.unique.other.X.2",
	"sb.result.other.X", "sb.result.other." + ulid.Make().String(), "sb.dead.other.Y", "sb.progress.other.Y",
	"sb.control.other.alice.pause", "sb.control.other.mallory.x", "sb.control.q.alice.pause", "sb.slot.other.0", "sb.slot.other.rate",
	"sb.delay.other.alice.one", "sb.delay.q.alice.one", "sb.delay.other.mallory.x",
	"sb.held.other.alice.one", "sb.held.q.alice.one", "sb.due.other.2", "sb.due.q.2",
	"sb.queue.other.carol.purge", "sb.queue.q.alice.purge",
	"$JS.API.CONSUMER.MSG.NEXT.SB_TASK_other.p2", "$JS.API.CONSUMER.MSG.NEXT.SB_TASK_q.p2",
	"$JS.API.CONSUMER.DELETE.SB_TASK_other.p2", "$JS.API.CONSUMER.RESET.SB_TASK_other.p2",
	"$JS.API.STREAM.PURGE.SB_TASK_other", "$JS.API.STREAM.PURGE.SB_DELAY_q", "$JS.API.STREAM.DELETE.SB_RESULT_other",
	"$JS.API.DIRECT.GET.SB_RESULT_other", "$JS.API.DIRECT.GET.SB_CONTROL_other.sb.control.other.alice.pause",
	"$JS.ACK.SB_TASK_other.p2.1.1.1.1.1", "$JS.ACK._.x.SB_TASK_other.p2.1.1.1.1.1", "$JS.ACK.SB_TASK_q.p2.1.1.1.1.1",
}

// queueForbidden are subjects that mallory, who may do everything in q, may not
// publish to.
var queueForbidden = []string{
	"sb.unique.other.X.0", "sb.unique.q.0", "sb.unique.q.X.4", "sb.unique.*.X.0", "sb.unique.q.X.Y.0", "sb.unique.>",
	"$JS.API.DIRECT.GET.SB_TASK_q.>", "$JS.API.DIRECT.GET.SB_TASK_q.sb.unique.q.>", "$JS.API.DIRECT.GET.SB_TASK_q.*.q.>", "$JS.API.DIRECT.GET.SB_TASK_q.sb.*.q.*", "$JS.API.DIRECT.GET.SB_TASK_other.sb.unique.other.X.0",
	"sb.task.other.0", "sb.task.other.2", "sb.task.q", "sb.task.q.4", "sb.task.q.*", "sb.task.>", "x.task.q.0", "sb.task.q.0.x",
	"sb.result.other.X", "sb.result.q", "sb.result.q.x.y", "sb.result.*.x", "sb.dead.other.X", "sb.progress.other.X",
	"sb.control.other.alice.pause", "sb.control.other.mallory.x", "sb.control.q.alice.pause", "sb.control.q.*.pause", "sb.control.q.mallory", "sb.recur.other.mallory.x", "sb.recur.q.alice.one", "sb.recur.q.alice", "sb.recur.other.mallory", "sb.slot.other.0", "sb.slot.*.0", "sb.slot.q", "sb.slot.q.0.x",
	"sb.delay.other.mallory.x", "sb.delay.q.alice.one", "sb.delay.q.*.one", "sb.delay.q.mallory", "sb.delay.q.mallory.x.y",
	"sb.held.q.mallory.x", "sb.held.q.alice.one", "sb.held.other.alice.one", "sb.due.q.0", "sb.due.other.0",
	"sb.queue.other.mallory.info", "sb.queue.other.mallory.purge", "sb.queue.q.alice.purge", "sb.queue.q.*.info", "sb.queue.q.mallory.x", "sb.queue.q.mallory",
	"$JS.API.CONSUMER.MSG.NEXT.SB_TASK_other.p2", "$JS.API.CONSUMER.MSG.NEXT.SB_TASK_q.p4", "$JS.API.CONSUMER.MSG.NEXT.SB_TASK_q.*", "$JS.API.CONSUMER.MSG.NEXT.SB_RESULT_q.p0",
	"$JS.API.CONSUMER.INFO.SB_TASK_q.p0", "$JS.API.CONSUMER.DELETE.SB_TASK_q.p0", "$JS.API.CONSUMER.RESET.SB_TASK_q.p0", "$JS.API.CONSUMER.PAUSE.SB_TASK_q.p0",
	"$JS.API.CONSUMER.UNPIN.SB_TASK_q.p0", "$JS.API.CONSUMER.LEADER.STEPDOWN.SB_TASK_q.p0", "$JS.API.CONSUMER.NAMES.SB_TASK_q", "$JS.API.CONSUMER.LIST.SB_TASK_q",
	"$JS.API.CONSUMER.CREATE.SB_TASK_q", "$JS.API.CONSUMER.CREATE.SB_TASK_q.c", "$JS.API.CONSUMER.CREATE.SB_TASK_q.c.sb.task.q.0", "$JS.API.CONSUMER.DURABLE.CREATE.SB_TASK_q.p0",
	"$JS.API.STREAM.UPDATE.SB_TASK_q", "$JS.API.STREAM.PURGE.SB_TASK_q", "$JS.API.STREAM.PURGE.SB_RESULT_q", "$JS.API.STREAM.PURGE.SB_DELAY_q",
	"$JS.API.STREAM.DELETE.SB_TASK_q", "$JS.API.STREAM.MSG.GET.SB_TASK_q", "$JS.API.STREAM.MSG.DELETE.SB_RESULT_q",
	"$JS.API.DIRECT.GET.SB_TASK_q.sb.task.q.0", "$JS.API.DIRECT.GET.SB_DELAY_q", "$JS.API.DIRECT.GET.SB_DELAY_q.sb.held.q.mallory.x",
	"$JS.API.DIRECT.GET.SB_RESULT_other", "$JS.API.DIRECT.GET.SB_RESULT_other.sb.result.other.X", "$JS.API.DIRECT.GET.SB_RESULT_q.sb.result.other.X",
	"$JS.API.DIRECT.GET.SB_CONTROL_other", "$JS.API.DIRECT.GET.SB_DEAD_other.sb.dead.other.X",
	"$JS.ACK.SB_TASK_other.p2.1.1.1.1.0", "$JS.ACK.SB_TASK_other.p2.SB_TASK_q.1.1.1.1", "$JS.ACK.SB_TASK_other.p2.SB_TASK_q.p0.1.1.1.1.1",
	"$JS.ACK._.x.SB_TASK_other.p2.1.1.1.1.0", "$JS.ACK._.x.SB_TASK_q.p0.1.1.1.1.0", "$JS.ACK.SB_TASK_q.p4.1.1.1.1.0", "$JS.ACK.SB_TASK_q.p0.1.1.1.1.1.1.1.1", "$JS.ACK.>", "$JS.FC.SB_TASK_q.x.y",
}

// queueUnheard are subjects that mallory may not subscribe to.
var queueUnheard = []string{
	"sb.unique.>", "sb.unique.q.X.0", "sb.unique.q.*.*", "sb.task.>", "sb.task.q.0", "sb.task.q.*", "sb.*.q.>", "sb.result.other.>", "sb.result.*.x", "sb.dead.other.>", "sb.progress.other.>", "sb.control.>", "sb.control.other.>", "sb.slot.>", "sb.slot.other.*", "sb.control.*.alice.pause",
	"sb.delay.>", "sb.delay.q.mallory.x", "sb.queue.>", "sb.queue.q.mallory.info", "sb.recur.>", "sb.recur.q.mallory.x", "sb.recur.q.mallory", "sb.held.>", "sb.due.>", "$JS.ACK.>", "$JS.ACK.SB_TASK_q.>", "$JS.API.CONSUMER.MSG.NEXT.SB_TASK_q.p0", "$JS.EVENT.ADVISORY.>", "_R_.>",
}
