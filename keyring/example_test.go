package keyring_test

import (
	"context"
	"fmt"
	"log"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/identity/devca"
	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/keyring"
	"github.com/sealbus/sealbus/policy"
)

// store is the least that a Store can be: a map, and who wants to hear of changes to it.
type store struct {
	mu      sync.Mutex
	entries map[string][]byte
	follows map[int]func(bucket string, e keyring.Entry)
}

func (s *store) Get(_ context.Context, bucket, key string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, ok := s.entries[bucket+" "+key]; ok {
		return v, nil
	}
	return nil, keyring.ErrNotFound
}

func (s *store) Put(_ context.Context, bucket, key string, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries[bucket+" "+key] = value
	for _, tell := range s.follows {
		tell(bucket, keyring.Entry{Key: key, Value: value})
	}
	return nil
}

func (s *store) List(_ context.Context, bucket, filter string) (list []keyring.Entry, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(s.entries)) {
		if key, ok := strings.CutPrefix(name, bucket+" "); ok && matches(filter, key) {
			list = append(list, keyring.Entry{Key: key, Value: s.entries[name]})
		}
	}
	return list, nil
}

func (s *store) Follow(_ context.Context, bucket, filter string, fn func(keyring.Entry)) (func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := len(s.follows)
	for s.follows[id] != nil {
		id++
	}
	s.follows[id] = func(b string, e keyring.Entry) {
		if b == bucket && matches(filter, e.Key) {
			fn(e)
		}
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.follows, id)
	}, nil
}

func matches(filter, key string) bool {
	f, k := strings.Split(filter, "."), strings.Split(key, ".")
	for i, token := range f {
		switch {
		case token == ">":
			return i < len(k)
		case i >= len(k) || token != "*" && token != k[i]:
			return false
		}
	}
	return len(f) == len(k)
}

// Two agents that have nothing but certificates and an operator's fingerprint get a key through a store that neither
// trusts, and one reads what the other writes.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	planner, feed := agents(ctx)
	defer planner.Close(ctx)
	defer feed.Close(ctx)

	prices := policy.MustParseChannel("topic/prices")
	receiver, err := planner.Receiver(prices)
	if err != nil {
		log.Fatal(err)
	}
	if err := planner.Join(ctx, prices); err != nil {
		log.Fatal(err)
	}
	sender, err := feed.Sender(ctx, prices)
	if err != nil {
		log.Fatal(err)
	}
	frame, _, err := sender.Seal(nil, &keyring.Draft{
		Kind:      envelope.KindEvent,
		Recipient: "prices.eu.de",
		Messages:  []envelope.Message{{Payload: []byte("42.17")}},
	})
	if err != nil {
		log.Fatal(err)
	}

	want := &keyring.Want{Kinds: keyring.Kinds(envelope.KindEvent), Recipient: "prices.eu.de"}
	var m keyring.Opened
	err = receiver.Open(frame, want, &m)
	for reason := keyring.ReasonOf(err); reason == keyring.NoKey || reason == keyring.NoCard; reason = keyring.ReasonOf(err) {
		if err := planner.Await(ctx, frame); err != nil { // fetches the sender's card
			log.Fatal(err)
		}
		err = receiver.Open(frame, want, &m)
	}
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s from %s, signed: %v\n", m.Messages[0].Payload, m.Sender, m.Signed)
	fmt.Println("again:", keyring.ReasonOf(receiver.Open(frame, want, &m)))
	fmt.Println(planner)
	// Output:
	// 42.17 from spiffe://example.org/agent/feed-1, signed: true
	// again: replayed
	// [redacted]
}

// agents makes a trust domain, its policy, and two agents that share a store.
func agents(ctx context.Context) (planner, feed *keyring.Ring) {
	_, _, planner, feed = trustDomain(ctx)
	return planner, feed
}

func trustDomain(ctx context.Context) (authorities *x509bundle.Bundle, pin identity.Fingerprint, planner, feed *keyring.Ring) {
	ca, err := devca.New("example.org")
	if err != nil {
		log.Fatal(err)
	}
	operator, err := identity.GenerateOperatorKey()
	if err != nil {
		log.Fatal(err)
	}
	signed, err := policy.Sign([]byte(`
trust_domain: example.org
revision: 1
topics:
  prices: {publish: ["feed-*"], subscribe: [planner]}
queues:
  jobs: {enqueue: ["feed-*"], work: [planner]}
`), operator, time.Now())
	if err != nil {
		log.Fatal(err)
	}
	s := &store{entries: map[string][]byte{policy.BucketPolicy + " " + policy.PolicyKey: signed}, follows: map[int]func(string, keyring.Entry){}}

	attach := func(name string) *keyring.Ring {
		ring, err := keyring.Memory(operator.Fingerprint())
		if err != nil {
			log.Fatal(err)
		}
		src, err := ca.AgentSource(name, time.Hour)
		if err != nil {
			log.Fatal(err)
		}
		if err := ring.Attach(ctx, src, s, func(r keyring.Report) { log.Print(r.Key, ": ", r.Err) }); err != nil {
			log.Fatal(err)
		}
		return ring
	}
	return ca.Bundle(), operator.Fingerprint(), attach("planner"), attach("feed-1")
}
