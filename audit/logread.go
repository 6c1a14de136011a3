package audit

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"golang.org/x/mod/sumdb/tlog"
)

// The files of a log.
const (
	fileOrigin      = "origin"      // its origin's text, one line
	fileLock        = "lock"        // who writes
	fileEntries     = "entries"     // records of encoded entries
	fileIndex       = "index"       // of each entry where its record ends, u64
	fileHashes      = "hashes"      // the tree's, in the order of tlog.StoredHashIndex
	fileCheckpoints = "checkpoints" // records of signed checkpoints
	dirStatements   = "statements"  // a file a statement

	indexSize = 8
)

// file is what is used of an *os.File.
type file interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	Truncate(int64) error
	Stat() (fs.FileInfo, error)
	Close() error
}

// reader is what Log and Reader have in common: the files, and how much of them counts.
type reader struct {
	dir    string
	origin Origin
	size   atomic.Int64 // entries
	end    atomic.Int64 // bytes of their records

	entries, index, hashes, checkpoints file
}

// Reader reads a log that another process may be writing to. It has what was there when it was opened.
type Reader struct {
	reader
	signed int64 // bytes of checkpoints
	last   signed
}

// Read opens a log for reading only, without a lock: one that an auditor is writing, or a copy. Of a log that is damaged it has
// what is left: Verify says what that is worth.
func Read(dir string) (*Reader, error) {
	r := &Reader{}
	err := r.open(dir, false)
	if err == nil {
		err = r.measure()
	}
	if err != nil {
		return nil, errors.Join(err, r.closeFiles())
	}
	return r, nil
}

// Close closes the reader. It is idempotent.
func (r *Reader) Close() error { return r.closeFiles() }

// LastCheckpoint returns the newest checkpoint, nil where there is none.
func (r *Reader) LastCheckpoint() []byte { return append([]byte(nil), r.last.raw...) }

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	return nil
}

// open opens the files; a log that is written makes those that are not there.
func (r *reader) open(dir string, write bool) error {
	r.dir = dir
	text, err := os.ReadFile(filepath.Join(dir, fileOrigin))
	if err != nil {
		return fmt.Errorf("audit: no log: %w", err)
	}
	line, ok := strings.CutSuffix(string(text), "\n")
	if !ok {
		return fmt.Errorf("%w: %s", ErrDamaged, fileOrigin)
	}
	if r.origin, err = ParseOrigin(line); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	flags := os.O_RDONLY
	if write {
		flags = os.O_RDWR | os.O_CREATE
	}
	for _, f := range []struct {
		to   *file
		name string
	}{{&r.checkpoints, fileCheckpoints}, {&r.entries, fileEntries}, {&r.index, fileIndex}, {&r.hashes, fileHashes}} {
		opened, err := os.OpenFile(filepath.Join(dir, f.name), flags, 0o600)
		if errors.Is(err, fs.ErrNotExist) {
			*f.to = nothing{}
			continue
		}
		if err != nil {
			return fmt.Errorf("audit: opening the log: %w", err)
		}
		*f.to = opened
	}
	return nil
}

func (r *reader) closeFiles() error {
	var errs []error
	for _, f := range []file{r.entries, r.index, r.hashes, r.checkpoints} {
		if f == nil {
			continue
		}
		if err := f.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Origin returns whose log this is.
func (r *reader) Origin() Origin { return r.origin }

// Size returns how many entries there are.
func (r *reader) Size() int64 { return r.size.Load() }

// ReadHashes makes the file of hashes a tlog.HashReader.
func (r *reader) ReadHashes(at []int64) ([]tlog.Hash, error) {
	list := make([]tlog.Hash, len(at))
	for i, n := range at {
		if _, err := r.hashes.ReadAt(list[i][:], n*tlog.HashSize); err != nil {
			return nil, fmt.Errorf("%w: hash %d: %w", ErrDamaged, n, err)
		}
	}
	return list, nil
}

// Root returns the root of the first size entries.
func (r *reader) Root(size int64) (tlog.Hash, error) {
	if size < 0 || size > r.Size() {
		return tlog.Hash{}, fmt.Errorf("audit: the log has %d entries, not %d", r.Size(), size)
	}
	return tlog.TreeHash(size, r)
}

// LeafHash returns the hash that the tree has for an entry.
func (r *reader) LeafHash(index int64) (tlog.Hash, error) {
	if err := r.has(index); err != nil {
		return tlog.Hash{}, err
	}
	list, err := r.ReadHashes([]int64{tlog.StoredHashIndex(0, index)})
	if err != nil {
		return tlog.Hash{}, err
	}
	return list[0], nil
}

func (r *reader) has(index int64) error {
	if index < 0 || index >= r.Size() {
		return fmt.Errorf("%w: no entry %d, the log has %d", ErrNotFound, index, r.Size())
	}
	return nil
}

// endOf returns where the record of the entry before an index ends.
func (r *reader) endOf(index int64) (int64, error) {
	if index == 0 {
		return 0, nil
	}
	var b [indexSize]byte
	if _, err := r.index.ReadAt(b[:], (index-1)*indexSize); err != nil {
		return 0, fmt.Errorf("%w: the index at %d: %w", ErrDamaged, index-1, err)
	}
	return int64(binary.BigEndian.Uint64(b[:])), nil
}

func appendEnd(b []byte, end int64) []byte { return binary.BigEndian.AppendUint64(b, uint64(end)) }

// raw returns an encoded entry.
func (r *reader) raw(index int64) ([]byte, error) {
	if err := r.has(index); err != nil {
		return nil, err
	}
	from, err := r.endOf(index)
	if err != nil {
		return nil, err
	}
	to, err := r.endOf(index + 1)
	if err != nil {
		return nil, err
	}
	return recordAt(r.entries, from, to, MaxEntry)
}

// Entry returns an entry.
func (r *reader) Entry(index int64) (e Entry, err error) {
	raw, err := r.raw(index)
	if err == nil {
		err = ParseEntry(raw, &e)
	}
	return e, err
}

// Last returns the last frame entry; its Kind is 0 where there is none.
func (r *reader) Last() (e Entry, err error) {
	for i := r.Size() - 1; i >= 0; i-- {
		if e, err = r.Entry(i); err != nil || e.Kind == KindFrame {
			return e, err
		}
	}
	return Entry{}, nil
}

// Entries returns the encoded entries from an index on, up to those that there are now. The bytes are valid until the next. The error
// wraps ErrDamaged where the file is not as it was written.
func (r *reader) Entries(from int64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		size, end := r.Size(), r.end.Load()
		if from < 0 || from >= size {
			return
		}
		start, err := r.endOf(from)
		if err != nil {
			yield(nil, err)
			return
		}
		list := newRecords(r.entries, start, end, MaxEntry)
		for i := from; i < size; i++ {
			b, err := list.next(false) // a changed entry is for who compares its hash
			if err != nil {
				yield(nil, fmt.Errorf("%w: entry %d: %w", ErrDamaged, i, err))
				return
			}
			if !yield(b, nil) {
				return
			}
		}
	}
}

// Find returns the index of the entry of a message. The error wraps ErrNotFound where the log has none of this sequence with this
// data.
func (r *reader) Find(s *Stored) (int64, error) {
	sum := sha256.Sum256(s.Data)
	switch e, at, err := r.FindSequence(s.Sequence); {
	case err == nil && e.Frame.Data == sum:
		return at, nil
	case err != nil && !errors.Is(err, ErrNotFound):
		return 0, err
	}
	return r.findAny(s.Sequence, sum) // the stream may have been made anew
}

// FindSequence returns the entry of the message with a sequence, and its index. Where the stream was made anew, or its end cut off, it
// may be that of another one with this sequence, or none may be found. The error wraps ErrNotFound.
func (r *reader) FindSequence(sequence uint64) (e Entry, index int64, err error) {
	lo, hi := int64(0), r.Size()
	for lo < hi { // sequences ascend
		mid := lo + (hi-lo)/2
		e, at, err := r.frameFrom(mid, hi)
		switch {
		case err != nil:
			return Entry{}, 0, err
		case at == hi || e.Frame.Sequence > sequence:
			hi = mid
		case e.Frame.Sequence < sequence:
			lo = at + 1
		default:
			return e, at, nil
		}
	}
	return Entry{}, 0, fmt.Errorf("%w: message %d of %s", ErrNotFound, sequence, r.origin.Stream)
}

// frameFrom returns the first frame entry from an index on; its index is to where there is none before that.
func (r *reader) frameFrom(from, to int64) (e Entry, at int64, err error) {
	for at = from; at < to; at++ {
		if e, err = r.Entry(at); err != nil || e.Kind == KindFrame {
			return e, at, err
		}
	}
	return Entry{}, to, nil
}

func (r *reader) findAny(sequence uint64, sum [sha256.Size]byte) (int64, error) {
	var e Entry
	i := int64(-1)
	for raw, err := range r.Entries(0) {
		if err != nil {
			return 0, err
		}
		i++
		if err := ParseEntry(raw, &e); err != nil {
			return 0, err
		}
		if e.Kind == KindFrame && e.Frame.Sequence == sequence && e.Frame.Data == sum {
			return i, nil
		}
	}
	return 0, fmt.Errorf("%w: message %d of %s with this data", ErrNotFound, sequence, r.origin.Stream)
}

// Checkpoints returns the checkpoints that were signed, from the first on.
func (r *reader) Checkpoints() iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		info, err := r.checkpoints.Stat()
		if err != nil {
			yield(nil, err)
			return
		}
		list := newRecords(r.checkpoints, 0, info.Size(), MaxCheckpoint)
		for {
			b, err := list.next(true)
			switch {
			case err == io.EOF || errors.Is(err, errTorn) && list.torn(info.Size()):
				return
			case err != nil:
				yield(nil, fmt.Errorf("%w: %s: %w", ErrDamaged, fileCheckpoints, err))
				return
			}
			if !yield(append([]byte(nil), b...), nil) {
				return
			}
		}
	}
}

// torn reports whether a file of so many bytes may end like this after a crash in the middle of writing one record.
func (r *records) torn(size int64) bool { return size-r.at <= recordHead+int64(r.most) }

// Prove returns the proof that an entry is in the log of the newest checkpoint that there is, with the entry beside it.
func (r *reader) prove(index int64, last *signed) (*Proof, error) {
	if last.Size <= index {
		return nil, fmt.Errorf("%w: entry %d is not covered by a checkpoint yet", ErrNotFound, index)
	}
	raw, err := r.raw(index)
	if err != nil {
		return nil, err
	}
	p := &Proof{Extra: raw, Index: index, Checkpoint: append([]byte(nil), last.raw...)}
	if p.Hashes, err = tlog.ProveRecord(last.Size, index, r); err != nil {
		return nil, err
	}
	if err := tlog.CheckRecord(p.Hashes, last.Size, last.Root, index, LeafHash(raw)); err != nil {
		return nil, fmt.Errorf("%w: entry %d is not the one that was signed: %w", ErrDamaged, index, err)
	}
	return p, nil
}

// Prove returns the proof that an entry is in the log, for whoever believes its newest checkpoint. The entry is the proof's
// Extra.
func (l *Log) Prove(index int64) (*Proof, error) {
	l.mu.Lock()
	last := l.last
	l.mu.Unlock()
	return l.prove(index, &last)
}

// Prove returns the proof that an entry is in the log, for whoever believes its newest checkpoint. The entry is the proof's
// Extra.
func (r *Reader) Prove(index int64) (*Proof, error) { return r.prove(index, &r.last) }

// ProveTree returns the proof that the log of size newer extends that of size older.
func (r *reader) ProveTree(older, newer int64) (tlog.TreeProof, error) {
	if older < 1 || older > newer || newer > r.Size() {
		return nil, fmt.Errorf("audit: no proof from %d to %d entries of %d", older, newer, r.Size())
	}
	return tlog.ProveTree(newer, older, r)
}

// nothing is a file that is not there.
type nothing struct{}

func (nothing) ReadAt([]byte, int64) (int, error)  { return 0, io.EOF }
func (nothing) WriteAt([]byte, int64) (int, error) { return 0, fs.ErrPermission }
func (nothing) Sync() error                        { return nil }
func (nothing) Truncate(int64) error               { return fs.ErrPermission }
func (nothing) Stat() (fs.FileInfo, error)         { return emptyInfo{}, nil }
func (nothing) Close() error                       { return nil }

type emptyInfo struct{ fs.FileInfo }

func (emptyInfo) Size() int64 { return 0 }
