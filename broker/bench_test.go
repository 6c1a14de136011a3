package broker_test

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/policy"
)

// BenchmarkTasks hands out and settles tasks of 400 bytes over mutual TLS: in
// AGENTS, as a worker gets them, and in STORE, where nothing is imported.
func BenchmarkTasks(b *testing.B) {
	for _, account := range []string{"AGENTS", "STORE"} {
		b.Run(account, func(b *testing.B) {
			w := bustest.New(b, fmt.Sprintf(queueRules, 1))
			agent := func(name string) *nats.Conn {
				return w.Raw(w.Source(name), nats.CustomInboxPrefix(policy.InboxPrefix(name)))
			}
			js, err := jetstream.New(agent("alice"))
			bustest.Check(b, err)
			fill(b, w, js)
			worker := agent("bob")
			if account == "STORE" {
				worker = w.Admin(account)
			}
			b.ResetTimer()
			work(b, worker)
		})
	}
}

func fill(b *testing.B, w *bustest.World, js jetstream.JetStream) {
	body := make([]byte, 400)
	for left := b.N; left > 0; {
		var batch []*nats.Msg
		for ; left > 0 && len(batch) < 500; left-- {
			m := nats.NewMsg(policy.TaskSubject("q", 0))
			m.Data = body
			batch = append(batch, m)
		}
		_, err := jetstreamext.PublishMsgBatch(w.Ctx(), js, batch, jetstreamext.BatchFlowControl{})
		bustest.Check(b, err)
	}
}

// work keeps four pulls of 256 under way.
func work(b *testing.B, nc *nats.Conn) {
	inbox := nc.NewInbox()
	sub, err := nc.SubscribeSync(inbox + ".>")
	bustest.Check(b, err)
	bustest.Check(b, sub.SetPendingLimits(-1, -1))
	pulls := 0
	pull := func() {
		pulls++
		bustest.Check(b, nc.PublishRequest(policy.TaskPull("q", 0), fmt.Sprint(inbox, ".", pulls), []byte(`{"batch":256,"expires":8000000000}`)))
	}
	for range 4 {
		pull()
	}
	for got := 0; got < b.N; {
		m, err := sub.NextMsg(bustest.Timeout)
		bustest.Check(b, err)
		if m.Reply == "" {
			pull() // one is over
			continue
		}
		bustest.Check(b, nc.Publish(m.Reply, nil))
		if got++; got%256 == 0 {
			pull()
		}
	}
	bustest.Check(b, nc.Flush())
}
