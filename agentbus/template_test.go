package agentbus_test

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/schedule"
)

// TestRunID fixes the ids of runs: producers, workers and later versions have to agree on them.
func TestRunID(t *testing.T) {
	t.Parallel()
	tick := time.Date(2026, 11, 24, 6, 0, 0, 0, time.UTC)
	if id := agentbus.RunID("work", "report", tick).String(); id != "01M8627GR0TSDWX4X4M79FBT79" {
		t.Errorf("the id is %s", id)
	}
	seen := make(map[ulid.ULID]string)
	for _, c := range []struct {
		queue, name string
		tick        time.Time
	}{{"work", "report", tick}, {"wor", "kreport", tick}, {"workr", "eport", tick}, {"side", "report", tick}, {"work", "Report", tick}, {"work", "report", tick.Add(time.Second)}} {
		id := agentbus.RunID(c.queue, c.name, c.tick)
		if other := seen[id]; other != "" || !ulid.Time(id.Time()).Equal(c.tick) {
			t.Errorf("%s of %s at %v has the id %s, as %s", c.name, c.queue, c.tick, id, other)
		}
		seen[id] = c.queue + "." + c.name
	}
	if agentbus.RunID("work", "report", tick) != agentbus.RunID("work", "report", tick.In(time.FixedZone("", 3600))) {
		t.Error("the id depends on the zone")
	}
	for name, id := range map[string]ulid.ULID{"no name": agentbus.RunID("work", "", tick), "two tokens": agentbus.RunID("work", "a.b", tick),
		"before 1970": agentbus.RunID("work", "x", time.Unix(-1, 0)), "a long name": agentbus.RunID("work", strings.Repeat("x", 65), tick),
		"a long queue": agentbus.RunID(strings.Repeat("x", 300), "x", tick), "after all time": agentbus.RunID("work", "x", time.Unix(1<<55, 0))} {
		if !id.IsZero() {
			t.Errorf("%s: %s", name, id)
		}
	}
}

// TestLateTicks: what is let go of is late by more than an hour, or by a day when it was tried before, and has a successor.
func TestLateTicks(t *testing.T) {
	t.Parallel()
	tick := time.Date(2026, 11, 24, 6, 0, 0, 0, time.UTC)
	often, daily := agentbus.Every(time.Minute), agentbus.Cron("0 6 * * *", "UTC")
	for _, c := range []struct {
		s         agentbus.Schedule
		delivered int
		late      time.Duration
		want      bool
	}{
		{often, 1, 0, false}, {often, 1, time.Hour, false}, {often, 1, time.Hour + time.Second, true}, {often, 2, time.Hour + time.Second, false},
		{often, 2, 24*time.Hour + time.Second, true}, {daily, 1, 23 * time.Hour, false}, {daily, 1, 24 * time.Hour, true}, {daily, 2, 24 * time.Hour, false}, {daily, 2, 25 * time.Hour, true},
	} {
		if got := agentbus.TooLate(c.s, c.delivered, tick, tick.Add(c.late)); got != c.want {
			t.Errorf("%s, handed out %d times, %v late: let go of is %v", c.s, c.delivered, c.late, got)
		}
	}
}

func FuzzTemplate(f *testing.F) {
	for _, s := range []agentbus.Schedule{agentbus.Every(90 * time.Minute), agentbus.Cron("0 7 * * 1-5", "Europe/Berlin"), agentbus.Cron("*/10 0 7 ? jan,feb sun", "UTC")} {
		text := s.String()
		if !strings.HasPrefix(text, "@") {
			text += " " + s.Zone()
		}
		ticks, err := schedule.Parse(text)
		if err != nil {
			f.Fatal(err)
		}
		b, err := agentbus.EncodeTemplate("daily-report", ticks)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(append(b, 0))
		f.Add(b[:len(b)-1])
	}
	v2, _ := hex.DecodeString("020178094065766572792031730a")
	f.Add(v2)
	f.Fuzz(func(t *testing.T, b []byte) {
		name, ticks, err := agentbus.DecodeTemplate(b)
		if err != nil {
			if name != "" || !ticks.IsZero() {
				t.Errorf("an error, and the template %q", name)
			}
			return
		}
		again, err := agentbus.EncodeTemplate(name, ticks)
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("% x is encoded as % x: %v", b, again, err)
		}
	})
}
