package policy

// MayReplay reports whether the agent may read what a queue keeps of its tasks and of what came of them, by the queue's
// field read. It takes no allocation.
func (p *Policy) MayReplay(queue, agent string) bool {
	r, ok := p.channels[Channel{kind: KindQueue, a: queue}]
	return ok && p.admits(agent) && r.also.match(agent)
}
