package audit

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealbus/sealbus/keyring"
)

// openly encrypts nothing: these state directories hold no secret, and are opened very often.
type openly struct{}

func (openly) Encrypt(plain, _ []byte) ([]byte, error) { return append([]byte{1}, plain...), nil }
func (openly) Decrypt(b, _ []byte) ([]byte, error)     { return b[1:], nil }

// history is an honest stream to which everything happens that may, at random.
type history struct {
	w       *world
	r       *rand.Rand
	senders []*life
	away    bool
	steps   []string
}

// life is an agent with a state directory, which is killed and comes back, or has none, and then comes back as another instance.
type life struct {
	*sender
	name, dir string
}

func (h *history) open(l *life) {
	w := h.w
	if l.dir == "" {
		l.sender = w.sender(l.name)
		return
	}
	ring := value(keyring.Open(l.dir, keyring.EncryptWith(openly{}), w.operator.Fingerprint()))(w.t)
	w.attach(ring, l.name)
	l.sender = w.senderOf(ring)
}

// store stores frames, or says that they could not be.
func (h *history) store(l *life, subject string, list []*keyring.Bundle) {
	if len(list) == 0 {
		return
	}
	switch h.r.IntN(12) {
	case 0: // nothing of it is stored
		l.of.GiveUp(list)
	case 1: // all is stored, and its sender does not hear of it
		for _, b := range list {
			h.w.stream.put(subject, b.Frame)
		}
		l.of.GiveUp(list)
	default:
		l.put(subject, list)
	}
}

// send sends a few frames. Notes and frames are one batch: stored together, or not at all.
func (h *history) send(l *life) {
	notes, list, subject := l.seal(1 + h.r.IntN(4))
	switch h.r.IntN(10) {
	case 0:
		l.of.GiveUp(append(slices.Clip(notes), list...))
	case 1:
		for _, b := range notes {
			h.w.stream.put(l.noteSubject(), b.Frame)
		}
		for _, b := range list {
			h.w.stream.put(subject, b.Frame)
		}
		l.of.GiveUp(append(slices.Clip(notes), list...))
	default:
		l.put(l.noteSubject(), notes)
		l.put(subject, list)
	}
}

// kill ends a process without a word, and begins the next.
func (h *history) kill(l *life) {
	if l.dir != "" {
		next := filepath.Join(h.w.t.TempDir(), "state")
		check(h.w.t, os.CopyFS(next, os.DirFS(l.dir)))
		l.dir = next
	}
	h.open(l)
}

func (h *history) resume() {
	a := h.w.auditor
	ev := a.holds()
	ev.Agent, ev.Card = a.ring.Self().String(), a.ring.Card()
	a.event(KindResumed, ev)
	a.adopt()
	h.away = false
}

// step does one thing.
func (h *history) step() {
	w, l := h.w, h.senders[h.r.IntN(len(h.senders))]
	what := []string{"send", "send", "send", "send", "send", "close", "idle", "kill", "end", "wait", "hour", "audit", "audit", "away", "policy", "prune"}[h.r.IntN(16)]
	h.steps = append(h.steps, fmt.Sprintf("%s %s", what, l.name))
	switch what {
	case "send":
		h.send(l)
	case "close", "idle":
		kind := keyring.NoteClose
		if what == "idle" {
			kind = keyring.NoteIdle
		}
		h.store(l, l.noteSubject(), value(l.of.SealNote(w.t.Context(), kind))(w.t))
	case "kill":
		h.kill(l)
	case "end": // in good order, as far as the ring goes
		check(w.t, l.ring.Close(w.t.Context()))
		h.open(l)
	case "wait":
		pass(time.Duration(h.r.IntN(600)) * time.Second)
	case "hour":
		pass(time.Duration(h.r.IntN(5)) * time.Hour)
	case "audit":
		if h.away {
			h.resume()
		}
		w.auditor.follow()
		w.auditor.adopt()
		w.auditor.event(KindStill, w.auditor.holds())
		w.auditor.sign()
	case "away":
		h.away = true
	case "policy":
		w.change("queues:", "\nqueues:")
		for _, l := range h.senders {
			check(w.t, l.ring.Refresh(w.t.Context()))
		}
	case "prune":
		w.stream.prune(24 * time.Hour)
	}
}

// histories is how many are told in each test.
const histories = 24

// inHistory lets an honest history take its course, and then ends it in good order.
func inHistory(t *testing.T, stream string, seed uint64, f func(t *testing.T, h *history)) {
	inWorld(t, stream, func(t *testing.T, w *world) {
		h := &history{w: w, r: rand.New(rand.NewPCG(seed, 0))}
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("seed %d of %s: %s", seed, stream, strings.Join(h.steps, ", "))
			}
		})
		for i := range 3 {
			l := &life{name: fmt.Sprintf("feed-%d", i+1)}
			if i > 0 {
				l.dir = filepath.Join(t.TempDir(), "state")
			}
			h.senders = append(h.senders, l)
			h.open(l)
		}
		for range 60 {
			h.step()
		}
		for _, l := range h.senders {
			l.send(2)
			l.close()
		}
		w.stream.prune(24 * time.Hour)
		if h.away {
			h.resume()
		}
		w.auditor.follow()
		w.auditor.event(KindStill, w.auditor.holds())
		w.auditor.sign()
		f(t, h)
	})
}

// TestHonestHistories: whatever happens to an honest stream, nothing is ever called wrong.
func TestHonestHistories(t *testing.T) {
	for i := range histories / sparsely(1) {
		for _, stream := range []string{"SB_TOPIC_ledger", "SB_TASK_work"} {
			inHistory(t, stream, rand.Uint64()+uint64(i), func(t *testing.T, h *history) {
				r := h.w.auditor.verify()
				if r.ExitCode() != 0 || r.Integrity.State != OK || r.Order.State != OK || r.Authenticity.State != OK {
					t.Errorf("%s", r)
				}
			})
		}
	}
}

// TestTamperedHistories: whatever is done to the stream of such a history is called wrong, at the place.
func TestTamperedHistories(t *testing.T) {
	for i := range histories / sparsely(1) {
		inHistory(t, "SB_TOPIC_ledger", rand.Uint64()+uint64(i), func(t *testing.T, h *history) {
			s := h.w.stream
			at := h.r.IntN(len(s.list))
			sequence, other := s.list[at].Sequence, s.list[h.r.IntN(len(s.list))].Sequence
			var v func(*Report) *Verdict
			what := h.r.IntN(5)
			switch what {
			case 0:
				s.remove(sequence)
				v = func(r *Report) *Verdict { return &r.Completeness }
			case 1:
				s.list = s.list[:at]
				v = func(r *Report) *Verdict { return &r.Completeness }
			case 2:
				flip(s.at(sequence), h.r.IntN(len(s.at(sequence).Data)))
				v = func(r *Report) *Verdict { return &r.Integrity }
			case 3:
				if sequence == other {
					return
				}
				swap(s, sequence, other)
				sequence = min(sequence, other)
				v = func(r *Report) *Verdict { return &r.Order }
			case 4:
				s.at(sequence).Time = s.at(sequence).Time.Add(time.Millisecond)
				v = func(r *Report) *Verdict { return &r.Integrity }
			}
			r := h.w.auditor.verify()
			if first, ok := v(r).First(); !ok || first.Sequence != sequence {
				t.Errorf("tampering %d with message %d:\n%s", what, sequence, r)
			}
		})
	}
}

// TestDroppedInHistories: of an honest history the broker keeps single messages from the auditor, and acknowledges them. Every one of a
// session that was closed is missed.
func TestDroppedInHistories(t *testing.T) {
	for i := range histories / sparsely(1) {
		seed := rand.Uint64() + uint64(i)
		inHistory(t, "SB_TOPIC_ledger", seed, func(t *testing.T, h *history) {
			dropped := uint64(0)
			l := h.senders[h.r.IntN(len(h.senders))]
			h.w.stream.intake = func(string, []byte) bool {
				if h.r.IntN(6) == 0 {
					dropped++
					return false
				}
				return true
			}
			for range 5 {
				l.send(3)
			}
			h.w.stream.intake = nil
			l.send(1)
			l.close()
			h.w.auditor.audit()
			r := h.w.auditor.verify()
			if (dropped > 0) != (r.Completeness.State == Failed) {
				t.Errorf("%d dropped\n%s", dropped, r)
			}
		})
	}
}
