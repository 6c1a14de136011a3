package envelope

import (
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestImports keeps this package to bytes and hashes: whoever parses what an
// attacker sent must have no key, no file and no connection at hand.
func TestImports(t *testing.T) {
	allowed := map[string]string{
		"bytes":                          "comparing",
		"crypto/sha256":                  "leaves and nodes",
		"encoding/binary":                "appending",
		"errors":                         "sentinels",
		"math/bits":                      "Padmé and depths",
		"slices":                         "sorting headers",
		"github.com/oklog/ulid/v2":       "ids",
		"golang.org/x/crypto/cryptobyte": "reading",
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range f.Imports {
			if path, err := strconv.Unquote(i.Path.Value); err != nil || allowed[path] == "" {
				t.Errorf("%s imports %s", name, i.Path.Value)
			}
		}
	}
}
