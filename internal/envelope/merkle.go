package envelope

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
)

// What each hash begins with, so that no leaf is ever taken for an inner node:
// RFC 6962, section 2.1. Padding has a byte of its own; its hash has no leaf
// behind it.
const (
	prefixLeaf = 0x00
	prefixNode = 0x01
	prefixPad  = 0x02
)

const (
	leafLabel = "\x00" + labelFrame
	labelRoot = "sealbus/v1 root"
)

// Leaf returns the hash that a frame's signature covers, SHA-256(0x00 ‖
// associated data ‖ ciphertext). head is what [AppendHeader] appended, or
// [Frame.Head]; it states its own length, so the two need nothing between
// them. Nothing is copied or allocated.
func Leaf(head, ciphertext []byte) (sum [HashSize]byte) {
	h := sha256.New()
	h.Write([]byte(leafLabel))
	h.Write(head)
	h.Write(ciphertext)
	h.Sum(sum[:0])
	return sum
}

// node hashes two children.
func node(left, right *[HashSize]byte) [HashSize]byte {
	var b [1 + 2*HashSize]byte
	b[0] = prefixNode
	copy(b[1:], left[:])
	copy(b[1+HashSize:], right[:])
	return sha256.Sum256(b[:])
}

// padding[l] is the root of a tree of depth l that is nothing but padding.
var padding = func() (t [MaxDepth + 1][HashSize]byte) {
	t[0] = sha256.Sum256([]byte{prefixPad})
	for i := range MaxDepth {
		t[i+1] = node(&t[i], &t[i])
	}
	return t
}()

// Root folds leaf up the path of depth siblings of 32 bytes. Bit l of index
// says that at level l the running hash is the right child. It fails with a
// [MalformedError] if the path is not depth siblings long, or index has bits
// beyond the depth.
func Root(leaf [HashSize]byte, depth uint8, index uint16, path []byte) ([HashSize]byte, error) {
	if err := checkPosition(depth, index); err != nil {
		return [HashSize]byte{}, err
	}
	if len(path) != int(depth)*HashSize {
		return [HashSize]byte{}, errPath
	}
	for range depth {
		sibling := (*[HashSize]byte)(path)
		if index&1 == 0 {
			leaf = node(&leaf, sibling)
		} else {
			leaf = node(sibling, &leaf)
		}
		index >>= 1
		path = path[HashSize:]
	}
	return leaf, nil
}

// Trail finds roots as [Root] does. It remembers the way of the leaf before, so
// that one beside it, of the same tree, takes one or two hashes instead of a
// whole path of them. The zero value is ready. It is not safe for concurrent use.
type Trail struct {
	depth uint8
	index uint16
	nodes [MaxDepth + 1][HashSize]byte // from the leaf to the root
	path  [MaxDepth * HashSize]byte
	known bool
}

// Root returns what [Root] returns.
func (t *Trail) Root(leaf [HashSize]byte, depth uint8, index uint16, path []byte) ([HashSize]byte, error) {
	if err := checkPosition(depth, index); err != nil {
		return [HashSize]byte{}, err
	}
	if len(path) != int(depth)*HashSize {
		return [HashSize]byte{}, errPath
	}
	same := t.known && t.depth == depth
	for l := range int(depth) {
		rest := path[l*HashSize:]
		// From the same node, the same way up leads to the same root.
		if same && index>>l == t.index>>l && leaf == t.nodes[l] && bytes.Equal(rest, t.path[l*HashSize:int(depth)*HashSize]) {
			copy(t.path[:l*HashSize], path)
			t.index = index
			return t.nodes[depth], nil
		}
		t.nodes[l] = leaf
		if index>>l&1 == 0 {
			leaf = node(&leaf, (*[HashSize]byte)(rest))
		} else {
			leaf = node((*[HashSize]byte)(rest), &leaf)
		}
	}
	t.nodes[depth] = leaf
	copy(t.path[:], path)
	t.depth, t.index, t.known = depth, index, true
	return leaf, nil
}

// Tree is a Merkle tree over leaves, padded to a power of two with
// SHA-256(0x02). The zero value is ready. Built again, it uses its memory
// again. It is not safe for concurrent use while being built.
type Tree struct {
	nodes  [][HashSize]byte  // the levels one after the other, without padding
	starts [MaxDepth + 2]int // where each level begins
	depth  uint8
}

// Build makes t the tree over leaves, which are copied. It fails with a
// [MalformedError], and leaves t without a root, if there are none or more
// than [MaxLeaves].
func (t *Tree) Build(leaves [][HashSize]byte) error {
	t.reset()
	switch {
	case len(leaves) == 0:
		return errLeavesNone
	case len(leaves) > MaxLeaves:
		return errLeavesSize
	}
	t.nodes = append(t.nodes, leaves...)
	t.grow()
	return nil
}

func (t *Tree) reset() {
	t.nodes, t.depth = t.nodes[:0], 0
	t.starts[0], t.starts[1] = 0, 0
}

// grow hashes the levels above the one that nodes holds. A node of padding
// alone is never hashed: its value is known.
func (t *Tree) grow() {
	t.starts[1] = len(t.nodes)
	for {
		level := t.nodes[t.starts[t.depth]:t.starts[t.depth+1]]
		if len(level) == 1 {
			return
		}
		for i := 0; i < len(level); i += 2 {
			right := &padding[t.depth]
			if i+1 < len(level) {
				right = &level[i+1]
			}
			t.nodes = append(t.nodes, node(&level[i], right))
		}
		t.depth++
		t.starts[t.depth+1] = len(t.nodes)
	}
}

// DepthOf returns the [Tree.Depth] of a tree over n leaves, 1 to [MaxLeaves].
func DepthOf(n int) uint8 { return uint8(bits.Len(uint(n - 1))) }

// Depth returns the number of hashes in a path: 0 for one leaf, at most
// [MaxDepth].
func (t *Tree) Depth() uint8 { return t.depth }

// Root returns the root, zero for a tree that was not built.
func (t *Tree) Root() [HashSize]byte {
	if len(t.nodes) == 0 {
		return [HashSize]byte{}
	}
	return t.nodes[len(t.nodes)-1]
}

// AppendPath appends the siblings on the way from the leaf at index to the
// root, [HashSize] bytes for each level of [Tree.Depth]. It fails with a
// [MalformedError] if there is no such leaf.
func (t *Tree) AppendPath(dst []byte, index int) ([]byte, error) {
	if index < 0 || index >= t.starts[1] {
		return dst, errLeafIndex
	}
	for l := range int(t.depth) {
		sibling := &padding[l]
		if i := t.starts[l] + (index ^ 1); i < t.starts[l+1] {
			sibling = &t.nodes[i]
		}
		dst = append(dst, sibling[:]...)
		index >>= 1
	}
	return dst, nil
}

// AppendSignedRoot appends what a signature covers:
//
//	"sealbus/v1 root", then each with its length in two bytes before it:
//	sender, card (16), channel, session (16), depth (1), root (32)
//
// Sender, card, channel and session are those of the header, so that a root
// signed for one channel or one instance counts nowhere else. The depth is
// there so that a path can be neither cut short nor made longer. The result,
// together with the key that verified it, is what a verified root may be
// remembered under.
func AppendSignedRoot(dst []byte, h *Header, depth uint8, root [HashSize]byte) []byte {
	dst = append(dst, labelRoot...)
	dst = appendUint16Prefixed(dst, h.Sender)
	dst = appendUint16Prefixed(dst, h.Card[:])
	dst = appendUint16Prefixed(dst, h.Channel)
	dst = appendUint16Prefixed(dst, h.Session[:])
	dst = append(dst, 0, 1, depth)
	return appendUint16Prefixed(dst, root[:])
}

// appendUint16Prefixed relies on its callers for b being shorter than 64 KiB.
func appendUint16Prefixed(dst, b []byte) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(b)))
	return append(dst, b...)
}
