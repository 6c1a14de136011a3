package keyring

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/sealbus/sealbus/internal/safefile"
)

const (
	stateName   = "state.enc"
	ceilingName = "ceiling.enc"
)

// storage is one state directory. A nil storage keeps nothing: the ring lives in memory.
type storage struct {
	dir     string
	aead    tink.AEAD
	release func() error
}

// openStorage opens or makes a state directory: mode 0700, files 0600, locked against a second process.
func openStorage(dir string, kek KEK) (*storage, error) {
	if kek.err != nil {
		return nil, kek.err
	}
	if kek.open == nil {
		return nil, errors.New("keyring: a state directory needs a key: pass keyring.Passphrase or keyring.EncryptWith")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("keyring: state directory: %w", err)
	}
	release, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	s := &storage{dir: dir, release: release}
	k, err := kek.open(dir)
	if err == nil {
		s.aead, err = dataKeyset(dir, k)
	}
	if err != nil {
		return nil, errors.Join(err, release())
	}
	return s, nil
}

func (s *storage) close() error {
	if s == nil {
		return nil
	}
	return s.release()
}

// load returns the plaintext of a file, or nil when there is none.
func (s *storage) load(name string) ([]byte, error) {
	path := filepath.Join(s.dir, name)
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if info.Size() > maxStateFile {
		return nil, fmt.Errorf("keyring: %s is larger than %d bytes", path, maxStateFile)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	plain, err := s.aead.Decrypt(raw, stateData(name))
	if err != nil {
		return nil, fmt.Errorf("%w: %s is damaged or of another directory", ErrWrongKey, path)
	}
	return plain, nil
}

func (s *storage) save(name string, plain []byte) error {
	ct, err := s.aead.Encrypt(plain, stateData(name))
	if err != nil {
		return err
	}
	return safefile.Replace(filepath.Join(s.dir, name), ct, 0o600)
}

func stateData(name string) []byte { return []byte("sealbus/v1 state " + name) }

// loadCeiling returns the time up to which frames may have been accepted by the process before.
func (s *storage) loadCeiling() (time.Time, error) {
	b, err := s.load(ceilingName)
	if err != nil || b == nil {
		return time.Time{}, err
	}
	if len(b) != 8 {
		return time.Time{}, fmt.Errorf("%w: %s", ErrWrongKey, ceilingName)
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(b))), nil
}

func (s *storage) saveCeiling(t time.Time) error {
	return s.save(ceilingName, binary.BigEndian.AppendUint64(nil, uint64(t.UnixMilli())))
}
