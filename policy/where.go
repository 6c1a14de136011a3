package policy

import "fmt"

// Where says where a policy speaks of a channel, for an error's text: "policy revision 7, line 12", which is the line with the
// topic's, queue's or service's name. Of a pair, and of what it does not speak of, it is the revision alone.
func (p *Policy) Where(ch Channel) string {
	if ch.kind == KindResult {
		ch.kind = KindQueue
	}
	if line := p.lines[ch]; line > 0 {
		return fmt.Sprintf("policy revision %d, line %d,", p.revision, line)
	}
	return fmt.Sprintf("policy revision %d", p.revision)
}

// where notes the lines of all channels.
func (o *object) where(p *Policy) {
	p.lines = make(map[Channel]int)
	for field, kind := range map[string]ChannelKind{"topics": KindTopic, "queues": KindQueue, "services": KindService} {
		n := o.fields[field]
		for i := 0; n != nil && i+1 < len(n.Content); i += 2 {
			p.lines[Channel{kind: kind, a: n.Content[i].Value}] = n.Content[i].Line
		}
	}
}
