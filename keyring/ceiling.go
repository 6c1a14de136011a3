package keyring

import (
	"sync"
	"sync/atomic"
	"time"
)

// ceiling keeps a restart from opening a replay's door: before a frame of a time is accepted, that time
// is on disk, a little ahead. The process that comes after accepts nothing at or below what is written. A
// receiver that is made later in the same process accepts nothing at or below what was accepted before.
type ceiling struct {
	floor time.Time // what the process before may have accepted up to

	written atomic.Int64 // Unix ms
	highest atomic.Int64 // Unix ms of the newest frame accepted
	closed  atomic.Bool

	mu sync.Mutex
}

// pass lets a frame of time ms be accepted, writing a new ceiling first if the one on disk is too low. After
// close it lets none: what is accepted is either in what settle writes, or refused here.
func (c *ceiling) pass(s *storage, ms int64, now func() time.Time) error {
	if s != nil && ms > c.written.Load() {
		if err := c.raise(s, max(ms, now().UnixMilli())+ceilingAhead.Milliseconds()); err != nil {
			return err
		}
	}
	for {
		have := c.highest.Load()
		if ms <= have || c.highest.CompareAndSwap(have, ms) {
			break
		}
	}
	if c.closed.Load() {
		return ErrClosed
	}
	return nil
}

// reached returns the time in Unix ms at or below which a receiver made at start accepts nothing: it does not
// know what was accepted before it. What a sender whose clock is ahead sealed may be from after start and
// still be old.
func (c *ceiling) reached(start int64) (ms int64) {
	if !c.floor.IsZero() {
		ms = c.floor.UnixMilli()
	}
	if highest := c.highest.Load(); highest > start {
		ms = max(ms, highest)
	}
	return ms
}

func (c *ceiling) raise(s *storage, to int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if to <= c.written.Load() {
		return nil
	}
	if c.closed.Load() {
		return ErrClosed // the directory may be another process's by now
	}
	if err := s.saveCeiling(time.UnixMilli(to)); err != nil {
		return err
	}
	c.written.Store(to)
	return nil
}

// settle writes, on a clean stop, exactly what was accepted, so that the next process need not wait out the
// rest.
func (c *ceiling) settle(s *storage) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.written.Load() == 0 {
		return nil
	}
	return s.saveCeiling(time.UnixMilli(c.reached(0)))
}
