package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// object is a mapping with known fields.
type object struct {
	d      *decoder
	what   string // "topic \"prices\"": for messages
	at     *yaml.Node
	fields map[string]*yaml.Node
	meant  map[string]bool // fields that stand there misspelt
}

// pair is a key and its value.
type pair struct{ key, value *yaml.Node }

// pairs returns the entries of a mapping whose keys are text, none of them twice.
func (d *decoder) pairs(n *yaml.Node) []pair {
	var list []pair
	seen := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if _, ok := d.text(key, "a name before a colon"); !ok {
			continue
		}
		if line, twice := seen[key.Value]; twice {
			d.fail(key, "%.80q stands here and on line %d: keep one of them", key.Value, line)
			continue
		}
		seen[key.Value] = key.Line
		list = append(list, pair{key, n.Content[i+1]})
	}
	return list
}

// object reads a mapping with the given fields; example says what to write where there is none.
func (d *decoder) object(n *yaml.Node, what, example string, known ...string) *object {
	o := &object{d: d, what: what, at: n, fields: make(map[string]*yaml.Node), meant: make(map[string]bool)}
	if n.Kind != yaml.MappingNode {
		d.fail(n, "%s needs fields: write %s", what, example)
		return nil
	}
	for _, p := range d.pairs(n) {
		name := p.key.Value
		if slices.Contains(known, name) {
			o.fields[name] = p.value
			continue
		}
		if like := nearest(name, known, 1); len(like) > 0 {
			d.fail(p.key, "%s has no field %.80q: write %q", what, name, like[0])
			o.meant[like[0]] = true
			continue
		}
		d.fail(p.key, "%s has no field %.80q: remove it, or write one of %s", what, name, strings.Join(known, ", "))
	}
	return o
}

// missing refuses an object without a field, unless it was said already that the field is misspelt.
func (o *object) missing(field, format string, args ...any) {
	if !o.meant[field] {
		o.d.fail(o.at, format, args...)
	}
}

// text reads a string.
func (d *decoder) text(n *yaml.Node, what string) (string, bool) {
	switch {
	case n.Kind == yaml.SequenceNode:
		d.fail(n, "%s is a list here: write one value", what)
	case n.Kind != yaml.ScalarNode:
		d.fail(n, "%s has fields here: write one value", what)
	case n.Tag == tagNull && n.Value == "":
		d.fail(n, "%s is empty: write a value", what)
	case n.Tag != tagString:
		// Other readers would see 7 in 007, and nothing at all in null.
		d.fail(n, "%s: YAML does not read %.80s as text: put it in quotes, \"%.80s\"", what, n.Value, n.Value)
	case n.Value == "":
		d.fail(n, "%s is empty: write a value", what)
	default:
		return n.Value, true
	}
	return "", false
}

// bool reads a field that is true or false.
func (o *object) bool(field string, absent bool) bool {
	n, ok := o.fields[field]
	switch {
	case !ok:
		return absent
	case n.Kind == yaml.ScalarNode && n.Tag == tagBool && (n.Value == "true" || n.Value == "false"):
		return n.Value == "true"
	}
	o.d.fail(n, "%s of %s is %s: write true or false", field, o.what, shown(n))
	return absent
}

// shown describes a value in a message.
func shown(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Kind == yaml.MappingNode:
		return "a set of fields"
	case n.Value == "":
		return "empty"
	}
	return fmt.Sprintf("%.80q", n.Value)
}

// sequence reads a list of at most limit items.
func (d *decoder) sequence(n *yaml.Node, what, example string, limit int) []*yaml.Node {
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag == tagString && n.Value != "":
		d.fail(n, "%s is a list: write [%s]", what, quoted(n.Value))
	case n.Kind != yaml.SequenceNode:
		d.fail(n, "%s is a list: write %s", what, example)
	case len(n.Content) > limit:
		d.fail(n, "%s has %d entries, at most %d are allowed: shorten it", what, len(n.Content), limit)
	default:
		return n.Content
	}
	return nil
}

// quoted writes a value as it must stand in a YAML list.
func quoted(s string) string {
	if isName(s) && strings.ContainsFunc(s, func(r rune) bool { return r >= 'a' && r <= 'z' }) {
		return s
	}
	return fmt.Sprintf("%.80q", s)
}

// agents reads a field that says who may do something; verb names it, as in "publish to topic \"prices\"".
func (o *object) agents(field, verb string) *agents {
	n, ok := o.fields[field]
	if !ok {
		o.missing(field, "nobody may %s: add %s: [name], or remove the entry", verb, field)
		return nobody
	}
	if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
		o.d.fail(n, "nobody may %s: name an agent in %s: [name], or remove the entry", verb, field)
		return nobody
	}
	return o.patterns(field, n)
}

// others is agents for a field that need not be there.
func (o *object) others(field string) *agents {
	n, ok := o.fields[field]
	if !ok {
		return nobody
	}
	if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
		o.d.fail(n, "%s of %s is empty: name an agent, or remove the field", field, o.what)
		return nobody
	}
	return o.patterns(field, n)
}

func (o *object) patterns(field string, n *yaml.Node) *agents {
	what := field + " of " + o.what
	var list []glob
	seen := make(map[string]int)
	for _, item := range o.d.sequence(n, what, "[name, \"glob-*\"]", MaxPatterns) {
		text, ok := o.d.text(item, "an entry of "+what)
		if !ok || !o.d.pattern(item, text) {
			continue
		}
		if line, twice := seen[text]; twice {
			o.d.fail(item, "%q stands twice in %s, first on line %d: remove one", text, what, line)
			continue
		}
		seen[text] = item.Line
		list = append(list, newGlob(text))
	}
	return newAgents(list)
}

// pattern checks that a name or glob can match an agent, and none whose name is reserved.
func (d *decoder) pattern(n *yaml.Node, text string) bool {
	letters := strings.ReplaceAll(text, "*", "")
	switch {
	case strings.Contains(text, "/"):
		d.fail(n, "%.100q is not an agent's name: write the name alone, without the trust domain%s", text, example(legalName(text[strings.LastIndex(text, "/")+1:])))
	case strings.Contains(text, "**"):
		d.fail(n, "%.100q has two stars in a row: write one, it stands for any number of characters", text)
	case strings.ContainsAny(text, "?[]{}^$+|!\\"):
		d.fail(n, "%.100q: a glob knows only *, which stands for any run of characters: write *, or list the names", text)
	case letters != "" && !strings.HasPrefix(text, "*") && !isName(letters[:1]):
		d.fail(n, "%.100q matches no agent: names have a-z, 0-9, - and _ and start with a letter or digit%s", text, example(legalName(text)))
	case letters != "" && !isName("a"+letters[1:]):
		d.fail(n, "%.100q matches no agent: names have up to 63 of a-z, 0-9, - and _%s", text, example(legalName(letters)))
	case text == "*":
		return true
	default:
		return d.unreserved(n, text)
	}
	return false
}

func (d *decoder) unreserved(n *yaml.Node, text string) bool {
	g := newGlob(text)
	for _, name := range reserved {
		switch {
		case !g.match(name):
			continue
		case g.star:
			d.fail(n, "%q also matches %q, a name that no agent may use: write more of the names, as in \"agent-*\", or list them", text, name)
		default:
			d.fail(n, "%q is a name that no agent may use: name another", text)
		}
		return false
	}
	return true
}

func example(name string) string {
	if name == "" {
		return ""
	}
	return ", such as " + quoted(name)
}

// duration reads a field that holds a duration from least to most.
func (o *object) duration(field string, absent, least, most time.Duration) time.Duration {
	n, ok := o.fields[field]
	if !ok {
		return absent
	}
	what := field + " of " + o.what
	if n.Kind != yaml.ScalarNode || n.Value == "" {
		o.d.fail(n, "%s is %s: write a duration, such as %s", what, shown(n), formatDuration(max(least, absent)))
		return absent
	}
	t, advice := parseDuration(n.Value)
	switch {
	case advice != "":
		o.d.fail(n, "%s is %.80q: %s", what, n.Value, advice)
		return absent
	case t < least:
		o.d.fail(n, "%s is %s: write at least %s", what, n.Value, formatDuration(least))
		return absent
	case t > most:
		o.d.fail(n, "%s is %s: write at most %s", what, n.Value, formatDuration(most))
		return absent
	}
	return t
}

// units of durations, the longest first.
var units = [...]struct {
	letter string
	length time.Duration
}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}}

// parseDuration reads a whole number and one unit, such as "30s" or "90d". Where it cannot, it says what to write.
func parseDuration(s string) (t time.Duration, advice string) {
	unit := strings.TrimLeft(s, "0123456789")
	number, rest := s[:len(s)-len(unit)], strings.TrimSpace(unit)
	if number == "" {
		return 0, "write a number and a unit (s, m, h, d), such as 30s or 90d"
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n > int64(MaxRetain/time.Second) {
		return 0, "write at most " + formatDuration(MaxRetain)
	}
	for _, u := range units {
		switch {
		case unit == u.letter && number != "0" && number[0] == '0':
			return 0, fmt.Sprintf("write %d%s", n, u.letter)
		case unit == u.letter:
			// No overflow: a number too large for the longest retain in this unit is cut to just above it.
			return time.Duration(min(n, int64(MaxRetain/u.length)+1)) * u.length, ""
		}
	}
	if rest == "" {
		return 0, fmt.Sprintf("it has no unit: write %ds, %dm, %dh or %dd", n, n, n, n)
	}
	if t, err := time.ParseDuration(s); err == nil && t > 0 && t%time.Second == 0 {
		return 0, "write one number and one unit: " + formatDuration(t)
	}
	for _, u := range units {
		if strings.HasPrefix(strings.ToLower(rest), u.letter) && rest != "ms" {
			return 0, fmt.Sprintf("write %d%s", n, u.letter)
		}
	}
	if strings.HasPrefix(strings.ToLower(rest), "w") {
		return 0, fmt.Sprintf("write %dd", 7*n)
	}
	return 0, "write a number and a unit (s, m, h, d), such as 30s or 90d"
}

// formatDuration writes a duration of whole seconds in the largest unit that holds it exactly.
func formatDuration(t time.Duration) string {
	for _, u := range units {
		if t%u.length == 0 {
			return fmt.Sprintf("%d%s", t/u.length, u.letter)
		}
	}
	return t.String()
}
