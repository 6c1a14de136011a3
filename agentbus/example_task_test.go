package agentbus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sealbus/sealbus/agentbus"
)

// A task waits for a worker, and its result for whoever has put it there. What cannot be done is kept, and can be put back.
func ExampleBus_Enqueue() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	example := startTaskExample()
	defer example.stop()
	planner, exec := example.connect("planner"), example.connect("exec-1")

	task, err := planner.Enqueue(ctx, "work", []byte("the stream has moved again"))
	if err != nil {
		fmt.Println(err)
		return
	}
	hopeless, err := planner.Enqueue(ctx, "work", nil, agentbus.MaxAttempts(2), agentbus.Backoff(time.Millisecond, time.Second))
	if err != nil {
		fmt.Println(err)
		return
	}

	worker, err := exec.Work(ctx, "work", func(_ context.Context, t *agentbus.Task) ([]byte, error) {
		words := strings.Fields(string(t.Payload))
		if len(words) == 0 {
			return nil, errors.New("nothing to summarise")
		}
		return []byte(words[len(words)-1]), nil
	}, agentbus.Concurrency(4))
	if err != nil {
		fmt.Println(err)
		return
	}

	result, err := task.Result(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s: %s\n", result.Sender.Name(), result.Payload)

	_, err = hopeless.Result(ctx)
	fmt.Println(err)
	letters, err := planner.DeadLetters(ctx, "work")
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, l := range letters {
		fmt.Println(l.Reason, "at", l.Worker.Name()) // planner.Revive(ctx, l) would try again
	}
	if err := worker.Stop(); err != nil { // running tasks finish, others go back
		fmt.Println(err)
	}
	// Output:
	// exec-1: again
	// the task is dead: attempts used up, after 2 attempts: nothing to summarise
	// attempts used up at exec-1
}

// startTaskExample is startExample under a policy with queues.
func startTaskExample() *exampleWorld { return startExampleUnder(taskPolicy) }
