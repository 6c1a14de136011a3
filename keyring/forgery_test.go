package keyring

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// TestReaderForgesSender: exec-1 may read prices, so it holds K and can make anybody's seal. What it cannot make is
// anybody's signature.
func TestReaderForgesSender(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		reader, feed, mallory := w.agent("planner"), w.agent("feed-1"), w.agent("exec-1")
		p := w.meet(prices, reader, feed)
		check(t, mallory.Join(w.ctx(), prices))
		synctest.Wait()
		_, err := reader.card(w.ctx(), mallory.att.self, mallory.own.card)
		check(t, err)
		k := currentKey(t, mallory, prices)
		forged := func(edit func(*crafted)) []byte {
			c := craft(t, mallory, prices, k, p.subject)
			c.claim(feed)
			edit(c)
			return c.frame(t)
		}
		genuine := p.seal(t, "x")
		var f envelope.Frame
		check(t, envelope.Parse(genuine, &f))
		for name, test := range map[string]struct {
			frame []byte
			want  Reason
		}{
			"its own signature under the other's name":          {forged(func(*crafted) {}), BadSignature},
			"its own card under the other's name":               {forged(func(c *crafted) { c.Card = mallory.own.card }), NoCard},
			"the other's card under its own name":               {forged(func(c *crafted) { c.claim(mallory); c.Card = feed.own.card }), NotEntitled},
			"no signature":                                      {forged(func(c *crafted) { c.signer = nil }), Unsigned},
			"in the other's session":                            {forged(func(c *crafted) { c.Session, c.Seq = f.Session, f.Seq+1 }), BadSignature},
			"the other's signature of another frame":            {withSignature(t, forged(func(*crafted) {}), f.Signature), BadSignature},
			"its own name and card, on a channel it only reads": {forged(func(c *crafted) { c.claim(mallory) }), NotEntitled},
		} {
			t.Log(name)
			mustReject(t, p.rc, test.frame, p.want, test.want)
		}
		mustOpen(t, p.rc, genuine, p.want)
	})
}

// withSignature replaces the signature block of a signed frame.
func withSignature(t testing.TB, frame []byte, g envelope.Signature) []byte {
	t.Helper()
	var f envelope.Frame
	check(t, envelope.Parse(frame, &f))
	f.Signature = g
	return value(envelope.AppendFrame(nil, &f))(t)
}

// TestForgeryByWayOfVerifiedRoots: a root that was verified and cached for feed-1 helps nobody to pass off a frame
// that it did not cover, or as another sender's.
func TestForgeryByWayOfVerifiedRoots(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		reader, feed, feed2, mallory := w.agent("planner"), w.agent("feed-1"), w.agent("feed-2"), w.agent("exec-1")
		p := w.meet(prices, reader, feed)
		p2 := w.meet(prices, reader, feed2)
		mustOpen(t, p.rc, p2.seal(t, "known"), p.want)
		check(t, mallory.Join(w.ctx(), prices))
		synctest.Wait()
		frames := p.sealAll(t, 6, 1)
		for _, f := range frames[:5] {
			mustOpen(t, p.rc, f, p.want)
		}
		if n := len(reader.roots.now); n != 1 {
			t.Fatalf("%d roots cached, want 1", n)
		}
		var last, first envelope.Frame
		check(t, envelope.Parse(frames[5], &last))
		check(t, envelope.Parse(frames[0], &first))
		k := currentKey(t, mallory, prices)
		forged := func(as *Ring, session bool, g envelope.Signature) []byte {
			c := craft(t, mallory, prices, k, p.subject)
			c.claim(as)
			if session {
				c.Session, c.Seq = last.Session, last.Seq+1
			}
			return withSignature(t, c.frame(t), g)
		}
		block := func(edit func(*envelope.Signature)) envelope.Signature {
			g := last.Signature
			g.Path, g.Sig = bytes.Clone(g.Path), bytes.Clone(g.Sig)
			edit(&g)
			return g
		}
		same := func(*envelope.Signature) {}
		for name, frame := range map[string][]byte{
			"the cached signature and path, another frame": forged(feed, true, block(same)),
			"the same under another sender":                forged(feed2, false, block(same)),
			"the same in another session":                  forged(feed, false, block(same)),
			"at another place":                             forged(feed, true, block(func(g *envelope.Signature) { g.Index = 6 })),
			"with a path of another frame":                 forged(feed, true, first.Signature),
			"a garbage signature":                          forged(feed, true, block(func(g *envelope.Signature) { clear(g.Sig) })),
			"a shallower tree":                             forged(feed, true, block(func(g *envelope.Signature) { g.Depth, g.Index, g.Path = 2, 1, g.Path[32:] })),
			"a tree of none":                               forged(feed, true, block(func(g *envelope.Signature) { g.Depth, g.Index, g.Path = 0, 0, nil })),
			"a deeper tree": forged(feed, true, block(func(g *envelope.Signature) {
				g.Depth, g.Path = 4, append(make([]byte, 32), g.Path...)
			})),
			"an inner node as leaf":                         withSignature(t, frames[5], block(func(g *envelope.Signature) { g.Depth, g.Index, g.Path = 2, 2, g.Path[32:] })),
			"genuine, garbage signature over a cached root": withSignature(t, frames[5], block(func(g *envelope.Signature) { g.Sig[3] ^= 1 })),
			"genuine, index moved":                          withSignature(t, frames[5], block(func(g *envelope.Signature) { g.Index ^= 1 })),
			"genuine, path spoiled":                         withSignature(t, frames[5], block(func(g *envelope.Signature) { g.Path[70] ^= 1 })),
		} {
			t.Log(name)
			mustReject(t, p.rc, frame, p.want, BadSignature)
		}
		mustOpen(t, p.rc, frames[5], p.want)
	})
}

// TestRootCacheStaysSmall and forgets when the policy changes.
func TestRootCache(t *testing.T) {
	var c rootCache
	var k rootName
	for i := range 5 * maxRoots {
		k[0], k[1] = byte(i), byte(i>>8)
		c.once(k, func() bool { return true })
		if !c.once(k, func() bool { return false }) {
			t.Fatal("a root that was just verified is gone")
		}
		if n := len(c.now) + len(c.old); n > maxRoots {
			t.Fatalf("%d roots", n)
		}
	}
	c.drop()
	for range 2 {
		if c.once(k, func() bool { return false }) {
			t.Error("dropped, and still there")
		}
	}
	bubble(t, func(t *testing.T, w *world) {
		p := w.meet(prices, w.agent("planner"), w.agent("feed-1"))
		mustOpen(t, p.rc, p.sealAll(t, 2, 1)[0], p.want)
		check(t, p.reader.AdoptPolicy(w.sign(nextPolicy)))
		if len(p.reader.roots.now)+len(p.reader.roots.old) > 0 {
			t.Error("roots outlived the policy")
		}
	})
}

// TestUnsignedChannelLimits says what a channel without signatures gives up: any reader can speak as any writer
// there. A writer that is no reader still cannot.
func TestUnsignedChannelLimits(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		reader, feed, feed2, mallory := w.agent("planner"), w.agent("feed-1"), w.agent("feed-2"), w.agent("exec-1")
		p := w.meet(gossip, reader, feed)
		w.meet(gossip, reader, feed2)
		check(t, mallory.Join(w.ctx(), gossip))
		synctest.Wait()
		c := craft(t, mallory, gossip, currentKey(t, mallory, gossip), p.subject)
		c.claim(feed)
		c.signer = nil
		if got := mustOpen(t, p.rc, c.frame(t), p.want); got.Signed {
			t.Error("it says that it is signed")
		}
		// A signature that is there has to be right all the same.
		c = craft(t, mallory, gossip, currentKey(t, mallory, gossip), p.subject)
		c.claim(feed)
		mustReject(t, p.rc, c.frame(t), p.want, BadSignature)
		// A writer has its own K_s and nothing that would make another's.
		writer := craft(t, feed2, gossip, currentKey(t, feed2, gossip), p.subject)
		if writer.k.bytes() != nil {
			t.Fatal("a writer holds K")
		}
		session := newULID(t, time.Now())
		aead := value(currentKey(t, feed2, gossip).own.sessionAEAD(session))(t)
		writer.claim(feed)
		writer.Flags, writer.Session = 0, session
		mustReject(t, p.rc, sealWith(t, writer, aead), p.want, BadSeal)
	})
}

// TestWriterReadsNothing: a writer that is no reader can open neither the frames of others nor replayed ones of its own
// namesakes, and the package does not even give it a receiver.
func TestWriterReadsNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		reader, feed, mallory := w.agent("planner"), w.agent("feed-1"), w.agent("feed-2")
		p := w.meet(prices, reader, feed)
		m := w.meet(prices, reader, mallory)
		if _, err := mallory.Receiver(prices); err == nil {
			t.Error("a writer was given a receiver")
		}
		var f envelope.Frame
		check(t, envelope.Parse(p.seal(t, "secret"), &f))
		k := currentKey(t, m.writer, prices)
		if k.reader || k.k.bytes() != nil {
			t.Fatal("a writer holds K")
		}
		ad := envelope.AppendAssociatedData(nil, f.Head)
		for name, s := range map[string]secret{
			"its own K_s":               k.own,
			"K_s derived from its K_s":  value(k.own.senderKey("topic/prices", feed.att.self.String()))(t),
			"the public commitment":     value(secretFrom(k.statement.commitment[:]))(t),
			"K_s of the statement's id": value(value(secretFrom(k.statement.commitment[:]))(t).senderKey("topic/prices", feed.att.self.String()))(t),
		} {
			if _, err := value(s.sessionAEAD(f.Session))(t).Decrypt(f.Ciphertext, ad); err == nil {
				t.Errorf("%s opens another writer's frame", name)
			}
		}
		// A receiver of its own making, past the entitlement check, has no K to open with either.
		rc := m.writer.receiver(gate{ring: m.writer, att: m.writer.att, only: prices, name: prices.String()})
		var out Opened
		if err := rc.Open(p.seal(t, "secret"), p.want, &out); err == nil {
			t.Error("a writer opened a frame")
		}
	})
}

// TestKindsOfPlay plays each kind of frame at the places of the others: a reply as a request, a result as a task.
func TestKindsOfPlay(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		planner, exec := w.agent("planner"), w.agent("exec-1")
		request := w.request(planner, exec)
		atExec := value(exec.PairReceiver())(t)
		asked, err := open(t, exec, atExec, request, &Want{Kinds: Kinds(envelope.KindRequest), Recipient: "exec-1"})
		check(t, err)
		s := value(exec.Sender(w.ctx(), asked.Channel))(t)
		reply, _, err := s.Seal(nil, &Draft{Kind: envelope.KindReply, Recipient: "planner", Ref: asked.ID, Messages: []envelope.Message{{}}})
		check(t, err)
		atPlanner := value(planner.PairReceiver())(t)
		any := Kinds(envelope.KindRequest, envelope.KindReply, envelope.KindError, envelope.KindEvent, envelope.KindTask)
		good := &Want{Kinds: Kinds(envelope.KindReply, envelope.KindError), Recipient: "planner", Ref: asked.ID, Sender: "exec-1"}
		for name, test := range map[string]struct {
			want   Want
			reason Reason
		}{
			"a reply as a request":             {Want{Kinds: Kinds(envelope.KindRequest), Recipient: "planner"}, Misdirected},
			"a reply to another request":       {Want{Kinds: good.Kinds, Recipient: "planner", Ref: newULID(t, time.Now())}, Misdirected},
			"a reply where nothing was asked":  {Want{Kinds: any, Recipient: "planner"}, Misdirected},
			"a reply of another than asked":    {Want{Kinds: good.Kinds, Recipient: "planner", Ref: asked.ID, Sender: "exec-2"}, NotEntitled},
			"a reply to another of its agents": {Want{Kinds: good.Kinds, Recipient: "planner-2", Ref: asked.ID}, Misdirected},
		} {
			t.Log(name)
			mustReject(t, atPlanner, reply, &test.want, test.reason)
		}
		// Who may only be asked may not ask, whatever its frame is played as and whoever waits for it.
		back, _, err := s.Seal(nil, &Draft{Kind: envelope.KindRequest, Recipient: "planner", Messages: []envelope.Message{{}}})
		check(t, err)
		mustReject(t, atPlanner, back, &Want{Kinds: any, Recipient: "planner"}, NotEntitled)
		// Its own request comes back to the one who sent it.
		mustReject(t, atPlanner, request, &Want{Kinds: any, Recipient: "exec-1"}, Misdirected)
		mustOpen(t, atPlanner, reply, good)
		mustReject(t, atPlanner, reply, good, Seen)

		atWorker, atProducer := w.tasks(planner, exec)
		task := atWorker.seal(t, planner, queue, envelope.KindTask, "summarise")
		result := atProducer.seal(t, exec, results, envelope.KindResult, "summarise")
		everything := KindSet(0xffff)
		for name, test := range map[string]struct {
			at     *spot
			frame  []byte
			want   Want
			reason Reason
		}{
			"a result as a task":             {atWorker, result, Want{Kinds: Kinds(envelope.KindTask), Recipient: "summarise"}, Misdirected},
			"a result at the queue":          {atWorker, result, Want{Kinds: everything, Recipient: "summarise", Ref: atProducer.ref}, Misdirected},
			"a task as a result":             {atProducer, task, Want{Kinds: Kinds(envelope.KindResult), Recipient: "summarise"}, Misdirected},
			"a task at the results":          {atProducer, task, Want{Kinds: everything, Recipient: "summarise"}, Misdirected},
			"a task of a worker":             {atWorker, atWorker.forge(t, exec, queue, envelope.KindTask), Want{Kinds: everything, Recipient: "summarise"}, NotEntitled},
			"a result of a producer":         {atProducer, atProducer.forge(t, planner, results, envelope.KindResult), Want{Kinds: everything, Recipient: "summarise", Ref: atProducer.ref}, NotEntitled},
			"a task on the results' channel": {atProducer, atProducer.forge(t, exec, results, envelope.KindTask), Want{Kinds: everything, Recipient: "summarise"}, NotEntitled},
			"an event on the queue":          {atWorker, atWorker.forge(t, planner, queue, envelope.KindEvent), Want{Kinds: everything, Recipient: "summarise"}, NotEntitled},
		} {
			t.Log(name)
			mustReject(t, test.at.rc, test.frame, &test.want, test.reason)
		}
		mustOpen(t, atWorker.rc, task, &Want{Kinds: Kinds(envelope.KindTask), Recipient: "summarise"})
		mustOpen(t, atProducer.rc, result, &Want{Kinds: Kinds(envelope.KindResult), Recipient: "summarise", Ref: atProducer.ref})
	})
}

// spot is where frames of a queue arrive.
type spot struct {
	w   *world
	rc  *Receiver
	ref [16]byte
}

func (w *world) tasks(producer, worker *Ring) (atWorker, atProducer *spot) {
	w.t.Helper()
	for _, r := range []*Ring{producer, worker} {
		check(w.t, r.Join(w.ctx(), queue))
		check(w.t, r.Join(w.ctx(), results))
	}
	synctest.Wait()
	_, err := producer.card(w.ctx(), worker.att.self, worker.own.card)
	check(w.t, err)
	_, err = worker.card(w.ctx(), producer.att.self, producer.own.card)
	check(w.t, err)
	return &spot{w: w, rc: value(worker.Receiver(queue))(w.t)},
		&spot{w: w, rc: value(producer.Receiver(results))(w.t), ref: newULID(w.t, time.Now())}
}

func (p *spot) seal(t testing.TB, from *Ring, ch policy.Channel, kind envelope.Kind, recipient string) []byte {
	t.Helper()
	s := value(from.Sender(p.w.ctx(), ch))(t)
	d := &Draft{Kind: kind, Recipient: recipient, Messages: []envelope.Message{{}}}
	if kind == envelope.KindResult {
		d.Ref = p.ref
	}
	frame, _, err := s.Seal(nil, d)
	check(t, err)
	return frame
}

// forge makes what from's own keyring would refuse to seal.
func (p *spot) forge(t testing.TB, from *Ring, ch policy.Channel, kind envelope.Kind) []byte {
	t.Helper()
	c := craft(t, from, ch, currentKey(t, p.rc.ring, ch), "summarise")
	c.Kind = kind
	if kind == envelope.KindResult {
		c.Ref = p.ref
	}
	c.Flags |= envelope.FlagCommitted
	m := envelope.Message{ID: c.ID, Salt: [16]byte{1}}
	c.Commit = value(envelope.CommitRoot([]envelope.Message{m}))(t)
	c.plain = value(envelope.AppendMessage(nil, &m, true))(t)
	return c.frame(t)
}
