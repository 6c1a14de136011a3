package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sealbus/sealbus/identity"
)

// Policy says who may do what. It is made by [Parse] or [Verify], never changes, and may be used by any number of
// goroutines.
//
// Agents are given by name, because a policy holds for one trust domain: that an identity is of [Policy.TrustDomain]
// is for the caller to check first. Every question about an agent is answered with no when the agent is revoked or
// when its name is not legal or is reserved.
type Policy struct {
	text      string
	domain    spiffeid.TrustDomain
	revision  uint64
	hash      [32]byte
	previous  [32]byte
	operators []identity.Fingerprint

	channels map[Channel]*rule // topics, queues and services
	services []*rule           // those of channels that are services
	direct   []*rule
	revoked  map[string]struct{}
	known    *agents // of all rules together
	lines    map[Channel]int

	maxCardAge time.Duration
	destroyed  map[Channel]time.Time
}

// rule says who writes to a channel, who reads it, and how. A direct rule is one from the agents that may ask, who
// write, to those that they may ask.
type rule struct {
	channel  Channel // zero for a direct rule
	write    *agents
	read     *agents
	also     *agents // who else reads a queue's tasks and results
	audit    *agents
	settings Settings
}

// Settings say how a channel is used.
type Settings struct {
	Signed  bool          // frames carry a signature that others can be shown
	Pad     bool          // plaintexts are padded to hide their size
	History bool          // a newcomer is given older keys too, and so can open what came before it
	MaxAge  time.Duration // how old a live message may be when it is opened; no bound on tasks, results and replay
	Retain  time.Duration // how long the broker keeps frames; 0: it does not
	Rotate  time.Duration // how long a channel key is used to seal
}

// TrustDomain returns the trust domain that the policy holds for.
func (p *Policy) TrustDomain() spiffeid.TrustDomain { return p.domain }

// Revision returns the policy's number, at least 1. A higher one replaces a lower.
func (p *Policy) Revision() uint64 { return p.revision }

// Hash returns the hash that identifies a signed policy: SHA-256 of what was signed. It is zero for a policy that was
// only parsed. [FormatHash] gives its text.
func (p *Policy) Hash() [32]byte { return p.hash }

// Previous returns the hash of the policy that this one replaces, where it names one.
func (p *Policy) Previous() (hash [32]byte, ok bool) { return p.previous, p.previous != [32]byte{} }

// Operators returns the fingerprints of the keys that may sign the policies after this one, beside those that an agent
// has pinned itself. It is empty where the policy names none.
func (p *Policy) Operators() []identity.Fingerprint { return slices.Clone(p.operators) }

// YAML returns the text that the policy was read from, with its comments.
func (p *Policy) YAML() []byte { return []byte(p.text) }

// FormatHash returns a policy's hash as it is written in the field "previous": "sha256:" and 64 hex digits.
func FormatHash(hash [32]byte) string { return fmt.Sprintf("%s%x", hashPrefix, hash) }

const hashPrefix = "sha256:"

// admits reports whether the name may have any right at all.
func (p *Policy) admits(name string) bool {
	_, revoked := p.revoked[name]
	return !revoked && !isReserved(name) && isName(name)
}

// Revoked reports whether the policy revokes the agent. A revoked agent has no rights, whatever else the policy says.
func (p *Policy) Revoked(agent string) bool {
	_, revoked := p.revoked[agent]
	return revoked
}

// RevokedAgents returns the names of the agents that the policy revokes, sorted.
func (p *Policy) RevokedAgents() []string { return slices.Sorted(maps.Keys(p.revoked)) }

// Known reports whether any rule of the policy names or matches the agent, and the agent is not revoked.
func (p *Policy) Known(agent string) bool { return p.admits(agent) && p.known.match(agent) }

// CanRead reports whether the agent is entitled to a channel's key: a subscriber of a topic, a worker of a queue, an
// enqueuer for results, for both of these whom the queue's field read names, a server of a service, either agent of an
// allowed pair. It takes no allocation. Whether an agent works on a queue is answered by [Policy.MayWork].
func (p *Policy) CanRead(ch Channel, agent string) bool {
	if ch.kind == KindPair {
		return ch.Other(agent) != "" && p.PairAllowed(ch.a, ch.b)
	}
	s, ok := p.sides(ch)
	return ok && p.admits(agent) && (s.read.match(agent) || s.also.match(agent))
}

// CanWrite reports whether the agent may send on a channel: a publisher to a topic, an enqueuer to a queue, a worker's
// results, a caller of a service, either agent of an allowed pair. It takes no allocation.
func (p *Policy) CanWrite(ch Channel, agent string) bool {
	if ch.kind == KindPair {
		return ch.Other(agent) != "" && p.PairAllowed(ch.a, ch.b)
	}
	s, ok := p.sides(ch)
	return ok && p.admits(agent) && s.write.match(agent)
}

// sides are who writes and who reads a channel.
type sides struct{ write, read, also *agents }

// sides returns those of a channel that is no pair.
func (p *Policy) sides(ch Channel) (s sides, ok bool) {
	result := ch.kind == KindResult
	if result {
		ch.kind = KindQueue
	}
	r, ok := p.channels[ch]
	switch {
	case !ok:
		return sides{}, false
	case result:
		return sides{write: r.read, read: r.write, also: r.also}, true
	}
	return sides{write: r.write, read: r.read, also: r.also}, true
}

// MayRequest reports whether a direct rule lets one agent ask another. None may ask itself.
func (p *Policy) MayRequest(from, to string) bool {
	return from != to && p.admits(from) && p.admits(to) &&
		slices.ContainsFunc(p.direct, func(r *rule) bool { return r.matches(from, to) })
}

// mayCall reports whether one agent may call a service that the other serves.
func (p *Policy) mayCall(from, to string) bool {
	if from == to || !p.admits(from) || !p.admits(to) {
		return false
	}
	return slices.ContainsFunc(p.services, func(r *rule) bool { return r.matches(from, to) })
}

// MayReply reports whether one agent may answer another: the other may ask it, or may call a service that it serves.
func (p *Policy) MayReply(from, to string) bool { return p.MayRequest(to, from) || p.mayCall(to, from) }

// PairAllowed reports whether two agents share a channel: either may ask the other, or may call a service that the
// other serves, since replies travel on the pair.
func (p *Policy) PairAllowed(a, b string) bool { return p.MayReply(a, b) || p.MayReply(b, a) }

func (r *rule) matches(from, to string) bool { return r.write.match(from) && r.read.match(to) }

// Settings returns how a channel is used; ok is false when the policy has no such channel. Results follow their
// queue. A pair is signed or padded when any direct rule between the two says so, in either direction, and padded also
// when a padded service is called between them.
func (p *Policy) Settings(ch Channel) (s Settings, ok bool) {
	if ch.kind == KindPair {
		return p.pairSettings(ch.a, ch.b)
	}
	if ch.kind == KindResult {
		ch.kind = KindQueue
	}
	r, ok := p.channels[ch]
	if !ok {
		return Settings{}, false
	}
	return r.settings, true
}

func (p *Policy) pairSettings(a, b string) (s Settings, ok bool) {
	if !p.PairAllowed(a, b) {
		return Settings{}, false
	}
	s = Settings{MaxAge: DefaultMaxAge, Rotate: DefaultRotate}
	for _, r := range p.direct {
		if r.matches(a, b) || r.matches(b, a) {
			s.Signed = s.Signed || r.settings.Signed
			s.Pad = s.Pad || r.settings.Pad
		}
	}
	for _, r := range p.services {
		if r.settings.Pad && (r.matches(a, b) || r.matches(b, a)) {
			s.Pad = true
		}
	}
	return s, true
}

// Topics returns the names of all topics, sorted.
func (p *Policy) Topics() []string { return p.names(KindTopic) }

// Queues returns the names of all queues, sorted.
func (p *Policy) Queues() []string { return p.names(KindQueue) }

// Services returns the names of all services, sorted.
func (p *Policy) Services() []string { return p.names(KindService) }

func (p *Policy) names(kind ChannelKind) []string {
	var list []string
	for ch := range p.channels {
		if ch.kind == kind {
			list = append(list, ch.a)
		}
	}
	slices.Sort(list)
	return list
}

// Channels returns the channels that the agent reads or writes, but for its pairs, sorted by their text. What it may
// only audit is not among them, see [Policy.Audited].
func (p *Policy) Channels(agent string) []Channel {
	if !p.admits(agent) {
		return nil
	}
	var list []Channel
	for ch, r := range p.channels {
		if !r.write.match(agent) && !r.read.match(agent) && !r.also.match(agent) {
			continue
		}
		list = append(list, ch)
		if ch.kind == KindQueue {
			list = append(list, Channel{kind: KindResult, a: ch.a})
		}
	}
	slices.SortFunc(list, compareChannels)
	return list
}

// TopicChannel returns the channel of a subject or pattern: topic/prices for "prices", "prices.eu.de" and "prices.>".
// The error wraps [ErrSubject] when [CheckPattern] does not accept it, and otherwise [ErrUnknownChannel], naming
// topics like it; who publishes calls [CheckSubject] first.
func (p *Policy) TopicChannel(subject string) (Channel, error) {
	if err := CheckPattern(subject); err != nil {
		return Channel{}, err
	}
	name, _, _ := strings.Cut(subject, ".")
	return p.lookup(KindTopic, name)
}

// QueueChannel returns queue/<name>. The error wraps [ErrUnknownChannel] and names queues like it.
func (p *Policy) QueueChannel(name string) (Channel, error) { return p.lookup(KindQueue, name) }

// ServiceChannel returns service/<name>. The error wraps [ErrUnknownChannel] and names services like it.
func (p *Policy) ServiceChannel(name string) (Channel, error) { return p.lookup(KindService, name) }

func (p *Policy) lookup(kind ChannelKind, name string) (Channel, error) {
	ch := Channel{kind: kind, a: name}
	if _, ok := p.channels[ch]; ok {
		return ch, nil
	}
	known := p.names(kind)
	like := nearest(name, known, 3)
	advice := fmt.Sprintf("the policy has the %ss %s", kind, few(known, 8))
	switch {
	case len(known) == 0:
		advice = fmt.Sprintf("the policy has no %ss", kind)
	case len(like) > 0:
		advice = "did you mean " + strings.Join(like, ", ") + "?"
	}
	return Channel{}, fmt.Errorf("%w: no %s %.80q in revision %d: %s", ErrUnknownChannel, kind, name, p.revision, advice)
}

// union returns all patterns of all rules, once each.
func union(channels map[Channel]*rule, direct []*rule) *agents {
	all := make(map[string]glob)
	add := func(r *rule) {
		for _, a := range [...]*agents{r.write, r.read, r.also, r.audit} {
			for _, g := range a.list {
				all[g.text] = g
			}
		}
	}
	for _, r := range channels {
		add(r)
	}
	for _, r := range direct {
		add(r)
	}
	return newAgents(slices.Collect(maps.Values(all)))
}
