package policy

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
)

func TestGlob(t *testing.T) {
	for _, test := range []struct {
		glob string
		yes  []string
		no   []string
	}{
		{"planner", []string{"planner"}, []string{"plannerx", "planne", "xplanner", "*"}},
		{"*", []string{"a", "feed-1", "*"}, nil},
		{"feed-*", []string{"feed-", "feed-1", "feed-a-b"}, []string{"feed", "xfeed-1", "fee-"}},
		{"*-eu", []string{"a-eu", "-eu", "a-eu-eu"}, []string{"eu", "a-eux"}},
		{"a*a", []string{"aa", "aba", "aaa"}, []string{"a", "ab", "ba"}},
		{"a*b*c", []string{"abc", "axbxc", "abbc"}, []string{"ac", "acb", "ab", "abcx"}},
		{"*a*a*", []string{"aa", "xaxax"}, []string{"a", "xax"}},
		{"ab*ba", []string{"abba", "abxba"}, []string{"aba", "ab"}},
	} {
		g := newGlob(test.glob)
		for _, s := range test.yes {
			if !g.match(s) {
				t.Errorf("%q does not match %q", test.glob, s)
			}
		}
		for _, s := range test.no {
			if g.match(s) {
				t.Errorf("%q matches %q", test.glob, s)
			}
		}
	}
}

// word returns a short word over few letters, so that chance finds matches.
func word(rng *rand.Rand, letters string, most int) string {
	var b strings.Builder
	for range 1 + rng.IntN(most) {
		b.WriteByte(letters[rng.IntN(len(letters))])
	}
	return b.String()
}

func expression(glob string) *regexp.Regexp {
	return regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(glob), `\*`, ".*") + "$")
}

func TestGlobAgainstRegexp(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		text, name := word(rng, "ab*", 6), word(rng, "ab", 7)
		g := newGlob(text)
		if got, want := g.match(name), expression(text).MatchString(name); got != want {
			t.Fatalf("%q and %q: %v, want %v", text, name, got, want)
		}
	}
}

func TestAgentsAgainstEachGlob(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 2_000 {
		var list []glob
		for range 1 + rng.IntN(6) {
			list = append(list, newGlob(word(rng, "abc*", 5)))
		}
		a := newAgents(list)
		for range 20 {
			name, want := word(rng, "abc", 6), false
			for _, g := range list {
				want = want || g.match(name)
			}
			if got := a.match(name); got != want {
				t.Fatalf("%s and %q: %v, want %v", a.key(), name, got, want)
			}
		}
	}
}

// A glob that is said to be covered must be, for every name: keys stay in use on the strength of it.
func TestCoversIsSound(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	covered := 0
	for range 20_000 {
		a, g := newAgents([]glob{newGlob(word(rng, "ab*", 5))}), newGlob(word(rng, "ab*", 5))
		if !a.covers(g) {
			continue
		}
		covered++
		for range 30 {
			if name := word(rng, "ab", 7); g.match(name) && !a.match(name) {
				t.Fatalf("%q is said to cover %q, and does not match %q", a.list[0].text, g.text, name)
			}
		}
	}
	if covered < 1_000 {
		t.Errorf("only %d globs covered", covered)
	}
}

func TestNearest(t *testing.T) {
	known := []string{"publish", "subscribe", "max_age", "retain", "pad"}
	for word, want := range map[string]string{
		"publishers": "publish", "pub": "publish", "subscirbe": "subscribe", "max-age": "max_age", "maxage": "max_age",
		"retian": "retain", "retention": "", "call": "", "x": "", "padding": "pad", strings.Repeat("p", 1000): "",
	} {
		got := strings.Join(nearest(word, known, 1), " ")
		if got != want {
			t.Errorf("nearest(%.20q) = %q, want %q", word, got, want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"", "ab", 2}, {"abc", "abc", 0}, {"abc", "acb", 1}, {"kitten", "sitting", 3}} {
		if got := distance(test.a, test.b); got != test.want {
			t.Errorf("distance(%q, %q) = %d, want %d", test.a, test.b, got, test.want)
		}
	}
}

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]string{
		"30s": "30s", "90m": "90m", "24h": "1d", "90d": "90d", "0s": "0d", "60s": "1m",
		"30": "it has no unit: write 30s, 30m, 30h or 30d", "1h30m": "write one number and one unit: 90m", "1.5h": "write one number and one unit: 90m",
		"30 s": "write 30s", "2 days": "write 2d", "3 hours": "write 3h", "5min": "write 5m", "2w": "write 14d", "10S": "write 10s", "010s": "write 10s",
		"": "write a number", "s": "write a number", "-5m": "write a number", "5ms": "write a number", "+5m": "write a number", "5y": "write a number",
		"99999999999999999999s": "write at most 3650d", "999999999999s": "write at most 3650d",
	} {
		d, advice := parseDuration(text)
		if advice == "" {
			advice = formatDuration(d)
		}
		if !strings.HasPrefix(advice, want) {
			t.Errorf("%q gives %q, want %q", text, advice, want)
		}
	}
	if d, _ := parseDuration("315360000d"); d <= MaxRetain {
		t.Errorf("a long duration came out as %s", d)
	}
}

func BenchmarkMatch(b *testing.B) {
	for _, n := range []int{1, 100, 1000} {
		var list []glob
		for i := range n {
			list = append(list, newGlob(fmt.Sprintf("team-%d-*", i)))
		}
		a := newAgents(list)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				a.match("team-999-agent-17")
			}
		})
	}
}
