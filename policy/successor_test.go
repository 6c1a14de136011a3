package policy_test

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/policy"
)

func TestReadersLost(t *testing.T) {
	for _, test := range []struct {
		name, before, after string
		lost                string // channels; every other keeps its keys
	}{
		{"nothing", "topics: {t: {publish: [a], subscribe: [b]}}", "topics: {t: {publish: [a], subscribe: [b]}}", ""},
		{"reader added", "topics: {t: {publish: [a], subscribe: [b]}}", "topics: {t: {publish: [a], subscribe: [b, c]}}", ""},
		{"reader removed", "topics: {t: {publish: [a], subscribe: [b, c]}, u: {publish: [a], subscribe: [b, c]}}",
			"topics: {t: {publish: [a], subscribe: [b]}, u: {publish: [a], subscribe: [b, c]}}", "topic/t"},
		{"writer removed", "topics: {t: {publish: [a, c], subscribe: [b]}}", "topics: {t: {publish: [a], subscribe: [b]}}", "topic/t"},
		{"reader becomes writer", "topics: {t: {publish: [a], subscribe: [b, c]}}", "topics: {t: {publish: [a, c], subscribe: [b]}}", "topic/t"},
		{"glob for a name", "topics: {t: {publish: [a], subscribe: [b-1]}}", "topics: {t: {publish: [a], subscribe: [\"b-*\"]}}", ""},
		{"name for a glob", "topics: {t: {publish: [a], subscribe: [\"b-*\"]}}", "topics: {t: {publish: [a], subscribe: [b-1]}}", "topic/t"},
		{"wider glob", "topics: {t: {publish: [a], subscribe: [\"b-*-x\"]}}", "topics: {t: {publish: [a], subscribe: [\"b-*\"]}}", ""},
		{"narrower glob", "topics: {t: {publish: [a], subscribe: [\"b-*\"]}}", "topics: {t: {publish: [a], subscribe: [\"b-*-x\"]}}", "topic/t"},
		{"everybody", "topics: {t: {publish: [a], subscribe: [b, \"c*\"]}}", "topics: {t: {publish: [\"*\"], subscribe: [\"*\"]}}", ""},
		{"revoked", "topics: {t: {publish: [a], subscribe: [b, \"c*\"]}}", "topics: {t: {publish: [a], subscribe: [b, \"c*\"]}}\nrevoked: [c1]", "topic/t"},
		{"revoked writer", "topics: {t: {publish: [a, b], subscribe: [c]}}", "topics: {t: {publish: [a, b], subscribe: [c]}}\nrevoked: [b]", "topic/t"},
		{"revoked stranger", "topics: {t: {publish: [a], subscribe: [b]}}", "topics: {t: {publish: [a], subscribe: [b]}}\nrevoked: [c]", ""},
		{"revoked before", "topics: {t: {publish: [a], subscribe: [b, c]}}\nrevoked: [c]", "topics: {t: {publish: [a], subscribe: [b]}}", ""},
		{"no longer revoked", "topics: {t: {publish: [a], subscribe: [b, c]}}\nrevoked: [c]", "topics: {t: {publish: [a], subscribe: [b, c]}}", ""},
		{"topic removed", "topics: {t: {publish: [a], subscribe: [b]}}", "revoked: []", "topic/t"},
		{"topic new", "revoked: []", "topics: {t: {publish: [a], subscribe: [b]}}", ""},
		{"worker removed", "queues: {q: {enqueue: [a], work: [b, c]}}", "queues: {q: {enqueue: [a], work: [b]}}", "queue/q result/q"},
		{"enqueuer removed", "queues: {q: {enqueue: [a, c], work: [b]}}", "queues: {q: {enqueue: [a], work: [b]}}", "queue/q result/q"},
		{"reader of tasks removed", "queues: {q: {enqueue: [a], work: [b], read: [c]}}", "queues: {q: {enqueue: [a], work: [b]}}", "queue/q result/q"},
		{"reader of tasks added", "queues: {q: {enqueue: [a], work: [b]}}", "queues: {q: {enqueue: [a], work: [b], read: [c]}}", ""},
		{"reader of tasks revoked", "queues: {q: {enqueue: [a], work: [b], read: [\"c*\"]}}", "queues: {q: {enqueue: [a], work: [b], read: [\"c*\"]}}\nrevoked: [c1]", "queue/q result/q"},
		{"worker may only read", "queues: {q: {enqueue: [a], work: [b, c]}}", "queues: {q: {enqueue: [a], work: [b], read: [c]}}", "queue/q result/q"},
		{"auditor removed", "topics: {t: {publish: [a], subscribe: [b], audit: [c], retain: 1d}}\nqueues: {q: {enqueue: [a], work: [b], audit: [c]}}",
			"topics: {t: {publish: [a], subscribe: [b], retain: 1d}}\nqueues: {q: {enqueue: [a], work: [b]}}", ""},
		{"auditor revoked", "queues: {q: {enqueue: [a], work: [b], audit: [c, d]}}", "queues: {q: {enqueue: [a], work: [b], audit: [c, d]}}\nrevoked: [d]", ""},
		{"server removed", "services: {s: {call: [a], serve: [b, c]}}", "services: {s: {call: [a], serve: [c]}}", "service/s pair/a~b"},
		{"rule removed", "direct: [{from: [a], to: [b, c]}]", "direct: [{from: [a], to: [c]}]", "pair/a~b"},
		{"rule turned round", "direct: [{from: [a], to: [b]}]", "direct: [{from: [b], to: [a]}]", ""},
		{"rule for a service", "direct: [{from: [a], to: [b]}]", "services: {s: {call: [a], serve: [b]}}", ""},
		{"peer revoked", "direct: [{from: [a], to: [b, c]}]", "direct: [{from: [a], to: [b, c]}]\nrevoked: [b]", "pair/a~b"},
		{"other trust domain", "topics: {t: {publish: [a], subscribe: [b]}}", "topics: {t: {publish: [a], subscribe: [b]}}\n# other domain",
			"topic/t topic/u queue/q result/q service/s pair/a~b pair/a~c"},
	} {
		t.Run(test.name, func(t *testing.T) {
			before, after := mustParse(t, head+test.before+"\n"), mustParse(t, domain(head+test.after+"\n"))
			for _, channel := range strings.Fields("topic/t topic/u queue/q result/q service/s pair/a~b pair/a~c") {
				ch := policy.MustParseChannel(channel)
				if got, want := after.ReadersLost(before, ch), contains(test.lost, channel); got != want {
					t.Errorf("%s: %v, want %v", ch, got, want)
				}
				if after.ReadersLost(after, ch) {
					t.Errorf("%s: lost to itself", ch)
				}
				if !after.ReadersLost(nil, ch) {
					t.Errorf("%s: nothing lost since nobody knows what", ch)
				}
			}
		})
	}
}

func domain(text string) string {
	if strings.Contains(text, "# other domain") {
		return strings.Replace(text, "example.org", "example.net", 1)
	}
	return text
}

// Whatever changes, no agent that lost a right goes unnoticed.
func TestReadersLostMissesNobody(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	patterns := []string{"a", "b", "ab", "\"a*\"", "\"*b\"", "\"*\"", "\"a*b\"", "ba", "\"ba*\""}
	pick := func() string {
		rng.Shuffle(len(patterns), func(i, j int) { patterns[i], patterns[j] = patterns[j], patterns[i] })
		return strings.Join(patterns[:1+rng.IntN(4)], ", ")
	}
	random := func() *policy.Policy {
		revoked := ""
		if rng.IntN(3) == 0 {
			revoked = []string{"a", "ab", "aab"}[rng.IntN(3)]
		}
		return mustParse(t, head+"topics: {t: {publish: ["+pick()+"], subscribe: ["+pick()+"]}}\nqueues: {t: {enqueue: ["+pick()+"], work: [x, "+pick()+"], read: ["+pick()+"], audit: ["+pick()+"]}}\n"+
			"direct: [{from: ["+pick()+", y], to: ["+pick()+", x]}]\nrevoked: ["+revoked+"]\n")
	}
	agents := strings.Fields("a b c ab ba aab abb bab aabb x y")
	kept := 0
	for range 2_000 {
		before, after := random(), random()
		for _, channel := range strings.Fields("topic/t queue/t result/t pair/a~b pair/ab~x") {
			ch := policy.MustParseChannel(channel)
			if after.ReadersLost(before, ch) {
				continue
			}
			kept++
			for _, agent := range agents {
				if before.CanRead(ch, agent) && !after.CanRead(ch, agent) || before.CanWrite(ch, agent) && !after.CanWrite(ch, agent) {
					t.Fatalf("%s lost %s unnoticed\n%s\n%s", agent, ch, before.YAML(), after.YAML())
				}
			}
		}
	}
	if kept < 500 {
		t.Errorf("only %d channels kept their readers", kept)
	}
}

func TestCheckSuccessor(t *testing.T) {
	key, now := newKey(t), time.Unix(1_800_000_000, 0)
	signed := func(text string) *policy.Policy {
		t.Helper()
		raw, err := policy.Sign([]byte(text), key, now)
		if err != nil {
			t.Fatal(err)
		}
		p, err := policy.Verify(raw, []identity.Fingerprint{key.Fingerprint()})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	const td = "trust_domain: example.org\n"
	one := signed(td + "revision: 1\n")
	two := signed(td + "revision: 2\nprevious: " + policy.FormatHash(one.Hash()) + "\n")
	for _, test := range []struct {
		name    string
		current *policy.Policy
		next    string
		want    error
	}{
		{"the next", one, td + "revision: 2\n", nil},
		{"the next, by name", one, td + "revision: 2\nprevious: " + policy.FormatHash(one.Hash()) + "\n", nil},
		{"the same", one, td + "revision: 1\n", nil},
		{"a later one", one, td + "revision: 9\n", nil},
		{"a later one, after one not seen", one, td + "revision: 9\nprevious: " + policy.FormatHash(two.Hash()) + "\n", nil},
		{"older", two, td + "revision: 1\n", policy.ErrRollback},
		{"another of the same revision", one, td + "revision: 1\nrevoked: [a]\n", policy.ErrFork},
		{"the next, of another", one, td + "revision: 2\nprevious: " + policy.FormatHash(two.Hash()) + "\n", policy.ErrFork},
	} {
		if err := signed(test.next).CheckSuccessor(test.current); !errors.Is(err, test.want) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	if err := signed("trust_domain: example.net\nrevision: 2\n").CheckSuccessor(one); err == nil {
		t.Error("another trust domain is accepted")
	}
}
