package audit

import (
	"bytes"
	"errors"
	"iter"
	"slices"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/internal/envelope"
)

func addVectors(f *testing.F, of func(v *vector) string) {
	f.Helper()
	for _, dir := range []string{"valid", "invalid"} {
		for _, v := range loadVectors(f, dir) {
			if s := of(&v); s != "" {
				f.Add([]byte(s))
			}
		}
	}
}

// FuzzParseEntry: no panic, and whatever parses encodes to the same bytes.
func FuzzParseEntry(f *testing.F) {
	addVectors(f, func(v *vector) string { return string(fromHex(v.Entry)) })
	f.Fuzz(func(t *testing.T, b []byte) {
		var e Entry
		if err := ParseEntry(b, &e); err != nil {
			if !errors.Is(err, ErrMalformed) || e != (Entry{}) {
				t.Fatalf("%v, %v", &e, err)
			}
			return
		}
		if again, err := AppendEntry(nil, &e); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x became %x, %v", b, again, err)
		}
		_ = e.String()
	})
}

// FuzzCheckpoint: no panic, and whatever parses says the same again.
func FuzzCheckpoint(f *testing.F) {
	addVectors(f, func(v *vector) string { return v.Checkpoint })
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := UnverifiedCheckpoint(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.HasPrefix(b, []byte(c.text()+"\n")) {
			t.Fatalf("%q became %q", b, c.text())
		}
		if o, err := ParseOrigin(c.Origin.String()); err != nil || o != c.Origin {
			t.Fatalf("%v became %v, %v", c.Origin, o, err)
		}
		if _, err := OpenCheckpoint(b, note.VerifierList()); !errors.Is(err, ErrUnverified) {
			t.Fatal(err)
		}
	})
}

// FuzzProof: no panic, and whatever parses is written as the same text.
func FuzzProof(f *testing.F) {
	addVectors(f, func(v *vector) string { return v.Proof })
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParseProof(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		if again, err := p.Text(); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%q became %q, %v", b, again, err)
		}
		if _, err := p.Verify(p.Extra, note.VerifierList()); !errors.Is(err, ErrUnverified) {
			t.Fatal(err)
		}
	})
}

// rawLog is a log of encoded entries.
type rawLog struct {
	origin Origin
	list   [][]byte
}

func (l *rawLog) Origin() Origin { return l.origin }

func (l *rawLog) Entries(from int64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for _, raw := range l.list[from:] {
			if !yield(raw, nil) {
				return
			}
		}
	}
}

// someExport is an export of which nothing verifies.
func someExport(t testing.TB) []byte {
	t.Helper()
	l, s := &rawLog{origin: testOrigin()}, &stream{name: testOrigin().Stream}
	for i := range 3 {
		l.list = append(l.list, value(AppendEntry(nil, testEntry(i)))(t))
		s.list = append(s.list, Stored{uint64(i) + 1, testEpoch, "sb.topic.ledger.a", []byte{byte(i)}})
	}
	signer, _ := newSigner(t, testOrigin())
	signed := value(SignCheckpoint(&Checkpoint{Origin: testOrigin(), Size: 3}, signer))(t)
	var b bytes.Buffer
	check(t, Export(t.Context(), &b, &ExportInput{
		Log: l, Frames: s, Made: testEpoch, Created: testEpoch,
		Places: []Place{{"log", func(yield func([]byte, error) bool) { yield(signed, nil) }}},
		Statements: func(yield func(Statement, error) bool) {
			_ = yield(Statement{StatementPolicy, []byte("policy")}, nil) && yield(Statement{StatementCard, []byte("card")}, nil)
		},
	}))
	return b.Bytes()
}

// FuzzExport: no panic; what is read from an export and written again is read as the same.
func FuzzExport(f *testing.F) {
	f.Add(someExport(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := readExport(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		var out bytes.Buffer
		in := &ExportInput{Log: x, Places: x.Places(), Statements: x.Statements(), First: x.m.First, Last: x.m.Last, Made: x.Made()}
		if x.m.Created > 0 {
			in.Created = time.Unix(0, x.m.Created)
		}
		if x.m.Stream {
			in.Frames = x
		}
		if err := Export(t.Context(), &out, in); err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		again, err := readExport(bytes.NewReader(out.Bytes()), int64(out.Len()))
		if err != nil || again.m != x.m {
			t.Fatalf("%+v became %+v, %v", x.m, again.m, err)
		}
		for s := range again.Frames(t.Context()) {
			_ = HeaderOf(s.Data)
		}
	})
}

// someDisclosure is a disclosure that proves nothing.
func someDisclosure(t testing.TB) []byte {
	t.Helper()
	v := loadVectors(t, "valid")
	i := slices.IndexFunc(v, func(v vector) bool { return v.Proof != "" })
	d := &disclosure{
		proof: value(ParseProof([]byte(v[i].Proof)))(t), frame: []byte("a frame"), statements: []Statement{{StatementCard, []byte("card")}},
		shown: []shown{
			{0, envelope.Message{ID: ulid.ULID{1}, Salt: [16]byte{1}, Payload: []byte("one")}, make([]byte, 32)},
			{2, envelope.Message{ID: ulid.ULID{2}, Salt: [16]byte{2}, Headers: []envelope.Pair{{Key: []byte("k"), Value: []byte("v")}}}, nil},
		},
	}
	return value(d.append(nil))(t)
}

// FuzzDisclosure: no panic, and whatever parses is written as the same bytes.
func FuzzDisclosure(f *testing.F) {
	f.Add(someDisclosure(f))
	w := Trust{Domain: testOrigin().Auditor.TrustDomain()}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := parseDisclosure(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		if again, err := d.append(nil); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x became %x, %v", b, again, err)
		}
		if _, err := VerifyDisclosure(b, w); err == nil {
			t.Fatal("it proves something")
		}
	})
}
