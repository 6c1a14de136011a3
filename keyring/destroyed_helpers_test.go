package keyring

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealbus/sealbus/policy"
)

// destroying returns auditedPolicy under a revision, with the keys of summarise that were made before a time destroyed.
func destroying(n int, before time.Time, changes ...string) string {
	changes = append([]string{"revision: 1", fmt.Sprintf("revision: %d", n)}, changes...)
	return fmt.Sprintf("%sdestroyed:\n  - {channel: queue/summarise, before: %q}\n",
		strings.NewReplacer(changes...).Replace(auditedPolicy), before.UTC().Format(time.RFC3339))
}

// decree puts a policy into the store and has the rings adopt it.
func (w *world) decree(text string, rings ...*Ring) {
	w.t.Helper()
	w.enact(w.sign(text), rings...)
}

func (w *world) enact(raw []byte, rings ...*Ring) {
	w.t.Helper()
	check(w.t, w.store.Put(w.ctx(), policy.BucketPolicy, policy.PolicyKey, raw))
	for _, r := range rings {
		check(w.t, r.AdoptPolicy(raw))
	}
}

// archive is a queue with two workers, one of them in memory only, and a frame and its result that all could open.
type archive struct {
	*shift
	w                   *world
	second, auditor     *Ring
	workerDir, prodDir  string
	frame, result       []byte
	key                 uint32
	k, ks               []byte // what the rings held
	aeads               []*sessionAEAD
	met                 map[*Ring]*StoredReceiver // which have opened frames of the session
	resultKey           uint32
	wantResult          *Want
	logged              time.Time
	attested, attested2 Attested
	witness             *Witness
	policy              *policy.Policy
}

func archiveWorld(t *testing.T, f func(*testing.T, *archive)) {
	bubble(t, func(t *testing.T, w *world) {
		w.setPolicy(auditedPolicy)
		a := &archive{w: w, workerDir: filepath.Join(t.TempDir(), "worker"), prodDir: filepath.Join(t.TempDir(), "producer")}
		a.shift = w.shift(queue, w.agentInUntil(a.workerDir, "exec-1", month), w.agentInUntil(a.prodDir, "planner", month))
		a.second, a.auditor = w.agentUntil("exec-2", month), w.agentUntil("auditor", month)
		a.frame = a.seal(t, "attack at dawn")
		check(t, a.second.Join(w.ctx(), queue))
		a.met = map[*Ring]*StoredReceiver{a.worker: a.sr, a.second: value(a.second.StoredReceiver(queue))(t)}
		for r, sr := range a.met {
			_, err := openStored(t, r, sr, a.frame, a.want)
			check(t, err)
		}
		s := value(a.worker.Sender(w.ctx(), results))(t)
		result, _, err := s.Seal(nil, &Draft{Kind: anyResult, Recipient: "summarise", Ref: someTask, Messages: task(queue, "done").Messages})
		check(t, err)
		a.result, a.wantResult = result, &Want{Kinds: Kinds(anyResult), Recipient: "summarise", Ref: someTask}
		check(t, a.producer.Join(w.ctx(), results))
		check(t, a.reads(t, a.producer, results, a.result))
		a.key, a.resultKey = keyOf(t, a.frame), keyOf(t, a.result)
		a.k = bytes.Clone(keyAt(t, a.worker, queue, a.frame).k.bytes())
		a.ks = bytes.Clone(keyAt(t, a.producer, queue, a.frame).own.bytes())
		for _, r := range []*Ring{a.worker, a.producer, a.second} {
			channelOf(t, r, queue).loans.sessions.each(func(s *sessionAEAD) { a.aeads = append(a.aeads, s) })
		}

		a.witness = w.witness()
		a.policy = value(a.witness.AddPolicy(a.auditor.RawPolicy()))(t)
		value(a.witness.AddCard(value(a.auditor.RawCard(w.ctx(), a.producer.Self(), a.producer.Card()))(t)))(t)
		a.logged = time.Now()
		a.attested = value(a.auditor.Attest(w.ctx(), a.frame, queue, a.want))(t)
		a.attested2 = value(a.witness.Attest(a.frame, queue, a.policy, a.logged, a.want))(t)
		f(t, a)
	})
}

// wantOf is what a receiver of the channel expects of the archive's frames.
func (a *archive) wantOf(ch policy.Channel) *Want {
	if ch == results {
		return a.wantResult
	}
	return a.want
}

// reads has a ring that has joined the channel open a frame, and waits for what it lacks for as long as a call may take.
func (a *archive) reads(t testing.TB, r *Ring, ch policy.Channel, frame []byte) error {
	t.Helper()
	_, err := openStoredWithin(t, time.Second, r, value(r.StoredReceiver(ch))(t), frame, a.wantOf(ch))
	return err
}

// gone expects that no call of a ring opens a frame, at once, and that it says why.
func (a *archive) gone(t testing.TB, r *Ring, ch policy.Channel, frame []byte, revision int) {
	t.Helper()
	start := time.Now()
	says := func(err error, call string) {
		t.Helper()
		if ReasonOf(err) != NoKey || !errors.Is(err, ErrKeyDestroyed) || !strings.Contains(err.Error(), fmt.Sprintf("the key was destroyed by policy revision %d", revision)) {
			t.Errorf("%s of %s on %s: %v", call, r.Self().Name(), ch, err)
		}
	}
	receivers := []*StoredReceiver{value(r.StoredReceiver(ch))(t)}
	if sr := a.met[r]; sr != nil && ch == queue {
		receivers = append(receivers, sr)
	}
	for _, sr := range receivers {
		var out Opened
		says(sr.Open(frame, a.wantOf(ch), &out), "Open")
		if out.Messages != nil || !out.ID.IsZero() {
			t.Errorf("content was handed out: %v", out)
		}
	}
	says(r.AwaitStored(a.w.ctx(), frame), "AwaitStored")
	if r.cards.cached(a.producer.Self(), a.producer.Card(), r.now()) != nil { // else it is the card that is missing
		says(r.Await(a.w.ctx(), frame), "Await")
	}
	rc := value(r.Receiver(ch))(t)
	if err := rc.Open(frame, a.wantOf(ch), new(Opened)); err == nil {
		t.Error("a receiver of live frames has opened it")
	}
	if waited := time.Since(start); waited > time.Second {
		t.Errorf("it took %v to say so", waited)
	}
	if c := channelOf(t, r, ch); c.held(keyOf(t, frame)) != nil {
		t.Errorf("%s still holds the key", r.Self().Name())
	}
}

// inDirectory reports whether a state directory holds 32 bytes, in any file, as it lies there or decrypted.
func inDirectory(t testing.TB, dir string, secret []byte) bool {
	t.Helper()
	copied := copyDir(t, dir)
	_ = os.Remove(filepath.Join(copied, "lock"))
	s := value(openStorage(copied, EncryptWith(kekForTests)))(t)
	defer s.close()
	found := false
	files := value(filepath.Glob(filepath.Join(copied, "*")))(t)
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		plain, _ := s.load(filepath.Base(file))
		for _, b := range [][]byte{raw, plain} {
			found = found || bytes.Contains(b, secret) || bytes.Contains(b, []byte(base64.StdEncoding.EncodeToString(secret)))
		}
	}
	return found
}

// wrapsOf counts the wraps of a key for a ring's card that are in the store.
func (w *world) wrapsOf(r *Ring, ch policy.Channel, key uint32) (n int) {
	w.t.Helper()
	for _, e := range value(w.store.List(w.ctx(), policy.BucketKeys, policy.KeyPrefix(ch)+".w.*."+r.Card().String()+".>"))(w.t) {
		if entry, err := policy.ParseEntry(e.Key); err == nil && entry.ID == key {
			n++
		}
	}
	return n
}

// talks fails unless a new task opens at once, under another key than the archive's.
func (a *archive) talks(t testing.TB) {
	t.Helper()
	check(t, a.producer.Join(a.w.ctx(), queue))
	check(t, a.worker.Join(a.w.ctx(), queue))
	frame := a.seal(t, "still")
	if _, err := openStored(t, a.worker, a.sr, frame, a.want); err != nil {
		t.Error(err)
	}
	if keyOf(t, frame) == a.key {
		t.Error("sealed under the old key")
	}
}

func (a *archive) close(r *Ring) { check(a.w.t, r.Close(context.Background())) }
