package agentbus

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// store is the keyring's Store over the broker's buckets. It needs no consumer and no stream information,
// so an agent has no right to either.
type store struct {
	nc *nats.Conn
	js jetstream.JetStream
}

// feeds says under which prefix the live updates of a bucket arrive.
var feeds = map[string]string{
	policy.BucketKeys:   strings.TrimSuffix(policy.FeedAllKeys, ">"),
	policy.BucketPolicy: strings.TrimSuffix(policy.FeedPolicy, ">"),
}

func (s *store) Get(ctx context.Context, bucket, key string) ([]byte, error) {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	m, err := s.nc.RequestWithContext(ctx, policy.DirectGet(bucket, key), nil)
	if err != nil {
		return nil, storeError(err)
	}
	switch status := m.Header.Get("Status"); status {
	case "":
		return m.Data, nil
	case "404":
		return nil, fmt.Errorf("%w: %s in %s", keyring.ErrNotFound, key, bucket)
	default:
		return nil, fmt.Errorf("agentbus: reading %s in %s: %s %s", key, bucket, status, m.Header.Get("Description"))
	}
}

func (s *store) Put(ctx context.Context, bucket, key string, value []byte) error {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	_, err := s.js.Publish(ctx, policy.BucketSubject(bucket, key), value, jetstream.WithExpectStream(policy.StreamOfBucket(bucket)))
	return storeError(err)
}

func (s *store) List(ctx context.Context, bucket, filter string) (list []keyring.Entry, err error) {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	subject, prefix := policy.BucketSubject(bucket, filter), policy.BucketSubject(bucket, "")
	for next := uint64(1); ; {
		batch, err := jetstreamext.GetBatch(ctx, s.js, policy.StreamOfBucket(bucket), listBatch,
			jetstreamext.GetBatchSubject(subject), jetstreamext.GetBatchSeq(next))
		if err != nil {
			return nil, storeError(err)
		}
		n := 0
		for m, err := range batch {
			if errors.Is(err, jetstreamext.ErrNoMessages) {
				return list, nil
			}
			if err != nil {
				return nil, storeError(err)
			}
			if m.Sequence < next {
				return nil, errors.New("agentbus: the store lists its entries in no order")
			}
			list = append(list, keyring.Entry{Key: strings.TrimPrefix(m.Subject, prefix), Value: m.Data})
			next = m.Sequence + 1
			n++
		}
		if n == 0 {
			return list, nil
		}
	}
}

func (s *store) Follow(ctx context.Context, bucket, filter string, fn func(keyring.Entry)) (func(), error) {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	prefix, ok := feeds[bucket]
	if !ok {
		return nil, fmt.Errorf("agentbus: bucket %s has no live updates", bucket)
	}
	sub, err := s.nc.Subscribe(prefix+filter, func(m *nats.Msg) {
		fn(keyring.Entry{Key: strings.TrimPrefix(m.Subject, prefix), Value: m.Data})
	})
	if err != nil {
		return nil, storeError(err)
	}
	// The subscription must stand before what is there already is listed, or an entry could slip between.
	if err := s.nc.FlushWithContext(ctx); err != nil {
		return nil, errors.Join(storeError(err), sub.Unsubscribe())
	}
	return func() { _ = sub.Unsubscribe() }, nil
}

func storeError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrNoStreamResponse):
		return fmt.Errorf("agentbus: the broker's store is not there or not permitted: %w", err)
	default:
		return fmt.Errorf("agentbus: the broker's store: %w", err)
	}
}

// withDeadline bounds a call on the store whose caller has not: nats.go wants a deadline for each.
func withDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, storeTimeout)
}
