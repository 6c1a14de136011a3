package audit

import (
	"archive/zip"
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"time"
)

// The files in an export, in this order, none of them compressed: a ZIP archive, so that people can look into it.
const (
	exportStatements  = "statements"
	exportCheckpoints = "checkpoints"
	exportEntries     = "entries"
	exportFrames      = "frames"
	exportManifest    = "manifest.json"
)

var exportFiles = [...]string{exportStatements, exportCheckpoints, exportEntries, exportFrames, exportManifest}

const exportVersion = 1

// manifest is what an export says of itself. Nothing in it is believed but against whoever made it.
type manifest struct {
	Version     int    `json:"version"`
	Origin      string `json:"origin"`
	Made        int64  `json:"made"`    // Unix ms
	Created     int64  `json:"created"` // of the stream, Unix ns; 0: not known
	First       uint64 `json:"first"`   // of the messages that were asked for; 0: from the beginning
	Last        uint64 `json:"last"`    // 0: to the end
	Stream      bool   `json:"stream"`  // the stream was read: what is not in frames was not there
	Statements  int64  `json:"statements"`
	Checkpoints int64  `json:"checkpoints"`
	Entries     int64  `json:"entries"`
	Frames      int64  `json:"frames"`
}

// ExportInput is what goes into an export.
type ExportInput struct {
	Log        Entries
	Places     []Place
	Frames     Frames // nil: the log alone
	Statements iter.Seq2[Statement, error]

	Created     time.Time // as for Input
	First, Last uint64    // as for Input

	Made time.Time // when the export is made, at the end; zero: then
}

// Export writes one file that VerifyExport verifies: frames, entries, checkpoints and statements, with no key and nothing that
// opens one. It writes while it reads: memory does not grow with it. The same input gives the same file.
//
// Whoever makes an export chooses what is in it. A verifier sees what is missing of the log, and cannot see what came after its last
// checkpoint.
func Export(ctx context.Context, w io.Writer, in *ExportInput) error {
	if in.Log == nil || in.Statements == nil {
		return errors.New("audit: Export needs a Log and Statements")
	}
	z := zip.NewWriter(w)
	m := manifest{Version: exportVersion, Origin: in.Log.Origin().String(), First: in.First, Last: in.Last, Stream: in.Frames != nil}
	if !in.Created.IsZero() {
		m.Created = in.Created.UnixNano()
	}
	for _, part := range []struct {
		name  string
		write func(ctx context.Context, w *bufio.Writer) (int64, error)
		count *int64
	}{
		{exportStatements, in.writeStatements, &m.Statements}, {exportCheckpoints, in.writeCheckpoints, &m.Checkpoints},
		{exportEntries, in.writeEntries, &m.Entries}, {exportFrames, in.writeFrames, &m.Frames},
	} {
		f, err := z.CreateHeader(&zip.FileHeader{Name: part.name, Method: zip.Store})
		if err != nil {
			return fmt.Errorf("audit: writing an export: %w", err)
		}
		b := bufio.NewWriterSize(f, readAhead)
		if *part.count, err = part.write(ctx, b); err == nil {
			err = errors.Join(ctx.Err(), b.Flush())
		}
		if err != nil {
			return fmt.Errorf("audit: writing the %s of an export: %w", part.name, err)
		}
	}
	if m.Made = in.Made.UnixMilli(); in.Made.IsZero() {
		m.Made = time.Now().UnixMilli()
	}
	text, err := json.Marshal(&m)
	if err != nil {
		return err
	}
	f, err := z.CreateHeader(&zip.FileHeader{Name: exportManifest, Method: zip.Store})
	if err == nil {
		_, err = f.Write(append(text, '\n'))
	}
	if err = errors.Join(err, z.Close()); err != nil {
		return fmt.Errorf("audit: writing an export: %w", err)
	}
	return nil
}

func (in *ExportInput) writeStatements(ctx context.Context, w *bufio.Writer) (n int64, err error) {
	for s, err := range in.Statements {
		if err == nil {
			err = errors.Join(s.check(), ctx.Err())
		}
		if err != nil {
			return n, err
		}
		w.WriteByte(byte(s.Kind))
		write32(w, s.Raw)
		n++
	}
	return n, nil
}

func (in *ExportInput) writeCheckpoints(ctx context.Context, w *bufio.Writer) (n int64, err error) {
	for _, p := range in.Places {
		if len(p.Name) == 0 || len(p.Name) > maxName || p.Checkpoints == nil {
			return n, malformed("a place with a name of %d bytes, 1 to %d are allowed", len(p.Name), maxName)
		}
		for raw, err := range p.Checkpoints {
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return n, err
			}
			if len(raw) == 0 || len(raw) > MaxCheckpoint {
				return n, malformed("a checkpoint of %d bytes, 1 to %d are allowed", len(raw), MaxCheckpoint)
			}
			w.WriteByte(byte(len(p.Name)))
			w.WriteString(p.Name)
			write32(w, raw)
			n++
		}
	}
	return n, nil
}

func (in *ExportInput) writeEntries(ctx context.Context, w *bufio.Writer) (n int64, err error) {
	for raw, err := range in.Log.Entries(0) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return n, err
		}
		write32(w, raw)
		n++
	}
	return n, nil
}

func (in *ExportInput) writeFrames(ctx context.Context, w *bufio.Writer) (n int64, err error) {
	if in.Frames == nil {
		return 0, nil
	}
	for s, err := range in.Frames.Frames(ctx) {
		if err == nil {
			err = errors.Join(s.check(), ctx.Err())
		}
		if err != nil {
			return n, err
		}
		var head [8 + 8 + 2]byte
		binary.BigEndian.PutUint64(head[:], s.Sequence)
		binary.BigEndian.PutUint64(head[8:], uint64(s.Time.UnixNano()))
		binary.BigEndian.PutUint16(head[16:], uint16(len(s.Subject)))
		w.Write(head[:])
		w.WriteString(s.Subject)
		write32(w, s.Data)
		n++
	}
	return n, nil
}

func (s *Stored) check() error {
	switch {
	case s.Sequence == 0 || !inRange(s.Time) || s.Time.IsZero():
		return malformed("message %d, stored at %v", s.Sequence, s.Time)
	case len(s.Subject) == 0 || len(s.Subject) > MaxSubject:
		return malformed("a subject of %d bytes, 1 to %d are allowed", len(s.Subject), MaxSubject)
	case len(s.Data) > MaxData:
		return malformed("a message of %d bytes, at most %d are allowed", len(s.Data), MaxData)
	}
	return nil
}

// write32 leaves errors to Flush, as bufio does.
func write32(w *bufio.Writer, b []byte) {
	var n [4]byte
	if uint64(len(b)) > math.MaxUint32 {
		panic("a record of more than 4 GiB") // all have a limit
	}
	binary.BigEndian.PutUint32(n[:], uint32(len(b)))
	w.Write(n[:])
	w.Write(b)
}
