// Package safefile writes small files so that after a crash or an error there
// is either the whole new content or what was there before.
package safefile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Create writes data into a new file. It fails with fs.ErrExist when the name
// is taken, by whatever; two callers never both succeed.
func Create(name string, data []byte, perm fs.FileMode) error {
	temp, err := writeTemp(name, data, perm)
	if err != nil {
		return err
	}
	defer os.Remove(temp)
	// A hard link, because unlike a rename it does not replace.
	if err := os.Link(temp, name); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%s: %w", name, fs.ErrExist)
		}
		return createPlain(name, data, perm)
	}
	return syncDir(filepath.Dir(name))
}

// createPlain is for file systems without hard links, such as that of most USB
// sticks. A crash in the middle of it leaves a file that is cut short.
func createPlain(name string, data []byte, perm fs.FileMode) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	if err := finish(f, data); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return syncDir(filepath.Dir(name))
}

// Replace writes data into the file, replacing what was there in one step, so
// that a reader sees either the old or the new content.
func Replace(name string, data []byte, perm fs.FileMode) error {
	temp, err := writeTemp(name, data, perm)
	if err != nil {
		return err
	}
	if err := os.Rename(temp, name); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return syncDir(filepath.Dir(name))
}

// writeTemp writes data into a temporary file beside name and returns its path.
func writeTemp(name string, data []byte, perm fs.FileMode) (string, error) {
	// CreateTemp's mode is 0600, so that a secret is never readable to
	// others, not even for a moment.
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*.tmp")
	if err != nil {
		return "", err
	}
	err = f.Chmod(perm)
	if err != nil {
		f.Close()
	} else {
		err = finish(f, data)
	}
	if err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

func finish(f *os.File, data []byte) error {
	_, err := f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// syncDir makes the new name durable. Where directories cannot be synced there
// is nothing to be done about it.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	_ = d.Sync()
	return d.Close()
}
