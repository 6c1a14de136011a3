package agentbus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/audit"
	"github.com/sealbus/sealbus/policy"
)

// clock returns the time for the next entries: a log does not go back, whatever the machine's clock does.
func (f *auditFollower) clock() time.Time {
	now := time.UnixMilli(time.Now().UnixMilli())
	if now.Before(f.past.at) {
		return f.past.at
	}
	return now
}

// append appends entries, with the time that they have or, without one, that of now.
func (f *auditFollower) append(entries ...*audit.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	now := f.clock()
	for _, e := range entries {
		if e.Logged.IsZero() {
			e.Logged = now
		}
	}
	if _, err := f.log.Append(entries...); err != nil {
		return err
	}
	for _, e := range entries {
		f.past.take(e)
		if e.Kind == audit.KindFrame {
			f.since++
			f.frames++
		}
	}
	return nil
}

// streamInfo is what the broker says of a stream.
type streamInfo struct {
	Config  jetstream.StreamConfig `json:"config"`
	Created time.Time              `json:"created"`
	State   struct {
		First uint64 `json:"first_seq"`
		Last  uint64 `json:"last_seq"`
	} `json:"state"`
	Error *jetstream.APIError `json:"error"`
}

// info asks how the stream is configured and what it holds.
func (s *store) info(ctx context.Context, stream string) (*streamInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	var raw []byte
	err := s.read(ctx, func(ctx context.Context) error {
		l, done := s.wire.use()
		defer done()
		m, err := l.nc.RequestWithContext(ctx, policy.StreamInfo(stream), nil)
		if err == nil {
			raw = m.Data
		}
		return storeError(err)
	})
	if err != nil {
		return nil, err
	}
	i := new(streamInfo)
	switch err := json.Unmarshal(raw, i); {
	case err != nil:
		return nil, fmt.Errorf("agentbus: what the broker says of stream %s: %w", stream, err)
	case i.Error != nil && i.Error.ErrorCode == jetstream.JSErrCodeStreamNotFound:
		return nil, storeError(nats.ErrNoResponders)
	case i.Error != nil:
		return nil, fmt.Errorf("agentbus: what the broker says of stream %s: %w", stream, i.Error)
	case i.Created.IsZero():
		return nil, fmt.Errorf("agentbus: what the broker says of stream %s: it was never made", stream)
	}
	return i, nil
}

// generation counts the connections that there have been.
func (s *store) generation() uint64 {
	l, done := s.wire.use()
	defer done()
	return l.generation()
}

// configOf returns what is logged of a stream's configuration.
func configOf(i *streamInfo) audit.StreamConfig {
	c := i.Config
	s := audit.StreamConfig{
		Created: i.Created.UTC(), Subjects: c.Subjects, MaxAge: c.MaxAge, MaxMessages: c.MaxMsgs, MaxBytes: c.MaxBytes, PerSubject: c.MaxMsgsPerSubject,
		Refuses: c.Discard == jetstream.DiscardNew, DenyDelete: c.DenyDelete, DenyPurge: c.DenyPurge, Rollup: c.AllowRollup, Replicas: c.Replicas,
	}
	c.Subjects, c.MaxAge, c.MaxMsgs, c.MaxBytes, c.MaxMsgsPerSubject, c.Discard, c.DenyDelete, c.DenyPurge, c.AllowRollup, c.Replicas = nil, 0, 0, 0, 0, 0, false, false, false, 0
	c.Metadata = nil // the server writes its own version there
	if other, err := json.Marshal(c); err == nil {
		s.Other = string(other[:min(len(other), maxAuditOther)])
	}
	return s
}

// begin logs how the stream stands when the auditor comes to it. It may be called again where it has failed.
func (f *auditFollower) begin(ctx context.Context) error {
	if err := f.kept(ctx); err != nil {
		return err
	}
	i, err := f.a.bus.store.info(ctx, f.stream)
	if err != nil {
		return err
	}
	kind := audit.KindResumed
	if f.log.Size() == 0 {
		kind = audit.KindOpened
	}
	if kind == audit.KindOpened {
		err = f.append(f.rangeEvent(kind, i))
	}
	if err == nil {
		err = f.configure(i)
	}
	if err == nil && kind == audit.KindResumed {
		f.shrunk(i)
		err = f.append(f.rangeEvent(kind, i))
	}
	f.next = f.past.next
	if err == nil {
		err = f.adoptAll(ctx, i.State.Last)
	}
	if err == nil {
		err = f.own(ctx)
	}
	if err == nil {
		err = f.makeKeys(ctx)
	}
	if err == nil {
		err = f.pruned(ctx, i)
	}
	if err == nil {
		err = f.tail(ctx, i)
	}
	if err == nil {
		err = f.checkpoint()
	}
	f.begun = err == nil
	f.looked, f.quiet = time.Now(), time.Now()
	return err
}

// rangeEvent is an event that says what the stream holds.
func (f *auditFollower) rangeEvent(kind audit.Kind, i *streamInfo) *audit.Entry {
	e := &audit.Entry{Kind: kind, Event: audit.Event{First: i.State.First, Last: i.State.Last}}
	if kind == audit.KindOpened || kind == audit.KindResumed {
		e.Event.Agent, e.Event.Card = f.a.bus.self.String(), f.a.bus.ring.Card()
	}
	return e
}

// event logs an event that says what the stream holds now.
func (f *auditFollower) event(ctx context.Context, kind audit.Kind) error {
	i, err := f.a.bus.store.info(ctx, f.stream)
	if err != nil {
		return err
	}
	f.shrunk(i)
	err = f.append(f.rangeEvent(kind, i))
	f.next = f.past.next
	return err
}

// look compares what the broker says of the stream with what was logged of it.
func (f *auditFollower) look(ctx context.Context) error {
	i, err := f.a.bus.store.info(ctx, f.stream)
	if err != nil {
		return err
	}
	if err := f.configure(i); err != nil {
		return err
	}
	if f.shrunk(i) {
		if err := f.append(f.rangeEvent(audit.KindStill, i)); err != nil {
			return err
		}
	}
	f.next = f.past.next
	if err := errors.Join(f.pruned(ctx, i), f.tail(ctx, i), f.own(ctx)); err != nil {
		return err
	}
	f.looked = time.Now()
	return nil
}

// configure logs the stream's configuration where it is another than was logged.
func (f *auditFollower) configure(i *streamInfo) error {
	c := configOf(i)
	e, err := c.Entry(f.clock(), i.State.First, i.State.Last)
	if err != nil || e.Event.Hash == f.past.config {
		return err
	}
	if before := f.past.created; !before.IsZero() && !before.Equal(c.Created) {
		f.tampered("it was made anew at %s, and what was logged is of one made at %s", stamp(c.Created), stamp(before))
	}
	return f.append(&e)
}

// shrunk reports whether the stream ends before what was logged of it.
func (f *auditFollower) shrunk(i *streamInfo) bool {
	if i.State.Last+1 >= f.past.next {
		return false
	}
	f.tampered("it ends at message %d, and was logged up to %d: its end was cut off, or its files were put back", i.State.Last, f.past.next-1)
	return true
}

// pruned logs that the stream holds less than before, from its front.
func (f *auditFollower) pruned(ctx context.Context, i *streamInfo) error {
	first := i.State.First
	if first <= f.past.first {
		return nil
	}
	gone := f.past.first
	e := &audit.Entry{Kind: audit.KindPruned, Event: audit.Event{First: max(gone, 1), Last: first - 1}}
	if gone == 0 && first == 1 { // an empty stream has nothing before its first
		return nil
	}
	last, ok, err := f.entryOf(first - 1)
	if err != nil {
		return err
	}
	if ok {
		e.Event.Time = last.Stored.Add(1)
		retain := f.retain()
		if young := time.Since(last.Stored); retain > 0 && young+auditSlack < retain && f.stream != policy.DeadStream(f.ch.Name()) {
			f.tampered("messages %d to %d are gone, the last of them %v old, and are to be kept for %v", e.Event.First, e.Event.Last, young.Round(time.Second), retain)
		}
	} else {
		s, err := f.pager.first(ctx, first)
		if err != nil {
			return err
		}
		if e.Event.Time = s.Time; s.Sequence == 0 {
			e.Event.Time = f.clock()
		}
	}
	return f.append(e)
}

// retain returns how long the policy has the channel's messages kept.
func (f *auditFollower) retain() time.Duration {
	s, _ := f.a.bus.ring.Policy().Settings(f.ch)
	return s.Retain
}

// entryOf returns the frame entry of a sequence, false where the log has none.
func (f *auditFollower) entryOf(sequence uint64) (frame audit.Frame, ok bool, err error) {
	lo, hi := int64(0), f.log.Size()
	for lo < hi {
		mid := lo + (hi-lo)/2
		at := mid
		var e audit.Entry
		for ; at < hi; at++ {
			if e, err = f.log.Entry(at); err != nil {
				return frame, false, err
			}
			if e.Kind == audit.KindFrame {
				break
			}
		}
		switch {
		case at == hi || e.Frame.Sequence > sequence:
			hi = mid
		case e.Frame.Sequence < sequence:
			lo = at + 1
		default:
			return e.Frame, true, nil
		}
	}
	return frame, false, nil
}

// tail compares the last message that was logged with the stream.
func (f *auditFollower) tail(ctx context.Context, i *streamInfo) error {
	if !f.past.ends() || f.past.last.Sequence < i.State.First {
		return nil
	}
	s, err := f.pager.at(ctx, f.past.last.Sequence)
	switch {
	case err != nil:
		return err
	case s.Sequence == 0 && f.stream != policy.DeadStream(f.ch.Name()):
		f.tampered("message %d, the last that was logged, is gone", f.past.last.Sequence)
	case s.Sequence != 0 && !f.past.is(&s):
		f.tampered("message %d is another than was logged", f.past.last.Sequence)
	}
	return nil
}

// own logs this agent's own card, with which it signs checkpoints.
func (f *auditFollower) own(ctx context.Context) error {
	b := f.a.bus
	e, err := f.card(ctx, auditCardName{b.self, b.ring.Card()}, true)
	if err != nil || e == nil {
		return err
	}
	return f.append(e)
}

// card returns the entry of a card, nil where it has one already, or there is no such card.
func (f *auditFollower) card(ctx context.Context, name auditCardName, again bool) (*audit.Entry, error) {
	c, err := f.a.trust.card(ctx, name, again)
	if err != nil || c == nil || f.past.known[c.Hash] {
		return nil, err
	}
	if err := f.log.AddStatement(audit.Statement{Kind: audit.StatementCard, Raw: c.raw}); err != nil {
		return nil, err
	}
	return &audit.Entry{Kind: audit.KindCard, Event: audit.Event{Hash: c.Hash, Agent: c.Agent.String(), Card: c.Card, Time: c.Until}}, nil
}

// makeKeys logs the key statements of the channel that have no entry yet.
func (f *auditFollower) makeKeys(ctx context.Context) error {
	f.keyed = time.Now()
	list, err := f.a.bus.ring.KeyStatements(ctx, f.keys)
	if err != nil {
		return ownError(err)
	}
	for _, k := range list {
		if f.past.known[k.Hash] {
			continue
		}
		card, err := f.card(ctx, auditCardName{k.Creator, k.Card}, false)
		if err != nil {
			return err
		}
		if err := f.log.AddStatement(audit.Statement{Kind: audit.StatementKey, Raw: k.Raw}); err != nil {
			return err
		}
		e := &audit.Entry{Kind: audit.KindKey, Event: audit.Event{Hash: k.Hash, Agent: k.Creator.String(), Card: k.Card, Channel: k.Channel.String(),
			Key: k.Key, Time: ulid.Time(k.Created.Time())}}
		if card != nil {
			err = f.append(card)
		}
		if err = errors.Join(err, f.append(e)); err != nil {
			return err
		}
	}
	return nil
}

// adoptAll logs every policy that has come since the last one that was logged.
func (f *auditFollower) adoptAll(ctx context.Context, last uint64) error {
	for _, p := range f.a.trust.after(f.past.revision()) {
		entries, err := f.policyEntries(&p, last)
		if err != nil {
			return err
		}
		if err := f.append(entries...); err != nil {
			return err
		}
	}
	return nil
}

// policyEntries are the entries for a policy that is in force from now on: last is the last message that the stream had.
func (f *auditFollower) policyEntries(p *auditPolicy, last uint64) ([]*audit.Entry, error) {
	if err := f.log.AddStatement(audit.Statement{Kind: audit.StatementPolicy, Raw: p.raw}); err != nil {
		return nil, err
	}
	list := []*audit.Entry{{Kind: audit.KindPolicy, Event: audit.Event{Last: last, Hash: p.Hash(), Revision: p.Revision()}}}
	before := f.a.trust.find(f.past.eraHash())
	for _, name := range p.RevokedAgents() {
		if before == nil || !before.Revoked(name) {
			list = append(list, &audit.Entry{Kind: audit.KindRevoked, Event: audit.Event{Last: last, Agent: name, Revision: p.Revision()}})
		}
	}
	if at := p.DestroyedBefore(f.ch); at.After(f.past.destroyed) {
		list = append(list, &audit.Entry{Kind: audit.KindDestroyed, Event: audit.Event{Channel: f.keys.String(), Time: at}})
	}
	return list, nil
}

// stamp writes a time for people.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
