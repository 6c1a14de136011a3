package agentbus

import (
	"math"
	"testing"
	"testing/synctest"
	"time"
)

// TestPacer runs messages of the past again, in time that is not real.
func TestPacer(t *testing.T) {
	for name, test := range map[string]struct {
		speed float64
		at    []time.Duration // of the messages
		busy  []time.Duration // that the loop takes over each
		want  []time.Duration // when each is given out
	}{
		"no pace":         {0, ms(0, 500, 9000), ms(0, 0, 0), ms(0, 0, 0)},
		"as it was":       {1, ms(0, 500, 1500, 1500), ms(0, 0, 0, 0), ms(0, 500, 1500, 1500)},
		"ten times":       {10, ms(0, 500, 1500), ms(0, 0, 0), ms(0, 50, 150)},
		"half as fast":    {0.5, ms(0, 500, 1500), ms(0, 0, 0), ms(0, 1000, 3000)},
		"a clock behind":  {1, ms(1000, 0, 1000, 1500), ms(0, 0, 0, 0), ms(0, 0, 0, 500)},
		"a little late":   {1, ms(0, 500, 1000, 1500), ms(700, 0, 0, 0), ms(0, 700, 1000, 1500)},
		"very late":       {1, ms(0, 500, 1000, 1500, 2000), ms(60_000, 0, 0, 0, 0), ms(0, 60_000, 60_000, 60_000, 60_500)},
		"late and slower": {1, ms(0, 1000, 2000), ms(900, 900, 900), ms(0, 1000, 2000)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pacer{speed: test.speed}
				begin := time.Now()
				for i, at := range test.at {
					time.Sleep(p.wait(time.Unix(1000, 0).Add(at), time.Now()))
					if got := time.Since(begin); got != test.want[i] {
						t.Errorf("message %d is given out after %v, want %v", i, got, test.want[i])
					}
					time.Sleep(test.busy[i])
				}
			})
		})
	}
}

func ms(list ...int) (all []time.Duration) {
	for _, n := range list {
		all = append(all, time.Duration(n)*time.Millisecond)
	}
	return all
}

// TestPacerFarApart: gaps of any size at any speed wait for something that is a duration.
func TestPacerFarApart(t *testing.T) {
	for _, speed := range []float64{math.SmallestNonzeroFloat64, 1e-9, 1, 1e9, math.MaxFloat64} {
		p := pacer{speed: speed}
		now := time.Unix(0, 0)
		p.wait(time.UnixMilli(0), now)
		for range 4 {
			if d := p.wait(time.UnixMilli(1<<48-1), now); d < 0 {
				t.Errorf("at speed %v it waits %v", speed, d)
			}
			p.newest = time.UnixMilli(0)
		}
	}
}
