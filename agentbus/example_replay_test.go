package agentbus_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sealbus/sealbus/agentbus"
)

// What a topic retains is read back: all of it, or a part.
func ExampleBus_Replay() {
	ctx, example := context.Background(), startExampleUnder(replayPolicy)
	defer example.stop()
	feed, planner := example.connect("feed-1"), example.connect("planner")

	for i, subject := range []string{"ledger.eu", "ledger.us", "ledger.eu"} {
		if err := feed.Publish(ctx, subject, fmt.Appendf(nil, "entry %d", i+1), agentbus.Header("book", "main")); err != nil {
			fmt.Println(err)
			return
		}
	}
	for m, err := range planner.Replay(ctx, "ledger.>") {
		var wrong *agentbus.ReplayError
		switch {
		case errors.As(err, &wrong): // this one cannot be opened; the others come
			fmt.Println("message", wrong.Sequence, wrong.Err)
		case err != nil: // the loop ends
			fmt.Println(err)
		default:
			fmt.Printf("%s by %s: %s\n", m.Subject, m.Sender.Name(), m.Payload)
		}
	}
	for m, err := range planner.Replay(ctx, "ledger.eu", agentbus.Since(time.Now().Add(-time.Hour)), agentbus.BySender("feed-1"), agentbus.WithHeader("book", "main"), agentbus.Pace(10)) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s, replayed: %v\n", m.Payload, m.Replayed)
	}
	// Output:
	// ledger.eu by feed-1: entry 1
	// ledger.us by feed-1: entry 2
	// ledger.eu by feed-1: entry 3
	// entry 1, replayed: true
	// entry 3, replayed: true
}

// An agent that neither enqueues nor works, and is named in the queue's field read, sees what became of every task.
func ExampleBus_ReplayQueue() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	example := startExampleUnder(historyPolicy)
	defer example.stop()
	planner, exec, clerk := example.connect("planner"), example.connect("exec-1"), example.connect("clerk")

	_, err := exec.Work(ctx, "work", func(_ context.Context, t *agentbus.Task) ([]byte, error) {
		if t.Attempt == 1 {
			return nil, errors.New("not today")
		}
		if string(t.Payload) == "lead into gold" {
			return nil, agentbus.Cancel(errors.New("it cannot be done"))
		}
		return append([]byte("done: "), t.Payload...), nil
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, text := range []string{"summarise", "lead into gold"} {
		task, err := planner.Enqueue(ctx, "work", []byte(text), agentbus.Backoff(time.Millisecond, time.Second))
		if err != nil {
			fmt.Println(err)
			return
		}
		var dead *agentbus.TaskError
		if _, err := task.Result(ctx); err != nil && !errors.As(err, &dead) {
			fmt.Println(err)
			return
		}
	}
	for h, err := range clerk.ReplayQueue(ctx, "work") {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s, by %s: %s\n", h.Task.Payload, h.Task.Sender.Name(), h.State)
		for _, a := range h.Attempts {
			fmt.Printf("  %d at %s: %s\n", a.Number, a.Worker.Name(), a.Text)
		}
		if h.Result != nil {
			fmt.Printf("  %s\n", h.Result.Payload)
		}
		if h.Dead != nil {
			fmt.Println(" ", h.Dead.Reason)
		}
	}
	// Output:
	// summarise, by planner: succeeded
	//   1 at exec-1: not today
	//   done: summarise
	// lead into gold, by planner: dead
	//   1 at exec-1: not today
	//   2 at exec-1: it cannot be done
	//   cancelled
}
