package main

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// needles are the fragments of a text: every window bytes of it, at every offset, and the lines that are shorter.
type needles struct {
	sets  []fragments // by length
	lines int
	short int // lines that are too short to prove anything
	known int // fragments that were there before the text was
}

// fragments are needles of one length.
type fragments struct {
	size int
	list map[string]struct{}
}

func newNeedles(texts []string) *needles {
	n := &needles{}
	for size := shortLine; size <= window; size++ {
		n.sets = append(n.sets, fragments{size, make(map[string]struct{})})
	}
	last := n.sets[len(n.sets)-1].list
	for _, text := range texts {
		for i := 0; i+window <= len(text); i++ {
			last[text[i:i+window]] = struct{}{}
		}
		for line := range strings.Lines(text) {
			line = strings.TrimSpace(line)
			n.lines++
			switch {
			case len(line) < shortLine:
				n.short++
			case len(line) < window:
				n.sets[len(line)-shortLine].list[line] = struct{}{}
			}
		}
	}
	return n
}

// size is how many fragments there are.
func (n *needles) size() (size int) {
	for _, s := range n.sets {
		size += len(s.list)
	}
	return size
}

// find returns the fragments that are in a haystack.
func (n *needles) find(haystack []byte) (found []string) {
	seen := make(map[string]bool)
	for _, s := range n.sets {
		if len(s.list) == 0 {
			continue
		}
		for i := 0; i+s.size <= len(haystack); i++ {
			if _, ok := s.list[string(haystack[i:i+s.size])]; ok && !seen[string(haystack[i:i+s.size])] {
				fragment := string(haystack[i : i+s.size])
				seen[fragment] = true
				found = append(found, fragment)
			}
		}
	}
	return found
}

// forget takes out the fragments that a haystack holds.
func (n *needles) forget(haystack []byte) {
	for _, fragment := range n.find(haystack) {
		n.known++
		for _, s := range n.sets {
			delete(s.list, fragment)
		}
	}
}

// baseline makes the needles. A text may well have the names of agents and subjects in it, which the broker
// sees: the documentation of Sealbus has. So what the broker holds before the first word of the text is sent
// cannot be a leak of it, and is not searched for.
func (st *stage) baseline(ctx context.Context) error {
	st.needles = newNeedles(st.text.pieces)
	seen, err := st.enemy.everything(ctx)
	if err != nil {
		return err
	}
	for _, m := range seen {
		st.needles.forget(m.all())
	}
	for _, dir := range []string{st.store, st.auditDir()} { // the log has times in it, and the text may have the same
		err := eachFile(dir, func(_ string, data []byte) error {
			st.needles.forget(data)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// eachFile reads every file below a directory.
func eachFile(dir string, f func(path string, data []byte) error) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return f(path, data)
	})
}

// controls counts how many of the texts are in one of the haystacks: of texts that are known to be there, all
// must be, or a search proves nothing.
func controls(texts []string, haystacks [][]byte) (found int) {
	for _, text := range texts {
		for _, h := range haystacks {
			if bytes.Contains(h, []byte(text)) {
				found++
				break
			}
		}
	}
	return found
}
