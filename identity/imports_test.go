package identity_test

import (
	"os/exec"
	"strings"
	"testing"
)

// Every program that has to do with Sealbus links this package. Each path here
// is kept out of all of them for the reason beside it.
func TestImports(t *testing.T) {
	forbidden := map[string]string{
		"github.com/tink-crypto/":                 "a broker links identity and must not be able to decrypt",
		"github.com/google/tink/":                 "as above; this is the same library's old home",
		"github.com/nats-io/":                     "who is who has nothing to do with how messages travel",
		"google.golang.org/grpc":                  "only who gets certificates from SPIRE links the Workload API",
		"github.com/spiffe/go-spiffe/v2/workload": "as above",
		"github.com/sealbus/sealbus/policy":       "imports run one way, and policy imports identity",
		"github.com/sealbus/sealbus/keyring":      "imports run one way, and keyring imports identity",
		"net/http/httptest":                       "testing helpers do not belong into programs",
		"testing":                                 "as above",
	}
	for _, pkg := range []string{".", "./devca"} {
		cmd := exec.Command("go", "list", "-deps", pkg)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		for _, dep := range strings.Fields(string(out)) {
			for path, reason := range forbidden {
				if strings.HasPrefix(dep, path) {
					t.Errorf("%s links %s: %s", pkg, dep, reason)
				}
			}
			if pkg == "." && strings.HasSuffix(dep, "/devca") {
				t.Errorf("identity links %s: an authority's key has no place where identities are only checked", dep)
			}
		}
	}
}
