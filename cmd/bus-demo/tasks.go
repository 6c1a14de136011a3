package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// pages is the queue of the story.
const pages = "pages"

// title is the kind of a task that no writer can do, at first.
const title = "title"

// tasks has three writers work on the text, one of which is killed, and one task fail until somebody knows how to do
// it.
func tasks(ctx context.Context, s *scene) error {
	s.say("The planner cuts the text into tasks: copy this, and count its words. writer-3 is a process of its own and takes its time; it is killed over its first task, and the two others do what it had.")
	parts := cutTasks(s.text.pieces)
	mark := s.enemy.agents.heard.mark()
	begin := time.Now()
	slow, err := hire(ctx, s.stage, "writer-3")
	if err != nil {
		return err
	}
	defer slow.end()
	// The first task is put there before the other workers are.
	handles, err := s.hand(ctx, parts[:1])
	if err != nil {
		return err
	}
	if err := slow.awaitLine(ctx, wordBegun+" "+handles[0].ID().String()); err != nil {
		return err
	}
	var mended atomic.Bool
	if err := s.crew(ctx, &mended); err != nil {
		return err
	}
	more, err := s.hand(ctx, parts[1:])
	if err != nil {
		return err
	}
	if err := slow.kill(); err != nil {
		return err
	}
	handles = append(handles, more...)
	restore, err := s.shortenLease(ctx)
	if err != nil {
		return err
	}
	results, err := s.collect(ctx, handles)
	if err != nil {
		return err
	}
	took := time.Since(begin)
	again, err := s.handedAgain(ctx, mark)
	if err != nil {
		return err
	}
	s.fact(again[handles[0].ID()], "%s of %s were handed out again, among them the one that writer-3 died over", number(len(again)), plural(len(parts), "task"))
	s.joined(parts, results)
	if err := s.poison(ctx, &mended); err != nil {
		return err
	}
	if err := restore(ctx); err != nil {
		return err
	}
	s.figure("tasks", len(parts))
	s.figure("handed_out_again", len(again))
	s.figure("milliseconds", took.Milliseconds())
	return s.unread(ctx)
}

// hand puts the parts of the text into the queue.
func (s *scene) hand(ctx context.Context, parts []string) ([]*agentbus.TaskHandle, error) {
	list := make([]agentbus.NewTask, len(parts))
	for i, part := range parts {
		list[i] = agentbus.NewTask{Payload: []byte(part)}
	}
	return s.planner.bus.EnqueueBatch(ctx, pages, list)
}

// crew has the writers of this process work. They fail at titles until that is mended.
func (s *scene) crew(ctx context.Context, mended *atomic.Bool) error {
	var mux agentbus.TaskMux
	mux.Handle("", copyOut)
	mux.Handle(title, func(ctx context.Context, t *agentbus.Task) ([]byte, error) {
		if !mended.Load() {
			return nil, errors.New("this writer cannot do titles")
		}
		return copyOut(ctx, t)
	})
	for _, m := range s.writers {
		if _, err := m.bus.Work(ctx, pages, mux.Work, agentbus.Concurrency(2)); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	return nil
}

// copyOut is what is done with a part of the text.
func copyOut(_ context.Context, t *agentbus.Task) ([]byte, error) {
	return []byte(copied(string(t.Payload))), nil
}

func copied(part string) string { return fmt.Sprintf("%s [%d]", part, len(strings.Fields(part))) }

// collect waits for all results, and returns them in the order of the tasks.
func (s *scene) collect(ctx context.Context, handles []*agentbus.TaskHandle) ([]*agentbus.Message, error) {
	list, errs := make([]*agentbus.Message, len(handles)), make([]error, len(handles))
	var all sync.WaitGroup
	for i, h := range handles {
		all.Go(func() { list[i], errs[i] = h.Result(ctx) })
	}
	all.Wait()
	return list, errors.Join(errs...)
}

// handedAgain returns the tasks that the broker handed out more than once.
func (s *scene) handedAgain(ctx context.Context, mark int) (map[ulid.ULID]bool, error) {
	if err := s.enemy.agents.catchUp(ctx); err != nil {
		return nil, err
	}
	again := make(map[ulid.ULID]bool)
	for _, h := range s.enemy.agents.heard.since(mark) {
		// The subject on which a task is settled says how often it was handed out: $JS.ACK.<stream>.<consumer>.<n>.…
		tokens := strings.Split(h.reply, ".")
		var f envelope.Frame
		if strings.HasPrefix(h.reply, "$JS.ACK.") && len(tokens) > 4 && tokens[4] != "1" && envelope.Parse(h.data, &f) == nil {
			again[f.ID] = true
		}
	}
	return again, nil
}

// shortenLease has the broker hand out again at once what it has handed to the killed writer.
func (s *scene) shortenLease(ctx context.Context) (restore func(context.Context) error, err error) {
	s.say("A worker has a task to itself for %d s. Whoever owns the broker can change that, and does, so that nobody has to wait here.",
		int(policy.TaskAckWait.Seconds()))
	js, err := jetstream.New(s.enemy.store.nc)
	if err != nil {
		return nil, err
	}
	set := func(ctx context.Context, d time.Duration) error {
		name := policy.TaskConsumer(agentbus.DefaultPriority)
		c, err := js.Consumer(ctx, policy.TaskStream(pages), name)
		if err != nil {
			return err
		}
		config := c.CachedInfo().Config
		config.AckWait = d
		_, err = js.UpdateConsumer(ctx, policy.TaskStream(pages), config)
		return err
	}
	return func(ctx context.Context) error { return set(ctx, policy.TaskAckWait) }, set(ctx, shortLease)
}

// joined puts the results together again and compares them with what they should be.
func (s *scene) joined(parts []string, results []*agentbus.Message) {
	by, right, text := make(map[string]int), 0, ""
	for i, m := range results {
		got := string(m.Payload)
		by[m.Sender.Name()]++
		if got == copied(parts[i]) && m.Signed {
			right++
		}
		text += got[:max(0, strings.LastIndex(got, " ["))]
	}
	var shares []string
	for _, name := range slices.Sorted(maps.Keys(by)) {
		shares = append(shares, fmt.Sprintf("%s %d", name, by[name]))
	}
	s.fact(right == len(parts) && by["writer-3"] == 0 && text == strings.Join(s.text.pieces, ""),
		"all %s have one result, signed, as it should be (%s); joined, they are the text again:", plural(len(parts), "task"), strings.Join(shares, ", "))
	s.page.under("“%s”", fit(printable(firstLine(string(results[0].Payload))), 84))
	s.figure("results_right", right)
	s.figure("worked_by", by)
}

// poison has one task fail until it is dead, and revives it when that has been mended.
func (s *scene) poison(ctx context.Context, mended *atomic.Bool) error {
	line := firstLine(s.text.pieces[0])
	task, err := s.planner.bus.Enqueue(ctx, pages, []byte(line), agentbus.Kind(title), agentbus.MaxAttempts(3),
		agentbus.Backoff(time.Millisecond, 10*time.Millisecond))
	if err != nil {
		return err
	}
	var dead *agentbus.TaskError
	if _, err = task.Result(ctx); err == nil {
		return errors.New("the task that nobody can do has succeeded")
	} else if !errors.As(err, &dead) {
		return err
	}
	letters, err := s.planner.bus.DeadLetters(ctx, pages)
	if err != nil {
		return err
	}
	if len(letters) != 1 {
		return fmt.Errorf("%d dead letters, want 1", len(letters))
	}
	l := letters[0]
	s.fact(dead.Reason == agentbus.DeadAttempts && dead.Attempts >= 3 && l.Task == task.ID() && string(l.Payload) == line,
		"one more fails wherever it is tried: after %s it is dead, and kept with all that is in it", plural(dead.Attempts, "attempt"))
	mended.Store(true)
	again, err := s.planner.bus.Revive(ctx, l)
	if err != nil {
		return err
	}
	result, err := again.Result(ctx)
	if err != nil {
		return fmt.Errorf("the revived task: %w", err)
	}
	s.fact(string(result.Payload) == copied(line), "what made it fail is mended, the planner revives it, and it is done")
	s.figure("dead_after_attempts", dead.Attempts)
	s.figure("dead_letters", len(letters))
	s.figure("revived", 1)
	return nil
}

// unread searches what the broker has stored of all this: tasks, results, what workers noted, the dead letter.
func (s *scene) unread(ctx context.Context) error {
	if err := s.enemy.store.catchUp(ctx); err != nil {
		return err
	}
	seen, size, found, kinds := 0, 0, make(map[string]bool), make(map[string]bool)
	for _, h := range s.enemy.store.heard.since(0) {
		kind, ok := ofQueue(h.subject)
		if !ok {
			continue
		}
		b := h.all()
		seen, size, kinds[kind] = seen+1, size+len(b), true
		for _, fragment := range s.needles.find(b) {
			found[fragment] = true
		}
	}
	s.fact(len(kinds) == 4, "the adversary took all of it: %s, %s bytes of tasks, results, notes of failures, dead letters",
		plural(seen, "message"), number(size))
	s.search(len(found), "of "+plural(s.needles.size(), "fragment")+" of the text")
	s.figure("messages", seen)
	s.figure("bytes", size)
	s.figure("fragments_found", len(found))
	return nil
}

// ofQueue tells what a message of the queue is by its subject.
func ofQueue(subject string) (kind string, ok bool) {
	tokens := strings.Split(subject, ".")
	if len(tokens) < 3 || tokens[0] != "sb" || tokens[2] != pages {
		return "", false
	}
	return tokens[1], slices.Contains([]string{"task", "result", "control", "dead"}, tokens[1])
}

// cutTasks cuts a text into tasks: its messages, and those where there are few into their lines.
func cutTasks(pieces []string) (list []string) {
	each := max(1, fewTasks/len(pieces))
	for _, piece := range pieces {
		lines := strings.SplitAfter(piece, "\n")
		n := (len(lines) + each - 1) / each
		for some := range slices.Chunk(lines, n) {
			list = append(list, strings.Join(some, ""))
		}
	}
	return list
}
