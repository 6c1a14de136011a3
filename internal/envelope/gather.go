package envelope

import (
	"errors"
	"slices"

	"github.com/oklog/ulid/v2"
)

// Gathering is a plaintext in the making: messages are encoded one after the
// other as they come, so that a payload is copied once. Their ids and salts are
// zero until [Gathering.Stamp]. The zero value is empty, ready, and not
// committed. It is not safe for concurrent use.
type Gathering struct {
	plain     []byte
	starts    []uint32 // where each message begins
	committed bool
}

// Reset empties g and overwrites what was in it. Its memory is used again
// unless it is more than [maxGathering]. committed says whether the messages
// to come have salts, which is FlagCommitted of their frame.
func (g *Gathering) Reset(committed bool) {
	clear(g.plain)
	if cap(g.plain) > maxGathering {
		g.plain = nil
	}
	g.plain, g.starts, g.committed = g.plain[:0], g.starts[:0], committed
}

// Add encodes one more message, headers and payload; its ID and Salt are not
// looked at. It fails with a [MalformedError] where [AppendMessage] does, and
// where the message is one more than a frame can hold, or too long for what is
// left of it. On error g is as it was.
func (g *Gathering) Add(m *Message) error {
	if err := m.checkContent(); err != nil {
		return err
	}
	switch {
	case len(g.starts) >= MaxMessages:
		return errCountSize
	case len(g.plain)+m.Size(g.committed) > MaxPlaintext:
		return errPlaintextSize
	}
	g.starts = append(g.starts, uint32(len(g.plain)))
	g.plain = m.appendContent(append(g.plain, unstamped[:g.stampSize()]...))
	return nil
}

var unstamped [IDSize + SaltSize]byte

// stampSize is how long a message's id and salt are.
func (g *Gathering) stampSize() int {
	if g.committed {
		return IDSize + SaltSize
	}
	return IDSize
}

// Len returns how many messages there are.
func (g *Gathering) Len() int { return len(g.starts) }

// Size returns how many bytes of plaintext there are, without padding.
func (g *Gathering) Size() int { return len(g.plain) }

// Committed reports whether the messages have salts.
func (g *Gathering) Committed() bool { return g.committed }

var errStamps = errors.New("envelope: not one stamp for each message")

// Stamp gives each message its id and, if g is committed, 16 bytes of salts as
// its salt. It may be called again, which replaces them. It fails with a
// [MalformedError] if one of them is zero.
func (g *Gathering) Stamp(ids []ulid.ULID, salts []byte) error {
	if len(ids) != len(g.starts) || g.committed && len(salts) != SaltSize*len(ids) {
		return errStamps
	}
	for i, at := range g.starts {
		if isZero(&ids[i]) {
			return errMessageID
		}
		copy(g.plain[at:], ids[i][:])
		if g.committed {
			salt := [SaltSize]byte(salts[i*SaltSize:])
			if salt == [SaltSize]byte{} {
				return errMessageSalt
			}
			copy(g.plain[at+IDSize:], salt[:])
		}
	}
	return nil
}

// Plaintext returns what is to be sealed: the messages and, if padded is set,
// the zeros that follow them. It aliases g and is valid until the next Add,
// SetCommitted or Reset.
func (g *Gathering) Plaintext(padded bool) []byte {
	if !padded {
		return clip(g.plain)
	}
	n := len(g.plain)
	all := AppendPadding(g.plain, 0)
	g.plain = all[:n]
	return clip(all)
}

// BuildGathered makes t the tree over the [CommitLeaf] of each message of g,
// as [Tree.BuildCommit] does, from the bytes as they are encoded. g must be
// committed, not empty, and stamped.
func (t *Tree) BuildGathered(g *Gathering) error {
	t.reset()
	switch {
	case !g.committed:
		return errNotCommitted
	case len(g.starts) == 0:
		return errCountZero
	}
	end := len(g.plain)
	t.nodes = slices.Grow(t.nodes, 2*len(g.starts))[:len(g.starts)]
	for i := len(g.starts) - 1; i >= 0; i-- {
		at := int(g.starts[i])
		t.nodes[i] = commitEncoded(g.plain[at:end])
		end = at
	}
	t.grow()
	return nil
}

// SetCommitted makes room for the salts, or takes them out: for messages that
// were gathered before a policy changed. They have to be stamped anew. It
// fails with a [MalformedError] if the messages do not fit then, and leaves g
// as it was.
func (g *Gathering) SetCommitted(committed bool) error {
	if committed == g.committed {
		return nil
	}
	if committed {
		return g.widen()
	}
	to := 0
	for i, at := range g.starts {
		end := len(g.plain)
		if i+1 < len(g.starts) {
			end = int(g.starts[i+1])
		}
		g.starts[i] = uint32(to)
		to += copy(g.plain[to:], g.plain[at:at+IDSize])
		to += copy(g.plain[to:], g.plain[at+IDSize+SaltSize:end])
	}
	clear(g.plain[to:])
	g.plain, g.committed = g.plain[:to], false
	return nil
}

func (g *Gathering) widen() error {
	n := len(g.plain) + SaltSize*len(g.starts)
	if n > MaxPlaintext {
		return errPlaintextSize
	}
	end := len(g.plain)
	g.plain = slices.Grow(g.plain, n-end)[:n]
	for i := len(g.starts) - 1; i >= 0; i-- { // from the back, so that nothing is written over before it is moved
		at := int(g.starts[i])
		to := at + SaltSize*i
		copy(g.plain[to+IDSize+SaltSize:], g.plain[at+IDSize:end])
		copy(g.plain[to:], g.plain[at:at+IDSize])
		clear(g.plain[to+IDSize : to+IDSize+SaltSize])
		g.starts[i], end = uint32(to), at
	}
	g.committed = true
	return nil
}
