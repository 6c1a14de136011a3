package main

import (
	"flag"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/sealbus/sealbus/agentbus"
)

// options are what the flags say.
type options struct {
	quick, json            bool
	pattern                string
	cpuProfile, memProfile string
	pace                   pace
}

func parseFlags(args []string, list []trial, full, quick pace) (o options, err error) {
	f := flag.NewFlagSet("bus-bench", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.BoolVar(&o.quick, "quick", false, "")
	f.BoolVar(&o.json, "json", false, "")
	f.StringVar(&o.pattern, "case", "", "")
	f.StringVar(&o.cpuProfile, "cpuprofile", "", "")
	f.StringVar(&o.memProfile, "memprofile", "", "")
	sizes, rounds, members, messages := f.String("size", "", ""), f.Int("rounds", 0, ""), f.Int("members", 0, ""), f.Int("messages", 0, "")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("%q is no flag; for one case only, write --case %s", f.Arg(0), f.Arg(0))
	}
	for _, name := range []string{"case", "size", "cpuprofile", "memprofile"} {
		if given(f, name) && f.Lookup(name).Value.String() == "" {
			return o, fmt.Errorf("--%s needs a value", name)
		}
	}
	if o.pace = full; o.quick {
		o.pace = quick
	}
	if given(f, "rounds") {
		if *rounds < 1 || *rounds > maxRounds {
			return o, fmt.Errorf("--rounds %d: give 1 to %d", *rounds, maxRounds)
		}
		o.pace.rounds = *rounds
	}
	if given(f, "members") {
		if *members < 2 || *members > maxMembers {
			return o, fmt.Errorf("--members %d: give 2 to %d", *members, maxMembers)
		}
		o.pace.members = upTo(*members)
	}
	if given(f, "messages") {
		if *messages < 1 || *messages > maxReplay {
			return o, fmt.Errorf("--messages %d: give 1 to %d", *messages, maxReplay)
		}
		o.pace.replay = *messages
	}
	if *sizes != "" {
		list, err := parseSizes(*sizes)
		if err != nil {
			return o, err
		}
		o.pace.sizes, o.pace.loneSizes, o.pace.fanoutSizes, o.pace.channelSizes, o.pace.taskSizes = list, list, list, list, list
	}
	return o, checkPattern(o.pattern, list)
}

// upTo returns 10, 100 and 1,000 as far as they are below n, and n.
func upTo(n int) (list []int) {
	for i := 10; i < n; i *= 10 {
		list = append(list, i)
	}
	return append(list, n)
}

func given(f *flag.FlagSet, name string) (found bool) {
	f.Visit(func(g *flag.Flag) { found = found || g.Name == name })
	return found
}

func checkPattern(pattern string, list []trial) error {
	if _, err := path.Match(pattern, ""); err != nil {
		return fmt.Errorf("--case %s: a bracket that does not close", pattern)
	}
	for i := range list {
		if list[i].chosen(pattern) {
			return nil
		}
	}
	return fmt.Errorf("--case %s: no case of that name", pattern)
}

func parseSizes(text string) (sizes []int, err error) {
	for field := range strings.SplitSeq(text, ",") {
		digits, unit := strings.TrimSpace(field), 1
		if kib, ok := strings.CutSuffix(digits, "KiB"); ok {
			digits, unit = kib, 1<<10
		}
		n, err := strconv.Atoi(strings.TrimSpace(digits))
		if err != nil || n < minSize || n > agentbus.MaxPayload/unit {
			return nil, fmt.Errorf("--size %s: %q is no size: give 1 to %d, or as KiB", text, field, agentbus.MaxPayload)
		}
		sizes = append(sizes, n*unit)
	}
	return sizes, nil
}

// caseNames lists the cases for the usage text.
func caseNames(list []trial) string {
	var b strings.Builder
	for i := range list {
		for _, f := range list[i].figures {
			fmt.Fprintf(&b, "  %s\n", list[i].name+f.suffix)
		}
	}
	return b.String()
}
