package agentbus_test

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// storedTask returns the n-th message in the log of the queue work that is no session note, from 1.
func storedTask(t testing.TB, w *bustest.World, js jetstream.JetStream, n int) *jetstream.RawStreamMsg {
	t.Helper()
	for seq := uint64(1); ; seq++ {
		m := storedAt(t, w, js, seq)
		if _, note := policy.CutSessionSubject(m.Subject); !note {
			n--
		}
		if n == 0 {
			return m
		}
	}
}

// storedAt returns what the log of the queue work holds at a place.
func storedAt(t testing.TB, w *bustest.World, js jetstream.JetStream, seq uint64) *jetstream.RawStreamMsg {
	t.Helper()
	s, err := js.Stream(w.Ctx(), policy.TaskStream("work"))
	bustest.Check(t, err)
	m, err := s.GetMsg(w.Ctx(), seq)
	bustest.Check(t, err)
	return m
}

// waits has a wait for a task's result begin, and returns when it has asked the broker. What comes of it is the payload
// or the error's text.
func waits(t testing.TB, w *bustest.World, b *agentbus.Bus, h *agentbus.TaskHandle) <-chan string {
	t.Helper()
	before, got := b.Conn().NumSubscriptions(), make(chan string, 1)
	go func() {
		m, err := h.Result(w.Ctx())
		if err != nil {
			got <- err.Error()
			return
		}
		got <- string(m.Payload)
	}()
	eventually(t, "the wait for a result", func() bool { return b.Conn().NumSubscriptions() > before })
	bustest.Check(t, b.Flush(w.Ctx()))
	return got
}

// storedTasks returns how many tasks the log of the queue work holds, some of them together in a message.
func storedTasks(t testing.TB, w *bustest.World) (n int) {
	t.Helper()
	js, err := jetstream.New(w.Admin("STORE"))
	bustest.Check(t, err)
	state := streamOf(t, w, policy.TaskStream("work"))
	for seq := state.FirstSeq; seq <= state.LastSeq; seq++ {
		var f envelope.Frame
		bustest.Check(t, envelope.Parse(storedAt(t, w, js, seq).Data, &f))
		if f.Kind == envelope.KindTask {
			n += int(f.Count)
		}
	}
	return n
}

// stored returns how many of a batch's tasks are.
func stored(handles []*agentbus.TaskHandle) (n int) {
	for _, h := range handles {
		if h != nil {
			n++
		}
	}
	return n
}
