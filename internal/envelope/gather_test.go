package envelope

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"
)

// gathered adds messages to g and stamps it with their ids and salts.
func gathered(t *testing.T, g *Gathering, messages []Message) {
	t.Helper()
	for i := range messages {
		m := messages[i]
		m.ID, m.Salt = testID(0xdd), [SaltSize]byte{0xdd} // not looked at
		if err := g.Add(&m); err != nil {
			t.Fatal(err)
		}
	}
	restamp(t, g, messages)
}

func restamp(t *testing.T, g *Gathering, messages []Message) {
	t.Helper()
	var ids []ulid.ULID
	var salts []byte
	for i := range messages {
		ids = append(ids, messages[i].ID)
		if g.Committed() {
			salts = append(salts, messages[i].Salt[:]...)
		}
	}
	if err := g.Stamp(ids, salts); err != nil {
		t.Fatal(err)
	}
}

// checkGathering compares what was gathered with what the other functions make of the same messages.
func checkGathering(t *testing.T, g *Gathering, messages []Message) {
	t.Helper()
	var want []byte
	var flags uint8
	if g.Committed() {
		flags = FlagCommitted
	}
	for i := range messages {
		want = ok(AppendMessage(want, &messages[i], g.Committed()))
	}
	if g.Len() != len(messages) || g.Size() != len(want) {
		t.Fatalf("%d messages of %d bytes, want %d of %d", g.Len(), g.Size(), len(messages), len(want))
	}
	equal(t, "plaintext", g.Plaintext(false), want)
	padded := g.Plaintext(true)
	equal(t, "padded plaintext", padded, AppendPadding(bytes.Clone(want), 0))
	equal(t, "plaintext after padding", g.Plaintext(false), want)
	if _, err := ParseMessages(padded, flags|FlagPadded, uint16(len(messages)), nil); err != nil {
		t.Fatal(err)
	}
	var tree Tree
	err := tree.BuildGathered(g)
	if !g.Committed() {
		if err != errNotCommitted || tree.Root() != [HashSize]byte{} {
			t.Fatalf("a commitment without salts: %v", err)
		}
		return
	}
	if root := ok(CommitRoot(messages)); err != nil || tree.Root() != root {
		t.Fatalf("committed to %x, %v, want %x", tree.Root(), err, root)
	}
	last := len(messages) - 1
	equal(t, "path", ok(tree.AppendPath(nil, last)), ok(CommitPath(messages, last)))
}

func TestGathering(t *testing.T) {
	var g Gathering
	for _, committed := range []bool{false, true, false} {
		for _, n := range []int{1, 2, 5, 33} {
			messages := vectorMessages(n)
			g.Reset(committed)
			gathered(t, &g, messages)
			checkGathering(t, &g, messages)
			for range 2 { // to the other and back
				if err := g.SetCommitted(!g.Committed()); err != nil {
					t.Fatal(err)
				}
				checkUnstamped(t, &g)
				restamp(t, &g, messages)
				checkGathering(t, &g, messages)
			}
			more := vectorMessages(n + 3)
			for i := range more[n:] {
				if err := g.Add(&more[n+i]); err != nil {
					t.Fatal(err)
				}
			}
			restamp(t, &g, more)
			checkGathering(t, &g, more)
		}
	}
}

// checkUnstamped: what SetCommitted leaves has room for salts and nothing in it.
func checkUnstamped(t *testing.T, g *Gathering) {
	t.Helper()
	for _, at := range g.starts {
		if g.Committed() && !bytes.Equal(g.plain[at+IDSize:at+IDSize+SaltSize], make([]byte, SaltSize)) {
			t.Fatal("there is something in the place of a salt")
		}
	}
}

// FuzzGathering reads messages, and what is done to them, from bytes.
func FuzzGathering(f *testing.F) {
	f.Add([]byte("\x00\x03one\x01\x05two..\x04\x00"), true)
	f.Add([]byte("\x02\x80"+strings.Repeat("x", 128)+"\x03\x01y"), false)
	f.Add([]byte{}, true)
	var g Gathering
	f.Fuzz(func(t *testing.T, in []byte, committed bool) {
		g.Reset(committed)
		var messages []Message
		for len(in) > 1 && len(messages) < 300 {
			m := Message{ID: testID(byte(len(messages) + 1)), Salt: [SaltSize]byte{1, byte(len(messages))}}
			binary.BigEndian.PutUint16(m.ID[14:], uint16(len(messages)))
			headers, size := int(in[0]%5), min(int(in[1]), len(in)-2)
			for i := range headers {
				m.Headers = append(m.Headers, Pair{[]byte{'a' + byte(i)}, in[2 : 2+size]})
			}
			m.Payload, in = in[2:2+size], in[2+size:]
			before := bytes.Clone(g.Plaintext(false))
			if err := g.Add(&m); err != nil {
				t.Fatal(err)
			}
			equal(t, "what was there before", g.Plaintext(false)[:len(before)], before)
			messages = append(messages, m)
		}
		if len(messages) == 0 {
			return
		}
		restamp(t, &g, messages)
		checkGathering(t, &g, messages)
		if err := g.SetCommitted(!committed); err != nil {
			t.Fatal(err)
		}
		restamp(t, &g, messages)
		checkGathering(t, &g, messages)
	})
}

// TestGatheringLimits: one message too many or too long is refused, and what was there stays.
func TestGatheringLimits(t *testing.T) {
	var g Gathering
	empty := new(Message)
	for range MaxMessages {
		if err := g.Add(empty); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Add(empty); err != errCountSize || g.Len() != MaxMessages {
		t.Errorf("message %d: %v", g.Len()+1, err)
	}

	g.Reset(true)
	long := testMessage(MaxPayload)
	rest := testMessage(MaxPlaintext - long.Size(true) - (&Message{}).Size(true) + 1)
	for i, want := range []error{nil, errPlaintextSize} {
		if err := g.Add([]*Message{&long, &rest}[i]); err != want {
			t.Errorf("message %d: got %v, want %v", i+1, err, want)
		}
	}
	rest.Payload = rest.Payload[1:]
	if err := g.Add(&rest); err != nil || g.Size() != MaxPlaintext {
		t.Errorf("%d bytes, %v", g.Size(), err)
	}
	if len(g.Plaintext(true)) != MaxPlaintext {
		t.Errorf("%d bytes with padding", len(g.Plaintext(true)))
	}
	if err := g.SetCommitted(false); err != nil {
		t.Fatal(err)
	}
	if err := g.Add(&Message{Payload: make([]byte, 10)}); err != nil {
		t.Fatal(err)
	}
	before := bytes.Clone(g.Plaintext(false))
	if err := g.SetCommitted(true); err != errPlaintextSize || !errors.Is(err, ErrTooLarge) {
		t.Errorf("salts for which there is no room: %v", err)
	}
	if g.Committed() || !bytes.Equal(g.Plaintext(false), before) {
		t.Error("it was changed in spite of the error")
	}
}

func TestStampRefuses(t *testing.T) {
	var g Gathering
	g.Reset(true)
	messages := vectorMessages(2)
	gathered(t, &g, messages)
	ids, salts := []ulid.ULID{testID(1), testID(2)}, bytes.Repeat([]byte{1}, 2*SaltSize)
	for name, err := range map[string]error{
		"an id of zero":      g.Stamp([]ulid.ULID{testID(1), {}}, salts),
		"a salt of zero":     g.Stamp(ids, append(bytes.Clone(salts[:SaltSize]), make([]byte, SaltSize)...)),
		"an id too few":      g.Stamp(ids[:1], salts[:SaltSize]),
		"a salt too few":     g.Stamp(ids, salts[:SaltSize]),
		"no salts":           g.Stamp(ids, nil),
		"an empty gathering": new(Gathering).Stamp(ids, nil),
	} {
		if err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	var tree Tree
	if err := tree.BuildGathered(&Gathering{committed: true}); err != errCountZero {
		t.Errorf("a commitment to nothing: %v", err)
	}
}

// TestResetClears: plaintext does not stay behind in memory that is used again, and much memory does not stay at all.
func TestResetClears(t *testing.T) {
	var g Gathering
	for range 3 {
		g.Reset(true)
		gathered(t, &g, vectorMessages(9))
		if err := g.SetCommitted(false); err != nil {
			t.Fatal(err)
		}
		g.Plaintext(true)
		memory := g.plain[:cap(g.plain)]
		g.Reset(false)
		if !bytes.Equal(memory, make([]byte, len(memory))) {
			t.Fatal("something is left of the messages")
		}
		if g.Len() != 0 || g.Size() != 0 || cap(g.plain) != len(memory) {
			t.Errorf("%d messages, %d bytes, room for %d", g.Len(), g.Size(), cap(g.plain))
		}
	}
	large := testMessage(maxGathering)
	gathered(t, &g, []Message{large})
	memory := g.plain
	g.Reset(false)
	if cap(g.plain) != 0 || !bytes.Equal(memory, make([]byte, len(memory))) {
		t.Errorf("%d bytes are kept", cap(g.plain))
	}
}
