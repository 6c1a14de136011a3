package agentbus_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sealbus/sealbus/agentbus"
)

// A handler says how far it is, and whoever has the task's id can follow that until the task has a result.
func ExampleTask_Progress() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	example := startTaskExample()
	defer example.stop()
	planner, exec := example.connect("planner"), example.connect("exec-1")

	seen := make(chan struct{}, 1)
	_, err := exec.Work(ctx, "work", func(ctx context.Context, t *agentbus.Task) ([]byte, error) {
		for _, page := range []string{"page 1", "page 2"} {
			if err := t.Progress(ctx, []byte(page)); err != nil {
				return nil, err
			}
			<-seen // where nobody waits for it, a newer value takes its place
		}
		return []byte("both pages read"), nil
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	task, err := planner.Enqueue(ctx, "work", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	for m, err := range task.Progress(ctx) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s: %s\n", m.Sender.Name(), m.Payload)
		seen <- struct{}{}
	}
	result, err := task.Result(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s\n", result.Payload)
	// Output:
	// exec-1: page 1
	// exec-1: page 2
	// both pages read
}

// An enqueuer looks at a queue, at what was given up and why, and clears that away.
func ExampleBus_QueueInfo() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	example := startTaskExample()
	defer example.stop()
	planner, exec := example.connect("planner"), example.connect("exec-1")

	worker, err := exec.Work(ctx, "work", func(_ context.Context, t *agentbus.Task) ([]byte, error) {
		return nil, fmt.Errorf("the page is gone (attempt %d)", t.Attempt)
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	task, err := planner.Enqueue(ctx, "work", nil, agentbus.MaxAttempts(2), agentbus.Backoff(time.Millisecond, time.Second))
	if err != nil {
		fmt.Println(err)
		return
	}
	var dead *agentbus.TaskError
	if _, err := task.Result(ctx); !errors.As(err, &dead) {
		fmt.Println(err)
		return
	}
	if err := worker.Stop(); err != nil {
		fmt.Println(err)
		return
	}
	if _, err := planner.Enqueue(ctx, "work", nil, agentbus.Delay(time.Hour)); err != nil {
		fmt.Println(err)
		return
	}

	info, err := planner.QueueInfo(ctx, "work")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%d delayed, %d dead, %d workers\n", info.Delayed, info.Dead, len(info.Workers))

	letter, err := planner.DeadLetter(ctx, "work", task.ID())
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, a := range letter.History {
		fmt.Println(a.Number, a.Worker.Name(), a.Text)
	}
	n, err := planner.PurgeDeadLetters(ctx, "work")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(n, "purged")
	// Output:
	// 1 delayed, 1 dead, 0 workers
	// 1 exec-1 the page is gone (attempt 1)
	// 2 exec-1 the page is gone (attempt 2)
	// 1 purged
}
