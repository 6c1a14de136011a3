package audit

import "encoding/binary"

// Peek returns an encoded entry's kind and, of a message, its sequence, without taking the entry apart. It is for who
// looks for few entries among many, and checks nothing: the kind of what is too short to be an entry is 0.
func Peek(entry []byte) (kind Kind, sequence uint64) {
	const at = 1 + 1 + 8 // version, kind and time
	if len(entry) < at+8 || entry[0] != entryVersion {
		return 0, 0
	}
	if kind = Kind(entry[1]); kind == KindFrame {
		sequence = binary.BigEndian.Uint64(entry[at:])
	}
	return kind, sequence
}
