package agentbus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

// entry is a frame on its way into a stream.
type entry struct {
	subject string
	frame   []byte
	id      ulid.ULID
	part    string               // see headerPart
	expect  jetstream.PublishOpt // of one that goes alone: what the stream is to hold before it; may be nil
}

// append puts frames into a stream, all or none and in order, and returns when the broker has acknowledged that they
// are on its disk. Until ctx ends it sends them again where the acknowledgement does not come, because the connection was lost or
// the broker has kept it waiting for ackPatience. A frame's id keeps it from being stored twice.
func (s *store) append(ctx context.Context, stream string, entries []entry) error {
	for again := false; ; again = true {
		err := s.appendOnce(ctx, stream, entries)
		if err == nil || again && isStoredAlready(err) {
			return nil
		}
		if ctx.Err() != nil || !isPassing(err) {
			return fmt.Errorf("agentbus: publishing to %s was not acknowledged: %w", stream, err)
		}
		pause(ctx, minReconnect)
	}
}

// appendOnce fails with errLost where the connection was lost and is back: nats.go goes on waiting then for an
// acknowledgement that may have been lost with it. So it does where none has come for too long.
func (s *store) appendOnce(ctx context.Context, stream string, entries []entry) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	regained := s.wire.regained.next()
	go func() {
		late := time.NewTicker(s.wire.bus.config.ackPatience)
		defer late.Stop()
		for ctx.Err() == nil {
			select {
			case <-regained:
				cancel(errLost)
			case <-late.C:
				if s.wire.bus.Connected() { // else it waits here to be sent
					cancel(errLost)
				}
			case <-ctx.Done():
			}
		}
	}()
	err := s.hand(ctx, stream, entries)
	if err != nil && errors.Is(context.Cause(ctx), errLost) {
		return errLost
	}
	return err
}

func (s *store) hand(ctx context.Context, stream string, entries []entry) error {
	l, done := s.wire.use()
	defer done()
	messages := make([]*nats.Msg, len(entries))
	for i, e := range entries {
		m := nats.NewMsg(e.subject)
		m.Data = e.frame
		if i == 0 { // all or none: one of them stands for all
			m.Header.Set(jetstream.MsgIDHeader, e.id.String())
			m.Header.Set(jetstream.ExpectedStreamHeader, stream)
		}
		if e.part != "" {
			m.Header.Set(headerPart, e.part)
			m.Header.Set(jetstream.MsgIDHeader, e.id.String()+".part")
		}
		messages[i] = m
	}
	if len(messages) == 1 {
		var options []jetstream.PublishOpt
		if expect := entries[0].expect; expect != nil {
			options = append(options, expect)
		}
		_, err := l.js.PublishMsg(ctx, messages[0], options...)
		return err
	}
	// One acknowledgement, and one sync to disk, for all: the batch is bounded, so that none is needed before.
	_, err := jetstreamext.PublishMsgBatch(ctx, l.js, messages, jetstreamext.BatchFlowControl{})
	return err
}

// Error codes of JetStream for atomic batches.
const (
	codeIncompleteBatch = 10176 // part of it was lost with the connection
	codeDuplicate       = 10201 // a message of it is stored already, and so are all: none of their ids is used elsewhere
	codeTooManyBatches  = 10210
)

func isStoredAlready(err error) bool { return jetStreamCode(err) == codeDuplicate }

// isPassing reports whether an error says no more than that there is no connection or no stream at this moment.
func isPassing(err error) bool {
	if code := jetStreamCode(err); code == codeIncompleteBatch || code == codeTooManyBatches {
		return true
	}
	var broken *net.OpError // what the socket says when it breaks under a write
	return errors.As(err, &broken) || errors.Is(err, net.ErrClosed) || errors.Is(err, errLost) ||
		errors.Is(err, nats.ErrDisconnected) || errors.Is(err, nats.ErrConnectionClosed) ||
		errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrReconnectBufExceeded) || errors.Is(err, jetstream.ErrNoStreamResponse)
}

func jetStreamCode(err error) int {
	var e jetstream.JetStreamError
	if errors.As(err, &e) && e.APIError() != nil {
		return int(e.APIError().ErrorCode)
	}
	return 0
}
