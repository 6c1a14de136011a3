package envelope

import (
	"bytes"
	"encoding/binary"

	"github.com/oklog/ulid/v2"
)

// testID returns a ULID that is nothing but b.
func testID(b byte) ulid.ULID {
	return ulid.ULID(bytes.Repeat([]byte{b}, IDSize))
}

// testHash returns a hash that is nothing but b.
func testHash(b byte) [HashSize]byte {
	return [HashSize]byte(bytes.Repeat([]byte{b}, HashSize))
}

// sequence returns the bytes 0, 1, 2 … n-1.
func sequence(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

func testHeader(flags uint8) Header {
	h := Header{
		Flags: flags, Kind: KindEvent,
		ID: testID(1), Session: testID(3), Seq: 7, Expires: 1764028800000, Key: 0x5ea1b05,
		Channel: []byte("topic/prices"), Sender: []byte("spiffe://example.org/agent/planner"),
		Card: testID(4), Recipient: []byte("prices.eu.de"), Count: 1,
	}
	if flags&FlagCommitted != 0 {
		h.Commit = testHash(0xc0)
	}
	return h
}

func testFrame(flags uint8) Frame {
	f := Frame{Header: testHeader(flags), Ciphertext: sequence(60)}
	if flags&FlagSigned != 0 {
		f.Signature = Signature{Depth: 3, Index: 5, Path: sequence(3 * HashSize), Sig: sequence(SignatureSize)}
	}
	return f
}

func testMessage(size int) Message {
	return Message{ID: testID(5), Payload: bytes.Repeat([]byte{'p'}, size)}
}

// rawFrame is a second encoder, written from the layout, that takes anything:
// for frames that AppendFrame refuses to make.
type rawFrame struct {
	version, flags, kind       uint8
	id, ref, session, card     ulid.ULID
	seq, expires               uint64
	key                        uint32
	channel, sender, recipient string
	count                      uint16
	commit                     []byte
	headerTail                 []byte
	headerMore                 int // added to the header's length
	ciphertext                 []byte
	ciphertextMore             int64 // added to the ciphertext's length
	signature                  *rawSignature
	tail                       []byte
	cut                        int // bytes taken off the end
}

type rawSignature struct {
	depth   uint8
	index   uint16
	path    []byte
	sig     []byte
	sigMore int // added to the signature's length
}

func newRawFrame(flags uint8) *rawFrame {
	r := &rawFrame{
		version: 1, flags: flags, kind: 1,
		id: testID(1), session: testID(3), seq: 7, expires: 1764028800000, key: 0x5ea1b05,
		channel: "topic/prices", sender: "spiffe://example.org/agent/planner",
		card: testID(4), recipient: "prices.eu.de", count: 1, ciphertext: sequence(60),
	}
	if flags&FlagCommitted != 0 {
		r.commit = bytes.Repeat([]byte{0xc0}, HashSize)
	}
	if flags&FlagSigned != 0 {
		r.signature = &rawSignature{depth: 3, index: 5, path: sequence(96), sig: sequence(64)}
	}
	return r
}

func (r *rawFrame) bytes() []byte {
	var b bytes.Buffer
	put := func(values ...any) {
		for _, v := range values {
			if s, ok := v.(string); ok {
				v = append([]byte{byte(len(s))}, s...)
			}
			if err := binary.Write(&b, binary.BigEndian, v); err != nil {
				panic(err)
			}
		}
	}
	put(r.kind, r.id, r.ref, r.session, r.seq, r.expires, r.key,
		r.channel, r.sender, r.card, r.recipient, r.count, r.commit, r.headerTail)
	header := bytes.Clone(b.Bytes())
	b.Reset()
	put(r.version, r.flags, uint16(len(header)+r.headerMore), header,
		uint32(int64(len(r.ciphertext))+r.ciphertextMore), r.ciphertext)
	if s := r.signature; s != nil {
		put(s.depth, s.index, s.path, uint16(len(s.sig)+s.sigMore), s.sig)
	}
	put(r.tail)
	return b.Bytes()[:b.Len()-r.cut]
}

// rawMessage is the same for plaintexts.
type rawMessage struct {
	id, salt    []byte
	headers     []rawPair
	headersMore int // added to the count of headers
	payload     []byte
	payloadMore int64 // added to the payload's length
}

type rawPair struct{ key, value string }

func newRawMessage(committed bool) rawMessage {
	m := rawMessage{
		id:      bytes.Repeat([]byte{5}, IDSize),
		headers: []rawPair{{"content-type", "text/plain"}, {"traceparent", "00-4bf92f"}},
		payload: []byte("wheat 231.5"),
	}
	if committed {
		m.salt = bytes.Repeat([]byte{0x5a}, SaltSize)
	}
	return m
}

func (m *rawMessage) bytes() []byte {
	b := append(bytes.Clone(m.id), m.salt...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(m.headers)+m.headersMore))
	for _, p := range m.headers {
		b = append(append(b, byte(len(p.key))), p.key...)
		b = binary.BigEndian.AppendUint16(b, uint16(len(p.value)))
		b = append(b, p.value...)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(int64(len(m.payload))+m.payloadMore))
	return append(b, m.payload...)
}
