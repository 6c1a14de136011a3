package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// page is what a command prints at its end: text, or one JSON object.
type page struct {
	json   bool
	text   strings.Builder
	object any
	raw    []byte // instead: as it is
}

// line adds a line with a word in front.
func (p *page) line(word, format string, args ...any) {
	fmt.Fprintf(&p.text, "%-11s %s\n", word, fmt.Sprintf(format, args...))
}

// to writes the page. Whatever is in it that a terminal would act upon is written as an escape.
func (p *page) to(w io.Writer) error {
	switch {
	case p.raw != nil:
		_, err := w.Write(p.raw)
		return err
	case !p.json:
		_, err := io.WriteString(w, printable(p.text.String()))
		return err
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", "  ")
	if err := e.Encode(p.object); err != nil {
		return err
	}
	_, err := io.WriteString(w, printable(b.String())) // the escapes are JSON's too: all of them are within its strings
	return err
}

// printable writes everything but printable characters, spaces and the ends of lines as escapes of four or eight hex
// digits: control characters, those that change the direction of what follows, and what is no UTF-8.
func printable(s string) string {
	if !strings.ContainsFunc(s, escaped) && utf8.ValidString(s) {
		return s
	}
	b := make([]byte, 0, len(s)+16)
	for i, r := range s {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], string(utf8.RuneError)):
			b = fmt.Appendf(b, `\u%04x`, s[i])
		case escaped(r) && r > 0xffff:
			hi, lo := (r-0x10000)>>10+0xd800, (r-0x10000)&0x3ff+0xdc00
			b = fmt.Appendf(b, `\u%04x\u%04x`, hi, lo)
		case escaped(r):
			b = fmt.Appendf(b, `\u%04x`, r)
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return string(b)
}

func escaped(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }

// quoted writes a text of a stranger on one line.
func quoted(s string) string { return strconv.QuoteToGraphic(s) }

// stamp writes a time, to the millisecond.
func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}

// plural is "1 entry" of count(1, "entry", "entries").
func count[T ~int | ~int64 | ~uint64](n T, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
