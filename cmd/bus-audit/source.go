package main

import (
	"fmt"
	"iter"
	"os"
	"time"

	"github.com/sealbus/sealbus/audit"
)

// source is a log with what belongs to it: an export, or the directory of a log.
type source interface {
	Origin() audit.Origin
	Entries(from int64) iter.Seq2[[]byte, error]
	Statements() iter.Seq2[audit.Statement, error]
	Places() []audit.Place
	Input(audit.Trust) (*audit.Input, error)
	Prove(index int64) (*audit.Proof, error)
	Made() time.Time // when it was exported; zero: it is no export
	frames() audit.Frames
	Close() error
}

// open opens an export, or the log in a directory.
func open(path string) (source, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		r, err := audit.Read(path)
		if err != nil {
			return nil, err
		}
		return &directory{r}, nil
	}
	x, err := audit.OpenExport(path)
	if err != nil {
		return nil, err
	}
	return export{x}, nil
}

// export is one file with everything.
type export struct{ *audit.Exported }

func (x export) frames() audit.Frames { return x }

// directory is the log in a directory, without the messages.
type directory struct{ *audit.Reader }

func (d *directory) frames() audit.Frames { return nil }

// Made returns no time: nobody has exported it.
func (d *directory) Made() time.Time { return time.Time{} }

// Places returns the one place in which a log has checkpoints.
func (d *directory) Places() []audit.Place {
	return []audit.Place{{Name: "the log", Checkpoints: d.Checkpoints()}}
}

// Input returns what verifying the log alone works on.
func (d *directory) Input(t audit.Trust) (*audit.Input, error) {
	if td := d.Origin().Auditor.TrustDomain(); td != t.Domain {
		return nil, fmt.Errorf("the log %s is of another trust domain than %s", d.Origin(), t.Domain)
	}
	in := &audit.Input{Log: d, Places: d.Places(), Statements: audit.NewStatements(t)}
	_, _, err := in.Statements.AddAll(d.Statements())
	return in, err
}

// find returns the entry of a message: the last that the log has of this number, in case the stream was made anew.
func find(s source, sequence uint64) (index int64, err error) {
	var e audit.Entry
	index, i := -1, int64(-1)
	for raw, err := range s.Entries(0) {
		if i++; err != nil {
			return 0, err
		}
		if err := audit.ParseEntry(raw, &e); err != nil {
			return 0, fmt.Errorf("entry %d: %w", i, err)
		}
		if e.Kind == audit.KindFrame && e.Frame.Sequence == sequence {
			index = i
		}
	}
	if index < 0 {
		return 0, fmt.Errorf("%w: message %d of %s", audit.ErrNotFound, sequence, s.Origin().Stream)
	}
	return index, nil
}
