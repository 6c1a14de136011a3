package keyring

import (
	"testing"
	"time"

	"github.com/sealbus/sealbus/internal/envelope"
)

// attempt is a frame that would be accepted, until faults are added to it.
type attempt struct {
	*crafted
	rc    *Receiver
	want  *Want
	known *crafted // the header of a frame that rc has accepted
	after func([]byte) []byte
}

const orderPolicy = testPolicy + "revoked: [feed-bad]\n"

// faults are one for every reason, in the order of the checks.
var faults = []struct {
	reason Reason
	add    func(*testing.T, *world, *attempt)
}{
	{Malformed, func(_ *testing.T, _ *world, a *attempt) { a.after = func(b []byte) []byte { return append(b, 0) } }},
	{Misdirected, func(_ *testing.T, _ *world, a *attempt) { a.want.Recipient = "prices.elsewhere" }},
	{Revoked, func(_ *testing.T, _ *world, a *attempt) { a.Sender = []byte("spiffe://example.org/agent/feed-bad") }},
	{NotEntitled, func(_ *testing.T, _ *world, a *attempt) { a.Kind = envelope.KindRequest }},
	{Unsigned, func(_ *testing.T, _ *world, a *attempt) { a.signer = nil }},
	{Stale, func(t *testing.T, _ *world, a *attempt) {
		a.Expires = uint64(a.rc.ring.now().Add(-time.Second).UnixMilli())
	}},
	{NoKey, func(_ *testing.T, _ *world, a *attempt) { a.Key++ }},
	{Seen, func(_ *testing.T, _ *world, a *attempt) { a.Session, a.Seq = a.known.Session, a.known.Seq }},
	{BadSeal, func(_ *testing.T, _ *world, a *attempt) { a.flip = true }},
	{NoCard, func(t *testing.T, _ *world, a *attempt) { a.Card = newULID(t, a.rc.ring.now()) }},
	{BadSignature, func(t *testing.T, _ *world, a *attempt) {
		if a.signer != nil {
			a.signer = a.rc.ring.own
		}
	}},
	{Overload, func(_ *testing.T, _ *world, a *attempt) {
		for id := uint32(1); len(a.rc.sessions) < maxSessions; id++ {
			s := &inSession{newest: a.rc.ring.now().UnixMilli(), senderSession: a.rc.sessions[a.known.name()].senderSession}
			a.rc.sessions[sessionKey{key: id}] = s
		}
		a.rc.pruneAt = maxSessions
	}},
	{BadContent, func(_ *testing.T, _ *world, a *attempt) { a.plain = make([]byte, 40) }},
}

func (c *crafted) name() sessionKey { return sessionKey{c.Session, c.Card, c.Key} }

// attempt returns a frame of writer's that is in order, for a new receiver that has accepted one before it.
func (p *pairOf) attempt(t *testing.T) *attempt {
	t.Helper()
	k := currentKey(t, p.reader, prices)
	a := &attempt{rc: value(p.reader.Receiver(prices))(t), known: craft(t, p.writer, prices, k, p.subject)}
	mustOpen(t, a.rc, a.known.frame(t), p.want)
	a.crafted = craft(t, p.writer, prices, k, p.subject)
	a.want = &Want{Kinds: Kinds(envelope.KindEvent, envelope.KindRequest), Recipient: p.subject}
	a.after = func(b []byte) []byte { return b }
	return a
}

// TestReasonsInOrder provokes every reason, and every two faults at once: the check that comes first says no.
func TestReasonsInOrder(t *testing.T) {
	for i, r := range Reasons() {
		if i >= len(faults) || faults[i].reason != r {
			t.Fatalf("reason %d is %s: the faults here are not in the order of the reasons", i, r)
		}
	}
	bubble(t, func(t *testing.T, w *world) {
		w.setPolicy(orderPolicy)
		p := w.meet(prices, w.agent("planner"), w.agent("feed-1"))
		a := p.attempt(t)
		mustOpen(t, a.rc, a.frame(t), a.want)
		for i, first := range faults {
			a := p.attempt(t)
			first.add(t, w, a)
			a.mustReject(t, first.reason)
			for _, second := range faults[i+1:] {
				if first.reason == Seen && (second.reason == NoCard || second.reason == Overload) {
					continue // a frame of another card is of another session; a known session needs no room
				}
				a := p.attempt(t)
				first.add(t, w, a)
				second.add(t, w, a)
				if !a.mustReject(t, first.reason) {
					t.Errorf("that was with %s besides", second.reason)
				}
			}
		}
	})
}

func (a *attempt) mustReject(t *testing.T, reason Reason) bool {
	t.Helper()
	before := a.rc.snapshot()
	var out Opened
	err := a.rc.Open(a.after(a.frame(t)), a.want, &out)
	if ReasonOf(err) != reason {
		t.Errorf("got %v, want %s", err, reason)
		return false
	}
	// What an authentic sender sealed wrongly counts as received: it is not opened a second time.
	if reason != BadContent && a.rc.snapshot() != before {
		t.Errorf("a frame rejected as %s changed the replay state", reason)
	}
	return true
}

// TestReasonOfNames gives the names that are no agent's and no channel's a reason each: neither makes a frame
// malformed, which would be to look at names before looking at whom a frame is for.
func TestReasonOfNames(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.setPolicy(orderPolicy)
		p := w.meet(prices, w.agent("planner"), w.agent("feed-1"))
		pairs := value(p.reader.PairReceiver())(t)
		for name, test := range map[string]struct {
			rc      *Receiver
			channel string
			sender  string
			want    Reason
		}{
			"another channel":         {p.rc, "topic/gossip", "spiffe://example.org/agent/feed-1", Misdirected},
			"no channel":              {p.rc, "prices", "spiffe://example.org/agent/feed-1", Misdirected},
			"no pair":                 {pairs, "topic/prices", "spiffe://example.org/agent/feed-1", Misdirected},
			"no channel, for a pair":  {pairs, "pair/planner", "spiffe://example.org/agent/feed-1", Misdirected},
			"a pair of two others":    {pairs, "pair/exec-1~feed-1", "spiffe://example.org/agent/feed-1", Misdirected},
			"a pair, from a third":    {pairs, "pair/exec-1~planner", "spiffe://example.org/agent/feed-1", Misdirected},
			"a pair, from itself":     {pairs, "pair/feed-1~planner", "spiffe://example.org/agent/planner", Misdirected},
			"a sender that is no ID":  {p.rc, "topic/prices", "feed-1", NotEntitled},
			"a broker as sender":      {p.rc, "topic/prices", "spiffe://example.org/broker/feed-1", NotEntitled},
			"another trust domain":    {p.rc, "topic/prices", "spiffe://example.com/agent/feed-1", NotEntitled},
			"a reader, no writer":     {p.rc, "topic/prices", "spiffe://example.org/agent/exec-1", NotEntitled},
			"nobody the policy knows": {p.rc, "topic/prices", "spiffe://example.org/agent/stranger", NotEntitled},
		} {
			a := p.attempt(t)
			a.Channel, a.Sender = []byte(test.channel), []byte(test.sender)
			t.Log(name)
			mustReject(t, test.rc, a.frame(t), p.want, test.want)
		}
		a := p.attempt(t)
		a.want.Sender = "feed-2"
		a.mustReject(t, NotEntitled)
	})
}

// TestFreshness walks the edges of the live window, in both directions.
func TestFreshness(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.setPolicy(orderPolicy)
		p := w.meet(prices, w.agent("planner"), w.agent("feed-1"))
		old := p.rc
		pass(time.Minute)
		for _, test := range []struct {
			age    time.Duration
			expiry time.Duration // from now; 0: none
			rc     *Receiver
			want   Reason
		}{
			{0, 0, old, 0},
			{30 * time.Second, 0, old, 0},
			{30*time.Second + time.Millisecond, 0, old, Stale},
			{-MaxClockLead, 0, old, 0},
			{-MaxClockLead - time.Millisecond, 0, old, Stale},
			{time.Second, time.Millisecond, old, 0},
			{time.Second, 0, value(p.reader.Receiver(prices))(t), Stale},
			{time.Second, -time.Millisecond, old, Stale},
		} {
			a := craft(t, p.writer, prices, currentKey(t, p.reader, prices), p.subject)
			a.ID = newULID(t, time.Now().Add(-test.age))
			if test.expiry != 0 {
				a.Expires = uint64(time.Now().Add(test.expiry).UnixMilli())
			}
			var out Opened
			if err := test.rc.Open(a.frame(t), p.want, &out); ReasonOf(err) != test.want {
				t.Errorf("age %v, expiry %v: got %v, want %s", test.age, test.expiry, err, test.want)
			}
		}
		a := craft(t, p.writer, prices, currentKey(t, p.reader, prices), p.subject)
		a.Expires = uint64(time.Now().UnixMilli())
		mustReject(t, old, a.frame(t), p.want, Stale)
	})
}

func TestReasonTexts(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range Reasons() {
		if s := r.String(); s == "" || seen[s] {
			t.Errorf("reason %d reads %q", uint8(r), s)
		} else {
			seen[s] = true
		}
	}
	if got := Reason(200).String(); got != "reason 200" {
		t.Error(got)
	}
	if ReasonOf(nil) != 0 || ReasonOf(ErrClosed) != 0 {
		t.Error("a reason for what is no rejection")
	}
}
