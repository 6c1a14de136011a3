package agentbus

import (
	"context"
	crand "crypto/rand"
	"math"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
	"golang.org/x/crypto/cryptobyte"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// presence is a worker's sign of life. It travels sealed for the queue's enqueuers, in the header "sealbus-presence" of
// a control that has nothing else:
//
//	version      u8 = 1
//	instance     16 bytes      ULID of the worker; that of the subject
//	since        u64           Unix ms when it began
//	concurrency  u32           tasks that it handles at a time
//	running      u32           of this queue, when it was written
//	gone         u8            1: the worker has stopped; else 0
type presence struct {
	instance             ulid.ULID
	since                time.Time
	concurrency, running int
	gone                 bool
}

const presenceVersion = 1

func (p *presence) encode() []byte {
	b := cryptobyte.NewFixedBuilder(make([]byte, 0, 34))
	b.AddUint8(presenceVersion)
	b.AddBytes(p.instance[:])
	b.AddUint64(millis(p.since))
	b.AddUint32(uint32(min(p.concurrency, math.MaxInt32)))
	b.AddUint32(uint32(min(p.running, math.MaxInt32)))
	gone := uint8(0)
	if p.gone {
		gone = 1
	}
	b.AddUint8(gone)
	return b.BytesOrPanic()
}

// decodePresence reads what encode writes, and nothing else.
func decodePresence(b []byte) (p presence, ok bool) {
	s := cryptobyte.String(b)
	var version, gone uint8
	var since uint64
	var concurrency, running uint32
	if !s.ReadUint8(&version) || version != presenceVersion || !s.CopyBytes(p.instance[:]) || !s.ReadUint64(&since) || !s.ReadUint32(&concurrency) ||
		!s.ReadUint32(&running) || !s.ReadUint8(&gone) || !s.Empty() {
		return presence{}, false
	}
	if p.instance.IsZero() || since > maxMillis || concurrency > math.MaxInt32 || running > math.MaxInt32 || gone > 1 {
		return presence{}, false
	}
	p.since, p.concurrency, p.running, p.gone = ofMillis(since), int(concurrency), int(running), gone == 1
	return p, true
}

// presenter tells enqueuers that a worker lives. It has no part in what happens to tasks: where it cannot, they do not
// notice.
type presenter struct {
	worker   *Worker
	instance ulid.ULID
	since    time.Time
	ctx      context.Context // ends when the worker leaves
	cancel   context.CancelFunc
	once     sync.Once // it begins, or has never begun
	done     chan struct{}
	said     bool // of some queue
}

func newPresenter(w *Worker) *presenter {
	now := time.Now()
	// crypto/rand's reader does not fail.
	p := &presenter{worker: w, instance: ulid.MustNew(ulid.Timestamp(now), crand.Reader), since: now, done: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancel(w.ctx)
	return p
}

// begin begins to tell.
func (p *presenter) begin() { p.once.Do(func() { go p.run() }) }

func (p *presenter) run() {
	defer close(p.done)
	tick := time.NewTicker(p.worker.bus.config.presence)
	defer tick.Stop()
	for {
		p.tell(p.ctx, false)
		select {
		case <-tick.C:
		case <-p.ctx.Done():
			return
		}
	}
}

// leave tells that the worker has stopped, if it has told that it is there.
func (p *presenter) leave() {
	p.cancel()
	p.once.Do(func() { close(p.done) })
	<-p.done
	if !p.said {
		return
	}
	ctx, cancel := context.WithTimeout(p.worker.ctx, endTimeout)
	defer cancel()
	p.tell(ctx, true)
}

func (p *presenter) tell(ctx context.Context, gone bool) {
	b := p.worker.bus
	if !b.Connected() {
		return
	}
	for _, q := range p.worker.queues {
		if err := p.tellQueue(ctx, q, gone); err == nil {
			p.said = true
		} else if ctx.Err() == nil {
			b.log.Debug("a sign of life could not be stored", "queue", q.name, "error", err)
		}
	}
}

func (p *presenter) tellQueue(ctx context.Context, q *workQueue, gone bool) error {
	b := p.worker.bus
	ch, err := policy.Result(q.name)
	if err != nil {
		return err
	}
	here := presence{instance: p.instance, since: p.since, concurrency: p.worker.limit, running: q.running(), gone: gone}
	d := &keyring.Draft{Kind: envelope.KindControl, Recipient: q.name,
		Messages: []envelope.Message{{Headers: []envelope.Pair{{Key: []byte(headerPresence), Value: here.encode()}}}}}
	ctx, cancel := context.WithTimeout(ctx, b.config.presence)
	defer cancel()
	return b.sealed(ctx, ch, d, func(frame []byte, id ulid.ULID) error {
		e := entry{subject: policy.ControlSubject(q.name, b.self.Name(), policy.ControlPresence+"."+p.instance.String()), frame: frame, id: id}
		return b.store.append(ctx, policy.ControlStream(q.name), []entry{e})
	})
}

// running returns how many tasks of the queue are being handled.
func (q *workQueue) running() (n int) {
	w := q.worker
	w.mu.Lock()
	defer w.mu.Unlock()
	for l := range w.leases {
		if l.source.queue == q {
			n += l.active
		}
	}
	return n
}
