package agentbus_test

import (
	"context"
	"fmt"
	"time"

	"github.com/sealbus/sealbus/agentbus"
)

// A recurring task runs once for each tick, however many register it, and each run's result is found by its tick.
func ExampleBus_Recur() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	example := startTaskExample()
	defer example.stop()
	planner, boss, exec := example.connect("planner"), example.connect("boss"), example.connect("exec-1")

	_, err := exec.Work(ctx, "work", func(_ context.Context, t *agentbus.Task) ([]byte, error) {
		return fmt.Appendf(nil, "%s: %s", t.Recurring, t.Payload), nil
	})
	if err != nil {
		fmt.Println(err)
		return
	}

	// At every start of the program, so that the template is never older than its sender's card.
	for _, bus := range []*agentbus.Bus{planner, boss} {
		err := bus.Recur(ctx, "work", "heartbeat", agentbus.Every(time.Second), []byte("still here"))
		if err != nil {
			fmt.Println(err)
			return
		}
	}
	err = planner.Recur(ctx, "work", "report", agentbus.Cron("0 7 * * 1-5", "Europe/Berlin"), nil, agentbus.MaxAttempts(3))
	if err != nil {
		fmt.Println(err)
		return
	}

	tasks, err := planner.Recurring(ctx, "work")
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, r := range tasks {
		fmt.Println(r.Name, r.Schedule, r.Schedule.Zone(), r.By.Name())
	}

	run, err := planner.Task("work", tasks[0].Run(tasks[0].Next))
	if err != nil {
		fmt.Println(err)
		return
	}
	result, err := run.Result(ctx) // waits for the tick
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s\n", result.Payload)
	if err := planner.RemoveRecurring(ctx, "work", "heartbeat"); err != nil {
		fmt.Println(err)
	}
	// Output:
	// heartbeat @every 1s UTC boss
	// report 0 7 * * 1-5 Europe/Berlin planner
	// heartbeat: still here
}
