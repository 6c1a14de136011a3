package keyring

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"sync"

	"github.com/sealbus/sealbus/internal/envelope"
)

// rootCache remembers signed Merkle roots that have verified, so that the frames of one signature cost one
// verification, also when they are opened at the same time. An entry stands for exactly what was signed, the
// signature, and the key that signed it: a root verified for one sender says nothing of another. It keeps two
// generations of bounded size. Nothing is remembered of what does not verify.
type rootCache struct {
	mu       sync.Mutex
	now, old map[rootName]struct{}
	pending  map[rootName]*verification
}

type rootName [sha256.Size]byte

// verification is one that is under way; genuine is set when done is closed.
type verification struct {
	done    chan struct{}
	genuine bool
}

// once returns what verify says of a root, asking it only if that is not known and nobody else is asking.
func (r *rootCache) once(k rootName, verify func() bool) bool {
	r.mu.Lock()
	if r.has(k) {
		r.mu.Unlock()
		return true
	}
	if v := r.pending[k]; v != nil {
		r.mu.Unlock()
		<-v.done
		return v.genuine
	}
	v := &verification{done: make(chan struct{})}
	if r.pending == nil {
		r.pending = make(map[rootName]*verification)
	}
	r.pending[k] = v
	r.mu.Unlock()
	defer r.settle(k, v)
	v.genuine = verify()
	return v.genuine
}

func (r *rootCache) settle(k rootName, v *verification) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending[k] == v { // else it was dropped while it was under way
		delete(r.pending, k)
		if v.genuine {
			r.add(k)
		}
	}
	close(v.done)
}

func (r *rootCache) has(k rootName) bool {
	if _, ok := r.now[k]; ok {
		return true
	}
	_, ok := r.old[k]
	return ok
}

func (r *rootCache) add(k rootName) {
	if r.now == nil || len(r.now) >= maxRoots/2 {
		r.old, r.now = r.now, make(map[rootName]struct{})
	}
	r.now[k] = struct{}{}
}

// drop forgets everything, because the policy has changed. A card that changes needs none of this: its key is
// part of every entry.
func (r *rootCache) drop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now, r.old, r.pending = nil, nil, nil
}

// verify checks the signature of a frame under its sender's card.
func (r *rootCache) verify(f *envelope.Frame, by *card, b *scratch) bool {
	g := &f.Signature
	root, err := b.trail.Root(envelope.Leaf(f.Head, f.Ciphertext), g.Depth, g.Index, g.Path)
	if err != nil {
		return false
	}
	b.data = envelope.AppendSignedRoot(b.data[:0], &f.Header, g.Depth, root)
	verify := func() bool { return by.keys.verifier.Verify(g.Sig, b.data) == nil }
	if g.Depth == 0 { // no other frame has this root
		return verify()
	}
	return r.once(b.names.of(by.keys.signingPublic, g.Sig, b.data), verify)
}

// rootNames remembers the name that it has made last: the frames of one signature come one after another.
type rootNames struct {
	key       [ed25519.PublicKeySize]byte
	signature [ed25519.SignatureSize]byte
	signed    []byte
	name      rootName
}

// of returns what rootOf returns.
func (n *rootNames) of(public, sig, signed []byte) rootName {
	if len(public) != ed25519.PublicKeySize || len(sig) != len(n.signature) {
		return rootOf(public, sig, signed)
	}
	if !bytes.Equal(n.signed, signed) || !bytes.Equal(n.signature[:], sig) || !bytes.Equal(n.key[:], public) {
		n.name = rootOf(public, sig, signed)
		n.signed = append(n.signed[:0], signed...)
		copy(n.signature[:], sig)
		copy(n.key[:], public)
	}
	return n.name
}

func rootOf(public, sig, signed []byte) (sum rootName) {
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
