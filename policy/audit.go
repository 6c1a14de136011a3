package policy

import (
	"slices"
	"strings"
	"time"
)

// AuditStream is the stream of the checkpoints that auditors publish.
const AuditStream = "SB_AUDIT"

const (
	auditPrefix   = "sb.audit."
	sessionPrefix = "sb.session."
)

// AuditSubject returns the subject on which an auditor publishes the checkpoints of its log of a stream. The log is
// given by its id, a ULID's text. The last [MaxCheckpoints] under each subject are kept. A checkpoint is published
// without a message id: the stream would drop it where another auditor was quicker to use the same.
func AuditSubject(stream, agent, log string) string {
	return auditPrefix + stream + "." + agent + "." + log
}

// AuditPattern is the pattern of every [AuditSubject], for the broker's stream and imports.
const AuditPattern = auditPrefix + "*.*.*"

// CutAuditSubject takes an [AuditSubject] apart; ok is false for every other subject.
func CutAuditSubject(nats string) (stream, agent, log string, ok bool) {
	rest, ok := strings.CutPrefix(nats, auditPrefix)
	tokens := strings.Split(rest, ".")
	if !ok || len(tokens) != 3 || !isName(tokens[1]) || !isCard(tokens[2]) {
		return "", "", "", false
	}
	if _, ok := StreamChannel(tokens[0]); !ok {
		return "", "", "", false
	}
	return tokens[0], tokens[1], tokens[2], true
}

// SessionSubject returns the subject by which an enqueuer puts a session note into a queue's log: what it says about
// its own count of tasks. No consumer hands it out.
func SessionSubject(queue string) string { return sessionPrefix + queue }

// CutSessionSubject takes a [SessionSubject] apart; ok is false for every other subject.
func CutSessionSubject(nats string) (queue string, ok bool) {
	queue, ok = strings.CutPrefix(nats, sessionPrefix)
	if !ok || !isName(queue) {
		return "", false
	}
	return queue, true
}

// StreamInfo returns the subject on which JetStream is asked how a stream is configured and how full it is.
func StreamInfo(stream string) string { return "$JS.API.STREAM.INFO." + stream }

// AuditedStreams returns the streams that an auditor of a channel keeps logs of: that of a topic; a queue's tasks,
// results and dead letters. It is nil for a channel of another kind, also for that of results, which is its queue's.
func AuditedStreams(ch Channel) []string {
	switch ch.kind {
	case KindTopic:
		return []string{TopicStream(ch.a)}
	case KindQueue:
		return []string{TaskStream(ch.a), ResultStream(ch.a), DeadStream(ch.a)}
	}
	return nil
}

// StreamChannel returns the topic or queue whose [AuditedStreams] a stream is one of; ok is false for every other
// stream.
func StreamChannel(stream string) (ch Channel, ok bool) {
	for _, s := range [...]struct {
		prefix string
		kind   ChannelKind
	}{{TopicStream(""), KindTopic}, {TaskStream(""), KindQueue}, {ResultStream(""), KindQueue}, {DeadStream(""), KindQueue}} {
		if name, ok := strings.CutPrefix(stream, s.prefix); ok && isName(name) {
			return Channel{kind: s.kind, a: name}, true
		}
	}
	return Channel{}, false
}

// CanAudit reports whether the agent may keep logs of what a topic or queue retains, sealed as it is, and publish
// their checkpoints. It gets no key by this. Results follow their queue. It takes no allocation.
func (p *Policy) CanAudit(ch Channel, agent string) bool {
	if ch.kind == KindResult {
		ch.kind = KindQueue
	}
	r, ok := p.channels[ch]
	return ok && p.admits(agent) && r.audit.match(agent)
}

// Audited returns the topics and queues that the agent may audit, sorted by their text.
func (p *Policy) Audited(agent string) []Channel {
	if !p.admits(agent) {
		return nil
	}
	var list []Channel
	for ch, r := range p.channels {
		if r.audit.match(agent) {
			list = append(list, ch)
		}
	}
	slices.SortFunc(list, compareChannels)
	return list
}

// HasAuditors reports whether the policy names any agent as an auditor of a topic or queue. Results follow their queue.
func (p *Policy) HasAuditors(ch Channel) bool {
	if ch.kind == KindResult {
		ch.kind = KindQueue
	}
	r, ok := p.channels[ch]
	return ok && len(r.audit.list) > 0
}

// MayWork reports whether the agent may take tasks of a queue, settle them and write their results. Who may only read
// them, by the queue's field read, may not. It takes no allocation.
func (p *Policy) MayWork(queue, agent string) bool {
	return p.CanWrite(Channel{kind: KindResult, a: queue}, agent)
}

// MaxCardAge returns for how long after it was sealed a kept frame is believed when its sender's card has expired
// since.
func (p *Policy) MaxCardAge() time.Duration { return p.maxCardAge }

// DestroyedBefore returns the time before which every key of the channel that was made is destroyed, zero when none
// is. Results follow their queue.
func (p *Policy) DestroyedBefore(ch Channel) time.Time {
	if ch.kind == KindResult {
		ch.kind = KindQueue
	}
	return p.destroyed[ch]
}

// Destroyed returns the channels of which keys are destroyed, sorted by their text.
func (p *Policy) Destroyed() []Channel {
	var list []Channel
	for ch := range p.destroyed {
		list = append(list, ch)
	}
	slices.SortFunc(list, compareChannels)
	return list
}
