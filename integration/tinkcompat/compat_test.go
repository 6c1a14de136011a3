package tinkcompat

import (
	"bytes"
	"debug/buildinfo"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealbus/sealbus/integration/tinkcompat/internal/oracle"
)

// What each program must link, and the other must not.
const (
	moduleV1  = "github.com/google/tink/go"
	versionV1 = "v1.7.0"
	moduleV2  = "github.com/tink-crypto/tink-go/v2"
	versionV2 = "v2.9.0"
)

var messages = []struct {
	name                      string
	plaintext, associatedData []byte
}{
	{"a message", []byte("buy 3 at 17.25"), []byte("sealbus/v1 frame")},
	{"no associated data", []byte("buy 3 at 17.25"), nil},
	{"no plaintext", nil, []byte("sealbus/v1 frame")},
	{"64 KiB", bytes.Repeat([]byte{0xa5, 0x00}, 32<<10), bytes.Repeat([]byte("ad"), 1<<10)},
}

func TestTinkCompat(t *testing.T) {
	v1, v2 := start(t)
	for _, template := range []oracle.Template{oracle.AES256GCM, oracle.AES256GCMNoPrefix} {
		for _, format := range []oracle.Format{oracle.Binary, oracle.JSON} {
			for _, pair := range [][2]*program{{v1, v2}, {v2, v1}} {
				c := compat{owner: pair[0], other: pair[1], template: template, format: format}
				t.Run(fmt.Sprintf("%s/%s/keyset by %s", template, format, c.owner.name), func(t *testing.T) {
					t.Run("opens", c.opens)
					t.Run("refuses", c.refuses)
					t.Run("rotates", c.rotates)
				})
			}
		}
	}
}

// compat is one row of the matrix: the owner makes the keyset.
type compat struct {
	owner, other *program
	template     oracle.Template
	format       oracle.Format
}

// opens: whoever sealed, both open, with the keyset of one of them.
func (c compat) opens(t *testing.T) {
	k := c.owner.generate(t, c.template, c.format)
	for _, m := range messages {
		for _, sealer := range []*program{c.owner, c.other} {
			ct := k.encrypt(t, sealer, m.plaintext, m.associatedData)
			c.checkShape(t, ct, k.primary, len(m.plaintext))
			for _, opener := range []*program{c.owner, c.other} {
				resp := k.decrypt(t, opener, ct, m.associatedData)
				if resp.Error != "" {
					t.Errorf("%s: sealed by %s, %s cannot open: %s", m.name, sealer.name, opener.name, resp.Error)
				} else if !bytes.Equal(resp.Plaintext, m.plaintext) {
					t.Errorf("%s: sealed by %s, %s reads something else", m.name, sealer.name, opener.name)
				}
			}
		}
	}
}

// refuses: what one library sealed and somebody changed, both refuse.
func (c compat) refuses(t *testing.T) {
	k := c.owner.generate(t, c.template, c.format)
	ad := []byte("sealbus/v1 frame")
	for _, sealer := range []*program{c.owner, c.other} {
		ct := k.encrypt(t, sealer, []byte("buy 3 at 17.25"), ad)
		for _, opener := range []*program{c.owner, c.other} {
			refused := func(what string, k key, ct, ad []byte) {
				t.Helper()
				switch resp := k.decrypt(t, opener, ct, ad); {
				case resp.Error == "":
					t.Errorf("sealed by %s, %s opens it with %s", sealer.name, opener.name, what)
				case !resp.Refused:
					t.Errorf("sealed by %s, %s fails before it could refuse %s: %s", sealer.name, opener.name, what, resp.Error)
				}
			}
			if resp := k.decrypt(t, opener, ct, ad); resp.Error != "" {
				t.Fatalf("sealed by %s, %s refuses the ciphertext as it was: %s", sealer.name, opener.name, resp.Error)
			}
			for i := range ct {
				flipped := bytes.Clone(ct)
				flipped[i] ^= 1 << (i % 8)
				refused(fmt.Sprintf("byte %d flipped", i), k, flipped, ad)
				refused(fmt.Sprintf("only the first %d bytes", i), k, ct[:i], ad)
			}
			refused("a byte appended", k, append(bytes.Clone(ct), 0), ad)
			refused("other associated data", k, ct, []byte("sealbus/v1 frane"))
			refused("longer associated data", k, ct, append(bytes.Clone(ad), 0))
			refused("no associated data", k, ct, nil)
			refused("another keyset", c.other.generate(t, c.template, c.format), ct, ad)
		}
	}
}

// rotates: the other library adds a key to the owner's keyset; what was sealed
// under the old key still opens in both, and the new key is the primary of both.
func (c compat) rotates(t *testing.T) {
	before := c.owner.generate(t, c.template, c.format)
	ad := []byte("sealbus/v1 frame")
	old := before.encrypt(t, c.owner, []byte("old"), ad)

	after := before.rotate(t, c.other)
	if after.primary == before.primary {
		t.Fatalf("the rotated keyset still has primary key %d", before.primary)
	}
	for _, opener := range []*program{c.owner, c.other} {
		if resp := after.decrypt(t, opener, old, ad); string(resp.Plaintext) != "old" {
			t.Errorf("%s reads %q under the old key, error %q", opener.name, resp.Plaintext, resp.Error)
		}
	}
	for _, sealer := range []*program{c.owner, c.other} {
		ct := after.encrypt(t, sealer, []byte("new"), ad)
		c.checkShape(t, ct, after.primary, len("new"))
		for _, opener := range []*program{c.owner, c.other} {
			if resp := after.decrypt(t, opener, ct, ad); string(resp.Plaintext) != "new" {
				t.Errorf("%s reads %q under the new key, error %q", opener.name, resp.Plaintext, resp.Error)
			}
			if resp := before.decrypt(t, opener, ct, ad); !resp.Refused {
				t.Errorf("%s opens with the old key what %s sealed under the new one", opener.name, sealer.name)
			}
		}
	}
}

// checkShape checks Tink's wire format: 0x01 and the big-endian key id unless
// there is no prefix, then the IV (12), the ciphertext, the tag (16).
func (c compat) checkShape(t *testing.T, ct []byte, primary uint32, plaintext int) {
	t.Helper()
	var prefix []byte
	if c.template == oracle.AES256GCM {
		prefix = binary.BigEndian.AppendUint32([]byte{1}, primary)
	}
	if !bytes.HasPrefix(ct, prefix) {
		t.Errorf("the ciphertext starts with %x, want prefix %x", ct[:min(5, len(ct))], prefix)
	}
	if got, want := len(ct), len(prefix)+12+plaintext+16; got != want {
		t.Errorf("the ciphertext has %d bytes, want %d", got, want)
	}
}

// A key is a keyset and what a request about it must say.
type key struct {
	keyset   []byte
	primary  uint32
	template oracle.Template
	format   oracle.Format
}

func (p *program) generate(t *testing.T, template oracle.Template, format oracle.Format) key {
	t.Helper()
	resp := p.must(t, oracle.Request{Op: oracle.Generate, Template: template, Format: format})
	return key{resp.Keyset, resp.PrimaryKeyID, template, format}
}

func (k key) rotate(t *testing.T, by *program) key {
	t.Helper()
	resp := by.must(t, oracle.Request{Op: oracle.Rotate, Template: k.template, Format: k.format, Keyset: k.keyset})
	return key{resp.Keyset, resp.PrimaryKeyID, k.template, k.format}
}

func (k key) encrypt(t *testing.T, by *program, plaintext, ad []byte) []byte {
	t.Helper()
	return by.must(t, oracle.Request{
		Op: oracle.Encrypt, Format: k.format, Keyset: k.keyset, Plaintext: plaintext, AssociatedData: ad,
	}).Ciphertext
}

func (k key) decrypt(t *testing.T, by *program, ciphertext, ad []byte) oracle.Response {
	t.Helper()
	return by.ask(t, oracle.Request{
		Op: oracle.Decrypt, Format: k.format, Keyset: k.keyset, Ciphertext: ciphertext, AssociatedData: ad,
	})
}

// A program is a running process that links one version of Tink.
type program struct {
	name string
	in   *json.Encoder
	out  *json.Decoder
}

func (p *program) must(t *testing.T, req oracle.Request) oracle.Response {
	t.Helper()
	resp := p.ask(t, req)
	if resp.Error != "" {
		t.Fatalf("%s: %s: %s", p.name, req.Op, resp.Error)
	}
	return resp
}

func (p *program) ask(t *testing.T, req oracle.Request) oracle.Response {
	t.Helper()
	if err := p.in.Encode(req); err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
	var resp oracle.Response
	if err := p.out.Decode(&resp); err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
	return resp
}

// start builds both programs, checks which Tink each links, and runs them
// until the test ends.
func start(t *testing.T) (v1, v2 *program) {
	t.Helper()
	dir := t.TempDir() + string(filepath.Separator)
	build := exec.Command("go", "build", "-buildvcs=false", "-o", dir, "./cmd/tinkv1", "./cmd/tinkv2")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(build.Args, " "), err, out)
	}
	v1 = run(t, dir, "tinkv1", moduleV1, versionV1, moduleV2)
	v2 = run(t, dir, "tinkv2", moduleV2, versionV2, moduleV1)
	return v1, v2
}

func run(t *testing.T, dir, name, module, version, without string) *program {
	t.Helper()
	path, err := exec.LookPath(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	linked := map[string]string{}
	for _, m := range info.Deps {
		linked[m.Path] = m.Version
	}
	if linked[module] != version || linked[without] != "" {
		t.Fatalf("%s links %v, want %s %s and no %s", name, linked, module, version, without)
	}

	cmd := exec.Command(path)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stdin.Close(); err != nil { // which ends the program
			t.Errorf("%s: %v", name, err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	})
	return &program{name: name, in: json.NewEncoder(stdin), out: json.NewDecoder(stdout)}
}
