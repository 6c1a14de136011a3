package agentbus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealbus/sealbus/policy"
)

// streamReader reads a stream page by page, over one subscription as long as the connection is the same. It is not safe
// for concurrent use.
type streamReader struct {
	store   *store
	stream  string
	filter  string // what subjects; empty: all of them
	largest int    // bytes that one message may have

	link    *link
	sub     *nats.Subscription
	inbox   string
	answers chan *nats.Msg
	turn    uint64 // of the request; answers to those before are let go of
}

// pageQuery says what a page is to hold.
type pageQuery struct {
	from  uint64
	since time.Time // instead of from, where it is not zero
	batch int
	// bare asks for messages without NATS headers. Those of their authors can then say nothing, and neither the server nor this
	// agent has to handle six of the server's own for each message. But it is not said where in the stream they lie, nor under which subject
	// and since when.
	bare bool
}

// pageEnd is what the server says at the end of a page.
type pageEnd struct {
	none    bool   // there is nothing
	last    uint64 // place of the last message
	pending uint64 // how many messages follow, at most: of bare ones the server counts those of the page too
}

func newStreamReader(s *store, stream string) *streamReader {
	return &streamReader{store: s, stream: stream, largest: maxFrameBytes, answers: make(chan *nats.Msg, maxReplayBatch+1)}
}

// close ends the subscription.
func (r *streamReader) close() {
	if r.sub != nil {
		_ = r.sub.Unsubscribe() // fails only when the connection is closed, which ends it too
	}
}

// page asks for a page and hands over its messages as they come, none of which may be kept waiting for anybody. Where the connection
// is lost, or no answer comes, it fails with errLost: what was handed over is then to be forgotten. Bare messages fail with errSilent
// behind one of nothing at all, which somebody has put into the stream: it ends the server's answer on its way here.
func (r *streamReader) page(ctx context.Context, q pageQuery, take func(*nats.Msg) error) (pageEnd, error) {
	l, done := r.store.wire.use()
	defer done()
	regained := r.store.wire.regained.next()
	reply, err := r.ask(l, q)
	if err != nil {
		return pageEnd{}, err
	}
	before, _ := r.sub.Dropped() // fails only when the connection is closed, which ends the page too
	idle := time.NewTimer(storeTimeout)
	defer idle.Stop()
	for n, looked, bytes := 0, 0, 0; ; {
		var m *nats.Msg
		select {
		case m = <-r.answers:
		default:
			select {
			case m = <-r.answers:
			case <-regained:
				return pageEnd{}, errLost
			case <-ctx.Done():
				return pageEnd{}, ctx.Err()
			case <-idle.C:
				if n == looked {
					return pageEnd{}, errLost
				}
				looked = n
				idle.Reset(storeTimeout)
				continue
			}
		}
		if m.Subject != reply {
			continue
		}
		if !isEntry(m, q.bare) {
			if now, _ := r.sub.Dropped(); now != before { // answers to an earlier request have taken their room
				return pageEnd{}, errLost
			}
			return endOf(m)
		}
		if q.bare && len(m.Data) == 0 {
			return pageEnd{}, errSilent
		}
		n, bytes = n+1, bytes+len(m.Data)
		if n > q.batch || bytes > replayBytes+r.largest {
			return pageEnd{}, fmt.Errorf("%w: %s", errListed, r.stream)
		}
		if err := take(m); err != nil {
			return pageEnd{}, err
		}
	}
}

// ask sends the request and returns the subject of its answers.
func (r *streamReader) ask(l *link, q pageQuery) (reply string, err error) {
	if r.link != l {
		r.close()
		r.link, r.inbox = l, l.nc.NewInbox()
		if r.sub, err = l.nc.ChanSubscribe(r.inbox+".*", r.answers); err != nil {
			r.link = nil
			return "", storeError(err)
		}
	}
	request := map[string]any{"batch": q.batch, "max_bytes": replayBytes}
	if q.since.IsZero() {
		request["seq"] = max(q.from, 1)
	} else {
		request["start_time"] = q.since.UTC()
	}
	if r.filter != "" {
		request["next_by_subj"] = r.filter
	}
	if q.bare {
		request["no_hdr"] = true
	}
	body, err := json.Marshal(request)
	if err != nil {
		return "", err
	}
	r.turn++
	reply = r.inbox + "." + strconv.FormatUint(r.turn, 10)
	return reply, storeError(l.nc.PublishRequest(policy.StreamGet(r.stream, ""), reply, body))
}

// isEntry tells a stream's messages from what the server says itself. Without headers of their own, only the server's have any.
// Else a message has Nats-Stream, or its author has seen to it that its headers cannot be read.
func isEntry(m *nats.Msg, bare bool) bool {
	if bare || m.Header == nil {
		return m.Header == nil
	}
	_, ok := storedHeader(m, headerStream)
	return ok
}

// first asks where the first message of a query lies, and how many follow. The server says so behind the message, whatever its
// author's headers are.
func (r *streamReader) first(ctx context.Context, q pageQuery) (pageEnd, error) {
	q.batch = 1
	return r.page(ctx, q, func(*nats.Msg) error { return nil })
}

func endOf(m *nats.Msg) (end pageEnd, err error) {
	switch m.Header.Get(headerStatus) {
	case "404":
		return pageEnd{none: true}, nil
	case "204":
		end.last, err = strconv.ParseUint(m.Header.Get(headerLast), 10, 64)
		if err == nil {
			end.pending, err = strconv.ParseUint(m.Header.Get(headerPending), 10, 64)
		}
		if err != nil {
			return end, storeError(fmt.Errorf("the end of a page is malformed: %w", err))
		}
		return end, nil
	case "503":
		return end, storeError(nats.ErrNoResponders)
	}
	return end, storeError(errAnswer(m))
}

func errOrder(stream string) error {
	return fmt.Errorf("agentbus: the broker's store lists its entries of %s in no order", stream)
}

// errSilent is for an answer without headers that does not come to its end.
var errSilent = errors.New("agentbus: the answer does not come to its end")

// errHoles is for a page without headers of which it cannot be known where its messages lie.
var errHoles = errors.New("agentbus: a page has holes")
