package keyring

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// book is the stream of a counted channel, and who writes in it.
type book struct {
	t      testing.TB
	w      *world
	ring   *Ring
	sender *Sender
	frames [][]byte
}

// keep begins a stream for an agent's counted frames on a channel, of which somebody makes the key.
func (w *world) keep(ch policy.Channel, ring *Ring) *book {
	w.t.Helper()
	return &book{t: w.t, w: w, ring: ring, sender: value(ring.CountedSender(w.ctx(), ch))(w.t)}
}

func (b *book) bundles(n int) (list []*Bundle) {
	for range n {
		one := &Bundle{Kind: envelope.KindEvent, Recipient: b.sender.c.ch.Name() + ".x"}
		if b.sender.c.ch.Kind() == policy.KindQueue {
			one.Kind, one.Recipient = envelope.KindTask, b.sender.c.ch.Name()
		}
		one.Messages.Reset(true)
		check(b.t, one.Messages.Add(&envelope.Message{Payload: []byte("text")}))
		list = append(list, one)
	}
	return list
}

// seal seals n frames and returns all that is to be stored.
func (b *book) seal(n int) []*Bundle {
	b.t.Helper()
	list := b.bundles(n)
	notes, err := b.sender.SealCounted(b.w.ctx(), list)
	check(b.t, err)
	return append(notes, list...)
}

func (b *book) note(kind NoteKind) []*Bundle {
	b.t.Helper()
	return value(b.sender.SealNote(b.w.ctx(), kind))(b.t)
}

// store puts frames into the stream.
func (b *book) store(list []*Bundle) {
	for _, one := range list {
		b.frames = append(b.frames, slices.Clone(one.Frame))
	}
	b.sender.Stored(list)
}

// said returns the notes among some frames, in order.
func said(list []*Bundle) (texts []string) {
	for _, one := range list {
		if one.Kind == envelope.KindControl {
			texts = append(texts, one.Recipient)
		}
	}
	return texts
}

// headerOf reads a sealed frame.
func headerOf(t testing.TB, b *Bundle) *envelope.Frame {
	t.Helper()
	var f envelope.Frame
	check(t, envelope.Parse(slices.Clone(b.Frame), &f))
	return &f
}

// settled checks that nothing is missing in the stream, and that of so many sessions nobody says how they ended.
func (b *book) settled(open int) {
	b.t.Helper()
	wrong, n := newTally(b.t, b.frames).findings()
	if len(wrong) > 0 || n != open {
		b.t.Errorf("%d sessions without an end, want %d; wrong is %q", n, open, wrong)
	}
}

func mustSay(t testing.TB, list []*Bundle, want ...string) {
	t.Helper()
	got := said(list)
	if len(got) != len(want) {
		t.Fatalf("notes %q, want %q", got, want)
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("note %q, want %q", got[i], want[i])
		}
	}
}

// TestSessionNotes follows sessions from the first to the last: opened, idle, another key, an hour over, closed.
func TestSessionNotes(t *testing.T) {
	for _, ch := range []policy.Channel{ledger, queue} {
		bubble(t, func(t *testing.T, w *world) {
			w.certificates = 3 * 24 * time.Hour
			reader, writer := "planner", "feed-1"
			if ch == queue {
				reader, writer = "exec-1", "planner"
			}
			ring := w.agent(reader)
			check(t, ring.Join(w.ctx(), ch))
			b := w.keep(ch, w.agent(writer))
			name := ch.Name()
			if again := value(b.ring.CountedSender(w.ctx(), ch))(t); again != b.sender {
				t.Error("two counted senders of one channel")
			}
			if list := b.note(NoteClose); list != nil {
				t.Errorf("before there was a session it says %q", said(list))
			}
			first := b.seal(2)
			mustSay(t, first, name+".open.none.0.none")
			f := headerOf(t, first[0])
			if f.Seq != 1 || f.Session != headerOf(t, first[2]).Session || headerOf(t, first[2]).Seq != 3 || !f.Signed() || !f.Committed() {
				t.Errorf("the note is %+v", f.Header)
			}
			b.store(first)
			more := b.seal(1)
			mustSay(t, more)
			b.store(more)
			last := headerOf(t, more[0])
			b.store(b.note(NoteIdle))
			b.store(b.note(NoteIdle))
			idle := headerOf(t, &Bundle{Frame: b.frames[len(b.frames)-1]})

			pass(SessionLife)
			next := b.seal(1)
			mustSay(t, next, fmt.Sprintf("%s.open.%s.%d.%x", name, f.Session, last.Seq+2, envelope.Leaf(idle.Head, idle.Ciphertext)))
			b.store(next)
			pass(25 * time.Hour)
			synctest.Wait() // there is another key
			next = b.note(NoteClose)
			mustSay(t, next, name+".open."+headerOf(t, &Bundle{Frame: b.frames[len(b.frames)-1]}).Session.String()+".2.", name+".close")
			b.store(next)
			if list := b.note(NoteIdle); list != nil {
				t.Errorf("when it is closed it says %q", said(list))
			}
			next = b.seal(1)
			mustSay(t, next, name+".open.")
			b.store(next)
			b.settled(1)
			b.store(b.note(NoteClose))
			b.settled(0)
			if n := len(newTally(t, b.frames).order); n != 4 {
				t.Errorf("%d sessions", n)
			}
		})
	}
}

// TestVoidNotes gives frames up in every way, and looks how it is said.
func TestVoidNotes(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		check(t, w.agent("planner").Join(w.ctx(), ledger))
		b := w.keep(ledger, w.agent("feed-1"))
		first := b.seal(2)
		session := headerOf(t, first[0]).Session.String()
		void := func(from, to int) string { return fmt.Sprintf("ledger.void.%s.%d.%d", session, from, to) }
		b.sender.GiveUp(first)
		again := b.seal(1) // opens it once more
		mustSay(t, again, "ledger.open.none.0.none", void(1, 3))
		b.sender.GiveUp(again)
		again = b.seal(1)
		mustSay(t, again, "ledger.open.none.0.none", void(1, 6))
		b.store(again)
		b.settled(1)

		one, two, three := b.seal(1), b.seal(2), b.seal(1)
		mustSay(t, slices.Concat(one, two, three))
		b.store(three)
		b.sender.GiveUp(one) // 10
		b.store(two)
		another := b.seal(1)
		mustSay(t, another, void(10, 10))
		while := b.seal(1) // another is under way with that
		mustSay(t, while)
		b.sender.GiveUp(another) // 14 and 15
		b.store(while)
		another = b.seal(1)
		mustSay(t, another, void(10, 10), void(14, 15))
		b.store(another)

		empty := &Bundle{Kind: envelope.KindEvent, Recipient: "ledger.x"}
		if _, err := b.sender.SealCounted(w.ctx(), append(b.bundles(1), empty)); err == nil {
			t.Error("a frame without messages is sealed")
		}
		b.sender.GiveUp(b.seal(1)[1:]) // of a batch that was stored in part
		mustSay(t, b.note(NoteIdle), void(23, 23), "ledger.idle")
	})
}

// TestCountedRefuses asks a counted sender for what would not be counted, and others for what they do not count.
func TestCountedRefuses(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		planner, feed := w.agent("planner"), w.agent("feed-1")
		check(t, planner.Join(w.ctx(), ledger))
		check(t, planner.Join(w.ctx(), prices))
		b := w.keep(ledger, feed)
		if _, _, err := b.sender.Seal(nil, draft("ledger.x", "")); err == nil {
			t.Error("Seal")
		}
		if err := b.sender.SealBundles(b.bundles(1)); err == nil {
			t.Error("SealBundles")
		}
		if _, err := b.sender.SealCounted(w.ctx(), nil); err == nil {
			t.Error("no bundles")
		}
		if _, err := b.sender.SealCounted(w.ctx(), b.bundles(MaxCounted+1)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("too many bundles: %v", err)
		}
		if _, err := b.sender.SealNote(w.ctx(), NoteOpen); err == nil {
			t.Error("SealNote of an opening note")
		}
		if _, err := planner.CountedSender(w.ctx(), policy.MustParseChannel("service/lookup")); err == nil {
			t.Error("a counted sender of a service")
		}
		live := w.keep(prices, feed)
		list := live.seal(1)
		if f := headerOf(t, list[0]); len(list) != 1 || f.Seq != 1 || f.Kind != envelope.KindEvent {
			t.Errorf("on a topic that is not kept: %+v", f.Header)
		}
		live.sender.Stored(list)
		live.sender.GiveUp(list)
		if notes := live.note(NoteClose); notes != nil {
			t.Errorf("on a topic that is not kept it says %q", said(notes))
		}
	})
}

// TestCountedPolicy has a policy no longer keep a topic, and keep it again: what is kept is in sessions of its own.
func TestCountedPolicy(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		check(t, w.agent("planner").Join(w.ctx(), ledger))
		b := w.keep(ledger, w.agent("feed-1"))
		b.store(b.seal(1))
		live := strings.Replace(nextPolicy, "retain: 24h, ", "", 1)
		check(t, b.ring.AdoptPolicy(w.sign(live)))
		between := b.seal(1)
		if f := headerOf(t, between[0]); len(between) != 1 || f.Seq != 1 {
			t.Errorf("on a topic that is not kept any more: %d frames, %+v", len(between), f.Header)
		}
		check(t, b.ring.AdoptPolicy(w.sign(strings.Replace(testPolicy, "revision: 1", "revision: 3", 1))))
		b.store(b.seal(1))
		b.store(b.note(NoteClose))
		b.settled(0)
	})
}

// TestUnderWay holds up who would run too far ahead of what is not known to be stored.
func TestUnderWay(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		check(t, w.agent("planner").Join(w.ctx(), ledger))
		b := w.keep(ledger, w.agent("feed-1"))
		first := b.seal(1)
		for range 2 {
			b.store(b.seal(MaxCounted))
		}
		b.store(b.seal(MaxCounted - MaxNotes))
		for _, n := range []int{MaxCounted, 1} { // whoever comes waits, however little it has
			if _, err := b.sender.SealCounted(cut2(), b.bundles(n)); n == MaxCounted && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%d frames: %v", n, err)
			} else if n == 1 {
				check(t, err)
			}
		}
		sealed := make(chan error)
		go func() {
			_, err := b.sender.SealCounted(w.ctx(), b.bundles(MaxCounted))
			sealed <- err
		}()
		synctest.Wait()
		b.sender.GiveUp(first)
		check(t, <-sealed)
		if _, err := b.sender.SealCounted(cut2(), b.bundles(1)); err != nil {
			t.Error(err)
		}
	})
}

// TestSessionsGoOn goes on after a restart, from a state directory and without, after a clean stop and a crash.
func TestSessionsGoOn(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		dir := filepath.Join(t.TempDir(), "state")
		check(t, w.agent("planner").Join(w.ctx(), ledger))
		b := w.keep(ledger, w.agentIn(dir, "feed-1"))
		again := func() {
			t.Helper()
			b.ring = w.agentIn(dir, "feed-1")
			b.sender = value(b.ring.CountedSender(w.ctx(), ledger))(t)
		}
		// A clean stop, with some given up and some of which it is not known.
		b.store(b.seal(1))
		b.sender.GiveUp(b.seal(1))
		underWay := b.seal(2)
		session, last := headerOf(t, underWay[0]).Session.String(), headerOf(t, underWay[2])
		check(t, b.ring.Close(context.Background()))
		b.frames = append(b.frames, underWay[1].Frame)
		again()
		next := b.seal(1)
		mustSay(t, next, fmt.Sprintf("ledger.open.%s.6.%x", session, envelope.Leaf(last.Head, last.Ciphertext)), "ledger.void."+session+".3.6")
		b.store(next)
		b.settled(1)
		b.store(b.note(NoteClose))
		closed := headerOf(t, &Bundle{Frame: b.frames[len(b.frames)-1]})
		check(t, b.ring.Close(context.Background()))
		again()
		check(t, b.ring.Close(context.Background())) // without a word
		again()
		next = b.seal(1)
		mustSay(t, next, fmt.Sprintf("ledger.open.%s.4.%x", ulid.ULID(closed.Session), envelope.Leaf(closed.Head, closed.Ciphertext)))
		b.store(next)

		// A crash: nobody knows how the session ended.
		b.store(b.seal(3))
		dir = copyDir(t, dir)
		b.store(b.seal(1))
		again()
		next = b.seal(1)
		mustSay(t, next, "ledger.open."+ulid.ULID(closed.Session).String()+".4.", // which was stored, but that is not on disk
			fmt.Sprintf("ledger.open.%s.0.none", headerOf(t, &Bundle{Frame: b.frames[len(b.frames)-1]}).Session))
		b.store(next)
		b.settled(2)

		other := w.keep(ledger, w.agent("feed-1"))
		mustSay(t, other.seal(1), "ledger.open.none.0.none")
		check(t, b.ring.Close(context.Background()))
		if _, err := b.sender.SealCounted(w.ctx(), b.bundles(1)); !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}

// TestSessionBegunOnDisk has no frame of a session leave that the state directory does not know of.
func TestSessionBegunOnDisk(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		dir := filepath.Join(t.TempDir(), "state")
		check(t, w.agent("planner").Join(w.ctx(), ledger))
		b := w.keep(ledger, w.agentIn(dir, "feed-1"))
		check(t, os.Mkdir(filepath.Join(dir, sessionsName), 0o700)) // which no file takes the place of
		list := b.bundles(1)
		if _, err := b.sender.SealCounted(w.ctx(), list); err == nil || len(list[0].Frame) > 0 {
			t.Errorf("sealed: %v", err)
		}
		check(t, os.Remove(filepath.Join(dir, sessionsName)))
		mustSay(t, b.seal(1), "ledger.open.none.0.none")
	})
}

// TestDamagedSessions says what is wrong with a file that is damaged, and keeps it.
func TestDamagedSessions(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		dir := filepath.Join(t.TempDir(), "state")
		check(t, w.agent("planner").Join(w.ctx(), ledger))
		b := w.keep(ledger, w.agentIn(dir, "feed-1"))
		b.store(b.seal(1))
		check(t, b.ring.Close(context.Background()))
		path := filepath.Join(dir, sessionsName)
		raw := value(os.ReadFile(path))(t)
		raw[len(raw)/2] ^= 1
		check(t, os.WriteFile(path, raw, 0o600))
		if _, err := Open(dir, EncryptWith(kekForTests), w.operator.Fingerprint()); !errors.Is(err, ErrWrongKey) {
			t.Errorf("got %v", err)
		}
		if now := value(os.ReadFile(path))(t); !slices.Equal(now, raw) {
			t.Error("the damaged file is gone")
		}
	})
}

// TestAnyFailures gives up and stores frames of many calls at random, some of them stored although they were given up, over new keys,
// hours and restarts: no hole is left that nothing is said of.
func TestAnyFailures(t *testing.T) {
	for _, ch := range []policy.Channel{ledger, queue} {
		for range 3 {
			bubble(t, func(t *testing.T, w *world) { anyFailures(t, w, ch, newRandom(t)) })
		}
	}
}

func anyFailures(t *testing.T, w *world, ch policy.Channel, random *rand.Rand) {
	w.certificates = 7 * 24 * time.Hour
	reader, writer := "planner", "feed-1"
	if ch == queue {
		reader, writer = "exec-1", "planner"
	}
	check(t, w.agent(reader).Join(w.ctx(), ch))
	dir := filepath.Join(t.TempDir(), "state")
	b := w.keep(ch, w.agentIn(dir, writer))
	var underWay [][]*Bundle
	crashes, days := 0, 0
	settle := func(i int) {
		list := underWay[i]
		underWay = slices.Delete(underWay, i, i+1)
		switch random.IntN(4) {
		case 0:
			b.sender.GiveUp(list)
		case 1: // its acknowledgement was lost
			for _, one := range list {
				b.frames = append(b.frames, slices.Clone(one.Frame))
			}
			b.sender.GiveUp(list)
		default:
			b.store(list)
		}
	}
	for range 400 {
		switch op := random.IntN(100); {
		case op < 50:
			underWay = append(underWay, b.seal(1+random.IntN(4)))
		case op < 85 && len(underWay) > 0:
			settle(random.IntN(len(underWay)))
		case op < 88:
			if _, err := b.sender.SealCounted(w.ctx(), []*Bundle{b.bundles(1)[0], {Recipient: "x"}}); err == nil {
				t.Fatal("a frame without messages is sealed")
			}
		case op < 90:
			if list := b.note(NoteIdle); list != nil {
				underWay = append(underWay, list)
			}
		case op < 97: // what ends a session waits for all that is under way
			for len(underWay) > 0 {
				settle(0)
			}
			if op < 92 {
				if list := b.note(NoteClose); list != nil {
					underWay = append(underWay, list)
					settle(0)
				}
				break
			}
			if op < 95 || days == 5 {
				pass(SessionLife)
				synctest.Wait()
				break
			}
			days++
			pass(25 * time.Hour)
			synctest.Wait()
		default:
			if random.IntN(2) == 0 && crashes == 0 {
				crashes++
				dir = copyDir(t, dir)
			} else {
				check(t, b.ring.Close(context.Background()))
			}
			for _, list := range underWay { // stored or not: nobody was there to hear of it
				if random.IntN(2) == 0 {
					for _, one := range list {
						b.frames = append(b.frames, one.Frame)
					}
				}
			}
			underWay = nil
			pass(time.Millisecond) // so that the ids of sessions tell their order
			b.ring = w.agentIn(dir, writer)
			b.sender = value(b.ring.CountedSender(w.ctx(), ch))(t)
		}
	}
	for len(underWay) > 0 {
		settle(0)
	}
	b.store(b.note(NoteIdle)) // nothing is left to say but this
	b.store(b.note(NoteClose))
	slices.SortStableFunc(b.frames, bySession) // calls at the same time are stored in any order
	wrong, open := newTally(t, b.frames).findings()
	if len(wrong) > 0 || open > crashes {
		t.Errorf("%d sessions without an end after %d crashes; wrong is %q", open, crashes, wrong)
	}
}

// bySession orders frames by their session's ids.
func bySession(a, b []byte) int {
	var f, g envelope.Frame
	if err := errors.Join(envelope.Parse(a, &f), envelope.Parse(b, &g)); err != nil {
		panic(err)
	}
	return ulid.ULID(f.Session).Compare(g.Session)
}
