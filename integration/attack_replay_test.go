package integration_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

const keptPolicy = `trust_domain: example.org
revision: 1
topics:
  board: {publish: [alice, mallory], subscribe: [bob], retain: 1h}
  other: {publish: [alice], subscribe: [bob], retain: 1h}
`

// keptWorld is a retained topic whose stream is the owner's to write to.
type keptWorld struct {
	*bustest.World
	t          *testing.T
	o          *owner
	alice, bob *seat
	genuine    []string                  // what was published
	wrong      map[uint64]keyring.Reason // what was put among it, and where
	under      map[uint64]string         // and its subject
}

func newKeptWorld(t *testing.T) *keptWorld {
	t.Helper()
	w := &keptWorld{World: bustest.New(t, keptPolicy), t: t, wrong: make(map[uint64]keyring.Reason), under: make(map[uint64]string)}
	w.o = newOwner(w.World)
	w.alice, w.bob = sit(t, w.World, "alice"), sit(t, w.World, "bob")
	for range w.bob.Replay(w.Ctx(), "board.>") { // so that bob has the keys
	}
	return w
}

// publish has alice publish something, between two attacks.
func (w *keptWorld) publish(subject string) {
	w.t.Helper()
	text := fmt.Sprint("genuine ", len(w.genuine))
	bustest.Check(w.t, w.alice.Publish(w.Ctx(), subject, []byte(text)))
	w.genuine = append(w.genuine, text)
}

// stream returns what the broker says of a topic's stream.
func (w *keptWorld) stream(topic string) (jetstream.Stream, *jetstream.StreamInfo) {
	w.t.Helper()
	s, err := w.o.js.Stream(w.Ctx(), policy.TopicStream(topic))
	bustest.Check(w.t, err)
	info, err := s.Info(w.Ctx())
	bustest.Check(w.t, err)
	return s, info
}

// lastFrame returns the last frame in a topic's stream.
func (w *keptWorld) lastFrame(topic string) []byte {
	w.t.Helper()
	s, info := w.stream(topic)
	m, err := s.GetMsg(w.Ctx(), info.State.LastSeq)
	bustest.Check(w.t, err)
	return m.Data
}

// insert puts a message into the stream, as the broker can.
func (w *keptWorld) insert(subject string, header nats.Header, data []byte, want keyring.Reason) {
	w.t.Helper()
	_, before := w.stream("board")
	m := nats.NewMsg(subject)
	m.Header, m.Data = header, data
	bustest.Check(w.t, w.o.js.Conn().PublishMsg(m))
	w.inserted(before, subject, want)
}

// inserted waits until the stream has what was put into it, which it takes in a goroutine of its own.
func (w *keptWorld) inserted(before *jetstream.StreamInfo, subject string, want keyring.Reason) {
	w.t.Helper()
	at := before.State.LastSeq + 1
	eventually(w.t, "the stream takes it", func() bool {
		_, info := w.stream("board")
		return info.State.LastSeq == at
	})
	w.wrong[at], w.under[at] = want, subject
}

// insertBlock is insert with a header block that no client library makes.
func (w *keptWorld) insertBlock(subject, block string, data []byte, want keyring.Reason) {
	w.t.Helper()
	_, before := w.stream("board")
	src, err := w.CA.BrokerSource("node-1", time.Hour)
	bustest.Check(w.t, err)
	config, err := identity.ClientTLS(src)
	bustest.Check(w.t, err)
	conn, err := tls.Dial("tcp", w.Node.Addr().String(), config)
	bustest.Check(w.t, err)
	defer conn.Close()
	bustest.Check(w.t, conn.SetDeadline(time.Now().Add(bustest.Timeout)))
	in := bufio.NewReader(conn)
	_, err = in.ReadString('\n') // INFO
	bustest.Check(w.t, err)
	_, err = fmt.Fprintf(conn, "CONNECT {\"user\":\"STORE\",\"verbose\":false,\"headers\":true,\"lang\":\"go\",\"protocol\":1}\r\nHPUB %s %d %d\r\n%s%s\r\nPING\r\n",
		subject, len(block), len(block)+len(data), block, data)
	bustest.Check(w.t, err)
	for line := ""; !strings.HasPrefix(line, "PONG"); {
		line, err = in.ReadString('\n')
		bustest.Check(w.t, err)
		if strings.HasPrefix(line, "-ERR") {
			w.t.Fatalf("the broker did not take it: %s", line)
		}
	}
	w.inserted(before, subject, want)
}

// replays reads back and expects all that is genuine, in its order, and of everything else an error that says where it is.
func (w *keptWorld) replays(pattern string, options ...agentbus.ReplayOption) {
	w.t.Helper()
	var got []string
	found := make(map[uint64]bool)
	for m, err := range w.bob.Replay(w.Ctx(), pattern, options...) {
		var e *agentbus.ReplayError
		switch {
		case err == nil:
			if w.wrong[m.Sequence] != 0 || m.Sender != w.alice.Self() {
				w.t.Errorf("%s: the forgery at %d is given out: %s", pattern, m.Sequence, m)
			}
			got = append(got, string(m.Payload))
		case errors.As(err, &e):
			want := w.wrong[e.Sequence]
			if want == 0 || keyring.ReasonOf(err) != want || found[e.Sequence] {
				w.t.Errorf("%s: at %d (%s): %v, want %s", pattern, e.Sequence, w.under[e.Sequence], err, want)
			}
			if e.Subject != "" && (e.Subject != w.under[e.Sequence] || time.Since(e.Stored) > time.Minute || time.Until(e.Stored) > time.Minute) {
				w.t.Errorf("%s: at %d: %s, stored %v, want %s", pattern, e.Sequence, e.Subject, e.Stored, w.under[e.Sequence])
			}
			found[e.Sequence] = true
		default:
			w.t.Fatalf("%s: %v", pattern, err)
		}
	}
	for at, reason := range w.wrong {
		if !found[at] && (pattern == "board.>" || strings.Count(w.under[at], ".") == 3 && !strings.HasSuffix(w.under[at], ">")) {
			w.t.Errorf("%s: nothing is said of %d, under %s, which is %s", pattern, at, w.under[at], reason)
		}
	}
	want := w.genuine
	if pattern != "board.>" {
		want = nil
		for i, text := range w.genuine {
			if i%2 == 0 {
				want = append(want, text)
			}
		}
	}
	if strings.Join(got, ",") != strings.Join(want, ",") {
		w.t.Errorf("%s: %q, want %q", pattern, got, want)
	}
}

// TestReplayedForgeries: whatever the broker puts into the stream of a topic, a replay names it with its place, and gives out all
// that is genuine and nothing else.
func TestReplayedForgeries(t *testing.T) {
	t.Parallel()
	w := newKeptWorld(t)
	const subject = "sb.topic.board.eu"
	w.publish("board.eu")
	frame := w.lastFrame("board")
	bustest.Check(t, w.alice.Publish(w.Ctx(), "other.eu", []byte("of another topic")))
	other := w.lastFrame("other")

	w.insert(subject, nil, frame, keyring.Seen)                // again
	w.insert("sb.topic.board.us", nil, frame, keyring.Seen)    // and elsewhere
	w.insert("sb.topic.board", nil, frame, keyring.Seen)       // and elsewhere
	w.insert("sb.topic.board.eu.de", nil, frame, keyring.Seen) // and elsewhere
	w.insert(subject, nil, other, keyring.Misdirected)         // of another topic
	w.insert(subject, nil, []byte("junk"), keyring.Malformed)  // no frame
	w.insert(subject, nil, nil, keyring.Malformed)             // nothing
	w.insert(subject, nil, make([]byte, 900<<10), keyring.Malformed)
	w.publish("board")
	for _, wild := range []string{"sb.topic.board.*", "sb.topic.board.>", "sb.topic.board.*.>"} {
		w.insert(wild, nil, frame, keyring.Seen)
		w.insert(wild, nil, []byte("junk"), keyring.Malformed)
	}
	w.publish("board.eu")

	// What senders say of their own counts is given out to nobody, and counts once and as it is all the same.
	stream, _ := w.stream("board")
	first, err := stream.GetMsg(w.Ctx(), 1)
	bustest.Check(t, err)
	if parse(t, first.Data).Kind != envelope.KindControl {
		t.Fatal("the first message is no session note, and this test shows less")
	}
	w.insert("sb.topic.board", nil, first.Data, keyring.Seen)
	w.insert(subject, nil, edited(t, first.Data, func(f *envelope.Frame) { f.Recipient = []byte("board.close") }), keyring.BadSeal)
	w.insert(subject, nil, edited(t, first.Data, func(f *envelope.Frame) { f.Recipient = []byte("board.opens") }), keyring.Misdirected)
	w.insert(subject, nil, edited(t, first.Data, func(f *envelope.Frame) { f.Signature.Sig[0] ^= 1 }), keyring.BadSignature)
	w.insert(subject, nil, edited(t, first.Data, func(f *envelope.Frame) { f.Key ^= 1; f.Signature.Sig[0] ^= 1 }), keyring.NoKey)
	w.publish("board")
	w.publish("board.eu")

	// Headers that look like the server's own, on what is genuine and on what is not.
	for _, header := range []nats.Header{
		{"Status": {"404"}, "Description": {"Message Not Found"}},
		{"Status": {"204"}, "Description": {"EOB"}, "Nats-Num-Pending": {"0"}, "Nats-Last-Sequence": {"18446744073709551615"}},
		{"Status": {"503"}}, {"Status": {"408"}},
		{"Nats-Sequence": {"1"}, "Nats-Last-Sequence": {"1"}}, {"Nats-Sequence": {"18446744073709551615"}}, {"Nats-Sequence": {"oops"}},
		{"Nats-Subject": {"sb.topic.board.us"}}, {"Nats-Stream": {""}}, {"Nats-Stream": {"SB_TOPIC_other"}}, {"Nats-Num-Pending": {"0"}},
		{"Nats-Time-Stamp": {"never"}}, {"Nats-Time-Stamp": {"1970-01-01T00:00:00Z"}},
		{"nats-sequence": {"1"}, "nats-subject": {"x"}},
	} {
		w.insert(subject, header, frame, keyring.Seen)
		w.insert(subject, header, []byte("junk"), keyring.Malformed)
		w.insert(subject, header, nil, keyring.Malformed)
	}
	w.publish("board.eu.x")
	for _, block := range []string{
		"NATS/1.0\r\ngarbage without a colon\r\n\r\n", "NATS/1.0 404\r\ngarbage\r\n\r\n", "NATS/1.0 204 EOB\r\nNats-Num-Pending: 0\r\n\r\n", "NATS/1.0 503\r\n\r\n",
	} {
		w.insertBlock(subject, block, frame, keyring.Seen)
		w.insertBlock(subject, block, []byte("junk"), keyring.Malformed)
		w.insertBlock(subject, block, nil, keyring.Malformed)
	}
	w.publish("board.eu")

	// Every field of the frame, changed.
	for _, edit := range []struct {
		want   keyring.Reason
		change func(*envelope.Frame)
	}{
		{keyring.Misdirected, func(f *envelope.Frame) { f.Kind = envelope.KindTask }},
		{keyring.Misdirected, func(f *envelope.Frame) { f.Kind = envelope.KindControl }},
		{keyring.BadSeal, func(f *envelope.Frame) { f.ID[15] ^= 1 }},
		{keyring.BadSeal, func(f *envelope.Frame) { f.Session[15] ^= 1 }},
		{keyring.BadSeal, func(f *envelope.Frame) { f.Seq += 1000 }},
		{keyring.BadSeal, func(f *envelope.Frame) { f.Expires = 1 }},
		{keyring.NoKey, func(f *envelope.Frame) { f.Key ^= 1 }},
		{keyring.Misdirected, func(f *envelope.Frame) { f.Channel = []byte("topic/other") }},
		{keyring.NotEntitled, func(f *envelope.Frame) { f.Sender = bytes.Replace(f.Sender, []byte("alice"), []byte("bob"), 1) }},
		{keyring.BadSeal, func(f *envelope.Frame) { f.Sender = bytes.Replace(f.Sender, []byte("alice"), []byte("mallory"), 1) }},
		{keyring.BadSeal, func(f *envelope.Frame) { f.Card[15] ^= 1 }},
		{keyring.BadSeal, func(f *envelope.Frame) { f.Recipient = []byte("board.us") }},
		{keyring.Misdirected, func(f *envelope.Frame) { f.Recipient = []byte("other.eu") }},
		{keyring.BadSeal, func(f *envelope.Frame) { f.Count++ }},
		{keyring.BadSeal, func(f *envelope.Frame) { f.Commit[0] ^= 1 }},
		{keyring.BadSeal, func(f *envelope.Frame) { f.Ciphertext[20] ^= 1 }},
		{keyring.BadSeal, func(f *envelope.Frame) { f.Ciphertext = f.Ciphertext[1:] }},
		{keyring.BadSignature, func(f *envelope.Frame) { f.Signature.Sig[0] ^= 1 }},
		{keyring.Unsigned, func(f *envelope.Frame) { f.Flags &^= envelope.FlagSigned; f.Signature = envelope.Signature{} }},
		{keyring.Unsigned, func(f *envelope.Frame) {
			f.Flags, f.Commit = f.Flags&^envelope.FlagCommitted, [envelope.HashSize]byte{}
		}},
	} {
		w.insert(subject, nil, edited(t, frame, edit.change), edit.want)
	}
	w.publish("board")
	w.publish("board.eu")
	w.publish("board.x.y.z")
	w.publish("board.eu")
	w.replays("board.>")
	w.replays("board.*")
	w.alice.counted(0)
}
