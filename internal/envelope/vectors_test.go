package envelope

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/oklog/ulid/v2"
)

var update = flag.Bool("update", false, "write testdata/vectors")

const vectorDir = "testdata/vectors"

// vector is one file of testdata/vectors; the README there explains it.
type vector struct {
	Name    string `json:"name"`
	Comment string `json:"comment"`
	Type    string `json:"type"`
	Fault   *fault `json:"fault,omitempty"`

	Frame          hexBytes         `json:"frame,omitempty"`
	Plaintext      hexBytes         `json:"plaintext,omitempty"`
	AppendZeros    int              `json:"append_zeros,omitempty"`
	Flags          *uint8           `json:"flags,omitempty"`
	Count          *uint16          `json:"count,omitempty"`
	Header         *vectorHeader    `json:"header,omitempty"`
	AssociatedData hexBytes         `json:"associated_data,omitempty"`
	Ciphertext     hexBytes         `json:"ciphertext,omitempty"`
	Leaf           hexBytes         `json:"leaf,omitempty"`
	Signature      *vectorSignature `json:"signature,omitempty"`
	Messages       []vectorMessage  `json:"messages,omitempty"`
	Commit         hexBytes         `json:"commit,omitempty"`
	Index          *int             `json:"index,omitempty"`
	Message        *vectorMessage   `json:"message,omitempty"`
	Path           hexBytes         `json:"path,omitempty"`
	Leaves         []hexBytes       `json:"leaves,omitempty"`
	Depth          *uint8           `json:"depth,omitempty"`
	Root           hexBytes         `json:"root,omitempty"`
	Paths          []hexBytes       `json:"paths,omitempty"`
	Sizes          [][2]int         `json:"sizes,omitempty"`
}

type fault struct {
	Part     string `json:"part"`
	Problem  string `json:"problem"`
	TooLarge bool   `json:"too_large"`
}

type vectorHeader struct {
	Flags     uint8    `json:"flags"`
	Kind      uint8    `json:"kind"`
	ID        hexBytes `json:"id"`
	Ref       hexBytes `json:"ref"`
	Session   hexBytes `json:"session"`
	Seq       uint64   `json:"seq,string"`
	Expires   uint64   `json:"expires,string"`
	Key       uint32   `json:"key"`
	Channel   string   `json:"channel"`
	Sender    string   `json:"sender"`
	Card      hexBytes `json:"card"`
	Recipient string   `json:"recipient"`
	Count     uint16   `json:"count"`
	Commit    hexBytes `json:"commit,omitempty"`
}

type vectorSignature struct {
	Depth     uint8    `json:"depth"`
	Index     uint16   `json:"index"`
	Path      hexBytes `json:"path"`
	Sig       hexBytes `json:"sig"`
	Root      hexBytes `json:"root"`
	Signed    hexBytes `json:"signed"`
	PublicKey hexBytes `json:"public_key"`
}

type vectorMessage struct {
	ID      hexBytes      `json:"id"`
	Salt    hexBytes      `json:"salt,omitempty"`
	Headers [][2]hexBytes `json:"headers"`
	Payload hexBytes      `json:"payload"`
}

type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

func (h *hexBytes) UnmarshalText(b []byte) (err error) {
	*h, err = hex.DecodeString(string(b))
	return err
}

func vectorHeaderOf(h *Header) *vectorHeader {
	v := &vectorHeader{
		h.Flags, uint8(h.Kind), h.ID[:], h.Ref[:], h.Session[:], h.Seq, h.Expires, h.Key,
		string(h.Channel), string(h.Sender), h.Card[:], string(h.Recipient), h.Count, nil,
	}
	if h.Committed() {
		v.Commit = h.Commit[:]
	}
	return v
}

func (v *vectorHeader) header() Header {
	h := Header{
		v.Flags, Kind(v.Kind), ulid.ULID(v.ID), ulid.ULID(v.Ref), ulid.ULID(v.Session), v.Seq, v.Expires, v.Key,
		[]byte(v.Channel), []byte(v.Sender), ulid.ULID(v.Card), []byte(v.Recipient), v.Count, [HashSize]byte{},
	}
	copy(h.Commit[:], v.Commit)
	return h
}

func vectorMessageOf(m *Message, committed bool) vectorMessage {
	v := vectorMessage{ID: m.ID[:], Headers: [][2]hexBytes{}, Payload: m.Payload}
	if committed {
		v.Salt = m.Salt[:]
	}
	for _, p := range m.Headers {
		v.Headers = append(v.Headers, [2]hexBytes{p.Key, p.Value})
	}
	return v
}

func (v *vectorMessage) message() Message {
	m := Message{ID: ulid.ULID(v.ID), Payload: v.Payload}
	copy(m.Salt[:], v.Salt)
	for _, p := range v.Headers {
		m.Headers = append(m.Headers, Pair{p[0], p[1]})
	}
	return m
}

// bytes returns what is to be parsed.
func (v *vector) bytes() []byte {
	b := v.Frame
	if v.Type == "plaintext" {
		b = v.Plaintext
	}
	return append(bytes.Clone(b), make([]byte, v.AppendZeros)...)
}

func TestVectors(t *testing.T) {
	made := map[string]bool{}
	for dir, vectors := range map[string][]vector{"valid": validVectors(t), "invalid": invalidVectors(t)} {
		for _, v := range vectors {
			name := filepath.Join(vectorDir, dir, v.Name+".json")
			if made[name] {
				t.Fatalf("two vectors are called %s", name)
			}
			made[name] = true
			checkVectorFile(t, name, &v)
		}
	}
	files, err := filepath.Glob(filepath.Join(vectorDir, "*", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if !made[name] {
			t.Errorf("%s is no longer made: delete it", name)
			continue
		}
		v, err := loadVector(name)
		if err != nil {
			t.Error(err)
			continue
		}
		t.Run(filepath.Base(filepath.Dir(name))+"/"+v.Name, func(t *testing.T) {
			if v.Fault != nil {
				verifyInvalid(t, v)
			} else {
				verifyValid(t, v)
			}
		})
	}
}

// checkVectorFile keeps the committed files from drifting: others test against
// them.
func checkVectorFile(t *testing.T, name string, v *vector) {
	t.Helper()
	want, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, '\n')
	if *update {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(name)
	if err != nil {
		t.Fatalf("%v; run go test ./internal/envelope -run Vectors -update", err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what the test makes; if the format was meant to change, run go test ./internal/envelope -run Vectors -update", name)
	}
}

func loadVector(name string) (*vector, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	v := new(vector)
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return v, nil
}

func verifyInvalid(t *testing.T, v *vector) {
	var err error
	switch v.Type {
	case "frame":
		f := testFrame(FlagSigned)
		err = Parse(v.bytes(), &f)
		if f.Head != nil || f.Channel != nil || f.Signature.Sig != nil {
			t.Error("Parse failed and left something in the frame")
		}
	case "plaintext":
		var messages []Message
		messages, err = ParseMessages(v.bytes(), *v.Flags, *v.Count, nil)
		if messages != nil {
			t.Error("ParseMessages failed and returned messages")
		}
	case "disclosure":
		h, m := v.Header.header(), v.Message.message()
		err = VerifyCommit(&h, *v.Index, &m, v.Path)
		if v.Fault.Part == "commitment" {
			if !errors.Is(err, ErrCommitment) || errors.Is(err, ErrMalformed) {
				t.Errorf("got %v, want ErrCommitment", err)
			}
			return
		}
	default:
		t.Fatalf("type %q", v.Type)
	}
	var e *MalformedError
	if !errors.As(err, &e) || !errors.Is(err, ErrMalformed) {
		t.Fatalf("got %v, want a MalformedError", err)
	}
	if got := (fault{e.Part, e.Problem, e.TooLarge}); got != *v.Fault {
		t.Errorf("got %+v, want %+v", got, *v.Fault)
	}
	if errors.Is(err, ErrTooLarge) != v.Fault.TooLarge {
		t.Errorf("errors.Is(err, ErrTooLarge) is %v", !v.Fault.TooLarge)
	}
}

func verifyValid(t *testing.T, v *vector) {
	switch v.Type {
	case "frame":
		verifyFrame(t, v)
	case "plaintext":
		verifyPlaintext(t, v)
	case "tree":
		verifyTree(t, v)
	case "disclosure":
		h, m := v.Header.header(), v.Message.message()
		if err := VerifyCommit(&h, *v.Index, &m, v.Path); err != nil {
			t.Error(err)
		}
	case "padme":
		for _, s := range v.Sizes {
			if got := PadmeSize(s[0]); got != s[1] {
				t.Errorf("PadmeSize(%d) is %d, want %d", s[0], got, s[1])
			}
		}
	default:
		t.Fatalf("type %q", v.Type)
	}
}

func verifyFrame(t *testing.T, v *vector) {
	var f Frame
	if err := Parse(v.Frame, &f); err != nil {
		t.Fatal(err)
	}
	want := v.Header.header()
	head, err := AppendHeader(nil, &want)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "header", f.Head, head)
	equal(t, "associated data", AppendAssociatedData(nil, f.Head), v.AssociatedData)
	equal(t, "ciphertext", f.Ciphertext, v.Ciphertext)
	leaf := Leaf(f.Head, f.Ciphertext)
	equal(t, "leaf", leaf[:], v.Leaf)
	again, err := AppendFrame(nil, &f)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "frame encoded again", again, v.Frame)
	if !f.Signed() {
		if v.Signature != nil {
			t.Error("the vector has a signature")
		}
		return
	}
	g, s := &f.Signature, v.Signature
	if g.Depth != s.Depth || g.Index != s.Index {
		t.Errorf("depth %d index %d, want %d and %d", g.Depth, g.Index, s.Depth, s.Index)
	}
	equal(t, "path", g.Path, s.Path)
	equal(t, "sig", g.Sig, s.Sig)
	root, err := Root(leaf, g.Depth, g.Index, g.Path)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "root", root[:], s.Root)
	signed := AppendSignedRoot(nil, &f.Header, g.Depth, root)
	equal(t, "signed", signed, s.Signed)
	if !ed25519.Verify(ed25519.PublicKey(s.PublicKey), signed, g.Sig) {
		t.Error("the signature does not verify")
	}
}

func verifyPlaintext(t *testing.T, v *vector) {
	plain := v.bytes()
	messages, err := ParseMessages(plain, *v.Flags, *v.Count, nil)
	if err != nil {
		t.Fatal(err)
	}
	committed := *v.Flags&FlagCommitted != 0
	var again, listed []byte
	for i := range messages {
		if again, err = AppendMessage(again, &messages[i], committed); err != nil {
			t.Fatal(err)
		}
	}
	for i := range v.Messages {
		m := v.Messages[i].message()
		if listed, err = AppendMessage(listed, &m, committed); err != nil {
			t.Fatal(err)
		}
	}
	if *v.Flags&FlagPadded != 0 {
		again, listed = AppendPadding(again, 0), AppendPadding(listed, 0)
	}
	equal(t, "plaintext encoded again", again, plain)
	if v.Messages != nil {
		equal(t, "the messages listed, encoded", listed, plain)
	}
	if committed {
		root, err := CommitRoot(messages)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "commit", root[:], v.Commit)
	}
}

func verifyTree(t *testing.T, v *vector) {
	var leaves [][HashSize]byte
	for _, l := range v.Leaves {
		leaves = append(leaves, [HashSize]byte(l))
	}
	var tree Tree
	if err := tree.Build(leaves); err != nil {
		t.Fatal(err)
	}
	root := tree.Root()
	equal(t, "root", root[:], v.Root)
	if tree.Depth() != *v.Depth {
		t.Errorf("depth is %d, want %d", tree.Depth(), *v.Depth)
	}
	for i := range leaves {
		path, err := tree.AppendPath(nil, i)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "path", path, v.Paths[i])
		got, err := Root(leaves[i], *v.Depth, uint16(i), v.Paths[i])
		if err != nil || got != root {
			t.Errorf("leaf %d folds to %x, %v", i, got, err)
		}
	}
}

func equal(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s is\n%.400x, want\n%.400x", what, got, want)
	}
}
