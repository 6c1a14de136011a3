package agentbus_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sealbus/sealbus/agentbus"
)

// Two agents ask for the same report. It is made once, and both get it.
func ExampleUnique() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	example := startTaskExample()
	defer example.stop()
	planner, boss, exec := example.connect("planner"), example.connect("boss"), example.connect("exec-1")

	task, err := planner.Enqueue(ctx, "work", []byte("report for tuesday"), agentbus.Unique("report 2026-11-24", 0))
	if err != nil {
		fmt.Println(err)
		return
	}

	same, err := boss.Enqueue(ctx, "work", []byte("report for tuesday"), agentbus.Unique("report 2026-11-24", 0))
	var duplicate *agentbus.DuplicateError
	if errors.As(err, &duplicate) {
		same, err = boss.Task(duplicate.Queue, duplicate.Task)
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("the same task:", same.ID() == task.ID())

	worker, err := exec.Work(ctx, "work", upper)
	if err != nil {
		fmt.Println(err)
		return
	}
	result, err := same.Result(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s\n", result.Payload)
	if err := worker.Stop(); err != nil {
		fmt.Println(err)
	}
	// Output:
	// the same task: true
	// REPORT FOR TUESDAY
}
