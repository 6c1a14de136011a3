package audit

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/oklog/ulid/v2"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sealbus/sealbus/identity"
)

// Origin names a log for good: whose it is, of which stream, and which of the logs that this auditor has begun of it. Its text
// is the first line of a checkpoint and the name of the key that signs it.
type Origin struct {
	Auditor identity.ID // an agent
	Log     ulid.ULID
	Stream  string // on NATS: "SB_TOPIC_prices"
}

// String returns "<trust domain>/<auditor>/<log>/<stream>".
func (o Origin) String() string {
	return fmt.Sprintf("%s/%s/%s/%s", o.Auditor.TrustDomain().Name(), o.Auditor.Name(), o.Log, o.Stream)
}

// IsZero reports whether o names no log.
func (o Origin) IsZero() bool { return o == Origin{} }

func (o Origin) check() error {
	switch {
	case !o.Auditor.IsAgent():
		return malformed("a log of %s, which is no agent", o.Auditor)
	case o.Log.IsZero():
		return malformed("a log without an id")
	case !isStream(o.Stream):
		return malformed("%.80q is no stream's name", o.Stream)
	}
	return nil
}

// ParseOrigin reads what Origin.String writes, in that one spelling.
func ParseOrigin(s string) (Origin, error) {
	parts := strings.Split(s, "/")
	if len(parts) != 4 {
		return Origin{}, malformed("%.300q is not <trust domain>/<auditor>/<log>/<stream>", s)
	}
	td, err := spiffeid.TrustDomainFromString(parts[0])
	if err != nil {
		return Origin{}, malformed("origin %.300q: %v", s, err)
	}
	o := Origin{Stream: parts[3]}
	if o.Auditor, err = identity.AgentID(td, parts[1]); err != nil {
		return Origin{}, malformed("origin %.300q: %v", s, err)
	}
	if o.Log, err = ulid.ParseStrict(parts[2]); err != nil {
		return Origin{}, malformed("origin %.300q: %v", s, err)
	}
	if err := o.check(); err != nil {
		return Origin{}, err
	}
	if o.String() != s {
		return Origin{}, malformed("origin %.300q is spelled another way: %s", s, o)
	}
	return o, nil
}

// isStream reports whether s can be the name of a stream that is audited.
func isStream(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return s != "" && len(s) <= 128
}

// Checkpoint says what a log is: so many entries, with this root. Signed, it is a note as C2SP tlog-checkpoint has it, of
// three lines.
type Checkpoint struct {
	Origin Origin
	Size   int64
	Root   tlog.Hash
}

// text is what is signed. tlog.FormatTree has an origin of its own.
func (c *Checkpoint) text() string {
	return fmt.Sprintf("%s\n%d\n%s\n", c.Origin, c.Size, c.Root)
}

// SignCheckpoint returns the signed note of a checkpoint. The signer's name has to be the origin. Log.Checkpoint is what signs
// for a log, because it knows what was signed before.
func SignCheckpoint(c *Checkpoint, signer note.Signer) ([]byte, error) {
	if err := c.Origin.check(); err != nil {
		return nil, err
	}
	if signer.Name() != c.Origin.String() {
		return nil, fmt.Errorf("audit: the checkpoint of %s is to be signed under that name, not as %.300q", c.Origin, signer.Name())
	}
	raw, err := note.Sign(&note.Note{Text: c.text()}, signer)
	if err != nil {
		return nil, fmt.Errorf("audit: signing a checkpoint: %w", err)
	}
	return raw, nil
}

// UnverifiedCheckpoint reads a checkpoint without looking at its signatures: to learn whose it claims to be. Nothing in it may be
// believed. The error wraps ErrMalformed.
func UnverifiedCheckpoint(raw []byte) (Checkpoint, error) {
	n, err := openNote(raw, note.VerifierList())
	if n == nil {
		return Checkpoint{}, err
	}
	return parseCheckpoint(n.Text)
}

// OpenCheckpoint reads a checkpoint and verifies at least one signature under the verifiers; those of others are not
// looked at. The error wraps ErrMalformed or ErrUnverified.
func OpenCheckpoint(raw []byte, known note.Verifiers) (Checkpoint, error) {
	n, err := openNote(raw, known)
	if err != nil {
		return Checkpoint{}, err
	}
	return parseCheckpoint(n.Text)
}

// openNote returns the note also where no signature verifies, with the error.
func openNote(raw []byte, known note.Verifiers) (*note.Note, error) {
	if len(raw) > MaxCheckpoint {
		return nil, malformed("a checkpoint of %d bytes, at most %d are allowed", len(raw), MaxCheckpoint)
	}
	n, err := note.Open(raw, known)
	var unverified *note.UnverifiedNoteError
	switch {
	case err == nil:
	case errors.As(err, &unverified):
		n, err = unverified.Note, ErrUnverified
	case bytes.Contains([]byte(err.Error()), []byte("malformed")):
		return nil, malformed("%v", err)
	default:
		return nil, fmt.Errorf("%w: %w", ErrUnverified, err)
	}
	for _, s := range append(n.Sigs[:len(n.Sigs):len(n.Sigs)], n.UnverifiedSigs...) {
		if _, err := base64.StdEncoding.Strict().DecodeString(s.Base64); err != nil { // one spelling, which package note does not ask for
			return nil, malformed("a signature of the checkpoint: %v", err)
		}
	}
	return n, err
}

func parseCheckpoint(text string) (c Checkpoint, err error) {
	lines := strings.SplitAfter(text, "\n")
	if len(lines) != 4 || lines[3] != "" {
		return c, malformed("a checkpoint has three lines")
	}
	for i := range lines {
		lines[i] = strings.TrimSuffix(lines[i], "\n")
	}
	if c.Origin, err = ParseOrigin(lines[0]); err != nil {
		return Checkpoint{}, err
	}
	if c.Size, err = parseNumber(lines[1]); err != nil {
		return Checkpoint{}, err
	}
	if c.Root, err = parseHash(lines[2]); err != nil {
		return Checkpoint{}, err
	}
	if c.text() != text {
		return Checkpoint{}, malformed("the checkpoint is not in its one spelling")
	}
	return c, nil
}

// parseNumber reads a decimal number in its one spelling.
func parseNumber(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != s {
		return 0, malformed("%.40q is no number", s)
	}
	return n, nil
}

// parseHash reads a hash in its one spelling.
func parseHash(s string) (h tlog.Hash, err error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != tlog.HashSize || base64.StdEncoding.EncodeToString(b) != s {
		return h, malformed("%.60q is no hash", s)
	}
	copy(h[:], b)
	return h, nil
}
