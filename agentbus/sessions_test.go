package agentbus_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

var (
	ledgerStream = policy.TopicStream("ledger")
	workStream   = policy.TaskStream("work")
)

// counted checks that nothing is missing in a stream, and that so many sessions are in it, all of them closed or not.
func counted(t testing.TB, w *bustest.World, stream string, sessions int, closed bool) []*bustest.Session {
	t.Helper()
	list, wrong := w.Sessions(stream)
	if len(wrong) > 0 || sessions > 0 && len(list) != sessions {
		t.Fatalf("%d sessions, want %d; wrong is %q", len(list), sessions, wrong)
	}
	for _, s := range list {
		if len(s.Missing) > 0 {
			t.Errorf("of session %s of %s %d numbers are missing: %d", s.ID, s.Sender, len(s.Missing), s.Missing)
		}
		if closed && s.End == 0 {
			t.Errorf("nobody says how session %s of %s ended, of which %d numbers are there", s.ID, s.Sender, s.Top)
		}
	}
	return list
}

// says checks the notes of a session by how they begin.
func says(t testing.TB, s *bustest.Session, want ...string) {
	t.Helper()
	if len(s.Notes) != len(want) {
		t.Fatalf("the notes are %q, want %q", s.Notes, want)
	}
	for i := range want {
		if !strings.HasPrefix(s.Notes[i], want[i]) {
			t.Errorf("the notes are %q, want %q", s.Notes, want)
		}
	}
}

// resident connects an agent with its state in a directory.
func resident(t testing.TB, w *bustest.World, name, dir string) *agentbus.Bus {
	t.Helper()
	c := w.Config(name)
	var err error
	c.Keyring, err = keyring.Open(dir, keyring.Passphrase("correct horse battery staple"), w.Operator.Fingerprint())
	bustest.Check(t, err)
	return w.Connect(c)
}

// copyOf copies a state directory as it stands: what a process that dies now leaves behind.
func copyOf(t testing.TB, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	bustest.Check(t, os.CopyFS(to, os.DirFS(dir)))
	bustest.Check(t, os.Chmod(to, 0o700))
	return to
}

// refuse has a stream take no message that is longer than so many bytes, -1 for any.
func refuse(t testing.TB, w *bustest.World, name string, longer int32) {
	t.Helper()
	js, err := jetstream.New(w.Admin("STORE"))
	bustest.Check(t, err)
	s, err := js.Stream(w.Ctx(), name)
	bustest.Check(t, err)
	config := s.CachedInfo().Config
	config.MaxMsgSize = longer
	_, err = js.UpdateStream(w.Ctx(), config)
	bustest.Check(t, err)
}

// settled waits until a stream has done with all that was sent to it, and all of them: it takes things in their order.
func settled(t testing.TB, w *bustest.World, subject string) {
	t.Helper()
	m := nats.NewMsg(subject)
	m.Header.Set(jetstream.ExpectedLastSeqHeader, "1000000000") // it stores nothing
	reply, err := w.Admin("STORE").RequestMsgWithContext(w.Ctx(), m)
	bustest.Check(t, err)
	if !strings.Contains(string(reply.Data), "error") {
		t.Fatalf("%s", reply.Data)
	}
}

// TestSessionsOfATopic follows the sessions of a publisher over another key and its own restart. Who subscribes sees nothing of
// the notes, and misses nothing.
func TestSessionsOfATopic(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, testPolicy)
	planner := w.Agent("planner")
	handler, got := collect(64)
	var subs []*agentbus.Subscription
	for _, pattern := range []string{"ledger.>", "ledger"} {
		sub, err := planner.Subscribe(w.Ctx(), pattern, handler)
		bustest.Check(t, err)
		subs = append(subs, sub)
	}
	dir := t.TempDir()
	feed, published := resident(t, w, "feed-1", dir), 0
	publish := func(n int) {
		t.Helper()
		for range n {
			bustest.Check(t, feed.Publish(w.Ctx(), "ledger.x", nil))
			published++
		}
	}
	publish(2)
	s := counted(t, w, ledgerStream, 1, false)[0]
	says(t, s, "ledger.open.none.0.none")
	if s.Top != 3 {
		t.Errorf("%d numbers", s.Top)
	}
	// Somebody loses the topic, and with that the key is another.
	publishPolicy(t, w, revised("2", "ledger: {publish: [\"feed-*\"]", "ledger: {publish: [feed-1]"), planner, feed)
	publish(1)
	bustest.Check(t, feed.Close())
	list := counted(t, w, ledgerStream, 2, true)
	says(t, list[1], fmt.Sprintf("ledger.open.%s.3.", list[0].ID), "ledger.close")
	feed = resident(t, w, "feed-1", dir)
	bustest.Check(t, feed.Close()) // without a word
	feed = resident(t, w, "feed-1", dir)
	publish(1)
	list = counted(t, w, ledgerStream, 3, false)
	says(t, list[2], fmt.Sprintf("ledger.open.%s.3.", list[1].ID))
	bustest.Check(t, feed.Close())
	counted(t, w, ledgerStream, 3, true)

	for range published {
		bustest.Receive(t, got)
	}
	bustest.Check(t, planner.Flush(w.Ctx()))
	for i, want := range []uint64{uint64(published), 0} {
		bustest.Check(t, subs[i].Stop())
		if s := subs[i].Stats(); s.Received != want || s.Handled != want || s.Lost != 0 || s.Dropped != 0 || len(s.Rejected) != 0 {
			t.Errorf("%+v, want %d messages", s, want)
		}
	}
	if n := feed.Stats().Published; n != 1 {
		t.Errorf("%d counted as published", n)
	}
}

// TestSessionCrash has a publisher go on that was killed: its next session says what it follows, and that nobody knows how that ended.
func TestSessionCrash(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, testPolicy)
	bustest.Check(t, second(w.Agent("planner").Subscribe(w.Ctx(), "ledger.>", func(context.Context, *agentbus.Message) error { return nil })))
	l, dir := newLine(t, w), t.TempDir()
	c := w.Config("feed-1")
	c.Servers = []string{l.addr}
	var err error
	c.Keyring, err = keyring.Open(dir, keyring.Passphrase("correct horse battery staple"), w.Operator.Fingerprint())
	bustest.Check(t, err)
	feed := w.Connect(c)
	bustest.Check(t, feed.Publish(w.Ctx(), "ledger.x", nil))
	dir = copyOf(t, dir)
	bustest.Check(t, feed.Publish(w.Ctx(), "ledger.x", nil))
	l.down()
	eventually(t, "the loss is noticed", func() bool { return !feed.Connected() })
	feed = resident(t, w, "feed-1", dir)
	bustest.Check(t, feed.Publish(w.Ctx(), "ledger.x", nil))
	bustest.Check(t, feed.Close())
	list := counted(t, w, ledgerStream, 2, false)
	says(t, list[1], fmt.Sprintf("ledger.open.%s.0.none", list[0].ID), "ledger.close")
}

// TestIdleSession says nothing for a while: that is noted, again and again, and what is published then is counted on.
func TestIdleSession(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, testPolicy)
	bustest.Check(t, second(w.Agent("planner").Subscribe(w.Ctx(), "ledger.>", func(context.Context, *agentbus.Message) error { return nil })))
	notes := tap(t, w.Admin("AGENTS"), policy.TopicSubject("ledger"))
	feed := w.Connect(agentbus.Idle(w.Config("feed-1"), 20*time.Millisecond, 30*time.Millisecond))
	bustest.Check(t, feed.Publish(w.Ctx(), "ledger.x", nil))
	for range 3 { // an opening note and two
		bustest.Receive(t, notes)
	}
	bustest.Check(t, feed.Publish(w.Ctx(), "ledger.x", nil))
	bustest.Receive(t, notes)
	bustest.Check(t, feed.Close())
	s := counted(t, w, ledgerStream, 1, true)[0]
	if !slices.Contains(s.Notes, "ledger.idle") || !s.Closed || s.End < 6 {
		t.Errorf("the notes are %q, of %d numbers", s.Notes, s.End)
	}
}

// TestSessionClosedByItself leaves a session that would end before the next idle note: it is closed, and another begins only when there is
// something to say.
func TestSessionClosedByItself(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, testPolicy)
	bustest.Check(t, second(w.Agent("planner").Subscribe(w.Ctx(), "ledger.>", func(context.Context, *agentbus.Message) error { return nil })))
	notes := tap(t, w.Admin("AGENTS"), policy.TopicSubject("ledger"))
	feed := w.Connect(agentbus.Idle(w.Config("feed-1"), 10*time.Millisecond, 2*keyring.SessionLife))
	for n := range 2 {
		bustest.Check(t, feed.Publish(w.Ctx(), "ledger.x", nil))
		bustest.Receive(t, notes)
		bustest.Receive(t, notes)
		bustest.Check(t, feed.Flush(w.Ctx()))
		eventually(t, "it is closed", func() bool { return streamOf(t, w, ledgerStream).Msgs == uint64(3*(n+1)) })
		says(t, counted(t, w, ledgerStream, n+1, true)[n], "ledger.open.", "ledger.close")
	}
	bustest.Check(t, feed.Close())
	counted(t, w, ledgerStream, 2, true)
}

// TestVoidOfATopic has messages fail in every way: the stream refuses them, the connection is lost for longer than anybody waits.
func TestVoidOfATopic(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, testPolicy)
	bustest.Check(t, second(w.Agent("planner").Subscribe(w.Ctx(), "ledger.>", func(context.Context, *agentbus.Message) error { return nil })))
	l := newLine(t, w)
	feed := l.agent("feed-1")
	refuse(t, w, ledgerStream, 1)
	for range 2 { // the session is not opened yet
		if err := feed.Publish(w.Ctx(), "ledger.x", nil); err == nil {
			t.Error("published to a stream that takes nothing")
		}
	}
	refuse(t, w, ledgerStream, -1)
	bustest.Check(t, feed.Publish(w.Ctx(), "ledger.x", nil))
	id := counted(t, w, ledgerStream, 1, false)[0].ID
	refuse(t, w, ledgerStream, 10<<10)
	if err := feed.Publish(w.Ctx(), "ledger.x", make([]byte, 100<<10)); err == nil {
		t.Error("published to a stream that takes nothing")
	}
	refuse(t, w, ledgerStream, -1)
	l.down()
	eventually(t, "the loss is noticed", func() bool { return !feed.Connected() })
	if err := feed.Publish(briefly(t), "ledger.x", nil); err == nil {
		t.Error("published without a connection")
	}
	l.up(t)
	bustest.Check(t, feed.Publish(w.Ctx(), "ledger.x", nil))
	void := func(from, to int) string { return fmt.Sprintf("ledger.void.%s.%d.%d", id, from, to) }
	// What went into a connection that was lost may yet arrive.
	if notes := counted(t, w, ledgerStream, 1, false)[0].Notes; notes[0] != "ledger.open.none.0.none" || notes[1] != void(1, 5) || notes[len(notes)-1] != void(9, 11) {
		t.Errorf("the notes are %q", notes)
	}
	refuse(t, w, ledgerStream, 1)
	if err := feed.Publish(w.Ctx(), "ledger.x", nil); err == nil {
		t.Error("published to a stream that takes nothing")
	}
	refuse(t, w, ledgerStream, -1)
	bustest.Check(t, feed.Close())
	if notes := counted(t, w, ledgerStream, 1, true)[0].Notes; !strings.HasSuffix(strings.Join(notes, " "), void(9, 11)+" "+void(14, 14)+" ledger.close") {
		t.Errorf("the notes are %q", notes)
	}
}

// TestSessionsOfAQueue enqueues in every way: what is in the log by its enqueuers is counted, and nothing else is.
func TestSessionsOfAQueue(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, taskPolicy)
	planner, boss := w.Agent("planner"), w.Agent("boss")
	_, err := w.Agent("exec-1").Work(w.Ctx(), "work", upper)
	bustest.Check(t, err)
	var enqueuers sync.WaitGroup
	for i, b := range []*agentbus.Bus{planner, boss} {
		for range 4 {
			enqueuers.Go(func() {
				for n := range 10 {
					if _, err := b.Enqueue(w.Ctx(), "work", []byte("one")); err != nil {
						t.Error(err)
					}
					// The other does the same: one of them is told that it stands.
					var stands *agentbus.DuplicateError
					if _, err := b.Enqueue(w.Ctx(), "work", []byte("unique"), agentbus.Unique(fmt.Sprint(n), 0)); err != nil && !errors.As(err, &stands) {
						t.Error(err)
					}
				}
			})
		}
		enqueuers.Go(func() {
			for range 3 {
				list := named(40)
				list = append(list, agentbus.NewTask{Options: []agentbus.EnqueueOption{agentbus.Delay(3 * time.Second)}})
				if _, err := b.EnqueueBatch(w.Ctx(), "work", list); err != nil {
					t.Error(err)
				}
			}
			if err := b.LimitQueue(w.Ctx(), "work", agentbus.QueueLimits{Running: 10 + i}); err != nil {
				t.Error(err)
			}
			if err := b.Recur(w.Ctx(), "work", "hourly", agentbus.Every(time.Hour), nil); err != nil {
				t.Error(err)
			}
		})
	}
	enqueuers.Wait()
	late, err := planner.Enqueue(w.Ctx(), "work", []byte("late"), agentbus.Delay(3*time.Second))
	bustest.Check(t, err)
	resultOf(t, w, late, "LATE") // so that a delayed one is in the log
	last, err := planner.Enqueue(w.Ctx(), "work", []byte("last"))
	bustest.Check(t, err)
	resultOf(t, w, last, "LAST") // notes stop no queue
	bustest.Check(t, planner.Close())
	bustest.Check(t, boss.Close())
	for _, s := range counted(t, w, workStream, 2, true) {
		if !s.Closed || !strings.HasPrefix(s.Notes[0], "work.open.none.0.none") {
			t.Errorf("the notes of %s are %q", s.Sender, s.Notes)
		}
	}
}

// TestManyInABatch enqueues as many as an atomic batch has room for, while there is something to say besides.
func TestManyInABatch(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, taskPolicy)
	planner := w.Agent("planner")
	list := make([]agentbus.NewTask, 1000)
	for i := range list {
		list[i] = agentbus.NewTask{Payload: make([]byte, 17<<10)[:10], Options: []agentbus.EnqueueOption{agentbus.Priority(i % 4)}} // so that each has a message
	}
	bustest.Check(t, second(planner.EnqueueBatch(w.Ctx(), "work", list)))
	refuse(t, w, workStream, 1)
	if _, err := planner.EnqueueBatch(w.Ctx(), "work", list); err == nil {
		t.Error("enqueued in a log that takes nothing")
	}
	refuse(t, w, workStream, -1)
	bustest.Check(t, second(planner.EnqueueBatch(w.Ctx(), "work", list)))
	if n := storedTasks(t, w); n != 2000 {
		t.Errorf("%d tasks are stored", n)
	}
	s := counted(t, w, workStream, 1, false)[0]
	says(t, s, "work.open.none.0.none", fmt.Sprintf("work.void.%s.1002.2001", s.ID))
}

// TestNoHoles publishes and enqueues from many goroutines while streams refuse them and connections break, with contexts that are short:
// whatever happened, no number is missing of which nothing is said.
func TestNoHoles(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	})
	w := bustest.New(t, strings.Replace(taskPolicy, "queues:", "topics:\n  ledger: {publish: [planner], subscribe: [boss], retain: 24h}\nqueues:", 1))
	bustest.Check(t, second(w.Agent("boss").Subscribe(w.Ctx(), "ledger.>", func(context.Context, *agentbus.Message) error { return nil })))
	l := newLine(t, w)
	planner := l.agent("planner")
	bustest.Check(t, planner.Publish(w.Ctx(), "ledger.x", nil))
	bustest.Check(t, second(planner.Enqueue(w.Ctx(), "work", nil)))
	stop := make(chan struct{})
	var callers sync.WaitGroup
	var calling sync.RWMutex // nats-server reads a stream's configuration without a lock while it takes a batch
	limit := func(stream string, longer int32) {
		calling.Lock()
		defer calling.Unlock()
		_ = planner.Flush(w.Ctx()) // what has failed
		settled(t, w, "sb.topic.ledger.x")
		settled(t, w, "sb.task.work.0")
		refuse(t, w, stream, longer)
	}
	for i := range 8 {
		random := rand.New(rand.NewPCG(seed, uint64(i+1)))
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				calling.RLock()
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(1+random.IntN(60))*time.Millisecond)
				switch random.IntN(6) { // what comes of them does not matter
				case 0, 1:
					_ = planner.Publish(ctx, fmt.Sprintf("ledger.n%d", random.IntN(3)), make([]byte, random.IntN(2000)))
				case 2:
					if p, err := planner.PublishAsync(ctx, "ledger.y", nil); err == nil {
						_ = p.Wait(ctx)
					}
				case 3:
					_, _ = planner.Enqueue(ctx, "work", make([]byte, random.IntN(20000)))
				case 4:
					_, _ = planner.Enqueue(ctx, "work", nil, agentbus.Unique(fmt.Sprint(random.IntN(1000)), 0))
				case 5:
					_, _ = planner.EnqueueBatch(ctx, "work", named(1+random.IntN(60)))
				}
				cancel()
				calling.RUnlock()
			}
		})
	}
	random := rand.New(rand.NewPCG(seed, 0))
	for range 12 {
		stream := []string{ledgerStream, workStream}[random.IntN(2)]
		switch random.IntN(4) {
		case 0:
			l.cut()
		case 1:
			l.down()
			eventually(t, "the loss is noticed", func() bool { return !planner.Connected() })
			l.up(t)
		case 2:
			limit(stream, []int32{1, 1500}[random.IntN(2)]) // of 1500 bytes are notes, and some messages
		case 3:
			limit(stream, -1)
		}
		before := streamOf(t, w, workStream).Msgs + streamOf(t, w, ledgerStream).Msgs
		deadline := time.Now().Add(time.Second) // where one takes none
		eventually(t, "something is stored", func() bool {
			return streamOf(t, w, workStream).Msgs+streamOf(t, w, ledgerStream).Msgs > before+20 || time.Now().After(deadline)
		})
	}
	close(stop)
	callers.Wait()
	for _, stream := range []string{ledgerStream, workStream} {
		limit(stream, -1)
	}
	_ = planner.Flush(w.Ctx()) // what has failed
	bustest.Check(t, planner.Publish(w.Ctx(), "ledger.x", nil))
	bustest.Check(t, second(planner.Enqueue(w.Ctx(), "work", nil)))
	for _, stream := range []string{ledgerStream, workStream} {
		void := 0
		for _, s := range counted(t, w, stream, 0, false) {
			for _, n := range s.Notes {
				if strings.Contains(n, ".void.") {
					void++
				}
			}
		}
		t.Logf("%s: %d messages, %d spans are void", stream, streamOf(t, w, stream).Msgs, void)
	}
}

// TestAckLost: what was stored, and whose acknowledgement does not come, is sent again, and stands once.
func TestAckLost(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, testPolicy)
	feed := w.Connect(agentbus.AckPatience(w.Config("feed-1"), 2*time.Second))
	bustest.Check(t, second(w.Agent("planner").Subscribe(w.Ctx(), "ledger.>", func(context.Context, *agentbus.Message) error { return nil })))
	js, err := jetstream.New(w.Admin("STORE"))
	bustest.Check(t, err)
	stream, err := js.Stream(w.Ctx(), ledgerStream)
	bustest.Check(t, err)
	acknowledge := func(yes bool) {
		config := stream.CachedInfo().Config
		config.NoAck = !yes
		bustest.Check(t, second(js.UpdateStream(w.Ctx(), config)))
	}
	for n := range uint64(2) { // the first with a note in front, in an atomic batch
		acknowledge(false)
		published := make(chan error, 1)
		go func() { published <- feed.Publish(w.Ctx(), "ledger.x", nil) }()
		eventually(t, "it is stored", func() bool { return streamOf(t, w, ledgerStream).Msgs == n+2 })
		bustest.Empty(t, published)
		acknowledge(true)
		bustest.Check(t, bustest.Receive(t, published))
		if m := streamOf(t, w, ledgerStream).Msgs; m != n+2 {
			t.Errorf("%d messages are stored, want %d", m, n+2)
		}
	}
}
