package integration_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/sealbus/sealbus/agentbus"
	"github.com/sealbus/sealbus/internal/bustest"
)

// TestNoTemplateInTheClear: of a recurring task the broker's store holds name and schedule, and nothing that it is about.
func TestNoTemplateInTheClear(t *testing.T) {
	t.Parallel()
	hidden := secrets{"payload-B8sNw4", "kind-Xm2Hq7", "header-Lr6Td9", "value-Cy3Gk5"}
	w := newRecurWorld(t)
	w.work("bob")
	w.recur("named", agentbus.Every(1e9), "payload-B8sNw4", agentbus.Kind("kind-Xm2Hq7"), agentbus.Header("header-Lr6Td9", "value-Cy3Gk5"))
	for range 2 {
		task := bustest.Receive(t, w.ran)
		if string(task.Payload) != "payload-B8sNw4" || task.Kind != "kind-Xm2Hq7" || task.Header("header-Lr6Td9") != "value-Cy3Gk5" {
			t.Errorf("the worker is given %q, %q, %q", task.Payload, task.Kind, task.Header("header-Lr6Td9"))
		}
	}
	w.Stop()
	named := 0
	bustest.Check(t, filepath.WalkDir(w.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte("sb.held.jobs._recur.named")) {
			named++
		}
		hidden.notIn(t, path, data)
		return err
	}))
	if named == 0 {
		t.Error("the template is in no file: is this the store?")
	}
	w.Start() // the test's end stops it
}
