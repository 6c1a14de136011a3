package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sealbus/sealbus/audit"
	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/identity/devca"
)

// TestHandedOut runs every command on what a real auditor has handed out.
func TestHandedOut(t *testing.T) {
	e := gather(t)
	t.Run("verify", e.verify)
	t.Run("exit statuses", e.statuses)
	t.Run("show", e.show)
	t.Run("compare", e.compare)
	t.Run("proof", e.proof)
	t.Run("disclosed", e.disclosed)
	t.Run("another's trust", e.anothersTrust)
	t.Run("broken files", e.brokenFiles)
	t.Run("output", e.output)
}

func (e *evidence) verify(t *testing.T) {
	got := audited(t, e.with("verify", e.export)...)
	if got.status != exitOK || got.stderr != "" || !strings.HasSuffix(got.out, "\nAll of it is as it should be.\n") {
		t.Errorf("status %d, %s%s", got.status, got.out, got.stderr)
	}
	names := []string{"integrity", "order", "completeness", "authenticity", "freshness"}
	for _, name := range names {
		if !strings.Contains(got.out, "\n"+name) {
			t.Errorf("no verdict on %s in\n%s", name, got.out)
		}
	}
	r := parse[report](t, audited(t, e.with("verify", e.export, "--json", "--trust-domain", "example.org")...).out)
	if len(r.Verdicts) != len(names) || r.ExitStatus != 0 || r.Messages != int64(len(e.frames(t))) || r.Covered != r.Entries || !strings.HasPrefix(r.Log, "example.org/clerk/") {
		t.Errorf("%+v", r)
	}
	for i, v := range r.Verdicts {
		if v.Name != names[i] || v.State != "ok" || v.Findings+v.Unproven > 0 || v.First != nil {
			t.Errorf("%+v", v)
		}
	}
}

// statuses has one thing wrong at a time.
func (e *evidence) statuses(t *testing.T) {
	for _, c := range []struct {
		file   string
		args   []string
		status int
		failed string
		at     uint64
	}{
		{e.changed(t, "same", func(l []audit.Stored) []audit.Stored { return l }), nil, exitOK, "", 0},
		{e.changed(t, "edited", func(l []audit.Stored) []audit.Stored {
			l[2].Data = bytes.Clone(l[2].Data)
			l[2].Data[len(l[2].Data)/2] ^= 1
			return l
		}), nil, 10, "integrity", 3},
		{e.changed(t, "swapped", func(l []audit.Stored) []audit.Stored {
			l[2].Data, l[3].Data = l[3].Data, l[2].Data
			return l
		}), nil, 11, "order", 3},
		{e.changed(t, "deleted", func(l []audit.Stored) []audit.Stored { return slices.Delete(l, 3, 4) }), nil, 12, "completeness", 4},
		{e.changed(t, "cut", func(l []audit.Stored) []audit.Stored { return l[:4] }), nil, 12, "completeness", 5},
		{e.changed(t, "empty", func(l []audit.Stored) []audit.Stored { return nil }), nil, 12, "completeness", 1},
		{e.forged, nil, 13, "authenticity", 8},
		{e.export, []string{"--fresh", "1ns"}, 14, "freshness", 0},
	} {
		name := filepath.Base(c.file)
		args := e.with(append([]string{"verify", c.file}, c.args...)...)
		got := audited(t, args...)
		if got.status != c.status || got.stderr != "" || c.failed != "" && !strings.HasSuffix(got.out, "\nFAILED: "+c.failed+"\n") {
			t.Errorf("%s: status %d, want %d; %s%s", name, got.status, c.status, got.out, got.stderr)
			continue
		}
		again := audited(t, append(args, "--json")...)
		r := parse[report](t, again.out)
		if r.ExitStatus != c.status || again.status != c.status {
			t.Errorf("%s: exit status %d in the JSON, %d beside it, want %d", name, r.ExitStatus, again.status, c.status)
		}
		for _, v := range r.Verdicts {
			if (v.State == "failed") != (v.Name == c.failed) || v.Name == c.failed && c.at > 0 && (v.First == nil || v.First.Sequence != c.at) {
				t.Errorf("%s: %+v", name, v)
			}
		}
	}
	// While a sender is at work, nobody can say that all of it is there.
	open := audited(t, e.with("verify", e.unclosed)...)
	if open.status != exitOK || !strings.HasSuffix(open.out, "\nNothing is wrong. NOT PROVEN: completeness\n") {
		t.Errorf("a session that is open: status %d, %s%s", open.status, open.out, open.stderr)
	}
	if got := audited(t, e.with("verify", e.unclosed, "--strict")...); got.status != exitFailed || got.out != open.out {
		t.Errorf("strictly: status %d, %s%s", got.status, got.out, got.stderr)
	}
	// The log alone says what was there, and not that it is.
	got := audited(t, e.with("verify", e.log)...)
	if got.status != 13 || !strings.Contains(got.out, "the stream was not looked at") {
		t.Errorf("the log alone: status %d, %s%s", got.status, got.out, got.stderr)
	}
}

func (e *evidence) show(t *testing.T) {
	got := audited(t, "show", e.export)
	for _, want := range []string{"example.org/clerk/", "7 frame", "Nothing of this is verified", "7 messages, 1 to 7", "1 policy", "2 cards"} {
		if got.status != exitOK || !strings.Contains(got.out, want) {
			t.Errorf("status %d, no %q in %s%s", got.status, want, got.out, got.stderr)
		}
	}
	c := parse[contents](t, audited(t, "show", e.export, "--json", "--entries").out)
	if c.Entries == 0 || int64(len(c.List)) != c.Entries || c.Kinds["frame"] != c.Messages.Count || c.Covered != c.Entries || c.Made == "" {
		t.Errorf("%+v", c)
	}
	c = parse[contents](t, audited(t, "show", e.forged, "--json", "--entries").out)
	if i := slices.IndexFunc(c.List, func(l listed) bool { return l.Sequence == 8 }); i < 0 || c.List[i].Outcome != "malformed" {
		t.Errorf("%+v", c.List)
	}
	c = parse[contents](t, audited(t, "show", e.log, "--json").out)
	if c.Messages != nil || c.Made != "" || c.Kinds["closed"] != 1 {
		t.Errorf("%+v", c)
	}
	got = audited(t, "show", e.forged, "--entries")
	if got.status != exitOK || !strings.Contains(got.out, "REFUSED: malformed") || !strings.Contains(got.out, `of "spiffe://example.org/agent/feed"`) {
		t.Errorf("status %d, %s%s", got.status, got.out, got.stderr)
	}
}

// compare has the logs of auditors who were shown the same, and of one who was not.
func (e *evidence) compare(t *testing.T) {
	got := audited(t, "compare", e.export, e.second)
	if got.status != exitOK || !strings.Contains(got.out, "both logs say the same") || !strings.Contains(got.out, "example.org/auditor/") {
		t.Errorf("status %d, %s%s", got.status, got.out, got.stderr)
	}
	for _, logs := range [][]string{{e.log, e.third}, {e.third, e.export}} {
		got = audited(t, "compare", logs[0], logs[1])
		if got.status != exitFailed || got.stderr != "" || !strings.Contains(got.out, "the first at message 3") {
			t.Errorf("status %d, %s%s", got.status, got.out, got.stderr)
		}
		c := parse[comparison](t, audited(t, "compare", "--json", logs[0], logs[1]).out)
		if c.ExitStatus != exitFailed || c.Agreement.State != "failed" || c.Agreement.Findings != 1 || c.Agreement.First.Sequence != 3 || c.Logs[0] == c.Logs[1] {
			t.Errorf("%+v", c)
		}
	}
}

func (e *evidence) proof(t *testing.T) {
	number := strconv.FormatUint(e.sequence, 10)
	for _, from := range []string{e.export, e.log} {
		file := filepath.Join(t.TempDir(), "proof")
		printed := audited(t, "prove", from, "--sequence", number)
		if printed.status != exitOK || !strings.HasPrefix(printed.out, "c2sp.org/tlog-proof@v1\n") {
			t.Fatalf("status %d, %s%s", printed.status, printed.out, printed.stderr)
		}
		if got := audited(t, "prove", from, "--sequence", number, "--out", file); got.status != exitOK || got.out != "" {
			t.Fatalf("status %d, %s%s", got.status, got.out, got.stderr)
		}
		text, err := os.ReadFile(file)
		if err != nil || string(text) != printed.out {
			t.Errorf("%v, %q", err, text)
		}
		if got := audited(t, "prove", from, "--sequence", number, "--out", file); got.status != exitFailed || !strings.Contains(got.stderr, "exist") {
			t.Errorf("over a file that is there: status %d, %s", got.status, got.stderr)
		}
		checked := e.with("check-proof", file, "--cards", e.export)
		got := audited(t, append(checked, "--data", e.data)...)
		if got.status != exitOK || !strings.Contains(got.out, "\nProven: ") || !strings.Contains(got.out, "is the message that was logged") {
			t.Errorf("status %d, %s%s", got.status, got.out, got.stderr)
		}
		p := parse[proven](t, audited(t, append(checked, "--json")...).out)
		if p.Entry.Sequence != e.sequence || p.Compared || len(p.SHA256) != 64 || p.Entry.Sender != "spiffe://example.org/agent/feed" {
			t.Errorf("%+v", p)
		}
		if got := audited(t, append(checked, "--data", e.disclosure)...); got.status != exitFailed || !strings.Contains(got.stderr, "is not the message") {
			t.Errorf("another message: status %d, %s%s", got.status, got.out, got.stderr)
		}
		e.flip(t, text)
	}
	if got := audited(t, "prove", e.export, "--sequence", "1000"); got.status != exitFailed || !strings.Contains(got.stderr, "no such frame") {
		t.Errorf("a message that there is not: status %d, %s%s", got.status, got.out, got.stderr)
	}
}

// flip changes bytes of a proof.
func (e *evidence) flip(t *testing.T, text []byte) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "changed")
	for i := 0; i < len(text); i += 7 {
		text[i] ^= 1
		check(t, os.WriteFile(name, text, 0o600))
		text[i] ^= 1
		if got := audited(t, e.with("check-proof", name, "--cards", e.export)...); got.status != exitFailed || got.out != "" {
			t.Fatalf("with byte %d changed: status %d, %s", i, got.status, got.out)
		}
	}
}

func (e *evidence) disclosed(t *testing.T) {
	got := audited(t, e.with("disclosed", e.disclosure)...)
	for _, want := range []string{"spiffe://example.org/agent/feed\n", `  | \u001b[2Jsell\u000d\u202e everything` + "\n  | \n  | Proven: the sender has signed nothing\n",
		`"content-type": "text/plain"`, "1 of 1 message that was sealed", `as message 3 on "sb.topic.ledger.a"`} {
		if got.status != exitOK || !strings.Contains(got.out, want) {
			t.Errorf("status %d, no %q in\n%s%s", got.status, want, got.out, got.stderr)
		}
	}
	d := parse[shown](t, audited(t, e.with("disclosed", e.disclosure, "--json")...).out)
	if d.Sender != "spiffe://example.org/agent/feed" || d.Sequence != e.sequence || len(d.Messages) != 1 || string(d.Messages[0].Payload) != evil ||
		d.Messages[0].Headers[0] != [2]string{"content-type", "text/plain"} {
		t.Errorf("%+v", d)
	}
	raw, err := os.ReadFile(e.disclosure)
	check(t, err)
	lie := write(t, "lie", bytes.Replace(raw, []byte("sell"), []byte("keep"), 1))
	if got := audited(t, e.with("disclosed", lie)...); got.status != exitFailed || got.out != "" || !strings.Contains(got.stderr, "proves nothing") {
		t.Errorf("another word: status %d, %s%s", got.status, got.out, got.stderr)
	}
}

// anothersTrust goes by another operator, another authority, another trust domain.
func (e *evidence) anothersTrust(t *testing.T) {
	operator, err := identity.GenerateOperatorKey()
	check(t, err)
	ca, err := devca.New("example.org")
	check(t, err)
	proof := write(t, "proof", []byte(audited(t, "prove", e.export, "--sequence", "3").out))
	for name, trust := range map[string][]string{
		"operator":     {"--operator", operator.Fingerprint().String(), "--ca", e.trust[3]},
		"authority":    {"--operator", e.trust[1], "--ca", write(t, "ca.pem", authority(ca))},
		"trust domain": {"--operator", e.trust[1], "--ca", e.trust[3], "--trust-domain", "example.com"},
	} {
		for _, args := range [][]string{{"verify", e.export}, {"disclosed", e.disclosure}, {"check-proof", proof, "--cards", e.export}} {
			if name == "operator" && args[0] == "check-proof" {
				continue // no policy has a part in who has signed
			}
			got := audited(t, append(args, trust...)...)
			if got.status == exitOK || got.status == exitUsage || strings.Contains(got.out, "Proven") {
				t.Errorf("another %s: %s: status %d, %s%s", name, args[0], got.status, got.out, got.stderr)
			}
		}
	}
}

// brokenFiles gives every command what it cannot read.
func (e *evidence) brokenFiles(t *testing.T) {
	whole, err := os.ReadFile(e.export)
	check(t, err)
	for name, path := range map[string]string{
		"no file": filepath.Join(t.TempDir(), "none"), "empty": write(t, "empty", nil), "text": write(t, "text", []byte("no export\n")),
		"cut": write(t, "cut", whole[:len(whole)/2]), "no log": t.TempDir(),
	} {
		for _, args := range [][]string{
			e.with("verify", path), {"show", path}, {"compare", e.export, path}, {"compare", path, e.export}, {"prove", path, "--sequence", "1"}, e.with("check-proof", path, "--cards", e.export),
			e.with("disclosed", path),
		} {
			if got := audited(t, args...); got.status != exitFailed || got.out != "" || !strings.HasPrefix(got.stderr, "bus-audit: ") || strings.Contains(got.stderr, "Usage") {
				t.Errorf("%s: %s: status %d, %q, %q", name, args[0], got.status, got.out, got.stderr)
			}
		}
	}
	for name, ca := range map[string]string{"no file": filepath.Join(t.TempDir(), "none"), "no PEM": e.data, "a directory": e.dir, "empty": write(t, "empty", nil)} {
		got := audited(t, "verify", e.export, "--operator", e.trust[1], "--ca", ca)
		if got.status != exitUsage || got.out != "" || !strings.Contains(got.stderr, "--ca") {
			t.Errorf("authorities of %s: status %d, %q, %q", name, got.status, got.out, got.stderr)
		}
	}
	if got := audited(t, e.with("verify", e.export, "--trust-domain", "a b")...); got.status != exitUsage || !strings.Contains(got.stderr, "--trust-domain") {
		t.Errorf("no trust domain: status %d, %q", got.status, got.stderr)
	}
	if got := audited(t, e.with("check-proof", write(t, "none", nil), "--cards", filepath.Join(t.TempDir(), "none"))...); got.status != exitFailed {
		t.Errorf("no cards: status %d, %q", got.status, got.stderr)
	}
}

// output has a verdict that nobody can be told.
func (e *evidence) output(t *testing.T) {
	var stderr bytes.Buffer
	if status := run(t.Context(), e.with("verify", e.export), broken{}, &stderr); status != exitFailed {
		t.Errorf("status %d, %s", status, &stderr)
	}
}
