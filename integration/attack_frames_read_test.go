package integration_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
)

// What the agents of TestBrokerReadsNothing say to each other, in every place where there is something to say.
var said = secrets{
	"payload of a live topic", "payload of an unsigned topic", "payload of a retained topic",
	"question to an agent", "answer of an agent", "question to a service", "answer of a service",
	"question that goes wrong", "error text of a handler", "question that makes it panic", "words of a panic",
	"text/made-up-content-type", "user-header-key", "value of a user header",
}

// The attacker who owns the broker taps every subject of every account while agents talk in all ways, reads
// every entry of every stream, and every file when the broker has stopped.
func TestBrokerReadsNothing(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, framesPolicy)
	taps := map[string]*wiretap{}
	for _, account := range []string{"AGENTS", "STORE", "SYS"} {
		taps[account] = tapAll(t, w, account)
	}
	logs := new(syncBuffer)
	chatter(t, w, logs)

	whole := taps["AGENTS"].end(t, w) + taps["STORE"].end(t, w) + taps["SYS"].end(t, w)
	for _, prefix := range []string{"sb.topic.prices.eu", "sb.topic.gossip", "sb.topic.ledger", "sb.agent.bob", "sb.service.lookup",
		"sb.inbox.planner.", "$KV.SB_CARDS.bob.", "$KV.SB_KEYS.topic.prices.j.", "$KV.SB_KEYS.pair.bob.planner.w.", "sb.store.keys."} {
		if !strings.Contains(whole, "\n"+prefix) {
			t.Errorf("the taps have heard nothing on %s: they prove nothing", prefix)
		}
	}
	said.notIn(t, "what went over the broker", []byte(whole))
	said.notIn(t, "the agents' logs", logs.Bytes())
	if !bytes.Contains(logs.Bytes(), []byte("handler panicked")) {
		t.Error("the agents' logs are not where they should be: they prove nothing")
	}
	retained := readStreams(t, w)

	w.Stop()
	files, found := 0, false
	bustest.Check(t, filepath.WalkDir(w.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		files++
		found = found || bytes.Contains(data, retained)
		said.notIn(t, path, data)
		return err
	}))
	if files == 0 || !found {
		t.Errorf("%d files, the retained frame among them: %v; they prove nothing", files, found)
	}
}

// chatter has agents say everything in said, and waits until it has been heard.
func chatter(t *testing.T, w *bustest.World, logs *syncBuffer) {
	t.Helper()
	agent := func(name string) *agentbus.Bus {
		c := w.Config(name)
		c.Logger = slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
		return w.Connect(c)
	}
	planner, feed, bob, index := agent("planner"), agent("feed-1"), agent("bob"), agent("index-1")
	got := make(chan *agentbus.Message, 8)
	options := []agentbus.MessageOption{agentbus.ContentType(said[11]), agentbus.Header(said[12], said[13])}
	for i, subject := range []string{"prices.eu", "gossip", "ledger"} {
		_, err := planner.Subscribe(w.Ctx(), subject, func(_ context.Context, m *agentbus.Message) error {
			got <- m
			return nil
		})
		bustest.Check(t, err)
		bustest.Check(t, feed.Publish(w.Ctx(), subject, []byte(said[i]), options...))
		m := bustest.Receive(t, got)
		if string(m.Payload) != said[i] || m.ContentType() != said[11] || m.Header(said[12]) != said[13] {
			t.Fatalf("%s: got %q %v", subject, m.Payload, m.Headers())
		}
	}
	_, err := bob.Serve(w.Ctx(), func(_ context.Context, m *agentbus.Message) ([]byte, error) {
		switch string(m.Payload) {
		case said[7]:
			return nil, errors.New(said[8])
		case said[9]:
			panic(said[10])
		}
		return []byte(said[4]), nil
	})
	bustest.Check(t, err)
	_, err = index.ServeService(w.Ctx(), "lookup", func(context.Context, *agentbus.Message) ([]byte, error) { return []byte(said[6]), nil })
	bustest.Check(t, err)

	m, err := planner.Request(w.Ctx(), "bob", []byte(said[3]), options...)
	bustest.Check(t, err)
	if string(m.Payload) != said[4] {
		t.Fatalf("got %q", m.Payload)
	}
	m, err = planner.RequestService(w.Ctx(), "lookup", []byte(said[5]), options...)
	bustest.Check(t, err)
	if string(m.Payload) != said[6] {
		t.Fatalf("got %q", m.Payload)
	}
	if _, err = planner.Request(w.Ctx(), "bob", []byte(said[7])); err == nil || !strings.Contains(err.Error(), said[8]) {
		t.Fatalf("got %v, want bob's error", err)
	}
	// What a handler panics with is not even for the requester.
	if _, err = planner.Request(w.Ctx(), "bob", []byte(said[9])); err == nil || strings.Contains(err.Error(), said[10]) {
		t.Fatalf("got %v, want an error that does not say why", err)
	}
}

// wiretap writes down everything in an account.
type wiretap struct {
	nc    *nats.Conn
	heard syncBuffer
	over  chan struct{}
}

const lastWord = "wiretap.end"

func tapAll(t *testing.T, w *bustest.World, account string) *wiretap {
	t.Helper()
	tap := &wiretap{nc: w.Admin(account), over: make(chan struct{})}
	_, err := tap.nc.Subscribe(">", func(m *nats.Msg) {
		fmt.Fprintf(&tap.heard, "\n%s %s %q\n%s\n", m.Subject, m.Reply, m.Header, m.Data)
		if m.Subject == lastWord {
			close(tap.over)
		}
	})
	bustest.Check(t, err)
	bustest.Check(t, tap.nc.FlushWithContext(w.Ctx()))
	return tap
}

// end returns all that was heard. What agents have acknowledged to each other reached the tap before.
func (tap *wiretap) end(t *testing.T, w *bustest.World) string {
	t.Helper()
	bustest.Check(t, tap.nc.Publish(lastWord, nil))
	bustest.Receive(t, tap.over)
	return string(tap.heard.Bytes())
}

// readStreams reads every message of every stream and bucket. It returns the frame of the retained topic.
func readStreams(t *testing.T, w *bustest.World) (retained []byte) {
	t.Helper()
	js, err := jetstream.New(w.Admin("STORE"))
	bustest.Check(t, err)
	counts := map[string]int{}
	names := js.StreamNames(w.Ctx())
	for name := range names.Name() {
		stream, err := js.Stream(w.Ctx(), name)
		bustest.Check(t, err)
		// One that has never held anything begins and ends at 0, which is no message.
		for seq := max(1, stream.CachedInfo().State.FirstSeq); seq <= stream.CachedInfo().State.LastSeq; seq++ {
			m, err := stream.GetMsg(w.Ctx(), seq)
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				continue // replaced by a newer one
			}
			bustest.Check(t, err)
			counts[name]++
			said.notIn(t, fmt.Sprintf("message %d of %s", seq, name), fmt.Appendf(nil, "%s %q %s", m.Subject, m.Header, m.Data))
			if name == "SB_TOPIC_ledger" {
				retained = m.Data
			}
		}
	}
	bustest.Check(t, names.Err())
	for _, name := range []string{"KV_SB_CARDS", "KV_SB_KEYS", "KV_SB_POLICY", "SB_TOPIC_ledger"} {
		if counts[name] == 0 {
			t.Errorf("%s is empty: it proves nothing", name)
		}
	}
	return retained
}
