package integration_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// TestReplayedElsewhere: a message counts for the subject that its sender has sealed, wherever the broker keeps it.
func TestReplayedElsewhere(t *testing.T) {
	t.Parallel()
	w := newKeptWorld(t)
	sender := w.alice.sender(w.World, "topic/board")
	frame := seal(t, sender, keyring.Draft{Kind: envelope.KindEvent, Recipient: "board.eu"}, "text")
	_, err := w.o.js.Publish(w.Ctx(), "sb.topic.board.us", frame)
	bustest.Check(t, err)
	replay := func(pattern string) (texts []string, reasons []keyring.Reason) {
		for m, err := range w.bob.Replay(w.Ctx(), pattern) {
			if err == nil {
				texts = append(texts, m.Subject+": "+string(m.Payload))
			} else {
				reasons = append(reasons, keyring.ReasonOf(err))
			}
		}
		return texts, reasons
	}
	for _, pattern := range []string{"board.>", "board.*"} {
		if texts, reasons := replay(pattern); len(texts) != 1 || texts[0] != "board.eu: text" || len(reasons) != 0 {
			t.Errorf("%s: %q, %v", pattern, texts, reasons)
		}
	}
	if texts, reasons := replay("board.us"); len(texts) != 0 || len(reasons) != 1 || reasons[0] != keyring.Misdirected {
		t.Errorf("under the subject where it lies: %q, %v", texts, reasons)
	}
	if texts, reasons := replay("board.eu"); len(texts)+len(reasons) != 0 { // the broker can hide it
		t.Errorf("under its own: %q, %v", texts, reasons)
	}
}

// TestReplayLyingStore has the broker answer reads with what no stream can hold. The loop ends, with an error that says so, and takes
// up no more than the page that it has asked for.
func TestReplayLyingStore(t *testing.T) {
	t.Parallel()
	w := newKeptWorld(t)
	w.publish("board.eu")
	frame := w.lastFrame("board")
	bustest.Check(t, w.o.js.DeleteStream(w.Ctx(), policy.TopicStream("board"))) // what answers now is ours
	entry := func(seq uint64, data []byte) *nats.Msg {
		m := nats.NewMsg("")
		m.Header = nats.Header{"Nats-Stream": {"SB_TOPIC_board"}, "Nats-Subject": {"sb.topic.board.eu"}, "Nats-Sequence": {fmt.Sprint(seq)}, "Nats-Time-Stamp": {time.Now().Format(time.RFC3339Nano)}}
		m.Data = data
		return m
	}
	bare := func(data []byte) *nats.Msg { return &nats.Msg{Data: data} }
	status := func(code, pending, last string) *nats.Msg {
		m := nats.NewMsg("")
		m.Header = nats.Header{"Status": {code}, "Nats-Num-Pending": {pending}, "Nats-Last-Sequence": {last}}
		return m
	}
	repeat := func(m *nats.Msg, n int) (all []*nats.Msg) {
		for range n {
			all = append(all, m)
		}
		return all
	}
	large := make([]byte, 900<<10)
	end := status("204", "0", "100")
	for name, test := range map[string]struct {
		bare, full []*nats.Msg // answers to a page
		want       string
	}{
		"more than was asked for": {append(repeat(bare(frame), 5000), end), nil, "in no order, or too many"},
		"larger than asked for":   {append(repeat(bare(large), 8), end), nil, "in no order, or too many"},
		"nothing, and more":       {[]*nats.Msg{status("204", "5", "100")}, nil, "in no order"},
		"an end before it began":  {[]*nats.Msg{bare(frame), status("204", "5", "0")}, nil, "in no order"},
		"no number at the end":    {[]*nats.Msg{bare(frame), status("204", "5", "x")}, nil, "malformed"},
		"no number of the rest":   {[]*nats.Msg{bare(frame), status("204", "-1", "100")}, nil, "malformed"},
		"a status of its own":     {[]*nats.Msg{bare(frame), status("999", "0", "0")}, nil, `"999"`},
		"one place twice":         {[]*nats.Msg{bare(frame), end}, []*nats.Msg{entry(1, frame), entry(1, frame), end}, "in no order"},
		"backwards":               {[]*nats.Msg{bare(frame), end}, []*nats.Msg{entry(2, frame), entry(1, frame), end}, "in no order"},
		"no place":                {[]*nats.Msg{bare(frame), end}, []*nats.Msg{entry(0, frame), end}, "in no order"},
		"behind the end":          {[]*nats.Msg{bare(frame), end}, []*nats.Msg{entry(101, frame), end}, "in no order"},
	} {
		t.Run(name, func(t *testing.T) {
			sub, err := w.o.agents.Subscribe(policy.StreamGet("SB_TOPIC_board", ""), func(m *nats.Msg) {
				var q struct {
					Seq   uint64 `json:"seq"`
					Batch int    `json:"batch"`
					Bare  bool   `json:"no_hdr"`
				}
				if json.Unmarshal(m.Data, &q) != nil {
					return
				}
				var answers []*nats.Msg
				switch {
				case q.Seq > 100:
					answers = []*nats.Msg{status("404", "", "")}
				case q.Batch == 1: // where the stream ends
					answers = []*nats.Msg{entry(100, frame), end}
				case q.Bare || test.full == nil:
					answers = test.bare
				default:
					answers = test.full
				}
				for _, a := range answers {
					_ = w.o.agents.PublishMsg(&nats.Msg{Subject: m.Reply, Header: a.Header, Data: a.Data})
				}
			})
			bustest.Check(t, err)
			defer func() { _ = sub.Unsubscribe() }()
			bustest.Check(t, w.o.agents.Flush())
			ctx, cancel := context.WithTimeout(w.Ctx(), 20*time.Second)
			defer cancel()
			var last error
			for _, err := range w.bob.Replay(ctx, "board.>") {
				last = err
			}
			var e *agentbus.ReplayError
			if last == nil || errors.As(last, &e) || !strings.Contains(last.Error(), test.want) {
				t.Errorf("%v, want %q", last, test.want)
			}
		})
	}
}

const readPolicy = `trust_domain: example.org
revision: 1
queues:
  jobs:  {enqueue: [alice, mallory], work: [bob], read: [clerk]}
  other: {enqueue: [alice], work: [bob], read: [clerk]}
`

// TestForgedHistories: the broker makes up no task, no attempt, no result and no letter, and gives none to another task, however it
// puts them; what it has put there is named, and the histories of all other tasks are as they were.
func TestForgedHistories(t *testing.T) {
	t.Parallel()
	w := &taskWorld{World: bustest.New(t, readPolicy), t: t, hold: make(chan struct{})}
	w.o = newOwner(w.World)
	w.alice, w.bob = sit(t, w.World, "alice"), sit(t, w.World, "bob")
	clerk := sit(t, w.World, "clerk")
	worker := w.work()
	good := w.enqueue("jobs", "good")
	w.done(good, "good")
	failed := w.enqueue("jobs", "fail", agentbus.MaxAttempts(2), agentbus.Backoff(time.Millisecond, time.Millisecond))
	var dead *agentbus.TaskError
	if _, err := failed.Result(w.Ctx()); !errors.As(err, &dead) {
		t.Fatal(err)
	}
	w.done(w.enqueue("other", "elsewhere"), "elsewhere")
	bustest.Check(t, worker.Stop())
	waiting := w.enqueue("jobs", "waits")
	another := w.enqueue("jobs", "waits too")
	result := func(h *agentbus.TaskHandle) string { return policy.ResultSubject("jobs", h.ID().String()) }
	genuine := w.lastOf(policy.ResultStream("jobs"), result(good))
	note := w.lastOf(policy.ControlStream("jobs"), noteOf("bob", failed.ID(), 1))
	letter := w.lastOf(policy.DeadStream("jobs"), policy.DeadSubject("jobs", failed.ID().String()))

	// In the places of what came of a task that waits.
	w.insert(result(waiting), genuine)
	w.insert(policy.DeadSubject("jobs", waiting.ID().String()), letter)
	w.insert(noteOf("bob", waiting.ID(), 1), note)
	w.insert(noteOf("bob", waiting.ID(), 2), []byte("junk"))
	w.insert(noteOf("alice", failed.ID(), 2), note)                                             // as somebody else's, who is no worker
	w.insert(noteOf("bob", failed.ID(), 7), note)                                               // as another attempt
	w.insert(policy.ControlSubject("jobs", "bob", "attempt."+failed.ID().String()+".01"), note) // at no number
	w.insert(result(another), edited(t, genuine, func(f *envelope.Frame) { f.Ref = another.ID() }))

	// And in the log.
	plain := policy.TaskSubject("jobs", agentbus.DefaultPriority)
	task := w.taskFrame("jobs")
	theirs := w.taskFrame("other")
	wrong := make(map[uint64]keyring.Reason)
	put := func(subject string, header nats.Header, frame []byte, want keyring.Reason) {
		t.Helper()
		ack, err := w.o.js.PublishMsg(w.Ctx(), &nats.Msg{Subject: subject, Header: header, Data: frame})
		bustest.Check(t, err)
		wrong[ack.Sequence] = want
	}
	put(plain, nil, task, keyring.Seen)
	put(policy.TaskSubject("jobs", 0), nil, task, keyring.Misdirected)
	put(policy.UniqueSubject("jobs", strings.Repeat("0", policy.ClaimChars), agentbus.DefaultPriority), nil, task, keyring.Misdirected)
	put(policy.SessionSubject("jobs"), nil, task, keyring.Misdirected)
	put(plain, nil, theirs, keyring.Misdirected)
	put(plain, nil, genuine, keyring.Misdirected)
	put(plain, nil, letter, keyring.Misdirected)
	put(plain, nil, []byte("junk"), keyring.Malformed)
	put(plain, nil, nil, keyring.Malformed)
	put(plain, nats.Header{"Status": {"404"}, "Nats-Sequence": {"1"}, "Nats-Subject": {policy.SpreadSubject("jobs", 2)}}, task, keyring.Seen)
	put(plain, nil, edited(t, task, func(f *envelope.Frame) { f.Ciphertext[20] ^= 1 }), keyring.BadSeal)
	put(plain, nil, edited(t, task, func(f *envelope.Frame) { f.Signature.Sig[3] ^= 1 }), keyring.BadSignature)
	if _, err := w.o.js.Publish(w.Ctx(), policy.SpreadSubject("jobs", agentbus.DefaultPriority), task); err != nil {
		t.Fatal(err)
	}
	last := w.enqueue("jobs", "the last")

	var got []string
	for h, err := range clerk.ReplayQueue(w.Ctx(), "jobs") {
		var e *agentbus.ReplayError
		if errors.As(err, &e) {
			if keyring.ReasonOf(err) != wrong[e.Sequence] {
				t.Errorf("at %d: %v, want %s", e.Sequence, err, wrong[e.Sequence])
			}
			delete(wrong, e.Sequence)
			continue
		}
		bustest.Check(t, err)
		line := fmt.Sprintf("%s %s %d", h.Task.Payload, h.State, len(h.Attempts))
		if h.Err != nil {
			line += fmt.Sprintf(" %d wrong", strings.Count(h.Err.Error(), "\n")+1)
		}
		if h.Letter != nil {
			line += " letter"
		}
		got = append(got, line)
		switch h.ID {
		case good.ID():
			if h.Err != nil || string(h.Result.Payload) != "done: good" {
				t.Errorf("%+v", h)
			}
		case failed.ID():
			if len(h.Attempts) != 2 || h.Attempts[0].Text != "failed: fail" || h.Dead == nil || h.Dead.Attempts != 2 {
				t.Errorf("%+v", h)
			}
		case waiting.ID(), another.ID(), last.ID():
			if h.Result != nil || h.Dead != nil || h.Letter != nil || len(h.Attempts) > 0 {
				t.Errorf("%+v", h)
			}
		}
	}
	want := []string{"good succeeded 0", "fail dead 2 1 wrong letter", "waits unclear 0 4 wrong", "waits too unclear 0 1 wrong", "the last pending 0"}
	if strings.Join(got, ", ") != strings.Join(want, ", ") {
		t.Errorf("%q, want %q", got, want)
	}
	for at, reason := range wrong {
		t.Errorf("nothing is said of what is at %d: %s", at, reason)
	}
}

// TestForgedRuns: a template that the broker says is in the log is a run of its schedule's ticks and of no others, once.
func TestForgedRuns(t *testing.T) {
	t.Parallel()
	w := &taskWorld{World: bustest.New(t, readPolicy), t: t, hold: make(chan struct{})}
	w.o = newOwner(w.World)
	w.alice, w.bob = sit(t, w.World, "alice"), sit(t, w.World, "bob")
	clerk := sit(t, w.World, "clerk")
	ran := make(chan *agentbus.Task, 64)
	worker, err := w.bob.Work(w.Ctx(), "jobs", func(_ context.Context, t *agentbus.Task) ([]byte, error) {
		ran <- t
		return []byte("done"), nil
	})
	bustest.Check(t, err)
	bustest.Check(t, w.alice.Recur(w.Ctx(), "jobs", "report", agentbus.Every(time.Second), nil))
	run := bustest.Receive(t, ran)
	bustest.Check(t, w.alice.RemoveRecurring(w.Ctx(), "jobs", "report"))
	bustest.Check(t, worker.Stop())
	template := w.lastOf(policy.TaskStream("jobs"), "sb.due.jobs.2")
	bustest.Check(t, w.o.js.DeleteStream(w.Ctx(), policy.TaskStream("jobs"))) // what answers now is ours

	const wrong, nothing = "wrong", ""
	want := []string{run.ID.String(), nothing, nothing, nothing, wrong, wrong, wrong, wrong, wrong}
	entries := make([]*nats.Msg, len(want))
	for i, next := range []string{
		run.Tick.Add(time.Second).Format(time.RFC3339Nano), // the run's own
		run.Tick.Add(time.Second).Format(time.RFC3339Nano), // again
		run.Tick.Add(500 * time.Millisecond).Format(time.RFC3339Nano),
		run.Tick.Add(-time.Hour).Format(time.RFC3339Nano), // before it was registered
		time.Now().Add(time.Hour).Format(time.RFC3339Nano),
		"9999-01-01T00:00:00Z", "purge", "never", "",
	} {
		m := nats.NewMsg("")
		m.Header = nats.Header{"Nats-Stream": {"SB_TASK_jobs"}, "Nats-Subject": {"sb.due.jobs.2"}, "Nats-Sequence": {fmt.Sprint(i + 1)},
			"Nats-Time-Stamp": {time.Now().Format(time.RFC3339Nano)}, "Nats-Schedule-Next": {next}}
		m.Data, entries[i] = template, m
	}
	_, err = w.o.agents.Subscribe(policy.StreamGet("SB_TASK_jobs", ""), func(m *nats.Msg) {
		var q struct{ Seq, Batch int }
		if json.Unmarshal(m.Data, &q) != nil {
			return
		}
		end := nats.Header{"Status": {"404"}}
		for i := q.Seq; i <= min(len(entries), q.Seq+q.Batch-1); i++ {
			end = nats.Header{"Status": {"204"}, "Nats-Last-Sequence": {fmt.Sprint(i)}, "Nats-Num-Pending": {fmt.Sprint(len(entries) - i)}}
			_ = w.o.agents.PublishMsg(&nats.Msg{Subject: m.Reply, Header: entries[i-1].Header, Data: entries[i-1].Data})
		}
		_ = w.o.agents.PublishMsg(&nats.Msg{Subject: m.Reply, Header: end})
	})
	bustest.Check(t, err)
	bustest.Check(t, w.o.agents.Flush())
	got := make([]string, len(want))
	for h, err := range clerk.ReplayQueue(w.Ctx(), "jobs") {
		var e *agentbus.ReplayError
		if errors.As(err, &e) && keyring.ReasonOf(err) == keyring.Misdirected {
			got[e.Sequence-1] = wrong
			continue
		}
		bustest.Check(t, err)
		got[h.Sequence-1] = h.ID.String()
		if !h.Tick.Equal(run.Tick) || h.State != agentbus.TaskSucceeded || string(h.Result.Payload) != "done" {
			t.Errorf("%s of %v: %s", h.ID, h.Tick, h.State)
		}
	}
	if strings.Join(got, ",") != strings.Join(want, ",") {
		t.Errorf("%q, want %q", got, want)
	}
}
