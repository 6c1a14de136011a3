package agentbus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	sumnote "golang.org/x/mod/sumdb/note"

	"github.com/sealbus/sealbus/audit"
	"github.com/sealbus/sealbus/policy"
)

// auditFollower keeps the log of one stream. All but what mu guards belongs to its goroutine, and before that to who begins.
type auditFollower struct {
	a      *Auditor
	stream string
	ch     policy.Channel // whose rights count
	keys   policy.Channel // under whose keys the frames are sealed
	dir    string
	log    *audit.Log
	signer sumnote.Signer
	pager  *auditPager
	notes  *auditNotes

	begun     bool
	past      logged    // what the log has
	next      uint64    // the next sequence to read
	looked    time.Time // when the stream's configuration was last looked at
	over      uint64    // by which connection, of all that there have been: behind another there may be another stream
	signed    time.Time // when the last checkpoint was
	since     int       // messages since then
	frames    uint64    // and in all
	quiet     time.Time // since when nothing has come
	keyed     time.Time // when key statements were last read
	refreshed time.Time // when policies were last read for a frame that none allowed
	keyDue    bool      // there is a key that may have one
	sought    map[uint32]bool
	alarm     string // what was told last
	lastErr   string

	quit     chan struct{}
	quitOnce sync.Once
	asks     chan *auditAsk
	done     chan struct{}
	err      error // of the end

	mu      sync.Mutex
	shown   AuditState
	remarks []*audit.Entry // to be logged
}

// auditAsk asks a follower to do something between two pages.
type auditAsk struct {
	ctx  context.Context
	do   func(context.Context) error // after all that the stream holds is logged
	done chan error
}

func newFollower(a *Auditor, stream, dir string, log *audit.Log) (*auditFollower, error) {
	ch, ok := policy.StreamChannel(stream)
	if !ok {
		return nil, fmt.Errorf("agentbus: %.100q is no stream that is audited", stream)
	}
	signer, err := a.bus.ring.NoteSigner(log.Origin().String())
	if err != nil {
		return nil, ownError(err)
	}
	f := &auditFollower{
		a: a, stream: stream, ch: ch, keys: ch, dir: dir, log: log, signer: signer, pager: newAuditPager(a.bus.store, stream, ""),
		sought: make(map[uint32]bool), quit: make(chan struct{}), asks: make(chan *auditAsk), done: make(chan struct{}),
	}
	if ch.Kind() == policy.KindQueue && stream != policy.TaskStream(ch.Name()) {
		if f.keys, err = policy.Result(ch.Name()); err != nil {
			return nil, err
		}
	}
	if err := a.trust.known(log); err != nil {
		return nil, err
	}
	if err := f.past.read(log); err != nil {
		return nil, err
	}
	f.next = f.past.next
	f.notes = newAuditNotes(f)
	f.shown = AuditState{Stream: stream, Log: log.Origin()}
	f.show(false)
	return f, nil
}

// close lets go of a log that is not followed yet.
func (f *auditFollower) close() error {
	f.pager.close()
	return f.log.Close()
}

// stop has the follower end in good order.
func (f *auditFollower) stop() { f.quitOnce.Do(func() { close(f.quit) }) }

// run follows the stream until stop.
func (f *auditFollower) run() {
	defer close(f.done)
	f.notes.start()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var ask *auditAsk
		select {
		case <-f.quit:
			f.err = errors.Join(f.end(), f.notes.stop(), f.close())
			return
		case ask = <-f.asks:
		case <-timer.C:
		}
		more, err := f.turn(ask)
		switch {
		case err == nil && more:
			timer.Reset(0)
		case err == nil:
			timer.Reset(auditPoll)
		default:
			timer.Reset(auditRetry)
		}
	}
}

// turn reads on, and does what is asked for once everything is logged that the stream holds.
func (f *auditFollower) turn(ask *auditAsk) (more bool, err error) {
	ctx, cancel := context.WithTimeout(f.a.hard, f.a.bus.config.RequestTimeout)
	defer cancel()
	if ask == nil {
		more, err = f.step(ctx)
		f.note(err)
		return more, err
	}
	ctx, cancel = context.WithCancel(ask.ctx) // it has a deadline of its own
	defer cancel()
	defer context.AfterFunc(f.a.hard, cancel)()
	if err = f.drain(ctx); err == nil && ask.do != nil {
		err = ask.do(ctx)
	}
	f.note(err)
	ask.done <- err
	return false, nil
}

// drain logs everything that the stream holds, and signs.
func (f *auditFollower) drain(ctx context.Context) error {
	err := persist(ctx, func() error {
		for {
			if more, err := f.step(ctx); err != nil || !more {
				return err
			}
		}
	})
	if err == nil {
		err = f.look(ctx)
	}
	if err == nil {
		err = f.checkpoint()
	}
	return err
}

// ask has the follower log everything, and then do something. It returns when that is done.
func (f *auditFollower) ask(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := f.a.bus.bounded(ctx)
	defer cancel()
	q := &auditAsk{ctx: ctx, do: do, done: make(chan error, 1)}
	select {
	case f.asks <- q:
	case <-f.done:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-q.done:
		return err
	case <-f.done:
		return ErrClosed
	}
}

// step logs a page, and does what is due besides.
func (f *auditFollower) step(ctx context.Context) (more bool, err error) {
	if err := f.a.trust.refresh(ctx, false); err != nil {
		return false, err
	}
	if now := f.a.bus.store.generation(); now != f.over {
		if err := f.look(ctx); err != nil {
			return false, err
		}
		f.over = now
	}
	page, err := f.pager.messages(ctx, f.next)
	if err != nil {
		return false, err
	}
	if len(page.list) > 0 {
		if err := f.take(ctx, page.list); err != nil {
			return false, err
		}
		f.quiet = time.Now()
	} else if err := f.adoptAll(ctx, f.past.next-1); err != nil {
		return false, err
	}
	if err := f.remarked(); err != nil {
		return false, err
	}
	if err := f.due(ctx, page.more); err != nil {
		return false, err
	}
	f.show(page.more)
	return page.more, nil
}

// due does what is to be done from time to time.
func (f *auditFollower) due(ctx context.Context, more bool) error {
	now, c := time.Now(), &f.a.config
	if now.Sub(f.looked) >= c.Interval {
		if err := f.look(ctx); err != nil {
			return err
		}
	}
	if err := f.dueKeys(ctx); err != nil {
		return err
	}
	if !more && now.Sub(f.quiet) >= c.still {
		if err := f.event(ctx, audit.KindStill); err != nil {
			return err
		}
		f.quiet = now
		return f.checkpoint()
	}
	if f.since >= c.Every || now.Sub(f.signed) >= c.Interval {
		return f.checkpoint()
	}
	return nil
}

// end logs what there is, and that the auditor stops.
func (f *auditFollower) end() error {
	ctx, cancel := context.WithTimeout(f.a.hard, f.a.bus.config.closeTimeout)
	defer cancel()
	if b := f.a.bus; !b.Connected() || !b.ring.Policy().CanAudit(f.ch, b.self.Name()) { // whoever goes on reads it then
		return f.checkpoint()
	}
	err := f.drain(ctx)
	if err == nil {
		err = f.event(ctx, audit.KindClosed)
	}
	if err != nil && (isAway(err) || ctx.Err() != nil) {
		err = nil // likewise
	}
	return errors.Join(err, f.checkpoint())
}

// note tells of an error, once as long as it is the same.
func (f *auditFollower) note(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	f.mu.Lock()
	f.shown.Err = err
	f.mu.Unlock()
	if text != "" && text != f.lastErr && f.a.ctx.Err() == nil {
		if isAway(err) {
			f.a.log.Warn("audit: the stream cannot be read at this moment; trying again", "stream", f.stream, "error", err)
		} else {
			f.a.tell(f.stream, err)
		}
	}
	f.lastErr = text
}

// tampered tells that the stream is not what was logged of it, once as long as that is the same.
func (f *auditFollower) tampered(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	f.mu.Lock()
	f.shown.Tampered = true
	f.mu.Unlock()
	if text != f.alarm {
		f.alarm = text
		f.a.tell(f.stream, fmt.Errorf("%w: %s", ErrTampered, text))
	}
}

// state returns how far the log has come.
func (f *auditFollower) state() AuditState {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.shown
	s.Kept = f.notes.kept()
	return s
}

// show makes known how far the log has come.
func (f *auditFollower) show(behind bool) {
	f.mu.Lock()
	s := &f.shown
	entries := s.Entries
	s.Entries, s.Frames, s.Last, s.Logged, s.Behind = f.log.Size(), f.frames, f.past.last.Sequence, f.past.at, behind
	shown := *s
	f.mu.Unlock()
	if f.begun && shown.Entries != entries && f.a.config.OnProgress != nil {
		shown.Kept = f.notes.kept()
		f.a.config.OnProgress(shown)
	}
}
