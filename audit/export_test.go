package audit

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// exportInput is what the auditor exports.
func (a *auditor) exportInput() *ExportInput {
	in := a.input()
	r := in.Log.(*Reader)
	return &ExportInput{Log: r, Places: in.Places, Frames: in.Frames, Statements: r.Statements(), Created: in.Created, Made: time.Now()}
}

func (a *auditor) export(in *ExportInput) string {
	a.w.t.Helper()
	path := filepath.Join(a.w.t.TempDir(), "export")
	var b bytes.Buffer
	check(a.w.t, Export(a.w.t.Context(), &b, in))
	check(a.w.t, os.WriteFile(path, b.Bytes(), 0o600))
	return path
}

// samePage compares two reports, but for the order of figures.
func samePage(t testing.TB, got, want *Report) {
	t.Helper()
	if got.String() != want.String() {
		t.Errorf("the export is judged otherwise:\n%s\nthan the stream:\n%s", got, want)
	}
}

// TestExport: one file, anywhere, later, has the same verdicts as the stream had, whatever was done to that. It is the same file
// each time, and holds nothing that opens anything.
func TestExport(t *testing.T) {
	for name, tamper := range map[string]func(s *stream){
		"untouched":  func(*stream) {},
		"a deletion": func(s *stream) { s.remove(4) },
		"an edit":    func(s *stream) { flip(s.at(5), -100) },
		"a swap":     func(s *stream) { swap(s, 3, 9) },
		"cut":        func(s *stream) { s.list = s.list[:9] },
		"all gone":   func(s *stream) { s.list = nil },
		"made anew":  func(s *stream) { s.created = s.created.Add(time.Hour) },
		"an insertion": func(s *stream) {
			s.put("sb.topic.ledger.a", []byte("rubbish"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
				story(w)
				tamper(w.stream)
				w.auditor.audit()
				live := w.auditor.verify()
				path := w.auditor.export(w.auditor.exportInput())
				again := w.auditor.export(w.auditor.exportInput())
				if !bytes.Equal(value(os.ReadFile(path))(t), value(os.ReadFile(again))(t)) {
					t.Error("the same export is another file")
				}
				if bytes.Contains(value(os.ReadFile(path))(t), []byte("sealbus-wrap")) {
					t.Error("there are wraps in it")
				}
				pass(400 * 24 * time.Hour)
				r := value(VerifyExport(t.Context(), path, w.trust()))(t)
				samePage(t, r, live)
			})
		})
	}
}

// TestExportOfPart: an export of some messages, or of none, proves those, and says that nothing else was looked at.
func TestExportOfPart(t *testing.T) {
	inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
		story(w)
		in := w.auditor.exportInput()
		in.First, in.Last = 4, 6
		in.Frames = FramesFunc(func(context.Context) iter.Seq2[Stored, error] {
			return func(yield func(Stored, error) bool) {
				for _, m := range w.stream.list[3:6] {
					if !yield(m, nil) {
						return
					}
				}
			}
		})
		r := value(VerifyExport(t.Context(), w.auditor.export(in), w.trust()))(t)
		wants(t, r, allOK)
		if r.Frames != 3 || r.Authenticity.Figure("messages attested") != 3 {
			t.Errorf("%s", r)
		}
		in.Frames = nil
		wants(t, value(VerifyExport(t.Context(), w.auditor.export(in), w.trust()))(t), "unproven ok unproven unproven ok")
	})
}

// TestExportTrust: who trusts others believes nothing of it.
func TestExportTrust(t *testing.T) {
	inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
		story(w)
		path := w.auditor.export(w.auditor.exportInput())
		other := newWorld(t, "SB_TOPIC_ledger")
		for name, test := range map[string]struct {
			trust Trust
			want  string
		}{
			"another CA":       {Trust{w.ca.TrustDomain(), other.ca.Bundle(), w.trust().Operators}, "unproven ok ok unproven FAILED"},
			"another operator": {Trust{w.ca.TrustDomain(), w.ca.Bundle(), other.trust().Operators}, "ok ok ok unproven ok"},
			"no operator":      {Trust{w.ca.TrustDomain(), w.ca.Bundle(), nil}, "ok ok ok unproven ok"},
		} {
			t.Log(name)
			wants(t, value(VerifyExport(t.Context(), path, test.trust))(t), test.want)
		}
		td := value(policyDomain("example.com"))(t)
		if _, err := VerifyExport(t.Context(), path, Trust{Domain: td}); err == nil {
			t.Error("an export of another trust domain is verified")
		}
	})
}

// TestExportTampered: an export that somebody has changed is no better than a stream that somebody has changed.
func TestExportTampered(t *testing.T) {
	inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
		story(w)
		whole := value(os.ReadFile(w.auditor.export(w.auditor.exportInput())))(t)
		good := value(readExport(bytes.NewReader(whole), int64(len(whole))))(t)
		want := value(Verify(t.Context(), value(good.Input(w.trust()))(t)))(t)
		refused, failed := 0, 0
		for at := 0; at < len(whole); at += sparsely(131) {
			bent := bytes.Clone(whole)
			bent[at] ^= 1
			x, err := readExport(bytes.NewReader(bent), int64(len(bent)))
			var r *Report
			if err == nil {
				var in *Input
				if in, err = x.Input(w.trust()); err == nil {
					r, err = Verify(t.Context(), in)
				}
			}
			switch {
			case err != nil:
				refused++
			case states(r) != allOK:
				failed++
			case r.String() != want.String():
				// The archive's own checksums, the name of a place, a statement that is not needed.
				if !strings.Contains(r.String(), "checkpoints") {
					t.Errorf("changed at %d: %s", at, r)
				}
			}
		}
		t.Logf("%d refused, %d failed, of %d", refused, failed, len(whole)/sparsely(131))
		if failed == 0 {
			t.Error("no change was found")
		}
		for _, n := range []int{0, 10, len(whole) / 2, len(whole) - 1} {
			if _, err := readExport(bytes.NewReader(whole[:n]), int64(n)); !errors.Is(err, ErrMalformed) {
				t.Errorf("cut to %d bytes: %v", n, err)
			}
		}
	})
}

// rezip writes an archive anew.
func rezip(t testing.TB, whole []byte, f func(z *zip.Writer, name string, content []byte)) []byte {
	t.Helper()
	r := value(zip.NewReader(bytes.NewReader(whole), int64(len(whole))))(t)
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, file := range r.File {
		f(z, file.Name, value(io.ReadAll(value(file.Open())(t)))(t))
	}
	check(t, z.Close())
	return b.Bytes()
}

// TestExportForm: what is no export in its one form is refused.
func TestExportForm(t *testing.T) {
	inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
		story(w)
		whole := value(os.ReadFile(w.auditor.export(w.auditor.exportInput())))(t)
		add := func(z *zip.Writer, method uint16, name string, content []byte) {
			f := value(z.CreateHeader(&zip.FileHeader{Name: name, Method: method}))(t)
			value(f.Write(content))(t)
		}
		edit := func(name string, f func([]byte) []byte) []byte {
			return rezip(t, whole, func(z *zip.Writer, n string, content []byte) {
				if n == name {
					content = f(content)
				}
				add(z, zip.Store, n, content)
			})
		}
		replace := func(old, fresh string) []byte {
			return edit(exportManifest, func(b []byte) []byte {
				if !bytes.Contains(b, []byte(old)) {
					t.Fatalf("no %q in %s", old, b)
				}
				return bytes.Replace(b, []byte(old), []byte(fresh), 1)
			})
		}
		for name, raw := range map[string][]byte{
			"compressed": rezip(t, whole, func(z *zip.Writer, n string, b []byte) { add(z, zip.Deflate, n, b) }),
			"a file more": rezip(t, whole, func(z *zip.Writer, n string, b []byte) {
				add(z, zip.Store, n, b)
				if n == exportManifest {
					add(z, zip.Store, "more", nil)
				}
			}),
			"a file twice": rezip(t, whole, func(z *zip.Writer, n string, b []byte) {
				if n == exportFrames {
					n = exportEntries
				}
				add(z, zip.Store, n, b)
			}),
			"another version":    replace(`"version":1`, `"version":2`),
			"a field more":       replace(`{`, `{"more":1,`),
			"a field twice":      replace(`"version":1`, `"version":1,"version":1`),
			"white space":        replace(`{`, `{ `),
			"no origin":          replace(`"origin":"example.org`, `"origin":"`),
			"a negative number":  replace(`"frames":12`, `"frames":-1`),
			"a time of long ago": replace(`"made":9`, `"made":-9`),
			"frames of nothing":  replace(`"stream":true`, `"stream":false`),
			"a long manifest":    edit(exportManifest, func(b []byte) []byte { return append(bytes.Repeat([]byte(" "), maxManifest), b...) }),
			"a place in parts": edit(exportCheckpoints, func(b []byte) []byte {
				i := bytes.Index(b[4:], []byte("\x03log"))
				return append(bytes.Clone(b), b[:4+max(i, 0)]...)
			}),
			"a cut place": edit(exportCheckpoints, func(b []byte) []byte { return b[:len(b)-1] }),
		} {
			if _, err := readExport(bytes.NewReader(raw), int64(len(raw))); !errors.Is(err, ErrMalformed) {
				t.Errorf("%s: %v", name, err)
			}
		}
		for name, raw := range map[string][]byte{
			"frames cut":           edit(exportFrames, func(b []byte) []byte { return b[:len(b)-1] }),
			"a frame less":         replace(`"frames":12`, `"frames":13`),
			"a frame of no number": edit(exportFrames, func(b []byte) []byte { clear(b[:8]); return b }),
			"an endless frame":     edit(exportFrames, func(b []byte) []byte { b[8+8+2+len("sb.topic.ledger")] = 0xff; return b }),
			"entries cut":          edit(exportEntries, func(b []byte) []byte { return b[:len(b)-1] }),
			"an empty entry":       edit(exportEntries, func(b []byte) []byte { clear(b[:4]); return b }),
			"statements cut":       edit(exportStatements, func(b []byte) []byte { return b[:len(b)-1] }),
			"a kind of statement":  edit(exportStatements, func(b []byte) []byte { b[0] = 4; return b }),
		} {
			x, err := readExport(bytes.NewReader(raw), int64(len(raw)))
			check(t, err)
			in, err := x.Input(w.trust())
			if err == nil {
				_, err = Verify(t.Context(), in)
			}
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// TestExportProves: single messages are proven from an export as from the log.
func TestExportProves(t *testing.T) {
	inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
		longStory(w)
		x := value(OpenExport(w.auditor.export(w.auditor.exportInput())))(t)
		t.Cleanup(func() { _ = x.Close() })
		known := w.auditor.statements.Verifiers(x.Origin())
		for i := int64(0); i < 40; i++ {
			p := value(x.Prove(i))(t)
			own := value(w.auditor.log.Prove(i))(t)
			if string(value(p.Text())(t)) != string(value(own.Text())(t)) {
				t.Fatalf("entry %d is proven otherwise", i)
			}
			value(p.Verify(p.Extra, known))(t)
		}
		for _, m := range w.stream.list {
			if at := value(x.Find(&m))(t); at != value(w.auditor.log.Find(&m))(t) {
				t.Errorf("message %d is found at %d", m.Sequence, at)
			}
		}
		if _, err := x.Prove(40); !errors.Is(err, ErrNotFound) {
			t.Errorf("an entry that is not there: %v", err)
		}
	})
}

// TestReadability: with keys a verifier says what opens. When the keys are gone, that verdict fails, and no other.
func TestReadability(t *testing.T) {
	inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
		ch := policy.MustParseChannel("topic/ledger")
		check(t, w.planner.Join(t.Context(), ch))
		story(w)
		rc := value(w.planner.StoredReceiver(ch))(t)
		in := w.auditor.input()
		in.Opener = func(ctx context.Context, s *Stored, e *Expectation) error {
			var out keyring.Opened
			err := rc.Open(s.Data, &e.Want, &out)
			if keyring.ReasonOf(err) == keyring.NoCard {
				if err := w.planner.AwaitStored(ctx, s.Data); err != nil {
					return err
				}
				err = rc.Open(s.Data, &e.Want, &out)
			}
			return err
		}
		r := value(Verify(t.Context(), in))(t)
		wants(t, r, allOK+" ok")
		if r.Readability.Figure("messages opened") != 8 {
			t.Errorf("%s", r)
		}
		in = w.auditor.input()
		in.Opener = func(context.Context, *Stored, *Expectation) error { return &keyring.Rejection{Reason: keyring.NoKey} }
		r = value(Verify(t.Context(), in))(t)
		wants(t, r, allOK+" FAILED")
		if r.ExitCode() != 15 {
			t.Errorf("exit code %d", r.ExitCode())
		}
		found(t, &r.Readability, 8, 2, -1)
	})
}
