package identity_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sealbus/sealbus/identity"
)

func TestParseID(t *testing.T) {
	for _, test := range []struct {
		text, name string
		agent      bool
	}{
		{"spiffe://example.org/agent/planner", "planner", true},
		{"spiffe://example.org/broker/n1", "n1", false},
		{"spiffe://a/agent/0", "0", true},
		{"spiffe://example.org/agent/agent", "agent", true},
		{"spiffe://example.org/agent/exec-7_b", "exec-7_b", true},
		{"spiffe://example.org/agent/" + strings.Repeat("a", 63), strings.Repeat("a", 63), true},
		{"spiffe://" + strings.Repeat("t", 180) + "/agent/" + strings.Repeat("a", 59), strings.Repeat("a", 59), true},
	} {
		id, err := identity.ParseID(test.text)
		if err != nil {
			t.Errorf("%s: %v", test.text, err)
			continue
		}
		if id.String() != test.text || id.Name() != test.name || id.IsAgent() != test.agent || id.IsBroker() == test.agent || id.IsZero() {
			t.Errorf("%s: parsed as %s, name %q, agent %v, broker %v", test.text, id, id.Name(), id.IsAgent(), id.IsBroker())
		}
		if again := identity.MustParseID(id.String()); again != id {
			t.Errorf("%s: not equal to itself", test.text)
		}
	}
}

func TestParseIDRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"empty":               "",
		"no scheme":           "example.org/agent/planner",
		"other scheme":        "https://example.org/agent/planner",
		"upper-case scheme":   "SPIFFE://example.org/agent/planner",
		"no path":             "spiffe://example.org",
		"root path":           "spiffe://example.org/",
		"no name":             "spiffe://example.org/agent/",
		"no kind":             "spiffe://example.org/planner",
		"unknown kind":        "spiffe://example.org/operator/planner",
		"upper-case kind":     "spiffe://example.org/Agent/planner",
		"deeper":              "spiffe://example.org/agent/planner/x",
		"kind below":          "spiffe://example.org/x/agent/planner",
		"doubled slash":       "spiffe://example.org//agent/planner",
		"trailing slash":      "spiffe://example.org/agent/planner/",
		"dot segment":         "spiffe://example.org/agent/..",
		"dot in name":         "spiffe://example.org/agent/a.b",
		"upper-case name":     "spiffe://example.org/agent/Planner",
		"name begins with -":  "spiffe://example.org/agent/-a",
		"name begins with _":  "spiffe://example.org/agent/_a",
		"long name":           "spiffe://example.org/agent/" + strings.Repeat("a", 64),
		"wildcard":            "spiffe://example.org/agent/*",
		"escape":              "spiffe://example.org/agent/%61",
		"query":               "spiffe://example.org/agent/a?b",
		"fragment":            "spiffe://example.org/agent/a#b",
		"port":                "spiffe://example.org:80/agent/a",
		"user":                "spiffe://u@example.org/agent/a",
		"upper-case domain":   "spiffe://Example.org/agent/a",
		"no domain":           "spiffe:///agent/a",
		"long domain":         "spiffe://" + strings.Repeat("t", 181) + "/agent/a",
		"longer than a frame": "spiffe://" + strings.Repeat("t", 180) + "/agent/" + strings.Repeat("a", 60),
		"very long":           "spiffe://example.org/agent/" + strings.Repeat("a", 100_000),
		"space after":         "spiffe://example.org/agent/a ",
		"line end after":      "spiffe://example.org/agent/a\n",
		"not ASCII":           "spiffe://example.org/agent/а",
		"NUL":                 "spiffe://example.org/agent/a\x00",
	} {
		t.Run(name, func(t *testing.T) {
			id, err := identity.ParseID(text)
			wantError(t, err, identity.ErrInvalidID)
			if !id.IsZero() {
				t.Errorf("an ID along with an error: %s", id)
			}
		})
	}
}

func TestIDFromParts(t *testing.T) {
	if id, err := identity.AgentID(example, "planner"); err != nil || id != identity.MustParseID("spiffe://example.org/agent/planner") {
		t.Errorf("AgentID: %s, %v", id, err)
	}
	if id, err := identity.BrokerID(example, "n1"); err != nil || id != identity.MustParseID("spiffe://example.org/broker/n1") {
		t.Errorf("BrokerID: %s, %v", id, err)
	}
	for _, name := range []string{"", "a/b", "../broker/n1", "x/../agent/y", "a b", "A"} {
		_, err := identity.AgentID(example, name)
		wantError(t, err, identity.ErrInvalidID)
	}
	long := must[spiffeid.TrustDomain](t)(identity.ParseTrustDomain(strings.Repeat("t", identity.MaxTrustDomain)))
	_, err := identity.AgentID(long, strings.Repeat("a", 60))
	wantError(t, err, identity.ErrInvalidID, "256 bytes", "255")
	_, err = identity.BrokerID(spiffeid.TrustDomain{}, "n1")
	wantError(t, err, identity.ErrInvalidID, "trust domain")
}

func TestZeroID(t *testing.T) {
	var id identity.ID
	if !id.IsZero() || id.String() != "" || id.Name() != "" || id.IsAgent() || id.IsBroker() || !id.TrustDomain().IsZero() {
		t.Errorf("the zero ID says that it is somebody: %q", id)
	}
	if _, err := json.Marshal(id); !errors.Is(err, identity.ErrInvalidID) {
		t.Errorf("marshalling the zero ID: %v", err)
	}
}

func TestIDText(t *testing.T) {
	id := identity.MustParseID("spiffe://example.org/agent/planner")
	data := must[[]byte](t)(json.Marshal(id))
	if string(data) != `"spiffe://example.org/agent/planner"` {
		t.Errorf("marshalled as %s", data)
	}
	var again identity.ID
	if err := json.Unmarshal(data, &again); err != nil || again != id {
		t.Errorf("unmarshalled as %s, %v", again, err)
	}
	wantError(t, json.Unmarshal([]byte(`"spiffe://example.org/x"`), &again), identity.ErrInvalidID)
	if again != id {
		t.Error("a failed UnmarshalText changed the ID")
	}
}

func TestMustParseIDPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	identity.MustParseID("planner")
}

func TestParseTrustDomain(t *testing.T) {
	if td, err := identity.ParseTrustDomain("example.org"); err != nil || td != example {
		t.Errorf("%s, %v", td, err)
	}
	for _, s := range []string{"", "spiffe://example.org", "Example.org", "a b", "a/b", "a:1", "ä.org", "a~b", strings.Repeat("t", 181)} {
		_, err := identity.ParseTrustDomain(s)
		wantError(t, err, identity.ErrInvalidID, "trust domain")
	}
}

func TestCheckNameErrorsSteer(t *testing.T) {
	wantError(t, identity.CheckName("Bob"), identity.ErrInvalidID, `"Bob"`, `'B'`, "position 1", "a-z")
	wantError(t, identity.CheckName(""), identity.ErrInvalidID, "empty", "a-z")
	wantError(t, identity.CheckName(strings.Repeat("a", 64)), identity.ErrInvalidID, "64 bytes", "63")
}

func FuzzParseID(f *testing.F) {
	f.Add("spiffe://example.org/agent/planner")
	f.Add("spiffe://example.org/broker/n1")
	f.Add("spiffe://example.org/agent/planner/x")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := identity.ParseID(s)
		if err != nil {
			return
		}
		if id.String() != s {
			t.Errorf("%q parses as %q", s, id)
		}
		if len(s) > identity.MaxID || identity.CheckName(id.Name()) != nil || id.IsAgent() == id.IsBroker() {
			t.Errorf("%q was accepted", s)
		}
	})
}
