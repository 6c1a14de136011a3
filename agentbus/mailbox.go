package agentbus

import "sync"

// mailbox is where what has been opened waits for a handler, bounded in messages and in bytes.
type mailbox[T any] struct {
	limit   int                              // in messages
	measure func(T) (messages int, size int) // of a value

	mu      sync.Mutex
	changed sync.Cond
	waiting []T
	taken   int // of waiting
	held    int // messages that wait
	bytes   int // and what they take up
	closed  bool
}

func newMailbox[T any](limit int, measure func(T) (messages, size int)) *mailbox[T] {
	b := &mailbox[T]{limit: limit, measure: measure}
	b.changed.L = &b.mu
	return b
}

// offer puts a value in, if there is room. One always fits, however large.
func (b *mailbox[T]) offer(v T) bool {
	messages, size := b.measure(v)
	b.mu.Lock()
	if b.held >= b.limit || b.bytes > 0 && b.bytes+size > maxBuffered {
		b.mu.Unlock()
		return false
	}
	if b.taken > len(b.waiting)/2 { // so that it does not grow for ever
		n := copy(b.waiting, b.waiting[b.taken:])
		clear(b.waiting[n:])
		b.waiting, b.taken = b.waiting[:n], 0
	}
	b.waiting = append(b.waiting, v)
	b.held, b.bytes = b.held+messages, b.bytes+size
	b.mu.Unlock()
	b.changed.Signal()
	return true
}

// each calls f for every value until the mailbox is closed and empty.
func (b *mailbox[T]) each(f func(T)) {
	for {
		v, ok := b.take()
		if !ok {
			return
		}
		f(v)
	}
}

func (b *mailbox[T]) take() (v T, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.taken == len(b.waiting) {
		if b.closed {
			return v, false
		}
		b.changed.Wait()
	}
	var none T
	v, b.waiting[b.taken] = b.waiting[b.taken], none
	b.taken++
	messages, size := b.measure(v)
	b.held, b.bytes = b.held-messages, b.bytes-size
	return v, true
}

func (b *mailbox[T]) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.changed.Broadcast()
}
