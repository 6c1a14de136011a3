package broker

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// lockName is the file in the store directory by which one node keeps others
// out. The operating system lets go of it when the process ends, however it
// ends; the file stays.
const lockName = "sealbus.lock"

// errLocked is returned by lockFile when somebody else holds the lock.
var errLocked = errors.New("locked")

// openStore makes the store directory if needed and locks it.
func openStore(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("%w: make it: %w", ErrStoreDir, err)
	}
	f, err := lockFile(filepath.Join(dir, lockName))
	if errors.Is(err, errLocked) {
		return nil, fmt.Errorf("%w: another node runs on %s: stop it, or give this one a directory of its own", ErrStoreInUse, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w: give a directory that the node may write to", ErrStoreDir, err)
	}
	return f, nil
}
