package agentbus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// Bounds of what gathers, for tests of the outside.
const (
	MaxGathered      = maxGathered
	MaxGatheredBytes = maxGatheredBytes
	MaxFrames        = maxFrames
	FrameBytes       = frameBytes
	ReconnectBuffer  = reconnectBuffer
)

// Hold keeps whatever is published from leaving, as a change of connections does, until release is called. Publish does
// not notice.
func (b *Bus) Hold() (release func()) {
	b.wire.mu.Lock()
	return sync.OnceFunc(b.wire.mu.Unlock)
}

// Gathered returns how many messages of a topic wait, and whether others are being sealed and sent.
func (b *Bus) Gathered(topic string) (waiting int, sending bool) {
	l := b.laneOf(topic)
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next.count, l.under != nil
}

// Age makes what waits older than it is.
func (b *Bus) Age(topic string, d time.Duration) {
	l := b.laneOf(topic)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next.since = l.next.since.Add(-d)
}

func (b *Bus) laneOf(topic string) *lane {
	ch, err := policy.Topic(topic)
	if err != nil {
		panic(err)
	}
	l, ok := b.lanes.Load(ch)
	if !ok {
		panic("nothing has been published to " + topic)
	}
	return l.(*lane)
}

// Late hands a message over as a PublishAsync does that Close has overtaken after all of its checks.
func (b *Bus) Late(subject string) (*Publication, error) {
	topic, _, _ := strings.Cut(subject, ".")
	return b.laneOf(topic).add(context.Background(), &item{subject: subject, wanted: true, alone: true})
}

// ChangeOver moves everything to another connection, as a renewed certificate does.
func (b *Bus) ChangeOver(ctx context.Context) error { return b.wire.replace(ctx) }

// Arrived returns how many frames wait to be opened.
func (s *Subscription) Arrived() int {
	s.in.inlet.mu.Lock()
	defer s.in.inlet.mu.Unlock()
	return len(s.in.inlet.waiting)
}

// TestHandover takes the note of what may be lost through every turn that connections can take. A step is "h2", a
// frame is handed over that the second connection has to carry; "b2", a flush begins while the second is in use; "f2"
// and "f2!", it succeeds while the second is, and whether it tells of a loss; "r2", the second connection ends when all
// that was handed to it has arrived.
func TestHandover(t *testing.T) {
	for _, test := range []struct{ name, steps string }{
		{"nothing handed over", "b1 f1 b1 f2 b2 f5"},
		{"delivered", "h1 h1 b1 f1"},
		{"delivered, then lost", "h1 b1 f1 b1 f2"},
		{"lost between", "h1 b2 f2! b2 f2"},
		{"lost during the flush", "h1 b1 f2! b2 f2"},
		{"lost twice, told once", "h1 h2 b3 f3! b3 f3"},
		{"the first of several decides", "h1 h2 h2 b2 f2! b2 f2"},
		{"waited for the connection", "h2 b2 f2 b2 f2"},
		{"waited, and that was lost too", "h2 b3 f3! b3 f3"},
		{"handed over during the flush", "h1 b1 h1 f1 b1 f1 b1 f2"},
		{"handed over during the flush, then lost", "h1 b1 h1 f1 b2 f2! b2 f2"},
		{"only during the flush, then lost", "b1 h1 f1 b2 f2! b2 f2"},
		{"handed over during the flush to the next", "h1 b1 h2 f2! b2 f2! b2 f2"}, // it was the first that was lost, but that is not known
		{"replaced", "h1 r1 b2 f2"},
		{"replaced, then handed over", "h1 r1 h2 b2 f2 b2 f2"},
		{"replaced, then lost", "h1 r1 h2 b3 f3! b3 f3"},
		{"lost, then replaced", "h1 r2 b3 f3! b3 f3"},
		{"lost, then replaced, then handed over", "h1 r2 h3 b3 f3! b3 f3"},
		{"replaced during the flush", "h1 b1 r1 f1 b2 f2"},
		{"replaced and handed over during the flush", "h1 b1 r1 h2 f1 b2 f2"},
		{"replaced and handed over during the flush, then lost", "h1 b1 r1 h2 f1 b3 f3! b3 f3"},
		{"all at once", "h1 b1 f1 h1 r1 h2 b2 f3! h3 r3 h4 b4 f4 b4 f4"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var h handover
			var count, before uint64
			for i, step := range strings.Fields(test.steps) {
				n := uint64(step[1] - '0')
				switch step[0] {
				case 'h':
					h.handed(n)
				case 'b':
					count, before = h.begin(), n
				case 'r':
					h.replaced(n)
				case 'f':
					if got, want := h.flushed(count, before, n), strings.HasSuffix(step, "!"); got != want {
						t.Errorf("step %d, %s: lost is %v", i, step, got)
					}
				}
			}
		})
	}
}

// TestHandoverConcurrent hands frames over while others flush, over one connection: nothing is ever said to be lost, and
// what comes after the last flush is not forgotten.
func TestHandoverConcurrent(t *testing.T) {
	const each = 1000
	var h handover
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range each {
				h.handed(1)
			}
		})
	}
	for range each {
		if h.flushed(h.begin(), 1, 1) {
			t.Fatal("lost, on a connection that stands")
		}
	}
	all.Wait()
	if n := h.begin(); n != 4*each {
		t.Errorf("%d handed over, want %d", n, 4*each)
	}
	h.handed(1)
	if !h.flushed(h.begin(), 2, 2) {
		t.Error("the loss of the last is not told")
	}
}

// TestSignal has several wait for the same event: all are told, and once. Who asks after it waits for the next.
func TestSignal(t *testing.T) {
	var s signal
	s.fire() // nobody waits
	first, again := s.next(), s.next()
	if first != again {
		t.Error("two wait for one event on two channels")
	}
	select {
	case <-first:
		t.Fatal("told of what was before")
	default:
	}
	var waiting sync.WaitGroup
	for range 8 {
		waiting.Go(func() { <-first })
	}
	s.fire()
	waiting.Wait()
	next := s.next()
	if next == first {
		t.Error("the next event is the one before")
	}
	select {
	case <-next:
		t.Error("told twice of one event")
	default:
	}
	s.fire()
	<-next
}

// TestLaneEnd ends a lane to which something was added in that moment: it is refused, as is all that comes after.
func TestLaneEnd(t *testing.T) {
	b := &Bus{log: slog.New(slog.DiscardHandler)}
	l := newLane(b, policy.Channel{}, nil, nil, (*lane).publish)
	it := item{subject: "prices", wanted: true, alone: true}
	p, err := l.add(t.Context(), &it)
	if err != nil {
		t.Fatal(err)
	}
	l.end()
	select {
	case <-p.Done():
	default:
		t.Fatal("there is no outcome")
	}
	if !errors.Is(p.Err(), ErrClosed) {
		t.Errorf("the outcome is %v", p.Err())
	}
	if _, err := l.add(t.Context(), &it); !errors.Is(err, ErrClosed) {
		t.Errorf("added after the end: %v", err)
	}
	if n := b.counts.unsent.Load(); n != 1 {
		t.Errorf("%d counted as unsent", n)
	}
}

// TestBatchForgets empties a batch: nothing of the messages stays in the memory that is used again.
func TestBatchForgets(t *testing.T) {
	bt := new(batch)
	for _, subject := range []string{"prices.a", "prices.b"} {
		if err := bt.add(&item{subject: subject, message: envelope.Message{Payload: []byte("secret")}}); err != nil {
			t.Fatal(err)
		}
	}
	var memory [][]byte
	for _, p := range bt.parcels {
		memory = append(memory, p.Messages.Plaintext(false))
	}
	bt.reset()
	for _, b := range memory {
		if bytes.Contains(b, []byte("secret")) {
			t.Error("the payload is still there")
		}
	}
	if bt.count != 0 || bt.bytes != 0 || len(bt.parcels) != 0 || bt.outcome != nil {
		t.Errorf("left: %+v", bt)
	}
}

// TestPassing says after which errors retained messages are sent again: those of a connection that is not there or
// breaks, at any point of a write, and those of a stream that is not ready. Others would only come again.
func TestPassing(t *testing.T) {
	api := func(code jetstream.ErrorCode) error {
		return fmt.Errorf("nats: %w", &jetstream.APIError{Code: 400, ErrorCode: code})
	}
	for _, test := range []struct {
		err  error
		want bool
	}{
		{&net.OpError{Op: "write", Net: "tcp", Err: os.NewSyscallError("write", syscall.EPIPE)}, true},
		{&net.OpError{Op: "write", Net: "tcp", Err: os.NewSyscallError("write", syscall.ECONNRESET)}, true},
		{net.ErrClosed, true}, // what TLS says of a connection that nats.go has closed after half a write
		{errLost, true},
		{nats.ErrDisconnected, true},
		{nats.ErrConnectionClosed, true},
		{nats.ErrReconnectBufExceeded, true},
		{nats.ErrNoResponders, true},
		{jetstream.ErrNoStreamResponse, true},
		{api(codeIncompleteBatch), true},
		{api(codeTooManyBatches), true},
		{api(codeDuplicate), false},
		{api(jetstream.JSErrCodeStreamNotFound), false},
		{context.DeadlineExceeded, false}, // a net.Error too
		{context.Canceled, false},
		{nats.ErrMaxPayload, false},
		{errors.New("something else"), false},
	} {
		if got := isPassing(fmt.Errorf("publishing message in the batch: %w", test.err)); got != test.want {
			t.Errorf("%v is passing: %v", test.err, got)
		}
	}
}
