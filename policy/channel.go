package policy

import (
	"fmt"
	"strings"

	"github.com/sealbus/sealbus/identity"
)

// ChannelKind says what a channel is for. The zero value is no kind.
type ChannelKind uint8

// The kinds of channel, with who reads (holds the channel key) and who writes.
const (
	KindTopic   ChannelKind = iota + 1 // read by subscribers, written by publishers
	KindQueue                          // read by workers, written by enqueuers
	KindResult                         // of a queue: read by its enqueuers, written by its workers
	KindService                        // read by servers, written by callers
	KindPair                           // exactly two agents, both read and write
)

var kindNames = [...]string{KindTopic: "topic", KindQueue: "queue", KindResult: "result", KindService: "service", KindPair: "pair"}

// String returns "topic", "queue", "result", "service" or "pair".
func (k ChannelKind) String() string {
	if k == 0 || int(k) >= len(kindNames) {
		return fmt.Sprintf("ChannelKind(%d)", uint8(k))
	}
	return kindNames[k]
}

// Channel names one set of readers and writers that share keys. It is a comparable value, made only by the
// functions of this package, so one that is not zero is well formed. The zero value is invalid.
//
// A channel exists by its name alone; whether a policy knows it is answered by [Policy.Settings].
type Channel struct {
	kind ChannelKind
	a, b string // b only for pairs, and then a < b
}

// Topic returns the channel of a topic. The name is the first token of its subjects: "prices" for "prices.eu.de".
// The error wraps [ErrChannel].
func Topic(name string) (Channel, error) { return named(KindTopic, name) }

// Queue returns the channel on which tasks of a queue travel. The error wraps [ErrChannel].
func Queue(name string) (Channel, error) { return named(KindQueue, name) }

// Result returns the channel on which results of a queue travel. The error wraps [ErrChannel].
func Result(queue string) (Channel, error) { return named(KindResult, queue) }

// Service returns the channel on which requests to a service travel; their replies travel on the [Pair] of the two
// agents. The error wraps [ErrChannel].
func Service(name string) (Channel, error) { return named(KindService, name) }

// Pair returns the channel that two agents share, whichever of them is named first. The error wraps [ErrChannel].
func Pair(a, b string) (Channel, error) {
	for _, name := range [...]string{a, b} {
		if err := identity.CheckName(name); err != nil {
			return Channel{}, fmt.Errorf("%w: pair of %.80q and %.80q: %w", ErrChannel, a, b, err)
		}
	}
	if a == b {
		return Channel{}, fmt.Errorf("%w: a pair takes two agents, and %q is one", ErrChannel, a)
	}
	return pairOf(a, b), nil
}

func named(kind ChannelKind, name string) (Channel, error) {
	if err := identity.CheckName(name); err != nil {
		return Channel{}, fmt.Errorf("%w: %s: %w", ErrChannel, kind, err)
	}
	return Channel{kind: kind, a: name}, nil
}

func pairOf(a, b string) Channel {
	if a > b {
		a, b = b, a
	}
	return Channel{kind: KindPair, a: a, b: b}
}

// ParseChannel reads what [Channel.String] writes: "topic/prices", "queue/q", "result/q", "service/s", "pair/a~b".
// It accepts no second spelling, so the names of a pair must be in order. The error wraps [ErrChannel].
func ParseChannel(s string) (Channel, error) {
	if len(s) > MaxChannel {
		return Channel{}, fmt.Errorf("%w: %d bytes, the longest has %d", ErrChannel, len(s), MaxChannel)
	}
	kind, name, ok := strings.Cut(s, "/")
	if !ok {
		return Channel{}, fmt.Errorf("%w: %q has no kind: write \"topic/%s\" or another kind", ErrChannel, s, s)
	}
	for k := KindTopic; k <= KindService; k++ {
		if kind == kindNames[k] {
			return named(k, name)
		}
	}
	if kind != kindNames[KindPair] {
		return Channel{}, fmt.Errorf("%w: %q: kind %q is none of topic, queue, result, service, pair", ErrChannel, s, kind)
	}
	a, b, ok := strings.Cut(name, "~")
	if !ok {
		return Channel{}, fmt.Errorf("%w: %q: a pair is written pair/<a>~<b>", ErrChannel, s)
	}
	ch, err := Pair(a, b)
	if err != nil {
		return Channel{}, err
	}
	if ch.a != a {
		return Channel{}, fmt.Errorf("%w: the names of %q are out of order: write %q", ErrChannel, s, ch)
	}
	return ch, nil
}

// MustParseChannel is [ParseChannel] for literals: it panics where that fails.
func MustParseChannel(s string) Channel {
	ch, err := ParseChannel(s)
	if err != nil {
		panic(err)
	}
	return ch
}

// String returns the channel's one spelling, at most [MaxChannel] bytes, or "" for the zero value.
func (c Channel) String() string {
	switch c.kind {
	case 0:
		return ""
	case KindPair:
		return "pair/" + c.a + "~" + c.b
	}
	return c.kind.String() + "/" + c.a
}

// Kind returns what the channel is for; zero for the zero value.
func (c Channel) Kind() ChannelKind { return c.kind }

// IsZero reports whether c is the zero value, which names no channel.
func (c Channel) IsZero() bool { return c.kind == 0 }

// Name returns what stands behind the slash: "prices" for topic/prices, "a~b" for a pair.
func (c Channel) Name() string {
	if c.kind == KindPair {
		return c.a + "~" + c.b
	}
	return c.a
}

// Peers returns the two names of a pair, in order, and empty strings for every other kind.
func (c Channel) Peers() (a, b string) {
	if c.kind != KindPair {
		return "", ""
	}
	return c.a, c.b
}

// Other returns the pair's other name, or "" when the channel is no pair or the agent is neither of the two.
func (c Channel) Other(agent string) string {
	switch {
	case c.kind != KindPair:
		return ""
	case agent == c.a:
		return c.b
	case agent == c.b:
		return c.a
	}
	return ""
}
