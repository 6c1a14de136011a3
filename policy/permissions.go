package policy

import (
	"maps"
	"slices"
)

// Permissions are the NATS subjects that an agent may publish to and subscribe to, each list sorted and without
// duplicates. To NATS a nil list means no restriction, so a caller must refuse an agent whose permissions are
// [Permissions.Empty] instead of passing them on.
type Permissions struct {
	Publish   []string
	Subscribe []string
}

// Empty reports whether the agent has no rights and must not be let in.
func (p Permissions) Empty() bool { return len(p.Publish) == 0 || len(p.Subscribe) == 0 }

// Permissions returns everything that the broker may let the agent do, and nothing for an agent that is revoked or
// that the policy does not know. A glob of the policy becomes a whole token here, because NATS knows no smaller
// wildcard: the agents at the other end hold the policy itself and refuse what it does not say.
//
// None of the subjects is one on which streams or consumers are made or changed: reads are direct reads, and updates
// arrive as plain messages. Only auditors may ask how a stream is configured, of those that they audit. None is the
// subject on which the policy is written.
func (p *Policy) Permissions(agent string) Permissions {
	if !p.Known(agent) {
		return Permissions{}
	}
	g := &grants{policy: p, agent: agent, publish: make(set), subscribe: make(set)}
	g.base()
	for _, ch := range p.Channels(agent) {
		g.channel(ch)
	}
	for _, ch := range p.Audited(agent) {
		g.audits(ch)
	}
	g.peers()
	return Permissions{Publish: slices.Sorted(maps.Keys(g.publish)), Subscribe: slices.Sorted(maps.Keys(g.subscribe))}
}

type set map[string]struct{}

func (s set) add(subjects ...string) {
	for _, subject := range subjects {
		s[subject] = struct{}{}
	}
}

type grants struct {
	policy             *Policy
	agent              string
	publish, subscribe set
}

// base is what every agent needs: to read the policy, cards and keys, to write its own cards, and to get replies.
func (g *grants) base() {
	g.publish.add(
		DirectGet(BucketPolicy, PolicyKey),
		DirectGet(BucketCards, ">"),
		DirectGet(BucketKeys, ""),
		BucketSubject(BucketCards, CardKey(g.agent, "*")),
	)
	g.subscribe.add(InboxPrefix(g.agent)+".>", FeedPolicy)
}

func (g *grants) channel(ch Channel) {
	g.keys(KeyPrefix(ch))
	reads, writes := g.policy.CanRead(ch, g.agent), g.policy.CanWrite(ch, g.agent)
	switch ch.kind {
	case KindTopic:
		if writes {
			g.publish.add(TopicSubject(ch.a), TopicSubject(ch.a)+".>")
		}
		if reads {
			g.subscribe.add(TopicSubject(ch.a), TopicSubject(ch.a)+".>")
		}
		if s, _ := g.policy.Settings(ch); reads && s.Retain > 0 {
			g.publish.add(StreamGet(TopicStream(ch.a), ""))
		}
		g.checkpoints(ch)
	case KindService:
		if writes {
			g.publish.add(ServiceSubject(ch.a))
		}
		if reads {
			g.subscribe.add(ServiceSubject(ch.a))
		}
	case KindQueue:
		works := g.policy.MayWork(ch.a, g.agent)
		if writes || works {
			g.queue(ch.a, writes, works)
		}
		if g.policy.channels[ch].also.match(g.agent) {
			g.readsQueue(ch.a)
		}
		g.checkpoints(ch)
	}
}

// audits lets the agent read what a channel retains, sealed as it is, ask how its streams are configured, follow its
// keys, of which it gets none, read the policies that were in force, and publish checkpoints under its own name.
func (g *grants) audits(ch Channel) {
	g.publish.add(DirectGet(BucketPolicy, ""))
	if ch.kind == KindQueue {
		g.readsQueue(ch.a)
		g.subscribe.add(FeedKeys(Channel{kind: KindResult, a: ch.a}))
	}
	g.subscribe.add(FeedKeys(ch))
	for _, stream := range AuditedStreams(ch) {
		g.publish.add(StreamGet(stream, ""), StreamInfo(stream), AuditSubject(stream, g.agent, "*"))
	}
	g.checkpoints(ch)
}

// checkpoints lets the agent read those of a channel that has auditors. A batch can name others too: they say how many
// messages a stream has, and nothing of what is in them.
func (g *grants) checkpoints(ch Channel) {
	if !g.policy.HasAuditors(ch) {
		return
	}
	g.publish.add(StreamGet(AuditStream, ""))
	for _, stream := range AuditedStreams(ch) {
		g.publish.add(StreamGet(AuditStream, AuditSubject(stream, "*", "*")))
	}
}

// readsQueue lets the agent read all that a queue has, as it is kept, and no more.
func (g *grants) readsQueue(name string) {
	g.publish.add(StreamGet(TaskStream(name), ""))
	g.reads(ResultStream(name), ResultSubject(name, "*"))
	g.reads(DeadStream(name), DeadSubject(name, "*"))
	g.reads(ControlStream(name), ControlSubject(name, "*", ">"))
}

// queue grants what enqueuers and workers of a queue need. Neither may look at the log of tasks but through its
// consumers, and enqueuers at what was stored last under a claim, and both write controls under their own name only.
func (g *grants) queue(name string, enqueues, works bool) {
	if enqueues {
		for priority := range Priorities {
			g.publish.add(TaskSubject(name, priority), UniqueSubject(name, "*", priority))
		}
		// What stands under a claim, and nothing else of the log; only workers can open it.
		g.publish.add(SessionSubject(name))
		g.publish.add(DelaySubject(name, g.agent, "*"), StreamGet(TaskStream(name), UniquePattern(name)), AskSubject(name, g.agent, AskPurge), RecurSubject(name, g.agent, "*"))
		g.reads(DeadStream(name), DeadSubject(name, "*"))
		g.subscribe.add(ResultSubject(name, ">"), DeadSubject(name, ">"), ProgressSubject(name, ">"))
	}
	if works {
		g.publish.add(ResultSubject(name, "*"), DeadSubject(name, "*"), ProgressSubject(name, "*"))
		for priority := range Priorities {
			g.publish.add(TaskPull(name, priority), TaskAcks(name, priority), SpreadSubject(name, priority))
		}
		g.publish.add(SlotSubject(name, "*"))
		g.subscribe.add(SlotSubject(name, "*"))
	}
	g.publish.add(RecurSubject(name, g.agent, ""))
	g.reads(ResultStream(name), ResultSubject(name, "*"))
	g.reads(ControlStream(name), ControlSubject(name, "*", ">"))
	g.publish.add(ControlSubject(name, g.agent, ">"), AskSubject(name, g.agent, AskInfo))
	g.subscribe.add(controlPrefix + name + ".>")
}

// reads lets the agent read what a stream holds, by subject and in batches.
func (g *grants) reads(stream, subject string) {
	g.publish.add(StreamGet(stream, ""), StreamGet(stream, subject))
}

// keys lets the agent write joins, keys and wraps under its own name and follow all of the channel's.
func (g *grants) keys(prefix string) {
	for _, kind := range [...]string{storeJoin, storeKey, storeWrap} {
		g.publish.add(BucketSubject(BucketKeys, prefix+"."+kind+"."+g.agent+".>"))
	}
	g.subscribe.add(feedKeysPrefix + prefix + ".>")
}

// peers grants what the agent needs to ask, to answer, and to share a channel with other agents.
func (g *grants) peers() {
	var ask, answer peerSet
	for _, r := range g.policy.direct {
		if r.write.match(g.agent) {
			ask.add(g, r.read)
		}
		if r.read.match(g.agent) {
			answer.add(g, r.write)
		}
	}
	if !answer.empty() {
		g.subscribe.add(AgentSubject(g.agent))
	}
	pairs := ask.union(answer)
	for _, r := range g.policy.services {
		if r.write.match(g.agent) {
			pairs.add(g, r.read)
		}
		if r.read.match(g.agent) {
			answer.add(g, r.write)
			pairs.add(g, r.write)
		}
	}
	ask.each(func(peer string) { g.publish.add(AgentSubject(peer)) })
	answer.each(func(peer string) { g.publish.add(InboxPrefix(peer) + ".>") })
	g.pairs(pairs)
}

func (g *grants) pairs(peers peerSet) {
	if peers.any {
		g.keys("pair." + g.agent + ".*")
		g.keys("pair.*." + g.agent)
		return
	}
	for peer := range peers.names {
		g.keys(KeyPrefix(pairOf(g.agent, peer)))
	}
}

// peerSet is the agents at the other end of some rules: names, or all once there is a glob.
type peerSet struct {
	any   bool
	names set
}

func (s *peerSet) add(g *grants, list *agents) {
	for _, pattern := range list.list {
		switch {
		case pattern.star:
			s.any = true
		case pattern.text != g.agent && g.policy.admits(pattern.text):
			if s.names == nil {
				s.names = make(set)
			}
			s.names.add(pattern.text)
		}
	}
}

func (s peerSet) empty() bool { return !s.any && len(s.names) == 0 }

func (s peerSet) union(t peerSet) peerSet {
	names := make(set, len(s.names)+len(t.names))
	maps.Copy(names, s.names)
	maps.Copy(names, t.names)
	return peerSet{any: s.any || t.any, names: names}
}

func (s peerSet) each(f func(peer string)) {
	if s.any {
		f("*")
		return
	}
	for peer := range s.names {
		f(peer)
	}
}
