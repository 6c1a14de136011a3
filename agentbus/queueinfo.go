package agentbus

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// QueueInfo is how a queue stands. All of it but Workers is the broker's word, and nobody vouches for that: it may be
// wrong by a moment, or altogether. Tasks are counted as the log holds them, in messages: where several tasks share a message,
// that counts as one.
type QueueInfo struct {
	Queue      string
	Pending    uint64    // messages of the log that no worker has; each is 1 to 16 tasks that were enqueued together
	Out        uint64    // messages at workers: tasks that run, that wait there, that wait for another attempt or were given back
	Delayed    uint64    // tasks that wait for their time with the broker, recurring ones among them
	Dead       uint64    // dead letters
	Results    uint64    // results that are kept, those of the dead among them
	Oldest     time.Time // when the oldest of Pending and Out came into the log, by the broker's clock; zero: there is none
	Priorities [policy.Priorities]PriorityInfo
	Streams    QueueStreams

	// Workers are those that have given a sign of life in the last 30 seconds and have not said that they stopped, by
	// name and age. They are sealed and signed by the workers themselves: the broker can hide one, or for 30 seconds the end of
	// one, and make none up. They are for enqueuers: an agent that may only work there gets none.
	Workers []WorkerInfo
}

// PriorityInfo is how the tasks of one priority stand; see QueueInfo.
type PriorityInfo struct {
	Pending, Out uint64
	Oldest       time.Time
}

// QueueStreams says how full a queue's streams are. A log that is full refuses tasks. It holds enqueuers' session notes too.
type QueueStreams struct {
	Log, Delayed, Results, Dead, Controls StreamFill
}

// StreamFill is how full a stream is. A limit of 0 is none.
type StreamFill struct {
	Messages, Bytes       uint64
	MaxMessages, MaxBytes uint64
}

// WorkerInfo is a worker that lives.
type WorkerInfo struct {
	Agent       identity.ID
	Instance    ulid.ULID // of this Worker: an agent can have several
	Since       time.Time // when it began, by its clock
	Seen        time.Time // its last sign of life
	Concurrency int       // tasks that it handles at a time, of all its queues
	Running     int       // that it was handling then, of this queue
}

// QueueInfo asks how a queue stands, for who may enqueue or work there. It is a look, and costs the broker some twenty of
// its own: not to be taken hundreds of times a second.
//
// The error is ErrNotEntitled where the policy gives this agent no part in the queue.
func (b *Bus) QueueInfo(ctx context.Context, queue string) (*QueueInfo, error) {
	enqueues, err := b.partIn(ctx, queue)
	if err != nil {
		return nil, err
	}
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	ctx, cancel = b.untilClosed(ctx)
	defer cancel()
	var s policy.QueueState
	if _, err := b.store.ask(ctx, queue, policy.AskInfo, nil, &s); err != nil {
		return nil, b.closedOr(ctx, err)
	}
	if s.Error != "" {
		return nil, fmt.Errorf("agentbus: the state of queue %s: the broker says %.200q", queue, s.Error)
	}
	i := infoOf(queue, &s)
	if enqueues {
		if i.Workers, err = b.workersOf(ctx, queue); err != nil {
			return nil, b.closedOr(ctx, err)
		}
	}
	return i, nil
}

// partIn checks that this agent may enqueue or work, and says whether it may enqueue.
func (b *Bus) partIn(ctx context.Context, queue string) (enqueues bool, err error) {
	if b.closed() && !b.ofHandler(ctx) {
		return false, ErrClosed
	}
	p := b.ring.Policy()
	ch, err := p.QueueChannel(queue)
	if err != nil {
		return false, err
	}
	enqueues = p.CanWrite(ch, b.self.Name())
	if !enqueues && !p.MayWork(queue, b.self.Name()) {
		return false, fmt.Errorf("%w: %s gives %q no part in queue %s", ErrNotEntitled, p.Where(ch), b.self.Name(), queue)
	}
	return enqueues, nil
}

func infoOf(queue string, s *policy.QueueState) *QueueInfo {
	i := &QueueInfo{Queue: queue, Delayed: s.Delayed, Dead: s.Dead.Messages, Results: s.Results.Messages,
		Streams: QueueStreams{Log: StreamFill(s.Log), Delayed: StreamFill(s.Delays), Results: StreamFill(s.Results), Dead: StreamFill(s.Dead), Controls: StreamFill(s.Controls)}}
	for n, p := range s.Priorities {
		i.Priorities[n] = PriorityInfo{p.Pending, p.Out, p.Oldest}
		i.Pending += p.Pending
		i.Out += p.Out
		if i.Oldest.IsZero() || !p.Oldest.IsZero() && p.Oldest.Before(i.Oldest) {
			i.Oldest = p.Oldest
		}
	}
	return i
}

// ask asks the broker side about a queue until there is an answer, and returns how often it had to.
func (s *store) ask(ctx context.Context, queue, what string, question, answer any) (times int, err error) {
	var body []byte
	if question != nil {
		if body, err = json.Marshal(question); err != nil {
			return 0, err
		}
	}
	subject := policy.AskSubject(queue, s.wire.bus.self.Name(), what)
	err = s.read(ctx, func(ctx context.Context) error {
		times++
		l, done := s.wire.use()
		defer done()
		reply, err := l.nc.RequestWithContext(ctx, subject, body)
		switch {
		case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrNoStreamResponse):
			return fmt.Errorf("agentbus: nobody answers about queue %s: beside an external broker, broker.ServeQueues has to run: %w", queue, err)
		case err != nil:
			return storeError(err)
		case len(reply.Data) > maxAnswer:
			return fmt.Errorf("agentbus: the answer about queue %s has %d bytes; the limit is %d", queue, len(reply.Data), maxAnswer)
		}
		if err := json.Unmarshal(reply.Data, answer); err != nil {
			return fmt.Errorf("agentbus: the answer about queue %s is malformed: %w", queue, err)
		}
		return nil
	})
	return times, err
}

// sign is a frame that claims to be a worker's sign of life.
type sign struct {
	agent    string // whose subject it lies under
	instance ulid.ULID
	frame    []byte
}

// workersOf returns the workers of a queue that live.
func (b *Bus) workersOf(ctx context.Context, queue string) ([]WorkerInfo, error) {
	ch, err := policy.Result(queue)
	if err != nil {
		return nil, err
	}
	rc, err := b.storedReceiver(ctx, ch)
	if err != nil {
		return nil, err
	}
	signs, err := b.signs(ctx, queue)
	if err != nil {
		return nil, err
	}
	var list []WorkerInfo
	var later []sign
	for _, s := range signs {
		if !b.alive(rc, queue, s, &list) {
			later = append(later, s)
		}
	}
	b.awaitSigns(ctx, later)
	for _, s := range later {
		b.alive(rc, queue, s, &list)
	}
	slices.SortFunc(list, func(x, y WorkerInfo) int {
		return cmp.Or(strings.Compare(x.Agent.Name(), y.Agent.Name()), x.Instance.Compare(y.Instance))
	})
	return list, nil
}

// signs reads the latest signs of life. What an enqueuer puts there in its own name is passed over.
func (b *Bus) signs(ctx context.Context, queue string) (list []sign, err error) {
	p := b.ring.Policy()
	from := &pageStart{since: time.Now().Add(-presenceStale*b.config.presence - keyring.MaxClockLead)}
	pattern := policy.ControlSubject(queue, "*", policy.ControlPresence+".*")
	for seen := 0; from != nil && seen < maxSigns; {
		var page []found
		if page, from, err = b.store.page(ctx, policy.ControlStream(queue), pattern, from); err != nil {
			return nil, err
		}
		seen += len(page)
		for _, e := range page {
			_, agent, what, ok := policy.CutControlSubject(e.subject)
			instance, wrong := ulid.ParseStrict(strings.TrimPrefix(what, policy.ControlPresence+"."))
			if ok && wrong == nil && p.MayWork(queue, agent) {
				list = append(list, sign{agent, instance, e.frame})
			}
		}
	}
	return list, nil
}

// alive opens a sign of life and adds its worker. It returns false where what is needed for that is not here.
func (b *Bus) alive(rc *keyring.StoredReceiver, queue string, s sign, list *[]WorkerInfo) bool {
	w, err := b.openSign(rc, queue, s)
	var r *keyring.Rejection
	switch {
	case missing(err):
		return false
	case errors.As(err, &r):
		b.counts.rejectedFor(r.Reason)
	case err == nil && w != nil:
		*list = append(*list, *w)
	}
	return true
}

// openSign returns nil for one that is old, or a goodbye.
func (b *Bus) openSign(rc *keyring.StoredReceiver, queue string, s sign) (*WorkerInfo, error) {
	var o keyring.Opened
	want := &keyring.Want{Kinds: keyring.Kinds(envelope.KindControl), Recipient: queue, Sender: s.agent}
	if err := rc.Open(s.frame, want, &o); err != nil {
		return nil, err
	}
	if len(o.Messages) != 1 {
		return nil, notOne(&o)
	}
	p, ok := decodePresence(headerOf(o.Messages[0].Headers, headerPresence))
	if !ok {
		return nil, &keyring.Rejection{Reason: keyring.BadContent, Sender: o.Sender.String(), ID: o.ID, Detail: "no sign of life"}
	}
	// One worker's, under the name of another of its agent's, could hide that this has stopped.
	if p.instance != s.instance {
		return nil, misdirected("a sign of life of another worker")
	}
	if p.gone || time.Since(o.Time) > presenceStale*b.config.presence {
		return nil, nil
	}
	return &WorkerInfo{Agent: o.Sender, Instance: p.instance, Since: p.since, Seen: o.Time, Concurrency: p.concurrency, Running: p.running}, nil
}

// awaitSigns fetches what is missing for some, for a moment: who names keys that nobody has makes nobody wait for
// longer.
func (b *Bus) awaitSigns(ctx context.Context, signs []sign) {
	if len(signs) > maxSignFetches {
		signs = signs[:maxSignFetches]
	}
	ctx, cancel := context.WithTimeout(ctx, signTimeout)
	defer cancel()
	var fetches sync.WaitGroup
	for _, s := range signs {
		fetches.Go(func() { _ = b.ring.AwaitStored(ctx, s.frame) }) // Open says what came of it
	}
	fetches.Wait()
}
