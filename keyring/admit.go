package keyring

import (
	"errors"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// admit runs the checks that need no cryptography but to derive a new session's key.
func (rc *Receiver) admit(f *envelope.Frame, w *Want, now time.Time) (s *inSession, reason Reason, detail string) {
	if reason, detail := rc.directed(f, w); reason != 0 {
		return nil, reason, detail
	}
	v := rc.ring.view.Load()
	rc.mu.Lock()
	s = rc.sessions[sessionKey{f.Session, f.Card, f.Key}]
	if s != nil && (s.name != string(f.Channel) || s.senderID != string(f.Sender)) {
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
func (rc *Receiver) directed(f *envelope.Frame, w *Want) (Reason, string) {
	switch {
	case !w.Kinds.has(f.Kind):
		return Misdirected, "a " + f.Kind.String() + " is not expected here"
	case string(f.Recipient) != w.Recipient:
		return Misdirected, "for another recipient"
	case f.Ref != w.Ref:
		return Misdirected, "answers something else"
	case !rc.only.IsZero() && string(f.Channel) != rc.name:
		return Misdirected, "of another channel"
	}
	return 0, ""
}

// fresh runs the checks of a session that are left before its key and its window are looked at.
func (rc *Receiver) fresh(s *inSession, f *envelope.Frame, w *Want, now time.Time) Reason {
	switch {
	case !s.kinds.has(f.Kind) || w.Sender != "" && w.Sender != s.sender.Name():
		return NotEntitled
	case s.settings.Signed && !f.Signed() || s.settings.Retain > 0 && !f.Committed():
		return Unsigned
	case rc.stale(f, s.settings, now):
		return Stale
	}
	return 0
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
	h, channelErr, senderErr := claimsOf(&f.Header)
	me := rc.att.self
	switch {
	case channelErr != nil:
		return nil, Misdirected, channelErr.Error()
	case rc.only.IsZero() && h.channel.Kind() != policy.KindPair:
		return nil, Misdirected, "not of a pair channel"
	case h.channel.Kind() == policy.KindPair && (senderErr != nil || h.sender == me || h.channel.Other(me.Name()) != h.sender.Name()):
		return nil, Misdirected, "not of a pair of this agent with the sender"
	case senderErr != nil:
		return nil, NotEntitled, senderErr.Error()
	}
	s := &inSession{channel: h.channel, name: h.channel.String(), sender: h.sender, senderID: h.sender.String(), view: v}
	p, name := v.policy, h.sender.Name()
	if p.Revoked(name) {
		return nil, Revoked, ""
	}
	var ok bool
	if s.settings, ok = p.Settings(h.channel); !ok || h.sender.TrustDomain() != me.TrustDomain() || !p.CanRead(h.channel, me.Name()) {
		return nil, NotEntitled, "the policy has no such channel for these two"
	}
	s.kinds = entitled(p, h.channel, name, me.Name())
	if reason := rc.fresh(s, f, w, now); reason != 0 {
		return nil, reason, ""
	}
	if reason, detail := s.findKeys(rc, f, now); reason != 0 {
		return nil, reason, detail
	}
	if seen {
		return nil, Seen, ""
	}
	return s, 0, ""
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
		return Kinds(envelope.KindEvent, envelope.KindControl)
	case policy.KindService:
		return Kinds(envelope.KindRequest)
	case policy.KindQueue:
		return Kinds(envelope.KindTask, envelope.KindControl)
	case policy.KindResult:
		return Kinds(envelope.KindResult, envelope.KindProgress, envelope.KindError)
	}
	return 0
}

// findKeys finds the session's AEAD, and its sender's card if that is here already.
func (s *inSession) findKeys(rc *Receiver, f *envelope.Frame, now time.Time) (Reason, string) {
	rc.ring.mu.Lock()
	c := rc.ring.channels[s.channel]
	rc.ring.mu.Unlock()
	if c == nil {
		return NoKey, "not joined"
	}
	k := c.held(f.Key)
	switch {
	case k == nil || !k.reader:
		return NoKey, ""
	case !c.opens(k.statement, s.sender.Name()):
		return NoKey, "the key is not fit for live traffic any more"
	}
	own, err := k.k.senderKey(s.name, s.senderID)
	if err == nil {
		s.aead, err = own.sessionAEAD(f.Session)
	}
	if err != nil {
		return NoKey, err.Error()
	}
	s.card = rc.ring.cards.cached(s.sender, f.Card, now)
	return 0, ""
}

// claims is what a frame's header says, as values. Nothing of it is proven.
type claims struct {
	channel policy.Channel
	sender  identity.ID
	card    ulid.ULID
	key     uint32
}

func claimsOf(h *envelope.Header) (c claims, channelErr, senderErr error) {
	c.card, c.key = h.Card, h.Key
	c.channel, channelErr = policy.ParseChannel(string(h.Channel))
	c.sender, senderErr = identity.ParseID(string(h.Sender))
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
	c, channelErr, senderErr := claimsOf(&f.Header)
	return c, errors.Join(channelErr, senderErr)
}
