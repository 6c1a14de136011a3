package keyring

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// counts returns how many entries the store holds whose key contains the text.
func (s *memStore) count(text string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key := range s.entries {
		if strings.Contains(key, text) {
			n++
		}
	}
	return n
}

// TestManyJoinAtOnce has readers and writers join together: all end under one key, few were made on the way, and every
// writer's frame opens at every reader.
func TestManyJoinAtOnce(t *testing.T) {
	for _, ch := range []policy.Channel{prices, gossip} {
		bubble(t, func(t *testing.T, w *world) {
			var readers, writers []*Ring
			for i := range 8 {
				readers = append(readers, w.agent(fmt.Sprintf("exec-%d", i)))
				writers = append(writers, w.agent(fmt.Sprintf("feed-%d", i)))
			}
			start := time.Now()
			var wg sync.WaitGroup
			for _, r := range append(append([]*Ring(nil), readers...), writers...) {
				wg.Go(func() {
					if err := r.Join(w.ctx(), ch); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if d := time.Since(start); d > 3*time.Second {
				t.Errorf("it took %v", d)
			}
			pass(5 * time.Second) // provisional keys of writers are replaced
			synctest.Wait()
			first := currentKey(t, readers[0], ch).name()
			for _, r := range append(readers, writers...) {
				if k := currentKey(t, r, ch); k.name() != first {
					t.Errorf("%s seals under %08x, made by %s", r.Self().Name(), k.statement.id, k.statement.creator.Name())
				}
			}
			if n := w.store.count(".k."); n > 16 {
				t.Errorf("%d keys were made", n)
			}
			for _, writer := range writers {
				s := value(writer.Sender(w.ctx(), ch))(t)
				frame, _, err := s.Seal(nil, draft(ch.Name()+".x", "to all"))
				check(t, err)
				for _, reader := range readers {
					rc := value(reader.Receiver(ch))(t)
					if _, err := open(t, reader, rc, frame, wantEvent(ch.Name()+".x")); err != nil {
						t.Errorf("%s to %s: %v", writer.Self().Name(), reader.Self().Name(), err)
					}
				}
			}
		})
	}
}

// TestFirstFrameOfAnyWriter: nothing that was sealed before the others knew of each other is lost to a reader that was
// there: provisional keys reach it.
func TestFirstFrameOfAnyWriter(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var frames [][]byte
		for i := range 5 {
			writer := w.agent(fmt.Sprintf("feed-%d", i))
			s := value(writer.Sender(w.ctx(), prices))(t)
			frame, _, err := s.Seal(nil, draft("prices.x", "first"))
			check(t, err)
			frames = append(frames, frame)
		}
		reader := w.agent("planner")
		rc := value(reader.Receiver(prices))(t)
		check(t, reader.Join(w.ctx(), prices))
		pass(time.Second)
		rc.start.Store(0) // it was subscribed all the while
		for i, frame := range frames {
			if _, err := open(t, reader, rc, frame, wantEvent("prices.x")); err != nil {
				t.Errorf("feed-%d: %v", i, err)
			}
		}
	})
}

// TestProvisionalIsReplaced: a writer alone makes its own key at once; a reader that comes, or comes back with keys of
// its own, has it seal under a reader's.
func TestProvisionalIsReplaced(t *testing.T) {
	for _, back := range []bool{false, true} {
		bubble(t, func(t *testing.T, w *world) {
			dir := filepath.Join(t.TempDir(), "state")
			if back {
				reader := w.agentIn(dir, "planner")
				check(t, reader.Join(w.ctx(), prices))
				check(t, reader.Close(context.Background()))
			}
			feed := w.agent("feed-1")
			check(t, feed.Join(w.ctx(), prices))
			c := channelOf(t, feed, prices)
			if !c.provisional(currentKey(t, feed, prices).statement) {
				t.Fatal("not provisional")
			}
			reader := w.agentIn(dir, "planner")
			check(t, reader.Join(w.ctx(), prices))
			pass(5 * time.Second)
			synctest.Wait()
			if c.provisional(currentKey(t, feed, prices).statement) {
				t.Errorf("back %v: the writer still seals under its own key", back)
			}
			p := w.meet(prices, reader, feed)
			p.stillTalks(t)
		})
	}
}

// TestMeetSoon: whoever comes second has a key well within 300 ms, also when the policy has moved on since the key was
// made.
func TestMeetSoon(t *testing.T) {
	for _, second := range []string{"feed-2", "exec-2"} {
		for _, n := range []int{1, 2} {
			bubble(t, func(t *testing.T, w *world) {
				p := w.meet(prices, w.agent("planner"), w.agent("feed-1"))
				pass(time.Minute)
				if n > 1 {
					w.setPolicy(revision(n))
					check(t, p.reader.Refresh(w.ctx()))
					check(t, p.writer.Refresh(w.ctx()))
					synctest.Wait()
				}
				newcomer := w.agent(second)
				start := time.Now()
				check(t, newcomer.Join(w.ctx(), prices))
				if d := time.Since(start); d > 200*time.Millisecond {
					t.Errorf("%s waited %v under revision %d", second, d, n)
				}
				pass(time.Second)
				synctest.Wait()
				if c := channelOf(t, newcomer, prices); c.provisional(currentKey(t, newcomer, prices).statement) {
					t.Errorf("%s seals under a provisional key", second)
				}
				if second == "exec-2" {
					w.meet(prices, newcomer, p.writer).stillTalks(t)
				} else {
					w.meet(prices, p.reader, newcomer).stillTalks(t)
				}
				if k := w.store.count(".k."); k > n+1 {
					t.Errorf("%d keys made", k)
				}
			})
		}
	}
}

// TestRequestOverPolicies: a request opens that was sealed just before its sender adopted the next policy, by an agent that asks for the key after
// that. It is given the key that its request is under, and not only one made for the new policy.
func TestRequestOverPolicies(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		planner, exec := w.agent("planner"), w.agent("exec-1")
		ch := value(policy.Pair("planner", "exec-1"))(t)
		s := value(planner.Sender(w.ctx(), ch))(t)
		frame, _, err := s.Seal(nil, &Draft{Kind: envelope.KindRequest, Recipient: "exec-1", Messages: []envelope.Message{{}}})
		check(t, err)
		w.setPolicy(revision(2))
		for _, r := range []*Ring{planner, exec} {
			check(t, r.Refresh(w.ctx()))
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(w.ctx(), 5*time.Second)
		defer cancel()
		check(t, exec.Await(ctx, frame))
		mustOpen(t, value(exec.PairReceiver())(t), frame, &Want{Kinds: Kinds(envelope.KindRequest), Recipient: "exec-1"})

		// Once nothing sealed under it can be live any more, nobody else is given it.
		pass(10 * time.Minute)
		synctest.Wait()
		late := w.agent("exec-1")
		check(t, late.Join(w.ctx(), ch))
		pass(time.Minute)
		synctest.Wait()
		if c := channelOf(t, late, ch); len(c.keys) != 1 {
			t.Errorf("a later one holds %d keys", len(c.keys))
		}
	})
}

// TestPolicyReachesAgentsOneByOne: an agent that the next policy lets in is not turned away for good by those who
// have not adopted it yet; and one that it makes a reader is given K.
func TestPolicyReachesAgentsOneByOne(t *testing.T) {
	for _, name := range []string{"exec-new", "feed-1"} {
		bubble(t, func(t *testing.T, w *world) {
			first := strings.Replace(testPolicy, `subscribe: [planner, "exec-*"]`, `subscribe: [planner, exec-1]`, 1)
			w.setPolicy(first)
			reader, feed := w.agent("planner"), w.agent("feed-2")
			p := w.meet(prices, reader, feed)
			writer := w.agent("feed-1")
			check(t, writer.Join(w.ctx(), prices))
			next := strings.Replace(strings.Replace(first, "exec-1]", "exec-1, exec-new, feed-1]", 1), "revision: 1", "revision: 2", 1)
			w.setPolicy(next)
			joiner := writer
			if name == "feed-1" {
				check(t, joiner.Refresh(w.ctx()))
			} else {
				joiner = w.agent(name)
			}
			_ = joiner.Join(cut2(), prices)
			synctest.Wait() // the others have seen it, and do not know the policy
			check(t, reader.Refresh(w.ctx()))
			check(t, feed.Refresh(w.ctx()))
			pass(5 * time.Second)
			synctest.Wait()
			q := &pairOf{reader: joiner, writer: feed, sender: p.sender, subject: p.subject, want: p.want}
			q.rc = value(joiner.Receiver(prices))(t)
			pass(time.Millisecond)
			q.stillTalks(t)
			p.stillTalks(t)
			if c := channelOf(t, joiner, prices); c.provisional(currentKey(t, joiner, prices).statement) {
				t.Error("it is left with a provisional key")
			}
		})
	}
}

// TestHistory: the policy's setting, and nothing else, gives newcomers the keys from before they came.
func TestHistory(t *testing.T) {
	for _, history := range []bool{false, true} {
		bubble(t, func(t *testing.T, w *world) {
			w.setPolicy(strings.Replace(testPolicy, "prices: {", fmt.Sprintf("prices: {history: %v, rotate: 10m, ", history), 1))
			w.certificates = 24 * time.Hour
			p := w.meet(prices, w.agent("planner"), w.agent("feed-1"))
			old := currentKey(t, p.reader, prices)
			pass(11 * time.Minute)
			synctest.Wait()
			if currentKey(t, p.reader, prices) == old {
				t.Fatal("no rotation")
			}
			late := w.agent("exec-1")
			check(t, late.Join(w.ctx(), prices))
			pass(time.Second)
			synctest.Wait()
			if got := channelOf(t, late, prices).held(old.statement.id) != nil; got != history {
				t.Errorf("history %v: the newcomer has the older key: %v", history, got)
			}
			writer := w.agent("feed-2")
			check(t, writer.Join(w.ctx(), prices))
			pass(time.Second)
			synctest.Wait()
			for _, k := range channelOf(t, writer, prices).keys {
				if k.reader || k.k.bytes() != nil {
					t.Error("a writer was given K")
				}
			}
		})
	}
}

// TestReaderReturns: with a state directory an agent keeps its card and its keys, and needs nobody to seal and open.
func TestReaderReturns(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		dir := filepath.Join(t.TempDir(), "state")
		reader := w.agentIn(dir, "planner")
		p := w.meet(prices, reader, w.agent("feed-1"))
		q := w.meet(gossip, reader, p.writer)
		card, key := reader.Card(), currentKey(t, reader, prices)
		check(t, reader.Close(context.Background()))
		pass(time.Second)
		frame := p.seal(t, "while it was away")

		again := w.agentIn(dir, "planner")
		if again.Card() != card {
			t.Error("another card")
		}
		check(t, again.Join(w.ctx(), prices))
		if k := currentKey(t, again, prices); k.name() != key.name() || !bytes.Equal(k.k.bytes(), key.k.bytes()) {
			t.Error("another key")
		}
		rc := value(again.Receiver(prices))(t)
		rc.start.Store(0)
		if _, err := open(t, again, rc, frame, p.want); err != nil {
			t.Errorf("what was sent while it was away: %v", err)
		}
		// It has not used gossip in this life, and keeps that key all the same.
		check(t, again.Close(context.Background()))
		third := w.agentIn(dir, "planner")
		check(t, third.Join(w.ctx(), gossip))
		if channelOf(t, third, gossip).held(keyOf(t, q.seal(t, "x"))) == nil {
			t.Error("the key of a channel that was not used is gone")
		}
	})
}

// TestLeaving: a ring in memory says that it goes, one with a directory will be back.
func TestLeaving(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stays := w.agent("planner")
		check(t, stays.Join(w.ctx(), prices))
		c := channelOf(t, stays, prices)
		gone, back := w.agent("exec-1"), w.agentIn(filepath.Join(t.TempDir(), "state"), "exec-2")
		for _, r := range []*Ring{gone, back} {
			check(t, r.Join(w.ctx(), prices))
			synctest.Wait()
			check(t, r.Close(context.Background()))
			check(t, r.Close(context.Background()))
			if err := r.Join(w.ctx(), prices); err == nil {
				t.Error("joined after Close")
			}
			if err := r.Attach(w.ctx(), w.source("exec-1"), w.store, nil); err == nil {
				t.Error("attached after Close")
			}
		}
		synctest.Wait()
		if len(c.joins) != 1 || c.joins[joinName{"exec-2", c.joinOf("exec-2")}] == nil {
			t.Errorf("joined: %v", slices.Collect(maps.Keys(c.joins)))
		}
	})
}

// joinOf returns the card that a name has joined with.
func (c *channel) joinOf(name string) string {
	for j := range c.joins {
		if j.name == name {
			return j.card
		}
	}
	return ""
}

// TestJoinInAnothersName: a member can join under another's card id, and say that it has left. The other is given
// its keys all the same.
func TestJoinInAnothersName(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		p := w.meet(prices, w.agent("planner"), w.agent("feed-1"))
		late := w.agent("exec-1")
		for _, value := range []string{"here", ""} {
			key := policy.JoinKey(prices, "feed-1", late.Card().String())
			check(t, w.store.Put(w.ctx(), policy.BucketKeys, key, []byte(value)))
		}
		synctest.Wait()
		check(t, late.Join(w.ctx(), prices))
		check(t, w.store.Put(w.ctx(), policy.BucketKeys, policy.JoinKey(prices, "feed-1", late.Card().String()), nil))
		synctest.Wait()
		if k := currentKey(t, late, prices); k.statement.creator.Name() != "planner" {
			t.Errorf("its key is %s's", k.statement.creator.Name())
		}
		p.stillTalks(t)
	})
}

// TestJoinsAreBounded: no name fills the joins, and those past the bound are reported.
func TestJoinsAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		p := w.meet(prices, w.agent("planner"), w.agent("feed-1"))
		knock := func(name string, age time.Duration) {
			key := policy.JoinKey(prices, name, newULID(t, time.Now().Add(-age)).String())
			check(t, w.store.Put(w.ctx(), policy.BucketKeys, key, []byte("here")))
		}
		for range maxPerName + 10 {
			knock("feed-2", time.Hour)
		}
		knock("feed-2", 2*time.Hour)
		c := channelOf(t, p.reader, prices)
		synctest.Wait()
		if n := len(c.joins); n != maxPerName+1 {
			t.Errorf("%d joins kept", n)
		}
		if !w.reported("more joins") {
			t.Error("not reported")
		}
		// However often an instance of an agent was killed, its next one gets its keys.
		next := w.agent("feed-2")
		check(t, next.Join(w.ctx(), prices))
		if k := currentKey(t, next, prices); k.statement.creator.Name() != "planner" {
			t.Errorf("its key is %s's", k.statement.creator.Name())
		}
		synctest.Wait()
		for i := 0; len(c.joins) < maxJoins; i++ { // nobody else touches them: there is nothing to do
			name := joinName{fmt.Sprint("feed-", 3+i%100), newULID(t, time.Now().Add(-time.Hour)).String()}
			c.joins[name] = &join{joinName: name, wrapped: map[uint32]bool{}}
		}
		late := w.agent("exec-1")
		check(t, late.Join(w.ctx(), prices))
		if k := currentKey(t, late, prices); k.statement.creator.Name() != "planner" {
			t.Errorf("its key is %s's", k.statement.creator.Name())
		}
	})
}
