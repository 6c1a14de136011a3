package audit

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
)

var update = flag.Bool("update", false, "write testdata/vectors")

const vectorDir = "testdata/vectors"

// vector is one file of testdata/vectors; the README there explains it. All are made here by hand, with nothing of this package.
type vector struct {
	Name    string `json:"name"`
	Comment string `json:"comment"`

	Fields *vectorFields `json:"fields,omitempty"`
	Entry  string        `json:"entry,omitempty"` // hex
	Leaf   string        `json:"leaf,omitempty"`

	Origin     string   `json:"origin,omitempty"`
	Size       int64    `json:"size,omitempty"`
	Entries    []string `json:"entries,omitempty"`
	Root       string   `json:"root,omitempty"`
	PublicKey  string   `json:"public_key,omitempty"`
	Checkpoint string   `json:"checkpoint,omitempty"`
	Index      int64    `json:"index,omitempty"`
	Hashes     []string `json:"hashes,omitempty"`
	Proof      string   `json:"proof,omitempty"`

	Fault string `json:"fault,omitempty"`
}

// vectorFields are those of an entry, by their names in SPEC; absent ones the entry does not have.
type vectorFields struct {
	Kind     uint8   `json:"kind"`
	Logged   uint64  `json:"logged,string"`
	Sequence *uint64 `json:"sequence,omitempty,string"`
	Stored   *uint64 `json:"stored,omitempty,string"`
	Subject  string  `json:"subject,omitempty"`
	Size     *uint32 `json:"size,omitempty"`
	Data     string  `json:"data,omitempty"`
	Outcome  *uint8  `json:"outcome,omitempty"`

	LeafOf    string  `json:"leaf_of_frame,omitempty"`
	FrameKind *uint8  `json:"frame_kind,omitempty"`
	Flags     *uint8  `json:"flags,omitempty"`
	ID        string  `json:"id,omitempty"`
	Ref       string  `json:"ref,omitempty"`
	Session   string  `json:"session,omitempty"`
	Seq       *uint64 `json:"seq,omitempty,string"`
	KeyID     *uint32 `json:"key_id,omitempty"`
	Sender    string  `json:"sender,omitempty"`
	FrameCard string  `json:"frame_card,omitempty"`
	Recipient string  `json:"recipient,omitempty"`
	Count     *uint16 `json:"count,omitempty"`

	First    *uint64 `json:"first,omitempty,string"`
	Last     *uint64 `json:"last,omitempty,string"`
	Hash     string  `json:"hash,omitempty"`
	Revision *uint64 `json:"revision,omitempty,string"`
	Agent    string  `json:"agent,omitempty"`
	Card     string  `json:"card,omitempty"`
	Channel  string  `json:"channel,omitempty"`
	Key      *uint32 `json:"key,omitempty"`
	Time     *uint64 `json:"time,omitempty,string"`
	Text     string  `json:"text,omitempty"`
}

func fromHex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// encode is SPEC section 13.1, written down once more.
func (f *vectorFields) encode() []byte {
	b := binary.BigEndian.AppendUint64([]byte{1, f.Kind}, f.Logged)
	u64 := func(n *uint64) {
		if n != nil {
			b = binary.BigEndian.AppendUint64(b, *n)
		}
	}
	u32 := func(n *uint32) {
		if n != nil {
			b = binary.BigEndian.AppendUint32(b, *n)
		}
	}
	u8 := func(n *uint8) {
		if n != nil {
			b = append(b, *n)
		}
	}
	raw := func(s string) { b = append(b, fromHex(s)...) }
	short := func(s string) {
		if s != "" {
			b = append(append(b, byte(len(s))), s...)
		}
	}
	long := func(s string) {
		if s != "" {
			b = append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
		}
	}
	u64(f.Sequence)
	u64(f.Stored)
	long(f.Subject)
	u32(f.Size)
	raw(f.Data)
	u8(f.Outcome)
	if f.FrameKind != nil {
		b = append(b, 1)
	} else if f.Sequence != nil {
		b = append(b, 0)
	}
	raw(f.LeafOf)
	u8(f.FrameKind)
	u8(f.Flags)
	raw(f.ID)
	raw(f.Ref)
	raw(f.Session)
	u64(f.Seq)
	u32(f.KeyID)
	short(f.Sender)
	raw(f.FrameCard)
	short(f.Recipient)
	if f.Count != nil {
		b = binary.BigEndian.AppendUint16(b, *f.Count)
	}
	u64(f.First)
	u64(f.Last)
	raw(f.Hash)
	u64(f.Revision)
	short(f.Agent)
	raw(f.Card)
	short(f.Channel)
	u32(f.Key)
	u64(f.Time)
	long(f.Text)
	return b
}

// fieldsOf takes an entry apart.
func fieldsOf(e *Entry) *vectorFields {
	x := func(b []byte) string { return hex.EncodeToString(b) }
	f := &vectorFields{Kind: uint8(e.Kind), Logged: uint64(e.Logged.UnixMilli())}
	if e.Kind == KindFrame {
		m, h := &e.Frame, &e.Frame.Header
		f.Sequence, f.Stored, f.Subject, f.Size, f.Data = &m.Sequence, new(uint64(m.Stored.UnixNano())), m.Subject, &m.Size, x(m.Data[:])
		f.Outcome = new(uint8(m.Outcome))
		if !h.IsZero() {
			f.LeafOf, f.FrameKind, f.Flags, f.ID, f.Ref, f.Session = x(h.Leaf[:]), new(uint8(h.Kind)), &h.Flags, x(h.ID[:]), x(h.Ref[:]), x(h.Session[:])
			f.Seq, f.KeyID, f.Sender, f.FrameCard, f.Recipient, f.Count = &h.Seq, &h.Key, h.Sender, x(h.Card[:]), h.Recipient, &h.Count
		}
		return f
	}
	v, has := &e.Event, eventFields[e.Kind]
	for bit, set := range map[uint16]func(){
		hasFirst: func() { f.First = &v.First }, hasLast: func() { f.Last = &v.Last }, hasHash: func() { f.Hash = x(v.Hash[:]) },
		hasRevision: func() { f.Revision = &v.Revision }, hasAgent: func() { f.Agent = v.Agent }, hasCard: func() { f.Card = x(v.Card[:]) },
		hasChannel: func() { f.Channel = v.Channel }, hasKey: func() { f.Key = &v.Key },
		hasTime: func() { f.Time = new(uint64(v.Time.UnixNano())) }, hasText: func() { f.Text = v.Text },
	} {
		if has&bit != 0 {
			set()
		}
	}
	return f
}

func sha(parts ...[]byte) []byte {
	sum := sha256.Sum256(bytes.Join(parts, nil))
	return sum[:]
}

// root is RFC 6962, section 2.1, as it stands there.
func root(leaves [][]byte) []byte {
	if len(leaves) == 1 {
		return leaves[0]
	}
	k := 1
	for k*2 < len(leaves) {
		k *= 2
	}
	return sha([]byte{1}, root(leaves[:k]), root(leaves[k:]))
}

// path is section 2.1.1.
func path(m int, leaves [][]byte) [][]byte {
	if len(leaves) == 1 {
		return nil
	}
	k := 1
	for k*2 < len(leaves) {
		k *= 2
	}
	if m < k {
		return append(path(m, leaves[:k]), root(leaves[k:]))
	}
	return append(path(m-k, leaves[k:]), root(leaves[:k]))
}

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// validVectors are made by hand.
func validVectors() []vector {
	var list []vector
	entry := func(name, comment string, e *Entry) {
		f := fieldsOf(e)
		raw := f.encode()
		list = append(list, vector{Name: name, Comment: comment, Fields: f, Entry: hex.EncodeToString(raw), Leaf: hex.EncodeToString(sha([]byte{0}, raw))})
	}
	entry("entry-frame", "a frame that was attested", testEntry(7))
	refused := testEntry(8)
	refused.Frame.Outcome = keyring.BadSignature
	entry("entry-frame-refused", "a frame with a wrong signature", refused)
	rubbish := FrameEntry(&Stored{9, testEpoch, "sb.topic.ledger.a", []byte("rubbish")}, testEpoch, keyring.Malformed)
	entry("entry-no-frame", "a message that is no frame", &rubbish)
	result := testEntry(9)
	result.Frame.Header.Kind, result.Frame.Header.Ref = envelope.KindResult, result.Frame.Header.ID
	entry("entry-frame-with-ref", "a result", result)
	for kind := KindFrame + 1; kind < kindCount; kind++ {
		entry("entry-"+kind.String(), "an event", eventOf(kind))
	}

	var leaves [][]byte
	var entries []string
	for i := range 7 {
		raw := fieldsOf(testEntry(i)).encode()
		entries = append(entries, hex.EncodeToString(raw))
		leaves = append(leaves, sha([]byte{0}, raw))
	}
	origin := testOrigin().String()
	private := ed25519.NewKeyFromSeed(sha([]byte("a key for test vectors, which is no key")))
	public := private.Public().(ed25519.PublicKey)
	text := fmt.Sprintf("%s\n%d\n%s\n", origin, len(leaves), b64(root(leaves)))
	keyID := sha([]byte(origin), []byte{'\n', 1}, public)[:4]
	checkpoint := text + "\n— " + origin + " " + b64(append(slices.Clone(keyID), ed25519.Sign(private, []byte(text))...)) + "\n"
	list = append(list, vector{
		Name: "checkpoint", Comment: "a signed checkpoint of a log with seven entries", Origin: origin, Size: int64(len(leaves)), Entries: entries,
		Root: hex.EncodeToString(root(leaves)), PublicKey: hex.EncodeToString(public), Checkpoint: checkpoint,
	})
	for _, i := range []int{0, 3, 6} {
		v := vector{
			Name: fmt.Sprintf("proof-%d", i), Comment: "the proof of one of the entries behind that checkpoint", Index: int64(i), Entry: entries[i],
			Checkpoint: checkpoint, PublicKey: hex.EncodeToString(public), Proof: "c2sp.org/tlog-proof@v1\nextra " + b64(fromHex(entries[i])) + fmt.Sprintf("\nindex %d\n", i),
		}
		for _, h := range path(i, leaves) {
			v.Hashes = append(v.Hashes, hex.EncodeToString(h))
			v.Proof += b64(h) + "\n"
		}
		v.Proof += "\n" + checkpoint
		list = append(list, v)
	}
	return list
}

// invalidVectors are valid ones with one fault.
func invalidVectors(valid []vector) []vector {
	find := func(name string) vector {
		i := slices.IndexFunc(valid, func(v vector) bool { return v.Name == name })
		return valid[i]
	}
	var list []vector
	entry := func(name, of string, spoil func([]byte) []byte) {
		raw := spoil(fromHex(find(of).Entry))
		list = append(list, vector{Name: "entry-" + name, Comment: "spoilt: " + of, Entry: hex.EncodeToString(raw), Fault: strings.ReplaceAll(name, "-", " ")})
	}
	set := func(at int, to ...byte) func([]byte) []byte {
		return func(b []byte) []byte { copy(b[at:], to); return b }
	}
	const subject = 2 + 8 + 8 + 8 // where its length stands
	outcome := subject + 2 + len("sb.topic.ledger.a") + 4 + 32
	header := outcome + 2
	entry("empty", "entry-frame", func([]byte) []byte { return nil })
	entry("version-2", "entry-frame", set(0, 2))
	entry("kind-0", "entry-still", set(1, 0))
	entry("kind-unknown", "entry-still", set(1, byte(kindCount)))
	entry("logged-at-no-time", "entry-still", set(2, 0, 0, 0, 0, 0, 0, 0, 0))
	entry("logged-too-late", "entry-still", set(2, 0xff))
	entry("cut", "entry-frame", func(b []byte) []byte { return b[:len(b)-1] })
	entry("trailing", "entry-frame", func(b []byte) []byte { return append(b, 0) })
	entry("event-cut", "entry-config", func(b []byte) []byte { return b[:len(b)-1] })
	entry("event-trailing", "entry-config", func(b []byte) []byte { return append(b, 0) })
	entry("event-of-another-kind", "entry-policy", set(1, byte(KindStill)))
	entry("sequence-0", "entry-frame", set(10, 0, 0, 0, 0, 0, 0, 0, 0))
	entry("stored-too-late", "entry-frame", set(18, 0xff))
	entry("subject-empty", "entry-no-frame", func(b []byte) []byte {
		return append(append(b[:subject:subject], 0, 0), b[subject+2+len("sb.topic.ledger.a"):]...)
	})
	entry("subject-past-end", "entry-frame", set(subject, 0xff))
	entry("outcome-of-opening", "entry-frame", set(outcome, byte(keyring.BadSeal)))
	entry("text-not-utf8", "entry-config", func(b []byte) []byte { b[len(b)-1] = 0xff; return b })
	entry("form-2", "entry-frame", set(outcome+1, 2))
	entry("no-frame-attested", "entry-no-frame", set(outcome, 0))
	entry("frame-of-kind-0", "entry-frame", set(header+32, 0))
	entry("frame-of-kind-9", "entry-frame", set(header+32, 9))
	entry("frame-without-id", "entry-frame", set(header+34, make([]byte, 16)...))
	entry("frame-without-session", "entry-frame", set(header+34+32, make([]byte, 16)...))
	entry("frame-of-seq-0", "entry-frame", set(header+34+48, make([]byte, 8)...))
	entry("frame-of-no-messages", "entry-frame", func(b []byte) []byte { clear(b[len(b)-2:]); return b })
	text := func(name, of string, edit func(string) string) {
		v := find(of)
		kind, _, _ := strings.Cut(of, "-")
		bad := vector{Name: kind + "-" + name, Comment: "spoilt: " + of, Fault: strings.ReplaceAll(name, "-", " ")}
		if kind == "proof" {
			bad.Proof = edit(v.Proof)
		} else {
			bad.Checkpoint = edit(v.Checkpoint)
		}
		list = append(list, bad)
	}
	swap := func(old, fresh string) func(string) string {
		return func(s string) string {
			if !strings.Contains(s, old) {
				panic(old)
			}
			return strings.Replace(s, old, fresh, 1)
		}
	}
	text("empty", "checkpoint", func(string) string { return "" })
	text("a-line-more", "checkpoint", swap("=\n\n", "=\nmore\n\n"))
	text("a-line-less", "checkpoint", swap("\n7\n", "\n"))
	text("size-with-zero", "checkpoint", swap("\n7\n", "\n07\n"))
	text("size-negative", "checkpoint", swap("\n7\n", "\n-7\n"))
	text("size-huge", "checkpoint", swap("\n7\n", "\n99999999999999999999\n"))
	text("root-short", "checkpoint", func(s string) string { return strings.Replace(s, "=\n", "\n", 1) })
	text("origin-of-three-parts", "checkpoint", swap("/SB_TOPIC_ledger\n7", "\n7"))
	text("origin-of-no-agent", "checkpoint", swap("/auditor/", "/Auditor/"))
	text("origin-of-no-log", "checkpoint", swap("/01M82T3C6NF9XAJ1X38GD0BNKB/", "/01m82t3c6nf9xaj1x38gd0bnkb/"))
	text("unsigned", "checkpoint", func(s string) string { return s[:strings.Index(s, "\n\n")+1] })
	text("line-end-of-windows", "checkpoint", swap("\n7\n", "\r\n7\n"))
	text("empty", "proof-3", func(string) string { return "" })
	text("version-2", "proof-3", swap("@v1", "@v2"))
	text("extra-not-base64", "proof-3", swap("extra ", "extra !"))
	text("extra-twice", "proof-3", func(s string) string {
		line := s[strings.Index(s, "extra"):strings.Index(s, "index")]
		return strings.Replace(s, line, line+line, 1)
	})
	text("no-index", "proof-3", swap("index 3\n", ""))
	text("index-with-sign", "proof-3", swap("index 3\n", "index +3\n"))
	text("index-before-extra", "proof-3", func(s string) string {
		line := s[strings.Index(s, "extra"):strings.Index(s, "index")]
		return strings.Replace(strings.Replace(s, line, "", 1), "index 3\n", "index 3\n"+line, 1)
	})
	text("hash-short", "proof-3", func(s string) string {
		i := strings.Index(s, "index 3\n") + len("index 3\n")
		return s[:i] + s[i+4:]
	})
	text("no-empty-line", "proof-3", swap("\n\nexample", "\nexample"))
	text("no-checkpoint", "proof-3", func(s string) string { return s[:strings.Index(s, "\n\n")+2] })
	return list
}

func TestVectors(t *testing.T) {
	valid := validVectors()
	for dir, list := range map[string][]vector{"valid": valid, "invalid": invalidVectors(valid)} {
		if *update {
			check(t, os.RemoveAll(filepath.Join(vectorDir, dir)))
			check(t, os.MkdirAll(filepath.Join(vectorDir, dir), 0o777))
		}
		for _, v := range list {
			file := filepath.Join(vectorDir, dir, v.Name+".json")
			var b bytes.Buffer
			e := json.NewEncoder(&b)
			e.SetIndent("", "  ")
			e.SetEscapeHTML(false)
			check(t, e.Encode(&v))
			if *update {
				check(t, os.WriteFile(file, b.Bytes(), 0o666))
			}
			if have := value(os.ReadFile(file))(t); !bytes.Equal(have, b.Bytes()) {
				t.Errorf("%s is not what is made; go test ./audit -run Vectors -update writes it", file)
			}
		}
		if files := value(filepath.Glob(filepath.Join(vectorDir, dir, "*.json")))(t); len(files) != len(list) {
			t.Errorf("%d files in %s, and %d are made", len(files), dir, len(list))
		}
	}
}

// loadVectors reads the files of a directory.
func loadVectors(t testing.TB, dir string) (list []vector) {
	t.Helper()
	for _, file := range value(filepath.Glob(filepath.Join(vectorDir, dir, "*.json")))(t) {
		var v vector
		check(t, json.Unmarshal(value(os.ReadFile(file))(t), &v))
		list = append(list, v)
	}
	if len(list) == 0 {
		t.Fatal("no vectors")
	}
	return list
}

// TestValidVectors: what the files say is what the package does.
func TestValidVectors(t *testing.T) {
	for _, v := range loadVectors(t, "valid") {
		switch {
		case v.Fields != nil:
			raw := fromHex(v.Entry)
			var e Entry
			check(t, ParseEntry(raw, &e))
			if got := fieldsOf(&e); !reflect.DeepEqual(got, v.Fields) {
				t.Errorf("%s is read as %+v", v.Name, got)
			}
			leaf := LeafHash(raw)
			if again := value(AppendEntry(nil, &e))(t); !bytes.Equal(again, raw) || hex.EncodeToString(leaf[:]) != v.Leaf {
				t.Errorf("%s is written as %x, with the leaf %x", v.Name, again, leaf)
			}
		case v.Proof != "":
			p := value(ParseProof([]byte(v.Proof)))(t)
			value(p.Verify(fromHex(v.Entry), v.verifiers(t)))(t)
			if again := value(p.Text())(t); string(again) != v.Proof || p.Index != v.Index || !bytes.Equal(p.Extra, fromHex(v.Entry)) {
				t.Errorf("%s is written as %s", v.Name, again)
			}
		default:
			c := value(OpenCheckpoint([]byte(v.Checkpoint), v.verifiers(t)))(t)
			var leaves tree
			for _, raw := range v.Entries {
				leaves.add(nil, LeafHash(fromHex(raw)))
			}
			if c.Origin.String() != v.Origin || c.Size != v.Size || hex.EncodeToString(c.Root[:]) != v.Root || leaves.root() != c.Root {
				t.Errorf("%s is read as %+v", v.Name, c)
			}
		}
	}
}

func (v *vector) verifiers(t testing.TB) note.Verifiers {
	t.Helper()
	key := value(note.NewEd25519VerifierKey(testOrigin().String(), fromHex(v.PublicKey)))(t)
	return note.VerifierList(value(note.NewVerifier(key))(t))
}

// TestInvalidVectors: everything with a fault is refused.
func TestInvalidVectors(t *testing.T) {
	for _, v := range loadVectors(t, "invalid") {
		var err error
		switch kind, _, _ := strings.Cut(v.Name, "-"); kind {
		case "entry":
			var e Entry
			if err = ParseEntry(fromHex(v.Entry), &e); e != (Entry{}) {
				t.Errorf("%s leaves something behind", v.Name)
			}
		case "proof":
			_, err = ParseProof([]byte(v.Proof))
		case "checkpoint":
			_, err = UnverifiedCheckpoint([]byte(v.Checkpoint))
		}
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", v.Name, err)
		}
	}
}
