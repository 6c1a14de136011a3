package keyring

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

const anyResult = envelope.KindResult

// TestCryptoShredding: once a policy has destroyed a channel's keys, nobody who held them opens what was sealed under them,
// through any call, in this life or from the directory on disk; and whoever asks who has sealed it is told what was
// told before.
func TestCryptoShredding(t *testing.T) {
	archiveWorld(t, func(t *testing.T, a *archive) {
		if !inDirectory(t, a.workerDir, a.k) || !inDirectory(t, a.prodDir, a.ks) {
			t.Fatal("the keys are not in the directories: this test looks in the wrong place")
		}
		held := []*chanKey{keyAt(t, a.worker, queue, a.frame), keyAt(t, a.producer, queue, a.frame), keyAt(t, a.second, queue, a.frame)}
		backup := copyDir(t, a.workerDir)
		pass(time.Hour)
		a.w.decree(destroying(2, time.Now()), a.worker, a.producer, a.second, a.auditor)

		for range 2 { // at once, and after they have looked at the whole store again
			a.gone(t, a.worker, queue, a.frame, 2)
			a.gone(t, a.second, queue, a.frame, 2)
			a.gone(t, a.producer, results, a.result, 2)
			for _, k := range held {
				if k.k.bytes() != nil || k.own.bytes() != nil {
					t.Error("a key is still in memory")
				}
			}
			if len(a.aeads) < 3 {
				t.Fatalf("%d session keys", len(a.aeads))
			}
			for _, s := range a.aeads {
				if _, err := s.Decrypt(nil, nil); !errors.Is(err, ErrKeyDestroyed) || s.aead.Load() != nil {
					t.Errorf("a session's key is still in memory: %v", err)
				}
			}
			if inDirectory(t, a.workerDir, a.k) || inDirectory(t, a.prodDir, a.ks) {
				t.Error("a key is still in a directory")
			}
			for _, r := range []*Ring{a.worker, a.producer, a.second} {
				check(t, r.Refresh(a.w.ctx()))
			}
			synctest.Wait()
		}
		if a.w.wrapsOf(a.worker, queue, a.key)+a.w.wrapsOf(a.second, queue, a.key) == 0 {
			t.Fatal("there are no wraps in the store that could be taken again")
		}
		a.talks(t)

		// From the directories, and from a backup of one.
		for _, dir := range []string{a.workerDir, backup} {
			a.close(a.worker)
			a.worker = a.w.agentInUntil(dir, "exec-1", month)
			check(t, a.worker.Join(a.w.ctx(), queue))
			synctest.Wait()
			a.sr = value(a.worker.StoredReceiver(queue))(t)
			a.gone(t, a.worker, queue, a.frame, 2)
			if inDirectory(t, dir, a.k) {
				t.Error("the key is in the directory again")
			}
		}
		a.close(a.producer)
		a.producer = a.w.agentInUntil(a.prodDir, "planner", month)
		a.sender = value(a.producer.Sender(a.w.ctx(), queue))(t)
		check(t, a.producer.Join(a.w.ctx(), results))
		a.gone(t, a.producer, results, a.result, 2)
		a.talks(t)

		if got := value(a.auditor.Attest(a.w.ctx(), a.frame, queue, a.want))(t); got != a.attested {
			t.Errorf("the ring now says %+v", got)
		}
		for _, p := range []*policy.Policy{a.policy, value(a.witness.AddPolicy(a.auditor.RawPolicy()))(t)} {
			if got := value(a.witness.Attest(a.frame, queue, p, a.logged, a.want))(t); got != a.attested2 {
				t.Errorf("the witness now says %+v", got)
			}
		}
	})
}

// TestDestroyedForGood: a later policy that does not say so any more brings nothing back, in this life or the next.
func TestDestroyedForGood(t *testing.T) {
	archiveWorld(t, func(t *testing.T, a *archive) {
		pass(time.Hour)
		a.w.decree(destroying(2, time.Now()), a.worker, a.producer, a.second)
		a.w.decree(strings.Replace(auditedPolicy, "revision: 1", "revision: 3", 1), a.worker, a.producer, a.second)
		for _, r := range []*Ring{a.worker, a.producer, a.second} {
			check(t, r.Refresh(a.w.ctx()))
		}
		synctest.Wait()
		a.gone(t, a.worker, queue, a.frame, 2)
		a.gone(t, a.second, queue, a.frame, 2)
		a.close(a.worker)
		a.worker = a.w.agentInUntil(a.workerDir, "exec-1", month)
		check(t, a.worker.Join(a.w.ctx(), queue))
		synctest.Wait()
		a.sr = value(a.worker.StoredReceiver(queue))(t)
		a.gone(t, a.worker, queue, a.frame, 2)
		a.talks(t)
	})
}

// TestDestroyedIsNotHandedOn: who comes later is given no key that is destroyed, although newcomers are given the older ones.
func TestDestroyedIsNotHandedOn(t *testing.T) {
	archiveWorld(t, func(t *testing.T, a *archive) {
		early := a.w.agentUntil("exec-3", month)
		check(t, early.Join(a.w.ctx(), queue))
		synctest.Wait()
		pass(time.Minute)
		if a.w.wrapsOf(early, queue, a.key) == 0 {
			t.Fatal("a newcomer is not given the key while it is there")
		}
		a.w.decree(destroying(2, time.Now()), a.worker, a.producer, a.second, early)
		late := a.w.agentUntil("exec-4", month)
		check(t, late.Join(a.w.ctx(), queue))
		pass(time.Minute)
		synctest.Wait()
		if n := a.w.wrapsOf(late, queue, a.key); n != 0 {
			t.Errorf("%d wraps of it", n)
		}
		a.gone(t, late, queue, a.frame, 2)
		a.talks(t)
	})
}

// TestDestroyedBefore: what was made at the time or after it stays, and goes on being sealed under.
func TestDestroyedBefore(t *testing.T) {
	archiveWorld(t, func(t *testing.T, a *archive) {
		pass(25 * time.Hour)
		synctest.Wait()
		young := a.seal(t, "tomorrow")
		k := keyAt(t, a.worker, queue, young)
		if keyOf(t, young) == a.key || k == nil {
			t.Fatal("the key has not been replaced")
		}
		made := k.statement.madeAt().Truncate(time.Second)
		other := a.w.shift(scribble, a.worker, a.producer)
		loose := other.seal(t, "of another queue")
		a.w.decree(destroying(2, made), a.worker, a.producer, a.second)
		a.gone(t, a.worker, queue, a.frame, 2)
		a.takes(t, young)
		other.takes(t, loose)
		if again := a.seal(t, "go on"); keyOf(t, again) != keyOf(t, young) {
			t.Error("a key was replaced without need")
		}
		a.w.decree(destroying(3, made.Add(time.Second)), a.worker, a.producer, a.second)
		a.gone(t, a.worker, queue, a.frame, 3)
		a.gone(t, a.worker, queue, young, 3)
		a.talks(t)
		if keyOf(t, a.seal(t, "under a third")) == keyOf(t, young) {
			t.Error("it seals under a key that is destroyed")
		}
	})
}

// TestDestroyedAhead: a policy that destroys what is not made yet has nothing sealed until then, and nobody makes keys
// meanwhile; one that corrects it helps at once.
func TestDestroyedAhead(t *testing.T) {
	for _, corrected := range []bool{false, true} {
		archiveWorld(t, func(t *testing.T, a *archive) {
			pass(time.Minute)
			ahead := time.Now().Add(time.Hour) // so is the operator's clock
			raw := value(policy.Sign([]byte(destroying(2, ahead)), a.w.operator, ahead))(t)
			a.w.enact(raw, a.worker, a.producer, a.second)
			if _, _, err := a.sender.Seal(nil, task(queue, "x")); !errors.Is(err, ErrNoKey) {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), 50*time.Minute)
			defer cancel()
			before := a.w.store.count("queue.summarise.k.")
			if err := a.producer.Join(ctx, queue); err == nil || !strings.Contains(err.Error(), "revision 2 destroys every key") {
				t.Errorf("joined: %v", err)
			}
			if n := a.w.store.count("queue.summarise.k."); n != before {
				t.Errorf("%d keys were made meanwhile", n-before)
			}
			if !a.w.reported("which is ahead") {
				t.Error("it is not reported")
			}
			if corrected {
				a.w.decree(destroying(3, time.Now()), a.worker, a.producer, a.second)
				pass(time.Second)
			} else {
				pass(11 * time.Minute)
			}
			synctest.Wait()
			if n := a.w.store.count("queue.summarise.k."); n != before+1 {
				t.Errorf("corrected %v: %d keys were made then", corrected, n-before)
			}
			a.talks(t)
			a.gone(t, a.worker, queue, a.frame, 2)
		})
	}
}

// TestDestroyedMeanwhile: frames that are being opened and sealed while the policy is adopted.
func TestDestroyedMeanwhile(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		p := w.meet(prices, w.agent("planner"), w.agent("feed-1"))
		pass(time.Second)
		frame, second := p.seal(t, "on its way"), p.seal(t, "too late")
		var u Unsealed
		check(t, p.rc.Unseal(frame, p.want, &u))
		session := p.sender.session.aead
		next := fmt.Sprintf("%sdestroyed:\n  - {channel: topic/prices, before: %q}\n", nextPolicy, time.Now().UTC().Format(time.RFC3339))
		w.decree(next, p.reader, p.writer)
		if err := p.rc.Accept(&u, new(Opened)); ReasonOf(err) != NoKey || !errors.Is(err, ErrKeyDestroyed) {
			t.Errorf("accepted: %v", err)
		}
		if err := p.rc.Open(second, p.want, new(Opened)); ReasonOf(err) != NoKey || !errors.Is(err, ErrKeyDestroyed) {
			t.Errorf("opened: %v", err)
		}
		if _, err := session.Encrypt([]byte("x"), nil); !errors.Is(err, ErrNoKey) {
			t.Errorf("sealed in the session of then: %v", err)
		}
		if err := p.reader.Await(w.ctx(), second); !errors.Is(err, ErrKeyDestroyed) {
			t.Errorf("awaited: %v", err)
		}
		check(t, p.writer.Join(w.ctx(), prices))
		p.stillTalks(t)
	})
}

// TestDestroyedWhileAwaited: who waits for a key that is destroyed learns of it at once.
func TestDestroyedWhileAwaited(t *testing.T) {
	archiveWorld(t, func(t *testing.T, a *archive) {
		a.w.store.tamper(func() { a.w.store.hide = func(_, key string) bool { return strings.Contains(key, ".w.") } })
		late := a.w.agentUntil("exec-3", month)
		go late.Join(a.w.ctx(), queue) // which gets nothing
		waits := make(chan error, 1)
		go func() { waits <- late.AwaitStored(a.w.ctx(), a.frame) }()
		pass(5 * time.Second)
		a.w.decree(destroying(2, time.Now()), late)
		synctest.Wait()
		select {
		case err := <-waits:
			if ReasonOf(err) != NoKey || !errors.Is(err, ErrKeyDestroyed) {
				t.Error(err)
			}
		default:
			t.Error("it still waits")
		}
		a.w.store.tamper(func() { a.w.store.hide = nil })
	})
}

// TestDestroyedByWhoseWord: of a frame from after the time, the statement of its key says that it is destroyed. A writer cannot say
// it of a key that others have made.
func TestDestroyedByWhoseWord(t *testing.T) {
	for _, by := range []string{"a reader", "the frame's sender", "another writer"} {
		for _, contradicted := range []bool{false, true} {
			bubble(t, func(t *testing.T, w *world) {
				w.setPolicy(auditedPolicy)
				s := w.shift(queue, w.agentUntil("exec-1", month), w.agentUntil("planner", month))
				others := map[string]*Ring{"a reader": w.agentUntil("exec-2", month), "the frame's sender": s.producer, "another writer": w.agentUntil("prod-1", month)}
				old := newULID(t, time.Now())
				pass(time.Hour)
				w.decree(destroying(2, time.Now().Add(-time.Minute)), s.worker, s.producer, others["a reader"], others["another writer"])
				check(t, s.worker.Join(w.ctx(), queue))
				said := statementBy(t, others[by], queue, 7, mustSecret(t))
				said.created = old
				w.publishKey(others[by], said)
				if contradicted {
					w.publishKey(others["a reader"], statementBy(t, others["a reader"], queue, 7, mustSecret(t)))
				}
				synctest.Wait()
				c := s.craft(t)
				c.Key = 7
				err := s.sr.Open(c.frame(t), s.want, new(Opened))
				if want := by != "another writer" && !contradicted; ReasonOf(err) != NoKey || errors.Is(err, ErrKeyDestroyed) != want {
					t.Errorf("by %s, contradicted %v: %v", by, contradicted, err)
				}
			})
		}
	}
}

// TestDestroyedButRestated: a reader that states a key anew, as made later, does not have others open what was sealed before.
func TestDestroyedButRestated(t *testing.T) {
	archiveWorld(t, func(t *testing.T, a *archive) {
		pass(time.Hour)
		restated := *keyAt(t, a.worker, queue, a.frame)
		later := *restated.statement
		later.created = newULID(t, time.Now())
		restated.statement = &later
		c := channelOf(t, a.worker, queue)
		c.mu.Lock()
		c.keys[a.key] = &restated
		c.mu.Unlock()
		a.w.decree(destroying(2, time.Now()), a.worker)
		err := a.sr.Open(a.frame, a.want, new(Opened))
		if c.held(a.key) == nil || !errors.Is(err, ErrKeyDestroyed) {
			t.Error(err)
		}
		if err := a.worker.AwaitStored(a.w.ctx(), a.frame); !errors.Is(err, ErrKeyDestroyed) {
			t.Error(err)
		}
	})
}

// TestDestroyedUnpublished: a key that was being made while the store failed is not published, and not kept.
func TestDestroyedUnpublished(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.setPolicy(auditedPolicy)
		worker := w.agentUntil("exec-1", month)
		w.store.tamper(func() {
			w.store.put = func(_, key string) error {
				if strings.Contains(key, ".k.") {
					return errors.New("the store is away")
				}
				return nil
			}
		})
		go worker.Join(w.ctx(), queue)
		pass(2 * time.Second)
		synctest.Wait()
		c := channelOf(t, worker, queue)
		k := c.unpublished
		if k == nil {
			t.Fatal("no key is being made")
		}
		pass(time.Second)
		w.decree(destroying(2, time.Now()), worker)
		w.store.tamper(func() { w.store.put = nil })
		pass(2 * time.Second)
		synctest.Wait()
		if k.k.bytes() != nil || c.unpublished != nil {
			t.Error("it is still here")
		}
		if cur := currentKey(t, worker, queue); cur.statement.id == k.statement.id || w.store.count("queue.summarise.k.") != 1 {
			t.Error("it was published")
		}
	})
}

// TestDestroyedReplaced: what a sender that has been quiet still refers to is let go of too, when its key has come anew in
// another role meanwhile; and a key in a state directory of which the channel is not in use.
func TestDestroyedReplaced(t *testing.T) {
	archiveWorld(t, func(t *testing.T, a *archive) {
		old := keyAt(t, a.producer, queue, a.frame)
		a.w.decree(strings.NewReplacer("revision: 1", "revision: 2", `work: ["exec-*"]`, `work: ["exec-*", planner]`).Replace(auditedPolicy), a.worker, a.producer, a.second)
		pass(10 * time.Second)
		synctest.Wait()
		if k := keyAt(t, a.producer, queue, a.frame); k == old || !k.reader || a.sender.session.key != old {
			t.Fatal("the key has not come anew, or the sender goes by it already")
		}
		a.close(a.worker)
		a.worker = a.w.agentInUntil(a.workerDir, "exec-1", month)
		if !inDirectory(t, a.workerDir, a.k) || a.worker.channels[queue] != nil {
			t.Fatal("the worker does not keep the key of a channel that it does not use")
		}
		pass(time.Minute)
		a.w.decree(destroying(3, time.Now(), `work: ["exec-*"]`, `work: ["exec-*", planner]`), a.worker, a.producer, a.second)
		if old.own.bytes() != nil || old.k.bytes() != nil {
			t.Error("a sender still refers to the key")
		}
		if inDirectory(t, a.workerDir, a.k) || inDirectory(t, a.prodDir, a.ks) || inDirectory(t, a.prodDir, a.k) {
			t.Error("a key is still in a directory")
		}
		for _, k := range a.worker.restored.Load().Keys {
			if bytes.Equal(k.Key, a.k) {
				t.Error("what was restored still has the key")
			}
		}
	})
}

// TestShredAtOnce: seals and opens go on in many goroutines while keys are destroyed, and fail in no other way than they may.
func TestShredAtOnce(t *testing.T) {
	archiveWorld(t, func(t *testing.T, a *archive) {
		var wg sync.WaitGroup
		stop := make(chan struct{})
		for range 4 {
			wg.Go(func() {
				sr := value(a.worker.StoredReceiver(queue))(t)
				for {
					select {
					case <-stop:
						return
					default:
					}
					frame, _, err := a.sender.Seal(nil, task(queue, "x"))
					if err == nil {
						err = sr.Open(frame, a.want, new(Opened))
					}
					if reason := ReasonOf(err); err != nil && !errors.Is(err, ErrNoKey) && reason != NoKey && reason != NoCard {
						t.Error(err)
					}
					pass(5 * time.Millisecond)
				}
			})
		}
		for n := range 8 {
			pass(2 * time.Second)
			a.w.decree(destroying(n+2, time.Now().Add(-time.Second)), a.producer, a.worker)
			a.gone(t, a.worker, queue, a.frame, n+2)
		}
		close(stop)
		wg.Wait()
	})
}

// TestLoansAreBounded: session keys that nobody uses any more are not kept track of.
func TestLoansAreBounded(t *testing.T) {
	var l loans
	ks, made := mustSecret(t), time.Now()
	kept, later := value(l.lend(ks, made, newULID(t, made)))(t), value(l.lend(ks, made.Add(1), newULID(t, made)))(t)
	for i := range 4000 {
		value(l.lend(ks, made, newULID(t, made)))(t)
		if i%100 == 0 {
			runtime.GC()
		}
	}
	if n := len(l.sessions.list); n > 1000 {
		t.Errorf("%d session keys are kept track of", n)
	}
	value(kept.Encrypt([]byte("x"), nil))(t)
	l.call(made.Add(1))
	value(later.Encrypt([]byte("x"), nil))(t)
	if _, err := kept.Encrypt([]byte("x"), nil); !errors.Is(err, ErrNoKey) || !errors.Is(err, ErrKeyDestroyed) {
		t.Error(err)
	}
	if _, err := l.lend(ks, made, newULID(t, made)); !errors.Is(err, ErrKeyDestroyed) {
		t.Error(err)
	}
	ks.forget()
	if _, err := l.lend(ks, made.Add(1), newULID(t, made)); !errors.Is(err, ErrKeyDestroyed) {
		t.Error(err)
	}
}

// TestFloors: what holds after several policies.
func TestFloors(t *testing.T) {
	now := time.Now().Truncate(time.Second).UTC()
	at := func(n int, before time.Duration) *policy.Policy {
		return value(policy.Parse([]byte(destroying(n, now.Add(before)))))(t)
	}
	none := value(policy.Parse([]byte(strings.Replace(auditedPolicy, "revision: 1", "revision: 9", 1))))(t)
	f := floorsOf(nil, none, now)
	for i, test := range []struct {
		p        *policy.Policy
		now      time.Duration
		before   time.Duration
		revision uint64
	}{
		{at(2, -time.Hour), 0, -time.Hour, 2},
		{at(3, -time.Hour), 0, -time.Hour, 2},
		{at(4, -2*time.Hour), 0, -time.Hour, 2},
		{none, 0, -time.Hour, 2},
		{at(5, -time.Minute), 0, -time.Minute, 5},
		{at(6, time.Hour), 0, time.Hour, 6},
		{at(7, -time.Minute), time.Minute, time.Minute, 6}, // nothing was made until then
		{none, 2 * time.Minute, time.Minute, 6},
	} {
		f = floorsOf(f, test.p, now.Add(test.now))
		for _, ch := range []policy.Channel{queue, results} {
			v := &view{floors: value(restoreFloors(saveFloors(f)))(t)}
			if got := v.floorOf(ch); !got.before.Equal(now.Add(test.before)) || got.revision != test.revision {
				t.Errorf("%d: %s: %v by %d", i, ch, got.before.Sub(now), got.revision)
			}
		}
		if got := (&view{floors: f}).floorOf(scribble); got != (floor{}) {
			t.Errorf("%d: another queue's: %v", i, got)
		}
	}
	if _, err := restoreFloors(map[string]savedFloor{"queue/Summarise": {}}); err == nil {
		t.Error("no channel's floor was restored")
	}
}
