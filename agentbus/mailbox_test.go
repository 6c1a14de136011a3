package agentbus

import (
	"runtime"
	"sync"
	"testing"
)

// box makes a mailbox of blocks of numbers, each a message of so many bytes.
func box(limit, size int) *mailbox[[]int] {
	return newMailbox(limit, func(block []int) (int, int) { return len(block), size * len(block) })
}

// TestMailboxBounds offers values until there is no room, in messages and in bytes. One always fits, and what is taken
// makes room.
func TestMailboxBounds(t *testing.T) {
	const third = maxBuffered / 3
	for _, test := range []struct {
		name        string
		limit, size int
		blocks      []int // how many messages each has
		fit         []bool
	}{
		{"messages", 3, 1, []int{1, 1, 1, 1}, []bool{true, true, true, false}},
		{"a block at the limit", 3, 1, []int{2, 64, 1}, []bool{true, true, false}}, // over it by less than a block
		{"bytes", 100, third, []int{1, 1, 1, 1}, []bool{true, true, true, false}},
		{"bytes of a block", 100, third, []int{2, 2, 1, 1}, []bool{true, false, true, false}},
		{"larger than all", 100, 2 * maxBuffered, []int{1, 1}, []bool{true, false}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := box(test.limit, test.size)
			for round := range 3 {
				want := 0
				for i, n := range test.blocks {
					if got := b.offer(make([]int, n)); got != test.fit[i] {
						t.Errorf("round %d: block %d fits: %v", round, i, got)
					}
					if test.fit[i] {
						want++
					}
				}
				for range want {
					if _, ok := b.take(); !ok {
						t.Fatal("nothing to take")
					}
				}
				if b.held != 0 || b.bytes != 0 {
					t.Errorf("round %d: %d messages, %d bytes left", round, b.held, b.bytes)
				}
			}
		})
	}
}

// TestMailboxOrder has one goroutine take what another offers, which keeps as far ahead as there is room. All come in
// order, and the memory is of what waits, not of what has passed.
func TestMailboxOrder(t *testing.T) {
	const limit, values = 50, 20000
	b := box(limit, 1)
	var producer sync.WaitGroup
	producer.Go(func() {
		for i := range values {
			for !b.offer([]int{i}) {
				runtime.Gosched()
			}
		}
		b.close()
	})
	next := 0
	b.each(func(v []int) {
		if v[0] != next {
			t.Fatalf("got %d, want %d", v[0], next)
		}
		next++
	})
	producer.Wait()
	if next != values {
		t.Errorf("%d came, want %d", next, values)
	}
	if n := cap(b.waiting); n > 16*limit {
		t.Errorf("%d places for at most %d that wait", n, limit)
	}
}

// TestMailboxMemory keeps one value waiting for ever while others pass: what has been taken is neither kept nor does it
// take up room.
func TestMailboxMemory(t *testing.T) {
	b := box(1000, 1)
	for range 10 {
		b.offer(make([]int, 1))
	}
	for range 10000 {
		if !b.offer(make([]int, 1)) {
			t.Fatal("no room")
		}
		if v, ok := b.take(); !ok || v == nil {
			t.Fatal("nothing to take")
		}
	}
	if n := cap(b.waiting); n > 1000 {
		t.Errorf("%d places for 10 that wait", n)
	}
	left := 0
	for _, v := range b.waiting[:cap(b.waiting)] {
		if v != nil {
			left++
		}
	}
	if left != 10 || b.held != 10 {
		t.Errorf("%d are kept, %d counted, 10 wait", left, b.held)
	}
}

// TestMailboxConsumers has several goroutines take: each value comes to one of them, in its order there, and close ends
// all of them when nothing is left.
func TestMailboxConsumers(t *testing.T) {
	const consumers, values = 4, 5000
	b := box(values, 1)
	var mu sync.Mutex
	seen := make(map[int]int)
	var all sync.WaitGroup
	for range consumers {
		all.Go(func() {
			last := -1
			b.each(func(v []int) {
				if v[0] <= last {
					t.Errorf("%d after %d", v[0], last)
				}
				last = v[0]
				mu.Lock()
				defer mu.Unlock()
				seen[last]++
			})
		})
	}
	for i := range values {
		if !b.offer([]int{i}) {
			t.Fatalf("no room for %d", i)
		}
	}
	b.close()
	all.Wait()
	if len(seen) != values {
		t.Errorf("%d came, want %d", len(seen), values)
	}
	for v, n := range seen {
		if n != 1 {
			t.Errorf("%d came %d times", v, n)
		}
	}
}

// TestMailboxClose closes a mailbox that is not empty: what is there can be taken, and then no more comes.
func TestMailboxClose(t *testing.T) {
	b := box(10, 1)
	b.offer([]int{1})
	b.offer([]int{2})
	b.close()
	for _, want := range []int{1, 2} {
		if v, ok := b.take(); !ok || v[0] != want {
			t.Errorf("got %v, %v, want %d", v, ok, want)
		}
	}
	for range 2 {
		if v, ok := b.take(); ok {
			t.Errorf("got %v from a mailbox that is empty and closed", v)
		}
	}
}
