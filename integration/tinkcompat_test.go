package integration_test

import (
	"bytes"
	"io/fs"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestTinkCompat runs the tests of the module under tinkcompat/, which "go
// test ./..." does not descend into. They prove that an AEAD keyset and a
// ciphertext of github.com/google/tink/go open with the library that Sealbus
// uses, and the other way round.
func TestTinkCompat(t *testing.T) {
	if testing.Short() {
		t.Skip("builds two more programs and may download an archived library")
	}
	// The go command reruns a test when a directory that it has read has
	// changed. What the child process reads it does not see.
	err := filepath.WalkDir("tinkcompat", func(_ string, _ fs.DirEntry, err error) error { return err })
	if err != nil {
		t.Fatal(err)
	}

	cmd := exec.Command("go", "test", "-count=1", "-v", "./...")
	cmd.Dir = "tinkcompat"
	cmd.Env = append(cmd.Environ(), "GOWORK=off") // a workspace need not list the nested module
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("go test ./... in %s: %v\n%s", cmd.Dir, err, out)
	}
	if !bytes.Contains(out, []byte("--- PASS: TestTinkCompat")) {
		t.Fatalf("go test ./... in %s passed without running TestTinkCompat:\n%s", cmd.Dir, out)
	}
}
