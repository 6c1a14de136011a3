package audit

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sealbus/sealbus/internal/safefile"
)

// Log is a Merkle log of one stream on disk, in a directory of its own. It only grows. It belongs to one process at a time.
// It is safe for concurrent use; entries are in the order of the calls. Its memory does not grow with it.
type Log struct {
	reader
	release func() error // of the lock

	mu     sync.Mutex // everything below, and all writing
	tree   tree
	logged time.Time // of the last entry
	last   signed    // the newest checkpoint
	signed int64     // bytes of checkpoints
	failed error
	closed bool
	bytes  scratch
}

// signed is a checkpoint with its note; Size is 0 where there is none.
type signed struct {
	Checkpoint
	raw []byte
}

// scratch is memory for what is written at once.
type scratch struct{ entries, index, hashes, entry []byte }

// maxScratch is how much of it is kept from one Append to the next.
const maxScratch = 4 << 20

// Open opens the log in a directory, or makes it there for the origin. One that is there must have this origin; a zero
// Origin takes whichever it has. After a crash, at any byte, it has everything that was synced, in whole entries.
// ErrDamaged means that something is gone which a checkpoint covered, ErrLocked that another process has it open.
func Open(dir string, origin Origin) (*Log, error) {
	if err := makeLog(dir, origin); err != nil {
		return nil, err
	}
	release, err := lockFile(filepath.Join(dir, fileLock))
	if err != nil {
		return nil, fmt.Errorf("audit: opening the log: %w", err)
	}
	l := &Log{release: release}
	if err = l.open(dir, true); err == nil {
		err = l.recover()
	}
	if err == nil && !origin.IsZero() && l.origin != origin {
		err = fmt.Errorf("audit: %s holds the log %s, not %s", dir, l.origin, origin)
	}
	if err != nil {
		return nil, errors.Join(err, l.closeFiles(), release())
	}
	return l, nil
}

// Append adds entries at the end, in order, and returns the index of the first. All or none are in the log afterwards, unless the
// error is another than ErrMalformed or ErrClosed, which is final: ErrFailed from then on. Entries must not go back in time. They
// are on disk after the next Sync or Checkpoint. Many at a time cost less.
func (l *Log) Append(entries ...*Entry) (first int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return 0, err
	}
	first = l.size.Load()
	grown, err := l.encode(entries)
	if err != nil {
		return 0, err
	}
	b := &l.bytes
	if err := errors.Join(
		writeAt(l.entries, b.entries, l.end.Load()),
		writeAt(l.index, b.index, first*indexSize),
		writeAt(l.hashes, b.hashes, tlog.StoredHashCount(first)*tlog.HashSize),
	); err != nil {
		l.failed = fmt.Errorf("audit: writing the log: %w", err)
		return 0, l.failed
	}
	if len(entries) > 0 {
		l.tree, l.logged = grown, entries[len(entries)-1].Logged
	}
	l.end.Add(int64(len(b.entries)))
	l.size.Add(int64(len(entries)))
	if cap(b.entries) > maxScratch {
		*b = scratch{}
	}
	return first, nil
}

// encode fills the scratch with what is to be written for entries at the end, and returns the tree with them.
func (l *Log) encode(entries []*Entry) (tree, error) {
	b, logged, grown := &l.bytes, l.logged, l.tree.clone()
	b.entries, b.index, b.hashes = b.entries[:0], b.index[:0], b.hashes[:0]
	var err error
	for _, e := range entries {
		if b.entry, err = AppendEntry(b.entry[:0], e); err != nil {
			return tree{}, err
		}
		if e.Logged.Before(logged) {
			return tree{}, malformed("an entry of %s after one of %s: a log does not go back in time", stamp(e.Logged), stamp(logged))
		}
		logged = e.Logged
		b.entries = appendRecord(b.entries, b.entry)
		b.index = appendEnd(b.index, l.end.Load()+int64(len(b.entries)))
		b.hashes = grown.add(b.hashes, LeafHash(b.entry))
	}
	return grown, nil
}

// Logged returns the time of the last entry: what is appended next must not be from before. It is zero for a log without
// entries.
func (l *Log) Logged() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.logged
}

// Sync returns when all entries appended before are on disk: one fsync.
func (l *Log) Sync() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	return l.sync(l.entries)
}

func (l *Log) sync(files ...file) error {
	for _, f := range files {
		if err := f.Sync(); err != nil { // what the kernel has not written it may have dropped
			l.failed = fmt.Errorf("audit: syncing the log: %w", err)
			return l.failed
		}
	}
	return nil
}

// AddStatement keeps a statement beside the log, once: what an entry of kind policy, card or key names by its hash. It is on disk
// when AddStatement returns, so what is appended afterwards does not go without it.
func (l *Log) AddStatement(s Statement) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	return addStatement(l.dir, s)
}

// Checkpoint syncs the log, signs what it is now, keeps that and returns it. Where nothing was appended since the last one, it
// returns that one. It proves first that the log extends the last checkpoint: ErrInconsistent, and nothing is signed, if not.
// The signer's name is the origin's text: Ring.NoteSigner(l.Origin().String()).
func (l *Log) Checkpoint(signer note.Signer) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return nil, err
	}
	next := signed{Checkpoint: Checkpoint{Origin: l.origin, Size: l.size.Load()}}
	switch {
	case next.Size == 0:
		return nil, errors.New("audit: a log without entries has no checkpoint")
	case next.Size == l.last.Size:
		return slices.Clone(l.last.raw), nil
	}
	if err := l.sync(l.entries, l.index, l.hashes); err != nil {
		return nil, err
	}
	var err error
	if next.Root, err = l.Root(next.Size); err != nil {
		return nil, err
	}
	if err := l.extends(&l.last.Checkpoint, &next.Checkpoint); err != nil {
		return nil, err
	}
	if next.raw, err = SignCheckpoint(&next.Checkpoint, signer); err != nil {
		return nil, err
	}
	if len(next.raw) > MaxCheckpoint {
		return nil, fmt.Errorf("audit: a checkpoint of %d bytes, at most %d are allowed", len(next.raw), MaxCheckpoint)
	}
	record := appendRecord(nil, next.raw)
	if err := writeAt(l.checkpoints, record, l.signed); err != nil {
		l.failed = fmt.Errorf("audit: keeping a checkpoint: %w", err)
		return nil, l.failed
	}
	if err := l.sync(l.checkpoints); err != nil {
		return nil, err
	}
	l.last, l.signed = next, l.signed+int64(len(record))
	return slices.Clone(next.raw), nil
}

// LastCheckpoint returns the newest checkpoint, nil where there is none.
func (l *Log) LastCheckpoint() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.last.raw)
}

// Extends proves that the log extends a checkpoint which was kept elsewhere. Its signature is the caller's to verify. The error
// wraps ErrInconsistent for one of this log that the log does not extend: it was put back to an earlier state, or
// somebody has signed another. An auditor asks this before it goes on.
func (l *Log) Extends(raw []byte) error {
	c, err := UnverifiedCheckpoint(raw)
	if err != nil {
		return err
	}
	if c.Origin != l.origin {
		return fmt.Errorf("%w: a checkpoint of %s, but the log is %s", ErrInconsistent, c.Origin, l.origin)
	}
	now := Checkpoint{Origin: l.origin, Size: l.size.Load()}
	if now.Root, err = l.Root(now.Size); err != nil {
		return err
	}
	return l.extends(&c, &now)
}

// extends proves, from the hashes on disk, that the tree of one checkpoint is the beginning of the other's.
func (r *reader) extends(older, newer *Checkpoint) error {
	switch {
	case older.Size > newer.Size:
		return fmt.Errorf("%w: a checkpoint has %d entries, and the log %d", ErrInconsistent, older.Size, newer.Size)
	case older.Size == newer.Size && older.Root != newer.Root:
		return fmt.Errorf("%w: another root for %d entries", ErrInconsistent, older.Size)
	case older.Size == newer.Size || older.Size == 0:
		return nil
	}
	proof, err := r.ProveTree(older.Size, newer.Size)
	if err != nil {
		return err
	}
	if err := tlog.CheckTree(proof, newer.Size, newer.Root, older.Size, older.Root); err != nil {
		return fmt.Errorf("%w: its first %d entries are not those of the checkpoint", ErrInconsistent, older.Size)
	}
	return nil
}

func (l *Log) usable() error {
	switch {
	case l.closed:
		return ErrClosed
	case l.failed != nil:
		return fmt.Errorf("%w (%w)", ErrFailed, l.failed)
	}
	return nil
}

// Close syncs and closes the log. It is idempotent.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	var err error
	if l.failed == nil {
		err = l.sync(l.entries, l.index, l.hashes)
	}
	return errors.Join(err, l.closeFiles(), l.release())
}

func writeAt(f file, b []byte, at int64) error {
	if len(b) == 0 {
		return nil
	}
	_, err := f.WriteAt(b, at)
	return err
}

// makeLog makes the directory of a log, if it is not there, and says in it whose it is.
func makeLog(dir string, origin Origin) error {
	name := filepath.Join(dir, fileOrigin)
	if exists(name) {
		return nil
	}
	if origin.IsZero() {
		return fmt.Errorf("audit: no log in %s", dir)
	}
	if err := origin.check(); err != nil {
		return err
	}
	if err := makeDir(dir); err != nil {
		return err
	}
	err := safefile.Create(name, []byte(origin.String()+"\n"), 0o600)
	if err != nil && !exists(name) { // another process may have been quicker
		return fmt.Errorf("audit: making the log: %w", err)
	}
	return nil
}
