package agentbus

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// How long the timer of a lane's idle notes runs, if it does.
const (
	restStopped int32 = iota
	restSoon          // until the first idle note
	restLater         // until the next
)

// noteEntries are session notes on their way into the stream of a lane's channel.
func (l *lane) noteEntries(notes []*keyring.Bundle) []entry {
	subject := policy.TopicSubject(l.ch.Name())
	if l.ch.Kind() == policy.KindQueue {
		subject = policy.SessionSubject(l.ch.Name())
	}
	list := make([]entry, len(notes))
	for i, n := range notes {
		list[i] = entry{subject: subject, frame: n.Frame, id: n.ID}
	}
	return list
}

// stream returns where the frames of a counted lane are kept.
func (l *lane) stream() string {
	if l.ch.Kind() == policy.KindQueue {
		return policy.TaskStream(l.ch.Name())
	}
	return policy.TopicStream(l.ch.Name())
}

// settle tells the sender what became of frames: they are in the stream, or given up, which is to be said.
func (l *lane) settle(err error, bundles ...[]*keyring.Bundle) {
	for _, some := range bundles {
		if err == nil {
			l.sender.Stored(some)
		} else {
			l.sender.GiveUp(some)
		}
	}
	if l.resting.Load() != restSoon {
		l.counted.Store(true)
		l.wake()
	}
}

// countedOf returns the bundles of parcels that are counted.
func countedOf(parcels []*parcel) []*keyring.Bundle {
	list := make([]*keyring.Bundle, 0, len(parcels))
	for _, p := range parcels {
		if !p.apart {
			list = append(list, &p.Bundle)
		}
	}
	return list
}

// watch has an idle note sent when there is nothing else to send for a while. It is called by the lane's own goroutine.
func (l *lane) watch() {
	if l.counted.Swap(false) {
		l.restFor(l.bus.config.idleAfter, restSoon)
	}
}

func (l *lane) restFor(d time.Duration, until int32) {
	l.resting.Store(until)
	l.idle.Reset(d)
}

// rest is called when the timer has run out. Where nothing has been sent for long enough it says so, and where the session
// would end before it is said again, closes it: so it is not left open, however long nothing more is sent.
func (l *lane) rest() {
	l.resting.Store(restStopped)
	since, until, ok := l.sender.Quiet()
	if quiet := time.Since(since); ok && quiet < l.bus.config.idleAfter {
		l.restFor(l.bus.config.idleAfter-quiet, restSoon)
		return
	}
	kind := keyring.NoteIdle
	if time.Now().Add(l.bus.config.idleEvery).After(until) {
		kind = keyring.NoteClose
	}
	if !l.bus.Connected() {
		l.restFor(l.bus.config.idleAfter, restSoon)
		return
	}
	ctx, cancel := context.WithTimeout(l.bus.gathered, storeTimeout)
	defer cancel()
	err := l.note(ctx, kind)
	l.counted.Store(false) // it has woken itself
	if _, _, ok := l.sender.Quiet(); ok || err != nil {
		l.restFor(l.bus.config.idleEvery, restLater)
	}
}

// note stores an idle or closing note, if there is anything to say.
func (l *lane) note(ctx context.Context, kind keyring.NoteKind) error {
	notes, err := l.sender.SealNote(ctx, kind)
	switch {
	case errors.Is(err, keyring.ErrNotEntitled): // any more
		return nil
	case err == nil && len(notes) > 0:
		err = l.bus.store.append(ctx, l.stream(), l.noteEntries(notes))
		l.settle(err, notes)
	}
	if err != nil && l.bus.gathered.Err() == nil {
		l.bus.log.Warn("a session note could not be stored", "channel", l.ch.String(), "note", kind.String(), "error", err)
	}
	return err
}

// closeSessions closes the sessions of all lanes. Where that fails it is logged: an auditor cannot tell then whether frames are
// missing at their ends, until this agent comes back with its state.
func (b *Bus) closeSessions(ctx context.Context) {
	var notes sync.WaitGroup
	b.lanes.Range(func(_, l any) bool {
		notes.Go(func() { _ = l.(*lane).note(ctx, keyring.NoteClose) }) // logged
		return true
	})
	notes.Wait()
}
