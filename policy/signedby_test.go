package policy_test

import (
	"errors"
	"testing"
	"time"

	"github.com/sealbus/sealbus/identity"
	"github.com/sealbus/sealbus/policy"
)

func TestSignedBy(t *testing.T) {
	key, err := identity.GenerateOperatorKey()
	if err != nil {
		t.Fatal(err)
	}
	text := "trust_domain: example.org\nrevision: 1\ntopics:\n  prices: {publish: [feed], subscribe: [planner]}\n"
	raw, err := policy.Sign([]byte(text), key, time.Unix(1_700_000_000, 0))
	if err != nil {
		t.Fatal(err)
	}
	got, err := policy.SignedBy(raw)
	if err != nil || got != key.Fingerprint() {
		t.Fatalf("SignedBy = %v, %v, want %v", got, err, key.Fingerprint())
	}
	for _, bad := range [][]byte{nil, []byte("x"), raw[:len(raw)/2]} {
		if _, err := policy.SignedBy(bad); !errors.Is(err, policy.ErrStatement) {
			t.Errorf("SignedBy(%d bytes): %v, want ErrStatement", len(bad), err)
		}
	}
}
