package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// width is how many columns are used.
const width = 100

const (
	bold  = "\x1b[1m"
	dim   = "\x1b[2m"
	red   = "\x1b[1;31m"
	green = "\x1b[32m"
	cyan  = "\x1b[36m"
	reset = "\x1b[0m"
)

// page is where the story is printed: nowhere when the JSON is asked for.
type page struct {
	w      io.Writer
	colour bool
}

func newPage(w io.Writer, quiet bool) *page {
	if quiet {
		return &page{w: io.Discard}
	}
	return &page{w: w, colour: colours(w)}
}

func (p *page) paint(colour, text string) string {
	if !p.colour || text == "" {
		return text
	}
	return colour + text + reset
}

func (p *page) print(text string) { fmt.Fprintln(p.w, text) }

func (p *page) heading(number int, title string) {
	p.print("")
	p.print(p.paint(bold, fmt.Sprintf("%2d  %s", number, title)))
}

// say prints running text.
func (p *page) say(format string, args ...any) {
	for _, line := range wrap(fmt.Sprintf(format, args...), width-4) {
		p.print("    " + line)
	}
}

// under prints a line below a status, in line with its text.
func (p *page) under(format string, args ...any) {
	p.print("             " + p.paint(dim, fmt.Sprintf(format, args...)))
}

// block prints lines as they are.
func (p *page) block(text string) {
	for line := range strings.Lines(text) {
		p.print("      " + p.paint(cyan, fit(strings.TrimRight(line, "\n"), width-6)))
	}
}

// status prints a line with a word in front, and what came of it behind or below.
func (p *page) status(good bool, word, bad, what, outcome string) {
	colour := green
	if !good {
		word, colour = bad, red
	}
	const indent, column, middle = 4, 9, 52
	lead := strings.Repeat(" ", indent) + p.paint(colour, pad(word, column))
	lines := wrap(what, width-indent-column)
	if outcome != "" {
		lines = wrap(what, middle)
	}
	outcomes := wrap(outcome, width-indent-column-middle-2)
	for i := range max(len(lines), len(outcomes)) {
		left, right := at(lines, i), at(outcomes, i)
		if right != "" {
			left = pad(left, middle+2) + p.paint(dim, right)
		}
		p.print(lead + left)
		lead = strings.Repeat(" ", indent+column)
	}
}

// columns prints two texts beside each other.
func (p *page) columns(leftTitle, rightTitle string, left, right []string) {
	const half = 46
	p.print("    " + p.paint(bold, pad(leftTitle, half+4)) + p.paint(bold, rightTitle))
	for i := range max(len(left), len(right)) {
		p.print(strings.TrimRight("    "+pad(at(left, i), half+4)+p.paint(cyan, at(right, i)), " "))
	}
}

func at(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return ""
}

func pad(s string, n int) string {
	return s + strings.Repeat(" ", max(0, n-utf8.RuneCountInString(s)))
}

// fit cuts a line that is too long.
func fit(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}

// wrap breaks a text into lines. What a terminal would act upon is taken out: the text may be anybody's.
func wrap(text string, n int) (lines []string) {
	line := ""
	for _, word := range strings.Fields(text) {
		word = fit(printable(word), n)
		switch {
		case line == "":
			line = word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) <= n:
			line += " " + word
		default:
			lines, line = append(lines, line), word
		}
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '·'
		}
		return r
	}, s)
}

// number writes a whole number with separators.
func number[T ~int | ~int64 | ~uint64](n T) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// plural is "1 frame", "2 frames".
func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return number(n) + " " + what + "s"
}

// report is the JSON.
type report struct {
	OK       bool     `json:"ok"`
	Input    source   `json:"input"`
	Chapters []result `json:"chapters"`
	Error    string   `json:"error,omitempty"`
}

type source struct {
	Name      string `json:"name"`
	Bytes     int    `json:"bytes"`
	Files     int    `json:"files"`
	Messages  int    `json:"messages"`
	Truncated bool   `json:"truncated"`
}

func (r *report) failed() (names []string) {
	for _, c := range r.Chapters {
		if !c.OK {
			names = append(names, c.Name)
		}
	}
	return names
}

func (r *report) print(w io.Writer) {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	_ = e.Encode(r) // an output that is closed has nobody to be told
}
