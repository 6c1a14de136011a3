package envelope

import (
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
)

// labelMessage starts every leaf of a commitment. No inner node begins with
// its first byte, so no node is ever taken for a message.
const labelMessage = "sealbus/v1 message"

// CommitLeaf returns the hash that a frame's commitment holds for m:
// SHA-256("sealbus/v1 message" ‖ salt ‖ m as encoded without its salt). It
// fails with a [MalformedError] if m has no encoding, as one that came from
// somebody who wants to have it believed may not. Nothing is allocated.
func CommitLeaf(m *Message) (sum [HashSize]byte, err error) {
	if err := m.check(true); err != nil {
		return sum, err
	}
	h := sha256.New()
	h.Write([]byte(labelMessage))
	h.Write(m.Salt[:])
	h.Write(m.ID[:])
	var b [4]byte
	h.Write(binary.BigEndian.AppendUint16(b[:0], uint16(len(m.Headers))))
	for i := range m.Headers {
		p := &m.Headers[i]
		h.Write(append(b[:0], byte(len(p.Key))))
		h.Write(p.Key)
		h.Write(binary.BigEndian.AppendUint16(b[:0], uint16(len(p.Value))))
		h.Write(p.Value)
	}
	h.Write(binary.BigEndian.AppendUint32(b[:0], uint32(len(m.Payload))))
	h.Write(m.Payload)
	h.Sum(sum[:0])
	return sum, nil
}

// commitEncoded is [CommitLeaf] of a message as it is encoded with its salt.
func commitEncoded(b []byte) (sum [HashSize]byte) {
	id, salt, content := b[:IDSize], b[IDSize:IDSize+SaltSize], b[IDSize+SaltSize:]
	h := sha256.New()
	h.Write([]byte(labelMessage))
	h.Write(salt)
	h.Write(id)
	h.Write(content)
	h.Sum(sum[:0])
	return sum
}

// BuildCommit makes t the tree over the [CommitLeaf] of each message; its root
// is the header's Commit. It fails with a [MalformedError], and leaves t
// without a root, if there are no messages, more than [MaxMessages], or one
// that has no encoding.
func (t *Tree) BuildCommit(messages []Message) error {
	t.reset()
	switch {
	case len(messages) == 0:
		return errCountZero
	case len(messages) > MaxMessages:
		return errCountSize
	}
	for i := range messages {
		leaf, err := CommitLeaf(&messages[i])
		if err != nil {
			t.reset()
			return err
		}
		t.nodes = append(t.nodes, leaf)
	}
	t.grow()
	return nil
}

// CommitRoot returns the commitment to messages, in the order of the frame. A
// caller with many frames saves memory by [Tree.BuildCommit].
func CommitRoot(messages []Message) ([HashSize]byte, error) {
	if len(messages) == 1 {
		return CommitLeaf(&messages[0])
	}
	var t Tree
	err := t.BuildCommit(messages)
	return t.Root(), err
}

// CommitPath returns the path that shows the message at index to be among
// messages, for [VerifyCommit].
func CommitPath(messages []Message, index int) ([]byte, error) {
	var t Tree
	if err := t.BuildCommit(messages); err != nil {
		return nil, err
	}
	return t.AppendPath(nil, index)
}

// VerifyCommit reports whether the frame of header h commits to m, salt
// included, as its message at index. It says nothing about the other messages
// and needs no key; h must come from a frame whose signature has been
// verified, or it proves nothing about the sender.
//
// The error is [ErrCommitment] if m is another message, and a
// [MalformedError] if m, the path or the header cannot belong to a commitment
// at all.
func VerifyCommit(h *Header, index int, m *Message, path []byte) error {
	if err := h.check(); err != nil {
		return err
	}
	if !h.Committed() {
		return errNotCommitted
	}
	if index < 0 || index >= int(h.Count) {
		return errLeafIndex
	}
	depth := bits.Len16(h.Count - 1)
	if len(path) != depth*HashSize {
		return errPathDepth
	}
	leaf, err := CommitLeaf(m)
	if err != nil {
		return err
	}
	root, err := Root(leaf, uint8(depth), uint16(index), path)
	if err != nil {
		return err
	}
	if root != h.Commit {
		return ErrCommitment
	}
	return nil
}
