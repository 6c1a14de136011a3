package agentbus

import (
	"crypto/sha256"
	"errors"
	"time"

	"github.com/oklog/ulid/v2"
	"golang.org/x/crypto/cryptobyte"

	"github.com/sealbus/sealbus/internal/schedule"
	"github.com/sealbus/sealbus/policy"
)

// template is what makes a task a recurring one. It travels inside the seal, in the header "sealbus-recur", beside terms without
// times of their own:
//
//	version   u8 = 1
//	name      u8-prefixed   one token, up to 64 bytes
//	schedule  u8-prefixed   see package internal/schedule
//
// It is in force from the time of its frame on.
type template struct {
	name     string
	schedule schedule.Schedule
}

const templateVersion = 1

// errTemplate is for a template that Recur cannot have made.
var errTemplate = errors.New("agentbus: the template of a recurring task is malformed")

func (t *template) encode() ([]byte, error) {
	b := cryptobyte.NewBuilder(make([]byte, 0, 96))
	b.AddUint8(templateVersion)
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(t.name)) })
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(t.schedule.String())) })
	return b.Bytes()
}

// decodeTemplate reads what encode writes, and nothing else.
func decodeTemplate(b []byte) (template, error) {
	s := cryptobyte.String(b)
	var version uint8
	var name, text cryptobyte.String
	if !s.ReadUint8(&version) || version != templateVersion || !s.ReadUint8LengthPrefixed(&name) || !s.ReadUint8LengthPrefixed(&text) ||
		!s.Empty() || !policy.IsRecurName(string(name)) {
		return template{}, errTemplate
	}
	ticks, err := schedule.Parse(string(text))
	if err != nil {
		return template{}, errTemplate
	}
	return template{string(name), ticks}, nil
}

// RunID returns the id of the run of a recurring task for one of its ticks, with which Bus.Task gives a handle whose Result
// can be awaited. It is the same whoever registered the task, and however often: the tick's Unix time in
// milliseconds as a ULID's time, and as its entropy the first 10 bytes of
//
//	SHA-256("sealbus/v1 run" ‖ u8-prefixed queue ‖ u8-prefixed name ‖ u64 that time)
//
// It is zero for a name that no recurring task can have, and for a time before 1970.
func RunID(queue, name string, tick time.Time) (id ulid.ULID) {
	ms := tick.UnixMilli()
	if !policy.IsRecurName(name) || len(queue) > policy.MaxDelayID || ms < 0 || id.SetTime(uint64(ms)) != nil {
		return ulid.ULID{}
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, 160))
	b.AddBytes([]byte("sealbus/v1 run"))
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(queue)) })
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(name)) })
	b.AddUint64(uint64(ms))
	sum := sha256.Sum256(b.BytesOrPanic()) // both are short
	copy(id[6:], sum[:])
	return id
}
