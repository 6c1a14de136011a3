//go:build !unix

package keyring

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// lockDir takes the directory's lock: a file that exists while the directory is in use. A process that
// died leaves it behind, and the error then names it.
func lockDir(dir string) (release func() error, err error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("%w: remove %s if no process uses it", ErrLocked, path)
	}
	if err != nil {
		return nil, fmt.Errorf("keyring: state directory: %w", err)
	}
	return func() error { return errors.Join(f.Close(), os.Remove(path)) }, nil
}
