package audit

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/crypto/cryptobyte"

	"github.com/sealbus/sealbus/internal/envelope"
)

// disclosureLine begins every disclosure.
const disclosureLine = "sealbus/v1 disclosure\n"

// How many things a disclosure may have.
const (
	maxShown      = envelope.MaxMessages
	maxDisclosing = 256 // statements
)

// disclosure is the parts of one.
type disclosure struct {
	proof      *Proof
	frame      []byte
	shown      []shown // by their places, which ascend
	statements []Statement
}

// shown is one message that is disclosed.
type shown struct {
	index   uint16
	message envelope.Message // with its salt
	path    []byte           // to the frame's commitment
}

// append appends the one encoding of a disclosure. The error wraps ErrMalformed.
func (d *disclosure) append(b []byte) ([]byte, error) {
	proof, err := d.proof.Text()
	if err != nil {
		return nil, err
	}
	b = append(b, disclosureLine...)
	b = append32(b, proof)
	b = append32(b, d.frame)
	if len(d.shown) == 0 || len(d.shown) > maxShown || len(d.statements) > maxDisclosing {
		return nil, malformed("a disclosure of %d messages with %d statements, 1 to %d and up to %d are allowed", len(d.shown), len(d.statements), maxShown, maxDisclosing)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(d.shown)))
	for i := range d.shown {
		s := &d.shown[i]
		message, err := envelope.AppendMessage(nil, &s.message, true)
		if err != nil {
			return nil, malformed("%v", err)
		}
		if len(s.path) > envelope.MaxDepth*envelope.HashSize {
			return nil, malformed("a path of %d bytes", len(s.path))
		}
		b = binary.BigEndian.AppendUint16(b, s.index)
		b = append32(b, message)
		b = binary.BigEndian.AppendUint16(b, uint16(len(s.path)))
		b = append(b, s.path...)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(d.statements)))
	for _, s := range d.statements {
		if err := s.check(); err != nil {
			return nil, err
		}
		b = append(b, byte(s.Kind))
		b = append32(b, s.Raw)
	}
	if len(b) > MaxDisclosure {
		return nil, malformed("a disclosure of %d bytes, at most %d are allowed", len(b), MaxDisclosure)
	}
	return b, nil
}

// parseDisclosure reads the one disclosure that raw is. What it returns refers to raw. The error wraps ErrMalformed.
func parseDisclosure(raw []byte) (*disclosure, error) {
	if len(raw) > MaxDisclosure {
		return nil, malformed("a disclosure of %d bytes, at most %d are allowed", len(raw), MaxDisclosure)
	}
	rest, ok := bytes.CutPrefix(raw, []byte(disclosureLine))
	if !ok {
		return nil, malformed("a disclosure begins with the line %q", disclosureLine)
	}
	s := cryptobyte.String(rest)
	var proof, frame cryptobyte.String
	d := &disclosure{}
	if !read32(&s, &proof) || !read32(&s, &frame) {
		return nil, malformed("the disclosure is cut short")
	}
	var err error
	if d.proof, err = ParseProof(proof); err != nil {
		return nil, err
	}
	d.frame = frame
	if err := d.parseShown(&s); err != nil {
		return nil, err
	}
	if err := d.parseStatements(&s); err != nil {
		return nil, err
	}
	if !s.Empty() {
		return nil, malformed("something follows the disclosure")
	}
	return d, nil
}

func (d *disclosure) parseShown(s *cryptobyte.String) error {
	var n uint16
	if !s.ReadUint16(&n) || n == 0 || n > maxShown {
		return malformed("a disclosure of %d messages, 1 to %d are allowed", n, maxShown)
	}
	for i := range n {
		var one shown
		var message, path cryptobyte.String
		if !s.ReadUint16(&one.index) || !read32(s, &message) || !s.ReadUint16LengthPrefixed(&path) {
			return malformed("the disclosure is cut short")
		}
		if i > 0 && d.shown[i-1].index >= one.index {
			return malformed("the messages of a disclosure are not in their order")
		}
		if len(path) > envelope.MaxDepth*envelope.HashSize {
			return malformed("a path of %d bytes", len(path))
		}
		list, err := envelope.ParseMessages(message, envelope.FlagCommitted, 1, nil)
		if err != nil {
			return malformed("%v", err)
		}
		one.message, one.path = list[0], path
		d.shown = append(d.shown, one)
	}
	return nil
}

func (d *disclosure) parseStatements(s *cryptobyte.String) error {
	var n uint16
	if !s.ReadUint16(&n) || n > maxDisclosing {
		return malformed("a disclosure with %d statements, at most %d are allowed", n, maxDisclosing)
	}
	for range n {
		var kind uint8
		var raw cryptobyte.String
		if !s.ReadUint8(&kind) || !read32(s, &raw) {
			return malformed("the disclosure is cut short")
		}
		st := Statement{StatementKind(kind), raw}
		if err := st.check(); err != nil {
			return err
		}
		d.statements = append(d.statements, st)
	}
	return nil
}

func append32(b, content []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(content))), content...)
}

func read32(s, out *cryptobyte.String) bool {
	var n uint32
	return s.ReadUint32(&n) && uint64(n) <= uint64(len(*s)) && s.ReadBytes((*[]byte)(out), int(n))
}
