package policy_test

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/sealbus/sealbus/policy"
)

func TestMembership(t *testing.T) {
	p := mustParse(t, full)
	for _, test := range []struct {
		channel, readers, writers string
	}{
		{"topic/prices", "planner exec-1", "feed-1"},
		{"topic/news", "planner exec-1 feed-1 writer-1 index-1 pricer store auditor bob clerk witness aud-1", "planner"},
		{"queue/summarise", "writer-1 clerk exec-1", "planner"},
		{"result/summarise", "planner clerk exec-1", "writer-1"},
		{"queue/archive", "store", "planner exec-1 feed-1 writer-1 index-1 pricer store auditor bob clerk witness aud-1"},
		{"result/archive", "planner exec-1 feed-1 writer-1 index-1 pricer store auditor bob clerk witness aud-1", "store"},
		{"service/lookup", "index-1", "planner exec-1"},
		{"service/price", "pricer", "exec-1"},
		{"pair/bob~planner", "bob planner", "bob planner"},
		{"pair/auditor~store", "auditor store", "auditor store"},
		{"pair/exec-1~index-1", "exec-1 index-1", "exec-1 index-1"}, // replies of a service
		{"pair/exec-1~feed-1", "", ""},
		{"pair/bob~store", "", ""},
		{"pair/exec-3~planner", "", ""},
		{"pair/operator~planner", "", ""},
		{"topic/unknown", "", ""},
		{"queue/prices", "", ""},
		{"result/prices", "", ""},
		{"service/summarise", "", ""},
	} {
		ch := policy.MustParseChannel(test.channel)
		for _, agent := range strings.Fields("planner exec-1 exec-3 feed-1 writer-1 index-1 pricer store auditor bob clerk witness aud-1 gone operator broker Planner * planner.x") {
			if got, want := p.CanRead(ch, agent), contains(test.readers, agent); got != want {
				t.Errorf("%s reads %s: %v, want %v", agent, ch, got, want)
			}
			if got, want := p.CanWrite(ch, agent), contains(test.writers, agent); got != want {
				t.Errorf("%s writes %s: %v, want %v", agent, ch, got, want)
			}
		}
		if p.CanRead(ch, "") || p.CanWrite(ch, "") {
			t.Errorf("nobody reads or writes %s", ch)
		}
	}
	if p.CanRead(policy.Channel{}, "planner") || p.CanWrite(policy.Channel{}, "planner") {
		t.Error("somebody may use no channel")
	}
}

func contains(words, word string) bool { return strings.Contains(" "+words+" ", " "+word+" ") }

func TestRequests(t *testing.T) {
	p := mustParse(t, full)
	for _, test := range []struct {
		from, to       string
		request, reply bool
		pair           bool
	}{
		{"planner", "bob", true, false, true},
		{"bob", "planner", false, true, true},
		{"planner", "planner", false, false, false},
		{"auditor", "planner", true, true, true}, // planner may ask everybody, also the auditor
		{"planner", "auditor", true, true, true},
		{"auditor", "store", true, false, true},
		{"store", "auditor", false, true, true},
		{"exec-1", "pricer", false, false, true}, // through the service alone
		{"pricer", "exec-1", false, true, true},
		{"index-1", "planner", false, true, true},
		{"index-1", "exec-1", false, true, true},
		{"pricer", "index-1", false, false, false},
		{"planner", "exec-3", false, false, false},
		{"exec-3", "planner", false, false, false},
		{"pricer", "exec-3", false, false, false},
		{"planner", "operator", false, false, false},
		{"operator", "planner", false, false, false},
		{"planner", "", false, false, false},
		{"planner", "*", false, false, false},
		{"planner", "Bob", false, false, false},
	} {
		if got := p.MayRequest(test.from, test.to); got != test.request {
			t.Errorf("%s may ask %s: %v, want %v", test.from, test.to, got, test.request)
		}
		if got := p.MayReply(test.from, test.to); got != test.reply {
			t.Errorf("%s may answer %s: %v, want %v", test.from, test.to, got, test.reply)
		}
		if got := p.PairAllowed(test.from, test.to); got != test.pair || p.PairAllowed(test.to, test.from) != got {
			t.Errorf("%s and %s share a channel: %v, want %v", test.from, test.to, got, test.pair)
		}
	}
}

func TestRevoked(t *testing.T) {
	const rules = `
topics: {t: {publish: [bob, "*"], subscribe: [bob, "b*b"], audit: [bob], retain: 1d}}
queues: {q: {enqueue: [bob], work: [bob], read: [bob], audit: ["*"]}}
services: {s: {call: [bob, alice], serve: ["*"]}}
direct: [{from: ["*"], to: ["*"]}]
`
	before, after := mustParse(t, head+rules), mustParse(t, head+rules+"revoked: [bob]\n")
	for what, may := range map[string]func(p *policy.Policy) bool{
		"known":       func(p *policy.Policy) bool { return p.Known("bob") },
		"asks":        func(p *policy.Policy) bool { return p.MayRequest("bob", "alice") },
		"is asked":    func(p *policy.Policy) bool { return p.MayRequest("alice", "bob") },
		"answers":     func(p *policy.Policy) bool { return p.MayReply("bob", "alice") },
		"is answered": func(p *policy.Policy) bool { return p.MayReply("alice", "bob") },
		"pair":        func(p *policy.Policy) bool { return p.PairAllowed("alice", "bob") },
		"permissions": func(p *policy.Policy) bool { return !p.Permissions("bob").Empty() },
		"channels":    func(p *policy.Policy) bool { return len(p.Channels("bob")) > 0 },
		"audited":     func(p *policy.Policy) bool { return len(p.Audited("bob")) > 0 },
		"works":       func(p *policy.Policy) bool { return p.MayWork("q", "bob") },
		"audits": func(p *policy.Policy) bool {
			return p.CanAudit(policy.MustParseChannel("topic/t"), "bob") || p.CanAudit(policy.MustParseChannel("queue/q"), "bob")
		},
	} {
		if !may(before) || may(after) {
			t.Errorf("%s: %v before and %v after bob is revoked", what, may(before), may(after))
		}
	}
	for _, channel := range []string{"topic/t", "queue/q", "result/q", "service/s", "pair/alice~bob"} {
		ch := policy.MustParseChannel(channel)
		if !before.CanRead(ch, "bob") || after.CanRead(ch, "bob") || !before.CanWrite(ch, "bob") || after.CanWrite(ch, "bob") {
			t.Errorf("%s: a revoked agent reads or writes", ch)
		}
	}
	if before.Revoked("bob") || !after.Revoked("bob") || after.Revoked("alice") || after.Revoked("") {
		t.Error("Revoked does not say who is")
	}
	if !after.Known("alice") || !after.MayRequest("alice", "carol") {
		t.Error("others lose their rights too")
	}
	for _, subject := range after.Permissions("alice").Publish {
		if strings.Contains(subject, "bob") {
			t.Errorf("alice may still publish to %s", subject)
		}
	}
}

func TestKnown(t *testing.T) {
	p := mustParse(t, head+"topics: {t: {publish: [a], subscribe: [\"b-*\"], audit: [f], retain: 1d}}\n"+
		"queues: {q: {enqueue: [a], work: [a], read: [\"g*\"], audit: [gone, h]}}\ndirect: [{from: [c], to: [d, gone]}]\nrevoked: [gone]\n")
	for agent, want := range map[string]bool{"f": true, "g": true, "g1": true, "h": true, "a": true, "b-1": true, "c": true, "d": true, "b": false, "e": false, "gone": false, "": false, "b-*": false, "b-.": false} {
		if got := p.Known(agent); got != want {
			t.Errorf("Known(%q) = %v", agent, got)
		}
	}
}

func TestChannels(t *testing.T) {
	p := mustParse(t, full)
	for agent, want := range map[string]string{
		"planner":  "[queue/archive queue/summarise result/archive result/summarise service/lookup topic/news topic/prices]",
		"writer-1": "[queue/archive queue/summarise result/archive result/summarise topic/news]",
		"pricer":   "[queue/archive result/archive service/price topic/news]",
		"clerk":    "[queue/archive queue/summarise result/archive result/summarise topic/news]",
		"witness":  "[queue/archive result/archive topic/news]",
		"exec-3":   "[]",
		"operator": "[]",
	} {
		if got := fmt.Sprint(p.Channels(agent)); got != want {
			t.Errorf("%s: %s, want %s", agent, got, want)
		}
	}
}

func TestTopicChannel(t *testing.T) {
	p := mustParse(t, full)
	for _, subject := range []string{"prices", "prices.eu.de", "prices.>", "prices.*.DE"} {
		if ch, err := p.TopicChannel(subject); err != nil || ch != policy.MustParseChannel("topic/prices") {
			t.Errorf("%s: %v, %v", subject, ch, err)
		}
	}
	for _, subject := range []string{"", ">", "prices..eu", "pri ces"} {
		if ch, err := p.TopicChannel(subject); !errors.Is(err, policy.ErrSubject) || !ch.IsZero() {
			t.Errorf("%q: %v, %v", subject, ch, err)
		}
	}
	none := mustParse(t, head)
	for _, test := range []struct {
		err  func() (policy.Channel, error)
		want string
	}{
		{func() (policy.Channel, error) { return p.TopicChannel("price.eu") }, `no topic "price" in revision 7: did you mean prices?`},
		{func() (policy.Channel, error) { return p.TopicChannel("weather") }, `no topic "weather" in revision 7: the policy has the topics news, prices`},
		{func() (policy.Channel, error) { return p.QueueChannel("sumarise") }, `no queue "sumarise" in revision 7: did you mean summarise?`},
		{func() (policy.Channel, error) { return p.ServiceChannel("LOOKUP.x") }, `no service "LOOKUP.x" in revision 7: the policy has the services lookup, price`},
		{func() (policy.Channel, error) { return none.TopicChannel("x") }, `no topic "x" in revision 7: the policy has no topics`},
	} {
		ch, err := test.err()
		if !errors.Is(err, policy.ErrUnknownChannel) || !strings.HasSuffix(err.Error(), test.want) || !ch.IsZero() {
			t.Errorf("got %v, want %s", err, test.want)
		}
	}
	if ch, err := p.QueueChannel("archive"); err != nil || ch.String() != "queue/archive" {
		t.Error(ch, err)
	}
	if ch, err := p.ServiceChannel("price"); err != nil || ch.String() != "service/price" {
		t.Error(ch, err)
	}
}

// What is handed out cannot be used to change a policy that others use too.
func TestImmutable(t *testing.T) {
	p := mustParse(t, full)
	p.Operators()[0][0] ^= 1
	p.YAML()[0] ^= 1
	p.Topics()[0] = "x"
	p.Channels("planner")[0] = policy.Channel{}
	if got := mustParse(t, full); got.Operators()[0] != p.Operators()[0] || string(p.YAML()) != full || p.Topics()[0] != "news" {
		t.Error("a policy was changed from outside")
	}
}

// Whoever wants to know what a policy says should not have to link a message broker or a cryptographic library.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, forbidden := range []string{"nats-io", "tink", "google.golang.org/grpc", "sealbus/keyring", "sealbus/broker", "sealbus/agentbus"} {
		if strings.Contains(string(out), forbidden) {
			t.Errorf("the package links %s", forbidden)
		}
	}
}

func thousand(b testing.TB) *policy.Policy {
	var text strings.Builder
	text.WriteString(head + "topics:\n  prices:\n    publish: [feed]\n    subscribe:\n")
	for i := range 1000 {
		fmt.Fprintf(&text, "      - \"team-%d-*\"\n", i)
	}
	text.WriteString("queues: {q: {enqueue: [alice], work: [bob], read: [clerk], audit: [\"aud-*\"]}}\ndirect:\n")
	for i := range 100 {
		fmt.Fprintf(&text, "  - {from: [\"team-%d-*\"], to: [\"hub-*\"]}\n", i)
	}
	return mustParse(b, text.String())
}

func TestQuestionsDoNotAllocate(t *testing.T) {
	p, ch := thousand(t), policy.MustParseChannel("topic/prices")
	queue := policy.MustParseChannel("queue/q")
	pair := policy.MustParseChannel("pair/hub-1~team-99-x")
	for what, f := range map[string]func() bool{
		"CanRead":    func() bool { return p.CanRead(ch, "team-999-x") },
		"CanWrite":   func() bool { return p.CanWrite(ch, "feed") },
		"CanAudit":   func() bool { return p.CanAudit(queue, "aud-7") },
		"read":       func() bool { return p.CanRead(queue, "clerk") },
		"MayWork":    func() bool { return p.MayWork("q", "bob") },
		"pair":       func() bool { return p.CanRead(pair, "hub-1") },
		"MayRequest": func() bool { return p.MayRequest("team-99-x", "hub-1") },
		"MayReply":   func() bool { return p.MayReply("hub-1", "team-99-x") },
	} {
		if !f() {
			t.Errorf("%s says no", what)
		}
		if n := testing.AllocsPerRun(100, func() { f() }); n != 0 {
			t.Errorf("%s takes %v allocations", what, n)
		}
	}
}

func BenchmarkCanRead(b *testing.B) {
	p, ch := thousand(b), policy.MustParseChannel("topic/prices")
	b.ReportAllocs()
	for b.Loop() {
		p.CanRead(ch, "team-999-agent-17")
	}
}

func BenchmarkMayRequest(b *testing.B) {
	p := thousand(b)
	b.ReportAllocs()
	for b.Loop() {
		p.MayRequest("team-99-agent-17", "hub-1")
	}
}

func BenchmarkPermissions(b *testing.B) {
	p := thousand(b)
	for b.Loop() {
		p.Permissions("team-99-agent-17")
	}
}

func BenchmarkParse(b *testing.B) {
	text := thousand(b).YAML()
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, err := policy.Parse(text); err != nil {
			b.Fatal(err)
		}
	}
}
