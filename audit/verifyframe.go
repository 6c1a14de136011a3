package audit

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/keyring"
)

// job is a message beside its entry, and what looking at it came to.
type job struct {
	entry  Entry
	at     Position
	stored Stored
	era    int

	sum      [sha256.Size]byte
	header   Header
	expect   Expectation
	reason   keyring.Reason // 0: it is attested
	detail   string
	doubt    string // why the reason is no proof that anything is wrong; empty: it is
	open     error
	readable bool // open says something
}

// flush looks at the messages that have gathered, on all cores, and then takes them in in their order.
func (s *streamReader) flush(ctx context.Context) error {
	var next atomic.Int64
	var all sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(s.chunk)) {
		all.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(s.chunk) {
					return
				}
				s.look(ctx, &s.chunk[i])
			}
		})
	}
	all.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	for i := range s.chunk {
		s.take(&s.chunk[i])
	}
	clear(s.chunk)
	s.chunk, s.bytes = s.chunk[:0], 0
	return nil
}

// look does what is dear, and needs nothing that came before.
func (v *verification) look(ctx context.Context, j *job) {
	if j.sum = sha256.Sum256(j.stored.Data); j.sum != j.entry.Frame.Data {
		return
	}
	j.header = HeaderOf(j.stored.Data)
	v.attest(j)
	if v.in.Opener != nil && j.expect.Channel.Kind() != 0 && !j.expect.Note {
		j.readable, j.open = true, v.in.Opener(ctx, &j.stored, &j.expect)
	}
}

// take takes in what looking at a message came to.
func (s *streamReader) take(j *job) {
	f := &j.entry.Frame
	if j.sum != f.Data {
		if len(s.differ) >= maxMismatched {
			s.Integrity.fail(j.at, "it is not the message that was logged")
			return
		}
		s.differ = append(s.differ, mismatch{at: j.at, logged: f.Data, found: j.sum})
		return
	}
	s.Integrity.figure("messages that are the ones that were logged", 1)
	switch {
	case j.stored.Subject != f.Subject:
		s.Integrity.fail(j.at, "it is under the subject %.300q, and was logged under %.300q", j.stored.Subject, f.Subject)
	case !j.stored.Time.Equal(f.Stored):
		s.Integrity.fail(j.at, "the broker says that it was stored at %s, and said %s when it was logged", stamp(j.stored.Time), stamp(f.Stored))
	case j.header != f.Header || f.Size != uint32(len(j.stored.Data)):
		s.Integrity.fail(j.at, "its entry in the log says other things of it than it does")
	}
	s.judge(&j.entry, j.at, j.reason, j.detail, j.doubt)
	if j.reason != 0 && f.Outcome == 0 && j.doubt == "" {
		s.Authenticity.figure("messages that had verified when they were logged, and do not now", 1)
	}
	switch {
	case !j.readable:
	case j.open != nil:
		s.Readability.fail(j.at, "%v", j.open)
	default:
		s.Readability.figure("messages opened", 1)
	}
}

// judge gives the verdict on who sent a message.
func (v *verification) judge(e *Entry, at Position, reason keyring.Reason, detail, doubt string) {
	a := &v.Authenticity
	if reason == 0 {
		a.figure("messages attested", 1)
		return
	}
	who := "no frame"
	if h := &e.Frame.Header; !h.IsZero() {
		who = fmt.Sprintf("%s that says it is of %.300q", h.Kind, h.Sender)
	}
	what := fmt.Sprintf("%s: %s", who, reason)
	if detail != "" {
		what += ", " + detail
	}
	if doubt != "" {
		a.leave(at, "%s: %s", what, doubt)
		return
	}
	a.fail(at, "%s", what)
}

// unseen gives the verdict on a message that is not there, by what the log says of it.
func (v *verification) unseen(e *Entry, at Position) {
	f := &e.Frame
	if f.Outcome == 0 {
		v.Authenticity.figure("messages that are not there, and were attested when they were logged", 1)
		return
	}
	j := &job{entry: *e, at: at, header: f.Header, reason: f.Outcome, era: v.eraAt(at.Entry)}
	var ok bool
	if j.expect, ok = Expect(v.Origin.Stream, f.Subject, &f.Header); ok && j.era >= 0 {
		j.doubt = v.doubt(j, func(era int) bool {
			p, id := v.eras[era].policy, agentOf(&f.Header)
			return p != nil && !p.Revoked(id.Name()) && p.CanWrite(j.expect.Channel, id.Name())
		})
	}
	v.judge(e, at, j.reason, "when it was logged", j.doubt)
}

// eraAt returns the policy's time that an entry is in, -1 where there is none.
func (v *verification) eraAt(entry int64) int {
	at := -1
	for i := range v.eras {
		if v.eras[i].entry > entry {
			break
		}
		at = i
	}
	return at
}

// attest attests a message under the policy that was in force when it was logged.
func (v *verification) attest(j *job) {
	var ok bool
	if j.expect, ok = Expect(v.Origin.Stream, j.entry.Frame.Subject, &j.header); !ok {
		if j.reason, j.detail = keyring.Misdirected, "not one that belongs under its subject"; j.header.IsZero() {
			j.reason, j.detail = keyring.Malformed, ""
		}
		return
	}
	if len(v.eras) == 0 || v.eras[j.era].entry > j.at.Entry || v.eras[j.era].policy == nil {
		j.reason, j.detail, j.doubt = keyring.NotEntitled, "", "the policy of that time is not here"
		return
	}
	var err error
	if j.reason, j.detail, err = v.under(j, j.era); err != nil {
		j.reason, j.detail, j.doubt = keyring.NotEntitled, err.Error(), "the policy of that time is not believed"
		return
	}
	if j.reason != 0 {
		j.doubt = v.doubt(j, func(era int) bool {
			reason, _, err := v.under(j, era)
			return reason == 0 && err == nil
		})
	}
}

// under attests a message under the policy of a time.
func (v *verification) under(j *job, era int) (keyring.Reason, string, error) {
	_, err := v.in.Statements.witness.Attest(j.stored.Data, j.expect.Channel, v.eras[era].policy, j.entry.Logged, &j.expect.Want)
	var r *keyring.Rejection
	if errors.As(err, &r) {
		return r.Reason, r.Detail, nil
	}
	return 0, "", err
}

// doubt says why a message that is not attested may be an honest one all the same; empty: it is not. under tells whether it would
// have been attested under the policy of another time.
func (v *verification) doubt(j *job, under func(era int) bool) string {
	f, e := &j.entry.Frame, &v.eras[j.era]
	switch j.reason {
	case keyring.Unsigned:
		if s, ok := e.policy.Settings(j.expect.Channel); ok && !s.Signed {
			return "the policy does not ask for signatures here, and without one only who has the key can tell whose it is"
		}
		return v.overtaken(j, under)
	case keyring.Revoked, keyring.NotEntitled:
		return v.overtaken(j, under)
	case keyring.NoCard:
		if f.Outcome == 0 {
			return "it was attested when it was logged, and the card of its sender is not here"
		}
	case keyring.Stale:
		if v.aged(j) {
			return "it was signed while its sender's card was valid, but so long before it was logged that its time proves nothing"
		}
	}
	return ""
}

// overtaken reports that a message may have been on its way when the policy took its sender's right away: it was sealed before that
// was logged, and came soon after, or was in the stream already.
func (v *verification) overtaken(j *job, under func(era int) bool) string {
	sealed := j.header.Sealed()
	for era := j.era - 1; era >= 0 && j.era-era <= maxBack; era-- {
		next := &v.eras[era+1]
		if v.eras[era].policy == nil || sealed.After(next.logged.Add(clockLead)) {
			continue
		}
		soon := j.entry.Logged.Sub(next.logged) <= overtaken || j.entry.Frame.Sequence <= next.last || j.expect.Late
		if soon && under(era) {
			return fmt.Sprintf("it may have been sent under the policy before revision %d, as its time says", next.revision)
		}
	}
	return ""
}

// aged reports that a stale message was sealed within the life of its sender's card, and is just too old.
func (v *verification) aged(j *job) bool {
	sealed := j.header.Sealed()
	info, err := v.in.Statements.witness.Card(agentOf(&j.header), j.header.Card)
	return err == nil && sealed.Before(info.Until) && !sealed.Before(info.From.Add(-clockLead)) &&
		!sealed.After(j.entry.Logged.Add(clockLead)) && j.entry.Logged.Sub(sealed) > time.Minute
}

// agentOf returns the sender that a header names; zero if that is no identity.
func agentOf(h *Header) identity.ID {
	id, err := identity.ParseID(h.Sender)
	if err != nil {
		return identity.ID{}
	}
	return id
}
