package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/sealbus/sealbus/identity"
)

// options are what the command line says.
type options struct {
	command, file         string
	other                 string // to be compared with
	operators             []identity.Fingerprint
	ca, domain            string
	fresh                 time.Duration
	sequence              uint64
	out, cards, data      string
	entries, json, strict bool
	verifying             bool // what is in the file
}

func parseFlags(args []string) (o options, err error) {
	if len(args) == 0 {
		return o, errors.New("no command")
	}
	if o.command = args[0]; slices.Contains([]string{"-h", "-help", "--help", "help"}, o.command) {
		return o, flag.ErrHelp
	}
	c, ok := commands[o.command]
	if !ok {
		return o, fmt.Errorf("there is no command %q", o.command)
	}
	f := flag.NewFlagSet("bus-audit", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	var operators string
	f.StringVar(&operators, "operator", "", "")
	f.StringVar(&o.ca, "ca", "", "")
	f.StringVar(&o.domain, "trust-domain", "", "")
	f.DurationVar(&o.fresh, "fresh", 0, "")
	f.Uint64Var(&o.sequence, "sequence", 0, "")
	f.StringVar(&o.out, "out", "", "")
	f.StringVar(&o.cards, "cards", "", "")
	f.StringVar(&o.data, "data", "", "")
	f.BoolVar(&o.entries, "entries", false, "")
	f.BoolVar(&o.strict, "strict", false, "")
	f.BoolVar(&o.json, "json", false, "")
	files, err := parseMixed(f, args[1:])
	if err != nil {
		return o, err
	}
	f.Visit(func(g *flag.Flag) {
		switch {
		case err != nil:
		case !slices.Contains(c.flags, g.Name):
			err = fmt.Errorf("%s takes no --%s", o.command, g.Name)
		case g.Value.String() == "":
			err = fmt.Errorf("--%s needs a value", g.Name)
		}
	})
	if err != nil {
		return o, err
	}
	switch {
	case o.command == "compare" && len(files) != 2:
		return o, fmt.Errorf("compare takes two files, not %d", len(files))
	case o.command == "compare":
		o.other = files[1]
	case len(files) != 1:
		return o, fmt.Errorf("%s takes one file, not %d", o.command, len(files))
	}
	o.file = files[0]
	if err := o.check(f); err != nil {
		return o, err
	}
	return o, o.parseOperators(operators)
}

// parseMixed parses flags before and behind the other arguments, which it returns. Behind "--" there are only those.
func parseMixed(f *flag.FlagSet, args []string) (rest []string, err error) {
	var plain []string
	if i := slices.Index(args, "--"); i >= 0 {
		args, plain = args[:i], args[i+1:]
	}
	for {
		if err := f.Parse(args); err != nil {
			return nil, err
		}
		if f.NArg() == 0 {
			return append(rest, plain...), nil
		}
		rest, args = append(rest, f.Arg(0)), f.Args()[1:]
	}
}

// check looks at what a command needs.
func (o *options) check(f *flag.FlagSet) error {
	given := make(map[string]bool)
	f.Visit(func(g *flag.Flag) { given[g.Name] = true })
	o.verifying = slices.Contains(commands[o.command].flags, "operator")
	switch {
	case o.file == "", o.command == "compare" && o.other == "":
		return errors.New("the file has no name")
	case o.verifying && !given["operator"]:
		return fmt.Errorf("%s needs --operator: the fingerprint of the operator's key, from somebody you trust", o.command)
	case o.verifying && !given["ca"]:
		return fmt.Errorf("%s needs --ca: the certificate authorities, from somebody you trust", o.command)
	case given["fresh"] && o.fresh <= 0:
		return fmt.Errorf("--fresh %v: give a time such as 10m", o.fresh)
	case o.command == "prove" && o.sequence == 0:
		return errors.New("prove needs --sequence: the message's number in the stream, from 1")
	case o.command == "check-proof" && !given["cards"]:
		return errors.New("check-proof needs --cards: an export or a log, which has the card of the auditor that has signed")
	}
	return nil
}

func (o *options) parseOperators(list string) error {
	if !o.verifying {
		return nil
	}
	for text := range strings.SplitSeq(list, ",") {
		fp, err := identity.ParseFingerprint(strings.TrimSpace(text))
		if err != nil {
			return fmt.Errorf("--operator: %w", err)
		}
		o.operators = append(o.operators, fp)
	}
	return nil
}
