package keyring

import (
	"errors"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// gate is where frames arrive: what does not change about it.
type gate struct {
	ring *Ring
	att  *attachment
	only policy.Channel // zero: every pair channel of this agent
	name string
}

// senderSession is what is known of a sender's session under one policy.
type senderSession struct {
	channel  policy.Channel
	name     string
	sender   identity.ID
	senderID string
	settings policy.Settings
	view     *view   // under which this was found
	kinds    KindSet // what the sender may do here
	aead     tink.AEAD
	card     *card
}

// admit runs the checks that need no cryptography but to derive a new session's key.
func (rc *Receiver) admit(f *envelope.Frame, w *Want, now time.Time) (s *inSession, reason Reason, detail string) {
	if reason, detail := rc.directed(f, w); reason != 0 {
		return nil, reason, detail
	}
	v := rc.ring.view.Load()
	rc.mu.Lock()
	s = rc.sessions[sessionKey{f.Session, f.Card, f.Key}]
	if s != nil && !s.of(f) {
		s = nil
	}
	seen := s != nil && !s.window.check(f.Seq)
	rc.mu.Unlock()
	if s != nil && s.view == v && s.card.validAt(now) {
		if reason := rc.fresh(s, f, w, now); reason != 0 {
			return nil, reason, ""
		}
		if seen {
			return nil, Seen, ""
		}
		return s, 0, ""
	}
	return rc.meet(v, f, w, now, seen) // judged anew; accept keeps the window of a session that is the same
}

// directed checks that the frame belongs where it arrived.
func (g *gate) directed(f *envelope.Frame, w *Want) (Reason, string) {
	if reason, detail := w.meets(f); reason != 0 {
		return reason, detail
	}
	if !g.only.IsZero() && string(f.Channel) != g.name {
		return Misdirected, "of another channel"
	}
	return 0, ""
}

func (w *Want) meets(f *envelope.Frame) (Reason, string) {
	switch {
	case w.takesNote(f):
		if !isNote(f) {
			return Misdirected, "a control that is no session note of the channel"
		}
	case !w.Kinds.has(f.Kind):
		return Misdirected, "a " + f.Kind.String() + " is not expected here"
	case string(f.Recipient) != w.Recipient:
		return Misdirected, "for another recipient"
	case f.Ref != w.Ref:
		return Misdirected, "answers something else"
	}
	return 0, ""
}

// takesNote reports whether a frame has to be a session note where it arrived.
func (w *Want) takesNote(f *envelope.Frame) bool {
	return w.Notes && f.Kind == envelope.KindControl && !w.Kinds.has(f.Kind)
}

// of reports whether a frame with the session's id is of the same sender and channel.
func (s *senderSession) of(f *envelope.Frame) bool {
	return s.name == string(f.Channel) && s.senderID == string(f.Sender)
}

// permits checks what the policy has of a frame of this sender.
func (s *senderSession) permits(f *envelope.Frame, w *Want) Reason {
	switch {
	case !s.kinds.has(f.Kind) || w.Sender != "" && w.Sender != s.sender.Name():
		return NotEntitled
	case s.settings.Signed && !f.Signed() || s.settings.Retain > 0 && !f.Committed():
		return Unsigned
	}
	return 0
}

// fresh runs the checks of a session that are left before its key and its window are looked at.
func (rc *Receiver) fresh(s *inSession, f *envelope.Frame, w *Want, now time.Time) Reason {
	reason := s.permits(f, w)
	if reason == 0 && rc.stale(f, s.settings, now) {
		reason = Stale
	}
	return reason
}

// stale reports whether a frame's time is past its limit, outside the live window, or before this
// receiver's own time.
func (rc *Receiver) stale(f *envelope.Frame, settings policy.Settings, now time.Time) bool {
	ms, at := int64(f.ID.Time()), now.UnixMilli()
	return f.Expires != 0 && uint64(at) >= f.Expires ||
		ms < at-settings.MaxAge.Milliseconds() || ms > at+MaxClockLead.Milliseconds() ||
		ms < rc.start.Load() || ms <= rc.ceiling
}

// meet judges a frame of a session that is not known under the policy in force. The session that it returns
// is remembered only after the frame has passed every check.
func (rc *Receiver) meet(v *view, f *envelope.Frame, w *Want, now time.Time, seen bool) (*inSession, Reason, string) {
	base, reason, detail := rc.judge(v, f)
	if reason != 0 {
		return nil, reason, detail
	}
	s := &inSession{senderSession: base}
	if reason := rc.fresh(s, f, w, now); reason != 0 {
		return nil, reason, ""
	}
	k, live, detail := rc.keyOf(&s.senderSession, f)
	if k != nil && !live {
		k, detail = nil, "the key is not fit for live traffic any more"
	}
	if k == nil {
		return nil, NoKey, detail
	}
	if err := s.derive(k, f); err != nil {
		return nil, NoKey, err.Error()
	}
	if seen {
		return nil, Seen, ""
	}
	s.card = rc.ring.cards.cached(s.sender, f.Card, now)
	return s, 0, ""
}

// judge says who sent a frame and what a policy lets it send here, if anything.
func (g *gate) judge(v *view, f *envelope.Frame) (s senderSession, reason Reason, detail string) {
	h, channelErr, senderErr := claimsOf(f)
	me := g.att.self
	switch {
	case channelErr != nil:
		return s, Misdirected, channelErr.Error()
	case g.only.IsZero() && h.channel.Kind() != policy.KindPair:
		return s, Misdirected, "not of a pair channel"
	case h.channel.Kind() == policy.KindPair && (senderErr != nil || h.sender == me || h.channel.Other(me.Name()) != h.sender.Name()):
		return s, Misdirected, "not of a pair of this agent with the sender"
	case senderErr != nil:
		return s, NotEntitled, senderErr.Error()
	}
	p, name := v.policy, h.sender.Name()
	if p.Revoked(name) {
		return s, Revoked, ""
	}
	settings, ok := p.Settings(h.channel)
	if !ok || h.sender.TrustDomain() != me.TrustDomain() || !p.CanRead(h.channel, me.Name()) {
		return s, NotEntitled, "the policy has no such channel for these two"
	}
	return senderSession{
		channel: h.channel, name: h.channel.String(), sender: h.sender, senderID: h.sender.String(),
		settings: settings, view: v, kinds: entitled(p, h.channel, name, me.Name()),
	}, 0, ""
}

// entitled returns the kinds of message that the policy lets an agent send to another on a channel.
func entitled(p *policy.Policy, ch policy.Channel, sender, receiver string) KindSet {
	if ch.Kind() == policy.KindPair {
		var s KindSet
		if p.MayRequest(sender, receiver) {
			s |= Kinds(envelope.KindRequest)
		}
		if p.MayReply(sender, receiver) {
			s |= Kinds(envelope.KindReply, envelope.KindError)
		}
		return s
	}
	if !p.CanWrite(ch, sender) {
		return 0
	}
	switch ch.Kind() {
	case policy.KindTopic:
		if s, _ := p.Settings(ch); s.Retain > 0 {
			return Kinds(envelope.KindEvent, envelope.KindControl)
		}
		return Kinds(envelope.KindEvent)
	case policy.KindService:
		return Kinds(envelope.KindRequest)
	case policy.KindQueue:
		return Kinds(envelope.KindTask, envelope.KindControl)
	case policy.KindResult:
		return Kinds(envelope.KindResult, envelope.KindProgress, envelope.KindError, envelope.KindControl)
	}
	return 0
}

// keyOf returns the channel key that a frame names, nil if it is not here, and whether live traffic of the sender may be
// sealed under it.
func (g *gate) keyOf(s *senderSession, f *envelope.Frame) (k *chanKey, live bool, detail string) {
	g.ring.mu.Lock()
	c := g.ring.channels[s.channel]
	g.ring.mu.Unlock()
	if c == nil {
		return nil, false, "not joined"
	}
	if k = c.held(f.Key); k == nil || !k.reader || s.view.floorOf(s.channel).covers(timeOf(f)) {
		return nil, false, ""
	}
	return k, c.opens(k.statement, s.sender.Name()), ""
}

// derive finds the AEAD of the session that a frame names.
func (s *senderSession) derive(k *chanKey, f *envelope.Frame) (err error) {
	s.aead, err = k.sessionOf(s.name, s.senderID, f.Session)
	return err
}

// claims is what a frame's header says, as values. Nothing of it is proven.
type claims struct {
	channel policy.Channel
	sender  identity.ID
	card    ulid.ULID
	key     uint32
	id      ulid.ULID
	at      time.Time // when it was sealed
	signed  bool
}

func claimsOf(f *envelope.Frame) (c claims, channelErr, senderErr error) {
	c = claims{card: f.Card, key: f.Key, id: f.ID, at: timeOf(f), signed: f.Signed()}
	c.channel, channelErr = policy.ParseChannel(string(f.Channel))
	c.sender, senderErr = identity.ParseID(string(f.Sender))
	if senderErr == nil && !c.sender.IsAgent() {
		senderErr = errors.New("keyring: the sender is no agent")
	}
	return c, channelErr, senderErr
}

func claimedHeader(frame []byte) (claims, error) {
	var f envelope.Frame
	if err := envelope.Parse(frame, &f); err != nil {
		return claims{}, err
	}
	c, channelErr, senderErr := claimsOf(&f)
	return c, errors.Join(channelErr, senderErr)
}
