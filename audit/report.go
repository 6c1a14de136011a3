package audit

import (
	"fmt"
	"strings"
	"time"
)

// State is what a verdict comes to.
type State uint8

// The states of a verdict.
const (
	OK       State = iota + 1 // everything that was looked at is as it should be
	Unproven                  // nothing is wrong, and something is not proven: the verdict says what
	Failed                    // something is wrong: the first finding says where
)

// String returns "ok", "unproven" or "FAILED".
func (s State) String() string {
	switch s {
	case OK:
		return "ok"
	case Unproven:
		return "unproven"
	case Failed:
		return "FAILED"
	}
	return "not given"
}

// MarshalText returns String.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Verdict is one of a report's answers.
type Verdict struct {
	Name     string
	State    State
	Detail   string // what the state is owed to, in a sentence
	Findings int64  // what is wrong; all are counted
	Open     int64  // what is not proven; all are counted
	Figures  []Figure
	Kept     []Finding // of what is wrong the first MaxFindings, and of what is not proven as many, in the order in which they were met

	first Position // of what is wrong
	exact bool     // first is where it is, and not from where on it may be
	open  []Finding
	notes []string // what is not proven whatever the stream holds
}

// Position is where something was found. Sequence is zero, and Entry negative, where it does not apply.
type Position struct {
	Sequence uint64 // in the stream
	Entry    int64  // index in the log
}

// String says the position in words.
func (p Position) String() string {
	switch {
	case p.Sequence > 0 && p.Entry >= 0:
		return fmt.Sprintf("message %d, entry %d", p.Sequence, p.Entry)
	case p.Sequence > 0:
		return fmt.Sprintf("message %d", p.Sequence)
	case p.Entry >= 0:
		return fmt.Sprintf("entry %d", p.Entry)
	}
	return "nowhere in particular"
}

// before says which of two positions comes first: by the stream, and in the log where that does not say.
func (p Position) before(q Position) bool {
	if p.Sequence != 0 && q.Sequence != 0 {
		return p.Sequence < q.Sequence
	}
	return p.Entry >= 0 && q.Entry >= 0 && p.Entry < q.Entry
}

// Finding is one thing that is wrong, or not proven.
type Finding struct {
	At     Position
	State  State // Failed or Unproven
	Detail string
}

// Figure is a number with a name. Each was counted.
type Figure struct {
	Name  string
	Value int64
}

// First returns where the first thing is that is wrong, and false where nothing is.
func (v *Verdict) First() (Position, bool) { return v.first, v.Findings > 0 }

// Figure returns the figure of a name, 0 where there is none.
func (v *Verdict) Figure(name string) int64 {
	for _, f := range v.Figures {
		if f.Name == name {
			return f.Value
		}
	}
	return 0
}

// fail counts what is wrong.
func (v *Verdict) fail(at Position, format string, args ...any) {
	if v.Findings == 0 || !v.exact || at.before(v.first) {
		v.first, v.exact = at, true
	}
	v.keep(at, format, args...)
}

// failFrom is fail for what is wrong somewhere from a position on. Where something is found exactly too, that counts as the first.
func (v *Verdict) failFrom(at Position, format string, args ...any) {
	if v.Findings == 0 || !v.exact && at.before(v.first) {
		v.first, v.exact = at, false
	}
	v.keep(at, format, args...)
}

func (v *Verdict) keep(at Position, format string, args ...any) {
	v.Findings++
	if len(v.Kept) < MaxFindings {
		v.Kept = append(v.Kept, Finding{at, Failed, fmt.Sprintf(format, args...)})
	}
}

// leave counts what is not proven.
func (v *Verdict) leave(at Position, format string, args ...any) {
	if v.Open++; len(v.open) < MaxFindings {
		v.open = append(v.open, Finding{at, Unproven, fmt.Sprintf(format, args...)})
	}
}

// note says what is not proven whatever the stream holds.
func (v *Verdict) note(text string) { v.notes = append(v.notes, text) }

// figure adds to a figure, which is there from then on.
func (v *Verdict) figure(name string, n int64) {
	for i := range v.Figures {
		if v.Figures[i].Name == name {
			v.Figures[i].Value += n
			return
		}
	}
	v.Figures = append(v.Figures, Figure{name, n})
}

// settle brings the verdict to its state.
func (v *Verdict) settle(name, good string) {
	v.Name = name
	v.Kept = append(v.Kept, v.open...)
	v.open = nil
	switch {
	case v.Findings > 0:
		v.State = Failed
		v.Detail = fmt.Sprintf("%s, the first at %s", count(v.Findings, "finding"), v.first)
	case v.Open > 0:
		v.State = Unproven
		v.Detail = fmt.Sprintf("%s not proven, the first: %s", count(v.Open, "thing"), v.Kept[0].Detail)
	case len(v.notes) > 0:
		v.State = Unproven
		v.Detail = strings.Join(v.notes, "; ")
	default:
		v.State, v.Detail = OK, good
	}
	if v.State != Unproven || v.Open > 0 {
		for _, n := range v.notes {
			v.Detail += "; " + n
		}
	}
}

func count(n int64, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// Report is what Verify found. Everything in it was counted.
type Report struct {
	Origin  Origin
	As      time.Time // of when the verdicts are
	From    time.Time // when the log begins
	Until   time.Time // up to when a checkpoint covers it
	Size    int64     // entries
	Covered int64     // of them, by a checkpoint
	Frames  int64     // messages of the stream that were read
	Others  []Origin  // other logs whose checkpoints were found in the same places

	Integrity    Verdict
	Order        Verdict
	Completeness Verdict
	Authenticity Verdict
	Freshness    Verdict
	Readability  Verdict // Name is empty where there was no Opener
}

// Verdicts returns the verdicts that were given, in the order of their exit codes.
func (r *Report) Verdicts() []*Verdict {
	all := []*Verdict{&r.Integrity, &r.Order, &r.Completeness, &r.Authenticity, &r.Freshness}
	if r.Readability.Name != "" {
		all = append(all, &r.Readability)
	}
	return all
}

// ExitCode is 0 where no verdict failed, else that of the first that did: 10 integrity, 11 order, 12 completeness,
// 13 authenticity, 14 freshness, 15 readability.
func (r *Report) ExitCode() int {
	for i, v := range r.Verdicts() {
		if v.State == Failed {
			return 10 + i
		}
	}
	return 0
}

// shownFindings is how many findings of a verdict a page shows.
const shownFindings = 5

// String is the report as a page to read.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "log       %s\n", r.Origin)
	fmt.Fprintf(&b, "covers    %s, from %s to %s", fmt.Sprintf("%d of %d entries", r.Covered, r.Size), r.date(r.From), r.date(r.Until))
	fmt.Fprintf(&b, "\nstream    %s read\n", count(r.Frames, "message"))
	fmt.Fprintf(&b, "as of     %s\n", r.date(r.As))
	for _, o := range r.Others {
		fmt.Fprintf(&b, "also      checkpoints of another log: %s\n", o)
	}
	for _, v := range r.Verdicts() {
		fmt.Fprintf(&b, "\n%s", v)
	}
	return b.String()
}

// String returns a verdict as some lines to read.
func (v *Verdict) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-13s %-9s %s\n", v.Name, v.State, v.Detail)
	for _, f := range v.Figures {
		fmt.Fprintf(&b, "  %12d  %s\n", f.Value, f.Name)
	}
	for i, f := range v.Kept {
		if i == shownFindings {
			fmt.Fprintf(&b, "  and %d more\n", v.Findings+v.Open-shownFindings)
			break
		}
		fmt.Fprintf(&b, "  %s: %s: %s\n", f.State, f.At, f.Detail)
	}
	return b.String()
}

func (r *Report) date(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return stamp(t)
}
