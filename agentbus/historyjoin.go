package agentbus

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// prepare looks up what became of a piece's tasks, some at a time, until that takes up as much memory as it may: the rest is looked
// up when its turn comes.
func (q *replayedQueue) prepare(slots []replaySlot) error {
	var all []*TaskHistory
	for i := range slots {
		all = append(all, slots[i].histories...)
	}
	for size := 0; len(all) > 0 && size < maxHistoryBytes; {
		some := all[:min(len(all), maxLookUp)]
		if err := q.lookUp(some); err != nil {
			return err
		}
		for _, h := range some {
			size += h.size()
		}
		all = all[len(some):]
	}
	return nil
}

// size is about what came of a task takes up, in bytes.
func (h *TaskHistory) size() (n int) {
	if h.Result != nil {
		n += len(h.Result.Payload)
	}
	if h.Letter != nil {
		n += len(h.Letter.Payload)
	}
	return n + 256*len(h.Attempts)
}

// lookUp fills in what became of up to maxLookUp tasks. What is not there is asked for once; what does not open is noted.
func (q *replayedQueue) lookUp(some []*TaskHistory) error {
	byID, ids := make(map[ulid.ULID]*TaskHistory), make([]ulid.ULID, 0, len(some))
	for _, h := range some {
		if byID[h.ID] == nil {
			ids = append(ids, h.ID)
		}
		byID[h.ID] = h
	}
	err := q.persist(q.ctx, func(ctx context.Context) error { return q.lookUpResults(ctx, ids, byID) })
	if err == nil {
		err = q.persist(q.ctx, func(ctx context.Context) error { return q.lookUpLetters(ctx, ids, byID) })
	}
	if err == nil {
		err = q.persist(q.ctx, func(ctx context.Context) error { return q.lookUpAttempts(ctx, ids, byID) })
	}
	if err != nil {
		return err
	}
	for _, h := range some {
		if of := byID[h.ID]; of != h { // a copy of its task
			h.State, h.Attempts, h.Result, h.Dead, h.Letter, h.Err = of.State, of.Attempts, of.Result, of.Dead, of.Letter, of.Err
		}
		h.looked = true
	}
	return nil
}

// opens opens what workers have sealed, and waits once for what is missing.
func (q *replayedQueue) opens(frame []byte, want *keyring.Want, o *keyring.Opened) error {
	err := q.results.Open(frame, want, o)
	if missing(err) {
		q.waits.await(q.ctx, q.bus, frame)
		err = q.results.Open(frame, want, o)
	}
	return err
}

// reject notes that something of a task could not be opened. Every other error is returned.
func (q *replayedQueue) reject(h *TaskHistory, err error) error {
	reason := keyring.ReasonOf(err)
	if reason == 0 {
		return err
	}
	q.bus.counts.rejectedFor(reason)
	h.Err = errors.Join(h.Err, err)
	return nil
}

func (q *replayedQueue) lookUpResults(ctx context.Context, ids []ulid.ULID, byID map[ulid.ULID]*TaskHistory) error {
	found, err := q.lastOf(ctx, policy.ResultStream(q.queue), ids, policy.ResultSubject, policy.CutResultSubject)
	if err != nil {
		return err
	}
	for id, f := range found {
		h := byID[id]
		m, err := openResult(q.opens, q.queue, id, f.frame)
		var dead *TaskError
		switch {
		case err == nil:
			m.Sequence, m.Replayed = f.seq, true
			h.State, h.Result = TaskSucceeded, m
		case errors.As(err, &dead):
			h.State, h.Dead = TaskDead, dead
		default:
			h.State = TaskUnclear
			if err := q.reject(h, err); err != nil {
				return err
			}
		}
	}
	return nil
}

// lastOf reads what a stream has of tasks, one message for each.
func (q *replayedQueue) lastOf(ctx context.Context, stream string, ids []ulid.ULID, subject func(queue, task string) string,
	cut func(string) (queue, task string, ok bool)) (map[ulid.ULID]found, error) {
	subjects, asked := make([]string, len(ids)), make(map[ulid.ULID]bool, len(ids))
	for i, id := range ids {
		subjects[i], asked[id] = subject(q.queue, id.String()), true
	}
	list, err := q.bus.store.last(ctx, stream, subjects)
	if err != nil {
		return nil, err
	}
	here := make(map[ulid.ULID]found, len(list))
	for _, f := range list {
		queue, task, _ := cut(f.subject)
		if id, err := ulid.ParseStrict(task); err == nil && queue == q.queue && asked[id] {
			here[id] = f
		}
	}
	return here, nil
}

func (q *replayedQueue) lookUpLetters(ctx context.Context, ids []ulid.ULID, byID map[ulid.ULID]*TaskHistory) error {
	var dead []ulid.ULID // or may be
	for _, id := range ids {
		if byID[id].State != TaskSucceeded {
			dead = append(dead, id)
		}
	}
	if len(dead) == 0 {
		return nil
	}
	letters, err := q.lastOf(ctx, policy.DeadStream(q.queue), dead, policy.DeadSubject, policy.CutDeadSubject)
	if err != nil {
		return err
	}
	for id, f := range letters {
		d, err := openLetter(q.opens, q.queue, f)
		if err == nil && d.Task != id {
			err = misdirected("a dead letter of another task")
		}
		if err == nil {
			byID[id].Letter = d
		} else if err := q.reject(byID[id], err); err != nil {
			return err
		}
	}
	return nil
}

func (q *replayedQueue) lookUpAttempts(ctx context.Context, ids []ulid.ULID, byID map[ulid.ULID]*TaskHistory) error {
	notes, err := q.notesOf(ctx, ids)
	if err != nil {
		return err
	}
	for id, list := range notes {
		h := byID[id]
		h.Attempts = nil
		for _, n := range list {
			a, err := openNote(q.opens, q.queue, id, n)
			if err == nil {
				h.Attempts = append(h.Attempts, *a)
			} else if err := q.reject(h, err); err != nil {
				return err
			}
		}
		sortAttempts(h.Attempts)
	}
	for _, id := range ids {
		if h := byID[id]; h.Letter != nil {
			h.Attempts = withLast(h.Attempts, h.Letter)
		}
	}
	return nil
}

// notesOf reads which attempts at tasks have been noted, those of many tasks at once where there are not too many.
func (q *replayedQueue) notesOf(ctx context.Context, ids []ulid.ULID) (map[ulid.ULID][]note, error) {
	patterns, all := make([]string, len(ids)), make(map[ulid.ULID][]note)
	for i, id := range ids {
		patterns[i] = policy.ControlSubject(q.queue, "*", policy.ControlAttempt+"."+id.String()+".*")
		all[id] = nil
	}
	entries, more, err := q.bus.notesOnce(ctx, q.queue, patterns)
	if isTooMany(err) || more {
		return q.notesApart(ctx, ids)
	}
	if err != nil {
		return nil, err
	}
	p := q.bus.ring.Policy()
	for _, e := range entries {
		_, agent, what, ok := policy.CutControlSubject(e.subject)
		tokens := strings.Split(what, ".")
		if !ok || len(tokens) != 3 || tokens[0] != policy.ControlAttempt || !p.MayWork(q.queue, agent) {
			continue
		}
		id, wrong := ulid.ParseStrict(tokens[1])
		n, err := strconv.Atoi(tokens[2])
		_, asked := all[id]
		if asked && wrong == nil && err == nil && n >= 1 && n <= maxAttempts && strconv.Itoa(n) == tokens[2] {
			all[id] = append(all[id], note{agent, n, e.frame})
		}
	}
	return all, nil
}

// notesApart reads them in halves, and in the end of one task, which Bus.notes does whatever there is.
func (q *replayedQueue) notesApart(ctx context.Context, ids []ulid.ULID) (map[ulid.ULID][]note, error) {
	all := make(map[ulid.ULID][]note)
	if len(ids) == 1 {
		list, err := q.bus.notes(ctx, q.queue, ids[0], maxAttempts)
		all[ids[0]] = list
		return all, err
	}
	for half := range slices.Chunk(ids, (len(ids)+1)/2) {
		some, err := q.notesOf(ctx, half)
		if err != nil {
			return nil, err
		}
		for id, list := range some {
			all[id] = list
		}
	}
	return all, nil
}
