package audit

import (
	"context"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// heap returns how much memory is in use.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// large writes an export of a stream of so many thousand messages, whose sender, auditor and broker it plays as it writes: the
// stream is never in memory as a whole. Then it verifies it. It returns how much more memory each of the two had in use.
func large(t *testing.T, thousands int) (written, verified uint64, r *Report) {
	inWorld(t, "SB_TOPIC_ledger", func(t *testing.T, w *world) {
		a, l := w.sender("feed-1"), w.auditor
		a.send(1)
		l.audit()
		before := heap()
		grown := func(most *uint64) {
			if now := heap(); now > before {
				*most = max(*most, now-before)
			}
		}
		in := l.exportInput()
		in.Frames = FramesFunc(func(context.Context) iter.Seq2[Stored, error] {
			return func(yield func(Stored, error) bool) {
				for i := 0; ; i++ {
					for j := range w.stream.list {
						if !yield(w.stream.list[j], nil) {
							return
						}
					}
					w.stream.list = w.stream.list[:0]
					if i == thousands {
						return
					}
					if i%16 == 0 {
						grown(&written)
					}
					a.send(1000)
					if i+1 == thousands {
						a.close()
					}
					pass(100 * time.Millisecond)
					entries := make([]*Entry, len(w.stream.list))
					for j := range entries {
						e := FrameEntry(&w.stream.list[j], time.Now(), 0)
						entries[j] = &e
					}
					l.append(entries...)
				}
			}
		})
		// The frames come first, because what is logged follows from them.
		path := filepath.Join(t.TempDir(), "frames")
		f := value(os.Create(path))(t)
		check(t, Export(t.Context(), f, in))
		check(t, f.Close())
		l.card(a.ring.Self(), a.ring.Card())
		l.sign()
		frames := value(OpenExport(path))(t)
		defer frames.Close()

		path = filepath.Join(t.TempDir(), "export")
		out := value(os.Create(path))(t)
		in = l.exportInput()
		in.Frames = frames
		check(t, Export(t.Context(), out, in))
		check(t, out.Close())
		grown(&written)

		x := value(OpenExport(path))(t)
		defer x.Close()
		vin := value(x.Input(w.trust()))(t)
		before = heap()
		vin.Progress = func(int64, int64) { grown(&verified) }
		r = value(Verify(t.Context(), vin))(t)
	})
	return written, verified, r
}

// TestLarge: a stream of 200,000 messages in a log of as many entries is written, exported and verified in the memory that a tenth
// of it takes; and raises no alarm.
func TestLarge(t *testing.T) {
	small, big := 20, 200
	if underRace {
		small, big = 3, 10
	}
	written, verified, _ := large(t, small)
	w, v, r := large(t, big)
	wants(t, r, allOK)
	if n := r.Authenticity.Figure("messages attested"); n != int64(big)*1000+3 { // the note that opens the session, one before, and the one that closes it
		t.Errorf("%d messages attested\n%s", n, r)
	}
	t.Logf("writing %d KiB and %d KiB, verifying %d KiB and %d KiB", written>>10, w>>10, verified>>10, v>>10)
	const slack = 4 << 20
	if w > written+slack || v > verified+slack {
		t.Errorf("writing took %d KiB more for %d,000 messages and %d for %d,000, verifying %d and %d", written>>10, small, w>>10, big, verified>>10, v>>10)
	}
}
