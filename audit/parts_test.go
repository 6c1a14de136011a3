package audit

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sealbus/sealbus/internal/envelope"
)

// TestSpans compares spans with a plain set.
func TestSpans(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for range 300 {
		var s, other spans
		set, voids := make(map[uint64]bool), make(map[uint64]bool)
		for range r.IntN(40) {
			from := 1 + r.Uint64N(60)
			n := span{from: from, to: from + r.Uint64N(4)}
			to, in := &s, set
			if r.IntN(3) == 0 {
				to, in = &other, voids
			}
			to.add(n)
			for i := n.from; i <= n.to; i++ {
				in[i] = true
			}
		}
		last := uint64(0)
		for n := range set {
			last = max(last, n)
		}
		if s.max() != last {
			t.Fatalf("seed %d: the highest is %d, not %d", seed, s.max(), last)
		}
		var missing []uint64
		for n := uint64(1); n <= last+3; n++ {
			if s.has(n) != set[n] {
				t.Fatalf("seed %d: has %d: %v", seed, n, s.has(n))
			}
			if !set[n] && !voids[n] {
				missing = append(missing, n)
			}
		}
		var got []uint64
		s.holes(last+3, func(h hole) {
			h.without(other, func(h hole) {
				for n := h.from; n <= h.to; n++ {
					got = append(got, n)
				}
			})
		})
		if !slices.Equal(got, missing) {
			t.Fatalf("seed %d: %v are missing, not %v", seed, got, missing)
		}
		for i := 1; i < len(s); i++ {
			if s[i].from <= s[i-1].to+1 {
				t.Fatalf("seed %d: %v", seed, s)
			}
		}
	}
}

// TestTree compares the tree's edge with the reference implementation.
func TestTree(t *testing.T) {
	var mine tree
	var stored []byte
	read := tlog.HashReaderFunc(func(at []int64) (list []tlog.Hash, err error) {
		for _, n := range at {
			list = append(list, tlog.Hash(stored[n*tlog.HashSize:][:tlog.HashSize]))
		}
		return list, nil
	})
	for i := range int64(200) {
		if got := mine.root(); got != value(tlog.TreeHash(i, read))(t) {
			t.Fatalf("the root of %d leaves is %v", i, got)
		}
		again := value(treeOf(i, read))(t)
		if again.root() != mine.root() || again.size != i {
			t.Fatalf("read again, the root of %d leaves is %v", i, again.root())
		}
		leaf := tlog.RecordHash(fmt.Append(nil, i))
		var want []byte
		for _, h := range value(tlog.StoredHashesForRecordHash(i, leaf, read))(t) {
			want = append(want, h[:]...)
		}
		got := mine.add(nil, leaf)
		if string(got) != string(want) || string(again.add(nil, leaf)) != string(want) {
			t.Fatalf("leaf %d completes other hashes", i)
		}
		stored = append(stored, got...)
	}
}

// TestExpect: where a frame may be, in which stream.
func TestExpect(t *testing.T) {
	const claim = "0123456789abcdef0123456789abcdef"
	task := testEntry(3).Frame.Header.ID
	for _, test := range []struct {
		stream, subject string
		kind            envelope.Kind
		recipient       string
		want            string // channel, recipient and what else; empty: nothing belongs there
	}{
		{"SB_TOPIC_ledger", "sb.topic.ledger", envelope.KindEvent, "ledger", "topic/ledger ledger counted"},
		{"SB_TOPIC_ledger", "sb.topic.ledger.a.b", envelope.KindEvent, "ledger.a.b", "topic/ledger ledger.a.b counted"},
		{"SB_TOPIC_ledger", "sb.topic.ledger", envelope.KindControl, "ledger.close", "topic/ledger ledger.close counted note"},
		{"SB_TOPIC_ledger", "sb.topic.ledger.a", envelope.KindControl, "ledger.close", ""},
		{"SB_TOPIC_ledger", "sb.topic.ledger", envelope.KindControl, "other.close", ""},
		{"SB_TOPIC_ledger", "sb.topic.ledger", envelope.KindControl, "ledger.a", ""},
		{"SB_TOPIC_ledger", "sb.topic.ledgers", envelope.KindEvent, "ledgers", ""},
		{"SB_TOPIC_ledger", "sb.task.ledger.1", envelope.KindTask, "ledger", ""},
		{"SB_TOPIC_ledger", "ledger", envelope.KindEvent, "ledger", ""},
		{"SB_TASK_work", "sb.task.work.0", envelope.KindTask, "work", "queue/work work counted"},
		{"SB_TASK_work", "sb.task.work.4", envelope.KindTask, "work", ""},
		{"SB_TASK_work", "sb.task.other.0", envelope.KindTask, "other", ""},
		{"SB_TASK_work", "sb.due.work.3", envelope.KindTask, "work", "queue/work work late"},
		{"SB_TASK_work", "sb.spread.work.3", envelope.KindTask, "work", "queue/work work copy late"},
		{"SB_TASK_work", "sb.spread.work.3", envelope.KindTask, "work." + claim + ".2", "queue/work work." + claim + ".2 copy late"},
		{"SB_TASK_work", "sb.spread.work.3", envelope.KindTask, "other." + claim + ".2", "queue/work work copy late"}, // which it is not for
		{"SB_TASK_work", "sb.unique.work." + claim + ".2", envelope.KindTask, "work." + claim + ".2", "queue/work work." + claim + ".2 counted"},
		{"SB_TASK_work", "sb.unique.work." + claim + ".9", envelope.KindTask, "work." + claim + ".9", ""},
		{"SB_TASK_work", "sb.unique.other." + claim + ".2", envelope.KindTask, "other." + claim + ".2", ""},
		{"SB_TASK_work", "sb.session.work", envelope.KindControl, "work.idle", "queue/work work.idle counted note"},
		{"SB_TASK_work", "sb.session.other", envelope.KindControl, "other.idle", ""},
		{"SB_TASK_work", "sb.session.work", envelope.KindTask, "work", ""},
		{"SB_RESULT_work", "sb.result.work." + task.String(), envelope.KindResult, "work", "result/work work ref"},
		{"SB_RESULT_work", "sb.result.work.01M82T3C6NF9XAJ1X38GD0BNKB", envelope.KindResult, "work", ""},
		{"SB_RESULT_work", "sb.dead.work." + task.String(), envelope.KindError, "work", ""},
		{"SB_DEAD_work", "sb.dead.work." + task.String(), envelope.KindError, "work", "result/work work ref"},
		{"SB_DEAD_work", "sb.dead.work.01M82T3C6NF9XAJ1X38GD0BNKB", envelope.KindError, "work", "result/work work ref"},
		{"SB_DEAD_work", "sb.dead.other." + task.String(), envelope.KindError, "other", ""},
		{"SB_OTHER", "sb.topic.ledger", envelope.KindEvent, "ledger", ""},
	} {
		h := testEntry(3).Frame.Header
		h.Kind, h.Recipient, h.Ref = test.kind, test.recipient, task
		e, ok := Expect(test.stream, test.subject, &h)
		got := ""
		if ok {
			got = e.Channel.String() + " " + e.Want.Recipient
			for name, is := range map[string]bool{" counted": e.Counted, " copy": e.Copy, " late": e.Late, " note": e.Note, " ref": e.Want.Ref == task} {
				if is && !strings.Contains(test.want, name) {
					t.Errorf("%s in %s: %s", test.subject, test.stream, name)
				}
				if is {
					got += name
				}
			}
		}
		if (got == "") != (test.want == "") || len(strings.Fields(got)) != len(strings.Fields(test.want)) || !strings.HasPrefix(test.want, strings.Join(strings.Fields(got)[:min(2, len(strings.Fields(got)))], " ")) {
			t.Errorf("%s in %s for %s: %q, want %q", test.subject, test.stream, test.recipient, got, test.want)
		}
	}
	if _, ok := Expect("SB_TOPIC_ledger", "sb.topic.ledger", &Header{}); ok {
		t.Error("what is no frame belongs somewhere")
	}
}

// TestDirectory: the second place keeps all that it is given, and says when two checkpoints contradict each other.
func TestDirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "second")
	d := value(NewDirectory(path))(t)
	o := testOrigin()
	signer, _ := newSigner(t, o)
	sign := func(size int64, root byte) []byte {
		return value(SignCheckpoint(&Checkpoint{o, size, tlog.Hash{root}}, signer))(t)
	}
	put := func(raw []byte) error { return d.Put(t.Context(), o.Stream, raw) }
	check(t, put(sign(5, 1)))
	check(t, put(sign(10, 2)))
	check(t, put(sign(10, 2))) // again
	for name, raw := range map[string][]byte{"fewer entries": sign(7, 1), "another root": sign(10, 3)} {
		if err := put(raw); !errors.Is(err, ErrInconsistent) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := d.Put(t.Context(), "SB_TOPIC_other", sign(20, 1)); err == nil {
		t.Error("a checkpoint of another stream is kept")
	}
	if err := put([]byte("rubbish")); !errors.Is(err, ErrMalformed) {
		t.Errorf("rubbish: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.Put(ended, o.Stream, sign(20, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
	var sizes []int64
	collect := func(list iter.Seq2[[]byte, error]) {
		sizes = nil
		for raw, err := range list {
			check(t, err)
			sizes = append(sizes, value(UnverifiedCheckpoint(raw))(t).Size)
		}
	}
	check(t, os.WriteFile(filepath.Join(path, o.Stream, "auditor."+o.Log.String(), ".half.tmp"), nil, 0o600))
	collect(d.Checkpoints(o.Stream))
	if !slices.Equal(sizes, []int64{5, 7, 10, 10}) {
		t.Errorf("checkpoints of %v entries", sizes)
	}
	if c := value(UnverifiedCheckpoint(value(d.Latest(o))(t)))(t); c.Size != 10 || c.Root[0] != 2 {
		t.Errorf("the latest is %+v", c)
	}
	other := o
	other.Log[5]++
	if raw := value(d.Latest(other))(t); raw != nil {
		t.Errorf("the latest of another log is %s", raw)
	}
	collect(d.Checkpoints("SB_TOPIC_none"))
	if len(sizes) != 0 {
		t.Error("there are checkpoints of a stream that has none")
	}
	for _, err := range d.Checkpoints("../up") {
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("a stream's name with a way out: %v", err)
		}
	}
	if _, err := NewDirectory(""); err == nil {
		t.Error("a directory without a path")
	}
}

// TestOrigins: what names a log has one spelling.
func TestOrigins(t *testing.T) {
	o := testOrigin()
	if got := value(ParseOrigin(o.String()))(t); got != o {
		t.Errorf("%v", got)
	}
	for _, s := range []string{
		"", "a/b/c", "a/b/c/d", o.String() + "/", "/" + o.String(), strings.ToLower(o.String()), strings.ReplaceAll(o.String(), "SB_", "SB "),
		strings.Replace(o.String(), "auditor", "Auditor", 1), strings.Replace(o.String(), "01M", "81M", 1),
		"example.org/auditor/00000000000000000000000000/SB_TOPIC_x", "example.org/auditor/01M82T3C6NF9XAJ1X38GD0BNKB/" + strings.Repeat("x", 129),
	} {
		if o, err := ParseOrigin(s); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q is read as %v, %v", s, o, err)
		}
	}
}

// TestVerifyNeeds: what Verify cannot do without, and how the errors of its sources come back.
func TestVerifyNeeds(t *testing.T) {
	if _, err := Verify(t.Context(), &Input{}); err == nil {
		t.Error("nothing is verified")
	}
	l := &rawLog{origin: testOrigin()}
	st := NewStatements(Trust{Domain: testOrigin().Auditor.TrustDomain()})
	l.origin.Stream = "SB_OTHER"
	if _, err := Verify(t.Context(), &Input{Log: l, Statements: st}); err == nil {
		t.Error("a stream that nobody audits is verified")
	}
	l.origin = testOrigin()
	if _, err := Verify(t.Context(), &Input{Log: l, Statements: st, Places: []Place{{}}}); err == nil {
		t.Error("a place without a name is looked at")
	}
	r := value(Verify(t.Context(), &Input{Log: l, Statements: st}))(t)
	wants(t, r, "unproven ok unproven unproven FAILED")
	l.list = [][]byte{value(AppendEntry(nil, eventOf(KindOpened)))(t), value(AppendEntry(nil, testEntry(1)))(t)}
	broken := errors.New("the line is down")
	in := &Input{Log: l, Statements: st, Frames: FramesFunc(func(context.Context) iter.Seq2[Stored, error] {
		return func(yield func(Stored, error) bool) { yield(Stored{}, broken) }
	})}
	if _, err := Verify(t.Context(), in); !errors.Is(err, broken) {
		t.Errorf("the stream cannot be read: %v", err)
	}
	in = &Input{Log: l, Statements: st, Places: []Place{{"x", func(yield func([]byte, error) bool) { yield(nil, broken) }}}}
	if _, err := Verify(t.Context(), in); !errors.Is(err, broken) {
		t.Errorf("checkpoints cannot be read: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Verify(ended, &Input{Log: l, Statements: st}); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
}

// TestManyFindings: all are counted, the first of them are kept.
func TestManyFindings(t *testing.T) {
	var v Verdict
	for i := range 3 * MaxFindings {
		v.fail(Position{uint64(1000 - i), -1}, "finding %d", i)
		v.leave(Position{uint64(i), -1}, "doubt %d", i)
	}
	v.settle("something", "")
	if at, _ := v.First(); v.Findings != 3*MaxFindings || v.Open != 3*MaxFindings || len(v.Kept) != 2*MaxFindings || at.Sequence != 1001-3*MaxFindings {
		t.Errorf("%d findings, %d open, %d kept, the first at %s", v.Findings, v.Open, len(v.Kept), at)
	}
	page := (&Report{Integrity: v}).String()
	if !strings.Contains(page, fmt.Sprintf("and %d more", 6*MaxFindings-shownFindings)) {
		t.Errorf("%s", page)
	}
}

// TestImports keeps out what this package must not depend on.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	check(t, err)
	forbidden := map[string]string{
		"github.com/nats-io/":                 "whoever verifies needs no broker",
		"github.com/sealbus/sealbus/broker":   "the broker is what is audited",
		"github.com/sealbus/sealbus/agentbus": "imports run one way",
		"github.com/synadia-io/":              "as nats-io",
	}
	for dep := range strings.FieldsSeq(string(out)) {
		for prefix, why := range forbidden {
			if strings.HasPrefix(dep, prefix) {
				t.Errorf("%s is linked, but %s", dep, why)
			}
		}
		if dep == "net/http" {
			t.Error("net/http is linked, but an export is verified without a network")
		}
	}
}
