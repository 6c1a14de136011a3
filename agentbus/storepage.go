package agentbus

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/sealbus/sealbus/policy"
)

// pageStart is where a page of a stream begins: at a sequence, or at the first message stored at a time or later.
type pageStart struct {
	seq   uint64
	since time.Time
}

// page reads some of what a stream holds under the subjects that a pattern takes, in its order, and says where the next
// page begins: nil, there is none.
func (s *store) page(ctx context.Context, stream, pattern string, from *pageStart) (list []found, next *pageStart, err error) {
	err = s.read(ctx, func(ctx context.Context) (err error) {
		list, next, err = s.pageOnce(ctx, stream, pattern, from)
		return err
	})
	return list, next, err
}

func (s *store) pageOnce(ctx context.Context, stream, pattern string, from *pageStart) ([]found, *pageStart, error) {
	request := map[string]any{"batch": listBatch, "next_by_subj": pattern}
	if from.since.IsZero() {
		request["seq"] = max(from.seq, 1)
	} else {
		request["start_time"] = from.since.UTC()
	}
	body, err := json.Marshal(request)
	if err != nil {
		return nil, nil, err
	}
	l, done := s.wire.use()
	defer done()
	inbox := l.nc.NewInbox()
	sub, err := l.nc.SubscribeSync(inbox)
	if err != nil {
		return nil, nil, storeError(err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only when the connection is closed, which ends it too
	if err := l.nc.PublishRequest(policy.StreamGet(stream, ""), inbox, body); err != nil {
		return nil, nil, storeError(err)
	}
	list, last, more, err := readPage(ctx, sub)
	switch {
	case err != nil:
		return nil, nil, storeError(err)
	case !more:
		return list, nil, nil
	case last < from.seq || last == 0:
		return nil, nil, fmt.Errorf("agentbus: the broker's store lists its entries of %s in no order", pattern)
	}
	return list, &pageStart{seq: last + 1}, nil
}
