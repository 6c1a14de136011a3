package keyring

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// A policy may say that every key of a channel that was made before some time is destroyed. Who holds such a key lets go of
// it, and of what it has derived from it, when it adopts that policy. It does not take the key out of a wrap again, under no
// later policy either: a policy that does not say so any more does not bring back what was destroyed.

// floor says that every key of a channel that was made before a time is destroyed, and by which policy.
type floor struct {
	before   time.Time
	revision uint64
}

// floorsOf returns what holds under a policy that is adopted now, after those that were in force before. What an earlier one
// has said of a time that has not come did not happen, but up to now.
func floorsOf(earlier map[policy.Channel]floor, p *policy.Policy, now time.Time) map[policy.Channel]floor {
	floors := make(map[policy.Channel]floor)
	for ch, f := range earlier {
		if f.before.After(now) {
			f.before = now
		}
		floors[ch] = f
	}
	for _, ch := range p.Destroyed() {
		if before := p.DestroyedBefore(ch); before.After(floors[ch].before) {
			floors[ch] = floor{before, p.Revision()}
		}
	}
	return floors
}

// floorOf returns the channel's, whose time is zero where there is none.
func (v *view) floorOf(ch policy.Channel) floor {
	if len(v.floors) == 0 {
		return floor{}
	}
	if ch.Kind() == policy.KindResult {
		ch, _ = policy.Queue(ch.Name()) // the name of a channel is one
	}
	return v.floors[ch]
}

// covers reports whether a frame of a time is under a key that is destroyed, whichever that is.
func (f floor) covers(sealed time.Time) bool { return sealed.Add(MaxClockLead).Before(f.before) }

// destroys reports whether a key is destroyed.
func (v *view) destroys(s *keyStatement) bool { return s.madeAt().Before(v.floorOf(s.channel).before) }

func (c *channel) destroyed(s *keyStatement) bool { return c.ring.view.Load().destroys(s) }

// shred lets go of every key of the ring that is destroyed. The caller holds mu, and has put the view in force.
func (r *Ring) shred(v *view) {
	if len(v.floors) == 0 {
		return
	}
	for _, c := range r.channels {
		c.shred(v)
	}
	if s := r.restored.Load(); s != nil {
		kept := *s // it may be being written
		kept.Keys = slices.DeleteFunc(slices.Clone(s.Keys), func(k savedKey) bool { return k.destroyed(v) })
		r.restored.Store(&kept)
	}
}

func (k *savedKey) destroyed(v *view) bool {
	_, st, err := claimedKey(k.Statement)
	return err == nil && v.destroys(st)
}

func (c *channel) shred(v *view) {
	before := v.floorOf(c.ch).before
	if before.IsZero() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.loans.call(before)
	maps.DeleteFunc(c.keys, func(_ uint32, k *chanKey) bool { return v.destroys(k.statement) })
	c.broadcast()
}

// untilKeys returns when a key of the channel may be made that is not destroyed at once: zero where that is now.
func (c *channel) untilKeys() (at time.Time) {
	if f := c.ring.view.Load().floorOf(c.ch); f.before.After(c.ring.now()) {
		return f.before
	}
	return time.Time{}
}

// tooEarly says in words why there is no key until then.
func (c *channel) tooEarly() error {
	f := c.ring.view.Load().floorOf(c.ch)
	return fmt.Errorf("keyring: policy revision %d destroys every key of %s that is made before %s, which is ahead: sign one with an earlier time",
		f.revision, c.name, f.before.Format(time.RFC3339))
}

// lost returns a Rejection for a frame that lacks a key which is destroyed, so that nobody will have it; nil if that is not
// known. Either the frame says that it is from before all keys that are left; or the channel's statements have its key, and
// those that do are of keys which are destroyed. Of these a reader's word counts, or that of the frame's own sender: no other
// writer's, who could take the ids of keys that this agent has not heard of yet.
func (r *Ring) lost(h *claims) *Rejection {
	f := r.view.Load().floorOf(h.channel)
	if f.before.IsZero() {
		return nil
	}
	lost := f.covers(h.at)
	if !lost {
		r.mu.Lock()
		c := r.channels[h.channel]
		r.mu.Unlock()
		lost = c != nil && c.lost(h)
	}
	if !lost {
		return nil
	}
	return &Rejection{Reason: NoKey, Channel: h.channel.String(), Sender: h.sender.String(), ID: h.id,
		Detail: fmt.Sprintf("the key was destroyed by policy revision %d", f.revision), cause: ErrKeyDestroyed}
}

func (c *channel) lost(h *claims) (lost bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.keys[h.key] != nil {
		return false
	}
	for name, s := range c.statements {
		switch {
		case name.id != h.key:
		case !c.destroyed(s):
			return false
		case s.creator == h.sender || !c.provisional(s):
			lost = true
		}
	}
	return lost
}

// refuse rejects a frame. Of a key that is missing it says whether it is destroyed.
func (g *gate) refuse(f *envelope.Frame, reason Reason, detail string) error {
	if reason == NoKey {
		if h, channelErr, senderErr := claimsOf(f); channelErr == nil && senderErr == nil {
			if lost := g.ring.lost(&h); lost != nil {
				return lost
			}
		}
	}
	return reject(f, reason, detail)
}

// savedFloor is a floor in the state directory.
type savedFloor struct {
	Before   int64  `json:"before"` // Unix ms
	Revision uint64 `json:"revision"`
}

func saveFloors(floors map[policy.Channel]floor) map[string]savedFloor {
	saved := make(map[string]savedFloor)
	for ch, f := range floors {
		saved[ch.String()] = savedFloor{f.before.UnixMilli(), f.revision}
	}
	return saved
}

func restoreFloors(saved map[string]savedFloor) (map[policy.Channel]floor, error) {
	floors := make(map[policy.Channel]floor)
	for name, f := range saved {
		ch, err := policy.ParseChannel(name)
		if err != nil {
			return nil, err
		}
		floors[ch] = floor{time.UnixMilli(f.Before), f.Revision}
	}
	return floors, nil
}
