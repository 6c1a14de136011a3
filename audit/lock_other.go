//go:build !unix

package audit

import (
	"errors"
	"fmt"
	"os"
)

// lockFile takes a lock: a file that exists while the log is in use. A process that died leaves it behind, and the error then
// names it.
func lockFile(name string) (release func() error, err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("%w: remove %s if no process uses it", ErrLocked, name)
	}
	if err != nil {
		return nil, err
	}
	return func() error { return errors.Join(f.Close(), os.Remove(name)) }, nil
}
