package agentbus_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sealbus/sealbus/agentbus"
)

// A queue is limited and paused for all of its workers, and a task is taken back before it has begun.
func ExampleBus_PauseQueue() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	example := startTaskExample()
	defer example.stop()
	planner, exec := example.connect("planner"), example.connect("exec-1")

	// At most two tasks at a time, and ten in a second, however many workers there are.
	if err := planner.LimitQueue(ctx, "work", agentbus.QueueLimits{Running: 2, PerSecond: 10}); err != nil {
		fmt.Println(err)
		return
	}
	if err := planner.PauseQueue(ctx, "work"); err != nil {
		fmt.Println(err)
		return
	}
	wanted, err := planner.Enqueue(ctx, "work", []byte("x"))
	if err != nil {
		fmt.Println(err)
		return
	}
	mistake, err := planner.Enqueue(ctx, "work", []byte("y"))
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := mistake.Cancel(ctx, "a mistake"); err != nil {
		fmt.Println(err)
		return
	}
	if _, err := exec.Work(ctx, "work", upper); err != nil { // begins when the queue is resumed
		fmt.Println(err)
		return
	}
	if err := planner.ResumeQueue(ctx, "work"); err != nil {
		fmt.Println(err)
		return
	}

	result, err := wanted.Result(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s\n", result.Payload)
	_, err = mistake.Result(ctx)
	fmt.Println(err)
	fmt.Println(errors.Is(wanted.Cancel(ctx, "too late"), agentbus.ErrTaskDone))
	// Output:
	// X
	// the task is dead: cancelled, after 0 attempts: a mistake
	// true
}
