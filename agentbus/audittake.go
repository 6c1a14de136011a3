package agentbus

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealbus/sealbus/audit"
	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// auditTake is a page on its way into a log.
type auditTake struct {
	f       *auditFollower
	list    []audit.Stored
	entries []audit.Entry    // of the messages
	before  [][]*audit.Entry // what comes before each
	under   []auditEra       // by which policy each is judged, the place in policies
	eras    []auditEra       // of the log, and those that come with this page
	cards   map[auditCardName]bool
}

// take logs a page, in order: each message with what attesting it comes to, and before it what is to be known by then.
func (f *auditFollower) take(ctx context.Context, list []audit.Stored) error {
	t := &auditTake{f: f, list: list, entries: make([]audit.Entry, len(list)), cards: make(map[auditCardName]bool)}
	parallel(len(list), func(i int) { t.entries[i] = audit.FrameEntry(&list[i], time.Time{}, 0) })
	if err := t.keys(ctx); err != nil {
		return err
	}
	logged := f.clock() // after what keys has logged
	for i := range t.entries {
		t.entries[i].Logged = logged
	}
	for fresh := false; ; fresh = true {
		if err := t.place(ctx); err != nil {
			return err
		}
		again, err := t.attest(ctx)
		if err != nil {
			return err
		}
		if !again || fresh {
			break
		}
	}
	if err := t.senders(ctx); err != nil {
		return err
	}
	t.gaps()
	all := make([]*audit.Entry, 0, len(list)+8)
	for i := range t.entries {
		for _, e := range t.before[i] {
			e.Logged = logged
			all = append(all, e)
		}
		all = append(all, &t.entries[i])
	}
	err := f.append(all...)
	f.next = f.past.next
	return err
}

// parallel calls do for each of n on all cores, and returns when all are done.
func parallel(n int, do func(i int)) {
	var next atomic.Int64
	var all sync.WaitGroup
	work := func() {
		for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
			do(int(i))
		}
	}
	for range min(runtime.GOMAXPROCS(0), n) - 1 {
		all.Go(work)
	}
	work()
	all.Wait()
}

// keys has key statements logged where a message names a key that has not been looked for.
func (t *auditTake) keys(ctx context.Context) error {
	f := t.f
	for i := range t.entries {
		h := &t.entries[i].Frame.Header
		if h.IsZero() || f.sought[h.Key] {
			continue
		}
		if len(f.sought) >= maxAuditKeys {
			clear(f.sought)
		}
		f.sought[h.Key], f.keyDue = true, true
	}
	return f.dueKeys(ctx)
}

// dueKeys has key statements read where that is due, and not too often: whoever may publish can name any key.
func (f *auditFollower) dueKeys(ctx context.Context) error {
	if !f.keyDue || time.Since(f.keyed) < auditKeyPause {
		return nil
	}
	if err := f.makeKeys(ctx); err != nil {
		return err
	}
	f.keyDue = false
	return nil
}

// place decides by which policy each message is judged. One that has just come is in force from the first message on
// that was stored behind it; one that has been in force for longer, at once.
func (t *auditTake) place(ctx context.Context) error {
	f := t.f
	t.before, t.under = make([][]*audit.Entry, len(t.list)), make([]auditEra, len(t.list))
	pending := f.a.trust.after(f.past.revision())
	past := f.past // what the log will have
	late, soon := 0, time.Now().Add(-auditLate)
	for late < len(pending) && pending[late].stored.Before(soon) {
		late++
	}
	if late > 0 {
		i, err := f.a.bus.store.info(ctx, f.stream)
		if err != nil {
			return err
		}
		for n := range late {
			if err := t.adopt(0, &pending[n], &past, i.State.Last); err != nil {
				return err
			}
		}
	}
	for i := range t.list {
		for ; late < len(pending) && !t.list[i].Time.Before(pending[late].stored); late++ {
			if err := t.adopt(i, &pending[late], &past, t.list[i].Sequence-1); err != nil {
				return err
			}
		}
		if len(past.eras) == 0 {
			return errors.New("agentbus: no policy is known under which to judge what the stream holds")
		}
		t.under[i] = past.eras[len(past.eras)-1]
	}
	t.eras = past.eras
	return nil
}

// adopt has a policy logged before a message.
func (t *auditTake) adopt(i int, p *auditPolicy, past *logged, last uint64) error {
	f, keep := t.f, t.f.past
	f.past = *past
	entries, err := f.policyEntries(p, last)
	f.past = keep
	if err != nil {
		return err
	}
	t.before[i] = append(t.before[i], entries...)
	past.eras = append(past.eras[:len(past.eras):len(past.eras)], auditEra{p.Revision(), p.Hash(), last, t.entries[i].Logged})
	if at := p.DestroyedBefore(f.ch); at.After(past.destroyed) {
		past.destroyed = at
	}
	return nil
}

// attest attests all messages. again is true where there are policies now that there were not, and it is to be done anew.
func (t *auditTake) attest(ctx context.Context) (again bool, err error) {
	f := t.f
	if err := t.fetch(ctx, nil); err != nil {
		return false, err
	}
	wrong := make([]error, len(t.list))
	look := func(i int) { wrong[i] = t.look(i) }
	parallel(len(t.list), look)
	if err := errors.Join(wrong...); err != nil {
		return false, err
	}
	// A card may have been renewed, and a policy come, that this auditor has not seen yet.
	var lapsed []int
	newer := false
	for i := range t.entries {
		switch t.entries[i].Frame.Outcome {
		case keyring.Stale, keyring.NoCard:
			lapsed = append(lapsed, i)
		case keyring.NotEntitled, keyring.Revoked, keyring.Misdirected:
			newer = true
		}
	}
	if lapsed != nil {
		if err := t.fetch(ctx, lapsed); err != nil {
			return false, err
		}
		parallel(len(lapsed), func(i int) { look(lapsed[i]) })
		if err := errors.Join(wrong...); err != nil {
			return false, err
		}
	}
	if newer && time.Since(f.refreshed) >= auditRefresh {
		f.refreshed = time.Now()
		if err := f.a.trust.refresh(ctx, true); err != nil {
			return false, err
		}
		pending := f.a.trust.after(f.past.revision())
		return len(pending) > 0 && pending[len(pending)-1].Revision() > t.eras[len(t.eras)-1].revision, nil
	}
	return false, nil
}

// look attests one message.
func (t *auditTake) look(i int) error {
	f, e := t.f, &t.entries[i].Frame
	want, ok := audit.Expect(f.stream, e.Subject, &e.Header)
	switch {
	case e.Header.IsZero():
		e.Outcome = keyring.Malformed
		return nil
	case !ok:
		e.Outcome = keyring.Misdirected
		return nil
	}
	attest := func(p *policy.Policy) (keyring.Reason, error) {
		if p == nil {
			return 0, fmt.Errorf("agentbus: policy revision %d is not believed any more", t.under[i].revision)
		}
		_, err := f.a.trust.witness.Attest(t.list[i].Data, want.Channel, p, t.entries[i].Logged, &want.Want)
		if r := keyring.ReasonOf(err); r != 0 {
			return r, nil
		}
		return 0, err
	}
	reason, err := attest(f.a.trust.find(t.under[i].hash))
	if err != nil {
		return err
	}
	if e.Outcome = reason; reason == keyring.NotEntitled || reason == keyring.Revoked || reason == keyring.Unsigned {
		t.overtaken(i, want.Late, attest)
	}
	return nil
}

// overtaken looks whether a message was on its way when the policy took its sender's right away: it was sealed before
// that was logged, and came soon after, or was in the stream already.
func (t *auditTake) overtaken(i int, late bool, attest func(*policy.Policy) (keyring.Reason, error)) {
	e, sealed := &t.entries[i], t.entries[i].Frame.Header.Sealed()
	for n := len(t.eras) - 1; n > 0; n-- {
		next := &t.eras[n]
		if next.revision > t.under[i].revision || sealed.After(next.logged.Add(auditLead)) {
			continue
		}
		if e.Logged.Sub(next.logged) > auditOvertaken && e.Frame.Sequence > next.last && !late {
			continue
		}
		if p := t.f.a.trust.find(t.eras[n-1].hash); p != nil {
			if reason, err := attest(p); err == nil && reason == 0 {
				e.Frame.Outcome = 0
				return
			}
		}
	}
}

// fetch has the witness know the cards of those messages, or, of nil, of all; of those that it knows it looks for newer
// ones.
func (t *auditTake) fetch(ctx context.Context, some []int) error {
	again := some != nil
	if !again {
		some = make([]int, len(t.list))
		for i := range some {
			some[i] = i
		}
	}
	asked := make(map[auditCardName]bool)
	for _, i := range some {
		name, ok := cardNameOf(&t.entries[i].Frame.Header)
		if !ok || asked[name] || name.agent.TrustDomain() != t.f.a.bus.self.TrustDomain() {
			continue
		}
		asked[name] = true
		if _, err := t.f.a.trust.card(ctx, name, again); err != nil {
			return err
		}
	}
	return nil
}

func cardNameOf(h *audit.Header) (auditCardName, bool) {
	if h.IsZero() {
		return auditCardName{}, false
	}
	id, err := identity.ParseID(h.Sender)
	return auditCardName{id, h.Card}, err == nil && id.IsAgent()
}

// senders has each card logged before the first message that names it: also where it did not speak for that, so that a verifier
// comes to the same.
func (t *auditTake) senders(ctx context.Context) error {
	for i := range t.entries {
		name, ok := cardNameOf(&t.entries[i].Frame.Header)
		if !ok || t.cards[name] || name.agent.TrustDomain() != t.f.a.bus.self.TrustDomain() {
			continue
		}
		t.cards[name] = true
		e, err := t.f.card(ctx, name, false)
		if err != nil {
			return err
		}
		if e != nil {
			t.before[i] = append(t.before[i], e)
		}
	}
	return nil
}

// gaps has it logged where messages are not there.
func (t *auditTake) gaps() {
	next := t.f.past.next
	for i := range t.list {
		if at := t.list[i].Sequence; at > next && (next > 1 || at > t.f.past.first) {
			t.before[i] = append(t.before[i], &audit.Entry{Kind: audit.KindGap, Event: audit.Event{First: next, Last: at - 1, Text: "not in the stream when they were to be logged"}})
		}
		next = t.list[i].Sequence + 1
	}
}
