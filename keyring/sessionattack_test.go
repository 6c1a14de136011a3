package keyring

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// noted is a topic with a reader, and a writer's first frames there: an opening note and an event.
type noted struct {
	*book
	reader *Ring
	rc     *Receiver
	want   *Want
	frames [][]byte
	key    *chanKey
}

func notedWorld(t *testing.T, f func(*testing.T, *noted)) {
	bubble(t, func(t *testing.T, w *world) {
		n := &noted{reader: w.agent("planner"), want: &Want{Kinds: Kinds(envelope.KindEvent), Recipient: "ledger", Notes: true}}
		check(t, n.reader.Join(w.ctx(), ledger))
		n.rc = value(n.reader.Receiver(ledger))(t)
		n.book = w.keep(ledger, w.agent("feed-1"))
		pass(time.Millisecond)
		list := n.seal(1)
		for _, b := range list {
			n.frames = append(n.frames, slices.Clone(b.Frame))
		}
		check(t, n.reader.Await(w.ctx(), n.frames[0]))
		n.key = currentKey(t, n.reader, ledger)
		f(t, n)
	})
}

// crafted is a control that somebody makes who holds the channel's key, with one message of that payload.
func (n *noted) crafted(t testing.TB, recipient, payload string) *crafted {
	t.Helper()
	c := craft(t, n.ring, ledger, n.key, recipient)
	c.Kind, c.Flags = envelope.KindControl, c.Flags|envelope.FlagCommitted
	m := envelope.Message{ID: c.ID, Salt: [16]byte{1}, Payload: []byte(payload)}
	c.plain = value(envelope.AppendMessage(nil, &m, true))(t)
	var tree envelope.Tree
	check(t, tree.BuildCommit([]envelope.Message{m}))
	c.Commit = tree.Root()
	return c
}

func renamed(t testing.TB, frame []byte, edit func(*envelope.Frame)) []byte {
	t.Helper()
	var f envelope.Frame
	check(t, envelope.Parse(frame, &f))
	edit(&f)
	return value(envelope.AppendFrame(nil, &f))(t)
}

// TestNoteReceived: a note is received like any frame where notes belong, and nowhere else.
func TestNoteReceived(t *testing.T) {
	notedWorld(t, func(t *testing.T, n *noted) {
		events := wantEvent("ledger")
		mustReject(t, n.rc, n.frames[0], events, Misdirected)
		o := mustOpen(t, n.rc, n.frames[0], n.want)
		if o.Kind != envelope.KindControl || o.Seq != 1 || len(o.Messages) != 1 || len(o.Messages[0].Payload) != 0 {
			t.Errorf("opened %+v", o)
		}
		mustReject(t, n.rc, n.frames[0], n.want, Seen)
		if o := mustOpen(t, n.rc, n.frames[1], &Want{Kinds: n.want.Kinds, Recipient: "ledger.x", Notes: true}); o.Seq != 2 || o.Lost != 0 {
			t.Errorf("opened %+v", o)
		}
		stored := value(n.reader.StoredReceiver(ledger))(t)
		var out Opened
		check(t, stored.Open(n.frames[0], n.want, &out))
		if err := stored.Open(n.frames[0], events, &out); ReasonOf(err) != Misdirected {
			t.Errorf("among events: %v", err)
		}
		auditor := n.w.agent("exec-1") // which has no part in the topic
		a := value(auditor.Attest(n.w.ctx(), n.frames[0], ledger, n.want))(t)
		if a.Recipient != "ledger.open.none.0.none" || a.Seq != 1 || a.Sender != n.ring.Self() {
			t.Errorf("attested %+v", a)
		}
	})
}

// TestNoteMoved has the broker play a note elsewhere, and as something else.
func TestNoteMoved(t *testing.T) {
	notedWorld(t, func(t *testing.T, n *noted) {
		note := n.frames[0]
		below := &Want{Kinds: n.want.Kinds, Recipient: "ledger.x"} // where no notes belong
		mustReject(t, n.rc, note, below, Misdirected)
		mustReject(t, n.rc, renamed(t, note, func(f *envelope.Frame) { f.Kind = envelope.KindEvent }), &Want{Kinds: n.want.Kinds, Recipient: "ledger.open.none.0.none"}, BadSeal)
		check(t, n.reader.Join(n.w.ctx(), prices))
		other := value(n.reader.Receiver(prices))(t)
		mustReject(t, other, note, n.want, Misdirected)
		mustReject(t, other, renamed(t, note, func(f *envelope.Frame) { f.Channel = []byte("topic/prices") }), n.want, Misdirected)
		mustReject(t, other, renamed(t, note, func(f *envelope.Frame) {
			f.Channel, f.Recipient, f.Key = []byte("topic/prices"), []byte("prices.close"), currentKey(t, n.reader, prices).statement.id
		}), n.want, NotEntitled) // nobody counts there
		mustOpen(t, n.rc, note, n.want)
	})
}

// TestNoteEdited changes a note in every way that would say something else, and every byte of it.
func TestNoteEdited(t *testing.T) {
	notedWorld(t, func(t *testing.T, n *noted) {
		n.sender.GiveUp(n.seal(2))
		list := n.seal(1)
		void := slices.Clone(list[1].Frame)
		mustSay(t, list[1:], "ledger.void.")
		for name, edit := range map[string]func(*envelope.Frame){
			"more numbers":     func(f *envelope.Frame) { f.Recipient = append(bytes.Clone(f.Recipient), '0') },
			"closes":           func(f *envelope.Frame) { f.Recipient = []byte("ledger.close") },
			"another number":   func(f *envelope.Frame) { f.Seq++ },
			"another session":  func(f *envelope.Frame) { f.Session[15] ^= 1 },
			"of a later time":  func(f *envelope.Frame) { f.ID[15] ^= 1 },
			"not committed to": func(f *envelope.Frame) { f.Commit[0] ^= 1 },
		} {
			t.Log(name)
			mustReject(t, n.rc, renamed(t, void, edit), n.want, BadSeal)
			if _, err := n.reader.Attest(n.w.ctx(), renamed(t, void, edit), ledger, n.want); ReasonOf(err) != BadSignature {
				t.Errorf("attested: %v", err)
			}
		}
		for i := range void {
			broken := bytes.Clone(void)
			broken[i] ^= 0x20
			var out Opened
			if err := n.rc.Open(broken, n.want, &out); ReasonOf(err) == 0 {
				t.Errorf("opened with byte %d changed: %v", i, err)
			}
		}
		mustOpen(t, n.rc, void, n.want)
	})
}

// TestNoteForged has a reader of a signed topic, who can make every writer's seal, say something in a writer's name; and a writer say
// what is no note.
func TestNoteForged(t *testing.T) {
	notedWorld(t, func(t *testing.T, n *noted) {
		session := ulid.ULID(headerOf(t, &Bundle{Frame: n.frames[0]}).Session)
		for _, text := range []string{"ledger.close", "ledger.void." + session.String() + ".2.2"} {
			forged := n.crafted(t, text, "")
			forged.Session, forged.Seq, forged.signer = session, 3, n.reader.own
			mustReject(t, n.rc, forged.frame(t), n.want, BadSignature)
			if _, err := n.reader.Attest(n.w.ctx(), forged.frame(t), ledger, n.want); ReasonOf(err) != BadSignature {
				t.Errorf("attested: %v", err)
			}
			forged.signer = nil
			mustReject(t, n.rc, forged.frame(t), n.want, Unsigned)
			own := n.crafted(t, text, "")
			own.claim(n.reader)
			own.signer = n.reader.own
			mustReject(t, n.rc, own.frame(t), n.want, NotEntitled)
		}
		for _, text := range []string{"ledger", "ledger.x", "ledger.open", "ledger.closed", "prices.close", "ledger.close.x", "ledger.void." + session.String() + ".2.1"} {
			mustReject(t, n.rc, n.crafted(t, text, "").frame(t), n.want, Misdirected)
		}
		answer := n.crafted(t, "ledger.close", "")
		answer.Ref = newULID(t, n.ring.now())
		mustReject(t, n.rc, answer.frame(t), n.want, Misdirected)
		var out Opened
		if err := n.rc.Open(n.crafted(t, "ledger.close", "words").frame(t), n.want, &out); ReasonOf(err) != BadContent {
			t.Errorf("with something in it: %v", err)
		}
		uncommitted := craft(t, n.ring, ledger, n.key, "ledger.close")
		uncommitted.Kind = envelope.KindControl
		mustReject(t, n.rc, uncommitted.frame(t), n.want, Unsigned)
		mustOpen(t, n.rc, n.crafted(t, "ledger.close", "").frame(t), n.want)
	})
}

// TestNoNotesElsewhere: no other kind of channel has session notes.
func TestNoNotesElsewhere(t *testing.T) {
	for _, name := range []string{"result/summarise", "service/lookup", "pair/a~summarise"} {
		ch := policy.MustParseChannel(name)
		f := &envelope.Frame{Header: envelope.Header{Kind: envelope.KindControl, Channel: []byte(ch.String()), Recipient: []byte(ch.Name() + ".close")}}
		if isNote(f) {
			t.Errorf("a note on %s", name)
		}
	}
	f := &envelope.Frame{Header: envelope.Header{Kind: envelope.KindControl, Channel: []byte("queue/summarise"), Recipient: []byte("summarise.close")}}
	if !isNote(f) {
		t.Error("no note on a queue")
	}
}

// TestLostWithNotes counts what is lost where notes are among the frames, and lost too.
func TestLostWithNotes(t *testing.T) {
	notedWorld(t, func(t *testing.T, n *noted) {
		mustOpen(t, n.rc, n.frames[0], n.want)
		var list []*Bundle
		for range 3 { // an idle note after each
			list = append(append(list, n.seal(1)...), n.note(NoteIdle)...)
			n.sender.Stored(list)
		}
		lost := uint64(0)
		for i, b := range append(list, n.seal(windowBits)...) {
			want := &Want{Kinds: n.want.Kinds, Recipient: "ledger.x", Notes: true}
			if i != 2 && i != 3 { // nor what was sealed with the opening note
				lost += mustOpen(t, n.rc, b.Frame, want).Lost
			}
		}
		if lost != 3 {
			t.Errorf("%d frames are lost, want 3", lost)
		}
	})
}
