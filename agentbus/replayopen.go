package agentbus

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// openerScratch is what one goroutine uses again and again.
type openerScratch struct {
	frame   envelope.Frame
	subject string // that the last frame was for, and is one that is read
}

// parse reads the header of a frame, of which nothing is proven. It reports whether the frame is to be opened.
func (r *replay) parse(s *replaySlot, b *openerScratch) bool {
	s.opened = keyring.Opened{Messages: s.opened.Messages[:0]}
	if err := envelope.Parse(s.frame, &b.frame); err != nil {
		s.err = &keyring.Rejection{Reason: keyring.Malformed, Detail: err.Error()}
		return false
	}
	s.err, s.pass = nil, r.sender != "" && string(b.frame.Sender) != r.sender
	return !s.pass
}

// replayedTopic is the stream of a retained topic.
type replayedTopic struct {
	*replay
	rc      *keyring.StoredReceiver
	pattern string
	yield   func(*Message, error) bool
}

func (t *replayedTopic) open(slots []replaySlot, b *openerScratch) {
	for i := range slots {
		if s := &slots[i]; t.parse(s, b) {
			s.err = t.openOne(s, b)
		}
	}
}

func (t *replayedTopic) openOne(s *replaySlot, b *openerScratch) error {
	f := &b.frame
	want := keyring.Want{Kinds: keyring.Kinds(envelope.KindEvent), Expired: true}
	switch {
	case f.Kind == envelope.KindControl:
		want.Notes, s.pass = true, true // what senders say of their own counts is nobody's message
	case string(f.Recipient) == b.subject:
		want.Recipient = b.subject
	default:
		if want.Recipient = string(f.Recipient); policy.CheckSubject(want.Recipient) != nil || !matches(t.pattern, want.Recipient) {
			return misdirected("for another subject than those that are read")
		}
		b.subject = want.Recipient
	}
	if err := t.rc.Open(s.frame, &want, &s.opened); err != nil || s.pass {
		return err
	}
	s.time = s.opened.Time
	s.messages = newMessages(want.Recipient, &s.opened, s.opened.Messages)
	return nil
}

func (t *replayedTopic) again(*replaySlot) bool { return false }

func (t *replayedTopic) prepare([]replaySlot) error { return nil }

func (t *replayedTopic) give(s *replaySlot) bool {
	for i := range s.messages {
		m := &s.messages[i]
		if !t.options.takes(m.headers) {
			continue
		}
		m.Sequence, m.Replayed = s.seq, true
		t.meter.messages++
		if !t.yield(m, nil) {
			return false
		}
	}
	return true
}

// keyWaits is what a replay has waited for already. It goes by what frames claim, of which nothing is proven: so it is bounded.
type keyWaits struct {
	mu    sync.Mutex
	tried map[keyWait]chan struct{} // closed when that is over
	vain  time.Duration             // that was waited for what did not come
}

type keyWait struct {
	key    uint32
	card   ulid.ULID
	signed bool
}

// await waits for the key and the card that a frame needs, once for each. What came of it is seen when the frame is opened.
func (k *keyWaits) await(ctx context.Context, b *Bus, frame []byte) {
	var f envelope.Frame
	if envelope.Parse(frame, &f) != nil {
		return
	}
	w := keyWait{f.Key, f.Card, f.Signed()}
	k.mu.Lock()
	over, tried := k.tried[w]
	if tried || len(k.tried) >= maxReplayWaits {
		k.mu.Unlock()
		if tried {
			select {
			case <-over:
			case <-ctx.Done():
			}
		}
		return
	}
	if k.tried == nil {
		k.tried = make(map[keyWait]chan struct{})
	}
	over = make(chan struct{})
	defer close(over)
	k.tried[w] = over
	patience := b.config.replayPatience
	patience = max(min(patience, replayPatienceAll*patience-k.vain), replayPatienceLeast)
	k.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	begun := time.Now()
	if b.ring.AwaitStored(ctx, frame) != nil {
		k.mu.Lock()
		k.vain += time.Since(begun)
		k.mu.Unlock()
	}
}

// retry opens a message once more whose key or sender's card was not here. It may have come meanwhile.
func (r *replay) retry(s *replaySlot) {
	one := []replaySlot{*s}
	r.source.open(one, &r.scratch)
	if missing(one[0].err) {
		r.waits.await(r.ctx, r.bus, s.frame)
		r.source.open(one, &r.scratch)
	}
	*s = one[0]
}

// attest checks a session note without the key: there is nothing else in it.
func (r *replay) attest(s *replaySlot) {
	ctx, cancel := context.WithTimeout(r.ctx, signTimeout)
	defer cancel()
	a, err := r.bus.ring.Attest(ctx, s.frame, r.channel, &keyring.Want{Notes: true})
	if err == nil {
		s.err, s.opened = nil, keyring.Opened{Session: a.Session, Card: a.Card, Seq: a.Seq, ID: a.ID, Channel: a.Channel, Sender: a.Sender}
	}
}

// describe finds out what the broker says of a message that is not given out. Of a bare page it asks once, for all of them.
func (r *replay) describe(p *replayPage, s *replaySlot) {
	if !p.bare {
		return
	}
	if p.said == nil {
		p.said = make(map[uint64]storedFrame)
		err := r.persist(r.ctx, func(ctx context.Context) error {
			_, err := r.details.page(ctx, pageQuery{from: s.seq, batch: int(p.next - s.seq)}, func(m *nats.Msg) error {
				f := storedFrame{seq: sequenceOf(m)}
				f.subject, _ = storedHeader(m, headerSubject)
				f.stored, _ = storedHeader(m, headerStored)
				p.said[f.seq] = f
				return nil
			})
			return err
		})
		if err != nil && !errors.Is(err, context.Canceled) {
			r.bus.log.Warn("what the broker says of messages that cannot be opened could not be read", "stream", r.reader.stream, "error", err)
		}
	}
	if f, ok := p.said[s.seq]; ok {
		s.subject, s.stored = f.subject, f.stored
	}
}
