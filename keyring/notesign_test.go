package keyring

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/sealbus/sealbus/internal/envelope"
)

const logName = "example.org/planner/01ARZ3NDEKTSV4RRFFQ69G5FAV/SB_TASK_summarise"

// TestNotes: a note that a ring has signed is one for every reader of C2SP notes, and for nobody when a byte of it is changed.
func TestNotes(t *testing.T) {
	inquestWorld(t, func(t *testing.T, q *inquest) {
		text := logName + "\n1\nAAAA\n"
		s := value(q.producer.NoteSigner(logName))(t)
		signed := value(note.Sign(&note.Note{Text: text}, s))(t)
		v := value(q.witness.NoteVerifier(logName, q.producer.Self(), q.producer.Card()))(t)
		vkey := value(note.NewEd25519VerifierKey(logName, q.producer.own.signingPublic))(t)
		plain := value(note.NewVerifier(vkey))(t)
		for _, v := range []note.Verifier{v, plain} {
			n := value(note.Open(signed, note.VerifierList(v)))(t)
			if n.Text != text || len(n.Sigs) != 1 || n.Sigs[0].Name != logName || n.Sigs[0].Hash != s.KeyHash() {
				t.Errorf("%+v", n)
			}
		}
		for i := range signed {
			b := bytes.Clone(signed)
			b[i] ^= 1
			// The last character of the signature has two bits that package note passes over.
			if n, err := note.Open(b, note.VerifierList(v)); err == nil && (i != len(signed)-3 || n.Text != text) {
				t.Errorf("byte %d changed, and it is believed", i)
			}
		}
		q.show(t, q.worker)
		for name, v := range map[string]note.Verifier{
			"another name":    value(q.witness.NoteVerifier(logName+"x", q.producer.Self(), q.producer.Card()))(t),
			"another's card":  value(q.witness.NoteVerifier(logName, q.worker.Self(), q.worker.Card()))(t),
			"no such text":    noteVerifier{noteKey{logName, s.KeyHash()}, value(newPeerKeys(q.worker.own.signingPublic, q.worker.own.hpkePublic))(t)},
			"a wrong key id ": noteVerifier{noteKey{logName, s.KeyHash() + 1}, value(newPeerKeys(q.producer.own.signingPublic, q.producer.own.hpkePublic))(t)},
		} {
			if _, err := note.Open(signed, note.VerifierList(v)); err == nil {
				t.Errorf("%s: believed", name)
			}
		}
		for _, name := range []string{"", "a b", "a+b", "a\n", "a\u2003b", "\xff"} {
			if _, err := q.producer.NoteSigner(name); err == nil {
				t.Errorf("%q is a name", name)
			}
			if _, err := q.witness.NoteVerifier(name, q.producer.Self(), q.producer.Card()); err == nil {
				t.Errorf("%q is a name", name)
			}
		}
		if _, err := q.witness.NoteVerifier(logName, q.auditor.Self(), q.auditor.Card()); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		check(t, q.producer.Close(q.w.ctx()))
		if _, err := s.Sign([]byte(text)); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		if _, err := q.producer.NoteSigner(logName); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
}

// TestNotesAreNothingElse: no signature of a note is one of a frame or a statement, and none of these is one of a note.
func TestNotesAreNothingElse(t *testing.T) {
	inquestWorld(t, func(t *testing.T, q *inquest) {
		s := value(q.producer.NoteSigner(logName))(t)
		v := value(q.witness.NoteVerifier(logName, q.producer.Self(), q.producer.Card()))(t)
		// The signed root of a frame that ends as a note does.
		var f envelope.Frame
		var root []byte
		for root == nil || root[len(root)-1] != '\n' {
			check(t, envelope.Parse(q.seal(t, "x"), &f))
			root = envelope.AppendSignedRoot(nil, &f.Header, 0, envelope.Leaf(f.Head, f.Ciphertext))
		}
		if !ed25519.Verify(q.producer.own.signingPublic, root, f.Signature.Sig) {
			t.Fatal("not what a frame's signature is over")
		}
		if v.Verify(root, f.Signature.Sig) {
			t.Error("a frame's signature is taken for a note's")
		}
		statement := strings.Split(string(currentKey(t, q.worker, queue).statement.raw), ".")
		for name, text := range map[string]string{
			"a signed root":                   string(root),
			"a text that begins like one":     "sealbus/v1 root\n",
			"the format's own label":          "sealbus/v1 \n",
			"a statement's signing input":     statement[0] + "." + statement[1],
			"a text without a line end":       "log\n1\nAAAA",
			"nothing":                         "",
			"a statement cut before the end ": statement[0],
		} {
			if sig, err := s.Sign([]byte(text)); err == nil || sig != nil {
				t.Errorf("%s was signed", name)
			}
		}
		for _, text := range []string{"log\n1\nAAAA\n", "sealbus/v1\n", "x sealbus/v1 root\n", "\n"} {
			sig := value(s.Sign([]byte(text)))(t)
			if !v.Verify([]byte(text), sig) {
				t.Errorf("%q does not verify", text)
			}
		}
	})
}
