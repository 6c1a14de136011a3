package agentbus

import "sync"

// handover notes whether live frames can have been lost with a connection: what nats.go has written is gone without a
// word when the connection breaks before the broker has read it. Flush tells.
type handover struct {
	mu    sync.Mutex
	count uint64 // frames handed over
	open  bool   // there are frames that no flush has covered
	first uint64 // the generation of the connection that has to carry the first of them
	lost  bool   // some may be lost
}

// handed notes a frame and the generation of the connection that has to carry it.
func (h *handover) handed(generation uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.count++; !h.open {
		h.open, h.first = true, generation
	}
}

// begin is called before a flush.
func (h *handover) begin() (count uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.count
}

// flushed notes that a flush has succeeded which began at count, in the generation before. It reports whether frames
// from before it may be lost.
func (h *handover) flushed(count, before, now uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	lost := h.lost || h.open && h.first < now
	h.lost = false
	if h.open = h.count > count; h.open {
		h.first = max(h.first, before) // or later, but that is not known
	}
	return lost
}

// replaced notes that a connection of a generation ends when all of its frames are with the broker.
func (h *handover) replaced(generation uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lost = h.lost || h.open && h.first < generation
	h.open = false
}

// signal tells any number of waiters that something has happened. The zero value is ready.
type signal struct {
	mu sync.Mutex
	c  chan struct{}
}

// next returns a channel that is closed when it happens next.
func (s *signal) next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c == nil {
		s.c = make(chan struct{})
	}
	return s.c
}

func (s *signal) fire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c != nil {
		close(s.c)
		s.c = nil
	}
}
