package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/sealbus/sealbus/audit"
)

// verify gives the verdicts on an export or a log.
func verify(ctx context.Context, o *options, p *page) (int, error) {
	t, err := o.trust()
	if err != nil {
		return 0, err
	}
	s, err := open(o.file)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	in, err := s.Input(t)
	if err != nil {
		return 0, err
	}
	in.Fresh = o.fresh
	r, err := audit.Verify(ctx, in)
	if err != nil {
		return 0, err
	}
	status, summary := judge(r, o.strict)
	p.object = newReport(r, status)
	fmt.Fprintf(&p.text, "%s\n%s\n", r, summary)
	return status, nil
}

// judge returns the exit status of a report, and what it says in a line. Where it is not proven that messages are the ones that were
// logged, or who has sent them, that is not taken for good: a verifier that goes by the wrong operator is to notice. That not all is
// proven to be there is the rule while senders are at work.
func judge(r *audit.Report, strict bool) (status int, summary string) {
	var open []string
	for _, v := range r.Verdicts() {
		switch v.State {
		case audit.Failed:
			return r.ExitCode(), "FAILED: " + v.Name
		case audit.Unproven:
			open = append(open, v.Name)
			if strict || v == &r.Integrity || v == &r.Authenticity {
				status = exitFailed
			}
		}
	}
	if open == nil {
		return exitOK, "All of it is as it should be."
	}
	return status, "Nothing is wrong. NOT PROVEN: " + strings.Join(open, ", ")
}

// report is the JSON of a verification.
type report struct {
	Log        string    `json:"log"`
	As         string    `json:"as_of"`
	From       string    `json:"from"`
	Until      string    `json:"until"`
	Entries    int64     `json:"entries"`
	Covered    int64     `json:"covered"`
	Messages   int64     `json:"messages"`
	Others     []string  `json:"other_logs,omitempty"`
	ExitStatus int       `json:"exit_status"`
	Verdicts   []verdict `json:"verdicts"`
}

type verdict struct {
	Name     string           `json:"name"`
	State    string           `json:"state"` // ok, unproven or failed
	Detail   string           `json:"detail"`
	Findings int64            `json:"findings"`
	Unproven int64            `json:"unproven"`
	Figures  map[string]int64 `json:"figures"`
	First    *position        `json:"first,omitempty"` // of the findings
	Kept     []finding        `json:"kept"`
}

type position struct {
	Sequence uint64 `json:"sequence,omitempty"`
	Entry    *int64 `json:"entry,omitempty"`
}

type finding struct {
	position
	State  string `json:"state"`
	Detail string `json:"detail"`
}

var stateNames = map[audit.State]string{audit.OK: "ok", audit.Unproven: "unproven", audit.Failed: "failed"}

func newReport(r *audit.Report, status int) *report {
	out := &report{Log: r.Origin.String(), As: stamp(r.As), From: stamp(r.From), Until: stamp(r.Until), Entries: r.Size, Covered: r.Covered,
		Messages: r.Frames, ExitStatus: status}
	for _, other := range r.Others {
		out.Others = append(out.Others, other.String())
	}
	for _, v := range r.Verdicts() {
		out.Verdicts = append(out.Verdicts, newVerdict(v))
	}
	return out
}

func newVerdict(v *audit.Verdict) verdict {
	one := verdict{Name: v.Name, State: stateNames[v.State], Detail: v.Detail, Findings: v.Findings, Unproven: v.Open,
		Figures: make(map[string]int64), Kept: []finding{}}
	for _, f := range v.Figures {
		one.Figures[f.Name] = f.Value
	}
	if at, ok := v.First(); ok {
		first := newPosition(at)
		one.First = &first
	}
	for _, f := range v.Kept {
		one.Kept = append(one.Kept, finding{newPosition(f.At), stateNames[f.State], f.Detail})
	}
	return one
}

func newPosition(at audit.Position) position {
	p := position{Sequence: at.Sequence}
	if at.Entry >= 0 {
		p.Entry = &at.Entry
	}
	return p
}
