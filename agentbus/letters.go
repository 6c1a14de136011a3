package agentbus

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// AllDeadLetters ranges over the dead letters of a queue that this agent may enqueue to, oldest first, any number of them: 256 are
// read at a time. What becomes a dead letter meanwhile comes too. What does not verify is counted as rejected and left
// out. The error, which ends it, is that of DeadLetters. Each loop over it reads anew.
func (b *Bus) AllDeadLetters(ctx context.Context, queue string) iter.Seq2[*DeadLetter, error] {
	return func(yield func(*DeadLetter, error) bool) {
		for from := new(pageStart); from != nil; {
			var letters []*DeadLetter
			var err error
			if letters, from, err = b.letterPage(ctx, queue, from); err != nil {
				yield(nil, err)
				return
			}
			for _, d := range letters {
				if !yield(d, nil) {
					return
				}
			}
		}
	}
}

// letterPage is bounded in time by itself: a loop may take as long as it likes between two of them.
func (b *Bus) letterPage(ctx context.Context, queue string, from *pageStart) (list []*DeadLetter, next *pageStart, err error) {
	if b.closed() && !b.ofHandler(ctx) {
		return nil, nil, ErrClosed
	}
	if _, err := b.ring.Policy().QueueChannel(queue); err != nil {
		return nil, nil, err
	}
	ch, err := policy.Result(queue)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	ctx, cancel = b.untilClosed(ctx)
	defer cancel()
	rc, err := b.storedReceiver(ctx, ch)
	if err != nil {
		return nil, nil, b.closedOr(ctx, err)
	}
	entries, next, err := b.store.page(ctx, policy.DeadStream(queue), policy.DeadSubject(queue, "*"), from)
	if err != nil {
		return nil, nil, b.closedOr(ctx, err)
	}
	for _, e := range entries {
		d, err := b.letterOf(ctx, rc, queue, e)
		if err != nil {
			return nil, nil, b.closedOr(ctx, err)
		}
		if d != nil {
			list = append(list, d)
		}
	}
	return list, next, nil
}

// letterOf opens a dead letter. It counts what does not verify, and returns nil for that.
func (b *Bus) letterOf(ctx context.Context, rc *keyring.StoredReceiver, queue string, e found) (*DeadLetter, error) {
	d, err := openLetter(b.opens(ctx, rc), queue, e)
	var r *keyring.Rejection
	if errors.As(err, &r) {
		b.counts.rejectedFor(r.Reason)
		return nil, nil
	}
	return d, err
}

// withHistory fills in what is known of a dead task's attempts. The last one, of which it died, stands in the letter alone.
func (b *Bus) withHistory(ctx context.Context, d *DeadLetter) (*DeadLetter, error) {
	if d.Reason == DeadUnopenable {
		return d, nil
	}
	var err error
	if d.History, err = b.Attempts(ctx, d.Queue, d.Task); err != nil {
		return nil, err
	}
	d.History = withLast(d.History, d)
	return d, nil
}

// withLast adds to the attempts at a dead task the one that it died of.
func withLast(list []Attempt, d *DeadLetter) []Attempt {
	if len(list) < d.Attempts && (d.Reason == DeadAttempts || d.Reason == DeadCancelled) {
		list = append(list, Attempt{Number: d.Attempts, Time: d.Time, Worker: d.Worker, Text: d.Text})
	}
	return list
}

// PurgeDeadLetter removes a dead letter for good, for who may enqueue there, and returns when that is on the broker's disk. The
// result of its task stays, so that it is not worked on again. Agents cannot remove anything themselves: the broker does
// it, and says that it has. The error is ErrNoLetter where there is none, ErrNotEntitled where the policy does not let this agent
// enqueue there.
func (b *Bus) PurgeDeadLetter(ctx context.Context, queue string, id ulid.ULID) error {
	n, again, err := b.purge(ctx, queue, policy.PurgeRequest{ID: id.String()})
	if err == nil && n == 0 && !again {
		return fmt.Errorf("%w: %s in %s", ErrNoLetter, id, queue)
	}
	return err
}

// PurgeDeadLetters removes all dead letters that a queue has, as PurgeDeadLetter does, and returns how many went. Where the
// connection was lost before the answer came, and it had to ask again, those that the first try removed are not counted.
func (b *Bus) PurgeDeadLetters(ctx context.Context, queue string) (n int, err error) {
	n, _, err = b.purge(ctx, queue, policy.PurgeRequest{All: true})
	return n, err
}

// purge asks until there is an answer, and says whether it had to ask more than once.
func (b *Bus) purge(ctx context.Context, queue string, question policy.PurgeRequest) (n int, again bool, err error) {
	enqueues, err := b.partIn(ctx, queue)
	if err != nil {
		return 0, false, err
	}
	if !enqueues {
		p := b.ring.Policy()
		ch, _ := p.QueueChannel(queue) // which partIn has found
		return 0, false, fmt.Errorf("%w: %s does not let %q enqueue to %s, and so not purge its dead letters", ErrNotEntitled, p.Where(ch), b.self.Name(), queue)
	}
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	ctx, cancel = b.untilClosed(ctx)
	defer cancel()
	var answer policy.PurgeAnswer
	asked, err := b.store.ask(ctx, queue, policy.AskPurge, question, &answer)
	if err != nil {
		return 0, asked > 1, b.closedOr(ctx, err)
	}
	if answer.Error != "" {
		return 0, asked > 1, fmt.Errorf("agentbus: purging dead letters of queue %s: the broker says %.200q", queue, answer.Error)
	}
	return int(min(answer.Purged, math.MaxInt)), asked > 1, nil
}
