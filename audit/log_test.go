package audit

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// newLog opens a new log in a new directory.
func newLog(t testing.TB) (*Log, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "log")
	return openLog(t, dir), dir
}

func openLog(t testing.TB, dir string) *Log {
	t.Helper()
	l, err := Open(dir, testOrigin())
	check(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// rootOf is the root that the reference implementation has for entries.
func rootOf(t testing.TB, entries []*Entry) tlog.Hash {
	t.Helper()
	var stored []tlog.Hash
	read := tlog.HashReaderFunc(func(at []int64) (list []tlog.Hash, err error) {
		for _, n := range at {
			list = append(list, stored[n])
		}
		return list, nil
	})
	for i, e := range entries {
		raw := value(AppendEntry(nil, e))(t)
		more := value(tlog.StoredHashes(int64(i), raw, read))(t)
		stored = append(stored, more...)
	}
	return value(tlog.TreeHash(int64(len(entries)), read))(t)
}

// TestLogIsTheTree appends in batches of many sizes, with the log closed and opened between them: it is the tree that RFC 6962
// says, with every entry where it belongs, and proofs that verify.
func TestLogIsTheTree(t *testing.T) {
	l, dir := newLog(t)
	signer, known := newSigner(t, testOrigin())
	all := testEntries(0, 300)
	at, batch := 0, 1
	var older Checkpoint
	for at < len(all) {
		end := min(at+batch, len(all))
		first := value(l.Append(all[at:end]...))(t)
		if first != int64(at) {
			t.Fatalf("the batch after %d entries is at %d", at, first)
		}
		at, batch = end, batch+3
		if l.Size() != int64(at) || value(l.Root(int64(at)))(t) != rootOf(t, all[:at]) {
			t.Fatalf("another tree of %d entries", at)
		}
		raw := value(l.Checkpoint(signer))(t)
		c := value(OpenCheckpoint(raw, known))(t)
		if c.Size != int64(at) || c.Origin != testOrigin() || c.Root != rootOf(t, all[:at]) {
			t.Fatalf("checkpoint %+v", c)
		}
		if older.Size > 0 {
			check(t, tlog.CheckTree(value(l.ProveTree(older.Size, c.Size))(t), c.Size, c.Root, older.Size, older.Root))
		}
		older = c
		check(t, l.Close())
		l = openLog(t, dir)
	}
	for i, want := range all {
		if got := value(l.Entry(int64(i)))(t); got != *want {
			t.Fatalf("entry %d is %+v", i, got)
		}
		p := value(l.Prove(int64(i)))(t)
		text := value(p.Text())(t)
		if again := value(ParseProof(text))(t); value(again.Verify(p.Extra, known))(t) != older {
			t.Fatalf("entry %d is not proven", i)
		}
		if _, err := p.Verify(value(AppendEntry(nil, all[(i+1)%len(all)]))(t), known); !errors.Is(err, ErrProof) {
			t.Fatalf("the proof of entry %d proves another: %v", i, err)
		}
	}
	n := 0
	for raw, err := range l.Entries(17) {
		check(t, err)
		if string(raw) != string(value(AppendEntry(nil, all[17+n]))(t)) {
			t.Fatalf("entry %d", 17+n)
		}
		n++
	}
	if n != len(all)-17 {
		t.Errorf("%d entries from the 17th on", n)
	}
	if last := value(l.Last())(t); last.Frame.Sequence != 300 {
		t.Errorf("the last is %v", &last)
	}
}

// TestAppendRefuses: what is refused changes nothing.
func TestAppendRefuses(t *testing.T) {
	l, _ := newLog(t)
	value(l.Append(testEntries(0, 3)...))(t)
	root := value(l.Root(3))(t)
	for name, e := range map[string]*Entry{
		"from before the last": testEntry(1),
		"of no kind":           {Logged: testEpoch.Add(time.Hour)},
	} {
		if _, err := l.Append(testEntry(3), e); !errors.Is(err, ErrMalformed) {
			t.Errorf("an entry %s: %v", name, err)
		}
	}
	if l.Size() != 3 || value(l.Root(3))(t) != root {
		t.Error("the log has changed")
	}
	value(l.Append(testEntry(3)))(t)
	if value(l.Root(4))(t) != rootOf(t, testEntries(0, 4)) {
		t.Error("the log has another root")
	}
}

func TestLogBelongsToOne(t *testing.T) {
	l, dir := newLog(t)
	if _, err := Open(dir, testOrigin()); !errors.Is(err, ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
	value(l.Append(testEntries(0, 5)...))(t)
	r := value(Read(dir))(t)
	if r.Size() != 5 || r.Origin() != testOrigin() {
		t.Errorf("a reader beside it has %d entries of %s", r.Size(), r.Origin())
	}
	check(t, r.Close())
	check(t, r.Close())
	check(t, l.Close())
	check(t, l.Close())
	for name, err := range map[string]error{
		"Append": func() error { _, err := l.Append(testEntry(5)); return err }(), "Sync": l.Sync(),
		"AddStatement": l.AddStatement(Statement{StatementCard, []byte("x")}),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
	other := testOrigin()
	other.Stream = "SB_TOPIC_other"
	if _, err := Open(dir, other); err == nil {
		t.Error("opened as the log of another stream")
	}
	if l, err := Open(dir, Origin{}); err != nil || l.Origin() != testOrigin() || l.Close() != nil {
		t.Errorf("opened as whichever it is: %v", err)
	}
	if _, err := Open(t.TempDir(), Origin{}); err == nil {
		t.Error("a log of nobody was made")
	}
}

// TestCheckpoints: what is signed is kept, in order; the same log is signed once; under no other name; and not at all where it
// is not the one that was signed.
func TestCheckpoints(t *testing.T) {
	l, dir := newLog(t)
	signer, known := newSigner(t, testOrigin())
	if _, err := l.Checkpoint(signer); err == nil {
		t.Error("a log without entries was signed")
	}
	if l.LastCheckpoint() != nil {
		t.Error("a checkpoint of nothing")
	}
	var all [][]byte
	for i := range 4 {
		value(l.Append(testEntries(i*3, i*3+3)...))(t)
		all = append(all, value(l.Checkpoint(signer))(t))
		if again := value(l.Checkpoint(signer))(t); string(again) != string(all[i]) || string(l.LastCheckpoint()) != string(all[i]) {
			t.Error("the same log has two checkpoints")
		}
	}
	other, _ := newSigner(t, Origin{testOrigin().Auditor, testOrigin().Log, "SB_TOPIC_other"})
	value(l.Append(testEntry(12)))(t)
	if _, err := l.Checkpoint(other); err == nil {
		t.Error("signed under another name")
	}
	n := 0
	for raw, err := range l.Checkpoints() {
		check(t, err)
		if string(raw) != string(all[n]) {
			t.Errorf("checkpoint %d is another", n)
		}
		check(t, l.Extends(raw))
		n++
	}
	if n != len(all) {
		t.Errorf("%d checkpoints of %d", n, len(all))
	}
	r := value(Read(dir))(t)
	if string(r.LastCheckpoint()) != string(all[3]) || r.Size() != 13 {
		t.Errorf("a reader has %d entries", r.Size())
	}
	p := value(r.Prove(11))(t)
	value(p.Verify(p.Extra, known))(t)
	if _, err := r.Prove(12); !errors.Is(err, ErrNotFound) {
		t.Errorf("an entry that is not covered is proven: %v", err)
	}
	check(t, r.Close())
}

// TestNeverSignsAnother: hashes that are changed under a running log, and a log that was put back to an earlier state, do not get
// a signature beside the one from before.
func TestNeverSignsAnother(t *testing.T) {
	l, dir := newLog(t)
	signer, _ := newSigner(t, testOrigin())
	value(l.Append(testEntries(0, 10)...))(t)
	value(l.Checkpoint(signer))(t)
	value(l.Append(testEntries(10, 20)...))(t)
	later := value(l.Checkpoint(signer))(t)
	value(l.Append(testEntry(20)))(t)
	f := value(os.OpenFile(filepath.Join(dir, fileHashes), os.O_RDWR, 0))(t)
	for i := int64(0); i < tlog.StoredHashCount(20); i++ {
		var b [1]byte
		value(f.ReadAt(b[:], i*tlog.HashSize))(t)
		value(f.WriteAt([]byte{b[0] ^ 1}, i*tlog.HashSize))(t)
		_, err := l.Checkpoint(signer)
		touched := true // a hash that no proof of this size needs
		if err == nil {
			touched = false
		}
		if touched && !errors.Is(err, ErrInconsistent) {
			t.Fatalf("hash %d changed: %v", i, err)
		}
		value(f.WriteAt(b[:], i*tlog.HashSize))(t)
		if !touched {
			value(l.Append(testEntry(int(l.Size()))))(t)
		}
	}
	value(l.Checkpoint(signer))(t)

	// The first ten entries, and then others.
	back := openLog(t, filepath.Join(t.TempDir(), "back"))
	value(back.Append(testEntries(0, 10)...))(t)
	if err := back.Extends(later); !errors.Is(err, ErrInconsistent) {
		t.Errorf("a log that was put back extends a later checkpoint: %v", err)
	}
	for i := 10; i < 30; i++ {
		e := testEntry(i)
		e.Frame.Size++
		value(back.Append(e))(t)
	}
	if err := back.Extends(later); !errors.Is(err, ErrInconsistent) {
		t.Errorf("a forked log extends the other's checkpoint: %v", err)
	}
}

func TestFind(t *testing.T) {
	l, _ := newLog(t)
	data := func(i int) []byte { return []byte{byte(i), byte(i >> 8)} }
	var entries []*Entry
	add := func(seq, content int) {
		e := FrameEntry(&Stored{uint64(seq), testEpoch, "sb.topic.ledger", data(content)}, testEpoch, 1)
		entries = append(entries, &e)
		for range seq % 4 {
			entries = append(entries, &Entry{Kind: KindStill, Logged: testEpoch})
		}
	}
	for seq := 5; seq < 200; seq += 1 + seq%3 {
		add(seq, seq)
	}
	value(l.Append(entries...))(t)
	find := func(seq, content int) (int64, error) {
		return l.Find(&Stored{Sequence: uint64(seq), Data: data(content)})
	}
	for i, e := range entries {
		if e.Kind != KindFrame {
			continue
		}
		if got := value(find(int(e.Frame.Sequence), int(e.Frame.Sequence)))(t); got != int64(i) {
			t.Errorf("message %d is found at %d, not %d", e.Frame.Sequence, got, i)
		}
		if _, err := find(int(e.Frame.Sequence), 0); !errors.Is(err, ErrNotFound) {
			t.Errorf("message %d with other data: %v", e.Frame.Sequence, err)
		}
	}
	for _, seq := range []int{1, 6, 1000} {
		if _, err := find(seq, seq); !errors.Is(err, ErrNotFound) {
			t.Errorf("message %d: %v", seq, err)
		}
	}
	// The stream was made anew: sequences begin again.
	entries = nil
	for seq := 1; seq < 20; seq++ {
		add(seq, 1000+seq)
	}
	at := value(l.Append(entries...))(t)
	if got := value(find(1, 1001))(t); got != at {
		t.Errorf("the first message of the new stream is found at %d, not %d", got, at)
	}
	if got, err := find(5, 5); err != nil || got != 0 {
		t.Errorf("the message of the old stream: %d, %v", got, err)
	}
}

func TestStatementFiles(t *testing.T) {
	l, dir := newLog(t)
	var want []string
	for _, s := range []Statement{{StatementKey, []byte("k")}, {StatementPolicy, []byte("p")}, {StatementCard, []byte("c")}, {StatementPolicy, []byte("p")}} {
		check(t, l.AddStatement(s))
	}
	for _, s := range []Statement{{0, []byte("x")}, {statementCount, []byte("x")}, {StatementCard, nil}, {StatementCard, make([]byte, MaxStatement+1)}} {
		if err := l.AddStatement(s); !errors.Is(err, ErrMalformed) {
			t.Errorf("a statement of kind %d with %d bytes: %v", s.Kind, len(s.Raw), err)
		}
	}
	check(t, os.WriteFile(filepath.Join(dir, dirStatements, "card", ".half.tmp"), []byte("half"), 0o600))
	for s, err := range l.Statements() {
		check(t, err)
		want = append(want, s.Kind.String()+" "+string(s.Raw))
	}
	if len(want) != 3 || want[0] != "policy p" || want[1] != "card c" || want[2] != "key k" {
		t.Errorf("statements %q", want)
	}
	for range l.Statements() {
		break
	}
}
