package main

import (
	"context"
	"path"
	"slices"
	"strings"
)

// trials is everything that is measured, in this order.
var trials = []trial{
	live("topic/live/unsigned", "unsigned"),
	live("topic/live/signed", "signed"),
	retained("topic/retained/unsigned", "unsigned"),
	retained("topic/retained/signed", "signed"),
	request("request"),
	lone("lone/unsigned", "unsigned"),
	lone("lone/signed", "signed"),
	fanout("fanout/unsigned", "unsigned"),
	fanout("fanout/signed", "signed"),
	channels("channels/unsigned", false),
	channels("channels/signed", true),
	members("members"),
	enqueue("task/enqueue", 8),
	enqueue("task/enqueue/one", 1),
	batches("task/batch"),
	work("task/work"),
	round("task/round"),
	idle("task/idle"),
	delayed("task/late"),
	replayed("replay/shared", false),
	replayed("replay/lone", true),
}

// trial is one comparison, at one or more points.
type trial struct {
	name    string
	rules   func(point) string // the policy, without trust domain and revision
	points  func(pace) []point
	figures []figure
	// open connects both sides and makes them ready, keys and all.
	open func(ctx context.Context, st *stage, at point) (plain, sealed side, err error)
	// alone is there instead where plain NATS has nothing to compare with. It returns a list of numbers for each figure,
	// and tells progress what it is at.
	alone func(ctx context.Context, st *stage, at point, p pace, progress func(string)) ([][]float64, error)
}

// point is where on its axes a trial is measured. What does not apply is 0.
type point struct {
	Size        int `json:"size,omitempty"` // bytes of a payload
	InFlight    int `json:"in_flight,omitempty"`
	Subscribers int `json:"subscribers,omitempty"`
	Channels    int `json:"channels,omitempty"`
	Members     int `json:"members,omitempty"`
	Messages    int `json:"messages,omitempty"`
}

// figure is a row that is made of the outcomes.
type figure struct {
	suffix     string // after the trial's name
	unit       string
	of         func(outcome) float64
	less       bool // is better
	difference bool // show it, beside the ratio
}

var (
	perSecond  = []figure{{unit: "msg/s", of: rate}}
	deliveries = []figure{{unit: "deliveries/s", of: rate}}
	latency    = []figure{
		{suffix: "/p50", unit: "µs", of: quantile(0.50), less: true},
		{suffix: "/p99", unit: "µs", of: quantile(0.99), less: true},
	}
	typical = []figure{{unit: "µs", of: quantile(0.50), less: true, difference: true}}
)

func rate(o outcome) float64 { return float64(o.count) / o.took.Seconds() }

// quantile returns a quantile of the single durations in µs: the smallest that at least this share do not exceed.
func quantile(q float64) func(outcome) float64 {
	return func(o outcome) float64 {
		slices.Sort(o.each)
		n := int(q*float64(len(o.each)) + 0.999999)
		return float64(o.each[max(n, 1)-1].Nanoseconds()) / 1e3
	}
}

// bySize is a point for every size.
func bySize(p pace) []point { return sizesOf(p.sizes) }

func sizesOf(sizes []int) (list []point) {
	for _, size := range sizes {
		list = append(list, point{Size: size})
	}
	return list
}

// selects reports whether a case is one that the pattern asks for: by its first letters, or with * and ?.
func selects(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return err == nil && ok || strings.HasPrefix(name, pattern)
}

// chosen reports whether a pattern asks for any of a trial's cases.
func (t *trial) chosen(pattern string) bool {
	return slices.ContainsFunc(t.figures, func(f figure) bool { return selects(pattern, t.name+f.suffix) })
}
