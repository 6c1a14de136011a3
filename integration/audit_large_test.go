package integration_test

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/sealbus/sealbus/audit"
	"github.com/sealbus/sealbus/internal/bustest"
)

// TestAuditLarge: a large stream gives no false alarm, and neither logging nor verifying it takes memory that grows with it.
// SEALBUS_AUDIT_MESSAGES says how many messages it has; each is a frame of its own.
func TestAuditLarge(t *testing.T) {
	n := 20_000
	if text := os.Getenv("SEALBUS_AUDIT_MESSAGES"); text != "" {
		var err error
		n, err = strconv.Atoi(text)
		bustest.Check(t, err)
	}
	w := newAuditWorld(t, auditPolicy("ledger"))
	stream := topicStream("ledger")
	payload := make([]byte, 1024)
	const most = 256 // at a time, which share a signature and a sync
	began := time.Now()
	for sent := 0; sent < n; sent += most {
		var all sync.WaitGroup
		for i := range min(most, n-sent) {
			all.Go(func() {
				if err := w.feed.Publish(t.Context(), fmt.Sprintf("ledger.x%d", i), payload); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
	bustest.Check(t, w.feed.Close())
	sent := time.Since(began)
	var last uint64
	if s, err := w.o.js.Stream(w.Ctx(), stream); err != nil {
		t.Fatal(err)
	} else {
		last = s.CachedInfo().State.LastSeq
	}
	for behind := last; behind > 0; { // it fails when it stands still
		w.progressTo(stream, min(last, last-behind+1))
		for _, s := range w.a.Stats() {
			if s.Stream == stream {
				behind = last - s.Last
			}
		}
	}
	logged := time.Since(began)

	peak := watchMemory(t)
	r, err := w.a.Verify(t.Context(), stream)
	bustest.Check(t, err)
	used := peak()
	isFine(t, r)
	for _, v := range r.Verdicts() {
		if v.State != audit.OK {
			t.Errorf("%s is not proven", v.Name)
		}
	}
	if r.Frames < int64(n) {
		t.Errorf("%d messages were read, of %d:\n%s", r.Frames, n, r)
	}
	const bound = 192 << 20
	if used > bound {
		t.Errorf("%d MiB of memory to verify %d messages, want at most %d", used>>20, n, bound>>20)
	}
	w.quiet()
	t.Logf("%d messages: published in %v, logged %v later, verified in %v with %d MiB", n, sent.Round(time.Millisecond),
		(logged - sent).Round(time.Millisecond), (time.Since(began) - logged).Round(time.Millisecond), used>>20)
}

// watchMemory returns what tells how much the heap has grown at most since now.
func watchMemory(t *testing.T) (peak func() uint64) {
	t.Helper()
	runtime.GC()
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse
	}
	base, most := heap(), uint64(0)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				if now := heap(); now > base {
					most = max(most, now-base)
				}
			}
		}
	}()
	return func() uint64 { close(stop); <-done; return most }
}
