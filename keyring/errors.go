package keyring

import (
	"errors"
	"fmt"

	"github.com/oklog/ulid/v2"
)

var (
	// ErrNotFound is returned by a Store for a key that it does not hold.
	ErrNotFound = errors.New("keyring: not in the store")

	// ErrClosed is returned by every call on a Ring after Close.
	ErrClosed = errors.New("keyring: closed")

	// ErrNotAttached is returned when a Ring is used before Attach has succeeded.
	ErrNotAttached = errors.New("keyring: not attached to an identity and a store yet")

	// ErrAttached is returned by Attach for a Ring that is in use already. Every agent takes one of its own.
	ErrAttached = errors.New("keyring: the ring is attached already; give every agent a ring of its own")

	// ErrNotEntitled is returned when the policy does not let this agent do what it asked for.
	ErrNotEntitled = errors.New("keyring: the policy does not allow it")

	// ErrNoPolicy is returned by Attach when the store holds no policy at all.
	ErrNoPolicy = errors.New("keyring: the store holds no policy; start the broker with a signed one")

	// ErrWrongKey is returned by Open when the state directory does not open with the key given.
	ErrWrongKey = errors.New("keyring: the state directory does not open with this passphrase or key")

	// ErrLocked is returned by Open while another process holds the state directory.
	ErrLocked = errors.New("keyring: the state directory is in use by another process")

	// ErrNoKey is returned by Seal and SealBundles when the channel's key is fit no more, because the policy took the channel from
	// somebody, and the next one has not come yet. Join waits for it.
	ErrNoKey = errors.New("keyring: no key yet")

	// ErrKeyDestroyed is in the chain of a Rejection for NoKey where the policy has destroyed the key that the frame is sealed
	// under: it will not be opened at any other time either.
	ErrKeyDestroyed = errors.New("keyring: the key is destroyed")

	// ErrTooLarge is returned by Seal and SealBundles for messages that do not fit into one frame.
	ErrTooLarge = errors.New("keyring: message too large")
)

// errStore marks what is to be tried again: the store failed, which says nothing about the entry.
var errStore = errors.New("the store failed")

// Reason says why a frame was not accepted. The order of the constants is the order of the checks.
type Reason uint8

// The reasons, in the order in which they are checked.
const (
	Malformed    Reason = iota + 1 // not a frame, or one over a limit
	Misdirected                    // another channel, recipient, kind or reference than is expected here
	Revoked                        // the sender is revoked
	NotEntitled                    // the policy does not let the sender do that
	Unsigned                       // the policy asks for a signature, or a retained topic for a commitment, and there is none
	Stale                          // expired, outside the live window, or from before this receiver's time; or its sender's card expired too long ago
	NoKey                          // the channel key is not here (yet), or not fit for this frame
	Seen                           // a sequence number that this receiver has accepted before
	BadSeal                        // the AEAD does not open: tampered with, or sealed by somebody without the key
	NoCard                         // the sender's card is not here (yet), or not one that speaks for this frame
	BadSignature                   // the signature does not verify under the sender's card
	Overload                       // more live sessions than a receiver remembers
	BadContent                     // what was sealed breaks the format: only the sender itself can cause it
	reasonCount
)

var reasonText = [reasonCount]string{
	Malformed: "malformed", Misdirected: "misdirected", NotEntitled: "not entitled", Revoked: "revoked",
	Unsigned: "unsigned", Stale: "stale", NoKey: "no key", Seen: "replayed", BadSeal: "bad seal",
	NoCard: "no card", BadSignature: "bad signature", BadContent: "bad content", Overload: "overload",
}

// Reasons returns every reason, in the order of the checks.
func Reasons() []Reason {
	all := make([]Reason, 0, reasonCount-1)
	for r := Malformed; r < reasonCount; r++ {
		all = append(all, r)
	}
	return all
}

func (r Reason) String() string {
	if r > 0 && r < reasonCount {
		return reasonText[r]
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

// Rejection is the error of Open, Unseal and Accept. Channel, Sender and ID are what the frame claims: nothing
// about a rejected frame is proven, and nothing of its content is in here.
type Rejection struct {
	Reason  Reason
	Channel string
	Sender  string
	ID      ulid.ULID
	Detail  string

	cause error
}

// Unwrap returns ErrKeyDestroyed, or nil.
func (r *Rejection) Unwrap() error { return r.cause }

func (r *Rejection) Error() string {
	s := "keyring: frame rejected: " + r.Reason.String()
	if r.Detail != "" {
		s += ": " + r.Detail
	}
	if r.Sender != "" {
		s += fmt.Sprintf(" (claims sender %s on %s)", r.Sender, r.Channel)
	}
	return s
}

// ReasonOf returns the reason in err's chain, or zero when err is no Rejection.
func ReasonOf(err error) Reason {
	var r *Rejection
	if errors.As(err, &r) {
		return r.Reason
	}
	return 0
}
