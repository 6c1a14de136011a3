package keyring

import (
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/internal/envelope"
)

var (
	someSession = ulid.MustParse("01M82T3C6NF9XAJ1X38GD0BNKB")
	someLeaf    = [envelope.HashSize]byte{0xab, 1, 31: 0xff}
	leafText    = "ab01" + strings.Repeat("00", 29) + "ff"
)

// notes are session notes, and how they are written.
var notes = map[string]SessionNote{
	"prices.open.none.0.none":                                      {Kind: NoteOpen, Name: "prices"},
	"prices.open.01M82T3C6NF9XAJ1X38GD0BNKB.0.none":                {Kind: NoteOpen, Name: "prices", Previous: someSession},
	"prices.open.01M82T3C6NF9XAJ1X38GD0BNKB.17." + leafText:        {Kind: NoteOpen, Name: "prices", Previous: someSession, Last: 17, Leaf: someLeaf},
	"p-1_x.open.01M82T3C6NF9XAJ1X38GD0BNKB.2147483648." + leafText: {Kind: NoteOpen, Name: "p-1_x", Previous: someSession, Last: SessionFrames, Leaf: someLeaf},
	"open.close": {Kind: NoteClose, Name: "open"},
	"void.idle":  {Kind: NoteIdle, Name: "void"},
	"prices.void.01M82T3C6NF9XAJ1X38GD0BNKB.1.1":          {Kind: NoteVoid, Name: "prices", Session: someSession, From: 1, To: 1},
	"prices.void.01M82T3C6NF9XAJ1X38GD0BNKB.1.2147483648": {Kind: NoteVoid, Name: "prices", Session: someSession, From: 1, To: SessionFrames},
}

func TestSessionNote(t *testing.T) {
	for text, n := range notes {
		if got := n.String(); got != text {
			t.Errorf("%q is written %q", text, got)
		}
		if got, err := ParseSessionNote(text); err != nil || got != n {
			t.Errorf("%q is read as %+v, %v", text, got, err)
		}
	}
	longest := SessionNote{Kind: NoteOpen, Name: strings.Repeat("x", 63), Previous: someSession, Last: SessionFrames, Leaf: someLeaf}
	if n := len(longest.String()); n == 0 || n > envelope.MaxRecipient {
		t.Errorf("the longest note has %d bytes", n)
	}
}

func TestSessionNoteRefused(t *testing.T) {
	const id = "01M82T3C6NF9XAJ1X38GD0BNKB"
	for _, text := range []string{
		"", "prices", "prices.", "prices.close.", "prices.close.x", ".close", "prices..close", "prices.eu.close", "Prices.close", "prices.Close", "prices.closed",
		"prices.idle.1", "prices.open", "prices.open.none.0", "prices.open.none.0.none.none", "prices.void." + id + ".1", "prices.void",
		"prices.open.none.1." + leafText, "prices.open.none.0." + leafText, "prices.open." + id + ".0." + leafText, "prices.open." + id + ".1.none",
		"prices.open." + id + ".01." + leafText, "prices.open." + id + ".+1." + leafText, "prices.open." + id + ".1." + strings.ToUpper(leafText),
		"prices.open." + id + ".1." + leafText[2:], "prices.open." + id + ".1." + leafText + "00", "prices.open." + id + ".1." + strings.Repeat("0", 64),
		"prices.open." + id + ".2147483649." + leafText, "prices.open." + strings.ToLower(id) + ".0.none", "prices.open." + strings.Repeat("0", 26) + ".0.none",
		"prices.open.8" + id[1:] + ".0.none", "prices.open." + id + "0.0.none", "prices.open." + id + ".none.none",
		"prices.void.none.1.1", "prices.void." + id + ".0.1", "prices.void." + id + ".2.1", "prices.void." + id + ".1.2147483649", "prices.void." + id + ".1.18446744073709551616",
		"prices.void." + id + ".1.01", "prices.void." + id + ".-1.1", strings.Repeat("x", 64) + ".close",
	} {
		if n, err := ParseSessionNote(text); err == nil {
			t.Errorf("%q is read as %+v", text, n)
		}
	}
	for _, n := range []SessionNote{
		{}, {Kind: NoteClose}, {Kind: 5, Name: "prices"}, {Kind: NoteVoid, Name: "prices", Session: someSession}, {Kind: NoteVoid, Name: "prices", From: 1, To: 1},
		{Kind: NoteIdle, Name: "prices", Last: 1}, {Kind: NoteIdle, Name: "prices", From: 1}, {Kind: NoteOpen, Name: "prices", Previous: someSession, Last: 1},
		{Kind: NoteOpen, Name: "prices", Last: 1, Leaf: someLeaf}, {Kind: NoteOpen, Name: "prices.eu"}, {Kind: NoteOpen, Name: "prices", Session: someSession},
	} {
		if text := n.String(); text != "" {
			t.Errorf("%+v is written %q", n, text)
		}
	}
}

func FuzzSessionNote(f *testing.F) {
	for text := range notes {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if n, err := ParseSessionNote(text); err == nil && n.String() != text {
			t.Errorf("%q is read as %+v, which is written %q", text, n, n.String())
		}
	})
}

// TestNumbers compares the set of numbers with a plain one.
func TestNumbers(t *testing.T) {
	random := newRandom(t)
	for range 200 {
		var s numbers
		var plain [64]bool
		for range 40 {
			from := uint64(1 + random.IntN(60))
			to := from + uint64(random.IntN(62-int(from)+1))
			add := random.IntN(2) == 0
			if add {
				s.add(from, to)
			} else {
				s.remove(from, to)
			}
			for n := from; n <= to; n++ {
				plain[n] = add
			}
			var want numbers
			for n := 1; n < len(plain); n++ {
				if !plain[n] {
					continue
				}
				if k := len(want); k > 0 && want[k-1].to == uint64(n)-1 {
					want[k-1].to++
				} else {
					want = append(want, span{uint64(n), uint64(n)})
				}
			}
			if len(s) != len(want) {
				t.Fatalf("%v, want %v", s, want)
			}
			for i := range s {
				if s[i] != want[i] {
					t.Fatalf("%v, want %v", s, want)
				}
			}
		}
	}
}
