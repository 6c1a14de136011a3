package main

import (
	"context"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/broker"
	"github.com/sealbus/sealbus/policy"
)

// taskRules is two queues, whose streams are alike. No agent works on the plain one: what is put there only waits.
const taskRules = `
queues:
  jobs:  {enqueue: [planner], work: [worker], retain: 1h}
  plain: {enqueue: [plain-planner], work: [plain-worker], retain: 1h}
`

// What a plain work queue is called, and the subject of its tasks.
const (
	plainQueue = "PLAIN"
	plainTask  = "plain.task"
)

func byTaskSize(p pace) []point { return sizesOf(p.taskSizes) }

// byEight has as many callers or handlers at once as the figures are about.
func byEight(p pace) []point {
	list := byTaskSize(p)
	for i := range list {
		list[i].InFlight = 8
	}
	return list
}

// account connects with every right in the account of streams, as agents cannot: only there can streams and consumers be
// made. Between it and a stream there is no import, so that plain NATS has less to do than an agent.
func (st *stage) account() (*nats.Conn, error) {
	src, err := st.ca.BrokerSource(node, certLife)
	if err != nil {
		return nil, err
	}
	return st.connect("operator", src, nats.UserInfo(broker.AccountStore, ""))
}

// planner connects an agent of plain NATS that may put tasks into the plain queue's log: the same kind of stream,
// through the same kind of import, as those of agentbus.
func (st *stage) planner() (nc *nats.Conn, js jetstream.JetStream, subject string, err error) {
	if nc, err = st.plain("plain-planner"); err != nil {
		return nil, nil, "", err
	}
	js, err = jetstream.New(nc)
	return nc, js, policy.TaskSubject("plain", 2), err
}

// workQueue makes a plain work queue, from which an acknowledgement removes, and what hands out its tasks.
func workQueue(ctx context.Context, st *stage) (nc *nats.Conn, js jetstream.JetStream, c jetstream.Consumer, err error) {
	if nc, err = st.account(); err != nil {
		return nil, nil, nil, err
	}
	if js, err = jetstream.New(nc); err != nil {
		return nc, nil, nil, err
	}
	s, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: plainQueue, Subjects: []string{plainTask}, Retention: jetstream.WorkQueuePolicy,
		Storage: jetstream.FileStorage, AllowAtomicPublish: true})
	if err != nil {
		return nc, js, nil, err
	}
	c, err = s.CreateConsumer(ctx, jetstream.ConsumerConfig{Durable: "worker", AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: policy.TaskAckWait, MaxAckPending: policy.MaxTasksOut})
	return nc, js, c, err
}
