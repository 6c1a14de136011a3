package envelope

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestMessageLayout(t *testing.T) {
	m := newRawMessage(true)
	v := Message{
		ID: testID(5), Salt: [SaltSize]byte(m.salt), Payload: m.payload,
		Headers: []Pair{{[]byte("content-type"), []byte("text/plain")}, {[]byte("traceparent"), []byte("00-4bf92f")}},
	}
	got, err := AppendMessage(nil, &v, true)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "committed message", got, m.bytes())
	if v.Size(true) != len(got) {
		t.Errorf("Size says %d of %d bytes", v.Size(true), len(got))
	}
	if got, err = AppendMessage(nil, &v, false); err != nil {
		t.Fatal(err)
	}
	m.salt = nil
	equal(t, "message", got, m.bytes())
	if v.Size(false) != len(got) {
		t.Errorf("Size says %d of %d bytes", v.Size(false), len(got))
	}
}

func TestAppendMessageRefuses(t *testing.T) {
	pair := func(k, v string) Pair { return Pair{[]byte(k), []byte(v)} }
	for _, c := range []struct {
		name  string
		want  *MalformedError
		spoil func(*Message)
	}{
		{"no id", errMessageID, func(m *Message) { m.ID = testID(0) }},
		{"no salt", errMessageSalt, func(m *Message) { m.Salt = [SaltSize]byte{} }},
		{"long payload", errPayloadSize, func(m *Message) { m.Payload = make([]byte, MaxPayload+1) }},
		{"many headers", errHeadersSize, func(m *Message) { m.Headers = make([]Pair, MaxHeaders+1) }},
		{"large headers", errHeadersBytes, func(m *Message) { m.Headers = []Pair{pair("k", strings.Repeat("v", MaxHeaderBytes-3))} }},
		{"value of 64 KiB", errHeadersBytes, func(m *Message) { m.Headers = []Pair{pair("k", strings.Repeat("v", 1<<16))} }},
		{"empty key", errHeaderKeyEmpty, func(m *Message) { m.Headers = []Pair{pair("", "v")} }},
		{"long key", errHeaderKeySize, func(m *Message) { m.Headers = []Pair{pair(strings.Repeat("k", 256), "v")} }},
		{"key with space", errHeaderKeyChars, func(m *Message) { m.Headers = []Pair{pair("a b", "v")} }},
		{"unsorted", errHeadersUnordered, func(m *Message) { m.Headers = []Pair{pair("b", ""), pair("a", "")} }},
		{"duplicate", errHeadersUnordered, func(m *Message) { m.Headers = []Pair{pair("a", ""), pair("a", "")} }},
	} {
		m := vectorMessages(2)[1]
		c.spoil(&m)
		got, err := AppendMessage([]byte("before"), &m, true)
		if err != error(c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
		if string(got) != "before" {
			t.Errorf("%s: %d bytes were appended in spite of the error", c.name, len(got)-6)
		}
		if _, err := CommitLeaf(&m); err != error(c.want) {
			t.Errorf("%s: CommitLeaf: got %v, want %v", c.name, err, c.want)
		}
		var g Gathering
		want := error(c.want)
		if c.want == errMessageID || c.want == errMessageSalt {
			want = nil // those come later
		}
		if err := g.Add(&m); err != want || err != nil && (g.Len() != 0 || g.Size() != 0) {
			t.Errorf("%s: gathered %d messages of %d bytes with %v, want %v", c.name, g.Len(), g.Size(), err, want)
		}
	}
}

func TestSortHeaders(t *testing.T) {
	m := testMessage(3)
	m.Headers = []Pair{{[]byte("b"), []byte("1")}, {[]byte("ab"), []byte("2")}, {[]byte("B"), []byte("3")}, {[]byte("a"), nil}}
	SortHeaders(m.Headers)
	var keys []string
	for _, p := range m.Headers {
		keys = append(keys, string(p.Key))
	}
	if got := strings.Join(keys, " "); got != "B a ab b" {
		t.Errorf("sorted as %s", got)
	}
	if _, err := AppendMessage(nil, &m, false); err != nil {
		t.Error(err)
	}
}

// Messages parsed into lent memory are the same as those parsed into new,
// whatever was there before. The headers of those before are left alone.
func TestParseMessagesReuses(t *testing.T) {
	var first, second []byte
	for i := range vectorMessages(5) {
		first = ok(AppendMessage(first, &vectorMessages(5)[i], true))
	}
	plain := testMessage(4)
	second = ok(AppendMessage(ok(AppendMessage(nil, &plain, false)), &vectorMessages(2)[1], false))

	lent, err := ParseMessages(first, FlagCommitted, 5, nil)
	if err != nil {
		t.Fatal(err)
	}
	kept := lent[1].Headers
	want := slices.Clone(kept)
	got, err := ParseMessages(second, 0, 2, lent[:0])
	if err != nil {
		t.Fatal(err)
	}
	if len(want) != 2 || !reflect.DeepEqual(kept, want) {
		t.Errorf("headers that were kept became %v, were %v", kept, want)
	}
	if &got[0] != &lent[0] {
		t.Error("the memory lent was not used")
	}
	fresh, err := ParseMessages(second, 0, 2, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, fresh) {
		t.Errorf("got %v, want %v", got, fresh)
	}

	both, err := ParseMessages(second, 0, 2, fresh)
	if err != nil || len(both) != 4 || !reflect.DeepEqual(both[:2], fresh) || !reflect.DeepEqual(both[2:], fresh) {
		t.Errorf("appended to two: %v, %v", both, err)
	}
}

func TestEveryCutOfPlaintext(t *testing.T) {
	for _, flags := range []uint8{0, FlagPadded, FlagCommitted, FlagPadded | FlagCommitted} {
		var plain []byte
		messages := vectorMessages(3)
		for i := range messages {
			plain = ok(AppendMessage(plain, &messages[i], flags&FlagCommitted != 0))
		}
		if flags&FlagPadded != 0 {
			plain = AppendPadding(plain, 0)
		}
		for n := range plain {
			if _, err := ParseMessages(plain[:n], flags, 3, nil); !errors.Is(err, ErrMalformed) {
				t.Errorf("flags %d, %d of %d bytes: %v", flags, n, len(plain), err)
			}
		}
		for n := range 5 {
			if _, err := ParseMessages(plain, flags, uint16(n), nil); (err == nil) != (n == 3) {
				t.Errorf("flags %d, three messages said to be %d: %v", flags, n, err)
			}
		}
	}
}

func TestMostMessages(t *testing.T) {
	var plain []byte
	m := testMessage(0)
	for range MaxMessages {
		plain = ok(AppendMessage(plain, &m, false))
	}
	got, err := ParseMessages(plain, 0, MaxMessages, nil)
	if err != nil || len(got) != MaxMessages {
		t.Errorf("%d messages, %v", len(got), err)
	}
}

func TestAppendPaddingStartsWhereThePlaintextDoes(t *testing.T) {
	got := AppendPadding([]byte("123456789 and nine."), 10)
	equal(t, "padded", got, append([]byte("123456789 and nine."), 0))
	got = AppendPadding(bytes.Repeat([]byte{1}, 1000), 0)
	if len(got) != 1024 || got[999] != 1 || !bytes.Equal(got[1000:], make([]byte, 24)) {
		t.Errorf("1000 bytes became %d", len(got))
	}
}

func TestPadmeSize(t *testing.T) {
	// Worked out by hand: the top bits that stay are as many as it takes to
	// write down the exponent.
	for n, want := range map[int]int{
		0: 0, 1: 1, 2: 2, 3: 3, 8: 8, 9: 10, 15: 16, 16: 16, 17: 18, 31: 32, 33: 36, 100: 104, 129: 144, 1000: 1024, 1025: 1088,
	} {
		if got := PadmeSize(n); got != want {
			t.Errorf("PadmeSize(%d) is %d, want %d", n, got, want)
		}
	}
	sizes, last := 0, 0
	for n := range MaxPlaintext + 1 {
		size := PadmeSize(n)
		switch {
		case size < n || size < last:
			t.Fatalf("PadmeSize(%d) is %d after %d", n, size, last)
		case PadmeSize(size) != size:
			t.Fatalf("PadmeSize(%d) is %d, and that pads to %d", n, size, PadmeSize(size))
		case (size-n)*100 >= 12*n && n > 0:
			t.Fatalf("PadmeSize(%d) is %d, 12 %% more or worse", n, size)
		}
		if size != last {
			sizes++
		}
		last = size
	}
	if last != MaxPlaintext {
		t.Errorf("MaxPlaintext pads to %d", last)
	}
	if sizes > 300 {
		t.Errorf("%d different sizes up to 1008 KiB", sizes)
	}
}
