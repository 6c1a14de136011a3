package audit

import "github.com/sealbus/sealbus/internal/envelope"

// recent is the frames that were seen last, up to maxIDs of them. The zero value is empty.
type recent struct {
	set  map[[envelope.HashSize]byte]bool
	ring [][envelope.HashSize]byte
	next int
}

// seen takes in a frame's leaf, and reports whether it was there.
func (r *recent) seen(leaf [envelope.HashSize]byte) bool {
	if r.set[leaf] {
		return true
	}
	if r.set == nil {
		r.set = make(map[[envelope.HashSize]byte]bool)
	}
	r.set[leaf] = true
	if len(r.ring) < maxIDs {
		r.ring = append(r.ring, leaf)
		return false
	}
	delete(r.set, r.ring[r.next])
	r.ring[r.next], r.next = leaf, (r.next+1)%maxIDs
	return false
}
