package agentbus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/internal/schedule"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// Schedule says when a recurring task is due: its ticks. Cron and Every make it; what is wrong with it is the error of Recur.
type Schedule struct {
	ticks schedule.Schedule
	err   error
}

// Cron is a schedule of a cron expression in an IANA time zone: Cron("0 7 * * 1-5", "Europe/Berlin"). It has five fields (minute,
// hour, day of month, month, day of week from 0, Sunday, to 6) or six, with seconds first. They are separated by one space, and are
// *, numbers, names such as mon and jan, ranges, lists and steps. Where neither day is *, either will do.
//
// A time of day that the zone's clock skips has no tick that day, and one that it shows twice has two. The zones are those of the
// broker's and the workers' machines, or where they have none those that Go brings along; what differs between them moves
// ticks.
func Cron(expression, zone string) Schedule {
	ticks, err := schedule.Cron(expression, zone)
	return Schedule{ticks, err}
}

// Every is a schedule whose ticks are the multiples of d since 1970-01-01T00:00:00Z: Every(10*time.Minute) is at :00, :10, :20. So
// they do not depend on when the task was registered, and by whom. d is 1 to 60 seconds, minutes, hours or days, or another
// interval, such as 90 minutes, of which one that divides a minute, an hour or a day is a part, at least a sixtieth.
func Every(d time.Duration) Schedule {
	ticks, err := schedule.Every(d)
	return Schedule{ticks, err}
}

// String returns the cron expression, or "@every" and the interval.
func (s Schedule) String() string { return s.ticks.Expression() }

// Zone returns the time zone's name, UTC for an interval.
func (s Schedule) Zone() string { return s.ticks.Zone() }

// Next returns the first tick after t, in UTC; zero if there is none within five years.
func (s Schedule) Next(t time.Time) time.Time { return s.ticks.Next(t) }

// Recur has a task run at every tick of a schedule, from the next one on, and returns when the broker has it on disk. It goes on,
// whatever becomes of this agent, of workers and of the broker, until RemoveRecurring: but not for longer than this agent's card
// speaks for it, see below. The same name again, also of another agent that may enqueue there, replaces schedule, payload and options;
// however many register it, it runs once for each tick. Register it whenever the program starts.
//
// A run is a task like others: it runs at least once, has one result, fails and is tried again, and dies, by its options Kind, Timeout,
// MaxAttempts, Backoff, Priority, ContentType and Header; Delay, At and Deadline are not for templates. Its id is RunID's for its tick, and
// so can be asked for its result before it has begun. Its dead letter revives as an ordinary task.
//
// A run begins no earlier than its tick. Runs do not wait for one another: one that takes longer than the interval overlaps with the
// next. Where no worker is there, each tick waits for its run; those more than an hour late that a later one has followed are let go of.
// Of the ticks at which the broker was away the last one is made up for as far as it knows of it, which it may not after it was
// killed; the others are gone.
//
// Workers believe the template, which is signed, for as long as they believe this agent's card: while this agent is connected or a
// program goes on with its state; and for 7 days after the sealing, where the card has expired since. After that every tick makes a dead letter,
// until somebody registers the task anew. Replacing and removing are the broker's acts: it can go on with a template that was replaced
// or removed, as long as that is believed. A worker that has met the newer one refuses the older.
//
// The error is ErrNotEntitled where the policy does not let this agent enqueue there, ErrTooLarge for a payload of more than
// MaxPayload bytes, and the broker's when the queue has 256 recurring tasks already. A name is one token of letters, digits, - and _, at most
// 64 bytes. The broker sees it, and the schedule. A queue with "signed: false" in the policy takes none.
func (b *Bus) Recur(ctx context.Context, queue, name string, s Schedule, payload []byte, options ...EnqueueOption) error {
	if err := b.recurs(queue, name); err != nil {
		return err
	}
	if s.err == nil && s.ticks.IsZero() {
		s.err = errors.New("no schedule: use Cron or Every")
	}
	if s.err != nil {
		return fmt.Errorf("agentbus: recurring task %s: %w", name, s.err)
	}
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	ctx, cancel = b.untilClosed(ctx)
	defer cancel()
	m, err := b.sealTemplate(ctx, queue, &template{name, s.ticks}, payload, options)
	if err != nil {
		return b.closedOr(ctx, err)
	}
	if _, _, err = b.store.recurring(ctx, m); err != nil {
		return b.closedOr(ctx, fmt.Errorf("agentbus: leaving recurring task %s with the broker: %w", name, err))
	}
	b.counts.published.Add(1)
	return nil
}

// recurs checks what all calls about one recurring task need.
func (b *Bus) recurs(queue, name string) error {
	if !policy.IsRecurName(name) {
		return fmt.Errorf("agentbus: the name %.80q of a recurring task: use letters, digits, - and _, at most %d bytes", name, policy.MaxDelayID)
	}
	ch, err := b.ring.Policy().QueueChannel(queue)
	if err != nil {
		return err
	}
	if !b.ring.Policy().CanWrite(ch, b.self.Name()) {
		return fmt.Errorf("%w: %s does not let %q enqueue to %s", ErrNotEntitled, b.ring.Policy().Where(ch), b.self.Name(), ch)
	}
	if settings, _ := b.ring.Policy().Settings(ch); !settings.Signed {
		return fmt.Errorf("agentbus: %s has \"signed: false\" in the policy: the template of a recurring task has to be signed", ch)
	}
	return nil
}

// forTemplates are the options that a template may have. Others are about one task.
var forTemplates = map[string]bool{"Timeout": true, "MaxAttempts": true, "Backoff": true, "Priority": true, "Kind": true}

// sealTemplate makes the request that leaves a template with the broker.
func (b *Bus) sealTemplate(ctx context.Context, queue string, t *template, payload []byte, options []EnqueueOption) (*nats.Msg, error) {
	encoded, err := t.encode()
	if err != nil {
		return nil, err
	}
	priority := 0
	last := enqueueOption(func(d *taskDraft) error {
		for name := range d.given {
			if !forTemplates[name] {
				return fmt.Errorf("agentbus: %s is not for recurring task %s: use Kind, Timeout, MaxAttempts, Backoff, Priority, ContentType and Header", name, t.name)
			}
		}
		priority = d.priority
		d.headers = append(d.headers, envelope.Pair{Key: []byte(headerRecur), Value: encoded})
		return nil
	})
	l, it, err := b.preparedTask(ctx, queue, payload, append(slices.Clone(options), last))
	if err != nil {
		return nil, err
	}
	p := &parcel{Bundle: keyring.Bundle{Kind: it.kind, Recipient: it.subject}, apart: true}
	p.Messages.Reset(it.committed)
	if err := p.Messages.Add(&it.message); err != nil {
		return nil, err
	}
	if err := l.seal(ctx, &batch{parcels: []*parcel{p}, count: 1, since: time.Now()}); err != nil {
		return nil, err
	}
	m := nats.NewMsg(policy.RecurSubject(queue, b.self.Name(), t.name))
	m.Data = p.Frame
	m.Header.Set(headerSchedule, t.schedule.String())
	m.Header.Set("Nats-Schedule-Target", policy.DueSubject(queue, priority))
	return m, nil
}

// ErrNoRecurring is returned when a queue has no recurring task of the name that was to be removed.
var ErrNoRecurring = errors.New("agentbus: no such recurring task")

// RemoveRecurring ends a recurring task, whoever registered it, and returns when the broker has removed it from its disk. A run that
// was due before may still come. The error is ErrNoRecurring where the broker has none of that name, and
// ErrNotEntitled where the policy does not let this agent enqueue there.
func (b *Bus) RemoveRecurring(ctx context.Context, queue, name string) error {
	if b.closed() && !b.ofHandler(ctx) {
		return ErrClosed
	}
	if err := b.recurs(queue, name); err != nil {
		return err
	}
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	ctx, cancel = b.untilClosed(ctx)
	defer cancel()
	answer, again, err := b.store.recurring(ctx, nats.NewMsg(policy.RecurSubject(queue, b.self.Name(), name)))
	if err != nil {
		return b.closedOr(ctx, fmt.Errorf("agentbus: removing recurring task %s: %w", name, err))
	}
	var removed struct{ Purged int }
	if err := json.Unmarshal(answer.Data, &removed); err != nil {
		return fmt.Errorf("agentbus: removing recurring task %s: the answer is malformed: %w", name, err)
	}
	if removed.Purged == 0 && !again { // asked again, it may be what was done before the answer was lost
		return fmt.Errorf("%w: %s in %s", ErrNoRecurring, name, queue)
	}
	return nil
}

// RecurringTask is what is known of a recurring task.
type RecurringTask struct {
	Queue    string
	Name     string
	Schedule Schedule
	By       identity.ID // who registered it, last
	Since    time.Time   // when
	Next     time.Time   // its next tick, in UTC, by this machine's clock
	Kind     string      // if Verified
	Verified bool        // this agent works on the queue, has opened the template, and its sender says all of this
}

// Run returns the id of the task's run for a tick, see RunID.
func (r *RecurringTask) Run(tick time.Time) ulid.ULID { return RunID(r.Queue, r.Name, tick) }

// Recurring returns the recurring tasks of a queue that this agent may enqueue to or work on, sorted by name. To an agent that works on it they
// are Verified: what does not verify is counted as rejected and left out, and the broker can only leave some out or show
// former ones. Others cannot open what is sealed for workers: to them all of it is the broker's word.
func (b *Bus) Recurring(ctx context.Context, queue string) (list []*RecurringTask, err error) {
	if b.closed() && !b.ofHandler(ctx) {
		return nil, ErrClosed
	}
	ch, err := b.ring.Policy().QueueChannel(queue)
	if err != nil {
		return nil, err
	}
	reads := b.ring.Policy().MayWork(queue, b.self.Name())
	if !reads && !b.ring.Policy().CanWrite(ch, b.self.Name()) {
		return nil, fmt.Errorf("%w: %s gives %q no part in %s", ErrNotEntitled, b.ring.Policy().Where(ch), b.self.Name(), ch)
	}
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	ctx, cancel = b.untilClosed(ctx)
	defer cancel()
	var rc *keyring.StoredReceiver
	if reads {
		if rc, err = b.storedReceiver(ctx, ch); err != nil {
			return nil, b.closedOr(ctx, err)
		}
	}
	shown, err := b.shown(ctx, queue)
	if err != nil {
		return nil, b.closedOr(ctx, err)
	}
	for _, m := range shown {
		r := &RecurringTask{Queue: queue, Name: m.Header.Get(headerName)}
		if reads {
			err = b.verifyTemplate(ctx, rc, r, m.Data)
		} else {
			err = r.believe(m)
		}
		if no := (*keyring.Rejection)(nil); errors.As(err, &no) {
			b.counts.rejectedFor(no.Reason)
			continue
		}
		if err != nil {
			return nil, b.closedOr(ctx, err)
		}
		r.Next = r.Schedule.Next(time.Now())
		list = append(list, r)
	}
	return list, nil
}

// shown asks the broker for one template after another.
func (b *Bus) shown(ctx context.Context, queue string) (all []*nats.Msg, err error) {
	for after := ""; len(all) < listNames; {
		m := nats.NewMsg(policy.RecurSubject(queue, b.self.Name(), ""))
		m.Data = []byte(after)
		answer, _, err := b.store.recurring(ctx, m)
		if err != nil {
			return nil, fmt.Errorf("agentbus: listing the recurring tasks of %s: %w", queue, err)
		}
		name := answer.Header.Get(headerName)
		if name == "" {
			return all, nil
		}
		if name <= after {
			break
		}
		all, after = append(all, answer), name
	}
	return nil, fmt.Errorf("agentbus: the broker lists the recurring tasks of %s in no order, or more than %d", queue, listNames)
}

// verifyTemplate opens a template and takes from it what it says.
func (b *Bus) verifyTemplate(ctx context.Context, rc *keyring.StoredReceiver, r *RecurringTask, frame []byte) error {
	var o keyring.Opened
	want := &keyring.Want{Kinds: keyring.Kinds(envelope.KindTask), Recipient: r.Queue}
	if err := b.openStored(ctx, rc, frame, want, &o); err != nil {
		return err
	}
	if len(o.Messages) != 1 {
		return notOne(&o)
	}
	t, terms, err := templateOf(o.Messages[0].Headers, &o)
	if err != nil {
		return err
	}
	if t.name != r.Name {
		return misdirected("the template of another name")
	}
	r.Schedule, r.By, r.Since, r.Kind, r.Verified = Schedule{ticks: t.schedule}, o.Sender, o.Time, terms.kind, true
	return nil
}

// believe takes from a template what it shows to everybody, and the broker's word for its schedule.
func (r *RecurringTask) believe(m *nats.Msg) error {
	malformed := func(err error) error { return &keyring.Rejection{Reason: keyring.Malformed, Detail: err.Error()} }
	var f envelope.Frame
	if err := envelope.Parse(m.Data, &f); err != nil {
		return malformed(err)
	}
	by, err := identity.ParseID(string(f.Sender))
	if err != nil {
		return malformed(err)
	}
	ticks, err := schedule.Parse(m.Header.Get(headerSchedule))
	if err != nil || !policy.IsRecurName(r.Name) {
		return malformed(errTemplate)
	}
	r.Schedule, r.By, r.Since = Schedule{ticks: ticks}, by, ulid.Time(f.ID.Time())
	return nil
}

// Headers between agents and the node's holder.
const (
	headerSchedule = "Sealbus-Schedule"
	headerName     = "Sealbus-Name"
)

// recurring asks the node, again where the connection is lost, which can do no harm; asked again it says so.
func (s *store) recurring(ctx context.Context, m *nats.Msg) (answer *nats.Msg, again bool, err error) {
	for ; ; again = true {
		answer, err = s.recurringOnce(ctx, m)
		if err == nil || ctx.Err() != nil || !isPassing(err) {
			return answer, again, err
		}
		pause(ctx, minReconnect)
	}
}

func (s *store) recurringOnce(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
	l, done := s.wire.use()
	defer done()
	reply, err := l.nc.RequestMsgWithContext(ctx, m)
	if err != nil || reply.Header.Get(headerName) != "" {
		return reply, err
	}
	var answer struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return nil, fmt.Errorf("the answer is malformed: %w", err)
	}
	if answer.Error != nil {
		return nil, answer.Error
	}
	return reply, nil
}
