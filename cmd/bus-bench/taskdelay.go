package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sealbus/sealbus/agentbus"
)

// delayed is how late delayed tasks begin, which plain NATS has nothing to compare with: it has no delays by the
// millisecond. Each round has as many as there are in flight fall due one after the other.
func delayed(name string) trial {
	return trial{name: name, rules: func(point) string { return taskRules }, points: byDelayed,
		figures: []figure{{suffix: "/p50", unit: "ms"}, {suffix: "/max", unit: "ms"}}, alone: lateness}
}

func byDelayed(p pace) []point { return []point{{InFlight: p.delayed}} }

// lateness measures by how many milliseconds tasks begin after the time that they were enqueued for: the median of each
// round, and the most. One that begins before its time is an error.
func lateness(ctx context.Context, st *stage, at point, p pace, progress func(string)) ([][]float64, error) {
	worker, err := st.sealed(ctx, "worker")
	if err != nil {
		return nil, err
	}
	defer worker.Close()
	begun := make(chan time.Duration, at.InFlight)
	if _, err := worker.Work(ctx, "jobs", func(_ context.Context, t *agentbus.Task) ([]byte, error) {
		var due time.Time
		now := time.Now()
		if err := due.UnmarshalBinary(t.Payload); err != nil {
			return nil, agentbus.Cancel(err)
		}
		begun <- now.Sub(due)
		return nil, nil
	}); err != nil {
		return nil, err
	}
	planner, err := st.sealed(ctx, "planner")
	if err != nil {
		return nil, err
	}
	defer planner.Close()
	var medians, most []float64
	for round := range p.rounds {
		progress(fmt.Sprintf("round %d of %d", round+1, p.rounds))
		first := time.Now().Add(delayLead)
		list := make([]agentbus.NewTask, at.InFlight)
		for i := range list {
			due := first.Add(time.Duration(i) * delayStep)
			payload, err := due.MarshalBinary()
			if err != nil {
				return nil, err
			}
			list[i] = agentbus.NewTask{Payload: payload, Options: []agentbus.EnqueueOption{agentbus.At(due)}}
		}
		if _, err := planner.EnqueueBatch(ctx, "jobs", list); err != nil {
			return nil, err
		}
		late := make([]time.Duration, len(list))
		for i := range late {
			select {
			case late[i] = <-begun:
			case <-time.After(stall):
				return nil, fmt.Errorf("%d delayed tasks of %d have begun", i, len(late))
			}
			if late[i] < 0 {
				return nil, fmt.Errorf("a task has begun %v before its time", -late[i])
			}
		}
		slices.Sort(late)
		medians = append(medians, late[len(late)/2].Seconds()*1e3)
		most = append(most, late[len(late)-1].Seconds()*1e3)
	}
	return [][]float64{medians, most}, errors.Join(planner.Close(), worker.Close())
}
