package audit

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/sealbus/sealbus/internal/safefile"
)

// Sink is a second place for checkpoints, out of reach of who could change the log and the broker's store together.
type Sink interface {
	// Put returns when the checkpoint of a stream's log is kept. It may be given one again. The error wraps
	// ErrInconsistent where the place has a checkpoint that this one contradicts.
	Put(ctx context.Context, stream string, checkpoint []byte) error
}

// Directory is a Sink that keeps every checkpoint as a file:
//
//	<path>/<stream>/<auditor>.<log>/<size, 19 digits>-<first 16 hex digits of the root>
//
// and the newest once more as latest beside them. Files appear whole or not at all, are synced, and are never
// written over but for latest. It keeps what it is given, also where that contradicts what it has: both are needed to prove
// it. It is safe for concurrent use.
type Directory struct {
	path string
	mu   sync.Mutex
}

const fileLatest = "latest"

// NewDirectory returns the sink in a directory, which is made if it is not there.
func NewDirectory(path string) (*Directory, error) {
	if path == "" {
		return nil, errors.New("audit: a directory for checkpoints needs a path")
	}
	if err := makeDir(path); err != nil {
		return nil, err
	}
	return &Directory{path: path}, nil
}

// Put keeps a checkpoint, whose signature it does not look at. The error wraps ErrInconsistent where there is a checkpoint
// of as many entries with another root, or one of more entries.
func (d *Directory) Put(ctx context.Context, stream string, checkpoint []byte) error {
	c, err := UnverifiedCheckpoint(checkpoint)
	switch {
	case err != nil:
		return err
	case c.Origin.Stream != stream:
		return fmt.Errorf("audit: a checkpoint of %s given for the stream %.80q", c.Origin, stream)
	case ctx.Err() != nil:
		return ctx.Err()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	dir := d.of(c.Origin)
	if err := makeDir(dir); err != nil {
		return err
	}
	name := filepath.Join(dir, fmt.Sprintf("%019d-%s", c.Size, hex.EncodeToString(c.Root[:8])))
	if !exists(name) {
		if err := safefile.Create(name, checkpoint, 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("audit: keeping a checkpoint: %w", err)
		}
	}
	latest, err := d.latest(c.Origin)
	if err != nil {
		return err
	}
	if latest != nil {
		had, err := UnverifiedCheckpoint(latest)
		switch {
		case err != nil:
			return fmt.Errorf("%w: %s", ErrDamaged, filepath.Join(dir, fileLatest))
		case had.Size > c.Size || had.Size == c.Size && had.Root != c.Root:
			return fmt.Errorf("%w: %s has a checkpoint of %d entries with the root %s, and this one is of %d with %s",
				ErrInconsistent, dir, had.Size, had.Root, c.Size, c.Root)
		case had.Size == c.Size:
			return nil
		}
	}
	if err := safefile.Replace(filepath.Join(dir, fileLatest), checkpoint, 0o600); err != nil {
		return fmt.Errorf("audit: keeping a checkpoint: %w", err)
	}
	return nil
}

func (d *Directory) of(o Origin) string {
	return filepath.Join(d.path, o.Stream, o.Auditor.Name()+"."+o.Log.String())
}

func (d *Directory) latest(o Origin) ([]byte, error) {
	raw, err := readFile(filepath.Join(d.of(o), fileLatest), MaxCheckpoint)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return raw, err
}

// Latest returns the newest checkpoint of a log; nil where there is none.
func (d *Directory) Latest(o Origin) ([]byte, error) { return d.latest(o) }

// Checkpoints returns all checkpoints of a stream's logs: of each log from the smallest on.
func (d *Directory) Checkpoints(stream string) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		if !isStream(stream) {
			yield(nil, malformed("%.80q is no stream's name", stream))
			return
		}
		logs, err := names(filepath.Join(d.path, stream))
		if err != nil {
			yield(nil, err)
			return
		}
		for _, log := range logs {
			dir := filepath.Join(d.path, stream, log)
			files, err := names(dir)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, name := range files {
				size, _, _ := strings.Cut(name, "-")
				if _, err := strconv.ParseInt(size, 10, 64); err != nil || len(size) != 19 {
					continue
				}
				raw, err := readFile(filepath.Join(dir, name), MaxCheckpoint)
				if !yield(raw, err) || err != nil {
					return
				}
			}
		}
	}
}

// names lists a directory in order; one that is not there is empty.
func names(dir string) ([]string, error) {
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	all := make([]string, 0, len(list))
	for _, e := range list {
		all = append(all, e.Name())
	}
	slices.Sort(all)
	return all, nil
}
