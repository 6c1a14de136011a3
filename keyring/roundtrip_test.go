package keyring

import (
	"testing"
	"time"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

func TestReaderAndWriterMeet(t *testing.T) {
	for _, ch := range []policy.Channel{prices, gossip, ledger} {
		for _, first := range []string{"reader", "writer"} {
			t.Run(ch.Name()+"/"+first+" first", func(t *testing.T) {
				w := newWorld(t)
				reader, writer := w.agent("planner"), w.agent("feed-1")
				start := time.Now()
				if first == "reader" {
					check(t, reader.Join(w.ctx(), ch))
				}
				s := value(writer.Sender(w.ctx(), ch))(t)
				check(t, reader.Join(w.ctx(), ch))
				rc := value(reader.Receiver(ch))(t)
				frame, _, err := s.Seal(nil, draft(ch.Name()+".x", "hello"))
				check(t, err)
				got, err := open(t, reader, rc, frame, wantEvent(ch.Name()+".x"))
				check(t, err)
				if string(got.Messages[0].Payload) != "hello" || got.Sender.Name() != "feed-1" {
					t.Errorf("got %q from %s", got.Messages[0].Payload, got.Sender)
				}
				if got.Signed != (ch != gossip) {
					t.Errorf("signed = %v", got.Signed)
				}
				t.Logf("met and talked in %v", time.Since(start))
			})
		}
	}
}

func TestPairTalksBothWays(t *testing.T) {
	w := newWorld(t)
	planner, bob := w.agent("planner"), w.agent("exec-1")
	ch := policy.MustParseChannel("pair/exec-1~planner")
	s := value(planner.Sender(w.ctx(), ch))(t)
	rc := value(bob.PairReceiver())(t)
	frame, id, err := s.Seal(nil, &Draft{Kind: envelope.KindRequest, Recipient: "exec-1", Messages: []envelope.Message{{}}})
	check(t, err)
	got, err := open(t, bob, rc, frame, &Want{Kinds: Kinds(envelope.KindRequest), Recipient: "exec-1"})
	check(t, err)
	answer := value(bob.Sender(w.ctx(), got.Channel))(t)
	inbox := value(planner.PairReceiver())(t)
	frame, _, err = answer.Seal(nil, &Draft{Kind: envelope.KindReply, Recipient: "planner", Ref: got.ID, Messages: []envelope.Message{{Payload: []byte("yes")}}})
	check(t, err)
	reply, err := open(t, planner, inbox, frame, &Want{Kinds: Kinds(envelope.KindReply), Recipient: "planner", Ref: id, Sender: "exec-1"})
	check(t, err)
	if string(reply.Messages[0].Payload) != "yes" {
		t.Errorf("got %q", reply.Messages[0].Payload)
	}
}
