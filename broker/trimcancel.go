package broker

import (
	"context"
	"time"

	"github.com/sealbus/sealbus/policy"
)

// cancelled returns the time before which cancellations are needed no longer:
// done, or where the oldest delayed task that still waits is older than that, its
// own. A task can wait for longer than the queue retains anything, and would run
// after all were its cancellation gone by then.
func (t *trimmer) cancelled(ctx context.Context, q queue, done time.Time) (time.Time, error) {
	waits, err := find(ctx, t.js, policy.DelayStream(q.name), findRequest{Seq: 1, Next: policy.HeldSubject(q.name, "*", "*")})
	if err != nil || waits == nil {
		return done, err
	}
	if limit := waits.Time.Add(-t.slack); limit.Before(done) {
		return limit, nil
	}
	return done, nil
}
