package bustest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
)

// Session is what a stream holds of one counted session of a sender.
type Session struct {
	ID     ulid.ULID
	Sender string
	Notes  []string // in the order in which they are stored
	Closed bool
	End    uint64 // as its closing note says, or an opening note of a later one; 0: nobody says
	Top    uint64 // the highest number stored

	Missing []uint64 // numbers up to there that are neither stored nor void

	stored map[uint64][envelope.HashSize]byte
	void   [][2]uint64
	opened bool
}

// Sessions reads what a stream holds, as somebody without a key can, and returns the counted sessions in the order of their ids, and
// what is wrong with them besides what is missing.
func (w *World) Sessions(stream string) (list []*Session, wrong []string) {
	w.T.Helper()
	return SessionsOf(w.T, w.stored(stream))
}

// SessionsWithout is Sessions as it would be if the n-th message, from 0, were not there.
func (w *World) SessionsWithout(stream string, n int) (list []*Session, wrong []string) {
	w.T.Helper()
	return SessionsOf(w.T, slices.Delete(w.stored(stream), n, n+1))
}

// SessionsOf is Sessions for messages that have been read. In a queue's log the tasks are counted that were put there by their
// enqueuers.
func SessionsOf(t testing.TB, messages []*jetstream.RawStreamMsg) (list []*Session, wrong []string) {
	t.Helper()
	all := make(map[ulid.ULID]*Session)
	of := func(id ulid.ULID) *Session {
		if all[id] == nil {
			all[id] = &Session{ID: id, stored: make(map[uint64][envelope.HashSize]byte)}
		}
		return all[id]
	}
	ends := make(map[ulid.ULID][]keyring.SessionNote)
	for _, m := range messages {
		if strings.HasPrefix(m.Subject, "sb.due.") || strings.HasPrefix(m.Subject, "sb.spread.") {
			continue
		}
		var f envelope.Frame
		Check(t, envelope.Parse(m.Data, &f))
		s := of(f.Session)
		if _, twice := s.stored[f.Seq]; twice {
			wrong = append(wrong, fmt.Sprintf("number %d of %s is stored twice", f.Seq, s.ID))
		}
		s.Sender, s.Top = string(f.Sender), max(s.Top, f.Seq)
		s.stored[f.Seq] = envelope.Leaf(f.Head, f.Ciphertext)
		if f.Kind != envelope.KindControl {
			continue
		}
		n, err := keyring.ParseSessionNote(string(f.Recipient))
		Check(t, err)
		s.Notes = append(s.Notes, string(f.Recipient))
		switch n.Kind {
		case keyring.NoteOpen:
			s.opened = true
			if n.Last > 0 {
				ends[n.Previous] = append(ends[n.Previous], n)
			}
		case keyring.NoteClose:
			s.Closed, s.End = true, f.Seq
		case keyring.NoteVoid:
			of(n.Session).void = append(of(n.Session).void, [2]uint64{n.From, n.To})
		}
	}
	for id, notes := range ends {
		s := of(id)
		for _, n := range notes {
			if leaf, ok := s.stored[n.Last]; ok && leaf != n.Leaf {
				wrong = append(wrong, fmt.Sprintf("%s does not end as the next says", id))
			}
			s.End = max(s.End, n.Last)
		}
	}
	for _, s := range all {
		wrong = append(wrong, s.check()...)
		if len(s.stored) > 0 || len(s.Missing) > 0 {
			list = append(list, s)
		}
	}
	slices.SortFunc(list, func(a, b *Session) int { return a.ID.Compare(b.ID) })
	return list, wrong
}

func (s *Session) check() (list []string) {
	if len(s.stored) > 0 && !s.opened {
		list = append(list, fmt.Sprintf("%s is not opened", s.ID))
	}
	if s.End > 0 && s.Top > s.End {
		list = append(list, fmt.Sprintf("%s goes on until %d, after its end at %d", s.ID, s.Top, s.End))
	}
	for n := uint64(1); n <= max(s.End, s.Top); n++ {
		if _, ok := s.stored[n]; !ok && !slices.ContainsFunc(s.void, func(v [2]uint64) bool { return v[0] <= n && n <= v[1] }) {
			s.Missing = append(s.Missing, n)
		}
	}
	return list
}

// stored returns all that a stream holds.
func (w *World) stored(stream string) (all []*jetstream.RawStreamMsg) {
	w.T.Helper()
	js, err := jetstream.New(w.Admin("STORE"))
	Check(w.T, err)
	s, err := js.Stream(w.Ctx(), stream)
	Check(w.T, err)
	state := s.CachedInfo().State
	for seq := state.FirstSeq; seq <= state.LastSeq; seq++ {
		m, err := s.GetMsg(w.Ctx(), seq)
		Check(w.T, err)
		all = append(all, m)
	}
	return all
}
