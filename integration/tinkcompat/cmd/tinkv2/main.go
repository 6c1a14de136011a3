// Command tinkv2 answers an oracle's requests with
// github.com/tink-crypto/tink-go/v2.
package main

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	tinkpb "github.com/tink-crypto/tink-go/v2/proto/tink_go_proto"

	"github.com/sealbus/sealbus/integration/tinkcompat/internal/oracle"
)

func main() {
	if err := oracle.Serve(os.Stdin, os.Stdout, library{}); err != nil {
		fmt.Fprintln(os.Stderr, "tinkv2:", err)
		os.Exit(1)
	}
}

type library struct{}

func (library) Generate(t oracle.Template, f oracle.Format) ([]byte, uint32, error) {
	return grow(keyset.NewManager(), t, f)
}

func (library) Rotate(ks []byte, t oracle.Template, f oracle.Format) ([]byte, uint32, error) {
	h, err := read(ks, f)
	if err != nil {
		return nil, 0, err
	}
	return grow(keyset.NewManagerFromHandle(h), t, f)
}

func (library) AEAD(ks []byte, f oracle.Format) (oracle.AEAD, error) {
	h, err := read(ks, f)
	if err != nil {
		return nil, err
	}
	return aead.New(h)
}

// grow adds a key to a keyset, makes it the primary, and writes the keyset.
func grow(m *keyset.Manager, t oracle.Template, f oracle.Format) ([]byte, uint32, error) {
	var kt *tinkpb.KeyTemplate
	switch t {
	case oracle.AES256GCM:
		kt = aead.AES256GCMKeyTemplate()
	case oracle.AES256GCMNoPrefix:
		kt = aead.AES256GCMNoPrefixKeyTemplate()
	default:
		return nil, 0, fmt.Errorf("unknown template %q", t)
	}
	id, err := m.Add(kt)
	if err != nil {
		return nil, 0, err
	}
	if err := m.SetPrimary(id); err != nil {
		return nil, 0, err
	}
	h, err := m.Handle()
	if err != nil {
		return nil, 0, err
	}
	var buf bytes.Buffer
	w, err := writer(&buf, f)
	if err != nil {
		return nil, 0, err
	}
	if err := insecurecleartextkeyset.Write(h, w); err != nil {
		return nil, 0, err
	}
	return buf.Bytes(), id, nil
}

func writer(w io.Writer, f oracle.Format) (keyset.Writer, error) {
	switch f {
	case oracle.Binary:
		return keyset.NewBinaryWriter(w), nil
	case oracle.JSON:
		return keyset.NewJSONWriter(w), nil
	}
	return nil, fmt.Errorf("unknown format %q", f)
}

func read(ks []byte, f oracle.Format) (*keyset.Handle, error) {
	switch f {
	case oracle.Binary:
		return insecurecleartextkeyset.Read(keyset.NewBinaryReader(bytes.NewReader(ks)))
	case oracle.JSON:
		return insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(ks)))
	}
	return nil, fmt.Errorf("unknown format %q", f)
}
