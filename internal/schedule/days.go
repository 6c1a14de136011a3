package schedule

import (
	"math"
	"math/bits"
	"time"

	"github.com/robfig/cron/v3"
)

// Where a zone's clock skips midnight, as in Santiago, Cairo and Havana, the parsers of cron and of the server lose a day when they
// look for a day or a month, because they add days to a midnight that there is not. They do not when they look for none. So the days of an
// expression that names some are looked for here, and the broker acts every day.

const star = 1 << 63 // what the parser notes with a field that is *

// timesOf returns the times of day of an expression that names days, nil if there is nothing to see to, and whether they
// are few enough for the broker to act at them every day.
func timesOf(spec *cron.SpecSchedule) (times *cron.SpecSchedule, few bool) {
	if spec.Location == time.UTC || spec.Dom&spec.Month&spec.Dow&star != 0 {
		return nil, false
	}
	every := *spec
	every.Dom, every.Month, every.Dow = math.MaxUint64, math.MaxUint64, math.MaxUint64
	n := bits.OnesCount64(spec.Second&^star) * bits.OnesCount64(spec.Minute&^star) * bits.OnesCount64(spec.Hour&^star)
	return &every, n <= maxDaily
}

// nextOnDay is Next for an expression that names days.
func (s Schedule) nextOnDay(t time.Time) time.Time {
	next := s.times.Next(t)
	for limit := t.AddDate(5, 0, 0); !next.IsZero() && next.Before(limit); {
		local := next.In(s.spec.Location)
		if s.isOn(local) {
			return next.UTC()
		}
		// Days of the calendar: they have no hours that could be skipped.
		day := time.Date(local.Year(), local.Month(), local.Day(), 0, 0, 0, 0, time.UTC)
		for day = day.AddDate(0, 0, 1); !s.isOn(day) && day.Before(limit); {
			day = day.AddDate(0, 0, 1)
		}
		from := s.before(day)
		if from.Before(next) { // a day that the calendar of the zone does not have
			from = next
		}
		next = s.times.Next(from)
	}
	return time.Time{}
}

// before returns the last moment before a day on the zone's clock. Midnight there may be skipped, or come twice.
func (s Schedule) before(day time.Time) time.Time {
	year, month, date := day.Date()
	start := time.Date(year, month, date, 0, 0, 0, 0, s.spec.Location)
	if start.Day() != date {
		start = start.Add(time.Hour)
	}
	for start.Add(-1).Day() == date {
		start = start.Add(-30 * time.Minute)
	}
	return start.Add(-1)
}

// isOn reports whether an expression names the day of a time.
func (s Schedule) isOn(t time.Time) bool {
	if 1<<uint(t.Month())&s.spec.Month == 0 {
		return false
	}
	date, weekday := 1<<uint(t.Day())&s.spec.Dom != 0, 1<<uint(t.Weekday())&s.spec.Dow != 0
	if s.spec.Dom&star != 0 || s.spec.Dow&star != 0 {
		return date && weekday
	}
	return date || weekday
}
