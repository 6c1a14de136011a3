package audit

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sealbus/sealbus/policy"
)

// Entries is a log to be verified: a *Log, a *Reader, or an export.
type Entries interface {
	Origin() Origin
	// Entries returns the encoded entries from an index on, each valid until the next. It may be called several times; what
	// has been appended in the meantime is not looked at.
	Entries(from int64) iter.Seq2[[]byte, error]
}

// hashed is what Entries may have too, where the tree's hashes are at hand: a changed entry is then found exactly, and
// checkpoints may come in any order.
type hashed interface {
	LeafHash(index int64) (tlog.Hash, error)
	Root(size int64) (tlog.Hash, error)
}

// Frames is a stream: its messages in the order of their sequences, each at most once, with all that were stored before the call.
// It is read once.
type Frames interface {
	Frames(ctx context.Context) iter.Seq2[Stored, error]
}

// FramesFunc is a function that is a Frames.
type FramesFunc func(ctx context.Context) iter.Seq2[Stored, error]

// Frames calls f.
func (f FramesFunc) Frames(ctx context.Context) iter.Seq2[Stored, error] { return f(ctx) }

// Place is where checkpoints were kept, from the smallest on. Those of other logs in it are passed over, and told of.
type Place struct {
	Name        string // "log", "SB_AUDIT", the path of a directory
	Checkpoints iter.Seq2[[]byte, error]
}

// Opener opens a frame, for the verdict on readability: whoever has keys can give one. The error is what opening it came
// to. It may be called by several goroutines at once.
type Opener func(ctx context.Context, s *Stored, e *Expectation) error

// Input is what Verify works on.
type Input struct {
	Log        Entries
	Places     []Place // the log's own first
	Frames     Frames  // the stream; nil: there is the log alone
	Statements *Statements

	// First and Last bound the frames that are looked for in the stream; zero: from the beginning, to the end.
	First, Last uint64

	// Created is when the stream was made, as the broker says now; zero: it is not known. Where the log has another time, the
	// stream is not the one that was logged.
	Created time.Time

	Opener Opener        // nil: no verdict on readability
	Now    time.Time     // zero: the time that it is
	Fresh  time.Duration // how old the last checkpoint may be; zero: DefaultFreshness

	// Progress is called from time to time, with how much has been read: of the log, and then of the stream.
	Progress func(entries, frames int64)
}

// Verify gives its verdicts on a stream and its log. First it reads the log, with the checkpoints beside it, then the stream
// beside the log; the frames are attested on all cores. Memory does not grow with either. What it finds is in the report; the
// error is one of the sources' or ctx's, and then there is no report.
func Verify(ctx context.Context, in *Input) (*Report, error) {
	v, err := newVerification(in)
	if err != nil {
		return nil, err
	}
	if err := v.readLog(ctx); err != nil {
		return nil, err
	}
	if err := v.readStream(ctx); err != nil {
		return nil, err
	}
	v.settle()
	return &v.Report, nil
}

// verification is one run of Verify.
type verification struct {
	Report
	in       *Input
	channel  policy.Channel // whose rights count: a topic or queue
	results  bool           // the stream holds results or dead letters: senders do not count those
	purged   bool           // single messages may be taken out on request
	now      func() time.Time
	fresh    time.Duration
	counters *counters

	eras     []era    // policies, in the order of the log
	epochs   []epoch  // places where the stream's sequences went back
	unpruned []pruned // what the auditor saw vanish too early
	doubtful []doubtful
	bad      map[int64]bool // entries that are not those that were logged
	created  time.Time
	lastSeq  uint64 // the last sequence in the log
	firstSeq uint64 // and the first
	replaced bool   // the stream is not the one that was logged
}

func newVerification(in *Input) (*verification, error) {
	if in.Log == nil || in.Statements == nil {
		return nil, errors.New("audit: Verify needs a Log and Statements")
	}
	o := in.Log.Origin()
	ch, ok := policy.StreamChannel(o.Stream)
	if !ok {
		return nil, fmt.Errorf("audit: %.80q is no stream that is audited", o.Stream)
	}
	v := &verification{
		Report: Report{Origin: o, As: in.Now}, in: in, channel: ch,
		results: o.Stream != policy.TaskStream(ch.Name()) && ch.Kind() == policy.KindQueue,
		purged:  o.Stream == policy.DeadStream(ch.Name()) && ch.Kind() == policy.KindQueue,
		now:     func() time.Time { return in.Now }, fresh: in.Fresh,
	}
	if in.Now.IsZero() {
		v.now, v.As = time.Now, time.Now()
	}
	if v.fresh == 0 {
		v.fresh = DefaultFreshness
	}
	v.counters = newCounters(ch.Kind() == policy.KindTopic, &v.Order, &v.Completeness)
	return v, nil
}

// era is the time of one policy.
type era struct {
	entry    int64 // where it begins
	logged   time.Time
	last     uint64 // message of the stream when it was adopted, 0: not known
	revision uint64
	policy   *policy.Policy // nil where the statement is not believed
	retain   time.Duration  // 0: the policy does not keep the channel, or is not here
}

// epoch is where the log goes on at a lower sequence.
type epoch struct {
	entry  int64
	first  uint64
	logged time.Time
}

// pruned is messages that the auditor saw vanish before they were old enough.
type pruned struct {
	first, last uint64
	logged      time.Time
	retain      time.Duration
}

// doubtful is messages that had vanished before they were logged, and may have been old enough to.
type doubtful struct {
	at   Position
	what string
}

func (v *verification) progress(entries, frames int64) {
	if v.in.Progress != nil && (entries+frames)%progressEvery == 0 {
		v.in.Progress(entries, frames)
	}
}

// retainOf returns for how long a policy has the channel's messages kept.
func (v *verification) retainOf(p *policy.Policy) time.Duration {
	if p == nil {
		return 0
	}
	s, _ := p.Settings(v.channel)
	return s.Retain
}

func (v *verification) settle() {
	v.counters.settle()
	v.freshness()
	if v.Covered == 0 {
		v.Integrity.note("no checkpoint covers the log: nobody has signed it")
	}
	if v.results {
		v.Completeness.note("senders do not count results: one that never reached the stream is not noticed here")
	}
	if v.in.Frames == nil {
		for _, verdict := range []*Verdict{&v.Integrity, &v.Completeness, &v.Authenticity} {
			verdict.note("the stream was not looked at")
		}
	}
	v.Integrity.settle("integrity", "the log is what was signed, and every message that is there is the one that was logged")
	v.Order.settle("order", "every message is where it was, and every sender's are in its order")
	v.Completeness.settle("completeness", "nothing is missing of what was logged, nor of what senders have counted")
	v.Authenticity.settle("authenticity", "every message was signed by an agent that was entitled to send it")
	v.Freshness.settle("freshness", "the last checkpoint is of "+stamp(v.Until))
	if v.in.Opener != nil {
		v.Readability.settle("readability", "every message opens")
	}
	v.in = nil
}

// freshness says how old what is signed is.
func (v *verification) freshness() {
	f, now := &v.Freshness, v.now()
	if v.Covered == 0 {
		f.fail(Position{Entry: -1}, "there is no checkpoint")
		return
	}
	age := now.Sub(v.Until)
	f.figure("seconds since the last entry that is signed", int64(age/time.Second))
	f.figure("entries that are not signed yet", v.Size-v.Covered)
	if age > v.fresh {
		f.fail(Position{Entry: v.Covered - 1}, "what is signed ends at %s, %v ago: at most %v are allowed", stamp(v.Until), age.Round(time.Second), v.fresh)
	}
}
