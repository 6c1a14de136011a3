package policy_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/policy"
)

const head = "trust_domain: example.org\nrevision: 7\n"

// full uses every field.
const full = `# who may do what
trust_domain: example.org
revision: 7
previous: sha256:1c9f000000000000000000000000000000000000000000000000000000000001
operators: ["sha256:9b02000000000000000000000000000000000000000000000000000000000002"]
topics:
  prices:
    publish: ["feed-*"]
    subscribe: [planner, "exec-*"]
    audit: [witness]
    max_age: 45s
    retain: 90d
    signed: false
    pad: true
    rotate: 12h
    history: true
  news: {publish: [planner], subscribe: ["*"]}
queues:
  summarise: {enqueue: [planner], work: ["writer-*"], read: [clerk, "exec-*"], audit: [witness, "aud-*"]}
  archive: {enqueue: ["*"], work: [store], signed: false, pad: true, retain: 30d, rotate: 7d, history: false}
services:
  lookup: {call: [planner, "exec-*"], serve: ["index-*"]}
  price: {call: ["exec-*"], serve: [pricer], pad: true, rotate: 1h}
direct:
  - {from: [planner], to: ["*"]}
  - {from: [auditor], to: [planner, store], signed: true, pad: true}
revoked: [exec-3, gone]
max_card_age: 30d
destroyed:
  - {channel: topic/prices, before: "2026-11-01T00:00:00Z"}
  - {channel: queue/summarise, before: '2026-10-01T12:30:15Z'}
  - {channel: service/lookup, before: "2025-01-01T00:00:00Z"}
`

func mustParse(t testing.TB, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestParse(t *testing.T) {
	p := mustParse(t, full)
	if p.TrustDomain().Name() != "example.org" || p.Revision() != 7 || p.Hash() != [32]byte{} || string(p.YAML()) != full {
		t.Errorf("%v, revision %d, hash %x", p.TrustDomain(), p.Revision(), p.Hash())
	}
	previous, ok := p.Previous()
	if text := policy.FormatHash(previous); !ok || text != "sha256:1c9f000000000000000000000000000000000000000000000000000000000001" {
		t.Errorf("previous = %s, %v", text, ok)
	}
	operator := identity.MustParseFingerprint("sha256:9b02000000000000000000000000000000000000000000000000000000000002")
	if got := p.Operators(); !slices.Equal(got, []identity.Fingerprint{operator}) {
		t.Errorf("operators = %v", got)
	}
	for got, want := range map[string]string{
		strings.Join(p.Topics(), " "):   "news prices",
		strings.Join(p.Queues(), " "):   "archive summarise",
		strings.Join(p.Services(), " "): "lookup price",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestSettings(t *testing.T) {
	p := mustParse(t, full)
	const day = 24 * time.Hour
	archive := policy.Settings{Pad: true, MaxAge: 30 * time.Second, Retain: 30 * day, Rotate: 7 * day}
	summarise := policy.Settings{Signed: true, History: true, MaxAge: 30 * time.Second, Retain: 7 * day, Rotate: day}
	pair := policy.Settings{MaxAge: 30 * time.Second, Rotate: day}
	signed, padded := pair, pair
	signed.Signed, signed.Pad, padded.Pad = true, true, true
	for channel, want := range map[string]policy.Settings{
		"topic/prices":         {Pad: true, History: true, MaxAge: 45 * time.Second, Retain: 90 * day, Rotate: 12 * time.Hour},
		"topic/news":           {Signed: true, MaxAge: 30 * time.Second, Rotate: day},
		"queue/summarise":      summarise,
		"result/summarise":     summarise,
		"queue/archive":        archive,
		"result/archive":       archive,
		"service/lookup":       {Signed: true, MaxAge: 30 * time.Second, Rotate: day},
		"service/price":        {Signed: true, Pad: true, MaxAge: 30 * time.Second, Rotate: time.Hour},
		"pair/bob~planner":     pair,
		"pair/auditor~planner": signed, // two rules, and the stricter holds
		"pair/exec-1~index-1":  pair,   // a service's replies
		"pair/exec-1~pricer":   padded, // a padded service's replies
	} {
		if got, ok := p.Settings(policy.MustParseChannel(channel)); !ok || got != want {
			t.Errorf("%s: %+v, %v, want %+v", channel, got, ok, want)
		}
	}
	for _, channel := range []string{"topic/summarise", "queue/prices", "result/lookup", "service/prices", "pair/alice~bob", "pair/exec-3~pricer"} {
		if got, ok := p.Settings(policy.MustParseChannel(channel)); ok || got != (policy.Settings{}) {
			t.Errorf("%s: %+v, %v", channel, got, ok)
		}
	}
	if _, ok := p.Settings(policy.Channel{}); ok {
		t.Error("no channel has settings")
	}
}

func TestParseAccepts(t *testing.T) {
	for name, text := range map[string]string{
		"no rules":              head,
		"document markers":      "---\n" + head + "...\n",
		"windows line ends":     strings.ReplaceAll(full, "\n", "\r\n"),
		"no line end":           strings.TrimSuffix(full, "\n"),
		"other letters":         "# Preise für Ōsaka\n" + full,
		"empty sections":        head + "topics: {}\nqueues: {}\nservices: {}\ndirect: []\nrevoked: []\noperators: []\n",
		"revoked everybody":     head + "topics: {a: {publish: [x], subscribe: [y]}}\nrevoked: [x, y]\n",
		"same name, kinds":      head + "topics: {a: {publish: [x], subscribe: [y]}}\nqueues: {a: {enqueue: [x], work: [y]}}\n",
		"quoted number":         head + "topics: {\"1\": {publish: [\"007\"], subscribe: [\"2*\"]}}\n",
		"longest retain":        head + "topics: {a: {publish: [x], subscribe: [y], retain: 3650d, max_age: 10m, rotate: 90d}}\n",
		"shortest":              head + "topics: {a: {publish: [x], subscribe: [y], retain: 1s, max_age: 1s, rotate: 1m}}\n",
		"highest revision":      "trust_domain: example.org\nrevision: 9007199254740991\n",
		"one agent, both sides": head + "topics: {a: {publish: [x], subscribe: [x]}}\n",
		"longest name":          head + "topics: {" + long + ": {publish: [" + long + "], subscribe: [\"" + long + "*\"]}}\n",
		"longest trust domain":  "trust_domain: " + strings.Repeat("d", 180) + "\nrevision: 1\n",
		"most patterns":         head + "topics: {a: {publish: [" + list(policy.MaxPatterns) + "], subscribe: [x]}}\n",
		"most operators":        head + "operators: [" + fingerprints(policy.MaxOperators) + "]\n",
	} {
		if _, err := policy.Parse([]byte(text)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func list(n int) string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("n%d", i)
	}
	return strings.Join(names, ", ")
}

func fingerprints(n int) string {
	texts := make([]string, n)
	for i := range texts {
		texts[i] = identity.Fingerprint{byte(i + 1)}.String()
	}
	return strings.Join(texts, ", ")
}

func TestErrors(t *testing.T) {
	_, err := policy.Parse([]byte(head + "topcs: {}\nrevokd: []\n"))
	want := "policy line 3: the policy has no field \"topcs\": write \"topics\"\npolicy line 4: the policy has no field \"revokd\": write \"revoked\""
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	var all *policy.Errors
	if !errors.As(err, &all) || len(all.Problems) != 2 || all.More != 0 || all.Problems[1].Line != 4 || all.Problems[1].Column != 1 {
		t.Errorf("got %+v", all)
	}
	var first policy.Problem
	if !errors.As(err, &first) || first.Line != 3 {
		t.Errorf("the first problem is %+v", first)
	}
}

func TestErrorsAreBounded(t *testing.T) {
	text := head + strings.Repeat("x", 1000) + ": 1\n"
	for i := range 50 {
		text += fmt.Sprintf("unknown%d: 1\n", i)
	}
	_, err := policy.Parse([]byte(text))
	var all *policy.Errors
	if !errors.As(err, &all) || len(all.Problems) != policy.MaxProblems || all.More != 51-policy.MaxProblems {
		t.Fatalf("got %v", err)
	}
	if lines := strings.Split(err.Error(), "\n"); len(lines) != policy.MaxProblems+1 || lines[policy.MaxProblems] != "policy: and 31 more" {
		t.Errorf("got %d lines: %s", len(lines), lines[len(lines)-1])
	}
	if len(err.Error()) > 10_000 {
		t.Errorf("the message has %d bytes", len(err.Error()))
	}
}

func TestLimits(t *testing.T) {
	for name, text := range map[string]string{
		"text":      head + "#" + strings.Repeat("x", policy.MaxYAML),
		"patterns":  head + "topics: {a: {publish: [" + list(policy.MaxPatterns+1) + "], subscribe: [x]}}\n",
		"direct":    head + "direct:\n" + strings.Repeat("- {}\n", policy.MaxDirect+1),
		"revoked":   head + "revoked: [" + strings.Repeat("a,", policy.MaxRevoked+1) + "]\n",
		"operators": head + "operators: [" + fingerprints(policy.MaxOperators+1) + "]\n",
		"destroyed": head + "destroyed:\n" + strings.Repeat("- {}\n", policy.MaxDestroyed+1),
		"channels":  head + "topics: {" + keys(policy.MaxChannels/2+1) + "}\nqueues: {" + keys(policy.MaxChannels/2) + "}\n",
		"depth":     head + "topics: " + strings.Repeat("[", 50_000),
		"depth 2":   head + "topics: " + strings.Repeat("{a: ", 20_000),
		"depth 3":   head + "topics:\n" + strings.Repeat("- ", 20_000) + "\n",
	} {
		_, err := policy.Parse([]byte(text))
		var all *policy.Errors
		if !errors.As(err, &all) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		last := all.Problems[0].Msg
		for _, p := range all.Problems {
			if strings.Contains(p.Msg, "allowed") || strings.Contains(p.Msg, "more than") || strings.Contains(p.Msg, "nested") {
				last = ""
			}
		}
		if last != "" {
			t.Errorf("%s: %s", name, last)
		}
	}
}

// keys returns the entries of a mapping with n short keys and nothing behind them.
func keys(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "a%x,", i)
	}
	return b.String()
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(full))
	for _, test := range refused {
		f.Add([]byte(test.text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := policy.Parse(text)
		if err != nil {
			var all *policy.Errors
			if !errors.As(err, &all) || len(all.Problems) == 0 {
				t.Fatalf("%q: %v", text, err)
			}
			for _, problem := range all.Problems {
				if problem.Line < 1 || problem.Line > bytes.Count(text, []byte("\n"))+1 || problem.Msg == "" {
					t.Errorf("%q: %+v", text, problem)
				}
			}
			return
		}
		if p.Revision() == 0 || p.TrustDomain().IsZero() {
			t.Errorf("%q: revision %d, trust domain %v", text, p.Revision(), p.TrustDomain())
		}
		checkPermissions(t, p, "planner")
		checkPermissions(t, p, "a")
		for _, topic := range p.Topics() {
			if _, err := p.TopicChannel(topic); err != nil {
				t.Error(err)
			}
			if p.ReadersLost(p, policy.MustParseChannel("topic/"+topic)) {
				t.Errorf("%q: topic %s lost readers to itself", text, topic)
			}
		}
	})
}

// The file in the documentation is one that works, once its hashes are written out.
func TestDocumentation(t *testing.T) {
	source, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(source), "# The policy file\n//\n")
	block, _, found := strings.Cut(rest, "\n//\n// It is YAML")
	if !found {
		t.Fatal("there is no example in the documentation")
	}
	var text strings.Builder
	for line := range strings.Lines(block) {
		line = strings.TrimPrefix(strings.TrimPrefix(line, "//"), "\t")
		text.WriteString(strings.Replace(line, "…", strings.Repeat("0", 60), 1))
	}
	p := mustParse(t, text.String())
	if p.Revision() != 7 || !p.Revoked("exec-3") || !p.CanRead(policy.MustParseChannel("queue/summarise"), "clerk") ||
		!p.CanAudit(policy.MustParseChannel("topic/prices"), "witness") || len(p.Destroyed()) != 1 {
		t.Error("the example does not say what it seems to")
	}
}
