package agentbus

import (
	"errors"
	"math"
	"time"
	"unicode/utf8"

	"github.com/oklog/ulid/v2"
	"golang.org/x/crypto/cryptobyte"

	"github.com/sealbus/sealbus/policy"
)

// control is what an enqueuer tells a queue's workers. It travels as the payload of a frame of kind control:
//
//	version      u8 = 1
//	what         u8            1 pause, 2 limits, 3 cancel
//	pause:       u8            1 paused, 0 not
//	limits:      u16           tasks that may run at a time, 0 = any number
//	             u64           ns between the beginnings of two tasks, 0 = none
//	cancel:      16 bytes      ULID of the task
//	             u16-prefixed  reason, UTF-8
type control struct {
	what   controlKind
	paused bool
	limits queueLimits
	task   ulid.ULID
	reason string
}

type controlKind uint8

const (
	controlPause  controlKind = 1
	controlLimits controlKind = 2
	controlCancel controlKind = 3
)

const controlVersion = 1

// errControl is for a control that no call of this package can have made.
var errControl = errors.New("agentbus: the control is malformed")

// subject returns what the subject of a control ends in. It is inside the seal this way, so that the broker cannot put one in
// the place of another.
func (c *control) subject() string {
	switch c.what {
	case controlPause:
		return policy.ControlPause
	case controlLimits:
		return policy.ControlLimits
	}
	return policy.ControlCancel + "." + c.task.String()
}

func (c *control) encode() ([]byte, error) {
	if !c.valid() {
		return nil, errControl
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, 32+len(c.reason)))
	b.AddUint8(controlVersion)
	b.AddUint8(uint8(c.what))
	switch c.what {
	case controlPause:
		var paused uint8
		if c.paused {
			paused = 1
		}
		b.AddUint8(paused)
	case controlLimits:
		b.AddUint16(uint16(c.limits.running))
		b.AddUint64(uint64(c.limits.every))
	case controlCancel:
		b.AddBytes(c.task[:])
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(c.reason)) })
	}
	return b.Bytes()
}

// decodeControl reads what encode writes, and nothing else.
func decodeControl(b []byte) (c control, err error) {
	s := cryptobyte.String(b)
	var version, what uint8
	if !s.ReadUint8(&version) || version != controlVersion || !s.ReadUint8(&what) {
		return control{}, errControl
	}
	c.what = controlKind(what)
	ok := false
	switch c.what {
	case controlPause:
		var paused uint8
		ok = s.ReadUint8(&paused) && paused <= 1
		c.paused = paused == 1
	case controlLimits:
		var running uint16
		var every uint64
		ok = s.ReadUint16(&running) && s.ReadUint64(&every) && every <= math.MaxInt64
		c.limits = queueLimits{int(running), time.Duration(every)}
	case controlCancel:
		var reason cryptobyte.String
		ok = s.CopyBytes(c.task[:]) && s.ReadUint16LengthPrefixed(&reason) && len(reason) <= maxReason
		c.reason = string(reason)
	}
	if !ok || !s.Empty() || !c.valid() {
		return control{}, errControl
	}
	return c, nil
}

// valid holds for all controls, encoded or decoded.
func (c *control) valid() bool {
	switch c.what {
	case controlPause:
		return true
	case controlLimits:
		return c.limits.valid()
	case controlCancel:
		return !c.task.IsZero() && len(c.reason) <= maxReason && utf8.ValidString(c.reason)
	}
	return false
}

// queueLimits are QueueLimits as workers reckon with them.
type queueLimits struct {
	running int           // 0: any number
	every   time.Duration // between the beginnings of two tasks; 0: none
}

func (l queueLimits) valid() bool {
	return l.running >= 0 && l.running <= maxRunning && (l.every == 0 || l.every >= minEvery && l.every <= maxEvery)
}

// slotHold is what a slot of a queue says, in the clear: to the broker a slot is taken and no more.
//
//	version   u8 = 1
//	agent     u8-prefixed   name of the holder; empty: the slot is free
//	worker    16 bytes      the holder's own number, at random; zero if the slot is free
//	term      u32           ms for which it is held unless written again; 0 if it is free
type slotHold struct {
	agent  string
	worker [16]byte
	term   time.Duration
}

const slotVersion = 1

var errSlot = errors.New("agentbus: the slot is malformed")

func (h slotHold) encode() []byte {
	b := cryptobyte.NewBuilder(make([]byte, 0, 32+len(h.agent)))
	b.AddUint8(slotVersion)
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(h.agent)) })
	b.AddBytes(h.worker[:])
	b.AddUint32(uint32(h.term.Milliseconds()))
	return b.BytesOrPanic() // an agent's name is at most 63 bytes
}

// decodeSlot reads what encode writes, and nothing else.
func decodeSlot(b []byte) (h slotHold, err error) {
	s := cryptobyte.String(b)
	var version uint8
	var agent cryptobyte.String
	var term uint32
	if !s.ReadUint8(&version) || version != slotVersion || !s.ReadUint8LengthPrefixed(&agent) || len(agent) > maxSlotAgent ||
		!s.CopyBytes(h.worker[:]) || !s.ReadUint32(&term) || !s.Empty() {
		return slotHold{}, errSlot
	}
	h.agent, h.term = string(agent), time.Duration(term)*time.Millisecond
	if h.term > maxSlotTerm || h.free() != (h == slotHold{}) {
		return slotHold{}, errSlot
	}
	return h, nil
}

func (h slotHold) free() bool { return h.agent == "" || h.worker == [16]byte{} || h.term == 0 }

// encodeRate writes what the slot for starts says, in the clear:
//
//	version   u8 = 1
//	next      u64           Unix ns from which on a start can be reserved
func encodeRate(next time.Time) []byte {
	b := cryptobyte.NewFixedBuilder(make([]byte, 0, 9))
	b.AddUint8(slotVersion)
	b.AddUint64(uint64(next.UnixNano()))
	return b.BytesOrPanic()
}

// decodeRate reads what encodeRate writes, and nothing else.
func decodeRate(b []byte) (time.Time, error) {
	s := cryptobyte.String(b)
	var version uint8
	var next uint64
	if !s.ReadUint8(&version) || version != slotVersion || !s.ReadUint64(&next) || !s.Empty() || next > math.MaxInt64 {
		return time.Time{}, errSlot
	}
	return time.Unix(0, int64(next)), nil
}
