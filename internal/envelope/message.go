package envelope

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/oklog/ulid/v2"
	"golang.org/x/crypto/cryptobyte"
)

// Message is one message inside the seal.
type Message struct {
	ID      ulid.ULID      // never zero
	Salt    [SaltSize]byte // random, only in a committed frame, never zero there
	Headers []Pair         // keys in strictly ascending order, see [SortHeaders]
	Payload []byte         // at most MaxPayload bytes, may be empty
}

// Pair is one header of a message. The key is one or more characters of
// visible ASCII, the value any bytes.
type Pair struct {
	Key, Value []byte
}

// SortHeaders brings headers into the one order that is encoded, ascending by
// the bytes of their keys. Two of one key have no encoding: [AppendMessage]
// refuses them.
func SortHeaders(headers []Pair) {
	slices.SortFunc(headers, func(a, b Pair) int { return bytes.Compare(a.Key, b.Key) })
}

// Size returns how many bytes [AppendMessage] appends for m.
func (m *Message) Size(committed bool) int {
	n := minMessage + m.headerBytes() + len(m.Payload)
	if committed {
		n += SaltSize
	}
	return n
}

func (m *Message) headerBytes() (n int) {
	for i := range m.Headers {
		n += 1 + len(m.Headers[i].Key) + 2 + len(m.Headers[i].Value)
	}
	return n
}

// AppendMessage appends m to a plaintext. The salt goes in if committed is
// set, which is FlagCommitted of the frame. On error, a [MalformedError], dst
// is returned as it was.
func AppendMessage(dst []byte, m *Message, committed bool) ([]byte, error) {
	if err := m.check(committed); err != nil {
		return dst, err
	}
	dst = append(dst, m.ID[:]...)
	if committed {
		dst = append(dst, m.Salt[:]...)
	}
	return m.appendContent(dst), nil
}

// appendContent appends what follows id and salt.
func (m *Message) appendContent(dst []byte) []byte {
	dst = m.appendHeaders(dst)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(m.Payload)))
	return append(dst, m.Payload...)
}

func (m *Message) appendHeaders(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(m.Headers)))
	for i := range m.Headers {
		dst = appendUint8Prefixed(dst, m.Headers[i].Key)
		dst = appendUint16Prefixed(dst, m.Headers[i].Value)
	}
	return dst
}

// check holds for every message, appended or parsed.
func (m *Message) check(committed bool) error {
	switch {
	case isZero(&m.ID):
		return errMessageID
	case committed && m.Salt == [SaltSize]byte{}:
		// Without a salt the broker could find a short message by trying
		// candidates against the commitment.
		return errMessageSalt
	}
	return m.checkContent()
}

// checkContent is check without id and salt.
func (m *Message) checkContent() error {
	switch {
	case len(m.Headers) > MaxHeaders:
		return errHeadersSize
	case len(m.Payload) > MaxPayload:
		return errPayloadSize
	}
	for i := range m.Headers {
		if err := checkKey(m.Headers[i].Key); err != nil {
			return err
		}
		if i > 0 && bytes.Compare(m.Headers[i-1].Key, m.Headers[i].Key) >= 0 {
			return errHeadersUnordered
		}
	}
	if m.headerBytes() > MaxHeaderBytes {
		return errHeadersBytes
	}
	return nil
}

func checkKey(key []byte) error {
	switch {
	case len(key) == 0:
		return errHeaderKeyEmpty
	case len(key) > MaxHeaderKey:
		return errHeaderKeySize
	case !only(key, charKey):
		return errHeaderKeyChars
	}
	return nil
}

// ParseMessages reads an opened plaintext: exactly count messages, and then
// nothing but the padding that flags ask for. It appends them to dst and
// returns it; flags and count are those of the frame's header.
//
// The messages alias plain. Their Headers are in memory of their own, so who
// keeps them may lend dst again. On error, a [MalformedError], nil is returned.
func ParseMessages(plain []byte, flags uint8, count uint16, dst []Message) ([]Message, error) {
	committed := flags&FlagCommitted != 0
	least := minMessage
	if committed {
		least += SaltSize
	}
	switch {
	case count == 0:
		return nil, errCountZero
	case count > MaxMessages:
		return nil, errCountSize
	case len(plain) > MaxPlaintext:
		return nil, errPlaintextSize
	case int(count)*least > len(plain):
		return nil, errPlaintextCount
	}
	s := cryptobyte.String(plain)
	dst = slices.Grow(dst, int(count))
	room := pairs{left: int(count)}
	for range count {
		dst = dst[:len(dst)+1]
		if err := dst[len(dst)-1].parse(&s, committed, &room); err != nil {
			return nil, err
		}
	}
	if flags&FlagPadded == 0 {
		if !s.Empty() {
			return nil, errPlaintextTail
		}
		return dst, nil
	}
	if err := checkPadding(plain, s); err != nil {
		return nil, err
	}
	return dst, nil
}

// pairs is where the headers of a frame's messages go: a few at a time, so that
// not every message costs an allocation, and no more than a few, so that a
// message that is kept does not keep those of all the others.
type pairs struct {
	free []Pair
	left int // messages that have not taken theirs yet
}

// take returns n pairs to be filled. Messages of one subject tend to have as many
// headers each.
func (p *pairs) take(n int) []Pair {
	if n > len(p.free) {
		p.free = make([]Pair, max(n, min(n*p.left, pairsAtOnce)))
	}
	taken := p.free[:n:n]
	p.free = p.free[n:]
	return taken
}

func (m *Message) parse(s *cryptobyte.String, committed bool, p *pairs) error {
	m.Salt = [SaltSize]byte{}
	if !s.CopyBytes(m.ID[:]) || committed && !s.CopyBytes(m.Salt[:]) {
		return errMessageCut
	}
	if err := m.parseHeaders(s, p); err != nil {
		return err
	}
	var size uint32
	if !s.ReadUint32(&size) {
		return errMessageCut
	}
	if size > MaxPayload {
		return errPayloadSize
	}
	if !s.ReadBytes(&m.Payload, int(size)) {
		return errMessageCut
	}
	m.Payload = clip(m.Payload)
	return m.check(committed)
}

func (m *Message) parseHeaders(s *cryptobyte.String, p *pairs) error {
	m.Headers = nil
	var n uint16
	if !s.ReadUint16(&n) {
		return errMessageCut
	}
	if n > MaxHeaders {
		return errHeadersSize
	}
	if int(n)*minHeaderPair > len(*s) {
		return errMessageCut
	}
	if n > 0 {
		m.Headers = p.take(int(n))
	}
	p.left--
	for i := range m.Headers {
		var key, value cryptobyte.String
		if !s.ReadUint8LengthPrefixed(&key) || !s.ReadUint16LengthPrefixed(&value) {
			return errMessageCut
		}
		m.Headers[i] = Pair{clip(key), clip(value)}
	}
	return nil
}
