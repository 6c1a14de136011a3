package identity

import "time"

// Limits of everything that this package parses. Sizes are in bytes and are
// checked before anything of that size is decoded or allocated.
const (
	// MaxName bounds the name of an agent or a broker node.
	MaxName = 63

	// MaxTrustDomain bounds the name of a trust domain.
	MaxTrustDomain = 180

	// MaxID bounds a whole SPIFFE ID as text, because frames carry it behind
	// a length of one byte. Under a trust domain of more than 176 bytes the
	// longest names therefore do not fit.
	MaxID = 255

	// MaxStatement bounds a signed statement as it travels.
	MaxStatement = 256 << 10

	// MaxChain bounds the certificates that a peer or a statement presents:
	// the leaf and at most three intermediates.
	MaxChain = 4

	// MaxKeyID bounds the key id in a statement's header.
	MaxKeyID = 128

	// MaxType bounds a statement's type.
	MaxType = 64

	// MaxFile bounds each PEM file that is read.
	MaxFile = 1 << 20
)

const (
	// checkInterval is how often an accessed [Files] looks at its files.
	checkInterval = time.Second

	// settleTime is how old a file's time of modification must be before an
	// unchanged one proves unchanged content. File systems stamp files from
	// a coarse clock, and two writes within one tick look like one.
	settleTime = 2 * time.Second

	// maxIssuedAt is the last second of the year 9999.
	maxIssuedAt = 253402300799
)
