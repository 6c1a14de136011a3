package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/term"
)

// Exit statuses.
const (
	exitHeld   = 0 // every chapter held
	exitFailed = 1 // one did not, or the demo could not run
	exitUsage  = 2 // a flag or what it names cannot be used; nothing was started
)

const usage = `Usage: bus-demo [flags]

Starts a broker and a few agents in this process, and one more as a process that will be killed, on
loopback, with certificates made for this run; sends a text through them, encrypted from agent to
agent; then attacks it all with everything that the owner of the broker has, and has an auditor say
what was done to what is kept.

Flags:
  --input PATH   the text: a file, or a directory whose text files are read in order (at most 1 MiB
                 in all). Without it, a short built-in text.
  --data DIR     where the broker stores, kept afterwards to be looked at. Every run makes a new
                 directory in it: DIR/run-1, DIR/run-2 and so on. Without it, a temporary
                 directory that is removed at the end.
  --json         print one JSON object, with the figures of every chapter, and nothing else
  -v             show what broker and agents log, on standard error
  -h, --help     show this

Exit status: 0 if every chapter held, 1 if not, 2 if a flag cannot be used.
NO_COLOR and TERM=dumb switch colours off; they are on only on a terminal.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once
	var status int
	if os.Getenv(hiredVar) != "" {
		status = hiredMain(ctx)
	} else {
		status = run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	}
	stop()
	os.Exit(status)
}

// options are what the flags say.
type options struct {
	input, data   string
	json, verbose bool
}

// errHelp is returned for -h.
var errHelp = flag.ErrHelp

func parseFlags(args []string) (o options, err error) {
	f := flag.NewFlagSet("bus-demo", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&o.input, "input", "", "")
	f.StringVar(&o.data, "data", "", "")
	f.BoolVar(&o.json, "json", false, "")
	f.BoolVar(&o.verbose, "v", false, "")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("%q is no flag; to send a file, write --input %s", f.Arg(0), f.Arg(0))
	}
	for _, name := range []string{"input", "data"} {
		if given(f, name) && f.Lookup(name).Value.String() == "" {
			return o, fmt.Errorf("--%s needs a path", name)
		}
	}
	return o, nil
}

func given(f *flag.FlagSet, name string) (found bool) {
	f.Visit(func(g *flag.Flag) { found = found || g.Name == name })
	return found
}

// run is the program, with the chapters of every run.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return tell(ctx, chapters, args, stdout, stderr)
}

// tell runs the story that the chapters make.
func tell(ctx context.Context, list []chapter, args []string, stdout, stderr io.Writer) int {
	o, err := parseFlags(args)
	if errors.Is(err, errHelp) {
		fmt.Fprint(stdout, usage)
		return exitHeld
	}
	fail := func(status int, err error) int {
		fmt.Fprintln(stderr, "bus-demo:", err)
		return status
	}
	if err != nil {
		fmt.Fprint(stderr, usage, "\n")
		return fail(exitUsage, err)
	}
	text, err := readInput(o.input)
	if err != nil {
		return fail(exitUsage, fmt.Errorf("--input: %w", err))
	}
	store, err := storeDir(o.data)
	if err != nil {
		return fail(exitUsage, fmt.Errorf("--data: %w", err))
	}
	work, err := os.MkdirTemp("", "bus-demo-")
	if err != nil {
		return fail(exitFailed, err)
	}
	defer os.RemoveAll(work)
	log := slog.New(slog.DiscardHandler)
	if o.verbose {
		log = slog.New(slog.NewTextHandler(stderr, nil))
	}
	p := newPage(stdout, o.json)
	st := &stage{page: p, text: text, work: work, store: store, kept: o.data != "", log: log}
	if !st.kept {
		st.store = filepath.Join(work, "store")
	}
	r, err := st.play(ctx, list)
	if o.json {
		r.print(stdout)
	}
	if ctx.Err() != nil {
		return fail(exitFailed, errors.New("interrupted"))
	}
	if err != nil {
		return fail(exitFailed, err)
	}
	if !r.OK {
		return fail(exitFailed, fmt.Errorf("did not hold: %s", strings.Join(r.failed(), ", ")))
	}
	return exitHeld
}

// storeDir makes a new directory for this run's store in dir. What an earlier run left is not touched: its
// policy is signed by another operator, and no broker goes from one operator to another by itself.
func storeDir(dir string) (string, error) {
	if dir == "" {
		return "", nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	for n := 1; n <= maxRuns; n++ {
		run := filepath.Join(dir, fmt.Sprintf("run-%d", n))
		err := os.Mkdir(run, 0o700)
		if err == nil || !errors.Is(err, os.ErrExist) {
			return run, err
		}
	}
	return "", fmt.Errorf("%s holds the stores of %d runs; remove some", dir, maxRuns)
}

// colours reports whether w is a terminal that wants colours.
func colours(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}
