package audit

import "errors"

var (
	// ErrMalformed is returned for bytes that are no entry, checkpoint, proof, export or disclosure of this version in
	// their one encoding.
	ErrMalformed = errors.New("audit: malformed")

	// ErrLocked is returned by Open while another process holds the log.
	ErrLocked = errors.New("audit: the log is in use by another process")

	// ErrDamaged is returned by Open and Read for a log that has not all that its last checkpoint covers, or not as it
	// was. It must not go on: put back a copy, or begin a new log beside it.
	ErrDamaged = errors.New("audit: the log is damaged")

	// ErrClosed is returned by every call on a Log after Close.
	ErrClosed = errors.New("audit: closed")

	// ErrFailed is returned by every call on a Log after writing to it has failed. Opened again, it has all that was
	// synced.
	ErrFailed = errors.New("audit: writing the log has failed before; open it again")

	// ErrInconsistent is returned where two checkpoints of one log cannot both be true: by Checkpoint, which does not sign
	// then, and by Sink.Put.
	ErrInconsistent = errors.New("audit: the log is not the one that was signed before")

	// ErrUnverified is returned for a checkpoint without a signature that verifies.
	ErrUnverified = errors.New("audit: no signature of this checkpoint verifies")

	// ErrProof is returned for a proof that does not lead from the entry to the checkpoint.
	ErrProof = errors.New("audit: the entry is not proven to be in the log")

	// ErrNotFound is returned where the log or an export has no such frame.
	ErrNotFound = errors.New("audit: no such frame in the log")

	// ErrDisclosure is returned for a disclosure that proves nothing: the error says why.
	ErrDisclosure = errors.New("audit: the disclosure proves nothing")
)
