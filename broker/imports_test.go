package broker_test

import (
	"os/exec"
	"strings"
	"testing"
)

// TestCannotDecrypt keeps out of the node everything that could open a message.
func TestCannotDecrypt(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-deps", ".").CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	deps := strings.Fields(string(out))
	for _, forbidden := range []struct{ path, why string }{
		{"github.com/tink-crypto/", "the ciphers that messages are sealed with"},
		{"github.com/google/tink/", "the same under its first name"},
		{"github.com/sealbus/sealbus/keyring", "the agents' keys"},
		{"github.com/sealbus/sealbus/agentbus", "what agents do with them"},
		{"github.com/sealbus/sealbus/internal/envelope", "what is inside a frame; the node carries bytes"},
		{"github.com/sealbus/sealbus/identity/devca", "an authority's key must not lie on a broker's host"},
	} {
		for _, dep := range deps {
			if strings.HasPrefix(dep, forbidden.path) {
				t.Errorf("broker imports %s: %s", dep, forbidden.why)
			}
		}
	}
	if len(deps) < 50 {
		t.Errorf("go list named only %d packages", len(deps))
	}
}
