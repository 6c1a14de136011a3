package agentbus

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/sealbus/sealbus/policy"
)

// ReplayError is a message of a stream that Replay or ReplayQueue cannot open, or that does not belong where it lies. The
// replay goes on behind it. Err is a *keyring.Rejection that says why; all else is the broker's word.
type ReplayError struct {
	Sequence uint64    // its place in the stream
	Subject  string    // on NATS, under which the broker keeps it
	Stored   time.Time // when, by the broker's clock
	Err      error
}

func (e *ReplayError) Error() string {
	return fmt.Sprintf("agentbus: message %d of the stream, under %.80q: %v", e.Sequence, e.Subject, e.Err)
}

func (e *ReplayError) Unwrap() error { return e.Err }

// ReplayProgress is how far a replay is.
type ReplayProgress struct {
	Position uint64  // the place in the stream that the loop has reached
	End      uint64  // the last place that is to be read; with Follow the last that is known of
	Messages uint64  // or TaskHistories, that the loop was given
	Errors   uint64  // and ReplayErrors
	Rate     float64 // messages a second since the call before
}

// Replay reads back what a retained topic holds of the subjects that a pattern matches, in the order in which the broker has
// stored it: "prices.>" for the whole topic, else as Subscribe has it. It is for those who may subscribe to the topic. It
// begins at the beginning and ends with what is there when the loop begins, unless options say otherwise. Each loop over it
// reads anew.
//
//	for m, err := range bus.Replay(ctx, "prices.>", agentbus.Since(yesterday)) { … }
//
// A replay changes nothing: nothing is acknowledged, answered or published, and subscriptions do not notice it. Its messages
// have passed every check that a stored frame is put to, see keyring.StoredReceiver. Message.Replayed is set, and Message.Sequence
// is the place in the stream, which messages that were sealed together share. A message counts for the subject that its sender has
// sealed, whatever subject the broker keeps it under. One whose ExpiresIn is over comes all the same. The policy in force says
// who may publish and who is revoked, also of what was sealed under another.
//
// What cannot be opened is yielded as a *ReplayError, with a nil message, and the loop goes on behind it. So is what the stream
// holds twice, from the second time on: its reason is keyring.Seen. Where the key of a message or its sender's card is not
// here, the others are asked for it, for up to 5 seconds for each key and card, and half a minute in all; what has not come by then is a
// ReplayError too; of a key that the policy has destroyed it wraps keyring.ErrKeyDestroyed. Whether agents that came later are given older keys is what the topic's history in the policy says. That
// nothing is missing is not for a replay to say, but for an auditor.
//
// Every other error ends the loop: ErrNotEntitled where the policy does not let this agent subscribe, what is wrong with
// pattern and options, that the topic is not retained, ctx's, ErrClosed, and that the broker has not answered for
// Config.RequestTimeout, where ctx has no deadline. A connection that is lost on the way is waited for as long.
//
// What comes next is read and opened on all cores while the loop is at a message, some 16 MiB ahead of it. To break out of the loop
// ends all of that. The loop may use the bus.
func (b *Bus) Replay(ctx context.Context, pattern string, options ...ReplayOption) iter.Seq2[*Message, error] {
	return func(yield func(*Message, error) bool) {
		fail := func(err error) bool { return yield(nil, err) }
		ctx, cancel := b.untilClosed(ctx)
		defer cancel()
		r, err := b.replayTopic(ctx, pattern, options, yield)
		if err != nil {
			fail(b.closedOr(ctx, err))
			return
		}
		r.run(ctx, fail)
	}
}

// replayTopic checks everything that can be checked at the call.
func (b *Bus) replayTopic(ctx context.Context, pattern string, options []ReplayOption, yield func(*Message, error) bool) (*replay, error) {
	if b.closed() && !b.ofHandler(ctx) {
		return nil, ErrClosed
	}
	if err := policy.CheckPattern(pattern); err != nil {
		return nil, err
	}
	topic, _, _ := strings.Cut(pattern, ".")
	p := b.ring.Policy()
	ch, err := p.TopicChannel(topic)
	if err != nil {
		return nil, err
	}
	o, err := parseReplayOptions(options)
	if err != nil {
		return nil, err
	}
	if s, _ := p.Settings(ch); s.Retain == 0 && p.CanRead(ch, b.self.Name()) {
		return nil, fmt.Errorf("agentbus: policy revision %d does not retain %s, so that there is nothing to replay: give it \"retain: 30d\", or what it needs",
			p.Revision(), ch)
	}
	rc, err := b.storedReceiver(ctx, ch)
	if err != nil {
		return nil, err
	}
	r, err := b.newReplay(ch, policy.TopicStream(topic), o)
	if err != nil {
		return nil, err
	}
	if pattern != topic+".>" {
		r.reader.filter = policy.TopicSubject(pattern)
	}
	for _, subject := range natsSubjects(pattern, topic) {
		r.follow.hears(subject)
	}
	r.source = &replayedTopic{replay: r, rc: rc, pattern: pattern, yield: yield}
	return r, nil
}
