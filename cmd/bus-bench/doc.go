// Command bus-bench measures Sealbus against plain NATS.
//
//	go run ./cmd/bus-bench --quick
//	go run ./cmd/bus-bench --case topic/live --size 128,1KiB
//	go run ./cmd/bus-bench --json
//
// Both sides go through the same broker node, in this process, on loopback, over the same mutual TLS 1.3 with
// certificates of the same CA, in the same account and under the same policy: "plain" is nats.go as it comes, "sealed"
// is package agentbus. They take turns within one run, so that what else the machine does meets both, and a ratio is
// the median over the rounds. A ratio above 1 means that sealed is better, also where less is better.
//
// Where plain NATS needs a stream or a consumer that agents have no right to make, in task/work, task/round, task/idle and replay,
// its side is an operator in the account of streams itself, without the import that sealed goes through. Everything in
// a stream is synced before it is acknowledged, on both sides.
//
// Publishers, subscribers and the broker share one process, and its processors: CPU time and allocations of a message
// are those of all three together.
//
// A trial is a file and a line in the table of trials.go.
package main
