package agentbus_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
)

// stock publishes n messages, each to a subject of its own and so in a frame of its own, and returns their texts.
func stock(t testing.TB, w *bustest.World, b *agentbus.Bus, topic string, from, n, size int) (all []string) {
	t.Helper()
	padding := strings.Repeat("x", size)
	for i := range n {
		text := strconv.Itoa(from+i) + padding
		all = append(all, text)
		_, err := b.PublishAsync(w.Ctx(), fmt.Sprintf("%s.n%d", topic, i), []byte(text))
		bustest.Check(t, err)
	}
	bustest.Check(t, b.Flush(w.Ctx()))
	return all
}

// same compares long lists.
func same(t testing.TB, what string, got, want []string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Errorf("%s: %d messages, want %d; they differ at %d", what, len(got), len(want), i)
			return
		}
	}
}

// TestReplayPages reads streams of many pages, also where messages are missing at the beginning and in between.
func TestReplayPages(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, replayPolicy)
	planner, feed := w.Agent("planner"), w.Agent("feed-1")
	all := stock(t, w, feed, "ledger", 0, 5000, 1000)
	same(t, "all", texts(t, planner.Replay(w.Ctx(), "ledger.>")), all)
	same(t, "below", texts(t, planner.Replay(w.Ctx(), "ledger.*")), all)
	at := places(t, w, planner, "ledger")
	same(t, "from the middle", texts(t, planner.Replay(w.Ctx(), "ledger.>", agentbus.FromSequence(at[all[2500]]))), all[2500:])
	same(t, "to the middle", texts(t, planner.Replay(w.Ctx(), "ledger.>", agentbus.ToSequence(at[all[2499]]))), all[:2500])

	large := strings.Repeat("y", agentbus.MaxPayload)
	for range 5 {
		publish(t, w, feed, "ledger", large)
		all = append(all, large)
	}
	same(t, "with large ones", texts(t, planner.Replay(w.Ctx(), "ledger.>")), all)

	// The same subjects again, and then the stream keeps one of each: holes all over it.
	again := stock(t, w, feed, "ledger", 5000, 2500, 1000)
	js, err := jetstream.New(w.Admin("STORE"))
	bustest.Check(t, err)
	s, err := js.Stream(w.Ctx(), "SB_TOPIC_ledger")
	bustest.Check(t, err)
	config := s.CachedInfo().Config
	config.MaxMsgsPerSubject = 1
	_, err = js.UpdateStream(w.Ctx(), config)
	bustest.Check(t, err)
	left := append(append(append([]string(nil), all[2500:5000]...), large), again...)
	same(t, "with holes", texts(t, planner.Replay(w.Ctx(), "ledger.>")), left)
	same(t, "with holes, below", texts(t, planner.Replay(w.Ctx(), "ledger.*")), append(append([]string(nil), all[2500:5000]...), again...))
	publish(t, w, feed, "ledger.n2600", "in a hole at the end")
	publish(t, w, feed, "ledger.n2499", "the last")
	var last uint64
	for m, err := range planner.Replay(w.Ctx(), "ledger.>", agentbus.FromSequence(5001)) {
		bustest.Check(t, err)
		last = m.Sequence
	}
	if state := streamOf(t, w, "SB_TOPIC_ledger"); last != state.LastSeq {
		t.Errorf("the last is at %d, want %d", last, state.LastSeq)
	}
}

// TestReplayBreak: whoever leaves the loop, in whatever way, leaves nothing behind.
func TestReplayBreak(t *testing.T) {
	w := bustest.New(t, replayPolicy)
	planner, feed := w.Agent("planner"), w.Agent("feed-1")
	first := stock(t, w, feed, "ledger", 0, 5000, 1000)[0]
	leave := map[string]func(iter.Seq2[*agentbus.Message, error]){
		"at the first": func(all iter.Seq2[*agentbus.Message, error]) {
			for range all {
				break
			}
		},
		"in the middle": func(all iter.Seq2[*agentbus.Message, error]) {
			n := 0
			for range all {
				if n++; n == 2000 {
					return
				}
			}
		},
		"at the end": func(all iter.Seq2[*agentbus.Message, error]) {
			for range all {
			}
		},
		"by a panic": func(all iter.Seq2[*agentbus.Message, error]) {
			defer func() { recover() }()
			for range all {
				panic("enough")
			}
		},
		"by runtime.Goexit": func(all iter.Seq2[*agentbus.Message, error]) {
			done := make(chan bool)
			go func() {
				defer close(done)
				for range all {
					runtime.Goexit()
				}
			}()
			<-done
		},
		"pulling": func(all iter.Seq2[*agentbus.Message, error]) {
			next, stop := iter.Pull2(all)
			next()
			next()
			stop()
		},
		"never begun": func(iter.Seq2[*agentbus.Message, error]) {},
	}
	options := map[string][]agentbus.ReplayOption{
		"": nil, "following": {agentbus.Follow()}, "slowly": {agentbus.Pace(1e6)}, "with progress": {agentbus.OnProgress(func(agentbus.ReplayProgress) {})},
	}
	leave["at the first"](planner.Replay(w.Ctx(), "ledger.>")) // joins
	before, subscriptions := runtime.NumGoroutine(), planner.Conn().NumSubscriptions()
	for how, leave := range leave {
		for what, options := range options {
			if how == "at the end" && what == "following" {
				continue
			}
			leave(planner.Replay(w.Ctx(), "ledger.>", options...))
			eventually(t, "everything that a replay has begun ends, left "+how+" "+what, func() bool {
				return runtime.NumGoroutine() <= before && planner.Conn().NumSubscriptions() == subscriptions
			})
		}
	}
	// Two loops over one, at a time and one in the other.
	all := planner.Replay(w.Ctx(), "ledger.>", agentbus.ToSequence(places(t, w, planner, "ledger")[first]+2))
	n := 0
	for range all {
		for range all {
			n++
		}
	}
	if n != 9 {
		t.Errorf("%d messages in two loops", n)
	}
}

// follower is a replay that goes on in a goroutine of its own.
func follower(t testing.TB, ctx context.Context, b *agentbus.Bus, pattern string, options ...agentbus.ReplayOption) (got chan string, ended chan error) {
	t.Helper()
	got, ended = make(chan string, 1<<14), make(chan error, 1)
	go func() {
		var last error
		for m, err := range b.Replay(ctx, pattern, append(options, agentbus.Follow())...) {
			if last = err; err == nil {
				got <- string(m.Payload)
			}
		}
		ended <- last
	}()
	return got, ended
}

// TestReplayFollow: what is stored from then on comes, at once and after a long silence, once and in order, until the
// context ends.
func TestReplayFollow(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, replayPolicy)
	planner, feed := w.Agent("planner"), w.Agent("feed-1")
	ctx, cancel := context.WithCancel(w.Ctx())
	defer cancel()
	publish(t, w, feed, "ledger", "0")
	expect(t, "one", texts(t, planner.Replay(w.Ctx(), "ledger.>")), "0") // joins
	subscriptions := planner.Conn().NumSubscriptions()
	got, ended := follower(t, ctx, planner, "ledger.>")
	later, _ := follower(t, ctx, planner, "ledger.>", agentbus.Since(time.Now().Add(time.Second)))
	below, _ := follower(t, ctx, planner, "ledger.x.*")
	expect(t, "the first", []string{bustest.Receive(t, got)}, "0")
	n := 1
	more := func(subject string, of int) {
		t.Helper()
		for range of {
			_, err := feed.PublishAsync(w.Ctx(), subject, []byte(strconv.Itoa(n)))
			bustest.Check(t, err)
			n++
		}
		bustest.Check(t, feed.Flush(w.Ctx()))
		for i := n - of; i < n; i++ {
			if text := bustest.Receive(t, got); text != strconv.Itoa(i) {
				t.Fatalf("message %s, want %d", text, i)
			}
		}
	}
	more("ledger", 1)
	more("ledger.x", 5000)
	// It is idle when it listens on the live subjects, two for each but the last, which has one.
	eventually(t, "the followers listen", func() bool { return planner.Conn().NumSubscriptions() >= subscriptions+3+5 })
	more("ledger.x.y", 3)
	for i := n - 3; i < n; i++ {
		if text := bustest.Receive(t, below); text != strconv.Itoa(i) {
			t.Errorf("below, message %s, want %d", text, i)
		}
	}
	bustest.Receive(t, time.After(time.Second))
	more("ledger", 1)
	if text := bustest.Receive(t, later); text != strconv.Itoa(n-1) {
		t.Errorf("the first after a time is %s, want %d", text, n-1)
	}
	cancel()
	if err := bustest.Receive(t, ended); !errors.Is(err, context.Canceled) {
		t.Errorf("it ends with %v", err)
	}
	eventually(t, "nothing is left of them", func() bool { return planner.Conn().NumSubscriptions() == subscriptions })
}

// TestReplayOverReconnects: connections that are lost, a broker that is restarted and certificates that are renewed in the middle of a
// replay lose nothing, and nothing comes twice.
func TestReplayOverReconnects(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, replayPolicy)
	feed := w.Agent("feed-1")
	planner, src := renewable(t, w, "planner", time.Hour, time.Millisecond)
	all := stock(t, w, feed, "ledger", 0, 4000, 5000)
	for name, fault := range map[string]func(){
		"a lost connection":     func() { bustest.Check(t, planner.Conn().ForceReconnect()) },
		"a broker that is back": func() { w.Stop(); w.Start() },
		"a renewed certificate": func() { renew(t, w, src, "planner", time.Hour) },
	} {
		var got []string
		for m, err := range planner.Replay(w.Ctx(), "ledger.>") {
			bustest.Check(t, err)
			if got = append(got, string(m.Payload)); len(got)%500 == 1 && len(got) < 3000 {
				fault()
			}
		}
		same(t, name, got, all)
	}
	// And a follower, which has nothing to read meanwhile.
	ctx, cancel := context.WithCancel(w.Ctx())
	defer cancel()
	got, _ := follower(t, ctx, planner, "ledger.>", agentbus.FromSequence(streamOf(t, w, "SB_TOPIC_ledger").LastSeq+1))
	for i := range 3 {
		text := strconv.Itoa(i)
		publish(t, w, feed, "ledger", text)
		if next := bustest.Receive(t, got); next != text {
			t.Errorf("the follower gets %.9s, want %s", next, text)
		}
		w.Stop()
		w.Start()
	}
}

// TestReplayEnds: what ends it from outside ends it at once, with its reason.
func TestReplayEnds(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, replayPolicy)
	feed := w.Agent("feed-1")
	stock(t, w, feed, "ledger", 0, 6000, 5000)
	cancelled, cancel := context.WithCancel(w.Ctx())
	for _, test := range []struct {
		what    string
		ctx     context.Context
		options []agentbus.ReplayOption
		end     func(b *agentbus.Bus)
		want    error
	}{
		{"the context", cancelled, nil, func(*agentbus.Bus) { cancel() }, context.Canceled},
		{"Close", w.Ctx(), nil, func(b *agentbus.Bus) { go b.Close() }, agentbus.ErrClosed},
		{"Close, while it waits", w.Ctx(), []agentbus.ReplayOption{agentbus.Pace(1e-9)}, func(b *agentbus.Bus) { go b.Close() }, agentbus.ErrClosed},
		{"Close, while it follows", w.Ctx(), []agentbus.ReplayOption{agentbus.Follow(), agentbus.FromSequence(5999)}, func(b *agentbus.Bus) { go b.Close() }, agentbus.ErrClosed},
		{"a policy", w.Ctx(), nil, func(b *agentbus.Bus) {
			publishPolicy(t, w, strings.NewReplacer("revision: 1", "revision: 2", `ledger: {publish: ["feed-*"], subscribe: [planner, "boss-*"]`, `ledger: {publish: ["feed-*"], subscribe: [boss-1]`).Replace(replayPolicy), b)
		}, agentbus.ErrNotEntitled},
	} {
		b := w.Agent("planner")
		n, errs := 0, 0
		var last error
		for _, err := range b.Replay(test.ctx, "ledger.>", test.options...) {
			if err != nil {
				errs++
				if last = err; errs > 1 && test.want != agentbus.ErrNotEntitled { // whose messages are refused one by one until it is noticed
					t.Errorf("%s: error %d: %v", test.what, errs, err)
				}
				continue
			}
			if n++; n == 1 {
				test.end(b)
			}
		}
		if !errors.Is(last, test.want) || n >= 6000 {
			t.Errorf("%s: after %d messages %v, want %v", test.what, n, last, test.want)
		}
	}
}

// TestReplayProgress tells of a replay that takes its time, no more than once a second.
func TestReplayProgress(t *testing.T) {
	t.Parallel()
	w := bustest.New(t, replayPolicy)
	planner, feed := w.Agent("planner"), w.Agent("feed-1")
	publish(t, w, feed, "ledger", "1")
	bustest.Receive(t, time.After(30*time.Millisecond))
	publish(t, w, feed, "ledger", "2")
	end := streamOf(t, w, "SB_TOPIC_ledger").LastSeq
	var all []agentbus.ReplayProgress
	var at []time.Time
	// What took 30 milliseconds takes more than three seconds.
	expect(t, "at another pace", texts(t, planner.Replay(w.Ctx(), "ledger.>", agentbus.Pace(0.01), agentbus.OnProgress(func(p agentbus.ReplayProgress) {
		all, at = append(all, p), append(at, time.Now())
	}))), "1", "2")
	if len(all) < 3 {
		t.Fatalf("told %d times", len(all))
	}
	for i, p := range all[:len(all)-1] {
		if i > 0 && at[i].Sub(at[i-1]) < 500*time.Millisecond || p.End != end || p.Messages != 1 || p.Position == 0 {
			t.Errorf("%d: %+v", i, p)
		}
	}
	if p := all[len(all)-1]; p.Position != end || p.Messages != 2 || p.Errors != 0 {
		t.Errorf("at the end %+v", p)
	}
}
