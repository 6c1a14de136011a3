package integration_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/sealbus/sealbus/internal/bustest"
)

var (
	namedTest  = regexp.MustCompile("`([a-z/-]+)\\.((?:Test|Fuzz)[A-Za-z0-9_]+)`")
	looksNamed = regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z][A-Za-z0-9_]*`)
)

// TestThreatModel keeps THREATMODEL.md true: each test that it names exists in the package that it names, and every
// promise names at least one.
func TestThreatModel(t *testing.T) {
	text, err := os.ReadFile("../THREATMODEL.md")
	bustest.Check(t, err)
	sources := make(map[string]string) // package → all of its tests' source
	promises, section := 0, ""
	for i, line := range strings.Split(string(text), "\n") {
		if strings.HasPrefix(line, "## ") {
			section = line
		}
		names := namedTest.FindAllStringSubmatch(line, -1)
		if n := len(looksNamed.FindAllString(line, -1)); n != len(names) {
			t.Errorf("THREATMODEL.md line %d: write every test as `package.TestName`", i+1)
		}
		for _, m := range names {
			if sources[m[1]] == "" {
				sources[m[1]] = testsOf(t, m[1])
			}
			if !strings.Contains(sources[m[1]], "\nfunc "+m[2]+"(") {
				t.Errorf("THREATMODEL.md line %d: %s has no test %s", i+1, m[1], m[2])
			}
		}
		isRow := strings.HasPrefix(line, "| ") && !strings.HasPrefix(line, "| promise")
		if section != "## Promises" || !isRow {
			continue
		}
		if promises++; len(names) == 0 {
			t.Errorf("THREATMODEL.md line %d: a promise without a test", i+1)
		}
	}
	if promises < 20 {
		t.Errorf("THREATMODEL.md has %d promises under \"## Promises\"", promises)
	}
}

// testsOf returns the test files of a package, a directory of this module.
func testsOf(t *testing.T, directory string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", filepath.FromSlash(directory), "*_test.go"))
	bustest.Check(t, err)
	if len(files) == 0 {
		t.Errorf("THREATMODEL.md: %s has no tests", directory)
	}
	var all strings.Builder
	for _, file := range files {
		source, err := os.ReadFile(file)
		bustest.Check(t, err)
		all.Write(source)
	}
	return all.String()
}
