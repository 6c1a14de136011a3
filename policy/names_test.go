package policy_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/sealbus/sealbus/policy"
)

func TestCheckSubject(t *testing.T) {
	for _, test := range []struct {
		text             string
		subject, pattern bool
	}{
		{"prices", true, true},
		{"prices.eu.de", true, true},
		{"prices.EU.DE_x-1", true, true},
		{"0.1", true, true},
		{strings.Repeat("a.", 15) + "a", true, true},
		{strings.Repeat("a.", 16) + "a", false, false},
		{"prices." + strings.Repeat("x", policy.MaxSubject-7), true, true},
		{"prices." + strings.Repeat("x", policy.MaxSubject-6), false, false},

		{"prices.*", false, true},
		{"prices.>", false, true},
		{"prices.*.close", false, true},
		{"prices.*.*.>", false, true},

		{"", false, false},
		{"*", false, false},
		{">", false, false},
		{"*.eu", false, false},
		{"Prices", false, false},
		{"-prices", false, false},
		{long + "n", false, false},
		{".prices", false, false},
		{"prices.", false, false},
		{"prices..eu", false, false},
		{"prices.>.eu", false, false},
		{"prices.e*", false, false},
		{"prices.**", false, false},
		{"prices.>>", false, false},
		{"prices eu", false, false},
		{"prices.e u", false, false},
		{"prices.eu ", false, false},
		{"prices.\t", false, false},
		{"prices.eu\r\nPUB x", false, false},
		{"prices.\x00", false, false},
		{"prices.é", false, false},
		{"prices.$x", false, false},
		{"$JS.API", false, false},
		{"_INBOX.x", false, false},
	} {
		if err := policy.CheckSubject(test.text); (err == nil) != test.subject || err != nil && !errors.Is(err, policy.ErrSubject) {
			t.Errorf("CheckSubject(%q): %v", test.text, err)
		}
		if err := policy.CheckPattern(test.text); (err == nil) != test.pattern || err != nil && !errors.Is(err, policy.ErrSubject) {
			t.Errorf("CheckPattern(%q): %v", test.text, err)
		}
	}
}

func TestCheckSubjectSaysWhatToDo(t *testing.T) {
	for _, test := range []struct {
		check func(string) error
		text  string
		want  string
	}{
		{policy.CheckSubject, "", `write a topic, such as "prices"`},
		{policy.CheckSubject, "prices.*", "wildcards are for subscriptions: name one subject"},
		{policy.CheckSubject, "prices.e u", `token "e u" may have only letters, digits, - and _`},
		{policy.CheckSubject, "prices..eu", "write single dots"},
		{policy.CheckPattern, ">", `start with a topic, such as "prices.>"`},
		{policy.CheckPattern, "prices.>.eu", "it can only come last"},
		{policy.CheckPattern, "prices.eu*", "a wildcard stands alone between dots"},
	} {
		if err := test.check(test.text); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: %v, want %q in it", test.text, err, test.want)
		}
	}
}

func TestNames(t *testing.T) {
	for got, want := range map[string]string{
		policy.TopicSubject("prices.eu.de"):                       "sb.topic.prices.eu.de",
		policy.ServiceSubject("lookup"):                           "sb.service.lookup",
		policy.AgentSubject("bob"):                                "sb.agent.bob",
		policy.InboxPrefix("bob"):                                 "sb.inbox.bob",
		policy.TopicStream("prices"):                              "SB_TOPIC_prices",
		policy.StreamOfBucket(policy.BucketKeys):                  "KV_SB_KEYS",
		policy.BucketSubject(policy.BucketCards, "bob.X"):         "$KV.SB_CARDS.bob.X",
		policy.DirectGet(policy.BucketKeys, ""):                   "$JS.API.DIRECT.GET.KV_SB_KEYS",
		policy.DirectGet(policy.BucketPolicy, policy.PolicyKey):   "$JS.API.DIRECT.GET.KV_SB_POLICY.$KV.SB_POLICY.current",
		policy.FeedKeys(policy.MustParseChannel("pair/a~b")):      "sb.store.keys.pair.a.b.>",
		policy.FeedKeys(policy.MustParseChannel("topic/prices")):  "sb.store.keys.topic.prices.>",
		policy.KeyPrefix(policy.MustParseChannel("result/q")):     "result.q",
		policy.CardKey("bob", "01JD0000000000000000000000"):       "bob.01JD0000000000000000000000",
		policy.FeedPolicy + " " + policy.FeedAllKeys:              "sb.store.policy.> sb.store.keys.>",
		policy.BucketPolicy + " " + policy.BucketCards + " " + "": "SB_POLICY SB_CARDS ",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if s, ok := policy.CutTopicSubject("sb.topic.prices.eu"); s != "prices.eu" || !ok {
		t.Errorf("CutTopicSubject: %q, %v", s, ok)
	}
	if s, ok := policy.CutTopicSubject("sb.agent.bob"); ok {
		t.Errorf("CutTopicSubject takes an agent's subject for %q", s)
	}
}

func TestInboxOf(t *testing.T) {
	for reply, want := range map[string]string{
		"sb.inbox.bob.x":        "bob",
		"sb.inbox.bob.NUID22.1": "bob",
		"sb.inbox.bob":          "",
		"sb.inbox.bob.":         "",
		"sb.inbox.bob.x..y":     "",
		"sb.inbox.bob.>":        "",
		"sb.inbox.*.x":          "",
		"sb.inbox.bob.x y":      "",
		"sb.inbox..x":           "",
		"sb.inbox.Bob.x":        "",
		"sb.inboxbob.x":         "",
		"sb.topic.bob.x":        "",
		"$KV.SB_CARDS.bob.x":    "",
		"":                      "",
		"sb.inbox.bob." + strings.Repeat("x", 10_000): "",
	} {
		if got, ok := policy.InboxOf(reply); got != want || ok != (want != "") {
			t.Errorf("InboxOf(%.80q) = %q, %v", reply, got, ok)
		}
	}
}

const card = "01JD3K5Z7QXN9V8M6T4R2P0WBC"

var hash = [32]byte{0x9b, 0x02, 0xfe, 0, 1, 2, 3, 4, 0xff}

func TestEntries(t *testing.T) {
	topic, pair := policy.MustParseChannel("topic/prices"), policy.MustParseChannel("pair/a~b")
	for _, test := range []struct {
		key  string
		want policy.Entry
		text string
	}{
		{policy.JoinKey(topic, "bob", card), policy.Entry{Channel: topic, Kind: policy.EntryJoin, Author: "bob", Card: card},
			"topic.prices.j.bob." + card},
		{policy.KeyStatementKey(pair, "b", 42, hash), policy.Entry{Channel: pair, Kind: policy.EntryKey, Author: "b", ID: 42, Hash: [8]byte(hash[:])},
			"pair.a.b.k.b.0000002a.9b02fe0001020304"},
		{policy.WrapKey(topic, "bob", card, 0xdeadbeef, hash), policy.Entry{Channel: topic, Kind: policy.EntryWrap, Author: "bob", Card: card, ID: 0xdeadbeef, Hash: [8]byte(hash[:])},
			"topic.prices.w.bob." + card + ".deadbeef.9b02fe0001020304"},
	} {
		if test.key != test.text {
			t.Errorf("got %q, want %q", test.key, test.text)
		}
		e, err := policy.ParseEntry(test.key)
		if err != nil || e != test.want || e.Key() != test.key {
			t.Errorf("ParseEntry(%q) = %+v, %v", test.key, e, err)
		}
	}
	if key := (policy.Entry{}).Key(); key != "" {
		t.Errorf("the zero entry is called %q", key)
	}
}

func TestParseEntryRefuses(t *testing.T) {
	for _, key := range []string{
		"", ".", "topic", "topic.prices", "topic.prices.j", "topic.prices.j.bob", "topic.prices.x.bob." + card,
		"topic.Prices.j.bob." + card, "topic.prices.j.Bob." + card, "topics.prices.j.bob." + card,
		"topic.prices.j.bob." + card + ".x", "topic.prices.j.bob." + strings.ToLower(card), "topic.prices.j.bob." + card[1:],
		"topic.prices.j.bob.8" + card[1:], "topic.prices.j.bob." + strings.Replace(card, "K", "U", 1),
		"topic.prices.k.bob.2a.9b02fe0001020304", "topic.prices.k.bob.0000002A.9b02fe0001020304",
		"topic.prices.k.bob.0000002a.9b02fe000102030", "topic.prices.k.bob.0000002a.9b02fe00010203xx",
		"topic.prices.k.bob.+000002a.9b02fe0001020304", "topic.prices.k.bob.0000002a.9B02fe0001020304",
		"topic.prices.w.bob.x.0000002a.9b02fe0001020304", "topic.prices.w.bob." + card + ".0000002a",
		"pair.a.j.bob." + card, "pair.b.a.j.bob." + card, "pair.a.a.j.a." + card, "pair.a~b.j.a." + card,
		strings.Repeat("a.", 200),
	} {
		if e, err := policy.ParseEntry(key); !errors.Is(err, policy.ErrStoreKey) || e != (policy.Entry{}) {
			t.Errorf("ParseEntry(%q) = %+v, %v", key, e, err)
		}
	}
}

func FuzzParseEntry(f *testing.F) {
	pair := policy.MustParseChannel("pair/a~b")
	f.Add(policy.JoinKey(pair, "a", card))
	f.Add(policy.KeyStatementKey(policy.MustParseChannel("queue/q"), "a", 7, hash))
	f.Add(policy.WrapKey(pair, "a", card, 1<<31, hash))
	f.Fuzz(func(t *testing.T, key string) {
		if e, err := policy.ParseEntry(key); err == nil && e.Key() != key {
			t.Errorf("%q is read as %q", key, e.Key())
		}
	})
}
