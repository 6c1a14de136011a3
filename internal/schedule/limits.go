package schedule

import "time"

const (
	// MaxText bounds the text of a schedule in bytes.
	MaxText = 192

	// MinInterval is the shortest time between two ticks: the broker counts whole seconds.
	MinInterval = time.Second

	// MaxWakes is how often the broker may have to put a template into the queue for one tick of an interval.
	MaxWakes = 60

	// maxDaily is how many ticks a day a cron expression has at most for which the broker acts every day, and the worker sees to
	// the days.
	maxDaily = 1440

	longDay = 50 * time.Hour // any day and the one before, clocks put back included

	maxCron = 128
	maxZone = 63
)

// horizon is the end of all schedules. Whoever names a later time, as a broker may, is told of no tick there.
var horizon = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
