package keyring

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"

	"github.com/sealbus/sealbus/internal/envelope"
)

// rootCache remembers signed Merkle roots that have verified, so that the frames of one signature cost one
// verification. An entry stands for exactly what was signed, the signature, and the key that signed it: a
// root verified for one sender says nothing of another. It keeps two generations of bounded size.
type rootCache struct {
	mu       sync.Mutex
	now, old map[[sha256.Size]byte]struct{}
}

func (r *rootCache) has(k [sha256.Size]byte) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.now[k]; ok {
		return true
	}
	_, ok := r.old[k]
	return ok
}

func (r *rootCache) add(k [sha256.Size]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.now == nil || len(r.now) >= maxRoots/2 {
		r.old, r.now = r.now, make(map[[sha256.Size]byte]struct{})
	}
	r.now[k] = struct{}{}
}

// drop forgets everything, because the policy has changed. A card that changes needs none of this: its key is
// part of every entry.
func (r *rootCache) drop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now, r.old = nil, nil
}

// verify checks the signature of a frame under its sender's card.
func (r *rootCache) verify(f *envelope.Frame, by *card, buf []byte) bool {
	g := &f.Signature
	root, err := envelope.Root(envelope.Leaf(f.Head, f.Ciphertext), g.Depth, g.Index, g.Path)
	if err != nil {
		return false
	}
	signed := envelope.AppendSignedRoot(buf[:0], &f.Header, g.Depth, root)
	if g.Depth == 0 {
		return by.keys.verifier.Verify(g.Sig, signed) == nil
	}
	key := rootKey(by.keys.signingPublic, g.Sig, signed)
	if r.has(key) {
		return true
	}
	if by.keys.verifier.Verify(g.Sig, signed) != nil {
		return false
	}
	r.add(key)
	return true
}

func rootKey(public, sig, signed []byte) (sum [sha256.Size]byte) {
	h := sha256.New()
	var size [8]byte
	for _, part := range [...][]byte{public, sig, signed} {
		binary.BigEndian.PutUint64(size[:], uint64(len(part)))
		h.Write(size[:])
		h.Write(part)
	}
	h.Sum(sum[:0])
	return sum
}
