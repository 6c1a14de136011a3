package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// tiny is enough to see that everything runs. It says nothing about speed.
var tiny = pace{
	rounds: 1, round: 5 * time.Millisecond, warm: time.Millisecond,
	sizes: []int{128, 20 << 10}, loneSizes: []int{128}, fanoutSizes: []int{128}, channelSizes: []int{128}, taskSizes: []int{128},
	inFlight: []int{1, 8}, subscribers: []int{3}, channels: []int{3}, members: []int{3},
	delayed: 20, replay: 300,
}

// result is what a run of the program left behind.
type result struct {
	status      int
	out, stderr string
}

// bench runs the program. It must leave nothing in the temporary directory.
func bench(ctx context.Context, t *testing.T, list []trial, args ...string) result {
	t.Helper()
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	var out, stderr bytes.Buffer
	status := run(ctx, list, tiny, tiny, args, &out, &stderr)
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	return result{status, out.String(), stderr.String()}
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

// points are the rows as "case, point".
func points(r report) (list []string) {
	for _, row := range r.Rows {
		list = append(list, row.Case+", "+row.point.String())
	}
	return list
}

// TestEverything runs every trial over the real broker.
func TestEverything(t *testing.T) {
	got := bench(t.Context(), t, trials, "--json")
	if got.status != exitDone || got.stderr != "" {
		t.Fatalf("status %d, on standard error %q", got.status, got.stderr)
	}
	r := parse(t, got.out)
	want := []string{
		"topic/live/unsigned, 128 B", "topic/live/unsigned, 20 KiB", "topic/live/signed, 128 B", "topic/live/signed, 20 KiB",
		"topic/retained/unsigned, 128 B", "topic/retained/unsigned, 20 KiB", "topic/retained/signed, 128 B", "topic/retained/signed, 20 KiB",
		"request/p50, 128 B 1 in flight", "request/p99, 128 B 1 in flight", "request/p50, 128 B 8 in flight", "request/p99, 128 B 8 in flight",
		"request/p50, 20 KiB 1 in flight", "request/p99, 20 KiB 1 in flight", "request/p50, 20 KiB 8 in flight", "request/p99, 20 KiB 8 in flight",
		"lone/unsigned, 128 B", "lone/signed, 128 B", "fanout/unsigned, 128 B 3 readers", "fanout/signed, 128 B 3 readers",
		"channels/unsigned, 128 B 3 channels", "channels/signed, 128 B 3 channels", "members/rotate, 3 members", "members/stored, 3 members",
		"task/enqueue, 128 B 8 in flight", "task/enqueue/one, 128 B 8 in flight", "task/batch, 128 B", "task/work, 128 B 8 in flight",
		"task/round/p50, 128 B", "task/round/p99, 128 B", "task/idle, 128 B", "task/late/p50, 20 in flight", "task/late/max, 20 in flight",
		"replay/shared, 1 KiB 300", "replay/lone, 1 KiB 300",
	}
	if got := points(r); !slices.Equal(got, want) {
		t.Errorf("rows: %q\nwant: %q", got, want)
	}
	for _, row := range r.Rows {
		checkRow(t, row)
	}
	if m := r.Machine; m.GOMAXPROCS < 1 || m.Go != runtime.Version() || m.OS != runtime.GOOS || m.Arch != runtime.GOARCH || r.Rounds != 1 || r.Quick || r.Error != "" {
		t.Errorf("machine and run: %+v", r)
	}
}

func checkRow(t *testing.T, r row) {
	t.Helper()
	if r.Sealed <= 0 || r.Unit == "" {
		t.Errorf("%+v", r)
	}
	if strings.HasPrefix(r.Case, "members") || strings.HasPrefix(r.Case, "task/late") {
		if r.Plain != 0 || r.Ratio != 0 || r.CPU != nil {
			t.Errorf("compared with plain NATS: %+v", r)
		}
		return
	}
	if r.Plain <= 0 || r.Worst <= 0 || r.Ratio < r.Worst || r.Best < r.Ratio || r.Size == 0 {
		t.Errorf("%+v", r)
	}
	if r.Allocs == nil || r.Allocs.Plain <= 0 || r.Bytes == nil || r.Bytes.Sealed <= 0 {
		t.Errorf("allocations of %s: %+v, bytes %+v", r.Case, r.Allocs, r.Bytes)
	}
	if _, ok := cpuTime(); ok != (r.CPU != nil) {
		t.Errorf("CPU time of %s: %+v", r.Case, r.CPU)
	}
	if lone := strings.HasPrefix(r.Case, "lone/") || r.Case == "task/idle"; lone != (r.Difference != nil) {
		t.Errorf("difference of %s: %v", r.Case, r.Difference)
	}
}

func TestTable(t *testing.T) {
	dir := t.TempDir()
	cpu, mem := filepath.Join(dir, "cpu"), filepath.Join(dir, "mem")
	got := bench(t.Context(), t, trials, "--quick", "--case", "topic/live/signed", "--size", "64, 2KiB", "--rounds", "2", "--cpuprofile", cpu, "--memprofile", mem)
	if got.status != exitDone || got.stderr != "" || strings.ContainsRune(got.out, '\x1b') {
		t.Errorf("status %d, on standard error %q, output %q", got.status, got.stderr, got.out)
	}
	for _, want := range []string{"medians of 2 rounds.", thisMachine().String(), "ratio  min–max", "topic/live/signed        64 B ", "topic/live/signed        2 KiB "} {
		if !strings.Contains(got.out, want) {
			t.Errorf("no %q in\n%s", want, got.out)
		}
	}
	if n := strings.Count(got.out, "msg/s"); n != 2 {
		t.Errorf("%d rows in\n%s", n, got.out)
	}
	for _, name := range []string{cpu, mem} {
		if info, err := os.Stat(name); err != nil || info.Size() == 0 {
			t.Errorf("profile: %v, %v", info, err)
		}
	}
}

func TestPattern(t *testing.T) {
	for pattern, want := range map[string][]string{
		"request/p99":   {"request/p99, 128 B 1 in flight", "request/p99, 128 B 8 in flight"},
		"lone":          {"lone/unsigned, 128 B", "lone/signed, 128 B"},
		"f*/unsigned":   {"fanout/unsigned, 128 B 3 readers"},
		"members/store": {"members/stored, 10 members", "members/stored, 12 members"},
	} {
		got := bench(t.Context(), t, trials, "--json", "--rounds=1", "--case", pattern, "--size=128", "--members=12")
		if list := points(parse(t, got.out)); got.status != exitDone || !slices.Equal(list, want) {
			t.Errorf("--case %s: status %d, %q, %q; want %q", pattern, got.status, got.stderr, list, want)
		}
	}
}

func TestUnusable(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"unknown flag", []string{"--fast"}, "fast"},
		{"argument", []string{"topic/live"}, "--case topic/live"},
		{"no such case", []string{"--case", "topics"}, "no case of that name"},
		{"bad pattern", []string{"--case", "topic/[a"}, "does not close"},
		{"no case", []string{"--case", ""}, "needs a value"},
		{"no size", []string{"--size", ""}, "needs a value"},
		{"size of nothing", []string{"--size", "128,0"}, `"0" is no size`},
		{"size of a word", []string{"--size", "big"}, `"big" is no size`},
		{"size past the limit", []string{"--size", "961KiB"}, `"961KiB" is no size`},
		{"no rounds", []string{"--rounds", "0"}, "--rounds 0"},
		{"too many rounds", []string{"--rounds", "100"}, "--rounds 100"},
		{"one member", []string{"--members", "1"}, "--members 1"},
		{"too many members", []string{"--members", "1001"}, "--members 1001"},
		{"no messages", []string{"--messages", "0"}, "--messages 0"},
		{"profile nowhere", []string{"--cpuprofile", filepath.Join(t.TempDir(), "none", "cpu")}, "--cpuprofile"},
		{"profile a directory", []string{"--memprofile", t.TempDir()}, "--memprofile"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := bench(t.Context(), t, trials, append([]string{"--json"}, c.args...)...)
			if got.status != exitUsage || got.out != "" || !strings.Contains(got.stderr, c.want) {
				t.Errorf("status %d, output %q, error %q; want %q", got.status, got.out, got.stderr, c.want)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	for _, flag := range []string{"-h", "--help"} {
		got := bench(t.Context(), t, trials, flag)
		if got.status != exitDone || !strings.Contains(got.out, "--case PATTERN") || !strings.Contains(got.out, "  request/p99\n") || got.stderr != "" {
			t.Errorf("%s: %+v", flag, got)
		}
	}
}

// failing is a trial in which something goes wrong once everything runs.
func failing(fail func(st *stage) error) trial {
	t := live("failing", "signed")
	t.open = func(ctx context.Context, st *stage, at point) (side, side, error) {
		p, s, err := streams(ctx, st, at.Size, 1, []string{"plain"}, []string{"signed"})
		if err != nil {
			return nil, nil, err
		}
		sealed := s.(*stream)
		publish := sealed.publish
		sealed.publish = func(ctx context.Context) error { return errors.Join(publish(ctx), fail(st)) }
		return p, s, nil
	}
	return t
}

func TestFailing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, c := range []struct {
		name string
		fail func(st *stage) error
		want string
	}{
		{"publishing", func(*stage) error { return errors.New("broken") }, "sealed: broken"},
		{"a rejection", func(st *stage) error { st.faults.add(errors.New("rejected")); return nil }, "sealed: rejected"},
		{"interrupted", func(*stage) error { cancel(); return nil }, "interrupted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := bench(ctx, t, []trial{lone("lone/signed", "signed"), failing(c.fail), request("request")}, "--json")
			r := parse(t, got.out)
			if got.status != exitFailed || !strings.Contains(r.Error, c.want) || !strings.Contains(got.stderr, c.want) || len(r.Rows) != 1 {
				t.Errorf("status %d, error %q, %+v", got.status, got.stderr, r)
			}
		})
	}
}

// TestLost has more and fewer messages handled than were sent.
func TestLost(t *testing.T) {
	for _, c := range []struct {
		sent, handled int
		want          string
	}{
		{3, 3, ""},
		{3, 2, "3 messages were sent and 2 handled; the others are lost"},
		{3, 4, "3 messages were sent and 4 handled"},
	} {
		f := newFlow(128, 2, newFaults())
		f.stall = time.Nanosecond
		for range c.sent {
			if err := f.room(t.Context()); err != nil {
				t.Fatal(err)
			}
			f.gauges[0].add()
		}
		for range c.handled {
			f.gauges[1].add()
		}
		if err := f.drain(t.Context()); c.want == "" && err != nil || c.want != "" && (err == nil || err.Error() != c.want) {
			t.Errorf("%d sent, %d handled: %v, want %q", c.sent, c.handled, err, c.want)
		}
	}
}

// TestWindow has a publisher that is much quicker than its subscriber.
func TestWindow(t *testing.T) {
	const n = 100_000
	f := newFlow(128, 1, newFaults())
	messages := make(chan struct{}, maxOnWay)
	go func() {
		for range n {
			<-messages
			f.gauges[0].add()
		}
	}()
	for range n {
		if err := f.room(t.Context()); err != nil {
			t.Fatal(err)
		}
		select {
		case messages <- struct{}{}:
		default:
			t.Fatal("more is on the way than may be")
		}
	}
	if err := f.drain(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestFigures(t *testing.T) {
	var each []time.Duration
	for i := range 100 {
		each = append(each, time.Duration(100-i)*time.Microsecond)
	}
	o := outcome{count: 50, took: 2 * time.Second, each: each}
	if a, b, c := rate(o), quantile(0.5)(o), quantile(0.99)(o); a != 25 || b != 50 || c != 99 {
		t.Errorf("rate %v, p50 %v, p99 %v", a, b, c)
	}
	if a, b := median([]float64{3, 1, 2}), median([]float64{4, 1, 2, 3}); a != 2 || b != 2.5 {
		t.Errorf("medians %v and %v", a, b)
	}
	laps := func(durations ...time.Duration) (list []lap) {
		for _, d := range durations {
			list = append(list, lap{outcome: outcome{each: []time.Duration{d * time.Microsecond}}})
		}
		return list
	}
	plain, sealed := laps(100, 200, 300), laps(50, 400, 300)
	r := newRow("lone", point{Size: 1}, typical[0], plain, sealed)
	if r.Ratio != 1 || r.Worst != 0.5 || r.Best != 2 || r.Plain != 200 || r.Sealed != 300 || *r.Difference != 100 {
		t.Errorf("of latencies: %+v", r)
	}
	for x, want := range map[float64]string{0.123: "0.12", 12.34: "12.3", 1234.5: "1,235", 1e6: "1,000,000"} {
		if got := amount(x); got != want {
			t.Errorf("%v: %q, want %q", x, got, want)
		}
	}
}
