package keyring

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealbus/sealbus/policy"
)

// TestExpiredMakersKeys: whoever has the keys of an expired card dates back a key of its own, and hands it out. It is not
// taken: no wrap of an expired card counts.
func TestExpiredMakersKeys(t *testing.T) {
	queueWorld(t, func(t *testing.T, w *world) {
		s := w.shift(queue, w.agentUntil("exec-1", month), w.agentUntil("planner", month))
		thief := w.agentUntil("exec-2", time.Hour)
		check(t, thief.Join(w.ctx(), queue))
		pass(2 * time.Hour)
		c := channelOf(t, s.worker, queue)
		for i, created := range []time.Duration{-90 * time.Minute, -30 * time.Minute} {
			k := mustSecret(t)
			st := statementBy(t, thief, queue, uint32(i+1), k)
			st.created = newULID(t, time.Now().Add(created))
			w.publishKey(thief, st)
			w.publishWrap(thief, st, s.worker, roleReader, k)
			w.publishWrap(thief, st, s.producer, roleWriter, value(k.senderKey(queue.String(), s.producer.Self().String()))(t))
			s.worker.eachChannel((*channel).resync)
			s.producer.eachChannel((*channel).resync)
			synctest.Wait()
			for _, r := range []*Ring{s.worker, s.producer} {
				if channelOf(t, r, queue).held(st.id) != nil {
					t.Errorf("%s holds the key", r.Self().Name())
				}
			}
			if have := c.statements[keyName{st.id, st.commitment}]; (have != nil) != (i == 0) || have != nil && !have.lapsed {
				t.Errorf("created %v ago: %+v", -created, have)
			}
		}
		if !w.reported("after its card had expired") {
			t.Error("not reported")
		}
		s.takes(t, s.seal(t, "goes on"))
	})
}

// TestFormerReader: a worker that the policy has removed keeps the key it had. On a signed queue it can do nothing with it, and on one
// that is not signed nothing either, whatever time it gives its frames; there the producers' own tasks under that key are
// refused with its.
func TestFormerReader(t *testing.T) {
	for _, ch := range []policy.Channel{queue, scribble} {
		queueWorld(t, func(t *testing.T, w *world) {
			former := w.agent("exec-9")
			check(t, former.Join(w.ctx(), ch))
			s := w.shift(ch, w.agent("exec-1"), w.agent("planner"))
			genuine, k := s.seal(t, "waits"), currentKey(t, former, ch)
			if k.name() != keyAt(t, s.worker, ch, genuine).name() || !k.reader {
				t.Fatal("exec-9 has no key to keep")
			}
			for _, r := range []*Ring{s.worker, s.producer} {
				check(t, r.AdoptPolicy(w.sign(queueRevision(2, "queues:", "revoked: [exec-9]\nqueues:"))))
			}
			pass(time.Minute)
			synctest.Wait()
			for _, at := range []time.Time{time.Now(), time.Now().Add(-time.Hour)} {
				forged := craftTask(t, former, ch, k).at(t, at)
				forged.claim(s.producer)
				s.refuses(t, forged.frame(t), map[policy.Channel]Reason{queue: BadSignature, scribble: BadSignature}[ch])
				s.refuses(t, forged.unsigned().frame(t), map[policy.Channel]Reason{queue: Unsigned, scribble: NoKey}[ch])
				asItself := craftTask(t, former, ch, k).at(t, at)
				s.refuses(t, asItself.frame(t), Revoked)
			}
			if ch == queue {
				s.takes(t, genuine)
			} else {
				s.refuses(t, genuine, NoKey)
				if err := s.worker.AwaitStored(cut(), genuine); !errors.Is(err, context.Canceled) {
					t.Errorf("AwaitStored says that it will open: %v", err)
				}
				// Had its producer signed it all the same, it would be proven.
				signed := craftTask(t, s.producer, ch, k)
				s.takes(t, signed.frame(t))
				s.refuses(t, signed.unsigned().frame(t), NoKey) // also in a session that is known
			}
			after := s.seal(t, "under a new key")
			if _, err := openStored(t, s.worker, s.sr, after, s.want); err != nil || keyOf(t, after) == k.statement.id {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

// TestOneWorkerForgesForAnother: a worker holds K and makes every producer's seal. On a signed queue that is not enough.
func TestOneWorkerForgesForAnother(t *testing.T) {
	queueWorld(t, func(t *testing.T, w *world) {
		mallory := w.agent("exec-9")
		s := w.shift(queue, w.agent("exec-1"), w.agent("planner"))
		check(t, mallory.Join(w.ctx(), queue))
		synctest.Wait()
		forged := craftTask(t, mallory, queue, keyAt(t, mallory, queue, s.seal(t, "x")))
		forged.claim(s.producer)
		s.refuses(t, forged.frame(t), BadSignature)
		forged.Card = mallory.own.card
		s.refuses(t, forged.frame(t), NoCard)
		s.refuses(t, forged.unsigned().frame(t), Unsigned)
	})
}

// TestWrapOfAnExpiredCard counts for nothing, and does not keep others from giving the key.
func TestWrapOfAnExpiredCard(t *testing.T) {
	queueWorld(t, func(t *testing.T, w *world) {
		dir := filepath.Join(t.TempDir(), "state")
		s := w.shift(queue, w.agentInUntil(dir, "exec-1", month), w.agentUntil("planner", month))
		frame := s.seal(t, "x")
		expiring := w.agentUntil("exec-2", time.Hour)
		if err := w.opens(expiring, queue, frame, time.Second); err != nil {
			t.Fatal(err)
		}
		check(t, s.worker.Close(context.Background()))
		pass(2 * time.Hour)
		late := w.agentUntil("exec-3", month)
		if err := w.opens(late, queue, frame, 30*time.Second); ReasonOf(err) != NoKey {
			t.Fatalf("got %v, want %s", err, NoKey)
		}
		if w.store.count(".w.exec-2."+late.own.card.String()) == 0 {
			t.Fatal("exec-2 has given it nothing to refuse")
		}
		check(t, expiring.Close(context.Background()))
		again := w.agentInUntil(dir, "exec-1", month)
		check(t, again.Join(w.ctx(), queue))
		if err := w.opens(late, queue, frame, time.Minute); err != nil {
			t.Error(err)
		}
	})
}
