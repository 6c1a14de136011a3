package agentbus_test

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/sealbus/sealbus/agentbus"
)

// An auditor that cannot read a word says whether a retained topic is whole, who has written in it, and proves it to others.
func ExampleBus_Audit() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	example := startExampleUnder(auditPolicy)
	defer example.stop()
	feed, witness := example.connect("feed-1"), example.connect("witness")
	dir, err := os.MkdirTemp("", "audit")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)

	auditor, err := witness.Audit(ctx, agentbus.AuditConfig{Dir: dir})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, text := range []string{"bought 10", "sold 4"} {
		if err := feed.Publish(ctx, "ledger.eu", []byte(text)); err != nil {
			fmt.Println(err)
			return
		}
	}
	if err := feed.Close(); err != nil { // what it says last is how many messages there were
		fmt.Println(err)
		return
	}
	report, err := auditor.Verify(ctx, "SB_TOPIC_ledger")
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, v := range report.Verdicts()[:4] {
		fmt.Printf("%s: %s\n", v.Name, v.State)
	}
	if err := auditor.Stop(); err != nil {
		fmt.Println(err)
	}
	// Output:
	// integrity: ok
	// order: ok
	// completeness: ok
	// authenticity: ok
}
