package keyring

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealbus/sealbus/policy"
)

var errDown = errors.New("the store is down")

// TestStoreFailsForAWhile has one kind of call fail while agents join: they say so when their time is up, go on trying,
// and come together once the store is back.
func TestStoreFailsForAWhile(t *testing.T) {
	for name, down := range map[string]func(*memStore){
		"lists":   func(s *memStore) { s.fail = func(op, _, _ string) error { return onlyFor(op == "list") } },
		"follows": func(s *memStore) { s.fail = func(op, _, _ string) error { return onlyFor(op == "follow") } },
		"puts":    func(s *memStore) { s.put = func(string, string) error { return errDown } },
		"joins":   func(s *memStore) { s.put = func(_, key string) error { return onlyFor(strings.Contains(key, ".j.")) } },
		"keys":    func(s *memStore) { s.put = func(_, key string) error { return onlyFor(strings.Contains(key, ".k.")) } },
	} {
		bubble(t, func(t *testing.T, w *world) {
			reader, feed := w.agent("planner"), w.agent("feed-1")
			w.store.tamper(func() { down(w.store) })
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			err := reader.Join(ctx, prices)
			if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, errDown) {
				t.Errorf("%s: %v", name, err)
			}
			if !w.reported(errDown.Error()) {
				t.Errorf("%s: not reported", name)
			}
			pass(time.Minute)
			if n := w.reportCount(); n > 200 {
				t.Errorf("%s: %d tries in a minute", name, n)
			}
			w.store.tamper(func() { w.store.fail, w.store.put = nil, nil })
			start := time.Now()
			p := w.meet(prices, reader, feed)
			if d := time.Since(start); d > 3*time.Second {
				t.Errorf("%s: it took %v after the store was back", name, d)
			}
			p.stillTalks(t)
		})
	}
}

func onlyFor(which bool) error {
	if which {
		return errDown
	}
	return nil
}

// TestNewcomerOutlastsTheStore: a wrap that could not be stored and a card that could not be read are tried again.
func TestNewcomerOutlastsTheStore(t *testing.T) {
	for _, what := range []string{"wraps", "cards"} {
		bubble(t, func(t *testing.T, w *world) {
			p := w.meet(prices, w.agent("planner"), w.agent("feed-1"))
			late := w.agent("feed-2")
			w.store.tamper(func() {
				if what == "wraps" {
					w.store.put = func(_, key string) error { return onlyFor(strings.Contains(key, ".w.")) }
				} else {
					w.store.fail = func(op, bucket, _ string) error { return onlyFor(op == "get" && bucket == policy.BucketCards) }
				}
			})
			_ = late.Join(cut2(), prices)
			pass(100 * time.Millisecond)
			w.store.tamper(func() { w.store.fail, w.store.put = nil, nil })
			start := time.Now()
			check(t, late.Join(w.ctx(), prices))
			pass(2 * time.Second)
			synctest.Wait()
			if k := currentKey(t, late, prices); k.statement.creator != p.reader.Self() {
				t.Errorf("%s: %v later it seals under %s's key", what, time.Since(start), k.statement.creator.Name())
			}
			w.meet(prices, p.reader, late).stillTalks(t)
		})
	}
}

// TestHidden has a broker hold entries back from one agent: it misses something, and the others go on. Nothing that it
// does get is wrong.
func TestHidden(t *testing.T) {
	for name, hide := range map[string]string{
		"statements": ".k.planner.",
		"wraps":      ".w.planner.",
		"joins":      ".j.exec-1.",
		"all":        "topic.",
		"cards":      "planner.",
	} {
		bubble(t, func(t *testing.T, w *world) {
			p := w.meet(prices, w.agent("planner"), w.agent("feed-1"))
			late := w.agent("exec-1")
			w.store.tamper(func() {
				w.store.hide = func(_, key string) bool { return strings.Contains(key, hide) }
			})
			check(t, late.Join(w.ctx(), prices)) // with a key of its own, at worst
			pass(10 * time.Second)
			if name != "cards" { // who cannot see the reader's card gives it no key, and says so
				p.stillTalks(t)
			}
			if k := currentKey(t, late, prices).statement; k.creator != late.Self() {
				t.Errorf("%s hidden: a key of %s", name, k.creator.Name())
			}
			w.store.tamper(func() { w.store.hide = nil })
			for _, r := range []*Ring{late, p.reader, p.writer} {
				check(t, r.Refresh(w.ctx()))
			}
			pass(10 * time.Second)
			p.stillTalks(t)
			w.meet(prices, late, p.writer).stillTalks(t)
		})
	}
}

// TestStoreThatHangs: Join ends with its context, and Close does not wait for the store.
func TestStoreThatHangs(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		r := value(Memory(w.operator.Fingerprint()))(t)
		check(t, r.Attach(w.ctx(), w.source("planner"), hanging{w.store}, nil))
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		start := time.Now()
		if err := r.Join(ctx, prices); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		check(t, r.Close(ctx))
		if d := time.Since(start); d > 2*time.Second {
			t.Errorf("it took %v", d)
		}
	})
}

// hanging is a store whose List answers only when it is told to stop waiting.
type hanging struct{ Store }

func (hanging) List(ctx context.Context, _, _ string) ([]Entry, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestCloseLeavesNothingBehind: no goroutine (the bubble would not end), no feed, and every call says ErrClosed. Calls
// that wait are woken.
func TestCloseLeavesNothingBehind(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.store.tamper(func() { w.store.fail = func(op, _, _ string) error { return onlyFor(op == "list") } })
		r := w.agent("planner")
		waiting := make(chan error)
		for _, ch := range []policy.Channel{prices, gossip, ledger, queue} {
			go func() { waiting <- r.Join(context.Background(), ch) }()
		}
		synctest.Wait()
		check(t, r.Close(context.Background()))
		for range 4 {
			if err := <-waiting; !errors.Is(err, ErrClosed) {
				t.Error(err)
			}
		}
		if n := len(w.store.feeds); n != 0 {
			t.Errorf("%d feeds are still followed", n)
		}
		check(t, r.Close(context.Background()))
		for _, err := range []error{
			r.Join(w.ctx(), prices), r.Refresh(w.ctx()), r.Await(w.ctx(), nil),
			errOf(r.Receiver(prices)), errOf(r.PairReceiver()), errOf(r.Sender(w.ctx(), prices)),
		} {
			if !errors.Is(err, ErrClosed) {
				t.Errorf("got %v, want ErrClosed", err)
			}
		}
		if !r.Self().IsZero() || !r.Card().IsZero() {
			t.Error("a closed ring says who it is")
		}
	})
}

func errOf[T any](_ T, err error) error { return err }

// TestConcurrentClose: every Close waits until the ring is closed, not only the first.
func TestConcurrentClose(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		r := w.agentIn(t.TempDir(), "planner")
		check(t, r.Join(w.ctx(), prices))
		gate, release := make(chan struct{}), r.storage.release
		r.storage.release = func() error {
			<-gate
			return release()
		}
		var returned atomic.Int64
		for range 4 {
			go func() {
				if err := r.Close(context.Background()); err != nil {
					t.Error(err)
				}
				returned.Add(1)
			}()
		}
		synctest.Wait()
		if n := returned.Load(); n != 0 {
			t.Errorf("%d of 4 returned before the directory was let go", n)
		}
		close(gate)
		synctest.Wait()
		if n := returned.Load(); n != 4 {
			t.Errorf("%d of 4 returned", n)
		}
	})
}

// TestAttachFails leaves a ring that can be attached again.
func TestAttachFails(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		r := value(Memory(w.operator.Fingerprint()))(t)
		defer r.Close(context.Background())
		w.store.tamper(func() { w.store.put = func(string, string) error { return errDown } })
		if err := r.Attach(w.ctx(), w.source("planner"), w.store, nil); !errors.Is(err, errDown) {
			t.Error(err)
		}
		if _, err := r.Receiver(prices); !errors.Is(err, ErrNotAttached) {
			t.Error(err)
		}
		w.store.tamper(func() { w.store.put = nil })
		check(t, r.Attach(w.ctx(), w.source("planner"), w.store, nil))
		if err := r.Attach(w.ctx(), w.source("planner"), w.store, nil); err == nil {
			t.Error("attached twice")
		}
		check(t, r.Join(w.ctx(), prices))
	})
}
