package keyring

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealbus/sealbus/internal/envelope"
)

func TestReplayAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		p := w.meet(prices, w.agent("planner"), w.agent("feed-1"))
		var frames [][]byte
		for range 3 {
			frames = append(frames, p.seal(t, "once"))
		}
		for _, i := range []int{2, 0, 1} { // out of order is no replay
			mustOpen(t, p.rc, frames[i], p.want)
		}
		for _, f := range frames {
			mustReject(t, p.rc, f, p.want, Seen)
		}
		pass(31 * time.Second)
		for _, f := range frames {
			mustReject(t, p.rc, f, p.want, Stale)
		}
	})
}

// TestReplayAtANewReceiver: what a ring has accepted, a receiver that it makes later does not accept, also
// when the sender's clock is ahead as far as clocks may be.
func TestReplayAtANewReceiver(t *testing.T) {
	for _, lead := range []time.Duration{0, time.Second, MaxClockLead} {
		bubble(t, func(t *testing.T, w *world) {
			p := w.meet(prices, w.agent("planner"), w.agent("feed-1"))
			w.skew("feed-1").Store(int64(lead))
			frame := p.seal(t, "once")
			mustOpen(t, p.rc, frame, p.want)
			pass(time.Millisecond)
			mustReject(t, value(p.reader.Receiver(prices))(t), frame, p.want, Stale)
			pass(500 * time.Millisecond)
			mustReject(t, value(p.reader.Receiver(prices))(t), frame, p.want, Stale)
		})
	}
}

// TestReplayAfterRestartInMemory: a ring in memory has no state, but its receivers accept nothing from
// before they were made.
func TestReplayAfterRestartInMemory(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		p := w.meet(prices, w.agent("planner"), w.agent("feed-1"))
		frame := p.seal(t, "once")
		mustOpen(t, p.rc, frame, p.want)
		pass(5 * time.Millisecond)
		check(t, p.reader.Close(context.Background()))
		again := w.agent("planner")
		check(t, again.Join(w.ctx(), prices))
		rc := value(again.Receiver(prices))(t)
		if _, err := open(t, again, rc, frame, p.want); ReasonOf(err) != Stale {
			t.Errorf("got %v, want stale", err)
		}
		synctest.Wait() // the writer has the new reader's key
		if _, err := open(t, again, rc, p.seal(t, "new"), p.want); err != nil {
			t.Error(err)
		}
	})
}

// TestReplayAfterRestart has a receiver with a state directory stop, cleanly or not, and start again at once.
func TestReplayAfterRestart(t *testing.T) {
	for _, crash := range []bool{false, true} {
		for _, lead := range []time.Duration{0, time.Second, MaxClockLead} {
			bubble(t, func(t *testing.T, w *world) { replayAfterRestart(t, w, crash, lead) })
		}
	}
}

func replayAfterRestart(t *testing.T, w *world, crash bool, lead time.Duration) {
	dir := filepath.Join(t.TempDir(), "state")
	reader := w.agentIn(dir, "planner")
	p := w.meet(prices, reader, w.agent("feed-1"))
	w.skew("feed-1").Store(int64(lead))
	var frames [][]byte
	for range 20 { // past what the ceiling is written ahead
		frames = append(frames, p.seal(t, "once"))
		mustOpen(t, p.rc, frames[len(frames)-1], p.want)
		pass(300 * time.Millisecond)
	}
	if crash {
		dir = copyDir(t, dir)
	} else {
		check(t, reader.Close(context.Background()))
	}
	again := w.agentIn(dir, "planner")
	check(t, again.Join(w.ctx(), prices))
	// Even where a receiver is made as if it had been there before.
	rc := value(again.Receiver(prices))(t)
	rc.start.Store(0)
	for _, f := range frames {
		if _, err := open(t, again, rc, f, p.want); ReasonOf(err) != Stale {
			t.Fatalf("crash %v, lead %v: got %v, want stale", crash, lead, err)
		}
	}
	if crash { // it cannot know what was accepted, and waits for what was written ahead to pass
		pass(ceilingAhead + lead)
	}
	if _, err := open(t, again, rc, p.seal(t, "new"), p.want); err != nil {
		t.Errorf("crash %v, lead %v: %v", crash, lead, err)
	}
}

// TestNothingIsAcceptedThatIsNotWrittenDown: a state directory that cannot be written stops a receiver, rather than
// have the process after this one accept the same again.
func TestNothingIsAcceptedThatIsNotWrittenDown(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		dir := filepath.Join(t.TempDir(), "state")
		p := w.meet(prices, w.agentIn(dir, "planner"), w.agent("feed-1"))
		pass(5 * time.Second)
		frame := p.seal(t, "once")
		moved := dir + ".moved"
		check(t, os.Rename(dir, moved))
		var out Opened
		if err := p.rc.Open(frame, p.want, &out); err == nil || ReasonOf(err) != 0 || !strings.Contains(err.Error(), "state directory") {
			t.Errorf("got %v, want the directory's error", err)
		}
		check(t, os.Rename(moved, dir))
		mustOpen(t, p.rc, frame, p.want)
	})
}

// TestForgottenSessionsStayForgotten: a receiver forgets sessions whose frames are stale. A policy that widens the
// window afterwards, or a clock that is set back, must not make them fresh again.
func TestForgottenSessionsStayForgotten(t *testing.T) {
	for _, how := range []string{"policy", "clock"} {
		bubble(t, func(t *testing.T, w *world) {
			p := w.meet(prices, w.agent("planner"), w.agent("feed-1"))
			k := currentKey(t, p.reader, prices)
			victim := p.seal(t, "once")
			mustOpen(t, p.rc, victim, p.want)
			pass(time.Minute)
			for range 200 { // enough sessions for the receiver to clear out
				mustOpen(t, p.rc, craft(t, p.writer, prices, k, p.subject).frame(t), p.want)
			}
			switch how {
			case "policy":
				check(t, p.reader.AdoptPolicy(w.sign(strings.NewReplacer("revision: 1", "revision: 2",
					`prices: {`, `prices: {max_age: 10m, `).Replace(testPolicy))))
			case "clock":
				w.skew("planner").Store(int64(-time.Minute))
			}
			mustReject(t, p.rc, victim, p.want, Stale)
		})
	}
}

// TestReplayIsSeenUnderANewPolicy: the window outlives the policy that a session was judged under.
func TestReplayIsSeenUnderANewPolicy(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		p := w.meet(prices, w.agent("planner"), w.agent("feed-1"))
		first, second := p.seal(t, "once"), p.seal(t, "and again")
		mustOpen(t, p.rc, first, p.want)
		check(t, p.reader.AdoptPolicy(w.sign(nextPolicy)))
		spoiled := append([]byte(nil), first...)
		spoiled[len(spoiled)-100] ^= 1
		mustReject(t, p.rc, spoiled, p.want, Seen) // before the seal is looked at
		mustReject(t, p.rc, first, p.want, Seen)
		mustOpen(t, p.rc, second, p.want)
		mustReject(t, p.rc, first, p.want, Seen)
		mustReject(t, p.rc, second, p.want, Seen)
	})
}

// TestConcurrentReplay opens the same frames from many goroutines: each is accepted once.
func TestConcurrentReplay(t *testing.T) {
	w := newWorld(t)
	p := w.meet(gossip, w.agent("planner"), w.agent("feed-1"))
	rc := value(p.reader.Receiver(gossip))(t)
	var frames [][]byte
	for range 300 {
		frames = append(frames, p.seal(t, "once"))
	}
	var accepted atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			var out Opened
			for _, f := range frames {
				switch err := rc.Open(f, p.want, &out); ReasonOf(err) {
				case 0:
					if err == nil {
						accepted.Add(1)
					}
				case Seen:
				default:
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := accepted.Load(); n != int64(len(frames)) {
		t.Errorf("%d frames were accepted %d times", len(frames), n)
	}
}

// TestOverload: a receiver that remembers as many sessions as it may takes no new one until some are stale.
func TestOverload(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		p := w.meet(gossip, w.agent("planner"), w.agent("feed-1"))
		k := currentKey(t, p.reader, gossip)
		next := func() []byte {
			c := craft(t, p.writer, gossip, k, p.subject)
			c.signer = nil
			return c.frame(t)
		}
		settings := p.rc.ring.view.Load().policy
		s, _ := settings.Settings(gossip)
		for id := uint32(0); len(p.rc.sessions) < maxSessions; id++ {
			p.rc.sessions[sessionKey{key: id}] = &inSession{newest: time.Now().UnixMilli(), senderSession: senderSession{settings: s}}
		}
		p.rc.pruneAt = maxSessions
		mustReject(t, p.rc, next(), p.want, Overload)
		mustOpen(t, p.rc, p.seal(t, "a session that is known goes on"), p.want)
		pass(s.MaxAge + MaxClockLead + time.Millisecond)
		mustOpen(t, p.rc, next(), p.want)
		if n := len(p.rc.sessions); n > 2 {
			t.Errorf("%d sessions remembered", n)
		}
	})
}

// TestOneSenderDoesNotOverload: a sender that opens sessions without end is turned away before it fills what is
// kept for all, and costs the others nothing.
func TestOneSenderDoesNotOverload(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		reader := w.agent("planner")
		p, other := w.meet(gossip, reader, w.agent("feed-1")), w.agent("feed-2")
		k := currentKey(t, reader, gossip)
		_, err := reader.card(w.ctx(), other.att.self, other.own.card)
		check(t, err)
		next := func(from *Ring) []byte {
			c := craft(t, from, gossip, k, p.subject)
			c.signer = nil
			return c.frame(t)
		}
		for len(p.rc.sessions) < maxPerSender {
			mustOpen(t, p.rc, next(p.writer), p.want)
		}
		mustReject(t, p.rc, next(p.writer), p.want, Overload)
		mustOpen(t, p.rc, next(other), p.want)
		pass(time.Minute)
		mustOpen(t, p.rc, next(p.writer), p.want)
		if len(p.rc.opened) != 1 || p.rc.opened[p.writer.att.self] != 1 || len(p.rc.sessions) != 1 {
			t.Errorf("%d sessions, counted as %v", len(p.rc.sessions), p.rc.opened)
		}
	})
}

// TestClosedRingOpensNothing: after Close the next process may hold the directory, so nothing is accepted any
// more, and the keys are not used.
func TestClosedRingOpensNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		p := w.meet(prices, w.agentIn(filepath.Join(t.TempDir(), "state"), "planner"), w.agent("feed-1"))
		frame := p.seal(t, "late")
		check(t, p.reader.Close(context.Background()))
		var out Opened
		if err := p.rc.Open(frame, p.want, &out); !errors.Is(err, ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
		late := p.bundlesOf(t, "late")
		check(t, p.writer.Close(context.Background()))
		if _, _, err := p.sender.Seal(nil, draft(p.subject, "late")); !errors.Is(err, ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
		if err := p.sender.SealBundles(late); !errors.Is(err, ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
	})
}

// TestSequencePastASessionsEnd: no honest session has so many frames, so the window never comes near the end
// of its numbers.
func TestSequencePastASessionsEnd(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		p := w.meet(prices, w.agent("planner"), w.agent("feed-1"))
		k := currentKey(t, p.reader, prices)
		for seq, want := range map[uint64]Reason{SessionFrames: 0, SessionFrames + 1: Malformed, 1<<64 - 1: Malformed} {
			c := craft(t, p.writer, prices, k, p.subject)
			c.Seq = seq
			var out Opened
			if err := p.rc.Open(c.frame(t), p.want, &out); ReasonOf(err) != want {
				t.Errorf("seq %d: got %v, want %s", seq, err, want)
			}
		}
	})
}

func TestSessionEnds(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		p := w.meet(prices, w.agent("planner"), w.agent("feed-1"))
		session := func() envelope.Header {
			var f envelope.Frame
			check(t, envelope.Parse(p.seal(t, "x"), &f))
			return f.Header
		}
		first := session()
		p.sender.session.seq = SessionFrames - 1
		if last := session(); last.Session != first.Session || last.Seq != SessionFrames {
			t.Errorf("frame %d of session %s", last.Seq, last.Session)
		}
		second := session()
		if second.Session == first.Session || second.Seq != 1 {
			t.Errorf("the session went on past %d frames", SessionFrames)
		}
		pass(SessionLife - 31*time.Minute)
		if session().Session != second.Session {
			t.Error("the session ended early")
		}
		pass(31 * time.Minute)
		if session().Session == second.Session {
			t.Errorf("the session is older than %v", SessionLife)
		}
	})
}
