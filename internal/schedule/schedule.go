// Package schedule computes the ticks of recurring tasks. The broker goes by it when it is asked for a schedule, and
// workers when they decide which tick a template has been put into the queue for.
//
// A schedule is a cron expression in a time zone, or an interval. Its text is canonical:
//
//	<minute> <hour> <day of month> <month> <day of week> <zone>
//	<second> <minute> <hour> <day of month> <month> <day of week> <zone>
//	@every <interval>
//
// The fields of a cron expression are as in github.com/robfig/cron, which the server's own parser was made from: numbers,
// names of months and days in English, lists, ranges, steps, * and ?. Sunday is 0. Where neither the day of the month nor that
// of the week is *, either will do. A time that the zone's clock skips has no tick that day, one that it shows
// twice has two (on Lord Howe, whose summer is half an hour, one).
//
// The ticks of an interval are its multiples since 1970-01-01T00:00:00Z, not since anybody registered it: so
// they are the same for all who register it, and registering it again does not put the next one off.
//
// The zones are those of the machine; where it has none, those that Go brings along.
package schedule

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
	_ "time/tzdata" // containers often have no zones, and a worker without them could run nothing of a template

	"github.com/robfig/cron/v3"
)

// Schedule is a cron expression in a time zone, or an interval. Cron, Every and Parse make it; the zero value has no ticks.
type Schedule struct {
	fields string // as given
	zone   string
	every  time.Duration
	spec   *cron.SpecSchedule // of a cron expression
	times  *cron.SpecSchedule // of one that names days in a zone with summers: its times of day, see days.go
	daily  bool               // and the broker acts at these on every day
	wake   time.Duration      // of an interval: how often the broker has to act
}

const everyPrefix = "@every "

var (
	parser = cron.NewParser(cron.Second | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow)

	// The parser reads "*-5" as "*", and ",," as nothing.
	legalField = regexp.MustCompile(`^` + part + `(,` + part + `)*$`)
)

const part = `([*?]|[0-9A-Za-z]{1,3}(-[0-9A-Za-z]{1,3})?)(/[0-9]{1,2})?`

// Cron returns the schedule of a cron expression of five fields, or six with seconds, in an IANA time zone.
func Cron(expression, zone string) (Schedule, error) {
	fields := strings.Split(expression, " ")
	if len(expression) > maxCron || len(fields) != 5 && len(fields) != 6 {
		return Schedule{}, fmt.Errorf("the cron expression %.80q: use five fields (minute, hour, day of month, month, day of week) or six "+
			"(seconds first), with one space between them, at most %d bytes", expression, maxCron)
	}
	for _, field := range fields {
		if !legalField.MatchString(field) {
			return Schedule{}, fmt.Errorf("the cron field %.80q: use *, numbers, names such as mon and jan, ranges 1-5, lists 1,3 and steps */2", field)
		}
	}
	location, err := load(zone)
	if err != nil {
		return Schedule{}, err
	}
	s := Schedule{fields: expression, zone: zone}
	parsed, err := parser.Parse(s.sixFields())
	if err != nil {
		return Schedule{}, fmt.Errorf("the cron expression %.80q: %w", expression, err)
	}
	spec, ok := parsed.(*cron.SpecSchedule)
	if !ok {
		return Schedule{}, fmt.Errorf("the cron expression %.80q is of an unknown kind", expression)
	}
	spec.Location = location
	s.spec = spec
	s.times, s.daily = timesOf(spec)
	if s.Next(time.Unix(0, 0)).IsZero() {
		return Schedule{}, fmt.Errorf("the cron expression %.80q has no tick in five years", expression)
	}
	return s, nil
}

// load returns a time zone. "Local" is each machine's own, and an empty name says that a zone was forgotten.
func load(zone string) (*time.Location, error) {
	if zone == "" || zone == "Local" || len(zone) > maxZone || strings.ContainsAny(zone, " \r\n\x00") {
		return nil, fmt.Errorf("the time zone %.80q: use an IANA name such as UTC or Europe/Berlin", zone)
	}
	location, err := time.LoadLocation(zone)
	if err != nil {
		return nil, fmt.Errorf("the time zone %.80q: use an IANA name such as UTC or Europe/Berlin: %w", zone, err)
	}
	return location, nil
}

// wakes are the intervals, in seconds, that a cron expression in UTC can say. Longest first.
var wakes = [...]int64{86400, 43200, 28800, 21600, 14400, 10800, 7200, 3600, 1800, 1200, 900, 720, 600, 360, 300, 240, 180, 120, 60,
	30, 20, 15, 12, 10, 6, 5, 4, 3, 2, 1}

// Every returns the schedule of an interval.
func Every(d time.Duration) (Schedule, error) {
	for _, seconds := range wakes {
		if w := time.Duration(seconds) * time.Second; d >= w && d%w == 0 && d/w <= MaxWakes {
			return Schedule{every: d, wake: w}, nil
		}
	}
	return Schedule{}, fmt.Errorf("an interval of %v: use 1 to %d seconds, minutes, hours or days, or another of which one of 1, 2, 3, 4, 5, 6, 10, 12, "+
		"15, 20 or 30 seconds or minutes, or 1, 2, 3, 4, 6, 8 or 12 hours, is a part of at least 1/%d", d, MaxWakes, MaxWakes)
}

var errText = errors.New("the text is no schedule")

// Parse reads what String writes, and nothing else.
func Parse(text string) (s Schedule, err error) {
	if len(text) > MaxText {
		return Schedule{}, errText
	}
	if interval, ok := strings.CutPrefix(text, everyPrefix); ok {
		d, wrong := time.ParseDuration(interval)
		if wrong != nil {
			return Schedule{}, errText
		}
		s, err = Every(d)
	} else {
		i := strings.LastIndexByte(text, ' ')
		if i < 0 {
			return Schedule{}, errText
		}
		s, err = Cron(text[:i], text[i+1:])
	}
	if err == nil && s.String() != text {
		err = errText
	}
	if err != nil {
		return Schedule{}, err
	}
	return s, nil
}

// IsZero reports whether s is the zero value.
func (s Schedule) IsZero() bool { return s.spec == nil && s.every == 0 }

// String returns the schedule's text, which Parse reads.
func (s Schedule) String() string {
	switch {
	case s.spec != nil:
		return s.fields + " " + s.zone
	case s.every > 0:
		return everyPrefix + s.every.String()
	}
	return ""
}

// Expression returns the cron expression, "@every" and the interval for one of these.
func (s Schedule) Expression() string {
	if s.spec != nil {
		return s.fields
	}
	return s.String()
}

// Zone returns the time zone, UTC for an interval.
func (s Schedule) Zone() string {
	if s.spec == nil && s.every > 0 {
		return "UTC"
	}
	return s.zone
}

func (s Schedule) sixFields() string {
	if strings.Count(s.fields, " ") == 4 {
		return "0 " + s.fields
	}
	return s.fields
}

// Wakes returns when the broker is to act, as a cron expression of six fields in the schedule's zone: at every tick, and between
// ticks too where the server has no expression for them alone, or would miss some: see Between.
func (s Schedule) Wakes() string {
	if s.spec != nil {
		fields := s.sixFields()
		if s.daily {
			fields = strings.Join(append(strings.Split(fields, " ")[:3], "*", "*", "*"), " ")
		}
		return fields
	}
	switch seconds := int64(s.wake / time.Second); {
	case seconds >= 3600:
		return fmt.Sprintf("0 0 */%d * * *", seconds/3600)
	case seconds >= 60:
		return fmt.Sprintf("0 */%d * * * *", seconds/60)
	default:
		return fmt.Sprintf("*/%d * * * * *", seconds)
	}
}

// Between returns when the broker acted that is to act next at a time, if that was between two ticks; see Wakes. It is zero
// where it was at a tick.
func (s Schedule) Between(next time.Time) time.Time {
	var at time.Time
	switch {
	case s.daily:
		at = latest(s.times.Next, next.Add(-longDay), next).UTC()
	case s.every > s.wake:
		at = next.Add(-s.wake)
	}
	if at.IsZero() || s.Next(at.Add(-1)).Equal(at) {
		return time.Time{}
	}
	return at
}

// Next returns the first tick after t, in UTC; zero if there is none within five years, or before the year 2200.
func (s Schedule) Next(t time.Time) time.Time {
	switch {
	case t.After(horizon): // nanoseconds would run over
	case s.times != nil:
		return s.nextOnDay(t)
	case s.spec != nil:
		if next := s.spec.Next(t); !next.IsZero() {
			return next.UTC()
		}
	case s.every > 0:
		d := int64(s.every)
		at := t.UnixNano()
		k := at / d
		if at < 0 && at%d != 0 {
			k--
		}
		return time.Unix(0, (k+1)*d).UTC()
	}
	return time.Time{}
}

// Latest returns the last tick after one time and before another, in UTC; zero if there is none.
func (s Schedule) Latest(after, before time.Time) time.Time {
	if before.After(horizon) {
		before = horizon
	}
	return latest(s.Next, after, before)
}

// latest halves the span until there is room for no other tick: they are whole seconds.
func latest(ticks func(time.Time) time.Time, after, before time.Time) time.Time {
	last := ticks(after)
	if last.IsZero() || !last.Before(before) {
		return time.Time{}
	}
	for high := before; high.Sub(last) > time.Second; { // there is none from high on
		middle := last.Add(high.Sub(last) / 2)
		if next := ticks(middle); !next.IsZero() && next.Before(before) {
			last = next
		} else {
			high = middle.Add(1)
		}
	}
	return last
}
