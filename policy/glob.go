package policy

import (
	"slices"
	"strings"

	"github.com/sealbus/sealbus/identity"
)

// reserved are agent names that no policy gives anything to, so that nothing on the bus can pass itself off as the
// operator or as the broker in another agent's eyes. A glob that would match one is refused, but for a lone "*", which
// leaves them out.
var reserved = [...]string{"broker", "operator"}

func isName(s string) bool { return identity.CheckName(s) == nil }

func isReserved(name string) bool { return slices.Contains(reserved[:], name) }

// glob is an agent's name or a pattern for names: "*" stands for any run of characters, also none.
type glob struct {
	text   string
	prefix string   // before the first star; the whole name when there is none
	middle []string // between stars
	suffix string   // after the last star
	star   bool
}

func newGlob(text string) glob {
	parts := strings.Split(text, "*")
	last := len(parts) - 1
	if last == 0 {
		return glob{text: text, prefix: text}
	}
	return glob{text: text, prefix: parts[0], middle: parts[1:last], suffix: parts[last], star: true}
}

// match reports whether the glob matches s. It also serves to compare globs: a "*" in s is a character like any other,
// which only a star of the glob matches, so what matches the text of another glob matches all that the other does.
func (g *glob) match(s string) bool {
	if !g.star {
		return s == g.text
	}
	if len(s) < len(g.prefix)+len(g.suffix) || !strings.HasPrefix(s, g.prefix) || !strings.HasSuffix(s, g.suffix) {
		return false
	}
	s = s[len(g.prefix) : len(s)-len(g.suffix)]
	for _, part := range g.middle {
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s = s[i+len(part):]
	}
	return true
}

// agents is a list of names and globs, made for many look-ups: names in a map, globs by what stands before their first
// star. A look-up takes at most 64 probes, and as many comparisons as there are globs that share the name's beginning.
type agents struct {
	list    []glob
	names   map[string]struct{}
	globs   map[string][]glob
	lengths []int // of the keys of globs, ascending
}

// nobody is where a rule has no such field.
var nobody = newAgents(nil)

func newAgents(list []glob) *agents {
	a := &agents{list: list, names: make(map[string]struct{}), globs: make(map[string][]glob)}
	for _, g := range list {
		if !g.star {
			a.names[g.text] = struct{}{}
			continue
		}
		if i, found := slices.BinarySearch(a.lengths, len(g.prefix)); !found {
			a.lengths = slices.Insert(a.lengths, i, len(g.prefix))
		}
		a.globs[g.prefix] = append(a.globs[g.prefix], g)
	}
	return a
}

// match reports whether any entry matches the name, which the caller knows to be legal and not reserved.
func (a *agents) match(name string) bool {
	if _, ok := a.names[name]; ok {
		return true
	}
	for _, n := range a.lengths {
		if n > len(name) {
			break
		}
		for i := range a.globs[name[:n]] {
			if a.globs[name[:n]][i].match(name) {
				return true
			}
		}
	}
	return false
}

// covers reports whether every name that g matches is matched by one entry of a. It is exact for a name; for a glob it
// may say no where several entries together would cover it.
func (a *agents) covers(g glob) bool {
	return slices.ContainsFunc(a.list, func(h glob) bool { return h.match(g.text) })
}

// key returns a text that is the same for two lists with the same entries in any order.
func (a *agents) key() string {
	texts := make([]string, len(a.list))
	for i, g := range a.list {
		texts[i] = g.text
	}
	slices.Sort(texts)
	return strings.Join(texts, ",")
}
