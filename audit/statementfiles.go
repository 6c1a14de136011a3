package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"

	"github.com/sealbus/sealbus/internal/safefile"
)

// A statement is a file, named by its SHA-256: statements/<kind>/<first two digits>/<hash>. So the same one is there once, and
// what is there is whole.

func addStatement(dir string, s Statement) error {
	if err := s.check(); err != nil {
		return err
	}
	sum := sha256.Sum256(s.Raw)
	text := hex.EncodeToString(sum[:])
	under := filepath.Join(dir, dirStatements, s.Kind.String(), text[:2])
	name := filepath.Join(under, text)
	if exists(name) {
		return nil
	}
	if err := makeDir(under); err != nil {
		return err
	}
	if err := safefile.Create(name, s.Raw, 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("audit: keeping a statement: %w", err)
	}
	for up := filepath.Dir(under); len(up) >= len(dir); up = filepath.Dir(up) {
		syncDir(up)
	}
	return nil
}

// Statements returns the statements that were kept: policies, then cards, then keys, each in the order of their hashes.
func (r *reader) Statements() iter.Seq2[Statement, error] {
	return func(yield func(Statement, error) bool) {
		more := true
		for kind := StatementPolicy; more && kind < statementCount; kind++ {
			err := filepath.WalkDir(filepath.Join(r.dir, dirStatements, kind.String()), func(path string, d fs.DirEntry, err error) error {
				switch {
				case errors.Is(err, fs.ErrNotExist):
					return nil
				case err != nil:
					return err
				case d.IsDir() || strings.HasPrefix(d.Name(), "."): // one that was not written to its end
					return nil
				}
				raw, err := readFile(path, MaxStatement)
				if err != nil {
					return err
				}
				if more = yield(Statement{kind, raw}, nil); !more {
					return fs.SkipAll
				}
				return nil
			})
			if err != nil {
				yield(Statement{}, fmt.Errorf("audit: reading statements: %w", err))
				return
			}
		}
	}
}

// readFile reads a file of at most so many bytes.
func readFile(path string, most int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > most {
		return nil, malformed("%s has %d bytes, at most %d are allowed", path, info.Size(), most)
	}
	return os.ReadFile(path)
}
