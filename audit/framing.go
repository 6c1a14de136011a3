package audit

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// The files of entries and checkpoints are records, one after the other:
//
//	record = u32 length ‖ u32 CRC-32C of the content ‖ content
//
// The checksum is for what a crash leaves behind, not for what somebody does.

const recordHead = 8

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errTorn says that what follows is no whole record: the end of what a crash has left.
var errTorn = errors.New("a record that was not written to its end")

func appendRecord(dst, content []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(content)))
	dst = binary.BigEndian.AppendUint32(dst, crc32.Checksum(content, castagnoli))
	return append(dst, content...)
}

// records reads records one by one, each into the same memory.
type records struct {
	r    *bufio.Reader
	at   int64 // where the next one begins
	most int   // the longest content
	buf  []byte
}

const readAhead = 256 << 10

func newRecords(f io.ReaderAt, from, to int64, most int) *records {
	return &records{r: bufio.NewReaderSize(io.NewSectionReader(f, from, to-from), readAhead), at: from, most: most}
}

// next returns the next content, valid until the one after; io.EOF at the end; errTorn for what is no record. checked says
// whether the checksum has to be right.
func (r *records) next(checked bool) ([]byte, error) {
	var head [recordHead]byte
	switch _, err := io.ReadFull(r.r, head[:]); {
	case err == io.EOF:
		return nil, io.EOF
	case err == io.ErrUnexpectedEOF:
		return nil, errTorn
	case err != nil:
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > uint32(r.most) {
		return nil, errTorn
	}
	if cap(r.buf) < int(n) {
		r.buf = make([]byte, n, max(int(n), 1024))
	}
	b := r.buf[:n]
	switch _, err := io.ReadFull(r.r, b); {
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		return nil, errTorn
	case err != nil:
		return nil, err
	}
	if checked && crc32.Checksum(b, castagnoli) != binary.BigEndian.Uint32(head[4:]) {
		return nil, errTorn
	}
	r.at += recordHead + int64(n)
	return b, nil
}

// recordAt reads one record. What is none is ErrDamaged.
func recordAt(f io.ReaderAt, from, to int64, most int) ([]byte, error) {
	if to-from < recordHead || to-from > recordHead+int64(most) {
		return nil, fmt.Errorf("%w: a record of %d bytes", ErrDamaged, to-from)
	}
	b := make([]byte, to-from)
	if _, err := f.ReadAt(b, from); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if int64(binary.BigEndian.Uint32(b)) != to-from-recordHead {
		return nil, fmt.Errorf("%w: a record says it has %d bytes, and has %d", ErrDamaged, binary.BigEndian.Uint32(b), to-from-recordHead)
	}
	return b[recordHead:], nil
}
