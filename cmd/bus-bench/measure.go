package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"
)

// cost is what one message, delivery or request took of the process.
type cost struct{ cpu, allocs, bytes float64 } // µs, number, bytes

// lap is one side in one round.
type lap struct {
	outcome
	cost
}

// measure makes the rows of a trial at one point. progress is told what it is at.
func measure(ctx context.Context, st *stage, t *trial, at point, p pace, progress func(string)) (rows []row, err error) {
	if t.alone != nil {
		lists, err := t.alone(ctx, st, at, p, progress)
		if err != nil {
			return nil, err
		}
		for i, f := range t.figures {
			rows = append(rows, row{Case: t.name + f.suffix, point: at, Unit: f.unit, Sealed: digits(median(lists[i]))})
		}
		return rows, nil
	}
	opening, cancel := context.WithTimeout(ctx, startup)
	defer cancel()
	plain, sealed, err := t.open(opening, st, at)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, plain.close(), sealed.close()) }()
	laps, err := race(ctx, plain, sealed, p, progress)
	if err != nil {
		return nil, err
	}
	for _, f := range t.figures {
		rows = append(rows, newRow(t.name+f.suffix, at, f, laps[0], laps[1]))
	}
	return rows, nil
}

// race runs both sides in turns: first to warm up, then in rounds. Which goes first alternates.
func race(ctx context.Context, plain, sealed side, p pace, progress func(string)) (laps [2][]lap, err error) {
	sides := [2]side{plain, sealed}
	for i, s := range sides {
		if _, err := s.run(ctx, p.warm); err != nil {
			return laps, fmt.Errorf("%s: %w", sideNames[i], err)
		}
	}
	for round := range p.rounds {
		progress(fmt.Sprintf("round %d of %d", round+1, p.rounds))
		for turn := range sides {
			i := (turn + round) % len(sides)
			l, err := once(ctx, sides[i], p.round)
			if err != nil {
				return laps, fmt.Errorf("%s: %w", sideNames[i], err)
			}
			laps[i] = append(laps[i], l)
		}
	}
	return laps, nil
}

var sideNames = [2]string{"plain", "sealed"}

// once runs a side once and counts what that cost. The other side's garbage is not to be paid for by this one.
func once(ctx context.Context, s side, d time.Duration) (l lap, err error) {
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	used, _ := cpuTime()
	if l.outcome, err = s.run(ctx, d); err != nil {
		return l, err
	}
	now, _ := cpuTime()
	runtime.ReadMemStats(&after)
	n := float64(l.count)
	l.cost = cost{cpu: float64((now - used).Nanoseconds()) / 1e3 / n, allocs: float64(after.Mallocs-before.Mallocs) / n,
		bytes: float64(after.TotalAlloc-before.TotalAlloc) / n}
	return l, nil
}

// median returns the middle of some numbers.
func median(list []float64) float64 {
	list = slices.Sorted(slices.Values(list))
	n := len(list)
	if n == 0 {
		return 0
	}
	return (list[(n-1)/2] + list[n/2]) / 2
}

func medianOf(laps []lap, of func(lap) float64) float64 {
	list := make([]float64, 0, len(laps))
	for _, l := range laps {
		list = append(list, of(l))
	}
	return median(list)
}
