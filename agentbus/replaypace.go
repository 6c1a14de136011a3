package agentbus

import "time"

// pacer says when a message of the past is due again.
type pacer struct {
	speed  float64 // 0: at once
	begun  bool
	due    time.Time // of the newest message
	newest time.Time // and its own time
}

// wait returns how long a message of the time at has to wait now. Between two messages lies what lay between their times,
// divided by the speed. One from before others that have come, by its sender's clock, waits for nothing. A reader that is
// late may catch up with a second of that and no more: what follows a longer pause keeps its distances.
func (p *pacer) wait(at, now time.Time) time.Duration {
	if p.speed == 0 {
		return 0
	}
	if !p.begun {
		p.begun, p.due, p.newest = true, now, at
		return 0
	}
	if gap := at.Sub(p.newest); gap > 0 {
		p.newest = at
		// In floating point a gap of any size divided by any speed is a duration, or more than one.
		if d := float64(gap) / p.speed; d < float64(maxPaceGap) {
			p.due = p.due.Add(time.Duration(d))
		} else {
			p.due = p.due.Add(maxPaceGap)
		}
	}
	if late := now.Add(-maxPaceLate); p.due.Before(late) {
		p.due = late
	}
	return max(0, p.due.Sub(now))
}
