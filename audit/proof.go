package audit

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// proofLine is the first line of a proof: C2SP tlog-proof, version 1.
const proofLine = "c2sp.org/tlog-proof@v1"

// maxPath is the longest path of a tree, in hashes.
const maxPath = 63

// Proof shows that an entry is in a log, to whoever believes the checkpoint's signer. Its text form is that of C2SP
// tlog-proof.
type Proof struct {
	Extra      []byte // what belongs with it: in the proofs made here, the encoded entry; nil: none
	Index      int64  // of the entry, from 0
	Hashes     tlog.RecordProof
	Checkpoint []byte // signed
}

// Text returns the proof's text form. The error wraps ErrMalformed.
func (p *Proof) Text() ([]byte, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.WriteString(proofLine + "\n")
	if p.Extra != nil {
		fmt.Fprintf(&b, "extra %s\n", base64.StdEncoding.EncodeToString(p.Extra))
	}
	fmt.Fprintf(&b, "index %d\n", p.Index)
	for _, h := range p.Hashes {
		fmt.Fprintf(&b, "%s\n", h)
	}
	b.WriteString("\n")
	b.Write(p.Checkpoint)
	return b.Bytes(), nil
}

func (p *Proof) check() error {
	switch {
	case p.Index < 0:
		return malformed("a proof of entry %d", p.Index)
	case len(p.Hashes) > maxPath:
		return malformed("a proof of %d hashes, at most %d are allowed", len(p.Hashes), maxPath)
	case len(p.Extra) > MaxEntry:
		return malformed("a proof with %d bytes beside it, at most %d are allowed", len(p.Extra), MaxEntry)
	}
	_, err := UnverifiedCheckpoint(p.Checkpoint)
	return err
}

// ParseProof reads a proof's text form. It proves nothing before Verify. The error wraps ErrMalformed.
func ParseProof(text []byte) (*Proof, error) {
	if len(text) > MaxProof {
		return nil, malformed("a proof of %d bytes, at most %d are allowed", len(text), MaxProof)
	}
	head, checkpoint, ok := bytes.Cut(text, []byte("\n\n"))
	if !ok {
		return nil, malformed("a proof without a checkpoint")
	}
	lines := strings.Split(string(head), "\n")
	if lines[0] != proofLine {
		return nil, malformed("a proof begins with the line %s", proofLine)
	}
	p := &Proof{Checkpoint: checkpoint}
	lines = lines[1:]
	if len(lines) > 0 {
		if extra, ok := strings.CutPrefix(lines[0], "extra "); ok {
			b, err := base64.StdEncoding.Strict().DecodeString(extra)
			if err != nil {
				return nil, malformed("the proof's extra data: %v", err)
			}
			p.Extra, lines = append([]byte{}, b...), lines[1:]
		}
	}
	if len(lines) == 0 || !strings.HasPrefix(lines[0], "index ") {
		return nil, malformed("a proof without an index")
	}
	var err error
	if p.Index, err = parseNumber(strings.TrimPrefix(lines[0], "index ")); err != nil {
		return nil, err
	}
	if lines = lines[1:]; len(lines) > maxPath {
		return nil, malformed("a proof of %d hashes, at most %d are allowed", len(lines), maxPath)
	}
	for _, line := range lines {
		h, err := parseHash(line)
		if err != nil {
			return nil, err
		}
		p.Hashes = append(p.Hashes, h)
	}
	again, err := p.Text()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, text) {
		return nil, malformed("the proof is not in its one spelling")
	}
	return p, nil
}

// Verify checks that entry is in the log of the proof's checkpoint, which one of the verifiers has signed, and returns the
// checkpoint. The error wraps ErrUnverified, ErrProof or ErrMalformed.
func (p *Proof) Verify(entry []byte, known note.Verifiers) (Checkpoint, error) {
	c, err := OpenCheckpoint(p.Checkpoint, known)
	if err != nil {
		return Checkpoint{}, err
	}
	if err := tlog.CheckRecord(p.Hashes, c.Size, c.Root, p.Index, LeafHash(entry)); err != nil {
		return Checkpoint{}, fmt.Errorf("%w: entry %d of %d: %w", ErrProof, p.Index, c.Size, err)
	}
	return c, nil
}
