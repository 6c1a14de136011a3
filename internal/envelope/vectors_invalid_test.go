package envelope

import (
	"bytes"
	"strings"
	"testing"
)

func invalidVectors(t *testing.T) []vector {
	t.Helper()
	var out []vector
	for _, make := range []func() []vector{
		invalidPrefixes, invalidHeaders, invalidNames, invalidCiphertexts, invalidSignatures,
		invalidPlaintexts, invalidMessageHeaders, invalidPadding, invalidDisclosures,
	} {
		out = append(out, make()...)
	}
	return out
}

type frameFault struct {
	name    string
	comment string
	want    *MalformedError
	flags   uint8
	spoil   func(*rawFrame)
}

func faultOf(e *MalformedError) *fault { return &fault{e.Part, e.Problem, e.TooLarge} }

func frameFaults(faults []frameFault) []vector {
	var out []vector
	for _, f := range faults {
		r := newRawFrame(f.flags)
		f.spoil(r)
		out = append(out, vector{
			Name: "frame-" + f.name, Comment: f.comment, Type: "frame", Fault: faultOf(f.want), Frame: r.bytes(),
		})
	}
	return out
}

func invalidPrefixes() []vector {
	length := len(newRawFrame(0).bytes())
	all := frameFaults([]frameFault{
		{"version-0", "", errVersion, 0, func(r *rawFrame) { r.version = 0 }},
		{"version-2", "", errVersion, 0, func(r *rawFrame) { r.version = 2 }},
		{"flag-unknown-8", "the lowest bit that means nothing", errFlags, 0, func(r *rawFrame) { r.flags |= 8 }},
		{"flag-unknown-128", "the highest one", errFlags, 0, func(r *rawFrame) { r.flags |= 128 }},
		{"cut-after-version", "", errFrameCut, 0, func(r *rawFrame) { r.cut = length - 1 }},
		{"cut-after-flags", "", errFrameCut, 0, func(r *rawFrame) { r.cut = length - 2 }},
		{"cut-in-header-length", "", errFrameCut, 0, func(r *rawFrame) { r.cut = length - 3 }},
		{"cut-after-header-length", "", errHeaderCut, 0, func(r *rawFrame) { r.cut = length - 4 }},
		{"cut-in-header", "", errHeaderCut, 0, func(r *rawFrame) { r.cut = 65 }},
		{"cut-after-header", "no length of the ciphertext", errCiphertextCut, 0, func(r *rawFrame) { r.cut = 64 }},
	})
	empty := vector{Name: "frame-empty", Comment: "no bytes at all", Type: "frame", Fault: faultOf(errFrameCut)}
	long := vector{
		Name: "frame-too-long", Type: "frame", Fault: faultOf(errFrameSize), Frame: newRawFrame(0).bytes(),
		Comment: "1 MiB and a byte; the length is looked at before anything else",
	}
	long.AppendZeros = MaxFrame + 1 - len(long.Frame)
	return append(all, empty, long)
}

func invalidHeaders() []vector {
	var zero [IDSize]byte
	return frameFaults([]frameFault{
		{"header-length-one-short", "its last field is cut", errHeaderCut, 0, func(r *rawFrame) { r.headerMore = -1 }},
		{"header-length-0", "", errHeaderCut, 0, func(r *rawFrame) { r.headerMore = -r.headerSize() }},
		{"header-length-past-end", "", errHeaderCut, 0, func(r *rawFrame) { r.headerMore = 65535 - r.headerSize() }},
		{"header-trailing", "a byte after count", errHeaderTrailing, 0, func(r *rawFrame) { r.headerTail = []byte{0} }},
		{"commit-without-flag", "32 bytes after count in a frame that is not committed", errHeaderTrailing, 0,
			func(r *rawFrame) { r.commit = bytes.Repeat([]byte{0xc0}, HashSize) }},
		{"commit-flag-without-commit", "", errHeaderCut, FlagCommitted, func(r *rawFrame) { r.commit = nil }},
		{"commit-cut", "31 bytes", errHeaderCut, FlagCommitted, func(r *rawFrame) { r.commit = r.commit[1:] }},
		{"commit-zero", "", errCommitZero, FlagCommitted, func(r *rawFrame) { clear(r.commit) }},
		{"kind-0", "", errKind, 0, func(r *rawFrame) { r.kind = 0 }},
		{"kind-9", "", errKind, 0, func(r *rawFrame) { r.kind = 9 }},
		{"kind-255", "", errKind, 0, func(r *rawFrame) { r.kind = 255 }},
		{"id-zero", "", errID, 0, func(r *rawFrame) { r.id = zero }},
		{"ref-in-event", "an event answers nothing", errRefPresent, 0, func(r *rawFrame) { r.ref = testID(2) }},
		{"ref-in-request", "", errRefPresent, 0, func(r *rawFrame) { r.kind, r.ref = 2, testID(2) }},
		{"ref-in-task", "", errRefPresent, 0, func(r *rawFrame) { r.kind, r.ref = 4, testID(2) }},
		{"ref-zero-in-reply", "", errRefMissing, 0, func(r *rawFrame) { r.kind = 3 }},
		{"ref-zero-in-result", "", errRefMissing, 0, func(r *rawFrame) { r.kind = 5 }},
		{"ref-zero-in-progress", "", errRefMissing, 0, func(r *rawFrame) { r.kind = 6 }},
		{"ref-zero-in-error", "", errRefMissing, 0, func(r *rawFrame) { r.kind = 7 }},
		{"session-zero", "", errSession, 0, func(r *rawFrame) { r.session = zero }},
		{"seq-zero", "", errSeq, 0, func(r *rawFrame) { r.seq = 0 }},
		{"card-zero", "", errCard, 0, func(r *rawFrame) { r.card = zero }},
		{"count-zero", "", errCountZero, 0, func(r *rawFrame) { r.count = 0 }},
		{"count-4097", "", errCountSize, 0, func(r *rawFrame) { r.count = 4097 }},
	})
}

func (r *rawFrame) headerSize() int {
	return fixedHeader + len(r.channel) + len(r.sender) + len(r.recipient)
}

func invalidNames() []vector {
	channel := func(s string) func(*rawFrame) { return func(r *rawFrame) { r.channel = s } }
	sender := func(s string) func(*rawFrame) { return func(r *rawFrame) { r.sender = s } }
	recipient := func(s string) func(*rawFrame) { return func(r *rawFrame) { r.recipient = s } }
	return frameFaults([]frameFault{
		{"channel-empty", "", errChannelEmpty, 0, channel("")},
		{"channel-137-bytes", "", errChannelSize, 0, channel("topic/" + strings.Repeat("a", 131))},
		{"channel-not-utf8", "", errChannelChars, 0, channel("topic/\xff")},
		{"channel-not-ascii", "UTF-8, but a name is ASCII", errChannelChars, 0, channel("topic/prix-é")},
		{"channel-upper-case", "", errChannelChars, 0, channel("topic/Prices")},
		{"channel-zero-byte", "", errChannelChars, 0, channel("topic/prices\x00")},
		{"channel-dot", "", errChannelChars, 0, channel("topic/prices.eu")},
		{"sender-empty", "", errSenderEmpty, 0, sender("")},
		{"sender-not-utf8", "", errSenderChars, 0, sender("spiffe://example.org/agent/\xff")},
		{"sender-upper-case", "", errSenderChars, 0, sender("spiffe://Example.org/agent/planner")},
		{"sender-percent", "SPIFFE has no percent-encoding", errSenderChars, 0, sender("spiffe://example.org/agent/p%6canner")},
		{"recipient-empty", "", errRecipientEmpty, 0, recipient("")},
		{"recipient-not-utf8", "", errRecipientChars, 0, recipient("prices.\xff")},
		{"recipient-space", "", errRecipientChars, 0, recipient("prices. eu")},
		{"recipient-star", "a subject that frames are sent to has no wildcards", errRecipientChars, 0, recipient("prices.*")},
		{"recipient-greater", "", errRecipientChars, 0, recipient("prices.>")},
		{"recipient-line-feed", "", errRecipientChars, 0, recipient("prices\n")},
		{"recipient-dot-first", "", errRecipientTokens, 0, recipient(".prices")},
		{"recipient-dot-last", "", errRecipientTokens, 0, recipient("prices.")},
		{"recipient-two-dots", "", errRecipientTokens, 0, recipient("prices..eu")},
	})
}

func invalidCiphertexts() []vector {
	long := newRawFrame(0)
	long.ciphertext, long.ciphertextMore = nil, MaxCiphertext+1
	all := frameFaults([]frameFault{
		{"ciphertext-length-cut", "three bytes of four", errCiphertextCut, 0, func(r *rawFrame) { r.cut = len(r.ciphertext) + 1 }},
		{"ciphertext-length-past-end", "", errCiphertextCut, 0, func(r *rawFrame) { r.ciphertextMore = 1 }},
		{"ciphertext-cut", "the last byte is missing", errCiphertextCut, 0, func(r *rawFrame) { r.cut = 1 }},
		{"ciphertext-length-max", "2^32 - 1", errCiphertextSize, 0, func(r *rawFrame) { r.ciphertextMore = 1<<32 - 1 - int64(len(r.ciphertext)) }},
		{"ciphertext-empty", "", errCiphertextShort, 0, func(r *rawFrame) { r.ciphertext = nil }},
		{"ciphertext-27-bytes", "one less than IV and tag", errCiphertextShort, 0, func(r *rawFrame) { r.ciphertext = sequence(27) }},
		{"trailing", "one byte after the ciphertext of an unsigned frame", errSignaturePresent, 0, func(r *rawFrame) { r.tail = []byte{0} }},
		{"trailing-frame", "two frames in a row", errSignaturePresent, 0, func(r *rawFrame) { r.tail = newRawFrame(0).bytes() }},
	})
	return append(all, vector{
		Name: "frame-ciphertext-too-long", Comment: "1032226 bytes, all there", Type: "frame",
		Fault: faultOf(errCiphertextSize), Frame: long.bytes(), AppendZeros: MaxCiphertext + 1,
	})
}

func invalidSignatures() []vector {
	const signed = FlagSigned
	return frameFaults([]frameFault{
		{"signature-without-flag", "a whole block in a frame that is not signed", errSignaturePresent, signed, func(r *rawFrame) { r.flags = 0 }},
		{"signature-flag-without-signature", "", errSignatureMissing, signed, func(r *rawFrame) { r.signature = nil }},
		{"signature-cut-after-depth", "", errSignatureMissing, signed, func(r *rawFrame) { r.cut = 96 + 66 + 2 }},
		{"signature-cut-in-path", "", errSignatureMissing, signed, func(r *rawFrame) { r.cut = 66 + 1 }},
		{"signature-cut-in-sig-length", "", errSignatureMissing, signed, func(r *rawFrame) { r.cut = 65 }},
		{"signature-cut-in-sig", "", errSignatureMissing, signed, func(r *rawFrame) { r.cut = 1 }},
		{"signature-trailing", "", errFrameTrailing, signed, func(r *rawFrame) { r.tail = []byte{0} }},
		{"signature-depth-17", "the path is as long as that", errSignatureDepth, signed,
			func(r *rawFrame) { r.signature.depth, r.signature.path = 17, sequence(17*HashSize) }},
		{"signature-index-past-depth", "index 8 at depth 3", errSignatureIndex, signed, func(r *rawFrame) { r.signature.index = 8 }},
		{"signature-index-high-bit", "index 5 with the highest bit set", errSignatureIndex, signed, func(r *rawFrame) { r.signature.index = 0x8005 }},
		{"signature-index-1-at-depth-0", "", errSignatureIndex, signed,
			func(r *rawFrame) { r.signature.depth, r.signature.index, r.signature.path = 0, 1, nil }},
		{"signature-sig-empty", "", errSignatureSig, signed, func(r *rawFrame) { r.signature.sig = nil }},
		{"signature-sig-63-bytes", "", errSignatureSig, signed, func(r *rawFrame) { r.signature.sig = sequence(63) }},
		{"signature-sig-69-bytes", "as with a prefix for the key", errSignatureSig, signed, func(r *rawFrame) { r.signature.sig = sequence(69) }},
		{"signature-sig-length-past-end", "", errSignatureMissing, signed, func(r *rawFrame) { r.signature.sigMore = 1 }},
	})
}

type plaintextFault struct {
	name    string
	comment string
	want    *MalformedError
	flags   uint8
	spoil   func(m *rawMessage)
}

// plaintextFaults spoils the second of two messages.
func plaintextFaults(faults []plaintextFault) []vector {
	var out []vector
	for _, f := range faults {
		first, second := newRawMessage(f.flags&FlagCommitted != 0), newRawMessage(f.flags&FlagCommitted != 0)
		f.spoil(&second)
		plain := append(first.bytes(), second.bytes()...)
		if f.flags&FlagPadded != 0 {
			plain = AppendPadding(plain, 0)
		}
		out = append(out, plaintextFaultVector(f.name, f.comment, f.want, plain, f.flags, 2))
	}
	return out
}

func plaintextFaultVector(name, comment string, want *MalformedError, plain []byte, flags uint8, n uint16) vector {
	return vector{
		Name: "plaintext-" + name, Comment: comment, Type: "plaintext", Fault: faultOf(want),
		Plaintext: plain, Flags: &flags, Count: &n,
	}
}

func invalidPlaintexts() []vector {
	m, c := newRawMessage(false), newRawMessage(true)
	one, many := m.bytes(), bytes.Repeat((&rawMessage{id: m.id}).bytes(), 3)
	all := plaintextFaults([]plaintextFault{
		{"message-id-zero", "", errMessageID, 0, func(m *rawMessage) { clear(m.id) }},
		{"salt-zero", "", errMessageSalt, FlagCommitted, func(m *rawMessage) { clear(m.salt) }},
		{"payload-length-past-end", "", errMessageCut, 0, func(m *rawMessage) { m.payloadMore = 1 }},
		{"payload-length-max", "2^32 - 1", errPayloadSize, 0, func(m *rawMessage) { m.payloadMore = 1<<32 - 1 - int64(len(m.payload)) }},
	})
	long := plaintextFaultVector("payload-too-long", "960 KiB and a byte, all there", errPayloadSize,
		(&rawMessage{id: m.id, payloadMore: MaxPayload + 1}).bytes(), 0, 1)
	long.AppendZeros = MaxPayload + 1
	huge := plaintextFaultVector("too-long", "1008 KiB and a byte; the length is looked at before anything else", errPlaintextSize, one, 0, 1)
	huge.AppendZeros = MaxPlaintext + 1 - len(one)
	crowd := plaintextFaultVector("count-4097", "4097 messages, of which 3 are here and the rest would be", errCountSize, many, 0, 4097)
	return append(all, long, huge, crowd,
		plaintextFaultVector("empty", "", errPlaintextCount, nil, 0, 1),
		plaintextFaultVector("count-zero", "", errCountZero, one, 0, 0),
		plaintextFaultVector("count-one-less", "two messages, said to be one", errPlaintextTail, append(bytes.Clone(one), one...), 0, 1),
		plaintextFaultVector("count-one-more", "three messages, said to be four", errPlaintextCount, many, 0, 4),
		plaintextFaultVector("count-one-more-with-room", "one message, long enough for the two that it is said to be", errMessageCut, one, 0, 2),
		plaintextFaultVector("cut", "the last byte is missing", errMessageCut, one[:len(one)-1], 0, 1),
		plaintextFaultVector("cut-in-id", "the second message", errMessageCut, append(bytes.Clone(one), m.id[:15]...), 0, 2),
		plaintextFaultVector("trailing", "", errPlaintextTail, append(bytes.Clone(one), 0), 0, 1),
		plaintextFaultVector("salt-without-flag", "the salt is read as the count of headers", errHeadersSize, c.bytes(), 0, 1),
	)
}

func invalidMessageHeaders() []vector {
	headers := func(pairs ...rawPair) func(*rawMessage) { return func(m *rawMessage) { m.headers = pairs } }
	var many []rawPair
	for i := range MaxHeaders + 1 {
		many = append(many, rawPair{string(rune('!' + i)), ""})
	}
	// A length of one byte cannot say 256, so a key that is too long has no vector.
	return plaintextFaults([]plaintextFault{
		{"headers-not-sorted", "", errHeadersUnordered, 0, headers(rawPair{"b", "1"}, rawPair{"a", "2"})},
		{"headers-not-sorted-case", "upper case comes before lower", errHeadersUnordered, 0, headers(rawPair{"a", "1"}, rawPair{"B", "2"})},
		{"headers-not-sorted-prefix", "a key comes before those that it begins", errHeadersUnordered, 0, headers(rawPair{"ab", "1"}, rawPair{"a", "2"})},
		{"headers-duplicate", "", errHeadersUnordered, 0, headers(rawPair{"a", "1"}, rawPair{"a", "2"})},
		{"headers-65", "", errHeadersSize, 0, headers(many...)},
		{"headers-count-max", "65535", errHeadersSize, 0, func(m *rawMessage) { m.headersMore = 65535 - len(m.headers) }},
		{"headers-count-past-end", "the payload's length is read as a header", errMessageCut, 0,
			func(m *rawMessage) { m.headersMore, m.payload = 1, nil }},
		{"headers-64-past-end", "more than the bytes that are left could hold", errMessageCut, 0,
			func(m *rawMessage) { m.headers, m.headersMore, m.payload = nil, MaxHeaders, nil }},
		{"headers-8193-bytes", "", errHeadersBytes, 0, headers(rawPair{"a", strings.Repeat("v", MaxHeaderBytes-3)})},
		{"header-key-empty", "", errHeaderKeyEmpty, 0, headers(rawPair{"", "1"})},
		{"header-key-space", "", errHeaderKeyChars, 0, headers(rawPair{"a b", "1"})},
		{"header-key-line-feed", "", errHeaderKeyChars, 0, headers(rawPair{"a\n", "1"})},
		{"header-key-not-ascii", "", errHeaderKeyChars, 0, headers(rawPair{"é", "1"})},
	})
}

func invalidPadding() []vector {
	m := newRawMessage(false)
	one := m.bytes()
	size := PadmeSize(len(one))
	padded := func(n int) []byte { return append(bytes.Clone(one), make([]byte, n-len(one))...) }
	dirty, last := padded(size), padded(size)
	dirty[len(one)] = 1
	last[size-1] = 0x80
	even := rawMessage{id: m.id, payload: make([]byte, 10)}
	return []vector{
		plaintextFaultVector("padding-missing", "", errPaddingSize, one, FlagPadded, 1),
		plaintextFaultVector("padding-one-short", "", errPaddingSize, padded(size-1), FlagPadded, 1),
		plaintextFaultVector("padding-one-long", "", errPaddingSize, padded(size+1), FlagPadded, 1),
		plaintextFaultVector("padding-next-size", "a Padmé size, but not the first that fits", errPaddingSize, padded(PadmeSize(size+1)), FlagPadded, 1),
		plaintextFaultVector("padding-where-none-is-due", "32 bytes are their own padded size", errPaddingSize, append(even.bytes(), 0), FlagPadded, 1),
		plaintextFaultVector("padding-first-not-zero", "", errPaddingZero, dirty, FlagPadded, 1),
		plaintextFaultVector("padding-last-not-zero", "", errPaddingZero, last, FlagPadded, 1),
		plaintextFaultVector("padding-without-flag", "", errPlaintextTail, padded(size), 0, 1),
	}
}

func invalidDisclosures() []vector {
	spoil := func(name, comment string, want *fault, index int, f func(*vector)) vector {
		v := disclosureVector("disclosure-"+name, comment, 5, index)
		v.Fault = want
		f(&v)
		return v
	}
	index := func(n int) func(*vector) { return func(v *vector) { v.Index = &n } }
	other := &fault{Part: "commitment", Problem: "is to another message"}
	return []vector{
		spoil("payload-changed", "", other, 3, func(v *vector) { v.Message.Payload = []byte("wheat 999.0") }),
		spoil("id-changed", "", other, 3, func(v *vector) { v.Message.ID[0] ^= 1 }),
		spoil("salt-changed", "", other, 3, func(v *vector) { v.Message.Salt[0] ^= 1 }),
		spoil("header-dropped", "", other, 3, func(v *vector) { v.Message.Headers = v.Message.Headers[1:] }),
		spoil("path-changed", "", other, 3, func(v *vector) { v.Path[0] ^= 1 }),
		spoil("index-of-another", "", other, 3, index(2)),
		spoil("index-past-count", "the place is there in the tree, but it is padding", faultOf(errLeafIndex), 4, index(5)),
		spoil("path-longer", "", faultOf(errPathDepth), 3, func(v *vector) { v.Path = append(v.Path, make([]byte, HashSize)...) }),
		spoil("path-shorter", "", faultOf(errPathDepth), 3, func(v *vector) { v.Path = v.Path[HashSize:] }),
		spoil("salt-zero", "", faultOf(errMessageSalt), 3, func(v *vector) { clear(v.Message.Salt) }),
		spoil("key-of-256-bytes", "its length would wrap around, and the encoding be that of another message", faultOf(errHeaderKeySize), 3,
			func(v *vector) { v.Message.Headers[0][0] = bytes.Repeat([]byte{'k'}, 256) }),
		spoil("not-committed", "", faultOf(errNotCommitted), 0, func(v *vector) { v.Header.Flags, v.Header.Commit = 0, nil }),
	}
}
