package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// Exit statuses. Those from 10 on are audit.Report's own.
const (
	exitOK     = 0 // nothing failed
	exitFailed = 1 // it does not prove what it should, or could not be read
	exitUsage  = 2 // the command cannot be carried out as it was written
)

const usage = `Usage: bus-audit COMMAND FILE [flags]

Verifies what an auditor of Sealbus hands out, with no network and no key that opens anything.

Commands:
  verify FILE        gives the verdicts on an export, or on the log in a directory
  show FILE          says what is in it, and verifies nothing
  compare FILE FILE  says whether the logs of two auditors agree on a stream; verify each before
  prove FILE         writes the proof that a message is in the log (C2SP tlog-proof)
  check-proof PROOF  verifies such a proof, and says what it is about
  disclosed FILE     verifies a disclosure, and prints the messages that it shows

Flags of verify, check-proof and disclosed, what they go by:
  --operator LIST    fingerprints of the operators' keys, sha256:…, required
  --ca FILE          the certificate authorities, PEM, those of the past as well; required
  --trust-domain TD  theirs; by default it is read from the authorities' SPIFFE ID
Others:
  --fresh D          verify: how old the last checkpoint may be, as of the export (default 1h)
  --strict           verify: what is not proven is a failure, of status 1
  --sequence N       prove: the message's number in the stream
  --out FILE         prove: where to write the proof instead of standard output
  --cards FILE       check-proof: the export or log that has the auditor's card
  --data FILE        check-proof: the message as the stream holds it, to be compared with the proof
  --entries          show: list the log's entries as well
  --json             print one JSON object instead of a page, and nothing else; not for prove
  -h, --help         show this

Exit status: 0 if nothing failed, 2 if the command cannot be carried out as it was written. The first
verdict of verify that failed: 10 integrity, 11 order, 12 completeness, 13 authenticity, 14 freshness.
1 for everything else: what cannot be read, integrity or authenticity that is not proven, logs that
do not agree, and a proof or a disclosure that proves nothing.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once
	status := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// commands are what can be asked for. Each returns the exit status, or an error, which is exitFailed unless it is a usageError.
var commands = map[string]struct {
	flags []string // that it takes
	run   func(context.Context, *options, *page) (int, error)
}{
	"verify":      {[]string{"operator", "ca", "trust-domain", "fresh", "strict", "json"}, verify},
	"show":        {[]string{"entries", "json"}, show},
	"compare":     {[]string{"json"}, compareLogs},
	"prove":       {[]string{"sequence", "out"}, prove},
	"check-proof": {[]string{"operator", "ca", "trust-domain", "cards", "data", "json"}, checkProof},
	"disclosed":   {[]string{"operator", "ca", "trust-domain", "json"}, disclosed},
}

// usageError is an error in how the command was written.
type usageError struct{ error }

func wrong(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// run is the program.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	fail := func(status int, err error) int {
		fmt.Fprintln(stderr, "bus-audit:", printable(err.Error()))
		return status
	}
	o, err := parseFlags(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, usage)
		return exitOK
	}
	if err != nil {
		fmt.Fprint(stderr, usage, "\n")
		return fail(exitUsage, err)
	}
	p := &page{json: o.json}
	status, err := commands[o.command].run(ctx, &o, p)
	if ctx.Err() != nil {
		return fail(exitFailed, errors.New("interrupted"))
	}
	var misused usageError
	switch {
	case errors.As(err, &misused):
		return fail(exitUsage, err)
	case err != nil:
		return fail(exitFailed, err)
	}
	if err := p.to(stdout); err != nil { // what nobody could read is no good news
		return fail(exitFailed, err)
	}
	return status
}
