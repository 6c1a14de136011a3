package keyring

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/policy"
)

// keysHeld returns the names of the keys that a ring holds for a channel.
func keysHeld(t testing.TB, r *Ring, ch policy.Channel) map[keyName]bool {
	t.Helper()
	c := channelOf(t, r, ch)
	c.mu.Lock()
	defer c.mu.Unlock()
	held := map[keyName]bool{}
	for _, k := range c.keys {
		held[k.name()] = true
	}
	return held
}

// stillTalks fails unless a new frame opens.
func (p *pairOf) stillTalks(t testing.TB) {
	t.Helper()
	synctest.Wait()
	if _, err := open(t, p.reader, p.rc, p.seal(t, "still"), p.want); err != nil {
		t.Errorf("they no longer talk: %v", err)
	}
}

// ghost is a ring that is attached to nothing of the world's: what somebody without a certificate can make.
func (w *world) ghost(id string, like *Ring) *Ring {
	w.t.Helper()
	g := value(Memory(w.operator.Fingerprint()))(w.t)
	g.own = must(newOwn(newULID(w.t, time.Now())))
	g.att = &attachment{self: identity.MustParseID(id), own: g.own}
	g.view.Store(like.view.Load())
	return g
}

// TestKeysMadeByOthers has everybody but a member make a key and hand it to a reader and a writer.
func TestKeysMadeByOthers(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		p := w.meet(prices, w.agent("planner"), w.agent("feed-1"))
		outsider := w.agent("exec-1") // a reader of prices, but none of ledger's
		l := w.meet(ledger, p.reader, p.writer)
		for name, test := range map[string]struct {
			ch   policy.Channel
			by   *Ring
			want string
		}{
			"the broker, as itself":     {prices, w.ghost("spiffe://example.org/broker/n1", p.reader), "no agent"},
			"the broker, as a reader":   {prices, w.ghost("spiffe://example.org/agent/planner", p.reader), "not in the store"},
			"another domain's reader":   {prices, w.ghost("spiffe://example.com/agent/planner", p.reader), "another trust domain"},
			"an agent that has no part": {ledger, outsider, "no part"},
			"the broker, by a reader's hand": {prices, &Ring{now: time.Now, own: must(newOwn(p.reader.own.card)),
				att: p.reader.att}, "signature"},
		} {
			t.Log(name)
			if test.by.view.Load() == nil {
				test.by.view.Store(p.reader.view.Load())
			}
			k := mustSecret(t)
			s := statementBy(t, test.by, test.ch, 7, k)
			w.publishKey(test.by, s)
			w.publishWrap(test.by, s, p.reader, roleReader, k)
			w.publishWrap(test.by, s, p.writer, roleWriter, value(k.senderKey(test.ch.String(), p.writer.att.self.String()))(t))
			synctest.Wait()
			for _, r := range []*Ring{p.reader, p.writer} {
				if keysHeld(t, r, test.ch)[keyName{7, s.commitment}] {
					t.Errorf("%s holds the key", r.att.self.Name())
				}
			}
			if !w.reported(test.want) {
				t.Errorf("nothing with %q was reported", test.want)
			}
		}
		p.stillTalks(t)
		l.stillTalks(t)
	})
}

// TestProvisionalKeysDoNotSpread: a writer may make a key for what it writes itself. Another writer does not seal
// under it, and a reader neither seals under it nor opens what another sends under it.
func TestProvisionalKeysDoNotSpread(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		reader, feed, mallory := w.agent("planner"), w.agent("feed-1"), w.agent("feed-2")
		p := w.meet(gossip, reader, feed)
		check(t, mallory.Join(w.ctx(), gossip))
		k := mustSecret(t)
		s := statementBy(t, mallory, gossip, 7, k)
		s.created = newULID(t, time.Now().Add(time.Second)) // the newest of all
		w.publishKey(mallory, s)
		w.publishWrap(mallory, s, feed, roleWriter, value(k.senderKey("topic/gossip", feed.att.self.String()))(t))
		w.publishWrap(mallory, s, reader, roleReader, k)
		synctest.Wait()
		if currentKey(t, feed, gossip).statement.id == 7 || currentKey(t, reader, gossip).statement.id == 7 {
			t.Fatal("somebody seals under another writer's key")
		}
		if keysHeld(t, feed, gossip)[keyName{7, s.commitment}] {
			t.Error("a writer holds another writer's key")
		}
		if channelOf(t, reader, gossip).fit(s) || channelOf(t, feed, gossip).fit(s) || !channelOf(t, mallory, gossip).fit(s) {
			t.Error("fit for others than its maker, or not for its maker")
		}
		held := channelOf(t, reader, gossip).held(7)
		if held == nil {
			t.Fatal("the reader has not taken the key, and could not open what its writer seals")
		}
		_, err := reader.card(w.ctx(), mallory.att.self, mallory.own.card)
		check(t, err)
		c := craft(t, mallory, gossip, held, p.subject)
		c.signer = nil
		mustOpen(t, p.rc, c.frame(t), p.want)
		// mallory knows K, so it can seal as feed-1 under this key; nobody opens that.
		c = craft(t, mallory, gossip, held, p.subject)
		c.claim(feed)
		c.signer = nil
		mustReject(t, p.rc, c.frame(t), p.want, NoKey)
		p.stillTalks(t)
	})
}

// TestWritersCannotCrowdOut: what a writer signs displaces no key that a reader made, neither by taking its id, nor by
// claiming it, nor by numbers.
func TestWritersCannotCrowdOut(t *testing.T) {
	for _, how := range []string{"takes its id", "claims it", "numbers"} {
		bubble(t, func(t *testing.T, w *world) {
			reader, mallory := w.agent("planner"), w.agent("feed-2")
			check(t, mallory.Join(w.ctx(), prices))
			m := channelOf(t, mallory, prices)
			check(t, reader.Join(w.ctx(), prices))
			pass(10 * time.Second)
			synctest.Wait()
			readers := currentKey(t, reader, prices)
			genuine := readers.statement
			if len(m.statements) == 0 {
				t.Fatal("no statement to copy")
			}
			victim := w.newcomer("exec-1")
			w.store.tamper(func() { // a broker that colludes, and lets mallory's entries arrive first
				w.store.hide = func(_, key string) bool { return strings.Contains(key, ".k.planner.") }
			})
			_ = victim.Join(cut2(), prices)
			w.publishWrap(reader, genuine, victim, roleReader, readers.k) // if it has not been given it yet
			for i := range 300 {
				id := genuine.id
				if how == "numbers" {
					id = uint32(i + 1)
				} else if i > 0 {
					break
				}
				k := mustSecret(t)
				s := statementBy(t, mallory, prices, id, k)
				if how == "claims it" {
					s.commitment = genuine.commitment
				}
				w.publishKey(mallory, s)
				w.publishWrap(mallory, s, victim, roleReader, k)
			}
			synctest.Wait()
			w.store.tamper(func() { w.store.hide = nil })
			victim.eachChannel((*channel).resync)
			synctest.Wait()
			if k := channelOf(t, victim, prices).held(genuine.id); k == nil || k.name() != (keyName{genuine.id, genuine.commitment}) || !k.reader || k.statement.creator != reader.att.self {
				t.Errorf("%s: the newcomer has not got the reader's key", how)
			}
			if n := len(keysHeld(t, victim, prices)); n > maxKeysPerChan {
				t.Errorf("%d keys held", n)
			}
		})
	}
}

// newcomer is an agent that has joined nothing yet.
func (w *world) newcomer(name string) *Ring { return w.agent(name) }

// TestMovedWraps takes a genuine wrap to another key, commitment, channel, role, recipient and author: its ciphertext and its
// signature fit nothing else.
func TestMovedWraps(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		reader, feed, other := w.agent("planner"), w.agent("feed-1"), w.agent("exec-1")
		p := w.meet(prices, reader, feed)
		w.meet(gossip, reader, feed)
		check(t, other.Join(w.ctx(), prices))
		synctest.Wait()
		k, c := mustSecret(t), channelOf(t, other, prices)
		s := statementBy(t, reader, prices, 7, k)
		w.publishKey(reader, s)
		synctest.Wait()
		base := wrap{channel: prices, key: 7, commitment: s.commitment, wrapper: reader.att.self, card: reader.own.card,
			recipient: other.att.self, recipCard: other.own.card, role: roleReader}
		to := w.cardOfRing(other)
		base.ciphertext = value(to.keys.encrypter.Encrypt(k.bytes(), base.context()))(t)
		sign := func(x wrap, by *own) ([]byte, [32]byte) {
			raw := value(identity.SignStatement(typeWrap, wrapClaims{
				IssuedAt: time.Now().Unix(), Channel: x.channel.String(), Key: x.key, Commitment: b64.EncodeToString(x.commitment[:]),
				Wrapper: x.wrapper.String(), WrapperCard: x.card.String(), Recipient: x.recipient.String(),
				RecipientCard: x.recipCard.String(), Role: x.role, Ciphertext: b64.EncodeToString(x.ciphertext),
			}, x.card.String(), statementSigner{by}))(t)
			return raw, value(identity.ParseStatement(raw, typeWrap))(t).Hash()
		}
		two := mustSecret(t)
		s2 := statementBy(t, reader, prices, 8, two)
		w.publishKey(reader, s2)
		synctest.Wait()
		for name, test := range map[string]struct {
			edit func(*wrap)
			by   *own
		}{
			"to another key":        {func(x *wrap) { x.key, x.commitment = 8, s2.commitment }, reader.own},
			"to another commitment": {func(x *wrap) { x.commitment[0] ^= 1 }, reader.own},
			"to another channel":    {func(x *wrap) { x.channel = gossip }, reader.own},
			"to another role":       {func(x *wrap) { x.role = roleWriter }, reader.own},
			"to another recipient":  {func(x *wrap) { x.recipient = feed.att.self }, reader.own},
			"to another card":       {func(x *wrap) { x.recipCard = feed.own.card }, reader.own},
			"to another author":     {func(x *wrap) { x.wrapper, x.card = feed.att.self, feed.own.card }, feed.own},
			"signed by another":     {func(*wrap) {}, feed.own},
			"an unknown role":       {func(x *wrap) { x.role = "keeper" }, reader.own},
			"spoiled":               {func(x *wrap) { x.ciphertext = append([]byte{x.ciphertext[0] ^ 1}, x.ciphertext[1:]...) }, reader.own},
			"cut":                   {func(x *wrap) { x.ciphertext = x.ciphertext[:20] }, reader.own},
			"a wrong key inside": {func(x *wrap) {
				x.ciphertext = value(to.keys.encrypter.Encrypt(two.bytes(), x.context()))(t)
			}, reader.own},
			"a short key inside": {func(x *wrap) {
				x.ciphertext = value(to.keys.encrypter.Encrypt(two.bytes()[:31], x.context()))(t)
			}, reader.own},
		} {
			x := base
			test.edit(&x)
			raw, hash := sign(x, test.by)
			for _, key := range []string{
				policy.WrapKey(prices, x.wrapper.Name(), other.own.card.String(), x.key, hash), // where it claims to belong
				policy.WrapKey(prices, "planner", other.own.card.String(), 7, hash),            // where the genuine one is
			} {
				n := w.reportCount()
				check(t, w.store.Put(w.ctx(), policy.BucketKeys, key, raw))
				synctest.Wait()
				if w.reportCount() == n && name != "to another commitment" { // that waits for its statement
					t.Errorf("%s: not reported", name)
				}
				if c.held(7) != nil || c.held(8) != nil {
					t.Fatalf("%s: believed", name)
				}
			}
		}
		// Whoever may read is given K, and does not take a K_s for it.
		w.publishWrap(reader, s, other, roleWriter, value(k.senderKey("topic/prices", other.att.self.String()))(t))
		synctest.Wait()
		if c.held(7) != nil || !w.reported("wrap for a writer") {
			t.Error("a reader took a writer's key")
		}
		raw, hash := sign(base, reader.own)
		check(t, w.store.Put(w.ctx(), policy.BucketKeys, policy.WrapKey(prices, "planner", other.own.card.String(), 7, hash), raw))
		synctest.Wait()
		if c.held(7) == nil {
			t.Error("the genuine one was not taken")
		}
		p.stillTalks(t)
	})
}

// TestTwoKeysUnderOneID: a reader that colludes can sign two keys under one id. Each agent keeps the one it held first
// and reports the other; nobody opens a frame under both.
func TestTwoKeysUnderOneID(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		reader, feed, mallory := w.agent("planner"), w.agent("feed-1"), w.agent("exec-1")
		p := w.meet(prices, reader, feed)
		check(t, mallory.Join(w.ctx(), prices))
		synctest.Wait()
		genuine := currentKey(t, reader, prices)
		k := mustSecret(t)
		s := statementBy(t, mallory, prices, genuine.statement.id, k)
		w.publishKey(mallory, s)
		w.publishWrap(mallory, s, reader, roleReader, k)
		w.publishWrap(mallory, s, feed, roleWriter, value(k.senderKey("topic/prices", feed.att.self.String()))(t))
		synctest.Wait()
		for _, r := range []*Ring{reader, feed} {
			if currentKey(t, r, prices).name() != genuine.name() {
				t.Errorf("%s changed its key", r.att.self.Name())
			}
		}
		if !w.reported("two keys under id") {
			t.Error("not reported")
		}
		p.stillTalks(t)
	})
}

// TestClaimsOfKeyStatements: what a member may not say of a key.
func TestClaimsOfKeyStatements(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		reader, feed := w.agent("planner"), w.agent("exec-1")
		p := w.meet(prices, w.agent("exec-2"), w.agent("feed-1"))
		check(t, reader.Join(w.ctx(), prices))
		check(t, feed.Join(w.ctx(), prices))
		synctest.Wait()
		for i, test := range []struct {
			edit func(*keyStatement)
			want string
		}{
			{func(s *keyStatement) { s.created = newULID(t, time.Now().Add(time.Minute)) }, "in the future"},
			{func(s *keyStatement) { s.policy[0] ^= 1 }, "another policy of revision 1"},
			{func(s *keyStatement) { s.card = p.writer.own.card }, "card"},
			{func(s *keyStatement) { s.id = 0 }, "without an id"},
		} {
			s := statementBy(t, reader, prices, uint32(20+i), mustSecret(t))
			test.edit(s)
			w.publishKey(reader, s)
			synctest.Wait()
			if !w.reported(test.want) {
				t.Errorf("nothing with %q was reported", test.want)
			}
			if channelOf(t, feed, prices).statements[keyName{s.id, s.commitment}] != nil {
				t.Errorf("%s: believed", test.want)
			}
		}
		// Under a name that is not its own.
		s := statementBy(t, reader, prices, 30, mustSecret(t))
		w.publishKey(reader, s)
		for _, key := range []string{
			policy.KeyStatementKey(prices, "exec-1", 30, s.hash), policy.KeyStatementKey(prices, "planner", 31, s.hash),
			policy.KeyStatementKey(prices, "planner", 30, [32]byte{1}), policy.KeyStatementKey(gossip, "planner", 30, s.hash),
		} {
			check(t, w.store.Put(w.ctx(), policy.BucketKeys, key, s.raw))
		}
		synctest.Wait()
		if !w.reported("name that is not its own") {
			t.Error("not reported")
		}
		p.stillTalks(t)
	})
}

// TestJunkStopsNobody fills every place of the store with what does not belong there.
func TestJunkStopsNobody(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		card := newULID(t, time.Now()).String()
		var hash [32]byte
		junk := [][]byte{nil, {0}, []byte("junk"), []byte("a.b.c"), []byte(strings.Repeat("x", 1<<20)), []byte("e30.e30.e30")}
		fill := func(round int) {
			for i, b := range junk {
				hash[0], hash[1] = byte(i), byte(round)
				for _, who := range []string{"planner", "feed-1", "stranger"} {
					for _, key := range []string{
						policy.KeyStatementKey(prices, who, uint32(i+1), hash), policy.WrapKey(prices, who, card, uint32(i+1), hash),
						policy.JoinKey(prices, who, newULID(t, time.Now()).String()), "topic.prices.j.x", "topic.prices.k.x", "topic.prices.k." + who + ".zz.zz",
						fmt.Sprintf("topic.prices.j.%s.%s", who, strings.ToLower(card)), "topic.prices.k.a.b.c.d.e.f",
					} {
						check(t, w.store.Put(w.ctx(), policy.BucketKeys, key, b))
					}
				}
			}
		}
		fill(0)
		p := w.meet(prices, w.agent("planner"), w.agent("feed-1"))
		card = p.reader.own.card.String()
		fill(1)
		card = p.writer.own.card.String()
		fill(2)
		p.stillTalks(t)
		late := w.meet(prices, w.agent("exec-1"), p.writer)
		late.stillTalks(t)
		for _, want := range []string{"not a store key", "invalid statement"} {
			if !w.reported(want) {
				t.Errorf("nothing with %q was reported", want)
			}
		}
	})
}
