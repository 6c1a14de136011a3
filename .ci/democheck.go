// Command democheck reads what "bus-demo --json" printed and fails unless it
// is one JSON object and nothing else, with at least one chapter, each chapter
// named and each one ok.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

func main() {
	if err := check(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "democheck:", err)
		os.Exit(1)
	}
}

func check(in io.Reader, out io.Writer) error {
	var report struct {
		Chapters []struct {
			Name string
			OK   bool // absent is false
		}
	}
	d := json.NewDecoder(in)
	if err := d.Decode(&report); err != nil {
		return fmt.Errorf("not a JSON object with chapters: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON object")
	}
	if len(report.Chapters) == 0 {
		return errors.New("no chapters")
	}
	held := 0
	for i, c := range report.Chapters {
		verdict := "FAILED"
		if c.Name != "" && c.OK {
			verdict = "ok"
			held++
		}
		fmt.Fprintf(out, "chapter %d: %q: %s\n", i+1, c.Name, verdict)
	}
	if held < len(report.Chapters) {
		return fmt.Errorf("%d of %d chapters did not hold, or have no name", len(report.Chapters)-held, len(report.Chapters))
	}
	return nil
}
