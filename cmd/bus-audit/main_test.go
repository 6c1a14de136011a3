package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
)

// result is what a run of the program left behind.
type result struct {
	status      int
	out, stderr string
}

func audited(t *testing.T, args ...string) result {
	t.Helper()
	var out, stderr bytes.Buffer
	status := run(t.Context(), args, &out, &stderr)
	for _, s := range []string{out.String(), stderr.String()} {
		if i := strings.IndexFunc(s, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("%v: prints %q", args, s[i:min(len(s), i+20)])
		}
	}
	return result{status, out.String(), stderr.String()}
}

// parse reads the one JSON object of an output.
func parse[T any](t *testing.T, out string) (v T) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(out))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		t.Errorf("something follows the JSON: %v", err)
	}
	return v
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// write writes a file of the test's own.
func write(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	check(t, os.WriteFile(path, data, 0o600))
	return path
}

const someKey = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestUnusable(t *testing.T) {
	trust := []string{"--operator", someKey, "--ca", "ca.pem"}
	with := func(args ...string) []string { return append(args, trust...) }
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"nothing", nil, "no command"},
		{"unknown command", []string{"delete", "x"}, `no command "delete"`},
		{"flag before the command", []string{"--json", "verify", "x"}, `no command "--json"`},
		{"no file", with("verify"), "takes one file, not 0"},
		{"two files", with("verify", "x", "y"), "takes one file, not 2"},
		{"one to compare", []string{"compare", "x"}, "takes two files, not 1"},
		{"three to compare", []string{"compare", "x", "y", "z"}, "takes two files, not 3"},
		{"another without a name", []string{"compare", "x", ""}, "no name"},
		{"a file without a name", with("verify", ""), "no name"},
		{"unknown flag", with("verify", "x", "--colour"), "colour"},
		{"another command's flag", with("verify", "x", "--sequence", "1"), "takes no --sequence"},
		{"no operator", []string{"verify", "x", "--ca", "ca.pem"}, "needs --operator"},
		{"no authorities", []string{"verify", "x", "--operator", someKey}, "needs --ca"},
		{"an operator that is none", []string{"disclosed", "x", "--operator", "sha256:12", "--ca", "ca.pem"}, "--operator"},
		{"two operators, one of which is none", []string{"verify", "x", "--operator", someKey + ",", "--ca", "ca.pem"}, "--operator"},
		{"an empty flag", []string{"verify", "x", "--operator", someKey, "--ca", ""}, "--ca needs a value"},
		{"no time", with("verify", "x", "--fresh", "soon"), "fresh"},
		{"a time of nothing", with("verify", "x", "--fresh", "0s"), "--fresh 0s"},
		{"a time past", with("verify", "x", "--fresh=-1m"), "--fresh -1m"},
		{"no message", []string{"prove", "x"}, "needs --sequence"},
		{"message 0", []string{"prove", "x", "--sequence", "0"}, "needs --sequence"},
		{"a message that is no number", []string{"prove", "x", "--sequence", "last"}, "sequence"},
		{"JSON of a proof", []string{"prove", "x", "--sequence", "1", "--json"}, "takes no --json"},
		{"no cards", with("check-proof", "x"), "needs --cards"},
		{"trust where nothing is verified", with("show", "x"), "takes no --"},
		{"a command to the terminal", []string{"\x1b[2J\u202e"}, `no command`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := audited(t, c.args...)
			if got.status != exitUsage || got.out != "" || !strings.Contains(got.stderr, c.want) || !strings.HasPrefix(got.stderr, "Usage: ") {
				t.Errorf("status %d, output %q, error %q; want %q", got.status, got.out, got.stderr, c.want)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{{"-h"}, {"--help"}, {"help"}, {"verify", "-h"}, {"show", "x", "--help"}} {
		got := audited(t, args...)
		if got.status != exitOK || got.out != usage || got.stderr != "" {
			t.Errorf("%v: %+v", args, got)
		}
	}
	for line := range strings.Lines(usage) {
		if len(line) > 104 {
			t.Errorf("%d columns: %s", len(line), line)
		}
	}
	for name, c := range commands {
		if !strings.Contains(usage, "\n  "+name+" ") {
			t.Errorf("the usage does not have the command %s", name)
		}
		for _, f := range c.flags {
			if !strings.Contains(usage, "\n  --"+f) {
				t.Errorf("the usage does not have the flag --%s", f)
			}
		}
	}
}

func TestMixedFlags(t *testing.T) {
	for _, args := range [][]string{
		{"verify", "--fresh", "10m", "x", "--operator", someKey, "--ca", "y"},
		{"verify", "x", "--fresh=10m", "--operator=" + someKey + ", " + someKey, "--ca=y"},
		{"verify", "--operator", someKey, "--ca", "y", "--fresh", "10m", "--", "x"},
	} {
		o, err := parseFlags(args)
		if err != nil || o.file != "x" || o.ca != "y" || o.fresh.Minutes() != 10 || len(o.operators) == 0 {
			t.Errorf("%v: %+v, %v", args, o, err)
		}
	}
	if o, err := parseFlags([]string{"show", "--", "--json"}); err != nil || o.file != "--json" || o.json {
		t.Errorf("a file named --json: %+v, %v", o, err)
	}
}

// TestPrintable: nothing of a stranger's reaches a terminal as a command.
func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"plain, “ü” 漢字\n":      "plain, “ü” 漢字\n",
		"\x1b[2J":              `\u001b[2J`,
		"a\rb\tc\x00\x7f":      `a\u000db\u0009c\u0000\u007f`,
		"\u009b31m":            `\u009b31m`,
		"\u202egnp.exe\u2066":  `\u202egnp.exe\u2066`,
		"no-break\u00a0space":  `no-break\u00a0space`,
		"\ufeffmark\u200b":     `\ufeffmark\u200b`,
		"\xff\xfe":             `\u00ff\u00fe`,
		"a real \ufffd":        "a real \ufffd",
		"\U000e0041 tags":      `\udb40\udc41 tags`,
		"\u2028line separator": `\u2028line separator`,
	} {
		if got := printable(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	for r := rune(0); r <= unicode.MaxRune; r++ {
		if got := printable(string(r)); strings.ContainsFunc(got, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
			t.Fatalf("%U: %q", r, got)
		}
	}
}

// TestPrintableJSON: the escapes of a page are those of JSON too, so that it says the same.
func TestPrintableJSON(t *testing.T) {
	const text = "\x1b[31m \u202e \U000e0041 \u009b \u2028 \x7f \\u0041 \"<&>\""
	var b bytes.Buffer
	check(t, (&page{json: true, object: map[string]string{"x": text}}).to(&b))
	if got := parse[map[string]string](t, b.String()); got["x"] != text || strings.ContainsFunc(b.String(), escaped) {
		t.Errorf("%q, printed %q", got["x"], b.String())
	}
}

func TestPayload(t *testing.T) {
	long := strings.Repeat("é", maxShown)
	for in, want := range map[string]string{
		"":                            "",
		"one\ntwo":                    "  | one\n  | two\n",
		"Proven: all\n\nmore\n":       "  | Proven: all\n  | \n  | more\n",
		"\x00\x01":                    "  # 00000000  00 01                                             |..|\n",
		"\xff":                        "  # 00000000  ff                                                |.|\n",
		long:                          "  | " + long[:maxShown] + "\n  … 65536 more bytes: --json has all of them\n",
		"a" + long[:maxShown-2] + "é": "  | a" + long[:maxShown-2] + "\n  … 1 more bytes: --json has all of them\n",
	} {
		var b strings.Builder
		payload(&b, []byte(in))
		if b.String() != want {
			t.Errorf("%.40q: %.200q, want %.200q", in, b.String(), want)
		}
	}
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, stderr bytes.Buffer
	if status := run(ctx, []string{"show", t.TempDir()}, &out, &stderr); status != exitFailed || out.Len() > 0 || stderr.String() != "bus-audit: interrupted\n" {
		t.Errorf("status %d, %q, %q", status, &out, &stderr)
	}
}

// broken is an output that takes nothing.
type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }
