package policy_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/sealbus/sealbus/policy"
)

var long = strings.Repeat("n", 63)

func TestParseChannel(t *testing.T) {
	for _, test := range []struct {
		text string
		kind policy.ChannelKind
		name string
	}{
		{"topic/prices", policy.KindTopic, "prices"},
		{"queue/summarise", policy.KindQueue, "summarise"},
		{"result/summarise", policy.KindResult, "summarise"},
		{"service/lookup", policy.KindService, "lookup"},
		{"pair/alice~bob", policy.KindPair, "alice~bob"},
		{"pair/a-1~a_1", policy.KindPair, "a-1~a_1"},
		{"topic/" + long, policy.KindTopic, long},
		{"pair/" + long[:62] + "~" + long, policy.KindPair, long[:62] + "~" + long},
	} {
		ch, err := policy.ParseChannel(test.text)
		if err != nil {
			t.Errorf("ParseChannel(%q): %v", test.text, err)
			continue
		}
		if ch.Kind() != test.kind || ch.Name() != test.name || ch.String() != test.text || ch.IsZero() {
			t.Errorf("ParseChannel(%q) = %v %q %q", test.text, ch.Kind(), ch.Name(), ch)
		}
		if ch != policy.MustParseChannel(test.text) {
			t.Errorf("ParseChannel(%q) twice gives different channels", test.text)
		}
	}
}

func TestParseChannelRefuses(t *testing.T) {
	for _, text := range []string{
		"", "/", "topic", "topic/", "prices", "Topic/prices", "topics/prices", "topic/Prices", "topic/prices.eu", "topic/*",
		"topic/-x", "topic/a/b", "topic/a~b", " topic/a", "topic/a ", "pair/a", "pair/a~", "pair/~a", "pair/a~a", "pair/b~a",
		"pair/a~b~c", "pair/a/b", "topic/" + long + "n", "pair/" + long + "~" + long + "n", "ChannelKind(6)/a", "/a", "topic/\x00",
	} {
		ch, err := policy.ParseChannel(text)
		if !errors.Is(err, policy.ErrChannel) {
			t.Errorf("ParseChannel(%q) = %v, %v", text, ch, err)
		}
		if !ch.IsZero() {
			t.Errorf("ParseChannel(%q) returns %v beside an error", text, ch)
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("MustParseChannel accepts a channel without a name")
		}
	}()
	policy.MustParseChannel("topic/")
}

func TestChannelConstructors(t *testing.T) {
	for text, make := range map[string]func() (policy.Channel, error){
		"topic/a":   func() (policy.Channel, error) { return policy.Topic("a") },
		"queue/a":   func() (policy.Channel, error) { return policy.Queue("a") },
		"result/a":  func() (policy.Channel, error) { return policy.Result("a") },
		"service/a": func() (policy.Channel, error) { return policy.Service("a") },
		"pair/a~b":  func() (policy.Channel, error) { return policy.Pair("b", "a") },
	} {
		ch, err := make()
		if err != nil || ch != policy.MustParseChannel(text) {
			t.Errorf("%s: got %v, %v", text, ch, err)
		}
	}
	for _, make := range []func(string) (policy.Channel, error){
		policy.Topic, policy.Queue, policy.Result, policy.Service,
		func(s string) (policy.Channel, error) { return policy.Pair("a", s) },
		func(s string) (policy.Channel, error) { return policy.Pair(s, "a") },
	} {
		for _, name := range []string{"", "A", "a.b", "a~b", "*", long + "n"} {
			if ch, err := make(name); !errors.Is(err, policy.ErrChannel) || !ch.IsZero() {
				t.Errorf("%q: got %v, %v", name, ch, err)
			}
		}
	}
}

func TestPair(t *testing.T) {
	ch := policy.MustParseChannel("pair/alice~bob")
	if a, b := ch.Peers(); a != "alice" || b != "bob" {
		t.Errorf("Peers = %q, %q", a, b)
	}
	for agent, want := range map[string]string{"alice": "bob", "bob": "alice", "carol": "", "": ""} {
		if got := ch.Other(agent); got != want {
			t.Errorf("Other(%q) = %q, want %q", agent, got, want)
		}
	}
	topic := policy.MustParseChannel("topic/alice")
	if a, b := topic.Peers(); a != "" || b != "" || topic.Other("alice") != "" || topic.Other("") != "" {
		t.Error("a topic has peers")
	}
}

func TestZeroChannel(t *testing.T) {
	var ch policy.Channel
	if !ch.IsZero() || ch.String() != "" || ch.Kind() != 0 || ch.Other("") != "" {
		t.Errorf("zero channel: %q %v", ch, ch.Kind())
	}
	if got := ch.Kind().String(); got != "ChannelKind(0)" {
		t.Errorf("kind 0 is %q", got)
	}
}

func TestMaxChannel(t *testing.T) {
	ch, err := policy.Pair(long, "m"+long[1:])
	if err != nil || len(ch.String()) != policy.MaxChannel {
		t.Errorf("the longest channel has %d bytes, %v", len(ch.String()), err)
	}
}

func FuzzParseChannel(f *testing.F) {
	for _, s := range []string{"topic/prices", "pair/a~b", "result/q", "pair/b~a", "service/", "queue/a.b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ch, err := policy.ParseChannel(s)
		if err == nil && (ch.String() != s || ch.IsZero()) {
			t.Errorf("%q is read as %q", s, ch)
		}
		if err != nil && (!errors.Is(err, policy.ErrChannel) || !ch.IsZero()) {
			t.Errorf("%q: %v, %v", s, ch, err)
		}
	})
}
