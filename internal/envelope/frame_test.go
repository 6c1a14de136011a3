package envelope

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// TestLayout holds the encoder against bytes written down by hand.
func TestLayout(t *testing.T) {
	f := testFrame(FlagSigned | FlagCommitted)
	f.Kind, f.Ref, f.Count = KindReply, testID(2), 0x0102
	f.Ciphertext = bytes.Repeat([]byte{0xee}, MinCiphertext)
	f.Signature = Signature{Depth: 1, Index: 1, Path: bytes.Repeat([]byte{0xdd}, 32), Sig: bytes.Repeat([]byte{0xff}, 64)}
	want := strings.Join([]string{
		"01", "05", "00b4",
		"03",
		strings.Repeat("01", 16), strings.Repeat("02", 16), strings.Repeat("03", 16),
		"0000000000000007", "0000019ab84f5c00", "05ea1b05",
		"0c" + hex.EncodeToString([]byte("topic/prices")),
		"22" + hex.EncodeToString([]byte("spiffe://example.org/agent/planner")),
		strings.Repeat("04", 16),
		"0c" + hex.EncodeToString([]byte("prices.eu.de")),
		"0102",
		strings.Repeat("c0", 32),
		"0000001c", strings.Repeat("ee", 28),
		"01", "0001", strings.Repeat("dd", 32), "0040", strings.Repeat("ff", 64),
	}, "")
	got, err := AppendFrame(nil, &f)
	if err != nil {
		t.Fatal(err)
	}
	if hex.EncodeToString(got) != want {
		t.Errorf("got\n%x, want\n%s", got, want)
	}
}

func TestParseIsInverse(t *testing.T) {
	for flags := range uint8(8) {
		want := testFrame(flags)
		wire, err := AppendFrame([]byte("before"), &want)
		if err != nil {
			t.Fatal(err)
		}
		wire = wire[len("before"):]
		if n := want.FrameSize(len(want.Ciphertext)-MinCiphertext, want.Signature.Depth); n != len(wire) {
			t.Errorf("flags %d: FrameSize says %d of %d bytes", flags, n, len(wire))
		}
		equal(t, "frame", wire, newRawFrame(flags).bytes())
		var got Frame
		if err := Parse(wire, &got); err != nil {
			t.Fatal(err)
		}
		equal(t, "head", got.Head, wire[:len(got.Head)])
		got.Head = nil
		if !reflect.DeepEqual(got, want) {
			t.Errorf("flags %d: got %+v, want %+v", flags, got, want)
		}
		if got.Signed() != (flags&1 != 0) || got.Padded() != (flags&2 != 0) || got.Committed() != (flags&4 != 0) {
			t.Errorf("flags %d are read as %v %v %v", flags, got.Signed(), got.Padded(), got.Committed())
		}
	}
}

// A caller that appends to a slice of a frame must not write over what follows
// it on the wire.
func TestParsedSlicesHaveNoSpareCapacity(t *testing.T) {
	want := newRawFrame(FlagSigned | FlagCommitted).bytes()
	wire := bytes.Clone(want)
	var f Frame
	if err := Parse(wire, &f); err != nil {
		t.Fatal(err)
	}
	for _, s := range [][]byte{f.Head, f.Channel, f.Sender, f.Recipient, f.Ciphertext, f.Signature.Path, f.Signature.Sig} {
		_ = append(s, 'X')
	}
	equal(t, "wire", wire, want)

	m := newRawMessage(true)
	plain := append(m.bytes(), m.bytes()...)
	want = bytes.Clone(plain)
	messages, err := ParseMessages(plain, FlagCommitted, 2, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = append(messages[0].Payload, 'X')
	_ = append(messages[0].Headers[0].Key, 'X')
	_ = append(messages[0].Headers[0].Value, 'X')
	equal(t, "plaintext", plain, want)
}

// TestEveryByteCounts changes each byte of a frame in each of its bits. What
// still parses must differ in what the seal or the signature covers.
func TestEveryByteCounts(t *testing.T) {
	for _, flags := range []uint8{0, FlagSigned, FlagSigned | FlagPadded | FlagCommitted} {
		wire := newRawFrame(flags).bytes()
		before := authenticated(t, wire)
		for i := range wire {
			for bit := range 8 {
				wire[i] ^= 1 << bit
				if after := authenticated(t, wire); after != "" && after == before {
					t.Errorf("bit %d of byte %d of a frame with flags %d can be changed unseen", bit, i, flags)
				}
				wire[i] ^= 1 << bit
			}
		}
	}
}

// authenticated returns all that a receiver's checks depend on, "" for a frame
// that does not parse.
func authenticated(t *testing.T, wire []byte) string {
	t.Helper()
	var f Frame
	if Parse(wire, &f) != nil {
		return ""
	}
	out := AppendAssociatedData(nil, f.Head)
	out = append(out, f.Ciphertext...)
	if f.Signed() {
		root, err := Root(Leaf(f.Head, f.Ciphertext), f.Signature.Depth, f.Signature.Index, f.Signature.Path)
		if err != nil {
			t.Fatal(err)
		}
		out = AppendSignedRoot(out, &f.Header, f.Signature.Depth, root)
		out = append(out, f.Signature.Sig...)
	}
	return string(out)
}

// TestEveryCut takes away more and more of a frame's end, and adds to it.
func TestEveryCut(t *testing.T) {
	for flags := range uint8(8) {
		wire := newRawFrame(flags).bytes()
		var f Frame
		for n := range wire {
			if err := Parse(wire[:n], &f); !errors.Is(err, ErrMalformed) {
				t.Errorf("%d of %d bytes: %v", n, len(wire), err)
			}
		}
		for c := range 256 {
			if err := Parse(append(bytes.Clone(wire), byte(c)), &f); !errors.Is(err, ErrMalformed) {
				t.Errorf("with %d after the end: %v", c, err)
			}
		}
	}
}

func TestAppendFrameRefuses(t *testing.T) {
	const all = FlagSigned | FlagCommitted
	for _, c := range []struct {
		name  string
		flags uint8
		want  *MalformedError
		spoil func(*Frame)
	}{
		{"unknown flag", all, errFlags, func(f *Frame) { f.Flags |= 8 }},
		{"no kind", all, errKind, func(f *Frame) { f.Kind = 0 }},
		{"no id", all, errID, func(f *Frame) { f.ID = testID(0) }},
		{"no ref", all, errRefMissing, func(f *Frame) { f.Kind = KindError }},
		{"ref in a task", all, errRefPresent, func(f *Frame) { f.Kind, f.Ref = KindTask, testID(2) }},
		{"no session", all, errSession, func(f *Frame) { f.Session = testID(0) }},
		{"no seq", all, errSeq, func(f *Frame) { f.Seq = 0 }},
		{"no card", all, errCard, func(f *Frame) { f.Card = testID(0) }},
		{"no messages", all, errCountZero, func(f *Frame) { f.Count = 0 }},
		{"too many messages", all, errCountSize, func(f *Frame) { f.Count = MaxMessages + 1 }},
		{"commit not filled in", all, errCommitZero, func(f *Frame) { f.Commit = [HashSize]byte{} }},
		{"commit without flag", FlagSigned, errCommitPresent, func(f *Frame) { f.Commit = testHash(1) }},
		{"long channel", all, errChannelSize, func(f *Frame) { f.Channel = make([]byte, MaxChannel+1) }},
		{"long sender", all, errSenderSize, func(f *Frame) { f.Sender = make([]byte, MaxSender+1) }},
		{"long recipient", all, errRecipientSize, func(f *Frame) { f.Recipient = make([]byte, MaxRecipient+1) }},
		{"wildcard", all, errRecipientChars, func(f *Frame) { f.Recipient = []byte("prices.>") }},
		{"short ciphertext", all, errCiphertextShort, func(f *Frame) { f.Ciphertext = nil }},
		{"long ciphertext", all, errCiphertextSize, func(f *Frame) { f.Ciphertext = make([]byte, MaxCiphertext+1) }},
		{"signature without flag", 0, errSignaturePresent, func(f *Frame) { f.Signature.Sig = make([]byte, 64) }},
		{"flag without signature", all, errSignatureSig, func(f *Frame) { f.Signature = Signature{} }},
		{"deep path", all, errSignatureDepth, func(f *Frame) { f.Signature.Depth = 17 }},
		{"index past depth", all, errSignatureIndex, func(f *Frame) { f.Signature.Index = 8 }},
		{"path not of the depth", all, errPath, func(f *Frame) { f.Signature.Path = f.Signature.Path[1:] }},
		{"signature with a prefix", all, errSignatureSig, func(f *Frame) { f.Signature.Sig = make([]byte, 69) }},
	} {
		f := testFrame(c.flags)
		c.spoil(&f)
		got, err := AppendFrame([]byte("before"), &f)
		if err != error(c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
		if string(got) != "before" {
			t.Errorf("%s: %d bytes were appended in spite of the error", c.name, len(got)-6)
		}
	}
}

// The longest frame that can be appended can be parsed, and leaves NATS room
// for headers of its own.
func TestLongestFrame(t *testing.T) {
	f := testFrame(FlagSigned | FlagCommitted)
	f.Channel, f.Sender = bytes.Repeat([]byte{'c'}, MaxChannel), bytes.Repeat([]byte{'s'}, MaxSender)
	f.Recipient = bytes.Repeat([]byte{'r'}, MaxRecipient)
	f.Ciphertext = make([]byte, MaxCiphertext)
	f.Signature.Depth, f.Signature.Path = MaxDepth, make([]byte, MaxDepth*HashSize)
	wire, err := AppendFrame(nil, &f)
	if err != nil {
		t.Fatal(err)
	}
	if room := 1<<20 - len(wire); room < 14<<10 {
		t.Errorf("leaves %d bytes of 1 MiB", room)
	}
	var got Frame
	if err := Parse(wire, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Head) != MaxHead || len(AppendAssociatedData(nil, got.Head)) != MaxAssociatedData {
		t.Errorf("head is %d bytes long, MaxHead says %d", len(got.Head), MaxHead)
	}
}

func TestKind(t *testing.T) {
	for k, want := range map[Kind]string{
		0: "invalid", KindEvent: "event", KindRequest: "request", KindReply: "reply", KindTask: "task",
		KindResult: "result", KindProgress: "progress", KindError: "error", KindControl: "control", 9: "invalid", 255: "invalid",
	} {
		if k.String() != want || k.Valid() != (want != "invalid") {
			t.Errorf("kind %d is %q, valid: %v", uint8(k), k, k.Valid())
		}
	}
}

func TestErrorTextHoldsNoInput(t *testing.T) {
	r := newRawFrame(0)
	r.recipient = "secret subject"
	err := Parse(r.bytes(), new(Frame))
	if want := "envelope: header recipient has characters other than A-Z a-z 0-9 _ - ."; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
