package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"

	"github.com/sealbus/sealbus/audit"
)

// prove writes the proof that a message is in the log.
func prove(_ context.Context, o *options, p *page) (int, error) {
	s, err := open(o.file)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	index, err := find(s, o.sequence)
	if err != nil {
		return 0, err
	}
	proof, err := s.Prove(index)
	if err != nil {
		return 0, err
	}
	text, err := proof.Text()
	if err != nil {
		return 0, err
	}
	if o.out == "" {
		p.raw = text
		return exitOK, nil
	}
	return exitOK, create(o.out, text)
}

// create writes a new file: what is there already stays.
func create(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// proven is the JSON of check-proof.
type proven struct {
	Log      string `json:"log"`
	Size     int64  `json:"size"`
	Root     string `json:"root"`
	Index    int64  `json:"index"`
	Entry    listed `json:"entry"`
	SHA256   string `json:"sha256,omitempty"` // of the message's data
	Compared bool   `json:"data_compared"`    // with --data, and it is that
}

// checkProof verifies a proof.
func checkProof(_ context.Context, o *options, p *page) (int, error) {
	t, err := o.trust()
	if err != nil {
		return 0, err
	}
	text, err := readFile(o.file, audit.MaxProof)
	if err != nil {
		return 0, err
	}
	proof, err := audit.ParseProof(text)
	if err != nil {
		return 0, err
	}
	var e audit.Entry
	if err := audit.ParseEntry(proof.Extra, &e); err != nil {
		return 0, fmt.Errorf("the entry beside the proof: %w", err)
	}
	claimed, err := audit.UnverifiedCheckpoint(proof.Checkpoint)
	if err != nil {
		return 0, err
	}
	st, err := cards(o.cards, t)
	if err != nil {
		return 0, err
	}
	c, err := proof.Verify(proof.Extra, st.Verifiers(claimed.Origin))
	if err != nil {
		return 0, err
	}
	out := &proven{Log: c.Origin.String(), Size: c.Size, Root: c.Root.String(), Index: proof.Index, Entry: newListed(proof.Index, &e)}
	if e.Kind == audit.KindFrame {
		out.SHA256 = fmt.Sprintf("%x", e.Frame.Data)
	}
	if out.Compared, err = compare(o.data, &e); err != nil {
		return 0, err
	}
	p.object = out
	p.line("log", "%s", out.Log)
	p.line("entry", "%d of %d, logged %s", out.Index, out.Size, out.Entry.Logged)
	p.line(out.Entry.Kind, "%s", out.Entry.about())
	if out.SHA256 != "" {
		p.line("sha256", "%s", out.SHA256)
	}
	if out.Compared {
		p.line("data", "is the message that was logged")
	}
	p.text.WriteString("\nProven: the auditor has signed a log with this entry in it.\n")
	return exitOK, nil
}

// cards returns the statements that are believed of an export or a log.
func cards(path string, t audit.Trust) (*audit.Statements, error) {
	s, err := open(path)
	if err != nil {
		return nil, fmt.Errorf("--cards: %w", err)
	}
	defer s.Close()
	st := audit.NewStatements(t)
	_, _, err = st.AddAll(s.Statements())
	return st, err
}

// compare reports whether the data in a file was compared with the message that an entry is about; the error says that it is
// another.
func compare(path string, e *audit.Entry) (bool, error) {
	if path == "" {
		return false, nil
	}
	data, err := readFile(path, audit.MaxData)
	if err != nil {
		return false, fmt.Errorf("--data: %w", err)
	}
	if e.Kind != audit.KindFrame || sha256.Sum256(data) != e.Frame.Data {
		return false, fmt.Errorf("--data %s is not the message that was logged", path)
	}
	return true, nil
}
