package keyring

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/tink-crypto/tink-go/v2/aead"

	"github.com/sealbus/sealbus/identity"
)

var somePin = must(identity.GenerateOperatorKey()).Fingerprint()

// used returns a state directory that an agent has used on two channels, and what it held.
func (w *world) used(kek KEK) (dir string, secrets map[string][]byte) {
	w.t.Helper()
	dir = filepath.Join(w.t.TempDir(), "state")
	r := value(Open(dir, kek, w.operator.Fingerprint()))(w.t)
	w.attach(r, "planner")
	p := w.meet(prices, r, w.agent("feed-1"))
	w.meet(gossip, r, p.writer)
	synctest.Wait()
	secrets = map[string][]byte{"a name in the policy": []byte("spiffe://"), "the policy": []byte("subscribe")}
	for _, c := range r.channels {
		for _, k := range c.keys {
			secrets["K of "+c.name] = bytes.Clone(k.k.bytes())
			secrets["K_s of "+c.name] = bytes.Clone(k.own.bytes())
		}
	}
	if len(secrets) < 6 {
		w.t.Fatal("no keys to look for")
	}
	check(w.t, r.Close(context.Background()))
	return dir, secrets
}

func TestPassphrase(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		dir, secrets := w.used(Passphrase("correct horse"))
		checkModes(t, dir)
		for _, kek := range []KEK{Passphrase("wrong horse"), EncryptWith(kekForTests)} {
			if _, err := Open(dir, kek, w.operator.Fingerprint()); !errors.Is(err, ErrWrongKey) {
				t.Errorf("with another key: %v", err)
			}
		}
		for what, s := range secrets {
			lookFor(t, dir, what, s)
		}
		lookFor(t, dir, "the passphrase", []byte("correct horse"))
		check(t, value(Open(dir, Passphrase("correct horse"), w.operator.Fingerprint()))(t).Close(context.Background()))
	})
}

// lookFor fails if b stands in any file, as it is or in a common spelling.
func lookFor(t *testing.T, dir, what string, b []byte) {
	t.Helper()
	check(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content := value(os.ReadFile(path))(t)
		for _, form := range spellings(b) {
			if bytes.Contains(content, form) {
				t.Errorf("%s holds %s", path, what)
			}
		}
		return nil
	}))
}

func checkModes(t *testing.T, dir string) {
	t.Helper()
	check(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		if got := value(d.Info())(t).Mode().Perm(); got != want {
			t.Errorf("%s has mode %o, want %o", path, got, want)
		}
		if strings.HasSuffix(path, ".tmp") {
			t.Errorf("%s was left behind", path)
		}
		return nil
	}))
}

func TestBadPassphrases(t *testing.T) {
	for name, kek := range map[string]KEK{
		"empty": Passphrase(""), "too long": Passphrase(strings.Repeat("x", maxPassphrase+1)), "none": {}, "nil AEAD": EncryptWith(nil),
	} {
		dir := filepath.Join(t.TempDir(), "state")
		if _, err := Open(dir, kek, somePin); err == nil || errors.Is(err, ErrWrongKey) {
			t.Errorf("%s: %v", name, err)
		}
		if files, err := os.ReadDir(dir); err == nil {
			for _, f := range files {
				if f.Name() != "lock" {
					t.Errorf("%s: %s was written", name, f.Name())
				}
			}
		}
	}
	if _, err := Open("", EncryptWith(kekForTests), somePin); err == nil {
		t.Error("no directory")
	}
	file := filepath.Join(t.TempDir(), "file")
	check(t, os.WriteFile(file, nil, 0o600))
	if _, err := Open(file, EncryptWith(kekForTests), somePin); err == nil {
		t.Error("a file as directory")
	}
}

func TestCallersAEAD(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		dir, secrets := w.used(EncryptWith(kekForTests))
		checkModes(t, dir)
		for what, s := range secrets {
			lookFor(t, dir, what, s)
		}
		other := must(aead.New(must(generate(aeadParameters))))
		if _, err := Open(dir, EncryptWith(other), w.operator.Fingerprint()); !errors.Is(err, ErrWrongKey) {
			t.Error(err)
		}
	})
}

func TestOneProcessADirectory(t *testing.T) {
	dir := t.TempDir()
	r := value(Open(dir, EncryptWith(kekForTests), somePin))(t)
	if _, err := Open(dir, EncryptWith(kekForTests), somePin); !errors.Is(err, ErrLocked) {
		t.Error(err)
	}
	check(t, r.Close(context.Background()))
	check(t, value(Open(dir, EncryptWith(kekForTests), somePin))(t).Close(context.Background()))
	// An Open that fails lets go of the lock.
	other := must(aead.New(must(generate(aeadParameters))))
	if _, err := Open(dir, EncryptWith(other), somePin); !errors.Is(err, ErrWrongKey) {
		t.Error(err)
	}
	check(t, value(Open(dir, EncryptWith(kekForTests), somePin))(t).Close(context.Background()))
}

// TestDamagedDirectory: whatever is done to a file, Open says so, and what it found is still there afterwards, to be
// repaired.
func TestDamagedDirectory(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		kek := EncryptWith(kekForTests)
		good, _ := w.used(kek)
		read := func(name string) []byte { return value(os.ReadFile(filepath.Join(good, name)))(t) }
		for _, name := range []string{stateName, ceilingName, keysetFile} {
			b := read(name)
			flipped := bytes.Clone(b)
			flipped[len(b)/2] ^= 1
			for how, damaged := range map[string][]byte{
				"cut": b[:len(b)-1], "flipped": flipped, "empty": {}, "longer": append(bytes.Clone(b), 0),
				"the state's": read(stateName), "the ceiling's": read(ceilingName), "the keyset's": read(keysetFile),
			} {
				if bytes.Equal(damaged, b) {
					continue
				}
				dir := copyDir(t, good)
				check(t, os.WriteFile(filepath.Join(dir, name), damaged, 0o600))
				before := contents(t, dir)
				if _, err := Open(dir, kek, w.operator.Fingerprint()); !errors.Is(err, ErrWrongKey) {
					t.Errorf("%s %s: %v", name, how, err)
				}
				if after := contents(t, dir); after != before {
					t.Errorf("%s %s: Open changed the directory", name, how)
				}
			}
		}
		// Without its keyset, the rest is not thrown away by making a new one.
		dir := copyDir(t, good)
		check(t, os.Remove(filepath.Join(dir, keysetFile)))
		before := contents(t, dir)
		if _, err := Open(dir, kek, w.operator.Fingerprint()); err == nil || !strings.Contains(err.Error(), keysetFile) {
			t.Errorf("no keyset: %v", err)
		}
		if contents(t, dir) != before {
			t.Error("Open changed the directory")
		}
		// Of another directory under the same key.
		dir = copyDir(t, good)
		other, _ := w.used(kek)
		check(t, os.WriteFile(filepath.Join(dir, stateName), value(os.ReadFile(filepath.Join(other, stateName)))(t), 0o600))
		if _, err := Open(dir, kek, w.operator.Fingerprint()); !errors.Is(err, ErrWrongKey) {
			t.Errorf("another directory's state: %v", err)
		}
		huge := copyDir(t, good)
		check(t, os.Truncate(filepath.Join(huge, stateName), maxStateFile+1))
		if _, err := Open(huge, kek, w.operator.Fingerprint()); err == nil || !strings.Contains(err.Error(), "larger") {
			t.Errorf("a huge state: %v", err)
		}
	})
}

// contents is a directory's files but for its lock, in one string.
func contents(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	for _, f := range value(os.ReadDir(dir))(t) {
		if f.Name() != "lock" {
			b.WriteString(f.Name() + "=" + string(value(os.ReadFile(filepath.Join(dir, f.Name())))(t)) + "\n")
		}
	}
	return b.String()
}

// TestArgonParameters: whoever can write the directory can neither weaken the derivation nor have it eat the memory.
func TestArgonParameters(t *testing.T) {
	good := t.TempDir()
	check(t, value(Open(good, Passphrase("correct horse"), somePin))(t).Close(context.Background()))
	text := string(value(os.ReadFile(filepath.Join(good, argonFile)))(t))
	for _, edit := range []struct{ old, new string }{
		{`"time":3`, `"time":1`}, {`"time":3`, `"time":3000000`}, {`"memory_kib":65536`, `"memory_kib":8`},
		{`"memory_kib":65536`, `"memory_kib":4194304`}, {`"threads":4`, `"threads":255`}, {`argon2id`, `argon2i`},
		{`"salt":"`, `"salt":"AAAA`}, {`{`, `{"x":1,`}, {`}`, ``}, {text, ``}, {text, text + "{}"},
	} {
		dir := copyDir(t, good)
		changed := strings.Replace(text, edit.old, edit.new, 1)
		if changed == text {
			t.Fatalf("%q does not occur in %s", edit.old, text)
		}
		check(t, os.WriteFile(filepath.Join(dir, argonFile), []byte(changed), 0o600))
		if _, err := Open(dir, Passphrase("correct horse"), somePin); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("%s for %s: %v", edit.new, edit.old, err)
		}
	}
	dir := copyDir(t, good)
	check(t, os.Remove(filepath.Join(dir, argonFile)))
	before := contents(t, dir)
	if _, err := Open(dir, Passphrase("correct horse"), somePin); err == nil || !strings.Contains(err.Error(), argonFile) {
		t.Errorf("no parameters: %v", err)
	}
	if contents(t, dir) != before {
		t.Error("a new salt was written beside the old keyset")
	}
}

func TestAnotherAgentsDirectory(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		dir, _ := w.used(EncryptWith(kekForTests))
		r := value(Open(dir, EncryptWith(kekForTests), w.operator.Fingerprint()))(t)
		defer r.Close(context.Background())
		if err := r.Attach(w.ctx(), w.source("exec-1"), w.store, nil); err == nil || !strings.Contains(err.Error(), "planner") {
			t.Error(err)
		}
		if n := w.store.count("exec-1."); n != 0 {
			t.Errorf("%d entries in another's name", n)
		}
		check(t, r.Attach(w.ctx(), w.source("planner"), w.store, nil))
	})
}
