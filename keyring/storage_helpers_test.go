package keyring

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// kekForTests opens fast, where a passphrase takes its time on purpose.
var kekForTests = func() tink.AEAD {
	a, err := aead.New(must(generate(aeadParameters)))
	return must(a, err)
}()

// agentIn attaches a ring in a state directory.
func (w *world) agentIn(dir, name string) *Ring {
	w.t.Helper()
	r, err := Open(dir, EncryptWith(kekForTests), w.operator.Fingerprint())
	check(w.t, err)
	w.attach(r, name)
	return r
}

// copyDir copies a state directory as it stands: what a process that dies now leaves behind.
func copyDir(t testing.TB, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	check(t, os.CopyFS(to, os.DirFS(dir)))
	check(t, os.Chmod(to, 0o700))
	return to
}
