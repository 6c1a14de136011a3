package agentbus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// store is the keyring's Store over the broker's buckets. It needs no consumer and no stream information,
// so an agent has no right to either.
type store struct{ wire *wire }

// feeds says under which prefix the live updates of a bucket arrive.
var feeds = map[string]string{
	policy.BucketKeys:   strings.TrimSuffix(policy.FeedAllKeys, ">"),
	policy.BucketPolicy: strings.TrimSuffix(policy.FeedPolicy, ">"),
}

func (s *store) Get(ctx context.Context, bucket, key string) ([]byte, error) {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	l, done := s.wire.use()
	defer done()
	m, err := l.nc.RequestWithContext(ctx, policy.DirectGet(bucket, key), nil)
	if err != nil {
		return nil, storeError(err)
	}
	if _, ok := storedHeader(m, headerStream); ok {
		return m.Data, nil
	}
	if m.Header.Get(headerStatus) == "404" {
		return nil, fmt.Errorf("%w: %s in %s", keyring.ErrNotFound, key, bucket)
	}
	return nil, fmt.Errorf("agentbus: reading %s in %s: %w", key, bucket, errAnswer(m))
}

func (s *store) Put(ctx context.Context, bucket, key string, value []byte) error {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	l, done := s.wire.use()
	defer done()
	_, err := l.js.Publish(ctx, policy.BucketSubject(bucket, key), value, jetstream.WithExpectStream(policy.StreamOfBucket(bucket)))
	return storeError(err)
}

// List pages through the bucket. It reads the broker's answers itself: an entry comes back with the NATS
// headers that its author gave it in front of the server's own, so that whoever may write one entry could
// break or cut short everybody's listing for a client that believes the first value of a header.
func (s *store) List(ctx context.Context, bucket, filter string) (list []keyring.Entry, err error) {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	l, done := s.wire.use()
	defer done()
	inbox := l.nc.NewInbox()
	sub, err := l.nc.SubscribeSync(inbox)
	if err != nil {
		return nil, storeError(err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only when the connection is closed, which ends it too
	for next := uint64(1); ; {
		request := fmt.Appendf(nil, `{"seq":%d,"batch":%d,"next_by_subj":%q}`, next, listBatch, policy.BucketSubject(bucket, filter))
		if err := l.nc.PublishRequest(policy.DirectGet(bucket, ""), inbox, request); err != nil {
			return nil, storeError(err)
		}
		page, last, more, err := readPage(ctx, sub, bucket)
		if err != nil {
			return nil, storeError(err)
		}
		if list = append(list, page...); !more {
			return list, nil
		}
		if last < next || len(list) > maxListed {
			return nil, fmt.Errorf("agentbus: the broker's store lists its entries of %s in no order, or more than %d", filter, maxListed)
		}
		next = last + 1
	}
}

// readPage reads the answers to one listing request up to the message that ends them.
func readPage(ctx context.Context, sub *nats.Subscription, bucket string) (page []keyring.Entry, last uint64, more bool, err error) {
	prefix := policy.BucketSubject(bucket, "")
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return nil, 0, false, err
		}
		switch _, entry := storedHeader(m, headerStream); {
		case entry:
			subject, _ := storedHeader(m, headerSubject)
			if key, ok := strings.CutPrefix(subject, prefix); ok && len(page) < listBatch {
				page = append(page, keyring.Entry{Key: key, Value: m.Data})
			}
		case m.Header == nil:
			// An entry whose author's headers are none. It is junk; what ends the page is the server's.
		case m.Header.Get(headerStatus) == "404":
			return page, 0, false, nil
		case m.Header.Get(headerStatus) == "204":
			last, err := strconv.ParseUint(m.Header.Get(headerLast), 10, 64)
			return page, last, m.Header.Get(headerPending) != "0", err
		default:
			return nil, 0, false, errAnswer(m)
		}
	}
}

// Headers that the server gives an answer from a stream.
const (
	headerStatus  = "Status"
	headerStream  = "Nats-Stream" // in every entry, in no other answer
	headerSubject = "Nats-Subject"
	headerLast    = "Nats-Last-Sequence"
	headerPending = "Nats-Num-Pending"
)

// storedHeader returns the server's own value of a header: the last, behind whatever the entry's author put
// under the same name.
func storedHeader(m *nats.Msg, key string) (string, bool) {
	values := m.Header[key]
	if len(values) == 0 {
		return "", false
	}
	return values[len(values)-1], true
}

func errAnswer(m *nats.Msg) error {
	return fmt.Errorf("the broker's store answered %q", strings.TrimSpace(m.Header.Get(headerStatus)+" "+m.Header.Get("Description")))
}

func (s *store) Follow(ctx context.Context, bucket, filter string, fn func(keyring.Entry)) (func(), error) {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	prefix, ok := feeds[bucket]
	if !ok {
		return nil, fmt.Errorf("agentbus: bucket %s has no live updates", bucket)
	}
	r := &route{subject: prefix + filter, fn: func(m *nats.Msg) {
		if key := strings.TrimPrefix(m.Subject, prefix); isUpdate(m, bucket, key) {
			fn(keyring.Entry{Key: key, Value: m.Data})
		}
	}}
	if err := s.wire.add(r); err != nil {
		return nil, err
	}
	// The subscription must stand before what is there already is listed, or an entry could slip between.
	if err := s.wire.settle(ctx, r); err != nil {
		s.wire.drop(r)
		return nil, err
	}
	return func() { s.wire.drop(r) }, nil
}

// isUpdate reports whether a message on a feed is the bucket's own update of a key. The broker does not check where
// an agent asks for answers to be sent, so that any agent can have an entry of its own arrive on a feed, as an answer
// to a read; but the server names that entry's key in it, and not the feed's.
func isUpdate(m *nats.Msg, bucket, key string) bool {
	stream, _ := storedHeader(m, headerStream)
	subject, _ := storedHeader(m, headerSubject)
	return stream == policy.StreamOfBucket(bucket) && subject == policy.BucketSubject(bucket, key)
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

// pause waits a moment.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
