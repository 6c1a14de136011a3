package keyring

import (
	"os/exec"
	"strings"
	"testing"
)

// TestImports keeps out what this package must not depend on.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	forbidden := map[string]string{
		"github.com/nats-io/":                 "keys know no transport: storage is an interface, and not trusted",
		"github.com/sealbus/sealbus/broker":   "a broker has no part in what keys are believed",
		"github.com/sealbus/sealbus/agentbus": "imports run one way",
		"net/http":                            "nothing here talks to anybody but through a Store",
	}
	for dep := range strings.FieldsSeq(string(out)) {
		for prefix, why := range forbidden {
			if dep == "net/http" && prefix == "net/http" || prefix != "net/http" && strings.HasPrefix(dep, prefix) {
				t.Errorf("%s is linked, but %s", dep, why)
			}
		}
	}
}
