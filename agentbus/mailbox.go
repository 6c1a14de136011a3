package agentbus

import "sync/atomic"

// mailbox is where opened messages wait for a handler, bounded in number and in bytes.
type mailbox[T any] struct {
	c    chan T
	held atomic.Int64
	size func(T) int
}

func newMailbox[T any](n int, size func(T) int) *mailbox[T] {
	return &mailbox[T]{c: make(chan T, n), size: size}
}

// offer puts a message in, if there is room. One message always fits, however large. Only one goroutine offers.
func (b *mailbox[T]) offer(v T) bool {
	n := int64(b.size(v))
	if held := b.held.Load(); held > 0 && held+n > maxBuffered {
		return false
	}
	b.held.Add(n)
	select {
	case b.c <- v:
		return true
	default:
		b.held.Add(-n)
		return false
	}
}

// each calls f for every message until the mailbox is closed and empty.
func (b *mailbox[T]) each(f func(T)) {
	for v := range b.c {
		b.held.Add(-int64(b.size(v)))
		f(v)
	}
}

func (b *mailbox[T]) close() { close(b.c) }
