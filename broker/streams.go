package broker

import (
	"reflect"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/policy"
)

// topic is one that the policy retains.
type topic struct {
	name   string
	retain time.Duration
}

// retained returns the policy's retained topics, sorted by name.
func retained(p *policy.Policy) []topic {
	var list []topic
	for _, name := range p.Topics() {
		ch, err := policy.Topic(name)
		if err != nil {
			continue // a policy has only legal names
		}
		if s, ok := p.Settings(ch); ok && s.Retain > 0 {
			list = append(list, topic{name, s.Retain})
		}
	}
	return list
}

// streams returns every stream that a policy calls for. It is the whole of what
// is provisioned: a new kind of stream is a line here.
func streams(p *policy.Policy) []jetstream.StreamConfig {
	list := []jetstream.StreamConfig{
		bucket(policy.BucketPolicy, policyHistory, policy.FeedPolicy),
		bucket(policy.BucketCards, 1, ""),
		bucket(policy.BucketKeys, 1, policy.FeedAllKeys),
	}
	for _, t := range retained(p) {
		list = append(list, topicStream(t))
	}
	for _, q := range queues(p) {
		list = append(list, q.streams()...)
	}
	if len(audited(p)) > 0 {
		list = append(list, checkpoints())
	}
	return list
}

// audited returns the streams of which the policy names auditors.
func audited(p *policy.Policy) []string {
	var channels []policy.Channel
	for _, name := range p.Topics() {
		if ch, err := policy.Topic(name); err == nil { // a policy has only legal names
			channels = append(channels, ch)
		}
	}
	for _, name := range p.Queues() {
		if ch, err := policy.Queue(name); err == nil {
			channels = append(channels, ch)
		}
	}
	var list []string
	for _, ch := range channels {
		if p.HasAuditors(ch) {
			list = append(list, policy.AuditedStreams(ch)...)
		}
	}
	return list
}

// checkpoints keeps the last of each auditor's logs. Where the store is full a new
// one is refused, and nobody else's goes for it. It remembers message ids for as
// short as it can: an auditor must not be able to have another's checkpoint taken
// for a repetition.
func checkpoints() jetstream.StreamConfig {
	c := protected(policy.AuditStream, policy.AuditPattern)
	c.MaxMsgsPerSubject = policy.MaxCheckpoints
	c.MaxMsgSize = policy.MaxCheckpoint
	c.Discard = jetstream.DiscardNew
	c.Duplicates = shortestWindow
	return c
}

// bucket is a key-value bucket as any NATS client reads it, made as a plain
// stream: a client's own call to make a bucket turns rollup on, and then one
// message with "Nats-Rollup: all" under a key that an agent may write empties
// the whole bucket. feed is the subject of live updates, if any.
func bucket(name string, history int64, feed string) jetstream.StreamConfig {
	subject := policy.BucketSubject(name, ">")
	c := protected(policy.StreamOfBucket(name), subject)
	c.MaxMsgsPerSubject = history
	c.MaxMsgSize = maxEntry
	// At the store's limit new entries are refused; the oldest key of
	// somebody else is not sacrificed.
	c.Discard = jetstream.DiscardNew
	if feed != "" {
		c.RePublish = &jetstream.RePublish{Source: subject, Destination: feed}
	}
	return c
}

func topicStream(t topic) jetstream.StreamConfig {
	subject := policy.TopicSubject(t.name)
	c := protected(policy.TopicStream(t.name), subject, subject+".>")
	c.MaxAge = t.retain
	c.Duplicates = min(duplicateWindow, t.retain)
	c.AllowAtomicPublish = true // one sync for a batch, not one a message
	return c
}

// protected is a stream on disk from which nothing is taken out by a client,
// readable without a consumer.
func protected(name string, subjects ...string) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              name,
		Subjects:          subjects,
		Storage:           jetstream.FileStorage,
		Retention:         jetstream.LimitsPolicy,
		MaxMsgsPerSubject: -1,
		MaxMsgSize:        -1,
		Duplicates:        duplicateWindow,
		DenyDelete:        true,
		DenyPurge:         true,
		AllowDirect:       true,
	}
}

// merged returns a stream's configuration with everything that this package
// decides as wanted, and the rest as it is: how many replicas there are and
// where, limits in bytes, descriptions. changed says whether that differs.
func merged(have, want jetstream.StreamConfig) (next jetstream.StreamConfig, changed bool) {
	next = have
	next.Subjects = want.Subjects
	next.Storage = want.Storage
	next.Retention = want.Retention
	next.Discard = want.Discard
	next.MaxMsgsPerSubject = want.MaxMsgsPerSubject
	next.MaxMsgSize = want.MaxMsgSize
	next.MaxAge = want.MaxAge
	next.Duplicates = want.Duplicates
	next.DenyDelete = want.DenyDelete
	next.DenyPurge = want.DenyPurge
	next.AllowDirect = want.AllowDirect
	next.AllowAtomicPublish = want.AllowAtomicPublish
	next.RePublish = want.RePublish
	// What would let a message remove or make others, come from elsewhere,
	// or be acknowledged before it is on disk.
	next.AllowRollup = want.AllowRollup
	next.AllowBatchPublish = want.AllowBatchPublish
	next.AllowMsgTTL = want.AllowMsgTTL
	next.SubjectDeleteMarkerTTL = want.SubjectDeleteMarkerTTL
	next.AllowMsgCounter = want.AllowMsgCounter
	next.AllowMsgSchedules = want.AllowMsgSchedules
	next.PersistMode = want.PersistMode
	next.NoAck = want.NoAck
	next.DiscardNewPerSubject = want.DiscardNewPerSubject
	next.SubjectTransform = want.SubjectTransform
	next.Mirror = want.Mirror
	next.Sources = want.Sources
	return next, !reflect.DeepEqual(next, have)
}
