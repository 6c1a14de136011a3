package audit

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// copyLog copies the files of a log, but for its lock.
func copyLog(t testing.TB, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	check(t, os.CopyFS(to, os.DirFS(from)))
	return to
}

// crashed is a log with two checkpoints, of 20 and 30 entries, and ten entries behind them.
func crashed(t *testing.T) (dir string, signer note.Signer) {
	t.Helper()
	l, dir := newLog(t)
	signer, _ = newSigner(t, testOrigin())
	for i, n := range []int{20, 30, 40} {
		value(l.Append(testEntries(int(l.Size()), n)...))(t)
		if i < 2 {
			value(l.Checkpoint(signer))(t)
		}
	}
	check(t, l.Close())
	return dir, signer
}

// goesOn opens a log after a crash: it has at least what the last checkpoint covers, nothing that was not appended, and takes more.
func goesOn(t *testing.T, dir string, least int64, signer note.Signer) {
	t.Helper()
	r := value(Read(dir))(t)
	read := r.Size()
	check(t, r.Close())
	l, err := Open(dir, testOrigin())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	n := l.Size()
	if n < least || n > 40 || value(l.Root(n))(t) != rootOf(t, testEntries(0, int(n))) {
		t.Fatalf("%d entries, at least %d were synced", n, least)
	}
	if read > n {
		t.Fatalf("a reader had %d entries, and then there were %d", read, n)
	}
	i := 0
	for raw, err := range l.Entries(0) {
		check(t, err)
		if LeafHash(raw) != value(l.LeafHash(int64(i)))(t) || string(raw) != string(value(AppendEntry(nil, testEntry(i)))(t)) {
			t.Fatalf("entry %d", i)
		}
		i++
	}
	value(l.Append(testEntries(int(n), 45)...))(t)
	value(l.Checkpoint(signer))(t)
	if value(l.Root(45))(t) != rootOf(t, testEntries(0, 45)) {
		t.Fatal("it goes on as another log")
	}
}

// TestCutAnywhere cuts each file of a log at each byte, and fills the rest with zeros as some file systems do after a power
// failure. What a checkpoint covers is there or the log says that it is damaged; otherwise it goes on.
func TestCutAnywhere(t *testing.T) {
	dir, signer := crashed(t)
	covered := map[string]int64{
		fileEntries: value(value(Read(dir))(t).endOf(30))(t), fileIndex: 30 * indexSize, fileHashes: tlog.StoredHashCount(30) * tlog.HashSize,
	}
	for _, name := range []string{fileEntries, fileIndex, fileHashes, fileCheckpoints} {
		whole := value(os.ReadFile(filepath.Join(dir, name)))(t)
		step := max(1, sparsely(len(whole)/31))
		for at := 0; at < len(whole); at += step {
			for _, zeros := range []bool{false, true} {
				to := copyLog(t, dir)
				cut := append([]byte{}, whole[:at]...)
				if zeros {
					cut = append(cut, make([]byte, len(whole)-at)...)
				}
				check(t, os.WriteFile(filepath.Join(to, name), cut, 0o600))
				least := int64(30)
				switch {
				case name == fileEntries && int64(at) < covered[name]:
					if l, err := Open(to, testOrigin()); !errors.Is(err, ErrDamaged) {
						t.Fatalf("%s cut at %d of %d, %d are covered: %v, %v", name, at, len(whole), covered[name], l, err)
					}
					if left := value(os.ReadFile(filepath.Join(to, name)))(t); len(left) != len(cut) {
						t.Fatal("a damaged log was changed")
					}
					continue
				case name == fileCheckpoints:
					least = 40 // the entries are all there
				case name != fileEntries: // made again from the entries
					least = 40
				}
				goesOn(t, to, least, signer)
			}
		}
	}
}

// TestDamage flips bits in what a checkpoint covers, where the log can tell: it does not open, or it goes on as the log that
// was signed.
func TestDamage(t *testing.T) {
	dir, signer := crashed(t)
	for _, name := range []string{fileOrigin, fileIndex, fileHashes, fileCheckpoints, fileEntries} {
		whole := value(os.ReadFile(filepath.Join(dir, name)))(t)
		for at := 0; at < len(whole); at += max(1, sparsely(len(whole)/31)) {
			to := copyLog(t, dir)
			bent := append([]byte{}, whole...)
			bent[at] ^= 0x10
			check(t, os.WriteFile(filepath.Join(to, name), bent, 0o600))
			l, err := Open(to, Origin{})
			if errors.Is(err, ErrDamaged) {
				continue
			}
			check(t, err)
			if l.Origin() != testOrigin() {
				check(t, l.Close())
				continue // another name is another log; its checkpoints do not verify
			}
			n := l.Size()
			_, err = l.Append(testEntries(int(n), 45)...)
			check(t, err)
			raw, err := l.Checkpoint(signer)
			if err == nil && (value(UnverifiedCheckpoint(raw))(t).Root != rootOf(t, testEntries(0, 45))) {
				t.Errorf("%s changed at %d: another log was signed", name, at)
			}
			if err != nil && !errors.Is(err, ErrInconsistent) {
				t.Errorf("%s changed at %d: %v", name, at, err)
			}
			check(t, l.Close())
		}
	}
}

// TestWritingFails: after an error of the disk nothing is appended or signed any more, and what was synced is there.
func TestWritingFails(t *testing.T) {
	for _, name := range []string{fileEntries, fileIndex, fileHashes, fileCheckpoints} {
		for _, how := range []string{"write", "sync"} {
			l, dir := newLog(t)
			signer, _ := newSigner(t, testOrigin())
			value(l.Append(testEntries(0, 30)...))(t)
			value(l.Checkpoint(signer))(t)
			for _, f := range []struct {
				name string
				f    *file
			}{{fileEntries, &l.entries}, {fileIndex, &l.index}, {fileHashes, &l.hashes}, {fileCheckpoints, &l.checkpoints}} {
				if f.name == name {
					*f.f = &failing{file: *f.f, how: how}
				}
			}
			_, err := l.Append(testEntries(30, 40)...)
			if err == nil {
				_, err = l.Checkpoint(signer)
			}
			if !errors.Is(err, errDisk) {
				t.Fatalf("%s of %s: %v", how, name, err)
			}
			if _, err := l.Append(testEntry(50)); !errors.Is(err, ErrFailed) {
				t.Errorf("%s of %s, and then Append: %v", how, name, err)
			}
			if _, err := l.Checkpoint(signer); !errors.Is(err, ErrFailed) {
				t.Errorf("%s of %s, and then Checkpoint: %v", how, name, err)
			}
			check(t, l.Close())
			goesOn(t, dir, 30, signer)
		}
	}
}

var errDisk = errors.New("the disk is full")

// failing fails half way.
type failing struct {
	file
	how string
}

func (f *failing) WriteAt(b []byte, at int64) (int, error) {
	if f.how != "write" {
		return f.file.WriteAt(b, at)
	}
	n, _ := f.file.WriteAt(b[:len(b)/2], at)
	return n, errDisk
}

func (f *failing) Sync() error {
	if f.how == "sync" {
		return errDisk
	}
	return f.file.Sync()
}

func (f *failing) Stat() (fs.FileInfo, error) { return f.file.Stat() }

const childLog = "AUDIT_TEST_LOG"

// TestKilled kills a process that appends, syncs and signs as fast as it can, at many moments: what it has said to be synced
// is there, and the log goes on from checkpoint to checkpoint without a contradiction.
func TestKilled(t *testing.T) {
	if dir := os.Getenv(childLog); dir != "" {
		appendUntilKilled(t, dir)
		return
	}
	dir := filepath.Join(t.TempDir(), "log")
	signed := make(map[int64]tlog.Hash)
	last := int64(0)
	for round := range 96 / sparsely(8) {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
		cmd.Env = append(os.Environ(), childLog+"="+dir)
		out := value(cmd.StdoutPipe())(t)
		check(t, cmd.Start())
		lines := bufio.NewScanner(out)
		for n := 0; n < 20+round*7 && lines.Scan(); {
			var size int64
			var root string
			if _, err := fmt.Sscanf(lines.Text(), "signed %d %s", &size, &root); err == nil {
				h := value(tlog.ParseHash(root))(t)
				signed[size] = h
			} else if _, err := fmt.Sscanf(lines.Text(), "synced %d", &size); err != nil {
				continue
			}
			last = max(last, size)
			n++
		}
		check(t, cmd.Process.Kill())
		_ = cmd.Wait()
		l := openLog(t, dir)
		if l.Size() < last {
			t.Fatalf("%d entries, and %d were synced", l.Size(), last)
		}
		last = l.Size()
		for size, root := range signed {
			if value(l.Root(size))(t) != root {
				t.Fatalf("the log of %d entries is not the one that was signed", size)
			}
		}
		check(t, l.Close())
	}
	if len(signed) == 0 {
		t.Error("nothing was signed")
	}
}

func appendUntilKilled(t *testing.T, dir string) {
	l := openLog(t, dir)
	signer, _ := newSigner(t, testOrigin())
	for start := time.Now(); time.Since(start) < time.Minute; {
		n := int(l.Size())
		value(l.Append(testEntries(n, n+1+n%50)...))(t)
		if n%3 > 0 {
			check(t, l.Sync())
			fmt.Printf("synced %d\n", l.Size())
			continue
		}
		c := value(UnverifiedCheckpoint(value(l.Checkpoint(signer))(t)))(t)
		fmt.Printf("signed %d %s\n", c.Size, c.Root)
	}
}
