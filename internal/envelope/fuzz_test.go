package envelope

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"
)

// addVectors makes a fuzz target start from the committed vectors.
func addVectors(f *testing.F, kind string, add func(v *vector)) {
	f.Helper()
	files, err := filepath.Glob(filepath.Join(vectorDir, "*", kind+"-*.json"))
	if err != nil || len(files) == 0 {
		f.Fatalf("no vectors of type %s: %v", kind, err)
	}
	for _, name := range files {
		if v := ok(loadVector(name)); v.AppendZeros == 0 {
			add(v)
		}
	}
}

// FuzzParse: no panic, and whatever parses encodes to the same bytes.
func FuzzParse(f *testing.F) {
	addVectors(f, "frame", func(v *vector) { f.Add([]byte(v.Frame)) })
	f.Fuzz(func(t *testing.T, b []byte) {
		var g Frame
		if err := Parse(b, &g); err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("%v is no ErrMalformed", err)
			}
			return
		}
		again, err := AppendFrame(nil, &g)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x became %x, %v", b, again, err)
		}
		if g.Signed() {
			if _, err := Root(Leaf(g.Head, g.Ciphertext), g.Signature.Depth, g.Signature.Index, g.Signature.Path); err != nil {
				t.Fatalf("what parsed has no root: %v", err)
			}
		}
	})
}

// FuzzParseMessages: no panic, the same with lent memory as with new, and
// whatever parses encodes to the same bytes.
func FuzzParseMessages(f *testing.F) {
	addVectors(f, "plaintext", func(v *vector) { f.Add([]byte(v.Plaintext), *v.Flags, *v.Count) })
	lent := make([]Message, 8)
	f.Fuzz(func(t *testing.T, b []byte, flags uint8, n uint16) {
		messages, err := ParseMessages(b, flags, n, nil)
		if _, again := ParseMessages(b, flags, n, lent[:0]); again != err {
			t.Fatalf("%v with new memory and %v with lent", err, again)
		}
		if err != nil {
			if !errors.Is(err, ErrMalformed) || messages != nil {
				t.Fatalf("%d messages and %v", len(messages), err)
			}
			return
		}
		if len(messages) != int(n) {
			t.Fatalf("%d messages, asked for %d", len(messages), n)
		}
		var again []byte
		for i := range messages {
			before := len(again)
			if again, err = AppendMessage(again, &messages[i], flags&FlagCommitted != 0); err != nil {
				t.Fatal(err)
			}
			if size := messages[i].Size(flags&FlagCommitted != 0); size != len(again)-before {
				t.Fatalf("Size says %d of %d bytes", size, len(again)-before)
			}
		}
		if flags&FlagPadded != 0 {
			again = AppendPadding(again, 0)
		}
		if !bytes.Equal(again, b) {
			t.Fatalf("%x became %x", b, again)
		}
	})
}

// FuzzRoot: a path of a tree leads to its root, and one that was changed, or is
// used in another place, does not.
func FuzzRoot(f *testing.F) {
	f.Add(uint16(1), uint16(0), uint16(0), uint8(0), []byte(nil))
	f.Add(uint16(5), uint16(4), uint16(37), uint8(3), make([]byte, 96))
	f.Add(uint16(900), uint16(899), uint16(5), uint8(17), make([]byte, 17*32))
	f.Fuzz(func(t *testing.T, n, index, bit uint16, depth uint8, wild []byte) {
		leaves := someLeaves(int(n%1024) + 1)
		index %= uint16(len(leaves))
		var tree Tree
		if err := tree.Build(leaves); err != nil {
			t.Fatal(err)
		}
		path := ok(tree.AppendPath(nil, int(index)))
		got, err := Root(leaves[index], tree.Depth(), index, path)
		if err != nil || got != tree.Root() {
			t.Fatalf("leaf %d of %d folds to %x, %v", index, len(leaves), got, err)
		}
		if len(path) > 0 {
			at := int(bit) % (8 * len(path))
			path[at/8] ^= 1 << (at % 8)
			if got, _ = Root(leaves[index], tree.Depth(), index, path); got == tree.Root() {
				t.Fatalf("leaf %d of %d folds to the root by a changed path", index, len(leaves))
			}
		}
		got, err = Root(leaves[index], depth, index, wild)
		if err == nil && (depth > MaxDepth || len(wild) != int(depth)*HashSize || int(index)>>depth != 0) {
			t.Fatalf("depth %d index %d path of %d bytes was taken", depth, index, len(wild))
		}
		if err == nil && got == tree.Root() && depth != tree.Depth() {
			t.Fatalf("leaf %d of %d has a path of another length", index, len(leaves))
		}
	})
}
