package keyring

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/sealbus/sealbus/policy"
)

// TestRawStatements: an agent that has no part in a channel gets the statements that prove what is kept there, and no key.
func TestRawStatements(t *testing.T) {
	inquestWorld(t, func(t *testing.T, q *inquest) {
		if (&Ring{}).RawPolicy() != nil {
			t.Error("a policy before there is one")
		}
		k := currentKey(t, q.worker, queue)
		gets := func(want ...uint32) []KeyStatement {
			t.Helper()
			list := value(q.auditor.KeyStatements(q.w.ctx(), queue))(t)
			var ids []uint32
			for _, s := range list {
				ids = append(ids, s.Key)
			}
			if slices.Sort(ids); !slices.Equal(ids, want) {
				t.Errorf("keys %08x, want %08x", ids, want)
			}
			return list
		}
		list := gets(k.statement.id)
		if list[0].KeyInfo != k.statement.info() || !bytes.Equal(list[0].Raw, k.statement.raw) {
			t.Errorf("%+v", list[0])
		}
		q.show(t, q.worker)
		if info := value(q.witness.AddKey(list[0].Raw))(t); info != list[0].KeyInfo {
			t.Errorf("to a witness it says %+v", info)
		}

		// What is forged is left out and told.
		forged := statementBy(t, q.producer, queue, 7, mustSecret(t))
		forged.creator, forged.card = q.worker.Self(), q.worker.Card()
		q.w.publishKey(q.producer, forged)
		elsewhere := statementBy(t, q.producer, queue, 8, mustSecret(t))
		q.w.publishKey(q.producer, elsewhere)
		check(t, q.w.store.Put(q.w.ctx(), policy.BucketKeys, policy.KeyStatementKey(queue, "planner", 9, elsewhere.hash), elsewhere.raw))
		check(t, q.w.store.Put(q.w.ctx(), policy.BucketKeys, policy.KeyStatementKey(queue, "planner", 10, elsewhere.hash), bytes.Repeat([]byte{'x'}, maxEntry+1)))
		gets(slices.Sorted(slices.Values([]uint32{8, k.statement.id}))...)
		for _, text := range []string{"signature", "name that is not its own", "at most 16384 are looked at"} {
			if !q.w.reported(text) {
				t.Errorf("nothing with %q was reported", text)
			}
		}

		// A creator whose card has expired since is believed; of what it makes afterwards nothing is.
		pass(2 * time.Hour)
		late := statementBy(t, q.producer, queue, 11, mustSecret(t))
		q.w.publishKey(q.producer, late)
		gets(slices.Sorted(slices.Values([]uint32{8, k.statement.id}))...)
		if !q.w.reported("after its card had expired") {
			t.Error("a key of an expired card was not reported")
		}

		q.w.store.tamper(func() {
			q.w.store.fail = func(op, bucket, _ string) error {
				if bucket == policy.BucketCards || op == "list" {
					return errors.New("the store is away")
				}
				return nil
			}
		})
		if _, err := q.auditor.KeyStatements(q.w.ctx(), queue); err == nil {
			t.Error("the store fails, and nothing is said")
		}
		q.w.store.tamper(func() { q.w.store.fail = nil })
		q.auditor.cards.mu.Lock()
		q.auditor.cards.cards = nil
		q.auditor.cards.mu.Unlock()
		q.w.store.tamper(func() { q.w.store.fail = func(op, bucket, _ string) error { return cardsFail(bucket) } })
		if _, err := q.auditor.KeyStatements(q.w.ctx(), queue); err == nil {
			t.Error("the store has no cards now, and keys are left out")
		}
		q.w.store.tamper(func() { q.w.store.fail = nil })
		check(t, q.auditor.Close(q.w.ctx()))
		if _, err := q.auditor.KeyStatements(q.w.ctx(), queue); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
}

func cardsFail(bucket string) error {
	if bucket == policy.BucketCards {
		return errors.New("the store is away")
	}
	return nil
}

// TestRawCard: a card comes out of the store as it is, once it has been verified.
func TestRawCard(t *testing.T) {
	inquestWorld(t, func(t *testing.T, q *inquest) {
		get := func() ([]byte, error) { return q.auditor.RawCard(q.w.ctx(), q.producer.Self(), q.producer.Card()) }
		first := value(get())(t)
		pass(2 * time.Hour)
		if raw := value(get())(t); !bytes.Equal(raw, first) {
			t.Error("an expired card is another")
		}
		q.w.renew(q.producer, time.Hour)
		second := value(get())(t)
		if bytes.Equal(second, first) {
			t.Error("the renewed card is the same")
		}
		other := q.w.agent("prod-1")
		for name, raw := range map[string][]byte{"another's": cardOf(t, other.own, other.att.src), "junk": []byte("junk"), "of other keys, by another": cardOf(t, q.producer.own, other.att.src)} {
			q.w.putCard("planner", q.producer, raw)
			if _, err := get(); err == nil {
				t.Errorf("%s: handed out", name)
			}
		}
		q.w.store.tamper(func() { q.w.store.hide = func(bucket, _ string) bool { return bucket == policy.BucketCards } })
		if _, err := get(); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
	})
}
