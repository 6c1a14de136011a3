// Command bus-demo shows Sealbus at work, and under attack.
//
//	go run ./cmd/bus-demo
//	go run ./cmd/bus-demo --input README.md --data ./store
//	go run ./cmd/bus-demo --json
//
// In one process, on loopback and with certificates made for this run, it starts a real broker and a handful
// of agents and sends a text through them; one more agent is a process of its own, to be killed. Then an
// adversary who owns that broker tries to read, change, repeat and forge what goes through, and lays hands on what
// is kept; an auditor, who cannot read it either, says each time what was done. Each chapter states
// what came of it from what was counted and compared; when one does not hold, the exit status is 1.
//
// A chapter is a file: chapters.go lists them in the order in which they run.
package main
