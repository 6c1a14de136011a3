package keyring

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/aead/aesgcm"
	"github.com/tink-crypto/tink-go/v2/insecuresecretdataaccess"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/secretdata"
	"github.com/tink-crypto/tink-go/v2/tink"
	"golang.org/x/crypto/argon2"

	"github.com/sealbus/sealbus/internal/safefile"
)

const (
	argonFile  = "argon2.json"
	keysetFile = "keyset.enc"
	saltSize   = 16
)

// KEK is the key-encryption key of a state directory. Make one with Passphrase or EncryptWith; the
// zero value opens nothing.
type KEK struct {
	open func(dir string) (tink.AEAD, error)
	err  error // what is wrong with it; known before anything is made on disk
}

func (KEK) String() string             { return redacted }
func (KEK) Format(w fmt.State, _ rune) { io.WriteString(w, redacted) }

// EncryptWith encrypts the state directory under a, which may be a KMS key through one of Tink's
// clients. It is asked once per Open: it encrypts a data keyset, which encrypts everything else.
func EncryptWith(a tink.AEAD) KEK {
	if a == nil {
		return KEK{err: errors.New("keyring: EncryptWith(nil): pass a tink.AEAD")}
	}
	return KEK{open: func(string) (tink.AEAD, error) { return a, nil }}
}

// Passphrase encrypts the state directory under a passphrase of 1 to 1024 bytes, by Argon2id with the
// second recommended parameters of RFC 9106 (3 passes over 64 MiB, 4 lanes) and a random salt that
// lies in the directory. It costs about a tenth of a second per Open.
func Passphrase(passphrase string) KEK {
	if len(passphrase) == 0 || len(passphrase) > maxPassphrase {
		return KEK{err: fmt.Errorf("keyring: passphrase of %d bytes; use 1 to %d", len(passphrase), maxPassphrase)}
	}
	return KEK{open: func(dir string) (tink.AEAD, error) {
		p, err := argonParameters(dir)
		if err != nil {
			return nil, err
		}
		k := argon2.IDKey([]byte(passphrase), p.Salt, p.Time, p.Memory, p.Threads, 32)
		gcm, err := aesgcm.NewKey(secretdata.NewBytesFromData(k, insecuresecretdataaccess.Token{}), 0, aeadParameters)
		if err != nil {
			return nil, err
		}
		h, err := handleOf(gcm)
		if err != nil {
			return nil, err
		}
		return aead.New(h)
	}}
}

type argonParams struct {
	Algorithm string `json:"algorithm"`
	Time      uint32 `json:"time"`
	Memory    uint32 `json:"memory_kib"`
	Threads   uint8  `json:"threads"`
	Salt      []byte `json:"salt"`
}

// argonParameters reads the directory's parameters, or draws a salt and writes them.
func argonParameters(dir string) (argonParams, error) {
	path := filepath.Join(dir, argonFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		if err := mustBeNew(dir, argonFile, keysetFile); err != nil {
			return argonParams{}, err
		}
		p := argonParams{Algorithm: "argon2id", Time: argonTime, Memory: argonMemory, Threads: argonThreads,
			Salt: make([]byte, saltSize)}
		if _, err := rand.Read(p.Salt); err != nil {
			return p, err
		}
		raw, err := json.Marshal(p)
		if err != nil {
			return p, err
		}
		return p, safefile.Replace(path, raw, 0o600)
	}
	var p argonParams
	if err != nil {
		return p, err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	// Whoever can write the directory must not be able to weaken the derivation, nor to eat the memory.
	if err := d.Decode(&p); err != nil || d.More() || p.Algorithm != "argon2id" || p.Time != argonTime ||
		p.Memory != argonMemory || p.Threads != argonThreads || len(p.Salt) != saltSize {
		return p, fmt.Errorf("keyring: %s is damaged; restore it, or start with an empty directory", path)
	}
	return p, nil
}

// mustBeNew fails when a file is missing that what is there cannot be opened without. To make a new one would be to throw
// away what a backup of the missing one could still save.
func mustBeNew(dir, missing, present string) error {
	switch _, err := os.Lstat(filepath.Join(dir, present)); {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("keyring: %s has %s and no %s; restore that, or start with an empty directory", dir, present, missing)
}

// dataKeyset opens the directory's data keyset under kek, or makes one where there is none.
func dataKeyset(dir string, kek tink.AEAD) (tink.AEAD, error) {
	path := filepath.Join(dir, keysetFile)
	ad := []byte("sealbus/v1 state keyset")
	raw, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if err := mustBeNew(dir, keysetFile, stateName); err != nil {
			return nil, err
		}
		h, err := generate(aeadParameters)
		if err != nil {
			return nil, err
		}
		var buf bytes.Buffer
		if err := h.WriteWithAssociatedData(keyset.NewBinaryWriter(&buf), kek, ad); err != nil {
			return nil, fmt.Errorf("keyring: encrypting the state keyset: %w", err)
		}
		if err := safefile.Replace(path, buf.Bytes(), 0o600); err != nil {
			return nil, err
		}
		return aead.New(h)
	case err != nil:
		return nil, err
	}
	h, err := keyset.ReadWithAssociatedData(keyset.NewBinaryReader(bytes.NewReader(raw)), kek, ad)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", ErrWrongKey, dir)
	}
	return aead.New(h)
}
