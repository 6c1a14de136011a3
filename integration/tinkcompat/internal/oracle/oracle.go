// Package oracle is the conversation between the test and a program that links
// one version of Tink: one JSON request a line in, one JSON response a line
// out, until the input ends.
package oracle

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// A Template names the kind of key in a keyset.
type Template string

const (
	// AES256GCM is the template that Sealbus uses: ciphertexts start with
	// Tink's prefix, which names the key.
	AES256GCM Template = "AES256_GCM"

	// AES256GCMNoPrefix is the same without that prefix.
	AES256GCMNoPrefix Template = "AES256_GCM_NO_PREFIX"
)

// A Format is one of Tink's two serializations of a keyset.
type Format string

const (
	Binary Format = "binary"
	JSON   Format = "json"
)

// An Op is what a request asks for.
type Op string

const (
	Generate Op = "generate" // a keyset with one key of Template
	Rotate   Op = "rotate"   // Keyset with one more key of Template, now its primary
	Encrypt  Op = "encrypt"
	Decrypt  Op = "decrypt"
)

// A Request is one line to a program.
type Request struct {
	Op             Op       `json:"op"`
	Format         Format   `json:"format"`
	Template       Template `json:"template,omitempty"`
	Keyset         []byte   `json:"keyset,omitempty"`
	Plaintext      []byte   `json:"plaintext,omitempty"`
	Ciphertext     []byte   `json:"ciphertext,omitempty"`
	AssociatedData []byte   `json:"associated_data,omitempty"`
}

// A Response is one line from a program.
type Response struct {
	Keyset       []byte `json:"keyset,omitempty"`
	PrimaryKeyID uint32 `json:"primary_key_id,omitempty"` // with Keyset
	Plaintext    []byte `json:"plaintext,omitempty"`
	Ciphertext   []byte `json:"ciphertext,omitempty"`

	// Refused says that the keyset was read and the AEAD was asked, and that
	// it did not open the ciphertext. Any other failure is only in Error: a
	// test that expects a refusal must not take those for one.
	Refused bool   `json:"refused,omitempty"`
	Error   string `json:"error,omitempty"`
}

// A Library is one version of Tink.
type Library interface {
	Generate(Template, Format) (keyset []byte, primary uint32, err error)
	Rotate(keyset []byte, _ Template, _ Format) (rotated []byte, primary uint32, err error)
	AEAD(keyset []byte, _ Format) (AEAD, error)
}

// AEAD is what tink.AEAD is in both versions.
type AEAD interface {
	Encrypt(plaintext, associatedData []byte) ([]byte, error)
	Decrypt(ciphertext, associatedData []byte) ([]byte, error)
}

// Serve answers the requests of r on w with lib until r ends.
func Serve(r io.Reader, w io.Writer, lib Library) error {
	in, out := json.NewDecoder(r), json.NewEncoder(w)
	in.DisallowUnknownFields()
	for {
		var req Request
		if err := in.Decode(&req); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("reading a request: %w", err)
		}
		if err := out.Encode(answer(lib, req)); err != nil {
			return fmt.Errorf("writing a response: %w", err)
		}
	}
}

func answer(lib Library, req Request) (resp Response) {
	var err error
	switch req.Op {
	case Generate:
		resp.Keyset, resp.PrimaryKeyID, err = lib.Generate(req.Template, req.Format)
	case Rotate:
		resp.Keyset, resp.PrimaryKeyID, err = lib.Rotate(req.Keyset, req.Template, req.Format)
	case Encrypt, Decrypt:
		var a AEAD
		if a, err = lib.AEAD(req.Keyset, req.Format); err != nil {
			break
		}
		if req.Op == Encrypt {
			resp.Ciphertext, err = a.Encrypt(req.Plaintext, req.AssociatedData)
			break
		}
		resp.Plaintext, err = a.Decrypt(req.Ciphertext, req.AssociatedData)
		resp.Refused = err != nil
	default:
		err = fmt.Errorf("unknown op %q", req.Op)
	}
	if err != nil {
		return Response{Refused: resp.Refused, Error: err.Error()}
	}
	return resp
}
