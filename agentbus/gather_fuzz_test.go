package agentbus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/keyring"
)

const fuzzPolicy = `trust_domain: example.org
revision: 1
topics:
  live: {publish: [feed], subscribe: [planner], max_age: 10m}
  kept: {publish: [feed], subscribe: [planner], max_age: 10m, retain: 24h}
`

// What a script consists of: each operation is a byte of this and a byte that says how.
const (
	opLive      = iota // Publish
	opKept             // Publish on the retained topic
	opLiveAsync        // PublishAsync
	opKeptAsync        // PublishAsync on the retained topic
	opBurst            // many small messages, live and retained, to changing subjects
	opOther            // the same in another goroutine
	opFlush
	opForce     // nats.go makes its connection anew
	opCut       // the network breaks
	opLose      // messages are lost with the connection
	opLoseFlush // the connection is lost under a Flush
	opLoseAck   // an acknowledgement is lost
	opChange    // everything moves to another connection
	operations
)

const (
	maxOps     = 40
	maxBroken  = 3       // connections in a script
	rarely     = 63      // of what a byte can say
	maxContent = 2 << 20 // bytes of payload
)

var fuzzSizes = [8]int{0, 1, 100, 1000, 10000, 60000, 130 << 10, 900 << 10}

// stage is the world in which all scripts of a process run, one after another.
type stage struct {
	line     *line
	feed     *agentbus.Bus
	archive  *archive
	arrived  map[string]chan *agentbus.Message
	rejected chan agentbus.Rejection
	changing atomic.Bool
	run      int
}

func newStage(f *testing.F) *stage {
	w := bustest.New(f, fuzzPolicy)
	s := &stage{arrived: make(map[string]chan *agentbus.Message), rejected: make(chan agentbus.Rejection, 1024)}
	c := w.Config("planner")
	c.OnReject = func(r agentbus.Rejection) {
		// A retained message that was sent again comes twice to whoever listens.
		if r.Reason != keyring.Seen || r.Channel != "topic/kept" {
			s.rejected <- r
		}
	}
	planner := w.Connect(c)
	for _, topic := range []string{"live", "kept"} {
		handler, got := collect(1 << 14)
		_, err := planner.Subscribe(w.Ctx(), topic+".>", handler)
		bustest.Check(f, err)
		s.arrived[topic] = got
	}
	s.archive = newArchive(f, w, c.Keyring, "kept")
	s.line = newLine(f, w)
	s.feed = s.line.agent("feed")
	for topic, got := range s.arrived {
		bustest.Check(f, s.feed.Publish(w.Ctx(), topic, nil))
		bustest.Receive(f, got)
	}
	s.archive.read(f)
	return s
}

// sent is a message that was published, and what was said of that.
type sent struct {
	begin, end uint64 // by the script's clock; 0: not yet
	size       int
	never      bool // its context had ended before
	err        error
	outcome    *agentbus.Publication
	came       int
}

// flush is what a Flush has said.
type flush struct {
	begin, end uint64
	err        error
}

// play is one run of a script.
type play struct {
	*stage
	t       *testing.T
	ctx     context.Context
	clock   atomic.Uint64
	other   sync.WaitGroup
	flushes []flush
	broken  int
	shaken  int // how often a connection was broken before the last Flush began
	content int

	mu  sync.Mutex
	all map[string][2][]*sent // by topic, for each of the two goroutines
}

// FuzzGather publishes by a script, in all sizes, to changing subjects, live and retained, with contexts that end, over
// connections that break, and looks at what arrives. Live, every message whose Publish has returned nil arrives once and
// in order, unless the Flush that covers it has failed, and one whose Publish has failed does not. Retained, what was
// acknowledged is stored once and in order, what was not at most once. A Flush fails only where a connection was lost, and
// once for each loss.
func FuzzGather(f *testing.F) {
	for _, script := range [][]byte{
		{opLive, 0x02},
		{opKept, 0x02},
		{opBurst, 40, opFlush, 0, opBurst, 63, opLiveAsync, 0x03, opKeptAsync, 0x0b, opFlush, 0},
		{opLive, 0x00, opLive, 0x09, opLive, 0x12, opLive, 0x1b, opLive, 0x04, opLive, 0x0d, opLive, 0x16, opLive, 0x1f, opLive, 0x02},
		{opKept, 0x00, opKeptAsync, 0x09, opKeptAsync, 0x12, opKeptAsync, 0x1f, opKeptAsync, 0x24, opKept, 0x0d, opKeptAsync, 0x06},
		{opLive, 0x22, opLive, 0x22, opKeptAsync, 0x2a, opLive, 0x82, opLive, 0xc2, opKept, 0x82, opKept, 0xc2, opKeptAsync, 0xca, opLiveAsync, 0xd2},
		{opOther, 63, opBurst, 63, opOther, 63, opLive, 0x07, opKept, 0x02, opFlush, 0},
		{opBurst, 20, opForce, 0, opBurst, 20, opFlush, 0, opBurst, 20, opFlush, 0},
		{opBurst, 20, opCut, 0, opBurst, 20, opKept, 0x02, opFlush, 0, opFlush, 0},
		{opOther, 63, opCut, 0, opBurst, 63, opForce, 0, opBurst, 63, opFlush, 0, opLive, 0x03},
		{opBurst, 10, opLose, 20, opBurst, 10, opFlush, 0, opLose, 1, opFlush, 0, opFlush, 0},
		{opLoseFlush, 5, opFlush, 0, opOther, 63, opLoseFlush, 20, opFlush, 0, opLive, 0x02},
		{opLoseAck, 0, opKept, 0x02, opLoseAck, 20, opKeptAsync, 0x07, opLoseAck, 63},
		{opKeptAsync, 0x07, opKeptAsync, 0x0f, opCut, 0, opBurst, 63, opKeptAsync, 0x02, opForce, 0, opKept, 0x02},
		{opBurst, 20, opChange, 0, opBurst, 20, opChange, 0, opFlush, 0, opOther, 63, opChange, 0, opFlush, 0},
		{opOther, 63, opCut, 0, opChange, 0, opForce, 0, opChange, 0, opBurst, 63, opFlush, 0},
	} {
		f.Add(script)
	}
	s := newStage(f)
	f.Fuzz(func(t *testing.T, script []byte) {
		s.run++
		ctx, cancel := context.WithTimeout(context.Background(), bustest.Timeout)
		defer cancel()
		p := &play{stage: s, t: t, ctx: ctx, all: map[string][2][]*sent{"live": {}, "kept": {}}}
		for i := 0; i+1 < len(script) && i < 2*maxOps; i += 2 {
			p.do(script[i]%operations, script[i+1])
		}
		p.other.Wait()
		p.flush()
		if p.flushes[len(p.flushes)-1].err != nil {
			p.flush()
		}
		for _, topic := range []string{"live", "kept"} {
			bustest.Check(t, s.feed.Publish(ctx, topic, nil, agentbus.Header("id", "end")))
		}
		p.flush()
		p.judge()
	})
}

func (p *play) do(op, how byte) {
	switch op {
	case opLive, opKept, opLiveAsync, opKeptAsync:
		p.one(op, how)
	case opBurst:
		p.burst(0, how, "live", "kept")
	case opOther:
		p.other.Wait()
		p.other.Go(func() { p.burst(1, how, "live", "kept") })
	case opFlush:
		p.flush()
	case opChange:
		p.change()
	default:
		if how > rarely || p.broken == maxBroken { // it takes long
			p.burst(0, how, "live", "kept")
			return
		}
		p.broken++
		p.breakLine(op, how)
	}
}

// change moves everything to another connection. It may go on after that for as long as the script runs: what waits for an
// answer on the connection before, which may have been lost, keeps that open.
func (p *play) change() {
	if !p.changing.CompareAndSwap(false, true) {
		return
	}
	before := p.feed.Conn()
	go func() {
		defer p.changing.Store(false)
		_ = p.feed.ChangeOver(p.ctx) // may fail where the connection breaks meanwhile
	}()
	eventually(p.t, "the connection is another", func() bool { return p.feed.Conn() != before || !p.changing.Load() })
	if p.feed.Conn() == before && p.broken == 0 {
		p.t.Error("the connection was not replaced")
	}
}

func (p *play) breakLine(op, how byte) {
	switch op {
	case opForce:
		bustest.Check(p.t, p.feed.Conn().ForceReconnect())
	case opCut:
		p.line.cut()
	case opLose:
		p.breakUnder(&p.line.mute, func() { p.burst(0, how, "live", "live") })
	case opLoseFlush:
		p.breakUnder(&p.line.mute, func() {
			p.burst(0, how, "live", "live")
			p.flush()
		})
		p.shaken = p.broken - 1 // it may have begun after the loss
	case opLoseAck:
		p.breakUnder(&p.line.deaf, func() { p.burst(0, how, "kept", "kept") })
	}
}

// breakUnder breaks the line while f runs, or after it, when something has been lost in one direction.
func (p *play) breakUnder(direction *atomic.Bool, f func()) {
	before := p.line.lost.Load()
	direction.Store(true)
	done := make(chan struct{})
	go func() {
		f()
		close(done)
	}()
	eventually(p.t, "something is lost", func() bool { return p.line.lost.Load() > before })
	p.line.cut()
	direction.Store(false)
	<-done
}

// one publishes one message: how says its size, subject and expiry, and what becomes of its context.
func (p *play) one(op, how byte) {
	topic := "live"
	if op == opKept || op == opKeptAsync {
		topic = "kept"
	}
	size := fuzzSizes[how&7]
	if p.content+size > maxContent {
		size = fuzzSizes[2]
	}
	p.content += size
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	switch how >> 6 {
	case 2:
		cancel()
	case 3:
		go cancel()
	}
	var options []agentbus.MessageOption
	if how>>5&1 == 1 {
		options = append(options, agentbus.ExpiresIn(time.Hour))
	}
	subject := topic + [4]string{"", ".a", ".b", ".c.d"}[how>>3&3]
	m := p.publish(ctx, 0, topic, subject, size, op == opLiveAsync || op == opKeptAsync, options...)
	if m.never = how>>6 == 2; m.never && !errors.Is(m.err, context.Canceled) {
		p.t.Errorf("publishing to %s with a context that has ended: %v", subject, m.err)
	}
	if m.err != nil && (how>>6 < 2 || !errors.Is(m.err, context.Canceled)) {
		p.t.Errorf("publishing %d bytes to %s: %v", size, subject, m.err)
	}
}

// burst publishes small messages to two topics in turn, and to changing subjects.
func (p *play) burst(from int, how byte, topics ...string) {
	for i := range int(how)%64 + 1 {
		topic := topics[i/5%2]
		if m := p.publish(p.ctx, from, topic, fmt.Sprintf("%s.n%d", topic, i/3%3), 10, true); m.err != nil {
			p.t.Errorf("publishing to %s: %v", topic, m.err)
		}
	}
}

func (p *play) publish(ctx context.Context, from int, topic, subject string, size int, async bool, options ...agentbus.MessageOption) *sent {
	p.mu.Lock()
	of := p.all[topic]
	n := len(of[from])
	m := &sent{size: size, begin: p.clock.Add(1)}
	of[from] = append(of[from], m)
	p.all[topic] = of
	p.mu.Unlock()
	payload := bytes.Repeat([]byte{byte(n)}, size)
	options = append(options, agentbus.Header("id", fmt.Sprintf("%d/%d/%d", p.run, from, n)))
	if async {
		m.outcome, m.err = p.feed.PublishAsync(ctx, subject, payload, options...)
	} else {
		m.err = p.feed.Publish(ctx, subject, payload, options...)
	}
	clear(payload) // it is the caller's again
	p.mu.Lock()
	defer p.mu.Unlock()
	m.end = p.clock.Add(1)
	return m
}

func (p *play) flush() {
	f := flush{begin: p.clock.Add(1)}
	broken := p.broken
	f.err = p.feed.Flush(p.ctx)
	f.end = p.clock.Add(1)
	if f.err != nil && broken == p.shaken && !p.retold() {
		p.t.Errorf("a Flush with nothing lost since the one before: %v", f.err)
	}
	p.shaken = broken
	p.flushes = append(p.flushes, f)
}

// retold reports whether the last Flush has told of a loss while the other goroutine published: whether that came before
// the loss or after it is not known, so that the next may tell of it too.
func (p *play) retold() bool {
	if len(p.flushes) == 0 {
		return false
	}
	last := p.flushes[len(p.flushes)-1]
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, of := range p.all {
		for _, m := range of[1] {
			if m.begin < last.end && (m.end == 0 || m.end > last.begin) {
				return last.err != nil
			}
		}
	}
	return false
}

// mayBeMissing reports whether a Flush has told that a message may be lost: one that came to its end after the message
// was begun, up to the first that began after it was handed over.
func (p *play) mayBeMissing(m *sent) bool {
	for _, f := range p.flushes {
		if f.end > m.begin && f.err != nil {
			return true
		}
		if f.begin > m.end {
			return false
		}
	}
	return false
}

func (p *play) judge() {
	for _, topic := range []string{"live", "kept"} {
		next := [2]int{}
		for {
			m := bustest.Receive(p.t, p.arrived[topic])
			if m.Header("id") == "end" {
				break
			}
			p.take(topic, m.Header("id"), string(m.Payload), false, &next)
		}
		if topic == "live" {
			p.account(topic, p.mayBeMissing)
		}
	}
	for _, of := range p.all["kept"] {
		for _, m := range of {
			m.came = 0
		}
	}
	next := [2]int{}
	for _, k := range p.archive.read(p.t) {
		if k.header != "end" {
			p.take("kept", k.header, k.payload, true, &next)
		}
	}
	p.account("kept", func(*sent) bool { return false })
	select {
	case r := <-p.rejected:
		p.t.Errorf("rejected on %s: %v", r.Subject, r.Err)
	default:
	}
}

// take notes a message that has come, which must be of this run, as it was, and after those that were published before
// it. Only what comes live of retained messages may be out of order, where a batch was sent over two connections, and then
// again.
func (p *play) take(topic, id, payload string, stored bool, next *[2]int) {
	p.t.Helper()
	var run, from, n int
	if _, err := fmt.Sscanf(id, "%d/%d/%d", &run, &from, &n); err != nil || run != p.run || n >= len(p.all[topic][from]) {
		p.t.Fatalf("%s: message %s came in run %d", topic, id, p.run)
	}
	m := p.all[topic][from][n]
	if n < next[from] && (stored || topic == "live" || p.broken == 0) {
		p.t.Errorf("%s: message %s came after %d", topic, id, next[from]-1)
	}
	next[from] = max(next[from], n+1)
	if m.came++; m.came > 1 {
		p.t.Errorf("%s: message %s came %d times", topic, id, m.came)
	}
	if payload != strings.Repeat(string([]byte{byte(n)}), m.size) {
		p.t.Errorf("%s: message %s is not as it was: %d bytes, want %d", topic, id, len(payload), m.size)
	}
}

// account compares what came with what was said.
func (p *play) account(topic string, mayBeMissing func(*sent) bool) {
	p.t.Helper()
	for from, of := range p.all[topic] {
		for n, m := range of {
			err := m.err
			if m.outcome != nil {
				bustest.Receive(p.t, m.outcome.Done())
				if err = m.outcome.Err(); err != nil && p.broken == 0 {
					p.t.Errorf("%s: message %d/%d has the outcome %v", topic, from, n, err)
				}
			}
			switch {
			case err == nil && m.came == 0 && !mayBeMissing(m):
				p.t.Errorf("%s: message %d/%d is missing", topic, from, n)
			case (topic == "live" || m.never) && m.err != nil && m.came > 0:
				p.t.Errorf("%s: message %d/%d came, but publishing it failed: %v", topic, from, n, m.err)
			}
		}
	}
}
