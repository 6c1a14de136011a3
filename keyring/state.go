package keyring

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"

	"github.com/oklog/ulid/v2"
	"github.com/tink-crypto/tink-go/v2/keyset"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/policy"
)

// savedState is what a state directory keeps over a restart. It is only ever written encrypted, and the
// keysets in it are encrypted keysets of Tink's besides.
type savedState struct {
	Version int               `json:"version"`
	Agent   string            `json:"agent"`
	Card    string            `json:"card"`
	Signing []byte            `json:"signing"`
	Hybrid  []byte            `json:"hybrid"`
	Policy  []byte            `json:"policy"`
	Pins    []string          `json:"pins"` // the operators that were pinned when it was accepted
	Base    uint64            `json:"base"`
	Since   map[string]uint64 `json:"since"`
	Keys    []savedKey        `json:"keys"`

	Destroyed map[string]savedFloor `json:"destroyed,omitempty"`
}

type savedKey struct {
	Statement []byte `json:"statement"` // verified before it was saved
	Reader    bool   `json:"reader"`
	Key       []byte `json:"key"`              // K of a reader, else K_s
	Lapsed    bool   `json:"lapsed,omitempty"` // verified when its creator's card had expired
}

func (savedState) Format(w fmt.State, _ rune) { io.WriteString(w, redacted) }
func (savedState) LogValue() slog.Value       { return slog.StringValue(redacted) }
func (savedKey) Format(w fmt.State, _ rune)   { io.WriteString(w, redacted) }
func (savedKey) LogValue() slog.Value         { return slog.StringValue(redacted) }

const stateVersion = 1

var (
	keysetData = map[string][]byte{"signing": []byte("sealbus/v1 state signing"), "hybrid": []byte("sealbus/v1 state hybrid")}
)

// restore reads the state directory into a ring that is not attached yet.
func (r *Ring) restore() error {
	var err error
	if r.ceiling.floor, err = r.storage.loadCeiling(); err != nil {
		return err
	}
	if err := r.ends.load(r.storage); err != nil {
		return err
	}
	plain, err := r.storage.load(stateName)
	if err != nil || plain == nil {
		return err
	}
	var s savedState
	d := json.NewDecoder(bytes.NewReader(plain))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil || s.Version != stateVersion {
		return fmt.Errorf("keyring: %s is of another version (%d, want %d)", stateName, s.Version, stateVersion)
	}
	card, err := ulid.ParseStrict(s.Card)
	if err != nil {
		return err
	}
	signing, err := keyset.ReadWithAssociatedData(keyset.NewBinaryReader(bytes.NewReader(s.Signing)), r.storage.aead, keysetData["signing"])
	if err != nil {
		return err
	}
	hybridKey, err := keyset.ReadWithAssociatedData(keyset.NewBinaryReader(bytes.NewReader(s.Hybrid)), r.storage.aead, keysetData["hybrid"])
	if err != nil {
		return err
	}
	if r.own, err = ownFrom(card, signing, hybridKey); err != nil {
		return err
	}
	r.restored.Store(&s)
	return r.restoreView(&s)
}

// restoreView takes up the policy that was accepted last, so that an older one is refused now too. It was
// verified when it was accepted. Its signer need not be pinned: an earlier policy may have named it. But then
// every operator that was pinned at that time has to be pinned still, because who takes back a pin takes back
// what it led to.
func (r *Ring) restoreView(s *savedState) error {
	if len(s.Policy) == 0 {
		return nil
	}
	trusted := r.operators
	if r.allPinned(s.Pins) {
		signer, err := policy.SignedBy(s.Policy)
		if err != nil {
			return err
		}
		trusted = append([]identity.Fingerprint{signer}, trusted...)
	}
	p, err := policy.Verify(s.Policy, trusted)
	if errors.Is(err, policy.ErrUntrustedOperator) {
		return fmt.Errorf("keyring: the state directory follows a policy that none of the pinned operators signed: %w", err)
	}
	if err != nil {
		return err
	}
	v := &view{policy: p, raw: s.Policy, since: make(map[policy.Channel]uint64), base: s.Base}
	for name, since := range s.Since {
		ch, err := policy.ParseChannel(name)
		if err != nil {
			return err
		}
		v.since[ch] = since
	}
	floors, err := restoreFloors(s.Destroyed)
	if err != nil {
		return err
	}
	v.floors = floorsOf(floors, p, r.now())
	r.view.Store(v)
	r.shred(v)
	return nil
}

func (r *Ring) allPinned(pins []string) bool {
	for _, pin := range pins {
		if !slices.ContainsFunc(r.operators, func(f identity.Fingerprint) bool { return f.String() == pin }) {
			return false
		}
	}
	return len(pins) > 0
}

// restore gives a channel the keys that were saved for it.
func (c *channel) restore(s *savedState) {
	if s == nil {
		return
	}
	for _, saved := range s.Keys {
		_, st, err := claimedKey(saved.Statement)
		if err != nil || st.channel != c.ch {
			continue
		}
		k := &chanKey{statement: st, reader: saved.Reader}
		st.raw, st.lapsed = saved.Statement, saved.Lapsed
		key, err := secretFrom(saved.Key)
		if err == nil && saved.Reader {
			k.k = key
			k.own, err = key.senderKey(c.name, c.att.self.String())
		} else {
			k.own = key
		}
		if err == nil {
			c.state(st)
			err = c.hold(k)
		}
		if err != nil {
			c.att.report(Report{Key: policy.KeyPrefix(c.ch), Err: err})
		}
	}
	c.choose()
}

// save writes the state directory, if there is one.
func (r *Ring) save() error {
	if r.storage == nil {
		return nil
	}
	r.mu.Lock()
	a, channels := r.att, make(map[policy.Channel]*channel, len(r.channels))
	for ch, c := range r.channels {
		channels[ch] = c
	}
	closed := r.closed
	r.mu.Unlock()
	if closed {
		return nil // Close saves
	}
	return r.saveState(a, channels)
}

func (r *Ring) saveState(a *attachment, channels map[policy.Channel]*channel) error {
	if a == nil {
		return nil
	}
	r.saveMu.Lock()
	defer r.saveMu.Unlock()
	v := r.view.Load()
	if v == nil {
		return nil
	}
	s := savedState{Version: stateVersion, Agent: a.self.String(), Card: a.own.card.String(),
		Policy: v.raw, Base: v.base, Since: make(map[string]uint64), Destroyed: saveFloors(v.floors)}
	for ch, since := range v.since {
		s.Since[ch.String()] = since
	}
	for _, pin := range r.operators {
		s.Pins = append(s.Pins, pin.String())
	}
	var err error
	if s.Signing, err = r.encrypted(a.own.signing, "signing"); err != nil {
		return err
	}
	if s.Hybrid, err = r.encrypted(a.own.hybrid, "hybrid"); err != nil {
		return err
	}
	for _, c := range channels {
		s.Keys = append(s.Keys, c.saved()...)
	}
	s.Keys = append(s.Keys, r.unused(channels)...)
	plain, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := r.storage.save(stateName, plain); err != nil {
		return fmt.Errorf("keyring: saving the state: %w", err)
	}
	return nil
}

// unused returns the restored keys of channels that this process has not used: they are kept.
func (r *Ring) unused(channels map[policy.Channel]*channel) (keys []savedKey) {
	s := r.restored.Load()
	if s == nil {
		return nil
	}
	for _, k := range s.Keys {
		if _, st, err := claimedKey(k.Statement); err == nil && channels[st.channel] == nil {
			keys = append(keys, k)
		}
	}
	return keys
}

func (r *Ring) encrypted(h *keyset.Handle, what string) ([]byte, error) {
	var buf bytes.Buffer
	err := h.WriteWithAssociatedData(keyset.NewBinaryWriter(&buf), r.storage.aead, keysetData[what])
	return buf.Bytes(), err
}

func (c *channel) saved() (keys []savedKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.keys {
		if c.destroyed(k.statement) {
			continue // just now
		}
		s := savedKey{Statement: k.statement.raw, Reader: k.reader, Key: k.own.bytes(), Lapsed: k.statement.lapsed}
		if k.reader {
			s.Key = k.k.bytes()
		}
		keys = append(keys, s)
	}
	return keys
}
