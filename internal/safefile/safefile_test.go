package safefile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

func wantOnly(t *testing.T, file, content string, perm fs.FileMode) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil || string(data) != content {
		t.Errorf("content %q, %v", data, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != perm {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if entries, err := os.ReadDir(filepath.Dir(file)); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestCreate(t *testing.T) {
	for name, create := range map[string]func(string, []byte, fs.FileMode) error{"link": Create, "plain": createPlain} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "f")
			if err := create(file, []byte("one"), 0o600); err != nil {
				t.Fatal(err)
			}
			wantOnly(t, file, "one", 0o600)
			if err := create(file, []byte("two"), 0o644); !errors.Is(err, fs.ErrExist) {
				t.Errorf("second Create: %v", err)
			}
			wantOnly(t, file, "one", 0o600)
		})
	}
}

func TestCreateOverSymlink(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	if err := os.Symlink(filepath.Join(dir, "elsewhere"), file); err != nil {
		t.Fatal(err)
	}
	if err := Create(file, []byte("one"), 0o600); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create over a symbolic link: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "elsewhere")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("it was followed")
	}
}

func TestCreateRace(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	var won atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			switch err := Create(file, []byte("x"), 0o600); {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, fs.ErrExist):
				t.Error(err)
			}
		})
	}
	all.Wait()
	if won.Load() != 1 {
		t.Errorf("%d won", won.Load())
	}
	wantOnly(t, file, "x", 0o600)
}

func TestReplace(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	for _, content := range []string{"one", "", "three"} {
		if err := Replace(file, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
		wantOnly(t, file, content, 0o640)
	}
}

// After a failure there is neither the file nor a temporary one.
func TestNothingHalfWritten(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "d", "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	// A directory that is not empty cannot be replaced by a file.
	if err := Replace(filepath.Join(dir, "d"), []byte("x"), 0o600); err == nil {
		t.Error("a directory was replaced")
	}
	if err := Create(filepath.Join(dir, "d"), []byte("x"), 0o600); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create over a directory: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	for _, write := range []func(string, []byte, fs.FileMode) error{Create, Replace, createPlain} {
		if err := write(filepath.Join(dir, "none", "f"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("missing directory: %v", err)
		}
	}
}
