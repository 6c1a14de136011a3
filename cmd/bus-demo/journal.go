package main

import (
	"context"
	"slices"
	"sync"
	"time"
)

// journal is a list that grows, and that can be waited for.
type journal[T any] struct {
	mu      sync.Mutex
	items   []T
	changed chan struct{}
}

func (j *journal[T]) add(v T) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.items = append(j.items, v)
	if j.changed != nil {
		close(j.changed)
		j.changed = nil
	}
}

// mark returns how long the list is, for since.
func (j *journal[T]) mark() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.items)
}

// since returns what was added after a mark.
func (j *journal[T]) since(mark int) []T {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.items[mark:])
}

// await waits until what was added after a mark is enough, and returns it. When ctx ends it returns what
// there is.
func (j *journal[T]) await(ctx context.Context, mark int, enough func([]T) bool) ([]T, bool) {
	for {
		j.mu.Lock()
		if j.changed == nil {
			j.changed = make(chan struct{})
		}
		changed, items := j.changed, slices.Clone(j.items[mark:])
		j.mu.Unlock()
		if enough(items) {
			return items, true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return items, false
		}
	}
}

// eventually waits until something is so that nobody tells of, such as a counter of another package.
func eventually(ctx context.Context, is func() bool) bool {
	t := time.NewTicker(2 * time.Millisecond)
	defer t.Stop()
	for !is() {
		select {
		case <-t.C:
		case <-ctx.Done():
			return is()
		}
	}
	return true
}
