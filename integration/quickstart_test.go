package integration_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealbus/sealbus/internal/bustest"
)

// quickstartAddress is where the README has the broker listen. The test takes a free port instead.
const quickstartAddress = "127.0.0.1:4222"

// TestQuickStart does what README.md says under "Quick start", with its own text: it builds the four programs, runs
// them one after the other as somebody who reads it would, and compares what they print.
func TestQuickStart(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs four programs")
	}
	if runtime.GOOS == "windows" {
		t.Skip("no program can be interrupted there")
	}
	q := newQuickstart(t)
	for _, name := range []string{"setup", "node", "planner", "feed"} {
		q.build(name)
	}
	fingerprint := strings.TrimSpace(q.run("setup"))

	q.start("node", "ready", fingerprint)
	planner := q.start("planner", "ready", fingerprint)
	if got, want := q.run("feed", fingerprint), q.blocks["feed prints"]; got != want {
		t.Errorf("the feed printed\n%s\nREADME.md has\n%s", got, want)
	}
	// The price and the question come on two subscriptions: which is handled first is open.
	var got, want []string
	for line := range strings.Lines(q.blocks["planner prints"]) {
		want = append(want, line)
	}
	for len(got) < len(want) {
		got = append(got, planner.line(t)+"\n")
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the planner printed %q, README.md has %q", got, want)
	}
	q.notStored("42.17", "buy or sell?")
}

type quickstart struct {
	t        *testing.T
	root     string // of this module
	dir      string
	address  string
	blocks   map[string]string
	programs map[string]string // name → path
}

var quickstartBlock = regexp.MustCompile("(?s)<!-- quickstart: ([^\n]*) -->\n```[a-z]*\n(.*?)```\n")

func newQuickstart(t *testing.T) *quickstart {
	t.Helper()
	root, err := filepath.Abs("..")
	bustest.Check(t, err)
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	bustest.Check(t, err)
	q := &quickstart{t: t, root: root, dir: t.TempDir(), address: freeAddress(t),
		blocks: make(map[string]string), programs: make(map[string]string)}
	for _, m := range quickstartBlock.FindAllSubmatch(readme, -1) {
		q.blocks[string(m[1])] = string(m[2])
	}
	for _, name := range []string{"policy.yaml", "feed prints", "planner prints"} {
		if q.blocks[name] == "" {
			t.Fatalf("README.md has no block <!-- quickstart: %s -->", name)
		}
	}
	bustest.Check(t, os.WriteFile(filepath.Join(q.dir, "policy.yaml"), []byte(q.blocks["policy.yaml"]), 0o600))
	return q
}

// freeAddress returns an address on loopback that nobody listens on at the moment.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	bustest.Check(t, err)
	bustest.Check(t, l.Close())
	return l.Addr().String()
}

// build compiles the program that README.md has under this name.
func (q *quickstart) build(name string) {
	q.t.Helper()
	text := q.blocks[name+"/main.go"]
	if text == "" {
		q.t.Fatalf("README.md has no block <!-- quickstart: %s/main.go -->", name)
	}
	if formatted := q.gofmt(text); formatted != text {
		q.t.Errorf("%s/main.go in README.md is not formatted as gofmt does it", name)
	}
	bustest.Check(q.t, os.MkdirAll(filepath.Join(q.dir, name), 0o700))
	source := filepath.Join(q.dir, name, "main.go")
	bustest.Check(q.t, os.WriteFile(source, []byte(strings.ReplaceAll(text, quickstartAddress, q.address)), 0o600))
	q.programs[name] = filepath.Join(q.dir, name, "program")
	cmd := exec.Command("go", "build", "-o", q.programs[name], source)
	cmd.Dir = q.root
	if out, err := cmd.CombinedOutput(); err != nil {
		q.t.Fatalf("%s/main.go in README.md: %v\n%s", name, err, out)
	}
}

func (q *quickstart) gofmt(text string) string {
	q.t.Helper()
	cmd := exec.Command("gofmt")
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.Output()
	bustest.Check(q.t, err)
	return string(out)
}

func (q *quickstart) command(name string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	q.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, q.programs[name], args...)
	cmd.Dir = q.dir
	cmd.Env = append(os.Environ(), "PLANNER_PASSPHRASE=quick start")
	return cmd
}

// run runs a program to its end and returns what it printed.
func (q *quickstart) run(name string, args ...string) string {
	q.t.Helper()
	var errs bytes.Buffer
	cmd := q.command(name, args...)
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		q.t.Fatalf("%s: %v\n%s", name, err, errs.String())
	}
	return string(out)
}

// running is a program that runs until the test ends.
type running struct {
	name  string
	lines chan string
	first []string // lines that were waited for
}

// start starts a program and waits for a line. At the end of the test it is interrupted, and must end well.
func (q *quickstart) start(name, until string, args ...string) *running {
	q.t.Helper()
	cmd := q.command(name, args...)
	out, err := cmd.StdoutPipe()
	bustest.Check(q.t, err)
	var errs lockedBuffer
	cmd.Stderr = &errs
	bustest.Check(q.t, cmd.Start())
	r := &running{name: name, lines: make(chan string, 100)}
	q.t.Cleanup(func() {
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			q.t.Errorf("%s had ended: %v\n%s", name, err, errs.String())
		}
		for range r.lines { // all is read before Wait
		}
		if err := cmd.Wait(); err != nil {
			q.t.Errorf("%s: %v\n%s", name, err, errs.String())
		}
	})
	go func() {
		defer close(r.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			r.lines <- s.Text()
		}
	}()
	if line := <-r.lines; line != until {
		q.t.Fatalf("%s printed %q, want %q\n%s", name, line, until, errs.String())
	}
	r.first = []string{until}
	return r
}

// line returns the next line that a program printed.
func (r *running) line(t *testing.T) string {
	t.Helper()
	if len(r.first) > 0 {
		line := r.first[0]
		r.first = r.first[1:]
		return line
	}
	select {
	case line, ok := <-r.lines:
		if !ok {
			t.Fatalf("%s ended", r.name)
		}
		return line
	case <-time.After(time.Minute):
		t.Fatalf("%s printed no more", r.name)
	}
	panic("unreachable")
}

// notStored looks for plaintext in all that the broker keeps.
func (q *quickstart) notStored(texts ...string) {
	q.t.Helper()
	files := 0
	err := filepath.WalkDir(filepath.Join(q.dir, "store"), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		for _, text := range texts {
			if bytes.Contains(data, []byte(text)) {
				return fmt.Errorf("%s holds %q", path, text)
			}
		}
		return nil
	})
	if err != nil || files == 0 {
		q.t.Errorf("the broker's store of %d files: %v", files, err)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// sourceRow is a row of "Reading the source" in README.md: a file and functions in it.
var sourceRow = regexp.MustCompile("(?m)^\\| `([a-z/]+\\.go)` \\| (`[^|]*`) \\|")

// TestReadingTheSource keeps README.md's way through the source true: each file and function that it names is there.
func TestReadingTheSource(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	bustest.Check(t, err)
	rows := sourceRow.FindAllStringSubmatch(string(readme), -1)
	if len(rows) < 10 {
		t.Fatalf("README.md names %d files under \"Reading the source\"", len(rows))
	}
	for _, row := range rows {
		source, err := os.ReadFile(filepath.Join("..", filepath.FromSlash(row[1])))
		if err != nil {
			t.Errorf("README.md: %v", err)
			continue
		}
		for name := range strings.FieldsSeq(strings.ReplaceAll(row[2], "`", "")) {
			if !regexp.MustCompile(`(?m)^func (\([^)]*\) )?` + name + `[(\[]`).Match(source) {
				t.Errorf("README.md: %s has no function %s", row[1], name)
			}
		}
	}
}
