package agentbus

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealbus/sealbus/keyring"
)

// storedFrame is a message of a stream as it is read back.
type storedFrame struct {
	seq     uint64 // its place; 0: not known yet
	subject string // on NATS, where the broker has said it
	stored  string // when, by the broker's clock, likewise
	next    string // when a recurring task is to come next, likewise
	frame   []byte
}

// at returns when it was stored, zero where that is not known.
func (f *storedFrame) at() time.Time {
	t, _ := time.Parse(time.RFC3339Nano, f.stored) // of the broker's own making
	return t
}

// replaySlot is one message of a stream being opened.
type replaySlot struct {
	storedFrame
	opened    keyring.Opened
	time      time.Time      // by which Pace goes
	messages  []Message      // of a topic
	histories []*TaskHistory // of a queue
	pass      bool           // there is nothing in it for this loop
	err       error
}

// replayPiece is some of a page, which is opened by one goroutine.
type replayPiece struct {
	slots []replaySlot
	work  int
	done  chan struct{} // closed when it is opened
	err   error         // it could not be made ready
}

// replayPage is a page of a stream on its way to the loop.
type replayPage struct {
	pieces []*replayPiece
	from   uint64 // what was asked for
	next   uint64 // where the one behind it begins
	end    uint64 // the last place that is known of
	bare   bool
	said   map[uint64]storedFrame // what the broker says of messages of a bare page; nil until somebody asks
	err    error                  // it ends here
}

// slots ranges over the page in its order.
func (p *replayPage) slots(yield func(*replaySlot) bool) {
	for _, piece := range p.pieces {
		for i := range piece.slots {
			if !yield(&piece.slots[i]) {
				return
			}
		}
	}
}

// readPage reads a page and has it opened while it comes. Pages of a whole stream are read without headers as long as there are
// no holes in it.
func (r *replay) readPage(ctx context.Context, from uint64) (p *replayPage, more bool, err error) {
	err = r.persist(ctx, func(ctx context.Context) error {
		p, more, err = r.readOnce(ctx, from, r.reader.filter == "" && !r.full)
		if errors.Is(err, errHoles) || errors.Is(err, errSilent) {
			p, more, err = r.readOnce(ctx, from, false)
		}
		return err
	})
	return p, more, err
}

func (r *replay) readOnce(ctx context.Context, from uint64, bare bool) (p *replayPage, more bool, err error) {
	p = &replayPage{from: from, next: from, bare: bare}
	var unread []int // entries whose headers cannot be read
	n, last := 0, from-1
	end, err := r.reader.page(ctx, pageQuery{from: from, batch: maxReplayBatch, bare: bare}, func(m *nats.Msg) error {
		f := storedFrame{frame: m.Data}
		switch {
		case bare:
		case m.Header == nil:
			unread = append(unread, n)
		default:
			f.seq = sequenceOf(m)
			if f.seq <= last {
				return errOrder(r.reader.stream)
			}
			f.subject, _ = storedHeader(m, headerSubject)
			f.stored, _ = storedHeader(m, headerStored)
			f.next = m.Header.Get(headerNext)
			last = f.seq
		}
		n++
		return r.put(ctx, p, f)
	})
	if err != nil || end.none {
		return p, false, err
	}
	if end.last < from || end.last < last || n == 0 {
		return p, false, errOrder(r.reader.stream)
	}
	if err := r.flush(ctx, p); err != nil {
		return p, false, err
	}
	if bare {
		if end.last-from+1 != uint64(n) {
			return p, false, errHoles
		}
		at := from
		for s := range p.slots {
			s.seq = at
			at++
		}
	}
	p.next, p.end = end.last+1, end.last+end.pending
	if bare {
		p.end -= min(end.pending, uint64(n))
	}
	return p, end.pending > 0, r.locate(ctx, p, unread)
}

// locate finds out where the messages lie whose authors have spoilt their headers.
func (r *replay) locate(ctx context.Context, p *replayPage, unread []int) error {
	if len(unread) == 0 {
		return nil
	}
	at, n := p.from, 0
	for s := range p.slots {
		if len(unread) > 0 && unread[0] == n {
			unread = unread[1:]
			end, err := r.reader.first(ctx, pageQuery{from: at})
			if err != nil {
				return err
			}
			if end.none || end.last < at { // it is gone
				end.last = at
			}
			s.seq = end.last
		}
		at, n = s.seq+1, n+1
	}
	return nil
}

// put puts a message into a page, and has a piece opened that is large enough.
func (r *replay) put(ctx context.Context, p *replayPage, f storedFrame) error {
	n := len(p.pieces)
	if n == 0 || p.pieces[n-1].full() {
		p.pieces = append(p.pieces, r.piece())
		n++
	}
	piece := p.pieces[n-1]
	piece.add(f)
	if piece.full() {
		return r.hand(ctx, piece)
	}
	return nil
}

// flush has what is left opened.
func (r *replay) flush(ctx context.Context, p *replayPage) error {
	if n := len(p.pieces); n > 0 && !p.pieces[n-1].full() {
		return r.hand(ctx, p.pieces[n-1])
	}
	return nil
}

func (p *replayPiece) full() bool { return p.work >= pieceWork || len(p.slots) == pieceFrames }

func (p *replayPiece) add(f storedFrame) {
	if len(p.slots) < cap(p.slots) {
		p.slots = p.slots[:len(p.slots)+1] // whose memory for messages is used again
	} else {
		p.slots = append(p.slots, replaySlot{})
	}
	s := &p.slots[len(p.slots)-1]
	s.storedFrame, s.messages, s.histories, s.pass, s.err = f, nil, nil, false, nil
	p.work += len(f.frame) + frameWork
}

// piece returns an empty piece.
func (r *replay) piece() *replayPiece {
	select {
	case p := <-r.spare:
		p.slots, p.work, p.done, p.err = p.slots[:0], 0, make(chan struct{}), nil
		return p
	default:
		return &replayPiece{slots: make([]replaySlot, 0, pieceFrames), done: make(chan struct{})}
	}
}

// release takes a piece back that the loop is through with.
func (r *replay) release(p *replayPiece) {
	for i := range p.slots {
		s := &p.slots[i]
		s.frame, s.messages, s.histories = nil, nil, nil
		clear(s.opened.Messages)
	}
	select {
	case r.spare <- p:
	default:
	}
}

// hand gives a piece to whoever opens it.
func (r *replay) hand(ctx context.Context, p *replayPiece) error {
	select {
	case r.work <- p:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

const headerStored = "Nats-Time-Stamp"
