package audit

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// Input returns what Verify needs of an export, as of when it says that it was made: what came later is not in it. An
// export from the future is as of now.
func (x *Exported) Input(t Trust) (*Input, error) {
	if t.Domain != x.origin.Auditor.TrustDomain() {
		return nil, fmt.Errorf("audit: an export of a log of %s, and the trust domain is %s", x.origin, t.Domain)
	}
	st := NewStatements(t)
	if _, _, err := st.AddAll(x.Statements()); err != nil {
		return nil, err
	}
	in := &Input{Log: x, Places: x.Places(), Statements: st, First: x.m.First, Last: x.m.Last, Now: x.Made(), Frames: x}
	if x.m.Created > 0 {
		in.Created = time.Unix(0, x.m.Created)
	}
	if now := time.Now(); in.Now.After(now) {
		in.Now = now
	}
	if !x.m.Stream {
		in.Frames = nil
	}
	return in, nil
}

// VerifyExport gives the verdicts of Verify on an export, with no network and no key, as of when it says that it was
// made. The report says of when that is: nothing that came later is in it.
func VerifyExport(ctx context.Context, path string, t Trust) (*Report, error) {
	x, err := OpenExport(path)
	if err != nil {
		return nil, err
	}
	defer x.Close()
	in, err := x.Input(t)
	if err != nil {
		return nil, err
	}
	return Verify(ctx, in)
}

// Find returns the index of the entry of a message. The error wraps ErrNotFound where the log has none of this sequence with this
// data.
func (x *Exported) Find(s *Stored) (int64, error) {
	sum := sha256.Sum256(s.Data)
	var e Entry
	i := int64(-1)
	for raw, err := range x.Entries(0) {
		i++
		switch {
		case err != nil:
			return 0, err
		case ParseEntry(raw, &e) == nil && e.Kind == KindFrame && e.Frame.Sequence == s.Sequence && e.Frame.Data == sum:
			return i, nil
		}
	}
	return 0, fmt.Errorf("%w: message %d of %s with this data", ErrNotFound, s.Sequence, x.origin.Stream)
}

// Prove returns the proof that an entry is in the log, for whoever believes its newest checkpoint that is in the export. The entry
// is the proof's Extra. Nothing was verified: Proof.Verify does.
func (x *Exported) Prove(index int64) (*Proof, error) {
	var newest signed
	if err := x.checkpoints(func(_ string, raw []byte) bool {
		c, err := UnverifiedCheckpoint(raw)
		if err == nil && c.Origin == x.origin && c.Size > newest.Size && c.Size <= x.m.Entries {
			newest = signed{c, raw}
		}
		return true
	}); err != nil {
		return nil, err
	}
	if index < 0 || index >= newest.Size {
		return nil, fmt.Errorf("%w: entry %d is not covered by a checkpoint of the export", ErrNotFound, index)
	}
	p := &Proof{Index: index, Checkpoint: newest.raw}
	path := pathOf(index, newest.Size)
	i := int64(0)
	for raw, err := range x.Entries(0) {
		if err != nil {
			return nil, err
		}
		if i == newest.Size {
			break
		}
		if i == index {
			p.Extra = append([]byte{}, raw...)
		}
		for j := range path {
			if s := &path[j]; i >= s.from && i < s.to {
				s.add(nil, LeafHash(raw))
			}
		}
		i++
	}
	for j := range path {
		p.Hashes = append(p.Hashes, path[j].root())
	}
	if err := tlog.CheckRecord(p.Hashes, newest.Size, newest.Root, index, LeafHash(p.Extra)); err != nil {
		return nil, fmt.Errorf("%w: entry %d of the export is not the one that was signed", ErrProof, index)
	}
	return p, nil
}

// sibling is a tree of entries beside the way from a leaf to the root.
type sibling struct {
	tree
	from, to int64
}

// pathOf returns the siblings of a leaf in a tree of so many, from the leaf upwards: RFC 6962, section 2.1.1.
func pathOf(index, size int64) (path []sibling) {
	from, to := int64(0), size
	for to-from > 1 {
		half := int64(1)
		for half*2 < to-from {
			half *= 2
		}
		if index < from+half {
			path = append(path, sibling{from: from + half, to: to})
			to = from + half
		} else {
			path = append(path, sibling{from: from, to: from + half})
			from += half
		}
	}
	for i, j := 0, len(path)-1; i < j; i, j = i+1, j-1 {
		path[i], path[j] = path[j], path[i]
	}
	return path
}
