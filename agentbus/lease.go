package agentbus

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/internal/envelope"
)

// lease is a message of a queue's log that the broker has given to this worker: a task, or several that were enqueued
// together. It goes back to the broker as one, so it stays here until all of them have ended.
type lease struct {
	source    *source
	msg       *nats.Msg
	ids       []ulid.ULID // of its tasks that have no result yet, as the frame claims
	part      int         // which of the frame's tasks it is, -1 for all
	place     place
	delivered int // how often the broker has handed it out, by its own word
	came      time.Time

	// Behind the worker's lock.
	reply   string        // where the broker is told what has become of it
	server  string        // which run of which broker has handed it out
	renewed time.Time     // when it was last told that it is being worked on
	jobs    []*leasedTask // the tasks that have not ended, once it has been opened
	run     ulid.ULID     // of a recurring task, once it is opened
	active  int           // jobs that are being worked on
	back    bool          // given back, or settled
}

// leasedTask is a task of a lease, or, with no message yet, a lease that has not been opened.
type leasedTask struct {
	*lease
	id       ulid.ULID
	place    int // in its frame
	terms    terms
	message  *Message
	headers  []envelope.Pair // all of them
	failures int             // attempts that have failed before
	counted  bool            // failures has been looked up
	slot     bool            // it runs under a slot of its queue
	tick     time.Time       // of a recurring task, else zero
	recurs   string          // its name
	unsure   bool            // it may have a result

	// Behind the worker's lock.
	running  bool
	lost     context.CancelCauseFunc // of the handler's context; nil if none runs
	until    time.Time               // it waits here for that time; else zero
	enlisted time.Time               // when it was put before the pool
}

// What the broker is told of a message.
const (
	ackDone     = "+ACK"
	ackReturn   = "-NAK"
	ackProgress = "+WPI"
)

func newLease(s *source, m *nats.Msg) *lease {
	l := &lease{source: s, msg: m, reply: m.Reply, server: s.queue.worker.bus.wire.server(), place: placeOf(s, m.Reply), delivered: deliveredOf(m.Reply), came: time.Now()}
	l.renewed = l.came
	l.part, l.ids = claimed(m)
	return l
}

// claimed reads which tasks a message claims to hold. What holds none has the zero id, and more than any enqueuer puts
// into one only its first: neither can be opened.
func claimed(m *nats.Msg) (part int, ids []ulid.ULID) {
	var f envelope.Frame
	if envelope.Parse(m.Data, &f) != nil {
		return -1, []ulid.ULID{{}}
	}
	n := int(f.Count)
	if n > maxShared {
		return -1, []ulid.ULID{f.ID}
	}
	if part, ok := partOf(m, n); ok {
		return part, []ulid.ULID{nthID(f.ID, part)}
	}
	for i := range n {
		ids = append(ids, nthID(f.ID, i))
	}
	return -1, ids
}

// count is how many tasks it holds that have no result yet.
func (l *lease) count() int { return len(l.ids) }

// tasks is how many tasks a place before the pool stands for.
func (j *leasedTask) tasks() int {
	if j.message == nil {
		return j.count()
	}
	return 1
}

// place is where a message stands in the log, and since when: a broker that has crashed may give the place of a message that it has
// handed out, but did not have on its disk yet, to another.
type place struct {
	source      *source
	seq, stored string
}

// placeOf reads it from an acknowledgement's subject.
func placeOf(s *source, reply string) place {
	tokens := strings.SplitN(reply, ".", 9)
	if len(tokens) < 9 {
		return place{source: s, seq: reply}
	}
	return place{s, tokens[5], tokens[7]}
}

// deliveredOf reads from an acknowledgement's subject how often the task was handed out.
func deliveredOf(reply string) int {
	tokens := strings.SplitN(reply, ".", 6)
	if len(tokens) < 6 {
		return 1
	}
	n, err := strconv.Atoi(tokens[4])
	if err != nil {
		return 1
	}
	return n
}

// renewLeases tells the broker of every task that is here that it is being worked on. What it could not be told of for
// so long that the broker hands it to another is lost.
func (w *Worker) renewLeases() {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	connected := w.bus.Connected()
	for l := range w.leases {
		switch {
		case now.Sub(l.renewed) >= w.bus.config.lease:
			w.lose(l)
		case connected && now.Sub(l.renewed) >= w.bus.config.lease/3:
			if w.answer(l, ackProgress) {
				l.renewed = now
			}
		}
	}
}

// lose gives up tasks that the broker has handed to another by now.
func (w *Worker) lose(l *lease) {
	w.forget(l)
	for _, j := range l.jobs {
		w.counts.lost.Add(1)
		if j.lost != nil {
			j.lost(errLeaseLost)
		}
	}
}

// settle ends a task. It is called with the lock held.
func (w *Worker) settle(j *leasedTask) {
	j.jobs = slices.DeleteFunc(j.jobs, func(other *leasedTask) bool { return other == j })
	w.leave(j)
}

// leave notes that a task is not being worked on any more. It is called with the lock held.
func (w *Worker) leave(j *leasedTask) {
	j.running, j.lost = false, nil
	w.release(j.lease)
}

// release notes that somebody is through with a message. It is called with the lock held.
func (w *Worker) release(l *lease) {
	l.active--
	switch {
	case len(l.jobs) == 0:
		w.end(l, ackDone)
	case w.stopping && l.active == 0:
		w.end(l, l.nak())
	}
}

// putOff has a task wait: with the broker where it is the last of its message, else here.
func (w *Worker) putOff(j *leasedTask, d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(j.jobs) == 1 {
		w.end(j.lease, nakIn(d))
		return
	}
	w.hold(j, d)
}

// hold has a task wait here. It goes back when the worker stops. It is called with the lock held.
func (w *Worker) hold(j *leasedTask, d time.Duration) {
	j.until = time.Now().Add(d)
	w.leave(j)
	if !j.back {
		time.AfterFunc(d, func() { w.again(j) })
	}
}

// again puts a task before the pool once more.
func (w *Worker) again(j *leasedTask) {
	w.mu.Lock()
	defer w.mu.Unlock()
	j.until = time.Time{}
	if !j.back {
		w.enlist(j, true)
	}
}

// end tells the broker what has become of a message. It is called with the lock held.
//
// A broker that has been started since, or another, may know another message by that name, see place, and is not told that it
// is done with: it hands out what it has once more, and whoever gets it looks whether there is a result.
func (w *Worker) end(l *lease, answer string) {
	if l.back {
		return
	}
	w.forget(l)
	if answer == ackDone && l.server != w.bus.wire.server() {
		answer = ackReturn
	}
	w.answer(l, answer) // unheard, the lease runs out and the task comes again, perhaps to be found settled
}

func (w *Worker) forget(l *lease) {
	l.back = true
	delete(w.leases, l)
	delete(w.leaseOf, l.place)
}

func (w *Worker) answer(l *lease, answer string) bool {
	return w.bus.wire.publish(&nats.Msg{Subject: l.reply, Data: []byte(answer)}) == nil
}

// giveBack returns messages to their queues.
func (w *Worker) giveBack(which func(*lease) bool) {
	for l := range w.leases {
		if which(l) {
			w.end(l, l.nak())
		}
	}
}

// postpone returns a message to its queue, to come again after d.
func (w *Worker) postpone(l *lease, d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.end(l, nakIn(d))
}

// nak is the answer that returns a message at once, or when the first of its tasks has waited for long enough.
func (l *lease) nak() string {
	var d time.Duration
	for i, j := range l.jobs {
		if rest := time.Until(j.until); i == 0 || rest < d {
			d = rest
		}
	}
	return nakIn(d)
}

func nakIn(d time.Duration) string {
	if d <= 0 {
		return ackReturn
	}
	return fmt.Sprintf(ackReturn+` {"delay": %d}`, d)
}
