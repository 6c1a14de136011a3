package integration_test

import (
	"flag"
	"os"
	"testing"
)

// parallel is how many tests run at a time. Most of what they do is to wait for what an agent gives up on after
// seconds, so that there may be more than processors.
const parallel = "8"

func TestMain(m *testing.M) {
	if child := os.Getenv(killEnv); child != "" {
		os.Exit(killChild(child))
	}
	flag.Parse()
	chosen := false
	flag.Visit(func(f *flag.Flag) { chosen = chosen || f.Name == "test.parallel" })
	if !chosen {
		if err := flag.Set("test.parallel", parallel); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
