package integration_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

const killWorkers = 3

// killNumber reads how large a kill test is to be.
func killNumber(t testing.TB, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	bustest.Check(t, err)
	return n
}

// killRound is one blow.
type killRound struct {
	broker, worker bool
	opening        bool // the broker once more, while it reads its store
	runs           bool // after that many more runs of handlers, else tasks acknowledged
	after          int
}

// killRounds draws the rounds: first those that go by what is acknowledged, of the broker, then those that go by what
// workers do.
func killRounds(random *rand.Rand, tasks, kills int) (rounds []killRound) {
	both := kills / 3
	enqueuing := kills / 2
	most := map[bool]int{false: max(1, 2*tasks/(enqueuing+1)), true: max(1, 3*tasks/2/(2*kills-both-enqueuing))}
	for i := range 2*kills - both {
		r := killRound{broker: i < kills, worker: i >= kills-both, runs: i >= enqueuing, opening: i < kills && random.IntN(3) == 0}
		r.after = 1 + random.IntN(most[r.runs])
		rounds = append(rounds, r)
	}
	random.Shuffle(len(rounds)-enqueuing, func(i, j int) {
		rounds[enqueuing+i], rounds[enqueuing+j] = rounds[enqueuing+j], rounds[enqueuing+i]
	})
	return rounds
}

// TestKill has tasks enqueued and worked on while the broker and the workers, each a process of its own, are killed with
// SIGKILL again and again. Of the tasks that were acknowledged none is lost, and each has one result.
//
// By default it is small enough to run with every other test. SEALBUS_KILL_TASKS=20000 and SEALBUS_KILL_ROUNDS=30 say
// how many tasks and how many kills, of the broker and of workers each; SEALBUS_KILL_SEED repeats a run's choices.
func TestKill(t *testing.T) {
	t.Parallel()
	tasks, kills := killNumber(t, "SEALBUS_KILL_TASKS", 3000), killNumber(t, "SEALBUS_KILL_ROUNDS", 3)
	seed := killNumber(t, "SEALBUS_KILL_SEED", int(rand.Uint32()))
	t.Logf("SEALBUS_KILL_SEED=%d SEALBUS_KILL_TASKS=%d SEALBUS_KILL_ROUNDS=%d", seed, tasks, kills)
	random := rand.New(rand.NewPCG(uint64(seed), 0))
	began := time.Now()
	w, l := newKillWorld(t), newLedger()
	buses := []*agentbus.Bus{w.connect("planner"), w.connect("boss")}
	for i := range killWorkers {
		w.startWorker(fmt.Sprintf("exec-%d", i))
	}
	waiting := w.await(l, buses, 2*tasks)
	var producers sync.WaitGroup
	t.Cleanup(producers.Wait)
	for i, batch := range []int{1, 1, 1, 1, 1, 1, 100, 100} {
		own := rand.New(rand.NewPCG(uint64(seed), uint64(i+1)))
		producers.Go(func() { l.produce(buses[i%2], tasks, batch, own) })
	}
	opening := 0
	for i, r := range killRounds(random, tasks, kills) {
		if r.runs {
			runs, _ := w.runs.now()
			w.runs.await(t, "runs of handlers", min(runs+r.after, tasks))
		} else {
			acked, _ := l.count.now()
			l.count.await(t, "tasks acknowledged", min(acked+r.after, tasks))
		}
		w.blow(r, random)
		if r.opening {
			opening++
		}
		acked, _ := l.count.now()
		runs, _ := w.runs.now()
		t.Logf("%6.2fs round %d %+v: %d acknowledged, %d runs", time.Since(began).Seconds(), i, r, acked, runs)
	}
	producers.Wait()
	t.Logf("%6.2fs %d tasks acknowledged, the slowest after %v; %d calls failed: %v",
		time.Since(began).Seconds(), len(l.acked), l.slow.get(), len(l.unsure), l.failures())
	waiting.got.await(t, "results", len(l.acked))
	close(waiting.tasks)
	waiting.pool.Wait()
	t.Logf("%6.2fs every result has come; %d calls of Result had to be repeated; the slowest took %v after the result was sealed",
		time.Since(began).Seconds(), waiting.again.Load(), waiting.slow.get())
	waiting.ask(l, buses)
	w.account(l)
	t.Logf("%6.2fs the end; the broker was killed %d times and %d times more as it began, workers %d times", time.Since(began).Seconds(), kills, opening, kills)
}

// blow kills, and starts again what it has killed.
func (w *killWorld) blow(r killRound, random *rand.Rand) {
	w.t.Helper()
	name := fmt.Sprintf("exec-%d", random.IntN(killWorkers))
	if r.broker {
		w.broker.kill()
	}
	if r.worker {
		w.agents[name].kill()
		w.startWorker(name)
	}
	if r.opening {
		w.openBroker()
		w.broker.kill()
	}
	if r.broker {
		w.startBroker()
	}
}

// failures counts why calls failed.
func (l *ledger) failures() map[string]int {
	found := make(map[string]int)
	for _, err := range l.unsure {
		found[err.Error()]++
	}
	return found
}

// waiters ask over the bus for the result of every task that is acknowledged, from that moment on.
type waiters struct {
	w     *killWorld
	tasks chan numbered
	got   headcount
	again atomic.Int64 // calls that ended without an answer
	slow  longest      // from when a result was sealed and asked for until it was here
	pool  sync.WaitGroup
	first sync.Map     // id → the result that was returned first
	other atomic.Int64 // results that were another when they were asked for again
}

type numbered struct {
	n  int
	id ulid.ULID
}

func (w *killWorld) await(l *ledger, buses []*agentbus.Bus, most int) *waiters {
	r := &waiters{w: w}
	l.note = func(n int, id ulid.ULID) { r.tasks <- numbered{n, id} }
	r.work(buses, most)
	return r
}

func (r *waiters) work(buses []*agentbus.Bus, most int) {
	r.tasks = make(chan numbered, most)
	for i := range 32 {
		r.pool.Go(func() {
			for task := range r.tasks {
				r.result(buses[i%len(buses)], task)
				r.got.add(1)
			}
		})
	}
}

// ask asks for all results once more: what an enqueuer was told must be what is recorded.
func (r *waiters) ask(l *ledger, buses []*agentbus.Bus) {
	r.w.t.Helper()
	r.work(buses, len(l.acked))
	for n, id := range l.acked {
		r.tasks <- numbered{n, id}
	}
	close(r.tasks)
	r.pool.Wait()
	if n := r.other.Load(); n > 0 {
		r.w.t.Errorf("%d results are others than those that were returned first", n)
	}
}

func (r *waiters) result(b *agentbus.Bus, task numbered) {
	t := r.w.t
	h, err := b.Task(killQueue, task.id)
	if err != nil {
		t.Error(err)
		return
	}
	asked := time.Now()
	for {
		ctx, cancel := context.WithTimeout(context.Background(), killPatience/6)
		m, err := h.Result(ctx)
		cancel()
		switch {
		case errors.Is(err, context.DeadlineExceeded) && time.Since(asked) < killPatience:
			r.again.Add(1)
			continue
		case err != nil:
			t.Errorf("task %d, %s: %v", task.n, task.id, err)
		case !bytes.HasPrefix(m.Payload, killResult(task.n)) || !strings.HasPrefix(m.Sender.Name(), "exec-") || !m.Signed:
			t.Errorf("task %d has the result %q of %s", task.n, m.Payload, m.Sender)
		}
		if err != nil {
			return
		}
		r.slow.note(min(time.Since(m.Time), time.Since(asked)))
		if before, ok := r.first.LoadOrStore(task.id, string(m.Payload)); ok && before != string(m.Payload) {
			r.other.Add(1)
		}
		return
	}
}

// account looks at the broker's streams and at what the workers have noted, and reports.
func (w *killWorld) account(l *ledger) {
	w.t.Helper()
	js := w.store()
	log := w.look(js, policy.TaskStream(killQueue), w.tasksIn)
	results := w.look(js, policy.ResultStream(killQueue), w.resultsIn)
	for deadline := time.Now().Add(killPatience); len(results.ids) < len(log.ids) && time.Now().Before(deadline); {
		results = w.look(js, policy.ResultStream(killQueue), w.resultsIn) // of tasks whose call failed
	}
	acked := make(map[string]bool, len(l.acked))
	lost := 0
	for n, id := range l.acked {
		acked[id.String()] = true
		if log.ids[id.String()] != 1 || results.ids[id.String()] != 1 {
			lost++
			w.t.Errorf("task %d, %s, acknowledged: %d times in the log, %d results", n, id, log.ids[id.String()], results.ids[id.String()])
		}
	}
	others := 0
	for id, n := range log.ids {
		if !acked[id] {
			others++
		}
		if n != 1 || results.ids[id] != 1 {
			w.t.Errorf("task %s: %d times in the log, %d results", id, n, results.ids[id])
		}
	}
	// None was there and has gone, or been replaced: the stream's numbers have no gap.
	if s := results.state; len(results.ids) != len(log.ids) || s.Msgs != uint64(len(results.ids)) || s.FirstSeq != 1 || s.LastSeq != s.Msgs {
		w.t.Errorf("%d results of %d tasks in %+v", len(results.ids), len(log.ids), s)
	}
	if others > len(l.unsure) {
		w.t.Errorf("%d tasks in the log were not acknowledged, of %d whose call failed", others, len(l.unsure))
	}
	w.accountSessions(log.messages)
	w.accountRuns(l, others)
	w.t.Logf("tasks acknowledged: %d, of these lost: %d; calls that failed: %d, of these stored all the same: %d", len(l.acked), lost, len(l.unsure), others)
}

// accountSessions looks whether enqueuers have said of every number what became of it. One that was killed cannot, of those that were
// under way then: nobody says either how its session ended.
func (w *killWorld) accountSessions(messages []*jetstream.RawStreamMsg) {
	w.t.Helper()
	list, wrong := bustest.SessionsOf(w.t, messages)
	if len(wrong) > 0 {
		w.t.Errorf("wrong with the enqueuers' sessions is %q", wrong)
	}
	open, lost := 0, 0
	for _, s := range list {
		if s.End > 0 && len(s.Missing) > 0 {
			w.t.Errorf("session %s of %s, which has ended, lacks %d", s.ID, s.Sender, s.Missing)
		}
		if s.End == 0 {
			open, lost = open+1, lost+len(s.Missing)
		}
		if n := len(s.Missing); n > 0 && s.Missing[0]+keyring.MaxUnproven < s.Top {
			w.t.Errorf("session %s of %s lacks %d, of %d", s.ID, s.Sender, s.Missing, s.Top)
		}
	}
	w.t.Logf("enqueuers' sessions: %d, of these without an end: %d; numbers that these lack: %d", len(list), open, lost)
}

// accountRuns counts the runs of handlers by what the workers have noted.
func (w *killWorld) accountRuns(l *ledger, others int) {
	w.t.Helper()
	files, err := filepath.Glob(filepath.Join(w.dir, "runs-*"))
	bustest.Check(w.t, err)
	runs := make(map[int]int)
	for _, name := range files {
		raw, err := os.ReadFile(name)
		bustest.Check(w.t, err)
		for line := range strings.Lines(string(raw)) {
			var n, life, attempt int
			_, err := fmt.Sscanf(line, killRecord, &n, &life, &attempt)
			bustest.Check(w.t, err)
			if attempt != 1 {
				w.t.Errorf("task %d ran as attempt %d although none has failed", n, attempt)
			}
			runs[n]++
		}
	}
	total, most, again := 0, 0, 0
	for n, k := range runs {
		total, most = total+k, max(most, k)
		if k > 1 {
			again++
		}
		if _, ok := l.unsure[n]; !ok && l.acked[n].IsZero() {
			w.t.Errorf("task %d ran, which nobody has enqueued", n)
		}
	}
	for n := range l.acked {
		if runs[n] == 0 {
			w.t.Errorf("task %d has not run", n)
		}
	}
	if len(runs) != len(l.acked)+others {
		w.t.Errorf("%d tasks ran, of %d in the log", len(runs), len(l.acked)+others)
	}
	w.t.Logf("handler runs: %d of %d tasks; beyond one each: %d, of %d tasks, at most %d runs of one", total, len(runs), total-len(runs), again, most)
}

// TestKillProducer kills the enqueuer's process too. Started again with its state directory, it goes on, and at the end
// another with the same directory awaits the results of all its tasks by their ids.
func TestKillProducer(t *testing.T) {
	t.Parallel()
	tasks := killNumber(t, "SEALBUS_KILL_TASKS", 3000) / 5
	kills := killNumber(t, "SEALBUS_KILL_ROUNDS", 3)
	began := time.Now()
	w, l := newKillWorld(t), newLedger()
	w.startWorker("exec-0")
	w.startWorker("exec-1")
	heard := func(line string) {
		var n int
		var id string
		if _, err := fmt.Sscanf(line, "acked %d %s", &n, &id); err == nil {
			l.stored(n, ulid.MustParseStrict(id))
		}
	}
	for i := range kills {
		w.start("producer", "planner", heard)
		l.count.await(t, "tasks acknowledged", tasks*(i+1)/(kills+1))
		if i%2 == 1 {
			w.broker.kill()
		}
		w.agents["planner"].kill()
		if i%2 == 1 {
			w.startBroker()
		}
	}
	w.start("producer", "planner", heard)
	l.count.await(t, "tasks acknowledged", tasks)
	w.agents["planner"].kill()
	t.Logf("%6.2fs %d tasks acknowledged to %d processes", time.Since(began).Seconds(), len(l.acked), kills+1)

	results, ended := make(map[string]string), make(chan struct{}) // what is not yet acknowledged to this test may be among them
	w.start("collector", "planner", func(line string) {
		if line == collectorEnds {
			close(ended)
			return
		}
		var id string
		var text string
		if _, err := fmt.Sscanf(line, "result %s %q", &id, &text); err != nil {
			t.Errorf("the collector says %q", line)
		}
		results[id] = text
	})
	select {
	case <-ended:
	case <-time.After(killPatience):
		t.Fatalf("%d results are not collected within %v", len(l.acked), killPatience)
	}
	for n, id := range l.acked {
		if !strings.HasPrefix(results[id.String()], string(killResult(n))) {
			t.Errorf("task %d, %s, has the result %q", n, id, results[id.String()])
		}
	}
	// What a killed process had not been told, or had no time to note, may be stored too.
	js := w.store()
	log := w.look(js, policy.TaskStream(killQueue), w.tasksIn)
	for n, id := range l.acked {
		if log.ids[id.String()] != 1 {
			t.Errorf("task %d, %s, acknowledged: %d times in the log", n, id, log.ids[id.String()])
		}
	}
	w.accountSessions(log.messages)
	t.Logf("%6.2fs the end; %d tasks acknowledged, %d in the log, %d results by id after the restart", time.Since(began).Seconds(), len(l.acked), len(log.ids), len(results))
}
