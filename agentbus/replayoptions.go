package agentbus

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/internal/envelope"
)

// ReplayOption is an option of Replay and ReplayQueue.
type ReplayOption interface{ applyReplay(*replayOptions) error }

type replayOption func(*replayOptions) error

func (f replayOption) applyReplay(o *replayOptions) error { return f(o) }

// replayOptions are what the options say.
type replayOptions struct {
	from, to     uint64 // 0: not given
	since, until time.Time
	follow       bool
	sender       string
	headers      []envelope.Pair
	speed        float64
	progress     func(ReplayProgress)
	given        map[string]bool
}

// FromSequence begins at a place in the stream, Message.Sequence, or at the first after it that is still there. The first
// place is 1.
func FromSequence(n uint64) ReplayOption {
	return replayOption(func(o *replayOptions) error {
		o.from = n
		if n == 0 {
			return errors.New("agentbus: FromSequence(0): the first place of a stream is 1")
		}
		return o.once("FromSequence")
	})
}

// ToSequence ends with a place in the stream, that one included.
func ToSequence(n uint64) ReplayOption {
	return replayOption(func(o *replayOptions) error {
		o.to = n
		if n == 0 {
			return errors.New("agentbus: ToSequence(0): the first place of a stream is 1")
		}
		return o.once("ToSequence")
	})
}

// Since begins with what was stored at a time or later. That is the broker's word, by its clock; when a message was sealed,
// Message.Time tells.
func Since(t time.Time) ReplayOption {
	return replayOption(func(o *replayOptions) error {
		o.since = t
		if t.IsZero() {
			return errors.New("agentbus: Since of no time at all: leave it out to begin at the beginning")
		}
		return o.once("Since")
	})
}

// Until ends before what was stored at a time or later, as Since has it.
func Until(t time.Time) ReplayOption {
	return replayOption(func(o *replayOptions) error {
		o.until = t
		if t.IsZero() {
			return errors.New("agentbus: Until no time at all: leave it out to go on to the end")
		}
		return o.once("Until")
	})
}

// Follow goes on at the end with what is stored from then on, until the context ends, whose error then ends the loop, and through
// every loss of the connection. It looks for more every 5 milliseconds at first and ever more seldom, at most every second.
// Of a topic where nothing has come for a tenth of a second it hears by the live subjects that there may be more, and looks at once.
func Follow() ReplayOption {
	return replayOption(func(o *replayOptions) error {
		o.follow = true
		return o.once("Follow")
	})
}

// BySender takes only what an agent has sent, given by its name. What cannot be opened comes all the same if it claims to be
// that agent's, or nobody's.
func BySender(name string) ReplayOption {
	return replayOption(func(o *replayOptions) error {
		o.sender = name
		if _, err := identity.ParseID("spiffe://a/agent/" + name); err != nil {
			return fmt.Errorf("agentbus: BySender(%.80q): give the agent's name, as the policy has it", name)
		}
		return o.once("BySender")
	})
}

// WithHeader takes only messages that have a header with this value: ContentType's is "content-type". Given more than once, they
// have to have all. Headers are sealed: every message is opened for this.
func WithHeader(key, value string) ReplayOption {
	return replayOption(func(o *replayOptions) error {
		if key == "" {
			return errors.New("agentbus: WithHeader without a key")
		}
		o.headers = append(o.headers, envelope.Pair{Key: []byte(key), Value: []byte(value)})
		return nil
	})
}

// Pace replays with the pauses that lay between the messages, by the times at which they were sealed: Pace(1) as it was,
// Pace(10) ten times as fast, Pace(0.5) half as fast. Without it everything comes as fast as it can be read.
func Pace(speed float64) ReplayOption {
	return replayOption(func(o *replayOptions) error {
		if !(speed > 0) || math.IsInf(speed, 1) {
			return fmt.Errorf("agentbus: Pace(%v): use 1 for the original pace, 10 for ten times that, and leave it out for full speed", speed)
		}
		o.speed = speed
		return o.once("Pace")
	})
}

// OnProgress has fn called at most once a second, and once at the end, by the goroutine of the loop. It must not block.
func OnProgress(fn func(ReplayProgress)) ReplayOption {
	return replayOption(func(o *replayOptions) error {
		if fn == nil {
			return errors.New("agentbus: OnProgress needs a function")
		}
		o.progress = fn
		return o.once("OnProgress")
	})
}

func (o *replayOptions) once(name string) error {
	if o.given[name] {
		return fmt.Errorf("agentbus: %s is given twice", name)
	}
	if o.given == nil {
		o.given = make(map[string]bool)
	}
	o.given[name] = true
	return nil
}

func parseReplayOptions(options []ReplayOption) (o replayOptions, err error) {
	for _, option := range options {
		if err := option.applyReplay(&o); err != nil {
			return o, err
		}
	}
	switch {
	case o.from > 0 && !o.since.IsZero():
		return o, errors.New("agentbus: FromSequence and Since both say where to begin: leave one out")
	case o.to > 0 && !o.until.IsZero():
		return o, errors.New("agentbus: ToSequence and Until both say where to end: leave one out")
	case o.follow && (o.to > 0 || !o.until.IsZero()):
		return o, errors.New("agentbus: Follow goes on until the context ends: leave it out, or ToSequence and Until")
	case o.to > 0 && o.from > o.to:
		return o, fmt.Errorf("agentbus: FromSequence(%d) is behind ToSequence(%d)", o.from, o.to)
	case !o.until.IsZero() && !o.until.After(o.since):
		return o, fmt.Errorf("agentbus: Until(%s) is not after Since(%s)", o.until.Format(time.RFC3339Nano), o.since.Format(time.RFC3339Nano))
	}
	return o, nil
}

// takes reports whether a message has the headers that are asked for.
func (o *replayOptions) takes(headers []envelope.Pair) bool {
	for i := range o.headers {
		if !hasHeader(headers, &o.headers[i]) {
			return false
		}
	}
	return true
}

func hasHeader(headers []envelope.Pair, want *envelope.Pair) bool {
	for i := range headers {
		if string(headers[i].Key) == string(want.Key) {
			return string(headers[i].Value) == string(want.Value)
		}
	}
	return false
}
