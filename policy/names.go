package policy

import (
	"fmt"
	"strings"
)

// Buckets of JetStream's key-value store. They are storage, not trust: everything in them is a signed statement.
const (
	BucketCards  = "SB_CARDS"
	BucketPolicy = "SB_POLICY"
	BucketKeys   = "SB_KEYS"
)

// PolicyKey is the key in [BucketPolicy] under which the signed policy in force lies.
const PolicyKey = "current"

// Subjects under which the live updates of two buckets reach agents. Agents never touch the buckets' own subjects
// for this, and have no right to make a consumer: a consumer's delivery subject could point into another stream.
const (
	FeedPolicy  = "sb.store.policy.>" // updates of BucketPolicy: sb.store.policy.<key>
	FeedAllKeys = "sb.store.keys.>"   // updates of BucketKeys: sb.store.keys.<key>; an agent may subscribe to FeedKeys of its channels

	feedKeysPrefix = "sb.store.keys."
)

// Prefixes of the subjects on NATS.
const (
	topicPrefix   = "sb.topic."
	servicePrefix = "sb.service."
	agentPrefix   = "sb.agent."
	inboxPrefix   = "sb.inbox."
)

// StreamOfBucket returns the name of the stream that holds a bucket, as every NATS key-value client expects it.
func StreamOfBucket(bucket string) string { return "KV_" + bucket }

// BucketSubject returns the subject of a bucket's entry, "$KV.<bucket>.<key>"; the key may end in wildcards.
func BucketSubject(bucket, key string) string { return "$KV." + bucket + "." + key }

// DirectGet returns the subject on which a bucket's stream answers reads: with a key (or wildcards), reads of the last
// value of that key; with an empty key, the reads that name what they want in their body, such as a batch.
func DirectGet(bucket, key string) string {
	api := "$JS.API.DIRECT.GET." + StreamOfBucket(bucket)
	if key == "" {
		return api
	}
	return api + "." + BucketSubject(bucket, key)
}

// TopicSubject returns the NATS subject of a subject or pattern that [CheckSubject] or [CheckPattern] accepts:
// "sb.topic.prices.eu.de".
func TopicSubject(subject string) string { return topicPrefix + subject }

// CutTopicSubject undoes [TopicSubject]; ok is false when the NATS subject is not that of a topic.
func CutTopicSubject(nats string) (subject string, ok bool) {
	return strings.CutPrefix(nats, topicPrefix)
}

// TopicStream returns the name of the stream that keeps a retained topic.
func TopicStream(topic string) string { return "SB_TOPIC_" + topic }

// ServiceSubject returns the NATS subject on which the servers of a service are asked.
func ServiceSubject(service string) string { return servicePrefix + service }

// AgentSubject returns the NATS subject on which an agent's instances are asked.
func AgentSubject(agent string) string { return agentPrefix + agent }

// InboxPrefix returns the prefix, without a final dot, of every reply subject of an agent.
func InboxPrefix(agent string) string { return inboxPrefix + agent }

// InboxOf returns the agent under whose [InboxPrefix] a reply subject lies. A responder must compare it with the
// authenticated sender: the broker checks where a client publishes, never where it asks others to reply to. ok is
// false for every other subject, also for one with wildcards.
func InboxOf(reply string) (agent string, ok bool) {
	rest, ok := strings.CutPrefix(reply, inboxPrefix)
	if !ok || len(rest) > 4*MaxSubject {
		return "", false
	}
	agent, rest, ok = strings.Cut(rest, ".")
	if !ok || !isName(agent) {
		return "", false
	}
	for token := range strings.SplitSeq(rest, ".") {
		if !isToken(token) {
			return "", false
		}
	}
	return agent, true
}

// CheckSubject reports whether a subject can be published to: tokens of letters, digits, "-" and "_", separated by
// single dots, the first of them a topic's name; at most [MaxSubject] bytes and [MaxTokens] tokens; no wildcards.
// Whether the policy has such a topic is answered by [Policy.TopicChannel]. The error wraps [ErrSubject].
func CheckSubject(s string) error { return checkSubject(s, false) }

// CheckPattern reports whether a pattern can be subscribed to: a subject in which every token but the first may be a
// "*", which stands for one token, and the last may be a ">", which stands for one or more. The first token names the
// topic, because a subscription is to one channel. The error wraps [ErrSubject].
func CheckPattern(s string) error { return checkSubject(s, true) }

func checkSubject(s string, wildcards bool) error {
	switch n := strings.Count(s, ".") + 1; {
	case s == "":
		return fmt.Errorf("%w: it is empty: write a topic, such as \"prices\", or a subject below one, such as \"prices.eu\"", ErrSubject)
	case len(s) > MaxSubject:
		return fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrSubject, len(s), MaxSubject)
	case n > MaxTokens:
		return fmt.Errorf("%w: %q has %d tokens, at most %d are allowed", ErrSubject, s, n, MaxTokens)
	}
	first, rest, more := strings.Cut(s, ".")
	switch {
	case first == "*" || first == ">":
		return fmt.Errorf("%w: %q starts with a wildcard: start with a topic, such as \"prices.>\"; another topic takes another subscription", ErrSubject, s)
	case first == "":
		return fmt.Errorf("%w: %q starts with a dot: start with a topic", ErrSubject, s)
	case !isName(first):
		return fmt.Errorf("%w: %q: %q is no topic's name, which has up to 63 of a-z, 0-9, - and _ and starts with a letter or digit", ErrSubject, s, first)
	}
	for more {
		var token string
		token, rest, more = strings.Cut(rest, ".")
		if err := checkToken(s, token, wildcards, !more); err != nil {
			return err
		}
	}
	return nil
}

func checkToken(s, token string, wildcards, last bool) error {
	switch {
	case isToken(token):
		return nil
	case token == "":
		return fmt.Errorf("%w: %q has an empty token: write single dots, and none at the end", ErrSubject, s)
	case token == "*" && wildcards, token == ">" && wildcards && last:
		return nil
	case token == ">" && wildcards:
		return fmt.Errorf("%w: %q: \">\" stands for all that follows, so it can only come last", ErrSubject, s)
	case !wildcards && strings.ContainsAny(token, "*>"):
		return fmt.Errorf("%w: %q has a wildcard, and wildcards are for subscriptions: name one subject", ErrSubject, s)
	case wildcards && strings.ContainsAny(token, "*>"):
		return fmt.Errorf("%w: %q: a wildcard stands alone between dots, as in \"prices.*.close\"", ErrSubject, s)
	}
	return fmt.Errorf("%w: %q: token %q may have only letters, digits, - and _", ErrSubject, s, token)
}

func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return s != ""
}
