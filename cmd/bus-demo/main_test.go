package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/sealbus/sealbus/internal/vault"
	"github.com/sealbus/sealbus/policy"
)

// TestMain lets the chapter of tasks start this program once more, as a worker.
func TestMain(m *testing.M) {
	if os.Getenv(hiredVar) != "" {
		os.Exit(hiredMain(context.Background()))
	}
	os.Exit(m.Run())
}

// told is what a run of the program left behind.
type told struct {
	status      int
	out, stderr string
}

func play(t *testing.T, list []chapter, args ...string) told {
	t.Helper()
	var out, stderr bytes.Buffer
	status := tell(t.Context(), list, args, &out, &stderr)
	return told{status, out.String(), stderr.String()}
}

// parse reads the one JSON object of an output.
func parse(t *testing.T, out string) (r report) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(out))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		t.Errorf("something follows the JSON: %v", err)
	}
	return r
}

// mustHold checks that every chapter of a run held.
func mustHold(t *testing.T, r report, list []chapter) {
	t.Helper()
	if !r.OK || len(r.Chapters) != len(list) {
		t.Errorf("ok %v with %d of %d chapters: %s", r.OK, len(r.Chapters), len(list), r.Error)
	}
	for i, c := range r.Chapters {
		if !c.OK || c.Name != list[i].name || len(c.Figures) == 0 {
			t.Errorf("chapter %d: %+v, want %q to hold", i+1, c, list[i].name)
		}
	}
}

func write(t *testing.T, dir string, files map[string]string) string {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		check(t, os.MkdirAll(filepath.Dir(path), 0o700))
		check(t, os.WriteFile(path, []byte(text), 0o600))
	}
	return dir
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestPlain(t *testing.T) {
	t.Parallel()
	got := play(t, chapters)
	if got.status != exitHeld || got.stderr != "" {
		t.Errorf("status %d, on standard error %q", got.status, got.stderr)
	}
	for _, want := range append(strings.SplitAfter(rulesText, "\n"), "Report from the north meadow", "All 12 chapters held.") {
		if !strings.Contains(got.out, strings.TrimSpace(want)) {
			t.Errorf("no %q in the output", want)
		}
	}
	for i, c := range chapters {
		if !strings.Contains(got.out, c.title) {
			t.Errorf("chapter %d, %q, is not there", i+1, c.title)
		}
	}
	for line := range strings.Lines(got.out) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > width {
			t.Errorf("%d columns: %s", n, line)
		}
		if strings.ContainsRune(line, '\x1b') {
			t.Errorf("colours where there is no terminal: %q", line)
		}
	}
	if t.Failed() {
		t.Log(got.out)
	}
}

func TestStoreHoldsNoText(t *testing.T) {
	t.Parallel()
	const marker = "Sealbus is what this line says, and no file of the store may"
	dir := t.TempDir()
	file := filepath.Join(write(t, dir, map[string]string{"README.md": "# A title\n\n" + marker + "\n\nMore.\n"}), "README.md")
	data := filepath.Join(dir, "store")
	for _, run := range []string{"run-1", "run-2"} {
		got := play(t, chapters, "--json", "--input", file, "--data", data)
		if got.status != exitHeld || got.stderr != "" {
			t.Fatalf("status %d, on standard error %q\n%s", got.status, got.stderr, got.out)
		}
		r := parse(t, got.out)
		mustHold(t, r, chapters)
		if r.Input.Messages != 3 || r.Input.Files != 1 || r.Input.Truncated {
			t.Errorf("input: %+v", r.Input)
		}
		names := 0
		check(t, eachFile(filepath.Join(data, run), func(path string, b []byte) error {
			for _, part := range []string{marker, "Sealbus is", marker[20:40], "# A title"} {
				if bytes.Contains(b, []byte(part)) {
					t.Errorf("%s holds %q", path, part)
				}
			}
			names += bytes.Count(b, []byte("topic/ledger"))
			return nil
		}))
		if names < 3 {
			t.Errorf("%s: the channel's name is there %d times, so that the frames are not where they were looked for", run, names)
		}
	}
}

func TestDirectory(t *testing.T) {
	t.Parallel()
	dir := write(t, t.TempDir(), map[string]string{
		"b.txt": "Second.\n\nThird.\n", "a.txt": "First.", "empty.txt": " \n", "image.png": "\x89PNG\x00\x01", ".git/config": "hidden",
		"sub/c.txt": "Fourth.",
	})
	r := parse(t, play(t, chapters, "--json", "--input", dir).out)
	mustHold(t, r, chapters)
	if r.Input.Files != 3 || r.Input.Messages != 4 {
		t.Errorf("input: %+v, want 4 messages of 3 files", r.Input)
	}
}

// TestOwnWords sends the demo's own output: all the names in it are in the broker's store too, where they belong.
func TestOwnWords(t *testing.T) {
	t.Parallel()
	first := play(t, chapters)
	file := filepath.Join(write(t, t.TempDir(), map[string]string{"out.txt": first.out + first.out}), "out.txt")
	mustHold(t, parse(t, play(t, chapters, "--json", "--input", file).out), chapters)
}

func TestLargeInput(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("é", maxInput) // two bytes each, and no line to be cut at
	file := filepath.Join(write(t, t.TempDir(), map[string]string{"large.txt": text}), "large.txt")
	r := parse(t, play(t, chapters[:2], "--json", "--input", file).out)
	mustHold(t, r, chapters[:2])
	if !r.Input.Truncated || r.Input.Bytes > maxInput || r.Input.Messages < maxInput/maxPiece {
		t.Errorf("input: %+v", r.Input)
	}
}

func TestUnusable(t *testing.T) {
	t.Parallel()
	dir := write(t, t.TempDir(), map[string]string{
		"empty": "", "blank": " \n\t\n", "binary": "a\x00b", "latin1": "caf\xe9", "none/x.bin": "\x00", "text": "text",
	})
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"missing", []string{"--input", at("missing")}, "does not exist"},
		{"empty", []string{"--input", at("empty")}, "has no text"},
		{"blank", []string{"--input", at("blank")}, "has no text"},
		{"binary", []string{"--input", at("binary")}, "is no text"},
		{"not UTF-8", []string{"--input", at("latin1")}, "is no text"},
		{"directory without text", []string{"--input", at("none")}, "holds no text file"},
		{"no path", []string{"--input", ""}, "needs a path"},
		{"data is a file", []string{"--data", at("text")}, "--data"},
		{"unknown flag", []string{"--colour"}, "colour"},
		{"argument", []string{"README.md"}, "--input README.md"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := play(t, chapters, append([]string{"--json"}, c.args...)...)
			if got.status != exitUsage || got.out != "" || !strings.Contains(got.stderr, c.want) {
				t.Errorf("status %d, output %q, error %q; want %q", got.status, got.out, got.stderr, c.want)
			}
		})
	}
	if _, err := os.Stat(at("missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("something was made")
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	for _, flag := range []string{"-h", "--help"} {
		if got := play(t, chapters, flag); got.status != exitHeld || !strings.Contains(got.out, "--input PATH") || got.stderr != "" {
			t.Errorf("%s: %+v", flag, got)
		}
	}
}

// TestBrokenChapter has chapters that do not hold among others.
func TestBrokenChapter(t *testing.T) {
	t.Parallel()
	good := chapter{"good", "Good", func(_ context.Context, s *scene) error { s.fact(true, "so"); return nil }}
	for name, bad := range map[string]func(context.Context, *scene) error{
		"a fact":     func(_ context.Context, s *scene) error { s.fact(true, "so"); s.fact(false, "not"); return nil },
		"an attempt": func(_ context.Context, s *scene) error { s.attempt(false, "attack", "worked"); return nil },
		"a trick":    func(_ context.Context, s *scene) error { s.caught(false, "attack", "nothing is wrong"); return nil },
		"a search":   func(_ context.Context, s *scene) error { s.search(1, "fragment"); return nil },
		"an error":   func(_ context.Context, s *scene) error { s.fact(true, "so"); return errors.New("broken") },
		"nothing":    func(context.Context, *scene) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			list := []chapter{good, {"bad", "Bad", bad}, good}
			got := play(t, list, "--json")
			r := parse(t, got.out)
			if got.status != exitFailed || !strings.Contains(got.stderr, "did not hold: bad") {
				t.Errorf("status %d, error %q", got.status, got.stderr)
			}
			if r.OK || len(r.Chapters) != 3 || !r.Chapters[0].OK || r.Chapters[1].OK || r.Chapters[1].Error == "" || !r.Chapters[2].OK {
				t.Errorf("%+v", r)
			}
			if got := play(t, list); got.status != exitFailed || !strings.Contains(got.out, "1 of 3 chapters did not hold") {
				t.Errorf("status %d, output %q", got.status, got.out)
			}
		})
	}
}

// TestLeak has somebody let the text out, and wants the chapters that look for it to see that.
func TestLeak(t *testing.T) {
	leaks := map[string]func(s *scene, text string) error{
		"tasks": func(s *scene, text string) error {
			return s.enemy.store.nc.Publish("sb.result.pages.leak", []byte(text))
		},
		"listen": func(s *scene, text string) error { return s.enemy.agents.nc.Publish("leak", []byte(text)) },
		"disk": func(s *scene, text string) error {
			return os.WriteFile(filepath.Join(s.store, "core"), []byte("..."+text+"..."), 0o600)
		},
	}
	for name, leak := range leaks {
		t.Run(name, func(t *testing.T) {
			list := []chapter{chapters[1], {"leak", "A leak", func(_ context.Context, s *scene) error {
				text := s.text.pieces[3]
				s.fact(true, "lets some words out")
				return leak(s, text[40:40+window])
			}}, chapters[4], chapters[9], chapters[11]}
			want := name
			if name == "tasks" { // it is in the account that listen searches, and in a stream that is on the disk
				want = "listen tasks disk"
			}
			r := parse(t, play(t, list, "--json").out)
			if got := strings.Join(r.failed(), " "); got != want {
				t.Errorf("failed: %q, want %q: %+v", got, want, r)
			}
		})
	}
}

// TestBelievedAttack lets the adversary succeed: what it sends is a true frame that nobody had seen.
func TestBelievedAttack(t *testing.T) {
	t.Parallel()
	list := []chapter{{"attack", "An attack", func(ctx context.Context, s *scene) error {
		held, err := s.heldBack(ctx, "believe me")
		if err != nil {
			return err
		}
		tr := s.on(findings, "a true frame", nil, held)
		tr.frames = nil // a refusal is not waited for, it would not come
		tr.probe = func(ctx context.Context) error {
			if err := s.enemy.agents.nc.Publish(policy.TopicSubject(findings), held); err != nil {
				return err
			}
			if err := s.enemy.agents.nc.FlushWithContext(ctx); err != nil {
				return err
			}
			return s.probe(ctx, findings)
		}
		return s.try(ctx, tr)
	}}}
	got := play(t, list)
	if got.status != exitFailed || !strings.Contains(got.out, "GOT IN") || !strings.Contains(got.out, "2 believed") {
		t.Errorf("status %d\n%s", got.status, got.out)
	}
}

// TestTouchedLedger has somebody delete a message before the auditor looks, and wants it to see that.
func TestTouchedLedger(t *testing.T) {
	t.Parallel()
	list := []chapter{chapters[1], {"touch", "A touch", func(ctx context.Context, s *scene) error {
		s.fact(true, "takes a message out")
		if _, err := s.audit.Verify(ctx, ledgerStream); err != nil { // so that it is logged
			return err
		}
		v, err := vault.TakeOut(ctx, s.enemy.store.nc, ledgerStream)
		if err != nil {
			return err
		}
		return v.With(slices.Delete(slices.Clone(v.Messages), 4, 5)).PutBack(ctx, s.enemy.store.nc)
	}}, chapters[10]}
	got := play(t, list)
	if got.status != exitFailed || !strings.Contains(got.out, "NOT SO   completeness: ") || !strings.Contains(got.out, "the first at message 5") {
		t.Errorf("status %d\n%s", got.status, got.out)
	}
}

func TestInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	list := []chapter{{"wait", "Wait", func(ctx context.Context, s *scene) error {
		s.fact(true, "waits")
		cancel()
		<-ctx.Done()
		return ctx.Err()
	}}, chapters[0]}
	var out, stderr bytes.Buffer
	status := tell(ctx, list, []string{"--json"}, &out, &stderr)
	if r := parse(t, out.String()); status != exitFailed || r.OK || len(r.Chapters) != 1 || stderr.String() != "bus-demo: interrupted\n" {
		t.Errorf("status %d, %+v, error %q", status, r, &stderr)
	}
}

func TestPieces(t *testing.T) {
	t.Parallel()
	many := strings.Repeat("A paragraph.\r\nOf two lines.\n \n\n", 1000)
	list := pieces(many)
	if len(list) > maxPieces+1 || strings.Count(strings.Join(list, ""), "Of two lines.") != 1000 {
		t.Errorf("%d messages", len(list))
	}
	long := strings.Repeat("words with “quotes” ", 3*maxPiece/20)
	for _, text := range []string{long, strings.ReplaceAll(long, " ", "é")} {
		list := pieces(text)
		if strings.Join(list, "") != text {
			t.Error("what is cut does not come together again")
		}
		for _, p := range list {
			if len(p) > maxPiece || !utf8.ValidString(p) {
				t.Errorf("a message of %d bytes, valid %v", len(p), utf8.ValidString(p))
			}
		}
	}
}

func TestCutTasks(t *testing.T) {
	t.Parallel()
	for _, list := range [][]string{{"one"}, {"a\nb\nc", "d", "e\nf"}, pieces(builtIn), pieces(strings.Repeat("A paragraph.\nOf two lines.\n\n", 1000))} {
		got := cutTasks(list)
		if strings.Join(got, "") != strings.Join(list, "") || len(got) < len(list) || len(got) > max(len(list), 2*fewTasks) {
			t.Errorf("%d messages make %d tasks", len(list), len(got))
		}
	}
}

// TestTasks counts what became of the tasks.
func TestTasks(t *testing.T) {
	t.Parallel()
	list := []chapter{chapters[9]}
	r := parse(t, play(t, list, "--json").out)
	mustHold(t, r, list)
	f := r.Chapters[0].Figures
	n := float64(len(cutTasks(pieces(builtIn))))
	by, _ := f["worked_by"].(map[string]any)
	one, _ := by["writer-1"].(float64)
	two, _ := by["writer-2"].(float64)
	again, _ := f["handed_out_again"].(float64)
	if f["tasks"] != n || f["results_right"] != n || one+two != n || again < 1 || f["dead_letters"] != 1.0 || f["revived"] != 1.0 {
		t.Errorf("%v", f)
	}
}

func TestNeedles(t *testing.T) {
	t.Parallel()
	n := newNeedles([]string{"The stream has moved again.\nshort line\ntiny\n"})
	for haystack, want := range map[string]int{
		"xx stream has moved yy":     3,
		"xx stream has moved a yy":   4,
		"xx stream has mov":          0,
		"a short line in the middle": 1,
		"tiny short lin":             0,
	} {
		if got := len(n.find([]byte(haystack))); got != want {
			t.Errorf("%q: %d fragments, want %d", haystack, got, want)
		}
	}
	n.forget([]byte("it has moved again."))
	if len(n.find([]byte("e stream has moved again."))) == 0 || len(n.find([]byte(" has moved again."))) != 0 || n.known == 0 {
		t.Errorf("after forgetting: %d known", n.known)
	}
}
