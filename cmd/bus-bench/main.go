package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/pprof"
	"syscall"
)

// Exit statuses.
const (
	exitDone   = 0 // everything was measured
	exitFailed = 1 // a message was lost, or something could not run
	exitUsage  = 2 // a flag cannot be used; nothing was started
)

const usage = `Usage: bus-bench [flags]

Measures Sealbus against plain NATS: through the same broker node, which runs in this process, over the
same mutual TLS, on loopback, with certificates made for this run. The two take turns in every round;
the figures are medians over the rounds. A ratio above 1 means that Sealbus is better.

Flags:
  --quick            a shorter run, in under 40 seconds: fewer and shorter rounds, fewer points
  --json             print one JSON object and nothing else
  --case PATTERN     only the cases whose names begin with PATTERN or match it ("*" and "?" stand for
                     anything but a slash): topic/live, "topic/*/signed", request/p99
  --size LIST        payload sizes instead of the usual: 128,1KiB,16KiB,256KiB
  --members N        up to how many members a topic gets, 2 to 1,000, instead of the usual 100 (10 with
                     --quick); to gather them takes longer than in proportion to their number
  --messages N       how many messages are read back, instead of the usual 100,000 (10,000 with --quick)
  --rounds N         rounds instead of the usual 5, or 3 with --quick
  --cpuprofile FILE  write a CPU profile of the whole run; with --case, of that case
  --memprofile FILE  write a profile of what was allocated
  -h, --help         show this

Cases:
%s
Exit status: 0 if everything was measured, 1 if a message was lost or something could not run, 2 if a
flag cannot be used.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once
	status := run(ctx, trials, fullPace, quickPace, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// run is the program, with the trials that it knows and how long it takes over them.
func run(ctx context.Context, list []trial, full, quick pace, args []string, stdout, stderr io.Writer) int {
	o, err := parseFlags(args, list, full, quick)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(stdout, usage, caseNames(list))
		return exitDone
	}
	fail := func(status int, err error) int {
		fmt.Fprintln(stderr, "bus-bench:", err)
		return status
	}
	if err != nil {
		fmt.Fprintf(stderr, usage+"\n", caseNames(list))
		return fail(exitUsage, err)
	}
	stop, err := startProfiles(o)
	if err != nil {
		return fail(exitUsage, err)
	}
	r := &report{Machine: thisMachine(), Quick: o.quick, Rounds: o.pace.rounds, Rows: []row{}}
	p := newPage(stdout, stderr, o.json)
	p.title(r.Machine, o)
	err = errors.Join(runAll(ctx, list, o, r, p), stop())
	if ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	if err != nil {
		r.Error = err.Error()
	}
	if o.json {
		r.print(stdout)
	}
	if err != nil {
		return fail(exitFailed, err)
	}
	return exitDone
}

// runAll measures what was asked for. Every trial has a broker of its own, with a new store, at every point: what one
// has left behind is not to slow down the next.
func runAll(ctx context.Context, list []trial, o options, r *report, p *page) (err error) {
	work, err := os.MkdirTemp("", "bus-bench-")
	if err != nil {
		return err
	}
	defer func() {
		p.clear()
		err = errors.Join(err, os.RemoveAll(work))
	}()
	for i := range list {
		t := &list[i]
		if !t.chosen(o.pattern) {
			continue
		}
		for _, at := range t.points(o.pace) {
			progress := func(what string) { p.status("%s, %s: %s", t.name, at, what) }
			progress("connecting")
			rows, err := onStage(ctx, work, t, at, func(st *stage) ([]row, error) { return measure(ctx, st, t, at, o.pace, progress) })
			if err != nil {
				return fmt.Errorf("%s, %s: %w", t.name, at, err)
			}
			for _, row := range rows {
				if selects(o.pattern, row.Case) {
					p.row(row)
					r.Rows = append(r.Rows, row)
				}
			}
		}
	}
	return nil
}

func onStage(ctx context.Context, work string, t *trial, at point, do func(*stage) ([]row, error)) (rows []row, err error) {
	st, err := newStage(ctx, work, t.rules(at))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.close(ctx)) }()
	return do(st)
}

// startProfiles starts what the flags ask for. Both files are made at once, so that a wrong path is known before
// anything is measured.
func startProfiles(o options) (stop func() error, err error) {
	var cpu, mem *os.File
	if o.cpuProfile != "" {
		if cpu, err = os.Create(o.cpuProfile); err != nil {
			return nil, fmt.Errorf("--cpuprofile: %w", err)
		}
	}
	if o.memProfile != "" {
		if mem, err = os.Create(o.memProfile); err != nil {
			return nil, fmt.Errorf("--memprofile: %w", err)
		}
	}
	if cpu != nil {
		if err := pprof.StartCPUProfile(cpu); err != nil {
			return nil, err
		}
	}
	return func() (err error) {
		if cpu != nil {
			pprof.StopCPUProfile()
			err = cpu.Close()
		}
		if mem != nil {
			runtime.GC() // what a profile holds is as of the last one
			err = errors.Join(err, pprof.Lookup("allocs").WriteTo(mem, 0), mem.Close())
		}
		return err
	}, nil
}
