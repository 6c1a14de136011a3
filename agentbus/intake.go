package agentbus

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go"
	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
)

// intake opens the frames that arrive at one place, in order, and hands on what passed every check. A frame
// whose key or sender's card is not here yet is parked, with all that follows it in its session, while one
// goroutine fetches what is missing: the other senders do not wait for it.
type intake struct {
	bus     *Bus
	rc      *keyring.Receiver
	counts  *counters
	whole   bool                                    // every frame of the channel is due here
	want    func(m *nats.Msg) (keyring.Want, error) // what is expected of a frame that arrived so
	deliver func(m *nats.Msg, o *keyring.Opened)    // does not block
	control func(m *nats.Msg) bool                  // takes the server's own messages; may be nil

	arrived chan *nats.Msg
	ready   chan ulid.ULID // sessions whose fetch has ended
	stop    chan struct{}

	parked map[ulid.ULID][]*nats.Msg
	frames int
	bytes  int
}

func newIntake(b *Bus, rc *keyring.Receiver, c *counters) *intake {
	return &intake{bus: b, rc: rc, counts: c, arrived: make(chan *nats.Msg, arrivals),
		ready: make(chan ulid.ULID, maxParkedGroups), stop: make(chan struct{}), parked: make(map[ulid.ULID][]*nats.Msg)}
}

// run opens frames until stop is closed, then those that have arrived by then.
func (in *intake) run() {
	for {
		select {
		case m := <-in.arrived:
			in.take(m)
		case session := <-in.ready:
			in.resume(session)
		case <-in.stop:
			in.drain()
			return
		}
	}
}

func (in *intake) drain() {
	for {
		select {
		case m := <-in.arrived:
			in.take(m)
		default:
			return
		}
	}
}

// take opens a frame, or parks it.
func (in *intake) take(m *nats.Msg) {
	if in.control != nil && in.control(m) {
		return
	}
	session, ok := sessionOf(m.Data)
	if ok && in.parked[session] != nil {
		in.park(session, m, nil)
		return
	}
	err := in.open(m)
	if reason := keyring.ReasonOf(err); ok && (reason == keyring.NoKey || reason == keyring.NoCard) {
		in.park(session, m, err)
		return
	}
	in.failed(m, err)
}

// failed counts a frame that was not accepted.
func (in *intake) failed(m *nats.Msg, err error) {
	switch {
	case err == nil:
	case errors.Is(err, errLate):
		in.counts.late.Add(1)
	default:
		in.bus.reject(in.counts, m, err)
	}
}

func (in *intake) open(m *nats.Msg) error {
	want, err := in.want(m)
	if err != nil {
		return err
	}
	var o keyring.Opened
	if err := in.rc.Open(m.Data, &want, &o); err != nil {
		return err
	}
	in.counts.received.Add(uint64(len(o.Messages)))
	if in.whole {
		in.counts.lost.Add(o.Lost)
	}
	in.deliver(m, &o)
	return nil
}

// park sets a frame aside. The first of a session starts the fetch. cause is why it could not be opened.
func (in *intake) park(session ulid.ULID, m *nats.Msg, cause error) {
	group := in.parked[session]
	if in.frames >= maxParked || in.bytes+len(m.Data) > maxParkedBytes || group == nil && len(in.parked) >= maxParkedGroups {
		if cause == nil {
			cause = &keyring.Rejection{Reason: keyring.NoKey, Detail: "too many frames wait for keys"}
		}
		in.bus.reject(in.counts, m, cause)
		return
	}
	in.parked[session] = append(group, m)
	in.frames++
	in.bytes += len(m.Data)
	if group == nil {
		go func() {
			ctx, cancel := context.WithTimeout(in.bus.ctx, parkTimeout)
			defer cancel()
			// Whether it worked is seen when the frames are opened again.
			_ = in.bus.ring.Await(ctx, m.Data)
			in.ready <- session // never more than maxParkedGroups at a time
		}()
	}
}

// resume opens the frames of a session that were parked, in order.
func (in *intake) resume(session ulid.ULID) {
	group := in.parked[session]
	delete(in.parked, session)
	for _, m := range group {
		in.frames--
		in.bytes -= len(m.Data)
		in.failed(m, in.open(m))
	}
}

// sessionOf reads which session a frame claims.
func sessionOf(frame []byte) (ulid.ULID, bool) {
	var f envelope.Frame
	if envelope.Parse(frame, &f) != nil {
		return ulid.ULID{}, false
	}
	return f.Session, true
}

// misdirected is a rejection before the keyring is asked.
func misdirected(detail string) error {
	return &keyring.Rejection{Reason: keyring.Misdirected, Detail: detail}
}
