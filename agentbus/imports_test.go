package agentbus_test

import (
	"os/exec"
	"strings"
	"testing"
)

// TestLinksNoServer keeps out of agents what only a broker needs.
func TestLinksNoServer(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	deps := strings.Fields(string(out))
	for _, forbidden := range []struct{ path, why string }{
		{"github.com/nats-io/nats-server", "a whole server, in every agent's process and among what could be attacked there"},
		{"github.com/sealbus/sealbus/broker", "the same; the two sides know each other by the protocol alone"},
		{"github.com/sealbus/sealbus/identity/devca", "an authority's key must not lie on an agent's host"},
		{"github.com/sealbus/sealbus/internal/bustest", "the tests' tools, an attacker's among them"},
		{"google.golang.org/grpc", "the SPIFFE Workload API is linked by who wants it"},
	} {
		for _, dep := range deps {
			if strings.HasPrefix(dep, forbidden.path) {
				t.Errorf("agentbus imports %s: %s", dep, forbidden.why)
			}
		}
	}
	if len(deps) < 50 {
		t.Errorf("go list named only %d packages", len(deps))
	}
}
