package keyring

import (
	"bufio"
	"crypto/rand"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
)

// idSource draws ULIDs that are unique and, within one millisecond, ascending. The randomness is the
// system's, never math/rand's: an id is a frame's nonce.
type idSource struct {
	now func() time.Time

	mu      sync.Mutex
	entropy *ulid.MonotonicEntropy
	id      ulid.ULID
}

func (s *idSource) next() (ulid.ULID, error) {
	id, _, err := s.nextAt()
	return id, err
}

// nextAt also returns the time in the id.
func (s *idSource) nextAt() (ulid.ULID, time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entropy == nil {
		s.entropy = ulid.Monotonic(bufio.NewReader(rand.Reader), 0)
	}
	now := s.now()
	ms := ulid.Timestamp(now)
	if err := s.id.SetTime(ms); err != nil {
		return ulid.ULID{}, now, err
	}
	if err := s.entropy.MonotonicRead(ms, s.id[6:]); err != nil {
		return ulid.ULID{}, now, err
	}
	return s.id, now, nil
}
