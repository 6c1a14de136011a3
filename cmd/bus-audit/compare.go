package main

import (
	"context"
	"fmt"

	"github.com/sealbus/sealbus/audit"
)

// comparison is the JSON of a comparison.
type comparison struct {
	Logs       [2]string `json:"logs"`
	ExitStatus int       `json:"exit_status"`
	Agreement  verdict   `json:"agreement"`
}

// compareLogs says whether two logs agree on what a stream held. A broker that shows two auditors something else is found by this, and an
// auditor that writes what was not there; which of them it is, is not.
func compareLogs(ctx context.Context, o *options, p *page) (int, error) {
	one, err := open(o.file)
	if err != nil {
		return 0, err
	}
	defer one.Close()
	other, err := open(o.other)
	if err != nil {
		return 0, err
	}
	defer other.Close()
	v, err := audit.Compare(ctx, one, other)
	if err != nil {
		return 0, err
	}
	status := exitOK
	if v.State == audit.Failed {
		status = exitFailed
	}
	c := &comparison{Logs: [2]string{one.Origin().String(), other.Origin().String()}, ExitStatus: status, Agreement: newVerdict(v)}
	p.object = c
	for _, log := range c.Logs {
		p.line("log", "%s", log)
	}
	fmt.Fprintf(&p.text, "\n%s\nNeither of the two is verified: that is what bus-audit verify does.\n", v)
	return status, nil
}
