package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"
)

// page prints the table, a row as soon as it is measured, and meanwhile how far it is.
type page struct {
	w, progress io.Writer // either is nil where nothing is wanted
	shown       int       // columns of the progress that stand there
	begun       bool
}

func newPage(stdout, stderr io.Writer, quiet bool) *page {
	p := new(page)
	if !quiet {
		p.w = stdout
	}
	if f, ok := stderr.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.progress = stderr
	}
	return p
}

func (p *page) title(m machine, o options) {
	if p.w == nil {
		return
	}
	fmt.Fprintf(p.w, "Sealbus against plain NATS over the same broker and mutual TLS 1.3, everything in this process; medians of %s.\n", plural(o.pace.rounds, "round"))
	fmt.Fprintf(p.w, "%s\n", m)
	fmt.Fprintf(p.w, "A ratio above 1: sealed is better. CPU time, allocations and their bytes: plain > sealed, for one message, publisher, broker and subscribers together.\n\n")
}

const layout = "%5s  %-11s  %-24s %-8s %-11s %10s %10s %-12s %-15s %-13s %s\n"

// row prints one line of the table.
func (p *page) row(r row) {
	p.clear()
	if p.w == nil {
		return
	}
	if !p.begun {
		p.begun = true
		p.line("ratio", "min–max", "case", "size", "with", "plain", "sealed", "", "CPU µs", "allocations", "bytes")
	}
	bytes := pair(r.Bytes)
	if r.Difference != nil {
		bytes = fmt.Sprintf("%-17s %+.1f %s", bytes, *r.Difference, r.Unit)
	}
	if r.Peak != nil {
		bytes = fmt.Sprintf("%-17s live MiB %s", bytes, pair(r.Peak))
	}
	ratio, spread, plain := "–", "", "–"
	if r.Ratio > 0 {
		ratio, spread, plain = strconv.FormatFloat(r.Ratio, 'f', 2, 64), fmt.Sprintf("%.2f–%.2f", r.Worst, r.Best), amount(r.Plain)
	}
	p.line(ratio, spread, r.Case, sizeText(r.Size), r.with(), plain, amount(r.Sealed), r.Unit, pair(r.CPU), pair(r.Allocs), bytes)
}

func (p *page) line(cells ...any) {
	fmt.Fprintln(p.w, strings.TrimRight(fmt.Sprintf(strings.TrimSuffix(layout, "\n"), cells...), " "))
}

// with says where on the other axes a point is.
func (at point) with() string {
	switch {
	case at.InFlight > 0:
		return fmt.Sprintf("%d in flight", at.InFlight)
	case at.Subscribers > 0:
		return plural(at.Subscribers, "reader")
	case at.Channels > 0:
		return plural(at.Channels, "channel")
	case at.Members > 0:
		return plural(at.Members, "member")
	case at.Messages > 0:
		return number(int64(at.Messages))
	}
	return ""
}

func (at point) String() string { return strings.TrimSpace(sizeText(at.Size) + " " + at.with()) }

// status shows what is being measured, where somebody looks on.
func (p *page) status(format string, args ...any) {
	if p.progress == nil {
		return
	}
	p.clear()
	text := fmt.Sprintf(format, args...)
	fmt.Fprint(p.progress, text)
	p.shown = utf8.RuneCountInString(text)
}

func (p *page) clear() {
	if p.shown > 0 {
		fmt.Fprint(p.progress, "\r", strings.Repeat(" ", p.shown), "\r")
		p.shown = 0
	}
}

func pair(b *both) string {
	if b == nil {
		return ""
	}
	return amount(b.Plain) + " > " + amount(b.Sealed)
}

// amount writes a number with three digits or all that it has before the point.
func amount(x float64) string {
	switch {
	case x < 10:
		return strconv.FormatFloat(x, 'f', 2, 64)
	case x < 1000:
		return strconv.FormatFloat(x, 'f', 1, 64)
	}
	return number(int64(x + 0.5))
}

func sizeText(n int) string {
	switch {
	case n == 0:
		return ""
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}

// number writes a whole number with separators.
func number(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return number(int64(n)) + " " + what + "s"
}
