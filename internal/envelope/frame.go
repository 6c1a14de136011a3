package envelope

import (
	"encoding/binary"

	"golang.org/x/crypto/cryptobyte"
)

// labelFrame starts the associated data of every seal.
const labelFrame = "sealbus/v1 frame"

// MaxAssociatedData is the longest associated data, in bytes.
const MaxAssociatedData = len(labelFrame) + MaxHead

// Frame is one parsed frame. Its slices alias the bytes that were parsed.
type Frame struct {
	Header
	Head       []byte    // version, flags and header as they stand on the wire
	Ciphertext []byte    // Tink's output
	Signature  Signature // zero if the frame is not signed
}

// Signature is the block that ties a frame to a signed Merkle root.
type Signature struct {
	Depth uint8  // of the tree, at most MaxDepth; 0 for a frame signed alone
	Index uint16 // the frame's place among the leaves, below 1<<Depth
	Path  []byte // Depth siblings of 32 bytes, the leaf's own first
	Sig   []byte // Ed25519 over what [AppendSignedRoot] appends
}

// Parse reads the one frame that b is into f. Everything in f aliases b, and
// nothing is allocated, also when it fails.
//
// Nothing in f may be believed before the seal has opened and, where the
// policy asks for it, the signature has verified. The error is a
// [MalformedError], and f is zero then.
func Parse(b []byte, f *Frame) error {
	*f = Frame{}
	if err := f.parse(b); err != nil {
		*f = Frame{}
		return err
	}
	return nil
}

func (f *Frame) parse(b []byte) error {
	if len(b) > MaxFrame {
		return errFrameSize
	}
	n, err := f.parseHead(b)
	if err != nil {
		return err
	}
	f.Head = clip(b[:n])
	s := cryptobyte.String(b[n:])
	var size uint32
	if !s.ReadUint32(&size) {
		return errCiphertextCut
	}
	if err := checkCiphertext(uint64(size)); err != nil {
		return err
	}
	if !s.ReadBytes(&f.Ciphertext, int(size)) {
		return errCiphertextCut
	}
	f.Ciphertext = clip(f.Ciphertext)
	if !f.Signed() {
		if !s.Empty() {
			return errSignaturePresent
		}
		return nil
	}
	return f.Signature.parse(s)
}

func checkCiphertext(size uint64) error {
	switch {
	case size < MinCiphertext:
		return errCiphertextShort
	case size > MaxCiphertext:
		return errCiphertextSize
	}
	return nil
}

func (g *Signature) parse(s cryptobyte.String) error {
	if !s.ReadUint8(&g.Depth) || !s.ReadUint16(&g.Index) {
		return errSignatureMissing
	}
	if err := checkPosition(g.Depth, g.Index); err != nil {
		return err
	}
	var sig cryptobyte.String
	if !s.ReadBytes(&g.Path, int(g.Depth)*HashSize) || !s.ReadUint16LengthPrefixed(&sig) {
		return errSignatureMissing
	}
	if len(sig) != SignatureSize {
		return errSignatureSig
	}
	if !s.Empty() {
		return errFrameTrailing
	}
	g.Path, g.Sig = clip(g.Path), clip(sig)
	return nil
}

// checkPosition refuses an index with bits beyond the depth: without that, one
// leaf would have many encodings, and a frame could be changed unseen.
func checkPosition(depth uint8, index uint16) error {
	switch {
	case depth > MaxDepth:
		return errSignatureDepth
	case uint32(index)>>depth != 0:
		return errSignatureIndex
	}
	return nil
}

// AppendAssociatedData appends the associated data of a frame's seal to dst:
// the label "sealbus/v1 frame" and head, which is what [AppendHeader] appended
// or [Frame.Head]. With [MaxAssociatedData] spare bytes dst does not grow.
func AppendAssociatedData(dst, head []byte) []byte {
	dst = append(dst, labelFrame...)
	return append(dst, head...)
}

// AppendCiphertext appends the length-prefixed ciphertext. It follows
// [AppendHeader]. On error dst is returned as it was.
func AppendCiphertext(dst, ciphertext []byte) ([]byte, error) {
	if err := checkCiphertext(uint64(len(ciphertext))); err != nil {
		return dst, err
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(ciphertext)))
	return append(dst, ciphertext...), nil
}

// AppendSignature appends the signature block. It follows [AppendCiphertext]
// in a frame whose header has FlagSigned, and stands in no other. On error dst
// is returned as it was.
func AppendSignature(dst []byte, g *Signature) ([]byte, error) {
	if err := checkPosition(g.Depth, g.Index); err != nil {
		return dst, err
	}
	if len(g.Path) != int(g.Depth)*HashSize {
		return dst, errPath
	}
	if len(g.Sig) != SignatureSize {
		return dst, errSignatureSig
	}
	dst = append(dst, g.Depth)
	dst = binary.BigEndian.AppendUint16(dst, g.Index)
	dst = append(dst, g.Path...)
	dst = binary.BigEndian.AppendUint16(dst, SignatureSize)
	return append(dst, g.Sig...), nil
}

// FrameSize returns how long a frame of header h is: one with a plaintext of so
// many bytes, sealed under a key without prefix, at this depth if it is signed.
func (h *Header) FrameSize(plaintext int, depth uint8) int {
	n := headPrefix + h.size() + 4 + plaintext + MinCiphertext
	if h.Signed() {
		n += 1 + 2 + int(depth)*HashSize + 2 + SignatureSize
	}
	return n
}

// AppendFrame appends a whole frame, the inverse of [Parse]. Head is not
// looked at: it is made from the header's fields. On error dst is returned as
// it was.
func AppendFrame(dst []byte, f *Frame) ([]byte, error) {
	out, err := AppendHeader(dst, &f.Header)
	if err != nil {
		return dst, err
	}
	if out, err = AppendCiphertext(out, f.Ciphertext); err != nil {
		return dst, err
	}
	g := &f.Signature
	if !f.Signed() {
		if g.Depth != 0 || g.Index != 0 || len(g.Path) != 0 || len(g.Sig) != 0 {
			return dst, errSignaturePresent
		}
		return out, nil
	}
	if out, err = AppendSignature(out, g); err != nil {
		return dst, err
	}
	return out, nil
}
