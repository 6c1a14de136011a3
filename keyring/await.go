package keyring

import (
	"context"
	"fmt"

	"github.com/sealbus/sealbus/policy"
)

// Await fetches what a frame needs that Receiver.Open rejected with NoKey or NoCard: it verifies the sender's card,
// joins the channel if that has not happened, and returns when the frame's key is here. The error wraps ErrKeyDestroyed when
// that is known not to happen. It joins only for the holder of a valid card, so that inventing names does not cost this agent anything.
func (r *Ring) Await(ctx context.Context, frame []byte) error {
	h, err := r.claimed(frame)
	if err != nil {
		return err
	}
	if err := r.awaitCard(ctx, h.sender, h.card); err != nil {
		return err
	}
	c, err := r.channelFor(&h)
	if err != nil {
		return err
	}
	return c.awaitKey(ctx, &h, func() bool {
		k := c.held(h.key)
		// A key that another writer says it made may turn out to be a reader's, when the reader's word comes.
		return k != nil && k.reader && !k.statement.lapsed && (!c.provisional(k.statement) || k.statement.creator == h.sender)
	})
}

// awaitKey waits until ready says that a frame's key is here, or nobody will have it: then the error is a *Rejection.
func (c *channel) awaitKey(ctx context.Context, h *claims, ready func() bool) error {
	var lost *Rejection
	err := c.await(ctx, func() bool {
		lost = c.ring.lost(h)
		return lost != nil || ready()
	})
	if lost != nil {
		return lost
	}
	return err
}

// AwaitStored is Await for a frame that StoredReceiver.Open rejected. Its sender's card may have expired. As long as the
// frame's key is missing it asks the others for it, first after half a second and then ever more seldom: whoever has it may
// come back only now. Nil says that Open will not miss anything now. The error is ctx's when nobody has handed on the key until
// then, which is never final: such a frame waits. It is a *Rejection, final, when the sender's card has expired and will not do
// any more, or the key is destroyed, when it wraps ErrKeyDestroyed; else what is wrong with the card, which may be in the store, or be right, some other time.
func (r *Ring) AwaitStored(ctx context.Context, frame []byte) error {
	h, err := r.claimed(frame)
	if err != nil {
		return err
	}
	if err := r.awaitStoredCard(ctx, &h); err != nil {
		return err
	}
	c, err := r.channelFor(&h)
	if err != nil {
		return err
	}
	ready := func() bool {
		if r.lost(&h) != nil {
			return false
		}
		k := c.held(h.key)
		return k != nil && k.reader && (h.signed || c.opens(k.statement, h.sender.Name()))
	}
	if ready() {
		return nil
	}
	c.seek(1)
	defer c.seek(-1)
	return c.awaitKey(ctx, &h, ready)
}

// claimed returns what a frame's header says.
func (r *Ring) claimed(frame []byte) (claims, error) {
	if _, err := r.attachment(); err != nil {
		return claims{}, err
	}
	return claimedHeader(frame)
}

// channelFor returns the channel of a frame if this agent may read what its sender may write there.
func (r *Ring) channelFor(h *claims) (*channel, error) {
	a, err := r.attachment()
	if err != nil {
		return nil, err
	}
	p := r.view.Load().policy
	if !p.CanRead(h.channel, a.self.Name()) || !p.CanWrite(h.channel, h.sender.Name()) {
		return nil, fmt.Errorf("%w: %s on %s", ErrNotEntitled, h.sender.Name(), h.channel)
	}
	return r.channel(h.channel)
}

// resume takes part again in the channels on which this agent made keys of its own as a writer, in a life before this one. It may
// be the only one that has them, and what it sealed under them may be waiting for readers that come now.
func (r *Ring) resume(a *attachment) {
	restored := r.restored.Load()
	if restored == nil {
		return
	}
	p := r.view.Load().policy
	for _, saved := range restored.Keys {
		_, s, err := claimedKey(saved.Statement)
		if err != nil || !saved.Reader || s.creator != a.self || p.CanRead(s.channel, a.self.Name()) || !p.CanWrite(s.channel, a.self.Name()) {
			continue
		}
		if _, err := r.channel(s.channel); err != nil {
			a.report(Report{Key: policy.KeyPrefix(s.channel), Err: err})
		}
	}
}
