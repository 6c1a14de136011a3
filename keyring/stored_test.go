package keyring

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealbus/sealbus/internal/envelope"
)

// queueWorld runs f in a bubble in which there are queues.
func queueWorld(t *testing.T, f func(*testing.T, *world)) {
	bubble(t, func(t *testing.T, w *world) {
		w.setPolicy(queuePolicy)
		f(t, w)
	})
}

// TestStoredTaskAndResult: a task goes to a worker and its result comes back, however long both have lain, and as often as
// they are read.
func TestStoredTaskAndResult(t *testing.T) {
	queueWorld(t, func(t *testing.T, w *world) {
		s := w.shift(queue, w.agentUntil("exec-1", month), w.agentUntil("planner", month))
		frame := s.seal(t, "do it")
		pass(20 * 24 * time.Hour)
		for range 3 {
			got := s.takes(t, frame)
			if got.Kind != envelope.KindTask || !got.Signed || string(got.Messages[0].Payload) != "do it" || got.Lost != 0 ||
				got.Sender != s.producer.Self() || got.Channel != queue || !got.Expires.IsZero() {
				t.Errorf("got %+v", got)
			}
		}
		task := s.takes(t, frame)
		if age := time.Since(task.Time); age != 20*24*time.Hour {
			t.Errorf("it says that it is %v old", age)
		}
		answer := value(s.worker.Sender(w.ctx(), results))(t)
		for _, kind := range []envelope.Kind{envelope.KindResult, envelope.KindProgress, envelope.KindError} {
			frame, _, err := answer.Seal(nil, &Draft{Kind: kind, Recipient: "summarise", Ref: task.ID, Messages: []envelope.Message{{Payload: []byte("done")}}})
			check(t, err)
			sr := value(s.producer.StoredReceiver(results))(t)
			want := &Want{Kinds: Kinds(kind), Recipient: "summarise", Ref: task.ID}
			got, err := openStored(t, s.producer, sr, frame, want)
			if err != nil || string(got.Messages[0].Payload) != "done" || got.Ref != task.ID {
				t.Errorf("%s: %v", kind, err)
			}
			refusesAt(t, sr, frame, &Want{Kinds: Kinds(kind), Recipient: "summarise", Ref: someTask}, Misdirected)
			refusesAt(t, sr, frame, &Want{Kinds: Kinds(kind), Recipient: "summarise"}, Misdirected)
		}
		if _, err := s.producer.StoredReceiver(queue); !errors.Is(err, ErrNotEntitled) {
			t.Errorf("a producer reads its queue: %v", err)
		}
		if _, err := s.worker.StoredReceiver(results); !errors.Is(err, ErrNotEntitled) {
			t.Errorf("a worker reads results: %v", err)
		}
	})
}

// TestStoredMoved plays stored frames where they do not belong.
func TestStoredMoved(t *testing.T) {
	queueWorld(t, func(t *testing.T, w *world) {
		worker, producer := w.agent("exec-1"), w.agent("planner")
		s, other := w.shift(queue, worker, producer), w.shift(scribble, worker, producer)
		frame := s.seal(t, "x")
		for name, test := range map[string]struct {
			sr   *StoredReceiver
			want Want
			says Reason
		}{
			"another queue":             {other.sr, *s.want, Misdirected},
			"another queue's recipient": {s.sr, *other.want, Misdirected},
			"another kind":              {s.sr, Want{Kinds: Kinds(envelope.KindResult, envelope.KindEvent), Recipient: "summarise"}, Misdirected},
			"no kind":                   {s.sr, Want{Recipient: "summarise"}, Misdirected},
			"answers a task":            {s.sr, Want{Kinds: anyTaskKind, Recipient: "summarise", Ref: someTask}, Misdirected},
			"another sender's":          {s.sr, Want{Kinds: anyTaskKind, Recipient: "summarise", Sender: "prod-1"}, NotEntitled},
		} {
			t.Log(name)
			refusesAt(t, test.sr, frame, &test.want, test.says)
		}
		var f envelope.Frame
		check(t, envelope.Parse(frame, &f))
		for name, test := range map[string]struct {
			edit func(*envelope.Frame)
			sr   *StoredReceiver
			want *Want
			says Reason
		}{
			"renamed to another queue": {func(f *envelope.Frame) {
				f.Channel, f.Recipient, f.Key = []byte("queue/scribble"), []byte("scribble"), currentKey(t, worker, scribble).statement.id
			}, other.sr, other.want, BadSeal},
			"made a control":        {func(f *envelope.Frame) { f.Kind = envelope.KindControl }, s.sr, s.want, BadSeal},
			"made newer":            {func(f *envelope.Frame) { f.ID = newULID(t, time.Now()) }, s.sr, s.want, BadSeal},
			"stripped":              {func(f *envelope.Frame) { f.Flags &^= envelope.FlagSigned; f.Signature = envelope.Signature{} }, s.sr, s.want, Unsigned},
			"no longer committed":   {func(f *envelope.Frame) { f.Flags &^= envelope.FlagCommitted; f.Commit = [32]byte{} }, s.sr, s.want, Unsigned},
			"another's name":        {func(f *envelope.Frame) { f.Sender = []byte("spiffe://example.org/agent/prod-1") }, s.sr, s.want, BadSeal},
			"a worker's name":       {func(f *envelope.Frame) { f.Sender = []byte("spiffe://example.org/agent/exec-1") }, s.sr, s.want, NotEntitled},
			"another domain's name": {func(f *envelope.Frame) { f.Sender = []byte("spiffe://example.com/agent/planner") }, s.sr, s.want, NotEntitled},
			"a broker's name":       {func(f *envelope.Frame) { f.Sender = []byte("spiffe://example.org/broker/planner") }, s.sr, s.want, NotEntitled},
		} {
			t.Log(name)
			g := f
			test.edit(&g)
			refusesAt(t, test.sr, value(envelope.AppendFrame(nil, &g))(t), test.want, test.says)
		}
		s.takes(t, frame)
	})
}

// TestStoredEveryByteCounts changes each byte of a lone task, and of one of several under one signature.
func TestStoredEveryByteCounts(t *testing.T) {
	for _, n := range []int{1, 5} {
		queueWorld(t, func(t *testing.T, w *world) {
			s := w.shift(queue, w.agent("exec-1"), w.agent("planner"))
			frame := s.seal(t, "a task of some length")
			if n > 1 {
				frames := s.sealAll(t, n)
				for _, f := range frames[:n-1] { // fills the cache of verified roots
					s.takes(t, f)
				}
				frame = frames[n-1]
			}
			refuse := func(b []byte, how string, at int) {
				var out Opened
				if err := s.sr.Open(b, s.want, &out); ReasonOf(err) == 0 || out.Messages != nil {
					t.Errorf("%s byte %d of %d: %v", how, at, len(frame), err)
				}
			}
			for i := range frame {
				for _, bit := range []byte{0x01, 0x80, 0xff} {
					b := bytes.Clone(frame)
					b[i] ^= bit
					refuse(b, "changed", i)
				}
				refuse(frame[:i], "cut at", i)
				refuse(append(bytes.Clone(frame[:i]), frame[i+1:]...), "without", i)
				refuse(append(append(bytes.Clone(frame[:i]), 0), frame[i:]...), "zero before", i)
			}
			s.takes(t, frame)
			if n := s.sr.known(); n != 1 {
				t.Errorf("%d sessions remembered", n)
			}
		})
	}
}

func (s *shift) sealAll(t testing.TB, n int) [][]byte {
	t.Helper()
	drafts := make([]*Draft, n)
	for i := range drafts {
		drafts[i] = task(s.ch, fmt.Sprint("task ", i))
	}
	return s.sealTogether(t, drafts)
}

// sealTogether seals drafts under one signature.
func (s *shift) sealTogether(t testing.TB, drafts []*Draft) (frames [][]byte) {
	t.Helper()
	settings := value(s.sender.settings())(t)
	bundles := make([]*Bundle, len(drafts))
	for i, d := range drafts {
		bundles[i] = new(Bundle)
		check(t, bundles[i].take(d, settings))
	}
	check(t, s.sender.SealBundles(bundles))
	for _, b := range bundles {
		frames = append(frames, b.Frame)
	}
	return frames
}

// storedFaults are one for every reason that there is for stored frames, in the order of the checks.
var storedFaults = []struct {
	reason Reason
	add    func(*testing.T, *shift, *crafted)
}{
	{Malformed, func(_ *testing.T, _ *shift, c *crafted) { c.Seq = SessionFrames + 1 }},
	{Misdirected, func(_ *testing.T, _ *shift, c *crafted) { c.Recipient = []byte("elsewhere") }},
	{Revoked, func(_ *testing.T, _ *shift, c *crafted) { c.Sender = []byte("spiffe://example.org/agent/prod-bad") }},
	{NotEntitled, func(_ *testing.T, s *shift, c *crafted) {
		if !strings.Contains(string(c.Sender), "prod-bad") {
			c.claim(s.worker)
		}
	}},
	{Unsigned, func(_ *testing.T, _ *shift, c *crafted) { c.signer = nil }},
	{Stale, func(_ *testing.T, s *shift, c *crafted) { c.Expires = uint64(s.worker.now().UnixMilli()) }},
	{NoKey, func(_ *testing.T, _ *shift, c *crafted) { c.Key++ }},
	{BadSeal, func(_ *testing.T, _ *shift, c *crafted) { c.flip = true }},
	{NoCard, func(t *testing.T, s *shift, c *crafted) { c.Card = newULID(t, s.worker.now()) }},
	{BadSignature, func(_ *testing.T, s *shift, c *crafted) {
		if c.signer != nil {
			c.signer = s.worker.own
		}
	}},
	{BadContent, func(_ *testing.T, _ *shift, c *crafted) { c.plain = make([]byte, 60) }},
}

// TestStoredReasonsInOrder provokes every reason, and every two faults at once: the check that comes first says no.
func TestStoredReasonsInOrder(t *testing.T) {
	var order []Reason
	for _, f := range storedFaults {
		order = append(order, f.reason)
	}
	if want := slices.DeleteFunc(Reasons(), func(r Reason) bool { return r == Seen || r == Overload }); !slices.Equal(order, want) {
		t.Fatalf("the faults here are %v, the reasons %v", order, want)
	}
	bubble(t, func(t *testing.T, w *world) {
		w.setPolicy(queuePolicy + "revoked: [prod-bad]\n")
		s := w.shift(queue, w.agent("exec-1"), w.agent("planner"))
		session := s.craft(t)
		for _, known := range []bool{false, true} {
			attempt := func() *crafted {
				c := s.craft(t)
				if known {
					c.Session = session.Session
				}
				return c
			}
			s.takes(t, attempt().frame(t))
			for i, first := range storedFaults {
				c := attempt()
				first.add(t, s, c)
				s.refuses(t, c.frame(t), first.reason)
				for _, second := range storedFaults[i+1:] {
					c := attempt()
					first.add(t, s, c)
					second.add(t, s, c)
					t.Logf("%s with %s", first.reason, second.reason)
					s.refuses(t, c.frame(t), first.reason)
				}
			}
			s.takes(t, session.frame(t))
		}
	})
}

// TestStoredBadContent: what the sender commits to is checked, and nothing of it is handed out.
func TestStoredBadContent(t *testing.T) {
	queueWorld(t, func(t *testing.T, w *world) {
		s := w.shift(queue, w.agent("exec-1"), w.agent("planner"))
		c := s.craft(t)
		c.Commit[3] ^= 1
		frame := c.frame(t)
		s.refuses(t, frame, BadContent)
		// Nor is anything left in what the caller has lent.
		out := s.takes(t, s.seal(t, "before"))
		lent := out.Messages
		if err := s.sr.Open(frame, s.want, out); ReasonOf(err) != BadContent || len(out.Messages) != 0 || lent[0].Payload != nil {
			t.Errorf("%v, %d messages, %q", err, len(out.Messages), lent[0].Payload)
		}
	})
}

// TestStoredTimes walks the edges of a frame's own times. How old it is does not matter.
func TestStoredTimes(t *testing.T) {
	queueWorld(t, func(t *testing.T, w *world) {
		s := w.shift(queue, w.agentUntil("exec-1", month), w.agentUntil("planner", month))
		now := time.Now()
		for _, test := range []struct {
			at, expires time.Duration // from now; an expiry of zero is none
			want        Reason
		}{
			{0, 0, 0},
			{-10 * 365 * 24 * time.Hour, 0, 0},
			{MaxClockLead, 0, 0},
			{MaxClockLead + time.Millisecond, 0, Stale},
			{0, time.Millisecond, 0},
			{0, -time.Millisecond, Stale},
			{-time.Hour, time.Hour, 0},
		} {
			c := s.craft(t).at(t, now.Add(test.at))
			if test.expires != 0 {
				c.Expires = uint64(now.Add(test.expires).UnixMilli())
			}
			if test.want != 0 {
				s.refuses(t, c.frame(t), test.want)
				continue
			}
			got := s.takes(t, c.frame(t))
			if test.expires != 0 && !got.Expires.Equal(now.Add(test.expires)) {
				t.Errorf("it says that it expires at %v", got.Expires)
			}
		}
		c := s.craft(t)
		c.Expires = uint64(now.UnixMilli())
		s.refuses(t, c.frame(t), Stale)
		past := *s.want // who reads what was, and does nothing about it
		past.Expired = true
		var out Opened
		if err := s.sr.Open(c.frame(t), &past, &out); err != nil || out.Expires.IsZero() {
			t.Errorf("one that has expired: %v", err)
		}
		refusesAt(t, s.sr, s.craft(t).at(t, now.Add(MaxClockLead+time.Millisecond)).frame(t), &past, Stale)
	})
}

// TestStoredPolicyNow: what counts is the policy in force now, whatever a frame's time says.
func TestStoredPolicyNow(t *testing.T) {
	for name, test := range map[string]struct {
		changes []string
		want    Reason
	}{
		"the same":              {nil, 0},
		"sender revoked":        {[]string{"queues:", "revoked: [planner]\nqueues:"}, Revoked},
		"no producer":           {[]string{`summarise: {enqueue: [planner, "prod-*"]`, `summarise: {enqueue: ["prod-*"]`}, NotEntitled},
		"no worker":             {[]string{`"prod-*"], work: ["exec-*"]}`, `"prod-*"], work: ["exec-2"]}`}, NotEntitled},
		"no such queue":         {[]string{`summarise: {`, "summary: {"}, NotEntitled},
		"another worker's gone": {[]string{"queues:", "revoked: [exec-2]\nqueues:"}, 0},
		"the key's maker gone":  {[]string{"queues:", "revoked: [exec-1]\nqueues:"}, 0},
		"a producer gone":       {[]string{`summarise: {enqueue: [planner, "prod-*"]`, `summarise: {enqueue: [planner]`}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			queueWorld(t, func(t *testing.T, w *world) {
				maker := w.agent("exec-1")
				check(t, maker.Join(w.ctx(), queue))
				s := w.shift(queue, w.agent("exec-3"), w.agent("planner"))
				frame := s.seal(t, "waits")
				if keyAt(t, s.worker, queue, frame).statement.creator != maker.Self() {
					t.Fatal("the key is not exec-1's")
				}
				check(t, s.worker.AdoptPolicy(w.sign(queueRevision(2, test.changes...))))
				if test.want == 0 {
					s.takes(t, frame)
					return
				}
				s.refuses(t, frame, test.want)
				old := craftTask(t, s.producer, queue, keyAt(t, s.worker, queue, frame)).at(t, time.Now().Add(-time.Hour))
				s.refuses(t, old.frame(t), test.want)
				if err := s.worker.AwaitStored(w.ctx(), frame); !errors.Is(err, ErrNotEntitled) {
					t.Errorf("waiting for it: %v", err)
				}
			})
		})
	}
}

// TestStoredSignedNow: a queue that is to be signed from now on takes no frame from before that was not.
func TestStoredSignedNow(t *testing.T) {
	queueWorld(t, func(t *testing.T, w *world) {
		s := w.shift(scribble, w.agent("exec-1"), w.agent("planner"))
		frame := s.seal(t, "not signed")
		s.takes(t, frame)
		check(t, s.worker.AdoptPolicy(w.sign(queueRevision(2, ", signed: false", ""))))
		s.refuses(t, frame, Unsigned)
	})
}

// TestStoredSessionsAreBounded: what is remembered to be fast has an end.
func TestStoredSessionsAreBounded(t *testing.T) {
	queueWorld(t, func(t *testing.T, w *world) {
		s := w.shift(queue, w.agent("exec-1"), w.agent("planner"))
		first := s.craft(t).frame(t)
		for range maxStored + 20 {
			s.takes(t, s.craft(t).frame(t))
		}
		if n := s.sr.known(); n != maxStored {
			t.Errorf("%d sessions remembered", n)
		}
		s.takes(t, first)
	})
}

// TestStoredAtOnce has goroutines open the same and other frames, over and over, while the policy changes.
func TestStoredAtOnce(t *testing.T) {
	w := newWorld(t)
	w.setPolicy(queuePolicy)
	worker := w.agent("exec-1")
	a, b := w.shift(queue, worker, w.agent("planner")), w.shift(queue, worker, w.agent("prod-1"))
	b.sr = a.sr
	if _, err := openStored(t, worker, a.sr, b.seal(t, "known"), a.want); err != nil {
		t.Fatal(err)
	}
	var frames [][]byte
	for range 10 {
		frames = append(append(append(frames, a.sealAll(t, 4)...), b.sealAll(t, 3)...), a.seal(t, "alone"), b.seal(t, "alone"))
	}
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			var out Opened
			for i := range frames {
				frame := frames[(i*7+g*11)%len(frames)]
				var f envelope.Frame
				if err := errors.Join(envelope.Parse(frame, &f), a.sr.Open(frame, a.want, &out)); err != nil || out.ID != f.ID || out.Messages[0].ID != f.ID {
					t.Errorf("frame %d: %v", i, err)
				}
			}
		})
	}
	check(t, worker.AdoptPolicy(w.sign(queueRevision(2))))
	wg.Wait()
}

// TestStoredClosedRing opens nothing more.
func TestStoredClosedRing(t *testing.T) {
	queueWorld(t, func(t *testing.T, w *world) {
		s := w.shift(queue, w.agent("exec-1"), w.agent("planner"))
		frame := s.seal(t, "late")
		check(t, s.worker.Close(cut()))
		var out Opened
		if err := s.sr.Open(frame, s.want, &out); !errors.Is(err, ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
		if err := s.worker.AwaitStored(w.ctx(), frame); !errors.Is(err, ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
		if _, err := s.worker.StoredReceiver(queue); !errors.Is(err, ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
		synctest.Wait()
	})
}
