package keyring

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/identity/devca"
	"github.com/sealbus/sealbus/policy"
)

// expired is a producer whose card has expired, and a worker with its key.
type expired struct {
	*shift
	end  time.Time // of the card
	card []byte
}

// expire has a producer seal nothing any more an hour from now.
func (w *world) expire(t *testing.T) *expired {
	t.Helper()
	s := w.shift(queue, w.agentUntil("exec-1", month), w.agentUntil("planner", time.Hour))
	e := &expired{shift: s, end: time.Now().Add(time.Hour)}
	e.card = value(w.store.Get(w.ctx(), policy.BucketCards, e.place()))(t)
	pass(2 * time.Hour)
	return e
}

func (e *expired) place() string {
	return policy.CardKey("planner", e.producer.own.card.String())
}

func (e *expired) frame(t *testing.T, at time.Time) []byte {
	t.Helper()
	return e.craft(t).at(t, at).frame(t)
}

// await waits for what a frame needs no longer than a moment.
func (e *expired) await(t *testing.T, frame []byte) error {
	t.Helper()
	_, err := openStoredWithin(t, time.Second, e.worker, e.sr, frame, e.want)
	return err
}

// forget has the worker know no card and no session.
func (s *shift) forget() {
	s.worker.cards.mu.Lock()
	s.worker.cards.cards = nil
	s.worker.cards.mu.Unlock()
	s.sr.mu.Lock()
	clear(s.sr.sessions)
	s.sr.mu.Unlock()
}

// TestStoredExpiredCard walks the edges of how long an expired card speaks for what was sealed before.
func TestStoredExpiredCard(t *testing.T) {
	for _, test := range []struct {
		name    string
		at, now time.Duration // from the end of the card
		want    Reason
	}{
		{"just before the end", -time.Millisecond, time.Hour, 0},
		{"at the end", 0, time.Hour, Stale},
		{"after the end", time.Millisecond, time.Hour, Stale},
		{"a moment ago, after the end", time.Hour, time.Hour, NoCard},
		{"long before the card began", -48 * time.Hour, time.Hour, 0},
		{"as old as may be", time.Hour - MaxCardAge, time.Hour, 0},
		{"older than may be", time.Hour - MaxCardAge - time.Millisecond, time.Hour, Stale},
		{"as long after as may be", -time.Millisecond, MaxCardAge - time.Millisecond, 0},
		{"longer after than may be", -time.Millisecond, MaxCardAge, Stale},
		{"while it is valid", -time.Minute, -time.Second, 0},
		{"very old, while it is valid", -1000 * time.Hour, -time.Second, 0},
	} {
		for _, known := range []bool{false, true} { // whether the worker has seen the card while it was valid
			queueWorld(t, func(t *testing.T, w *world) {
				s := w.shift(queue, w.agentUntil("exec-1", month), w.agentUntil("planner", time.Hour))
				e := &expired{shift: s, end: time.Now().Add(time.Hour)}
				frame := e.frame(t, e.end.Add(test.at))
				pass(time.Hour + test.now)
				if !known {
					s.forget()
					e.refuses(t, frame, NoCard)
				}
				if err := e.await(t, frame); ReasonOf(err) != test.want {
					t.Errorf("%s, known %v: got %v, want %s", test.name, known, err, test.want)
				}
				// It stays so, and is told without asking again.
				if test.want != NoCard {
					var out Opened
					if err := s.sr.Open(frame, s.want, &out); ReasonOf(err) != test.want {
						t.Errorf("%s, known %v, again: got %v, want %s", test.name, known, err, test.want)
					}
				}
			})
		}
	}
}

// TestStoredExpiredCardInASession: a session that is known changes none of these edges.
func TestStoredExpiredCardInASession(t *testing.T) {
	queueWorld(t, func(t *testing.T, w *world) {
		e := w.expire(t)
		pass(MaxCardAge - time.Hour - time.Minute)
		session := e.craft(t).Session
		frame := func(at time.Time) []byte {
			c := e.craft(t).at(t, at)
			c.Session = session
			return c.frame(t)
		}
		oldest := frame(time.Now().Add(-MaxCardAge))
		if err := e.await(t, oldest); err != nil {
			t.Fatal(err)
		}
		e.takes(t, frame(e.end.Add(-time.Millisecond)))
		e.refuses(t, frame(time.Now().Add(-MaxCardAge-time.Millisecond)), Stale)
		e.refuses(t, frame(e.end), Stale)
		pass(time.Millisecond)
		e.refuses(t, oldest, NoCard) // nobody has asked again
		if err := e.await(t, oldest); ReasonOf(err) != Stale {
			t.Errorf("got %v, want %s", err, Stale)
		}
		e.refuses(t, oldest, Stale)
	})
}

// TestStoredCardMissing: what is not in the store may come yet, and neither AwaitStored nor Open gives up for good.
func TestStoredCardMissing(t *testing.T) {
	queueWorld(t, func(t *testing.T, w *world) {
		e := w.expire(t)
		frame := e.frame(t, e.end.Add(-time.Minute))
		w.store.tamper(func() { w.store.hide = func(bucket, key string) bool { return key == e.place() } })
		e.forget()
		e.refuses(t, frame, NoCard)
		if err := e.worker.AwaitStored(w.ctx(), frame); !errors.Is(err, ErrNotFound) || ReasonOf(err) != 0 {
			t.Errorf("got %v, want ErrNotFound", err)
		}
		e.refuses(t, frame, NoCard)
		w.store.tamper(func() { w.store.hide = nil })
		if err := e.await(t, frame); err != nil {
			t.Error(err)
		}
	})
}

// TestStoredRenewedCard: a sender renews its card in place. The renewed one speaks for what was sealed before it began, and
// what was final only for want of it opens when its sender comes back.
func TestStoredRenewedCard(t *testing.T) {
	queueWorld(t, func(t *testing.T, w *world) {
		e := w.expire(t)
		before := e.frame(t, e.end.Add(-time.Minute))
		w.renew(e.producer, time.Hour) // begins long after that frame
		pass(3 * time.Hour)
		e.forget()
		if err := e.await(t, before); err != nil {
			t.Errorf("sealed before the renewal: %v", err)
		}
		late := e.frame(t, time.Now())
		if err := e.await(t, late); ReasonOf(err) != NoCard {
			t.Errorf("got %v, want %s", err, NoCard)
		}
		pass(renewalPatience)
		if err := e.await(t, late); ReasonOf(err) != Stale {
			t.Errorf("got %v, want %s", err, Stale)
		}
		w.renew(e.producer, time.Hour)
		e.refuses(t, late, Stale) // nobody has asked again
		pass(lapsedCardLife)
		e.refuses(t, late, NoCard)
		if err := e.await(t, late); err != nil {
			t.Errorf("after the sender has come back: %v", err)
		}
	})
}

// TestStoredRenewalIsAwaited: a sender that goes on with a new certificate publishes its card a moment after it seals.
func TestStoredRenewalIsAwaited(t *testing.T) {
	queueWorld(t, func(t *testing.T, w *world) {
		e := w.expire(t)
		frame := e.frame(t, time.Now())
		e.refuses(t, frame, NoCard)
		go func() {
			pass(10 * time.Second)
			w.renew(e.producer, time.Hour)
		}()
		if _, err := openStored(t, e.worker, e.sr, frame, e.want); err != nil {
			t.Error(err)
		}
	})
}

// TestStoredCardsOfOthers puts what is no expired card of the sender's in the place of one.
func TestStoredCardsOfOthers(t *testing.T) {
	queueWorld(t, func(t *testing.T, w *world) {
		e := w.expire(t)
		frame := e.frame(t, e.end.Add(-time.Minute))
		id, now := e.producer.Self(), time.Now()
		ca := func(from, to time.Duration) identity.Source {
			return w.issue(devca.Template{ID: id, NotBefore: now.Add(from), NotAfter: now.Add(to)})
		}
		other := value(devca.New("example.org"))(t)
		foreign := identity.NewMemory(value(other.Issue(devca.Template{ID: id, NotBefore: now.Add(-3 * time.Hour), NotAfter: now.Add(-time.Hour)}))(t), w.ca.Bundle())
		says := func(src identity.Source, expires time.Time) []byte {
			o := e.producer.own
			return value(identity.SignSVIDStatement(typeCard, cardClaims{IssuedAt: now.Unix(), Agent: id.String(), Card: o.card.String(),
				HPKE: b64.EncodeToString(o.hpkePublic), Ed25519: b64.EncodeToString(o.signingPublic), Expires: expires.Unix()}, must(src.GetX509SVID())))(t)
		}
		for name, raw := range map[string][]byte{
			"expired, by another CA":                        says(foreign, now.Add(-time.Hour)),
			"expired, another agent's":                      cardOf(t, e.producer.own, w.issue(devca.Template{ID: e.worker.Self(), NotBefore: now.Add(-3 * time.Hour), NotAfter: now.Add(-time.Hour)})),
			"expired before the certificate began":          says(ca(time.Minute, time.Hour), now.Add(-time.Hour)),
			"outlives its certificate, which expired":       says(ca(-3*time.Hour, -time.Hour), now.Add(time.Hour)),
			"outlives its certificate, both expired":        says(ca(-3*time.Hour, -2*time.Hour), now.Add(-time.Hour)),
			"of a certificate that begins only later":       says(ca(time.Hour, 2*time.Hour), now.Add(90*time.Minute)),
			"expired at the beginning of time":              says(ca(-3*time.Hour, -time.Hour), time.Unix(0, 0)),
			"expired before time":                           says(ca(-3*time.Hour, -time.Hour), time.Unix(-1<<40, 0)),
			"an expired operator's":                         value(identity.SignStatement(typeCard, cardClaims{IssuedAt: now.Unix()}, "", w.operator.Signer()))(t),
			"the genuine one with a byte of its end cut":    e.card[:len(e.card)-1],
			"no statement":                                  []byte("card"),
			"of a card of another id, of the same producer": cardOf(t, must(newOwn(newULID(t, now))), ca(-3*time.Hour, -time.Hour)),
		} {
			t.Log(name)
			e.forget()
			check(t, w.store.Put(w.ctx(), policy.BucketCards, e.place(), raw))
			if err := e.await(t, frame); ReasonOf(err) != NoCard {
				t.Errorf("got %v, want %s", err, NoCard)
			}
		}
		check(t, w.store.Put(w.ctx(), policy.BucketCards, e.place(), e.card))
		if err := e.await(t, frame); err != nil {
			t.Error(err)
		}
	})
}

// TestStoredCardOfRemovedCA: an expired card is verified against the authorities of now, and not relied on for long.
func TestStoredCardOfRemovedCA(t *testing.T) {
	queueWorld(t, func(t *testing.T, w *world) {
		e := w.expire(t)
		frame := e.frame(t, e.end.Add(-time.Minute))
		if err := e.await(t, frame); err != nil {
			t.Fatal(err)
		}
		bundle := value(e.worker.att.src.GetX509BundleForTrustDomain(e.worker.Self().TrustDomain()))(t)
		for _, authority := range bundle.X509Authorities() {
			bundle.RemoveX509Authority(authority)
		}
		pass(lapsedCardLife)
		e.refuses(t, frame, NoCard)
		if err := e.await(t, frame); ReasonOf(err) != NoCard {
			t.Errorf("got %v, want %s", err, NoCard)
		}
	})
}

// TestStoredThief: who has all that an expired instance had, and owns the broker, can date a frame back; until MaxCardAge is
// over, or the name is revoked.
func TestStoredThief(t *testing.T) {
	queueWorld(t, func(t *testing.T, w *world) {
		e := w.expire(t)
		stolen := e.frame(t, e.end.Add(-time.Second))
		if err := e.await(t, stolen); err != nil {
			t.Fatalf("this is a written limit, and bounds are checked below: %v", err)
		}
		// With the certificate's key it can sign a card with keys of its own.
		own := *must(newOwn(e.producer.own.card))
		check(t, w.store.Put(w.ctx(), policy.BucketCards, e.place(), cardOf(t, &own, e.producer.att.src)))
		e.forget()
		c := e.craft(t).at(t, e.end.Add(-time.Second))
		c.signer = &own
		resigned := c.frame(t)
		if err := e.await(t, resigned); err != nil {
			t.Fatalf("this is a written limit, and bounds are checked below: %v", err)
		}
		pass(MaxCardAge - time.Hour)
		for _, frame := range [][]byte{stolen, resigned} {
			if err := e.await(t, frame); ReasonOf(err) != Stale {
				t.Errorf("long after: got %v, want %s", err, Stale)
			}
		}
	})
	queueWorld(t, func(t *testing.T, w *world) {
		e := w.expire(t)
		stolen := e.frame(t, e.end.Add(-time.Second))
		check(t, e.worker.AdoptPolicy(w.sign(queueRevision(2, "queues:", "revoked: [planner]\nqueues:"))))
		e.refuses(t, stolen, Revoked)
	})
}

// TestStoredCardIsNotLive: an expired card opens nothing live, and is given no key, whatever stored frames it speaks for.
func TestStoredCardIsNotLive(t *testing.T) {
	queueWorld(t, func(t *testing.T, w *world) {
		e := w.expire(t)
		if err := e.await(t, e.frame(t, e.end.Add(-time.Minute))); err != nil {
			t.Fatal(err)
		}
		rc := value(e.worker.Receiver(queue))(t)
		mustReject(t, rc, e.frame(t, time.Now()), e.want, NoCard)
		if err := e.worker.Await(cut(), e.frame(t, time.Now())); err == nil {
			t.Error("an expired card was believed")
		}
		n := w.store.count(".w.exec-1." + e.producer.own.card.String())
		check(t, w.store.Put(w.ctx(), policy.BucketKeys, policy.JoinKey(queue, "planner", e.producer.own.card.String()), []byte("again")))
		pass(5 * time.Second)
		check(t, e.worker.AdoptPolicy(w.sign(queueRevision(2))))
		pass(5 * time.Second)
		if more := w.store.count(".w.exec-1." + e.producer.own.card.String()); more != n {
			t.Errorf("%d more wraps to an expired card", more-n)
		}
	})
}

// TestStoredCardAgeOfThePolicy: how old a frame of an expired card may be is the word of the policy in force, of each as it comes.
func TestStoredCardAgeOfThePolicy(t *testing.T) {
	auditedWorld(t, func(t *testing.T, h *hearing) {
		s := h.w.shift(queue, h.worker, h.w.agentUntil("planner", time.Hour))
		frame := s.seal(t, "x")
		end := time.Now().Add(time.Hour)
		adopt := func(revision int, age string) {
			t.Helper()
			raw := h.w.sign(strings.NewReplacer("revision: 1", fmt.Sprintf("revision: %d\nmax_card_age: %s", revision, age)).Replace(auditedPolicy))
			check(t, h.auditor.AdoptPolicy(raw))
			check(t, s.worker.AdoptPolicy(raw))
		}
		says := func(revision int, age string, want Reason) {
			t.Helper()
			adopt(revision, age)
			if _, err := openStoredWithin(t, time.Second, s.worker, s.sr, frame, s.want); ReasonOf(err) != want || (err == nil) != (want == 0) {
				t.Errorf("a worker under %s: %v, want %s", age, err, want)
			}
			h.attests(t, frame, queue, h.want, want)
		}
		says(2, "1h", 0) // the card is valid
		pass(2 * time.Hour)
		says(3, "1h", Stale)
		says(4, "121m", 0)
		says(5, "90m", Stale)
		pass(30 * 24 * time.Hour)
		says(6, "30d", Stale)
		says(7, "31d", 0)
		after := s.craft(t).at(t, end).frame(t)
		h.attests(t, after, queue, h.want, Stale) // whatever the policy says of age
	})
}
