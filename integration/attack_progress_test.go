package integration_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// reporter is a task that reports what it is told to, and somebody who follows it.
type reporter struct {
	t        *testing.T
	handle   *agentbus.TaskHandle
	says     chan string
	frames   <-chan *nats.Msg // on their way
	followed chan string
	said     string // by the worker, last
}

// reporters has bob work on tasks of jobs that report, with alice following them.
func (w *taskWorld) reporters(names ...string) map[string]*reporter {
	w.t.Helper()
	all := make(map[string]*reporter)
	for _, name := range names {
		all[name] = &reporter{t: w.t, said: "hello", says: make(chan string), followed: make(chan string, 100)}
	}
	_, err := w.bob.Work(w.Ctx(), "jobs", func(ctx context.Context, t *agentbus.Task) ([]byte, error) {
		for text := range all[string(t.Payload)].says {
			if err := t.Progress(ctx, []byte(text)); err != nil {
				return nil, err
			}
		}
		return []byte("done: " + string(t.Payload)), nil
	})
	bustest.Check(w.t, err)
	for name, r := range all {
		r.handle = w.enqueue("jobs", name)
		r.frames = w.o.tap(policy.ProgressSubject("jobs", r.handle.ID().String()))
		go func() {
			for m, err := range r.handle.Progress(w.Ctx()) {
				if err != nil {
					r.followed <- "error: " + err.Error()
					return
				}
				r.followed <- string(m.Payload)
			}
			close(r.followed)
		}()
		r.says <- "hello" // comes at once, or again when alice listens
		r.expect("hello")
		bustest.Receive(w.t, r.frames)
	}
	// What was sealed before alice listened and came after is stale: that is not what the tests are about.
	for len(w.alice.rejected) > 0 {
		w.alice.rejects(1, keyring.Stale)
	}
	return all
}

// expect waits for a text. What the worker has said before it may say again.
func (r *reporter) expect(text string) {
	r.t.Helper()
	got := bustest.Receive(r.t, r.followed)
	for got != text && got == r.said {
		got = bustest.Receive(r.t, r.followed)
	}
	if got != text {
		r.t.Errorf("got %q, want %q", got, text)
	}
}

// say has the task report something new, and returns the frame that says it first.
func (r *reporter) say(text string) []byte {
	r.t.Helper()
	for range len(r.frames) {
		<-r.frames
	}
	r.says <- text
	r.expect(text)
	r.said = text
	return bustest.Receive(r.t, r.frames).Data
}

// TestForgedProgress: the broker, and everybody who can put something on a task's subject, makes nobody believe progress
// that the task's worker did not report, or reported of another task, or that has come before.
func TestForgedProgress(t *testing.T) {
	t.Parallel()
	w := newTaskWorld(t)
	all := w.reporters("one", "two")
	one, two := all["one"], all["two"]
	subject := policy.ProgressSubject("jobs", one.handle.ID().String())
	first := one.say("first")
	second := one.say("second")
	theirs := two.say("theirs")
	for _, frame := range [][]byte{first, second, theirs} {
		if bytes.Contains(frame, []byte("first")) || bytes.Contains(frame, []byte("second")) || bytes.Contains(frame, []byte("theirs")) {
			t.Error("a report is readable on its way")
		}
	}
	w.o.inject(subject, second) // once more: nobody notices
	w.o.inject(subject, first)
	w.alice.rejects(1, keyring.Seen)
	w.o.inject(subject, theirs)
	w.alice.rejects(1, keyring.Misdirected)
	w.o.inject(subject, edited(t, theirs, func(f *envelope.Frame) { f.Ref = one.handle.ID() }))
	w.alice.rejects(1, keyring.BadSeal, keyring.Seen)
	w.o.inject(subject, edited(t, second, func(f *envelope.Frame) { f.ID, f.Seq = ulid.Make(), f.Seq+100 }))
	w.alice.rejects(1, keyring.BadSeal)
	w.o.inject(subject, edited(t, second, func(f *envelope.Frame) { f.Kind, f.ID = envelope.KindResult, ulid.Make() }))
	w.o.inject(subject, edited(t, second, func(f *envelope.Frame) { f.Recipient, f.ID = []byte("other"), ulid.Make() }))
	w.alice.rejects(2, keyring.Misdirected)
	w.o.inject(subject, nil)
	w.o.inject(subject, []byte("junk"))
	w.alice.rejects(2, keyring.Malformed)
	w.o.inject(subject, w.taskFrame("jobs"))
	w.alice.rejects(1, keyring.Misdirected)
	for i := range second {
		bad := bytes.Clone(second)
		bad[i] ^= 1 << (i % 8)
		w.o.inject(subject, bad)
	}
	w.o.inject(subject, bytes.Repeat([]byte("x"), 100_000))
	one.say("third")
	close(one.says)
	if _, open := <-one.followed; open {
		t.Error("something came after the last")
	}
	w.done(one.handle, "one")
	close(two.says)
}

// TestReorderedProgress: what the broker holds back until something newer has come is refused, and so is what it
// lets two agents see in another order.
func TestReorderedProgress(t *testing.T) {
	t.Parallel()
	w := newTaskWorld(t)
	one := w.reporters("one")["one"]
	subject := policy.ProgressSubject("jobs", one.handle.ID().String())
	ch, err := policy.Result("jobs")
	bustest.Check(t, err)
	s, err := w.bob.ring.Sender(w.Ctx(), ch)
	bustest.Check(t, err)
	seal := func(kind envelope.Kind, header []byte, text string) []byte {
		t.Helper()
		var headers []envelope.Pair
		if header != nil {
			headers = []envelope.Pair{{Key: []byte("sealbus-progress"), Value: header}}
		}
		frame, _, err := s.Seal(nil, &keyring.Draft{Kind: kind, Recipient: "jobs", Ref: one.handle.ID(), Messages: []envelope.Message{{Headers: headers, Payload: []byte(text)}}})
		bustest.Check(t, err)
		return frame
	}
	report := func(text string) []byte {
		id := ulid.Make()
		return seal(envelope.KindProgress, append([]byte{1}, id[:]...), text)
	}
	held, newer := report("held back"), report("newer")
	w.o.inject(subject, newer)
	one.expect("newer")
	w.o.inject(subject, held)
	w.alice.rejects(1, keyring.Seen)
	// A worker that speaks another language is not understood, and does no harm.
	for _, frame := range [][]byte{seal(envelope.KindProgress, nil, "x"), seal(envelope.KindProgress, []byte{2}, "x"), seal(envelope.KindProgress, make([]byte, 18), "x")} {
		w.o.inject(subject, frame)
		w.alice.rejects(1, keyring.BadContent)
	}
	w.o.inject(subject, seal(envelope.KindError, nil, "x"))
	w.alice.rejects(1, keyring.Misdirected)
	// Who follows later takes nothing from before.
	late := make(chan string, 10)
	go func() {
		for m, err := range one.handle.Progress(w.Ctx()) {
			if err != nil {
				late <- err.Error()
				return
			}
			late <- string(m.Payload)
		}
		late <- "end"
	}()
	one.say("repeated") // which the second hears when it listens
	if got := bustest.Receive(t, late); got != "repeated" && got != "hello" {
		t.Errorf("the later one got %q", got)
	}
	w.o.inject(subject, newer)
	w.alice.rejects(2, keyring.Seen, keyring.Stale)
	close(one.says)
	for got := ""; got != "end"; got = bustest.Receive(t, late) {
		if got != "" && got != "repeated" {
			t.Errorf("the later one got %q", got)
		}
	}
}

// TestAgentsMayNotReport: nobody but a queue's workers can put anything on the subjects of its progress, and nobody but its
// enqueuers hears them.
func TestAgentsMayNotReport(t *testing.T) {
	t.Parallel()
	w := newTaskWorld(t)
	id := ulid.Make().String()
	for name, does := range map[string]func(*nats.Conn) error{
		"mallory": func(nc *nats.Conn) error { return nc.Publish(policy.ProgressSubject("jobs", id), []byte("junk")) },
		"alice":   func(nc *nats.Conn) error { return nc.Publish(policy.ProgressSubject("other", id), []byte("junk")) },
		"bob": func(nc *nats.Conn) error {
			_, err := nc.SubscribeSync(policy.ProgressSubject("jobs", id))
			return err
		},
	} {
		errs := make(chan error, 1)
		nc := w.Raw(w.Source(name), nats.CustomInboxPrefix(policy.InboxPrefix(name)),
			nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { errs <- err }))
		bustest.Check(t, does(nc))
		bustest.Check(t, nc.Flush())
		if err := bustest.Receive(t, errs); !errors.Is(err, nats.ErrPermissionViolation) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
