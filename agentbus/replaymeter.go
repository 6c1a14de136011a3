package agentbus

import "time"

// replayMeter counts for OnProgress.
type replayMeter struct {
	replay           *replay
	position, end    uint64
	messages, errors uint64
	ticker           *time.Ticker
	tick             <-chan time.Time // nil where nobody wants to know
	told             time.Time
	before           uint64
}

func (m *replayMeter) begin(r *replay) {
	m.replay, m.end = r, r.to
	if r.options.progress != nil {
		m.ticker = time.NewTicker(progressEvery)
		m.tick, m.told = m.ticker.C, time.Now()
	}
}

func (m *replayMeter) stop() {
	if m.ticker != nil {
		m.ticker.Stop()
	}
}

// look tells how far the loop is if it is time for that.
func (m *replayMeter) look() {
	select {
	case <-m.tick:
		m.tell()
	default:
	}
}

func (m *replayMeter) tell() {
	now := time.Now()
	p := ReplayProgress{Position: m.position, End: max(m.end, m.position), Messages: m.messages, Errors: m.errors}
	if d := now.Sub(m.told); d > 0 {
		p.Rate = float64(m.messages-m.before) / d.Seconds()
	}
	m.told, m.before = now, m.messages
	m.replay.options.progress(p)
}

// last tells how far the loop was when it ended.
func (m *replayMeter) last() {
	if m.tick != nil {
		m.tell()
	}
}
