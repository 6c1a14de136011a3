package agentbus

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/audit"
	"github.com/sealbus/sealbus/policy"
)

// AuditConfig says how an auditor works. Dir is required.
type AuditConfig struct {
	// Dir is where the logs are kept, each in a directory with the name of its stream. They grow without end. A
	// directory is one auditor's at a time; a second auditor, of this name or another, has a directory of its own.
	Dir string

	// Every is after how many messages a checkpoint is signed. The default is DefaultAuditEvery.
	Every int

	// Interval is after what time one is signed if anything has come, and how often the stream's configuration is
	// looked at. The default is DefaultAuditInterval.
	Interval time.Duration

	// Second is where checkpoints are kept besides, out of reach of who could change Dir and the broker's store
	// together: audit.NewDirectory on another machine's disk, say. Nil: nowhere.
	Second audit.Sink

	// OnProgress is called, one call at a time for a stream, when something has come into its log. It must not block.
	OnProgress func(AuditState)

	// OnError is called with what an auditor cannot put right by itself, and what it has found. See ErrTampered. It
	// must not block. Nil: it is logged.
	OnError func(stream string, err error)

	still time.Duration // for tests
}

// ErrTampered is inside what AuditConfig.OnError is told when the stream is not what was logged of it. Verify says
// exactly what is wrong.
var ErrTampered = errors.New("agentbus: the stream is not the one that was logged")

func (c AuditConfig) check() (AuditConfig, error) {
	switch {
	case c.Dir == "":
		return c, errors.New("agentbus: AuditConfig.Dir is missing: name a directory for the logs")
	case c.Every < 0 || c.Interval < 0:
		return c, errors.New("agentbus: AuditConfig.Every and AuditConfig.Interval cannot be negative")
	}
	c.Every = cmp.Or(c.Every, DefaultAuditEvery)
	c.Interval = cmp.Or(c.Interval, DefaultAuditInterval)
	c.still = cmp.Or(c.still, auditStill)
	return c, nil
}

// Auditor keeps a Merkle log of every stream that the policy lets this agent audit. It is safe for concurrent use.
type Auditor struct {
	bus    *Bus
	config AuditConfig
	log    *slog.Logger
	trust  *auditTrust

	ctx      context.Context // ends when Stop begins
	cancel   context.CancelFunc
	hard     context.Context // ends when Stop gives up waiting
	give     context.CancelFunc
	once     sync.Once
	ended    chan struct{}
	watching sync.WaitGroup

	mu        sync.Mutex
	followers map[string]*auditFollower
	err       error
}

// Audit keeps logs of every stream that the policy lets this agent audit, by a topic's or queue's field audit, until Stop
// or Close; also of those that a later policy adds. It needs no key, and no right to read a message: the log has hashes
// and headers. Every message of a stream gets an entry, in order, with what attesting it came to, and so does what
// happens to the stream: policies, revocations, cards, channel keys, changes of configuration, what was pruned. After
// Every messages, or Interval, it signs a checkpoint with its card's key, publishes it for readers, writers and auditors
// of the channel, and writes it to the second place.
//
// It returns when every log is open and stands at its stream. It goes on through reconnects, and where it was stopped or
// killed it catches up from where its log ends; what the stream has lost by then is noted. A log is never rewritten: where a
// stream does not agree with it any more, OnError is told, and Verify says what is wrong. A log that is older than a
// checkpoint of it that was kept elsewhere, as one that was put back from a copy, is refused with audit.ErrInconsistent:
// move it away, and a new one begins.
//
// ctx bounds opening, not the auditor. The error is ErrNotEntitled where the policy lets this agent audit nothing,
// audit.ErrLocked where another auditor has the directory.
func (b *Bus) Audit(ctx context.Context, config AuditConfig) (*Auditor, error) {
	c, err := config.check()
	if err != nil {
		return nil, err
	}
	if b.closed() {
		return nil, ErrClosed
	}
	a := &Auditor{bus: b, config: c, log: b.log, trust: newAuditTrust(b), ended: make(chan struct{}), followers: make(map[string]*auditFollower)}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	a.hard, a.give = context.WithCancel(context.Background())
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	ctx, cancel = b.untilClosed(ctx)
	defer cancel()
	if err := a.start(ctx); err != nil {
		return nil, errors.Join(b.closedOr(ctx, err), a.abandon())
	}
	if err := b.addAuditor(a); err != nil {
		return nil, errors.Join(err, a.abandon())
	}
	for _, f := range a.followers {
		go f.run()
	}
	a.watching.Go(a.watch)
	return a, nil
}

func (a *Auditor) start(ctx context.Context) error {
	streams := a.wanted()
	if len(streams) == 0 {
		return fmt.Errorf("%w: policy revision %d names %q as auditor of nothing: add it to the field audit of a retained topic or a queue",
			ErrNotEntitled, a.bus.ring.Policy().Revision(), a.bus.self.Name())
	}
	if err := persist(ctx, func() error { return a.trust.refresh(ctx, false) }); err != nil {
		return err
	}
	for _, stream := range streams {
		f, err := a.open(stream)
		if err != nil {
			return err
		}
		a.followers[stream] = f
		if err := persist(ctx, func() error { return f.begin(ctx) }); err != nil {
			return fmt.Errorf("agentbus: auditing %s: %w", stream, err)
		}
	}
	return nil
}

// abandon closes what was opened by an Audit that fails.
func (a *Auditor) abandon() error {
	a.cancel()
	a.give()
	var errs []error
	for _, f := range a.followers {
		errs = append(errs, f.close())
	}
	return errors.Join(errs...)
}

// wanted returns the streams that the policy lets this agent audit.
func (a *Auditor) wanted() (list []string) {
	p := a.bus.ring.Policy()
	for _, ch := range p.Audited(a.bus.self.Name()) {
		if s, ok := p.Settings(ch); !ok || ch.Kind() == policy.KindTopic && s.Retain == 0 {
			continue
		}
		list = append(list, policy.AuditedStreams(ch)...)
	}
	return list
}

// watch follows streams that a later policy adds, and lets go of those that it takes away.
func (a *Auditor) watch() {
	tick := time.NewTicker(auditPoll)
	defer tick.Stop()
	var seen [32]byte
	for {
		select {
		case <-a.ctx.Done():
			return
		case <-tick.C:
		}
		p := a.bus.ring.Policy()
		if p.Hash() == seen {
			continue
		}
		if err := a.adjust(); err != nil {
			if a.ctx.Err() == nil && !isAway(err) {
				a.tell("", err)
			}
			continue
		}
		seen = p.Hash()
	}
}

func (a *Auditor) adjust() error {
	ctx, cancel := context.WithTimeout(a.ctx, a.bus.config.RequestTimeout)
	defer cancel()
	wanted := a.wanted()
	a.mu.Lock()
	var gone []*auditFollower
	for stream, f := range a.followers {
		if !slices.Contains(wanted, stream) {
			gone = append(gone, f)
			delete(a.followers, stream)
		}
	}
	var fresh []string
	for _, stream := range wanted {
		if a.followers[stream] == nil {
			fresh = append(fresh, stream)
		}
	}
	a.mu.Unlock()
	var errs []error
	for _, f := range gone {
		f.stop()
		<-f.done
		errs = append(errs, f.err)
	}
	for _, stream := range fresh {
		errs = append(errs, a.follow(ctx, stream))
	}
	return errors.Join(errs...)
}

// follow begins to follow a stream.
func (a *Auditor) follow(ctx context.Context, stream string) error {
	if err := a.trust.refresh(ctx, false); err != nil {
		return err
	}
	f, err := a.open(stream)
	if err != nil {
		return err
	}
	if err := f.begin(ctx); err != nil {
		return errors.Join(fmt.Errorf("agentbus: auditing %s: %w", stream, err), f.close())
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.followers[stream] = f
	go f.run()
	return nil
}

// open opens the log of a stream, or begins one.
func (a *Auditor) open(stream string) (*auditFollower, error) {
	dir := filepath.Join(a.config.Dir, stream)
	var origin audit.Origin // whichever is there
	if _, err := os.Stat(filepath.Join(dir, "origin")); errors.Is(err, os.ErrNotExist) {
		id, err := ulid.New(ulid.Now(), rand.Reader)
		if err != nil {
			return nil, err
		}
		origin = audit.Origin{Auditor: a.bus.self, Log: id, Stream: stream}
	}
	log, err := audit.Open(dir, origin)
	if err != nil {
		return nil, err
	}
	if o := log.Origin(); o.Auditor != a.bus.self || o.Stream != stream {
		return nil, errors.Join(fmt.Errorf("agentbus: %s holds the log %s, which is not of %s by %s: name another directory", dir, o, stream, a.bus.self), log.Close())
	}
	f, err := newFollower(a, stream, dir, log)
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	return f, nil
}

// tell tells of what cannot be put right here.
func (a *Auditor) tell(stream string, err error) {
	a.log.Error("audit", "stream", stream, "error", err)
	if a.config.OnError != nil {
		a.config.OnError(stream, err)
	}
}

// Stop ends the auditor: what the streams hold by now is logged, each log gets its last entry and a checkpoint, and
// is closed. It waits up to 30 seconds for the broker and gives that up then: what is not logged by then is when an
// auditor goes on. It is idempotent, and every call waits.
func (a *Auditor) Stop() error {
	a.begin()
	ctx, cancel := context.WithTimeout(context.Background(), a.bus.config.closeTimeout)
	defer cancel()
	return a.wait(ctx)
}

// begin begins to stop.
func (a *Auditor) begin() {
	a.once.Do(func() {
		a.cancel()
		go func() {
			a.watching.Wait()
			a.mu.Lock()
			all := a.followers
			a.mu.Unlock()
			var errs []error
			for _, f := range all {
				f.stop()
			}
			for _, f := range all {
				<-f.done
				errs = append(errs, f.err)
			}
			a.give()
			a.bus.removeAuditor(a)
			a.err = errors.Join(errs...)
			close(a.ended)
		}()
	})
}

// wait waits for the end, or has what is waited for given up.
func (a *Auditor) wait(ctx context.Context) error {
	select {
	case <-a.ended:
	case <-ctx.Done():
		a.give()
		<-a.ended
	}
	return a.err
}

// AuditState is how far the log of one stream has come.
type AuditState struct {
	Stream   string
	Log      audit.Origin
	Entries  int64     // events among them
	Frames   uint64    // messages logged by this Auditor
	Last     uint64    // the last message that is logged, by its sequence
	Logged   time.Time // when the last entry was
	Signed   int64     // entries that the last checkpoint covers
	Kept     int64     // entries that the last checkpoint covers which the broker and the second place have
	Behind   bool      // there was more to read when it was last looked
	Tampered bool      // the stream is not what was logged of it: see Verify
	Err      error     // why it does not go on at this moment, or at all; nil: it does
}

// Stats returns how far each log has come, by the names of their streams.
func (a *Auditor) Stats() (list []AuditState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, f := range a.followers {
		list = append(list, f.state())
	}
	slices.SortFunc(list, func(x, y AuditState) int { return strings.Compare(x.Stream, y.Stream) })
	return list
}

// Logs returns which logs are kept, by the names of their streams.
func (a *Auditor) Logs() (list []audit.Origin) {
	for _, s := range a.Stats() {
		list = append(list, s.Log)
	}
	return list
}

// follower returns who keeps the log of a stream.
func (a *Auditor) follower(stream string) (*auditFollower, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f := a.followers[stream]
	if f == nil {
		return nil, fmt.Errorf("agentbus: %.100q is no stream that %q audits", stream, a.bus.self.Name())
	}
	return f, nil
}
