package agentbus

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"github.com/sealbus/sealbus/policy"
)

// terms are the conditions of a task. They travel inside the seal, in the header "sealbus-task":
//
//	version      u8 = 1
//	priority     u8            0 to 3
//	not before   u64           Unix ms, 0 = at once
//	deadline     u64           Unix ms, 0 = none
//	timeout      u64           ms of one attempt, 0 = none
//	attempts     u16           at most, ≥ 1
//	backoff      u64, u64      ms after the first failure, and at most
//	kind         u8-prefixed   what handlers are chosen by
//	origin       16 bytes      the dead task that this one revives, else zero
type terms struct {
	priority    int
	notBefore   time.Time
	deadline    time.Time
	timeout     time.Duration
	attempts    int
	backoff     time.Duration
	backoffMost time.Duration
	kind        string
	origin      [16]byte
}

const termsVersion = 1

// errTerms is for terms that no EnqueueOption can have made.
var errTerms = errors.New("agentbus: the terms of the task are malformed")

func defaultTerms() terms {
	return terms{priority: DefaultPriority, attempts: DefaultMaxAttempts, backoff: DefaultBackoff, backoffMost: DefaultMaxBackoff}
}

func (t *terms) encode() ([]byte, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, 64+len(t.kind)))
	b.AddUint8(termsVersion)
	b.AddUint8(uint8(t.priority))
	b.AddUint64(millis(t.notBefore))
	b.AddUint64(millis(t.deadline))
	b.AddUint64(uint64(t.timeout.Milliseconds()))
	b.AddUint16(uint16(t.attempts))
	b.AddUint64(uint64(t.backoff.Milliseconds()))
	b.AddUint64(uint64(t.backoffMost.Milliseconds()))
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(t.kind)) })
	b.AddBytes(t.origin[:])
	return b.Bytes()
}

// decodeTerms reads what encode writes, and nothing else.
func decodeTerms(b []byte) (t terms, err error) {
	s := cryptobyte.String(b)
	var version, priority uint8
	var notBefore, deadline, timeout, backoff, most uint64
	var attempts uint16
	var kind cryptobyte.String
	if !s.ReadUint8(&version) || version != termsVersion || !s.ReadUint8(&priority) || !s.ReadUint64(&notBefore) ||
		!s.ReadUint64(&deadline) || !s.ReadUint64(&timeout) || !s.ReadUint16(&attempts) || !s.ReadUint64(&backoff) ||
		!s.ReadUint64(&most) || !s.ReadUint8LengthPrefixed(&kind) || !s.CopyBytes(t.origin[:]) || !s.Empty() {
		return terms{}, errTerms
	}
	for _, ms := range [...]uint64{notBefore, deadline, timeout, backoff, most} {
		if ms > maxMillis {
			return terms{}, errTerms
		}
	}
	t.priority, t.attempts, t.kind = int(priority), int(attempts), string(kind)
	t.notBefore, t.deadline = ofMillis(notBefore), ofMillis(deadline)
	t.timeout, t.backoff, t.backoffMost = milliseconds(timeout), milliseconds(backoff), milliseconds(most)
	if t.check() != nil {
		return terms{}, errTerms
	}
	return t, nil
}

// check holds for all terms, encoded or decoded.
func (t *terms) check() error {
	switch {
	case t.priority < 0 || t.priority >= policy.Priorities:
		return fmt.Errorf("agentbus: priority %d: use 0, the most urgent, to %d", t.priority, policy.Priorities-1)
	case t.attempts < 1 || t.attempts > maxAttempts:
		return fmt.Errorf("agentbus: %d attempts: use 1 to %d", t.attempts, maxAttempts)
	case t.timeout < 0 || t.timeout > maxTaskTime:
		return fmt.Errorf("agentbus: a timeout of %v: use up to %v, and none for no limit", t.timeout, maxTaskTime)
	case t.backoff < time.Millisecond || t.backoffMost < t.backoff || t.backoffMost > maxTaskTime:
		return fmt.Errorf("agentbus: a backoff from %v to %v: use at least 1ms, at most %v, and the smaller one first", t.backoff, t.backoffMost, maxTaskTime)
	case len(t.kind) > maxTaskKind:
		return fmt.Errorf("agentbus: a kind of %d bytes: use up to %d", len(t.kind), maxTaskKind)
	case millis(t.notBefore) > maxMillis || millis(t.deadline) > maxMillis:
		return errors.New("agentbus: a time before 1970, or more than 2^53 ms after")
	case !t.deadline.IsZero() && !t.notBefore.IsZero() && !t.deadline.After(t.notBefore):
		return errors.New("agentbus: the deadline is not after the time at which the task may begin")
	}
	return nil
}

// pause is how long to wait at most after the n-th failed attempt; half of it is random.
func (t *terms) pause(n int) time.Duration {
	if shift := n - 1; shift >= 0 && shift < 32 && t.backoff <= t.backoffMost>>shift {
		return t.backoff << shift
	}
	return t.backoffMost
}

func millis(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(t.UnixMilli())
}

func ofMillis(ms uint64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(int64(ms))
}

func milliseconds(ms uint64) time.Duration { return time.Duration(ms) * time.Millisecond }
