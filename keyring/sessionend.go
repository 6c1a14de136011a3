package keyring

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// sessionEnds is what the state directory keeps of counted sessions: on each channel the last one, those before it whose ends have
// perhaps not been said, and what is to be said to be void. When a session begins, that is on disk before its first frame is
// sealed, and its end is not known; a clean stop writes the end.
type sessionEnds struct {
	mu    sync.Mutex
	card  ulid.ULID // whose sessions they are
	saved map[string]savedEnds
}

// savedSessions is what is in the file.
type savedSessions struct {
	Version  int                  `json:"version"`
	Card     string               `json:"card"`
	Channels map[string]savedEnds `json:"channels"`
}

type savedEnds struct {
	Sessions []savedEnd  `json:"sessions"` // oldest first
	Void     []savedVoid `json:"void"`     // that no note has said to be void yet, as far as is known
}

type savedEnd struct {
	Session string `json:"session"`
	Last    uint64 `json:"last"` // 0: not known
	Leaf    []byte `json:"leaf"` // of the last frame
}

type savedVoid struct {
	Session string      `json:"session"`
	Numbers [][2]uint64 `json:"numbers"`
}

const sessionsName = "sessions.enc"

// load reads what the process before has left.
func (e *sessionEnds) load(s *storage) error {
	plain, err := s.load(sessionsName)
	if err != nil || plain == nil {
		return err
	}
	var all savedSessions
	d := json.NewDecoder(bytes.NewReader(plain))
	d.DisallowUnknownFields()
	if err := d.Decode(&all); err != nil || all.Version != stateVersion {
		return fmt.Errorf("keyring: %s is of another version (%d, want %d)", sessionsName, all.Version, stateVersion)
	}
	if e.card, err = ulid.ParseStrict(all.Card); err != nil {
		return err
	}
	for name, saved := range all.Channels {
		if _, _, err := saved.restored(); err != nil {
			return fmt.Errorf("keyring: %s, of %s: %w", sessionsName, name, err)
		}
	}
	e.saved = all.Channels
	return nil
}

// of returns how sessions of a card on a channel have ended, and what is to be said to be void.
func (e *sessionEnds) of(ch policy.Channel, card ulid.ULID) ([]sessionEnd, []void) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.card != card {
		return nil, nil
	}
	ends, list, err := e.saved[ch.String()].restored()
	if err != nil { // load has checked it, or it was written here
		panic(err)
	}
	return ends, list
}

// begin notes that the last of some sessions has begun, if there is a state directory.
func (e *sessionEnds) begin(s *storage, ch policy.Channel, card ulid.ULID, ends []sessionEnd, list []void) error {
	if s == nil {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.set(ch, card, ends, list)
	return e.save(s)
}

func (e *sessionEnds) set(ch policy.Channel, card ulid.ULID, ends []sessionEnd, list []void) {
	if e.card != card || e.saved == nil {
		e.card, e.saved = card, make(map[string]savedEnds)
	}
	var all savedEnds
	for _, end := range ends {
		one := savedEnd{Session: end.session.String(), Last: end.last}
		if end.last > 0 {
			one.Leaf = end.leaf[:]
		}
		all.Sessions = append(all.Sessions, one)
	}
	for _, v := range list {
		one := savedVoid{Session: v.session.String()}
		for _, n := range v.numbers {
			one.Numbers = append(one.Numbers, [2]uint64{n.from, n.to})
		}
		all.Void = append(all.Void, one)
	}
	e.saved[ch.String()] = all
}

func (e *sessionEnds) save(s *storage) error {
	plain, err := json.Marshal(savedSessions{Version: stateVersion, Card: e.card.String(), Channels: e.saved})
	if err != nil {
		return err
	}
	return s.save(sessionsName, plain)
}

// finishSessions writes how all sessions have ended, on a clean stop.
func (r *Ring) finishSessions() error {
	r.mu.Lock()
	counted := r.counted
	r.mu.Unlock()
	for ch, s := range counted {
		ends, list := s.finish()
		r.ends.mu.Lock()
		r.ends.set(ch, s.att.own.card, ends, list)
		r.ends.mu.Unlock()
	}
	if r.storage == nil || len(counted) == 0 {
		return nil
	}
	r.ends.mu.Lock()
	defer r.ends.mu.Unlock()
	if err := r.ends.save(r.storage); err != nil {
		return fmt.Errorf("keyring: saving how sessions ended: %w", err)
	}
	return nil
}

var errEnd = errors.New("malformed")

// restored reads what set writes.
func (all savedEnds) restored() (ends []sessionEnd, list []void, err error) {
	if len(all.Sessions) > maxEnds+1 || len(all.Void) > maxVoidSessions {
		return nil, nil, errEnd
	}
	for _, s := range all.Sessions {
		end := sessionEnd{last: s.Last}
		if end.session, err = ulid.ParseStrict(s.Session); err != nil {
			return nil, nil, err
		}
		if s.Last > SessionFrames || s.Last > 0 && len(s.Leaf) != envelope.HashSize || s.Last == 0 && len(s.Leaf) > 0 {
			return nil, nil, errEnd
		}
		copy(end.leaf[:], s.Leaf)
		ends = append(ends, end)
	}
	c := &counter{}
	for _, v := range all.Void {
		id, err := ulid.ParseStrict(v.Session)
		if err != nil {
			return nil, nil, err
		}
		for _, n := range v.Numbers {
			if n[0] == 0 || n[0] > n[1] || n[1] > SessionFrames {
				return nil, nil, errEnd
			}
			c.add(id, n[0], n[1])
		}
	}
	return ends, c.void, nil
}
