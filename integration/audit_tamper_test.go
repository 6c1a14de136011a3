package integration_test

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/audit"
	"github.com/sealbus/sealbus/internal/bustest"
	"github.com/sealbus/sealbus/internal/vault"
)

// auditMessages is how many messages each topic has when the adversary comes, and a note before them.
const auditMessages = 12

// tampering is something that the broker's owner does to a stream that was logged.
type tampering struct {
	name    string
	do      func(w *auditWorld, stream string)
	verdict string
	at      uint64 // sequence
}

// inVault is a tampering with what the store holds, such that JetStream says of the stream what it has said before.
func inVault(change func(list []vault.Message) []vault.Message) func(*auditWorld, string) {
	return func(w *auditWorld, stream string) {
		w.t.Helper()
		v := w.vault(stream)
		w.putBack(v.With(change(v.Messages)))
	}
}

// configured changes a stream's configuration, and waits until it holds no more than so many messages.
func configured(most uint64, change func(*jetstream.StreamConfig)) func(*auditWorld, string) {
	return func(w *auditWorld, stream string) {
		w.t.Helper()
		s, err := w.o.js.Stream(w.Ctx(), stream)
		bustest.Check(w.t, err)
		c := s.CachedInfo().Config
		change(&c)
		_, err = w.o.js.UpdateStream(w.Ctx(), c)
		bustest.Check(w.t, err)
		for ctx := w.Ctx(); ; {
			info, err := s.Info(ctx)
			bustest.Check(w.t, err)
			if info.State.Msgs <= most {
				return
			}
		}
	}
}

func tamperings() []tampering {
	return []tampering{
		{"untouched", func(*auditWorld, string) {}, "", 0},
		{"one-deleted", inVault(func(l []vault.Message) []vault.Message { return slices.Delete(l, 6, 7) }), "completeness", 7},
		{"first-deleted", inVault(func(l []vault.Message) []vault.Message { return l[1:] }), "completeness", 1},
		{"one-edited", inVault(func(l []vault.Message) []vault.Message {
			l[7].Data = bytes.Clone(l[7].Data)
			l[7].Data[len(l[7].Data)/2] ^= 1
			return l
		}), "integrity", 8},
		{"moved-subject", inVault(func(l []vault.Message) []vault.Message { l[7].Subject += ".elsewhere"; return l }), "integrity", 8},
		{"redated", inVault(func(l []vault.Message) []vault.Message { l[7].Stored--; return l }), "integrity", 8},
		{"two-swapped", inVault(func(l []vault.Message) []vault.Message {
			l[4].Data, l[8].Data = l[8].Data, l[4].Data
			l[4].Subject, l[8].Subject = l[8].Subject, l[4].Subject
			return l
		}), "order", 5},
		{"one-replaced-by-another", inVault(func(l []vault.Message) []vault.Message {
			l[8].Data, l[8].Subject = l[4].Data, l[4].Subject
			return l
		}), "order", 9},
		{"tail-cut", inVault(func(l []vault.Message) []vault.Message { return l[:len(l)-3] }), "completeness", auditMessages + 1 - 2},
		{"all-but-first-cut", inVault(func(l []vault.Message) []vault.Message { return l[:1] }), "completeness", 2},
		{"fewer-by-max-messages", configured(5, func(c *jetstream.StreamConfig) { c.MaxMsgs = 5 }), "completeness", 1},
		{"fewer-by-max-bytes", configured(9, func(c *jetstream.StreamConfig) { c.MaxBytes = 4 << 10 }), "completeness", 1},
		{"gone-by-max-age", configured(0, func(c *jetstream.StreamConfig) { c.MaxAge, c.Duplicates = 100*time.Millisecond, 100*time.Millisecond }), "completeness", 1},
		{"made-anew-without-one", func(w *auditWorld, stream string) {
			v := w.vault(stream)
			v.Created = time.Now()
			list := slices.Delete(v.Messages, 6, 7)
			for i := range list {
				list[i].Sequence = uint64(i + 1)
			}
			w.putBack(v.With(list))
		}, "completeness", 1},
		{"made-anew-empty", func(w *auditWorld, stream string) {
			s, err := w.o.js.Stream(w.Ctx(), stream)
			bustest.Check(w.t, err)
			bustest.Check(w.t, w.o.js.DeleteStream(w.Ctx(), stream))
			_, err = w.o.js.CreateStream(w.Ctx(), s.CachedInfo().Config)
			bustest.Check(w.t, err)
		}, "completeness", 1},
		{"one-repeated", func(w *auditWorld, stream string) {
			w.add(w.vault(stream).Messages[5])
		}, "order", auditMessages + 2},
		{"junk-inserted", func(w *auditWorld, stream string) {
			m := w.vault(stream).Messages[5]
			m.Data = []byte("junk")
			w.add(m)
		}, "authenticity", auditMessages + 2},
		{"anothers-inserted", func(w *auditWorld, stream string) {
			m := w.vault(stream).Messages[5]
			m.Data = w.vault(topicStream("untouched")).Messages[5].Data
			w.add(m)
		}, "authenticity", auditMessages + 2},
		{"inserted-behind-its-back", inVault(func(l []vault.Message) []vault.Message {
			junk := l[5]
			junk.Data = []byte("junk")
			l[5] = junk
			return l
		}), "integrity", 6},
	}
}

// add puts a message into its stream, as the broker can.
func (w *auditWorld) add(m vault.Message) {
	w.t.Helper()
	_, err := w.o.js.PublishMsg(w.Ctx(), &nats.Msg{Subject: m.Subject, Data: m.Data})
	bustest.Check(w.t, err)
}

// TestAuditTampering: whatever the broker's owner does to a stream that was logged is found, and where it begins; the same on a
// machine with no broker, from an export alone.
func TestAuditTampering(t *testing.T) {
	t.Parallel()
	all := tamperings()
	names := make([]string, len(all))
	for i, x := range all {
		names[i] = x.name
	}
	w := newAuditWorld(t, auditPolicy(names...))
	for _, name := range names {
		w.publish(name, auditMessages)
		isFine(t, w.verify(topicStream(name)))
	}
	w.quiet()
	for _, x := range all {
		t.Run(x.name, func(t *testing.T) {
			stream := topicStream(x.name)
			w := *w
			w.t = t
			x.do(&w, stream)
			r := w.verify(stream)
			if x.verdict == "" {
				isFine(t, r)
			} else {
				finds(t, r, x.verdict, audit.Position{Sequence: x.at, Entry: -1})
			}
			sameVerdicts(t, w.verify(stream), w.export(stream))
		})
	}
}
