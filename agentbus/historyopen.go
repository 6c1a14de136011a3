package agentbus

import (
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// replayedQueue is the log of a queue.
type replayedQueue struct {
	*replay
	queue          string
	subjects       map[string]int // of its tasks, but for unique ones, and the priority that each is for
	tasks, results *keyring.StoredReceiver
	yield          func(*TaskHistory, error) bool
	runs           seenRuns // of the loop alone
}

// taskSubjects returns the subjects under which a log has tasks that are not unique, with their priorities.
func taskSubjects(queue string) map[string]int {
	all := make(map[string]int)
	for p := range policy.Priorities {
		for _, subject := range []string{policy.TaskSubject(queue, p), policy.SpreadSubject(queue, p), policy.DueSubject(queue, p)} {
			all[subject] = p
		}
	}
	return all
}

func (q *replayedQueue) open(slots []replaySlot, b *openerScratch) {
	for i := range slots {
		if s := &slots[i]; q.parse(s, b) {
			s.histories = nil
			if s.err = q.openOne(s, &b.frame); s.err != nil {
				s.histories = nil
			}
		}
	}
}

func (q *replayedQueue) openOne(s *replaySlot, f *envelope.Frame) error {
	o, want := &s.opened, keyring.Want{Kinds: keyring.Kinds(envelope.KindTask), Recipient: taskRecipient(q.queue, s.subject), Expired: true}
	priority, ok := q.priorityOf(s.subject)
	switch {
	case f.Kind == envelope.KindControl:
		want.Notes, s.pass = true, true
		return q.tasks.Open(s.frame, &want, o)
	case !ok:
		return misdirected("a task on no subject for tasks")
	}
	if err := q.tasks.Open(s.frame, &want, o); err != nil {
		return err
	}
	if len(o.Messages) > maxShared {
		return badTask(o, fmt.Sprintf("%d tasks in one message", len(o.Messages)))
	}
	s.time = o.Time
	all := newMessages(q.queue, o, o.Messages)
	for i := range all {
		if all[i].ID != nthID(o.ID, i) {
			return badTask(o, "the ids of its tasks do not follow one another")
		}
		h, err := q.historyOf(s, &all[i], len(all))
		if err != nil {
			return err
		}
		if h != nil && h.Priority != priority {
			return misdirected("a task of another priority")
		}
		if h == nil || !q.options.takes(h.Task.headers) {
			continue
		}
		if h.Recurring != "" {
			s.time = h.Tick
		}
		s.histories = append(s.histories, h)
	}
	return nil
}

// priorityOf returns the priority that a subject is for. ok is false for one that has no tasks.
func (q *replayedQueue) priorityOf(subject string) (priority int, ok bool) {
	if priority, ok = q.subjects[subject]; ok {
		return priority, true
	}
	queue, _, priority, ok := policy.CutUniqueSubject(subject)
	return priority, ok && queue == q.queue
}

// historyOf makes the history of a task, nil where there is none: what is here is the template of a recurring task, and it was put
// here for no tick.
func (q *replayedQueue) historyOf(s *replaySlot, m *Message, among int) (*TaskHistory, error) {
	headers := m.headers
	t, err := decodeTerms(headerOf(headers, headerTask))
	if err != nil {
		return nil, badTask(&s.opened, err.Error())
	}
	m.headers, m.Replayed = ownHeaders(headers), true
	h := &TaskHistory{ID: m.ID, Queue: q.queue, State: TaskPending, Task: m, Kind: t.kind, Priority: t.priority, NotBefore: t.notBefore,
		Deadline: t.deadline, Timeout: t.timeout, MaxAttempts: t.attempts, Revives: t.origin, Stored: s.at()}
	if !isTemplate(headers) {
		return h, nil
	}
	if among > 1 {
		return nil, badTask(&s.opened, "a template beside other tasks")
	}
	tmpl, _, err := templateOf(headers, &s.opened)
	if err != nil {
		return nil, err
	}
	// As in Worker.tick: which of the ticks it has come for is the broker's word.
	next, err := time.Parse(time.RFC3339Nano, s.next)
	if err != nil {
		return nil, misdirected("a template that no schedule has put here")
	}
	tick := tmpl.schedule.Latest(s.opened.Time, next)
	between := tmpl.schedule.Between(next)
	switch {
	case tick.IsZero(), !between.IsZero() && h.Stored.Sub(between) < holdTime:
		return nil, nil
	case time.Until(tick) > keyring.MaxClockLead:
		return nil, misdirected("a template for a tick that has not come")
	}
	h.ID, h.Recurring, h.Tick, h.NotBefore = RunID(q.queue, tmpl.name, tick), tmpl.name, tick, tick
	return h, nil
}

// again lets go of what a worker has put back, each task of a message in one of its own, and takes recurring tasks, which come
// again at each tick.
func (q *replayedQueue) again(s *replaySlot) bool {
	for p := range policy.Priorities {
		if s.subject == policy.SpreadSubject(q.queue, p) {
			s.pass = true
			return true
		}
	}
	return !s.pass && (len(s.histories) == 0 || s.histories[0].Recurring != "")
}

func (q *replayedQueue) give(s *replaySlot) bool {
	for i, h := range s.histories {
		s.histories[i] = nil // what came of it can be large, and the loop may take its time
		if h.Recurring != "" && !q.runs.add(h.ID) {
			continue
		}
		if !h.looked {
			if err := q.lookUp([]*TaskHistory{h}); err != nil {
				q.yield(nil, q.bus.closedOr(q.ctx, err))
				return false
			}
		}
		h.Sequence, h.Task.Sequence = s.seq, s.seq
		q.meter.messages++
		if !q.yield(h, nil) {
			return false
		}
	}
	return true
}

// seenRuns remembers runs of recurring tasks, in two generations of bounded size: the broker may put one here more than once.
type seenRuns struct{ now, before map[ulid.ULID]struct{} }

// add reports whether a run is new.
func (r *seenRuns) add(id ulid.ULID) bool {
	if _, ok := r.now[id]; ok {
		return false
	}
	if _, ok := r.before[id]; ok {
		return false
	}
	if r.now == nil || len(r.now) >= maxSeenRuns {
		r.before, r.now = r.now, make(map[ulid.ULID]struct{})
	}
	r.now[id] = struct{}{}
	return true
}
