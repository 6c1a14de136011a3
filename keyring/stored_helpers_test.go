package keyring

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/identity/devca"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

const queuePolicy = `trust_domain: example.org
revision: 1
queues:
  summarise: {enqueue: [planner, "prod-*"], work: ["exec-*"]}
  scribble: {enqueue: [planner, "prod-*"], work: ["exec-*"], signed: false}
`

// queueRevision returns that policy under another revision, changed as old and new texts in turn say.
func queueRevision(n int, changes ...string) string {
	return strings.NewReplacer(append([]string{"revision: 1", fmt.Sprintf("revision: %d", n)}, changes...)...).Replace(queuePolicy)
}

var (
	scribble    = policy.MustParseChannel("queue/scribble")
	month       = 30 * 24 * time.Hour
	anyTaskKind = Kinds(envelope.KindTask, envelope.KindControl)
)

// agentUntil attaches a ring in memory whose certificate is valid for d from now on, and was a minute ago.
func (w *world) agentUntil(name string, d time.Duration) *Ring {
	w.t.Helper()
	r := value(Memory(w.operator.Fingerprint()))(w.t)
	w.attachUntil(r, name, d)
	return r
}

// agentInUntil is agentUntil with a state directory.
func (w *world) agentInUntil(dir, name string, d time.Duration) *Ring {
	w.t.Helper()
	r := value(Open(dir, EncryptWith(kekForTests), w.operator.Fingerprint()))(w.t)
	w.attachUntil(r, name, d)
	return r
}

func (w *world) attachUntil(r *Ring, name string, d time.Duration) {
	w.t.Helper()
	skew := w.skew(name)
	r.now = func() time.Time { return time.Now().Add(time.Duration(skew.Load())) }
	check(w.t, r.Attach(w.ctx(), w.certified(name, d), w.store, w.report))
	w.t.Cleanup(func() { _ = r.Close(context.Background()) })
}

func (w *world) certified(name string, d time.Duration) *identity.Memory {
	w.t.Helper()
	return w.issue(devca.Template{ID: identity.MustParseID("spiffe://example.org/agent/" + name),
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(d)})
}

// renew gives an agent a certificate for d from now on, under the same card.
func (w *world) renew(r *Ring, d time.Duration) {
	w.t.Helper()
	svid := value(w.certified(r.Self().Name(), d).GetX509SVID())(w.t)
	r.att.src.(*identity.Memory).SetSVID(svid)
	check(w.t, r.Refresh(w.ctx()))
}

// shift is a producer and a worker of a queue.
type shift struct {
	producer, worker *Ring
	ch               policy.Channel
	sender           *Sender
	sr               *StoredReceiver
	want             *Want
}

// shift has worker and producer join a queue and lets a first task pass, so that cards and keys are here.
func (w *world) shift(ch policy.Channel, worker, producer *Ring) *shift {
	w.t.Helper()
	check(w.t, worker.Join(w.ctx(), ch))
	s := &shift{producer: producer, worker: worker, ch: ch, sender: value(producer.Sender(w.ctx(), ch))(w.t), want: wantTask(ch)}
	s.sr = value(worker.StoredReceiver(ch))(w.t)
	if _, err := openStored(w.t, worker, s.sr, s.seal(w.t, "first"), s.want); err != nil {
		w.t.Fatal(err)
	}
	return s
}

func wantTask(ch policy.Channel) *Want { return &Want{Kinds: anyTaskKind, Recipient: ch.Name()} }

func task(ch policy.Channel, text string) *Draft {
	return &Draft{Kind: envelope.KindTask, Recipient: ch.Name(), Messages: []envelope.Message{{Payload: []byte(text)}}}
}

func (s *shift) seal(t testing.TB, text string) []byte { return sealTask(t, s.sender, s.ch, text) }

func sealTask(t testing.TB, s *Sender, ch policy.Channel, text string) []byte {
	t.Helper()
	frame, _, err := s.Seal(nil, task(ch, text))
	check(t, err)
	return frame
}

// openStored awaits what the frame needs, for as long as a call may take, and opens it.
func openStored(t testing.TB, r *Ring, sr *StoredReceiver, frame []byte, w *Want) (*Opened, error) {
	t.Helper()
	return openStoredWithin(t, testTimeout, r, sr, frame, w)
}

func openStoredWithin(t testing.TB, d time.Duration, r *Ring, sr *StoredReceiver, frame []byte, w *Want) (*Opened, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	var out Opened
	err := sr.Open(frame, w, &out)
	for range 3 {
		if reason := ReasonOf(err); reason != NoKey && reason != NoCard {
			return &out, err
		}
		if waited := r.AwaitStored(ctx, frame); waited != nil {
			if ReasonOf(waited) != 0 {
				err = waited
			}
			return &out, err
		}
		err = sr.Open(frame, w, &out)
	}
	if reason := ReasonOf(err); reason == NoKey || reason == NoCard {
		t.Errorf("AwaitStored says that nothing is missing, Open: %v", err)
	}
	return &out, err
}

// takes opens a frame that nothing is missing for.
func (s *shift) takes(t testing.TB, frame []byte) *Opened {
	t.Helper()
	var out Opened
	if err := s.sr.Open(frame, s.want, &out); err != nil {
		t.Errorf("%v", err)
	}
	return &out
}

// refuses opens a frame, waiting for nothing, and expects the reason, and that nothing of it is handed out or remembered.
func (s *shift) refuses(t testing.TB, frame []byte, reason Reason) {
	t.Helper()
	refusesAt(t, s.sr, frame, s.want, reason)
}

func refusesAt(t testing.TB, sr *StoredReceiver, frame []byte, want *Want, reason Reason) {
	t.Helper()
	before := sr.known()
	var out Opened
	if err := sr.Open(frame, want, &out); ReasonOf(err) != reason {
		t.Errorf("got %v, want %s", err, reason)
	}
	if out.Messages != nil || !out.ID.IsZero() {
		t.Errorf("content of a frame rejected as %s was handed out", reason)
	}
	if sr.known() != before {
		t.Errorf("a frame rejected as %s changed what is remembered", reason)
	}
}

func (sr *StoredReceiver) known() int {
	sr.mu.RLock()
	defer sr.mu.RUnlock()
	return len(sr.sessions)
}

// craftTask returns a task that from would send, as somebody who holds K can seal it.
func craftTask(t testing.TB, from *Ring, ch policy.Channel, k *chanKey) *crafted {
	t.Helper()
	c := craft(t, from, ch, k, ch.Name())
	c.Kind = envelope.KindTask
	c.Flags |= envelope.FlagCommitted
	m := envelope.Message{ID: c.ID, Salt: [16]byte{1}, Payload: []byte("crafted")}
	c.plain = value(envelope.AppendMessage(nil, &m, true))(t)
	c.Commit = value(envelope.CommitRoot([]envelope.Message{m}))(t)
	return c
}

// at dates a frame.
func (c *crafted) at(t testing.TB, when time.Time) *crafted {
	t.Helper()
	c.ID = newULID(t, when)
	return c
}

// unsigned takes the signature away.
func (c *crafted) unsigned() *crafted {
	c.signer = nil
	return c
}

func (s *shift) craft(t testing.TB) *crafted {
	t.Helper()
	return craftTask(t, s.producer, s.ch, currentKey(t, s.worker, s.ch))
}

// keyAt returns the key that a frame is under, as a ring holds it.
func keyAt(t testing.TB, r *Ring, ch policy.Channel, frame []byte) *chanKey {
	t.Helper()
	return channelOf(t, r, ch).held(keyOf(t, frame))
}

var someTask = ulid.ULID{0: 1, 15: 1}
