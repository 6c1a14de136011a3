package schedule_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sealbus/sealbus/internal/schedule"
)

func at(t *testing.T, text string) time.Time {
	t.Helper()
	when, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return when
}

func cron(t *testing.T, expression, zone string) schedule.Schedule {
	t.Helper()
	s, err := schedule.Cron(expression, zone)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func every(t *testing.T, d time.Duration) schedule.Schedule {
	t.Helper()
	s, err := schedule.Every(d)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestDaylightSaving: seven in the morning is seven in the morning, in summer and in winter; a time that the clock skips has no
// tick, one that it shows twice has two.
func TestDaylightSaving(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ expression, zone, from, ticks string }{
		{"0 7 * * 1-5", "Europe/Berlin", "2026-03-26T12:00:00Z", "2026-03-27T06:00:00Z 2026-03-30T05:00:00Z 2026-03-31T05:00:00Z"},
		{"0 7 * * 1-5", "Europe/Berlin", "2026-10-22T12:00:00Z", "2026-10-23T05:00:00Z 2026-10-26T06:00:00Z"},
		{"30 2 * * *", "Europe/Berlin", "2026-03-27T12:00:00Z", "2026-03-28T01:30:00Z 2026-03-30T00:30:00Z"},
		{"30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z 2026-10-25T01:30:00Z 2026-10-26T01:30:00Z"},
		{"0 12 1 1 *", "Asia/Kathmandu", "2026-06-01T00:00:00Z", "2027-01-01T06:15:00Z 2028-01-01T06:15:00Z"},
		{"15 30 9 * * sun", "America/New_York", "2026-03-07T00:00:00Z", "2026-03-08T13:30:15Z 2026-03-15T13:30:15Z"},
		{"0 0 13 * fri", "UTC", "2026-02-01T00:00:00Z", "2026-02-06T00:00:00Z 2026-02-13T00:00:00Z 2026-02-20T00:00:00Z"},
		{"0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z 2032-02-29T00:00:00Z"},
	} {
		s := cron(t, c.expression, c.zone)
		from := at(t, c.from)
		now := from
		for _, text := range strings.Fields(c.ticks) {
			want := at(t, text)
			if now = s.Next(now); !now.Equal(want) {
				t.Errorf("%s: tick at %v, want %v", s, now, want)
			}
			if last := s.Latest(from, want.Add(1)); !last.Equal(want) {
				t.Errorf("%s: the last by %v was at %v", s, want, last)
			}
		}
	}
}

// TestEvery: the ticks of an interval are its multiples, whoever asks and when, and the broker acts at each of them.
func TestEvery(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		d     time.Duration
		wakes string
	}{
		{time.Second, "*/1 * * * * *"}, {7 * time.Second, "*/1 * * * * *"}, {45 * time.Second, "*/15 * * * * *"}, {time.Minute, "0 */1 * * * *"},
		{90 * time.Second, "*/30 * * * * *"}, {7 * time.Minute, "0 */1 * * * *"}, {10 * time.Minute, "0 */10 * * * *"}, {90 * time.Minute, "0 */30 * * * *"},
		{time.Hour, "0 0 */1 * * *"}, {36 * time.Hour, "0 0 */12 * * *"}, {24 * time.Hour, "0 0 */24 * * *"}, {60 * 24 * time.Hour, "0 0 */24 * * *"},
	} {
		s := every(t, c.d)
		if s.Wakes() != c.wakes {
			t.Errorf("%v: the broker acts at %q, want %q", c.d, s.Wakes(), c.wakes)
		}
		wakes := cron(t, s.Wakes(), "UTC")
		now := at(t, "2026-11-24T03:00:00Z").Add(time.Millisecond)
		end, ticks, woken := now.Add(3*c.d), 0, 0
		for wake := wakes.Next(now); !wake.After(end); wake = wakes.Next(wake) {
			tick := s.Latest(wake.Add(-2*c.d), wakes.Next(wake))
			between := s.Between(wakes.Next(wake))
			if tick.UnixNano()%int64(c.d) != 0 {
				t.Fatalf("%v: a tick at %v", c.d, tick)
			}
			woken++
			switch {
			case tick.Equal(wake) && between.IsZero():
				ticks++
			case tick.Before(wake) && between.Equal(wake):
			default:
				t.Fatalf("%v: the broker acts at %v: the last tick is %v, and between two it acts at %v", c.d, wake, tick, between)
			}
		}
		if ticks != 3 || woken > 3*schedule.MaxWakes {
			t.Errorf("%v: %d ticks in three intervals, for which the broker acts %d times", c.d, ticks, woken)
		}
	}
}

// TestSkippedMidnight: where the clock skips midnight, parsers lose a day or a month. So the broker acts every day, and the ticks are those of
// the days.
func TestSkippedMidnight(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ expression, zone, from, ticks, wakes string }{
		{"0 7 * * 1-5", "America/Santiago", "2026-09-04T00:00:00Z", "2026-09-04T11:00:00Z 2026-09-07T10:00:00Z 2026-09-08T10:00:00Z", "0 0 7 * * *"},
		{"0 7 * * sun", "America/Havana", "2026-03-05T00:00:00Z", "2026-03-08T11:00:00Z 2026-03-15T11:00:00Z", "0 0 7 * * *"},
		{"30 6,18 * apr-may fri", "Africa/Cairo", "2026-04-23T00:00:00Z", "2026-04-24T03:30:00Z 2026-04-24T15:30:00Z 2026-05-01T03:30:00Z", "0 30 6,18 * * *"},
		{"30 6,18 1 10 *", "America/Asuncion", "2023-09-20T00:00:00Z", "2023-10-01T09:30:00Z 2023-10-01T21:30:00Z 2024-10-01T10:30:00Z", "0 30 6,18 * * *"},
		{"59 0-1 * * sun", "America/Santiago", "2026-09-05T00:00:00Z", "2026-09-06T04:59:00Z 2026-09-13T03:59:00Z 2026-09-13T04:59:00Z", "0 59 0-1 * * *"},
		{"59 23 * * sat", "America/Santiago", "2026-04-03T00:00:00Z", "2026-04-05T02:59:00Z 2026-04-05T03:59:00Z 2026-04-12T03:59:00Z", "0 59 23 * * *"},
		{"0 7 * * 1-5", "UTC", "2026-09-04T00:00:00Z", "2026-09-04T07:00:00Z 2026-09-07T07:00:00Z", "0 0 7 * * 1-5"},
		{"*/5 * * * * 1-5", "Europe/Berlin", "2026-09-04T21:59:50Z", "2026-09-04T21:59:55Z 2026-09-06T22:00:00Z", "*/5 * * * * 1-5"},
	} {
		s := cron(t, c.expression, c.zone)
		if s.Wakes() != c.wakes {
			t.Errorf("%s: the broker acts at %q, want %q", s, s.Wakes(), c.wakes)
		}
		wakes, from := cron(t, s.Wakes(), c.zone), at(t, c.from)
		list := strings.Fields(c.ticks)
		var ticks []string
		for wake := wakes.Next(from); len(ticks) < len(list); wake = wakes.Next(wake) {
			if tick := s.Latest(from, wakes.Next(wake)); tick.Equal(wake) {
				ticks = append(ticks, tick.Format(time.RFC3339))
			}
			if between := s.Between(wakes.Next(wake)); between.IsZero() != s.Next(wake.Add(-1)).Equal(wake) || !between.IsZero() && !between.Equal(wake) {
				t.Fatalf("%s: the broker acts at %v, between two ticks at %v", s, wake, between)
			}
		}
		if got := strings.Join(ticks, " "); got != c.ticks {
			t.Errorf("%s: ticks at %s, want %s", s, got, c.ticks)
		}
	}
}

// TestLatest compares with counting up.
func TestLatest(t *testing.T) {
	t.Parallel()
	for _, s := range []schedule.Schedule{cron(t, "*/7 3 * * * *", "Europe/Berlin"), cron(t, "* * * * * *", "UTC"), cron(t, "5 1-4 * * *", "Europe/Berlin"), every(t, 7*time.Minute)} {
		from := at(t, "2026-10-24T20:00:00Z").Add(123 * time.Millisecond)
		last := time.Time{}
		next := s.Next(from)
		for before := from; before.Before(from.Add(12 * time.Hour)); before = before.Add(37*time.Second + 5*time.Millisecond) {
			for next.Before(before) {
				last, next = next, s.Next(next)
			}
			if got := s.Latest(from, before); !got.Equal(last) {
				t.Fatalf("%s: the last before %v is %v, want %v", s, before, got, last)
			}
		}
	}
	if last := (schedule.Schedule{}).Latest(at(t, "2026-01-01T00:00:00Z"), at(t, "2027-01-01T00:00:00Z")); !last.IsZero() {
		t.Errorf("no schedule has a tick at %v", last)
	}
}

// TestHorizon: times that no clock shows, as a broker may name them, are answered at once.
func TestHorizon(t *testing.T) {
	for _, s := range []schedule.Schedule{every(t, time.Second), every(t, 90*time.Minute), cron(t, "0 7 * * *", "Europe/Berlin"), cron(t, "0 0 29 2 *", "UTC")} {
		for _, year := range []int{2199, 2200, 2262, 2263, 9999, 100_000} {
			at := time.Date(year, 6, 1, 0, 0, 0, 0, time.UTC)
			if next := s.Next(at); year >= 2200 && !next.IsZero() || next.Year() > 2204 {
				t.Errorf("%s: the tick after %d is %v", s, year, next)
			}
			if last := s.Latest(time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC), at); last.After(at) || last.Year() > 2200 {
				t.Errorf("%s: the last before %d is %v", s, year, last)
			}
		}
	}
}

// TestRefused: what is wrong is said to be wrong, and what would do instead.
func TestRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ expression, zone, says string }{
		{"", "UTC", "five fields"}, {"* * * *", "UTC", "five fields"}, {"* * * * * * *", "UTC", "five fields"}, {"@daily", "UTC", "five fields"},
		{"0  7 * * *", "UTC", "cron field"}, {" 0 7 * * *", "UTC", "cron field"}, {"TZ=UTC 0 7 * * *", "UTC", "cron field"}, {"CRON_TZ=x", "UTC", "five fields"},
		{strings.Repeat("0,", 70) + "0 7 * * *", "UTC", "at most"}, {"60 7 * * *", "UTC", "above maximum"}, {"0 24 * * *", "UTC", "above maximum"}, {"0 7 0 * *", "UTC", "below minimum"},
		{"0 7 * 13 *", "UTC", "above maximum"}, {"0 7 * * 7", "UTC", "above maximum"}, {"5-1 7 * * *", "UTC", "beyond end"}, {"*/0 7 * * *", "UTC", "positive"},
		{"*-5 7 * * *", "UTC", "cron field"}, {"1,,2 7 * * *", "UTC", "cron field"}, {", 7 * * *", "UTC", "cron field"}, {"-1 7 * * *", "UTC", "cron field"}, {"1/2/3 7 * * *", "UTC", "cron field"},
		{"0 7 * * mond", "UTC", "cron field"}, {"0 7 * * xyz", "UTC", "parse"}, {"0 7 30 2 *", "UTC", "no tick"}, {"0\t7 * * *", "UTC", "five fields"}, {"0 7 * *\r\nX: *", "UTC", "cron field"},
		{"0 7 * * *", "", "IANA"}, {"0 7 * * *", "Local", "IANA"}, {"0 7 * * *", "Europe/Atlantis", "IANA"}, {"0 7 * * *", "../etc/passwd", "IANA"}, {"0 7 * * *", "UTC x", "IANA"},
		{"0 7 * * *", strings.Repeat("x", 64), "IANA"},
	} {
		if s, err := schedule.Cron(c.expression, c.zone); err == nil || !strings.Contains(err.Error(), c.says) || !s.IsZero() {
			t.Errorf("Cron(%.40q, %.40q): %v, want something about %q", c.expression, c.zone, err, c.says)
		}
	}
	for _, d := range []time.Duration{0, -time.Second, time.Millisecond, 1500 * time.Millisecond, 61 * time.Second, 1234 * time.Second, 61 * 24 * time.Hour, 1<<63 - 1} {
		if s, err := schedule.Every(d); err == nil || !strings.Contains(err.Error(), "use 1 to 60 seconds") || !s.IsZero() {
			t.Errorf("Every(%v): %v", d, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{"0 7 * * 1-5 Europe/Berlin", "*/5 0 7 ? jan-mar,jun sun UTC", "@every 10m0s", "@every 7s", "@every 10m", "0 7 * * * Local", "", " "} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := schedule.Parse(text)
		if err != nil {
			if !s.IsZero() || s.String() != "" || !s.Next(time.Unix(0, 0)).IsZero() {
				t.Errorf("%q: an error, and the schedule %q", text, s)
			}
			return
		}
		if s.String() != text {
			t.Fatalf("%q is read as %q", text, s)
		}
		from := time.Date(2026, 3, 28, 0, 0, 0, 0, time.UTC)
		next := s.Next(from)
		if next.IsZero() {
			return // a leap day that is further off
		}
		if !next.After(from) || next.Nanosecond() != 0 || !s.Latest(from, next.Add(time.Nanosecond)).Equal(next) || !s.Latest(from, next).IsZero() {
			t.Errorf("%q: after %v comes %v, and before that was %v", text, from, next, s.Latest(from, next))
		}
		if _, err := schedule.Cron(s.Wakes(), s.Zone()); err != nil {
			t.Errorf("%q: the broker cannot act at %q: %v", text, s.Wakes(), err)
		}
	})
}
