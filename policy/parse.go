package policy

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.yaml.in/yaml/v4"

	"github.com/sealbus/sealbus/identity"
)

// Parse reads a policy's text. The format stands in the package's documentation. The error is an [*Errors], with a line
// and what to write for each problem that was found.
//
// A policy that was only parsed is nobody's word: agents and brokers use [Verify].
func Parse(text []byte) (*Policy, error) { return parse(text, time.Time{}) }

// parse is Parse for a text that is signed at a time, zero: it is signed already, or not at all.
func parse(text []byte, signed time.Time) (*Policy, error) {
	d := &decoder{last: bytes.Count(bytes.TrimSuffix(text, []byte("\n")), []byte("\n")) + 1, signed: signed}
	p := &Policy{
		text:     string(text),
		channels: make(map[Channel]*rule),
		revoked:  make(map[string]struct{}),

		destroyed: make(map[Channel]time.Time),
	}
	if root := d.load(text); root != nil {
		d.policy(p, root)
	}
	if err := d.err(); err != nil {
		return nil, err
	}
	p.known = union(p.channels, p.direct)
	return p, nil
}

func (d *decoder) policy(p *Policy, root *yaml.Node) {
	o := d.object(root, "the policy", "trust_domain: example.org, and the other fields below it",
		"trust_domain", "revision", "previous", "operators", "topics", "queues", "services", "direct", "revoked", "max_card_age", "destroyed")
	if o == nil {
		return
	}
	p.domain = o.trustDomain()
	p.revision = o.revision()
	p.previous = o.previous(p.revision)
	p.operators = o.operators()
	channels := 0
	for _, field := range [...]string{"topics", "queues", "services"} {
		if n := o.fields[field]; n != nil {
			channels += len(n.Content) / 2
		}
	}
	if channels > MaxChannels {
		d.fail(root, "there are %d topics, queues and services, at most %d are allowed: a topic covers all subjects below it", channels, MaxChannels)
		return
	}
	o.section("topics", "topic", func(name string, n *yaml.Node) { d.topic(p, name, n) })
	o.section("queues", "queue", func(name string, n *yaml.Node) { d.queue(p, name, n) })
	o.section("services", "service", func(name string, n *yaml.Node) { d.service(p, name, n) })
	o.direct(p)
	o.revoked(p)
	p.maxCardAge = o.duration("max_card_age", DefaultMaxCardAge, MinMaxCardAge, MaxMaxCardAge)
	o.destroyed(p)
	o.where(p)
}

func (o *object) trustDomain() spiffeid.TrustDomain {
	n, ok := o.fields["trust_domain"]
	if !ok {
		o.missing("trust_domain", "there is no trust_domain: add \"trust_domain: example.org\", with the domain of your certificates")
		return spiffeid.TrustDomain{}
	}
	s, ok := o.d.text(n, "trust_domain")
	if !ok {
		return spiffeid.TrustDomain{}
	}
	td, err := spiffeid.TrustDomainFromString(s)
	switch {
	case err == nil && td.Name() != s:
		o.d.fail(n, "trust_domain is %.100q: write the domain alone, %s", s, td.Name())
	case err != nil && strings.ToLower(s) != s:
		o.d.fail(n, "trust_domain is %.100q: write it in lower case, %.100s", s, strings.ToLower(s))
	case err != nil:
		o.d.fail(n, "trust_domain is %.100q: write the domain of your certificates, such as example.org", s)
	case len(s) > identity.MaxTrustDomain:
		o.d.fail(n, "trust_domain has %d bytes: at most %d are allowed", len(s), identity.MaxTrustDomain)
	default:
		return td
	}
	return spiffeid.TrustDomain{}
}

func (o *object) revision() uint64 {
	n, ok := o.fields["revision"]
	if !ok {
		o.missing("revision", "there is no revision: add \"revision: 1\", and count up with every change")
		return 0
	}
	// A number that is too large has YAML's tag for floats.
	if n.Kind != yaml.ScalarNode || n.Tag == tagString || n.Value == "" || strings.Trim(n.Value, "0123456789") != "" {
		o.d.fail(n, "revision is %s: write a whole number without quotes, such as 1", shown(n))
		return 0
	}
	v, err := strconv.ParseUint(n.Value, 10, 64)
	switch {
	case err != nil || v > MaxRevision:
		o.d.fail(n, "revision is %.40s: write at most %d", n.Value, uint64(MaxRevision))
	case v == 0:
		o.d.fail(n, "revision is 0: write 1 for the first policy, and count up with every change")
	case n.Value[0] == '0':
		o.d.fail(n, "revision is %s: write %d", n.Value, v)
	default:
		return v
	}
	return 0
}

func (o *object) previous(revision uint64) (hash [32]byte) {
	n, ok := o.fields["previous"]
	if !ok {
		return hash
	}
	s, ok := o.d.text(n, "previous")
	if !ok {
		return hash
	}
	raw, err := hex.DecodeString(strings.TrimPrefix(s, hashPrefix))
	switch {
	case err != nil || len(raw) != len(hash) || FormatHash([32]byte(raw)) != s:
		o.d.fail(n, "previous is %.100q: write the hash of the policy before, sha256: and 64 of 0-9 and a-f", s)
	case [32]byte(raw) == hash:
		o.d.fail(n, "previous is all zeros: write the hash of the policy before, or remove the field")
	case revision == 1:
		o.d.fail(n, "revision 1 has no policy before it: remove previous, or write a higher revision")
	default:
		return [32]byte(raw)
	}
	return hash
}

func (o *object) operators() []identity.Fingerprint {
	n, ok := o.fields["operators"]
	if !ok {
		return nil
	}
	var list []identity.Fingerprint
	for _, item := range o.d.sequence(n, "operators", "[\"sha256:…\"], the fingerprints of the operators' keys", MaxOperators) {
		s, ok := o.d.text(item, "an entry of operators")
		if !ok {
			continue
		}
		f, err := identity.ParseFingerprint(s)
		switch {
		case err != nil:
			o.d.fail(item, "%.100q is no fingerprint: write sha256: and 64 of 0-9 and a-f, as the operator's key shows it", s)
		case slices.Contains(list, f):
			o.d.fail(item, "%s stands twice in operators: remove one", s)
		default:
			list = append(list, f)
		}
	}
	return list
}

// section reads the entries of topics, queues or services.
func (o *object) section(field, kind string, entry func(name string, n *yaml.Node)) {
	n, ok := o.fields[field]
	if !ok {
		return
	}
	if n.Kind != yaml.MappingNode {
		o.d.fail(n, "%s needs an entry for each %s: write its name, a colon and its fields below, or remove %s", field, kind, field)
		return
	}
	entries := o.d.pairs(n)
	for _, e := range entries {
		if o.d.channelName(e.key, kind, entries) {
			entry(e.key.Value, e.value)
		}
	}
}

// channelName checks the name of a topic, queue or service.
func (d *decoder) channelName(n *yaml.Node, kind string, siblings []pair) bool {
	if isName(n.Value) {
		return true
	}
	parent, _, dotted := strings.Cut(n.Value, ".")
	switch {
	case strings.ContainsAny(n.Value, "*>"):
		d.fail(n, "%.80q: a %s has a name and no wildcards: write each %s, and globs for the agents in it", n.Value, kind, kind)
	case dotted && kind == "topic" && slices.ContainsFunc(siblings, func(p pair) bool { return p.key.Value == parent }):
		d.fail(n, "topic %q already covers %.80q, as everything below it: remove this entry, or give it a name of its own%s", parent, n.Value, example(legalName(n.Value)))
	case dotted && kind == "topic" && isName(parent):
		d.fail(n, "a topic is one name and covers everything below it: write %q in place of %.80q", parent, n.Value)
	default:
		d.fail(n, "%.80q is no name for a %s: write up to 63 of a-z, 0-9, - and _, starting with a letter or digit%s", n.Value, kind, example(legalName(n.Value)))
	}
	return false
}

func (d *decoder) topic(p *Policy, name string, n *yaml.Node) {
	o := d.object(n, fmt.Sprintf("topic %q", name), "{publish: [name], subscribe: [name]}",
		"publish", "subscribe", "audit", "max_age", "retain", "signed", "pad", "rotate", "history")
	if o == nil {
		return
	}
	r := &rule{
		channel: Channel{kind: KindTopic, a: name},
		write:   o.agents("publish", "publish to "+o.what),
		read:    o.agents("subscribe", "subscribe to "+o.what),
		also:    nobody,
		audit:   o.others("audit"),
		settings: Settings{
			Signed:  o.bool("signed", true),
			Pad:     o.bool("pad", false),
			History: o.bool("history", false),
			MaxAge:  o.duration("max_age", DefaultMaxAge, MinMaxAge, MaxMaxAge),
			Retain:  o.retain(0, time.Second),
			Rotate:  o.duration("rotate", DefaultRotate, MinRotate, MaxRotate),
		},
	}
	if n := o.fields["audit"]; n != nil && o.fields["retain"] == nil && !o.meant["retain"] {
		d.fail(n, "there is nothing to audit, because the broker keeps nothing of %s: add retain: 90d, or remove audit", o.what)
	}
	if s := r.settings; s.Retain != 0 && s.Retain < s.MaxAge {
		d.fail(o.fields["retain"], "retain of %s is %s, shorter than its max_age of %s: write at least %s, or remove it to keep nothing",
			o.what, formatDuration(s.Retain), formatDuration(s.MaxAge), formatDuration(s.MaxAge))
	}
	p.channels[r.channel] = r
}

func (d *decoder) queue(p *Policy, name string, n *yaml.Node) {
	o := d.object(n, fmt.Sprintf("queue %q", name), "{enqueue: [name], work: [name]}",
		"enqueue", "work", "read", "audit", "retain", "signed", "pad", "rotate", "history")
	if o == nil {
		return
	}
	r := &rule{
		channel: Channel{kind: KindQueue, a: name},
		write:   o.agents("enqueue", "put tasks into "+o.what),
		read:    o.agents("work", "work on "+o.what),
		also:    o.others("read"),
		audit:   o.others("audit"),
		settings: Settings{
			Signed: o.bool("signed", true),
			Pad:    o.bool("pad", false),
			// Tasks wait for workers, and results for enqueuers, that start later.
			History: o.bool("history", true),
			MaxAge:  DefaultMaxAge,
			Retain:  o.retain(DefaultQueueRetain, MinQueueRetain),
			Rotate:  o.duration("rotate", DefaultRotate, MinRotate, MaxRotate),
		},
	}
	p.channels[r.channel] = r
}

func (d *decoder) service(p *Policy, name string, n *yaml.Node) {
	o := d.object(n, fmt.Sprintf("service %q", name), "{call: [name], serve: [name]}", "call", "serve", "pad", "rotate")
	if o == nil {
		return
	}
	r := &rule{
		channel: Channel{kind: KindService, a: name},
		write:   o.agents("call", "call "+o.what),
		read:    o.agents("serve", "serve "+o.what),
		also:    nobody,
		audit:   nobody,
		settings: Settings{
			Signed: true,
			Pad:    o.bool("pad", false),
			MaxAge: DefaultMaxAge,
			Rotate: o.duration("rotate", DefaultRotate, MinRotate, MaxRotate),
		},
	}
	o.apart(r, "call", "serve")
	p.channels[r.channel] = r
	p.services = append(p.services, r)
}

// retain reads how long frames are kept; nothing is kept where the field is absent and has no default.
func (o *object) retain(absent, least time.Duration) time.Duration {
	if n, ok := o.fields["retain"]; ok && n.Kind == yaml.ScalarNode && slices.Contains([]string{"0", "0s", "0m", "0h", "0d", "false"}, n.Value) {
		o.d.fail(n, "retain of %s is %s: write a duration, such as 90d, or remove the field", o.what, n.Value)
		return absent
	}
	return o.duration("retain", absent, least, MaxRetain)
}

// apart refuses a rule by which an agent could only reach itself.
func (o *object) apart(r *rule, from, to string) {
	if len(r.write.list) == 1 && len(r.read.list) == 1 && !r.write.list[0].star && r.write.list[0].text == r.read.list[0].text {
		o.d.fail(o.at, "%s names only %q in both %s and %s, and no agent asks itself: name another agent", o.what, r.write.list[0].text, from, to)
	}
}

func (o *object) direct(p *Policy) {
	n, ok := o.fields["direct"]
	if !ok {
		return
	}
	seen := make(map[string]int)
	for _, item := range o.d.sequence(n, "direct", "- {from: [name], to: [name]} for each rule", MaxDirect) {
		e := o.d.object(item, "a direct rule", "{from: [name], to: [name]}", "from", "to", "signed", "pad")
		if e == nil {
			continue
		}
		r := &rule{
			write:    e.agents("from", "ask by this rule"),
			read:     e.agents("to", "be asked by this rule"),
			also:     nobody,
			audit:    nobody,
			settings: Settings{Signed: e.bool("signed", false), Pad: e.bool("pad", false), MaxAge: DefaultMaxAge, Rotate: DefaultRotate},
		}
		if len(r.write.list) == 0 || len(r.read.list) == 0 {
			continue // already refused
		}
		e.apart(r, "from", "to")
		key := r.write.key() + " " + r.read.key()
		if line, twice := seen[key]; twice {
			o.d.fail(item, "this rule is for the same agents as that on line %d: keep one of them", line)
			continue
		}
		seen[key] = item.Line
		p.direct = append(p.direct, r)
	}
}

func (o *object) revoked(p *Policy) {
	n, ok := o.fields["revoked"]
	if !ok {
		return
	}
	for _, item := range o.d.sequence(n, "revoked", "[name]", MaxRevoked) {
		name, ok := o.d.text(item, "an entry of revoked")
		if !ok {
			continue
		}
		_, twice := p.revoked[name]
		switch {
		case strings.Contains(name, "*"):
			o.d.fail(item, "%.80q is a glob: revoke agents by their names, one by one", name)
		case !isName(name):
			o.d.fail(item, "%.80q is no agent's name: write it as it stands after /agent/ in the certificate%s", name, example(legalName(name[strings.LastIndex(name, "/")+1:])))
		case twice:
			o.d.fail(item, "%q stands twice in revoked: remove one", name)
		default:
			p.revoked[name] = struct{}{}
		}
	}
}
