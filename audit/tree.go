package audit

import (
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// tree is a tree that grows, of which only the right edge is here: of each level the last hash that is complete. The zero
// value has no leaves.
type tree struct {
	size int64
	edge []tlog.Hash
}

// treeOf reads the tree of the first size leaves.
func treeOf(size int64, r tlog.HashReader) (tree, error) {
	var at []int64
	for level := 0; size>>level > 0; level++ {
		at = append(at, tlog.StoredHashIndex(level, size>>level-1))
	}
	if len(at) == 0 {
		return tree{}, nil
	}
	edge, err := r.ReadHashes(at)
	return tree{size, edge}, err
}

func (t *tree) clone() tree { return tree{t.size, slices.Clone(t.edge)} }

// add takes in a leaf, and appends to dst the hashes that it completes: what tlog.StoredHashes returns.
func (t *tree) add(dst []byte, h tlog.Hash) []byte {
	dst = append(dst, h[:]...)
	level := 0
	for ; t.size>>level&1 == 1; level++ {
		left := t.edge[level]
		t.edge[level] = h
		h = tlog.NodeHash(left, h)
		dst = append(dst, h[:]...)
	}
	if level == len(t.edge) {
		t.edge = append(t.edge, h)
	} else {
		t.edge[level] = h
	}
	t.size++
	return dst
}

// root returns the root of the tree.
func (t *tree) root() tlog.Hash {
	root, err := tlog.TreeHash(t.size, tlog.HashReaderFunc(func(at []int64) ([]tlog.Hash, error) {
		list := make([]tlog.Hash, len(at)) // of each level that the size has a bit for, the last
		for i, n := range at {
			level, _ := tlog.SplitStoredHashIndex(n)
			list[i] = t.edge[level]
		}
		return list, nil
	}))
	if err != nil {
		panic(err) // there is nothing that can fail
	}
	return root
}
