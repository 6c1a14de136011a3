package keyring

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// Draft is a frame to be sealed.
type Draft struct {
	Kind      envelope.Kind
	Recipient string             // the subject without its prefix: "prices.eu.de", "bob"
	Ref       ulid.ULID          // the request or task that it answers, else zero
	Expires   time.Time          // zero: the channel's own limit
	Messages  []envelope.Message // at least one; Seal gives them ids and salts of its own
}

// Bundle is messages of one subject that were gathered for one frame. The same bundle can be used again: its memory
// then is, too.
type Bundle struct {
	Kind      envelope.Kind
	Recipient string             // the subject without its prefix: "prices.eu.de", "bob"
	Ref       ulid.ULID          // the request or task that it answers, else zero
	Expires   time.Time          // zero: the channel's own limit
	Messages  envelope.Gathering // at least one; Reset with what Sender.Committed says

	ID    ulid.ULID // set by SealBundles: the frame's, and its first message's
	Frame []byte    // set by SealBundles: the sealed frame, in memory that the next SealBundles with it uses again

	session *outSession // of a frame that is counted, until it is said what became of it; else nil
	seq     uint64
	note    *SessionNote // that this is; else nil
}

// Seal appends the sealed frame of d to dst and returns it with the frame's id, which is its first message's too.
// It fails with ErrTooLarge when the messages do not fit, and when the policy no longer lets this agent write;
// dst is then returned as it was.
func (s *Sender) Seal(dst []byte, d *Draft) ([]byte, ulid.ULID, error) {
	settings, err := s.settings()
	if err != nil {
		return dst, ulid.ULID{}, err
	}
	if s.counts(settings) {
		return dst, ulid.ULID{}, errCounted
	}
	w := sealings.Get().(*sealing)
	defer w.release()
	b := &w.own
	w.alone[0], b.Frame = b, dst
	if err := b.take(d, settings); err != nil {
		return dst, ulid.ULID{}, err
	}
	if err := s.seal(w, w.alone[:], settings); err != nil {
		return dst, ulid.ULID{}, err
	}
	return b.Frame, b.ID, nil
}

// take gathers the messages of a draft.
func (b *Bundle) take(d *Draft, settings policy.Settings) error {
	b.Kind, b.Recipient, b.Ref, b.Expires = d.Kind, d.Recipient, d.Ref, d.Expires
	b.Messages.Reset(settings.Retain > 0)
	for i := range d.Messages {
		if err := b.Messages.Add(&d.Messages[i]); err != nil {
			return tooLarge(err)
		}
	}
	return nil
}

// SealBundles seals each bundle as a frame, all in one session and, where the channel is signed, under one signature
// over their Merkle root. Their sequence numbers ascend in the order of the bundles, and so do the ids of
// frames and messages. It takes 1 to envelope.MaxLeaves bundles.
//
// It fails with ErrNotEntitled, ErrNoKey, ErrTooLarge and ErrClosed as Seal does; no frame is to be sent then, the
// messages are still there, and the bundles may be sealed again. Numbers that were given to frames which then
// could not be sealed are not given again: receivers count them as lost.
func (s *Sender) SealBundles(bundles []*Bundle) error {
	settings, err := s.settings()
	if err == nil && s.counts(settings) {
		err = errCounted
	}
	if err != nil {
		reuseFrames(bundles)
		return err
	}
	return s.sealBundles(bundles, settings)
}

func (s *Sender) sealBundles(bundles []*Bundle, settings policy.Settings) error {
	reuseFrames(bundles)
	switch {
	case len(bundles) == 0:
		return errNoBundles
	case len(bundles) > envelope.MaxLeaves:
		return fmt.Errorf("%w: %d frames under one signature, at most %d are allowed", ErrTooLarge, len(bundles), envelope.MaxLeaves)
	}
	w := sealings.Get().(*sealing)
	defer w.release()
	if err := s.seal(w, bundles, settings); err != nil {
		reuseFrames(bundles) // nobody is to send one that lacks its signature
		return err
	}
	return nil
}

// reuseFrames empties the frames and keeps their memory, unless it is much.
func reuseFrames(bundles []*Bundle) {
	for _, b := range bundles {
		if cap(b.Frame) > maxKeptFrame {
			b.Frame = nil
		}
		b.Frame = b.Frame[:0]
	}
}

// sealing is memory for one seal.
type sealing struct {
	data, name, path, salts []byte
	ids                     []ulid.ULID
	leaves                  [][envelope.HashSize]byte
	tree                    envelope.Tree

	own   Bundle // of a draft
	alone [1]*Bundle
}

var sealings = sync.Pool{New: func() any { return new(sealing) }}

func (w *sealing) release() {
	w.own.Messages.Reset(false) // plaintext does not stay behind in a pool
	w.own.Recipient, w.own.Frame = "", nil
	if cap(w.leaves) <= maxKeptLeaves {
		sealings.Put(w)
	}
}

// seal appends to each bundle's Frame.
func (s *Sender) seal(w *sealing, bundles []*Bundle, settings policy.Settings) error {
	var now time.Time
	var err error
	for _, b := range bundles {
		if now, err = s.stamp(w, b, settings); err != nil {
			return err
		}
	}
	session, seq, err := s.reserve(len(bundles), now)
	if err != nil {
		return err
	}
	return s.sealIn(w, session, seq, bundles, settings)
}

// sealIn seals bundles in a session, with numbers from seq on. It is the one way in which frames are sealed.
func (s *Sender) sealIn(w *sealing, session *outSession, seq uint64, bundles []*Bundle, settings policy.Settings) error {
	h := envelope.Header{
		Flags: flagsOf(settings), Session: session.id, Key: session.key.statement.id,
		Channel: s.name, Sender: s.self, Card: s.att.own.card,
	}
	depth := envelope.DepthOf(len(bundles))
	w.leaves = w.leaves[:0]
	for i, b := range bundles {
		h.Seq = seq + uint64(i)
		if err := session.seal(w, &h, b, depth); err != nil {
			return err
		}
	}
	if !settings.Signed {
		return nil
	}
	return s.sign(w, &h, bundles)
}

func flagsOf(settings policy.Settings) (flags uint8) {
	if settings.Signed {
		flags |= envelope.FlagSigned
	}
	if settings.Pad {
		flags |= envelope.FlagPadded
	}
	if settings.Retain > 0 {
		flags |= envelope.FlagCommitted
	}
	return flags
}

// stamp gives a bundle's messages their ids and salts, and the bundle its id.
func (s *Sender) stamp(w *sealing, b *Bundle, settings policy.Settings) (now time.Time, err error) {
	n := b.Messages.Len()
	if n == 0 {
		return now, errors.New("keyring: a frame without messages; use at least one")
	}
	committed := settings.Retain > 0
	if err := b.Messages.SetCommitted(committed); err != nil { // the policy changed after they were gathered
		return now, tooLarge(err)
	}
	w.ids = slices.Grow(w.ids[:0], n)[:n]
	if now, err = s.ring.ids.fill(w.ids); err != nil {
		return now, err
	}
	if committed {
		w.salts = slices.Grow(w.salts[:0], n*envelope.SaltSize)[:n*envelope.SaltSize]
		if _, err := rand.Read(w.salts); err != nil {
			return now, err
		}
	}
	b.ID = w.ids[0]
	err = b.Messages.Stamp(w.ids, w.salts)
	clear(w.salts)
	return now, err
}

// seal appends header and ciphertext to a bundle's frame, and keeps the leaf that a signature covers.
func (o *outSession) seal(w *sealing, h *envelope.Header, b *Bundle, depth uint8) (err error) {
	h.Kind, h.ID, h.Ref, h.Count, h.Expires = b.Kind, b.ID, b.Ref, uint16(b.Messages.Len()), 0
	if !b.Expires.IsZero() {
		h.Expires = uint64(b.Expires.UnixMilli())
	}
	if h.Committed() {
		if err := w.tree.BuildGathered(&b.Messages); err != nil {
			return err
		}
		h.Commit = w.tree.Root()
	}
	w.name = append(w.name[:0], b.Recipient...)
	h.Recipient = w.name
	plain := b.Messages.Plaintext(h.Padded())
	start := len(b.Frame)
	out := slices.Grow(b.Frame, h.FrameSize(len(plain), depth))
	if b.session, b.seq = nil, h.Seq; o.count != nil {
		b.session = o
	}
	if out, err = envelope.AppendHeader(out, h); err != nil {
		return err
	}
	head := out[start:]
	w.data = envelope.AppendAssociatedData(w.data[:0], head)
	ct, err := o.aead.Encrypt(plain, w.data)
	if err != nil {
		return err
	}
	if h.Signed() {
		w.leaves = append(w.leaves, envelope.Leaf(head, ct))
	}
	b.Frame, err = envelope.AppendCiphertext(out, ct)
	return tooLarge(err)
}

func tooLarge(err error) error {
	if errors.Is(err, envelope.ErrTooLarge) {
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	}
	return err
}

// sign appends to each frame its path and the one signature. Of h it takes what all the frames share.
func (s *Sender) sign(w *sealing, h *envelope.Header, bundles []*Bundle) error {
	if err := w.tree.Build(w.leaves); err != nil {
		return err
	}
	g := envelope.Signature{Depth: w.tree.Depth()}
	w.data = envelope.AppendSignedRoot(w.data[:0], h, g.Depth, w.tree.Root())
	var err error
	if g.Sig, err = s.att.own.signer.Sign(w.data); err != nil {
		return err
	}
	for i, b := range bundles {
		if w.path, err = w.tree.AppendPath(w.path[:0], i); err != nil {
			return err
		}
		g.Index, g.Path = uint16(i), w.path
		if b.Frame, err = envelope.AppendSignature(b.Frame, &g); err != nil {
			return err
		}
	}
	return nil
}
