package agentbus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
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

func (s *store) Get(ctx context.Context, bucket, key string) (value []byte, err error) {
	err = s.read(ctx, func(ctx context.Context) (err error) {
		value, err = s.get(ctx, bucket, key)
		return err
	})
	return value, err
}

func (s *store) get(ctx context.Context, bucket, key string) ([]byte, error) {
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
	err = s.read(ctx, func(ctx context.Context) (err error) {
		list, err = s.list(ctx, bucket, filter)
		return err
	})
	return list, err
}

// read reads again where the connection was lost and is back: nats.go goes on waiting then for an answer that may have
// been lost with it.
func (s *store) read(ctx context.Context, once func(context.Context) error) error {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	for {
		attempt, stop := context.WithCancelCause(ctx)
		regained := s.wire.regained.next()
		go func() {
			select {
			case <-regained:
				stop(errLost)
			case <-attempt.Done():
			}
		}()
		err := once(attempt)
		lost := errors.Is(context.Cause(attempt), errLost)
		stop(nil)
		switch {
		case err == nil || !lost:
			return err
		case ctx.Err() != nil: // in the same moment: it is not the attempt's end that the caller is to hear of
			return storeError(ctx.Err())
		}
	}
}

func (s *store) list(ctx context.Context, bucket, filter string) (list []keyring.Entry, err error) {
	all, err := s.pages(ctx, policy.StreamOfBucket(bucket), policy.BucketSubject(bucket, filter), maxListed)
	for _, f := range all {
		if key, ok := strings.CutPrefix(f.subject, policy.BucketSubject(bucket, "")); ok {
			list = append(list, keyring.Entry{Key: key, Value: f.frame})
		}
	}
	return list, err
}

// pages reads what a stream holds under the subjects that a pattern takes, in its order.
func (s *store) pages(ctx context.Context, stream, pattern string, most int) (list []found, err error) {
	l, done := s.wire.use()
	defer done()
	inbox := l.nc.NewInbox()
	sub, err := l.nc.SubscribeSync(inbox)
	if err != nil {
		return nil, storeError(err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only when the connection is closed, which ends it too
	for next := uint64(1); ; {
		request := fmt.Appendf(nil, `{"seq":%d,"batch":%d,"next_by_subj":%q}`, next, listBatch, pattern)
		if err := l.nc.PublishRequest(policy.StreamGet(stream, ""), inbox, request); err != nil {
			return nil, storeError(err)
		}
		page, last, more, err := readPage(ctx, sub)
		if err != nil {
			return nil, storeError(err)
		}
		if list = append(list, page...); !more {
			return list, nil
		}
		if last < next || len(list) > most {
			return list, fmt.Errorf("%w: %s, %d entries", errListed, pattern, most)
		}
		next = last + 1
	}
}

// errListed is for a listing that does not end, or not where it should.
var errListed = errors.New("agentbus: the broker's store lists its entries in no order, or too many")

// readPage reads the answers to one listing request up to the message that ends them.
func readPage(ctx context.Context, sub *nats.Subscription) (page []found, last uint64, more bool, err error) {
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return nil, 0, false, err
		}
		switch _, entry := storedHeader(m, headerStream); {
		case entry:
			if subject, ok := storedHeader(m, headerSubject); ok && len(page) < listBatch {
				page = append(page, found{subject: subject, frame: m.Data})
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

// found is a frame in a stream.
type found struct {
	subject string
	frame   []byte
	seq     uint64 // only of what last returns
}

// last returns the last message in a stream under each subject, or under each that a pattern takes, as far as there is
// one: 1,024 at most. The server ends its answer at 32 MiB; then the rest is asked for.
func (s *store) last(ctx context.Context, stream string, subjects []string) (list []found, err error) {
	err = s.read(ctx, func(ctx context.Context) error {
		list = nil
		for missing := slices.Clone(subjects); ; {
			some, more, err := s.lastOnce(ctx, stream, missing)
			if list = append(list, some...); err != nil || !more {
				return err
			}
			here := make(map[string]bool, len(some))
			for _, f := range some {
				here[f.subject] = true
			}
			before := len(missing)
			if missing = slices.DeleteFunc(missing, func(subject string) bool { return here[subject] }); len(missing) == before {
				return fmt.Errorf("agentbus: the broker's store does not answer all of what was asked of %s", stream)
			}
		}
	})
	return list, err
}

func (s *store) lastOnce(ctx context.Context, stream string, subjects []string) (list []found, more bool, err error) {
	l, done := s.wire.use()
	defer done()
	// SubscribeSync would make room for 64 Ki answers, half a megabyte to be cleared.
	inbox, answers := l.nc.NewInbox(), make(chan *nats.Msg, maxLast+1)
	sub, err := l.nc.ChanSubscribe(inbox, answers)
	if err != nil {
		return nil, false, storeError(err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only when the connection is closed, which ends it too
	request, err := json.Marshal(map[string]any{"multi_last": subjects, "batch": maxLast})
	if err != nil {
		return nil, false, err
	}
	if err := l.nc.PublishRequest(policy.StreamGet(stream, ""), inbox, request); err != nil {
		return nil, false, storeError(err)
	}
	for {
		var m *nats.Msg
		select {
		case m = <-answers:
		case <-ctx.Done():
			return nil, false, storeError(ctx.Err())
		}
		switch _, entry := storedHeader(m, headerStream); {
		case entry:
			subject, _ := storedHeader(m, headerSubject)
			list = append(list, found{subject, m.Data, sequenceOf(m)})
		case m.Header == nil:
			// An entry whose author's headers are none: junk.
		case m.Header.Get(headerStatus) == "404", m.Header.Get(headerStatus) == "204":
			pending := m.Header.Get(headerPending)
			return list, pending != "" && pending != "0", nil
		default:
			return nil, false, storeError(errAnswer(m))
		}
	}
}

// lastUnder returns the last message in a stream under one subject, nil if there is none.
func (s *store) lastUnder(ctx context.Context, stream, subject string) (frame []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	err = s.read(ctx, func(ctx context.Context) (err error) {
		frame, err = s.lastUnderOnce(ctx, stream, subject)
		return err
	})
	return frame, err
}

func (s *store) lastUnderOnce(ctx context.Context, stream, subject string) ([]byte, error) {
	l, done := s.wire.use()
	defer done()
	m, err := l.nc.RequestWithContext(ctx, policy.StreamGet(stream, subject), nil)
	if err != nil {
		return nil, storeError(err)
	}
	if got, ok := storedHeader(m, headerSubject); ok && got == subject {
		return m.Data, nil
	}
	if m.Header.Get(headerStatus) == "404" {
		return nil, nil
	}
	return nil, storeError(errAnswer(m))
}

// Headers that the server gives an answer from a stream.
const (
	headerStatus  = "Status"
	headerStream  = "Nats-Stream" // in every entry, in no other answer
	headerSubject = "Nats-Subject"
	headerLast    = "Nats-Last-Sequence"
	headerPending = "Nats-Num-Pending"
)

// sequenceOf returns an entry's place in its stream.
func sequenceOf(m *nats.Msg) uint64 {
	text, _ := storedHeader(m, "Nats-Sequence")
	n, _ := strconv.ParseUint(text, 10, 64) // 0 is no entry's
	return n
}

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
	return &answerError{m.Header.Get(headerStatus), m.Header.Get("Description")}
}

// answerError is an answer of the store that is neither an entry nor the end of a listing.
type answerError struct{ status, text string }

func (e *answerError) Error() string {
	return fmt.Sprintf("the broker's store answered %q", strings.TrimSpace(e.status+" "+e.text))
}

// isTooMany reports whether the store has refused to answer because more than 1,024 entries match.
func isTooMany(err error) bool {
	var e *answerError
	return errors.As(err, &e) && e.status == "413"
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
