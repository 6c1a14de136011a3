package policy

import (
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// destroyed reads which keys are destroyed. It comes after the channels, because an entry that names none of them would
// destroy nothing, and nobody would notice.
func (o *object) destroyed(p *Policy) {
	n, ok := o.fields["destroyed"]
	if !ok {
		return
	}
	const entry = "{channel: topic/prices, before: \"2026-11-01T00:00:00Z\"}"
	lines := make(map[Channel]int)
	for _, item := range o.d.sequence(n, "destroyed", "["+entry+"]", MaxDestroyed) {
		e := o.d.object(item, "an entry of destroyed", entry, "channel", "before")
		if e == nil {
			continue
		}
		ch, channelOK := e.destroyedChannel(p)
		before, beforeOK := e.destroyedBefore()
		if !channelOK || !beforeOK {
			continue
		}
		if line, twice := lines[ch]; twice {
			o.d.fail(item, "%s stands in destroyed on line %d already: keep the entry with the later time", ch, line)
			continue
		}
		lines[ch] = item.Line
		p.destroyed[ch] = before
	}
}

func (o *object) destroyedChannel(p *Policy) (ch Channel, ok bool) {
	n, ok := o.fields["channel"]
	if !ok {
		o.missing("channel", "this entry of destroyed says not which keys: add channel: topic/<name>, queue/<name> or service/<name>")
		return Channel{}, false
	}
	s, ok := o.d.text(n, "channel of "+o.what)
	if !ok {
		return Channel{}, false
	}
	ch, err := ParseChannel(s)
	switch {
	case err != nil:
		o.d.fail(n, "channel is %.100q: write topic/<name>, queue/<name> or service/<name>", s)
	case ch.kind == KindResult:
		o.d.fail(n, "%s goes with its queue: write queue/%s, which destroys the keys of both", ch, ch.a)
	case ch.kind == KindPair:
		o.d.fail(n, "%s is of two agents, and nothing of it is kept: write a topic, queue or service", ch)
	case p.channels[ch] == nil:
		known := p.names(ch.kind)
		if like := nearest(ch.a, known, 1); len(like) > 0 {
			o.d.fail(n, "there is no %s %q, so nothing would be destroyed: did you mean %s/%s?", ch.kind, ch.a, ch.kind, like[0])
			break
		}
		o.d.fail(n, "there is no %s %q, so nothing would be destroyed: keep it in the policy for as long as this entry, or remove the entry", ch.kind, ch.a)
	default:
		return ch, true
	}
	return Channel{}, false
}

func (o *object) destroyedBefore() (t time.Time, ok bool) {
	const advice = "write a time in UTC, such as \"2026-11-01T00:00:00Z\""
	n, ok := o.fields["before"]
	if !ok {
		o.missing("before", "this entry of destroyed says not until when: add before: \"2026-11-01T00:00:00Z\", a time in UTC")
		return time.Time{}, false
	}
	if n.Kind == yaml.ScalarNode && n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) == 0 && n.Value != "" {
		// YAML readers differ on what a time without quotes is.
		o.d.fail(n, "before of %s is %.40s without quotes: put it in quotes, \"%.40s\"", o.what, n.Value, n.Value)
		return time.Time{}, false
	}
	s, ok := o.d.text(n, "before of "+o.what)
	if !ok {
		return time.Time{}, false
	}
	t, err := time.Parse(time.RFC3339, s)
	if utc := t.UTC().Format(time.RFC3339); err == nil && utc != s {
		o.d.fail(n, "before of %s is %.40q: write it in UTC and whole seconds, %q", o.what, s, utc)
		return time.Time{}, false
	}
	if err != nil || t.Year() < 1970 || t.Year() > 9999 {
		o.d.fail(n, "before of %s is %.40q: %s", o.what, s, advice)
		return time.Time{}, false
	}
	if now := o.d.signed; !now.IsZero() && t.After(now) {
		o.d.fail(n, "before of %s is %s, after the time of signing: no key could be used until then: write at most %q",
			o.what, s, now.UTC().Format(time.RFC3339))
		return time.Time{}, false
	}
	return t.UTC(), true
}

func compareChannels(a, b Channel) int { return strings.Compare(a.String(), b.String()) }
