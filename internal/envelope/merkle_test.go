package envelope

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"math/bits"
	"testing"
)

// slowRoot is the definition, written without regard to cost: fill up to a
// power of two, then hash pairs until one is left.
func slowRoot(leaves [][HashSize]byte) [HashSize]byte {
	level := append([][HashSize]byte{}, leaves...)
	for bits.OnesCount(uint(len(level))) != 1 {
		level = append(level, sha256.Sum256([]byte{2}))
	}
	for len(level) > 1 {
		var above [][HashSize]byte
		for i := 0; i < len(level); i += 2 {
			above = append(above, sha256.Sum256(bytes.Join([][]byte{{1}, level[i][:], level[i+1][:]}, nil)))
		}
		level = above
	}
	return level[0]
}

func someLeaves(n int) [][HashSize]byte {
	leaves := make([][HashSize]byte, n)
	for i := range leaves {
		leaves[i] = sha256.Sum256([]byte{byte(i), byte(i >> 8)})
	}
	return leaves
}

func TestTree(t *testing.T) {
	var tree Tree // built again and again, larger and smaller
	for _, n := range []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 100, 33, 1, 17, 1000} {
		leaves := someLeaves(n)
		if err := tree.Build(leaves); err != nil {
			t.Fatal(err)
		}
		root := tree.Root()
		if root != slowRoot(leaves) {
			t.Errorf("root of %d leaves is %x", n, root)
		}
		if want := bits.Len(uint(n - 1)); int(tree.Depth()) != want || DepthOf(n) != tree.Depth() {
			t.Errorf("depth of %d leaves is %d, DepthOf says %d, want %d", n, tree.Depth(), DepthOf(n), want)
		}
		for i := range leaves {
			path := ok(tree.AppendPath(nil, i))
			if got, err := Root(leaves[i], tree.Depth(), uint16(i), path); err != nil || got != root {
				t.Errorf("leaf %d of %d folds to %x, %v", i, n, got, err)
			}
			if n > 1 {
				if got, _ := Root(leaves[i], tree.Depth(), uint16(i^1), path); got == root {
					t.Errorf("leaf %d of %d folds to the root at its sibling's place", i, n)
				}
			}
		}
		for _, i := range []int{-1, n} {
			if _, err := tree.AppendPath(nil, i); !errors.Is(err, ErrMalformed) {
				t.Errorf("path of leaf %d of %d: %v", i, n, err)
			}
		}
	}
}

func TestTreeLimits(t *testing.T) {
	var tree Tree
	if tree.Root() != [HashSize]byte{} {
		t.Error("a tree that was not built has a root")
	}
	leaves := make([][HashSize]byte, MaxLeaves+1)
	if err := tree.Build(leaves[:MaxLeaves]); err != nil || tree.Depth() != MaxDepth || DepthOf(MaxLeaves) != MaxDepth {
		t.Errorf("depth of 65536 leaves is %d, %v", tree.Depth(), err)
	}
	path := ok(tree.AppendPath(nil, MaxLeaves-1))
	if got, err := Root(leaves[0], MaxDepth, MaxLeaves-1, path); err != nil || got != tree.Root() {
		t.Errorf("the last of 65536 leaves folds to %x, %v", got, err)
	}
	if err := tree.Build(leaves); !errors.Is(err, ErrTooLarge) {
		t.Errorf("65537 leaves: %v", err)
	}
	if tree.Root() != [HashSize]byte{} || tree.Depth() != 0 {
		t.Error("a tree that was refused keeps the root of the one before")
	}
	if _, err := tree.AppendPath(nil, 0); err == nil {
		t.Error("a tree that was refused has a path")
	}
	if err := tree.Build(nil); !errors.Is(err, ErrMalformed) {
		t.Errorf("no leaves: %v", err)
	}
}

func TestRootRefuses(t *testing.T) {
	for _, c := range []struct {
		depth uint8
		index uint16
		path  int
		want  *MalformedError
	}{
		{17, 0, 17 * 32, errSignatureDepth},
		{255, 0, 255 * 32, errSignatureDepth},
		{0, 1, 0, errSignatureIndex},
		{3, 8, 96, errSignatureIndex},
		{15, 1 << 15, 15 * 32, errSignatureIndex},
		{3, 0, 95, errPath},
		{3, 0, 97, errPath},
		{3, 0, 64, errPath},
		{0, 0, 32, errPath},
	} {
		if _, err := Root(testHash(1), c.depth, c.index, make([]byte, c.path)); err != error(c.want) {
			t.Errorf("depth %d index %d path of %d: got %v, want %v", c.depth, c.index, c.path, err, c.want)
		}
	}
}

// The hashes against their definitions, put together by hand.
func TestHashDefinitions(t *testing.T) {
	f := testFrame(FlagCommitted)
	wire := ok(AppendFrame(nil, &f))
	if err := Parse(wire, &f); err != nil {
		t.Fatal(err)
	}
	ad := append([]byte("sealbus/v1 frame"), wire[:len(f.Head)]...)
	equal(t, "associated data", AppendAssociatedData(nil, f.Head), ad)
	if got := Leaf(f.Head, f.Ciphertext); got != sha256.Sum256(append(append([]byte{0}, ad...), f.Ciphertext...)) {
		t.Errorf("leaf is %x", got)
	}

	root := testHash(0xee)
	want := "sealbus/v1 root" + "\x00\x22spiffe://example.org/agent/planner" + "\x00\x10" + string(f.Card[:]) +
		"\x00\x0ctopic/prices" + "\x00\x10" + string(f.Session[:]) + "\x00\x01\x07" + "\x00\x20" + string(root[:])
	equal(t, "signed", AppendSignedRoot(nil, &f.Header, 7, root), []byte(want))

	m := newRawMessage(true)
	salt := m.salt
	messages := ok(ParseMessages(m.bytes(), FlagCommitted, 1, nil))
	m.salt = nil
	leaf := sha256.Sum256([]byte("sealbus/v1 message" + string(salt) + string(m.bytes())))
	if got := ok(CommitLeaf(&messages[0])); got != leaf {
		t.Errorf("commit leaf is %x", got)
	}
	if got := ok(CommitRoot(messages)); got != leaf {
		t.Errorf("commit of one message is %x", got)
	}
	three := vectorMessages(3)
	var leaves [][HashSize]byte
	for i := range three {
		leaves = append(leaves, ok(CommitLeaf(&three[i])))
	}
	if got := ok(CommitRoot(three)); got != slowRoot(leaves) {
		t.Errorf("commit of three messages is %x", got)
	}
	if got := hex.EncodeToString(padding[0][:]); got != "dbc1b4c900ffe48d575b5da5c638040125f65db0fe3e24494b76ea986457d986" {
		t.Errorf("padding is %s, which is not SHA-256(0x02)", got)
	}
}

func TestCommitRefuses(t *testing.T) {
	var tree Tree
	many := make([]Message, MaxMessages+1)
	for _, c := range []struct {
		messages []Message
		want     *MalformedError
	}{{nil, errCountZero}, {many, errCountSize}, {many[:1], errMessageID}, {many[:2], errMessageID}} {
		if err := tree.BuildCommit(c.messages); err != error(c.want) {
			t.Errorf("%d messages: got %v, want %v", len(c.messages), err, c.want)
		}
		if root, err := CommitRoot(c.messages); err != error(c.want) || root != [HashSize]byte{} {
			t.Errorf("CommitRoot of %d messages: %x, %v", len(c.messages), root, err)
		}
		if _, err := CommitPath(c.messages, 0); err != error(c.want) {
			t.Errorf("CommitPath of %d messages: %v", len(c.messages), err)
		}
	}
	bad := testHeader(FlagCommitted)
	bad.Count = 0
	if err := VerifyCommit(&bad, 0, &many[0], nil); err != error(errCountZero) {
		t.Errorf("header without messages: %v", err)
	}
}

// Nobody can show a message that was not sent, in any place, with the path of
// any that was.
func TestCommitmentBinds(t *testing.T) {
	messages := vectorMessages(5)
	h := testHeader(FlagCommitted)
	h.Count, h.Commit = 5, ok(CommitRoot(messages))
	for i := range messages {
		path := ok(CommitPath(messages, i))
		for j := range messages {
			for index := range messages {
				err := VerifyCommit(&h, index, &messages[j], path)
				if want := i == j && i == index; (err == nil) != want {
					t.Errorf("message %d at %d with the path of %d: %v", j, index, i, err)
				}
			}
		}
		other := messages[i]
		other.Payload = []byte("another")
		if err := VerifyCommit(&h, i, &other, path); err != ErrCommitment {
			t.Errorf("another payload at %d: %v", i, err)
		}
	}
}

// TestTrail finds the root of every leaf, in every kind of order, and with everything wrong that can be, as Root does.
func TestTrail(t *testing.T) {
	type way struct {
		leaf  [HashSize]byte
		depth uint8
		index uint16
		path  []byte
	}
	var ways []way
	for _, n := range []int{1, 2, 5, 64, 100} {
		leaves := someLeaves(n)
		var tree Tree
		if err := tree.Build(leaves); err != nil {
			t.Fatal(err)
		}
		for i := range leaves {
			ways = append(ways, way{leaves[i], tree.Depth(), uint16(i), ok(tree.AppendPath(nil, i))})
		}
	}
	var trail Trail
	check := func(w way) {
		t.Helper()
		want, wantErr := Root(w.leaf, w.depth, w.index, w.path)
		if got, err := trail.Root(w.leaf, w.depth, w.index, w.path); got != want || (err == nil) != (wantErr == nil) {
			t.Errorf("leaf %d at depth %d: %x, %v, want %x, %v", w.index, w.depth, got, err, want, wantErr)
		}
	}
	for _, w := range ways { // beside one another
		check(w)
		check(w)
	}
	for i := range ways { // and not
		check(ways[i*37%len(ways)])
	}
	for i := range ways[:len(ways)-1] {
		w, next := ways[i], ways[i+1]
		for at := 0; at < len(w.path); at += HashSize / 2 {
			check(w)
			bad := next
			bad.path = bytes.Clone(next.path)
			if at < len(bad.path) {
				bad.path[at] ^= 1
			}
			check(bad) // after its neighbour
			check(next)
			bad.leaf[0] ^= 1
			check(bad)
		}
		check(way{w.leaf, w.depth, next.index, w.path})
		check(way{next.leaf, w.depth, w.index, w.path})
		check(way{w.leaf, w.depth + 1, w.index, w.path})
		check(way{w.leaf, MaxDepth + 1, w.index, w.path})
		check(w)
	}
}
