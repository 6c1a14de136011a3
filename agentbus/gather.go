package agentbus

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// lane gathers what is published to one topic, or put into one queue, or recorded of its tasks. One goroutine seals and
// sends; what comes while it is at that makes up the next batch. So a lone message leaves at once, and the busier a
// sender is, the more messages share a seal, a signature and a NATS message. Everything leaves in the order in which it
// came.
type lane struct {
	bus    *Bus
	ch     policy.Channel
	sender *keyring.Sender
	apart  *keyring.Sender           // of a queue: for what is not among the tasks of its log that are counted
	ship   func(*lane, *batch) error // hands sealed frames to the broker

	idle    *time.Timer // see watch
	resting atomic.Int32
	counted atomic.Bool // frames have been, since the timer was set

	mu     sync.Mutex
	next   *batch // gathers; never nil
	under  *batch // being sealed and sent; nil if the goroutine waits
	spare  *batch
	room   chan struct{} // closed when next is taken; nil if nobody waits for that
	ended  bool          // nobody sends any more
	stuck  bool          // there is no connection, and what may wait for one does already
	asked  int           // callers that wait to be told of their message
	most   int           // how many that were, since the last batch was taken
	needed int           // callers that regroup waits for; 0: it does not
	back   chan struct{} // they are here; has room for one
	wakeUp chan struct{}
}

// batch is what leaves together, under one signature. Its messages share their fate.
type batch struct {
	parcels []*parcel         // in order
	bundles []*keyring.Bundle // of those that the lane's sender seals
	apart   []*keyring.Bundle // of the others
	notes   []*keyring.Bundle // that the sender has to say first
	bytes   int
	count   int
	since   time.Time    // when the first message came
	until   time.Time    // when the last of those who wait for an acknowledgement gives up
	alone   int          // messages that no call waits for
	outcome *Publication // nil if nobody wants to know
}

// parcel is the messages of one frame.
type parcel struct {
	keyring.Bundle
	subject string    // on NATS
	stream  string    // that it goes into, where a lane serves several
	due     time.Time // of a delayed task: when the broker is to put it into the queue; else zero
	tickets []*ticket // of a frame's messages, where each has one
	shared  bool      // more tasks may go into it
	apart   bool      // it is sealed apart from what the lane counts
	err     error     // of this frame alone
}

func newLane(b *Bus, ch policy.Channel, sender, apart *keyring.Sender, ship func(*lane, *batch) error) *lane {
	l := &lane{bus: b, ch: ch, sender: sender, apart: apart, ship: ship, next: new(batch), spare: new(batch), wakeUp: make(chan struct{}, 1), back: make(chan struct{}, 1)}
	l.idle = time.NewTimer(time.Hour)
	l.idle.Stop()
	return l
}

// item is one message on its way into a lane.
type item struct {
	kind      envelope.Kind
	subject   string    // the frame's recipient
	ref       ulid.ULID // the task that it answers, else zero
	nats      string    // the subject on NATS; empty: the topic's
	stream    string    // see parcel
	due       time.Time // see parcel
	ticket    *ticket   // of a message that has a frame of its own, or shares one with others that have tickets
	shares    bool      // it may share one
	message   envelope.Message
	expires   time.Time
	until     time.Time // zero: the caller does not wait for an acknowledgement
	committed bool
	wanted    bool // the caller wants a Publication
	alone     bool // and does not wait for it here

	unique *uniqueKey // of a unique task, which no lane takes; else nil
}

// add takes a message in. It blocks only while the lane is full; the payload is copied.
func (l *lane) add(ctx context.Context, it *item) (*Publication, error) {
	l.mu.Lock()
	for !l.ended && !l.next.fits(it.message.Size(it.committed)) {
		if l.stuck {
			l.mu.Unlock()
			return nil, fmt.Errorf("%w: %d bytes wait to be sent already", ErrDisconnected, reconnectBuffer)
		}
		if err := l.awaitRoom(ctx); err != nil {
			return nil, err
		}
	}
	defer l.mu.Unlock()
	if l.ended {
		return nil, ErrClosed
	}
	if err := l.next.add(it); err != nil {
		return nil, err
	}
	if it.ticket != nil {
		l.asked++
		l.most = max(l.most, l.asked)
	}
	if l.needed > 0 && l.asked >= l.needed {
		l.needed = 0
		l.back <- struct{}{}
	}
	if l.under == nil && l.next.count == 1 {
		l.wake()
	}
	return l.next.outcome, nil
}

// wake has the lane's goroutine look what there is to do.
func (l *lane) wake() {
	select {
	case l.wakeUp <- struct{}{}:
	default:
	}
}

// awaitRoom waits until what gathers has been taken. It is called with the lock held, and returns with it unless it
// fails.
func (l *lane) awaitRoom(ctx context.Context) error {
	if l.room == nil {
		l.room = make(chan struct{})
	}
	room, closing := l.room, l.bus.stopped
	l.mu.Unlock()
	if l.bus.ofHandler(ctx) {
		closing = nil
	}
	select {
	case <-room:
	case <-ctx.Done():
		return ctx.Err()
	case <-closing:
		return ErrClosed
	case <-l.bus.gathered.Done():
		return ErrClosed
	}
	l.mu.Lock()
	return nil
}

// roomy has those look again who wait for room. It is called with the lock held.
func (l *lane) roomy() {
	if l.room != nil {
		close(l.room)
		l.room = nil
	}
}

// fits reports whether a message of n encoded bytes has room. One always has.
func (bt *batch) fits(n int) bool {
	return bt.count == 0 || bt.count < maxGathered && bt.bytes+n <= maxGatheredBytes && len(bt.parcels) < maxFrames
}

// add encodes a message behind the others: into their frame if it goes to the same subject until the same time and
// there is room, so that the order is kept, else into one of its own.
func (bt *batch) add(it *item) error {
	p := bt.last()
	if p == nil || it.ticket != nil && !p.takes(it) || p.Recipient != it.subject || !p.Expires.Equal(it.expires) || p.Messages.Committed() != it.committed ||
		p.Messages.Len() >= envelope.MaxMessages || p.Messages.Size()+it.message.Size(it.committed) > frameBytes {
		p = bt.open(it)
	}
	before := p.Messages.Size()
	if err := p.Messages.Add(&it.message); err != nil {
		if p.Messages.Len() == 0 {
			bt.parcels = bt.parcels[:len(bt.parcels)-1]
		}
		return err
	}
	if it.ticket != nil {
		p.tickets = append(p.tickets, it.ticket)
	}
	if bt.count == 0 {
		bt.since = time.Now()
	}
	bt.count++
	bt.bytes += p.Messages.Size() - before
	if it.until.After(bt.until) {
		bt.until = it.until
	}
	if it.alone {
		bt.alone++
	}
	if it.wanted && bt.outcome == nil {
		bt.outcome = newPublication()
	}
	return nil
}

// takes reports whether a frame of tasks has room for another. There are few in one, and they are short: whoever is given
// it works on all, or has to put them back one by one.
func (p *parcel) takes(it *item) bool {
	return p.shared && it.shares && p.subject == it.nats && p.Messages.Len() < maxShared &&
		p.Messages.Size()+it.message.Size(it.committed) <= maxSharedBytes
}

// finish tells those who wait for a frame's messages what has become of them.
func (p *parcel) finish(err error) {
	for i, k := range p.tickets {
		k.finish(nthID(p.ID, i), err)
	}
	clear(p.tickets)
	p.tickets = p.tickets[:0]
}

// nthID returns the id of a frame's message: they follow one another from the frame's own.
func nthID(frame ulid.ULID, i int) ulid.ULID {
	low := binary.BigEndian.Uint64(frame[8:])
	binary.BigEndian.PutUint64(frame[8:], low+uint64(i))
	return frame
}

func (bt *batch) last() *parcel {
	if len(bt.parcels) == 0 {
		return nil
	}
	return bt.parcels[len(bt.parcels)-1]
}

// parcels keeps the memory of frames, of all lanes, for as long as there is use for it.
var parcels = sync.Pool{New: func() any { return new(parcel) }}

// open begins another frame.
func (bt *batch) open(it *item) *parcel {
	p := parcels.Get().(*parcel)
	bt.parcels = append(bt.parcels, p)
	switch {
	case it.nats != "":
		p.Recipient, p.subject = it.subject, it.nats
	case p.Recipient != it.subject || p.Kind != envelope.KindEvent:
		p.Recipient, p.subject = it.subject, policy.TopicSubject(it.subject)
	}
	p.Kind, p.Ref, p.Expires, p.tickets, p.err = it.kind, it.ref, it.expires, p.tickets[:0], nil
	p.stream, p.due, p.shared, p.apart = it.stream, it.due, it.shares, !it.due.IsZero()
	p.Messages.Reset(it.committed)
	return p
}

// reset empties a batch.
func (bt *batch) reset() {
	for _, p := range bt.parcels {
		p.Messages.Reset(false) // no plaintext stays behind
		clear(p.tickets)
		p.tickets = p.tickets[:0]
		parcels.Put(p)
	}
	clear(bt.parcels)
	clear(bt.bundles)
	clear(bt.apart)
	*bt = batch{parcels: bt.parcels[:0], bundles: bt.bundles[:0], apart: bt.apart[:0]}
}

// run seals and sends until the bus ends.
func (l *lane) run() {
	for {
		select {
		case <-l.wakeUp:
		case <-l.idle.C:
			l.rest()
		case <-l.bus.gathered.Done():
			l.idle.Stop()
			l.end()
			return
		}
		for l.take() {
			begun := time.Now()
			l.finish(l.out(l.under))
			l.regroup(time.Since(begun))
		}
		l.watch()
	}
}

// end refuses what is left, and what comes after.
func (l *lane) end() {
	l.mu.Lock()
	l.ended = true
	l.roomy()
	l.mu.Unlock()
	l.take()
	l.finish(ErrClosed)
}

// take makes what has gathered the batch to be sent. It reports whether there is anything.
func (l *lane) take() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.next.count == 0 {
		return false
	}
	l.under, l.next, l.spare = l.next, l.spare, nil
	l.roomy()
	return true
}

// finish tells who wants to know what has become of a batch.
func (l *lane) finish(err error) {
	bt := l.under // which nobody else replaces
	if bt == nil {
		return
	}
	for _, p := range bt.parcels {
		l.tell(p, cmp.Or(err, p.err))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.bus.counts.published.Add(uint64(bt.count))
	} else {
		l.bus.unsent(l.ch, bt, err)
	}
	if bt.outcome != nil {
		bt.outcome.err = err
		close(bt.outcome.done)
	}
	bt.reset()
	l.under, l.spare = nil, bt
}

// unsent notes that messages have not gone out, for the next Flush.
func (b *Bus) unsent(ch policy.Channel, bt *batch, err error) {
	if bt.alone == 0 {
		return // the calls that wait return it
	}
	if b.counts.unsent.Add(uint64(bt.alone)) == uint64(bt.alone) && !errors.Is(err, ErrClosed) {
		b.log.Warn("messages could not be sent", "channel", ch.String(), "messages", bt.alone, "error", err)
	}
	b.failure.CompareAndSwap(nil, &err)
}

// out seals a batch and hands it to the broker.
func (l *lane) out(bt *batch) error {
	if err := l.seal(l.bus.gathered, bt); err != nil {
		return err
	}
	return l.ship(l, bt)
}

// publish hands over what goes to a topic.
func (l *lane) publish(bt *batch) error {
	if isCommitted(bt.parcels[0].Frame) { // what the policy said when they were sealed
		return l.store(bt)
	}
	for _, p := range bt.parcels {
		if err := l.send(p); err != nil {
			return err
		}
	}
	return nil
}

// seal seals the frames of a batch. It waits for a key where there is none, when a policy has just taken the channel
// from somebody.
func (l *lane) seal(ctx context.Context, bt *batch) error {
	for _, p := range bt.parcels {
		if p.apart {
			bt.apart = append(bt.apart, &p.Bundle)
		} else {
			bt.bundles = append(bt.bundles, &p.Bundle)
		}
	}
	if len(bt.apart) > 0 {
		if err := l.sealAll(bt, func() error { return l.apart.SealBundles(bt.apart) }); err != nil {
			return err
		}
	}
	if len(bt.bundles) == 0 {
		return nil
	}
	return l.sealAll(bt, func() (err error) {
		bt.notes, err = l.sender.SealCounted(ctx, bt.bundles)
		return err
	})
}

func (l *lane) sealAll(bt *batch, seal func() error) (err error) {
	for {
		settings, _ := l.bus.ring.Policy().Settings(l.ch)
		// Nothing older than receivers would take it for: a frame does not tell for how long it has waited here.
		if settings.Retain == 0 && time.Since(bt.since) > settings.MaxAge {
			return fmt.Errorf("%w: %d messages to %s have waited for longer than its max_age", ErrDisconnected, bt.count, l.ch)
		}
		if err = seal(); errors.Is(err, keyring.ErrNoKey) {
			err = l.awaitKey()
			if err == nil {
				continue
			}
		}
		return l.bus.gatheredError(err)
	}
}

func (l *lane) awaitKey() error {
	ctx, cancel := context.WithTimeout(l.bus.gathered, l.bus.config.RequestTimeout)
	defer cancel()
	_, err := l.bus.ring.Sender(ctx, l.ch)
	return err
}

// send hands a frame to the connection. Where there is none, and the buffer for that is full, it waits.
func (l *lane) send(p *parcel) error {
	for {
		up := l.bus.wire.restored.next()
		err := l.bus.wire.publishLive(p.subject, p.Frame)
		if !errors.Is(err, nats.ErrReconnectBufExceeded) {
			if err != nil {
				return l.bus.wireError("sending", err)
			}
			return nil
		}
		l.setStuck(true)
		select {
		case <-up:
		case <-l.bus.gathered.Done():
			return ErrClosed
		}
		l.setStuck(false)
	}
}

func (l *lane) setStuck(stuck bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stuck = stuck; stuck {
		l.roomy()
	}
}

// store puts the frames of a batch into the topic's stream, all or none, and returns when the broker has acknowledged
// that.
func (l *lane) store(bt *batch) error {
	if bt.until.IsZero() { // when they came, the policy did not retain the topic
		bt.until = time.Now().Add(l.bus.config.RequestTimeout)
	}
	ctx, cancel := context.WithDeadline(l.bus.gathered, bt.until)
	defer cancel()
	err := l.bus.store.append(ctx, l.stream(), append(l.noteEntries(bt.notes), bt.entries()...))
	l.settle(err, bt.notes, bt.bundles)
	return l.bus.gatheredError(err)
}

func (bt *batch) entries() []entry {
	list := make([]entry, len(bt.parcels))
	for i, p := range bt.parcels {
		list[i] = entry{subject: p.subject, frame: p.Frame, id: p.ID}
	}
	return list
}

// drain waits until everything that was added before has left.
func (l *lane) drain(ctx context.Context) error {
	l.mu.Lock()
	last := l.next
	if last.count == 0 {
		last = l.under
	}
	if last == nil {
		l.mu.Unlock()
		return nil
	}
	if last.outcome == nil {
		last.outcome = newPublication()
	}
	p := last.outcome
	l.mu.Unlock()
	select {
	case <-p.done:
		return nil // with what result, is in Bus.failure
	case <-ctx.Done():
		return ctx.Err()
	}
}
