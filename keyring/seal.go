package keyring

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// Draft is a frame to be sealed.
type Draft struct {
	Kind      envelope.Kind
	Recipient string             // the subject without its prefix: "prices.eu.de", "bob"
	Ref       ulid.ULID          // the request or task that it answers, else zero
	Expires   time.Time          // zero: the channel's own limit
	Messages  []envelope.Message // at least one; ids that are zero are filled in
}

// Sender seals frames on one channel, under the newest key that is fit. It is safe for concurrent use;
// sequence numbers are given in the order of the calls, so who wants frames to arrive in that order sends
// them in it. It prints as "[redacted]".
type Sender struct {
	ring *Ring
	att  *attachment
	c    *channel
	name []byte // of the channel
	self []byte // SPIFFE ID

	allowed atomic.Pointer[writing] // what the policy in force says of this sender

	mu      sync.Mutex
	session *outSession
}

// writing is what one policy says about writing to a channel.
type writing struct {
	view     *view
	settings policy.Settings
	err      error
}

// outSession is a sender's session: an AES-GCM key that is this sender's alone.
type outSession struct {
	key  *chanKey
	id   ulid.ULID
	aead tink.AEAD
	born time.Time
	seq  uint64
}

func (*Sender) String() string             { return redacted }
func (*Sender) Format(w fmt.State, _ rune) { io.WriteString(w, redacted) }

// Sender joins a channel that this agent may write to and returns when it can seal, as Join does.
func (r *Ring) Sender(ctx context.Context, ch policy.Channel) (*Sender, error) {
	a, err := r.attachment()
	if err != nil {
		return nil, err
	}
	if p := r.view.Load().policy; !p.CanWrite(ch, a.self.Name()) {
		return nil, mayNotWrite(p, a.self.Name(), ch)
	}
	if err := r.Join(ctx, ch); err != nil {
		return nil, err
	}
	c, err := r.channel(ch)
	if err != nil {
		return nil, err
	}
	return &Sender{ring: r, att: a, c: c, name: []byte(ch.String()), self: []byte(a.self.String())}, nil
}

// Seal appends the sealed frame of d to dst and returns it with the frame's id. The draft's messages are
// given ids where they have none: the first one the frame's. It fails with ErrTooLarge when the messages
// do not fit, and when the policy no longer lets this agent write; dst is then returned as it was.
func (s *Sender) Seal(dst []byte, d *Draft) ([]byte, ulid.ULID, error) {
	settings, err := s.settings()
	if err != nil {
		return dst, ulid.ULID{}, err
	}
	h, aead, err := s.header(d, settings)
	if err != nil {
		return dst, ulid.ULID{}, err
	}
	out, leaf, err := s.sealBody(dst, &h, aead, d, settings)
	if err != nil {
		return dst, ulid.ULID{}, err
	}
	if !settings.Signed {
		return out, h.ID, nil
	}
	g := envelope.Signature{}
	if g.Sig, err = s.sign(&h, 0, leaf); err != nil {
		return dst, ulid.ULID{}, err
	}
	if out, err = envelope.AppendSignature(out, &g); err != nil {
		return dst, ulid.ULID{}, err
	}
	return out, h.ID, nil
}

// SealAll seals several frames of one session under one signature over their Merkle root. It returns a
// frame for every draft. Where the channel is not signed it is Seal for each. More than envelope.MaxLeaves
// drafts are refused.
func (s *Sender) SealAll(drafts []Draft) ([][]byte, error) {
	settings, err := s.settings()
	if err != nil {
		return nil, err
	}
	if len(drafts) > envelope.MaxLeaves {
		return nil, fmt.Errorf("%w: %d frames under one signature, at most %d are allowed", ErrTooLarge, len(drafts), envelope.MaxLeaves)
	}
	frames := make([][]byte, len(drafts))
	headers := make([]envelope.Header, len(drafts))
	leaves := make([][envelope.HashSize]byte, len(drafts))
	for i := range drafts {
		h, aead, err := s.header(&drafts[i], settings)
		if err != nil {
			return nil, err
		}
		if i > 0 && h.Session != headers[0].Session {
			return nil, errors.New("keyring: the session ended between frames of one signature; seal them again")
		}
		headers[i] = h
		if frames[i], leaves[i], err = s.sealBody(nil, &headers[i], aead, &drafts[i], settings); err != nil {
			return nil, err
		}
	}
	if !settings.Signed {
		return frames, nil
	}
	var tree envelope.Tree
	if err := tree.Build(leaves); err != nil {
		return nil, err
	}
	sig, err := s.sign(&headers[0], tree.Depth(), tree.Root())
	if err != nil {
		return nil, err
	}
	for i := range frames {
		g := envelope.Signature{Depth: tree.Depth(), Index: uint16(i), Sig: sig}
		if g.Path, err = tree.AppendPath(nil, i); err != nil {
			return nil, err
		}
		if frames[i], err = envelope.AppendSignature(frames[i], &g); err != nil {
			return nil, err
		}
	}
	return frames, nil
}

// settings returns what the policy in force says of this sender's frames, looked up once a policy.
func (s *Sender) settings() (policy.Settings, error) {
	if s.ring.ceiling.closed.Load() {
		return policy.Settings{}, ErrClosed
	}
	v := s.ring.view.Load()
	if w := s.allowed.Load(); w != nil && w.view == v {
		return w.settings, w.err
	}
	w := &writing{view: v}
	var ok bool
	if w.settings, ok = v.policy.Settings(s.c.ch); !ok || !v.policy.CanWrite(s.c.ch, s.att.self.Name()) {
		w.err = mayNotWrite(v.policy, s.att.self.Name(), s.c.ch)
	}
	s.allowed.Store(w)
	return w.settings, w.err
}

func mayNotWrite(p *policy.Policy, agent string, ch policy.Channel) error {
	return fmt.Errorf("%w: policy revision %d does not let %q write to %s", ErrNotEntitled, p.Revision(), agent, ch)
}

// header gives the draft its place in the session.
func (s *Sender) header(d *Draft, settings policy.Settings) (h envelope.Header, aead tink.AEAD, err error) {
	if len(d.Messages) == 0 || len(d.Messages) > envelope.MaxMessages {
		return h, nil, fmt.Errorf("keyring: %d messages in a frame; use 1 to %d", len(d.Messages), envelope.MaxMessages)
	}
	h = envelope.Header{
		Kind: d.Kind, Ref: d.Ref, Channel: s.name, Sender: s.self, Card: s.att.own.card,
		Count: uint16(len(d.Messages)),
	}
	if settings.Signed {
		h.Flags |= envelope.FlagSigned
	}
	if settings.Pad {
		h.Flags |= envelope.FlagPadded
	}
	if settings.Retain > 0 {
		h.Flags |= envelope.FlagCommitted
	}
	if !d.Expires.IsZero() {
		h.Expires = uint64(d.Expires.UnixMilli())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var now time.Time
	if h.ID, now, err = s.ring.ids.nextAt(); err != nil {
		return h, nil, err
	}
	if err := s.renew(now); err != nil {
		return h, nil, err
	}
	s.session.seq++
	h.Session, h.Seq, h.Key = s.session.id, s.session.seq, s.session.key.statement.id
	return h, s.session.aead, nil
}

// renew begins a new session where there is none yet, the key has been replaced, or the session is at
// its end.
func (s *Sender) renew(now time.Time) error {
	cur := s.c.current.Load()
	if cur == nil {
		return fmt.Errorf("%w: none for %s is fit any more and no other has come; try again", ErrNoKey, s.c.name)
	}
	if o := s.session; o != nil && o.key == cur && o.seq < SessionFrames && now.Sub(o.born) < SessionLife {
		return nil
	}
	id, err := s.ring.ids.next()
	if err != nil {
		return err
	}
	aead, err := cur.own.sessionAEAD(id)
	if err != nil {
		return err
	}
	s.session = &outSession{key: cur, id: id, aead: aead, born: now}
	return nil
}

// scratch is memory for one seal or open.
type scratch struct{ plain, data, name []byte }

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// maxScratch keeps one large frame from holding on to a large buffer for ever.
const maxScratch = 64 << 10

func (b *scratch) release() {
	clear(b.plain) // plaintext does not stay behind in a pool
	if cap(b.plain) > maxScratch {
		b.plain = nil
	}
	b.plain, b.data = b.plain[:0], b.data[:0]
	scratches.Put(b)
}

// sealBody appends header and ciphertext, and returns the leaf that a signature covers.
func (s *Sender) sealBody(dst []byte, h *envelope.Header, aead tink.AEAD, d *Draft, settings policy.Settings) (_ []byte, leaf [envelope.HashSize]byte, err error) {
	b := scratches.Get().(*scratch)
	defer b.release()
	committed := h.Committed()
	for i := range d.Messages {
		m := &d.Messages[i]
		if m.ID.IsZero() {
			if m.ID = h.ID; i > 0 {
				if m.ID, err = s.ring.ids.next(); err != nil {
					return dst, leaf, err
				}
			}
		}
		if committed {
			if _, err := rand.Read(m.Salt[:]); err != nil {
				return dst, leaf, err
			}
		}
		if b.plain, err = envelope.AppendMessage(b.plain, m, committed); err != nil {
			return dst, leaf, tooLarge(err)
		}
	}
	if committed {
		if h.Commit, err = envelope.CommitRoot(d.Messages); err != nil {
			return dst, leaf, err
		}
	}
	if settings.Pad {
		b.plain = envelope.AppendPadding(b.plain, 0)
	}
	b.name = append(b.name[:0], d.Recipient...)
	h.Recipient = b.name
	out, err := envelope.AppendHeader(dst, h)
	h.Recipient = nil // lent: no signature covers it but by way of the leaf
	if err != nil {
		return dst, leaf, err
	}
	head := out[len(dst):]
	b.data = envelope.AppendAssociatedData(b.data, head)
	ct, err := aead.Encrypt(b.plain, b.data)
	if err != nil {
		return dst, leaf, err
	}
	if settings.Signed {
		leaf = envelope.Leaf(head, ct)
	}
	if out, err = envelope.AppendCiphertext(out, ct); err != nil {
		return dst, leaf, tooLarge(err)
	}
	return out, leaf, nil
}

func tooLarge(err error) error {
	if errors.Is(err, envelope.ErrTooLarge) {
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	}
	return err
}

func (s *Sender) sign(h *envelope.Header, depth uint8, root [envelope.HashSize]byte) ([]byte, error) {
	return s.att.own.signer.Sign(envelope.AppendSignedRoot(nil, h, depth, root))
}
