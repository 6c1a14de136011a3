package keyring

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/policy"
)

// revision returns the test policy under another revision, changed as old and new texts in turn say.
func revision(n int, changes ...string) string {
	return strings.NewReplacer(append([]string{"revision: 1", fmt.Sprintf("revision: %d", n)}, changes...)...).Replace(testPolicy)
}

func (w *world) signedBy(key *identity.OperatorKey, text string) []byte {
	w.t.Helper()
	return value(policy.Sign([]byte(text), key, time.Now()))(w.t)
}

// TestPoliciesOfOthers: a policy counts when a pinned operator's key signed it, and for no other reason.
func TestPoliciesOfOthers(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stranger := value(identity.GenerateOperatorKey())(t)
		agent := value(w.ca.Agent("operator-1", time.Hour))(t)
		type claims struct {
			IssuedAt int64  `json:"iat"`
			Operator string `json:"operator"`
			Policy   string `json:"policy"`
		}
		c := claims{IssuedAt: time.Now().Unix(), Operator: "", Policy: revision(2)}
		svid := value(identity.SignSVIDStatement("sealbus-policy", c, agent))(t)
		good := w.sign(revision(2))
		cut := strings.Split(string(good), ".")
		other := strings.Split(string(w.sign(revision(3))), ".")
		for name, raw := range map[string][]byte{
			"another operator's":                       w.signedBy(stranger, revision(2)),
			"signed with a certificate of the CA":      svid,
			"another policy under a genuine signature": []byte(cut[0] + "." + other[1] + "." + cut[2]),
			"no signature":                             []byte(cut[0] + "." + cut[1] + "."),
			"empty":                                    {},
			"the text alone":                           []byte(revision(2)),
			"of another trust domain":                  w.sign(strings.ReplaceAll(revision(2), "example.org", "example.com")),
		} {
			t.Log(name)
			r := value(Memory(w.operator.Fingerprint()))(t)
			check(t, w.store.Put(w.ctx(), policy.BucketPolicy, policy.PolicyKey, raw))
			if err := r.Attach(w.ctx(), w.source("planner"), w.store, nil); err == nil || r.Policy() != nil {
				t.Errorf("attached: %v", err)
			}
			w.setPolicy(testPolicy)
			check(t, r.Attach(w.ctx(), w.source("planner"), w.store, nil))
			if err := r.AdoptPolicy(raw); err == nil || r.Policy().Revision() != 1 {
				t.Errorf("adopted: %v", err)
			}
			check(t, r.Close(context.Background()))
		}
		if err := w.agent("planner").AdoptPolicy(w.signedBy(stranger, revision(2))); !errors.Is(err, policy.ErrUntrustedOperator) {
			t.Error(err)
		}
	})
}

func TestRollbackAndFork(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		r := w.agent("planner")
		five := w.sign(revision(5))
		check(t, r.AdoptPolicy(five))
		if err := r.AdoptPolicy(w.sign(testPolicy)); !errors.Is(err, policy.ErrRollback) {
			t.Errorf("older: %v", err)
		}
		if err := r.AdoptPolicy(w.sign(revision(5, "24h", "25h"))); !errors.Is(err, policy.ErrFork) {
			t.Errorf("fork: %v", err)
		}
		check(t, r.AdoptPolicy(five))
		check(t, w.store.Put(w.ctx(), policy.BucketPolicy, policy.PolicyKey, w.sign(testPolicy)))
		if err := r.Refresh(w.ctx()); !errors.Is(err, policy.ErrRollback) {
			t.Errorf("refresh: %v", err)
		}
		if n := r.Policy().Revision(); n != 5 {
			t.Errorf("revision %d is in force", n)
		}
	})
}

// TestRollbackOverARestart: the newest policy that was adopted is remembered, also by an agent that was killed right
// after.
func TestRollbackOverARestart(t *testing.T) {
	for _, crash := range []bool{false, true} {
		bubble(t, func(t *testing.T, w *world) {
			dir := filepath.Join(t.TempDir(), "state")
			r := w.agentIn(dir, "planner")
			check(t, r.AdoptPolicy(w.sign(revision(5))))
			if crash {
				dir = copyDir(t, dir)
			} else {
				check(t, r.Close(context.Background()))
			}
			again := value(Open(dir, EncryptWith(kekForTests), w.operator.Fingerprint()))(t)
			defer again.Close(context.Background())
			if again.Policy() == nil || again.Policy().Revision() != 5 {
				t.Error("the state directory has lost the policy")
			}
			if err := again.Attach(w.ctx(), w.source("planner"), w.store, nil); !errors.Is(err, policy.ErrRollback) {
				t.Errorf("crash %v: attached to a store with revision 1: %v", crash, err)
			}
			w.setPolicy(revision(5))
			if err := again.Attach(w.ctx(), w.source("planner"), w.store, nil); !errors.Is(err, policy.ErrFork) && err != nil {
				t.Error(err)
			}
		})
	}
}

// TestOperatorNamedByThePolicy: a policy may name who signs the next, and that holds over a restart; pins that are
// taken back take along what they led to.
func TestOperatorNamedByThePolicy(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		next := value(identity.GenerateOperatorKey())(t)
		dir := filepath.Join(t.TempDir(), "state")
		r := w.agentIn(dir, "planner")
		if err := r.AdoptPolicy(w.signedBy(next, revision(2))); !errors.Is(err, policy.ErrUntrustedOperator) {
			t.Fatalf("before it is named: %v", err)
		}
		check(t, r.AdoptPolicy(w.sign(fmt.Sprintf("%soperators: [%q]\n", revision(2), next.Fingerprint()))))
		three := w.signedBy(next, revision(3))
		check(t, r.AdoptPolicy(three))
		check(t, w.store.Put(w.ctx(), policy.BucketPolicy, policy.PolicyKey, three))
		check(t, r.Close(context.Background()))

		again := w.agentIn(dir, "planner")
		if n := again.Policy().Revision(); n != 3 {
			t.Errorf("revision %d is in force", n)
		}
		check(t, again.Close(context.Background()))

		if _, err := Open(dir, EncryptWith(kekForTests), value(identity.GenerateOperatorKey())(t).Fingerprint()); !errors.Is(err, policy.ErrUntrustedOperator) {
			t.Errorf("with other pins: %v", err)
		}
		check(t, value(Open(dir, EncryptWith(kekForTests), next.Fingerprint()))(t).Close(context.Background()))
	})
}

func TestNoOperatorNoPolicy(t *testing.T) {
	if _, err := Memory(); err == nil {
		t.Error("a ring without operators")
	}
	if _, err := Memory(identity.Fingerprint{}); err == nil {
		t.Error("a ring with an empty fingerprint")
	}
	bubble(t, func(t *testing.T, w *world) {
		delete(w.store.entries, policy.BucketPolicy+"/"+policy.PolicyKey)
		r := value(Memory(w.operator.Fingerprint()))(t)
		if err := r.Attach(w.ctx(), w.source("planner"), w.store, nil); !errors.Is(err, ErrNoPolicy) {
			t.Error(err)
		}
		if _, err := r.Sender(w.ctx(), prices); !errors.Is(err, ErrNotAttached) {
			t.Error(err)
		}
		check(t, r.Close(context.Background()))
	})
}

// TestRevokedWriter: once the policy says so, its frames are refused, also in a session that is open, and whatever
// their time says; its own ring stops sealing.
func TestRevokedWriter(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		p := w.meet(prices, w.agent("planner"), w.agent("feed-1"))
		frame := p.seal(t, "sealed before")
		raw := w.sign(revision(2) + "revoked: [feed-1]\n")
		check(t, p.reader.AdoptPolicy(raw))
		mustReject(t, p.rc, frame, p.want, Revoked)
		check(t, p.writer.AdoptPolicy(raw))
		if _, _, err := p.sender.Seal(nil, draft(p.subject, "x")); !errors.Is(err, ErrNotEntitled) {
			t.Errorf("a revoked agent seals: %v", err)
		}
		if err := p.reader.Await(cut(), frame); !errors.Is(err, ErrNotEntitled) {
			t.Errorf("waiting for a revoked agent's frame: %v", err)
		}
	})
}

// TestLostReaderMakesKeysUnfit: when a policy takes the channel from a reader, nothing is sealed under a key that it
// holds once that policy is adopted, not even while the store hangs; a new key follows.
func TestLostReaderMakesKeysUnfit(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		reader, feed, lost := w.agent("planner"), w.agent("feed-1"), w.agent("exec-1")
		p := w.meet(prices, reader, feed)
		check(t, lost.Join(w.ctx(), prices))
		synctest.Wait()
		old := currentKey(t, feed, prices)
		if held := channelOf(t, lost, prices).held(old.statement.id); held == nil || !held.reader {
			t.Fatal("exec-1 has no key to lose")
		}
		hang := errors.New("the store hangs")
		w.store.tamper(func() {
			w.store.fail = func(string, string, string) error { return hang }
			w.store.put = func(string, string) error { return hang }
		})
		before := p.seal(t, "under the old key")
		raw := w.sign(revision(2) + "revoked: [exec-1]\n")
		for _, r := range []*Ring{feed, reader} {
			check(t, r.AdoptPolicy(raw))
		}
		if _, _, err := p.sender.Seal(nil, draft(p.subject, "x")); err == nil {
			t.Error("sealed under a key that a revoked reader holds")
		}
		mustReject(t, p.rc, before, p.want, NoKey)
		w.store.tamper(func() { w.store.fail, w.store.put = nil, nil })
		check(t, reader.Join(w.ctx(), prices))
		check(t, feed.Join(w.ctx(), prices))
		pass(10 * time.Second)
		synctest.Wait()
		frame := p.seal(t, "under a new key")
		if _, err := open(t, reader, p.rc, frame, p.want); err != nil {
			t.Error(err)
		}
		if keyOf(t, frame) == old.statement.id || channelOf(t, lost, prices).held(keyOf(t, frame)) != nil {
			t.Error("the reader that was revoked has the new key")
		}
	})
}

func keyOf(t testing.TB, frame []byte) uint32 {
	t.Helper()
	return value(claimedHeader(frame))(t).key
}

// TestLosingOnesPlace: an agent that the policy takes a channel from goes quiet.
func TestLosingOnesPlace(t *testing.T) {
	for _, name := range []string{"planner", "feed-1"} {
		bubble(t, func(t *testing.T, w *world) {
			p := w.meet(prices, w.agent("planner"), w.agent("feed-1"))
			r := map[string]*Ring{"planner": p.reader, "feed-1": p.writer}[name]
			n := len(w.store.entries)
			check(t, r.AdoptPolicy(w.sign(revision(2)+"revoked: ["+name+"]\n")))
			pass(time.Minute)
			synctest.Wait()
			if more := len(w.store.entries) - n; more > 0 {
				t.Errorf("%s stored %d entries after it had lost its place", name, more)
			}
			if err := r.Join(w.ctx(), prices); !errors.Is(err, ErrNotEntitled) {
				t.Error(err)
			}
		})
	}
}

// TestChannelNewToALaterPolicy has an agent hear of a channel only after it has adopted later policies: keys from
// before are fit as long as none of these took the channel from anybody, as far back as it remembers policies.
func TestChannelNewToALaterPolicy(t *testing.T) {
	w := newWorld(t)
	pins := []identity.Fingerprint{w.operator.Fingerprint()}
	adopt := func(v *view, text string) *view {
		t.Helper()
		raw := w.sign(text)
		return nextView(v, value(policy.Verify(raw, pins))(t), raw, nil, time.Now())
	}
	kept, lost := policy.MustParseChannel("topic/news"), policy.MustParseChannel("topic/prices")
	text := func(n int, subscribers string) string {
		return fmt.Sprintf("trust_domain: example.org\nrevision: %d\ntopics:\n  news: {publish: [a], subscribe: [b]}\n"+
			"  prices: {publish: [a], subscribe: [%s]}\n", n, subscribers)
	}
	v := adopt(nil, text(1, "b, c"))
	v = adopt(v, text(2, "b, c, d"))
	v = adopt(v, text(3, "b, c"))
	v = adopt(v, text(4, "b, c, e"))
	if v.sinceOf(kept) != 1 || v.sinceOf(lost) != 3 {
		t.Errorf("fit since %d and %d, want 1 and 3", v.sinceOf(kept), v.sinceOf(lost))
	}
	for n := 5; n < 5+maxEarlier; n++ {
		v = adopt(v, text(n, "b, c, e"))
	}
	if got := v.sinceOf(kept); len(v.earlier) != maxEarlier || got != 4 {
		t.Errorf("%d policies are remembered and keys fit since %d, want %d and 4", len(v.earlier), got, maxEarlier)
	}
}
