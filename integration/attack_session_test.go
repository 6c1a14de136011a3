package integration_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// readersPolicy lets a rogue read what is kept.
var readersPolicy = strings.Replace(framesPolicy, "ledger: {publish: [\"feed-*\"], subscribe: [planner]", "ledger: {publish: [\"feed-*\"], subscribe: [planner, rogue-reader]", 1)

// A broker plays a publisher's session notes again and elsewhere, and changes them. Whoever subscribes loses nothing by it, and is told
// of nothing that the publisher has not said.
func TestSessionNotesPlayed(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, framesPolicy)
	evil, planner, feed := attack(t, w), sit(t, w, "planner"), sit(t, w, "feed-1")
	var all []chan *agentbus.Message
	for _, pattern := range []string{"ledger.>", "prices.>", "gossip.>"} {
		all = append(all, planner.subscribe(w, pattern))
	}
	tapped := evil.tap("sb.topic.ledger")
	bustest.Check(t, feed.Publish(w.Ctx(), "ledger.x", []byte("first")))
	wants(t, all[0], "feed-1", "first")
	note := receiveFrame(t, tapped)
	if f := parse(t, note); f.Kind != envelope.KindControl || string(f.Recipient) != "ledger.open.none.0.none" {
		t.Fatalf("a %s for %s", f.Kind, f.Recipient)
	}
	says := func(text string) []byte {
		return edited(t, note, func(f *envelope.Frame) { f.Recipient, f.Seq = []byte(text), 7 })
	}
	session := parse(t, note).Session
	attacks := []struct {
		name, subject string
		frame         []byte
		reason        keyring.Reason
	}{
		{"again", "sb.topic.ledger", note, keyring.Seen},
		{"below the topic", "sb.topic.ledger.x", note, keyring.Misdirected},
		{"on another topic", "sb.topic.prices", note, keyring.Misdirected},
		{"on a topic of whose readers none is told", "sb.topic.gossip", note, keyring.Misdirected},
		{"as an event", "sb.topic.ledger", edited(t, note, func(f *envelope.Frame) { f.Kind = envelope.KindEvent }), keyring.Misdirected},
		{"as an event to the topic", "sb.topic.ledger", edited(t, note, func(f *envelope.Frame) { f.Kind, f.Recipient, f.Seq = envelope.KindEvent, []byte("ledger"), 7 }), keyring.BadSeal},
		{"made a closing one", "sb.topic.ledger", says("ledger.close"), keyring.BadSeal},
		{"made a void one", "sb.topic.ledger", says(fmt.Sprintf("ledger.void.%s.2.2", ulid.ULID(session))), keyring.BadSeal},
		{"made that of another", "sb.topic.ledger", says("prices.close"), keyring.Misdirected},
		{"made no note", "sb.topic.ledger", says("ledger"), keyring.Misdirected},
		{"with another number", "sb.topic.ledger", edited(t, note, func(f *envelope.Frame) { f.Seq = 7 }), keyring.BadSeal},
		{"of another session", "sb.topic.ledger", edited(t, note, func(f *envelope.Frame) { f.Session[15] ^= 1 }), keyring.BadSeal},
	}
	for _, c := range attacks {
		evil.inject(c.subject, c.frame)
		if r := planner.rejects(1, anyReason...)[0]; r.Reason != c.reason {
			t.Errorf("%s: %v, want %s", c.name, r.Err, c.reason)
		}
	}
	bustest.Check(t, feed.Publish(w.Ctx(), "ledger.x", []byte("second")))
	wants(t, all[0], "feed-1", "second")
	for _, got := range all {
		bustest.Empty(t, got)
	}
	if s := planner.Stats(); s.Lost != 0 || s.Received != 2 {
		t.Errorf("%+v", s)
	}
	planner.counted(len(attacks))
}

// A reader of a signed topic can make every publisher's seal. It closes no session of theirs and declares nothing void all the same: neither
// readers nor who has no key take it for theirs.
func TestSessionNotesForged(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, readersPolicy)
	evil, planner, feed, auditor := attack(t, w), sit(t, w, "planner"), sit(t, w, "feed-1"), sit(t, w, "exec-1")
	got := planner.subscribe(w, "ledger.>")
	tapped := evil.tap("sb.topic.ledger")
	bustest.Check(t, feed.Publish(w.Ctx(), "ledger.x", []byte("first")))
	wants(t, got, "feed-1", "first")
	genuine := receiveFrame(t, tapped)
	of := parse(t, genuine)
	ledger, want := policy.MustParseChannel("topic/ledger"), &keyring.Want{Notes: true}
	a, err := auditor.ring.Attest(w.Ctx(), genuine, ledger, want)
	bustest.Check(t, err)
	if a.Sender != feed.Self() || a.Recipient != string(of.Recipient) {
		t.Errorf("attested as %+v", a)
	}

	reader := newRogue(t, w, "rogue-reader")
	k := reader.join("topic/ledger")
	forge := func(text string) *forgery {
		f := reader.forge(k, envelope.KindControl, text)
		f.Flags |= envelope.FlagCommitted
		m := envelope.Message{ID: f.ID, Salt: [16]byte{1}}
		var tree envelope.Tree
		bustest.Check(t, tree.BuildCommit([]envelope.Message{m}))
		f.Commit = tree.Root()
		f.plain, err = envelope.AppendMessage(nil, &m, true)
		bustest.Check(t, err)
		return f
	}
	as := func(text string) *forgery { // in the publisher's own session
		f := forge(text)
		f.Sender, f.Card, f.Session, f.Seq = of.Sender, of.Card, of.Session, of.Seq+5
		return f
	}
	grafted := as("ledger.close")
	grafted.block = &of.Signature
	void := fmt.Sprintf("ledger.void.%s.2.2", ulid.ULID(of.Session))
	attacks := []struct {
		name   string
		frame  []byte
		reason keyring.Reason
	}{
		{"closes it", as("ledger.close").frame(t, ""), keyring.BadSignature},
		{"closes it with no signature", as("ledger.close").unsigned().frame(t, ""), keyring.Unsigned},
		{"closes it with the signature of another note", grafted.frame(t, ""), keyring.BadSignature},
		{"declares a number void", as(void).frame(t, ""), keyring.BadSignature},
		{"as itself", forge(void).frame(t, ""), keyring.NotEntitled},
	}
	for _, c := range attacks {
		evil.inject("sb.topic.ledger", c.frame)
		if r := planner.rejects(1, anyReason...)[0]; r.Reason != c.reason {
			t.Errorf("%s: %v, want %s", c.name, r.Err, c.reason)
		}
		if _, err := auditor.ring.Attest(w.Ctx(), c.frame, ledger, want); keyring.ReasonOf(err) != c.reason {
			t.Errorf("%s: attested: %v, want %s", c.name, err, c.reason)
		}
	}
	bustest.Check(t, feed.Publish(w.Ctx(), "ledger.x", []byte("second")))
	wants(t, got, "feed-1", "second")
	planner.counted(len(attacks))
}

// What an auditor counts is what the publisher has given numbers to: a broker that keeps a frame from the stream, or takes one out of it,
// leaves a hole of which nothing is said, and one that takes a note leaves one too.
func TestHoleIsSeen(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, framesPolicy)
	bustest.Check(t, sit(t, w, "planner").ring.Join(w.Ctx(), policy.MustParseChannel("topic/ledger")))
	feed := sit(t, w, "feed-1")
	for range 5 {
		bustest.Check(t, feed.Publish(w.Ctx(), "ledger.x", nil))
	}
	bustest.Check(t, feed.Close())
	const stream = "SB_TOPIC_ledger"
	if list, wrong := w.Sessions(stream); len(list) != 1 || !list[0].Closed || list[0].End != 7 || len(list[0].Missing) != 0 || len(wrong) != 0 {
		t.Fatalf("%d sessions; wrong is %q", len(list), wrong)
	}
	for gone := range 6 {
		list, wrong := w.SessionsWithout(stream, gone)
		if missing := list[0].Missing; len(missing) != 1 || missing[0] != uint64(gone+1) {
			t.Errorf("without message %d there are missing %d", gone, missing)
		}
		if opened := len(wrong) == 0; opened != (gone > 0) {
			t.Errorf("without message %d wrong is %q", gone, wrong)
		}
	}
	if list, _ := w.SessionsWithout(stream, 6); list[0].End != 0 {
		t.Error("without the closing note something says that nothing came after it")
	}
}

// A session note of a queue is no task, wherever the broker puts it, and stops no worker.
func TestSessionNoteAsTask(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, framesPolicy)
	planner, writer := sit(t, w, "planner"), sit(t, w, "writer-1")
	results := make(chan string, 8)
	_, err := writer.Work(w.Ctx(), "summarise", func(_ context.Context, task *agentbus.Task) ([]byte, error) {
		results <- string(task.Payload)
		return nil, nil
	})
	bustest.Check(t, err)
	enqueue := func(text string) {
		t.Helper()
		_, err := planner.Enqueue(w.Ctx(), "summarise", []byte(text))
		bustest.Check(t, err)
		if got := bustest.Receive(t, results); got != text {
			t.Errorf("worked on %q", got)
		}
	}
	enqueue("first")
	js, err := jetstream.New(w.Admin("STORE"))
	bustest.Check(t, err)
	s, err := js.Stream(w.Ctx(), policy.TaskStream("summarise"))
	bustest.Check(t, err)
	m, err := s.GetLastMsgForSubject(w.Ctx(), policy.SessionSubject("summarise"))
	bustest.Check(t, err)
	_, err = js.Publish(w.Ctx(), policy.TaskSubject("summarise", agentbus.DefaultPriority), m.Data)
	bustest.Check(t, err)
	writer.rejects(1, keyring.Misdirected)
	enqueue("second")
	bustest.Empty(t, results)
	writer.counted(1)
}
