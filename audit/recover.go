package audit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// The entries are what counts. Index and hashes follow from them, and are on disk only as far as the last checkpoint covers; what
// is behind that is made again from the entries, as far as those are whole.

// recover brings the files of a log that is to be written into a state in which they agree.
func (l *Log) recover() error {
	var err error
	if l.last, l.signed, err = l.lastSigned(); err != nil {
		return err
	}
	if err := l.checkpoints.Truncate(l.signed); err != nil {
		return fmt.Errorf("audit: opening the log: %w", err)
	}
	from := l.last.Size
	if wrong := l.covered(&l.last); wrong != nil {
		if err := l.coveredByEntries(&l.last); err != nil {
			return fmt.Errorf("%w (%w)", err, wrong)
		}
		from = 0
	}
	if err := l.replay(from); err != nil {
		return err
	}
	if wrong := l.covered(&l.last); wrong != nil {
		return wrong
	}
	if n := l.Size(); n > 0 {
		e, err := l.Entry(n - 1)
		if err != nil {
			return err
		}
		l.logged = e.Logged
	}
	syncDir(l.dir)
	return nil
}

// lastSigned returns the newest checkpoint, and how long their file is up to there. Those before are for Verify to look at.
func (r *reader) lastSigned() (last signed, size int64, err error) {
	for raw, err := range r.Checkpoints() {
		if err != nil {
			return signed{}, 0, err
		}
		last.raw, size = raw, size+recordHead+int64(len(raw))
	}
	if last.raw == nil {
		return last, 0, nil
	}
	if last.Checkpoint, err = UnverifiedCheckpoint(last.raw); err != nil || last.Origin != r.origin || last.Size == 0 {
		return signed{}, 0, fmt.Errorf("%w: the last of %s is none of %s (%w)", ErrDamaged, fileCheckpoints, r.origin, errors.Join(err))
	}
	return last, size, nil
}

// covered says what is missing of what a checkpoint covers; nil: nothing, as far as the right edge of the tree tells.
func (r *reader) covered(last *signed) error {
	if last.Size == 0 {
		return nil
	}
	end, err := r.endOf(last.Size)
	if err != nil {
		return err
	}
	for _, m := range []struct {
		f    file
		name string
		need int64
	}{
		{r.index, fileIndex, last.Size * indexSize}, {r.hashes, fileHashes, tlog.StoredHashCount(last.Size) * tlog.HashSize},
		{r.entries, fileEntries, end},
	} {
		info, err := m.f.Stat()
		if err != nil {
			return err
		}
		if info.Size() < m.need {
			return fmt.Errorf("%w: %s has %d bytes, and the last checkpoint covers %d", ErrDamaged, m.name, info.Size(), m.need)
		}
	}
	from, err := r.endOf(last.Size - 1)
	if err != nil {
		return err
	}
	raw, err := recordAt(r.entries, from, end, MaxEntry)
	if err != nil {
		return err
	}
	leaf, err := r.ReadHashes([]int64{tlog.StoredHashIndex(0, last.Size-1)})
	if err != nil {
		return err
	}
	root, err := tlog.TreeHash(last.Size, r)
	if err != nil {
		return err
	}
	if root != last.Root || leaf[0] != LeafHash(raw) {
		return fmt.Errorf("%w: the root of %d entries is not the one that was signed", ErrDamaged, last.Size)
	}
	return nil
}

// coveredByEntries computes the root of what a checkpoint covers from the entries alone.
func (r *reader) coveredByEntries(last *signed) error {
	var t tree
	if err := r.walk(0, func(_ int64, raw []byte, _ *Entry, _ int64) bool {
		t.add(nil, LeafHash(raw))
		return t.size < last.Size
	}); err != nil {
		return err
	}
	if t.size < last.Size || t.root() != last.Root {
		return fmt.Errorf("%w: the %d entries that the last checkpoint covers are not there as they were", ErrDamaged, last.Size)
	}
	return nil
}

// walk calls f for the entries from an index on that are whole, with their ends in the file, until it says false. The index
// before from has to be right.
func (r *reader) walk(from int64, f func(i int64, raw []byte, e *Entry, end int64) bool) error {
	start, err := r.endOf(from)
	if err != nil {
		return err
	}
	info, err := r.entries.Stat()
	if err != nil {
		return err
	}
	var logged time.Time
	var e Entry
	list := newRecords(r.entries, start, info.Size(), MaxEntry)
	for i := from; ; i++ {
		raw, err := list.next(true)
		if err == io.EOF || errors.Is(err, errTorn) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("audit: reading the log: %w", err)
		}
		if ParseEntry(raw, &e) != nil || e.Logged.Before(logged) {
			return nil
		}
		logged = e.Logged
		if !f(i, raw, &e, list.at) {
			return nil
		}
	}
}

// replay makes index and hashes again from an entry on, and cuts off what is no whole entry.
func (l *Log) replay(from int64) error {
	end, err := l.endOf(from)
	if err != nil {
		return err
	}
	if l.tree, err = treeOf(from, l); err != nil {
		return err
	}
	b, size, wrong := &l.bytes, from, error(nil)
	flush := func() {
		wrong = errors.Join(wrong, writeAt(l.index, b.index, size*indexSize-int64(len(b.index))),
			writeAt(l.hashes, b.hashes, tlog.StoredHashCount(size)*tlog.HashSize-int64(len(b.hashes))))
		b.index, b.hashes = b.index[:0], b.hashes[:0]
	}
	err = l.walk(from, func(i int64, raw []byte, _ *Entry, to int64) bool {
		b.index = appendEnd(b.index, to)
		b.hashes = l.tree.add(b.hashes, LeafHash(raw))
		size, end = i+1, to
		if len(b.hashes) >= readAhead {
			flush()
		}
		return wrong == nil
	})
	flush()
	if err := errors.Join(err, wrong); err != nil {
		return fmt.Errorf("audit: opening the log: %w", err)
	}
	if size < l.last.Size {
		return fmt.Errorf("%w: %d entries are there, and the last checkpoint covers %d", ErrDamaged, size, l.last.Size)
	}
	l.size.Store(size)
	l.end.Store(end)
	if err := errors.Join(l.entries.Truncate(end), l.index.Truncate(size*indexSize),
		l.hashes.Truncate(tlog.StoredHashCount(size)*tlog.HashSize)); err != nil {
		return fmt.Errorf("audit: opening the log: %w", err)
	}
	return nil
}

// measure finds out how much of a log there is, without changing it: what its last checkpoint covers, as far as it is there,
// and behind that what agrees.
func (r *Reader) measure() error {
	var err error
	if r.last, r.signed, err = r.lastSigned(); errors.Is(err, ErrDamaged) {
		r.last, r.signed = signed{}, 0 // for Verify to find
	} else if err != nil {
		return err
	}
	size, end, err := r.complete()
	if err != nil {
		return err
	}
	if wrong := r.covered(&r.last); wrong == nil {
		whole := r.last.Size
		if end, err = r.endOf(whole); err != nil {
			return err
		}
		if err := r.walk(whole, func(i int64, raw []byte, _ *Entry, to int64) bool {
			h, err := r.ReadHashes([]int64{tlog.StoredHashIndex(0, i)})
			if i >= size || err != nil || h[0] != LeafHash(raw) {
				return false
			}
			whole, end = i+1, to
			return true
		}); err != nil {
			return err
		}
		size = whole
	}
	r.size.Store(size)
	r.end.Store(end)
	return nil
}

// refresh takes in what the writer has appended since.
func (r *Reader) refresh() error {
	var grown Reader
	if err := grown.open(r.dir, false); err != nil {
		return errors.Join(err, grown.closeFiles())
	}
	err := grown.measure()
	if err == nil && grown.size.Load() > r.size.Load() {
		r.end.Store(grown.end.Load())
		r.size.Store(grown.size.Load())
	}
	return errors.Join(err, grown.closeFiles())
}

// refresh has nothing to do: this is the writer.
func (l *Log) refresh() error { return nil }

// complete returns how many entries all three files have, and where the last of them ends.
func (r *reader) complete() (size, end int64, err error) {
	var n [3]int64
	for i, f := range []file{r.index, r.hashes, r.entries} {
		info, err := f.Stat()
		if err != nil {
			return 0, 0, err
		}
		n[i] = info.Size()
	}
	size = n[0] / indexSize
	for size > 0 && tlog.StoredHashCount(size) > n[1]/tlog.HashSize {
		size--
	}
	for lo := int64(0); lo < size; {
		mid := lo + (size-lo+1)/2
		if end, err = r.endOf(mid); err != nil {
			return 0, 0, err
		}
		if end > n[2] || end < 0 {
			size = mid - 1
		} else {
			lo = mid
		}
	}
	end, err = r.endOf(size)
	return size, end, err
}

// syncDir makes the names of new files durable. Where directories cannot be synced there is nothing to be done about it.
func syncDir(dir string) {
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync()
		_ = d.Close()
	}
}
