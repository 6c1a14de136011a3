package broker

import (
	"reflect"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/policy"
)

// queue is one that the policy has.
type queue struct {
	name   string
	retain time.Duration
}

// queues returns the policy's queues, sorted by name.
func queues(p *policy.Policy) []queue {
	var list []queue
	for _, name := range p.Queues() {
		ch, err := policy.Queue(name)
		if err != nil {
			continue // a policy has only legal names
		}
		if s, ok := p.Settings(ch); ok {
			list = append(list, queue{name, s.Retain})
		}
	}
	return list
}

// streams returns the streams of a queue. What goes out of them is for [Trim] to
// say: an age would take tasks that nobody has worked on yet.
func (q queue) streams() []jetstream.StreamConfig {
	return []jetstream.StreamConfig{q.delays(), q.tasks(), q.results(), q.dead(), q.controls()}
}

// tasks is a log, not a stream from which an acknowledgement removes: each of
// those would be synced to disk.
func (q queue) tasks() jetstream.StreamConfig {
	c := q.trimmed(policy.TaskStream(q.name), policy.SessionSubject(q.name))
	for priority := range policy.Priorities {
		c.Subjects = append(c.Subjects, policy.TaskSubject(q.name, priority), policy.SpreadSubject(q.name, priority),
			policy.UniqueSubject(q.name, "*", priority))
	}
	// What is due keeps its subject, by which the trimmer sees how far the
	// delayed tasks have come. Without a place to start from, a log that has
	// been trimmed, and has had nothing from there yet, starts from the time
	// of its last task: what fell due before that would never come.
	c.Sources = []*jetstream.StreamSource{{
		Name:          policy.DelayStream(q.name),
		OptStartSeq:   1,
		FilterSubject: policy.DuePattern(q.name),
	}}
	c.Discard = jetstream.DiscardNew // fullness is for the enqueuer to know
	c.AllowAtomicPublish = true
	return c
}

// results records one result a task: the first.
func (q queue) results() jetstream.StreamConfig {
	return once(q.trimmed(policy.ResultStream(q.name), policy.ResultSubject(q.name, "*")))
}

func (q queue) dead() jetstream.StreamConfig {
	return once(q.trimmed(policy.DeadStream(q.name), policy.DeadSubject(q.name, "*")))
}

func once(c jetstream.StreamConfig) jetstream.StreamConfig {
	c.MaxMsgsPerSubject = 1
	c.Discard = jetstream.DiscardNew
	c.DiscardNewPerSubject = true
	c.AllowAtomicPublish = true
	return c
}

func (q queue) controls() jetstream.StreamConfig {
	c := q.trimmed(policy.ControlStream(q.name), policy.ControlSubject(q.name, "*", ">"), policy.SlotSubject(q.name, "*"))
	c.MaxMsgsPerSubject = 1
	c.MaxMsgSize = maxControl
	return c
}

// delays holds tasks back until their time. A stream with schedules obeys the
// headers of whoever writes to it: "Nats-Rollup: all" empties it, "Nats-Scheduler"
// removes any schedule, "Nats-Schedule-Target" and its rollup overwrite any
// message. So only the node writes to it; see hold.go.
func (q queue) delays() jetstream.StreamConfig {
	c := q.trimmed(policy.DelayStream(q.name), policy.HeldSubject(q.name, "*", "*"))
	for priority := range policy.Priorities {
		c.Subjects = append(c.Subjects, policy.DueSubject(q.name, priority))
	}
	c.AllowMsgSchedules = true
	c.AllowRollup = true // which schedules do not work without
	return c
}

// trimmed is a stream that the trimmer purges.
func (q queue) trimmed(name string, subjects ...string) jetstream.StreamConfig {
	c := protected(name, subjects...)
	c.DenyPurge = false
	return c
}

// consumers returns what hands out a queue's tasks.
func (q queue) consumers() []jetstream.ConsumerConfig {
	var list []jetstream.ConsumerConfig
	for priority := range policy.Priorities {
		name := policy.TaskConsumer(priority)
		list = append(list, jetstream.ConsumerConfig{
			Name:    name,
			Durable: name,
			FilterSubjects: []string{policy.TaskSubject(q.name, priority), policy.SpreadSubject(q.name, priority),
				policy.DueSubject(q.name, priority), policy.UniqueSubject(q.name, "*", priority)},
			DeliverPolicy:     jetstream.DeliverAllPolicy,
			AckPolicy:         jetstream.AckExplicitPolicy,
			ReplayPolicy:      jetstream.ReplayInstantPolicy,
			AckWait:           policy.TaskAckWait,
			MaxDeliver:        -1,
			MaxAckPending:     policy.MaxTasksOut,
			MaxWaiting:        maxPulls,
			MaxRequestExpires: policy.MaxPullWait,
		})
	}
	return list
}

// mergedConsumer is merged for a consumer: how many replicas it has and whether
// it is paused are left as they are.
func mergedConsumer(have, want jetstream.ConsumerConfig) (next jetstream.ConsumerConfig, changed bool) {
	next = want
	next.Replicas = have.Replicas
	next.Description = have.Description
	next.Metadata = have.Metadata
	next.PauseUntil = have.PauseUntil
	return next, !reflect.DeepEqual(next, have)
}
