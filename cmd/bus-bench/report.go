package main

import (
	"encoding/json"
	"io"
	"math"
	"slices"
)

// report is the JSON.
type report struct {
	Machine machine `json:"machine"`
	Quick   bool    `json:"quick"`
	Rounds  int     `json:"rounds"`
	Rows    []row   `json:"rows"`
	Error   string  `json:"error,omitempty"` // why there are no more rows
}

// row is one figure at one point. Plain and Sealed are medians over the rounds. Ratio is the median of the rounds' own
// ratios, in which both sides were measured one right after the other, and so need not be that of the medians; above 1
// sealed is better. Worst and Best are the smallest and largest of these ratios. Where plain NATS has nothing to compare
// with, there is only Sealed.
type row struct {
	Case string `json:"case"`
	point
	Plain      float64  `json:"plain,omitempty"`
	Sealed     float64  `json:"sealed"`
	Unit       string   `json:"unit"`
	Ratio      float64  `json:"ratio,omitempty"`
	Worst      float64  `json:"ratio_min,omitempty"`
	Best       float64  `json:"ratio_max,omitempty"`
	Difference *float64 `json:"difference,omitempty"` // sealed less plain
	CPU        *both    `json:"cpu_us,omitempty"`     // µs of CPU time for a message: publisher, broker and subscribers
	Allocs     *both    `json:"allocs,omitempty"`     // allocations for a message
	Bytes      *both    `json:"alloc_bytes,omitempty"`
	Peak       *both    `json:"live_heap_mib,omitempty"` // the most that live objects took up, the broker's included
}

// both is a figure of either side.
type both struct {
	Plain  float64 `json:"plain"`
	Sealed float64 `json:"sealed"`
}

func newRow(name string, at point, f figure, plain, sealed []lap) row {
	of := func(l lap) float64 { return f.of(l.outcome) }
	ratios := make([]float64, 0, len(plain))
	for i := range plain {
		ratio := of(sealed[i]) / of(plain[i])
		if f.less {
			ratio = 1 / ratio
		}
		ratios = append(ratios, ratio)
	}
	r := row{Case: name, point: at, Unit: f.unit,
		Plain: digits(medianOf(plain, of)), Sealed: digits(medianOf(sealed, of)),
		Ratio: digits(median(ratios)), Worst: digits(slices.Min(ratios)), Best: digits(slices.Max(ratios))}
	if f.difference {
		d := digits(medianOf(sealed, of) - medianOf(plain, of))
		r.Difference = &d
	}
	pair := func(of func(lap) float64) *both {
		return &both{digits(medianOf(plain, of)), digits(medianOf(sealed, of))}
	}
	if _, ok := cpuTime(); ok {
		r.CPU = pair(func(l lap) float64 { return l.cpu })
	}
	r.Allocs = pair(func(l lap) float64 { return l.allocs })
	r.Bytes = pair(func(l lap) float64 { return l.bytes })
	if sealed[0].peak > 0 {
		r.Peak = pair(func(l lap) float64 { return float64(l.peak) / (1 << 20) })
	}
	return r
}

// digits rounds to four significant digits: no more of it means anything.
func digits(x float64) float64 {
	if x == 0 || math.IsInf(x, 0) || math.IsNaN(x) {
		return x
	}
	scale := math.Pow(10, 3-math.Floor(math.Log10(math.Abs(x))))
	return math.Round(x*scale) / scale
}

func (r *report) print(w io.Writer) {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	_ = e.Encode(r) // an output that is closed has nobody to be told
}
