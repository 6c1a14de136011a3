package integration_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/policy"
)

// An agent writes entries under its own name whose NATS headers look like the server's own. They come back
// in front of the server's in every listing; were they believed, listings would break off or end early, and
// newcomers would miss the keys behind them.
func TestAgentCannotCutListingsShort(t *testing.T) {
	poison := map[string]nats.Header{
		"status 404":    {"Status": {"404"}, "Description": {"Message Not Found"}},
		"status 204":    {"Status": {"204"}, "Description": {"EOB"}, "Nats-Num-Pending": {"0"}},
		"sequence":      {"Nats-Sequence": {"oops"}, "Nats-Last-Sequence": {"oops"}},
		"subject":       {"Nats-Subject": {"$KV.SB_KEYS.topic.prices.j.planner.01ARZ3NDEKTSV4RRFFQ69G5FAV"}},
		"stream":        {"Nats-Stream": {""}},
		"malformed":     nil, // sent by hand, since no client library would
		"kv operation":  {"KV-Operation": {"DEL"}},
		"pending":       {"Nats-Num-Pending": {"0"}},
		"time":          {"Nats-Time-Stamp": {"never"}},
		"empty payload": {},
	}
	for name, header := range poison {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := bustest.New(t, listingPolicy)
			mallory := w.Raw(w.Source("exec-9"))
			prices := policy.MustParseChannel("topic/prices")
			// First of all entries, so that everything else is behind it.
			for range 3 {
				m := nats.NewMsg(policy.BucketSubject(policy.BucketKeys, policy.JoinKey(prices, "exec-9", ulid.Make().String())))
				if header == nil {
					publishMalformed(t, w, m.Subject)
					continue
				}
				m.Header = header
				bustest.Check(t, mallory.PublishMsg(m))
			}
			bustest.Check(t, mallory.Flush())

			planner, feed := w.Agent("planner"), w.Agent("feed-1")
			got := make(chan string, 1)
			_, err := planner.Subscribe(w.Ctx(), "prices.>", func(_ context.Context, m *agentbus.Message) error {
				got <- string(m.Payload)
				return nil
			})
			bustest.Check(t, err)
			bustest.Check(t, feed.Publish(w.Ctx(), "prices.x", []byte("one")))
			if text := bustest.Receive(t, got); text != "one" {
				t.Errorf("got %q", text)
			}
			// Whoever comes now lists everything and finds the keys behind the poison.
			second := make(chan string, 1)
			late := w.Agent("exec-1")
			_, err = late.Subscribe(w.Ctx(), "prices.>", func(_ context.Context, m *agentbus.Message) error {
				second <- string(m.Payload)
				return nil
			})
			bustest.Check(t, err)
			bustest.Check(t, feed.Publish(w.Ctx(), "prices.x", []byte("two")))
			bustest.Receive(t, got)
			if text := bustest.Receive(t, second); text != "two" {
				t.Errorf("got %q", text)
			}
		})
	}
}

// publishMalformed speaks the protocol by hand, to send a header block that is none.
func publishMalformed(t *testing.T, w *bustest.World, subject string) {
	t.Helper()
	publishHeader(t, w, "exec-9", subject, "NATS/1.0\r\ngarbage without a colon\r\n\r\n")
}

// publishHeader publishes a message with a header block as it stands.
func publishHeader(t *testing.T, w *bustest.World, agent, subject, header string) {
	t.Helper()
	config, err := identity.ClientTLS(w.Source(agent))
	bustest.Check(t, err)
	conn, err := tls.Dial("tcp", w.Node.Addr().String(), config)
	bustest.Check(t, err)
	defer conn.Close()
	bustest.Check(t, conn.SetDeadline(time.Now().Add(bustest.Timeout)))
	in := bufio.NewReader(conn)
	_, err = in.ReadString('\n') // INFO
	bustest.Check(t, err)
	const payload = "text"
	_, err = fmt.Fprintf(conn, "CONNECT {\"verbose\":false,\"headers\":true,\"lang\":\"go\",\"protocol\":1}\r\nHPUB %s %d %d\r\n%s%s\r\nPING\r\n",
		subject, len(header), len(header)+len(payload), header, payload)
	bustest.Check(t, err)
	for {
		line, err := in.ReadString('\n')
		bustest.Check(t, err)
		if strings.HasPrefix(line, "-ERR") {
			t.Fatalf("the broker did not take it: %s", line)
		}
		if strings.HasPrefix(line, "PONG") {
			return
		}
	}
}

const listingPolicy = `trust_domain: example.org
revision: 1
topics:
  prices: {publish: ["feed-*"], subscribe: [planner, "exec-*"]}
`
