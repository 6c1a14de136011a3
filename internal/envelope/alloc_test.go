package envelope

import (
	"bytes"
	"testing"

	"github.com/oklog/ulid/v2"
)

// TestAllocations keeps the hot path, and the path of an attacker's frames,
// free of allocations.
func TestAllocations(t *testing.T) {
	f := testFrame(FlagSigned | FlagCommitted)
	wire := ok(AppendFrame(nil, &f))
	bad := newRawFrame(FlagSigned)
	bad.signature.index = 8
	badWire := bad.bytes()
	messages := vectorMessages(5)
	var plain []byte
	for i := range messages {
		plain = ok(AppendMessage(plain, &messages[i], true))
	}
	lent := ok(ParseMessages(plain, FlagCommitted, 5, nil))
	leaves := someLeaves(33)
	buf := make([]byte, 0, 4096)
	var parsed Frame
	if err := Parse(wire, &parsed); err != nil {
		t.Fatal(err)
	}
	var tree, commits Tree
	path := ok(CommitPath(messages, 3))
	var g Gathering
	g.Reset(true)
	ids, salts := make([]ulid.ULID, 5), bytes.Repeat([]byte{1}, 5*SaltSize)
	for i := range messages {
		ids[i] = messages[i].ID
	}
	refill := func() error {
		g.Reset(true)
		for i := range messages {
			if err := g.Add(&messages[i]); err != nil {
				return err
			}
		}
		g.Plaintext(true)
		return g.Stamp(ids, salts)
	}
	if err := refill(); err != nil {
		t.Fatal(err)
	}
	var bare []byte
	for i := range messages {
		m := messages[i]
		m.Headers = nil
		bare = ok(AppendMessage(bare, &m, true))
	}
	h := testHeader(FlagCommitted)
	h.Count, h.Commit = 5, ok(CommitRoot(messages))

	for name, f := range map[string]func() error{
		"Parse":                 func() error { var g Frame; return Parse(wire, &g) },
		"Parse refusing":        func() error { var g Frame; _ = Parse(badWire, &g); return nil },
		"AppendFrame":           func() error { _, err := AppendFrame(buf, &parsed); return err },
		"AppendAssociatedData":  func() error { AppendAssociatedData(buf, parsed.Head); return nil },
		"AppendMessage":         func() error { _, err := AppendMessage(buf, &messages[3], true); return err },
		"AppendPadding":         func() error { AppendPadding(buf[:33], 0); return nil },
		"ParseMessages":         func() error { _, err := ParseMessages(bare, FlagCommitted, 5, lent[:0]); return err },
		"ParseMessages refusal": func() error { _, _ = ParseMessages(bare, FlagCommitted, 4, lent[:0]); return nil },
		"Gathering":             refill,
		"BuildGathered":         func() error { return commits.BuildGathered(&g) },
		"Leaf":                  func() error { Leaf(parsed.Head, parsed.Ciphertext); return nil },
		"Root":                  func() error { _, err := Root(leaves[0], 3, 5, parsed.Signature.Path); return err },
		"AppendSignedRoot":      func() error { AppendSignedRoot(buf, &parsed.Header, 3, leaves[0]); return nil },
		"Tree":                  func() error { err := tree.Build(leaves); tree.Root(); return err },
		"AppendPath":            func() error { _, err := tree.AppendPath(buf, 32); return err },
		"CommitLeaf":            func() error { _, err := CommitLeaf(&messages[3]); return err },
		"BuildCommit":           func() error { return commits.BuildCommit(messages) },
		"VerifyCommit":          func() error { return VerifyCommit(&h, 3, &messages[3], path) },
	} {
		if name == "AppendPath" {
			if err := tree.Build(leaves); err != nil {
				t.Fatal(err)
			}
		}
		var err error
		if n := testing.AllocsPerRun(100, func() { err = f() }); n != 0 || err != nil {
			t.Errorf("%s: %v allocations, %v", name, n, err)
		}
	}
	// Headers have memory of their own, together.
	if n := testing.AllocsPerRun(100, func() { lent, _ = ParseMessages(plain, FlagCommitted, 5, lent[:0]) }); n != 1 {
		t.Errorf("the headers of two messages cost %v allocations", n)
	}
}
