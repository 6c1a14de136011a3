package keyring

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealbus/sealbus/policy"
)

// producer is one that has put a task into an empty queue and knows of no worker.
func (w *world) producer(r *Ring, ch policy.Channel) (frame []byte) {
	w.t.Helper()
	s := value(r.Sender(w.ctx(), ch))(w.t)
	frame = sealTask(w.t, s, ch, "is anybody there?")
	if k := keyAt(w.t, r, ch, frame); !channelOf(w.t, r, ch).provisional(k.statement) {
		w.t.Fatal("the key is not provisional")
	}
	return frame
}

// opens has a worker take part and open a frame, within d.
func (w *world) opens(worker *Ring, ch policy.Channel, frame []byte, d time.Duration) error {
	w.t.Helper()
	check(w.t, worker.Join(w.ctx(), ch))
	sr := value(worker.StoredReceiver(ch))(w.t)
	_, err := openStoredWithin(w.t, d, worker, sr, frame, wantTask(ch))
	return err
}

// TestTaskBeforeAnyWorker: a producer alone enqueues under a key of its own. A worker that comes while it is there is
// given that key.
func TestTaskBeforeAnyWorker(t *testing.T) {
	for _, ch := range []policy.Channel{queue, scribble} {
		queueWorld(t, func(t *testing.T, w *world) {
			producer := w.agent("planner")
			frame := w.producer(producer, ch)
			pass(10 * time.Minute)
			if err := w.opens(w.agent("exec-1"), ch, frame, time.Second); err != nil {
				t.Errorf("%s: %v", ch, err)
			}
			// And one that comes after the policy has moved on, under which the key is fit no more.
			next := w.sign(queueRevision(2, `work: ["exec-*"]}`, `work: ["exec-*"], rotate: 12h}`, `"prod-*"]`, "prod-1]"))
			check(t, w.store.Put(w.ctx(), policy.BucketPolicy, policy.PolicyKey, next))
			check(t, producer.Refresh(w.ctx()))
			err := w.opens(w.agent("exec-2"), ch, frame, 5*time.Second)
			if signed := ch == queue; signed != (err == nil) {
				t.Errorf("%s, after somebody has lost it: %v", ch, err)
			}
		})
	}
}

// TestTaskWhileProducerIsAway: with a state directory a producer that comes back hands its key on, to workers that came while it
// was away, however long, and do not ask again; and no sooner does a frame of it open.
func TestTaskWhileProducerIsAway(t *testing.T) {
	for _, away := range []time.Duration{time.Minute, 5 * time.Hour, 10 * 24 * time.Hour} {
		for _, waits := range []bool{false, true} {
			if waits && away > 24*time.Hour {
				continue // nobody waits for so long in one call
			}
			queueWorld(t, func(t *testing.T, w *world) {
				dir := filepath.Join(t.TempDir(), "state")
				producer := w.agentInUntil(dir, "planner", time.Hour)
				frame := w.producer(producer, queue)
				check(t, producer.Close(context.Background()))
				pass(away / 2)
				worker := w.agentUntil("exec-1", month)
				if err := w.opens(worker, queue, frame, 30*time.Second); ReasonOf(err) != NoKey {
					t.Fatalf("away %v: got %v, want %s", away, err, NoKey)
				}
				opened := make(chan error, 1)
				if waits {
					go func() { opened <- w.opens(worker, queue, frame, 20*24*time.Hour) }()
				}
				pass(away / 2)
				synctest.Wait()
				select {
				case err := <-opened:
					t.Fatalf("away %v: opened without a key: %v", away, err)
				default:
				}
				w.agentInUntil(dir, "planner", time.Hour) // and does nothing
				if waits {
					if err := <-opened; err != nil {
						t.Errorf("away %v: %v", away, err)
					}
					return
				}
				pass(time.Second)
				synctest.Wait()
				if keyAt(t, worker, queue, frame) == nil {
					t.Errorf("away %v: the worker has not been given the key", away)
				}
				if err := w.opens(worker, queue, frame, time.Second); err != nil {
					t.Errorf("away %v: %v", away, err)
				}
			})
		}
	}
}

// TestProducerReturnsOften: what was handed on is not handed on again by every start.
func TestProducerReturnsOften(t *testing.T) {
	queueWorld(t, func(t *testing.T, w *world) {
		dir := filepath.Join(t.TempDir(), "state")
		producer := w.agentInUntil(dir, "planner", time.Hour)
		frame := w.producer(producer, queue)
		worker := w.agentUntil("exec-1", month)
		if err := w.opens(worker, queue, frame, time.Second); err != nil {
			t.Fatal(err)
		}
		gone := w.agentInUntil(filepath.Join(t.TempDir(), "state"), "exec-2", time.Hour)
		if err := w.opens(gone, queue, frame, time.Second); err != nil {
			t.Fatal(err)
		}
		check(t, gone.Close(context.Background()))
		pass(2 * time.Hour)
		check(t, producer.Close(context.Background()))
		pass(time.Second)
		check(t, worker.Close(context.Background()))
		killed := w.agentUntil("exec-3", time.Hour) // joins while nobody can serve it, and leaves its join behind
		check(t, w.store.Put(w.ctx(), policy.BucketKeys, policy.JoinKey(queue, "exec-3", killed.own.card.String()), []byte("here")))
		pass(2 * time.Hour)
		wraps, reports := w.store.count(".w.planner."), w.reportCount()
		for range 3 {
			again := w.agentInUntil(dir, "planner", time.Hour)
			pass(time.Second)
			synctest.Wait()
			check(t, again.Close(context.Background()))
		}
		if n := w.store.count(".w.planner."); n != wraps {
			t.Errorf("%d more wraps", n-wraps)
		}
		if n := w.reportCount(); n != reports {
			t.Errorf("%d reports: %v", n-reports, w.reports[reports:])
		}
	})
}

// TestLateWorkerIsGivenOldKeys by another worker, while the producer is away, as the policy's history says: provisional ones, such as
// were replaced, and such as somebody who has lost the queue since holds; also when the cards of their makers have expired.
func TestLateWorkerIsGivenOldKeys(t *testing.T) {
	for _, history := range []bool{true, false} {
		for _, pause := range []time.Duration{time.Second, 3 * time.Hour} { // the second: past the producer's and the maker's cards
			queueWorld(t, func(t *testing.T, w *world) {
				if !history {
					w.setPolicy(queueRevision(1, `work: ["exec-*"]}`, `work: ["exec-*"], history: false}`))
				}
				producer := w.agentUntil("planner", time.Hour)
				frames := map[string][]byte{"provisional": w.producer(producer, queue)}
				maker := w.agentUntil("exec-1", time.Hour)
				if err := w.opens(maker, queue, frames["provisional"], time.Second); err != nil {
					t.Fatal(err)
				}
				s := value(producer.Sender(w.ctx(), queue))(t)
				frames["a reader's"] = sealTask(t, s, queue, "x")
				stays := w.agentUntil("exec-2", month)
				for _, frame := range frames {
					if err := w.opens(stays, queue, frame, time.Second); err != nil {
						t.Fatal(err)
					}
				}
				check(t, producer.Close(context.Background()))
				check(t, maker.Close(context.Background()))
				pass(pause)
				late := w.agentUntil("exec-3", month)
				// prod-* lose the queue, so that no key from before is fit; exec-3 adopts that before it joins.
				next := w.sign(queueRevision(2, `"prod-*"]`, "prod-1]", "revision: 1", "revision: 2", `work: ["exec-*"]}`, map[bool]string{
					true: `work: ["exec-*"]}`, false: `work: ["exec-*"], history: false}`}[history]))
				check(t, w.store.Put(w.ctx(), policy.BucketPolicy, policy.PolicyKey, next))
				check(t, stays.Refresh(w.ctx()))
				check(t, late.Refresh(w.ctx()))
				for name, frame := range frames {
					err := w.opens(late, queue, frame, 15*time.Second)
					if history && err != nil || !history && ReasonOf(err) != NoKey {
						t.Errorf("history %v, %v later, %s: %v", history, pause, name, err)
					}
					if k := keyAt(t, late, queue, frame); k != nil {
						if k.statement.lapsed != (pause > time.Hour) {
							t.Errorf("%v later, %s: lapsed %v", pause, name, k.statement.lapsed)
						}
						if c := channelOf(t, late, queue); c.fit(k.statement) || c.opens(k.statement, "planner") {
							t.Errorf("%v later, %s: fit for live traffic", pause, name)
						}
					}
				}
			})
		}
	}
}

// TestLapsedKeysStayLapsed over a restart, and are as good as others when their makers come back.
func TestLapsedKeysStayLapsed(t *testing.T) {
	queueWorld(t, func(t *testing.T, w *world) {
		makers, dir := filepath.Join(t.TempDir(), "maker"), filepath.Join(t.TempDir(), "late")
		maker, stays := w.agentInUntil(makers, "exec-1", time.Hour), w.agentUntil("exec-2", month)
		check(t, maker.Join(w.ctx(), queue))
		check(t, stays.Join(w.ctx(), queue))
		producer := w.agentUntil("planner", month)
		frame := sealTask(t, value(producer.Sender(w.ctx(), queue))(t), queue, "x")
		synctest.Wait()
		if keyAt(t, stays, queue, frame).statement.creator != maker.Self() {
			t.Fatal("the key is not exec-1's")
		}
		check(t, maker.Close(context.Background()))
		pass(3 * time.Hour)
		for life := range 2 {
			late := w.agentInUntil(dir, "exec-3", month)
			if err := w.opens(late, queue, frame, 15*time.Second); err != nil {
				t.Fatal(err)
			}
			if k := keyAt(t, late, queue, frame); !k.statement.lapsed || channelOf(t, late, queue).fit(k.statement) {
				t.Errorf("life %d: fit under an expired card", life)
			}
			if err := late.Await(cut(), frame); err == nil {
				t.Errorf("life %d: Await says that it will open live", life)
			}
			check(t, late.Close(context.Background()))
		}
		w.agentInUntil(makers, "exec-1", time.Hour)
		late := w.agentInUntil(dir, "exec-3", month)
		if err := w.opens(late, queue, frame, 15*time.Second); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if k := keyAt(t, late, queue, frame); k.statement.lapsed || !channelOf(t, late, queue).fit(k.statement) {
			t.Error("its maker has come back, and it is not fit")
		}
	})
}

// TestTasksWaitOverRotation: what was sealed under keys that have been replaced since still opens, also after a restart.
func TestTasksWaitOverRotation(t *testing.T) {
	queueWorld(t, func(t *testing.T, w *world) {
		dir := filepath.Join(t.TempDir(), "state")
		s := w.shift(queue, w.agentInUntil(dir, "exec-1", month), w.agentUntil("planner", month))
		var frames [][]byte
		keys := map[uint32]bool{}
		for range 4 {
			frame := s.seal(t, "waits")
			frames, keys[keyOf(t, frame)] = append(frames, frame), true
			pass(25 * time.Hour)
			synctest.Wait()
		}
		if len(keys) != len(frames) {
			t.Fatalf("%d keys for %d frames", len(keys), len(frames))
		}
		for _, frame := range frames {
			s.takes(t, frame)
		}
		check(t, s.worker.Close(context.Background()))
		again := w.agentInUntil(dir, "exec-1", month)
		for _, frame := range frames {
			if err := w.opens(again, queue, frame, time.Second); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestResultBeforeItsReader: the same the other way round. A worker alone gives its result a key of its own.
func TestResultBeforeItsReader(t *testing.T) {
	queueWorld(t, func(t *testing.T, w *world) {
		worker := w.agentUntil("exec-1", month)
		s := value(worker.Sender(w.ctx(), results))(t)
		d := task(results, "done")
		d.Kind, d.Ref = 5, someTask
		frame, _, err := s.Seal(nil, d)
		check(t, err)
		pass(time.Hour)
		reader := w.agentUntil("planner", month)
		check(t, reader.Join(w.ctx(), results))
		sr := value(reader.StoredReceiver(results))(t)
		want := &Want{Kinds: Kinds(d.Kind), Recipient: d.Recipient, Ref: someTask}
		if _, err := openStored(t, reader, sr, frame, want); err != nil {
			t.Error(err)
		}
	})
}

// TestKeyGoesWithItsLastReader is a written limit: a producer cannot hand on what it was given by a worker, so what it sealed under
// that waits in vain when all workers that had the key have gone and none kept it. It is never said to be dead.
func TestKeyGoesWithItsLastReader(t *testing.T) {
	queueWorld(t, func(t *testing.T, w *world) {
		s := w.shift(queue, w.agentUntil("exec-1", month), w.agentUntil("planner", month))
		frame := s.seal(t, "waits")
		check(t, s.worker.Close(context.Background()))
		pass(time.Minute)
		next := w.agentUntil("exec-2", month)
		if err := w.opens(next, queue, frame, time.Hour); ReasonOf(err) != NoKey {
			t.Errorf("got %v, want %s", err, NoKey)
		}
		if err := w.opens(next, queue, s.seal(t, "under a new key"), time.Second); err != nil {
			t.Error(err)
		}
	})
}

// TestHiddenWrapIsLookedFor: what was not believed, or not seen, when it came is looked at again as long as a frame waits.
func TestHiddenWrapIsLookedFor(t *testing.T) {
	queueWorld(t, func(t *testing.T, w *world) {
		s := w.shift(queue, w.agentUntil("exec-1", month), w.agentUntil("planner", month))
		frame := s.seal(t, "x")
		w.store.tamper(func() {
			w.store.hide = func(_, key string) bool { return strings.Contains(key, ".w.exec-1.") }
		})
		late := w.agentUntil("exec-2", month)
		if err := w.opens(late, queue, frame, 5*time.Second); ReasonOf(err) != NoKey {
			t.Errorf("got %v, want %s", err, NoKey)
		}
		w.store.tamper(func() { w.store.hide = nil })
		if err := w.opens(late, queue, frame, seekInterval+time.Second); err != nil {
			t.Error(err)
		}
	})
}

// TestProducerBecomesWorker: it is given K, of the older keys too, also by who knows it only as a producer from a life before.
func TestProducerBecomesWorker(t *testing.T) {
	queueWorld(t, func(t *testing.T, w *world) {
		dir := filepath.Join(t.TempDir(), "state")
		s := w.shift(queue, w.agentInUntil(dir, "exec-1", month), w.agentUntil("prod-1", month))
		frame := s.seal(t, "x")
		check(t, s.worker.Close(context.Background()))
		pass(time.Minute)
		again := w.agentInUntil(dir, "exec-1", month)
		check(t, again.Join(w.ctx(), queue))
		synctest.Wait()
		w.setPolicy(queueRevision(2, `summarise: {enqueue: [planner, "prod-*"], work: ["exec-*"]`, `summarise: {enqueue: [planner, "prod-*"], work: ["exec-*", prod-1]`))
		check(t, s.producer.Refresh(w.ctx()))
		check(t, again.Refresh(w.ctx()))
		pass(5 * time.Second)
		synctest.Wait()
		if k := keyAt(t, s.producer, queue, frame); k == nil || !k.reader {
			t.Errorf("it was not given the older key: %v", k)
		}
	})
}

// TestSeekingIsBounded: frames under keys that nobody has, of a true sender, make a worker ask, and not often.
func TestSeekingIsBounded(t *testing.T) {
	queueWorld(t, func(t *testing.T, w *world) {
		s := w.shift(queue, w.agentUntil("exec-1", month), w.agentUntil("planner", month))
		pass(time.Minute)
		asked := 0
		w.store.tamper(func() {
			w.store.put = func(_, key string) error {
				if key == policy.JoinKey(queue, "exec-1", s.worker.own.card.String()) {
					asked++
				}
				return nil
			}
		})
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		done := make(chan struct{})
		for i := range 20 {
			go func() {
				c := s.craft(t)
				c.Key += uint32(i + 1)
				if err := s.worker.AwaitStored(ctx, c.frame(t)); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v", err)
				}
				done <- struct{}{}
			}()
		}
		for range 20 {
			<-done
		}
		pass(time.Hour) // nobody waits any more
		synctest.Wait()
		w.store.tamper(func() {
			if asked < 6 || asked > 18 {
				t.Errorf("asked %d times in an hour", asked)
			}
		})
	})
}
