package policy

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"
)

// Tags that the YAML loader gives to plain values.
const (
	tagString = "!!str"
	tagBool   = "!!bool"
	tagNull   = "!!null"
	tagMerge  = "!!merge"
)

// decoder collects the problems of one text.
type decoder struct {
	last     int       // the text's last line: YAML counts one more where something is missing at the end
	signed   time.Time // when the text is being signed; zero: it is not
	problems []Problem
}

func (d *decoder) failAt(line, column int, format string, args ...any) {
	d.problems = append(d.problems, Problem{Line: max(min(line, d.last), 1), Column: column, Msg: fmt.Sprintf(format, args...)})
}

func (d *decoder) fail(n *yaml.Node, format string, args ...any) {
	d.failAt(n.Line, n.Column, format, args...)
}

func (d *decoder) failed() bool { return len(d.problems) > 0 }

func (d *decoder) err() error {
	if !d.failed() {
		return nil
	}
	slices.SortStableFunc(d.problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	n := min(len(d.problems), MaxProblems)
	return &Errors{Problems: d.problems[:n:n], More: len(d.problems) - n}
}

// load returns the root of the one document in the text, or nil and problems.
func (d *decoder) load(text []byte) *yaml.Node {
	if len(text) > MaxYAML {
		d.failAt(1, 0, "the text has %d bytes, at most %d are allowed: use globs in place of long lists", len(text), MaxYAML)
		return nil
	}
	if d.characters(text); d.failed() {
		return nil
	}
	loader, err := yaml.NewLoader(bytes.NewReader(text), yaml.WithPlugin(loaderlimits.New(loaderlimits.DepthValue(maxDepth))))
	if err != nil {
		d.failAt(1, 0, "%v", err)
		return nil
	}
	var document, second yaml.Node
	if err := loader.Load(&document); err != nil {
		d.syntax(text, err)
		return nil
	}
	switch err := loader.Load(&second); {
	case err == nil:
		d.fail(&second, "a second document starts here: a policy is one, so remove this line and what belongs to the other")
		return nil
	case !errors.Is(err, io.EOF):
		d.syntax(text, err)
		return nil
	}
	if d.vet(&document); d.failed() || len(document.Content) != 1 {
		return nil
	}
	return document.Content[0]
}

// characters refuses what an editor may show differently from how YAML reads it (line separators that end a comment,
// characters that reverse the text or have no width), because people sign what they see.
func (d *decoder) characters(text []byte) {
	line, column := 1, 1
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRune(text[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			d.failAt(line, column, "byte 0x%02x is not UTF-8: save the file as UTF-8", text[i])
			return
		case r == '\n':
			line, column = line+1, 0
		case r == '\t', r == '\r' && bytes.HasPrefix(text[i+1:], []byte("\n")):
		case !unicode.IsPrint(r):
			d.failAt(line, column, "character %U is not allowed: remove it, or type a plain space or line break", r)
			return
		}
		i, column = i+size, column+1
	}
}

// vet refuses the parts of YAML by which one text can mean more than it shows. Aliases are the ones that grow without
// bound, tags and merge keys the ones that readers disagree on.
func (d *decoder) vet(n *yaml.Node) {
	switch {
	case n.Kind == yaml.AliasNode:
		d.fail(n, "*%.40s is an alias, and a policy has none: write the value out, or put a glob in quotes, as in [\"*%.40s\"]", n.Value, n.Value)
		return
	case n.Anchor != "":
		d.fail(n, "&%.40s is an anchor, and a policy has none: remove it and write the value out where it is needed", n.Anchor)
	case n.Style&yaml.TaggedStyle != 0:
		d.fail(n, "%.40s is a tag, and a policy has none: remove it", n.Tag)
	case n.Tag == tagMerge:
		d.fail(n, "<< is a merge key, and a policy has none: write the fields out")
	}
	for _, c := range n.Content {
		d.vet(c)
	}
}

// syntax turns what the YAML loader says into what to write.
func (d *decoder) syntax(text []byte, err error) {
	var le *yaml.LoadError
	switch {
	case errors.Is(err, io.EOF):
		d.failAt(1, 0, "the policy is empty: start with \"trust_domain: example.org\" and \"revision: 1\"")
		return
	case !errors.As(err, &le):
		d.failAt(1, 0, "this is not YAML: %v", err)
		return
	}
	at := le.Mark
	at.Line = min(at.Line, d.last)
	switch {
	case strings.Contains(le.Message, "could not find expected ':'"):
		d.failAt(le.ContextMark.Line, le.ContextMark.Column, "no colon follows here: write the field's name, a colon, a space and its value")
	case strings.Contains(le.ContextMsg, "scanning an alias"):
		at = le.ContextMark
		fallthrough
	case strings.Contains(le.Message, "unknown anchor"):
		d.failAt(at.Line, at.Column, "a * without quotes starts an alias in YAML, and a policy has none: put a glob that starts with it in quotes, as in [\"*\"]")
	case strings.Contains(le.Message, "max depth"), strings.Contains(le.Message, "depth of"):
		d.failAt(at.Line, at.Column, "nested too deeply: no part of a policy is more than a list inside an entry of a section")
	case strings.Contains(le.Message, "incompatible YAML document"):
		d.failAt(at.Line, at.Column, "remove the line that starts with %%YAML")
	case strings.Contains(le.Message, "cannot start any token") && charAt(text, at) == '\t':
		d.failAt(at.Line, at.Column, "there is a tab where the line is indented: use spaces")
	case strings.Contains(le.Message, "cannot start any token"):
		d.failAt(at.Line, at.Column, "no value starts with %q: put the value in quotes", charAt(text, at))
	case strings.Contains(le.Message, "mapping values are not allowed"):
		d.failAt(at.Line, at.Column, "a second colon is out of place: check the indentation, and put a value that has one in quotes")
	case strings.Contains(le.Message, "expected ','"):
		d.failAt(at.Line, at.Column, "what opens with a bracket on line %d is not closed before here: write the closing bracket, or the comma that is missing", le.ContextMark.Line)
	case strings.Contains(le.ContextMsg, "quoted scalar"):
		d.failAt(le.ContextMark.Line, le.ContextMark.Column, "this quote is never closed: write the closing quote")
	default:
		d.failAt(at.Line, at.Column, "this is not YAML: %s: check the indentation, and the colon after each field", le.Message)
	}
}

func charAt(text []byte, at yaml.Mark) rune {
	lines := bytes.SplitN(text, []byte("\n"), at.Line+1)
	if at.Line < 1 || at.Line > len(lines) || at.Column < 1 {
		return utf8.RuneError
	}
	line := []rune(string(lines[at.Line-1]))
	if at.Column > len(line) {
		return utf8.RuneError
	}
	return line[at.Column-1]
}
