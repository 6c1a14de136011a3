package audit

import (
	"archive/zip"
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"os"
	"slices"
	"time"
)

// Exported is an export that was opened. Nothing in it is believed.
type Exported struct {
	m      manifest
	origin Origin
	places []string
	files  [len(exportFiles)]*zip.File
	close  func() error
}

// OpenExport opens an export. The error wraps ErrMalformed for what is none.
func OpenExport(path string) (*Exported, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("audit: %w", err), f.Close())
	}
	x, err := readExport(f, info.Size())
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	x.close = f.Close
	return x, nil
}

// Close closes the file.
func (x *Exported) Close() error { return x.close() }

func readExport(r io.ReaderAt, size int64) (*Exported, error) {
	z, err := zip.NewReader(r, size)
	if err != nil {
		return nil, malformed("no export: %v", err)
	}
	if len(z.File) != len(exportFiles) || z.Comment != "" {
		return nil, malformed("an export has %d files, and no comment", len(exportFiles))
	}
	x := &Exported{close: func() error { return nil }}
	for i, f := range z.File {
		if f.Name != exportFiles[i] || f.Method != zip.Store || f.CompressedSize64 != f.UncompressedSize64 || f.Flags&1 != 0 || f.UncompressedSize64 > uint64(size) {
			return nil, malformed("the file %d of an export is %s, uncompressed", i, exportFiles[i])
		}
		x.files[i] = f
	}
	if err := x.readManifest(x.files[len(exportFiles)-1]); err != nil {
		return nil, err
	}
	return x, x.listPlaces()
}

const maxManifest = 4 << 10

func (x *Exported) readManifest(f *zip.File) error {
	if f.UncompressedSize64 > maxManifest {
		return malformed("a manifest of %d bytes, at most %d are allowed", f.UncompressedSize64, maxManifest)
	}
	r, err := f.OpenRaw()
	if err != nil {
		return malformed("the manifest: %v", err)
	}
	text, err := io.ReadAll(io.LimitReader(r, maxManifest))
	if err != nil {
		return malformed("the manifest: %v", err)
	}
	m := &x.m
	if err := json.Unmarshal(text, m); err != nil {
		return malformed("the manifest: %v", err)
	}
	again, err := json.Marshal(m)
	if err != nil || !bytes.Equal(append(again, '\n'), text) {
		return malformed("the manifest is not in its one spelling")
	}
	switch {
	case m.Version != exportVersion:
		return malformed("an export of version %d: this program knows version %d", m.Version, exportVersion)
	case m.Made <= 0 || uint64(m.Made) > maxMilli || m.Created < 0:
		return malformed("the manifest has a time out of range")
	case m.Statements < 0 || m.Checkpoints < 0 || m.Entries < 0 || m.Frames < 0 || m.Frames > 0 && !m.Stream:
		return malformed("the manifest has a number out of range")
	}
	x.origin, err = ParseOrigin(m.Origin)
	return err
}

// Origin returns whose log was exported.
func (x *Exported) Origin() Origin { return x.origin }

// Made returns when the export says that it was made.
func (x *Exported) Made() time.Time { return time.UnixMilli(x.m.Made) }

// part reads one of the files, by its records.
type part struct {
	r    *bufio.Reader
	err  error
	name string
}

// open opens a file. The archive's checksums are not looked at: what has changed is found where it has.
func (x *Exported) open(i int) *part {
	p := &part{name: exportFiles[i]}
	r, err := x.files[i].OpenRaw()
	if err != nil {
		p.err = malformed("%s: %v", p.name, err)
		r = bytes.NewReader(nil)
	}
	p.r = bufio.NewReaderSize(r, readAhead)
	return p
}

// more reports whether anything is left.
func (p *part) more() bool {
	if p.err == nil {
		if _, err := p.r.Peek(1); err != nil && err != io.EOF {
			p.err = malformed("%s: %v", p.name, err)
		} else if err == io.EOF {
			return false
		}
	}
	return p.err == nil
}

// bytes reads so many bytes into dst, which it makes where that is too small.
func (p *part) bytes(n int, dst []byte) []byte {
	if p.err != nil {
		return nil
	}
	if cap(dst) < n {
		dst = make([]byte, n)
	}
	dst = dst[:n]
	if _, err := io.ReadFull(p.r, dst); err != nil {
		p.err = malformed("%s is cut short", p.name)
		return nil
	}
	return dst
}

// number reads an integer of so many bytes.
func (p *part) number(size int) uint64 {
	var b [8]byte
	if got := p.bytes(size, b[8-size:]); got == nil {
		return 0
	}
	return binary.BigEndian.Uint64(b[:])
}

// prefixed reads what has its length before it.
func (p *part) prefixed(size, least, most int, dst []byte) []byte {
	n := p.number(size)
	if p.err == nil && (n < uint64(least) || n > uint64(most)) {
		p.err = malformed("%s has a record of %d bytes, %d to %d are allowed", p.name, n, least, most)
	}
	return p.bytes(int(min(n, math.MaxInt32)), dst)
}

// count checks how many records there were.
func (p *part) count(have, want int64) error {
	if p.err == nil && have != want {
		p.err = malformed("%s has %d records, and the manifest says %d", p.name, have, want)
	}
	return p.err
}

// Statements returns the statements in the order in which they were exported.
func (x *Exported) Statements() iter.Seq2[Statement, error] {
	return func(yield func(Statement, error) bool) {
		p, n := x.open(0), int64(0)
		for ; p.more(); n++ {
			s := Statement{Kind: StatementKind(p.number(1))}
			s.Raw = p.prefixed(4, 1, MaxStatement, nil)
			if p.err == nil {
				p.err = s.check()
			}
			if p.err != nil {
				break
			}
			if !yield(s, nil) {
				return
			}
		}
		if err := p.count(n, x.m.Statements); err != nil {
			yield(Statement{}, err)
		}
	}
}

// checkpoints reads all checkpoints with the names of their places.
func (x *Exported) checkpoints(yield func(place string, raw []byte) bool) error {
	p, n := x.open(1), int64(0)
	for ; p.more(); n++ {
		place := string(p.prefixed(1, 1, maxName, nil))
		raw := p.prefixed(4, 1, MaxCheckpoint, nil)
		if p.err != nil {
			break
		}
		if !yield(place, raw) {
			return nil
		}
	}
	return p.count(n, x.m.Checkpoints)
}

// maxPlaces is how many places an export may have checkpoints of.
const maxPlaces = 16

func (x *Exported) listPlaces() error {
	many := false
	err := x.checkpoints(func(place string, _ []byte) bool {
		if len(x.places) > 0 && x.places[len(x.places)-1] == place {
			return true
		}
		many = many || slices.Contains(x.places, place) || len(x.places) == maxPlaces
		x.places = append(x.places, place)
		return !many
	})
	if many {
		return malformed("an export with checkpoints of more than %d places, or of one in two parts", maxPlaces)
	}
	return err
}

// Places returns the places that checkpoints were exported from.
func (x *Exported) Places() (list []Place) {
	for _, name := range x.places {
		list = append(list, Place{name, func(yield func([]byte, error) bool) {
			more := true
			err := x.checkpoints(func(place string, raw []byte) bool {
				if place == name {
					more = yield(raw, nil)
				}
				return more
			})
			if more && err != nil {
				yield(nil, err)
			}
		}})
	}
	return list
}

// Entries returns the encoded entries from an index on, each valid until the next.
func (x *Exported) Entries(from int64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		p, n := x.open(2), int64(0)
		var b []byte
		for ; p.more(); n++ {
			if b = p.prefixed(4, 1, MaxEntry, b); p.err != nil {
				break
			}
			if n >= from && !yield(b, nil) {
				return
			}
		}
		if err := p.count(n, x.m.Entries); err != nil {
			yield(nil, err)
		}
	}
}

// Frames returns the messages of the stream.
func (x *Exported) Frames(context.Context) iter.Seq2[Stored, error] {
	return func(yield func(Stored, error) bool) {
		p, n := x.open(3), int64(0)
		for ; p.more(); n++ {
			s := Stored{Sequence: p.number(8)}
			nano := p.number(8)
			s.Subject = string(p.prefixed(2, 1, MaxSubject, nil))
			s.Data = p.prefixed(4, 0, MaxData, nil)
			if p.err == nil && nano > math.MaxInt64 {
				p.err = malformed("message %d has a time out of range", s.Sequence)
			}
			s.Time = time.Unix(0, int64(nano)).UTC()
			if p.err == nil {
				p.err = s.check()
			}
			if p.err != nil {
				break
			}
			if !yield(s, nil) {
				return
			}
		}
		if err := p.count(n, x.m.Frames); err != nil {
			yield(Stored{}, err)
		}
	}
}
