package keyring

import (
	"bufio"
	"crypto/rand"
	"encoding/binary"
	"math"
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
	last    ulid.ULID
	drawn   ulid.ULID // here, so that it need not be allocated
}

func (s *idSource) next() (ulid.ULID, error) {
	id, _, err := s.nextAt()
	return id, err
}

// nextAt also returns the time in the id.
func (s *idSource) nextAt() (ulid.ULID, time.Time, error) {
	var id [1]ulid.ULID
	now, err := s.fill(id[:])
	return id[0], now, err
}

// fill draws an id for each place in ids, of which there is at least one, all of one millisecond and each one more than
// that before it: so the messages of a frame cost one draw. On error ids is not to be used.
func (s *idSource) fill(ids []ulid.ULID) (now time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now, err = s.draw(); err != nil {
		return now, err
	}
	high, low := s.last[:8], binary.BigEndian.Uint64(s.last[8:])
	if low > math.MaxUint64-uint64(len(ids)) {
		return now, ulid.ErrMonotonicOverflow
	}
	for i := range ids {
		copy(ids[i][:8], high)
		binary.BigEndian.PutUint64(ids[i][8:], low+uint64(i))
	}
	s.last = ids[len(ids)-1]
	return now, nil
}

// draw makes last a new id of the present time. Where the entropy of a millisecond is used up it fails, as fill does where
// it cannot count on: less than once in 2^25 milliseconds of a million frames each.
func (s *idSource) draw() (time.Time, error) {
	if s.entropy == nil {
		s.entropy = ulid.Monotonic(bufio.NewReader(rand.Reader), 0)
	}
	now, id := s.now(), &s.drawn
	if err := id.SetTime(ulid.Timestamp(now)); err != nil {
		return now, err
	}
	if err := s.entropy.MonotonicRead(id.Time(), id[6:]); err != nil {
		return now, err
	}
	if id.Time() != s.last.Time() || id.Compare(s.last) > 0 {
		s.last = *id
		return now, nil
	}
	// The source knows nothing of what fill has counted on from its last word.
	low := binary.BigEndian.Uint64(s.last[8:])
	if low == math.MaxUint64 {
		return now, ulid.ErrMonotonicOverflow
	}
	binary.BigEndian.PutUint64(s.last[8:], low+1)
	return now, nil
}
